"""structlog and orjson, wired so that several processes can share one log file.

An event becomes one line and one line is one `os.write`. On a file opened with O_APPEND the kernel
puts each such write whole at the end, so lines of different processes never mix, and neither a
lock nor a logging process is needed. Every process opens the file itself, after its fork.

Logging never stops the program and never makes it wait: a line that cannot be written at once (disk
full, a pipe that nobody reads, standard error closed) is dropped and counted. The next line that
gets through is preceded by `log_lines_dropped` with the count. `liblog.sink` has the how and why.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import orjson

from liblog.sink import STDERR_FD, Sink

# structlog imports rich where that is installed, for tracebacks that are not shown here: a quarter
# of what a server needs to start. So it is not found, unless it has been imported already.
_modules = cast("dict[str, object]", sys.modules)
_hidden = _modules.setdefault("rich", None) is None

import structlog  # noqa: E402 - see above
from structlog.typing import (  # noqa: E402 - see above
    EventDict,
    FilteringBoundLogger,
    Processor,
    WrappedLogger,
)

if _hidden:
    del _modules["rich"]

LEVELS = ("debug", "info", "warning", "error")
"""Levels that `configure` takes, from the most talkative to the quietest."""

FORMATS = ("auto", "json", "console")
"""Formats that `configure` takes; auto is console on a terminal, else json."""

_bound: dict[str, Any] = {}
# One list for ever, changed in place: bound loggers hold a reference to it.
_processors: list[Processor] = []
_rendering: list[Processor] = []  # those of them that make bytes of an event


def _assemble(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the keys of every line first. They are ours: an event's own `pid` becomes `pid_`."""
    line: EventDict = {
        "ts": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "level": event.pop("level"),
        "event": event.pop("event"),
        "pid": os.getpid(),
    }
    own = tuple(line)
    line.update(_bound)
    for key, value in event.items():
        line[f"{key}_" if key in own else key] = value
    return line


def _encodable(value: object) -> object:
    try:
        orjson.dumps(value, default=repr)
    except orjson.JSONEncodeError:  # an integer over 64 bits, text that is not Unicode
        return repr(value)
    return value


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        plain = {key: _encodable(value) for key, value in event.items()}
        return orjson.dumps(plain, default=repr, option=orjson.OPT_APPEND_NEWLINE)


def _console(colors: bool) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors,
        # Values are shown quoted: what a peer sent must not steer the terminal.
        repr_native_str=True,
        sort_keys=False,
        timestamp_key="ts",
        # The richer formatters show local variables, and those may be secrets.
        exception_formatter=structlog.dev.plain_traceback,
    )

    def encode(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        return (renderer(logger, method, event) + "\n").encode(errors="backslashreplace")

    return [encode]


def _report(count: int) -> bytes:
    """The line that tells of dropped ones. It is written at every level: lines are missing."""
    line: Any = {
        "level": "warning",
        "event": "log_lines_dropped",
        "logger_name": "liblog",
        "count": count,
    }
    for step in (_assemble, *_rendering):
        line = step(None, "warning", line)
    return cast(bytes, line)


_sink = Sink(_report)
_path: str | os.PathLike[str] | None = None


def configure(
    level: str = "info",
    fmt: str = "auto",
    path: str | os.PathLike[str] | None = None,
    **bound: Any,
) -> None:
    """Set up logging for this process; may be called again, after a fork or to reopen the file.

    `level` is one of LEVELS and `fmt` one of FORMATS. Lines go to the end of the file `path`, or
    to standard error. `bound` (worker=3) is on every line and replaces what was bound before.
    Loggers made before follow to the new file and format; those made by `.bind()` keep their
    level.

    Raises ValueError for an unknown level or format, and OSError where the file cannot be opened;
    what was configured before stays in force then.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    if fmt not in FORMATS:
        raise ValueError(f"log format {fmt!r} is none of {', '.join(FORMATS)}")
    global _path
    if path is not None:
        _sink.use_file(path)
    elif sys.__stderr__ is not None:
        _sink.use_stderr()
    else:
        _sink.use_nothing()  # closed when the program started: its number may be a socket's by now
    _sink.begin_process()
    _path = path

    terminal = path is None and sys.__stderr__ is not None and os.isatty(STDERR_FD)
    if fmt == "console" or (fmt == "auto" and terminal):
        _rendering[:] = _console(colors=terminal and not os.environ.get("NO_COLOR"))
    else:
        _rendering[:] = [structlog.processors.format_exc_info, _render_json]
    _processors[:] = [structlog.processors.add_log_level, _assemble, *_rendering]
    _bound.clear()
    _bound.update(bound)
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_args: _sink,
        cache_logger_on_first_use=False,  # a module's logger must follow the next configure()
    )


def reopen() -> None:
    """Open the file of `configure` anew, as after it was renamed; nothing where there is none. May
    be called in the middle of anything, by a signal handler too.

    Raises OSError where it cannot be opened; lines go on to the old one then.
    """
    if _path is not None:
        _sink.reopen_file(_path)


def get(name: str) -> FilteringBoundLogger:
    """Return the logger `name` (key `logger_name` of its lines). It may be made before `configure`.

    `get(name).bind(...)` is cheaper to call, for a place that logs often: it is put together once.
    """
    return cast(FilteringBoundLogger, structlog.get_logger(logger_name=name))


def bind(**values: Any) -> None:
    """Put `values` on every line of this process from now on; an event's own values go before."""
    _bound.update(values)


def dropped() -> int:
    """Return the number of lines that this process could not write, or not wholly."""
    return _sink.dropped


@contextmanager
def capture() -> Iterator[list[EventDict]]:
    """Collect events instead of writing them: for tests, which assert on fields and not on text.

    Yields the list to which each event is added as a dict, with the keys that its line would have.
    Events below the configured level are not seen. Not for use by several threads at once.
    """
    chain = (structlog.processors.add_log_level, _assemble)
    with structlog.testing.capture_logs(chain) as events:
        yield events

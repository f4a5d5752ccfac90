"""structlog and orjson, wired so that several processes can share one log file.

An event becomes one line and one line is one `os.write`. On a file opened with O_APPEND the kernel
puts each such write whole at the end, so lines of different processes never mix, and neither a
lock nor a logging process is needed. Every process opens the file itself, after its fork.

Logging never stops the program: a line that cannot be written (disk full, standard error closed)
is counted in `dropped` and the program goes on.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")
"""Levels that `configure` takes, from the most talkative to the quietest."""

FORMATS = ("auto", "json", "console")
"""Formats that `configure` takes; auto is console on a terminal, else json."""

_STDERR_FD = 2


class _Sink:
    """Where lines go. It outlives every `configure`, so that loggers made earlier follow it."""

    def __init__(self) -> None:
        self.fd: int | None = _STDERR_FD
        self.pid = os.getpid()
        self.dropped = 0
        self.torn = False

    def write(self, line: bytes) -> None:
        """Write one line; count it as dropped where that fails."""
        if self.torn:
            line = b"\n" + line  # the rest of a torn line must not swallow this one
        try:
            if self.fd is not None and os.write(self.fd, line) == len(line):
                self.torn = False
                return
            self.torn = self.fd is not None
        except OSError:
            pass  # counted below; there is nowhere left to say it
        self.dropped += 1

    # The names under which structlog calls the logger at the end of its chain.
    debug = info = warning = error = critical = write


_sink = _Sink()
_bound: dict[str, Any] = {}
# One list for ever, changed in place: bound loggers hold a reference to it.
_processors: list[Processor] = []


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
    fd: int | None
    if path is not None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    elif sys.__stderr__ is not None:
        fd = _STDERR_FD
    else:
        fd = None  # closed when the program started: its number may be a socket's by now
    former, _sink.fd = _sink.fd, fd
    if former not in (None, _STDERR_FD):
        os.close(former)
    _sink.torn = False
    if _sink.pid != os.getpid():
        _sink.pid, _sink.dropped = os.getpid(), 0

    terminal = fd == _STDERR_FD and os.isatty(fd)
    if fmt == "console" or (fmt == "auto" and terminal):
        rendering = _console(colors=terminal and not os.environ.get("NO_COLOR"))
    else:
        rendering = [structlog.processors.format_exc_info, _render_json]
    _processors[:] = [structlog.processors.add_log_level, _assemble, *rendering]
    _bound.clear()
    _bound.update(bound)
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_args: _sink,
        cache_logger_on_first_use=False,  # a module's logger must follow the next configure()
    )


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

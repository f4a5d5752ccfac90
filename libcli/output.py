"""Standard output and standard error, and what a program does where they cannot be written to.

Data goes to standard output, messages to standard error. Either may be closed, a full disk or a
pipe that nobody reads any more; each of these is an ordinary end of a program, with a documented
exit code and at most one sentence, never a traceback:

- A reader that closed its end (`| head`) has seen enough: EXIT_PIPE, and nothing is said, unless
  the exception has notes: what was done all the same, as a payment.
- A pipe that does not block, as some runners of programs give, is waited for while it is full.
- Output that cannot be written for another reason is lost, and the program has failed: EXIT_FAILED.
- A program that was started without standard output (`>&-`) is not asked to show anything: what it
  would show is dropped, as if it went to /dev/null.
- A message that cannot be written is dropped. There is nobody to tell, and the exit code tells it.
"""

import io
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TextIO

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130  # as a shell shows a program that SIGINT ended
EXIT_PIPE: Final = 141  # as a shell shows a program that SIGPIPE ended


class OutputFailed(Exception):
    """Standard output cannot be written; the text says why."""


class OutputClosed(OutputFailed):
    """Nobody reads standard output any more."""


class _Waiting(io.FileIO):
    """A descriptor that does not block, written to as if it did."""

    def write(self, data: Any) -> int:
        while (written := super().write(data)) is None:  # it is full
            select.select([], [self], [])
        return written


def _waiting(stream: TextIO | None) -> TextIO | None:
    """The stream, or where its descriptor does not block, one in its place that waits. The
    descriptor stays as it is: whoever shares it may count on that."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        number = stream.fileno()
        if os.get_blocking(number):
            return stream
    except (AttributeError, OSError, ValueError):  # a system without this, or no file
        return stream
    raw = _Waiting(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=stream.encoding)


def put(text: str) -> None:
    """Write to standard output; see `flush`. OutputClosed, OutputFailed."""
    _write(lambda stream: stream.write(text))


def put_line(text: str) -> None:
    """Write a line to standard output, at once. OutputClosed, OutputFailed."""
    put(text + "\n")
    flush()


def flush() -> None:
    """Write what `put` has kept so far. OutputClosed, OutputFailed."""
    _write(lambda stream: stream.flush())


def _write(write: Callable[[TextIO], object]) -> None:
    # By name and late: a program may put another stream in its place.
    if sys.stdout is None:
        return
    try:
        write(sys.stdout)
    except BrokenPipeError as error:
        raise OutputClosed("nobody reads it any more") from error
    except OSError as error:
        raise OutputFailed(error.strerror or str(error)) from error


def complain(text: str) -> None:
    """Write a message, as a line, to standard error; it is dropped if that cannot be written."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO | None) -> None:
    """Drop what is kept for this stream, and what follows: it would fail again when Python ends,
    which then makes an exit code and a message of its own."""
    if stream is None:
        return
    with suppress(OSError, ValueError):  # it is no file (io.UnsupportedOperation), or none is left
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def run(program: str, body: Callable[[], int], *, failed: int = EXIT_FAILED) -> int:
    """Run a program; its exit code, which is that of the body if all could be written.

    program: its name, in front of its messages. failed: the code for output that cannot be written,
    where the program's own table of codes has EXIT_FAILED for something else. SystemExit, as of
    argparse, is the end of the body.
    """
    sys.stdout = _waiting(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack the letters
    try:
        try:
            code = body()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        flush()
    except OutputFailed as error:
        discard(sys.stdout)
        notes = getattr(error, "__notes__", [])
        if notes or not isinstance(error, OutputClosed):
            said = "; ".join([str(error), *notes])
            complain(f"{program}: cannot write to standard output: {said}")
        code = EXIT_PIPE if isinstance(error, OutputClosed) else failed
    except KeyboardInterrupt:
        discard(sys.stdout)
        code = EXIT_INTERRUPTED
    try:
        if sys.stderr is not None:
            sys.stderr.flush()  # argparse does not look whether its message could be written
    except OSError:
        discard(sys.stderr)
    return code

"""Errors that nobody has caught go to the log, in every process: Python, and libraries that use its
logging, would write them to standard error, beside a log that is in a file, and as many lines.

What they are told by is inherited over a fork, and each process logs as it has set up its log.
Only a crash of the interpreter itself is told by the master alone: `process_died`.
"""

import logging
import sys
import threading
from types import TracebackType
from typing import Final

import liblog
from server.early import write_line

log: Final = liblog.get("faults")


def to_log() -> None:
    """From now on, in this process and those that are forked from it."""
    sys.unraisablehook = _ignored
    threading.excepthook = _in_thread
    sys.excepthook = _at_the_end
    logging.lastResort = _FromLibraries(logging.WARNING)


def _ignored(args: "sys.UnraisableHookArgs") -> None:
    """An error that cannot be raised where it came, as in a destructor."""
    log.error(
        "exception_ignored",
        where=getattr(args.object, "__qualname__", type(args.object).__qualname__),
        exc_info=args.exc_value,
    )


def _in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else ""
        log.error("thread_crashed", thread=name, exc_info=args.exc_value)


def _at_the_end(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    """What ends the master, as no other process lets one pass."""
    log.error("master_crashed", exc_info=error)
    write_line(2, f"tradechat-server: ended by a fault of the program, see its log: {error!r}")


class _FromLibraries(logging.Handler):
    """What libraries say by Python's logging, which nobody else listens to."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log.warning("library_warned", library=record.name, text=record.getMessage(), exc_info=error)

"""Why a server cannot start, in one sentence for who started it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import liblog
from server.child import limit_of
from server.config import Settings
from server.early import write_line
from server.journal.errors import JournalError
from server.region.region import RegionError

log = liblog.get("master")


class CannotStart(Exception):
    """The server cannot start; the text is one sentence that says why and what to do."""


def refuse(settings: Settings, reason: str) -> None:
    """Say why there is no start: in the log, and as a sentence for who started it, where that is a
    person at a terminal or the log is elsewhere."""
    log.error("cannot_start", reason=reason)
    if settings.log_file is not None or os.isatty(2):
        write_line(2, f"tradechat-server: cannot start: {reason}")


@contextmanager
def step(what: str) -> Iterator[None]:
    """One acquisition; `what` it is for, after "cannot". CannotStart."""
    try:
        yield
    except (OSError, MemoryError, JournalError, RegionError) as error:
        if limit := limit_of(error):
            raise CannotStart(f"cannot {what}: {limit}") from error
        if isinstance(error, OSError) and error.strerror:
            where = f"{error.filename}: " if error.filename else ""
            raise CannotStart(f"cannot {what}: {where}{error.strerror}") from error
        raise CannotStart(str(error)) from error

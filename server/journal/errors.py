"""What can be wrong with what is on disk. The texts name file and offset, and say what to do."""

import errno
from pathlib import Path
from typing import Final


class JournalError(Exception):
    """The state on disk cannot be used as it is; the text says why and what to do."""


def why(error: JournalError | OSError) -> str:
    """What went wrong: of the system's errors their text and the file, without their number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


class Damaged(JournalError):
    """A file is not what was written: not a torn end, which is cut off, but damage before valid
    data, or a piece that is missing."""

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(f"{path}, offset {offset}: {what}")
        self.path = path
        self.offset = offset  # bytes
        self.what = what


class Unreadable(Damaged):
    """A file that the disk does not give back. Another try may read it."""

    def __init__(self, path: Path, offset: int, error: OSError) -> None:
        super().__init__(path, offset, f"it cannot be read: {error.strerror}")


MEDIUM: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})
"""Errors of a read that speak of the file's content, and not of who reads it or of the moment."""


class Foreign(Damaged):
    """A good file, of another log."""


class OtherFormat(JournalError):
    """The data directory was written in another format version."""


class Inconsistent(JournalError):
    """A record that does not follow from those before it."""

    def __init__(self, number: int, why: str, what: str = "transaction") -> None:
        super().__init__(f"{what} {number} does not follow: {why}")
        self.txn = number if what == "transaction" else 0
        self.why = why


class Refused(JournalError):
    """What was asked for cannot be done with what is there; nothing was changed."""

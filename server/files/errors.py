"""Why something about a file was refused or failed.

Each is one of four kinds, which say what its client is answered: `NotThere`, `Wrong` (the request
cannot be right), `Busy` (the same request may succeed later) and `Damaged` (for the operator).
"""

import errno
from pathlib import Path
from typing import Final

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FilesError(Exception):
    """What every error of the files has in common."""


# ---- there is no such thing


class NotThere(FilesError):
    """No such upload, file or content; or it is somebody else's."""


# ---- the request cannot be right


class Wrong(FilesError):
    """A size, offset or hash that cannot be."""


class TooLarge(Wrong):
    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"a file has at most {most} bytes, not {size}")


class WrongOffset(Wrong):
    """`received` is where the next bytes go."""

    def __init__(self, received: int) -> None:
        super().__init__(f"the next bytes are those from offset {received} on")
        self.received = received


class PastSize(Wrong):
    def __init__(self, size: int) -> None:
        super().__init__(f"more than the {size} bytes that were announced")


class ChunkTooLong(Wrong):
    def __init__(self, most: int) -> None:
        super().__init__(f"at most {most} bytes at a time")


class Incomplete(Wrong):
    def __init__(self, received: int, size: int) -> None:
        super().__init__(f"{received} of {size} bytes have arrived")
        self.received = received


class WrongHash(Wrong):
    """The upload is gone."""

    def __init__(self) -> None:
        super().__init__("the bytes do not have the SHA-256 that was announced; begin again")


# ---- not now


class Busy(FilesError):
    """Nothing changed, and nothing half-done is left."""


class StoreFull(Busy):
    def __init__(self) -> None:
        super().__init__("the store of files is full")


class ShareFull(Busy):
    def __init__(self) -> None:
        super().__init__("your files take all the space that one user may have")


class TooManyUploads(Busy):
    def __init__(self, most: int) -> None:
        super().__init__(f"{most} uploads of yours are not finished")


class DiskFull(Busy):
    """The disk has no space; the store as such may have."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the disk is full: {_named(error)}")


class DiskFailed(Busy):
    """The disk refused to write or to read."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the disk failed: {_named(error)}")


def of_disk(error: OSError) -> DiskFull | DiskFailed:
    """The error of the store that an error of the system is."""
    return DiskFull(error) if error.errno in _NO_SPACE else DiskFailed(error)


def _named(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


# ---- for the operator


class Damaged(FilesError):
    """A file of the store is not what was written to it."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path = path
        self.what = what

"""The operating system's calls that everything on disk goes through: the one seam.

`Disk` is the real one. A test puts another in its place, which forgets what was not synced or fails
at the Nth call; nothing else in this package opens, writes, syncs, renames or removes a file.

Every method raises OSError as the system does. Offsets and sizes are bytes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from server.journal.format import TEMPORARY

_PIECES_MAX: Final = 1024  # of one call: IOV_MAX of Linux

Piece = bytes | memoryview
"""Bytes to write; a memoryview's items are bytes."""


class Disk:
    """The real disk."""

    def make_directory(self, path: Path) -> None:
        """Make a directory, mode 0700; nothing where it is there. Its parent must be there."""
        path.mkdir(mode=0o700, exist_ok=True)

    def names(self, directory: Path) -> list[str]:
        """The names in a directory, sorted."""
        return sorted(os.listdir(directory))

    def names_if_there(self, directory: Path) -> list[str]:
        """Likewise; none where there is no such directory."""
        try:
            return self.names(directory)
        except FileNotFoundError:
            return []

    def create(self, path: Path) -> int:
        """A new file, mode 0600, for reading and writing: its descriptor. FileExistsError."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: Path, *, writable: bool = False) -> int:
        """A file that is there: its descriptor."""
        return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)

    def free(self, directory: Path) -> int:
        """Bytes that this process may still take of its file system."""
        system = os.statvfs(directory)
        return system.f_bavail * system.f_frsize

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        parts = []
        while size > 0 and (part := os.pread(fd, size, offset)):
            parts.append(part)
            size -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def allocate(self, fd: int, size: int) -> None:
        """Make the file at least this large, its blocks reserved; what is new reads as zeros."""
        os.posix_fallocate(fd, 0, size)

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> None:
        """Write all the pieces, one after the other."""
        if len(pieces) > _PIECES_MAX:
            pieces = [b"".join(pieces)]
        size = sum(map(len, pieces))
        done = os.pwritev(fd, pieces, offset)
        if done < size:  # cut short: by a full disk, of which the next call tells
            rest = memoryview(b"".join(pieces))
            while done < size:
                done += os.pwrite(fd, rest[done:], offset + done)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Make what was written, and the file's size, last (fdatasync)."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory last."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            os.sync()  # it may be entered and not read, as a parent may: so all that there is
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, in one step; a file of that name is replaced."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def close(self, fd: int) -> None:
        os.close(fd)


def write_file(disk: Disk, path: Path, pieces: Sequence[Piece]) -> None:
    """Make a file as a whole, durably: it is there under its name with all that belongs to it, or
    not at all; one of that name is replaced. OSError."""
    temporary = path.with_name(path.name + TEMPORARY)
    if temporary.name in disk.names(path.parent):
        disk.remove(temporary)
    fd = disk.create(temporary)
    try:
        disk.write(fd, pieces, 0)
        disk.sync(fd)
    except OSError:
        disk.remove(temporary)  # a full disk has better uses for the space
        raise
    finally:
        disk.close(fd)
    disk.rename(temporary, path)
    disk.sync_directory(path.parent)


def read_file(disk: Disk, path: Path, size: int | None = None, offset: int = 0) -> bytes:
    """A file from `offset` on: all of it, or at most `size` bytes. OSError, which names it."""
    fd = disk.open(path)
    try:
        return disk.read(fd, disk.size(fd) - offset if size is None else size, offset)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        disk.close(fd)

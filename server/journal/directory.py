"""The data directory: what stands where, and in which format version."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from server.journal.disk import Disk, read_file
from server.journal.errors import JournalError, OtherFormat
from server.journal.format import (
    FORMAT_VERSION,
    IDENTITY,
    IDLE_FILE,
    JOURNAL,
    LOCK,
    ROOMS,
    SNAPSHOTS,
    TEMPORARY,
)

_SECRET_SIZE: Final = 32  # bytes
_FIRST: Final = "tradechat data, format "


class DirectoryUnusable(JournalError):
    """The directory cannot be made or opened, or a running server has it."""


def lock_data(data: Path) -> int:
    """Take the data directory for one server; the answer is a descriptor whose lock every child
    inherits. Raises DirectoryUnusable."""
    try:
        _make_directory(data.absolute())
        fd = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DirectoryUnusable(
            f"the data directory {data} cannot be used: {os.strerror(error.errno or 0)}; "
            "choose another with --data"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise DirectoryUnusable(
            f"the data directory {data} is in use by a running server: stop it, or choose another "
            "with --data"
        ) from error
    except OSError:
        os.close(fd)
        raise
    return fd


def _make_directory(path: Path) -> None:
    """Make the directory and its missing parents, durably. Raises OSError."""
    missing = [each for each in (path, *path.parents) if not each.is_dir()]
    for each in reversed(missing):
        if each == path:
            Disk().make_directory(path)  # for nobody else's eyes
        else:
            each.mkdir(exist_ok=True)
        Disk().sync_directory(each.parent)


class DataDirectory:
    """The paths in a data directory, and what it is: its format, and the secret of this server."""

    def __init__(self, path: Path) -> None:
        path = path.absolute()  # its parent is needed as well
        self.path: Final = path
        self.journal: Final = path / JOURNAL
        self.snapshots: Final = path / SNAPSHOTS
        self.rooms: Final = path / ROOMS
        self.idle: Final = path / IDLE_FILE

    def open(self, disk: Disk, secret: bytes) -> bytes:
        """Make what is missing, and refuse another format. secret: 32 random bytes for a new
        directory. Answers the secret that is kept. OtherFormat, OSError."""
        if IDENTITY not in disk.names(self.path):
            for each in self._directories:
                disk.make_directory(each)
            self._write_identity(disk, secret)
            return secret
        kept = self.identity(disk)
        for each in (self.path, *self._directories):
            _check_writable(disk, each)
        return kept

    @property
    def _directories(self) -> tuple[Path, ...]:
        return self.journal, self.snapshots, self.rooms

    def identity(self, disk: Disk) -> bytes:
        """The secret that is kept. OtherFormat, OSError."""
        path = self.path / IDENTITY
        first, _, second = read_file(disk, path).decode("ascii", "replace").partition("\n")
        if first != f"{_FIRST}{FORMAT_VERSION}":
            raise OtherFormat(
                f"{path} says {first!r}, and this version of tradechat reads format "
                f"{FORMAT_VERSION}: start the version that wrote it, or convert the directory as "
                "docs/JOURNAL.md describes under «Other formats»"
            )
        try:
            secret = bytes.fromhex(second)
        except ValueError:
            secret = b""
        if len(secret) != _SECRET_SIZE:
            raise OtherFormat(f"{path} is damaged: take it from a backup of the directory")
        return secret

    def _write_identity(self, disk: Disk, secret: bytes) -> None:
        path = self.path / IDENTITY
        temporary = self.path / (IDENTITY + TEMPORARY)
        if temporary.name in disk.names(self.path):
            disk.remove(temporary)
        fd = disk.create(temporary)
        try:
            text = f"{_FIRST}{FORMAT_VERSION}\n{secret.hex()}\n"
            disk.write(fd, [text.encode("ascii")], 0)
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.rename(temporary, path)
        disk.sync_directory(self.path)
        disk.sync_directory(self.path.parent)


def _check_writable(disk: Disk, directory: Path) -> None:
    """Raise DirectoryUnusable unless a file can be made there: now, not at the first request."""
    probe = directory / f"writable{TEMPORARY}"
    try:
        if probe.name in disk.names(directory):
            disk.remove(probe)
        disk.close(disk.create(probe))
        disk.remove(probe)
    except OSError as error:
        raise DirectoryUnusable(f"{directory} cannot be written: {error.strerror}") from error


class Presence:
    """Whether the files that a server writes are still where a restart will look for them. What was
    removed can be written on and synced without an error, and would be answered for in vain."""

    def __init__(self, data: DataDirectory) -> None:
        """OSError: they are not there now."""
        self._identities = {
            path: _identity(path) for path in (data.path, data.path / LOCK, data.journal)
        }

    def check(self, segment: Path | None) -> None:
        """segment: of the journal, that is written to. OSError: it was removed, or a directory."""
        for path, identity in self._identities.items():
            if _identity(path) != identity:
                raise FileNotFoundError(
                    errno.ENOENT, "it was removed or replaced while the server runs", str(path)
                )
        if segment is not None:
            os.stat(segment)


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino

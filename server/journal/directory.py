"""The data directory: what stands where, and in which format version."""

import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.disk import Disk, read_file
from server.journal.errors import JournalError, OtherFormat
from server.journal.format import (
    FIRST_READ,
    FORMAT_VERSION,
    IDENTITY,
    IDLE_FILE,
    JOURNAL,
    POSITION_FILE,
    READ_FORMATS,
    ROOMS,
    SNAPSHOTS,
    TEMPORARY,
    crc64,
)

_SECRET_SIZE: Final = 32  # bytes
_FIRST: Final = "tradechat data, format "
_FORMAT: Final = re.compile(_FIRST + r"\d{1,9}")
_SUM: Final = b"crc %016x\n"
_SUM_SIZE: Final = len(_SUM % 0)
_DAMAGED: Final = "{} is damaged: take it from a backup of the directory"
_READ: Final = tuple(f"{_FIRST}{each}" for each in READ_FORMATS)
_NEW_IDENTITY: Final = IDENTITY + TEMPORARY
_NO_DATA: Final = re.compile(r"lost\+found|\..*|.*\.log")
"""What may stand in a directory that is new."""


class DirectoryUnusable(JournalError):
    """The directory cannot be made or opened, or a running server has it."""


class DirectoryInUse(DirectoryUnusable):
    """A running server has it."""


def lock_data(data: Path) -> int:
    """Take the data directory for one server; the answer is a descriptor whose lock every child
    inherits. The directory itself is locked, since a file in it could be removed. Raises
    DirectoryUnusable, DirectoryInUse."""
    try:
        _make_directory(data.absolute())
        fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileExistsError as error:
        there = Path(error.filename)
        what = "a link that leads nowhere" if there.is_symlink() else "not a directory"
        raise DirectoryUnusable(
            f"the data directory {data} cannot be used: {there} is {what}; choose another with "
            "--data"
        ) from error
    except OSError as error:
        raise DirectoryUnusable(
            f"the data directory {data} cannot be used: {os.strerror(error.errno or 0)}; "
            "choose another with --data"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise DirectoryInUse(
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


class Identity(NamedTuple):
    """What a data directory is."""

    secret: bytes  # 32 bytes: key of the salts that are told for unknown names
    log_id: int  # identity of the log, not 0


class DataDirectory:
    """The paths in a data directory, and what it is."""

    def __init__(self, path: Path) -> None:
        self.given: Final = path
        """Its path as somebody has named it, for what people read."""
        path = path.absolute()  # its parent is needed as well
        self.path: Final = path
        self.journal: Final = path / JOURNAL
        self.snapshots: Final = path / SNAPSHOTS
        self.rooms: Final = path / ROOMS
        self.idle: Final = path / IDLE_FILE
        self.position: Final = path / POSITION_FILE
        self.identity_file: Final = path / IDENTITY

    def open(self, disk: Disk, new: Identity) -> Identity:
        """Make what is missing, and refuse another format. new: of a directory that is new. Answers
        the identity that is kept. A new one becomes a data directory with `settle`. OtherFormat,
        DirectoryUnusable, OSError."""
        if IDENTITY in disk.names(self.path):
            kept = self.identity(disk)
            self.check_repaired(disk)
            self.check_directories()
            if JOURNAL not in disk.names(
                self.path
            ):  # nor is it made: whoever has moved it moves it back
                raise DirectoryUnusable(self.journal_gone)
            for each in (self.path, *self._directories):
                disk.make_directory(each)
                _check_writable(disk, each)
            return kept
        self._clear(disk)
        # First, and made to last: whatever else a start that is killed leaves, the next one sees by
        # it that nothing here was ever served.
        self._write_identity(disk, new)
        for each in self._directories:
            disk.make_directory(each)
        disk.sync_directory(self.path)
        return new

    def _clear(self, disk: Disk) -> None:
        """Leave nothing of a start that was killed before it had made the directory. Nothing else
        may be here: DirectoryUnusable."""
        begun = _NEW_IDENTITY in disk.names(self.path)
        if not begun:
            others = [name for name in disk.names(self.path) if not _NO_DATA.fullmatch(name)]
            if others:
                what = "files" if not set(others) & {JOURNAL, SNAPSHOTS, ROOMS} else "data"
                raise DirectoryUnusable(
                    f"there are {what} in it ({', '.join(others[:3])}) and its file «{IDENTITY}» "
                    "is missing: put that back from a backup, or choose an empty directory with "
                    "--data"
                )
            return
        for directory in self._directories:
            if directory.name in disk.names(self.path):
                for name in disk.names(directory):
                    disk.remove(directory / name)
        if POSITION_FILE in disk.names(self.path):
            disk.remove(self.position)

    @property
    def journal_gone(self) -> str:
        """What there is to say where it has an identity and no journal."""
        return (
            f"the data directory {self.path} has had a journal, and it is gone: nothing is begun "
            "anew in its place. Restore the directory from a backup, or choose another with "
            "--data; an empty directory begins an empty bank"
        )

    @property
    def _directories(self) -> tuple[Path, ...]:
        return self.journal, self.snapshots, self.rooms

    def is_new(self, disk: Disk) -> bool:
        """Was it opened as a new one, and not settled yet?"""
        return IDENTITY not in disk.names(self.path)

    def settle(self, disk: Disk) -> None:
        """The first batch of its journal is durable: it is a data directory now. OSError."""
        disk.rename(self.path / _NEW_IDENTITY, self.path / IDENTITY)
        disk.sync_directory(self.path)

    def identity(self, disk: Disk) -> Identity:
        """What is kept. OtherFormat, DirectoryUnusable, OSError."""
        return self._read_identity(disk)[0]

    def begun_repair(self, disk: Disk) -> int:
        """The log_id that a repair was giving it when it was interrupted; 0: none was. OtherFormat,
        OSError."""
        return self._read_identity(disk)[1]

    def check_directories(self) -> None:
        """DirectoryUnusable: something else stands where one of its directories goes. One that is
        missing is made by a start."""
        for each in self._directories:
            if os.path.lexists(each) and not each.is_dir():
                raise DirectoryUnusable(
                    f"{each} is not a directory: move it away, and put the directory back from a "
                    "backup"
                )

    def convert(self, disk: Disk) -> int:
        """Make a directory of an older format one of this, durably: what older versions have
        written is read as it is, and they read nothing of it any more. Answers the format that it
        had; 0: this one. OtherFormat, OSError."""
        first = read_file(disk, self.identity_file).decode("ascii", "replace").split("\n")[0]
        if first == f"{_FIRST}{FORMAT_VERSION}":
            return 0
        self.change_identity(disk, self.identity(disk))
        return int(first.removeprefix(_FIRST))

    def check_repaired(self, disk: Disk) -> None:
        """DirectoryUnusable: a repair was interrupted."""
        if self.begun_repair(disk):
            raise DirectoryUnusable(
                "a repair of it was interrupted: run `tradechat-admin journal repair` again"
            )

    def change_identity(self, disk: Disk, identity: Identity, becoming: int = 0) -> None:
        """Replace it in one step, durably. becoming: the log_id that a repair is giving it: until
        it is changed once more, no server starts with it. OSError."""
        self._write_identity(disk, identity, becoming)
        self.settle(disk)

    def _read_identity(self, disk: Disk) -> tuple[Identity, int]:
        path = self.identity_file
        if IDENTITY not in disk.names_if_there(self.path):
            raise DirectoryUnusable(
                f"{self.given} is not a data directory: there is no file «{IDENTITY}» in it"
            )
        data = read_file(disk, path)
        if _has_sum(data) and data != _with_sum(data[:-_SUM_SIZE]):
            raise OtherFormat(_DAMAGED.format(path))
        first, *rest = data.decode("ascii", "replace").split("\n")
        if _FORMAT.fullmatch(first) and first not in _READ:
            raise OtherFormat(
                f"{path} says {first!r}, and this version of tradechat reads format "
                f"{FORMAT_VERSION}: start the version that wrote it; docs/JOURNAL.md says under "
                "«Other formats» how to go on"
            )
        try:
            secret, log_id = bytes.fromhex(rest[0]), int(rest[1], 16)
            del rest[-2 if _has_sum(data) else -1 :]
            becoming = int("".join(rest[2:]) or "0", 16)
        except (ValueError, IndexError):
            secret, log_id, becoming = b"", 0, 0
        has_sum = _has_sum(data) or first == f"{_FIRST}{FIRST_READ}"  # from the next format on
        if not has_sum or not _FORMAT.fullmatch(first) or len(secret) != _SECRET_SIZE or not log_id:
            raise OtherFormat(_DAMAGED.format(path))
        return Identity(secret, log_id), becoming

    def _write_identity(self, disk: Disk, identity: Identity, becoming: int = 0) -> None:
        """Under its temporary name, which is not given up for a moment where it is there."""
        path = self.path / _NEW_IDENTITY
        there = path.name in disk.names(self.path)
        fd = disk.open(path, writable=True) if there else disk.create(path)
        try:
            disk.truncate(fd, 0)
            lines = [f"{_FIRST}{FORMAT_VERSION}", identity.secret.hex(), f"{identity.log_id:016x}"]
            lines += [f"{becoming:016x}"] if becoming else []
            disk.write(fd, [_with_sum("\n".join((*lines, "")).encode("ascii"))], 0)
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.sync_directory(self.path)
        disk.sync_directory(self.path.parent)


def _with_sum(text: bytes) -> bytes:
    """What the file of the identity holds: its lines, and their CRC-64 in a last one."""
    return b"".join((text, _SUM % crc64(text)))


def _has_sum(data: bytes) -> bool:
    """Whether there is such a last line, right or wrong."""
    return data[-_SUM_SIZE:].startswith(_SUM[:4])


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
        self._directories = {path: _identity(path) for path in (data.path, data.journal)}
        self._segment: tuple[Path, tuple[int, int]] | None = None

    def check(self, segment: Path | None) -> None:
        """segment: of the journal, that is written to. OSError: it was removed or replaced, or a
        directory was."""
        if self._segment is None or segment is not self._segment[0]:
            for path, identity in self._directories.items():
                _check(path, identity)
            if segment is not None:
                self._segment = segment, _identity(segment)
        else:  # it is not there under this name where a directory is not the same
            _check(*self._segment)


def _check(path: Path, identity: tuple[int, int]) -> None:
    if _identity(path) != identity:
        raise FileNotFoundError(
            errno.ENOENT, "it was removed or replaced while the server runs", str(path)
        )


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino

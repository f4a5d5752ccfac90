"""A copy of a data directory that a server may be writing meanwhile, and its way back.

A copy is good where it is what a kill of the server would have left at some instant: all that was
acknowledged before it began, and the rest up to some batch. So files are read in the order in which
they depend on one another: what says how far something goes first, and what has to go that far
after it. The position is read first, then the snapshots and the histories, and the journal last.

What the server removes meanwhile, as no longer needed, is still there for who has opened it: all
files are opened before the first one is read. What stands behind the journal's last good batch was
being written when it was read, and is left out.

What users have shared as files comes last, so that every file is there that the journal tells of;
in the copy it is hashed anew.

The server's key is copied, too, so that who restores it elsewhere has the same server.

The copy gets its `identity` last. One that was interrupted has none, and no server starts with it.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from libproto.messages import HEADER_LEN
from server.admin.journal_repair import carry_out, plan
from server.admin.journal_verify import Report, verify
from server.files.contents import FOLDER
from server.files.copy import copy_store, noted
from server.files.errors import Damaged as StoreDamaged
from server.files.published import file_id_of
from server.files.verify import Problem, Verified
from server.files.verify import verify as verify_store
from server.journal.directory import DataDirectory, DirectoryUnusable, lock_data
from server.journal.disk import Disk
from server.journal.errors import Damaged
from server.journal.format import SERVER_KEY, TEMPORARY, events_in, number_in
from server.journal.position import read as read_position
from server.journal.reader import SUFFIX, Reader, number_of

_CHUNK: Final = 1 << 20  # bytes, read at a time
_TRIES: Final = 5
_ZEROS: Final = bytes(_CHUNK)

Progress = Callable[[int, int], None]
"""Is called with the bytes that were copied, and with those that are to be, as is known now."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied."""

    report: Report  # of the copy
    shared: Verified  # what users have shared
    files: int
    bytes: int

    @property
    def is_good(self) -> bool:
        return self.report.is_good and not self.shared.problems


class _Copy:
    """A copy while it is made."""

    def __init__(
        self, disk: Disk, source: DataDirectory, target: DataDirectory, tell: Progress
    ) -> None:
        self._disk, self._source, self._target, self._tell = disk, source, target, tell
        self._opened: dict[Path, int] = {}  # descriptors, by path relative to the source
        self._published: set[int] = set()  # files, as noted before the journal was read
        self.bytes = self.files = self._size = 0

    def close(self) -> None:
        """Close what was opened."""
        for fd in self._opened.values():
            self._disk.close(fd)
        self._opened.clear()

    def open(self, directory: Path, *names: str) -> None:
        """Open files of a directory, as far as they are there and not open yet; all that are in it
        where none is named."""
        for attempt in range(1, _TRIES + 1):
            try:
                there = self._disk.names_if_there(directory)
                for name in [name for name in there if name in names or not names]:
                    self._open(directory / name)
            except FileNotFoundError:  # removed after its name was read
                if attempt == _TRIES:
                    raise
            else:
                return

    def _open(self, path: Path) -> None:
        relative = path.relative_to(self._source.path)
        if relative not in self._opened and not path.name.endswith(TEMPORARY):
            self._opened[relative] = self._disk.open(path)
            self._size += self._disk.size(self._opened[relative])

    def all(self) -> bool:
        """Copy everything but the identity. False: a segment of the journal was made and removed
        before it could be opened, so that the copy has a hole."""
        source = self._source
        self._published = noted(self._disk, source.path / FOLDER)[0]
        self.open(source.path, source.position.name, source.idle.name, SERVER_KEY)
        for directory in (source.snapshots, source.rooms, source.journal):
            self.open(directory)
        for directory in (source.path, source.snapshots, source.rooms):
            self.copy(directory)
        self.open(source.journal)  # what was begun meanwhile: the histories may have it
        self.copy(source.journal)
        numbers = [number_in(path.name, SUFFIX) for path in self._opened]
        there = sorted(number for number in numbers if number is not None)
        return there == list(range(there[0], there[0] + len(there))) if there else True

    def copy(self, directory: Path) -> None:
        """Copy those of its files that are open."""
        to = self._target.path / directory.relative_to(self._source.path)
        self._disk.make_directory(to)
        for path in self._opened:
            if self._source.path / path.parent == directory:
                self.copy_file(path)
        self._disk.sync_directory(to)

    def copy_file(self, path: Path) -> None:
        """Copy one that is open, as far as it goes at this moment, anew where it was copied before.
        What is zeros takes no place."""
        disk, source, to = self._disk, self._opened[path], self._target.path / path
        if to.name in disk.names(to.parent):
            disk.remove(to)
        fd = disk.create(to)
        try:
            size = disk.size(source)
            for offset in range(0, size, _CHUNK):
                piece = disk.read(source, min(_CHUNK, size - offset), offset)
                if piece != _ZEROS[: len(piece)]:
                    disk.write(fd, [piece], offset)
                self.bytes += len(piece)
                self._tell(self.bytes, self._size)
            disk.truncate(fd, size)
            disk.sync(fd)
        finally:
            disk.close(fd)
        self.files += 1

    def copy_shared(self, log_id: int) -> None:
        """Copy the store of files. Of those that it did not know to be published when this began,
        the copied journal tells."""
        disk, store = self._disk, self._source.path / FOLDER
        now, stored = noted(disk, store)
        unsure = (now | stored) - self._published
        reader = Reader(disk, self._target.journal, log_id)
        told = _shared_in(reader) & unsure if unsure and reader.paths else set()
        copy_store(disk, store, self._target.path / FOLDER, self._published | told, self._count)

    def _count(self, more: int) -> None:
        self.bytes += more
        self._size += more
        self._tell(self.bytes, self._size)

    def cut(self, log_id: int) -> None:
        """Leave out what stands behind the last good batch of the journal: it was being written
        when it was read. But what is still so when it is read once more is damage, and stays."""
        bad = self._first_bad(log_id)
        if bad is None:
            return
        path, offset = bad
        self.copy_file(path.relative_to(self._target.path))
        if self._first_bad(log_id) == bad:
            return
        fd = self._disk.open(path, writable=True)
        try:
            size = self._disk.size(fd)
            self._disk.truncate(fd, offset)
            self._disk.truncate(fd, size)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def _first_bad(self, log_id: int) -> tuple[Path, int] | None:
        """Where in the copy's newest segment the first batch is that is not as it should be, after
        the one that the position names: those up to there were written before it."""
        reader = Reader(self._disk, self._target.journal, log_id)
        if not reader.paths:
            return None
        noted = read_position(self._disk, self._target.position, log_id)
        path, number = reader.paths[-1], number_of(reader.paths[-1])
        try:
            start = reader.start(reader.newest_head().first_txn - 1)
            if noted is not None and noted.segment == number:
                start = noted
            end = start.offset if start is not None else 0
            for batch in reader.batches(start):
                if batch.lost:
                    return path, batch.offset
                end = batch.end.offset
        except Damaged:
            return path, end
        return None


def backup(disk: Disk, source: DataDirectory, target: Path, tell: Progress) -> Copied:
    """Copy a data directory to another, which is made or empty, and verify the copy. A server may
    run on `source`; nothing is changed there. What is damaged in it is so in the copy, and its
    report says so.

    DirectoryUnusable, OtherFormat, OSError: nothing that seems to be a copy is left.
    """
    _check_apart(source, target)
    source.check_repaired(disk)
    source.check_directories()
    with _locked(disk, target) as data:
        return _copy(disk, source, data, tell)


def restore(
    disk: Disk, source: DataDirectory, target: Path, tell: Progress, new_log_id: int, now: int
) -> Copied:
    """Copy a backup to a data directory, which is made or empty, and give its log a new identity,
    so that clients which have seen more than it has notice. new_log_id: not 0. now: microseconds
    since the Unix epoch. DirectoryUnusable: no server could start with it, too. OtherFormat,
    OSError.
    """
    _check_apart(source, target)
    report = verify(disk, source)
    if report.refusal:
        raise DirectoryUnusable(f"no server could start with {source.given}: {report.refusal}")
    with _locked(disk, target) as data:
        copied = _copy(disk, source, data, tell)
        kept = carry_out(disk, data, plan(disk, data, anew=True), new_log_id, now)
        if kept is not None:
            shutil.rmtree(kept)  # the backup has it
        return replace(copied, report=verify(disk, data))


def _check_apart(source: DataDirectory, target: Path) -> None:
    one, other = source.path.resolve(), target.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise DirectoryUnusable(
            f"{target} and {source.given} are not apart from each other: choose another place"
        )


@contextmanager
def _locked(disk: Disk, target: Path) -> Iterator[DataDirectory]:
    """A directory that is made or empty, and that no server begins with meanwhile."""
    lock = lock_data(target)
    try:
        if there := disk.names(target):
            raise DirectoryUnusable(
                f"{target} is not empty ({', '.join(there[:3])}): choose a new directory"
            )
        yield DataDirectory(target)
    finally:
        disk.close(lock)


def _copy(disk: Disk, source: DataDirectory, target: DataDirectory, tell: Progress) -> Copied:
    identity = source.identity(disk)
    try:
        for _ in range(_TRIES):
            copy = _Copy(disk, source, target, tell)
            with closing(copy):
                if copy.all():
                    copy.cut(identity.log_id)
                    copy.copy_shared(identity.log_id)
                    break
            _empty(target.path)
        else:
            raise DirectoryUnusable(
                f"files of {source.journal} are made and removed faster than they can be copied: "
                "choose a greater --history-size for the server, or a faster place for the copy"
            )
        target.change_identity(disk, identity)
    except BaseException:
        _empty(target.path)
        raise
    return Copied(verify(disk, target), _shared(disk, target), copy.files, copy.bytes)


def _shared_in(reader: Reader) -> set[int]:
    """The files that a journal's events publish, as far as it can be read."""
    found: set[int] = set()
    with suppress(Damaged):
        for batch in reader.batches(None):
            for head, frame in events_in(batch.events):
                if head.room:
                    found.add(file_id_of(bytes(frame[HEADER_LEN:])))
    return found


def _shared(disk: Disk, data: DataDirectory) -> Verified:
    """What the store of files has, hashed anew."""
    store = data.path / FOLDER
    if not disk.names_if_there(store):
        return Verified(0, 0, [])
    try:
        return verify_store(store, disk)
    except StoreDamaged as error:
        return Verified(0, 0, [Problem(b"", [], str(error))])


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

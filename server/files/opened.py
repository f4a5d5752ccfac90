"""A store that is opened: its directory and its index made to agree, and the steps that everything
it does is made of."""

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from server.files import records
from server.files.books import Books
from server.files.errors import Damaged, ShareFull, StoreFull, of_disk
from server.files.handles import Handles
from server.files.index import IndexFile
from server.files.limits import Limits
from server.files.paths import Paths
from server.files.records import File, line_of, line_of_file
from server.journal.disk import Disk

_NUMBERS: Final = 100  # file_ids that one synced line of the index reserves
_SECOND: Final = 1_000_000


class Freed(NamedTuple):
    """What was found to be of no use when the store was opened."""

    uploads: int  # of another boot
    found: int  # contents that no line of the index speaks of
    missing: list[File]  # files that the index has, without their content
    wrong: int  # lines of the index; some may be after a power cut, none else


def boot_id() -> str:
    """Another one after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().decode().strip()


class Opened:
    """See `Store`, which is one."""

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        *,
        now: Callable[[], int],
        disk: Disk | None = None,
        boot: str | None = None,
    ) -> None:
        """Open the directory, which is made where it is not there (its parent must be). Damaged,
        OSError.

        now: microseconds since the Unix epoch. boot: tells one start of the machine from another.
        """
        self.limits: Final = limits
        self._now, self._boot = now, boot_id() if boot is None else boot
        self._disk = disk = disk or Disk()
        self._paths = Paths(directory)
        self._handles = Handles(disk)
        self._books = Books()
        self._rubbish: set[Path] = set()  # files that could not be removed
        self._index = IndexFile(disk, directory, self._lines)
        self.freed: Final = self._open()

    # ---- opening

    def _open(self) -> Freed:
        disk, paths, kept = self._disk, self._paths, self._books
        disk.make_directory(paths.directory)
        found, wrong = self._index.read()
        there = dict(paths.contents(disk))
        if not found:
            if there:
                raise Damaged(self._index.path, "it is missing, although the store has contents")
            paths.make(disk)  # before the index says that they are there
        for record in found:
            kept.take(record)
        same_boot = bool(found) and found[0]["boot"] == self._boot
        if not same_boot:  # lines that were not synced may have spoken of numbers that were used
            kept.next_id = max(kept.next_id, kept.last_id)
        freed = self._look_at_uploads(same_boot, there)
        lost, missing = self._look_at_contents(there)
        try:
            self._index.write_anew()
        except BaseException:
            self.close()
            raise
        return Freed(freed, lost, missing, wrong)

    def _look_at_uploads(self, same_boot: bool, there: dict[bytes, Path]) -> int:
        """Those in memory agree with the files that are there after it."""
        disk, paths, kept = self._disk, self._paths, self._books
        names = set(disk.names(paths.uploads))
        freed = 0
        for file_id, upload in list(kept.uploads.items()):
            upload.at = self._now()
            file, name = upload.file, paths.upload(file_id).name
            if not same_boot:
                kept.drop_upload(file_id)
                freed += 1
            elif name in names:
                names.discard(name)
                upload.received = min(self._size(paths.upload(file_id)), file.size)
            else:  # it was renamed, or made of a content
                size = self._size(there[file.sha256]) if file.sha256 in there else -1
                upload.whole = size == file.size
                upload.received = size if upload.whole else 0
                if upload.whole:
                    kept.dropped.discard(file.sha256)
                else:
                    disk.close(disk.create(paths.upload(file_id)))
        for name in sorted(names):
            disk.remove(paths.uploads / name)
        return freed

    def _look_at_contents(self, there: dict[bytes, Path]) -> tuple[int, list[File]]:
        kept = self._books
        for sha256 in kept.dropped & there.keys():  # a power cut has brought it back
            self._disk.remove(there.pop(sha256))
        missing = [each for each in kept.stored.values() if each.file.sha256 not in there]
        for each in missing:
            kept.drop_stored(each.file.file_id)
        lost = [sha256 for sha256 in there if sha256 not in kept.contents]
        for sha256 in lost:
            kept.add_content(sha256, self._size(there[sha256]), self._now())
        for sha256 in [each for each in kept.contents if each not in there]:
            kept.drop_content(sha256)
        retained = self._now() - self.limits.retention_s * _SECOND
        return len(lost), [each.file for each in missing if each.at > retained]

    def _size(self, path: Path) -> int:
        fd = self._disk.open(path)
        try:
            return self._disk.size(fd)
        finally:
            self._disk.close(fd)

    def _lines(self) -> Iterator[bytes]:
        yield line_of(records.HEAD, format=records.FORMAT, boot=self._boot)
        yield from self._books.lines()

    # ---- steps

    def _check_space(self, user: int, more: int) -> None:
        if self._books.users.get(user, 0) + more > self.limits.user_bytes:
            raise ShareFull
        if self._books.total + more > self.limits.total_bytes:
            raise StoreFull

    def _check_room(self, more: int) -> None:
        """Of the file system. DiskFull."""
        spare = self.limits.spare_bytes
        try:
            if spare and self._disk.free(self._paths.directory) < spare + more:
                raise OSError(errno.ENOSPC, "what is left is kept for money and messages")
        except OSError as error:
            raise of_disk(error) from error

    def _new_id(self) -> int:
        """Never used before, and never again, whatever ends now."""
        kept = self._books
        if kept.next_id >= kept.last_id:
            last = kept.next_id + _NUMBERS
            try:
                line = line_of(records.NUMBERS, next=kept.next_id, last=last)
                self._index.append(line, sync=True)
            except OSError as error:
                raise of_disk(error) from error
            kept.last_id = last
        kept.next_id += 1
        return kept.next_id - 1

    def _write(self, path: Path, data: bytes | memoryview, offset: int) -> None:
        """All of it or nothing; a kill leaves a part, which is what was to be written."""
        self._check_room(len(data))
        try:
            fd = self._handles.get(path, writable=True)
            try:
                self._disk.write(fd, [data], offset)
            except OSError:
                self._disk.truncate(fd, offset)
                raise
        except OSError as error:
            raise of_disk(error) from error

    def _into_contents(self, path: Path, sha256: bytes) -> None:
        """What is there under this name is replaced by the same."""
        disk, content = self._disk, self._paths.content(sha256)
        disk.sync(self._handles.get(path, writable=True))
        self._handles.close(path)
        self._handles.close(content)
        disk.rename(path, content)
        self._rubbish.discard(content)
        disk.sync_directory(content.parent)

    def _remove(self, path: Path) -> None:
        """If it is there; what cannot be removed now is tried again by `expire`."""
        try:
            self._disk.remove(path)
        except FileNotFoundError:
            pass
        except OSError:
            self._rubbish.add(path)

    def _note(self, *lines: bytes) -> None:
        """What the index need not say at once: after an error it is written anew, from memory."""
        with suppress(OSError):
            self._index.append(*lines)

    def _store(self, file: File) -> None:
        at = self._now()
        self._index.append(line_of_file(records.ENDED, file, at), sync=True)
        self._books.add_stored(file, at)

    def close(self) -> None:
        """Close the files; uploads stay."""
        self._handles.close_all()
        self._index.close()

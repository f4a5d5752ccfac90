"""The store of files: contents under their SHA-256, and uploads that are not finished.

    index            what there is, one line of text for each change (records.py)
    uploads/7        the bytes of upload 7 that have arrived, no more and no less
    uploads/link-3   what is being fetched from elsewhere
    contents/a/b/ab… a file's bytes under their SHA-256: whole, synced, never changed

An upload becomes a content by a rename, between a sync of its bytes and one of the directory; then
a synced line of the index says to which file_id it belongs. Only what such a line speaks of counts
as stored. A content that none speaks of (a crash came between, or the line was damaged) is kept as
one that was found, until its age ends it.

Uploads outlive the process and not the machine: after a power cut nobody knows which of their bytes
were kept, so those of another boot are removed.

What a user is told depends on that user's own uploads and on how full the store is, and on nothing
that others have stored: the bytes are taken, synced and renamed whether they were there or not.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any, Final, NamedTuple

from server.files import books, records
from server.files.books import Stored, taken
from server.files.errors import (
    ChunkTooLong,
    Damaged,
    Incomplete,
    NotThere,
    PastSize,
    ShareFull,
    TooLarge,
    TooManyUploads,
    WrongHash,
    WrongOffset,
    of_disk,
)
from server.files.limits import CHUNK_MAX, Limits
from server.files.opened import Opened
from server.files.records import File, line_of, line_of_file
from server.files.verify import Verified, verify
from server.journal.disk import Disk

_SECOND: Final = 1_000_000
_PIECE: Final = 1 << 20  # bytes hashed at a time


class Upload(NamedTuple):
    """What FILE_BEGIN answers."""

    file_id: int
    received: int


class Listed(NamedTuple):
    file: File
    at: int  # when it was stored
    published: bool
    over: bool  # its user cannot begin or end it again


class Unfinished(NamedTuple):
    file: File
    at: int  # when something of it came last
    received: int


class Usage(NamedTuple):
    """Bytes are those that are taken of the disk; an upload's are reserved at its start."""

    total: int
    contents: int  # how many there are
    uploads: int
    uploads_bytes: int
    users: dict[int, int]


class Expired(NamedTuple):
    uploads: list[int]
    contents: list[bytes]


@dataclass(slots=True)
class _Link:
    """Something on its way from elsewhere."""

    user: int
    size: int = 0
    reserved: int = 0
    hash: Any = field(default_factory=sha256_of)


class Store(Opened):
    """The one user of a directory. Its methods wait for the disk; where that fails they raise
    `DiskFull` or `DiskFailed`, and nothing has changed but where it is said.

    A file_id belongs to an upload until `end`, then to a stored file. `published` is to be called
    when its event is durable: from then on it has ended for its user.
    """

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        *,
        now: Callable[[], int],
        disk: Disk | None = None,
        boot: str | None = None,
    ) -> None:
        """See `Opened`."""
        super().__init__(directory, limits, now=now, disk=disk, boot=boot)
        self._links: dict[int, _Link] = {}
        self._link = 0  # the newest one's number

    # ---- uploads

    def begin(
        self,
        user: int,
        room: int,
        sha256: bytes,
        size: int,
        media_type: str,
        name: str,
        *,
        readable: bool = False,
    ) -> Upload:
        """An upload, or the one that was begun with the same arguments. TooLarge, StoreFull,
        ShareFull, TooManyUploads.

        readable: this user may read these contents somewhere: then nothing is to be sent, if they
        are there.
        """
        if size > self.limits.file_bytes:
            raise TooLarge(size, self.limits.file_bytes)
        file = File(0, user, room, sha256, size, media_type, name)
        file_id = self._books.find(file)
        if file_id in self._books.stored:
            return Upload(file_id, size)
        if file_id:
            upload = self._books.uploads[file_id]
            upload.at = self._now()
        else:
            upload = self._new_upload(file)
        content = self._books.contents.get(sha256)
        if readable and not upload.whole and content and content.size == size:
            self._make_whole(upload)
        return Upload(upload.file.file_id, upload.received)

    def _new_upload(self, file: File) -> books.Upload:
        limits, user = self.limits, file.user
        self._check_space(user, taken(file.size))
        self._check_room(taken(file.size))
        mine = sum(upload.file.user == user for upload in self._books.uploads.values())
        if mine >= limits.user_uploads:
            raise TooManyUploads(limits.user_uploads)
        file_id = self._new_id()
        upload = books.Upload(replace(file, file_id=file_id), self._now())
        path = self._paths.upload(file_id)
        try:
            self._disk.close(self._disk.create(path))
            try:
                self._index.append(line_of_file(records.BEGUN, upload.file, upload.at))
            except OSError:
                self._disk.remove(path)
                raise
        except OSError as error:
            raise of_disk(error) from error
        self._books.add_upload(upload)
        return upload

    def never_again(self, file_id: int) -> None:
        """This file_id and those below it were used, as somebody else knows."""
        self._books.next_id = max(self._books.next_id, file_id + 1)

    def _make_whole(self, upload: books.Upload) -> None:
        """Of an upload whose content is there."""
        path = self._paths.upload(upload.file.file_id)
        self._handles.close(path)
        try:
            self._disk.remove(path)
        except OSError as error:
            raise of_disk(error) from error
        upload.whole, upload.received = True, upload.file.size

    def put(self, file_id: int, user: int, offset: int, data: bytes | memoryview) -> int:
        """Append to an upload: how many bytes have arrived. NotThere, ChunkTooLong, WrongOffset,
        PastSize."""
        upload = self._upload(file_id, user)
        if len(data) > CHUNK_MAX:
            raise ChunkTooLong(CHUNK_MAX)
        if offset != upload.received:
            raise WrongOffset(upload.received)
        if offset + len(data) > upload.file.size:
            raise PastSize(upload.file.size)
        if data:
            self._write(self._paths.upload(file_id), data, offset)
            if upload.hashed == offset:
                upload.hash.update(data)
                upload.hashed += len(data)
            upload.received += len(data)
        upload.at = self._now()
        return upload.received

    def _upload(self, file_id: int, user: int) -> books.Upload:
        upload = self._books.uploads.get(file_id)
        if upload is None or upload.file.user != user:
            raise NotThere("no such upload of yours")
        return upload

    # ---- the end of an upload

    def end(self, file_id: int, user: int) -> File:
        """Store an upload, durably; one that is stored and not over is answered again. NotThere,
        Incomplete, WrongHash (the upload is gone). DiskFull, DiskFailed: it has to be sent once
        more, from its start."""
        stored = self._books.stored.get(file_id)
        if stored and stored.file.user == user and not stored.over:
            return stored.file
        upload = self._upload(file_id, user)
        if upload.received < upload.file.size:
            raise Incomplete(upload.received, upload.file.size)
        try:
            if not upload.whole and not self._hash_is_right(upload):
                self._discard(upload)
                raise WrongHash
            self._keep(upload)
        except OSError as error:
            self._start_over(upload)
            raise of_disk(error) from error
        return upload.file

    def _hash_is_right(self, upload: books.Upload) -> bool:
        fd = self._handles.get(self._paths.upload(upload.file.file_id), writable=True)
        while upload.hashed < upload.file.size:  # what came before this process
            data = self._disk.read(fd, _PIECE, upload.hashed)
            if not data:
                return False
            upload.hash.update(data)
            upload.hashed += len(data)
        return bool(upload.hash.digest() == upload.file.sha256)

    def _keep(self, upload: books.Upload) -> None:
        file, at = upload.file, self._now()
        if not upload.whole:
            self._into_contents(self._paths.upload(file.file_id), file.sha256)
        self._index.append(line_of_file(records.ENDED, file, at), sync=True)
        self._books.drop_upload(file.file_id)
        self._books.add_stored(file, at, upload.leases)

    def _start_over(self, upload: books.Upload) -> None:
        """After an error of the disk nobody knows what it has kept of an upload."""
        file, was_whole = upload.file, upload.whole
        path = self._paths.upload(file.file_id)
        self._handles.close(path)
        upload.hash, upload.hashed = sha256_of(), 0
        upload.received, upload.whole = 0, False
        try:
            self._index.write_anew()  # the line of its end may be there
            if not was_whole and file.sha256 not in self._books.contents:
                self._remove(self._paths.content(file.sha256))
            self._remove(path)
            self._disk.close(self._disk.create(path))
        except OSError:
            self._discard(upload)

    def _discard(self, upload: books.Upload) -> None:
        file_id = upload.file.file_id
        path = self._paths.upload(file_id)
        self._handles.close(path)
        self._books.drop_upload(file_id)
        self._note(line_of(records.GONE, id=file_id))
        self._remove(path)

    # ---- from elsewhere

    def receive(self, user: int) -> int:
        """Begin something whose size and hash nobody knows: its number, for `append`, and `keep` or
        `abandon`. StoreFull, ShareFull."""
        self._check_space(user, taken(0))
        self._link += 1
        try:
            self._disk.close(self._disk.create(self._paths.link(self._link)))
        except OSError as error:
            raise of_disk(error) from error
        self._links[self._link] = link = _Link(user)
        self._grow(link, taken(0))
        return self._link

    def _grow(self, link: _Link, size: int) -> None:
        self._books.reserve(link.user, size - link.reserved)
        link.reserved = size

    def append(self, number: int, data: bytes | memoryview) -> None:
        """TooLarge, StoreFull, ShareFull: it is to be abandoned."""
        link = self._links[number]
        size = link.size + len(data)
        if size > self.limits.file_bytes:
            raise TooLarge(size, self.limits.file_bytes)
        self._check_space(link.user, taken(size) - link.reserved)
        self._write(self._paths.link(number), data, link.size)
        link.hash.update(data)
        link.size = size
        self._grow(link, taken(size))

    def keep(self, number: int, room: int, media_type: str, name: str) -> File:
        """Store it, durably, as a file that is not published. DiskFull, DiskFailed: it is gone."""
        link, path = self._links[number], self._paths.link(number)
        sha256 = link.hash.digest()
        try:
            file_id = self._new_id()
            file = File(file_id, link.user, room, sha256, link.size, media_type, name)
            try:
                self._into_contents(path, sha256)
                self._store(file)
            except OSError as error:
                if sha256 not in self._books.contents:
                    self._remove(self._paths.content(sha256))
                raise of_disk(error) from error
        finally:
            self.abandon(number)
        return file

    def abandon(self, number: int) -> None:
        """It is not wanted any more; nothing where it is gone already."""
        if (link := self._links.pop(number, None)) is not None:
            path = self._paths.link(number)
            self._handles.close(path)
            self._remove(path)
            self._grow(link, 0)

    def again(self, user: int, room: int, sha256: bytes, media_type: str, name: str) -> File:
        """Store contents that are there as another file that is not published. NotThere,
        ShareFull."""
        content = self._books.contents.get(sha256)
        if content is None:
            raise NotThere("no such contents")
        if self._books.users.get(user, 0) + taken(content.size) > self.limits.user_bytes:
            raise ShareFull
        file = File(self._new_id(), user, room, sha256, content.size, media_type, name)
        try:
            self._store(file)
        except OSError as error:
            raise of_disk(error) from error
        return file

    # ---- stored files

    def find(self, file_id: int) -> File:
        """A stored file, published or not. NotThere."""
        return self._stored(file_id).file

    def _stored(self, file_id: int) -> Stored:
        if stored := self._books.stored.get(file_id):
            return stored
        raise NotThere("no such file")

    def look(self, file_id: int, user: int) -> tuple[File, int]:
        """What `end` would store, and how many bytes of it have arrived. NotThere."""
        stored = self._books.stored.get(file_id)
        if stored and stored.file.user == user and not stored.over:
            return stored.file, stored.file.size
        upload = self._upload(file_id, user)
        return upload.file, upload.received

    def publications(self, sha256: bytes) -> list[File]:
        """Stored files of these contents, published or not."""
        content = self._books.contents.get(sha256)
        return [self._books.stored[each].file for each in content.files] if content else []

    def is_published(self, file_id: int) -> bool:
        """As far as `published` has told. NotThere."""
        return self._stored(file_id).published

    def files(self) -> list[Listed]:
        """All stored files, published or not."""
        return [Listed(s.file, s.at, s.published, s.over) for s in self._books.stored.values()]

    def uploads(self) -> list[Unfinished]:
        """All uploads that are not finished."""
        return [Unfinished(u.file, u.at, u.received) for u in self._books.uploads.values()]

    def published(self, file_id: int) -> None:
        """Its event is durable; its lease has ended. NotThere."""
        if not self._stored(file_id).published:
            self._books.set_published(file_id)
            self._note(line_of(records.PUBLISHED, id=file_id))

    def open(self, sha256: bytes) -> int:
        """A descriptor of contents, for reading; the caller closes it. NotThere."""
        try:
            return self._disk.open(self._paths.content(sha256))
        except FileNotFoundError:
            raise NotThere("no such contents") from None
        except OSError as error:
            raise of_disk(error) from error

    def get(self, sha256: bytes, offset: int, length: int) -> bytes:
        """At most `length` bytes of contents; none past their end. NotThere, Damaged."""
        content = self._books.contents.get(sha256)
        if content is None:
            raise NotThere("no such contents")
        length = min(length, content.size - offset)
        if length <= 0:
            return b""
        path = self._paths.content(sha256)
        try:
            data = self._disk.read(self._handles.get(path), length, offset)
        except OSError as error:
            raise of_disk(error) from error
        if len(data) < length:
            raise Damaged(path, f"it has no byte {offset + len(data)}, of {content.size}")
        return data

    # ---- keeping and removing

    def lease(self, file_id: int) -> None:
        """Nothing of it is removed by `expire` until `release`, `published`, or a wrong hash. Once
        for each call. NotThere."""
        self._leased(file_id).leases += 1

    def release(self, file_id: int) -> None:
        """Its time begins now; nothing where it is gone or published."""
        with suppress(NotThere):
            leased = self._leased(file_id)
            leased.leases = max(0, leased.leases - 1)
            leased.at = self._now()

    def _leased(self, file_id: int) -> books.Upload | Stored:
        found = self._books.uploads.get(file_id) or self._books.stored.get(file_id)
        if found is None or (isinstance(found, Stored) and found.over):
            raise NotThere("no such upload")
        return found

    def expire(self, now: int) -> Expired:
        """Remove what is older than the limits say and has no lease."""
        kept = self._books
        rubbish = list(self._rubbish)
        self._rubbish.clear()
        for path in rubbish:
            self._remove(path)
        kept_us = self.limits.upload_kept_s * _SECOND
        old = [u for u in kept.uploads.values() if not u.leases and now - u.at >= kept_us]
        for upload in old:
            self._discard(upload)
        needed = {u.file.sha256 for u in kept.uploads.values() if u.whole or u.leases}
        for stored in kept.stored.values():
            if stored.leases:
                needed.add(stored.file.sha256)
            elif not stored.over and now - stored.at >= kept_us:
                kept.set_over(stored)
                self._note(line_of(records.OVER, id=stored.file.file_id))
        retention_us = self.limits.retention_s * _SECOND
        gone = [
            sha256
            for sha256, content in kept.contents.items()
            if now - content.at >= retention_us and sha256 not in needed
        ]
        if gone:
            self._remove_contents(gone)
        return Expired([upload.file.file_id for upload in old], gone)

    def _remove_contents(self, gone: list[bytes]) -> None:
        """A full disk must not keep it: so the files go first, and then what speaks of them."""
        kept = self._books
        lines = []
        for sha256 in gone:
            for file_id in list(kept.contents[sha256].files):
                kept.drop_stored(file_id)
                lines.append(line_of(records.GONE, id=file_id))
            kept.drop_content(sha256)
            lines.append(line_of(records.DROPPED, sha256=sha256.hex()))
            path = self._paths.content(sha256)
            self._handles.close(path)
            self._remove(path)
        self._note(*lines)

    def usage(self) -> Usage:
        kept = self._books
        uploads = len(kept.uploads) + len(self._links)
        users = dict(sorted(kept.users.items()))
        return Usage(kept.total, len(kept.contents), uploads, kept.reserved_bytes, users)

    def verify(self, beat: Callable[[], None] = lambda: None) -> Verified:
        """Hash all contents anew. Damaged, OSError."""
        return verify(self._paths.directory, self._disk, beat)

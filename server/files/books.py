"""What the store holds, in memory: uploads, stored files, contents, and who takes how much."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256 as sha256_of
from typing import Any, Final

from server.files import records
from server.files.records import File, file_of, line_of, line_of_file

_BLOCK: Final = 4096  # what a file takes of the disk is a multiple of it


def taken(size: int) -> int:
    """Bytes of the disk that a file of `size` bytes takes."""
    return max(_BLOCK, -(-size // _BLOCK) * _BLOCK)


@dataclass(slots=True)
class Upload:
    """One that is not finished."""

    file: File
    at: int  # when something of it came last
    received: int = 0
    whole: bool = False  # the bytes are a content already
    leases: int = 0
    hash: Any = field(default_factory=sha256_of)
    hashed: int = 0


@dataclass(slots=True)
class Stored:
    """A file whose content is stored."""

    file: File
    at: int
    published: bool = False
    over: bool = False  # its user cannot begin or end it again
    leases: int = 0


@dataclass(slots=True)
class Content:
    size: int
    at: int  # when it was last stored
    files: set[int] = field(default_factory=set)


class Books:
    """Times are microseconds since the Unix epoch; bytes are those that are taken of the disk."""

    def __init__(self) -> None:
        self.uploads: Final[dict[int, Upload]] = {}
        self.stored: Final[dict[int, Stored]] = {}
        self.contents: Final[dict[bytes, Content]] = {}
        self.dropped: Final[set[bytes]] = set()  # contents whose time was over
        self.users: Final[dict[int, int]] = {}  # bytes: of contents, and reserved
        self.total = 0  # bytes of all, each content once
        self.reserved_bytes = 0  # of them, for uploads
        self.next_id = self.last_id = 1  # file_ids below last_id are never used but from next_id on
        self._keys: dict[tuple[Any, ...], int] = {}
        self._shares: dict[int, dict[bytes, int]] = {}  # user -> content -> that user's files

    # ---- reading and writing the index

    def take(self, record: dict[str, Any]) -> None:
        """What a line of the index says."""
        match record["kind"]:
            case records.BEGUN:
                self.add_upload(Upload(file_of(record), record["at"]))
            case records.ENDED:
                file = file_of(record)
                self.drop_upload(file.file_id)
                self.add_stored(file, record["at"])
            case records.PUBLISHED:
                if record["id"] in self.stored:
                    self.set_published(record["id"])
            case records.OVER:
                if record["id"] in self.stored:
                    self.set_over(self.stored[record["id"]])
            case records.GONE:
                self.drop_upload(record["id"])
                self.drop_stored(record["id"])
            case records.FOUND:
                sha256 = bytes.fromhex(record["sha256"])
                if sha256 not in self.contents:
                    self.add_content(sha256, record["size"], record["at"])
            case records.DROPPED:
                sha256 = bytes.fromhex(record["sha256"])
                if sha256 in self.contents and not self.contents[sha256].files:
                    self.drop_content(sha256)
                    self.dropped.add(sha256)
            case records.NUMBERS:
                self.next_id = max(self.next_id, record["next"])
                self.last_id = record["last"]

    def lines(self) -> Iterator[bytes]:
        """What the index should say, after its head."""
        yield line_of(records.NUMBERS, next=self.next_id, last=self.last_id)
        for upload in self.uploads.values():
            yield line_of_file(records.BEGUN, upload.file, upload.at)
        for stored in self.stored.values():
            yield line_of_file(records.ENDED, stored.file, stored.at)
            if stored.published:
                yield line_of(records.PUBLISHED, id=stored.file.file_id)
            elif stored.over:
                yield line_of(records.OVER, id=stored.file.file_id)
        for sha256, content in self.contents.items():
            if not content.files:
                yield line_of(records.FOUND, sha256=sha256.hex(), size=content.size, at=content.at)

    def _see(self, file_id: int) -> None:
        self.next_id = max(self.next_id, file_id + 1)

    # ---- who takes how much

    def reserve(self, user: int, size: int) -> None:
        """For what is on its way; less than 0: no longer."""
        self.reserved_bytes += size
        self.total += size
        self._count(user, size)

    def _count(self, user: int, size: int) -> None:
        left = self.users.get(user, 0) + size
        if left:
            self.users[user] = left
        else:
            del self.users[user]

    # ---- uploads

    def find(self, file: File) -> int:
        """The file_id of what was begun with the same arguments and is not over; 0: nothing."""
        return self._keys.get(file.key, 0)

    def add_upload(self, upload: Upload) -> None:
        file = upload.file
        self._see(file.file_id)
        self.uploads[file.file_id] = upload
        self._keys[file.key] = file.file_id
        self.reserve(file.user, taken(file.size))

    def drop_upload(self, file_id: int) -> None:
        if upload := self.uploads.pop(file_id, None):
            self._forget_key(upload.file)
            self.reserve(upload.file.user, -taken(upload.file.size))

    def _forget_key(self, file: File) -> None:
        if self._keys.get(file.key) == file.file_id:
            del self._keys[file.key]

    # ---- stored files and contents

    def add_content(self, sha256: bytes, size: int, at: int) -> Content:
        self.contents[sha256] = content = Content(size, at)
        self.dropped.discard(sha256)
        self.total += taken(size)
        return content

    def drop_content(self, sha256: bytes) -> None:
        """One that no stored file has."""
        self.total -= taken(self.contents.pop(sha256).size)

    def add_stored(self, file: File, at: int, leases: int = 0) -> None:
        self._see(file.file_id)
        self.stored[file.file_id] = Stored(file, at, leases=leases)
        self._keys[file.key] = file.file_id
        content = self.contents.get(file.sha256) or self.add_content(file.sha256, file.size, at)
        content.at = max(content.at, at)
        content.files.add(file.file_id)
        share = self._shares.setdefault(file.user, {})
        if file.sha256 not in share:
            self._count(file.user, taken(file.size))
        share[file.sha256] = share.get(file.sha256, 0) + 1

    def drop_stored(self, file_id: int) -> None:
        """Its content stays."""
        if (stored := self.stored.pop(file_id, None)) is None:
            return
        file = stored.file
        self._forget_key(file)
        self.contents[file.sha256].files.discard(file_id)
        share = self._shares[file.user]
        share[file.sha256] -= 1
        if not share[file.sha256]:
            del share[file.sha256]
            self._count(file.user, -taken(file.size))

    def set_published(self, file_id: int) -> None:
        stored = self.stored[file_id]
        stored.published, stored.leases = True, 0
        self.set_over(stored)

    def set_over(self, stored: Stored) -> None:
        stored.over = True
        self._forget_key(stored.file)

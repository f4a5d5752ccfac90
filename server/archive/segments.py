"""The files of the histories: their headers and batches, and one pass through all of them.

Batches are written one after the other, and synced several at a time. So a crash can leave the last
ones damaged, in any order: each batch says which ones were durable before it was written. What is
not as it was written, and was durable by the word of a batch that is, is `Damaged`; a segment that
is missing, too. Anything else at the end is torn: it is told, and the store cuts it off and takes
it from the journal once more.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.disk import Disk, read_file
from server.journal.errors import MEDIUM, Damaged, OtherFormat, Unreadable
from server.journal.format import (
    FORMAT_VERSION,
    READ_FORMATS,
    ROOM_BATCH,
    ROOM_RECORD,
    ROOM_SEGMENT,
    crc64,
    number_in,
    numbered,
)
from server.journal.reader import Position
from server.region.layout import WORD

SUFFIX: Final = "rooms"
RECORD: Final = struct.Struct(f"<{len(ROOM_RECORD)}Q")
_BATCH_MAGIC: Final = ROOM_BATCH.magic.to_bytes(WORD, "little")


class SegmentHead(NamedTuple):
    """A history segment header's fields."""

    magic: int
    format: int
    log_id: int
    epoch: int
    number: int
    first_batch: int
    salt: int
    created: int
    crc: int


class BatchHead(NamedTuple):
    """A history batch header's fields."""

    magic: int
    salt: int
    batch: int
    synced: int
    oldest: int
    segment: int
    offset: int
    txn_id: int
    event: int
    chain: bytes
    length: int
    time: int
    crc: int

    @property
    def position(self) -> Position:
        """Where in the journal everything has been taken up to."""
        return Position(self.segment, self.offset, self.txn_id, self.event, self.chain)


for _header, _tuple in ((ROOM_SEGMENT, SegmentHead), (ROOM_BATCH, BatchHead)):
    assert tuple(f.name for f in _header.fields) == _tuple._fields, _header.name


def record_size(length: int) -> int:
    """Bytes of a record with a body of `length` bytes."""
    return RECORD.size + (length + WORD - 1 & -WORD)


def segment_head(data: bytes) -> SegmentHead | None:
    """The header that a segment's bytes open with; None where they open with no valid one."""
    if len(data) < ROOM_SEGMENT.size:
        return None
    head = SegmentHead._make(ROOM_SEGMENT.words.unpack_from(data))
    good = head.magic == ROOM_SEGMENT.magic and head.crc == crc64(data[: ROOM_SEGMENT.size - WORD])
    return head if good else None


def batch_head(data: bytes | memoryview, offset: int, salt: int) -> BatchHead | None:
    """The header of a batch of the segment with that salt, if it is valid with all its records; its
    place in the order is not looked at."""
    if offset + ROOM_BATCH.size > len(data):
        return None
    head = BatchHead._make(ROOM_BATCH.words.unpack_from(data, offset))
    records = offset + ROOM_BATCH.size
    end = records + head.length
    if head.magic != ROOM_BATCH.magic or head.salt != salt or end > len(data):
        return None
    crc = crc64(data[records:end], crc64(data[offset : records - WORD]))
    return head if crc == head.crc else None


def read_segment(disk: Disk, path: Path) -> bytes:
    """All of it. Unreadable, OSError."""
    try:
        return read_file(disk, path)
    except OSError as error:
        if error.errno in MEDIUM:
            raise Unreadable(path, 0, error) from error
        raise


def read_batch(disk: Disk, fd: int, offset: int, salt: int) -> memoryview | None:
    """A batch of the segment with that salt, its header included; None where none is valid."""
    data = disk.read(fd, ROOM_BATCH.size, offset)
    if len(data) < ROOM_BATCH.size:
        return None
    size = ROOM_BATCH.size + BatchHead._make(ROOM_BATCH.words.unpack(data)).length
    if offset + size > disk.size(fd):
        return None
    data = disk.read(fd, size, offset)
    return memoryview(data) if batch_head(data, 0, salt) else None


class Torn(NamedTuple):
    """Where a crash has cut off what was written last."""

    path: Path
    offset: int  # bytes


class Segment(NamedTuple):
    """One that was read."""

    path: Path
    head: SegmentHead
    size: int  # bytes of the file
    used: int  # bytes up to the end of its last batch


class Unsure(NamedTuple):
    """A batch of which nobody knows whether it is durable."""

    batch: int
    segment: int
    offset: int  # bytes
    data: memoryview  # as it was read


class Scan:
    """One pass through all segments. After `batches` has come to its end, the rest is known."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        numbers = [number_in(name, SUFFIX) for name in disk.names_if_there(directory)]
        self._paths = [numbered(directory, n, SUFFIX) for n in numbers if n is not None]
        self.segments: Final[list[Segment]] = []
        """Oldest first."""
        self.last: BatchHead | None = None
        """The newest batch; None: none."""
        self.end = ROOM_SEGMENT.size
        """Where the next batch goes in the newest segment, bytes."""
        self.unsure: list[Unsure] = []
        self.torn: Torn | None = None
        self.cut: list[Path] = []
        """Segments behind the torn place: all of them go."""

    @property
    def oldest(self) -> int:
        """The oldest segment that is needed."""
        return self.last.oldest if self.last else 1

    @property
    def batch(self) -> int:
        """Number of the newest batch; 0: none."""
        return self.last.batch if self.last else 0

    def batches(self) -> Iterator[tuple[BatchHead, int, int, memoryview]]:
        """Each batch: its header, its segment's number, the offset of its records, and these.
        Damaged, OtherFormat."""
        for place, path in enumerate(self._paths):
            data = read_segment(self._disk, path)
            head = self._head(path, data)
            if head is None:
                self._cut(place, 0, data)
                break
            self.segments.append(Segment(path, head, len(data), ROOM_SEGMENT.size))
            first, offset, view = self.batch, ROOM_SEGMENT.size, memoryview(data)
            if not self.last:
                first = head.first_batch - 1
            while (batch := batch_head(view, offset, head.salt)) is not None:
                if batch.batch != first + 1:
                    raise Damaged(path, offset, f"batch {batch.batch} in the place of {first + 1}")
                records = offset + ROOM_BATCH.size
                end = records + batch.length
                yield batch, head.number, records, view[records:end]
                self.last, first = batch, batch.batch
                self.unsure.append(Unsure(batch.batch, head.number, offset, view[offset:end]))
                self.unsure = [each for each in self.unsure if each.batch > batch.synced]
                offset = end
            self.end = offset
            self.segments[-1] = self.segments[-1]._replace(used=offset)
            if data[offset:].strip(b"\0"):
                self._cut(place, offset, data)
                break
        if self.segments and self.segments[0].head.number > self.oldest:
            number = self.segments[0].head.number
            raise Damaged(
                self.segments[0].path,
                0,
                f"the segments {self.oldest} to {number - 1} are missing before it",
            )

    def _head(self, path: Path, data: bytes) -> SegmentHead | None:
        """The header of the segment that comes next; None: this one does not."""
        head, number = segment_head(data), number_in(path.name, SUFFIX)
        if head is None:
            return None
        if head.format not in READ_FORMATS:
            raise OtherFormat(
                f"{path} has format {head.format}, and this program reads {FORMAT_VERSION}"
            )
        if head.number != number:
            raise Damaged(path, 0, f"it is segment {head.number} under another's name")
        if not self.segments:
            return head
        before = self.segments[-1].head
        if (head.log_id, head.epoch) != (before.log_id, before.epoch):
            raise Damaged(path, 0, "it belongs to another log or epoch than the segment before it")
        is_next = head.number == before.number + 1 and head.first_batch == self._next(before)
        return head if is_next else None

    def _next(self, before: SegmentHead) -> int:
        return self.batch + 1 if self.last else before.first_batch

    def _cut(self, place: int, offset: int, data: bytes) -> None:
        """Something is not as it was written: Damaged, unless nobody says that it was durable."""
        path, later = self._paths[place], self._paths[place + 1 :]
        first = self.segments[0].head if self.segments else None
        lost = self._next(first) if first is not None else 1
        if first is None and number_in(path.name, SUFFIX) != 1:
            raise Damaged(path, 0, "the segment's header is damaged")
        for other, found in ((path, data), *((p, read_segment(self._disk, p)) for p in later)):
            head = segment_head(found)
            synced = _most_synced(found, offset if other == path else 0, head) if head else 0
            if synced >= lost:
                raise Damaged(
                    path,
                    offset,
                    f"batch {lost} is damaged or missing, and {other.name} says that all up to "
                    f"{synced} were durable",
                )
        self.torn = Torn(path, offset)
        self.cut = later if offset else [path, *later]


def _most_synced(data: bytes, offset: int, head: SegmentHead) -> int:
    """What the batches of a segment, from an offset on, say was durable; 0: nothing."""
    mark, most = _BATCH_MAGIC + head.salt.to_bytes(WORD, "little"), 0
    at = data.find(mark, offset)
    while at >= 0:
        found = batch_head(data, at, head.salt)
        if found is not None:
            most = max(most, found.synced)
        at = data.find(mark, at + 1)
    return most

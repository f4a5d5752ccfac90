"""The files of the rooms' events: their headers and batches, and one pass through all of them.

What a crash can leave is at the very end, and is no damage: a batch that was not written wholly,
or a segment whose header was not. It is told, and the store cuts it off. Anything else that is not
as it was written is `Damaged`; a segment that is missing, too.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, OtherFormat
from server.journal.format import (
    FORMAT_VERSION,
    ROOM_BATCH,
    ROOM_RECORD,
    ROOM_SEGMENT,
    crc64,
    number_in,
    numbered,
)
from server.region.layout import WORD

SUFFIX: Final = "rooms"
RECORD: Final = struct.Struct(f"<{len(ROOM_RECORD)}Q")
_BATCH_MAGIC: Final = ROOM_BATCH.magic.to_bytes(WORD, "little")
_SEGMENT_WORDS: Final = struct.Struct(f"<{len(ROOM_SEGMENT.fields)}Q")
_BATCH_WORDS: Final = struct.Struct(f"<{len(ROOM_BATCH.fields)}Q")


class SegmentHead(NamedTuple):
    """A room segment header's fields."""

    magic: int
    format: int
    number: int
    first_batch: int
    salt: int
    epoch: int
    created: int
    crc: int


class BatchHead(NamedTuple):
    """A room batch header's fields."""

    magic: int
    salt: int
    batch: int
    oldest: int
    length: int
    time: int
    crc: int


for _header, _tuple in ((ROOM_SEGMENT, SegmentHead), (ROOM_BATCH, BatchHead)):
    assert tuple(f.name for f in _header.fields) == _tuple._fields, _header.name


def record_size(length: int) -> int:
    """Bytes of a record with a body of `length` bytes."""
    return RECORD.size + (length + WORD - 1 & -WORD)


def segment_head(data: bytes) -> SegmentHead | None:
    """The header that a segment's bytes open with; None where they open with no valid one."""
    if len(data) < ROOM_SEGMENT.size:
        return None
    head = SegmentHead._make(_SEGMENT_WORDS.unpack_from(data))
    good = head.magic == ROOM_SEGMENT.magic and head.crc == crc64(data[: ROOM_SEGMENT.size - WORD])
    return head if good else None


def batch_head(data: bytes | memoryview, offset: int, salt: int) -> BatchHead | None:
    """The header of a batch of the segment with that salt, if it is valid with all its records; its
    place in the order is not looked at."""
    if offset + ROOM_BATCH.size > len(data):
        return None
    head = BatchHead._make(_BATCH_WORDS.unpack_from(data, offset))
    records = offset + ROOM_BATCH.size
    end = records + head.length
    if head.magic != ROOM_BATCH.magic or head.salt != salt or end > len(data):
        return None
    crc = crc64(data[records:end], crc64(data[offset : records - WORD]))
    return head if crc == head.crc else None


def read_batch(disk: Disk, fd: int, offset: int, salt: int) -> memoryview | None:
    """A batch of the segment with that salt, its header included; None where none is valid."""
    data = disk.read(fd, ROOM_BATCH.size, offset)
    if len(data) < ROOM_BATCH.size:
        return None
    size = ROOM_BATCH.size + BatchHead._make(_BATCH_WORDS.unpack(data)).length
    if offset + size > disk.size(fd):
        return None
    data = disk.read(fd, size, offset)
    return memoryview(data) if batch_head(data, 0, salt) else None


class Torn(NamedTuple):
    """What a crash left behind the last batch, of a batch or of a segment."""

    path: Path
    offset: int  # bytes
    size: int  # bytes


class Segment(NamedTuple):
    """One that was read."""

    path: Path
    head: SegmentHead
    size: int  # bytes of the file


class Scan:
    """One pass through all segments. After `batches` has come to its end, the rest is known."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        numbers = [number_in(name, SUFFIX) for name in disk.names(directory)]
        self._paths = [numbered(directory, n, SUFFIX) for n in numbers if n is not None]
        self.segments: Final[list[Segment]] = []
        """Oldest first."""
        self.batch = 0
        """Number of the newest batch; 0: none."""
        self.oldest = 1
        """The oldest segment that is needed."""
        self.end = ROOM_SEGMENT.size
        """Where the next batch goes in the newest segment, bytes."""
        self.last = 0
        """Offset of the last batch there; 0: it has none."""
        self.tail = b""
        """The newest segment's bytes from `last` to `end`, as they were read."""
        self.torn: Torn | None = None
        self.unborn: Path | None = None
        """A segment that was being made."""

    def batches(self) -> Iterator[tuple[int, int, memoryview]]:
        """Each batch: its segment's number, the offset of its records, and these. Damaged,
        OtherFormat."""
        paths, data = self._paths, b""
        if paths:
            data = read_file(self._disk, paths[-1])
            # Before its header is durable nothing else is written into a segment.
            if segment_head(data) is None and not data[ROOM_SEGMENT.size :].strip(b"\0"):
                self.unborn = paths.pop()
                if rest := len(data.rstrip(b"\0")):
                    self.torn = Torn(self.unborn, 0, rest)
                data = read_file(self._disk, paths[-1]) if paths else b""
        newest = data
        for path in paths:
            data = newest if path == paths[-1] else read_file(self._disk, path)
            head = self._head(path, data)
            self.segments.append(Segment(path, head, len(data)))
            offset, self.last = ROOM_SEGMENT.size, 0
            view = memoryview(data)
            while (batch := batch_head(view, offset, head.salt)) is not None:
                if batch.batch != self.batch + 1:
                    raise Damaged(
                        path, offset, f"batch {batch.batch} in the place of {self.batch + 1}"
                    )
                records = offset + ROOM_BATCH.size
                yield head.number, records, view[records : records + batch.length]
                self.batch, self.oldest, self.last = batch.batch, batch.oldest, offset
                offset = records + batch.length
            self._check_rest(path, data, offset, head.salt)
            self.end = offset
        if not paths:
            if self.unborn is not None and number_in(self.unborn.name, SUFFIX) != 1:
                raise Damaged(self.unborn, 0, "all segments before it are missing")
            return
        self.tail = data[self.last : self.end]
        if rest := len(data[self.end :].rstrip(b"\0")):
            self.torn = Torn(paths[-1], self.end, rest)
        first = self.segments[0].head.number
        if first > self.oldest:
            missing = f"the segments {self.oldest} to {first - 1} are missing"
            if rest:  # no torn write: once it was durable they were removed
                raise Damaged(paths[-1], self.end, f"the last batch is damaged, and {missing}")
            raise Damaged(paths[0], 0, missing)

    def _head(self, path: Path, data: bytes) -> SegmentHead:
        head = segment_head(data)
        if head is None:
            raise Damaged(path, 0, "the segment's header is damaged")
        if head.format != FORMAT_VERSION:
            raise OtherFormat(
                f"{path} has format {head.format}, and this program reads {FORMAT_VERSION}"
            )
        if head.number != number_in(path.name, SUFFIX):
            raise Damaged(path, 0, f"it is segment {head.number} under another's name")
        if not self.segments:
            self.batch = head.first_batch - 1
            return head
        before = self.segments[-1]
        if head.number != before.head.number + 1:
            raise Damaged(
                path,
                0,
                f"the segments {before.head.number + 1} to {head.number - 1} are missing before it",
            )
        if head.first_batch != self.batch + 1:
            raise Damaged(
                before.path,
                self.end,
                f"the batches {self.batch + 1} to {head.first_batch - 1} are damaged or missing, "
                "and followed by another segment",
            )
        if head.epoch != before.head.epoch:
            raise Damaged(path, 0, f"epoch {head.epoch} behind {before.head.epoch}")
        return head

    def _check_rest(self, path: Path, data: bytes, offset: int, salt: int) -> None:
        """Behind the last good batch stands nothing that was ever durable."""
        at = data.find(_BATCH_MAGIC, offset)
        while at >= 0:
            later = batch_head(data, at, salt)
            if later is not None:
                raise Damaged(
                    path,
                    offset,
                    f"batch {self.batch + 1} is damaged, and followed by {later.batch} at offset "
                    f"{at}",
                )
            at = data.find(_BATCH_MAGIC, at + 1)

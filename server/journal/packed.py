"""Segments that are kept for their time: compressed, once neither a restart nor the size of the
journal has them kept any more.

A file is durable before its segment is removed. It has the place of its segment in the chain, as
copied events have (spill.py): those that lead up to the oldest segment without a gap belong to the
history. It is read in blocks, each compressed by itself.
"""

import zlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.disk import Disk, read_file, write_file
from server.journal.errors import Damaged, OtherFormat
from server.journal.format import (
    FORMAT_VERSION,
    PACKED,
    READ_FORMATS,
    SEGMENT,
    SegmentHead,
    crc64,
    number_in,
    numbered,
    sha256,
)
from server.journal.reader import Batch, batches_of, written_size
from server.region.layout import WORD

SUFFIX: Final = "packed"
BLOCK: Final = 1 << 16  # bytes of a segment
_BLOCKS_KEPT: Final = 2  # of an open file: those that were read last


class PackedHead(NamedTuple):
    """The header's fields."""

    magic: int
    format: int
    log_id: int
    number: int
    first_txn: int
    first_event: int
    previous: bytes
    next_txn: int
    next_event: int
    next_previous: bytes
    until: int
    length: int
    crc: int

    def leads_to(self, following: "SegmentHead | PackedHead") -> bool:
        """Does that one go on where this one ends?"""
        return (self.number + 1, self.next_txn, self.next_event, self.next_previous) == (
            following.number,
            following.first_txn,
            following.first_event,
            following.previous,
        )


assert tuple(f.name for f in PACKED.fields) == PackedHead._fields


class Packed:
    """One that is open: it is read as its segment was."""

    def __init__(self, disk: Disk, path: Path) -> None:
        """Damaged, OtherFormat, OSError."""
        self._disk, self._path = disk, path
        self._fd = disk.open(path)
        try:
            self.head, sizes = self._opened()
        except BaseException:
            disk.close(self._fd)
            raise
        start = PACKED.size + len(sizes) * WORD
        self._starts = list(accumulate(sizes, initial=start))
        self._blocks: dict[int, bytes] = {}  # what was read last stands last

    def _opened(self) -> tuple[PackedHead, Sequence[int]]:
        """The header, and the sizes of the blocks."""
        disk, path, fd = self._disk, self._path, self._fd
        data = disk.read(fd, PACKED.size, 0)
        head = PackedHead._make(PACKED.words.unpack(data)) if len(data) == PACKED.size else None
        count = 0 if head is None else -(-head.length // BLOCK)
        if head is None or head.magic != PACKED.magic or count * WORD > disk.size(fd):
            raise Damaged(path, 0, _BAD)
        sizes = disk.read(fd, count * WORD, PACKED.size)
        if crc64(sizes, crc64(data[:-WORD])) != head.crc:
            raise Damaged(path, 0, _BAD)
        if head.format not in READ_FORMATS:
            raise OtherFormat(
                f"{path} has format {head.format}, and this program reads {FORMAT_VERSION}"
            )
        if number_in(path.name, SUFFIX) != head.number:
            raise Damaged(path, 0, f"it is segment {head.number} under another's name")
        return head, memoryview(sizes).cast("Q").tolist()

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes of the segment; fewer only at its end. Damaged, OSError."""
        end = min(offset + size, self.head.length)
        if offset >= end:
            return b""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[offset - first * BLOCK : end - first * BLOCK]

    def _block(self, number: int) -> bytes:
        block = self._blocks.pop(number, None)
        if block is None:
            start, end = self._starts[number : number + 2]
            expected = min(BLOCK, self.head.length - number * BLOCK)
            inflater = zlib.decompressobj()
            try:
                block = inflater.decompress(self._disk.read(self._fd, end - start, start), BLOCK)
            except zlib.error:
                block = b""
            if len(block) != expected or not inflater.eof:  # its end has a checksum
                raise Damaged(self._path, start, "the compressed block is damaged")
        self._blocks[number] = block
        if len(self._blocks) > _BLOCKS_KEPT:
            del self._blocks[next(iter(self._blocks))]
        return block

    def close(self) -> None:
        self._disk.close(self._fd)


_BAD: Final = "the header of the packed segment is damaged"


def path_of(directory: Path, number: int) -> Path:
    """The file of a segment."""
    return numbered(directory, number, SUFFIX)


def paths(disk: Disk, directory: Path) -> list[Path]:
    """All of them, oldest first. OSError."""
    numbers = [number_in(name, SUFFIX) for name in disk.names_if_there(directory)]
    return [path_of(directory, number) for number in numbers if number is not None]


def head_of(disk: Disk, path: Path) -> PackedHead | None:
    """The header of a file; None where it is damaged, or of another format. OSError."""
    try:
        packed = Packed(disk, path)
    except (Damaged, OtherFormat):
        return None
    packed.close()
    return packed.head


def write(disk: Disk, path: Path, head: SegmentHead, following: SegmentHead) -> None:
    """Pack a segment, as it stands, durably; the one that follows it is there. OSError."""
    data = read_file(disk, path)
    data = data[: written_size(data)]
    blocks = [zlib.compress(data[offset : offset + BLOCK]) for offset in range(0, len(data), BLOCK)]
    sizes = b"".join(len(block).to_bytes(WORD, "little") for block in blocks)
    header = PACKED.pack(
        FORMAT_VERSION, following.log_id, head.number, head.first_txn, head.first_event,
        head.previous, following.first_txn, following.first_event, following.previous,
        following.created, len(data),
        rest=(sizes,),
    )  # fmt: skip
    write_file(disk, path_of(path.parent, head.number), [header, sizes, *blocks])


def leading_to(disk: Disk, directory: Path, oldest: SegmentHead) -> list[tuple[Path, PackedHead]]:
    """Those that lead up to the oldest segment without a gap, oldest first. OSError."""
    found = list[tuple[Path, PackedHead]]()
    there = set(paths(disk, directory))
    following: SegmentHead | PackedHead = oldest
    while (path := path_of(directory, following.number - 1)) in there:
        head = head_of(disk, path)
        if head is None or not head.leads_to(following):
            break
        found.append((path, head))
        following = head
    return found[::-1]


def outdated(disk: Disk, directory: Path, since: int | None) -> list[Path]:
    """Those that end before a time, oldest first, and any that is damaged before them; all where
    nothing is to be kept. since: microseconds since the Unix epoch; None: nothing. OSError."""
    there, count = paths(disk, directory), 0
    if since is None:
        return there
    for place, path in enumerate(there, 1):
        head = head_of(disk, path)
        if head is not None and head.until >= since:
            break
        count = place if head is not None else count
    return there[:count]


def damaged(disk: Disk, directory: Path) -> list[Path]:
    """Those that are, oldest first. OtherFormat, OSError."""
    found = list[Path]()
    for path in paths(disk, directory):
        try:
            is_good = not any(batch.lost for batch in batches(disk, path))
        except Damaged:
            is_good = False
        if not is_good:
            found.append(path)
    return found


def batches(disk: Disk, path: Path) -> Iterator[Batch]:
    """Every batch of the segment, all of it checked. Damaged, OtherFormat, OSError."""
    packed = Packed(disk, path)
    try:
        data = packed.read(packed.head.length, 0)
    finally:
        packed.close()
    head = packed.head
    end = (head.first_txn - 1, head.first_event - 1, sha256(data[: SEGMENT.size]))
    for batch in batches_of(path, data):
        end = batch.end[2:]
        yield batch
    if end != (head.next_txn - 1, head.next_event - 1, head.next_previous):
        raise Damaged(path, len(data), "the next segment does not follow from what is in it")

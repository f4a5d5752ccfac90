"""Events of segments that have gone, for the archive, which has not taken them yet.

Where the archive has not kept up, the oldest segments would have to stay, transactions and all, and
money alone would fill the disk. So their events are copied into a file each, and they go.

A file is written as a whole, under a temporary name, and durable before its segment is removed. It
has the place of its segment in the chain: where that began, and where the next one goes on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.disk import Disk, Piece, read_file, write_file
from server.journal.errors import Damaged, OtherFormat
from server.journal.format import (
    BATCH,
    FORMAT_VERSION,
    READ_FORMATS,
    SPILL,
    BatchHead,
    BatchKind,
    SegmentHead,
    batch_head,
    crc64,
    number_in,
    numbered,
    sha256,
)
from server.journal.reader import Position, Reader, number_of, segments, start_of
from server.region.layout import WORD

SUFFIX: Final = "events"


class SpillHead(NamedTuple):
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
    length: int
    crc: int

    @property
    def start(self) -> Position:
        """Where its segment began, before that one's header."""
        return Position(self.number, 0, self.first_txn - 1, self.first_event - 1, self.previous)

    @property
    def end(self) -> Position:
        """Where the next segment begins, before its header."""
        return Position(
            self.number + 1, 0, self.next_txn - 1, self.next_event - 1, self.next_previous
        )


assert tuple(f.name for f in SPILL.fields) == SpillHead._fields


class Spilled(NamedTuple):
    """A batch of which the events were copied."""

    offset: int  # where it stood in its segment, bytes
    head: BatchHead
    events: bytes
    end: Position


class Spill(NamedTuple):
    """A file of them."""

    path: Path
    head: SpillHead
    body: memoryview

    def batches(self) -> Iterator[Spilled]:
        """In order: those with events, and the starts of servers."""
        at, body = 0, self.body
        while at < len(body):
            offset = int.from_bytes(body[at : at + WORD], "little")
            head = batch_head(body, at + WORD)
            assert head is not None, "its CRC tells that it is as it was written"
            begin = at + WORD + BATCH.size
            end = Position(
                self.head.number,
                offset + head.size,
                head.first_txn + head.txns - 1,
                head.next_event - 1,
                sha256(body[at + WORD : begin]),
            )
            at = begin + head.events_size
            yield Spilled(offset, head, bytes(body[begin:at]), end)


def path_of(directory: Path, number: int) -> Path:
    """The file of a segment."""
    return numbered(directory, number, SUFFIX)


def numbers(disk: Disk, directory: Path) -> list[int]:
    """The segments that there are files of, ascending. OSError."""
    found = [number_in(name, SUFFIX) for name in disk.names_if_there(directory)]
    return [number for number in found if number is not None]


def write(disk: Disk, directory: Path, head: SegmentHead, following: SegmentHead) -> None:
    """Copy the events of a segment, durably; the one that follows it is there. Damaged, OSError."""
    start = start_of(head)
    pieces = list[Piece]()
    for batch in Reader(disk, directory, following.log_id).batches(start):
        if batch.end.segment != head.number:
            break
        if batch.lost:
            raise Damaged(batch.path, batch.offset, "the events of the batch are damaged")
        if batch.head.events_size or batch.head.kind == BatchKind.BEGIN:
            header = BATCH.pack(*batch.head[1:-1])
            assert sha256(header) == batch.end.chain, "it is the same"
            pieces += [batch.offset.to_bytes(WORD, "little"), header, batch.events]
        if batch.end.chain == following.previous:
            break
    body = b"".join(pieces)
    header = SPILL.pack(
        FORMAT_VERSION, following.log_id, head.number, head.first_txn, head.first_event,
        head.previous, following.first_txn, following.first_event, following.previous, len(body),
        rest=(body,),
    )  # fmt: skip
    write_file(disk, path_of(directory, head.number), [header, body])


def head_of(disk: Disk, path: Path) -> SpillHead | None:
    """The header of a file, unchecked; None: it has none. OSError."""
    data = read_file(disk, path, SPILL.size)
    if len(data) < SPILL.size:
        return None
    head = SpillHead._make(SPILL.words.unpack(data))
    return head if head.magic == SPILL.magic else None


def read(disk: Disk, path: Path) -> Spill:
    """A file, checked as a whole. Damaged, OtherFormat, OSError."""
    data = memoryview(read_file(disk, path))
    head, body = head_of(disk, path), data[SPILL.size :]
    if head is None or crc64(body, crc64(data[: SPILL.size - WORD])) != head.crc:
        raise _damaged(path)
    if head.format not in READ_FORMATS:
        raise OtherFormat(
            f"{path} has format {head.format}, and this program reads {FORMAT_VERSION}"
        )
    if head.length != len(body) or path.name != path_of(path.parent, head.number).name:
        raise Damaged(path, 0, "it is of another segment, or not whole")
    return Spill(path, head, body)


def _damaged(path: Path) -> Damaged:
    return Damaged(path, 0, "the copied events are damaged")


def read_all(disk: Disk, directory: Path) -> Iterator[Spill | Damaged]:
    """All files whose segment is not there any more, oldest first. OtherFormat, OSError."""
    for number in sorted(
        set(numbers(disk, directory)) - set(map(number_of, segments(disk, directory)))
    ):
        try:
            yield read(disk, path_of(directory, number))
        except Damaged as error:
            yield error


def starts(disk: Disk, directory: Path, oldest: int) -> list[Position]:
    """Where the files begin that lead up to segment `oldest` without a gap, in order. Damaged,
    OSError."""
    found = list[Position]()
    there = set(numbers(disk, directory))
    while (oldest := oldest - 1) in there:
        head = head_of(disk, path_of(directory, oldest))
        if head is None:
            raise _damaged(path_of(directory, oldest))
        found.append(head.start)
    return found[::-1]


def remove_taken(disk: Disk, directory: Path, event: int) -> None:
    """Remove those that have nothing above an event. OSError."""
    for number in numbers(disk, directory):
        head = head_of(disk, path := path_of(directory, number))
        if head is None or head.next_event > event + 1:
            break
        disk.remove(path)
        disk.sync_directory(directory)

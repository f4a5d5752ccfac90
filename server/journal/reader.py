"""Reading the journal: its segments in order, batch after batch, each checked before it is given.

What a crash can leave is at the very end, and is no damage: a batch that was not written wholly,
or a segment whose header was not. It is told in `End`, and the writer cuts it off. Anything else
that is not as it was written is `Damaged`: nothing is guessed, and nothing after it is used.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, OtherFormat
from server.journal.format import (
    BATCH,
    FORMAT_VERSION,
    SEGMENT,
    BatchHead,
    SegmentHead,
    batch_head,
    batch_records,
    number_in,
    numbered,
    segment_head,
)
from server.region.layout import WORD
from server.region.records import RECORD_SIZE, RECORD_WORDS

SUFFIX: Final = "journal"
CHUNK: Final = 1 << 20
"""Bytes of a piece, where a file is looked at from its end."""
_BATCH_MAGIC: Final = BATCH.magic.to_bytes(WORD, "little")


@dataclass(slots=True)  # not frozen: that makes it three times as slow to make
class Batch:
    """One group commit."""

    path: Path
    offset: int  # bytes, of its header
    first: int  # txn_id
    count: int
    time: int  # when it was written, microseconds since the Unix epoch
    records: memoryview  # bytes

    @property
    def last(self) -> int:
        """txn_id of its last record."""
        return self.first + self.count - 1

    def words(self) -> list[int]:
        """The records, RECORD_WORDS words each."""
        return self.records.cast("Q").tolist()


class End(NamedTuple):
    """Where the journal ends, and what a crash left there."""

    last: int  # the newest txn_id; 0: none
    path: Path | None = None  # the segment to go on with; None: there is none
    head: SegmentHead | None = None  # of that segment
    offset: int = 0  # where the next batch goes
    batch: int = 0  # offset of the last batch; 0: the segment has none
    torn: int = 0  # bytes from `offset` on that are the remains of a batch
    unborn: Path | None = None  # a segment that was being made


def segments(disk: Disk, directory: Path) -> list[Path]:
    """The segments, oldest first."""
    numbers = [number_in(name, SUFFIX) for name in disk.names(directory)]
    return [numbered(directory, number, SUFFIX) for number in numbers if number is not None]


def first_txn(path: Path) -> int:
    """The txn_id that a segment's name says it begins with."""
    number = number_in(path.name, SUFFIX)
    assert number is not None, path
    return number


class Reader:
    """One pass through the journal. After `batches` has come to its end, `end` tells where."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self.paths: Final = segments(disk, directory)
        self.end = End(0)

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """Every batch that has a transaction above `after`, in order. Damaged, OtherFormat.

        Segments wholly at or below `after` are not read, unless it is the last of all.
        """
        paths = self.paths
        start = 0
        while start + 1 < len(paths) and first_txn(paths[start + 1]) <= after + 1:
            start += 1
        if not paths:
            return
        expected = first_txn(paths[start])
        if expected > after + 1:
            raise Damaged(
                paths[start], 0, f"transactions {after + 1} to {expected - 1} are missing"
            )
        for place in range(start, len(paths)):
            path, is_last = paths[place], place + 1 == len(paths)
            data = read_file(self._disk, path)
            head = self._head(path, data, expected, is_last=is_last)
            if head is None:
                self.end = self.end._replace(last=expected - 1, unborn=path)
                return
            offset, last, view = SEGMENT.size, 0, memoryview(data)
            while (batch := self._batch(path, view, offset, head, expected)) is not None:
                expected, last = expected + batch.count, offset
                offset += BATCH.size + batch.count * RECORD_SIZE
                if expected > after + 1:
                    yield batch
            following = expected if is_last else first_txn(paths[place + 1])
            self._check_rest(path, data, offset, expected, following)
            torn = len(data[offset:].rstrip(b"\0")) if is_last else 0
            self.end = End(expected - 1, path, head, offset, last, torn)

    def _head(self, path: Path, data: bytes, expected: int, *, is_last: bool) -> SegmentHead | None:
        """None: the segment was being made when the server ended."""
        head = segment_head(data)
        if head is None and is_last and _find_batch(data, 0, None) is None:
            return None
        return check_head(path, head, expected)

    @staticmethod
    def _batch(
        path: Path, view: memoryview, offset: int, head: SegmentHead, expected: int
    ) -> Batch | None:
        found = batch_head(view, offset)
        if found is None or found.salt != head.salt or found.first_txn != expected:
            return None
        at = offset + BATCH.size
        records = view[at : at + found.records * RECORD_SIZE]
        ids = records.cast("Q")[::RECORD_WORDS].tolist()
        if ids != list(range(expected, expected + found.records)):
            raise Damaged(
                path, at, f"the records are {ids[0]} to {ids[-1]}, the header says others"
            )
        return Batch(path, offset, expected, found.records, found.time, records)

    @staticmethod
    def _check_rest(path: Path, data: bytes, offset: int, expected: int, following: int) -> None:
        """What stands behind the last good batch: nothing that was ever durable."""
        later = _find_batch(data, offset, segment_head(data))
        if later is not None:
            at, txn = later
            raise Damaged(
                path,
                offset,
                f"transaction {expected} is damaged, and followed by {txn} at offset {at}",
            )
        if following != expected:
            raise _followed(path, offset, expected, following - 1)


def _find_batch(data: bytes, offset: int, head: SegmentHead | None) -> tuple[int, int] | None:
    """Offset and first txn_id of a whole batch at or behind an offset; of this segment, or of any
    where the header is not known."""
    at = data.find(_BATCH_MAGIC, offset)
    while at >= 0:
        found = batch_head(data, at)
        if found is not None and (head is None or found.salt == head.salt):
            return at, found.first_txn
        at = data.find(_BATCH_MAGIC, at + 1)
    return None


def find_end(disk: Disk, directory: Path, beat: Callable[[], None] = lambda: None) -> End:
    """Where a journal ends that was read as a whole before, by what stands last in it: however many
    batches there are. beat: called for every CHUNK that was read. Damaged, OtherFormat.

    A last batch that was durable and is damaged looks torn: who knows what was durable compares.
    """
    paths, unborn = segments(disk, directory), None
    while paths:
        path = paths.pop()
        fd = disk.open(path)
        try:
            head = segment_head(disk.read(fd, SEGMENT.size, 0))
            is_last = unborn is None
            if head is None and is_last and _find_batch(read_file(disk, path), 0, None) is None:
                unborn = path
                continue
            end = _Tail(disk, fd, path, check_head(path, head, first_txn(path)), beat).end()
        finally:
            disk.close(fd)
        if unborn is not None and end.last + 1 != first_txn(unborn):
            raise _followed(path, end.offset, end.last + 1, first_txn(unborn) - 1)
        return end._replace(unborn=unborn)
    return End(first_txn(unborn) - 1 if unborn else 0, unborn=unborn)


class _Tail:
    """A segment, looked at from its end."""

    def __init__(
        self, disk: Disk, fd: int, path: Path, head: SegmentHead, beat: Callable[[], None]
    ) -> None:
        self._disk, self._fd, self._path, self._head = disk, fd, path, head
        self._beat = beat
        self._size = disk.size(fd)
        # Of this segment and no other: nobody outside knows its salt.
        self._mark = _BATCH_MAGIC + head.salt.to_bytes(WORD, "little")

    def end(self) -> End:
        """Behind the last valid batch."""
        head, path = self._head, self._path
        first, offset, last = head.first_txn, SEGMENT.size, 0
        at = self._mark_below(self._size)
        while (batch := self._batch(at)) is None and at >= 0:  # one that was being written
            at = self._mark_below(at)
        if batch is not None:
            first, last = batch.first_txn + batch.records, at
            offset = at + BATCH.size + batch.records * RECORD_SIZE
        torn = max(0, self._written() - offset)
        return End(first - 1, path, head, offset, last, torn)

    def _pieces(self, upto: int) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes of what stands below an offset, the last piece first. Each goes so far
        into the next one that a mark is whole in that which it begins in."""
        while upto > 0:
            at = max(0, upto - CHUNK)
            yield at, self._disk.read(self._fd, upto - at + len(self._mark) - 1, at)
            self._beat()
            upto = at

    def _mark_below(self, upto: int) -> int:
        """Where the last batch begins that begins below an offset; -1: none does."""
        for at, data in self._pieces(upto):
            if (found := data.rfind(self._mark)) >= 0:
                return at + found
        return -1

    def _written(self) -> int:
        """Where the zeros begin that the file ends with."""
        for at, data in self._pieces(self._size):
            if rest := data.rstrip(b"\0"):
                return at + len(rest)
        return 0

    def _batch(self, at: int) -> BatchHead | None:
        """The batch that begins there, if it is valid."""
        if at < 0:
            return None
        opening = self._disk.read(self._fd, BATCH.size, at)
        size = BATCH.size + batch_records(opening) * RECORD_SIZE
        if len(opening) < BATCH.size or at + size > self._size:
            return None
        return batch_head(self._disk.read(self._fd, size, at), 0)


def check_head(path: Path, head: SegmentHead | None, expected: int) -> SegmentHead:
    """The header of a segment that begins with transaction `expected`. Damaged, OtherFormat."""
    if head is None:
        raise Damaged(path, 0, "the segment's header is damaged")
    if head.format != FORMAT_VERSION:
        raise OtherFormat(
            f"{path} has format {head.format}, and this program reads {FORMAT_VERSION}"
        )
    if head.first_txn != expected:  # which is the number in its name
        raise Damaged(
            path, 0, f"it begins with transaction {head.first_txn} in the place of {expected}"
        )
    return head


def _followed(path: Path, offset: int, first: int, last: int) -> Damaged:
    return Damaged(
        path,
        offset,
        f"transactions {first} to {last} are damaged or missing, and followed by another segment",
    )

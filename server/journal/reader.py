"""Reading the journal: its segments in order, batch after batch, each checked before it is given.

What a crash can leave is at the very end, and is no damage: a batch that was not written wholly,
or a segment whose header was not. It is told in `End`, and the writer cuts it off. A file that was
allocated is zeros, and a sector of it is written wholly or not at all: so a batch is **torn** where
a sector of it is still zeros. Anything else that is not as it was written is `Damaged`: nothing is
guessed, and nothing after it is used. But where in a batch that is not torn the events alone are
damaged, the transactions are given without them (`lost`): the chain goes over the headers, so that
what follows is known to follow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, OtherFormat
from server.journal.format import (
    BATCH,
    BATCH_END,
    FORMAT_VERSION,
    READ_FORMATS,
    SEGMENT,
    BatchHead,
    BatchKind,
    SegmentHead,
    batch_head,
    genesis,
    number_in,
    numbered,
    segment_head,
    sha256,
)
from server.journal.money import are_numbered
from server.region.layout import WORD
from server.region.records import RECORD_SIZE, RECORD_WORDS

SUFFIX: Final = "journal"
SECTOR: Final = 512
"""Bytes that a disk writes wholly or not at all."""
_KINDS: Final = frozenset(BatchKind)
_ZEROS: Final = bytes(1 << 16)
_BATCH_MAGIC: Final = BATCH.magic.to_bytes(WORD, "little")


class Position(NamedTuple):
    """The end of a batch: a place between two batches, and what stands before it."""

    segment: int  # number
    offset: int  # bytes
    txn: int  # the newest txn_id before it
    event: int  # number of the newest event before it
    chain: bytes  # SHA-256 of the header before it


def start_of(head: SegmentHead) -> Position:
    """The beginning of a segment, before its header."""
    return Position(head.number, 0, head.first_txn - 1, head.first_event - 1, head.previous)


@dataclass(slots=True)  # not frozen: that makes it three times as slow to make
class Batch:
    """One group commit."""

    path: Path
    offset: int  # bytes, of its header
    head: BatchHead
    records: memoryview  # bytes, of the transactions
    events: memoryview  # bytes
    end: Position
    lost: bool = False  # its events are damaged, and left out

    @property
    def first(self) -> int:
        """txn_id of its first transaction, or of the next one where it has none."""
        return self.head.first_txn

    @property
    def count(self) -> int:
        """How many transactions it has."""
        return self.head.txns

    @property
    def last(self) -> int:
        """txn_id of its last transaction, or of the one before it where it has none."""
        return self.end.txn

    def words(self) -> list[int]:
        """The transactions, RECORD_WORDS words each."""
        return self.records.cast("Q").tolist()


class End(NamedTuple):
    """Where the journal ends, and what a crash left there."""

    position: Position
    path: Path | None = None  # the segment to go on with; None: there is none
    head: SegmentHead | None = None  # of that segment
    batch: int = 0  # offset of the last batch; 0: the segment has none
    clean: bool = False  # the last batch is an END
    torn: int = 0  # bytes from the position on that are the remains of a batch
    unborn: Path | None = None  # a segment that was being made

    @property
    def last(self) -> int:
        """The newest txn_id; 0: none."""
        return self.position.txn

    @property
    def offset(self) -> int:
        """Where the next batch goes."""
        return self.position.offset


def segments(disk: Disk, directory: Path) -> list[Path]:
    """The segments, oldest first."""
    numbers = [number_in(name, SUFFIX) for name in disk.names_if_there(directory)]
    return [numbered(directory, number, SUFFIX) for number in numbers if number is not None]


def number_of(path: Path) -> int:
    """The number in a segment's name."""
    number = number_in(path.name, SUFFIX)
    assert number is not None, path
    return number


def heads(disk: Disk, directory: Path) -> list[tuple[Path, SegmentHead]]:
    """The segments with their headers, oldest first; without one that was not begun, and without
    those whose header is damaged: whoever needs what is in them finds that out. OSError."""
    found = ((path, _read_head(disk, path)) for path in segments(disk, directory))
    return [(path, head) for path, head in found if head is not None]


def _read_head(disk: Disk, path: Path) -> SegmentHead | None:
    return segment_head(read_file(disk, path, SEGMENT.size))


class Reader:
    """One pass through the journal. After `batches` has come to its end, `end` tells where."""

    def __init__(self, disk: Disk, directory: Path, log_id: int) -> None:
        self._disk, self._log_id = disk, log_id
        self.paths: Final = segments(disk, directory)
        self.end = End(Position(0, 0, 0, 0, genesis(log_id)))
        if self.paths and _is_unborn(disk, self.paths[-1]):
            # Nothing is written into a segment before its header is durable.
            self.end = self.end._replace(unborn=self.paths.pop())

    def start(self, txn: int) -> Position | None:
        """Where the segment begins that has the transaction after `txn`, by the headers; None: the
        journal begins after that. What is before it is not checked. Damaged."""
        for path in reversed(self.paths):
            head = self._head(path)
            if head.first_txn <= txn + 1:
                return start_of(head)
        return None

    def oldest_head(self) -> SegmentHead:
        """The header of the oldest segment. Damaged, OtherFormat."""
        return self._head(self.paths[0])

    def newest_head(self) -> SegmentHead:
        """The header of the newest segment. Damaged, OtherFormat."""
        return self._head(self.paths[-1])

    def batches(self, start: Position | None = None) -> Iterator[Batch]:
        """Every batch after a position, in order; None: from the oldest segment on. Damaged: also
        where that position is in no segment, or behind the end. OtherFormat."""
        paths = self.paths
        if start is None:
            if not paths:
                if self.end.unborn is not None and number_of(self.end.unborn) != 1:
                    raise Damaged(self.end.unborn, 0, "all segments before it are missing")
                self._check_unborn()
                return
            head = self._head(paths[0])
            if head.number == 1 and head.previous != genesis(head.log_id):
                raise Damaged(paths[0], 0, "it does not begin this log")
            start = start_of(head)
        at = next((i for i, path in enumerate(paths) if number_of(path) >= start.segment), None)
        if at is None or number_of(paths[at]) != start.segment:
            there = paths[at] if at is not None else (paths[-1] if paths else self.end.unborn)
            where = there or numbered(Path(), start.segment, SUFFIX)
            raise Damaged(where, 0, f"segment {start.segment} is missing")
        position, remains = start, False
        for place in range(at, len(paths)):
            path, is_last = paths[place], place + 1 == len(paths)
            data = read_file(self._disk, path)
            is_start = position.offset and place == at
            if not is_start:
                self._check_order(path, position)
                head = self._check_head(path, segment_head(data))
                _check_follows(path, head, position, paths[place - 1] if place > at else path)
                if head.previous != position.chain:
                    raise _other(paths[place - 1], path, position, remains=remains)
                chain = sha256(data[: SEGMENT.size])
                position = position._replace(segment=head.number, offset=SEGMENT.size, chain=chain)
            else:
                head = self._check_head(path, segment_head(data))
                if position.offset > len(data):
                    raise Damaged(path, len(data), "the file is too short: its end is missing")
            last, clean, view = 0, False, memoryview(data)
            while (batch := _batch(path, view, head, position, is_last=is_last)) is not None:
                position, last = batch.end, batch.offset
                clean = batch.head.kind == BatchKind.END
                yield batch
            torn = _rest(path, data, head, position, is_last=is_last)
            remains = torn > 0
            if is_last and head.log_id != self._log_id:
                raise Damaged(path, 0, "the journal ends in a segment of another log")
            if is_last and is_start and position == start:
                _check_end(path, data, head, start)  # nothing that follows has told
            self.end = End(position, path, head, last, clean, torn, self.end.unborn)
        unborn = self.end.unborn
        if unborn is not None and number_of(unborn) != position.segment + 1:
            raise Damaged(unborn, 0, f"segment {position.segment + 1} is missing before it")
        self._check_unborn()

    def _check_unborn(self) -> None:
        """What looked like a segment that was being made is one: nothing was written into it."""
        unborn = self.end.unborn
        if unborn is not None and written_size(read_file(self._disk, unborn)):
            raise Damaged(unborn, 0, _BAD_HEADER)

    def _head(self, path: Path) -> SegmentHead:
        return self._check_head(path, _read_head(self._disk, path))

    def _check_order(self, path: Path, position: Position) -> None:
        """The segments follow each other."""
        number = number_of(path)
        if position.offset and number != position.segment + 1:
            missing = f"segments {position.segment + 1} to {number - 1} are missing before it"
            raise Damaged(path, 0, missing)

    def _check_head(self, path: Path, head: SegmentHead | None) -> SegmentHead:
        """The header of a segment. Damaged, OtherFormat."""
        if head is None:
            raise Damaged(path, 0, _BAD_HEADER)
        if head.format not in READ_FORMATS:
            raise OtherFormat(
                f"{path} has format {head.format}, and this program reads {FORMAT_VERSION}"
            )
        if head.number != number_of(path):
            raise Damaged(path, 0, f"it is segment {head.number} under another's name")
        return head


def batches_of(path: Path, data: bytes) -> Iterator[Batch]:
    """Every batch of a segment that another follows, by itself, from all its bytes. Damaged."""
    head = segment_head(data)
    if head is None:
        raise Damaged(path, 0, _BAD_HEADER)
    chain, view = sha256(data[: SEGMENT.size]), memoryview(data)
    at = Position(head.number, SEGMENT.size, head.first_txn - 1, head.first_event - 1, chain)
    while (batch := _batch(path, view, head, at, is_last=False)) is not None:
        at = batch.end
        yield batch
    if written_size(data) > at.offset:
        raise Damaged(path, at.offset, f"the batch of transaction {at.txn + 1} is damaged")


def _check_follows(path: Path, head: SegmentHead, position: Position, before: Path) -> None:
    """A segment goes on where the one before it ends."""
    if (head.first_txn, head.first_event) != (position.txn + 1, position.event + 1):
        raise Damaged(
            before,
            position.offset,
            f"here it ends with transaction {position.txn} and event {position.event}, and "
            f"{path.name} begins with {head.first_txn} and {head.first_event}: what is between is "
            "damaged or missing",
        )


def _other(before: Path, path: Path, position: Position, *, remains: bool) -> Damaged:
    """A segment does not follow from the one before it. remains: something stands at its end."""
    if remains:
        return Damaged(before, position.offset, f"what stands before {path.name} is damaged")
    return Damaged(path, 0, "it is the continuation of another journal")


_BAD_HEADER: Final = "the segment's header is damaged"


def _is_unborn(disk: Disk, path: Path) -> bool:
    """Does it look like a segment that was being made? Where its header goes are zeros, since that
    is written into one sector."""
    return not read_file(disk, path, SEGMENT.size).strip(b"\0")


def _batch(
    path: Path, view: memoryview, head: SegmentHead, at: Position, *, is_last: bool
) -> Batch | None:
    """The batch at a position, if its place is there and it is whole, but perhaps for its events.
    is_last: no segment follows."""
    found = batch_head(view, at.offset)
    if found is None or not _belongs(found, head, at):
        return None
    txns = at.offset + BATCH.size
    events = txns + found.txns * RECORD_SIZE
    end = events + found.events_size
    if at.offset + found.size > len(view):
        return None
    records, its_events = view[txns:events], view[events:end]
    if sha256(records) != found.txns_hash:
        return None
    lost = sha256(its_events) != found.events_hash
    is_closed = bytes(view[end : end + WORD]) == BATCH_END
    if (lost or not is_closed) and is_last and _is_torn(view, head, at.offset, end + WORD):
        return None
    if found.kind not in _KINDS:
        raise Damaged(path, at.offset, f"there is no batch of kind {found.kind}")
    last = found.first_txn + found.txns - 1
    words = records.cast("Q")
    if not are_numbered(words, found.first_txn):
        ids = words[::RECORD_WORDS]
        raise Damaged(path, txns, f"the records are {ids[0]} to {ids[-1]}, the header says others")
    following = Position(
        head.number,
        at.offset + found.size,
        last,
        found.next_event - 1,
        sha256(view[at.offset : txns]),
    )
    return Batch(path, at.offset, found, records, view[:0] if lost else its_events, following, lost)


def _is_torn(view: memoryview, head: SegmentHead, start: int, end: int) -> bool:
    """Was a batch of the newest segment, from `start` to `end`, being written when all ended?"""
    data = view.obj
    assert isinstance(data, bytes)
    return find_batch(data, end, head.salt) is None and _has_hole(data, start, end)


def _belongs(found: BatchHead, head: SegmentHead, at: Position) -> bool:
    return (
        found.salt == head.salt
        and found.previous == at.chain
        and found.first_txn == at.txn + 1
        and found.first_event == at.event + 1
        and found.next_event > at.event
    )


def written_size(data: bytes) -> int:
    """Bytes up to the last that is not zero. A hundred times as fast as to look at each of them:
    the end of a segment is mostly zeros."""
    end = len(data)
    while end:
        start = max(0, end - len(_ZEROS))
        piece = data[start:end]
        if piece != _ZEROS[: end - start]:
            return start + len(piece.rstrip(b"\0"))
        end = start
    return 0


def _rest(path: Path, data: bytes, head: SegmentHead, at: Position, *, is_last: bool) -> int:
    """Bytes that stand behind the last good batch: in the last segment those of one that was being
    written when all ended. Damaged: something that was durable once, or that nobody wrote."""
    offset = at.offset
    later = find_batch(data, offset + 1, head.salt)
    if later is not None:
        raise Damaged(
            path,
            offset,
            f"the batch of transaction {at.txn + 1} is damaged, and followed by another at offset "
            f"{later}",
        )
    written = written_size(data)
    if not is_last or written <= offset:
        return max(0, written - offset)  # the next segment tells whether something is missing
    found = batch_head(data, offset)
    if found is not None and not _belongs(found, head, at):
        raise Damaged(path, offset, "a batch stands here that belongs to another place")
    end = offset + (BATCH.size if found is None else found.size)
    if end > len(data):  # it was allocated, durably, before anything was written into it
        raise Damaged(path, len(data), "the file is too short: its end is missing")
    if not _has_hole(data, offset, end):
        raise Damaged(path, offset, f"the batch of transaction {at.txn + 1} is damaged")
    if found is not None and written > end:
        raise Damaged(path, end, "something stands behind a batch that was not written wholly")
    return written - offset


def _check_end(path: Path, data: bytes, head: SegmentHead, at: Position) -> None:
    """The batch, or the segment's header, that a position is the end of stands before it."""
    begin, size = 0, SEGMENT.size
    if at.offset != size:
        mark = _BATCH_MAGIC + head.salt.to_bytes(WORD, "little")
        begin, size = data.rfind(mark, 0, at.offset), BATCH.size
        while begin >= 0:
            found = batch_head(data, begin)
            if found is not None and begin + found.size == at.offset:
                break
            begin = data.rfind(mark, 0, begin)
    if begin < 0 or sha256(data[begin : begin + size]) != at.chain:
        raise Damaged(path, at.offset, "it does not go on here with what is known to stand before")


def _has_hole(data: bytes, start: int, end: int) -> bool:
    """Is a sector still as it was allocated, of those that a batch from `start` to `end` is in?"""
    return any(
        not data[max(start, sector) : min(end, sector + SECTOR)].strip(b"\0")
        for sector in range(start - start % SECTOR, end, SECTOR)
    )


def find_batch(data: bytes, offset: int, salt: int) -> int | None:
    """Where a batch of this segment begins, at or behind an offset."""
    mark = _BATCH_MAGIC + salt.to_bytes(WORD, "little")
    at = data.find(mark, offset)
    while at >= 0:
        if batch_head(data, at) is not None:
            return at
        at = data.find(mark, at + 1)
    return None


def find_end(
    disk: Disk,
    directory: Path,
    log_id: int,
    durable: Position | None,
    beat: Callable[[], None] = lambda: None,
) -> End:
    """Where a journal ends that was read as a whole before. durable: the newest position that is
    known to be durable, from which on it is read; None: from the newest segment on. beat: called
    for every batch. Damaged, OtherFormat."""
    reader = Reader(disk, directory, log_id)
    if durable is None and reader.paths:
        head = reader.newest_head()
        durable = start_of(head)
    for _ in reader.batches(durable):
        beat()
    return reader.end

"""Following the journal while another process writes it, and removes what is old of it.

Where a segment has gone, its events may have been copied before (server/journal/spill.py).

Only what is durable is looked at. Of a batch the header and the events are read and checked, and
not its transactions, which are of no interest here: the header's chain tells that it is the one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from server.journal import spill
from server.journal.disk import Disk
from server.journal.errors import Damaged, JournalError
from server.journal.format import (
    BATCH,
    SEGMENT,
    BatchHead,
    SegmentHead,
    batch_head,
    genesis,
    numbered,
    segment_head,
    sha256,
)
from server.journal.reader import SUFFIX, Position, number_of, segments, start_of
from server.region.records import RECORD_SIZE

_CHUNK: Final = 1 << 16  # bytes that are read at a time, at least


class Parted(JournalError):
    """A position is not one of this journal, or the journal no longer has what follows it."""


class EventsDamaged(Damaged):
    """The events of a batch, and nothing else of it."""

    def __init__(self, path: Path, offset: int, next_event: int) -> None:
        super().__init__(path, offset, "the events of the batch are damaged")
        self.next_event = next_event  # number of the event after them


class Durable(NamedTuple):
    """What is durable of the journal."""

    txn: int  # txn_id of the newest transaction
    event: int  # number of the newest event; after the last in the journal there may be unwritten


class Followed(NamedTuple):
    """A batch."""

    head: BatchHead
    events: bytes  # b"" where they were not asked for
    end: Position


def segment_start(disk: Disk, path: Path) -> Position:
    """The beginning of a segment, before its header. Damaged, OSError."""
    fd = disk.open(path)
    try:
        head = segment_head(disk.read(fd, SEGMENT.size, 0))
    finally:
        disk.close(fd)
    if head is None:
        raise Damaged(path, 0, "the segment's header is damaged")
    return start_of(head)


def oldest_start(disk: Disk, directory: Path, log_id: int) -> Position:
    """Where the journal begins, or what was copied of it. log_id: of one without a segment.
    Damaged, OSError."""
    paths = segments(disk, directory)
    if not paths:
        return Position(1, 0, 0, 0, genesis(log_id))
    copied = spill.starts(disk, directory, number_of(paths[0]))
    return copied[0] if copied else segment_start(disk, paths[0])


def newest_start(disk: Disk, directory: Path) -> Position:
    """Where the newest segment of the journal begins, one that is only allocated left out. Damaged,
    OSError."""
    *before, last = segments(disk, directory)
    try:
        return segment_start(disk, last)
    except Damaged:
        if not before:
            raise
        return segment_start(disk, before[-1])


def resume(disk: Disk, directory: Path, position: Position) -> Position:
    """Where to go on from a position in the journal, however much was removed since. Parted: it no
    longer has all events that follow. Damaged, OSError."""
    paths = segments(disk, directory)
    if not paths or number_of(paths[0]) <= position.segment:
        return position
    for start in spill.starts(disk, directory, number_of(paths[0])):
        if start.segment == position.segment:
            return position
        if start.segment > position.segment:
            break
    else:
        start = segment_start(disk, paths[0])
    if start.event > position.event:
        raise Parted(
            f"the journal begins with event {start.event + 1}, and the histories end with "
            f"{position.event}"
        )
    return start


class Follower:
    """Batch after batch of a journal, from a position on."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        position: Position,
        durable: Callable[[], Durable],
    ) -> None:
        """durable: nothing after it is looked at; of one batch its event is published last, and so
        is to be read first."""
        self._disk, self._directory, self._durable = disk, directory, durable
        self.position = position
        """The end of the last batch that was given."""
        self.reached = position.event
        """No event up to this one is still to come."""
        self._fd = -1
        self._path = numbered(directory, position.segment, SUFFIX)
        self._head: SegmentHead | None = None
        self._chunk, self._chunk_at = memoryview(b""), 0
        self._limit = Durable(0, 0)  # what was durable when the chunk was read
        self._spill: spill.Spill | None = None  # that is read in the place of a segment
        self._spilled: Iterator[spill.Spilled] = iter(())  # what is left of it
        self._unclear: Durable | None = None  # what was when something unclear was seen first

    def next(self, *, with_events: bool = True) -> Followed | None:
        """The next batch; None: none is durable yet. EventsDamaged: without them it can be taken
        all the same; Damaged; Parted: this journal is not the one that the position is of. OSError.
        """
        while True:
            if self._spill is not None:
                copied = self._copied(self._spill)
                if copied is None:
                    continue
                return copied if with_events else copied._replace(events=b"")
            found = self._batch()
            if found is not None:
                return self._take(found, with_events=with_events)
            limit = self._durable()  # before the file: all up to it is in there
            if self.position.txn >= limit.txn and self.position.event >= limit.event:
                return None
            if self._head is None and not self._enter():
                self._nothing(limit)
                return None
            if self._head is None:
                continue  # it has gone, and its events were copied
            self._limit, self._chunk_at = limit, self.position.offset
            self._chunk = memoryview(self._disk.read(self._fd, _CHUNK, self._chunk_at))
            found = self._batch()
            if found is not None:
                return self._take(found, with_events=with_events)
            header = self._bytes(self.position.offset, BATCH.size)
            if bytes(header).strip(b"\0"):
                self._not_yet(header, limit)
                return None
            self._unclear = None
            if not self._is_followed():
                self._nothing(limit)
                return None
            at = self.position
            self._leave(at._replace(segment=at.segment + 1, offset=0))

    # ---- what there is instead of a batch

    def _nothing(self, limit: Durable) -> None:
        """Nothing has been written behind the position: events up to the limit are not."""
        if limit.txn > self.position.txn:
            raise Damaged(
                self._path,
                self.position.offset,
                f"transaction {limit.txn} is durable, and transaction {self.position.txn + 1} is "
                "not here",
            )
        self.reached = max(self.reached, limit.event)

    def _not_yet(self, header: memoryview, limit: Durable) -> None:
        """A batch that is just being written, or damage. What is written next is durable before
        anything else becomes so."""
        found = batch_head(header, 0)
        if found is not None and self._belongs(found):
            self._unclear = None
            self.reached = max(self.reached, limit.event)
        elif found is not None and found.previous != self.position.chain:
            raise Parted(
                f"{self._path}, offset {self.position.offset}: the batch does not follow the one "
                "that the histories end with"
            )
        elif self._unclear is None:
            self._unclear = limit
        elif limit != self._unclear:
            raise Damaged(self._path, self.position.offset, "the batch is damaged")

    # ---- segments

    def _is_followed(self) -> bool:
        """Has the next segment been begun? It may have gone since."""
        path = numbered(self._directory, self.position.segment + 1, SUFFIX)
        try:
            fd = self._disk.open(path)
        except FileNotFoundError:
            there = segments(self._disk, self._directory)
            return bool(there) and number_of(there[-1]) > self.position.segment
        try:
            return segment_head(self._disk.read(fd, SEGMENT.size, 0)) is not None
        finally:
            self._disk.close(fd)

    def _enter(self) -> bool:
        """Open the segment of the position; False: it is not there yet."""
        at = self.position
        self._path = numbered(self._directory, at.segment, SUFFIX)
        try:
            self._fd = self._disk.open(self._path)
        except FileNotFoundError:
            return self._go_round()
        data = self._disk.read(self._fd, SEGMENT.size, 0)
        head = segment_head(data)
        if head is None:
            self.close()
            raise Damaged(self._path, 0, "the segment's header is damaged")
        follows = (head.first_txn, head.first_event) == (at.txn + 1, at.event + 1)
        # Its log may have had another identity then: the chain goes on.
        if not at.offset and (head.previous != at.chain or not follows):
            self.close()
            raise Parted(f"{self._path} is not the continuation of what the histories are made of")
        if not at.offset:
            self.position = at._replace(offset=SEGMENT.size, chain=sha256(data))
        self._head = head
        self._chunk = memoryview(b"")
        return True

    def _go_round(self) -> bool:
        """The segment of the position is not there: go on with what was copied of it, or with the
        next one where it had no events that are wanted. False: it is not there yet."""
        at, directory = self.position, self._directory
        if at.segment in spill.numbers(self._disk, directory):
            copy = spill.read(self._disk, spill.path_of(directory, at.segment))
            if not at.offset and copy.head.start != at:
                raise Parted(
                    f"{copy.path} is not the continuation of what the histories are made of"
                )
            self._spill = copy
            self._spilled = (each for each in copy.batches() if each.offset >= at.offset)
            return True
        following = resume(self._disk, directory, at)
        if following.segment != at.segment:
            self.position = following
            return self._enter()
        if at.txn or at.event:
            raise Damaged(self._path, 0, "the segment is missing")
        return False

    def _copied(self, copy: spill.Spill) -> Followed | None:
        """The next batch of a copy; None at its end, where the next segment goes on."""
        batch = next(self._spilled, None)
        if batch is None:
            self._spill = None
        self.position = end = copy.head.end if batch is None else batch.end
        self.reached = max(self.reached, end.event)
        return None if batch is None else Followed(batch.head, batch.events, end)

    def _leave(self, position: Position) -> None:
        self.close()
        self.position = position

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            self._disk.close(self._fd)
        self._fd, self._head, self._spill = -1, None, None

    # ---- batches

    def _bytes(self, offset: int, size: int) -> memoryview:
        """From the chunk; fewer where it ends."""
        at = offset - self._chunk_at
        return self._chunk[at : at + size] if at >= 0 else memoryview(b"")

    def _batch(self) -> BatchHead | None:
        """The header of the next batch, if it is in the chunk and was durable then."""
        found = batch_head(self._bytes(self.position.offset, BATCH.size), 0)
        if found is None or not self._belongs(found):
            return None
        last = found.first_txn + found.txns - 1
        if last > self._limit.txn or found.next_event - 1 > self._limit.event:
            return None
        return found

    def _belongs(self, found: BatchHead) -> bool:
        at, head = self.position, self._head
        return (
            head is not None
            and found.salt == head.salt
            and found.previous == at.chain
            and (found.first_txn, found.first_event) == (at.txn + 1, at.event + 1)
            and found.next_event > at.event
        )

    def _take(self, head: BatchHead, *, with_events: bool) -> Followed:
        at, self._unclear = self.position, None
        chain = sha256(self._bytes(at.offset, BATCH.size))
        events = b""
        if with_events and head.events_size:
            offset, size = at.offset + BATCH.size + head.txns * RECORD_SIZE, head.events_size
            events = bytes(self._bytes(offset, size))
            if len(events) < size:
                events = self._disk.read(self._fd, size, offset)
            if sha256(events) != head.events_hash:
                self._chunk = memoryview(b"")  # to be read again
                raise EventsDamaged(self._path, at.offset, head.next_event)
        end = Position(
            at.segment,
            at.offset + head.size,
            head.first_txn + head.txns - 1,
            head.next_event - 1,
            chain,
        )
        self.position, self.reached = end, max(self.reached, end.event)
        return Followed(head, events, end)

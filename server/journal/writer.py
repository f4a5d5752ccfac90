"""Writing the journal: one batch, one sync; a new segment where the batch has no room.

An error is final. What a failed sync has kept nobody knows, and asking again would answer for
other pages: so after the first OSError a Writer does nothing any more. Only the allocation of the
next segment, which is made ahead, may fail and be tried again: nothing has been promised for it.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from server.journal.disk import Disk, Piece
from server.journal.errors import Damaged
from server.journal.format import (
    BATCH,
    BATCH_END,
    FORMAT_VERSION,
    SEGMENT,
    BatchKind,
    batch_head,
    numbered,
    sha256,
)
from server.journal.reader import SUFFIX, End, Position
from server.region.layout import WORD
from server.region.records import RECORD_SIZE

_SALT_SIZE: Final = WORD
OVERHEAD: Final = BATCH.size + WORD
"""Bytes of a batch beside its transactions and events."""


def _bytes_of(pieces: Sequence[Piece]) -> int:
    size = 0
    for piece in pieces:
        size += len(piece)
    return size


class Writer:
    """The one writer of a journal."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        log_id: int,
        end: End,
        segment_size: int,
        now: Callable[[], int],
        salt: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Go on at the end that a Reader has found: what a crash left there is cut off, and the
        last batch, or the segment that has none, is made sure of. segment_size: bytes that a new
        segment is allocated. now: microseconds since the Unix epoch. salt: random bytes. Damaged:
        the last batch is not what the Reader saw."""
        self._disk = disk
        self._directory = directory
        self._log_id = log_id
        self._segment_size = segment_size
        self._now = now
        self._salt_of = salt
        self.position: Position = end.position
        """The end of what is durable."""
        self.written = 0
        """Bytes that this one has written."""
        self.segment = end.path
        """The file that is written to; None before the first batch."""
        # The segment's, that of the one allocated ahead, and of the one before while it changes.
        self._fd = self._next = self._old = -1
        self._size = self._next_size = 0
        self._salt = 0
        self._failed = False
        if end.unborn is not None:
            self._adopt(end.unborn)
        if end.path is not None:
            self._go_on(end.path, end)

    def _adopt(self, path: Path) -> None:
        """A segment that was allocated ahead: its room may have been promised."""
        self._next = self._disk.open(path, writable=True)
        self._next_size = self._disk.size(self._next)

    def _go_on(self, path: Path, end: End) -> None:
        assert end.head is not None
        disk, head, offset = self._disk, end.head, end.offset
        self._salt = head.salt
        self._fd = disk.open(path, writable=True)
        self._size = max(disk.size(self._fd), offset)
        if end.torn:  # over what is allocated: that needs no space
            disk.write(self._fd, [bytes(end.torn)], offset)
        # What was not synced, or failed to be, the system shows all the same and may not have
        # kept: written once more, the syncs below speak for it.
        if end.batch:
            data = disk.read(self._fd, offset - end.batch, end.batch)
            found = batch_head(data, 0)
            if found is None or sha256(data[: BATCH.size]) != end.position.chain:
                raise Damaged(path, end.batch, "the last batch has changed since it was read")
            disk.write(self._fd, [data], end.batch)
        elif offset == SEGMENT.size:
            disk.write(self._fd, [SEGMENT.pack(*head[1:-1])], 0)
        disk.sync(self._fd)
        disk.sync_directory(self._directory)

    @property
    def last(self) -> int:
        """The newest txn_id that is durable."""
        return self.position.txn

    @property
    def room(self) -> int:
        """Bytes that are allocated for batches of records to come: so many can be written whatever
        the disk has left, and the END after them."""
        left = self._size - self.position.offset if self._fd >= 0 else 0
        return max(0, left, self._next_size - SEGMENT.size) - OVERHEAD

    def prepare(self, size: int = 0) -> bool:
        """Allocate the next segment, or more of it, if it has not `size` bytes yet, and as many as
        every segment: True if it was done now. OSError: it could not be, nothing that was promised
        is changed, and it may be tried again."""
        size = max(size, self._segment_size)
        if self._next_size >= size or self._failed:
            return False
        disk, path = self._disk, self._path(self.position.segment + 1)
        if self._next < 0:
            if path.name in disk.names(self._directory):  # it was not to be removed below
                disk.remove(path)
            self._next = disk.create(path)
        try:
            disk.allocate(self._next, size)
        except OSError:
            if not self._next_size:  # a full disk has better uses for what was allocated
                self._discard_next()
            raise
        self._next_size = size
        return True

    def _discard_next(self) -> None:
        fd, self._next, self._next_size = self._next, -1, 0
        self._disk.close(fd)
        self._disk.remove(self._path(self.position.segment + 1))

    def append(
        self,
        records: Sequence[Piece],
        count: int,
        events: Sequence[Piece] = (),
        next_event: int | None = None,
    ) -> None:
        """Write the next `count` transactions, which the pieces of `records` hold one after the
        other, and the events up to the one before `next_event` (None: no event), and sync.

        OSError: nothing of them may be taken for durable, and the Writer is of no use any more.
        """
        if next_event is None:
            next_event = self.position.event + 1
        assert count or next_event > self.position.event + 1, "it would say nothing"
        self._write(BatchKind.RECORDS, records, count, events, next_event)

    def begin(self, ring: int, skip: int, epoch: int, found: Sequence[Piece] = ()) -> None:
        """Note a start of the server, in a new segment: see the batch header's fields. found:
        transactions of what it has found. OSError: as for `append`."""
        size = _bytes_of(found)
        self._rotate_for(OVERHEAD + size)
        begin = ring, skip, epoch
        event = self.position.event + 1
        self._write(BatchKind.BEGIN, found, size // RECORD_SIZE, (), event, begin)

    def finish(self) -> None:
        """Note an orderly stop; what the segment has not used is given back. OSError: as for
        `append`."""
        self._write(BatchKind.END, (), 0, (), self.position.event + 1)
        self._size = self.position.offset
        self._disk.truncate(self._fd, self._size)

    def _write(
        self,
        kind: BatchKind,
        records: Sequence[Piece],
        count: int,
        events: Sequence[Piece],
        next_event: int,
        begin: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        events_size, position = _bytes_of(events), self.position
        size = OVERHEAD + count * RECORD_SIZE + events_size
        assert _bytes_of(records) == count * RECORD_SIZE, "whole records"
        if self._fd < 0 or position.offset + size > self._size:
            self._rotate_for(size)
            position = self.position
        self._fail()
        header = BATCH.pack(
            self._salt, kind, self._now(), position.txn + 1, count, position.event + 1, next_event,
            events_size, *begin, sha256(*records), sha256(*events), position.chain,
        )  # fmt: skip
        self._disk.write(self._fd, [header, *records, *events, BATCH_END], position.offset)
        self._disk.sync(self._fd)
        self._failed = False
        self.written += size
        self.position = Position(
            position.segment,
            position.offset + size,
            position.txn + count,
            next_event - 1,
            sha256(header),
        )

    def _fail(self) -> None:
        """Until what comes next has been done, it has failed."""
        if self._failed:
            raise OSError("the journal has failed before")
        self._failed = True

    def _rotate_for(self, size: int) -> None:
        """A new segment with room for a batch of `size` bytes, durable itself before anything is in
        it."""
        self._fail()
        disk, before = self._disk, self.position
        needed = SEGMENT.size + size
        if self._fd >= 0 and before.offset == SEGMENT.size:
            # Nothing is in it yet, as after a crash.
            if self._size < needed:
                self._size = max(self._segment_size, needed)
                disk.allocate(self._fd, self._size)
                disk.sync(self._fd)
            self._failed = False
            return
        number = before.segment + 1
        path = self._path(number)
        if self._next < 0:
            self._next = disk.create(path)
        if self._next_size < needed:
            self._next_size = max(self._segment_size, needed)
            disk.allocate(self._next, self._next_size)
        self._old, self._fd, self._next = self._fd, self._next, -1
        self._size, self._next_size = self._next_size, 0
        self.segment = path
        self._salt = int.from_bytes(self._salt_of(_SALT_SIZE), "little")
        header = SEGMENT.pack(
            FORMAT_VERSION, self._log_id, number, before.txn + 1, before.event + 1, self._salt,
            self._now(), before.chain,
        )  # fmt: skip
        disk.write(self._fd, [header], 0)
        disk.sync(self._fd)
        disk.sync_directory(self._directory)
        if self._old >= 0:
            disk.truncate(self._old, before.offset)  # what it has not used
            self._close_old()
        self.position = before._replace(segment=number, offset=SEGMENT.size, chain=sha256(header))
        self._failed = False

    def _close_old(self) -> None:
        if self._old >= 0:
            self._disk.close(self._old)
            self._old = -1

    def _path(self, number: int) -> Path:
        return numbered(self._directory, number, SUFFIX)

    def close(self) -> None:
        """Close the segment; everything appended is durable already. The one that was allocated
        ahead goes."""
        self._close_old()
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1
        if self._next >= 0:
            self._discard_next()

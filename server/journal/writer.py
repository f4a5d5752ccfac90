"""Writing the journal: one batch, one sync; a new segment where the batch has no room.

An error is final. What a failed sync has kept nobody knows, and asking again would answer for
other pages: so after the first OSError a Writer does nothing any more.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from server.journal.disk import Disk, Piece
from server.journal.errors import Damaged
from server.journal.format import BATCH, FORMAT_VERSION, SEGMENT, batch_head, numbered
from server.journal.reader import SUFFIX, End
from server.region.layout import WORD
from server.region.records import RECORD_SIZE

_SALT_SIZE: Final = WORD


class Writer:
    """The one writer of a journal."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
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
        self._segment_size = segment_size
        self._now = now
        self._salt_of = salt
        self.last = end.last
        """The newest txn_id that is durable."""
        self.segment = end.path if end.head is not None else None
        """The file that is written to; None before the first batch."""
        self._fd = -1
        self._failed = False
        if end.unborn is not None:
            disk.remove(end.unborn)
            disk.sync_directory(directory)
        if end.path is None or end.head is None:
            return
        self._salt = end.head.salt
        self._fd = disk.open(end.path, writable=True)
        self._offset = end.offset
        self._size = max(disk.size(self._fd), end.offset)
        if end.torn:
            disk.truncate(self._fd, end.offset)
            disk.allocate(self._fd, self._size)
        # What was not synced, or failed to be, the system shows all the same and may not have
        # kept: written once more, the syncs below speak for it.
        if end.batch:
            data = disk.read(self._fd, end.offset - end.batch, end.batch)
            if batch_head(data, 0) is None:
                raise Damaged(end.path, end.batch, "the last batch has changed since it was read")
            disk.write(self._fd, [data], end.batch)
        else:
            head = end.head
            header = SEGMENT.pack(head.format, head.first_txn, head.salt, head.created)
            disk.write(self._fd, [header], 0)
        disk.sync(self._fd)
        disk.sync_directory(directory)

    def append(self, pieces: Sequence[Piece], count: int) -> None:
        """Write the next `count` records, which the pieces hold one after the other, and sync.

        OSError: nothing of them may be taken for durable, and the Writer is of no use any more.
        """
        if self._failed:
            raise OSError("the journal has failed before")
        first, size = self.last + 1, BATCH.size + count * RECORD_SIZE
        assert count > 0, "an empty batch would be read as the end"
        assert sum(map(len, pieces)) == size - BATCH.size, "whole records"
        self._failed = True
        if self._fd < 0 or self._offset + size > self._size:
            if self._fd >= 0 and self._offset == SEGMENT.size:
                # Left by a crash, and too small: the next segment would have the same name.
                self._size = max(self._segment_size, self._offset + size)
                self._disk.allocate(self._fd, self._size)
            else:
                self._rotate(first, size)
        header = BATCH.pack(self._salt, first, count, self._now(), rest=tuple(pieces))
        self._disk.write(self._fd, [header, *pieces], self._offset)
        self._disk.sync(self._fd)
        self._failed = False
        self._offset += size
        self.last += count

    def _rotate(self, first: int, size: int) -> None:
        """A new segment with room for `size` bytes, durable itself before anything is in it."""
        disk, old = self._disk, self._fd
        path = numbered(self._directory, first, SUFFIX)
        self._fd, self.segment = disk.create(path), path
        if old >= 0:
            disk.close(old)
        self._size = max(self._segment_size, SEGMENT.size + size)
        disk.allocate(self._fd, self._size)
        self._salt = int.from_bytes(self._salt_of(_SALT_SIZE), "little")
        header = SEGMENT.pack(FORMAT_VERSION, first, self._salt, self._now())
        disk.write(self._fd, [header], 0)
        disk.sync(self._fd)
        disk.sync_directory(self._directory)
        self._offset = SEGMENT.size

    def close(self) -> None:
        """Close the segment; everything appended is durable already."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

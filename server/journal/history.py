"""Single records of the journal by txn_id, for histories that go back beyond the ring.

Where the batches of a segment begin is remembered; a record is read with its whole batch, whose
checksum is looked at each time. What is not durable yet is not looked at.
"""

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Final

from server.journal.disk import Disk
from server.journal.errors import Damaged
from server.journal.format import BATCH, SEGMENT, batch_head, segment_head
from server.journal.reader import first_txn, segments
from server.state.layout import WORD
from server.state.records import RECORD_SIZE, RECORD_WORDS

_CACHED: Final = 64  # batches


class _Segment:
    """Where the batches of one segment are, as far as it has been looked through."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd
        self.firsts: list[int] = []  # txn_id by batch
        self.offsets: list[int] = []  # bytes
        self.next = first_txn(path)  # the first txn_id not looked for yet
        self.end = SEGMENT.size


class History:
    """Records of a journal that another process writes, and removes the oldest segments of."""

    def __init__(self, disk: Disk, directory: Path, durable: Callable[[], int]) -> None:
        """durable: the newest txn_id that may be read."""
        self._disk, self._directory, self._durable = disk, directory, durable
        self._segments: dict[Path, _Segment] = {}
        self._paths: list[Path] = []
        self._firsts: list[int] = []
        self._batches: dict[tuple[Path, int], bytes] = {}

    def read(self, txn: int) -> tuple[int, ...] | None:
        """The words of a record; None where the journal no longer has it, or not yet. Damaged,
        OSError."""
        if not 0 < txn <= self._durable():
            return None
        segment = self._segment_of(txn)
        if segment is None:
            return None
        self._look_through(segment, txn)
        at = bisect_right(segment.firsts, txn) - 1
        if at < 0 or txn >= segment.next:
            return None
        batch = self._batch(segment, at)
        start = BATCH.size + (txn - segment.firsts[at]) * RECORD_SIZE
        words = memoryview(batch)[start : start + RECORD_WORDS * WORD].cast("Q").tolist()
        return tuple(words)

    def _segment_of(self, txn: int) -> _Segment | None:
        at = bisect_right(self._firsts, txn) - 1
        newest = self._segments.get(self._paths[at]) if at + 1 == len(self._firsts) > 0 else None
        known = 0 <= at < len(self._firsts) - 1 or (newest is not None and txn < newest.next)
        if not known:  # there may be newer segments by now
            self._paths = segments(self._disk, self._directory)
            self._firsts = [first_txn(path) for path in self._paths]
            for gone in self._segments.keys() - set(self._paths):
                self._disk.close(self._segments.pop(gone).fd)
            at = bisect_right(self._firsts, txn) - 1
            if at < 0:
                return None
        path = self._paths[at]
        if path not in self._segments:
            try:
                fd = self._disk.open(path)
            except FileNotFoundError:  # it has just been removed
                return None
            self._segments[path] = _Segment(path, fd)
        return self._segments[path]

    def _look_through(self, segment: _Segment, txn: int) -> None:
        """Find the batches up to the one that has a record, from header to header."""
        read, fd = self._disk.read, segment.fd
        if not segment.firsts and segment_head(read(fd, SEGMENT.size, 0)) is None:
            raise Damaged(segment.path, 0, "the segment's header is damaged")
        while segment.next <= txn:
            head = read(fd, BATCH.size, segment.end)
            count = int.from_bytes(head[3 * WORD : 4 * WORD], "little")
            first = int.from_bytes(head[2 * WORD : 3 * WORD], "little")
            if len(head) < BATCH.size or first != segment.next or not count:
                raise Damaged(segment.path, segment.end, f"no batch of transaction {segment.next}")
            segment.firsts.append(first)
            segment.offsets.append(segment.end)
            segment.next += count
            segment.end += BATCH.size + count * RECORD_SIZE

    def _batch(self, segment: _Segment, at: int) -> bytes:
        """A whole batch, checked."""
        key = segment.path, at
        found = self._batches.get(key)
        if found is None:
            offset = segment.offsets[at]
            following = segment.offsets[at + 1] if at + 1 < len(segment.offsets) else segment.end
            found = self._disk.read(segment.fd, following - offset, offset)
            if batch_head(found, 0) is None:
                raise Damaged(segment.path, offset, "the batch is damaged")
            if len(self._batches) >= _CACHED:
                del self._batches[next(iter(self._batches))]
            self._batches[key] = found
        return found

    def close(self) -> None:
        for segment in self._segments.values():
            self._disk.close(segment.fd)
        self._segments.clear()

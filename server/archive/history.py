"""Single records of the journal by txn_id, for histories that go back beyond the ring: of its
segments, and of those that were packed.

Batches are looked for from header to header, and read in runs of some that follow each other. Where
a run begins is remembered, and the runs read last are; a batch's checksum is looked at before a
record of it is given. What is not durable yet is not looked at. Between the batches with
transactions stand some with events alone, which are passed over.

However large the journal is, and however far back it is asked for: no file stays open, and what is
remembered are runs of at most `CACHED` bytes together (or one), and where those of `MARKED`
segments begin.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Final

from server.archive.follower import Durable
from server.journal import packed
from server.journal.disk import Disk
from server.journal.errors import Damaged
from server.journal.format import (
    BATCH,
    SEGMENT,
    BatchHead,
    SegmentHead,
    batch_head,
    segment_head,
    sha256,
)
from server.journal.reader import segments
from server.region.layout import WORD
from server.region.records import RECORD_SIZE, RECORD_WORDS

CACHED: Final = 32 << 20  # bytes
MARKED: Final = 64
_RUN: Final = 1 << 16  # bytes in which the batches of a run begin


class _File:
    """A segment that is open, packed or not."""

    def __init__(self, disk: Disk, path: Path) -> None:
        """Damaged, OtherFormat, OSError."""
        self._disk, self._fd = disk, -1
        self._packed: packed.Packed | None = None
        if path.suffix == f".{packed.SUFFIX}":
            self._packed = packed.Packed(disk, path)
        else:
            self._fd = disk.open(path)

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes of the segment. Damaged, OSError."""
        if self._packed is not None:
            return self._packed.read(size, offset)
        return self._disk.read(self._fd, size, offset)

    def close(self) -> None:
        if self._packed is not None:
            self._packed.close()
        else:
            self._disk.close(self._fd)


class _Run:
    """Whole batches that follow each other in a segment."""

    __slots__ = ("checked", "data", "firsts", "next", "size", "starts")

    def __init__(self, head: bytes, first: int, durable: Durable) -> None:
        """head: the bytes that it opens with. first: its first txn_id. Only batches up to `durable`
        belong to it."""
        self.firsts, self.starts = array("Q"), array("Q")  # by batch: txn_id, offset in it
        self.next, self.size = first, 0  # the txn_id after its last, bytes
        self.data = b""
        self.checked: set[int] = set()  # batches
        while self.size + BATCH.size <= len(head):
            found = batch_head(head, self.size)
            if found is None or found.first_txn != self.next:
                return
            if not _is_durable(found, durable):
                return
            self.firsts.append(found.first_txn)
            self.starts.append(self.size)
            self.next += found.txns
            self.size += found.size


class _Segment:
    """Where the runs of one segment begin, as far as it has been looked through."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.firsts = array("Q", [first])  # txn_id by run, ascending
        self.offsets = array("Q", [SEGMENT.size])  # bytes
        self.next = self.firsts[0]  # the first txn_id that was not found yet


class History:
    """Records of a journal that another process writes, and removes the oldest segments of."""

    def __init__(self, disk: Disk, directory: Path, durable: Callable[[], Durable]) -> None:
        """durable: what may be read; of one batch its transactions are published first, and so are
        to be read first."""
        self._disk, self._directory, self._durable = disk, directory, durable
        self._paths: list[Path] = []
        self._firsts: list[int] = []
        self._packed: list[tuple[Path, int]] = []  # those packed, and their first txn_ids
        self._oldest: SegmentHead | None = None  # that they lead up to
        # Of both, what was used last stands last.
        self._segments: dict[Path, _Segment] = {}
        self._runs: dict[tuple[Path, int], _Run] = {}  # by segment and number of the run in it
        self._cached = 0  # bytes

    def read(self, txn: int) -> tuple[int, ...] | None:
        """The words of a record; None where the journal no longer has it, or not yet. Damaged,
        OSError."""
        durable = self._durable()
        if not 0 < txn <= durable.txn:
            return None
        found = self._found(txn, durable) or self._found(txn, durable)
        if found is None:
            return None
        segment, number, run = found
        at = bisect_right(run.firsts, txn) - 1
        start = run.starts[at]
        if at not in run.checked:
            if not _is_good(run.data, start):
                offset = segment.offsets[number] + start
                raise Damaged(segment.path, offset, "the batch is damaged")
            run.checked.add(at)
        start += BATCH.size + (txn - run.firsts[at]) * RECORD_SIZE
        words = memoryview(run.data)[start : start + RECORD_WORDS * WORD].cast("Q").tolist()
        return tuple(words)

    def _found(self, txn: int, durable: Durable) -> tuple[_Segment, int, _Run] | None:
        """Where a record is: segment, number of the run in it, and the run. None: nowhere, or its
        segment has just been removed or packed."""
        segment = self._segment_of(txn)
        if segment is None:
            return None
        try:
            return segment, *self._run_of(segment, txn, durable)
        except FileNotFoundError:
            self._look(anew=True)
            return None

    def _segment_of(self, txn: int) -> _Segment | None:
        at = bisect_right(self._firsts, txn) - 1
        newest = self._segments.get(self._paths[at]) if at + 1 == len(self._firsts) > 0 else None
        known = 0 <= at < len(self._firsts) - 1 or (newest is not None and txn < newest.next)
        if not known:  # there may be newer segments by now
            self._look()
            at = bisect_right(self._firsts, txn) - 1
            if at < 0:
                return None
        path = self._paths[at]
        segment = self._segments.pop(path, None) or _Segment(path, self._firsts[at])
        self._segments[path] = segment
        if len(self._segments) > MARKED:
            del self._segments[next(iter(self._segments))]
        return segment

    def _look(self, *, anew: bool = False) -> None:
        """Which segments there are. One whose header is damaged is left out: what is in it cannot
        be read, what is in the others can. anew: look for packed ones even if the oldest segment is
        the one that it was. Damaged: nobody knows where the journal begins."""
        self._paths, self._firsts = [], []
        oldest: SegmentHead | None = None
        for path in segments(self._disk, self._directory):
            try:
                fd = self._disk.open(path)
            except FileNotFoundError:  # it has just been removed
                continue
            try:
                head = segment_head(self._disk.read(fd, SEGMENT.size, 0))
                size = self._disk.size(fd)
            finally:
                self._disk.close(fd)
            if head is not None:
                oldest = oldest or head
                self._paths.append(path)
                self._firsts.append(head.first_txn)
            elif not self._paths and size:
                raise Damaged(path, 0, "the segment's header is damaged")
        if oldest is not None and (anew or oldest != self._oldest):
            # After the segments: one that has gone since they were looked at is there, packed.
            leading = packed.leading_to(self._disk, self._directory, oldest)
            self._packed = [(path, head.first_txn) for path, head in leading]
            self._oldest = oldest
        if oldest is not None:
            self._paths[:0] = [path for path, _ in self._packed]
            self._firsts[:0] = [first for _, first in self._packed]

    def _run_of(self, segment: _Segment, txn: int, durable: Durable) -> tuple[int, _Run]:
        """The run that has a record, and its number."""
        number = bisect_right(segment.firsts, txn) - 1
        key = segment.path, number
        run = self._runs.pop(key, None)
        if run is not None:
            self._cached -= run.size
        if run is None or txn >= run.next:  # more has been written behind it
            number, run = self._load(segment, number, txn, durable)
            key = segment.path, number
        self._runs[key] = run
        self._cached += run.size
        while self._cached > CACHED and len(self._runs) > 1:
            self._cached -= self._runs.pop(next(iter(self._runs))).size
        return number, run

    def _load(self, segment: _Segment, number: int, txn: int, durable: Durable) -> tuple[int, _Run]:
        """Look for a record from a run on, and read the run that has it."""
        file = _File(self._disk, segment.path)
        try:
            if not number and segment_head(file.read(SEGMENT.size, 0)) is None:
                raise Damaged(segment.path, 0, "the segment's header is damaged")
            while True:
                offset = segment.offsets[number]
                run = _Run(file.read(_RUN, offset), segment.firsts[number], durable)
                segment.next = max(segment.next, run.next)
                full = run.size > _RUN - BATCH.size
                if full and number + 1 == len(segment.firsts):
                    segment.firsts.append(run.next)
                    segment.offsets.append(offset + run.size)
                if txn < run.next:
                    run.data = file.read(run.size, offset)
                    return number, run
                if not full:
                    raise Damaged(
                        segment.path, offset + run.size, f"no batch of transaction {run.next}"
                    )
                number += 1
        finally:
            file.close()


def _is_durable(head: BatchHead, durable: Durable) -> bool:
    """One with transactions by them: its events may be published in this moment."""
    if head.txns:
        return head.first_txn + head.txns - 1 <= durable.txn
    return head.next_event - 1 <= durable.event


def _is_good(data: bytes, start: int) -> bool:
    """Are the transactions of the batch there what its header says?"""
    head = batch_head(data, start)
    if head is None:
        return False
    at = start + BATCH.size
    return sha256(memoryview(data)[at : at + head.txns * RECORD_SIZE]) == head.txns_hash

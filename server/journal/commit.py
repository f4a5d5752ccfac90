"""Group commit: from the txn ring into the journal, and what becomes of it in the region.

The bytes of the ring's slots are the bytes of the journal's records, so a batch is one or two
slices of the region, written and synced as they stand: no slot is given out again before it is
durable. Everything the journal publishes stands in a word of its own, written by it alone.
"""

import errno
from collections.abc import Callable, Sequence

from libnet.wakeup import Wakeup
from server.core.log import NO_JOURNAL
from server.journal.writer import Writer
from server.region.layout import WORD
from server.region.records import RECORD_SIZE
from server.region.region import Region


def give_up(region: Region, number: int) -> None:
    """Tell the workers that nothing becomes durable any more: no transaction gets a place, and no
    answer that waits leaves. number: the errno, for whoever looks."""
    region.log.limit = 0
    region.journal.failed = number


class Committer:
    """The ring's one reader that makes it durable."""

    def __init__(
        self,
        region: Region,
        writer: Writer,
        *,
        sync: bool,
        wakeups: Sequence[Wakeup],
        clock_us: Callable[[], int],
    ) -> None:
        """sync: answers wait until they are durable. wakeups: of the workers, by slot. clock_us: a
        monotonic clock, microseconds."""
        self._region, self._words, self._bytes = region, region.words, region.bytes
        self._writer = writer
        self._sync = sync
        self._clock_us = clock_us
        layout = region.layout
        log, journal, ring = layout["log"], layout["journal"], layout["txn_ring"]
        self._head = log.at(0, "head")
        self._durable, self._released = log.at(0, "durable"), log.at(0, "released")
        self._limit = log.at(0, "limit")
        self._counted = [journal.at(0, name) for name in ("batches", "records", "sync_us")]
        self._longest = journal.at(0, "sync_us_max")
        self._base, self._size, self._mask = ring.base * WORD, ring.records, ring.records - 1
        assert ring.stride * WORD == RECORD_SIZE, "a run of slots is a run of records"
        workers = layout["workers"]
        self._parked = [(workers.at(n, "parked"), wakeup) for n, wakeup in enumerate(wakeups)]

    def publish(self) -> None:
        """What the journal holds is durable: the answers that wait may go, its slots be reused."""
        words, durable = self._words, self._writer.last
        words[self._durable] = durable
        words[self._released] = durable if self._sync else NO_JOURNAL
        words[self._limit] = durable + self._size
        for at, wakeup in self._parked:
            if words[at]:
                wakeup.set()

    def behind(self) -> bool:
        """Is there anything to commit?"""
        return self._words[self._head] > self._writer.last

    def commit(self) -> int:
        """Make durable what is in the ring, as one batch; the number of its records.

        OSError: the journal has failed, and has been given up.
        """
        words, first = self._words, self._writer.last + 1
        count = words[self._head] - first + 1
        if count <= 0:
            return 0
        began = self._clock_us()
        try:
            self._writer.append(self._slots(first, count), count)
        except OSError as error:
            give_up(self._region, error.errno or errno.EIO)
            raise
        took = self._clock_us() - began
        self.publish()
        for at, amount in zip(self._counted, (1, count, took), strict=True):
            words[at] += amount
        words[self._longest] = max(words[self._longest], took)
        return count

    def _slots(self, first: int, count: int) -> list[memoryview]:
        """The slots of records, in order: one run, or two where the ring's end is between."""
        place = first & self._mask
        runs = [(place, min(count, self._size - place))]
        if runs[0][1] < count:
            runs.append((0, count - runs[0][1]))
        return [
            self._bytes[self._base + at * RECORD_SIZE : self._base + (at + many) * RECORD_SIZE]
            for at, many in runs
        ]

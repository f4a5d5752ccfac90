"""What this worker publishes of itself: its status in the region."""

import time
from pathlib import Path
from typing import Final

from server.region.counters import ROWS, index_of
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import Status, publish

_PAGE: Final = 4096  # bytes: of x86-64, where alone the server runs
_STATM: Final = Path("/proc/self/statm")


def own_memory() -> int:
    """Bytes that are resident for this process alone: neither of a file nor shared memory."""
    _, resident, shared, *_ = _STATM.read_bytes().split()
    return (int(resident) - int(shared)) * _PAGE


class Reporter:
    """The status of one worker. It is STARTING until `serves`."""

    def __init__(self, region: Region, slot: int) -> None:
        self._region, self._slot = region, slot
        self._connections: Final = region.layout["counters"].at(slot) + index_of("connections")
        served, first = region.layout["served"], slot * len(ROWS)
        self._counted = [served.at(first + row, "requests") for row in range(len(ROWS))]
        self._state = WorkerState.STARTING
        self._lag_s = 0.0  # the longest since the last update
        self._requests = self._count()
        self.update(0, 0)

    def _count(self) -> int:
        words = self._region.words
        return sum(words[at] for at in self._counted)

    def serves(self) -> None:
        """It accepts connections."""
        self._state = WorkerState.IDLE

    def drains(self) -> None:
        """It accepts nothing more, and ends when all is answered."""
        self._state = WorkerState.DRAINING

    def late(self, seconds: float) -> None:
        """A timer of the loop was so late."""
        self._lag_s = max(self._lag_s, seconds)

    def update(self, waiting: int, cursor: int) -> None:
        """Publish how it is now. waiting: frames that are not answered yet. cursor: the event that
        it has come to."""
        requests, state = self._count(), self._state
        if state is WorkerState.IDLE and (waiting or requests != self._requests):
            state = WorkerState.BUSY
        status = Status(
            updated=time.monotonic_ns() // 1000,
            state=state,
            connections=self._region.words[self._connections],
            waiting=waiting,
            memory=own_memory(),
            requests=requests,
            lag_us=int(self._lag_s * 1e6),
            cursor=cursor,
        )
        publish(self._region, self._slot, status)
        self._requests, self._lag_s = requests, 0.0

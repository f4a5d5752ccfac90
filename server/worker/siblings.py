"""The other workers, as one that accepts sees them: which of them is to serve a new connection.

The kernel spreads new connections evenly, and does not know of those that are there already: a
worker that has just been started has none. So a worker that accepts gives the connection to a
sibling which has clearly fewer than the average.

It goes by the table of statuses, which is up to a second old. Between two looks at it each worker
that has more than the average gives away its part of what a sibling lacks and no more, so that
several of them do not fill up the same one.
"""

import socket
import time
from collections.abc import Sequence
from typing import Final

from server import handover
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import UPDATE_S, read_all

MARGIN: Final = 4  # connections that it must lack, beside the part below
PART: Final = 0.1  # of the average
FRESH_S: Final = 3.0  # a status that is older is of a worker that hangs, or is starved

_TRUSTED: Final = (WorkerState.IDLE, WorkerState.BUSY)


class Siblings:
    """Those that this worker may give connections to."""

    def __init__(self, region: Region, slot: int, queues: Sequence[socket.socket]) -> None:
        """queues: the sending ends of all workers, by slot."""
        self._region, self._slot, self._queues = region, slot, queues
        self._words: Final = region.words
        workers = region.layout["workers"]
        self._pids = [workers.at(each, "pid") for each in range(workers.records)]
        self._looked = -UPDATE_S  # time.monotonic()
        self._lacking: dict[int, float] = {}  # by slot, this worker's part of it

    def give(self, sock: socket.socket) -> bool:
        """Give a connection to the sibling that lacks most; False where there is none, or it cannot
        take one now."""
        now = time.monotonic()
        if now - self._looked >= UPDATE_S:
            self._looked = now
            self._lacking = self._look(now)
        if not self._lacking:
            return False
        slot, lacking = max(self._lacking.items(), key=lambda item: item[1])
        has_ended = not self._words[self._pids[slot]]
        if lacking < 1 or has_ended or not handover.give(self._queues[slot], sock):
            self._lacking = {}
            return False
        self._lacking[slot] = lacking - 1
        return True

    def give_anyway(self, sock: socket.socket) -> bool:
        """The same to the one that has fewest, however many these are."""
        there = self._connections(time.monotonic())
        there.pop(self._slot, None)
        slot = min(there, key=lambda each: there[each], default=None)
        return slot is not None and handover.give(self._queues[slot], sock)

    def _look(self, now: float) -> dict[int, float]:
        there = self._connections(now)
        average = sum(there.values()) / max(1, len(there))
        if there.get(self._slot, 0) <= average:
            return {}
        givers = sum(count > average for count in there.values())
        least = max(MARGIN, average * PART)
        return {s: (average - n) / givers for s, n in there.items() if average - n > least}

    def _connections(self, now: float) -> dict[int, int]:
        """Of the workers that serve, by slot, as they have said."""
        now_us = int(now * 1e6)
        return {
            slot: each.connections
            for slot, each in enumerate(read_all(self._region, now_us))
            if each.state in _TRUSTED and now_us - each.updated <= FRESH_S * 1e6
        }

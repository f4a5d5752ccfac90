"""The other workers, as one that accepts sees them: which of them is to serve a new connection.

The kernel spreads new connections evenly, and knows neither of those that are there already, as a
worker that has just been started has none, nor of how busy a worker is. So a worker that accepts
gives the connection to a sibling which has clearly fewer than the average, or whose loop is clearly
less late than its own. Of several it is one that is idle, then the one for whose frames and
connections there is least to do.

It goes by the table of statuses, which is up to a second old. Between two looks at it each worker
gives away its part of what a sibling lacks and no more, so that several of them do not fill up the
same one.
"""

import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final

from server import handover
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import UPDATE_S, Status, read_all

MARGIN: Final = 4  # connections that it must lack, beside the part below
PART: Final = 0.1  # of the average
LAG_MARGIN_US: Final = 20_000  # by how much less late a loop must be
LAG_FACTOR: Final = 2  # and how many times
LAG_PART: Final = 0.5  # of the average: so many connections more a loop gets that is less late
FRESH_S: Final = 3.0  # a status that is older is of a worker that hangs, or is starved

_TRUSTED: Final = (WorkerState.IDLE, WorkerState.BUSY)


class Siblings:
    """Those that this worker may give connections to."""

    def __init__(
        self, region: Region, slot: int, queues: Sequence[socket.socket], *, balances: bool
    ) -> None:
        """queues: the sending ends of all workers, by slot. balances: not only where this worker
        ends, but whenever one of them has less to do."""
        self._balances: Final = balances
        self._region, self._slot, self._queues = region, slot, queues
        self._words: Final = region.words
        workers = region.layout["workers"]
        self._pids = [workers.at(each, "pid") for each in range(workers.records)]
        self._looked = -UPDATE_S  # time.monotonic()
        self._there: dict[int, Status] = {}  # at the last look, by slot
        self._lacking: dict[int, float] = {}  # this worker's part of it
        self._given: dict[int, int] = {}  # since then

    def give(self, sock: socket.socket) -> bool:
        """Give a connection to the sibling that has least to do of those that lack some; False
        where there is none, or it cannot take one now."""
        if not self._balances:
            return False
        now = time.monotonic()
        if now - self._looked >= UPDATE_S:
            self._looked = now
            self._there, self._given = self._serving(now), {}
            self._lacking = self._look(self._there)
        slot = min(
            (slot for slot, lacking in self._lacking.items() if lacking >= 1),
            key=self._load,
            default=None,
        )
        if slot is None:
            return False
        if not self._words[self._pids[slot]] or not handover.give(self._queues[slot], sock):
            self._lacking = {}
            return False
        self._lacking[slot] -= 1
        self._given[slot] = self._given.get(slot, 0) + 1
        return True

    def give_anyway(self, sock: socket.socket) -> bool:
        """The same to the one that has least to do, whatever the others lack."""
        self._there, self._given = self._serving(time.monotonic()), {}
        others = self._there.keys() - {self._slot}
        slot = min(others, key=self._load, default=None)
        return slot is not None and handover.give(self._queues[slot], sock)

    def _load(self, slot: int) -> tuple[bool, int, int]:
        """By what those that serve are compared: less is better."""
        there = self._there[slot]
        connections = there.connections + self._given.get(slot, 0)
        return there.state is not WorkerState.IDLE, there.waiting, connections

    def _look(self, there: Mapping[int, Status]) -> dict[int, float]:
        """How many each sibling is to get from this worker."""
        mine = there.get(self._slot)
        if mine is None:
            return {}
        average = sum(each.connections for each in there.values()) / len(there)
        lacking: dict[int, float] = {}
        least = max(MARGIN, average * PART)
        if mine.connections > average:
            givers = sum(each.connections > average for each in there.values())
            for slot, each in there.items():
                if average - each.connections > least:
                    lacking[slot] = (average - each.connections) / givers
        most = average * (1 + LAG_PART) + MARGIN
        for slot, each in there.items():
            if _is_later(mine, each):
                givers = sum(_is_later(other, each) for other in there.values())
                part = (most - each.connections) / givers
                lacking[slot] = max(part, lacking.get(slot, 0.0))
        return lacking

    def _serving(self, now: float) -> dict[int, Status]:
        """What the workers that serve have said, by slot."""
        now_us = int(now * 1e6)
        return {
            slot: each
            for slot, each in enumerate(read_all(self._region, now_us))
            if each.state in _TRUSTED and now_us - each.updated <= FRESH_S * 1e6
        }


def _is_later(one: Status, other: Status) -> bool:
    """Is one's loop clearly later than the other's?"""
    return one.lag_us - other.lag_us >= LAG_MARGIN_US and one.lag_us >= LAG_FACTOR * other.lag_us

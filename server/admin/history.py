"""The last minutes of a server, for the page and for /stats: rates, latency quantiles, lags.

Whoever keeps no time series of /metrics sees with these what has just been going on.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from server.core.stats import buckets, served
from server.region.counters import ROWS
from server.region.histogram import TIMES_FIRST, bounds
from server.region.region import Region
from server.region.status import read_all

EVERY_S: Final = 2.0
KEPT: Final = 150  # samples: five minutes
ROOMS_S: Final = 30.0  # the busiest rooms are those of this time, or twice as much
ROOMS_MAX: Final = 10
_BOUNDS: Final = bounds(TIMES_FIRST)  # microseconds


@dataclass(frozen=True, slots=True)
class Sample:
    """What went on since the sample before. Times of latency in microseconds; None: there was no
    answer."""

    time: int  # microseconds since the Unix epoch
    requests_per_s: float
    refusals_per_s: float
    deliveries_per_s: float
    p50_us: float | None
    p99_us: float | None
    lag_us: int  # of the worker whose loop is latest
    waiting: int  # frames
    connections: int


class Room(NamedTuple):
    """A room, and what went on in it."""

    room: int
    members: int
    events_per_minute: float


class _Totals(NamedTuple):
    at: float  # time.monotonic()
    requests: int
    refusals: int
    deliveries: int
    latency: list[int]


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The value below which this share is, microseconds: between the bounds of its bucket as if
    they were evenly spread there, as Prometheus has it. None: there are none."""
    wanted = share * sum(counts)
    if not wanted:
        return None
    before = 0
    for bucket, count in enumerate(counts[: len(_BOUNDS)]):
        if count and before + count >= wanted:
            low = _BOUNDS[bucket - 1] if bucket else 0
            return low + (_BOUNDS[bucket] - low) * (wanted - before) / count
        before += count
    return float(_BOUNDS[-1])


class History:
    """Samples of one region. `samples` is a new tuple each time: other threads read it."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._before: _Totals | None = None
        self.samples: tuple[Sample, ...] = ()
        self._rooms: tuple[tuple[float, list[int]], ...] = ()  # two times, with all last_seq

    def sample(self) -> None:
        """Take one."""
        now, before = self._totals(), self._before
        self._before = now
        if not self._rooms or now.at - self._rooms[-1][0] >= ROOMS_S:
            self._rooms = (*self._rooms[-1:], (now.at, self._region.column("rooms", "last_seq")))
        if before is None:
            return
        seconds = max(now.at - before.at, 1e-9)
        latency = [new - old for new, old in zip(now.latency, before.latency, strict=True)]
        workers = read_all(self._region, time.monotonic_ns() // 1000)
        sample = Sample(
            time=time.time_ns() // 1000,
            requests_per_s=round((now.requests - before.requests) / seconds, 1),
            refusals_per_s=round((now.refusals - before.refusals) / seconds, 1),
            deliveries_per_s=round((now.deliveries - before.deliveries) / seconds, 1),
            p50_us=quantile(latency, 0.5),
            p99_us=quantile(latency, 0.99),
            lag_us=max(worker.lag_us for worker in workers),
            waiting=sum(worker.waiting for worker in workers),
            connections=sum(worker.connections for worker in workers),
        )
        self.samples = (*self.samples[1 - KEPT :], sample)

    def _totals(self) -> _Totals:
        records = served(self._region)
        return _Totals(
            at=time.monotonic(),
            requests=sum(records[row]["requests"][0] for row in ROWS),
            refusals=sum(sum(records[row]["sent"][1:]) for row in ROWS),
            deliveries=sum(buckets(self._region, "deliveries", "delay")),
            latency=[
                sum(column) for column in zip(*(records[r]["latency"] for r in ROWS), strict=True)
            ],
        )

    def busiest_rooms(self) -> list[Room]:
        """Those with most events of late, the busiest first; none where nothing went on."""
        if not self._rooms:
            return []
        since, before = self._rooms[0]
        minutes = max(time.monotonic() - since, 1.0) / 60
        now = self._region.column("rooms", "last_seq")
        members = self._region.column("rooms", "members")
        events = [new - old for new, old in zip(now, before, strict=True)]
        busiest = sorted(range(len(events)), key=lambda room: (-events[room], -members[room]))
        return [
            Room(room, members[room], round(events[room] / minutes, 1))
            for room in busiest[:ROOMS_MAX]
            if events[room] or members[room]
        ]

"""The region's numbers at one look, as the metrics, /health and /stats take them.

Words that stand for themselves are right one by one; a look takes well under a millisecond, so they
are of about the same moment.
"""

import time
from dataclasses import dataclass
from typing import Final

from server.admin.conservation import Conservation
from server.admin.memory import memory_of_all
from server.core.log import NO_JOURNAL
from server.core.stats import buckets, served, totals
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import Status, read_all

_POSITIONS: Final = ("log", "events")
_SEGMENTS: Final = ("header", "registry", *_POSITIONS, "journal", "archive", "files", "repairs")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a region."""

    region: Region
    now_us: int  # CLOCK_MONOTONIC
    counters: dict[str, int]
    served: dict[str, dict[str, list[int]]]
    deliveries: tuple[list[int], int]  # a histogram, and its sum
    batches: list[int]
    syncs: list[int]
    workers: dict[int, Status]  # by slot; those that have had a worker
    first: dict[str, dict[str, int]]  # of segments of one record: the first word of each field
    imbalance: int | None  # minor units; None: the log has moved too fast to tell
    memory: dict[str, int]  # bytes, by process; those whose memory may be seen

    @property
    def has_journal(self) -> bool:
        """Is anything kept on disk?"""
        return self.first["log"]["durable"] != NO_JOURNAL

    def lag(self, segment: str) -> int:
        """Records of a ring that are not durable yet; 0 without a journal."""
        ring = self.first[segment]
        return max(0, ring["head"] - ring["durable"]) if self.has_journal else 0


def look(region: Region, conservation: Conservation | None = None) -> Snapshot:
    """Look at the region now. conservation: of this region, for who looks again and again."""
    now_us = time.monotonic_ns() // 1000
    first = {}
    for segment in _SEGMENTS:
        placed = region.layout[segment]
        record = region.words[placed.base : placed.base + placed.stride].tolist()
        first[segment] = {name: record[at] for name, at in placed.offsets.items()}
    return Snapshot(
        region=region,
        now_us=now_us,
        counters=totals(region),
        served=served(region),
        deliveries=(
            buckets(region, "deliveries", "delay"),
            sum(region.column("deliveries", "delay_us")),
        ),
        batches=buckets(region, "journal", "batches"),
        syncs=buckets(region, "journal", "syncs"),
        workers={
            slot: status
            for slot, status in enumerate(read_all(region, now_us))
            if status.updated or status.state is not WorkerState.STOPPED
        },
        first=first,
        imbalance=(conservation or Conservation(region)).imbalance(),
        memory=memory_of_all(region),
    )

"""The line of totals that the master logs: summed from the counters of all workers."""

from collections.abc import Mapping
from typing import Any

from libproto.form import FORM
from server.core.log import NO_JOURNAL
from server.region.counters import COUNTERS, LOCK_KINDS, REQUESTED, ROWS
from server.region.region import Region

_REQUESTS = frozenset(message.name for message in REQUESTED)


def totals(region: Region) -> dict[str, int]:
    """Every counter, summed over the workers; and the requests and the errors of each opcode."""
    sums = _counters(region)
    for row, record in served(region).items():
        if row in _REQUESTS:
            sums[f"requests_{row}"] = record["requests"][0]
            sums[f"errors_{row}"] = sum(record["sent"][1:])
    return sums


def served(region: Region) -> dict[str, dict[str, list[int]]]:
    """What is counted by opcode, summed over the workers: by row of ROWS, the words of each field
    of SERVED."""
    placed, words = region.layout["served"], region.words
    found: dict[str, dict[str, list[int]]] = {}
    for row, name in enumerate(ROWS):
        records = [
            words[at : at + placed.stride].tolist()
            for at in map(placed.at, range(row, placed.records, len(ROWS)))
        ]
        total = [sum(column) for column in zip(*records, strict=True)]
        found[name] = {
            field: total[at : at + placed.lengths[field]] for field, at in placed.offsets.items()
        }
    return found


def buckets(region: Region, segment: str, field: str) -> list[int]:
    """A histogram, summed over the records of its segment."""
    placed = region.layout[segment]
    sums = [0] * placed.lengths[field]
    for at in (placed.at(record, field) for record in range(placed.records)):
        counted = region.words[at : at + len(sums)].tolist()
        sums = [total + each for total, each in zip(sums, counted, strict=True)]
    return sums


def _counters(region: Region) -> dict[str, int]:
    placed = region.layout["counters"]
    sums = [0] * len(COUNTERS)
    for record in range(placed.records):
        at = placed.at(record)
        for i, value in enumerate(region.words[at : at + len(COUNTERS)].tolist()):
            sums[i] += value
    return {counter.name: total for counter, total in zip(COUNTERS, sums, strict=True)}


def by_opcode(sums: Mapping[str, int], what: str) -> dict[str, int]:
    """`requests` or `errors` by opcode name, those that are not 0."""
    return {m.name: n for m in REQUESTED if (n := sums[f"{what}_{m.name}"])}


class Stats:
    """Totals, and rates since the line before."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._before: tuple[float, int] | None = None
        self._batches = (0, 0, 0)  # as in the line before
        self._line: dict[str, Any] = {}  # the latest

    def news(self, now_s: float) -> dict[str, Any] | None:
        """The fields of one line; None: they are those of the line before, as at rest. now_s: a
        monotonic clock."""
        before, self._line = self._line, self._fields(now_s)
        return self._line if self._line != before else None

    def _fields(self, now_s: float) -> dict[str, Any]:
        sums = totals(self._region)
        requests, errors = by_opcode(sums, "requests"), by_opcode(sums, "errors")
        total = sum(requests.values())
        rate = 0.0
        if self._before is not None:
            then, before = self._before
            rate = (total - before) / max(now_s - then, 1e-9)
        self._before = now_s, total
        return {
            "form": FORM.name,
            "connections": sums["connections"],
            "sessions": sums["sessions"],
            "requests": requests,
            "errors": errors,
            "requests_per_s": round(rate, 1),
            "pushes": sums["pushes"],
            "gaps": sums["gaps"],
            "laps": sums["laps"],
            "lock_waits": {kind: sums[f"waits_{kind}"] for kind in LOCK_KINDS},
            "lock_waited_ms": {
                kind: round(sums[f"waited_ns_{kind}"] / 1e6, 1) for kind in LOCK_KINDS
            },
            "txn_head": self._region.log.head,
            "event_head": self._region.events.head,
            **self._journal(),
        }

    def _journal(self) -> dict[str, Any]:
        """What the journal has done since the line before; nothing where there is none."""
        journal, durable = self._region.journal, self._region.log.durable
        if durable == NO_JOURNAL:
            return {}
        batches = sum(buckets(self._region, "journal", "batches"))
        now = batches, journal.records, journal.sync_us
        batches, records, sync_us = (new - old for new, old in zip(now, self._batches, strict=True))
        self._batches = now
        return {
            "txn_durable": durable,
            "event_durable": self._region.events.durable,
            "txn_oldest": journal.oldest,  # that TXN_HISTORY reaches
            "txn_snapshot": journal.snapshot,
            "batches": batches,
            "batch_mean": round(records / max(batches, 1), 1),
            "sync_ms_mean": round(sync_us / max(batches, 1) / 1000, 3),
            "archive_lag": self._region.archive.lag,  # bytes of events
            "archive_closed": self._region.archive.closed,
        }

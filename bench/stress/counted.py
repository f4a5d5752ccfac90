"""What our own server counts while it is measured: lock waits, batches of the journal, pushes.

The server sums the counters of its shared region and logs them at an interval. A run is told from
the first of these lines after its start to the last before its end, so the seconds counted are a
little fewer than those measured; requests are among the counters, and ratios such as waits per
request are of one and the same time.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from bench.stress.results import Row

LOCKS: Final = ("registry", "account", "log", "event")
COLUMNS: Final = (
    "counted_seconds", "counted_requests", *(f"waits_{kind}" for kind in LOCKS),
    *(f"waited_ms_{kind}" for kind in LOCKS), "pushes", "laps", "batches", "records", "sync_ms",
)  # fmt: skip
"""What is told of a run, and of each interval of it."""
_INTERVAL: Final = (0.1, 1.0)
_PARTS: Final = 30  # of a run


def interval_for(duration: float) -> float:
    """Seconds between two lines, for a run of so many seconds."""
    least, most = _INTERVAL
    return min(max(duration / _PARTS, least), most)


def totals(lines: Iterable[dict[str, Any]]) -> list[Row]:
    """Each of the server's lines (the fields of its event `stats`, all since its start) as COLUMNS
    that only grow, the first one being wall-clock time. The journal's are None where there is
    none."""
    found = []
    batches, sync_ms = 0, 0.0
    for line in lines:
        journal = "batches" in line
        if journal:  # of the time since the line before
            batches += line["batches"]
            sync_ms += line["batches"] * line["sync_ms_mean"]
        values = (
            datetime.fromisoformat(line["ts"]).timestamp(),
            sum(line["requests"].values()),
            *(line["lock_waits"][kind] for kind in LOCKS),
            *(line["lock_waited_ms"][kind] for kind in LOCKS),
            line["pushes"],
            line["laps"],
            *((batches, line["txn_durable"], sync_ms) if journal else (None, None, None)),
        )
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def intervals(found: Sequence[Row], start: float, end: float) -> list[Row]:
    """What was counted between each two lines from `start` to `end`, wall-clock time. `second` is
    when an interval begins, from the start."""
    inside = [each for each in found if start <= each["counted_seconds"] <= end]
    return [
        {"second": round(before["counted_seconds"] - start, 3), **_since(before, after)}
        for before, after in pairwise(inside)
    ]


def whole(parts: Sequence[Row]) -> Row:
    """All intervals together; empty where there is none."""
    if not parts:
        return {}
    return {name: _sum(part[name] for part in parts) for name in COLUMNS}


def _since(before: Row, after: Row) -> Row:
    return {
        name: None if after[name] is None else round(after[name] - before[name], 3)
        for name in COLUMNS
    }


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if known else None

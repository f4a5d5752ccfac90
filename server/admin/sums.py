"""What a live region holds, in sums: for `tradechat-admin inspect`, and for /stats."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from server.admin.inspect import Value, read, used_indices
from server.core.stats import totals
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import read_all

_TABLES: Final = {
    "accounts": "users",
    "sessions": "sessions",
    "clients": "clients",
    "rooms": "rooms",
}
"""Capacities whose use is counted, with the segment it is counted in."""


def summary(region: Region) -> dict[str, Value]:
    """What the region holds: its state, capacities and their use, rings, workers, counters."""
    header = read(region, "header", 0).values
    log, events = (read(region, name, 0).values for name in ("log", "events"))
    archive = read(region, "archive", 0).values
    assert header is not None
    assert log is not None, "words that stand for themselves"
    assert events is not None
    assert archive is not None
    log_id = header["log_id"]
    assert isinstance(log_id, int)
    layout = region.layout
    return {
        "region": region.name,
        "size": layout.size,
        "layout_version": header["layout_version"],
        "started": header["started"],
        "state": header["state"],
        "master_pid": header["master_pid"],
        "worker_pids": [pid for pid in region.column("workers", "pid") if pid],
        "recovery": header["recovery"] or None,
        "alarm": header["alarm"] or None,
        "log_id": f"{log_id:016x}",  # as in the data directory
        "epoch": header["epoch"],
        "capacities": asdict(layout.capacities),
        "use": {setting: len(used_indices(region, name)) for setting, name in _TABLES.items()},
        "txn_ring": {"head": log["head"], "durable": log["durable"]},
        "event_ring": {"head": events["head"], "durable": events["durable"]},
        "archive": {name: archive[name] for name in ("reached", "lag", "closed")},
        "workers": [*_workers(region)],
        "counters": totals(region),
    }


def _workers(region: Region) -> Iterator[dict[str, Value]]:
    """The status of each worker that there is, with its age in the place of the time."""
    now_us, pids = time.monotonic_ns() // 1000, region.column("workers", "pid")
    for slot, status in enumerate(read_all(region, now_us)):
        if not pids[slot] and (not status.updated or status.state is WorkerState.STOPPED):
            continue  # a slot that is kept for one more
        values: dict[str, Value] = {"worker": slot, **asdict(status), "state": status.state.name}
        updated = values.pop("updated")
        yield {**values, "age_ms": max(0, now_us - status.updated) // 1000 if updated else None}

"""The summary of a region: what `tradechat-admin inspect` shows when it is asked for no segment."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Final

from libcli.output import put
from server.admin.command import say
from server.admin.inspect import RINGS, Value, read, used_indices
from server.admin.show import put_json, put_lines, put_table
from server.admin.values import NONE, as_text
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


def show_summary(region: Region, *, as_json: bool) -> None:
    """Show `summary`; and tell where no server has the region any more."""
    found = summary(region)
    if as_json:
        put_json(found)
    else:
        _show(found)
    if not region.is_held():
        say(
            "no process has this region any more: a server that was killed left it, and the next "
            "one of this name replaces it"
        )


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


def _show(found: Mapping[str, Value]) -> None:
    capacities, use = found["capacities"], found["use"]
    workers, counters = found["workers"], found["counters"]
    assert isinstance(capacities, Mapping)
    assert isinstance(use, Mapping)
    assert isinstance(workers, Sequence)
    assert isinstance(counters, Mapping)
    singles = [n for n, value in found.items() if n != "workers" and not isinstance(value, Mapping)]
    put_lines([(name, as_text(found[name])) for name in singles])
    put("\n")
    rows = [["table", "used", "capacity"]]
    rows += [[name, as_text(use.get(name)), as_text(value)] for name, value in capacities.items()]
    put_table([[row[0], "" if row[1] == NONE else row[1], row[2]] for row in rows])
    put("\n")
    put_lines([(name, as_text(found[name])) for name in (*RINGS, "archive")])
    put("\n")
    records = [worker for worker in workers if isinstance(worker, Mapping)]
    if records:
        put_table([list(records[0]), *([as_text(each) for each in w.values()] for w in records)])
        put("\n")
    rows = [["counter", "total"]]
    rows += [[name, as_text(total)] for name, total in counters.items() if total]
    put_table(rows)

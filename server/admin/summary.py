"""The summary of a region: what `tradechat-admin inspect` shows when it is asked for no segment."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from libcli.output import put
from server.admin.command import say
from server.admin.inspect import RINGS, Value, read, used_indices
from server.admin.show import put_json, put_lines, put_table
from server.admin.values import NONE, as_text
from server.core.stats import totals
from server.region.region import Region

_TABLES: Final = {
    "accounts": "users",
    "sessions": "sessions",
    "clients": "clients",
    "rooms": "rooms",
}
"""Capacities whose use is counted, with the segment it is counted in."""


def show_summary(region: Region, *, as_json: bool) -> None:
    """Show what the region holds: its state, capacities and their use, rings, counters."""
    header = read(region, "header", 0).values
    log, events = (read(region, name, 0).values for name in ("log", "events"))
    archive = read(region, "archive", 0).values
    assert header is not None
    assert log is not None, "words that stand for themselves"
    assert events is not None
    assert archive is not None
    log_id = header["log_id"]
    assert isinstance(log_id, int)
    words, layout = region.words, region.layout
    workers = layout["workers"]
    sums = totals(region)
    summary: dict[str, Value] = {
        "region": region.name,
        "size": layout.size,
        "layout_version": header["layout_version"],
        "started": header["started"],
        "state": header["state"],
        "master_pid": header["master_pid"],
        "worker_pids": [words[workers.at(slot, "pid")] for slot in range(workers.records)],
        "recovery": header["recovery"] or None,
        "alarm": header["alarm"] or None,
        "log_id": f"{log_id:016x}",  # as in the data directory
        "epoch": header["epoch"],
        "capacities": asdict(layout.capacities),
        "use": {setting: len(used_indices(region, name)) for setting, name in _TABLES.items()},
        "txn_ring": {"head": log["head"], "durable": log["durable"]},
        "event_ring": {"head": events["head"], "durable": events["durable"]},
        "archive": {name: archive[name] for name in ("reached", "lag", "closed")},
        "counters": sums,
    }
    if as_json:
        put_json(summary)
    else:
        _show(summary, sums)
    if not region.is_held():
        say(
            "no process has this region any more: a server that was killed left it, and the next "
            "one of this name replaces it"
        )


def _show(summary: Mapping[str, Value], sums: Mapping[str, int]) -> None:
    capacities, use = summary["capacities"], summary["use"]
    assert isinstance(capacities, Mapping)
    assert isinstance(use, Mapping)
    singles = [name for name, value in summary.items() if not isinstance(value, Mapping)]
    put_lines([(name, as_text(summary[name])) for name in singles])
    put("\n")
    rows = [["table", "used", "capacity"]]
    rows += [[name, as_text(use.get(name)), as_text(value)] for name, value in capacities.items()]
    put_table([[row[0], "" if row[1] == NONE else row[1], row[2]] for row in rows])
    put("\n")
    put_lines([(name, as_text(summary[name])) for name in (*RINGS, "archive")])
    put("\n")
    rows = [["counter", "total"]]
    rows += [[name, str(total)] for name, total in sums.items() if total]
    put_table(rows)

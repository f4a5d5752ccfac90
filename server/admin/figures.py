"""All that is known of a live region, in sums, as JSON: /stats and `tradechat-admin status`."""

from dataclasses import asdict
from typing import Any

from libproto import __version__
from libproto.errors import Status
from libproto.form import FORM
from server.admin.conservation import Conservation
from server.admin.health import health
from server.admin.history import quantile
from server.admin.snapshot import Snapshot, look
from server.admin.sums import summary
from server.admin.values import plain
from server.region.region import Region


def figures(region: Region, conservation: Conservation | None = None) -> dict[str, Any]:
    """What has no sum is left out. conservation: as for `look`."""
    snapshot = look(region, conservation)
    found = {name: plain(value) for name, value in summary(region).items()}
    return found | {
        "version": __version__,
        "form": FORM.name,
        "health": asdict(health(snapshot)),
        "served": _served(snapshot),
        "lag": {"txn_ring": snapshot.lag("log"), "event_ring": snapshot.lag("events")},
        "journal": _journal(snapshot) if snapshot.has_journal else None,
        "archive": snapshot.first["archive"] if snapshot.has_journal else None,
        "repairs": snapshot.first["repairs"],
        "registry": {n: v for n, v in snapshot.first["registry"].items() if n != "lock"},
        "imbalance": snapshot.imbalance,
    }


def _journal(snapshot: Snapshot) -> dict[str, Any]:
    """Its words, with numbers in the place of histograms."""
    words, batches = snapshot.first["journal"], sum(snapshot.batches)
    return words | {
        "batches": batches,
        "syncs": batches,
        "mean_sync_us": words["sync_us"] / batches if batches else None,
    }


def _served(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """By opcode, those that have occurred: sums, and quantiles of the latency since the start."""
    return {
        opcode: {
            "requests": record["requests"][0],
            "request_bytes": record["request_bytes"][0],
            "sent": {s.name: n for s in Status if (n := record["sent"][s])},
            "sent_bytes": sum(record["sent_bytes"]),
            "p50_us": quantile(record["latency"], 0.5),
            "p99_us": quantile(record["latency"], 0.99),
        }
        for opcode, record in snapshot.served.items()
        if record["requests"][0] or any(record["sent"])
    }

"""What each path of the admin port answers."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import orjson

from libproto import __version__
from libproto.errors import Status
from libproto.form import FORM
from server.admin.sums import summary
from server.admin.values import plain
from server.admin.web.exposition import CONTENT_TYPE, Exposition
from server.admin.web.health import health
from server.admin.web.history import History, quantile
from server.admin.web.server import Answer, Routes
from server.admin.web.snapshot import Snapshot, look
from server.region.region import Region

_JSON: Final = "application/json"
_FILES: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""What the page is made of, by path."""


def routes(region: Region, history: History) -> Routes:
    """All of them."""
    exposition = Exposition()
    made: dict[str, Callable[[], Answer]] = {
        "/health": lambda: _health(look(region)),
        "/metrics": lambda: Answer(exposition.text(look(region)), CONTENT_TYPE),
        "/stats": lambda: Answer(orjson.dumps(stats(region, history)), _JSON),
    }
    return made | {path: partial(_file, *what) for path, what in _FILES.items()}


@cache
def _file(name: str, content_type: str) -> Answer:
    return Answer(Path(__file__).with_name(name).read_bytes(), content_type)


def _health(snapshot: Snapshot) -> Answer:
    found = health(snapshot)
    status = HTTPStatus.OK if found.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(orjson.dumps(asdict(found)) + b"\n", _JSON, status)


def stats(region: Region, history: History) -> dict[str, Any]:
    """All that is known, in sums; what has no sum is left out."""
    snapshot = look(region)
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
        "rooms": [room._asdict() for room in history.busiest_rooms()],
        "history": [asdict(sample) for sample in history.samples],
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

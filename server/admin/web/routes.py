"""What each path of the admin port answers."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import orjson

from server.admin.conservation import Conservation
from server.admin.figures import figures
from server.admin.health import health
from server.admin.history import History
from server.admin.snapshot import Snapshot, look
from server.admin.web.exposition import CONTENT_TYPE, Exposition
from server.admin.web.server import Answer, Routes
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
    exposition, conservation = Exposition(), Conservation(region)
    made: dict[str, Callable[[], Answer]] = {
        "/health": lambda: _health(look(region, conservation)),
        "/metrics": lambda: Answer(exposition.text(look(region, conservation)), CONTENT_TYPE),
        "/stats": lambda: Answer(orjson.dumps(stats(region, history, conservation)), _JSON),
    }
    return made | {path: partial(_file, *what) for path, what in _FILES.items()}


@cache
def _file(name: str, content_type: str) -> Answer:
    return Answer(Path(__file__).with_name(name).read_bytes(), content_type)


def _health(snapshot: Snapshot) -> Answer:
    found = health(snapshot)
    status = HTTPStatus.OK if found.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(orjson.dumps(asdict(found)) + b"\n", _JSON, status)


def stats(region: Region, history: History, conservation: Conservation) -> dict[str, Any]:
    """All that is known, and what went on in the last minutes."""
    return figures(region, conservation) | {
        "rooms": [room._asdict() for room in history.busiest_rooms()],
        "history": [asdict(sample) for sample in history.samples],
    }

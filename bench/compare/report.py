"""What the comparison tells: one table, with ratios to our own server and their spread.

Ratios are made within each run, of loads that followed one another closely, so that what the
machine did at that time is in both. A median stands with the least and the greatest.
"""

import csv
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, Final, TextIO

from bench.compare.contender import Figures
from bench.lab.figures import short
from libproto import version_of

_SYNCS: Final = 50
_PAGE: Final = 4096
RATIOS: Final = ("per_s", "server_us")


@dataclass(frozen=True, slots=True)
class Row:
    """One load."""

    run: int
    workload: str
    in_flight: int
    server: str
    base: str
    """Whom it is compared with, of the same run, workload and in_flight; itself if it is ours."""
    figures: Figures


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several runs."""

    median: float
    min: float
    max: float


COLUMNS: Final = (
    "run", "workload", "in_flight", "server", *(each.name for each in fields(Figures)),
)  # fmt: skip


def as_object(row: Row) -> dict[str, Any]:
    """By the names of COLUMNS."""
    return {
        "run": row.run,
        "workload": row.workload,
        "in_flight": row.in_flight,
        "server": row.server,
        **{name: round(value, 3) for name, value in asdict(row.figures).items()},
    }


def write_csv(file: TextIO, rows: Iterable[Row]) -> None:
    """A line per load."""
    table = csv.DictWriter(file, COLUMNS)
    table.writeheader()
    table.writerows(as_object(row) for row in rows)


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def ratios(rows: Sequence[Row], of: Sequence[Row], name: str) -> list[float]:
    """This figure of `of` by that of the server each is compared with, for each run of both."""
    bases = {(r.run, r.workload, r.in_flight, r.server): getattr(r.figures, name) for r in rows}
    found = []
    for row in of:
        base = bases.get((row.run, row.workload, row.in_flight, row.base))
        if base:
            found.append(getattr(row.figures, name) / base)
    return found


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """An object for each workload, in_flight and server: the spread of each figure, and of ratios
    to ours where it is another server."""
    found: list[dict[str, Any]] = []
    for workload, in_flight in dict.fromkeys((r.workload, r.in_flight) for r in rows):
        mine = [r for r in rows if (r.workload, r.in_flight) == (workload, in_flight)]
        for server in dict.fromkeys(r.server for r in mine):
            of = [r for r in mine if r.server == server]
            one: dict[str, Any] = {
                "workload": workload,
                "in_flight": in_flight,
                "server": server,
                "runs": len(of),
            }
            for each in fields(Figures):
                one[each.name] = spread([getattr(r.figures, each.name) for r in of])
            for name in RATIOS:
                values = ratios(rows, of, name) if server != of[0].base else []
                one[f"{name}_ratio"] = spread(values) if values else None
            found.append(one)
    return found


_HEADS: Final = (
    "workload", "in flight", "server", "per second", "p50, ms", "p99, ms", "server CPU, µs",
    "client CPU, µs", "per second ÷ ours", "server CPU ÷ ours",
)  # fmt: skip
_ALIKE: Final = 3  # columns that name a row, and stand on the left


def table(rows: Sequence[Row]) -> str:
    """The table as text that is Markdown too."""
    cells = [list(_HEADS), *map(_cells, summary(rows))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADS))]
    rule = [
        "-" * width if column < _ALIKE else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    lines = []
    for line in (cells[0], rule, *cells[1:]):
        padded = (
            cell.ljust(width) if column < _ALIKE else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def _cells(one: dict[str, Any]) -> list[str]:
    return [
        one["workload"],
        str(one["in_flight"]),
        one["server"],
        _cell(one["per_s"], "{:,.0f}".format),
        *(_cell(one[name], short) for name in ("p50_ms", "p99_ms", "server_us", "client_us")),
        *(_cell(one[f"{name}_ratio"], "{:.2f}".format) for name in RATIOS),
    ]


def _cell(of: Spread | None, told: Callable[[float], str]) -> str:
    if of is None:
        return ""
    around = f" ({told(of.min)} to {told(of.max)})" if of.min < of.max else ""
    return f"{told(of.median)}{around}"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "disk": f"fdatasync of 4 KiB takes {_sync_ms():.2f} ms where the servers' files are",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _sync_ms() -> float:
    """The median."""
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(_SYNCS):
            file.write(bytes(_PAGE))
            file.flush()
            began = time.monotonic()
            os.fdatasync(file.fileno())
            took.append((time.monotonic() - began) * 1000)
    return median(took)


def heading(settings: str, versions: Mapping[str, str]) -> str:
    """What was compared, and where, as a list."""
    told = {**machine(), "load": settings, "tradechat": version_of("tradechat"), **versions}
    return "\n".join(f"- {name}: {value}" for name, value in told.items())


def document(head: str, rows: Sequence[Row]) -> str:
    """The results as a page."""
    return f"""\
# Beside others

Made by `make compare`. How each server is configured, what is alike and what is not:
[docs/BENCH.md](../../docs/BENCH.md#beside-others).

{head}

Medians of the runs, with the least and the greatest. Ratios are of loads of the same run; more than
1 per second is faster than tradechat, less than 1 of CPU is cheaper.

{table(rows)}
"""

"""The files of results: written as the runs are made, read by what makes charts and the report."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from bench.stress import counted
from bench.stress.files import RUN_COLUMNS
from bench.stress.results import LATENCY_COLUMNS

Row = dict[str, Any]

RUNS: Final = "runs.csv"
OPERATIONS: Final = "operations.csv"
SECONDS: Final = "seconds.csv"
COUNTED: Final = "counted.csv"
MACHINE: Final = "machine.json"
REPORT: Final = "report.md"

GOOD: Final = "good"
VIOLATED: Final = "violated"
FAILED: Final = "failed"
"""A run of which nothing can be said: the server did not start, or users could not log in."""

_TEXTS: Final = frozenset(
    {"key", "section", "scenario", "label", "options", "problem", "mix", "verdict", "operation"}
)
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    RUNS: (
        "key", "section", "scenario", "round", "label", "options", "share",
        *(name for name in RUN_COLUMNS if name != "run"), "problem",
    ),
    OPERATIONS: ("key", "operation", "ok", "failed", "ok_per_s", *LATENCY_COLUMNS),
    SECONDS: ("key", "second", "ok", "failed", "p50_us", "p99_us", "max_us"),
    COUNTED: ("key", "second", *counted.COLUMNS),
}  # fmt: skip
"""Of each file, the columns. `key` names the run."""


@dataclass(slots=True)
class Results:
    """All of a directory."""

    machine: Row = field(default_factory=dict)
    runs: list[Row] = field(default_factory=list)
    operations: list[Row] = field(default_factory=list)
    seconds: list[Row] = field(default_factory=list)
    counted: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """OSError, or ValueError where a file is not what was written."""
        machine = json.loads((folder / MACHINE).read_text())
        tables = (_read(folder / name) for name in COLUMNS)
        return cls(machine, *tables)

    def section(self, section: str) -> list[Row]:
        """Its runs of which there are figures, in their order."""
        return [row for row in self.runs if row["section"] == section and row["ok"]]

    def run(self, key: str) -> Row | None:
        """The run of this key, if there are figures of it."""
        return next((row for row in self.runs if row["key"] == key and row["ok"]), None)

    @property
    def bad(self) -> list[Row]:
        """The runs that were not good."""
        return [row for row in self.runs if row["verdict"] != GOOD]


def write_machine(folder: Path, machine: Row) -> None:
    (folder / MACHINE).write_text(json.dumps(machine, indent=2, ensure_ascii=False) + "\n")


def append(folder: Path, name: str, rows: Iterable[Row]) -> None:
    """Add rows to a file, which is begun with its columns. Other keys of a row are left out."""
    path = folder / name
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(
            file, COLUMNS[name], restval="", extrasaction="ignore", lineterminator="\n"
        )
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {name: text if name in _TEXTS else _number(text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def _number(text: str) -> float | None:
    if not text:
        return None
    return float(text) if "." in text or "e" in text else int(text)

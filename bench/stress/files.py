"""What a run leaves for other programs: CSV and HdrHistogram files. `docs/BENCH.md` describes the
columns; columns are only ever added, at the end."""

import csv
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self, TextIO

from bench.lab.verdict import CHECKS
from bench.stress import counted
from bench.stress.mix import OPERATIONS
from bench.stress.options import Options
from bench.stress.record import ERRORS
from bench.stress.results import (
    LATENCY_COLUMNS,
    Figures,
    Row,
    delivery_as_object,
    line_as_object,
)
from bench.stress.run import Run
from libproto import __version__
from libproto.form import FORM

SCHEMA: Final = 1
"""Of the JSON object; another one where a key goes, or says something else."""
_SERVICE: Final = tuple(f"service_{name}" for name in LATENCY_COLUMNS)
_DELIVERY: Final = tuple(f"delivery_{name}" for name in LATENCY_COLUMNS)
_ERRORS: Final = tuple(f"error_{kind}" for kind in ERRORS)
_BOARDS: Final = ("offers_added", "offers_taken", "offers_removed")
_LEDGER: Final = ("transactions", "reads", "log_entries", "log_entries_gone")
SECOND_COLUMNS: Final = (
    "run", "second", "operation", "ok", "failed", *LATENCY_COLUMNS, *_SERVICE, "late", "dropped",
    *_ERRORS,
)  # fmt: skip
COUNTED_COLUMNS: Final = ("run", "second", *counted.COLUMNS)
SETTINGS: Final = (
    "mix", "rate", "processes", "threads", "connections", "pipeline", "payload", "accounts", "zipf",
    "hot_accounts", "rooms", "fanout", "slow_consumers", "kill_every", "workers", "seed",
)  # fmt: skip
RUN_COLUMNS: Final = (
    "run", *SETTINGS, "seconds", "ok", "failed", "ok_per_s", "failed_per_s", "after_end",
    *LATENCY_COLUMNS, *_SERVICE, "late", "dropped", *_ERRORS, "messages", "deliveries", *_DELIVERY,
    "events", "gaps", "missed_in_gaps", "missed_unconnected", "client_cpu_us", "server_cpu_us",
    "kills", "reconnects", "transactions", "reads", "log_entries", "log_entries_gone",
    "violations", "verdict", *counted.COLUMNS, "paused_s", "restart_every", "restarts", "moves",
    "offers_added", "offers_taken", "offers_removed",
)  # fmt: skip


def run_as_object(options: Options, run: Run) -> Row:
    """The summary of a run, by the names of RUN_COLUMNS."""
    figures = run.figures
    answered = figures.all.ok + figures.all.failed
    settings = options.as_object()

    def each_us(cpu: tuple[float, float] | None) -> float | None:
        return round(sum(cpu) / answered * 1e6, 2) if cpu is not None and answered else None

    return {
        "run": run.number,
        **{name: settings[name] for name in SETTINGS},
        "workers": options.workers if options.is_own else None,
        "seconds": round(figures.seconds_s, 3),
        **line_as_object(figures, figures.all),
        "dropped": figures.all.dropped if figures.is_open else None,
        **delivery_as_object(figures),
        **dict.fromkeys(_LEDGER + _BOARDS),  # of a server that has ended, not known
        **run.checked,
        "client_cpu_us": each_us(run.client_cpu),
        "server_cpu_us": each_us(run.server_cpu),
        "kills": run.kills,
        "reconnects": run.reconnects,
        "violations": run.findings.counts.total(),
        "verdict": "good" if run.findings.good else "violated",
        **(counted.whole(run.counted) or dict.fromkeys(counted.COLUMNS)),
        "paused_s": round(run.paused_s, 3),
        "restart_every": options.restart_every,
        "restarts": run.restarts,
        "moves": run.moves,
    }


def run_as_json(options: Options, run: Run) -> dict[str, Any]:
    """The whole of a run, with its operations and its verdict."""
    figures, findings = run.figures, run.findings
    return {
        "form": FORM.name,
        **run_as_object(options, run),
        "operations": {name: line_as_object(figures, line) for name, line in figures.lines.items()},
        "details": dict(figures.details),
        "checks": {check: findings.counts[check] for check in CHECKS if check != "left"},
        "problems": [problem._asdict() for problem in findings.problems],
        "server_errors": run.server_errors,
    }


def as_json(
    options: Options, runs: Iterable[Run], *, interrupted: bool, failure: str
) -> dict[str, Any]:
    """All runs, whatever has ended them."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "options": options.as_object(),
        "interrupted": interrupted,
        "failure": failure or None,
        "runs": [run_as_json(options, run) for run in runs],
    }


class Outputs:
    """The files that were asked for. They are tried before anything is measured: OSError."""

    def __init__(self, options: Options) -> None:
        self._hgrm = options.hgrm
        if self._hgrm:
            _try_hgrm(self._hgrm, options.runs)
        self._tables = Tables(options.csv) if options.csv else None

    def add(self, options: Options, run: Run) -> None:
        """A run. OSError, when all that can be written is."""
        with ExitStack() as stack:
            if self._tables is not None:
                stack.callback(self._tables.add, options, run)
            if self._hgrm:
                stack.callback(write_hgrm, self._hgrm, run.number, run.figures)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tables is not None:
            self._tables.close()


class Tables:
    """The three files of `--csv PREFIX`, with a line as soon as it is known."""

    def __init__(self, prefix: str) -> None:
        """OSError where they cannot be written."""
        self._stack = ExitStack()
        with ExitStack() as undo:
            self._seconds = self._open(undo, f"{prefix}-seconds.csv", SECOND_COLUMNS)
            self._counted = self._open(undo, f"{prefix}-counted.csv", COUNTED_COLUMNS)
            self._runs = self._open(undo, f"{prefix}-runs.csv", RUN_COLUMNS)
            self._stack = undo.pop_all()

    @staticmethod
    def _open(stack: ExitStack, path: str, columns: Iterable[str]) -> tuple[TextIO, Any]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(open(path, "w", newline=""))  # noqa: SIM115 - the stack closes it
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        file.flush()
        return file, writer

    def add(self, options: Options, run: Run) -> None:
        """A run."""
        file, writer = self._seconds
        writer.writerows({"run": run.number, **row} for row in run.figures.rows)
        file.flush()
        file, writer = self._counted
        writer.writerows({"run": run.number, **row} for row in run.counted)
        file.flush()
        file, writer = self._runs
        writer.writerow(run_as_object(options, run))
        file.flush()

    def close(self) -> None:
        self._stack.close()


def _hgrm(prefix: str, number: int, name: str) -> Path:
    path = Path(f"{prefix}-run{number}-{name}.hgrm")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _try_hgrm(prefix: str, runs: int) -> None:
    """OSError where the files could not be written: it is told before the runs, not after them."""
    path = _hgrm(prefix, runs, max((f"{each.name}-service" for each in OPERATIONS), key=len))
    was_there = path.exists()
    path.open("ab").close()
    if not was_there:
        path.unlink()


def write_hgrm(prefix: str, number: int, figures: Figures) -> None:
    """PREFIX-runN-OPERATION.hgrm, values in µs; service time apart. OSError."""
    found = {name: line.latencies for name, line in figures.lines.items()}
    found |= {f"{name}-service": line.services for name, line in figures.lines.items()}
    found["delivery"] = figures.delivered
    for name, each in found.items():
        if each.total_count:
            with _hgrm(prefix, number, name).open("wb") as file:
                each.output_percentile_distribution(file, 1.0)

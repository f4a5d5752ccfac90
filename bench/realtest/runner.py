"""Runs the scenarios, one after the other, each as a process of the stress client."""

import csv
import json
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import bench
from bench.lab.cli import (
    EXIT_GOOD,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_THRESHOLD,
    EXIT_VIOLATED,
)
from bench.lab.process import signals_held
from bench.realtest import findings
from bench.realtest.data import COUNTED, FAILED, OPERATIONS, RUNS, SECONDS, Row, append
from bench.realtest.scenarios import REFERENCE, Scenario
from bench.stress.results import ALL

WARMUP_S: Final = 2.0
"""At most, and no longer than the run."""
_PROBLEM_MAX: Final = 500  # characters


class Runner:
    """Writes the figures of each run to a directory as soon as it is over.

    SIGINT and SIGTERM are handed to the run that is being made, which then ends in order, and end
    the whole after it; that run is left out.
    """

    def __init__(self, folder: Path, seconds: float, tell: Callable[[str], None]) -> None:
        """seconds: of each run. tell: takes lines of progress."""
        self.code = 0
        """The exit code that an interrupt asked for; 0: none."""
        self._folder = folder
        self._seconds = seconds
        self._tell = tell
        self._child: subprocess.Popen[str] | None = None

    def run_all(self, scenarios: Sequence[Scenario]) -> None:
        """All, or those until an interrupt."""
        self._handle()
        references: dict[str, float] = {}
        swept: dict[str, list[Row]] = defaultdict(list)
        for number, scenario in enumerate(scenarios, 1):
            if self.code:
                return
            head = f"[{number}/{len(scenarios)}] {scenario.section}: {scenario.label}"
            section = scenario.section
            rate = references.get(section, 0.0) * scenario.share / 100
            if scenario.times:
                rate = scenario.times * _knee_of(swept[section])
            if scenario.share and not rate:
                row = self._failed(
                    scenario, "the closed loop, of which the rate is a share, failed"
                )
            elif scenario.times and not rate:
                row = self._failed(scenario, "no rate before was kept up with: there is no knee")
            else:
                found = self._run(scenario, rate)
                if found is None:
                    return
                row = found
            append(self._folder, RUNS, [row])
            self._tell(f"{head}: {_outcome(row)}")
            if scenario.name == REFERENCE:
                references[section] = row.get("ok_per_s") or 0.0
            elif scenario.share and row.get("ok"):
                swept[section].append(row)

    def _handle(self) -> None:
        def come(number: int, _: FrameType | None) -> None:
            self.code = EXIT_TERMINATED if number == signal.SIGTERM else EXIT_INTERRUPTED
            if self._child is not None:
                self._child.send_signal(number)

        signal.signal(signal.SIGINT, come)
        signal.signal(signal.SIGTERM, come)

    def _run(self, scenario: Scenario, rate: float) -> Row | None:
        """The row of RUNS; None where it was interrupted."""
        words = [*scenario.words, *([f"--rate={rate:.1f}"] if rate else [])]
        if scenario.regardless:
            words.append("--ignore-busy")
        with tempfile.TemporaryDirectory(prefix="tradechat-realtest-") as spool:
            command = [
                *(sys.executable, "-m", bench.__name__, "--json", f"--csv={spool}/run"),
                *(f"--duration={self._seconds:g}", f"--warmup={min(WARMUP_S, self._seconds):g}"),
                *words,
            ]
            with signals_held():
                # In a process group of its own: Ctrl-C is for us, and we hand it on.
                self._child = subprocess.Popen(  # noqa: S603 - our own program
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    process_group=0,
                )
            told, error = self._child.communicate()
            code = self._child.returncode
            self._child = None
            if self.code:
                return None
            if code not in (EXIT_GOOD, EXIT_VIOLATED, EXIT_THRESHOLD):
                return self._failed(scenario, error.strip() or f"exit code {code}", words)
            (found,) = json.loads(told)["runs"]
            if code == EXIT_THRESHOLD and not found["ok"]:
                return self._failed(scenario, error.strip(), words)
            self._keep(scenario.key, found, Path(spool))
        problems = "; ".join(f"{each['check']}: {each['text']}" for each in found["problems"])
        identity = _identity(scenario, words)
        return {**identity, **found, "problem": problems[:_PROBLEM_MAX]}

    def _keep(self, key: str, found: dict[str, Any], spool: Path) -> None:
        append(
            self._folder,
            OPERATIONS,
            ({"key": key, "operation": name, **each} for name, each in found["operations"].items()),
        )
        for name, target in (("seconds", SECONDS), ("counted", COUNTED)):
            with (spool / f"run-{name}.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("operation", ALL) == ALL]
            append(self._folder, target, ({"key": key, **row} for row in rows))

    def _failed(self, scenario: Scenario, why: str, words: Sequence[str] = ()) -> Row:
        """words: with which it was run, where it was."""
        told = {"verdict": FAILED, "problem": " ".join(why.split())[-_PROBLEM_MAX:]}
        return _identity(scenario, words or scenario.words) | told


def _knee_of(runs: Sequence[Row]) -> float:
    """Its rate; 0: there is none."""
    found = findings.greatest_kept_up(runs)
    return float(found["rate"]) if found is not None else 0.0


def _identity(scenario: Scenario, words: Sequence[str]) -> Row:
    return {
        "key": scenario.key,
        "section": scenario.section,
        "scenario": scenario.name,
        "round": scenario.round,
        "label": scenario.label,
        "options": " ".join(words),
        "share": scenario.share or None,
    }


def _outcome(row: Row) -> str:
    if row.get("ok_per_s") is None:
        return f"{row['verdict']}: {row['problem']}"
    p99 = row["p99_us"]
    told = f"{row['ok_per_s']:,.0f}/s, p99 " + (f"{p99 / 1000:,.1f} ms" if p99 else "-")
    return f"{told}, {row['verdict']}" + (f": {row['problem']}" if row["problem"] else "")

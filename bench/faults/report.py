"""What came out of a run, as a table and as JSON."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, Final

from bench.lab.verdict import CHECKS, NEED_END, Problem
from libproto import version_of
from libproto.form import FORM

PROBLEMS_MAX: Final = 20  # that are printed
_WIDTH: Final = 52

FIGURES: Final = {
    "kills": "workers killed",
    "stops": "workers stopped for a while",
    "killed_by_master": "of these, killed by the server for it",
    "resets_in_frame": "connections reset in the middle of a frame",
    "resets_before_answer": "connections reset between request and answer",
    "keeper_kills": "journal and archive processes killed",
    "journal_kills": "journal processes killed",
    "archive_kills": "archive processes killed",
    "files_kills": "files processes killed",
    "crashes": "kills of the whole server",
    "early_crashes": "of these, while it was starting",
    "take_overs": "servers started in the place of another",
    "new_killed": "of these, killed before they served",
    "old_killed": "of these, the other one killed meanwhile",
    "interrupts": "servers interrupted",
    "given_up": "connections given up by impatient clients",
    "reconnects": "logins again after a lost connection",
    "restarts": "restarts of the workers",
    "moves": "moves to another worker before one ended",
    "requests": "ledger requests",
    "acknowledged": "acknowledged",
    "refused": "refused for lack of funds",
    "repeated": "repeated, the answer having been lost",
    "settled_recorded": "of these, told the recorded outcome",
    "settled_anew": "of these, executed or refused only then",
    "unknown": "outcome unknown at the end",
    "unknown_executed": "of these, executed by the log",
    "reads": "BALANCE answers checked",
    "messages": "messages said in rooms",
    "messages_repeated": "of these, repeated, the answer having been lost",
    "messages_recorded": "of these, told the recorded outcome",
    "offers": "offers put on boards",
    "offers_removed": "of these, removed by their owner",
    "takes": "requests to take one",
    "takes_done": "of these, acknowledged",
    "takes_late": "of these, too late: it was gone",
    "boards_repeated": "requests of boards that were repeated",
    "boards_recorded": "of these, told the recorded outcome",
    "files": "files shared",
    "files_repeated": "requests for files that were repeated, the answer having been lost",
    "files_read": "announced files read and hashed at the end",
    "events": "room events",
    "deliveries": "deliveries of room events",
    "gaps": "ROOM_GAP told",
    "fetched": "events read with ROOM_HISTORY instead",
}
"""What is counted, by a short name, in the order of the table."""


@dataclass(slots=True)
class Report:
    """The outcome of one script. `waits_s`: by what was waited for, how long each was."""

    script: str
    setting: str
    complete: bool  # the server was still there to be asked
    figures: dict[str, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    waits_s: dict[str, list[float]] = field(default_factory=dict)
    repairs: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """What the server has logged as an error, where something is wrong."""

    @property
    def good(self) -> bool:
        return not self.problems

    def checks(self) -> dict[str, int]:
        """How often each check failed, of those that were made."""
        found = Counter(problem.check for problem in self.problems)
        skipped = frozenset({"left"}) if self.complete else NEED_END
        return {check: found[check] for check in CHECKS if check not in skipped or found[check]}

    def waits_ms(self) -> dict[str, dict[str, float]]:
        """p50, p99 and the longest of each wait."""
        return {what: percentiles_ms(waits) for what, waits in self.waits_s.items()}

    def as_object(self) -> dict[str, object]:
        """For JSON."""
        return {
            "form": FORM.name,
            "script": self.script,
            "setting": self.setting,
            "good": self.good,
            "figures": self.figures,
            "waits_ms": self.waits_ms(),
            "repairs": self.repairs,
            "violations": self.checks(),
            "problems": [problem._asdict() for problem in self.problems[:PROBLEMS_MAX]],
            "server_errors": self.errors,
        }

    def as_table(self) -> str:
        lines = [f"{self.script}: {self.setting}", version_of("tradechat"), ""]
        lines += [
            _row(f"  {FIGURES[name]}" if _is_part(name) else FIGURES[name], f"{value:,}")
            for name, value in sorted(self.figures.items(), key=lambda item: _ORDER[item[0]])
        ]
        for what, values in self.waits_ms().items():
            told = "  ".join(f"{name} {ms:g}" for name, ms in values.items())
            lines.append(_row(f"{what}, ms", told))
        lines += [
            _row(f"the server's count: {name}", f"{value:,}")
            for name, value in self.repairs.items()
            if value
        ]
        lines.append("")
        lines += [_row(CHECKS[check], f"{count:,}") for check, count in self.checks().items()]
        lines.append(_row("verdict", "good" if self.good else "VIOLATED"))
        if self.problems:
            lines += ["", *(f"{check}: {text}" for check, text in self.problems[:PROBLEMS_MAX])]
            if len(self.problems) > PROBLEMS_MAX:
                lines.append(f"... and {len(self.problems) - PROBLEMS_MAX} more")
        lines += [f"server: {line}" for line in self.errors]
        return "\n".join(lines)


_ORDER: Final = {name: place for place, name in enumerate(FIGURES)}


def _is_part(name: str) -> bool:
    return FIGURES[name].startswith("of these")


def _row(name: str, value: str) -> str:
    return f"  {name:{_WIDTH}}{value:>10}"


def percentiles_ms(waits: list[float]) -> dict[str, float]:
    """p50, p99 and the longest of some waits in seconds, in milliseconds."""
    p99 = quantiles(waits, n=100, method="inclusive")[98] if len(waits) > 1 else waits[0]
    named = {"p50": median(waits), "p99": p99, "max": max(waits)}
    return {name: round(value * 1000, 1) for name, value in named.items()}

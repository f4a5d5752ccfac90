"""Bugs, one a patch, each of which a test has to find. `python -m tests.mutants` shows it.

A patch opens with two lines, `Bug:` and `Test:`; the second names the test that must fail with it.
"""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]


@dataclass(frozen=True)
class Mutant:
    """A patch: what it breaks, and the pytest id of the test that has to see it."""

    path: Path
    bug: str
    test: str

    @property
    def name(self) -> str:
        return self.path.stem


def read(path: Path) -> Mutant:
    """ValueError where its first two lines are not as they should be."""
    bug, test, *_ = path.read_text(encoding="utf-8").splitlines()
    if not bug.startswith("Bug: ") or not test.startswith("Test: "):
        raise ValueError(f"{path.name} opens with `Bug: ...` and `Test: ...`, or it is no mutant")
    return Mutant(path, bug.removeprefix("Bug: "), test.removeprefix("Test: "))


def all_mutants() -> list[Mutant]:
    return [read(path) for path in sorted(FOLDER.glob("*.patch"))]

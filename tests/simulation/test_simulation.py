"""The short form of `make simulate`: seeds that are always the same, and those that once failed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.form import COMPILED

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12_000
SEEDS = 24


def simulate(*arguments: str) -> str:
    """What it prints; it finds nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--steps", str(STEPS), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.skipif(COMPILED, reason="it runs the interpreted form")
@pytest.mark.checkout
def test_nothing_is_found() -> None:
    simulate("--seeds", str(SEEDS))


@pytest.mark.skipif(COMPILED, reason="it runs the interpreted form")
@pytest.mark.checkout
def test_a_seed_is_the_same_in_another_process() -> None:
    first, again, other = (simulate("--seed", seed).splitlines()[0] for seed in ("3", "3", "4"))
    assert first == again
    assert first.split("digest")[1] != other.split("digest")[1]

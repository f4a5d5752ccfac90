"""A signal handler that raises into the blocking client's calls, at any moment, many times."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.interrupted import HANG_S, SCENARIOS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_an_interrupt_at_any_moment(scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.client.interrupted", scenario],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S + 15,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

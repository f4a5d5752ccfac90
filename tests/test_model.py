"""The model of the protocols holds, and finds the bugs planted in it: its short form; `make model`
runs all."""

import subprocess
import sys
from pathlib import Path

MODEL = Path(__file__).parent.parent / "docs" / "model"


def test_the_model() -> None:
    done = subprocess.run(
        [sys.executable, "check.py", "--short"], cwd=MODEL, capture_output=True, text=True
    )
    assert not done.returncode, done.stdout + done.stderr
    assert done.stdout.endswith("All scenarios hold, all bugs are found.\n")

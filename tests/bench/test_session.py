"""The first session in the README is the one that the programs really have."""

from pathlib import Path

import pytest

from bench.lab.cli import BenchFailed
from bench.session import BEGIN, COMMANDS, END, STEPS, compared, play, told
from tests.helpers.server import ROOT


def test_the_readme_shows_the_session_of_the_programs(tmp_path: Path) -> None:
    session = play(tmp_path, 0)
    assert str(tmp_path) not in session
    for command in COMMANDS:
        assert f"    $ {' '.join(command)}" in compared(session)
    for step in STEPS:
        assert step.sees in session
    assert compared(session) == compared(told((ROOT / "README.md").read_text(encoding="utf-8")))


def test_what_differs_between_two_runs_and_nothing_else() -> None:
    one = "$ x --port 1 y\nready port=1 pid=2\n#6 2026-11-21 03:28:32+00:00 paid bob 1.00"
    other = "$ x y\nready port=7878 pid=31\n#6 2026-11-28 16:31:13+01:00 paid bob 1.00"
    one, other = f"{one}\n  03:28 hi", f"{other}\n  16:31 hi"
    assert compared(one) == compared(other)
    assert compared(one) != compared(other.replace("1.00", "1.01"))


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_readme_without_its_place(text: str) -> None:
    with pytest.raises(BenchFailed, match="has no lines"):
        told(text)

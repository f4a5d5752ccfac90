"""`tradechat-bench start`, on real servers; and where no program of bench can write."""

import json
import os
import subprocess
import sys

import pytest

from bench import start
from bench.lab import cli
from tests.helpers.server import ROOT

OTHERS = ("connections", "cpu", "delivery", "start")
SMALL = ("--transactions=400", "--connections=4", "--accounts=500", "--workers=1", "--runs=2")


def test_each_start_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert start.main([*SMALL, "--json"]) == cli.EXIT_GOOD
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["what"] for row in rows] == [start.EMPTY, f"{start.LARGE} 500", start.REPLAY]
    for row in rows:
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) > 0
    replay = rows[-1]
    assert 400 <= replay["transactions"] < 500  # a user, a client and a deposit for each connection
    for seconds, million in zip(replay["seconds"], replay["s_per_million"], strict=True):
        assert million == pytest.approx(seconds / replay["transactions"] * 1e6, rel=0.01)


def test_a_table_of_seconds() -> None:
    rows: list[start.Row] = [
        {"what": start.EMPTY, "seconds": [0.5, 0.25]},
        {
            "what": start.REPLAY, "seconds": [3, 5, 4], "transactions": 2_000_000,
            "s_per_million": [1.5, 2.5, 2],
        },
    ]  # fmt: skip
    _, empty, replay = start.table(rows).splitlines()
    assert empty.split() == ["empty", "0.375", "(0.25", "to", "0.5)"]
    assert replay.endswith("2,000,000           4 (3 to 5)  2 (1.5 to 2.5)")


@pytest.mark.parametrize("word", ["--transactions=0", "--accounts=0", "--runs=0"])
def test_wrong_usage(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        start.main([word])
    assert raised.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([n, "--help"] for n in OTHERS)])
@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        (
            ">/dev/full",
            cli.EXIT_FAILED,
            "tradechat-bench: cannot write to standard output: No space left on device\n",
        ),
        (">&-", cli.EXIT_GOOD, ""),
        ("2>&-", cli.EXIT_GOOD, ""),
    ],
)
def test_an_output_that_cannot_be_written(
    words: list[str], redirect: str, code: int, said: str
) -> None:
    """As with every other program; unbuffered, argparse itself would pass over it."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-m", "bench", *words],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, said)

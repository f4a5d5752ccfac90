"""`tradechat-bench files`, as a process: each size has its rows, and they hold figures."""

import json
import subprocess
import sys

from tests.helpers.server import ROOT


def test_a_short_run() -> None:
    words = "--sizes 1 130 --times 1 --readers 3 --json"
    run = subprocess.run(
        [sys.executable, "-m", "bench", "files", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["KiB"] for row in rows] == [1, 130] * 3
    one, many, beside = rows[:2], rows[2:4], rows[4:]
    for row in one:
        assert all(row[name] > 0 for name in ("share_ms", "read_ms", "read_cached_ms", "http_ms"))
    for row in many:
        assert row["readers"] == 3
        assert row["MB_per_s"] > 0
    for row in beside:
        assert row["p99_beside_us"] > 0
        assert row["ratio"] > 0

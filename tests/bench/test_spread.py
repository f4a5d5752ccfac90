"""`tradechat-bench spread`: short, on a real server."""

import json

import pytest

from bench import spread


def test_connections_come_to_a_worker_that_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--connections=40", "--workers=2", "--rate=200", "--seconds=0.3", "--json"]
    assert spread.main(words) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["balance"], row["after"]) for row in found] == [
        (balance, after)
        for balance in ("on", "off")
        for after in ("all have logged in", "a worker was killed")
    ]
    for row in found:
        assert row["fewest"] + row["most"] == row["connections"] == 40
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert [row["logged_in_again"] for row in found[::2]] == [0, 0]
    for before, after in zip(found[::2], found[1::2], strict=True):
        assert after["logged_in_again"] in (before["fewest"], before["most"])

"""`tradechat-bench delivery`, on real servers."""

import json

import pytest

from bench import delivery


def test_each_durability_and_the_disk_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert delivery.main(["--messages=20", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["what"] for row in told] == ["none", "sync", delivery.DISK]
    for row in told:
        assert 0 < row["p50_us"] <= row["p90_us"] <= row["p99_us"]


def test_figures_are_told_in_microseconds() -> None:
    [row] = delivery.rows({"none": [0.001, 0.002, 0.003]})
    assert (row["what"], row["p50_us"]) == ("none", 2000.0)
    assert row["p99_us"] == pytest.approx(2980.0)

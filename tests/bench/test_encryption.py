"""`tradechat-bench encryption`, and the stress client over encrypted connections: short, on real
servers."""

import json
import subprocess
import sys

import pytest

from bench import encryption
from tests.helpers.server import ROOT


def test_every_load_is_measured_on_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--users=3", "--rounds=2", "--runs=1", "--lengths", "10", "2000", "--json"]
    assert encryption.main(words) == 0
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    kinds = {(row["load"], row["connections"]) for row in rows}
    loads = {"TRANSFER", "delivery of 10 bytes", "delivery of 2000 bytes", "HELLO"}
    assert kinds == {(load, kind) for load in loads for kind in ("clear", "encrypted")}
    assert len(rows) == len(kinds)


def test_the_table_has_medians_and_their_ratio() -> None:
    rows: list[encryption.Row] = [
        {"load": "TRANSFER", "connections": kind, "us": us}
        for kind, values in (("clear", (1.0, 2.0, 9.0)), ("encrypted", (5.0, 3.0, 4.0)))
        for us in values
    ]
    assert encryption.table(rows).splitlines()[1].split() == [
        "TRANSFER",
        "2.00",
        "4.00",
        "2.00",
        "2.00",
    ]


def test_a_stress_run_over_encrypted_connections_has_a_good_verdict() -> None:
    words = ["--encrypt", "require", "--connections", "6", "--threads", "2", "--processes", "1"]
    words += ["--accounts", "10", "--rooms", "1", "--duration", "1", "--warmup", "0.2", "--json"]
    words += ["--server-flag=--require-encryption=on"]  # nothing goes in the clear
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["options"]["encrypt"] == "require"
    [run] = found["runs"]
    assert run["ok"] > 0
    assert (run["verdict"], run["problems"]) == ("good", [])

"""`tradechat-bench connections`, on real servers, and how memory is told apart."""

import json
import mmap
import os
import resource
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from bench import connections
from bench.lab import cli
from bench.lab.process import memory_of
from tests.helpers.leaks import region_name

SIZE = 1 << 25


def test_each_kind_of_crowd_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--connections", "20", "60", "--members=8", "--active=4", "--requests=80", "--runs=2"]
    assert connections.main([*words, "--json"]) == cli.EXIT_GOOD
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["kind"], row["connections"]) for row in rows] == [
        (kind, number) for kind in (connections.IDLE, connections.IN_ROOMS) for number in (20, 60)
    ]
    for row in rows:
        assert len(row["alone_us"]) == len(row["crowded_us"]) == 2
        assert row["rss_bytes"] >= 0
    for row in rows[2:]:
        assert row["region_bytes"] > 0  # a session has its place there


def test_a_table_of_ratios() -> None:
    row = {"kind": connections.IDLE, "connections": 1000, "uss_bytes": 2100, "rss_bytes": 1900}
    row |= {"region_bytes": 0, "alone_us": [10, 40, 20], "crowded_us": [20, 40, 30]}
    head, line = connections.table([row]).splitlines()
    assert head.endswith("  crowded / alone")
    assert line.startswith("idle  ")
    assert line.endswith("  30 (20 to 40)     1.5 (1 to 2)")


def test_memory_of_ones_own_and_of_the_region_are_told_apart() -> None:
    path = Path("/dev/shm") / region_name()  # noqa: S108 - where regions are
    with ExitStack() as stack:
        before = memory_of([os.getpid()])
        own = stack.enter_context(closing(mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE)))
        own.write(b"." * SIZE)
        stack.callback(path.unlink)
        with path.open("w+b") as file:
            file.truncate(SIZE)
            region = stack.enter_context(closing(mmap.mmap(file.fileno(), SIZE)))
        region.write(b"." * SIZE)
        found = memory_of([os.getpid()]).since(before)
    assert found.region == SIZE
    for size in (found.uss, found.rss):  # beside which the test itself takes some
        assert 0.75 * SIZE < size < 1.5 * SIZE


def test_too_few_open_files_are_said_before_anything_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert connections.main(["--connections", "10", "10000"]) == cli.EXIT_FAILED
    told = capsys.readouterr()
    assert "10200 connections need 10456 open files, and the hard limit is 4096" in told.err
    assert told.out == ""


@pytest.mark.parametrize("word", ["--connections=0", "--runs=0", "--kind=asleep"])
def test_wrong_usage(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        connections.main([word])
    assert raised.value.code == 2
    assert capsys.readouterr().err

"""The comparison of ways between processes: each way hands over what was asked for."""

import os
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from bench.ipc import WAYS, Way, begin, main, measure
from libproto.messages import CHUNK_MAX


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)
def test_a_chunk_arrives(make: Callable[[ExitStack], Way]) -> None:
    assert all(figure > 0 for figure in measure(make, 20))
    data = os.urandom(CHUNK_MAX)
    with ExitStack() as stack:
        way = make(stack)
        pid = begin(way, data)
        assert way.ask(b"chunk...") == data
        way.ask(b"end.....")
        os.waitpid(pid, 0)


def test_the_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--chunks", "10", "--times", "1"]) == 0
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()[-4:]] == [
        "POSIX", "System", "Unix", "two",
    ]  # fmt: skip

"""What the verdict on shared files finds: each of its checks has something planted."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.faults.sharing import Shared, Sharer, judge
from bench.lab.caller import Caller
from tests.helpers.server import RunningServer, StartServer, wait_until

LATE_S = 60.0


class Made:
    """Some files that were shared, and who reads them."""

    def __init__(self, server: RunningServer) -> None:
        self.shared = Shared()
        name = "sharer"
        with closing(Caller(server.host, server.port)) as registrar:
            registrar.register([name])
        sharer = Sharer(server.port, name, 1, 1, self.shared)
        thread = threading.Thread(target=sharer.run)
        thread.start()
        wait_until(lambda: len(self.shared.acknowledged) >= 2, "two files are shared")
        sharer.stops = True
        thread.join()
        self.contents: list[Path] = sorted((server.data / "files" / "contents").glob("*/*/*"))
        self.reader = Twice(server.port, name, 2, 1, self.shared)
        self.reader.give_up_at = time.monotonic() + LATE_S

    def found(self) -> set[str]:
        """The checks that the verdict finds broken."""
        judge(self.reader, self.shared)
        return {problem.check for problem in self.shared.problems}


class Twice(Sharer):
    """It may hear of each file once more than it was told."""

    again = 1

    def told(self) -> list[tuple[int, int, str]]:
        return super().told() * self.again


@pytest.fixture
def made(start_server: StartServer) -> Iterator[Made]:
    made = Made(start_server("--file-cache-mb", "0"))
    yield made
    made.reader.close()


def test_nothing_is_found_where_all_is_well(made: Made) -> None:
    assert made.found() == set()


def test_a_file_that_nobody_was_told_of(made: Made) -> None:
    made.shared.acknowledged[1 << 40] = 7, bytes(32)
    assert made.found() == {"files_lost"}


def test_a_file_that_is_another_one_now(made: Made) -> None:
    path = made.contents[0]
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    assert made.found() == {"files_lost"}


def test_a_file_that_is_told_of_twice(made: Made) -> None:
    made.reader.again = 2
    assert made.found() == {"files_twice"}

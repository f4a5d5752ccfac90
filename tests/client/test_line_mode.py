"""The line mode for a person (`--plain`) as they see it: keys between two prompts, a terminal that
is made narrower."""

import os
import termios
import threading
from collections.abc import Iterator

import pytest

from tests.client.conftest import register
from tests.client.screens import OnScreen
from tests.helpers.server import RunningServer

CTRL_D = "\x04"
LINES = 40


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("lines") / "data") as made:
        register(made, "alice")
        yield made


def _plain(server: RunningServer, columns: int = 100) -> OnScreen:
    arguments = ("--plain", "--user", "alice", "--room", "7")
    return OnScreen(server.port, *arguments, columns=columns)


class Watched:
    """Looks at a terminal, all the time, whether it takes lines by itself."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stop = threading.Event()
        self.takes_lines = 0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.is_set():
            local_flags = termios.tcgetattr(self._descriptor)[3]
            self.takes_lines += bool(local_flags & termios.ICANON)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def test_keys_between_two_prompts_are_the_programs(shared: RunningServer) -> None:
    """A terminal that took lines by itself there would take a Ctrl-D for itself, too."""
    with _plain(shared) as alice:
        alice.expect("[room 7] >")
        descriptor = os.dup(alice.terminal)
        watched = Watched(descriptor)
        try:
            for number in range(LINES):
                alice.press(f"line {number}\r")
                alice.expect(f"alice: line {number}")
        finally:
            watched.end()
            os.close(descriptor)
        assert watched.takes_lines == 0
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_a_long_line_in_a_terminal_that_is_made_narrower(shared: RunningServer) -> None:
    """What was typed is there once, and whole; it is sent as it was typed."""
    typed = " ".join(f"word{number}" for number in range(18))
    with _plain(shared, columns=90) as alice:
        alice.expect("[room 7] >")
        alice.press(typed)
        alice.expect("word17")
        for columns in (50, 34, 70, 41):
            alice.resize(columns, 24)

            def is_once() -> bool:
                written = "".join(row.ljust(columns) for row in alice.rows)  # noqa: B023
                return written.count("word0 ") == 1 and f"[room 7] > {typed}" in written

            alice.until(is_once, f"the line in {columns} columns")
        alice.press("!\r")
        alice.expect_row(r"^\[room 7\] >$")
        alice.resize(200, 24)
        alice.press("\x1b[A")
        alice.expect(f"[room 7] > {typed}!")
        alice.press("\x03" + CTRL_D)
        assert alice.end() == 0

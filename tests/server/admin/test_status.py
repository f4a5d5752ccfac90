"""`tradechat-admin status` and `top`: what a person sees of a server, and what a script is told."""

import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pexpect
import pyte
import pytest

from libproto.messages import Opcode
from server.admin import board
from server.admin.cli import main
from server.admin.health import health
from server.admin.snapshot import look
from server.region import status
from server.region.layout import ServerState, WorkerState
from server.region.region import Region
from server.region.status import STALE_S, Status
from tests.helpers.region import SMALL, set_word, small_region
from tests.helpers.server import ROOT, RunningServer, wait_until
from tests.helpers.wire import Lobby

COMMAND = (sys.executable, "-m", "server.admin.cli")
TIMEOUT_S = 60.0
ROWS, COLUMNS = 40, 120


def shown(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(arguments) == code
    return tuple(capsys.readouterr())  # type: ignore[return-value]


@contextmanager
def serving_region(*ages_s: float) -> Iterator[Region]:
    """A region of a server that serves, whose workers have said something so long ago."""
    with small_region() as region:
        region.header.state = ServerState.SERVING
        now = time.monotonic_ns() // 1000
        for slot in range(SMALL.workers):
            said = Status(
                now - int(ages_s[slot % len(ages_s)] * 1e6), WorkerState.IDLE, *[slot] * 6
            )
            status.publish(region, slot, said)
        yield region


# ---- status


def test_a_server_is_found_by_its_data_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own, of two; while it hangs, too; and not when it has ended."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    with RunningServer(mine) as server, RunningServer(other) as beside:
        for data, found in ((mine, server), (other, beside)):
            assert f"server    {found.name}, SERVING" in shown(
                capsys, "status", "--data", str(data)
            )[0]  # fmt: skip
            assert shown(capsys, "inspect", "sessions", "--data", str(data))
        server.signal(signal.SIGSTOP)
        try:
            assert server.name in shown(capsys, "top", "--once", "--data", str(mine))[0]
        finally:
            server.signal(signal.SIGCONT)
        assert beside.stop() == 0
        _, said = shown(capsys, "status", "--data", str(other), code=3)
        assert f"no server runs on {other}" in said
        assert "tradechat-server --data" in said
    _, said = shown(capsys, "status", "--data", str(tmp_path / "none"), code=3)
    assert "cannot be opened: No such file" in said


def test_a_server_that_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(tmp_path / "data") as server, Lobby(server) as lobby:
        wire = lobby.enter()
        wire.ok(Opcode.DEPOSIT, 100)
        wait_until(
            lambda: "STALE" not in shown(capsys, "status", "--name", server.name)[0],
            "each worker has said how it is",
        )
        out, said = shown(capsys, "status", "--name", server.name)
        found = json.loads(shown(capsys, "status", "--name", server.name, "--json")[0])
    assert said == ""
    lines = dict(line.split(None, 1) for line in out.partition("\n\n")[0].splitlines())
    assert lines["server"].startswith(f"{server.name}, SERVING, up 0:00:")
    assert lines["health"] == "ready"
    assert lines["clients"] == "1 connections, 1 sessions; 1 users"
    assert "are durable" in lines["journal"]
    assert found["health"] == {"live": True, "ready": True, "reasons": [], "warnings": []}
    assert found["served"]["DEPOSIT"]["requests"] == 1


def test_without_a_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(tmp_path / "data", "--durability", "none") as server:
        out, _ = shown(capsys, "status", "--name", server.name)
        assert shown(capsys, "top", "--once", "--interval", "0.1", "--name", server.name)
    assert "journal   none (--durability none): nothing is kept on disk\nrepairs   0," in out


def test_a_worker_that_says_nothing_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    with serving_region(0.0, STALE_S + 1) as region:
        out, _ = shown(capsys, "status", "--name", region.name, code=1)
        now = look(region)
        strong = [line.text for line in board.status_lines(now, health(now)) if line.is_strong]
    assert "health    warning: these workers have said nothing for half a minute: 1" in out
    row = next(line for line in out.splitlines() if line.split()[:1] == ["1"])
    assert row.split()[2] == "STALE"
    assert float(row.split()[-1]) > STALE_S
    assert [line for line in out.splitlines() if "STALE" in line or "warning" in line] == strong


def test_a_worker_that_has_said_something_since_the_look_began() -> None:
    with serving_region(-3.0) as region:
        now = look(region)
        rows = [line.text.split() for line in board.status_lines(now, health(now))]
    assert [row[-1] for row in rows if row[:1] == ["0"]] == ["0.0"]


@pytest.mark.parametrize(
    ("segment", "field", "said"),
    [("header", "recovery", "a worker has died"), ("journal", "failed", "cannot be written")],
)
def test_what_is_wrong_ends_with_1(
    segment: str, field: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving_region(0.0) as region:
        set_word(region, segment, 0, field, 5)
        out, _ = shown(capsys, "status", "--name", region.name, code=1)
    assert f"not ready: {said}" in out or said in out


def test_where_no_server_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(tmp_path / "data") as server:
        region = Path("/dev/shm", server.name)  # noqa: S108 - the region's place
        kept = region.with_name(f"{server.name}-kept")
        os.link(region, kept)
        server.crash()
        kept.rename(region)
        try:
            out, said = shown(capsys, "status", "--name", server.name, code=3)
        finally:
            region.unlink()
    assert out == ""
    assert "has ended" in said
    assert "start it again" in said
    assert shown(capsys, "status", "--name", server.name, code=3)[0] == ""


# ---- values


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert board.size(count) == text


def test_durations() -> None:
    assert [board.duration(s) for s in (-1, 59.9, 3600, 90061)] == [
        "0:00:00",
        "0:00:59",
        "1:00:00",
        "1 d 1:01:01",
    ]


def test_workers_are_sorted_and_their_rates_are_between_their_updates() -> None:
    with serving_region(3.0) as region:
        before = look(region)
        now_us = time.monotonic_ns() // 1000
        old = before.workers[0]
        status.publish(
            region, 0, Status(old.updated + 2_000_000, WorkerState.BUSY, 7, 0, 0, 500, 0, 0)
        )
        now = look(region)
        by = board.rates(before, now)
        assert by == {0: 250.0}, "the others have said nothing new"
        first = {sort: board.workers(now, by, sort)[1].text.split()[0] for sort in board.SORTS}
    assert now_us > old.updated
    most = str(SMALL.workers - 1)
    assert first.pop("memory_MiB") == first.pop("lag_ms") == most
    assert first == {"worker": "0", "requests_per_s": "0", "connections": "0"}


# ---- top


class Terminal:
    """`tradechat-admin top` at a pseudo-terminal, and what a person sees there."""

    def __init__(self, *arguments: str) -> None:
        self._child = pexpect.spawn(
            COMMAND[0], [*COMMAND[1:], "top", *arguments], cwd=str(ROOT), timeout=TIMEOUT_S,
            env={**os.environ, "TERM": "linux", "LINES": str(ROWS), "COLUMNS": str(COLUMNS)},
            dimensions=(ROWS, COLUMNS),
        )  # fmt: skip
        self._child.delaybeforesend = None
        self.pid = self._child.pid
        self.modes = termios.tcgetattr(self._child.child_fd)
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def screen(self) -> str:
        with suppress(pexpect.TIMEOUT, pexpect.EOF):
            while not self._child.closed:
                self._stream.feed(self._child.read_nonblocking(1 << 16, timeout=0))
        return "\n".join(line.rstrip() for line in self._screen.display)

    def await_shown(self, text: str) -> str:
        wait_until(lambda: text in self.screen, f"{text!r} on the screen")
        return self.screen

    def press(self, key: str) -> None:
        self._child.send(key)

    def end(self) -> int:
        """Its exit code, or the signal that ended it, negative; its terminal is as it was."""
        self._child.expect(pexpect.EOF)
        modes = termios.tcgetattr(self._child.child_fd)
        self._stream.feed(self._child.before or b"")
        self._child.close()
        assert modes == self.modes
        return int(
            self._child.exitstatus
            if self._child.signalstatus is None
            else -self._child.signalstatus
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close(force=True)


def test_top_shows_workers_and_obeys_its_keys(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server, Lobby(server) as lobby:
        wire = lobby.enter()
        with Terminal("--name", server.name, "--interval", "0.1") as terminal:
            terminal.await_shown("sorted by worker")
            for pid in server.worker_pids():
                terminal.await_shown(f"  {pid}  ")
            assert terminal.await_shown("q quit").splitlines()[-1].startswith("q quit")
            wait_until(
                lambda: wire.ok(Opcode.DEPOSIT, 1) and "\nDEPOSIT" in terminal.screen, "its rate"
            )
            terminal.press("s")
            terminal.await_shown("sorted by requests_per_s")
            terminal.press("p")
            paused = terminal.await_shown("paused: p resumes")
            terminal.press("s")
            again = terminal.await_shown("sorted by connections")
            rates = [text.split("requests/s")[1].splitlines()[0] for text in (paused, again)]
            assert rates[0] == rates[1], "nothing moves"
            terminal.press("p")
            terminal.await_shown("q quit")
            terminal.press("q")
            assert terminal.end() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_top_leaves_the_terminal_as_it_was(tmp_path: Path, number: int, code: int) -> None:
    with RunningServer(tmp_path / "data") as server, Terminal("--name", server.name) as terminal:
        terminal.await_shown("sorted by")
        os.kill(terminal.pid, number)
        assert terminal.end() == code


def test_top_ends_with_the_server(tmp_path: Path) -> None:
    with (
        RunningServer(tmp_path / "data") as server,
        Terminal("--name", server.name, "--interval", "0.1") as terminal,
    ):
        terminal.await_shown("sorted by")
        server.stop()
        assert terminal.end() == 3
        assert "has ended" in terminal.screen


def test_top_for_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunningServer(tmp_path / "data") as server, Lobby(server) as lobby:
        wire = lobby.enter()
        command = [*COMMAND, "top", "--once", "--name", server.name]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as top:
            while top.poll() is None:
                wire.ok(Opcode.DEPOSIT, 1)
            assert top.stdout is not None
            out = top.stdout.read()
        assert top.returncode == 0
        assert "\x1b" not in out
        row = next(line for line in out.splitlines() if line.startswith("DEPOSIT "))
        assert float(row.split()[1]) > 0
        said = shown(capsys, "top", "--name", server.name, code=2)[1]
    assert "--once" in said


@pytest.mark.parametrize("wrong", ["0", "nan", "soon", "3601"])
def test_an_interval_that_is_none(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert wrong in shown(capsys, "top", "--interval", wrong, code=2)[1]

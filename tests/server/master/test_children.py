"""Forks that fail, and streams that are closed: the server serves all the same."""

import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from server import child
from server.config import Settings
from server.core import recovery
from server.core.state import State
from server.exits import Exit
from server.journal import life
from server.master.vacancy import BACK_OFF_S
from tests.helpers import leaks
from tests.helpers.forked import NOBODY, ForkedServer, children_of, small_settings
from tests.helpers.server import ROOT, lasting_port, wait_until

END_S = 60.0


def lines(text: str, name: str) -> list[dict[str, object]]:
    """The lines of a log with that event."""
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == name]


def named(pid: int, what: str) -> int:
    """A child of the master, by what it is; 0: there is none."""
    return next((pid for pid, title in children_of(pid).items() if title == what), 0)


# ---- the system allows no more processes


def become_nobody() -> None:
    """The limit on processes does not bind root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def data_of_nobody(open_path: Path) -> Path:
    """A data directory that such a user can use."""
    data = open_path / "data"
    data.mkdir()
    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
    return data


@pytest.fixture
def unprivileged(open_path: Path) -> Iterator[ForkedServer]:
    """A server that serves, of a user whom limits bind."""
    data = data_of_nobody(open_path)
    with ForkedServer(small_settings(data), open_path, become_nobody) as server:
        server.await_ready()
        yield server


@contextmanager
def no_forks(server: ForkedServer) -> Iterator[None]:
    """It may have no further process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    limit_processes(server.pid, 0, hard)
    yield
    limit_processes(server.pid, soft, hard)


def limit_processes(pid: int, soft: int, hard: int) -> None:
    """By a process of the same user: root may not do it everywhere."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_limit_processes, args=(pid, soft, hard))
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()


def _limit_processes(pid: int, soft: int, hard: int) -> None:
    become_nobody()
    with suppress(ProcessLookupError):  # it may have ended
        resource.prlimit(pid, resource.RLIMIT_NPROC, (soft, hard))


@pytest.mark.parametrize("what", ["worker 0", "journal", "archive"])
def test_a_fork_that_fails_is_tried_again(unprivileged: ForkedServer, what: str) -> None:
    """With a back-off, and never a traceback; when it is possible again all is as before."""
    server = unprivileged

    def refused() -> int:
        return len(re.findall('"(process|repair)_not_forked"', server.error))

    victim = named(server.pid, what)
    with no_forks(server):
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: refused() >= 3, "it is tried again", END_S)
    wait_until(lambda: named(server.pid, what) not in (0, victim), "it is replaced", END_S)
    wait_until(lambda: set(children_of(server.pid).values()) == ALL, "all are there", END_S)
    assert server.stop() == Exit.OK, server.error
    assert "Traceback" not in server.error
    assert "ulimit -u" in server.error


ALL = {"worker 0", "worker 1", "journal", "archive", "files"}


def test_a_stop_while_nothing_can_be_forked(unprivileged: ForkedServer) -> None:
    """A repair that cannot be made keeps the server no longer than its graceful timeout."""
    server = unprivileged
    with no_forks(server):
        os.kill(named(server.pid, "worker 1"), signal.SIGKILL)
        wait_until(lambda: '"repair_not_forked"' in server.error, "no repair", END_S)
        assert server.stop(server.settings.graceful_timeout + END_S) == Exit.OK
    assert "Traceback" not in server.error


def test_a_start_that_may_not_fork(open_path: Path) -> None:
    def limited() -> None:
        become_nobody()
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))

    data = data_of_nobody(open_path)
    with ForkedServer(small_settings(data), open_path, limited) as server:
        assert server.ended(END_S)
        assert server.code == Exit.NOT_STARTED
    (line,) = lines(server.error, "cannot_start")
    assert "ulimit -u" in str(line["reason"])


@pytest.fixture
def no_threads(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, an archive may have no thread."""
    flag, enter = open_path / "flag", child.enter

    def limited(settings: Settings, title: str, *given: Any) -> None:
        enter(settings, title, *given)
        if title == "archive" and flag.exists():
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))

    monkeypatch.setattr(life, "enter", limited)  # inherited over the forks
    return flag


def test_an_archive_without_threads_at_the_start(open_path: Path, no_threads: Path) -> None:
    no_threads.touch()
    settings = small_settings(data_of_nobody(open_path))
    with ForkedServer(settings, open_path, become_nobody) as server:
        assert server.ended(END_S)
        assert server.code == Exit.NOT_STARTED
    (line,) = lines(server.error, "cannot_start")
    assert str(line["reason"]).startswith("archive: ")
    assert "ulimit -u" in str(line["reason"])
    assert "Traceback" not in server.error


def test_an_archive_without_threads_is_replaced_until_it_has_them(
    open_path: Path, no_threads: Path
) -> None:
    settings = small_settings(data_of_nobody(open_path))
    with ForkedServer(settings, open_path, become_nobody) as server:
        server.await_ready()
        no_threads.touch()
        os.kill(named(server.pid, "archive"), signal.SIGKILL)
        wait_until(lambda: server.error.count("ulimit -u") >= 2, "it cannot be replaced", END_S)
        no_threads.unlink()
        told = server.error.count("ulimit -u")
        wait_until(lambda: set(children_of(server.pid).values()) == ALL, "all are there", END_S)
        assert server.stop() == Exit.OK, server.error
    died = [line for line in lines(server.error, "process_died") if line["reason"]]
    assert len(died) >= told
    assert {line["process"] for line in died} == {"archive"}
    assert "Traceback" not in server.error


# ---- deaths in the course of a recovery


def test_a_death_in_a_recovery_is_repaired_after_before_the_place_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repair ends all sessions of the place: it must not find those of who comes after."""
    hold, too_late = tmp_path / "hold", tmp_path / "too late"
    repair = recovery.repair

    def held(states: Sequence[State], now: int) -> Counter[str]:
        there = children_of(os.getppid()).values()
        if any(f"worker {state.worker}" in there for state in states):
            too_late.touch()
        while hold.exists():
            time.sleep(0.001)
        return repair(states, now)

    monkeypatch.setattr(recovery, "repair", held)  # inherited over the forks
    with ForkedServer(small_settings(tmp_path / "data"), tmp_path) as server:
        server.await_ready()
        hold.touch()
        os.kill(named(server.pid, "worker 0"), signal.SIGKILL)
        wait_until(lambda: named(server.pid, "repair") != 0, "a repair")
        os.kill(named(server.pid, "worker 1"), signal.SIGKILL)
        wait_until(lambda: len(lines(server.error, "process_died")) == 2, "the other death")
        threading.Event().wait(2 * BACK_OFF_S[1])  # so that its place could be filled
        hold.unlink()
        wait_until(lambda: set(children_of(server.pid).values()) == ALL, "all are there")
        wait_until(lambda: len(lines(server.error, "workers_resumed")) == 2, "two recoveries")
    assert [line["repaired"] for line in lines(server.error, "workers_resumed")] == [[0], [1]]
    assert not too_late.exists()


# ---- standard streams


def run(shell: str, tmp_path: Path, stdout: int = subprocess.DEVNULL) -> tuple[int, str]:
    """A server started by this line of the shell, in which "$@" is its command; it is told to stop
    when it serves. Its exit code, and its log."""
    port, log, name = lasting_port(), tmp_path / "log", leaks.region_name()
    command = [sys.executable, "-m", "server", f"--port={port}", f"--name={name}", "--workers=2"]
    command += [f"--data={tmp_path / 'data'}", f"--log-file={log}", "--log-format=json"]
    process = subprocess.Popen(
        ["sh", "-c", f"exec {shell}", "sh", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(
            lambda: process.poll() is not None or (log.exists() and '"serving"' in log.read_text()),
            "it serves",
            END_S,
        )
        # A child is born with what the master has.
        if process.poll() is None and (victim := named(process.pid, "worker 1")):
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda: '"workers_resumed"' in log.read_text(), "it is repaired after", END_S
            )
            wait_until(lambda: named(process.pid, "worker 1") not in (0, victim), "again", END_S)
        process.terminate()
        return process.wait(END_S), log.read_text() if log.exists() else ""
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]
)
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    code, log = run(f'"$@" {closed}', tmp_path)
    assert code == Exit.OK, log
    assert "Traceback" not in log
    assert not lines(log, "cannot_start")


def broken_pipe() -> list[int]:
    reading, writing = os.pipe()
    os.close(reading)
    return [writing]


def full_pipe() -> list[int]:
    """Whose reader, which this process keeps, reads nothing."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while os.write(writing, bytes(4096)):
            pass
    os.set_blocking(writing, True)
    return [writing, reading]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: [os.open("/dev/full", os.O_WRONLY)], "No space left"),
        (broken_pipe, "Broken pipe"),
        (full_pipe, "nobody reads it"),
        (lambda: [os.open("/dev/null", os.O_RDONLY)], "Bad file descriptor"),
    ],
    ids=["full", "broken", "not-read", "read-only"],
)
def test_a_ready_line_that_cannot_be_written(
    tmp_path: Path, make: Callable[[], list[int]], why: str
) -> None:
    """It is one warning, and the server serves."""
    made = make()
    try:
        code, log = run('"$@"', tmp_path, made[0])
    finally:
        for fd in made:
            os.close(fd)
    assert code == Exit.OK, log
    (warning,) = lines(log, "ready_line_unwritable")
    assert why in str(warning["reason"])
    assert warning["level"] == "warning"

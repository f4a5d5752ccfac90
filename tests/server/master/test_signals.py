"""Signals: which of them stop the server, and that no other one ends any process of it; whatever is
inherited, and at whatever instant they come."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libproto.messages import Opcode
from server.child import LEAVE
from server.early import HELD, STOP_SIGNALS
from tests.helpers import leaks
from tests.helpers.forked import children_of
from tests.helpers.server import ROOT, RunningServer, wait_until
from tests.helpers.wire import Lobby

END_S = 60.0
OTHERS = sorted(
    HELD
    - {*STOP_SIGNALS, signal.SIGCHLD, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1}
    - {signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2}
)
"""Signals that ask for nothing."""


def events(text: str, name: str) -> list[dict[str, object]]:
    """The lines of a log with that event."""
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == name]


def test_signals_that_kill_nobody(server: RunningServer) -> None:
    """To the master and to every child: all go on, and the master says what it has ignored."""
    assert signal.SIGALRM in OTHERS
    children = server.children()
    for number in OTHERS:
        os.kill(server.process.pid, number)
    for number in HELD - {*STOP_SIGNALS, LEAVE}:
        for pid in children:
            os.kill(pid, number)
    with Lobby(server) as lobby:
        for slot in (0, 1):
            lobby.enter(worker=slot).ok(Opcode.DEPOSIT, 5)
    wait_until(
        lambda: len(events(server.log_text(), "signal_ignored")) == len(OTHERS), "all are told"
    )
    assert server.children().keys() == children.keys()
    assert events(server.log_text(), "signal_ignored")[0]["sender"] == os.getpid()
    assert server.stop() == 0


PAUSED_REPAIR = """
import pathlib, time
from server.core import recovery
repair, flag = recovery.repair, pathlib.Path({flag!r})
def paused(*given):
    while not flag.exists():
        time.sleep(0.005)
    return repair(*given)
recovery.repair = paused
from server.__main__ import main
raise SystemExit(main())
"""


def test_signals_to_the_repair(tmp_path: Path) -> None:
    """They stop neither it nor the server."""
    flag, log = tmp_path / "flag", tmp_path / "log"
    with started(
        [sys.executable, "-c", PAUSED_REPAIR.format(flag=str(flag))], tmp_path, log=log
    ) as (process, pid):
        victim = next(c for c, what in children_of(pid).items() if what.startswith("worker"))
        os.kill(victim, signal.SIGKILL)

        def repair() -> int:
            return next((c for c, what in children_of(pid).items() if what == "repair"), 0)

        wait_until(lambda: bool(repair()), "the repair runs", END_S)
        it = repair()
        for number in (*STOP_SIGNALS, *OTHERS):
            os.kill(it, number)
        flag.touch()
        wait_until(lambda: bool(events(log.read_text(), "workers_resumed")), "it is done", END_S)
        assert [line["pid"] for line in events(log.read_text(), "repaired")] == [it]
        assert process.poll() is None
        assert not events(log.read_text(), "stopping")
    assert process.returncode == 0


@contextmanager
def started(
    program: list[str], tmp_path: Path, *, log: Path, before: tuple[str, ...] = (), **popen: object
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A server, and the process id of its master as seen from here; told to stop at the end."""
    name = leaks.region_name()
    command = [*before, *program, "--port", "0", "--name", name, "--data", str(tmp_path / "data")]
    process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload] # by keyword
        [*command, "--log-file", str(log), "--log-format", "json", "--workers", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        **popen,
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], END_S)
        line = process.stdout.readline() if ready else ""
        assert line.startswith("ready "), log.read_text() if log.exists() else line
        pid = process.pid
        while before and re.search(r"unshare|prlimit", Path(f"/proc/{pid}/cmdline").read_text()):
            (pid,) = children_of(pid)
        yield process, pid
        os.kill(pid, signal.SIGTERM)
        process.communicate(timeout=END_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ignore_everything() -> None:
    """What a parent may have done to its signals."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def is_replaced(pid: int, before: dict[int, str], victim: int) -> bool:
    """Are the children the same again, but for one that has another process id?"""
    now = children_of(pid)
    return victim not in now and sorted(now.values()) == sorted(before.values())


def test_whatever_the_parent_ignores_or_blocks(tmp_path: Path) -> None:
    """It starts, sees a child's end, repairs after it, and stops when it is told to."""
    log = tmp_path / "log"
    with started(
        [sys.executable, "-m", "server"],
        tmp_path,
        log=log,
        preexec_fn=ignore_everything,
        restore_signals=False,
    ) as (process, pid):
        for _ in range(2):
            children = children_of(pid)
            victim = next(c for c, what in children.items() if what.startswith("worker"))
            before = len(events(log.read_text(), "workers_resumed"))
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda n=before: len(events(log.read_text(), "workers_resumed")) > n,  # type: ignore[misc] # bound now
                "repaired",
                END_S,
            )
            wait_until(
                lambda had=children, gone=victim: is_replaced(pid, had, gone),  # type: ignore[misc] # bound now
                "replaced",
                END_S,
            )
    assert process.returncode == 0
    assert [line["how"] for line in events(log.read_text(), "process_died")] == [
        "killed by SIGKILL"
    ] * 2


# ---- as the first process of a container

FIRST = ("unshare", "--pid", "--fork", "--kill-child")


def needs_namespaces() -> None:
    if subprocess.run([*FIRST, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a process namespace of our own needs root")


def test_orphans_are_reaped(tmp_path: Path) -> None:
    """Whoever's: as the first process of a container the server gets all that nobody waits for."""
    needs_namespaces()
    log = tmp_path / "log"
    with started([sys.executable, "-m", "server"], tmp_path, log=log, before=FIRST) as (
        process,
        pid,
    ):
        assert "NSpid:\t" in Path(f"/proc/{pid}/status").read_text()
        ours = children_of(pid)
        # A shell that leaves processes behind; they outlive it, and end.
        orphans = "for i in 1 2 3; do sh -c 'exit 3' & done; (sleep 0.2; exit 4) &"
        subprocess.run(
            ["nsenter", "--pid", f"--target={pid}", "sh", "-c", f"sh -c {orphans!r}"], check=True
        )
        wait_until(lambda: len(children_of(pid)) > len(ours), "an orphan comes", END_S)
        wait_until(lambda: children_of(pid) == ours, "and is reaped", END_S)
    assert process.returncode == 0
    assert not events(log.read_text(), "process_died")


# Sends SIGTERM to itself when the Nth function of the server is called for the first time, counted
# from when signals are held. Prints how many there were when it serves.
AT_AN_INSTANT = """
import os, runpy, signal, sys
nth, seen, master = int(sys.argv.pop(1)), None, os.getpid()
def look(frame, event, _):
    global seen
    if os.getpid() != master or f"{os.sep}server{os.sep}" not in frame.f_code.co_filename:
        return
    if event == "return" and frame.f_code.co_name == "hold_signals":
        seen = set()
    elif event == "call" and seen is not None and frame.f_code not in seen:
        seen.add(frame.f_code)
        if len(seen) == nth:
            sys.setprofile(None)
            os.kill(master, signal.SIGTERM)
        elif frame.f_code.co_name == "_announce":
            sys.setprofile(None)
            os.write(2, f"instants {len(seen)}\\n".encode())
            os.kill(master, signal.SIGTERM)
sys.setprofile(look)
sys.argv[0] = "server"
runpy.run_module("server", run_name="__main__", alter_sys=True)
"""


def stopped_at(nth: int, tmp_path: Path, before: tuple[str, ...]) -> str:
    """What a server says that is told to stop at the nth instant of its start; it must stop."""
    data = tmp_path / str(nth)
    program = [*before, sys.executable, "-c", AT_AN_INSTANT, str(nth)]
    with leaks.watch():
        done = subprocess.run(
            [*program, "--port=0", f"--name={leaks.region_name()}", f"--data={data}", *QUIET],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=END_S,
            check=False,
        )
    assert done.returncode == 0, f"instant {nth}: {done.stderr}"
    assert '"stopped"' in done.stderr, f"instant {nth}: {done.stderr}"
    return done.stderr


QUIET = ("--log-format=json", "--workers=2")
INSTANTS = int(os.environ.get("TRADECHAT_INSTANTS", "3"))  # that are tried


@pytest.mark.parametrize("before", [(), FIRST], ids=["", "as-process-1"])
def test_a_stop_at_any_instant_of_the_start(tmp_path: Path, before: tuple[str, ...]) -> None:
    """Never lost: not by process 1 either, for which the system drops a signal without handler."""
    if before:
        needs_namespaces()
    found = re.search(r"instants (\d+)", stopped_at(10**6, tmp_path, before))
    assert found
    count = int(found[1])
    assert count > 100
    for nth in range(1, count + 1, max(1, count // INSTANTS)):
        stopped_at(nth, tmp_path, before)

"""The programs that break a server under load: their report, words on the wire, runs."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from bench.faults.history import History
from bench.faults.interrupting import Traces
from bench.faults.report import FIGURES, Report
from bench.faults.scripts import SCRIPTS
from bench.faults.verdict import judge
from bench.lab.process import Held, children_of, family_of, workers_of
from bench.lab.target import Target
from bench.lab.verdict import CHECKS
from bench.lab.wire import Wire
from libproto.codec import REQUEST
from libproto.messages import Opcode
from tests.bench.broken import (
    PLANTED,
    RUN_S,
    faults,
    good,
)
from tests.helpers.server import ROOT, RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby

# ---- the report


def test_a_report_tells_every_check_that_was_made() -> None:
    report = Report("kill9", "a setting", complete=True, figures={"kills": 3}, waits_s={"x": [0.1]})
    table = report.as_table()
    assert all(text in table for check, text in CHECKS.items() if check != "left")
    assert "workers killed" in table
    assert table.endswith("good")
    assert report.waits_ms() == {"x": {"p50": 100.0, "p99": 100.0, "max": 100.0}}


def test_a_report_names_what_was_not_kept() -> None:
    report = Report("kill9", "a setting", complete=True)
    report.problems += judge(_planted("lost")).problems
    assert not report.good
    assert "VIOLATED" in report.as_table()
    assert "lost: WITHDRAW 4 of user 11 was answered txn 10, not in the log" in report.as_table()
    assert json.loads(json.dumps(report.as_object()))["violations"]["lost"] == 1


def _planted(check: str) -> History:
    history = good()
    next(plant for name, plant in PLANTED if name == check)(history)
    return history


# ---- the wire


def test_nothing_follows_half_a_frame() -> None:
    """Somebody may be in the middle of a long history when the connection is to be cut."""
    half = len(REQUEST[Opcode.DEPOSIT].frame(1, 0, 5)) // 2
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def play() -> None:
            port = listener.getsockname()[1]
            wire = await Wire.open("127.0.0.1", port, lambda *_: None, lambda _: None)
            wire.send(Opcode.DEPOSIT, 1, (5,), lambda _: None, cut_at=0.5)
            wire.ask(Opcode.BALANCE, settle=lambda _: None)
            wire.cut(reset=False)
            await wire.closed.wait()

        asyncio.run(play())
        with listener.accept()[0] as sock:
            received = b"".join(iter(lambda: sock.recv(4096), b""))
    assert len(received) == half


# ---- runs


@pytest.mark.parametrize("script", [script.name for script in SCRIPTS])
def test_a_short_run(script: str) -> None:
    every = {"kill9": "0.3", "stop": "0.1", "reset": "0.02", "journal": "0.3"}.get(script, "0.5")
    # That a cut falls into a frame is a matter of chance: often enough, for a longer time.
    seconds = "6" if script == "reset" else "1.5"
    run = faults(
        script,
        f"--seconds={seconds}",
        "--connections=12",
        "--rate=600",
        f"--every={every}",
        "--json",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["good"]
    assert report["figures"].keys() <= FIGURES.keys()
    if script == "files":
        figures = report["figures"]
        assert figures["files"] > 0
        assert figures["files_read"] >= figures["files"]
        assert sum(figures[killed] for killed in ("files_kills", "kills", "crashes")) > 0
        return
    assert report["figures"]["acknowledged"] > 50
    assert report["figures"]["deliveries"] > 50
    done = {
        "kill9": "kills",
        "stop": "stops",
        "restart": "restarts",
        "reset": "resets_in_frame",
        "journal": "journal_kills",
        "crash": "crashes",
        "take-over": "take_overs",
        "board": "takes_done",
        "interrupt": "interrupts",
    }
    assert report["figures"][done[script]] >= 1
    if script == "board":
        assert sum(report["figures"][killed] for killed in ("kills", "keeper_kills", "crashes")) > 1
        assert report["figures"]["takes_late"] > 0
    if script == "crash":
        assert report["waits_ms"]["from the kill to `ready`"]["max"] > 0
    if script != "interrupt":
        assert report["figures"]["unknown"] == 0


def test_a_server_of_the_users_own(server: RunningServer) -> None:
    run = faults(
        "kill9",
        *("--seconds=1", "--connections=8", "--every=0.4", "--rate=400"),
        *(f"--port={server.port}", f"--pid={server.process.pid}", f"--name={server.name}"),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "workers killed" in run.stdout
    assert "the server's count: deaths" in run.stdout
    assert run.stdout.rstrip().endswith("good")


def test_a_server_that_ends_is_a_violation(server: RunningServer) -> None:
    command = [
        sys.executable, "-m", "bench.faults", "reset", "--seconds=30", "--connections=4",
        f"--port={server.port}", f"--pid={server.process.pid}", f"--name={server.name}",
    ]  # fmt: skip
    with Lobby(server) as lobby:
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        wait_until(lambda: lobby.counters()["requests_TRANSFER"] > 0, "the load has begun")
        assert server.stop() == 0
        told, _ = run.communicate(timeout=RUN_S)
    assert run.returncode == 1
    assert "the server has ended" in told


def _starts_its_server(pid: int) -> bool:
    return bool(children_of(pid))


def _is_under_load(pid: int) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        links = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    except FileNotFoundError:
        return False  # one was closed meanwhile
    return len([link for link in links if link.startswith("socket:")]) >= 12


@pytest.mark.parametrize("moment", [_starts_its_server, _is_under_load])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_ends_its_server(
    moment: Callable[[int], bool], number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "bench.faults", "kill9", "--seconds=30", "--connections=12"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_until(lambda: moment(run.pid), moment.__name__)
        run.send_signal(number)
        told, error = run.communicate(timeout=RUN_S)
    assert run.returncode == code
    assert (told, error) == ("", "")


def test_a_run_that_is_ended_while_its_server_starts_again() -> None:
    command = [
        sys.executable, "-m", "bench.faults", "crash", "--seconds=30", "--connections=12",
        "--every=0.2",
    ]  # fmt: skip
    seen: set[int] = set()

    def begins_again() -> bool:
        seen.update(children_of(run.pid))
        return len(seen) >= 2

    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_until(begins_again, "the server is started again")
        run.send_signal(signal.SIGINT)
        told, error = run.communicate(timeout=RUN_S)
    assert run.returncode == 130
    assert (told, error) == ("", "")


def test_a_server_without_a_journal(start_server: StartServer) -> None:
    server = start_server("--durability=none")
    named = (f"--port={server.port}", f"--pid={server.process.pid}", f"--name={server.name}")
    run = faults("journal", "--seconds=1", *named)
    assert run.returncode == 3
    assert "no journal process" in run.stderr


def test_traces_of_a_server(server: RunningServer) -> None:
    pid = server.process.pid
    traces = Traces(Target(server.host, server.port, pid, server.name))
    left = traces.left()
    assert sum(line.startswith("process ") for line in left) == len(family_of(pid)) == 6
    assert f"/dev/shm/{server.name}" in left  # noqa: S108 - where shared memory is
    assert any(str(server.port) in line for line in left)
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert traces.left() == []


def test_only_a_worker_is_held(server: RunningServer) -> None:
    pid = server.process.pid
    with pytest.raises(ProcessLookupError):
        Held(pid)
    with pytest.raises(ProcessLookupError):
        Held(os.getpid())
    wait_until(lambda: len(workers_of(pid)) == 2, "both workers have their titles")
    held = Held(workers_of(pid)[0])
    held.signal(signal.SIGCONT)
    held.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kill9", "--port=7878"], "needs --pid"),
        (["all", "--port=7878"], "needs --pid"),
        (["crash", "--port=7878"], "starts its server again"),
        (["reset", "--pid=1"], "name that too"),
        (["stop", "--connections=1"], "at least 4"),
        (["stop", "--every=0"], "not above 0"),
        ([], "SCRIPT"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    run = faults(*arguments)
    assert run.returncode == 2
    assert message in run.stderr


def test_a_port_where_nobody_listens() -> None:
    run = faults("reset", "--port=1", "--seconds=1")
    assert run.returncode == 3
    assert "cannot be registered" in run.stderr

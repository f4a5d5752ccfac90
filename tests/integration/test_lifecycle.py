"""How a server starts, ends, and what it says about it. That nothing is left behind, neither a
process nor an entry of /dev/shm, is checked around every test (tests/conftest.py)."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from libproto.errors import Status
from libproto.messages import EventKind, Flag, Opcode
from server.config import Settings
from server.master.resources import capacities
from server.region.layout import Layout
from tests.helpers import leaks
from tests.helpers.server import ROOT, RunningServer, StartServer, lasting_port, wait_until
from tests.helpers.wire import Lobby, RoomAccount, Wire, request

USAGE, NOT_STARTED, INTERRUPTED = 2, 3, 130
STOPS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
COMMAND = (sys.executable, "-m", "server")
END_S = 60.0


def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A server that ends by itself."""
    return subprocess.run(
        [*COMMAND, *flags],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )


def refusal(*flags: str) -> str:
    """Why a server cannot start; it says so in one line, and nothing on its standard output."""
    done = run(*flags, "--port", "0", "--log-format", "json")
    assert (done.returncode, done.stdout) == (NOT_STARTED, "")
    (line,) = done.stderr.splitlines()
    event = json.loads(line)
    assert event["level"] == "error"
    return str(event["reason"])


def events(server: RunningServer, name: str) -> list[dict[str, Any]]:
    """The lines of its log with that event."""
    found = (json.loads(line) for line in server.log_text().splitlines())
    return [event for event in found if event["event"] == name]


# ---- the start


def test_the_ready_line(tmp_path: Path) -> None:
    """One line on standard output, all that is ever there; the log goes to standard error."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--workers", "3", "--data", str(tmp_path / "data")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"ready host=(\S+) port=(\d+) workers=(\d+) pid=(\d+)\n", line)
    assert found, line
    host, port, workers, pid = found.groups()
    assert (host, workers, int(pid)) == ("127.0.0.1", "3", process.pid)
    with Wire(socket.create_connection((host, int(port)), timeout=5)) as wire:
        wire.ok(Opcode.HEARTBEAT, 1)
    process.terminate()
    rest, error = process.communicate(timeout=END_S)
    assert (process.returncode, rest) == (0, "")
    told = [json.loads(line) for line in error.splitlines()]
    warned = [line["event"] for line in told if line["level"] != "info"]
    assert [each for each in warned if each != "runs_as_root"] == ["new_data_directory"]


def test_processes_are_named(server: RunningServer) -> None:
    def title(pid: int) -> str:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()

    assert title(server.process.pid) == "tradechat: master"
    titles = sorted(title(pid) for pid in server.worker_pids())
    assert titles == ["tradechat: worker 0", "tradechat: worker 1"]


def test_connections_come_to_every_worker(start_server: StartServer) -> None:
    with Lobby(start_server(workers=3)) as lobby:
        assert sorted(lobby.worker_of(lobby.enter(worker=slot)) for slot in range(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--workers", "none"], "workers is 'none'"),
        (["--workers", "0"], "workers is 0"),
        (["--port", "65536"], "port is 65536"),
        (["--event-ring", "100"], "a power of two"),
        (["--heartbeat", "60"], "heartbeat must be less than idle_timeout"),
        (["--sessions", "5", "--max-connections", "6"], "sessions must not be less"),
        (["--config", "no-such-file.toml"], "no-such-file.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_and_configuration_errors(flags: list[str], said: str) -> None:
    """Exit code 2, and what is wrong with which setting."""
    done = run(*flags)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_check_config_and_print_config(tmp_path: Path) -> None:
    """What is printed is a configuration file that says the same again; nothing is started."""
    file = tmp_path / "tradechat.toml"
    file.write_text('workers = 3\nregistration = "closed"\n')
    flags = ("--config", str(file), "--data", str(tmp_path / "data"))
    checked = run(*flags, "--check-config")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "valid" in checked.stdout
    printed = run(*flags, "--print-config", TRADECHAT_ROOMS="12")
    assert printed.returncode == 0
    content = tomllib.loads(printed.stdout)
    assert (content["workers"], content["registration"], content["rooms"]) == (3, "closed", 12)
    again = tmp_path / "again.toml"
    again.write_text(printed.stdout)
    assert tomllib.loads(run("--config", str(again), "--print-config").stdout) == content
    assert run(*flags, "--check-config", "--workers", "0").returncode == USAGE
    assert not (tmp_path / "data").exists()


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"tradechat-server \d+\.\d+\.\d+ \(compiled\)\n", done.stdout)


def test_the_port_is_taken(server: RunningServer, tmp_path: Path) -> None:
    """By a process that shares it, as another tradechat does, or by one that does not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for port in (server.port, listener.getsockname()[1]):
            done = run("--port", str(port), "--data", str(tmp_path / "other"))
            assert (done.returncode, done.stdout) == (NOT_STARTED, "")
            (line,) = done.stderr.splitlines()
            reason = json.loads(line)["reason"]
            assert f"port {port}" in reason
            assert "--port" in reason
    with Lobby(server) as lobby:
        lobby.enter()


def test_the_data_directory_is_in_use(server: RunningServer) -> None:
    reason = refusal("--data", str(server.data))
    assert str(server.data) in reason
    assert "--data" in reason
    with Lobby(server) as lobby:
        lobby.enter()


def test_the_data_directory_is_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        reason = refusal("--data", str(path))
        assert str(path) in reason
        assert "--data" in reason


def test_the_name_is_in_use(server: RunningServer, tmp_path: Path) -> None:
    reason = refusal("--data", str(tmp_path / "other"), "--name", server.name)
    assert server.name in reason
    assert "--name" in reason
    with Lobby(server) as lobby:
        lobby.enter()


def test_dev_shm_is_too_small(tmp_path: Path) -> None:
    """Said with the size that is needed; the region is removed, and nothing of it was allocated."""
    largest = {"event_ring": 1 << 20, "max_message": 32768, "sessions": 1 << 20, "rooms": 1 << 16}
    size = Layout(capacities(Settings(workers=1, **largest))).size  # type: ignore[arg-type]
    there = os.statvfs(leaks.SHM)
    assert size > there.f_blocks * there.f_frsize, "this machine can hold the largest region"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in largest.items()]
    reason = refusal("--data", str(tmp_path / "data"), "--workers", "1", *flags)
    assert f"{size / 2**20:.1f} MiB in {leaks.SHM}" in reason
    assert "lower the capacities" in reason


def test_few_open_files_are_said_at_the_start(tmp_path: Path) -> None:
    """It serves all the same, as far as they go."""
    process = subprocess.Popen(
        ["prlimit", "--nofile=256:256", *COMMAND, "--port", "0", "--data", str(tmp_path / "data")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready ")
    process.terminate()
    _, error = process.communicate(timeout=END_S)
    assert process.returncode == 0
    warnings = [line for line in map(json.loads, error.splitlines()) if line["level"] == "warning"]
    warnings = [line for line in warnings if line["event"] != "runs_as_root"]
    new, warning = sorted(warnings, key=lambda line: str(line["event"]))
    assert new["event"] == "new_data_directory"
    assert warning["allowed"] == 256
    assert warning["needed"] > Settings().max_connections
    assert warning["event"] == "open_files_limited"
    assert "--max-connections" in warning["advice"]


# ---- a stop in order

PIPELINED = 50


def talk_until_closed(wire: Wire, started: threading.Event) -> list[int]:
    """Deposits, many at a time, until the server ends the stream, which it says before. Answers the
    statuses; there is one for each request that came while the server read, in order."""
    statuses: list[int] = []
    warned = False
    sent = 0
    while True:
        wire.send_raw(
            b"".join(request(Opcode.DEPOSIT, sent + n, 1) for n in range(1, PIPELINED + 1))
        )
        for n in range(1, PIPELINED + 1):
            frame = wire.receive()
            if frame is not None and frame.opcode == Opcode.GOING_AWAY:
                assert frame.body == (0, "the server is stopping")
                warned, frame = True, wire.receive()
            if frame is None:
                assert warned
                return statuses
            assert frame.req_id == sent + n
            statuses.append(frame.status)
            if frame.status:
                assert frame.status == Status.ERR_SERVER_BUSY
                assert frame.body.retry_after_ms > 0
        started.set()
        sent += PIPELINED


@STOPS
def test_a_stop_under_load(start_server: StartServer, number: signal.Signals) -> None:
    """What was received is answered, what comes later is ERR_SERVER_BUSY, then the stream ends,
    without a reset; exit code 0."""
    server = start_server(workers=2)
    results: list[list[int]] = []
    with Lobby(server) as lobby:
        wires = [lobby.enter(worker=slot % 2) for slot in range(6)]
        started = [threading.Event() for _ in wires]
        threads = [
            threading.Thread(target=lambda w=wire, s=event: results.append(talk_until_closed(w, s)))
            for wire, event in zip(wires, started, strict=True)
        ]
        for thread in threads:
            thread.start()
        for event in started:
            assert event.wait(END_S)
        server.signal(number)
        for thread in threads:
            thread.join()
        assert server.wait() == 0
    assert len(results) == len(wires), "each ended without an error"
    for statuses in results:
        first_busy = statuses.index(Status.ERR_SERVER_BUSY)
        assert first_busy >= PIPELINED
        assert set(statuses[first_busy:]) == {Status.ERR_SERVER_BUSY}
    assert events(server, "stopped")
    assert not [line for line in server.log_text().splitlines() if '"error"' in line]


def test_what_was_sent_before_the_stop_is_answered(start_server: StartServer) -> None:
    """Thousands of requests in one go: each has its answer, executed or refused."""
    server = start_server(workers=1)
    with Lobby(server) as lobby:
        wire, count = lobby.enter(), 5000
        wire.send_raw(b"".join(request(Opcode.DEPOSIT, n, 1) for n in range(1, count + 1)))
        statuses = [wire.answer().status]
        server.signal(signal.SIGTERM)
        statuses += [wire.answer().status for _ in range(count - 1)]
        wire.expect_end()
    executed = statuses.count(Status.OK)
    assert statuses == [Status.OK] * executed + [Status.ERR_SERVER_BUSY] * (count - executed)
    assert server.wait() == 0


@STOPS
def test_a_stop_with_clients_that_do_nothing(
    start_server: StartServer, number: signal.Signals
) -> None:
    """They see the end of the stream, whatever state they are in, and the server does not wait for
    them to close."""
    server = start_server("--graceful-timeout", "600")
    with Lobby(server) as lobby:
        member, fresh, half = lobby.enter(), lobby.open(), lobby.open()
        member.ok(Opcode.JOIN_ROOM, 1)
        member.push()
        fresh.ok(Opcode.HEARTBEAT, 1)
        half.send_raw(request(Opcode.HEARTBEAT, 1, 1)[:39])
        server.signal(number)
        for wire in (member, fresh, half):
            wire.expect_end()
        assert server.wait() == 0


def test_a_stop_refuses_new_connections(start_server: StartServer) -> None:
    """The port is free for the next server at once, while the old one still ends."""
    server = start_server("--port", str(lasting_port()), workers=1)
    with Lobby(server) as lobby:
        lobby.enter()
        server.signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                socket.create_connection((server.host, server.port), timeout=1).close()
            except (ConnectionRefusedError, ConnectionResetError):
                return True
            return False

        wait_until(refused, "nobody listens any more")
    assert server.wait() == 0
    again = start_server("--port", str(server.port))
    assert again.port == server.port


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing any more, as one that hangs."""
    os.kill(pid, signal.SIGSTOP)
    yield


def test_a_second_sigint_ends_at_once(start_server: StartServer) -> None:
    """A worker hangs, so the first one takes its time."""
    server = start_server("--graceful-timeout", "60")
    with stopped(server.worker_pids()[0]):
        server.signal(signal.SIGINT)
        wait_until(lambda: bool(events(server, "stopping")), "it has begun to stop")
        server.signal(signal.SIGINT)
        assert server.wait(END_S) == INTERRUPTED


def test_a_worker_that_hangs_is_killed(start_server: StartServer) -> None:
    """And nobody can connect meanwhile, though the stopped worker still has its listener. The whole
    stop takes no longer than the timeout."""
    graceful = 10.0
    server = start_server("--graceful-timeout", str(graceful))
    with stopped(server.worker_pids()[1]):
        server.signal(signal.SIGTERM)
        wait_until(lambda: bool(events(server, "stopping")), "it has begun to stop")
        for _ in range(20):
            with pytest.raises(OSError, match="refused"):
                server.connect()
        assert server.wait() == 0
    warnings = events_of_level(server, "warning")
    expected = ("new_data_directory", "runs_as_root")
    (warning,) = (event for event in warnings if event["event"] not in expected)
    assert warning["workers"] == [1]
    (end,) = events(server, "stopped")
    assert end["seconds"] <= graceful


def events_of_level(server: RunningServer, level: str) -> list[dict[str, Any]]:
    found = (json.loads(line) for line in server.log_text().splitlines())
    return [event for event in found if event["level"] == level]


# ---- ends that are none in order


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM], ids=lambda n: n.name
)
def test_a_worker_ends(start_server: StartServer, number: signal.Signals) -> None:
    """By whatever signal: its users go offline and have left their rooms, those of the other worker
    go on, another one takes its place, and what was answered is there."""
    room, client_id = 5, 77
    server = start_server()
    with Lobby(server) as lobby:
        username = lobby.new_user()
        gone, stays = lobby.enter(username, worker=0, client_id=client_id), lobby.enter(worker=1)
        account = RoomAccount(room, stays.ok(Opcode.JOIN_ROOM, room).last_seq)
        gone.ok(Opcode.JOIN_ROOM, room)
        paid = gone.call(Opcode.DEPOSIT, 25, req_id=3)
        account.take_until(stays, account.first + 1)
        before = lobby.worker_pid(0)
        os.kill(before, number)
        account.take(stays.push())
        assert account.events[account.last] == (EventKind.LEFT, gone.user, "")
        assert not stays.ok(Opcode.USER_LOOKUP, username).online
        seq = stays.ok(Opcode.CHAT_SEND, room, "still here").room_seq
        account.take_until(stays, seq)
        gone.close()

        wait_until(lambda: lobby.worker_pid(0) not in (0, before), "its place is filled")
        again = lobby.enter(username, worker=0, client_id=client_id)
        retry = again.call(Opcode.DEPOSIT, 25, req_id=3, flags=Flag.POSSIBLE_DUPLICATE)
        assert (retry.status, retry.flags & Flag.POSSIBLE_DUPLICATE) == (
            Status.OK,
            Flag.POSSIBLE_DUPLICATE,
        )
        assert retry.body == paid.body
        account.take_until(stays, again.ok(Opcode.JOIN_ROOM, room).last_seq + 1)
        assert not account.gaps
    (death,) = events(server, "process_died")
    assert death["process"] == "worker 0"
    if number != signal.SIGTERM:
        assert number.name in death["how"]
    assert server.stop() == 0


def test_the_master_is_killed(start_server: StartServer) -> None:
    """Its processes end by themselves, and the next start takes the same data directory and name,
    though the region of the dead one still lies there."""
    server = start_server()
    children = server.children()
    with Lobby(server) as lobby:
        wire = lobby.enter()
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        wire.expect_end()
        for pid in children:
            leaks.wait_gone(pid)
    again = start_server("--data", str(server.data), "--name", server.name)
    again.name = server.name
    with Lobby(again) as lobby:
        assert lobby.enter().ok(Opcode.BALANCE).balance == 0


def test_a_master_that_is_killed_under_load(start_server: StartServer) -> None:
    """No worker waits for a lock, a client or a full buffer for ever."""
    server = start_server("--graceful-timeout", "3", workers=2)
    children = server.children()
    with Lobby(server) as lobby:
        deaf = [lobby.enter(worker=slot) for slot in (0, 1)]
        for wire in deaf:
            wire.ok(Opcode.JOIN_ROOM, 1)
            data = b"".join(request(Opcode.CHAT_SEND, 1, 1, "x" * 4000) for _ in range(250))
            wire.send_raw(data)
        for wire in deaf:
            assert wire.readable(END_S)
        server.signal(signal.SIGKILL)
        server.wait()
        for pid in children:
            leaks.wait_gone(pid)
    again = start_server("--data", str(server.data), "--name", server.name)
    assert again.stop() == 0


# ---- what it says while it runs


def test_the_stats_line(start_server: StartServer) -> None:
    """Totals over all workers, and the rates between two lines."""
    server = start_server("--stats-interval", "0.2")
    with Lobby(server) as lobby:
        wires = [lobby.enter(worker=slot) for slot in (0, 1)]
        for wire in wires:
            wire.ok(Opcode.JOIN_ROOM, 1)
            for _ in range(3):
                wire.ok(Opcode.DEPOSIT, 5)
            assert wire.status(Opcode.WITHDRAW, 100) == Status.ERR_INSUFFICIENT_FUNDS

        def latest() -> dict[str, Any]:
            lines = events(server, "stats")
            return lines[-1] if lines else {"requests": {}}

        wait_until(lambda: latest()["requests"].get("WITHDRAW") == 2, "a line tells of it")
        line = latest()
        assert line["requests"].items() >= {"DEPOSIT": 6, "JOIN_ROOM": 2, "WITHDRAW": 2}.items()
        assert line["errors"] == {"WITHDRAW": 2}
        assert line["form"] == "compiled"
        assert (line["connections"], line["sessions"]) == (2, 2)
        assert line["txn_head"] == 2 + 6  # registrations are numbered too
        assert line["event_head"] == 2
        assert (line["pushes"], line["gaps"], line["laps"]) == (3, 0, 0)
        assert set(line["lock_waits"]) == set(line["lock_waited_ms"])
        for wire in wires:
            wire.close()
        wait_until(lambda: latest()["connections"] == 0, "they have gone")
        assert latest()["sessions"] == 0
        wait_until(lambda: latest()["requests_per_s"] == 0, "and nothing was asked since")
        lines = len(events(server, "stats"))
        wire = lobby.enter(worker=0)
        wait_until(lambda: len(events(server, "stats")) > lines, "something happens again")
        told = [{**line, "ts": ""} for line in events(server, "stats")]
        assert all(one != other for one, other in itertools.pairwise(told)), "none at rest"
        assert all(event["requests_per_s"] >= 0 for event in events(server, "stats"))


def test_no_stats_and_nothing_per_request(start_server: StartServer) -> None:
    """At the default level, requests leave no line in the log."""
    server = start_server("--stats-interval", "0")
    with Lobby(server) as lobby:
        wait_until(lambda: bool(events(server, "serving")), "the start is logged")
        before = server.log_text()
        wire = lobby.enter()
        for _ in range(50):
            wire.ok(Opcode.DEPOSIT, 5)
        wire.send_raw(b"not a frame of this protocol, but long enough")
        wire.answer()
        wire.expect_end()
        wire.close()
        wait_until(lambda: lobby.counters()["connections"] == 0, "it has gone")
        assert server.log_text() == before

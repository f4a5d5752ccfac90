"""Workers that are replaced: one by one by SIGHUP, more or fewer by SIGTTIN and SIGTTOU; settings
that are read again; and the signals of the operator in every phase of a server's life.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from client import Client
from libproto.messages import Opcode
from libproto.sealing import ServerKey, fingerprint
from tests.helpers.forked import children_of
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby, Wire
from tests.server.master.test_signals import PAUSED_REPAIR, events, started

END_S = 60.0
PASSWORD = "correct horse"  # noqa: S105 - of the tests' users


def told(server: RunningServer, name: str) -> list[dict[str, object]]:
    return events(server.log_text(), name)


def await_event(server: RunningServer, name: str, count: int = 1) -> list[dict[str, object]]:
    wait_until(lambda: len(told(server, name)) >= count, name, END_S)
    return told(server, name)


def replaced(server: RunningServer, before: list[int]) -> Callable[[], bool]:
    """Whether there are as many workers as before, and none of those."""
    return lambda: (
        len(server.worker_pids()) == len(before) and not set(before) & set(server.worker_pids())
    )


# ---- SIGHUP


def test_workers_are_replaced_one_by_one(server: RunningServer) -> None:
    """There are never fewer than before, and one more at most."""
    before, counts = server.worker_pids(), set[int]()
    server.signal(signal.SIGHUP)

    def seen() -> bool:
        counts.add(len(server.worker_pids()))
        return replaced(server, before)()

    wait_until(seen, "others", END_S)
    assert counts <= {2, 3}
    assert [line["process"] for line in told(server, "worker_leaves")] == ["worker 0", "worker 1"]
    assert not told(server, "process_died")
    with Lobby(server) as lobby:
        assert lobby.enter().ok(Opcode.DEPOSIT, 5)


@pytest.mark.parametrize("encrypted", [False, True], ids=["clear", "encrypted"])
def test_a_program_notices_nothing(server: RunningServer, encrypted: bool) -> None:
    """Calls of clients of both kinds, and of new ones, all along three restarts: no error."""
    key = ServerKey.from_pem((server.data / "server.key").read_bytes())
    pin = fingerprint(key.identity) if encrypted else None
    over, failures, made = threading.Event(), list[BaseException](), [0]

    def trade(number: int) -> None:
        try:
            with Client(port=server.port, reconnect=bool(number % 2), pin=pin) as client:
                client.register(f"user{number}", PASSWORD)
                client.login(f"user{number}", PASSWORD)
                client.join(1)
                done = 0
                while not over.is_set():
                    assert client.deposit(1, timeout_s=30).balance == done + 1
                    assert client.send(1, "hello").room_seq
                    done += 1
                made[0] += client.balance().balance
                assert client.reconnects == 0
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            failures.append(error)

    def come_and_go() -> None:
        try:
            while not over.is_set():
                with Wire(server.connect()) as wire:
                    wire.ok(Opcode.HEARTBEAT, 1)
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=trade, args=(number,)) for number in range(6)]
    threads += [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = server.worker_pids()
            server.signal(signal.SIGHUP)
            wait_until(replaced(server, before), "others", END_S)
    finally:
        over.set()
        for thread in threads:
            thread.join(END_S)
    assert not failures, failures
    assert made[0] > 0
    assert not told(server, "process_died")


def test_who_waits_in_the_queue_is_served(server: RunningServer) -> None:
    """Connections that nobody has accepted when the workers change: none is reset."""
    before = server.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    with ExitStack() as stack:
        waiting = [stack.enter_context(Wire(server.connect())) for _ in range(40)]
        server.signal(signal.SIGHUP)
        await_event(server, "worker_leaves")
        for pid in before:
            os.kill(pid, signal.SIGCONT)
        for wire in waiting:  # by whoever has accepted it
            wire.ok(Opcode.HEARTBEAT, 1)
    wait_until(replaced(server, before), "others", END_S)


def test_clients_that_stay_are_served_until_the_deadline(start_server: StartServer) -> None:
    """They are told how long that is, and are answered as long; then the stream ends."""
    server = start_server("--drain-timeout", "2", workers=1)
    with Lobby(server) as lobby:
        wire, (before,) = lobby.enter(), server.worker_pids()
        fresh = lobby.open()
        server.signal(signal.SIGHUP)
        for each in (wire, fresh):
            push = each.push()
            assert push.opcode == Opcode.GOING_AWAY
            assert push.body.reconnect_within_ms == 2000
        wire.ok(Opcode.DEPOSIT, 5)
        fresh.ok(Opcode.HEARTBEAT, 1)
        assert lobby.enter().ok(Opcode.DEPOSIT, 5)  # by the other worker
        for each in (wire, fresh):
            each.expect_end()
        wait_until(lambda: before not in server.worker_pids(), "its end", END_S)
    assert not told(server, "process_died")


def test_a_worker_that_dies_as_it_leaves_is_repaired_after(start_server: StartServer) -> None:
    """And nobody comes in its place, which another one has."""
    server = start_server(workers=1)
    with Lobby(server) as lobby:
        wire, (before,) = lobby.enter(), server.worker_pids()
        wire.ok(Opcode.JOIN_ROOM, 1)
        server.signal(signal.SIGHUP)
        while wire.push().opcode != Opcode.GOING_AWAY:
            pass
        os.kill(before, signal.SIGKILL)
        await_event(server, "repaired")
        wait_until(lambda: len(server.worker_pids()) == 1, "one worker", END_S)
        other = lobby.enter()
        assert other.ok(Opcode.JOIN_ROOM, 1).member_count == 1
    assert len(told(server, "process_died")) == 1


def test_one_that_dies_before_it_serves_is_tried_again(tmp_path: Path) -> None:
    """The worker before it stays, and serves."""
    log = tmp_path / "log"
    with started([sys.executable, "-c", DIES_ONCE], tmp_path, log=log) as (_, pid):
        before = {c for c, what in children_of(pid).items() if what.startswith("worker")}
        os.kill(pid, signal.SIGHUP)

        def others() -> bool:
            now = {c for c, what in children_of(pid).items() if what.startswith("worker")}
            return len(now) == 2 and not now & before

        wait_until(others, "both are replaced", END_S)
        died = events(log.read_text(), "process_died")
        assert [line["how"] for line in died] == ["exit code 1"]
        assert not {line["process_pid"] for line in died} & before


DIES_ONCE = """
import os
from server.worker import process
run = process.run
def once(inherited, slot, master):
    if slot == 2 and not os.path.exists(flag):
        open(flag, "w").close()
        os._exit(1)
    run(inherited, slot, master)
process.run = once
import sys
flag = sys.argv[sys.argv.index("--data") + 1] + ".flag"
from server.__main__ import main
raise SystemExit(main())
"""


# ---- settings that are read again


@contextmanager
def configured(start_server: StartServer, tmp_path: Path, text: str) -> Iterator[RunningServer]:
    file = tmp_path / "tradechat.toml"
    file.write_text(text)
    yield start_server("--config", str(file), workers=1)


def set_to(tmp_path: Path, text: str) -> None:
    (tmp_path / "tradechat.toml").write_text(text)


def test_settings_are_read_again(start_server: StartServer, tmp_path: Path) -> None:
    with configured(start_server, tmp_path, "heartbeat = 15\nrooms = 8\n") as server:
        set_to(tmp_path, 'heartbeat = 7\nrooms = 9\nregistration = "closed"\n')
        before = server.worker_pids()
        server.signal(signal.SIGHUP)
        wait_until(replaced(server, before), "another worker", END_S)
        (line,) = told(server, "reloading")
        assert sorted(line["changed"]) == ["heartbeat", "registration"]  # type: ignore[call-overload] # a list
        assert [line["settings"] for line in told(server, "settings_kept")] == [["rooms"]]
        with Wire(server.connect()) as wire:
            assert wire.hello().body.heartbeat_s == 7


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("heartbeat = 99\n", "heartbeat must be less than idle_timeout"),
        ("heartbeat = \n", "not valid TOML"),
        ("hartbeat = 7\n", "did you mean heartbeat?"),
        ("rooms = 0\n", "rooms is 0"),
    ],
)
def test_what_is_wrong_is_refused(
    start_server: StartServer, tmp_path: Path, text: str, reason: str
) -> None:
    """In a sentence; what was there before stays, and so do the workers."""
    with configured(start_server, tmp_path, "heartbeat = 9\n") as server:
        set_to(tmp_path, text)
        before = server.worker_pids()
        server.signal(signal.SIGHUP)
        (line,) = await_event(server, "settings_refused")
        assert reason in str(line["reason"])
        assert server.worker_pids() == before
        set_to(tmp_path, "heartbeat = 8\n")
        server.signal(signal.SIGHUP)
        wait_until(replaced(server, before), "another worker", END_S)
        with Wire(server.connect()) as wire:
            assert wire.hello().body.heartbeat_s == 8


# ---- more workers, and fewer


def test_a_worker_more_or_less(start_server: StartServer) -> None:
    """Within what is reserved. Connections come to those that there are; who was on one that
    goes is on another one, without an error."""
    server = start_server("--max-workers", "3", workers=1)
    with Client(port=server.port) as client:
        client.register("ann", PASSWORD)
        client.login("ann", PASSWORD)
        for count in (2, 3):
            server.signal(signal.SIGTTIN)
            await_event(server, "workers_resized", count - 1)
            wait_until(lambda n=count: len(server.worker_pids()) == n, "more", END_S)  # type: ignore[misc] # bound now
        server.signal(signal.SIGTTIN)
        await_event(server, "workers_not_resized")
        with Lobby(server) as lobby:
            assert {lobby.worker_of(lobby.enter()) for _ in range(40)} == {0, 1, 2}
        for count in (2, 1):
            server.signal(signal.SIGTTOU)
            await_event(server, "workers_resized", 5 - count)
            wait_until(lambda n=count: len(server.worker_pids()) == n, "fewer", END_S)  # type: ignore[misc] # bound now
            assert client.deposit(1).txn_id
        server.signal(signal.SIGTTOU)
        await_event(server, "workers_not_resized", 2)
        for _ in range(20):
            with Wire(server.connect()) as wire:
                wire.ok(Opcode.HEARTBEAT, 1)
        assert client.reconnects == 0
    assert not told(server, "process_died")


# ---- SIGQUIT and SIGUSR1


def test_quit_ends_at_once(start_server: StartServer) -> None:
    """Whatever clients wait for, and however long a stop may take; what was answered is kept."""
    server = start_server("--graceful-timeout", "600")
    with Lobby(server) as lobby:
        wire = lobby.enter()
        wire.ok(Opcode.DEPOSIT, 5)
        name = lobby.username(wire)
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGSTOP)  # in order it would take ten minutes
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0
    assert told(server, "stopped")
    again = RunningServer(server.data)
    with again, Lobby(again) as lobby:
        wire = lobby.open()
        wire.hello(name)
        assert not wire.login(name).status
        assert wire.ok(Opcode.BALANCE).balance == 5


def test_quit_hurries_a_stop(start_server: StartServer) -> None:
    server = start_server("--graceful-timeout", "600")
    with Lobby(server) as lobby:
        lobby.enter()
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        await_event(server, "stopping")
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0


def test_log_files_are_opened_anew(server: RunningServer) -> None:
    """By every process: what they say after it is in the new file."""
    moved = server.log.with_suffix(".1")
    server.log.rename(moved)
    server.signal(signal.SIGUSR1)
    wait_until(server.log.exists, "a new file", END_S)
    await_event(server, "log_reopened")

    def opened(pid: int) -> set[str]:
        with suppress(FileNotFoundError):
            folder = Path(f"/proc/{pid}/fd")
            return {os.readlink(each) for each in folder.iterdir()}
        return set()

    pids = [server.process.pid, *server.children()]
    wait_until(
        lambda: all(str(server.log) in opened(pid) for pid in pids), "all have the new one", END_S
    )
    assert not any(str(moved) in opened(pid) for pid in pids)
    assert server.stop() == 0
    assert {"worker_stopping", "stopped"} <= {
        json.loads(line)["event"] for line in server.log_text().splitlines()
    }


# ---- in every phase

# LEAVE is for workers; to the master it is SIGUSR2, which begins another server: test_take_over.py.
COMMANDS = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1)


def test_in_a_start(tmp_path: Path) -> None:
    """What is asked for before it serves is done when it does."""
    log = tmp_path / "log"
    early = "import os, signal\nfor n in (signal.SIGHUP, signal.SIGTTIN, signal.SIGUSR1):\n"
    early += "    signal.pthread_sigmask(signal.SIG_BLOCK, {n})\n    os.kill(os.getpid(), n)\n"
    program = [sys.executable, "-c", f"{early}from server.__main__ import main\nmain()"]
    with started(program, tmp_path, log=log) as (_, pid):
        for name in ("log_reopened", "reloading", "workers_resized"):
            wait_until(lambda n=name: bool(events(log.read_text(), n)), name, END_S)  # type: ignore[misc] # bound now

        def settled() -> bool:
            workers = [what for what in children_of(pid).values() if what.startswith("worker")]
            return len(workers) == 3 and len(events(log.read_text(), "worker_leaves")) == 2

        wait_until(settled, "three workers, two of them in the place of others", END_S)
        assert not events(log.read_text(), "process_died")


def test_in_a_recovery(tmp_path: Path) -> None:
    """It is done when the repair is over."""
    flag, log = tmp_path / "flag", tmp_path / "log"
    with started(
        [sys.executable, "-c", PAUSED_REPAIR.format(flag=str(flag))], tmp_path, log=log
    ) as (_, pid):

        def workers() -> set[int]:
            return {c for c, what in children_of(pid).items() if what.startswith("worker")}

        before = workers()
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "repair" in children_of(pid).values(), "the repair runs", END_S)
        for number in COMMANDS:
            os.kill(pid, number)
        wait_until(lambda: bool(events(log.read_text(), "log_reopened")), "a new log", END_S)
        assert not events(log.read_text(), "reloading")
        flag.touch()
        wait_until(lambda: bool(events(log.read_text(), "reloading")), "it is obeyed", END_S)
        wait_until(lambda: len(workers()) == 2 and not workers() & before, "all others", END_S)
        died = events(log.read_text(), "process_died")
        assert [line["process_pid"] for line in died] == [victim]


def test_in_a_stop(start_server: StartServer) -> None:
    """Nothing but the stop comes of them, and that is in order."""
    server = start_server("--graceful-timeout", "30")
    with Lobby(server) as lobby:
        lobby.enter()
        pids = server.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        await_event(server, "stopping")
        for number in COMMANDS:
            server.signal(number)
        await_event(server, "log_reopened")
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert server.wait() == 0
    assert not told(server, "reloading")
    assert {"SIGHUP", "SIGTTIN", "SIGTTOU"} <= {
        str(line["signal"]) for line in told(server, "signal_ignored")
    }
    assert told(server, "stopped")


def test_a_stop_in_a_restart(start_server: StartServer) -> None:
    """Whoever is coming or leaving ends as well."""
    server = start_server("--drain-timeout", "600")
    with Lobby(server) as lobby:
        wires = [lobby.enter(worker=slot) for slot in (0, 1)]
        server.signal(signal.SIGHUP)
        await_event(server, "worker_leaves")
        assert server.stop() == 0
        for wire in wires:
            wire.expect_end()


@pytest.mark.parametrize("name", ["ttin", "ttou"])
def test_job_control_does_not_stop_it(name: str, tmp_path: Path) -> None:
    """The system's own action on these would be to stop the process, before it serves too."""
    number = signal.Signals[f"SIG{name.upper()}"]
    code = f"import os; os.kill(os.getpid(), {int(number)}); print('on')"
    program = f"from server.early import hold_signals; hold_signals(); {code}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=END_S, check=True
    )
    assert done.stdout == "on\n"
    assert not list(tmp_path.iterdir())


def test_many_signals_at_once(server: RunningServer) -> None:
    """Twenty of each, as fast as they can be sent, under connections that come and go."""
    for _ in range(20):
        for number in COMMANDS:
            server.signal(number)
        with suppress(ConnectionError), socket.create_connection((server.host, server.port)) as s:
            s.shutdown(socket.SHUT_RDWR)
    await_event(server, "reloading")
    server.signal(signal.SIGHUP)
    with Lobby(server) as lobby:
        lobby.enter().ok(Opcode.DEPOSIT, 1)
    assert server.stop() == 0
    assert not told(server, "process_died")

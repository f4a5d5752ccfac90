"""A process of the server has no descriptors or no memory left, by real limits: who is there is
served, nothing spins, the log says it once, and all is well again once there is some."""

import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import Opcode
from server.admin.audit import audit
from server.region.region import Region
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby, Wire
from tests.server.master.test_start import in_another_tree

BEATS = 4  # in which a process that has nothing to do is watched
BUSY = Status.ERR_SERVER_BUSY
SEGMENT = 1 << 20  # bytes of one of the journal, and a little more is sent
LONG = "x" * 3000
IDLE_CPU_S = 0.5  # that it may use meanwhile: one that spins takes all of BEATS x 0.4 s


@contextmanager
def limited(pid: int, limit: int, most: int) -> Iterator[None]:
    """A process may have so much of something for a while."""
    before = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (most, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # another one has its place
            resource.prlimit(pid, limit, before)


def address_space(pid: int) -> int:
    """Bytes that a process has mapped."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lines(server: RunningServer, event: str) -> list[dict[str, object]]:
    """Of the log."""
    every = [json.loads(line) for line in server.log_text().splitlines()]
    return [line for line in every if line["event"] == event]


def check_rests(server: RunningServer, pid: int) -> None:
    """The worker of slot 0 goes on, and does not spin."""
    region = Region.attach(server.name)
    try:
        at = region.layout["workers"].at(0, "beat")
        last, before = region.words[at] + BEATS, cpu_s(pid)
        wait_until(lambda: region.words[at] >= last, "it beats")
        assert cpu_s(pid) - before < IDLE_CPU_S
    finally:
        region.close()


def check_audit(server: RunningServer) -> None:
    region = Region.attach(server.name)
    try:
        assert not audit(region, time.sleep).problems
    finally:
        region.close()


@pytest.fixture
def lobby(start_server: StartServer) -> Iterator[Lobby]:
    with Lobby(start_server(workers=1)) as made:
        yield made


def crowd(lobby: Lobby, count: int) -> list[Wire]:
    """Connections that have asked for something, which nobody may have taken yet."""
    wires = [lobby.open() for _ in range(count)]
    for wire in wires:
        wire.send(Opcode.HEARTBEAT, 1)
    return wires


def test_a_worker_without_descriptors(lobby: Lobby) -> None:
    (pid,) = lobby.server.worker_pids()
    there = lobby.enter()
    with limited(pid, resource.RLIMIT_NOFILE, descriptors(pid) + 3):
        wires = crowd(lobby, 20)
        wait_until(lambda: bool(lines(lobby.server, "not_accepting")), "the log says it")
        check_rests(lobby.server, pid)
        there.ok(Opcode.DEPOSIT, 7)
        assert sum(wire.readable(0) for wire in wires) <= 3
    for wire in wires:
        assert wire.answer().status == Status.OK
    assert there.ok(Opcode.BALANCE).balance == 7
    assert len(lines(lobby.server, "not_accepting")) == 1
    assert lobby.server.worker_pids() == [pid]
    check_audit(lobby.server)


def test_a_worker_without_memory_for_more_connections(lobby: Lobby) -> None:
    (pid,) = lobby.server.worker_pids()
    there = lobby.enter()
    with limited(pid, resource.RLIMIT_AS, address_space(pid)):
        wires = crowd(lobby, 20)
        wait_until(lambda: bool(lines(lobby.server, "not_accepting")), "the log says it")
        check_rests(lobby.server, pid)
        there.ok(Opcode.DEPOSIT, 7)
        assert not any(wire.readable(0) for wire in wires)
    for wire in wires:
        assert wire.answer().status == Status.OK
    (line,) = lines(lobby.server, "not_accepting")
    assert line["error"] == "Cannot allocate memory"
    assert lobby.server.worker_pids() == [pid]
    check_audit(lobby.server)


def test_a_worker_without_memory_for_those_that_are_there(lobby: Lobby) -> None:
    """Members that do not read have more kept for them than there is memory for."""
    (pid,) = lobby.server.worker_pids()
    speaker = lobby.enter()
    speaker.ok(Opcode.DEPOSIT, 100)
    members = [lobby.enter() for _ in range(40)]
    for wire in (speaker, *members):
        wire.ok(Opcode.JOIN_ROOM, 3)
    with limited(pid, resource.RLIMIT_AS, address_space(pid)):
        while not lines(lobby.server, "out_of_memory"):
            for _ in range(10):
                speaker.ok(Opcode.CHAT_SEND, 3, LONG)
            speaker.pushes.clear()
        check_rests(lobby.server, pid)
        speaker.ok(Opcode.DEPOSIT, 1)
    ended = sum(ends(wire) for wire in members)
    assert ended > 0
    assert len(lines(lobby.server, "out_of_memory")) == 1
    assert lobby.server.worker_pids() == [pid]
    newcomer = lobby.open()
    newcomer.ok(Opcode.HEARTBEAT, 1)
    assert speaker.ok(Opcode.BALANCE).balance == 101
    check_audit(lobby.server)


def ends(wire: Wire) -> bool:
    """What was sent is read, and then it is closed; or it is there, and answers."""
    try:
        wire.send(Opcode.HEARTBEAT, 1)
        wire.answer()
    except (AssertionError, OSError):
        return True
    return False


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("journal", resource.RLIMIT_AS),
        ("archive", resource.RLIMIT_AS),
        ("journal", resource.RLIMIT_NOFILE),
    ],
)
def test_another_process_without(lobby: Lobby, what: str, limit: int) -> None:
    """Requests are executed or refused, and never half; then all are executed again."""
    server, deposited = lobby.server, 0
    (pid,) = (pid for pid, name in server.children().items() if name == what)
    there = lobby.enter()
    there.ok(Opcode.JOIN_ROOM, 3)
    has = address_space if limit == resource.RLIMIT_AS else descriptors
    with limited(pid, limit, has(pid)):
        for _ in range(SEGMENT // len(LONG)):
            assert there.status(Opcode.CHAT_SEND, 3, LONG) in (Status.OK, BUSY)
            there.pushes.clear()
        for _ in range(10):
            deposited += there.status(Opcode.DEPOSIT, 1) == Status.OK
    assert len(faults(server)) <= 1
    wait_until(lambda: there.status(Opcode.CHAT_SEND, 3, LONG) == Status.OK, "messages are taken")
    there.ok(Opcode.DEPOSIT, 1)
    assert there.ok(Opcode.BALANCE).balance == deposited + 1
    there.ok(Opcode.ROOM_HISTORY, 3, 0, 10)
    check_audit(server)


def test_the_files_process_without_memory_for_segments(tmp_path: Path) -> None:
    """Requests for files are refused, and no segment is lost by that."""
    flags = "--segments", "4", "--segment-timeout", "0.2"
    with RunningServer(tmp_path / "data", *flags, workers=1) as server, Lobby(server) as lobby:
        (pid,) = (pid for pid, name in server.children().items() if name == "files")
        wires = [lobby.enter() for _ in range(6)]
        for wire in wires:
            wire.ok(Opcode.JOIN_ROOM, 3)
        file = 3, 5, bytes(32), "text/plain", "a.txt"
        with limited(pid, resource.RLIMIT_AS, address_space(pid)):
            for wire in wires:
                assert wire.status(Opcode.FILE_BEGIN, *file) == BUSY
        for wire in wires:
            wait_until(
                lambda wire=wire: wire.status(Opcode.FILE_BEGIN, *file) == Status.OK,  # type: ignore[misc]
                "files are taken",
            )
        assert len(lines(server, "segments_unusable")) == 1
        assert not faults(server)


class WithItsOwnShm(RunningServer):
    """A server with a small /dev/shm to itself."""

    program = (*in_another_tree("mount -t tmpfs -o size=96m none /dev/shm"), *RunningServer.program)


def test_dev_shm_is_full_when_a_worker_is_replaced(tmp_path: Path) -> None:
    """The new one serves all but files, and those once there is space."""
    with WithItsOwnShm(tmp_path / "data", workers=1) as server, ExitStack() as stack:
        shm = Path(f"/proc/{server.process.pid}/root/dev/shm")
        filler = stack.enter_context((shm / "filler").open("wb", buffering=0))
        for path in shm.glob(f"{server.name}_segments_*"):  # who has it open keeps its space
            stack.enter_context(path.open("rb"))
        with suppress(OSError):
            while filler.write(bytes(1 << 12)):
                pass
        (victim,) = server.worker_pids()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: bool(lines(server, "segments_unusable")), "the log says it")
        with Wire(server.connect()) as wire:
            wire.hello("alice")
            assert wire.register("alice").status == Status.OK
            wire.hello("alice")
            assert wire.login("alice").status == Status.OK
            wire.ok(Opcode.JOIN_ROOM, 3)
            wire.ok(Opcode.DEPOSIT, 1)
            file = 3, 5, bytes(32), "text/plain", "a.txt"
            assert wire.status(Opcode.FILE_BEGIN, *file) == BUSY
            filler.truncate(0)
            wait_until(lambda: wire.status(Opcode.FILE_BEGIN, *file) == Status.OK, "there is space")
    assert len(lines(server, "segments_unusable")) == 1
    assert not faults(server)


def faults(server: RunningServer) -> list[str]:
    every = [json.loads(line) for line in server.log_text().splitlines()]
    return [line["event"] for line in every if line["level"] == "error"]

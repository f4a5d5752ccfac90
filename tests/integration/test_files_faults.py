"""Files while processes are killed or stopped: what was announced is there, transfers go on, and no
queue, segment or semaphore is left."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import pytest

from libproto.errors import Status
from libproto.messages import CHUNK_MAX, EventKind, Flag, Opcode
from server.files.channel import queue_name
from server.files.segments import Pool, pool_name, pools
from tests.helpers import leaks
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby, Wire, frozen, stop
from tests.integration.test_files import ROOM, TEXT, begin, fetch, large, member, put, sha, share

BUSY = Status.ERR_SERVER_BUSY
FLAGS = ("--segments", "4", "--segment-timeout", "0.5")


def has_queue(name: str) -> bool:
    try:
        posix_ipc.MessageQueue(name, read=False, write=True).close()
    except posix_ipc.ExistentialError:
        return False
    return True


def is_clean(server: RunningServer) -> bool:
    names = [queue_name(server.name, number) for number in (0, 1)]
    return not list(pools(server.name)) and not any(map(has_queue, names))


@pytest.fixture
def lobby(tmp_path: Path) -> Iterator[Lobby]:
    with RunningServer(tmp_path / "data", *FLAGS) as server, Lobby(server) as made:
        yield made
        assert server.stop() == 0, server.log_text()
        assert is_clean(server)


def files_pid(lobby: Lobby) -> int:
    """Of the process that serves files; 0: there is none just now."""
    return next((pid for pid, what in lobby.server.children().items() if what == "files"), 0)


def await_files(lobby: Lobby, before: int) -> None:
    wait_until(lambda: files_pid(lobby) not in (0, before), "another one is there")


def patient(wire: Wire, opcode: Opcode, *fields: object) -> object:
    """An answer that is not "busy"."""
    answer = wire.call(opcode, *fields)

    def comes() -> bool:
        nonlocal answer
        if answer.status == BUSY:
            assert answer.body.retry_after_ms, "the client is told when to come again"
            answer = wire.call(opcode, *fields)
        return answer.status != BUSY

    wait_until(comes, "it is served again")
    assert answer.status == Status.OK, answer.body
    return answer.body


def test_a_killed_files_process_and_an_upload_that_goes_on(lobby: Lobby) -> None:
    ann, bob = member(lobby, worker=0), member(lobby, worker=1)
    data = large(5 * CHUNK_MAX)
    shared, _ = share(ann, data)
    file_id, _ = begin(ann, data[:-1], "b.txt")
    put(ann, file_id, data[: 2 * CHUNK_MAX])
    before = files_pid(lobby)
    os.kill(before, signal.SIGKILL)
    await_files(lobby, before)
    fields = (ROOM, len(data) - 1, sha(data[:-1]), TEXT, "b.txt")
    begun = patient(ann, Opcode.FILE_BEGIN, *fields)
    assert begun == (file_id, 2 * CHUNK_MAX)
    put(ann, file_id, data[:-1], 2 * CHUNK_MAX)
    ann.ok(Opcode.FILE_END, file_id)
    assert fetch(bob, file_id) == data[:-1]
    assert fetch(bob, shared) == data


def test_kills_while_many_files_are_shared(lobby: Lobby) -> None:
    """Whatever was announced is there, whole, and once."""
    wires = [member(lobby, client_id=n + 1, worker=n % 2) for n in range(4)]
    announced: dict[int, bytes] = {}
    for turn in range(6):
        before = files_pid(lobby)
        begun = []
        for number, wire in enumerate(wires):
            data = large(CHUNK_MAX + turn * 7 + number, number)
            fields = (ROOM, len(data), sha(data), TEXT, f"{turn}-{number}")
            body = patient(wire, Opcode.FILE_BEGIN, *fields)
            file_id = body.file_id  # type: ignore[attr-defined] # the fields of FILE_BEGIN
            for at in range(0, len(data), CHUNK_MAX):
                patient(wire, Opcode.FILE_PUT, file_id, at, data[at : at + CHUNK_MAX])
            begun.append((wire, file_id, data))
        for wire, file_id, _ in begun:
            wire.send(Opcode.FILE_END, file_id, req_id=1000 * (turn + 1))
        os.kill(before, signal.SIGKILL)
        for wire, file_id, data in begun:
            answer = wire.answer()
            while answer.status == BUSY:
                answer = wire.call(
                    Opcode.FILE_END,
                    file_id,
                    req_id=1000 * (turn + 1),
                    flags=Flag.POSSIBLE_DUPLICATE,
                )
            assert answer.status == Status.OK, answer.body
            announced[file_id] = data
        await_files(lobby, before)
    told = [
        int(event.message.split()[0])
        for event in wires[0].ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events
        if event.kind == EventKind.FILE
    ]
    assert sorted(told) == sorted(announced), "each once"
    for file_id, data in announced.items():
        first = patient(wires[1], Opcode.FILE_GET, file_id, 0, CHUNK_MAX)
        assert first.size == len(data)  # type: ignore[attr-defined] # the fields of FILE_GET
        assert fetch(wires[1], file_id) == data


def test_one_that_is_stopped_keeps_its_segments(lobby: Lobby) -> None:
    """A time-out ends the transfer and not the loan; other requests are served meanwhile."""
    ann = member(lobby, worker=0)
    data = large(3 * CHUNK_MAX)
    file_id, _ = share(ann, data)
    with frozen(files_pid(lobby)):
        ann.send(Opcode.FILE_GET, file_id, 0, CHUNK_MAX)
        answer = ann.answer()
        assert (answer.opcode, answer.status) == (Opcode.FILE_GET, BUSY)
        ann.ok(Opcode.CHAT_SEND, ROOM, "chat goes on")
        wait_until(lambda: lobby.counters()["file_late"] == 1, "it was given up")
        assert lobby.counters()["file_loans"] == 1, "the segment is still lent"
        pool = Pool.attach(pool_name(lobby.server.name, 0, next(iter_pools(lobby.server.name, 0))))
        lent = [each for each in pool.segments if each.get("state") == 1]
        assert len(lent) == 1
        del lent
        pool.close()
    assert fetch(ann, file_id) == data
    wait_until(lambda: lobby.counters()["file_loans"] == 0, "it came back")


def iter_pools(name: str, slot: int) -> Iterator[int]:
    for each in pools(name, slot):
        yield int(each.rpartition("_")[2])


def test_one_that_is_stuck_is_replaced(tmp_path: Path) -> None:
    flags = (*FLAGS, "--worker-timeout", "1")
    with RunningServer(tmp_path / "data", *flags) as server, Lobby(server) as lobby:
        ann = member(lobby, worker=0)
        data = large(3 * CHUNK_MAX)
        file_id, _ = share(ann, data)
        before = files_pid(lobby)
        stop(before)
        for _ in range(2):
            assert ann.status(Opcode.FILE_GET, file_id, 0, CHUNK_MAX) == BUSY
        await_files(lobby, before)
        patient(ann, Opcode.FILE_GET, file_id, 0, CHUNK_MAX)
        assert fetch(ann, file_id) == data
        wait_until(lambda: lobby.counters()["file_loans"] == 0, "its segments are free again")
        assert server.stop() == 0
        assert is_clean(server)


def test_a_worker_that_is_killed_leaves_no_segments(lobby: Lobby) -> None:
    ann, bob = member(lobby, worker=0), member(lobby, worker=1)
    data = large(2 * CHUNK_MAX)
    file_id, _ = share(ann, data)
    before, name = list(pools(lobby.server.name, 0)), lobby.username(ann)
    os.kill(lobby.worker_pid(0), signal.SIGKILL)
    wait_until(lambda: list(pools(lobby.server.name, 0)) not in ([], before), "another pool")
    assert len(list(pools(lobby.server.name))) == 2
    assert fetch(bob, file_id) == data
    again = lobby.enter(name, worker=0)
    assert fetch(again, file_id) == data


def test_what_a_dead_server_has_left_goes_with_the_next_start(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", *FLAGS) as server:
        name = server.name
        pids = [server.process.pid, *server.children()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        server.wait()
        for pid in pids[1:]:
            leaks.wait_gone(pid)
        assert list(pools(name)), "the test is of no use otherwise"
        # Of a slot, and of a files process, that the next server does not have.
        Pool.create(pool_name(name, 9, 1), 2).close()
        posix_ipc.MessageQueue(queue_name(name, 0), posix_ipc.O_CREAT, mode=0o600).close()
    with RunningServer(tmp_path / "data", *FLAGS, "--name", name) as server:
        server.name = name
        assert not list(pools(name, 9))
        assert not has_queue(queue_name(name, 0)), "the first files process has the other name"
        assert server.stop() == 0
        assert is_clean(server)


def test_a_session_that_ends_publishes_nothing(lobby: Lobby) -> None:
    """LOGOUT, and a LOGIN in its place, cancel a FILE_END that waits."""
    ann, bob = member(lobby, client_id=3, worker=0), member(lobby, worker=1)
    file_id, _ = begin(ann, b"contents")
    put(ann, file_id, b"contents")
    name = lobby.username(ann)
    with frozen(files_pid(lobby)):
        ann.send(Opcode.FILE_END, file_id, req_id=50)
        ann.send(Opcode.LOGOUT)
        answers = {answer.opcode: answer for answer in (ann.answer(), ann.answer())}
        assert answers[Opcode.FILE_END].status == Status.ERR_UNAUTHORIZED
        assert answers[Opcode.LOGOUT].status == Status.OK
    events = bob.ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events
    assert not [event for event in events if event.kind == EventKind.FILE]
    again = lobby.enter(name, client_id=3)
    again.ok(Opcode.JOIN_ROOM, ROOM)
    assert begin(again, b"contents") == (file_id, 8)
    answer = again.call(Opcode.FILE_END, file_id, req_id=50, flags=Flag.POSSIBLE_DUPLICATE)
    assert (answer.status, answer.flags & Flag.POSSIBLE_DUPLICATE) == (Status.OK, 0), "only now"
    assert fetch(bob, file_id) == b"contents"


def test_requests_overtake_those_for_files(lobby: Lobby) -> None:
    ann = member(lobby)
    file_id, _ = share(ann, b"contents")
    with frozen(files_pid(lobby)):
        sent = [ann.send(Opcode.FILE_GET, file_id, 0, 9) for _ in range(17)]
        balance = ann.send(Opcode.BALANCE)
        first, second = ann.answer(), ann.answer()
        assert (first.req_id, first.status) == (sent[-1], BUSY), "at most 16 wait"
        assert (second.req_id, second.status) == (balance, Status.OK)
    answers = [ann.answer() for _ in sent[:-1]]
    assert [answer.req_id for answer in answers] == sent[:-1]
    assert {answer.status for answer in answers[1:]} <= {Status.OK, BUSY}


def test_what_the_history_does_not_go_back_to_counts_as_announced(tmp_path: Path) -> None:
    """The files process is away while a file is announced and so much is said that the history of
    the room begins after it."""
    flags = (*FLAGS, "--room-history", "8", "--event-ring", "16", "--segment-timeout", "60")
    with RunningServer(tmp_path / "data", *flags) as server, Lobby(server) as lobby:
        ann, bob = member(lobby, worker=0), member(lobby, worker=1)
        unpublished, _ = begin(ann, b"not yet", "later.txt")
        put(ann, unpublished, b"not yet")
        before = files_pid(lobby)
        file_id, _ = share(ann, b"contents")
        stop(before)  # mostly before it has seen the event
        for number in range(40):
            bob.ok(Opcode.CHAT_SEND, ROOM, f"{number}")
        os.kill(before, signal.SIGKILL)
        await_files(lobby, before)
        patient(bob, Opcode.FILE_GET, file_id, 0, 9)
        assert fetch(bob, file_id) == b"contents"
        assert bob.status(Opcode.FILE_GET, unpublished, 0, 9) == Status.ERR_NOT_FOUND
        assert server.stop() == 0


def test_a_hundred_uploads_at_once(tmp_path: Path) -> None:
    """With few segments all of them end, whatever is pipelined."""
    flags = ("--segments", "8", "--segment-timeout", "120", "--idle-timeout", "3600")
    with RunningServer(tmp_path / "data", *flags, workers=1) as server, Lobby(server) as lobby:
        wires = [member(lobby) for _ in range(100)]
        contents = [large(2 * CHUNK_MAX + 1 + number, number) for number in range(len(wires))]
        for wire, data in zip(wires, contents, strict=True):
            wire.send(Opcode.FILE_BEGIN, ROOM, len(data), sha(data), TEXT, "a.bin")
        begun = [wire.answer().body for wire in wires]
        for wire, data, body in zip(wires, contents, begun, strict=True):
            for at in range(0, len(data), CHUNK_MAX):
                wire.send(Opcode.FILE_PUT, body.file_id, at, data[at : at + CHUNK_MAX])
            wire.send(Opcode.FILE_END, body.file_id)
        seqs = set()
        for wire in wires:
            answers = [wire.answer() for _ in range(4)]
            assert [answer.status for answer in answers] == [Status.OK] * 4
            seqs.add(answers[-1].body.room_seq)
        assert len(seqs) == len(wires)
        for body, data in list(zip(begun, contents, strict=True))[::20]:
            assert fetch(wires[0], body.file_id) == data
        counters = lobby.counters()
        assert (counters["file_loans"], counters["file_waiting"]) == (0, 0)
        assert server.stop() == 0
        assert is_clean(server)

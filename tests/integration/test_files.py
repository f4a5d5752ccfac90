"""Files over the wire: uploads, what others see of them, who may read them, and what is refused."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import (
    CHUNK_MAX,
    FILES_WAITING_MAX,
    EventKind,
    Flag,
    Opcode,
    RoomAccess,
    RoomRole,
)
from server.files.segments import SHM, pools
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby, Wire

ROOM = 1
FLAGS = (
    "--max-file", "1", "--segments", "4", "--numbered-rooms", "4", "--rooms", "8",
    "--files-user-bytes", str(3 << 20),
)  # fmt: skip
DENIED, NOT_FOUND, BAD = Status.ERR_UNAUTHORIZED, Status.ERR_NOT_FOUND, Status.ERR_BAD_PACKET
BUSY = Status.ERR_SERVER_BUSY
TEXT = "text/plain"


@pytest.fixture
def lobby(tmp_path: Path) -> Iterator[Lobby]:
    with RunningServer(tmp_path / "data", *FLAGS) as server, Lobby(server) as made:
        yield made
        assert server.stop() == 0, server.log_text()
        assert not list(pools(server.name)), f"segments are left in {SHM}"


def member(lobby: Lobby, room: int = ROOM, **how: int) -> Wire:
    wire = lobby.enter(**how)  # type: ignore[arg-type] # of the numbers that it takes
    wire.ok(Opcode.JOIN_ROOM, room)
    return wire


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def begin(wire: Wire, data: bytes, name: str = "a.txt", room: int = ROOM) -> tuple[int, int]:
    body = wire.ok(Opcode.FILE_BEGIN, room, len(data), sha(data), TEXT, name)
    return body.file_id, body.received


def put(wire: Wire, file_id: int, data: bytes, received: int = 0) -> None:
    for at in range(received, len(data), CHUNK_MAX):
        chunk = data[at : at + CHUNK_MAX]
        assert wire.ok(Opcode.FILE_PUT, file_id, at, chunk).received == at + len(chunk)


def share(wire: Wire, data: bytes, name: str = "a.txt", room: int = ROOM) -> tuple[int, int]:
    """file_id and room_seq of a file that is shared now."""
    file_id, received = begin(wire, data, name, room)
    put(wire, file_id, data, received)
    return file_id, wire.ok(Opcode.FILE_END, file_id).room_seq


def fetch(wire: Wire, file_id: int) -> bytes:
    data = b""
    while True:
        body = wire.ok(Opcode.FILE_GET, file_id, len(data), CHUNK_MAX)
        assert body.offset == len(data)
        if not body.data:
            assert len(data) == body.size
            return data
        data += body.data


def large(size: int, seed: int = 1) -> bytes:
    block = hashlib.sha256(bytes([seed])).digest()
    return (block * (size // len(block) + 1))[:size]


@pytest.mark.parametrize("size", [1, CHUNK_MAX, CHUNK_MAX + 1, 1 << 20])
def test_a_file_is_shared_announced_and_read(lobby: Lobby, size: int) -> None:
    ann, bob = member(lobby, worker=0), member(lobby, worker=1)
    data = large(size)
    file_id, seq = share(ann, data, "holiday pictures.txt")
    while (push := bob.push().body).kind != EventKind.FILE:
        pass
    assert (push.room_seq, push.from_user) == (seq, ann.user)
    assert push.message == f"{file_id} {size} {TEXT} holiday pictures.txt"
    assert fetch(bob, file_id) == data
    assert fetch(ann, file_id) == data
    before = lobby.counters()["file_hits"]
    assert fetch(ann, file_id) == data
    assert lobby.counters()["file_hits"] == before + -(-size // CHUNK_MAX), "from the cache"
    assert bob.ok(Opcode.FILE_GET, file_id, size - 1, 9).data == data[-1:]
    assert bob.ok(Opcode.FILE_GET, file_id, 0, 0).data == b""
    assert bob.ok(Opcode.FILE_GET, file_id, 1 << 40, 9).data == b""
    assert len(bob.ok(Opcode.FILE_GET, file_id, 0, 1 << 31).data) == min(size, CHUNK_MAX)


def test_an_empty_file(lobby: Lobby) -> None:
    ann = member(lobby)
    file_id, received = begin(ann, b"")
    assert received == 0
    ann.ok(Opcode.FILE_END, file_id)
    body = ann.ok(Opcode.FILE_GET, file_id, 0, 10)
    assert (body.size, body.data) == (0, b"")


def test_a_publication_is_executed_once(lobby: Lobby) -> None:
    ann = member(lobby, client_id=7)
    file_id, _ = begin(ann, b"contents")
    put(ann, file_id, b"contents")
    req_id = ann.send(Opcode.FILE_END, file_id, req_id=100)
    first = ann.answer()
    again = ann.call(Opcode.FILE_END, file_id, flags=Flag.POSSIBLE_DUPLICATE, req_id=req_id)
    assert (again.status, again.body) == (Status.OK, first.body)
    assert again.flags & Flag.POSSIBLE_DUPLICATE
    assert ann.call(Opcode.FILE_END, file_id + 1, req_id=req_id).status == BAD, "other contents"
    assert ann.call(Opcode.CHAT_SEND, ROOM, "x", req_id=req_id).status == BAD
    assert ann.call(Opcode.FILE_END, file_id, req_id=101).status == NOT_FOUND, "it has ended"
    events = ann.ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events
    assert [e.room_seq for e in events if e.kind == EventKind.FILE] == [first.body.room_seq]


def test_an_upload_goes_on_where_it_was(lobby: Lobby) -> None:
    ann = member(lobby, worker=0)
    data = large(3 * CHUNK_MAX)
    file_id, _ = begin(ann, data)
    put(ann, file_id, data[:CHUNK_MAX])
    again = lobby.enter(lobby.username(ann), worker=1)
    again.ok(Opcode.JOIN_ROOM, ROOM)
    assert begin(again, data) == (file_id, CHUNK_MAX)
    refused = again.call(Opcode.FILE_PUT, file_id, 0, b"x")
    assert refused.status == BAD
    assert str(CHUNK_MAX) in refused.body.detail
    assert again.status(Opcode.FILE_END, file_id) == BAD, "not all of it has come"
    put(again, file_id, data, CHUNK_MAX)
    again.ok(Opcode.FILE_END, file_id)
    assert fetch(ann, file_id) == data


def test_who_may_read_contents_sends_nothing(lobby: Lobby) -> None:
    ann, bob, eve = member(lobby), member(lobby), lobby.enter()
    secret = eve.ok(Opcode.ROOM_OPEN, "hers").room_id
    eve.ok(Opcode.JOIN_ROOM, secret)
    eve.ok(Opcode.ROOM_SET, secret, "", RoomAccess.INVITED)
    data = large(CHUNK_MAX)
    share(eve, data, room=secret)
    assert begin(ann, data)[1] == 0, "nothing is told of what others have stored"
    share(ann, data)
    file_id, received = begin(bob, data, "b.txt")
    assert received == len(data)
    bob.ok(Opcode.FILE_END, file_id)
    assert fetch(ann, file_id) == data


def test_what_is_refused(lobby: Lobby) -> None:
    ann, bob = member(lobby), member(lobby)
    good = (ROOM, 8, sha(b"contents"), TEXT, "a.txt")
    for at, bad in (
        (1, (1 << 20) + 1), (2, b"short"), (3, "text"), (3, "text/plain; q=1"), (4, "a/b"), (4, ""),
        (4, ".hidden"), (4, "a\nb"), (4, "\u202ex"), (4, "x" * 129),
    ):  # fmt: skip
        fields = [*good]
        fields[at] = bad
        assert ann.status(Opcode.FILE_BEGIN, *fields) == BAD, bad
    assert ann.status(Opcode.FILE_BEGIN, 2, *good[1:]) == DENIED, "not joined"
    assert ann.status(Opcode.FILE_BEGIN, 99, *good[1:]) == NOT_FOUND
    file_id, _ = begin(ann, b"contents")
    assert ann.status(Opcode.FILE_PUT, file_id, 0, b"") == BAD
    assert ann.status(Opcode.FILE_PUT, file_id, 0, b"x" * (CHUNK_MAX + 1)) == BAD
    assert ann.status(Opcode.FILE_PUT, file_id, 0, b"more than it is") == BAD
    assert ann.status(Opcode.FILE_PUT, file_id, 1, b"x") == BAD
    assert bob.status(Opcode.FILE_PUT, file_id, 0, b"x") == NOT_FOUND
    assert bob.status(Opcode.FILE_END, file_id) == NOT_FOUND
    assert bob.status(Opcode.FILE_GET, file_id, 0, 9) == NOT_FOUND, "not published"
    assert ann.status(Opcode.FILE_GET, file_id, 0, 9) == NOT_FOUND
    assert ann.status(Opcode.FILE_GET, 12345, 0, 9) == NOT_FOUND
    put(ann, file_id, b"contentz")
    assert ann.status(Opcode.FILE_END, file_id) == BAD, "another hash"
    assert ann.status(Opcode.FILE_PUT, file_id, 0, b"x") == NOT_FOUND, "the upload is gone"
    assert begin(ann, b"contents")[0] != file_id
    events = ann.ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events
    assert not [e for e in events if e.kind == EventKind.FILE]


def test_the_right_to_read_and_to_publish(lobby: Lobby) -> None:
    ann, bob = lobby.enter(), lobby.enter()
    room = ann.ok(Opcode.ROOM_OPEN, "a room").room_id
    for wire in (ann, bob):
        wire.ok(Opcode.JOIN_ROOM, room)
    file_id, _ = share(ann, b"contents", room=room)
    assert fetch(bob, file_id) == b"contents"
    begun, _ = begin(bob, b"mine", room=room)
    put(bob, begun, b"mine")
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.MUTED, 0)
    assert bob.status(Opcode.FILE_END, begun) == DENIED
    assert fetch(bob, file_id) == b"contents"
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.NONE, 0)
    bob.ok(Opcode.FILE_END, begun)
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.BANNED, 0)
    assert bob.status(Opcode.FILE_GET, file_id, 0, 9) == DENIED
    ann.ok(Opcode.ROOM_SET, room, "", RoomAccess.CLOSED)
    assert ann.status(Opcode.FILE_GET, file_id, 0, 9) == DENIED


def test_a_deleted_name_and_the_file_that_stays(lobby: Lobby) -> None:
    ann = member(lobby)
    file_id, seq = share(ann, b"contents", "a name to be ashamed of")
    ann.ok(Opcode.CHAT_DELETE, ROOM, seq)
    [event] = [e for e in ann.ok(Opcode.ROOM_HISTORY, ROOM, seq - 1, 1).events if e.room_seq == seq]
    assert event.message == f"{file_id} 8 {TEXT} "
    assert fetch(ann, file_id) == b"contents"


def test_order_and_how_many_may_wait(lobby: Lobby) -> None:
    ann = member(lobby)
    data = large(1 << 20)
    file_id, _ = share(ann, data)
    # Sent as one piece, so that they are there together.
    frames = [
        (Opcode.FILE_GET, (file_id, at * CHUNK_MAX, CHUNK_MAX)) for at in range(FILES_WAITING_MAX)
    ]
    sent = [ann.send(opcode, *fields) for opcode, fields in frames]
    answers = [ann.answer() for _ in sent]
    assert [a.req_id for a in answers if not a.status] == [
        req for req, a in zip(sent, answers, strict=True) if not a.status
    ]
    assert b"".join(a.body.data for a in answers if not a.status) == data[: 16 * CHUNK_MAX]


def test_the_store_of_a_user_is_full(lobby: Lobby) -> None:
    ann, bob = member(lobby), member(lobby)
    for number in range(3):
        share(ann, large(1 << 20, number), f"{number}")
    refused = ann.call(Opcode.FILE_BEGIN, ROOM, 1 << 20, sha(b"x"), TEXT, "x")
    assert refused.status == BUSY
    assert refused.body.retry_after_ms
    share(bob, large(1 << 20, 9))
    ann.ok(Opcode.CHAT_SEND, ROOM, "still here")


def test_files_after_a_restart(tmp_path: Path) -> None:
    data = large(100_000)
    with RunningServer(tmp_path / "data", *FLAGS) as server, Lobby(server) as lobby:
        ann = member(lobby, client_id=5)
        name = lobby.username(ann)
        file_id, _ = share(ann, data)
        begun, _ = begin(ann, b"not yet all", "later")
        put(ann, begun, b"not yet")
        server.crash()
    with RunningServer(tmp_path / "data", *FLAGS) as server:
        with Lobby(server) as lobby:
            ann = lobby.enter(name)
            ann.ok(Opcode.JOIN_ROOM, ROOM)
            wait_until(
                lambda: ann.call(Opcode.FILE_GET, file_id, 0, 1).status != BUSY, "files are there"
            )
            assert fetch(ann, file_id) == data
            assert begin(ann, b"not yet all", "later") == (begun, 7)
        assert server.stop() == 0


def test_a_store_that_was_lost_gives_no_number_twice(tmp_path: Path) -> None:
    """As after a restore of a backup, which has no files."""
    with RunningServer(tmp_path / "data", *FLAGS) as server, Lobby(server) as lobby:
        ann = member(lobby)
        name, (old, _) = lobby.username(ann), share(ann, b"contents")
        assert server.stop() == 0
    shutil.rmtree(tmp_path / "data" / "files")
    with RunningServer(tmp_path / "data", *FLAGS) as server, Lobby(server) as lobby:
        ann = lobby.enter(name)
        ann.ok(Opcode.JOIN_ROOM, ROOM)
        assert ann.status(Opcode.FILE_GET, old, 0, 9) == NOT_FOUND
        new, _ = share(ann, b"another")
        assert new > old + 1000
        assert fetch(ann, new) == b"another"
        assert ann.status(Opcode.FILE_GET, old, 0, 9) == NOT_FOUND
        assert server.stop() == 0


def test_without_a_directory_there_are_no_files(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", "--durability", "none") as server:
        with Lobby(server) as lobby:
            ann = member(lobby)
            assert ann.status(Opcode.FILE_GET, 1, 0, 1) == BUSY
        assert server.stop() == 0

"""Files sent and fetched by both clients, from a server that loses, refuses and lies."""

import io
import os
import threading
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from client import (
    BadArgument,
    BadPacket,
    CallTimeout,
    ConnectionLost,
    FileChanged,
    LinkFetched,
    NotFound,
    NotLoggedIn,
    ProtocolViolation,
    RetryPolicy,
    ServerBusy,
    WrongContents,
)
from client.core.files import WINDOW, part_of
from libproto.errors import Status
from libproto.messages import CHUNK_MAX, Opcode
from tests.client.conftest import Make
from tests.client.file_peer import FilePeer, file_peer
from tests.client.peer import LOG_ID, PASSWORD, USERNAME, Request, answer, refuse

DATA = bytes(range(251)) * 9_000  # 37 parts
POLICY = RetryPolicy(pause_s_first=0.001, pause_s_max=0.002)


@pytest.fixture
def peer() -> Iterator[FilePeer]:
    with file_peer() as (peer, port):
        peer.port = port
        yield peer


def connected(make: Make, peer: FilePeer, **options: Any) -> Any:
    client = make(
        port=peer.port,
        username=USERNAME,
        password=PASSWORD,
        retry=POLICY,
        **options,
    )
    client.__enter__()
    client.join(5)
    return client


def leave(client: Any) -> None:
    """What the end of a `with` does: of the loop that the test has for the client, too."""
    client.__exit__(None, None, None)


@pytest.fixture
def client(make: Make, peer: FilePeer) -> Iterator[Any]:
    client = connected(make, peer)
    yield client
    leave(client)


def nth(peer: FilePeer, opcode: Opcode, number: int, do: Any) -> None:
    """Have the nth request of a kind answered otherwise; EOFError: the connection is closed."""
    seen = 0

    def before(request: Request) -> bytes | None:
        nonlocal seen
        if request.opcode == opcode:
            seen += 1
            if seen == number:
                if do is EOFError:
                    raise EOFError
                return do(request)  # type: ignore[no-any-return]
        return None

    peer.before = before


# ---- sending


@pytest.mark.parametrize("size", [0, 1, CHUNK_MAX, CHUNK_MAX + 1, len(DATA)])
def test_a_file_is_sent(client: Any, peer: FilePeer, tmp_path: Path, size: int) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(DATA[:size])
    seen: list[tuple[int, int]] = []
    sent = client.send_file(5, path, progress=lambda done, total: seen.append((done, total)))
    assert peer.files == {sent.file_id: DATA[:size]}
    assert sent == (sent.file_id, 1, size, sha256(DATA[:size]).digest(), False)
    begun = next(each for each in peer.requests if each.opcode == Opcode.FILE_BEGIN)
    assert begun.fields == (5, size, sent.sha256, "image/png", "picture.png")
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_a_file_object_is_sent_from_where_it_is(client: Any, peer: FilePeer) -> None:
    file = io.BytesIO(b"before" + DATA)
    file.seek(6)
    sent = client.send_file(5, file, name="x", media_type="a/b")
    assert peer.files[sent.file_id] == DATA
    assert not file.closed


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.txt", "text/plain"),
        ("a.tar.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("ä b.pdf", "application/pdf"),
    ],
)
def test_a_media_type_after_the_name(
    client: Any, peer: FilePeer, name: str, media_type: str
) -> None:
    client.send_file(5, io.BytesIO(b"x"), name=name)
    assert peer.requests[-3].fields[3:] == (media_type, name)


@pytest.mark.parametrize(
    "options",
    [
        {"source": 7},
        {"source": io.BytesIO(b"x")},
        {"source": io.StringIO("x"), "name": "x"},
        {"source": io.BytesIO(b"x"), "name": "a/b"},
        {"source": io.BytesIO(b"x"), "name": ".hidden"},
        {"source": io.BytesIO(b"x"), "name": "a\x1b[2J"},
        {"source": io.BytesIO(b"x"), "name": "a\u202eb"},
        {"source": io.BytesIO(b"x"), "name": "x" * 129},
        {"source": io.BytesIO(b"x"), "name": "x", "media_type": "text"},
        {"source": io.BytesIO(b"x"), "name": "x", "progress": 7},
        {"source": io.BytesIO(b"x"), "name": "x", "room_id": -1},
    ],
)
def test_what_cannot_be_sent(client: Any, peer: FilePeer, options: dict[str, Any]) -> None:
    with pytest.raises(BadArgument):
        client.send_file(**({"room_id": 5} | options))
    assert peer.count(Opcode.FILE_BEGIN) == 0


def test_a_path_that_is_not_there(client: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.send_file(5, tmp_path / "none")
    with pytest.raises(NotFound):
        client.fetch_file(99, tmp_path / "none")
    assert os.listdir(tmp_path) == []


def test_files_need_a_login(make: Make, peer: FilePeer, tmp_path: Path) -> None:
    with make(port=peer.port) as client:
        with pytest.raises(NotLoggedIn):
            client.send_file(5, io.BytesIO(b"x"), name="x")
        with pytest.raises(NotLoggedIn):
            client.fetch_file(1, tmp_path / "x")
        client.close()
        with pytest.raises(ConnectionLost):
            client.send_file(5, io.BytesIO(b"x"), name="x")
    assert peer.requests == []


@pytest.mark.parametrize("number", [1, 2, WINDOW, WINDOW + 1, 20])
def test_a_lost_connection_and_another_run_of_the_program(
    make: Make, peer: FilePeer, number: int
) -> None:
    client = connected(make, peer)
    nth(peer, Opcode.FILE_PUT, number, EOFError)
    with pytest.raises(ConnectionLost):
        client.send_file(5, io.BytesIO(DATA), name="x")
    leave(client)
    peer.before = lambda _: None
    before = peer.count(Opcode.FILE_PUT)
    client = connected(make, peer)
    seen: list[int] = []
    sent = client.send_file(
        5, io.BytesIO(DATA), name="x", progress=lambda done, _: seen.append(done)
    )
    leave(client)
    assert peer.files == {sent.file_id: DATA}
    assert seen[0] == (number - 1) * CHUNK_MAX
    parts = -(-len(DATA) // CHUNK_MAX)
    assert peer.count(Opcode.FILE_PUT) - before == parts - (number - 1), "no part comes twice"


@pytest.mark.parametrize("number", [1, 3, WINDOW, 20])
def test_a_lost_connection_of_a_client_that_reconnects(
    make_lasting: Make, peer: FilePeer, number: int
) -> None:
    client = connected(make_lasting, peer)
    nth(peer, Opcode.FILE_PUT, number, EOFError)
    sent = client.send_file(5, io.BytesIO(DATA), name="x")
    leave(client)
    assert peer.files == {sent.file_id: DATA}
    assert len(peer.events) == 1


def test_a_connection_that_is_lost_with_the_answer_to_the_end(
    make_lasting: Make, peer: FilePeer
) -> None:
    """It is shared once."""
    client = connected(make_lasting, peer)

    def execute_and_close(request: Request) -> bytes:
        peer.respond(request)
        raise EOFError

    nth(peer, Opcode.FILE_END, 1, execute_and_close)
    sent = client.send_file(5, io.BytesIO(DATA), name="x")
    leave(client)
    assert sent.room_seq == 1
    assert len(peer.events) == 1


def test_the_end_is_retried_under_its_number(make: Make, peer: FilePeer) -> None:
    client = connected(make, peer)

    def execute_and_close(request: Request) -> bytes:
        peer.respond(request)
        raise EOFError

    nth(peer, Opcode.FILE_END, 1, execute_and_close)
    with pytest.raises(ConnectionLost) as found:
        client.send_file(5, io.BytesIO(DATA), name="x")
    (unanswered,) = client.unanswered
    assert unanswered.req_id == found.value.req_id
    assert unanswered.file_id == 1
    client.connect()
    change = client.retry(found.value.req_id)
    assert (change.room_seq, change.recorded) == (1, True)
    leave(client)
    assert len(peer.events) == 1


@pytest.mark.parametrize("opcode", [Opcode.FILE_BEGIN, Opcode.FILE_PUT, Opcode.FILE_END])
@pytest.mark.parametrize("number", [1, 5])
def test_a_server_that_is_busy_for_a_moment(
    client: Any, peer: FilePeer, opcode: Opcode, number: int
) -> None:
    nth(peer, opcode, number, lambda request: refuse(request, Status.ERR_SERVER_BUSY, "no", 1))
    sent = client.send_file(5, io.BytesIO(DATA), name="x")
    assert peer.files == {sent.file_id: DATA}


@pytest.mark.parametrize("retry_after_ms", [0, 1])
def test_a_server_without_space(client: Any, peer: FilePeer, retry_after_ms: int) -> None:
    def before(request: Request) -> bytes | None:
        if request.opcode == Opcode.FILE_PUT and request.fields[1] >= 3 * CHUNK_MAX:
            return refuse(request, Status.ERR_SERVER_BUSY, "it is full", retry_after_ms)
        return None

    peer.before = before
    with pytest.raises(ServerBusy, match="it is full"):
        client.send_file(5, io.BytesIO(DATA), name="x")
    peer.before = lambda _: None
    sent = client.send_file(5, io.BytesIO(DATA), name="x")
    assert peer.files == {sent.file_id: DATA}


def test_what_the_server_does_not_take(client: Any, peer: FilePeer) -> None:
    nth(peer, Opcode.FILE_BEGIN, 1, lambda r: refuse(r, Status.ERR_BAD_PACKET, "too large"))
    with pytest.raises(BadPacket, match="too large"):
        client.send_file(5, io.BytesIO(DATA), name="x")
    peer.before = lambda request: (
        refuse(request, Status.ERR_BAD_PACKET, "never")
        if request.opcode == Opcode.FILE_PUT
        else None
    )
    with pytest.raises(BadPacket, match="never"):
        client.send_file(5, io.BytesIO(DATA), name="x")


def test_a_file_that_changes_while_it_is_sent(client: Any, peer: FilePeer, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(DATA)

    def change(done: int, _: int) -> None:
        if done == 0:
            path.write_bytes(bytes(len(DATA)))

    with pytest.raises(FileChanged):
        client.send_file(5, path, progress=change)
    assert peer.events == []

    path.write_bytes(DATA)
    with pytest.raises(FileChanged, match="shorter"):
        client.send_file(5, path, progress=lambda done, _: done or path.write_bytes(b"short"))
    assert peer.events == []


def test_a_server_that_lost_what_it_had(client: Any, peer: FilePeer) -> None:
    """After a power cut it has less than it said."""

    def lose(_: Request) -> bytes | None:
        for upload in peer.uploads.values():
            upload.data = upload.data[: 2 * CHUNK_MAX]
        return None

    nth(peer, Opcode.FILE_END, 1, lose)
    sent = client.send_file(5, io.BytesIO(DATA), name="x")
    assert peer.files == {sent.file_id: DATA}


def test_nothing_is_sent_that_the_server_has(client: Any, peer: FilePeer) -> None:
    nth(peer, Opcode.FILE_BEGIN, 1, lambda request: answer(request, 9, len(DATA)))
    nth_end = peer.before

    def before(request: Request) -> bytes | None:
        if request.opcode == Opcode.FILE_END:
            return answer(request, 4)
        return nth_end(request)

    peer.before = before
    assert client.send_file(5, io.BytesIO(DATA), name="x")[:2] == (9, 4)
    assert peer.count(Opcode.FILE_PUT) == 0


# ---- fetching


@pytest.fixture
def file_id(peer: FilePeer) -> int:
    peer.files[3] = DATA
    return 3


@pytest.mark.parametrize("size", [0, 1, CHUNK_MAX, CHUNK_MAX + 1, len(DATA)])
def test_a_file_is_fetched(client: Any, peer: FilePeer, tmp_path: Path, size: int) -> None:
    peer.files[3] = DATA[:size]
    path = tmp_path / "x"
    seen: list[tuple[int, int]] = []
    digest = sha256(DATA[:size]).digest()
    found = client.fetch_file(
        3, path, sha256=digest, progress=lambda done, total: seen.append((done, total))
    )
    assert found == (size, digest)
    assert path.read_bytes() == DATA[:size]
    assert path.stat().st_mode & 0o111 == 0
    assert os.listdir(tmp_path) == ["x"]
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_a_file_is_fetched_into_a_file_object(client: Any, file_id: int) -> None:
    file = io.BytesIO()
    client.fetch_file(file_id, file)
    assert file.getvalue() == DATA


def test_what_is_there_is_never_overwritten(client: Any, file_id: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        client.fetch_file(file_id, path)
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        client.fetch_file(file_id, tmp_path / "dangling")
    late = tmp_path / "late"
    with pytest.raises(FileExistsError):  # it comes while the file does
        client.fetch_file(file_id, late, progress=lambda *_: late.write_bytes(b"mine"))
    assert late.read_bytes() == path.read_bytes() == b"mine"
    assert not (tmp_path / "elsewhere").exists()


def test_a_part_that_is_a_link_elsewhere_is_not_followed(
    client: Any, file_id: int, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    part_of(str(path), LOG_ID, file_id).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        client.fetch_file(file_id, path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("number", [1, 2, WINDOW + 1, 20])
def test_a_fetch_goes_on_in_another_run(
    make: Make, peer: FilePeer, file_id: int, tmp_path: Path, number: int
) -> None:
    path = tmp_path / "x"
    client = connected(make, peer)
    nth(peer, Opcode.FILE_GET, number, EOFError)
    with pytest.raises(ConnectionLost):
        client.fetch_file(file_id, path)
    leave(client)
    assert not path.exists()
    assert len(os.listdir(tmp_path)) == (number > 1)
    peer.before = lambda _: None
    before = peer.count(Opcode.FILE_GET)
    client = connected(make, peer)
    client.fetch_file(file_id, path, sha256=sha256(DATA).digest())
    leave(client)
    assert path.read_bytes() == DATA
    assert os.listdir(tmp_path) == ["x"]
    got = peer.count(Opcode.FILE_GET) - before
    assert got <= -(-len(DATA) // CHUNK_MAX) - max(0, number - 1 - WINDOW)


@pytest.mark.parametrize("number", [1, 3, 20])
def test_a_fetch_of_a_client_that_reconnects(
    make_lasting: Make, peer: FilePeer, file_id: int, tmp_path: Path, number: int
) -> None:
    client = connected(make_lasting, peer)
    nth(peer, Opcode.FILE_GET, number, EOFError)
    client.fetch_file(file_id, tmp_path / "x")
    leave(client)
    assert (tmp_path / "x").read_bytes() == DATA


def test_wrong_contents_are_removed(client: Any, file_id: int, tmp_path: Path) -> None:
    with pytest.raises(WrongContents):
        client.fetch_file(file_id, tmp_path / "x", sha256=bytes(32))
    assert os.listdir(tmp_path) == []


def test_a_part_that_is_longer_than_the_file(client: Any, file_id: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    part_of(str(path), LOG_ID, file_id).write_bytes(bytes(len(DATA) + 1))
    client.fetch_file(file_id, path)
    assert path.read_bytes() == DATA


def lie_of(size: int = 0, offset: int = 0, cut: int | None = None) -> Any:
    def lie(request: Request) -> bytes:
        at = request.fields[1]
        part = DATA[at : at + CHUNK_MAX][:cut]
        return answer(request, len(DATA) + size, at + offset, part)

    return lie


@pytest.mark.parametrize("number", [1, 2, 12])
@pytest.mark.parametrize("lie", [{"offset": 1}, {"cut": 0}, {"size": 1}])
def test_a_server_that_lies(
    client: Any, peer: FilePeer, file_id: int, tmp_path: Path, number: int, lie: dict[str, int]
) -> None:
    if lie == {"size": 1} and number == 1:
        return  # nobody knows better
    nth(peer, Opcode.FILE_GET, number, lie_of(**lie))
    if lie == {"offset": 1} and number == 12:  # the parts before it are taken, it is asked again
        client.fetch_file(file_id, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == DATA
        return
    with pytest.raises(ProtocolViolation):
        client.fetch_file(file_id, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_short_parts_are_taken_as_they_are(
    client: Any, peer: FilePeer, file_id: int, tmp_path: Path
) -> None:
    peer.before = lambda request: (
        lie_of(cut=1_000 + request.fields[1] % 50_000)(request)
        if request.opcode == Opcode.FILE_GET
        else None
    )
    client.fetch_file(file_id, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_server_that_does_not_answer(
    make: Make, peer: FilePeer, file_id: int, tmp_path: Path
) -> None:
    """The part stays, for another time."""
    client = connected(make, peer)
    silent = threading.Event()

    def before(request: Request) -> bytes | None:
        if request.opcode == Opcode.FILE_GET and request.fields[1] > 5 * CHUNK_MAX:
            silent.wait(30.0)
        return None

    peer.before = before
    try:
        with pytest.raises(CallTimeout):
            client.fetch_file(file_id, tmp_path / "x", timeout_s=3.0)
    finally:
        silent.set()
        leave(client)
    assert len(os.listdir(tmp_path)) == 1
    assert not (tmp_path / "x").exists()


def test_a_full_disk_of_the_programs(client: Any, file_id: int) -> None:
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        client.fetch_file(file_id, Full())
    file = io.BytesIO()
    client.fetch_file(file_id, file)
    assert file.getvalue() == DATA


@pytest.mark.parametrize("sha", [b"", bytes(31), "x" * 32])
def test_what_cannot_be_fetched(client: Any, tmp_path: Path, sha: Any) -> None:
    with pytest.raises(BadArgument):
        client.fetch_file(1, tmp_path / "x", sha256=sha)
    with pytest.raises(BadArgument):
        client.fetch_file(-1, tmp_path / "x")
    with pytest.raises(BadArgument):
        client.fetch_file(1, 7)


def test_a_link(client: Any) -> None:
    found = client.fetch_link(5, "https://example.com/x", req_id=client.new_req_id())
    assert found == LinkFetched(77, 5, 3, found.req_id, False)


# ---- memory


class Long(io.RawIOBase):
    """A file of zeros that is in no memory."""

    def __init__(self, size: int) -> None:
        self.size, self.at, self.name = size, 0, "long"

    def seek(self, at: int, whence: int = 0) -> int:
        assert whence == 0
        self.at = at
        return at

    def tell(self) -> int:
        return self.at

    def read(self, count: int = -1) -> bytes:
        assert count >= 0
        count = min(count, self.size - self.at)
        self.at += count
        return bytes(count)


def test_memory_does_not_depend_on_the_size(client: Any, peer: FilePeer) -> None:
    size = 64 << 20
    peer.before = forgetful(peer)
    tracemalloc.start()
    try:
        client.send_file(5, Long(size))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < size / 4


def forgetful(peer: FilePeer) -> Any:
    """It takes everything and keeps nothing."""
    received = 0

    def before(request: Request) -> bytes | None:
        nonlocal received
        if request.opcode == Opcode.FILE_PUT:
            peer.requests.clear()
            received += len(request.fields[2])
            return answer(request, received)
        if request.opcode == Opcode.FILE_END:
            return answer(request, 1)
        return None

    return before

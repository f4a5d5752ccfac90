"""Files and links of both clients with a real server, whose files process is killed, too."""

import json
import os
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from client import (
    BadPacket,
    ChatBroadcast,
    Client,
    FileShared,
    NotFound,
    RetryPolicy,
    Unauthorized,
    read_event,
)
from libproto.messages import Opcode
from tests.client.conftest import Make, register
from tests.client.peer import PASSWORD
from tests.client.programs import run
from tests.client.relay import Relay
from tests.helpers.server import RunningServer
from tests.server.files.bad_origin import BadOrigin, bad_origin

DATA = bytes(range(251)) * 9_000
ROOM = 7
POLICY = RetryPolicy(busy_attempts=60, pause_s_first=0.05, pause_s_max=0.5)


@pytest.fixture(scope="module")
def origin() -> Iterator[BadOrigin]:
    with bad_origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, origin: BadOrigin) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("served") / "data"
    hosts = f"origin.test:{origin.port}=127.0.0.1"
    with RunningServer(data, "--max-file", "4", "--link-hosts", hosts) as made:
        register(made, "alice", "bob")
        yield made
    assert made.process.returncode == 0, made.log_text()


@pytest.fixture
def alice(make: Make, served: RunningServer) -> Iterator[Any]:
    with make(port=served.port, username="alice", password=PASSWORD, retry=POLICY) as client:
        client.join(ROOM)
        yield client


@pytest.fixture
def bob(served: RunningServer) -> Iterator[Client]:
    with Client(port=served.port, username="bob", password=PASSWORD, retry=POLICY) as client:
        yield client


def last_file(client: Any) -> tuple[ChatBroadcast, FileShared]:
    for event in reversed(client.history(ROOM).events):
        if isinstance(said := read_event(event), FileShared):
            return event, said
    raise AssertionError("nothing was shared")


def own(client: Any) -> bytes:
    """Contents that nobody has sent yet."""
    return f"{type(client).__name__} {os.urandom(8).hex()} ".encode() + DATA


def test_a_file_is_shared_and_fetched(alice: Any, bob: Client, tmp_path: Path) -> None:
    data = own(alice)
    (tmp_path / "plan.pdf").write_bytes(data)
    sent = alice.send_file(ROOM, tmp_path / "plan.pdf")
    event, said = last_file(bob)
    assert said == FileShared(sent.file_id, len(data), "application/pdf", "plan.pdf")
    assert (event.room_seq, event.from_name) == (sent.room_seq, "alice")
    bob.fetch_file(said.file_id, tmp_path / "got", sha256=sha256(data).digest())
    assert (tmp_path / "got").read_bytes() == data
    alice.fetch_file(said.file_id, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == data
    again = alice.send_file(ROOM, tmp_path / "plan.pdf", name="again.pdf")
    assert again.file_id != sent.file_id


def test_what_the_server_refuses(alice: Any, bob: Client, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(Unauthorized):
        bob.send_file(ROOM, tmp_path / "x")
    with pytest.raises(NotFound):
        bob.fetch_file(1 << 40, tmp_path / "y")
    with (tmp_path / "large").open("wb") as file:
        file.truncate((4 << 20) + 1)
    with pytest.raises(BadPacket):
        alice.send_file(ROOM, tmp_path / "large")
    assert sorted(os.listdir(tmp_path)) == ["large", "x"]


@pytest.mark.parametrize("how", ["send", "fetch"])
def test_the_files_process_is_killed_in_the_middle(
    alice: Any, served: RunningServer, tmp_path: Path, how: str
) -> None:
    data = own(alice)
    (tmp_path / "x").write_bytes(data)
    killed: list[int] = []

    def kill(done: int, size: int) -> None:
        if not killed and done > size // 3:
            killed.append(files_pid(served))
            os.kill(killed[0], signal.SIGKILL)

    sent = alice.send_file(ROOM, tmp_path / "x", progress=kill if how == "send" else None)
    alice.fetch_file(
        sent.file_id,
        tmp_path / "y",
        sha256=sha256(data).digest(),
        progress=kill if how == "fetch" else None,
    )
    assert len(killed) == 1
    assert (tmp_path / "y").read_bytes() == data
    assert last_file(alice)[1].file_id == sent.file_id


def files_pid(served: RunningServer) -> int:
    found = [pid for pid in children(served.process.pid) if "files" in title_of(pid)]
    assert len(found) == 1, [title_of(pid) for pid in children(served.process.pid)]
    return found[0]


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


def test_a_link(alice: Any, bob: Client, origin: BadOrigin, tmp_path: Path) -> None:
    data = own(alice)
    origin.serve = lambda request: request.answer(data, media_type="image/png")
    url = origin.url(f"/picture.png?{os.urandom(8).hex()}")
    found = alice.fetch_link(ROOM, url, timeout_s=60.0)
    again = alice.fetch_link(ROOM, url, timeout_s=60.0)
    assert again.file_id != found.file_id, "another publication"
    found = again
    assert last_file(bob)[1] == (found.file_id, len(data), "image/png", "picture.png")
    bob.fetch_file(found.file_id, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == data
    for url in (
        f"http://127.0.0.1:{origin.port}/",
        f"http://localhost:{origin.port}/",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "http://example.com/",
    ):
        with pytest.raises(NotFound):
            alice.fetch_link(ROOM, url, timeout_s=60.0)
    origin.serve = lambda request: request.answer(b"", "404 Not Found")
    with pytest.raises(NotFound):
        alice.fetch_link(ROOM, origin.url("/none"), timeout_s=60.0)
    assert last_file(bob)[1].file_id == found.file_id


def test_the_command_line(served: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(DATA)
    put = run(served.port, "--user", "alice", "file", "put", "9", str(tmp_path / "notes.txt"))
    assert (put.code, put.err) == (0, "")
    listed = run(served.port, "--user", "bob", "file", "list", "9")
    assert listed.code == 0
    assert "alice: notes.txt (text/plain, 2.2 MiB)" in listed.out
    file_id = listed.out.split()[1]
    to = tmp_path / "to"
    to.mkdir()
    got = run(served.port, "--user", "bob", "file", "get", file_id, "--room", "9", "--to", str(to))
    assert (got.code, got.err) == (0, "")
    assert (to / "notes.txt").read_bytes() == DATA


def put(served: RunningServer, path: Path, state: Path, *more: str) -> Any:
    words = ("file", "put", "11", str(path), "--json", "--key", "report of May")
    return run(served.port, "--user", "alice", *words, *more, XDG_STATE_HOME=str(state))


def names_in(client: Client, room: int) -> list[str]:
    said = (read_event(event) for event in client.iter_history(room) if
            isinstance(event, ChatBroadcast))  # fmt: skip
    return [each.name for each in said if isinstance(each, FileShared)]


def test_a_key_shares_a_file_once(served: RunningServer, bob: Client, tmp_path: Path) -> None:
    """However often it is run; on a machine that knows nothing of it, too."""
    path, state = tmp_path / "plan.txt", tmp_path / "state"
    path.write_bytes(DATA)
    first = json.loads(put(served, path, state).out)
    assert not first["recorded"]
    again = json.loads(put(served, path, state).out)
    elsewhere = json.loads(put(served, path, tmp_path / "other").out)
    assert again == elsewhere == {**first, "recorded": True}
    path.write_bytes(DATA[:-1] + b"!")
    other = put(served, path, state)
    assert (other.code, other.out) == (1, "")
    assert "if the --key was used for something else, take another one" in other.err
    path.write_bytes(DATA[:-1])
    assert put(served, path, tmp_path / "third").code == 1
    assert names_in(bob, 11) == ["plan.txt"]


def test_a_key_after_an_answer_that_was_lost(
    served: RunningServer, bob: Client, tmp_path: Path
) -> None:
    """The next run shares the file if the first did not."""
    path = tmp_path / "lost.txt"
    path.write_bytes(DATA + b"lost")
    words = ("file", "put", "12", str(path), "--key", "lost")
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    user = ("--user", "alice", "--timeout", "5", "--give-up-after", "1")
    with Relay(served.port, Opcode.FILE_END, cut=True) as relay:
        assert run(relay.port, *user, *words, **state).code == 3
    assert names_in(bob, 12) == []
    for _ in range(2):
        assert run(served.port, *user, *words, **state).code == 0
        assert names_in(bob, 12) == ["lost.txt"]


def test_a_name_that_was_deleted_is_not_shown(
    served: RunningServer, bob: Client, tmp_path: Path
) -> None:
    path = tmp_path / "secret name.txt"
    path.write_bytes(b"x")
    bob.join(13)
    sent = bob.send_file(13, path)
    bob.delete(13, sent.room_seq)
    file_id = str(sent.file_id)
    for words in (("list", "13"), ("show", "13", file_id)):
        for more in ((), ("--json",)):
            done = run(served.port, "--user", "alice", "file", *words, *more)
            assert (done.code, done.err) == (0, "")
            assert "secret" not in done.out
            assert file_id in done.out
    to = tmp_path / "to"
    to.mkdir()
    got = ("file", "get", file_id, "--room", "13", "--to", str(to))
    assert run(served.port, "--user", "alice", *got).code == 0
    assert os.listdir(to) == [f"file-{file_id}"]

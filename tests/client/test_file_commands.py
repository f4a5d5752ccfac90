"""`tradechat-cli file ...`, and the commands of the chat about files, against a server that a test
has in its hands."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from client.terminal.files import place_of, progress_text, shared_in, size_of
from libproto.errors import Status
from libproto.messages import CHUNK_MAX, ChatBroadcast, Opcode
from tests.client.file_peer import FilePeer, file_peer
from tests.client.peer import USERNAME, Request, refuse
from tests.client.programs import COMMAND, DEADLINE_S, ROOT, Piped, environment, run
from tests.helpers.server import wait_until

DATA = bytes(range(251)) * 9_000


@pytest.fixture
def peer() -> Iterator[FilePeer]:
    with file_peer() as (peer, port):
        peer.port = port
        yield peer


def cli(peer: FilePeer, *arguments: str) -> tuple[int, str, str]:
    done = run(peer.port, "--user", USERNAME, *arguments)
    return done.code, done.out, done.err


def test_put_and_get(peer: FilePeer, tmp_path: Path) -> None:
    path = tmp_path / "plan.txt"
    path.write_bytes(DATA)
    code, out, err = cli(peer, "file", "put", "5", str(path))
    assert (code, err) == (0, "")
    assert out == "shared as file 1, event 1 of room 5, 2.2 MiB\n"
    assert peer.files == {1: DATA}
    to = tmp_path / "got"
    code, out, err = cli(peer, "file", "get", "1", "--to", str(to))
    assert (code, out, err) == (0, f"{to}, 2.2 MiB\n", "")
    assert to.read_bytes() == DATA
    assert to.stat().st_mode & 0o111 == 0
    code, out, err = cli(peer, "file", "get", "1", "--to", str(to))
    assert (code, out) == (2, "")
    assert "is there already, and is not overwritten" in err
    assert to.read_bytes() == DATA


def test_json(peer: FilePeer, tmp_path: Path) -> None:
    path = tmp_path / "plan.txt"
    path.write_bytes(b"hello")
    digest = sha256(b"hello").hexdigest()
    _, out, _ = cli(peer, "file", "put", "5", str(path), "--name", "x", "--type", "a/b", "--json")
    assert json.loads(out) == {
        "file_id": 1, "room_seq": 1, "size": 5, "sha256": digest, "room_id": 5, "recorded": False,
    }  # fmt: skip
    _, out, _ = cli(peer, "file", "get", "1", "--to", f"{tmp_path}/y", "--json")
    found = {"file_id": 1, "path": f"{tmp_path}/y", "size": 5, "sha256": digest}
    assert json.loads(out) == found
    _, out, _ = cli(peer, "file", "show", "5", "1", "--json")
    shown = json.loads(out)
    assert (shown["file_id"], shown["name"], shown["username"]) == (1, "x", "mallory")


def test_names_of_others_are_shown_escaped_and_lead_nowhere(peer: FilePeer, tmp_path: Path) -> None:
    """A server that checks nothing: the client does not rely on it."""
    names = ["../../etc/passwd", "a\x1b[2Jb", "a\u202egnp.exe", ".bashrc", "", "-rf", "C:x", "good"]
    for name in names:
        peer.share(name, b"x")
    code, out, _ = cli(peer, "file", "list", "5")
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "file 2 mallory: a\\x1b[2Jb (text/plain, 1 byte)" in out
    assert "file 5 mallory: (deleted)" in out
    assert len(out.splitlines()) == len(names)
    for file_id, name in enumerate(names, 1):
        directory = tmp_path / str(file_id)
        directory.mkdir()
        code, _, err = cli(peer, "file", "get", str(file_id), "--room", "5", "--to", str(directory))
        assert (code, err) == (0, "")
        expected = "good" if name == "good" else f"file-{file_id}"
        assert os.listdir(directory) == [expected]
    assert sorted(os.listdir(tmp_path)) == sorted(str(n) for n in range(1, len(names) + 1))


def test_what_fails(peer: FilePeer, tmp_path: Path) -> None:
    code, out, err = cli(peer, "file", "put", "5", str(tmp_path / "none"))
    assert (code, out) == (2, "")
    assert "No such file" in err
    code, _, err = cli(peer, "file", "get", "99", "--to", str(tmp_path / "x"))
    assert code == 1
    assert os.listdir(tmp_path) == []
    code, _, err = cli(peer, "file", "get", "1", "--to", str(tmp_path / "none" / "x"))
    assert code == 2
    code, _, err = cli(peer, "file", "show", "5", "7")
    assert code == 1
    assert "no file 7" in err
    (tmp_path / ".x").write_bytes(b"x")
    code, _, err = cli(peer, "file", "put", "5", str(tmp_path / ".x"))
    assert code == 2
    assert "leading dot" in err
    peer.before = lambda request: (
        refuse(request, Status.ERR_NOT_FOUND, "not allowed")
        if request.opcode == Opcode.LINK_FETCH
        else None
    )
    code, _, err = cli(peer, "file", "link", "5", "http://example.com/")
    assert code == 1
    assert "not allowed" in err


def test_a_link(peer: FilePeer) -> None:
    code, out, err = cli(peer, "file", "link", "5", "http://example.com/")
    assert (code, out, err) == (0, "shared as file 77, event 3 of room 5, 5 bytes\n", "")


@pytest.mark.parametrize("how", ["put", "get"])
def test_an_interrupt_leaves_a_transfer_to_be_gone_on_with(
    peer: FilePeer, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "plan.txt"
    path.write_bytes(DATA)
    file_id = peer.share("x", DATA)
    to = tmp_path / "to"
    to.mkdir()
    arguments = {"put": ["put", "5", str(path)], "get": ["get", str(file_id), "--to", str(to)]}[how]
    opcode = {"put": Opcode.FILE_PUT, "get": Opcode.FILE_GET}[how]
    reached: list[int] = []

    def before(request: Request) -> bytes | None:
        if request.opcode == opcode and request.fields[1] > 12 * CHUNK_MAX:
            reached.append(request.fields[1])
            if len(reached) == 1:
                program.send_signal(signal.SIGINT)
            peer.lock.release()
            try:
                program.wait(DEADLINE_S)
            finally:
                peer.lock.acquire()
            raise EOFError
        return None

    peer.before = before
    with subprocess.Popen(
        [*COMMAND, "--user", USERNAME, "file", *arguments],
        cwd=ROOT,
        env=environment(peer.port),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as program:
        _, err = program.communicate(timeout=DEADLINE_S)
    assert program.returncode in (130, -signal.SIGINT)
    assert b"goes on from where it was" in err
    assert not (to / f"file-{file_id}").exists()
    peer.before = lambda _: None
    before_count = peer.count(opcode)
    code, _, err_again = cli(peer, "file", *arguments)
    assert (code, err_again) == (0, "")
    assert peer.count(opcode) - before_count < len(DATA) // CHUNK_MAX - 5
    if how == "put":
        assert peer.files[2] == DATA
    else:
        assert (to / f"file-{file_id}").read_bytes() == DATA
        assert os.listdir(to) == [f"file-{file_id}"]


def test_the_chat(peer: FilePeer, tmp_path: Path) -> None:
    path, to = tmp_path / "plan a.txt", tmp_path / "to"
    to.mkdir()
    path.write_bytes(DATA)
    program = Piped(peer.port, "--user", USERNAME, HOME=str(tmp_path))
    with program:
        program.say("/send x")
        program.expect("no room is joined")
        program.say("/join 5")
        program.expect("joined room 5")
        program.say("/files")
        program.expect("nobody has shared a file in room 5")
        program.say(f"/send {path}")
        program.expect("shared as file 1, 2.2 MiB")
        program.say("/send ~/none")
        program.expect("No such file")
        program.say("/files")
        program.expect("file 1 mallory: plan a.txt (text/plain, 2.2 MiB)")
        program.say(f"/get 1 {to}/")
        program.expect(f"fetched {to}/plan a.txt, 2.2 MiB")
        program.say(f"/get 1 {to}/plan a.txt")
        program.expect("is not overwritten")
        program.say("/get 99 x")
        program.expect("not found")
        program.say("/get one")
        program.expect("no whole number")
        program.say("/link http://example.com/x")
        program.expect("shared as file 77, 5 bytes")
        program.say("/quit")
    assert (to / "plan a.txt").read_bytes() == DATA
    wait_until(lambda: os.listdir(to) == ["plan a.txt"], "the end of the part")


@pytest.mark.parametrize(
    ("name", "path", "place"),
    [
        ("a.txt", None, "a.txt"),
        ("../a.txt", None, "file-3"),
        ("..", None, "file-3"),
        ("", None, "file-3"),
        ("a.txt", "/tmp", "/tmp/a.txt"),  # noqa: S108 - nothing is put there
        ("a/b", "/tmp", "/tmp/file-3"),  # noqa: S108
        ("a.txt", "/nowhere/", "/nowhere/a.txt"),
        ("a.txt", "/nowhere/b", "/nowhere/b"),
    ],
)
def test_where_a_file_is_put(name: str, path: str | None, place: str) -> None:
    assert place_of(3, name, path) == place


def test_sizes() -> None:
    sizes = [0, 1, 1023, 1024, 1 << 20, 1 << 30, 5 << 40]
    said = ["0 bytes", "1 byte", "1023 bytes", "1.0 KiB", "1.0 MiB", "1.0 GiB", "5120.0 GiB"]
    assert [size_of(size) for size in sizes] == said
    assert progress_text(1 << 19, 1 << 20) == "512.0 KiB of 1.0 MiB, 50 %"
    assert progress_text(0, 0) == "0 bytes of 0 bytes, 100 %"


def test_a_name_that_is_deleted_while_the_list_is_read() -> None:
    """Its event was read with the name, and that of the deletion after it."""

    def event(seq: int, kind: int, text: str) -> ChatBroadcast:
        return ChatBroadcast(5, seq, 1, kind, 7, "mallory", text)

    events = [
        event(3, 8, "1 5 text/plain secret"),
        event(4, 8, "2 5 text/plain plan"),
        event(5, 9, "deleted 3"),
        event(6, 9, "deleted 1"),
    ]
    assert [shared.file.name for shared in shared_in(events)] == ["", "plan"]

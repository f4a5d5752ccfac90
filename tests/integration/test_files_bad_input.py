"""Files over the wire from those who mean harm: what lies, what leads elsewhere, what takes too
much, and who never reads. Each is told so, nothing is left over, and nobody else is in its way."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import CHUNK_MAX, FILES_WAITING_MAX, EventKind, Opcode
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby
from tests.integration.test_files import ROOM, TEXT, begin, fetch, large, member, put, sha, share

FLAGS = ("--max-file", "2", "--numbered-rooms", "4", "--rooms", "8")
BAD, NOT_FOUND, BUSY = Status.ERR_BAD_PACKET, Status.ERR_NOT_FOUND, Status.ERR_SERVER_BUSY
UPLOADS_MAX = 64


@pytest.fixture
def lobby(tmp_path: Path) -> Iterator[Lobby]:
    with RunningServer(tmp_path / "data", *FLAGS) as server, Lobby(server) as made:
        yield made
        assert server.stop() == 0, server.log_text()


def stored(tmp_path: Path) -> list[str]:
    """Contents and uploads that are on the disk."""
    files = tmp_path / "data" / "files"
    return sorted(str(path.relative_to(files)) for path in files.rglob("*") if path.is_file())


NAMES = [
    "../x",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "a\0b",
    "a\x1b[2Jb",
    "a\rb",
    "a\x7fb",
    "a\x9bb",
    "a\u2028b",
    "a\u202egpj.exe",
    "a\u2066b",
    "\u202c",
    "a\ufffeb",
    ".bashrc",
    "",
    "x" * 129,
    "ä" * 65,
]


def test_names_that_lead_elsewhere_or_disturb_a_screen(lobby: Lobby, tmp_path: Path) -> None:
    ann = member(lobby)
    for name in NAMES:
        assert ann.status(Opcode.FILE_BEGIN, ROOM, 1, sha(b"x"), TEXT, name) == BAD, name
    assert stored(tmp_path) == ["index"]
    file_id, _ = share(ann, b"x", "x")
    assert fetch(ann, file_id) == b"x"
    assert not (tmp_path / "x").exists()


def test_lengths_and_hashes_that_lie(lobby: Lobby, tmp_path: Path) -> None:
    ann, bob = member(lobby), member(lobby)
    # Shorter than announced: it does not end, and says where it is.
    short, _ = begin(ann, bytes(100))
    put(ann, short, bytes(60))
    answer = ann.call(Opcode.FILE_END, short)
    assert answer.status == BAD
    assert "60" in answer.body.detail
    # Longer than announced.
    assert ann.status(Opcode.FILE_PUT, short, 60, bytes(41)) == BAD
    for offset in (0, 59, 61, 100, (1 << 63), (1 << 64) - 1):
        answer = ann.call(Opcode.FILE_PUT, short, offset, b"x")
        assert answer.status == BAD
        assert "60" in answer.body.detail
    ann.ok(Opcode.FILE_PUT, short, 60, bytes(40))
    ann.ok(Opcode.FILE_END, short)
    # Another hash: the upload is gone, with its bytes.
    before = stored(tmp_path)
    wrong = ann.ok(Opcode.FILE_BEGIN, ROOM, 5, sha(b"other"), TEXT, "x").file_id
    put(ann, wrong, b"these")
    assert ann.status(Opcode.FILE_END, wrong) == BAD
    assert ann.status(Opcode.FILE_END, wrong) == NOT_FOUND
    assert stored(tmp_path) == before
    # A hash that somebody else has stored under another size gives nothing.
    assert bob.ok(Opcode.FILE_BEGIN, ROOM, 99, sha(bytes(100)), TEXT, "x").received == 0
    assert ann.status(Opcode.FILE_BEGIN, ROOM, (1 << 64) - 1, sha(b""), TEXT, "x") == BAD
    events = ann.ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events
    assert len([event for event in events if event.kind == EventKind.FILE]) == 1


def test_lengths_and_offsets_of_reads(lobby: Lobby) -> None:
    ann = member(lobby)
    data = large(CHUNK_MAX + 5)
    file_id, _ = share(ann, data)
    for offset, length, part in (
        (0, 0, b""),
        (0, (1 << 32) - 1, data[:CHUNK_MAX]),
        (CHUNK_MAX, CHUNK_MAX, data[CHUNK_MAX:]),
        (len(data), 1, b""),
        ((1 << 64) - 1, (1 << 32) - 1, b""),
        (3, 4, data[3:7]),
    ):
        answer = ann.ok(Opcode.FILE_GET, file_id, offset, length)
        assert (answer.size, answer.offset, answer.data) == (len(data), offset, part)


def test_too_many_uploads_at_once(lobby: Lobby, tmp_path: Path) -> None:
    ann, bob = member(lobby), member(lobby)
    begun = [begin(ann, b"%d" % number, "x")[0] for number in range(UPLOADS_MAX)]
    refused = ann.call(Opcode.FILE_BEGIN, ROOM, 1, sha(b"more"), TEXT, "x")
    assert refused.status == BUSY
    assert "uploads" in refused.body.detail
    assert len(stored(tmp_path)) == UPLOADS_MAX + 1
    share(bob, b"bob has all of his own")
    put(ann, begun[0], b"0")
    ann.ok(Opcode.FILE_END, begun[0])
    begin(ann, b"more", "x")


def test_readers_that_never_read(lobby: Lobby) -> None:
    """They ask for all that they may, over and over, and take nothing; others are served, and the
    segments come back."""
    ann = member(lobby, worker=0)
    data = large(2 << 20)
    file_id, _ = share(ann, data)
    deaf = [lobby.enter(worker=0) for _ in range(8)]
    for wire in deaf:
        for at in range(FILES_WAITING_MAX):
            wire.send(Opcode.FILE_GET, file_id, at * CHUNK_MAX, CHUNK_MAX)
    for number in range(3):
        assert fetch(ann, file_id) == data
        share(ann, large(CHUNK_MAX * 2, number + 1), f"{number}")
    ann.ok(Opcode.CHAT_SEND, ROOM, "still here")
    for wire in deaf:  # and what they asked for is there, once they read
        answers = [wire.answer() for _ in range(FILES_WAITING_MAX)]
        for answer in answers:
            if answer.status == Status.OK:
                at = answer.body.offset
                assert answer.body.data == data[at : at + CHUNK_MAX]
            else:
                assert answer.status == BUSY


def test_uploads_that_are_left_in_the_middle(lobby: Lobby, tmp_path: Path) -> None:
    """The connection goes, and its bytes are there for an hour, for that user alone."""
    ann, bob = member(lobby), member(lobby)
    data = large(3 * CHUNK_MAX)
    file_id, _ = begin(ann, data)
    put(ann, file_id, data[:CHUNK_MAX])
    assert bob.status(Opcode.FILE_PUT, file_id, CHUNK_MAX, b"x") == NOT_FOUND
    assert begin(bob, data)[1] == 0
    ann.close()
    upload = tmp_path / "data" / "files" / "uploads" / str(file_id)
    wait_until(lambda: os.path.getsize(upload) == CHUNK_MAX, "its bytes are there")
    bob.ok(Opcode.CHAT_SEND, ROOM, "still here")

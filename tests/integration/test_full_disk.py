"""A full disk, a real one of few MiB: files are refused, chat and money go on, and files go on when
there is space again."""

import os
import sys
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import CHUNK_MAX, Opcode
from server.files.verify import verify
from tests.helpers.server import RunningServer
from tests.helpers.wire import Lobby, Wire
from tests.integration.test_files import ROOM, TEXT, fetch, member, put, sha
from tests.server.master.test_start import in_another_tree

BUSY = Status.ERR_SERVER_BUSY
BALLAST = ".ballast"  # half of it, which is removed to make space
MIB = 1 << 20
FILES_MAX = 16
RINGS = ("--txn-ring", "1024", "--event-ring", "1024")  # a file of the journal has place for both
SHARED_MIB = 80


class OnSmallDisk(RunningServer):
    """A server that has a directory on a file system of its own; nobody else sees that."""

    def __init__(self, data: Path, small: Path, size_mib: int) -> None:
        small.mkdir(exist_ok=True)
        script = (
            f"mount -t tmpfs -o size={size_mib}m,mode=700 none {small}",
            f"head -c {size_mib * MIB // 2} /dev/zero > {small / BALLAST}",
        )
        self._small = small
        self.program = (*in_another_tree(*script), sys.executable, "-m", "server")
        super().__init__(data, *RINGS)

    def seen(self, path: Path) -> Path:
        """A path as the server sees it."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def make_space(self) -> None:
        os.unlink(self.seen(self._small / BALLAST))


def upload(wire: Wire, data: bytes) -> int:
    """Share a file: its file_id; 0 if there is no space for all of it."""
    fields = (ROOM, len(data), sha(data), TEXT, "a.txt")
    file_id, received = wire.ok(Opcode.FILE_BEGIN, *fields)
    for at in range(received, len(data), CHUNK_MAX):
        answer = wire.call(Opcode.FILE_PUT, file_id, at, data[at : at + CHUNK_MAX])
        if answer.status == BUSY:
            assert answer.body.retry_after_ms
            assert "the disk is full" in answer.body.detail
            return 0
        assert answer.status == Status.OK, answer.body
    wire.ok(Opcode.FILE_END, file_id)
    return int(file_id)


def talk_and_pay(wire: Wire) -> None:
    """More than the histories have allocated."""
    for _ in range(64):
        for _ in range(32):
            wire.send(Opcode.CHAT_SEND, ROOM, "m" * 2000)
            wire.send(Opcode.DEPOSIT, 1)
        for _ in range(64):
            answer = wire.answer()
            assert answer.status == Status.OK, answer.body
    assert wire.ok(Opcode.BALANCE).balance == 64 * 32


@pytest.mark.parametrize("place", ["files", "data"])
def test_files_are_refused_and_nothing_else(tmp_path: Path, place: str) -> None:
    """The store has a disk of its own, or shares it with the journal."""
    data = tmp_path / "data"
    if place == "files":
        with RunningServer(data) as server:  # which makes its directory where nothing is
            assert server.stop() == 0
    where = (data / "files", 8) if place == "files" else (data, SHARED_MIB)
    server = OnSmallDisk(data, *where)
    with server:
        with Lobby(server) as lobby:
            ann, bob = member(lobby, worker=0), member(lobby, worker=1)
            small = os.urandom(MIB)
            first = upload(ann, small)
            # Begun while there is space for each of them, and not for all.
            large = [os.urandom(3 * MIB) for _ in range(FILES_MAX)]
            begun = [
                bob.ok(Opcode.FILE_BEGIN, ROOM, len(each), sha(each), TEXT, "a.txt").file_id
                for each in large
            ]
            short = next(n for n, each in enumerate(large) if not upload(bob, each))
            lacking = begun[short]
            assert bob.status(Opcode.FILE_END, lacking) == Status.ERR_BAD_PACKET, "it is not whole"
            fields = (ROOM, 3 * MIB, sha(b"new"), TEXT, "a.txt")
            assert ann.status(Opcode.FILE_BEGIN, *fields) in (BUSY, Status.OK)
            talk_and_pay(ann)
            talk_and_pay(bob)
            assert fetch(bob, first) == small
            server.make_space()
            answer = bob.ok(Opcode.FILE_BEGIN, ROOM, 3 * MIB, sha(large[short]), TEXT, "a.txt")
            assert answer.file_id == lacking
            assert 0 < answer.received < 3 * MIB
            put(bob, lacking, large[short], answer.received)
            bob.ok(Opcode.FILE_END, lacking)
            assert fetch(ann, lacking) == large[short]
            found = verify(server.seen(data / "files"))
            assert not found.problems
        assert server.stop() == 0, server.log_text()

"""A backup of a server that is used meanwhile, and what a server makes of it. Real processes."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libproto.messages import CHUNK_MAX, EventKind, Opcode
from server.admin.backup import backup
from server.admin.journal_verify import verify
from server.archive.segments import Scan
from server.files.copy import noted
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.format import BATCH
from server.journal.reader import Batch, Reader
from server.region.region import Region
from server.worker.audit import NAME as AUDIT_LOG
from tests.helpers.server import ROOT, RunningServer, wait_until
from tests.helpers.wire import Wire
from tests.integration.test_files import BUSY, NOT_FOUND, begin, fetch, share

ADMIN = [sys.executable, "-m", "server.admin.cli"]
TIMEOUT_S = 120
ROOM = 3
# Small files: snapshots and segments come and go while it is copied.
SMALL = (
    *("--txn-ring", "1024", "--event-ring", "1024", "--accounts", "64", "--clients", "64"),
    *("--segment-size", "1", "--snapshot-size", "1", "--history-size", "1"),
    *("--room-history", "100000"),
)
Run = subprocess.CompletedProcess[str]


def admin(*arguments: object, code: int = 0) -> Run:
    """Run it as a script does, without a terminal."""
    run = subprocess.run(
        [*ADMIN, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT_S,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert run.returncode == code, run.stdout + run.stderr
    return run


@contextmanager
def serving(data: Path, *flags: str) -> Iterator[RunningServer]:
    server = RunningServer(data, *SMALL, *flags)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.crash()


def entered(server: RunningServer, name: str, *, new: bool = False) -> Wire:
    wire = Wire(server.connect())
    wire.hello(name)
    if new:
        assert not wire.register(name).status
        wire.hello(name)
    assert not wire.login(name).status
    return wire


def kept(server: RunningServer) -> int:
    """Room events that the archive has written and synced."""
    region = Region.attach(server.name)
    try:
        return int(region.words[region.layout["archive"].at(0, "kept")])
    finally:
        region.close()


def logged(server: RunningServer, event: str) -> list[str]:
    """What its log has of an event."""
    return [line for line in server.log_text().splitlines() if json.loads(line)["event"] == event]


class Busy:
    """A user who deposits and talks as fast as it goes, several requests at a time."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.deposited = self.said = 0  # acknowledged
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        wire.ok(Opcode.JOIN_ROOM, ROOM)
        self._thread.start()

    def _run(self) -> None:
        text = "m" * 200
        while not self._stop.is_set():
            for _ in range(32):
                self.wire.send(Opcode.DEPOSIT, 1)
                self.wire.send(Opcode.CHAT_SEND, ROOM, text)
            for _ in range(32):
                assert not self.wire.answer().status
                self.deposited += 1
                assert not self.wire.answer().status
                self.said += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self.wire.close()


def messages(wire: Wire) -> int:
    """How many the room's history has."""
    count, after = 0, 0
    while page := wire.ok(Opcode.ROOM_HISTORY, ROOM, after, 256).events:
        count += sum(event.kind == EventKind.MESSAGE for event in page)
        after = page[-1].room_seq
    return count


def test_a_backup_of_a_server_that_is_used(tmp_path: Path) -> None:
    """What was acknowledged before it began is in it, each time; segments, snapshots and histories
    come and go meanwhile."""
    copies = [tmp_path / f"copy{number}" for number in range(4)]
    before: list[tuple[int, int]] = []
    with serving(tmp_path / "data") as server:
        busy = Busy(entered(server, "ann", new=True))
        try:
            for copy in copies:
                goal = busy.deposited + 3000
                wait_until(lambda goal=goal: busy.deposited >= goal, "it has gone on", TIMEOUT_S)  # type: ignore[misc]
                before.append((busy.deposited, busy.said))
                told = json.loads(admin("backup", "--data", server.data, copy, "--json").stdout)
                assert told["good"]
                assert told["directory"] == str(copy)
        finally:
            busy.stop()
        last = busy.deposited
    for copy, (deposited, said) in zip(copies, before, strict=True):
        assert verify(Disk(), DataDirectory(copy)).is_good
        assert copy.stat().st_mode & 0o777 == 0o700
        assert (copy / "identity").stat().st_mode & 0o777 == 0o600
        with serving(copy) as server, entered(server, "ann") as ann:
            assert deposited <= ann.ok(Opcode.BALANCE).balance <= last
            assert said <= messages(ann) <= last


class Interrupted(Disk):
    """A disk on which something happens before the first file of a directory is copied."""

    def __init__(self, directory: Path, happens: Callable[[], None]) -> None:
        self._directory, self._happens = directory, happens
        self.is_over = False

    def create(self, path: Path) -> int:
        if not self.is_over and path.parent == self._directory:
            self.is_over = True
            self._happens()
        return super().create(path)


@pytest.mark.parametrize("directory", [".", "snapshots", "rooms", "journal"])
def test_the_server_goes_on_at_any_step(tmp_path: Path, directory: str) -> None:
    """A segment is begun and others go, a snapshot is made, and the histories have it all: the copy
    has what it is to have, and nothing that its journal does not lead to."""
    data, copy = DataDirectory(tmp_path / "data"), DataDirectory(tmp_path / "copy")
    with serving(data.path) as server, entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.JOIN_ROOM, ROOM)

        def go_on() -> None:
            """Until no file of the journal is one of those before, and a snapshot is newer."""
            old, newest = set(data.journal.iterdir()), max(data.snapshots.iterdir(), default=None)
            while old & set(data.journal.iterdir()) or newest == max(
                data.snapshots.iterdir(), default=None
            ):
                for _ in range(64):
                    ann.send(Opcode.DEPOSIT, 1)
                    ann.send(Opcode.CHAT_SEND, ROOM, "m" * 1000)
                for _ in range(128):
                    assert not ann.answer().status
            last = ann.ok(Opcode.CHAT_SEND, ROOM, "the last").room_seq
            wait_until(lambda: kept(server) == last, "the archive has them")

        go_on()
        balance = ann.ok(Opcode.BALANCE).balance
        disk = Interrupted(copy.path / directory, go_on)
        made = backup(disk, data, copy.path, lambda _done, _of: None)
        assert disk.is_over
        assert made.report.is_good
        scan = Scan(Disk(), copy.rooms)
        list(scan.batches())
        assert scan.last is not None
        assert scan.last.event <= made.report.event
    with serving(copy.path) as server, entered(server, "ann") as ann:
        paid = ann.ok(Opcode.BALANCE).balance
        assert paid >= balance
        assert messages(ann) <= paid + 2, "each was said after a deposit, but for the last ones"
        assert not logged(server, "histories_set_aside")


class HalfSeen(Disk):
    """A disk on which the end of a batch that is being written is seen before its middle."""

    def __init__(self, batch: Batch, times: int) -> None:
        self._batch, self._times = batch, times

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = bytearray(super().read(fd, size, offset))
        at = self._batch.offset + BATCH.size + 24 - offset
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if self._times and path == self._batch.path and 0 <= at < len(data) - 8:
            self._times -= 1
            data[at : at + 8] = b"~written"
        return bytes(data)


@pytest.mark.parametrize("times", [1, 9])
def test_what_is_being_written_is_left_out(tmp_path: Path, times: int) -> None:
    """But what is so whenever it is read is damage, and told."""
    data = DataDirectory(tmp_path / "data")
    with serving(data.path) as server, entered(server, "ann", new=True) as ann:
        balances = [ann.ok(Opcode.DEPOSIT, 1).balance for _ in range(5)]
        early = data.position.read_bytes()
        ann.ok(Opcode.DEPOSIT, 1)
        server.crash()
    data.position.write_bytes(early)  # as it was before the last one
    log_id = data.identity(Disk()).log_id
    *_, last = Reader(Disk(), data.journal, log_id).batches()
    made = backup(HalfSeen(last, times), data, tmp_path / "copy", lambda _done, _of: None)
    assert made.report.is_good == (times == 1)
    if times == 1:
        assert made.report.txn == last.first - 1
        with serving(tmp_path / "copy") as server, entered(server, "ann") as ann:
            assert ann.ok(Opcode.BALANCE).balance == balances[-1]


def test_a_restored_log_is_another_one(tmp_path: Path) -> None:
    data, copy, anew = tmp_path / "data", tmp_path / "copy", tmp_path / "anew"
    with serving(data) as server, entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.DEPOSIT, 12)
        log_id = ann.log_id
        admin("backup", "--data", data, copy)
        ann.ok(Opcode.DEPOSIT, 100)
    content = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    told = admin("restore", copy, "--data", anew).stdout
    assert "transaction 2 " in told
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == content
    assert not list(anew.glob("removed-*")), "the backup has what was replaced"
    with serving(anew) as server, entered(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE).balance == 12
        assert ann.log_id != log_id


def test_a_backup_of_a_server_that_is_stopped(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    with serving(data) as server, entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.DEPOSIT, 12)
        assert server.stop() == 0
    admin("backup", "--data", data, copy)
    names = [path.relative_to(data) for path in data.rglob("*") if path.is_file()]
    names.remove(Path(AUDIT_LOG))  # who has done what is no state
    # The index of what users share is not copied as it is (server/files/copy.py).
    for name in [name for name in names if name.parts[0] != "files"]:
        assert (copy / name).read_bytes() == (data / name).read_bytes()
    with serving(copy) as server, entered(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE).balance == 12


class Twice(Disk):
    """A disk on which something happens before the journal is copied, and something after it."""

    def __init__(
        self, journal: Path, before: Callable[[], None], after: Callable[[], None]
    ) -> None:
        self._journal, self._before, self._after = journal, before, after

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        if path == self._journal:
            self._before()

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        if path == self._journal:
            self._after()


def test_what_users_share_is_copied_and_verified(tmp_path: Path) -> None:
    """Every file whose event the copy has can be fetched, under its number, which no other gets.
    One that was shared when the journal was already copied is not there."""
    data, copy, anew = tmp_path / "data", tmp_path / "copy", tmp_path / "anew"
    contents = [b"", b"x" * (CHUNK_MAX + 1), b"another", b"x" * (CHUNK_MAX + 1), b"meanwhile"]
    with serving(data) as server, entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.JOIN_ROOM, ROOM)
        shared = [share(ann, content, room=ROOM)[0] for content in contents[:-1]]
        begin(ann, b"unfinished", room=ROOM)
        late: list[int] = []

        def one_more(data: bytes, to: list[int]) -> None:
            to.append(share(ann, data, room=ROOM)[0])
            wait_until(lambda: to[-1] in noted(Disk(), server.data / "files")[0], "it is noted")

        disk = Twice(
            copy / "journal",
            lambda: one_more(contents[-1], shared),
            lambda: one_more(b"late", late),
        )
        made = backup(disk, DataDirectory(data), copy, lambda _done, _of: None)
        assert (made.is_good, made.shared.contents) == (True, 5)
        told = json.loads(admin("restore", copy, "--data", anew, "--json").stdout)
        assert (told["good"], told["shared_files"], told["damaged_files"]) == (True, 5, [])
        assert fetch(ann, late[0]) == b"late"
    for directory in (copy, anew):
        with serving(directory) as server, entered(server, "ann") as ann:
            ann.ok(Opcode.JOIN_ROOM, ROOM)
            for file_id, content in zip(shared, contents, strict=True):
                assert fetch(ann, file_id) == content
            wait_until(
                lambda: ann.status(Opcode.FILE_GET, late[0], 0, 1) != BUSY, "all is looked up"
            )
            assert ann.status(Opcode.FILE_GET, late[0], 0, 1) == NOT_FOUND
            assert share(ann, b"new", room=ROOM)[0] > max(*shared, *late)
    damaged = next(path for path in (copy / "files/contents").rglob("*") if path.is_file())
    damaged.write_bytes(b"damage")
    shutil.rmtree(anew)
    assert damaged.name in admin("restore", copy, "--data", anew, code=1).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_interrupted_is_none(tmp_path: Path, number: signal.Signals) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    with serving(data) as server, entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.DEPOSIT, 12)
        assert server.stop() == 0
    for size in range(40):  # something to copy that takes a while
        (data / "rooms" / f"{size}.new.rooms").write_bytes(b"x" * (1 << 22))
    process = subprocess.Popen(
        [*ADMIN, "backup", "--data", data, copy], cwd=ROOT, stderr=subprocess.PIPE
    )
    while not (copy / "rooms").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(TIMEOUT_S) != 0
    assert "Traceback" not in said
    assert not (copy / "identity").exists()
    if number == signal.SIGINT:
        assert not list(copy.iterdir())
    refused = admin("restore", copy, "--data", tmp_path / "anew", code=3).stderr
    assert "is not a data directory" in refused


def test_what_cannot_be_copied(tmp_path: Path) -> None:
    """One sentence each, and nothing is made."""
    data, full, copy = tmp_path / "data", tmp_path / "full", tmp_path / "copy"
    full.mkdir()
    (full / "mine").touch()
    with serving(data) as server:
        assert server.stop() == 0
    for why, *arguments in (
        ("is not empty (mine): choose a new directory", "backup", "--data", data, full),
        ("not apart from each other", "backup", "--data", data, data / "copy"),
        ("is not a data directory", "backup", "--data", full, copy),
        ("is not a data directory", "backup", "--data", tmp_path / "none", copy),
        ("is not empty", "restore", data, "--data", full),
        ("is not a data directory", "restore", full, "--data", copy),
    ):
        said = admin(*arguments, code=3).stderr
        assert str(why) in said
        assert said.count("\n") == 1
    assert [path.name for path in full.iterdir()] == ["mine"]
    assert not copy.exists()


def test_a_backup_of_what_is_damaged_says_so(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    with serving(data) as server, entered(server, "ann", new=True) as ann:
        for _ in range(3):
            ann.ok(Opcode.DEPOSIT, 12)
        server.crash()
    directory = DataDirectory(data)
    reader = Reader(Disk(), directory.journal, directory.identity(Disk()).log_id)
    batch = list(reader.batches())[1]
    with batch.path.open("r+b") as file:
        file.seek(batch.offset + BATCH.size + 20)
        file.write(b"damage")
    run = admin("backup", "--data", data, copy, code=1)
    assert "no server can start with it" in run.stderr
    shutil.rmtree(copy)
    assert "no server could start with" in admin("restore", data, "--data", copy, code=3).stderr
    assert not copy.exists()

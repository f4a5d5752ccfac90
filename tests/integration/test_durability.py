"""What was answered survives: kills of the journal, of the archive and of everything, full disks,
damaged files. Real processes, a real disk."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from client import Client
from client.errors import ClientError, ServerBusy
from libproto.errors import Status
from libproto.messages import EventKind, Flag, Opcode
from server.admin.journal_dump import Choice, dump
from server.admin.journal_verify import IN_HISTORIES, LOST, verify
from server.core.stats import totals
from server.journal.directory import DataDirectory, lock_data
from server.journal.disk import Disk
from server.journal.format import BATCH, events_in
from server.journal.load import load
from server.journal.reader import Batch, Reader
from server.region.layout import WORD
from server.region.records import RECORD_SIZE
from server.region.region import Region
from tests.helpers.leaks import region_name, wait_gone
from tests.helpers.server import ROOT, RunningServer, StartServer, lasting_port, wait_until
from tests.helpers.wire import Wire, frozen, registration, request

DAMAGED, JOURNAL_FAILED = 5, 6
PASSWORD = "sesame"  # noqa: S105 - of users who live as long as the test
CLIENT = 0xC11E27
ABOVE_ALL = 1 << 32  # req_ids that a test draws
SMALL = ("--txn-ring", "64", "--event-ring", "16", "--accounts", "64", "--clients", "64")
Restart = Callable[..., RunningServer]
AT_ONCE_S = 2.0  # on a busy machine; nothing that is refused waits for the disk


@contextmanager
def serving(data: Path, *flags: str, workers: int = 2) -> Iterator[RunningServer]:
    """A server on a data directory; killed at the end, if the test has not ended it."""
    server = RunningServer(data, *flags, workers=workers)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            kill_all(server)


def kill_all(server: RunningServer) -> None:
    """kill -9 of every process of it."""
    server.crash()


def entered(server: RunningServer, name: str, *, new: bool = False) -> Wire:
    """A connection logged in under CLIENT."""
    if new:
        register(server, name)
    wire = Wire(server.connect())
    wire.hello(name)
    next_req_id = 1 if new else ABOVE_ALL
    login = wire.login(name, client_id=CLIENT, next_req_id=next_req_id)
    assert login.status == Status.OK
    return wire


def guest(server: RunningServer, name: str, *, new: bool = False) -> Wire:
    """A connection logged in under no client_id."""
    if new:
        register(server, name)
    wire = Wire(server.connect())
    wire.hello(name)
    assert wire.login(name).status == Status.OK
    return wire


def register(server: RunningServer, name: str) -> None:
    with Wire(server.connect()) as wire:
        wire.hello(name)
        assert wire.register(name).status == Status.OK


def events(server: RunningServer, name: str) -> list[dict[str, Any]]:
    lines = map(json.loads, server.log_text().splitlines())
    return [line for line in lines if line["event"] == name]


def transactions(wire: Wire) -> list[Any]:
    """All that TXN_HISTORY tells, oldest first."""
    out: list[Any] = []
    while page := wire.ok(Opcode.TXN_HISTORY, out[-1].txn_id if out else 0, 256).transactions:
        out += page
    return out[::-1]


def said(wire: Wire, room: int) -> tuple[int, list[Any]]:
    """oldest_seq, and all that ROOM_HISTORY tells."""
    out: list[Any] = []
    while (page := wire.ok(Opcode.ROOM_HISTORY, room, out[-1].room_seq if out else 0, 256)).events:
        out += page.events
    return page.oldest_seq, out


# ---- restarts


def test_everything_is_there_after_a_kill_of_everything(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, *SMALL) as server, entered(server, "ann", new=True) as ann:
        register(server, "bob")
        epoch, log_id = ann.ok(Opcode.JOIN_ROOM, 7).epoch, ann.log_id
        deposits = [ann.call(Opcode.DEPOSIT, n, req_id=100 + n).body for n in range(1, 151)]
        paid = ann.call(Opcode.TRANSFER, 2, 30, req_id=300).body
        sent = [ann.ok(Opcode.CHAT_SEND, 7, f"m{n}").room_seq for n in range(5)]
        kill_all(server)
    with serving(data, *SMALL) as server, entered(server, "ann") as ann:
        assert ann.log_id == log_id
        assert ann.ok(Opcode.BALANCE) == (deposits[-1].balance - 30, paid.txn_id)
        again = ann.call(Opcode.TRANSFER, 2, 30, req_id=300, flags=Flag.POSSIBLE_DUPLICATE)
        assert again.body == paid
        assert again.flags & Flag.POSSIBLE_DUPLICATE
        old = ann.call(Opcode.DEPOSIT, 1, req_id=101, flags=Flag.POSSIBLE_DUPLICATE)
        assert old.status == Status.ERR_TIMEOUT
        mismatch = ann.call(Opcode.DEPOSIT, 7, req_id=250)
        assert mismatch.status == Status.ERR_BAD_PACKET
        shown = transactions(ann)
        assert [item.txn_id for item in shown] == [d.txn_id for d in deposits] + [paid.txn_id]
        assert [item.amount for item in shown] == [*range(1, 151), 30]
        assert ann.ok(Opcode.USER_LOOKUP, "bob").user_id == 2
        joined = ann.ok(Opcode.JOIN_ROOM, 7)
        assert joined.epoch == ann.ok(Opcode.ROOM_HISTORY, 7, 0, 1).epoch == epoch
        assert joined.last_seq > sent[-1], "what may have been used is skipped"
        after = ann.ok(Opcode.CHAT_SEND, 7, "after").room_seq
        assert after > joined.last_seq
        oldest, items = said(ann, 7)
        assert oldest == 1
        assert [i.message for i in items] == ["", *(f"m{n}" for n in range(5)), "", "after"]
        assert len({i.room_seq for i in items}) == len(items)
        assert server.stop() == 0


def kept(server: RunningServer) -> int:
    """Room events that the archive has written and synced."""
    return word(server, "archive", "kept")


def word(server: RunningServer, segment: str, field: str) -> int:
    region = Region.attach(server.name)
    try:
        return int(region.words[region.layout[segment].at(0, field)])
    finally:
        region.close()


def log_id_of(data: Path) -> int:
    return DataDirectory(data).identity(Disk()).log_id


def batches_of(data: Path) -> list[Batch]:
    return list(Reader(Disk(), data / "journal", log_id_of(data)).batches())


def records_of(data: Path) -> list[Batch]:
    """Those with transactions."""
    return [batch for batch in batches_of(data) if batch.count]


def await_archive(server: RunningServer, events_so_far: int) -> None:
    """Now and then, so that the small event ring does not go past it."""
    if events_so_far % 8 == 0:
        wait_until(lambda: kept(server) == events_so_far, "the archive keeps up")


def test_an_orderly_restart_skips_no_number_and_reads_its_snapshot(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, *SMALL) as server, entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.JOIN_ROOM, 3)
        for n in range(20):
            ann.ok(Opcode.DEPOSIT, 5)
            assert ann.ok(Opcode.CHAT_SEND, 3, f"m{n}").room_seq == n + 2
        assert server.stop() == 0
        (snapshot,) = (data / "snapshots").iterdir()
        assert snapshot.name == f"{22:020}-{22:020}.snapshot"
    loaded = load(
        Disk(), data / "journal", data / "snapshots", log_id_of(data), None, lambda *_: None
    )
    assert loaded.end.clean
    assert (loaded.books.txn, loaded.books.event, loaded.books.last_seq(3)) == (22, 22, 22)
    with serving(data, *SMALL) as server, entered(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE) == (100, 22)
        # The leave at the end of the server is the 22nd event of the room.
        assert ann.ok(Opcode.JOIN_ROOM, 3).last_seq == 22
        again = ann.call(Opcode.CHAT_SEND, 3, "again", req_id=ABOVE_ALL)
        assert again.body.room_seq == 24
        assert server.stop() == 0


def test_a_long_start_tells_how_far_it_is(tmp_path: Path) -> None:
    data, count = tmp_path / "data", 2000
    with serving(data, "--durability", "async") as server, entered(server, "ann", new=True) as ann:
        ann.send_raw(b"".join(request(Opcode.DEPOSIT, 1 + n, 1) for n in range(count)))
        for _ in range(count):
            assert ann.answer().status == Status.OK
        wait_until(lambda: word(server, "log", "durable") > count, "a commit")
        kill_all(server)
    # As the program does, but that a second is a millisecond.
    program = "import server.journal.start as p; p.PROGRESS_S = 0.001; import server.__main__ as m"
    flags = ("--port", "0", "--name", region_name(), "--data", str(data), "--log-format", "json")
    with subprocess.Popen(
        (sys.executable, "-c", f"{program}; raise SystemExit(m.main())", *flags),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready ")
        process.terminate()
        _, log = process.communicate()
    assert process.returncode == 0
    told = [line for line in map(json.loads, log.splitlines()) if line["event"] == "loading"]
    assert {line["step"] for line in told} <= {"snapshot", "journal", "region"}
    assert any(0 < line["transactions"] <= line["of"] for line in told)


def test_memory_only_leaves_the_disk_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        serving(data, "--durability", "none") as server,
        entered(server, "ann", new=True) as ann,
    ):
        assert set(server.children().values()) == {"worker 0", "worker 1"}
        assert ann.ok(Opcode.DEPOSIT, 5).balance == 5
        assert server.stop() == 0
    assert not data.exists()


class Load:
    """Users who deposit one unit after the other, over whatever happens to the server."""

    def __init__(self, port: int, users: int) -> None:
        self.port = port
        self.acknowledged = [0] * users
        self._stop = threading.Event()
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(users)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        name = f"user{number}"
        with Client("127.0.0.1", self.port, reconnect=True, timeout_s=60) as client:
            client.register(name, PASSWORD)
            client.login(name, PASSWORD)
            while not self._stop.is_set():
                try:
                    client.deposit(1)
                except ServerBusy:  # refused, by a worker whose master was killed before it
                    self._stop.wait(0.01)
                    continue
                except ClientError as error:
                    self.errors.append(repr(error))
                    return
                self.acknowledged[number] += 1

    def check(self) -> None:
        """As many transactions and as much money as were acknowledged: none lost, none twice."""
        assert not self.errors
        for number, count in enumerate(self.acknowledged):
            with Client("127.0.0.1", self.port) as client:
                client.login(f"user{number}", PASSWORD)
                shown: list[Any] = []
                while page := client.transactions(shown[-1].txn_id if shown else 0).transactions:
                    shown += page
                assert [item.balance for item in reversed(shown)] == list(range(1, count + 1))
                assert len({item.req_id for item in shown}) == count
                assert client.balance().balance == count


def test_kills_of_everything_under_load(tmp_path: Path) -> None:
    port, data = lasting_port(), tmp_path / "data"
    flags = (*SMALL, "--port", str(port), "--snapshot-interval", "1")
    server = RunningServer(data, *flags)
    try:
        with Load(port, 6) as load_:
            for _ in range(5):
                before = sum(load_.acknowledged)
                wait_until(lambda: sum(load_.acknowledged) > before + 60, "the load", 60.0)  # noqa: B023 - at once
                kill_all(server)
                server = RunningServer(data, *flags)
            before = sum(load_.acknowledged)
            wait_until(lambda: sum(load_.acknowledged) > before, "the load", 60.0)
        load_.check()
        assert server.stop() == 0, server.log_text()
    finally:
        if server.process.poll() is None:
            kill_all(server)


# ---- the journal process


def test_what_shows_a_transaction_waits_for_the_disk(start_server: StartServer) -> None:
    """And nothing else does."""
    server = start_server(workers=1)
    with entered(server, "ann", new=True) as ann, entered(server, "bob", new=True) as bob:
        ann.ok(Opcode.JOIN_ROOM, 5)
        ann.ok(Opcode.DEPOSIT, 10)
        journal = server.journal_pid()
        with frozen(journal):
            waiting = {
                ann.send(Opcode.TRANSFER, 2, 10): Status.OK,
                ann.send(Opcode.BALANCE): Status.OK,
                ann.send(Opcode.WITHDRAW, 1): Status.ERR_INSUFFICIENT_FUNDS,
                ann.send(Opcode.TXN_HISTORY, 0, 10): Status.OK,
            }
            theirs = bob.send(Opcode.BALANCE)
            waiting[ann.send(Opcode.CHAT_SEND, 5, "shown when durable")] = Status.OK
            beat = ann.send(Opcode.HEARTBEAT, 1)
            assert ann.answer().req_id == beat, "it overtakes, nothing else does"
            assert bob.call(Opcode.HEARTBEAT, 1).status == Status.OK
            assert not bob.readable(0.2), "it would show what is not durable"
        answers = {answer.req_id: answer.status for answer in (ann.answer() for _ in waiting)}
        assert answers == waiting
        balance = bob.answer()
        assert (balance.req_id, balance.body.balance) == (theirs, 10)


def test_a_user_who_is_not_durable_cannot_be_looked_up(start_server: StartServer) -> None:
    server = start_server(workers=2)
    with entered(server, "ann", new=True) as ann, Wire(server.connect()) as new:
        iterations = new.hello("bob").body.iterations
        with frozen(server.journal_pid()):
            new.send(Opcode.REGISTER, *registration("bob", iterations))
            wait_until(lambda: word(server, "registry", "users") == 2, "bob is registered")
            asked = ann.send(Opcode.USER_LOOKUP, "bob")
            beat = ann.send(Opcode.HEARTBEAT, 1)
            assert ann.answer().req_id == beat, "it overtakes, and nothing is told of bob"
            assert not new.readable(0.1)
        assert new.answer().status == Status.OK
        told = ann.answer()
        assert (told.req_id, told.body.user_id) == (asked, 2)


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_the_journal_is_killed_under_load(tmp_path: Path, durability: str) -> None:
    port = lasting_port()
    flags = (*SMALL, "--txn-ring", "4096", "--port", str(port), "--durability", durability)
    with serving(tmp_path / "data", *flags) as server:
        with Load(port, 4) as load_:
            for _ in range(5):
                before, head = sum(load_.acknowledged), word(server, "log", "head")
                wait_until(lambda: word(server, "log", "durable") > head, "a commit", 30.0)  # noqa: B023 - at once
                os.kill(server.journal_pid(), signal.SIGKILL)
                wait_until(lambda: sum(load_.acknowledged) > before + 100, "the load", 30.0)  # noqa: B023 - at once
        load_.check()
        deaths = events(server, "process_died")
        assert [death["process"] for death in deaths] == ["journal"] * 5
        assert server.stop() == 0
    found = records_of(tmp_path / "data")
    ids = [n for batch in found for n in range(batch.first, batch.last + 1)]
    assert ids == list(range(1, len(ids) + 1)), "each once"


def test_parked_answers_go_out_when_the_journal_is_there_again(start_server: StartServer) -> None:
    server = start_server()
    with entered(server, "ann", new=True) as ann:
        journal = server.journal_pid()
        os.kill(journal, signal.SIGSTOP)
        sent = ann.send(Opcode.DEPOSIT, 5)
        assert ann.call(Opcode.HEARTBEAT, 1).status == Status.OK
        os.kill(journal, signal.SIGKILL)
        answer = ann.answer()
        assert (answer.req_id, answer.body.balance) == (sent, 5)


def test_a_journal_that_stands_still_is_replaced(start_server: StartServer) -> None:
    server = start_server("--worker-timeout", "1")
    with entered(server, "ann", new=True) as ann:
        os.kill(server.journal_pid(), signal.SIGSTOP)
        assert ann.ok(Opcode.DEPOSIT, 5).balance == 5
        (told,) = events(server, "process_stuck")
        assert told["process"] == "journal"


def test_a_journal_that_waits_long_is_seen_to_be_alive(start_server: StartServer) -> None:
    flags = ("--durability", "async", "--flush-interval", "5", "--worker-timeout", "1")
    server = start_server(*flags)
    journal, beat = server.journal_pid(), word(server, "journal", "beat")
    with entered(server, "ann", new=True) as ann:
        assert ann.ok(Opcode.DEPOSIT, 5).balance == 5
    wait_until(lambda: word(server, "journal", "beat") > beat + 15, "signs of life")
    assert server.journal_pid() == journal
    assert server.stop() == 0  # at once, and not after the interval
    assert not events(server, "process_died")


def test_a_journal_that_is_killed_at_the_end_is_followed_by_another(tmp_path: Path) -> None:
    flags = ("--durability", "async")
    with serving(tmp_path / "data", *flags) as server:
        journal = server.journal_pid()
        with entered(server, "ann", new=True) as ann:
            os.kill(journal, signal.SIGSTOP)
            for _ in range(10):
                ann.ok(Opcode.DEPOSIT, 5)
        server.signal(signal.SIGTERM)
        wait_until(lambda: list(server.children()) == [journal], "the end of all others")
        os.kill(journal, signal.SIGKILL)
        assert server.wait() == 0
    with serving(tmp_path / "data", *flags) as server, entered(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE).balance == 50
        assert server.stop() == 0


def test_a_journal_that_is_killed_at_the_start_is_followed_by_another(tmp_path: Path) -> None:
    command = (
        *(sys.executable, "-m", "server", "--port", "0", "--name", region_name()),
        *("--data", str(tmp_path / "data"), "--log-file", str(tmp_path / "log")),
    )
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def killed() -> bool:
        for child in children.read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                if b"journal" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
                    return True
        return False

    with process:
        wait_until(killed, "a journal process", 30.0)
        assert process.stdout.readline().startswith("ready ")
        process.terminate()
    assert process.returncode == 0


def test_what_was_durable_and_is_damaged_is_no_torn_end(tmp_path: Path) -> None:
    """The journal that comes after one that was killed knows how far that one was."""
    with serving(tmp_path / "data") as server, entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.DEPOSIT, 5)
        last = batches_of(tmp_path / "data")[-1]
        with last.path.open("r+b") as file:
            file.seek(last.offset + 100)
            file.write(b"\xff")
        os.kill(server.journal_pid(), signal.SIGKILL)
        assert server.wait() == JOURNAL_FAILED
        (told,) = events(server, "durability_lost")
        assert str(last.path) in told["reason"]
        assert f"offset {last.end.offset}" in told["reason"]


def test_the_master_is_killed_and_what_was_answered_is_there(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server, entered(server, "ann", new=True) as ann:
        children = server.children()
        balance = ann.ok(Opcode.DEPOSIT, 5).balance
        server.process.kill()
        server.wait()
        for pid in children:
            wait_gone(pid)
        kill_all(server)
    with serving(tmp_path / "data") as server, entered(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE).balance == balance
        assert server.stop() == 0


# ---- the disk


def test_a_disk_that_takes_no_more_ends_the_server_and_loses_nothing(tmp_path: Path) -> None:
    """The kernel refuses to make the next journal file: the limit of a file's size is below it."""
    data = tmp_path / "data"
    flags = (*SMALL, "--segment-size", "1", "--graceful-timeout", "3")
    with serving(data, *flags, workers=1) as server:
        with entered(server, "ann", new=True) as ann:
            first = ann.ok(Opcode.DEPOSIT, 1)
            resource.prlimit(server.journal_pid(), resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
            answered, status = first.balance, Status.OK
            with suppress(ConnectionError, AssertionError):
                while status == Status.OK:
                    answer = ann.call(Opcode.DEPOSIT, 1)
                    status = Status(answer.status)
                    answered = answer.body.balance if status == Status.OK else answered
            assert status in (Status.OK, Status.ERR_SERVER_BUSY)
        assert server.wait() == JOURNAL_FAILED
        (told,) = events(server, "journal_unwritable")
        assert told["errno"] == 27  # EFBIG
    assert answered > 1
    with serving(data, *flags, workers=1) as server, entered(server, "ann") as ann:
        balance = ann.ok(Opcode.BALANCE).balance
        assert answered <= balance <= answered + 1, "one may have been written, and not answered"
        assert server.stop() == 0


def refused(data: Path, *flags: str) -> str:
    """What a server says that does not start."""
    with pytest.raises(AssertionError) as error:
        RunningServer(data, *flags)
    reasons = re.findall(r'"reason":"((?:[^"\\]|\\.)*)"', str(error.value))
    assert reasons, str(error.value)
    return str(json.loads(f'"{reasons[0]}"'))


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The data of a server that was killed after some transactions."""
    with serving(tmp_path / "data") as server, entered(server, "ann", new=True) as ann:
        for _ in range(5):
            ann.ok(Opcode.DEPOSIT, 5)
        kill_all(server)
    return tmp_path / "data"


@pytest.mark.parametrize("place", [-1, -2, -3, 1])
def test_damage_is_refused_with_its_place(stopped: Path, place: int) -> None:
    """In the last batch, too: it was answered for."""
    batch = records_of(stopped)[place]
    with batch.path.open("r+b") as file:
        file.seek(batch.offset + 60)
        file.write(b"\xff")
    assert f"{batch.path}, offset {batch.offset}" in refused(stopped)


@pytest.mark.parametrize("lost", [1, 2, 3])
@pytest.mark.parametrize("how", ["zeros", "cut"])
def test_a_missing_end_is_refused(stopped: Path, lost: int, how: str) -> None:
    """The last batches overwritten with zeros, as if they had never been; the file cut."""
    first = batches_of(stopped)[-lost]
    with first.path.open("r+b") as file:
        if how == "zeros":
            size = first.path.stat().st_size - first.offset
            file.seek(first.offset)
            file.write(bytes(size))
        else:
            file.truncate(first.offset)
    reason = refused(stopped)
    assert str(first.path) in reason
    assert f"ends with transaction {first.first - 1}" in reason


def test_a_newest_segment_that_is_gone_is_refused(stopped: Path) -> None:
    batches_of(stopped)[-1].path.unlink()
    reason = refused(stopped)
    assert "segment" in reason or "were acknowledged" in reason


def test_a_torn_end_is_cut_off_set_aside_and_told(stopped: Path) -> None:
    """What a batch looks like that was being written: a sector of it is as it was allocated."""
    last = batches_of(stopped)[-1]
    remains = b"\xff" * (512 - last.end.offset % 512) + bytes(512) + b"\xfe" * 100
    with last.path.open("r+b") as file:
        file.seek(last.end.offset)
        file.write(bytes(1024))
        file.seek(last.end.offset - last.end.offset % 512 + 1024)
        file.write(b"\xfe" * 100)
    with serving(stopped) as server, entered(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE).balance == 25
        (told,) = events(server, "journal_end_cut")
        assert (told["path"], told["offset"], told["last_txn"]) == (
            str(last.path), last.end.offset, 7,
        )  # fmt: skip
        assert Path(told["kept"]).read_bytes().strip(b"\0") == b"\xfe" * 100
        assert Path(told["kept"]).stat().st_size == told["bytes"] <= len(remains) + 512
        assert ann.call(Opcode.DEPOSIT, 5, req_id=1000).body == (8, 30)
        assert server.stop() == 0


def test_damage_below_a_snapshot_is_served_past_and_told(tmp_path: Path) -> None:
    """Early in the journal, where snapshots contain it all: no money goes, and it is said."""
    data = tmp_path / "data"
    for run in range(3):
        with serving(data, *SMALL) as server, guest(server, "ann", new=not run) as ann:
            for _ in range(5):
                ann.ok(Opcode.DEPOSIT, 5)
            assert server.stop() == 0
    early = records_of(data)[3]
    with early.path.open("r+b") as file:
        file.seek(early.offset + 250)
        file.write(b"\xff")
    with serving(data, *SMALL) as server, guest(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE).balance == 75
        (told,) = events(server, "history_damaged")
        assert f"{early.path}, offset {early.offset}" in told["reason"]
        assert server.stop() == 0


def break_events(batch: Batch) -> bytes:
    """The first byte of the text of its last event; answers all of them as they are then."""
    at = batch.offset + BATCH.size + batch.count * RECORD_SIZE
    content = bytearray(batch.path.read_bytes())
    content[at + batch.head.events_size - 9] ^= 0xFF
    batch.path.write_bytes(content)
    return bytes(content[at : at + batch.head.events_size])


def with_events(data: Path) -> list[Batch]:
    return [batch for batch in batches_of(data) if batch.head.events_size]


def test_damaged_events_cost_no_money_and_nothing_is_executed_twice(tmp_path: Path) -> None:
    """A server starts without them; its clients come back, and see that their room begins anew."""
    data = tmp_path / "data"
    with serving(data, *SMALL) as server, entered(server, "ann", new=True) as ann:
        register(server, "bob")
        ann.ok(Opcode.DEPOSIT, 100)
        epoch = ann.ok(Opcode.JOIN_ROOM, 7).epoch
        paid = ann.call(Opcode.TRANSFER, 2, 30, req_id=300).body
        told = ann.call(Opcode.TRANSFER_IN_ROOM, 7, 2, 5, "in front of all", req_id=301).body
        ann.call(Opcode.CHAT_SEND, 7, "said once", req_id=302)
        kill_all(server)
    remove_histories(data)
    hit = with_events(data)[-2:]
    kept = {break_events(batch) for batch in hit}
    report = verify(Disk(), DataDirectory(data))
    assert report.refusal == ""
    assert [p.effect for each in report.files.values() for p in each.problems] == [LOST, LOST]
    with serving(data, *SMALL) as server:
        with Wire(server.connect()) as ann:
            ann.hello("ann")
            login = ann.login("ann", client_id=CLIENT, next_req_id=303)
            assert (login.status, login.body.resumed) == (Status.OK, 1)
            assert ann.ok(Opcode.BALANCE).balance == 65
            again = Flag.POSSIBLE_DUPLICATE
            assert ann.call(Opcode.TRANSFER, 2, 30, req_id=300, flags=again).body == paid
            room = ann.ok(Opcode.JOIN_ROOM, 7)
            assert room.epoch > epoch
            pair = Opcode.TRANSFER_IN_ROOM, 7, 2, 5, "in front of all"
            assert ann.call(*pair, req_id=301, flags=again).body == told
            for flags in (again, 0):
                repeated = ann.call(Opcode.CHAT_SEND, 7, "said once", req_id=302, flags=flags)
                assert repeated.status == Status.ERR_TIMEOUT
            assert ann.ok(Opcode.BALANCE).balance == 65
            assert ann.call(Opcode.CHAT_SEND, 7, "a new one", req_id=303).status == Status.OK
            assert [e.message for e in said(ann, 7)[1] if e.message] == ["a new one"]
        noted = events(server, "events_lost")
        assert [each["in_histories"] for each in noted] == [False, False]
        assert {Path(each["kept"]).read_bytes() for each in noted} == kept
        places = [f"{batch.path}, offset {batch.offset}: " for batch in hit]
        assert [
            each["reason"][: len(place)] for each, place in zip(noted, places, strict=True)
        ] == places
        assert server.stop() == 0
    # It is dealt with: the next start has nothing to find, and goes on in that epoch.
    with serving(data, *SMALL) as server:
        with Wire(server.connect()) as ann:
            ann.hello("ann")
            assert ann.login("ann", client_id=CLIENT, next_req_id=304).body.resumed
            assert ann.ok(Opcode.JOIN_ROOM, 7).epoch == room.epoch
            assert [e.message for e in said(ann, 7)[1] if e.message] == ["a new one"]
        assert not events(server, "events_lost")
        assert server.stop() == 0


def remove_histories(data: Path) -> None:
    for path in (data / "rooms").iterdir():
        path.unlink()


def test_damaged_events_that_the_histories_have_are_still_shown(tmp_path: Path) -> None:
    """In the same epoch; and what follows goes on behind them."""
    data = tmp_path / "data"
    with serving(data, *SMALL) as server, entered(server, "ann", new=True) as ann:
        epoch = ann.ok(Opcode.JOIN_ROOM, 7).epoch
        for number in range(5):
            seq = ann.call(Opcode.CHAT_SEND, 7, f"m{number}", req_id=10 + number).body.room_seq
        head = word(server, "events", "head")
        wait_until(lambda: word(server, "archive", "cursor") >= head, "the archive", 30.0)
        kill_all(server)
    hit = with_events(data)[-1]
    break_events(hit)
    report = verify(Disk(), DataDirectory(data))
    assert [each.effect for each in report.files[hit.path].problems] == [IN_HISTORIES]
    with serving(data, *SMALL) as server, entered(server, "ann") as ann:
        (noted,) = events(server, "events_lost")
        assert noted["in_histories"]
        room = ann.ok(Opcode.JOIN_ROOM, 7)
        assert room.epoch == epoch
        assert room.last_seq > seq
        assert ann.call(Opcode.CHAT_SEND, 7, "m4", req_id=14).status == Status.ERR_TIMEOUT
        and_on = ann.call(Opcode.CHAT_SEND, 7, "and on", req_id=ABOVE_ALL + 1).body
        assert and_on.room_seq > room.last_seq
        texts = [e.message for e in said(ann, 7)[1] if e.message]
        assert texts == [*(f"m{number}" for number in range(5)), "and on"]
        assert server.stop() == 0


def test_a_newest_snapshot_that_is_damaged_is_passed_over_with_its_name(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for run in range(2):
        with serving(data, *SMALL) as server, guest(server, "ann", new=not run) as ann:
            ann.ok(Opcode.DEPOSIT, 5)
            assert server.stop() == 0
    newest = max((data / "snapshots").iterdir())
    with newest.open("r+b") as file:
        file.seek(300)
        file.write(b"\xff")
    with serving(data, *SMALL) as server, guest(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE).balance == 10
        assert any(str(newest) in told["reason"] for told in events(server, "snapshot_damaged"))


# ---- a directory that is not what it was


@pytest.mark.parametrize("what", ["journal", "position", "identity", "snapshots and journal"])
def test_what_is_missing_is_refused_and_nothing_begun_anew(stopped: Path, what: str) -> None:
    for name in what.split(" and "):
        path = stopped / name
        for each in path.iterdir() if path.is_dir() else [path]:
            each.unlink()
    before = sorted(path for path in stopped.rglob("*") if path.is_file())
    reason = refused(stopped)
    expected = {"position": "position, which tells how far", "identity": "«identity» is missing"}
    assert expected.get(what, "has had a journal, and it is gone") in reason
    assert sorted(path for path in stopped.rglob("*") if path.is_file()) == before


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "letters.txt").write_text("dear")
    assert "there are files in it (letters.txt)" in refused(data)
    assert [path.name for path in data.iterdir()] == ["letters.txt"]


def test_a_new_directory_is_told(tmp_path: Path) -> None:
    """Who mistypes its name, or has forgotten to mount it, can see that."""
    for mounted in (False, True):
        data = tmp_path / str(mounted)
        if mounted:
            (data / "lost+found").mkdir(parents=True)
        for first in (True, False):
            with serving(data) as server:
                told = events(server, "new_data_directory")
                assert [line["path"] for line in told] == [str(data)] * first
                assert server.stop() == 0


OF_A_MIB = ("--segment-size", "1", "--event-ring", "64", "--txn-ring", "64", "--accounts", "12",
            "--max-message", "1024")  # fmt: skip


def no_more_segments(server: RunningServer) -> tuple[int, int]:
    """The kernel refuses to allocate one, of a MiB; the limits before."""
    journal = server.journal_pid()
    limits = resource.prlimit(journal, resource.RLIMIT_FSIZE)
    resource.prlimit(journal, resource.RLIMIT_FSIZE, ((1 << 20) - 1, limits[1]))
    return limits


def until_full(ann: Wire, opcode: Opcode, *body: object) -> list[Any]:
    """Requests until one is refused because the disk is full; the bodies of the others."""
    done: list[Any] = []
    while True:
        sent = [ann.send(opcode, *body) for _ in range(30)]
        answers = [ann.answer() for _ in sent]
        done += [answer.body for answer in answers if answer.status == Status.OK]
        for answer in answers:
            assert answer.status in (Status.OK, Status.ERR_SERVER_BUSY)
            if answer.status != Status.OK and "disk is full" in answer.body.detail:
                return done


def test_all_may_leave_a_full_disk(tmp_path: Path) -> None:
    """With no space for anything else, members leave, log out and are gone: each of their leaves is
    durable while the disk is full."""
    data, names = tmp_path / "data", [f"member{n}" for n in range(8)]
    with ExitStack() as stack:
        server = stack.enter_context(serving(data, *OF_A_MIB, workers=2))
        ann = stack.enter_context(entered(server, "ann", new=True))
        members = [stack.enter_context(entered(server, name, new=True)) for name in names]
        for wire in (ann, *members):
            for room in (1, 2, 3):
                wire.ok(Opcode.JOIN_ROOM, room)
        no_more_segments(server)
        until_full(ann, Opcode.CHAT_SEND, 1, "x" * 1000)
        until_full(ann, Opcode.DEPOSIT, 1)
        until_full(ann, Opcode.CHAT_SEND, 1, "y")
        while (answer := ann.call(Opcode.JOIN_ROOM, 4)).status == Status.OK:
            ann.ok(Opcode.LEAVE_ROOM, 4)
        assert answer.status == Status.ERR_SERVER_BUSY
        assert "disk is full" in answer.body.detail
        for wire in members[:3]:
            for room in (1, 2, 3):
                wire.ok(Opcode.LEAVE_ROOM, room)
        for wire in members[3:6]:
            wire.ok(Opcode.LOGOUT)
        for wire in members[6:]:
            wire.close()

        def left(room: int) -> list[int]:
            """Users of the room's left events, all of which are durable."""
            last, users = 0, []
            while page := ann.ok(Opcode.ROOM_HISTORY, room, last, 256).events:
                last = page[-1].room_seq
                users += [event.from_user for event in page if event.kind == EventKind.LEFT]
            return sorted(users)

        users = sorted(wire.user for wire in members)
        for room in (1, 2, 3):
            wait_until(lambda room=room: left(room) == users, f"all have left room {room}")  # type: ignore[misc]
            assert [user for user, _ in ann.ok(Opcode.ROOM_MEMBERS, room, 0).members] == [ann.user]
        assert not events(server, "disk_has_space")
        kill_all(server)
    with serving(data, *OF_A_MIB, workers=1) as server, entered(server, "ann") as ann:
        assert ann.ok(Opcode.JOIN_ROOM, 2).member_count == 1
        assert server.stop() == 0
    there = [event for batch in batches_of(data) for event, _ in events_in(batch.events)]
    left_events = [event for event in there if event.kind == EventKind.LEFT]
    gone = [(event.room, event.user) for event in left_events if event.room != 4]
    expected = [(room, user) for room in (1, 2, 3) for user in users]
    assert sorted(gone) == sorted([*expected, (2, ann.user)])


def test_a_full_disk_refuses_and_heals(tmp_path: Path) -> None:
    """The kernel refuses to allocate the next segment: what has a place is executed and answered,
    what has none is refused at once with the reason; and with space again all goes on."""
    data, fill, flags = tmp_path / "data", until_full, OF_A_MIB
    with serving(data, *flags, workers=1) as server, entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.JOIN_ROOM, 1)
        journal = server.journal_pid()
        limits = no_more_segments(server)
        said = len(fill(ann, Opcode.CHAT_SEND, 1, "x" * 1000))
        balance = len(fill(ann, Opcode.DEPOSIT, 1))
        assert said > 100
        # Less than was held for the largest may make room for a few small ones.
        said += len(fill(ann, Opcode.CHAT_SEND, 1, "y"))
        while True:
            began = time.monotonic()
            answer = ann.call(Opcode.DEPOSIT, 1)
            if answer.status == Status.ERR_SERVER_BUSY:
                break
            balance += 1
        assert "disk is full" in answer.body.detail
        assert answer.body.retry_after_ms > 0
        assert time.monotonic() - began < AT_ONCE_S
        assert ann.ok(Opcode.BALANCE).balance == balance
        assert len(events(server, "disk_full")) == 1
        resource.prlimit(journal, resource.RLIMIT_FSIZE, limits)
        wait_until(lambda: bool(events(server, "disk_has_space")), "it notices")

        def again() -> bool:
            return ann.call(Opcode.DEPOSIT, 1).status == Status.OK

        wait_until(again, "money")
        assert ann.ok(Opcode.CHAT_SEND, 1, "z").room_seq == said + 2
        assert server.journal_pid() == journal, "it was no failure"
        kill_all(server)
    with serving(data, *flags, workers=1) as server, entered(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE).balance == balance + 1
        assert server.stop() == 0
    messages = [event for batch in batches_of(data) for event, _ in events_in(batch.events)]
    assert [event.seq for event in messages if event.kind == 0] == list(range(2, said + 3))


def test_another_format_is_refused(stopped: Path) -> None:
    identity = stopped / "identity"
    identity.write_text("tradechat data, format 99\n")
    reason = refused(stopped)
    assert "tradechat data, format 99" in reason
    assert "docs/JOURNAL.md" in reason


def test_fewer_accounts_than_there_are_users_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        for name in ("ann", "bob"):
            register(server, name)
        assert server.stop() == 0
    assert "accounts" in refused(tmp_path / "data", "--accounts", "1")


def test_a_directory_is_made_to_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    sync = Disk.sync_directory

    def note(self: Disk, path: Path) -> None:
        synced.append(path)
        sync(self, path)

    monkeypatch.setattr(Disk, "sync_directory", note)
    data = tmp_path / "a" / "b" / "data"
    os.close(lock_data(data))
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert data.stat().st_mode & 0o777 == 0o700
    os.close(lock_data(data))
    assert len(synced) == 3


def test_one_server_at_a_time(start_server: StartServer) -> None:
    server = start_server()
    assert "in use by a running server" in refused(server.data)


# ---- history beyond the rings


def test_history_goes_beyond_the_rings(start_server: StartServer) -> None:
    server = start_server(*SMALL)
    with entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.JOIN_ROOM, 9)
        txns, seqs = [], []
        for n in range(200):
            txns.append(ann.ok(Opcode.DEPOSIT, n + 1).txn_id)
            seqs.append(ann.ok(Opcode.CHAT_SEND, 9, f"m{n}").room_seq)
            await_archive(server, n + 2)
        assert [item.txn_id for item in transactions(ann)] == txns
        for before in (txns[0], txns[1], txns[57], txns[-1], txns[-1] + 1):
            page = ann.ok(Opcode.TXN_HISTORY, before, 5).transactions
            assert [i.txn_id for i in page] == [t for t in txns if t < before][-5:][::-1]
        oldest, items = said(ann, 9)
        assert (oldest, [i.room_seq for i in items]) == (1, [1, *seqs])
        os.kill(archive_of(server), signal.SIGKILL)
        assert [item.txn_id for item in transactions(ann)] == txns
        assert said(ann, 9) == (oldest, items)


def journal_oldest(server: RunningServer) -> int:
    region = Region.attach(server.name)
    try:
        return int(region.journal.oldest)
    finally:
        region.close()


def deposited(wire: Wire) -> int:
    """The txn_id of a deposit, which may have to wait for space in the ring."""
    while (answer := wire.call(Opcode.DEPOSIT, 1)).status == Status.ERR_SERVER_BUSY:
        time.sleep(0.01)
    assert answer.status == Status.OK
    return int(answer.body.txn_id)


def fill_until(server: RunningServer, wire: Wire, oldest: int) -> Iterator[None]:
    """Deposit, in portions, until the journal begins later than `oldest`."""
    deadline = time.monotonic() + 90
    while journal_oldest(server) <= oldest:
        assert time.monotonic() < deadline, "the journal keeps everything"
        wire.send_raw(b"".join(request(Opcode.DEPOSIT, n, 1) for n in range(1, 501)))
        for _ in range(500):
            assert wire.answer().status in (Status.OK, Status.ERR_SERVER_BUSY)  # the ring is small
        yield


def test_the_oldest_transaction_of_each_user_is_told(start_server: StartServer) -> None:
    """When older segments of the journal are gone: of who has all of theirs, of who has some, and
    of who has none; again when more have gone, and after a kill of the archive."""
    flags = ("--txn-ring", "1024", "--history-size", "1", "--snapshot-interval", "1")
    server = start_server(*flags, "--durability", "async")
    with (
        entered(server, "ann", new=True) as ann,
        entered(server, "bob", new=True) as bob,
        entered(server, "cyd", new=True) as cyd,
        entered(server, "dan", new=True) as dan,
        Wire(server.connect()) as filler,
    ):
        register(server, "filler")
        filler.hello("filler")
        filler.login("filler")
        recent: list[int] = []
        only = bob.ok(Opcode.DEPOSIT, 1).txn_id
        txns = [ann.ok(Opcode.DEPOSIT, 1).txn_id]
        assert ann.ok(Opcode.TXN_HISTORY, 0, 1).oldest_txn_id == 0
        for _ in range(2):
            began = journal_oldest(server)
            txns += [deposited(ann) for _ in fill_until(server, filler, began)]
            for again in range(2):
                kept, page, all_of_them, end = asked_at_rest(server, ann, txns)
                assert 0 < len(kept) < len(txns)
                assert [item.txn_id for item in page.transactions] == txns[-3:][::-1]
                assert page.oldest_txn_id == kept[0]
                assert [item.txn_id for item in all_of_them] == kept
                assert (end.oldest_txn_id, end.transactions) == (kept[0], ())
                gone = bob.ok(Opcode.TXN_HISTORY, 0, 256)
                assert (gone.oldest_txn_id, gone.transactions) == (only + 1, ())
                late = (cyd, dan)[len(recent) // 2]
                recent.append(deposited(late))
                assert late.ok(Opcode.TXN_HISTORY, recent[-1], 256).oldest_txn_id == 0
                if not again:
                    os.kill(archive_of(server), signal.SIGKILL)


def asked_at_rest(
    server: RunningServer, wire: Wire, txns: list[int]
) -> tuple[list[int], Any, list[Any], Any]:
    """Those of a user's transactions that are kept, and what TXN_HISTORY answers: the newest, all,
    and what is before the oldest. No segment goes meanwhile: the last ones go with a snapshot."""
    while True:
        oldest = journal_oldest(server)
        kept = [txn for txn in txns if txn >= oldest]
        page = wire.ok(Opcode.TXN_HISTORY, 0, 3)
        found, end = transactions(wire), wire.ok(Opcode.TXN_HISTORY, kept[0], 10)
        if journal_oldest(server) == oldest:
            return kept, page, found, end


def test_the_oldest_transaction_in_memory_only(start_server: StartServer) -> None:
    """Without a journal the ring is what is kept."""
    server = start_server("--txn-ring", "64", "--durability", "none")
    with entered(server, "ann", new=True) as ann, entered(server, "bob", new=True) as bob:
        only = bob.ok(Opcode.DEPOSIT, 1).txn_id
        txns = []
        for n in range(200):
            txns.append(ann.ok(Opcode.DEPOSIT, 1).txn_id)
            kept = [txn for txn in txns if txn > txns[-1] - 64]
            page = ann.ok(Opcode.TXN_HISTORY, 0, 2)
            assert page.oldest_txn_id == (0 if len(kept) == len(txns) else kept[0]), n
            gone = bob.ok(Opcode.TXN_HISTORY, 0, 256)
            assert gone.oldest_txn_id == (only + 1 if only <= txns[-1] - 64 else 0)
        assert [item.txn_id for item in transactions(ann)] == kept


def archive_of(server: RunningServer) -> int:
    return next(pid for pid, what in server.children().items() if what == "archive")


def test_room_history_keeps_as_many_as_it_is_told(start_server: StartServer) -> None:
    server = start_server(*SMALL, "--room-history", "50")
    with entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.JOIN_ROOM, 9)
        for n in range(200):
            last = ann.ok(Opcode.CHAT_SEND, 9, f"m{n}").room_seq
            await_archive(server, n + 2)
        oldest, items = said(ann, 9)
        assert oldest == last - 49
        assert [i.room_seq for i in items] == list(range(last - 49, last + 1))


def deposit_many(wire: Wire, count: int) -> list[int]:
    """That many deposits of 1, in one go; their txn_ids."""
    sent = [wire.send(Opcode.DEPOSIT, 1) for _ in range(count)]
    answers = [wire.answer() for _ in sent]
    assert [answer.req_id for answer in answers] == sent
    return [answer.body.txn_id for answer in answers]


def test_a_long_way_back_keeps_nobody_waiting(start_server: StartServer) -> None:
    """From an id that is not among the user's own, all after it have to be passed over."""
    server = start_server("--txn-ring", "8192", "--accounts", "64", workers=1)
    with entered(server, "ann", new=True) as ann, entered(server, "bob", new=True) as bob:
        early = deposit_many(ann, 5)
        others = deposit_many(bob, 1)[0]
        deposit_many(ann, 6000)
        page = ann.ok(Opcode.TXN_HISTORY, others, 3).transactions
        assert [item.txn_id for item in page] == early[::-1][:3]
    wait_until(lambda: word(server, "archive", "queries") == 1, "the archive has counted it")


def test_history_that_cannot_be_read_is_refused(start_server: StartServer) -> None:
    """It is no end of the history."""
    server = start_server(*SMALL)
    with entered(server, "ann", new=True) as ann:
        for _ in range(100):
            ann.ok(Opcode.DEPOSIT, 1)
        batches = records_of(server.data)
        path = batches[3].path
        whole = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(batches[3].offset + 60)
            file.write(b"\xff\xfe")
        answer = ann.call(Opcode.TXN_HISTORY, 0, 256)
        assert answer.status == Status.ERR_SERVER_BUSY
        assert answer.body.retry_after_ms > 0
        assert ann.ok(Opcode.DEPOSIT, 1).balance == 101
        assert events(server, "history_unreadable")
        with path.open("r+b") as file:  # for the snapshot at the end
            file.seek(batches[3].offset)
            file.write(whole[batches[3].offset : batches[4].offset])


def test_an_archive_that_cannot_write(start_server: StartServer) -> None:
    """Money goes on, and what is in the histories is answered; what would make an event is refused
    at once. It recovers by itself, and nothing is missing.

    No file of the archive may grow from some moment on."""
    server = start_server(*SMALL, "--max-message", "4096")
    with entered(server, "ann", new=True) as ann, entered(server, "bob", new=True) as bob:
        ann.ok(Opcode.JOIN_ROOM, 9)
        bob.ok(Opcode.JOIN_ROOM, 9)
        for n in range(4):
            ann.ok(Opcode.CHAT_SEND, 9, f"m{n}")
        wait_until(lambda: kept(server) == 6, "the archive has them")
        archive = archive_of(server)
        unlimited = resource.prlimit(archive, resource.RLIMIT_FSIZE)
        resource.prlimit(archive, resource.RLIMIT_FSIZE, (0, unlimited[1]))
        said_seq = ann.ok(Opcode.CHAT_SEND, 9, "x" * 4000).room_seq
        wait_until(lambda: word(server, "archive", "closed") == 1, "it cannot write")
        for opcode, fields in (
            (Opcode.CHAT_SEND, (9, "y")),
            (Opcode.DIRECT_SEND, (2, "y")),
            (Opcode.JOIN_ROOM, (10,)),
        ):
            answer = ann.call(opcode, *fields)
            assert answer.status == Status.ERR_SERVER_BUSY
            assert answer.body.retry_after_ms > 0
        for n in range(1, 41):
            assert ann.ok(Opcode.DEPOSIT, 1).balance == n
        bob.ok(Opcode.LEAVE_ROOM, 9)
        assert said(ann, 9)[1], "what there is can be asked for"
        assert word(server, "archive", "lag") > 4000
        resource.prlimit(archive, resource.RLIMIT_FSIZE, unlimited)
        wait_until(lambda: word(server, "archive", "closed") == 0, "it can write again")
        assert archive_of(server) == archive
        last = ann.ok(Opcode.CHAT_SEND, 9, "chat goes on").room_seq
        assert last == said_seq + 2
        wait_until(lambda: kept(server) == 9, "the archive has the rest")
        oldest, items = said(ann, 9)
        assert [item.room_seq for item in items] == list(range(1, last + 1))
        assert oldest == 1
    assert events(server, "histories_recovered")


def test_an_archive_that_cannot_write_does_not_fill_the_disk(start_server: StartServer) -> None:
    """Money goes on for long, and old segments go; what the archive lacks of them is copied for it,
    and goes when it has it. Nothing is missing, and the tools know of it."""
    server = start_server(
        *SMALL, "--txn-ring", "4096", "--max-message", "4096", "--segment-size", "1",
        "--snapshot-size", "1", "--history-size", "1",
    )  # fmt: skip
    journal = server.data / "journal"

    def files(suffix: str) -> list[int]:
        return sorted(int(path.stem) for path in journal.glob(f"*.{suffix}"))

    def pay_until(done: Callable[[], bool], what: str) -> None:
        for _ in range(400):
            if done():
                return
            deposit_many(ann, 500)
        pytest.fail(what)

    with entered(server, "ann", new=True) as ann:
        ann.ok(Opcode.JOIN_ROOM, 9)
        ann.ok(Opcode.CHAT_SEND, 9, "it has this one")
        wait_until(lambda: kept(server) == 2, "the archive has it")
        archive = archive_of(server)
        unlimited = resource.prlimit(archive, resource.RLIMIT_FSIZE)
        resource.prlimit(archive, resource.RLIMIT_FSIZE, (0, unlimited[1]))
        for n in range(3):
            ann.send(Opcode.CHAT_SEND, 9, "x" * (4000 + n))
        last = [ann.answer() for _ in range(3)][-1].body.room_seq
        wait_until(lambda: word(server, "archive", "closed") == 1, "it cannot write")
        pay_until(lambda: len(files("events")) >= 3, "nothing is copied")
        copied = files("events")
        assert copied == list(range(1, copied[-1] + 1))
        assert events(server, "events_copied")
        pay_until(lambda: files("journal")[-1] > copied[-1] + 5, "money goes on")
        assert files("journal")[0] > copied[-1], "they have gone"
        assert sum(path.stat().st_size for path in journal.glob("*.events")) < 1 << 17
        report = verify(Disk(), DataDirectory(server.data))
        assert report.is_good, report
        assert {int(path.stem) for path in report.files if path.suffix == ".events"} >= {*copied}
        shown = list(dump(Disk(), DataDirectory(server.data), Choice(room=9)))
        assert [entry["seq"] for entry in shown if isinstance(entry, dict)] == [*range(1, last + 1)]
        resource.prlimit(archive, resource.RLIMIT_FSIZE, unlimited)
        wait_until(lambda: word(server, "archive", "closed") == 0, "it can write again")
        assert archive_of(server) == archive
        wait_until(lambda: kept(server) == last, "the archive has the rest")
        oldest, items = said(ann, 9)
        assert (oldest, [item.room_seq for item in items]) == (1, [*range(1, last + 1)])
        pay_until(lambda: not files("events"), "what was copied goes")
        assert ann.ok(Opcode.CHAT_SEND, 9, "chat goes on").room_seq == last + 1


def test_damaged_histories_are_made_anew(tmp_path: Path) -> None:
    """A damaged file of rooms keeps nobody from anything: what the journal has is there again."""
    data = tmp_path / "data"
    with serving(data, *SMALL) as server:
        with entered(server, "ann", new=True) as ann:
            ann.ok(Opcode.JOIN_ROOM, 9)
            for n in range(30):
                last = ann.ok(Opcode.CHAT_SEND, 9, f"m{n}").room_seq
            wait_until(lambda: kept(server) == last, "the archive has them")
        assert server.stop() == 0
    (path,) = (data / "rooms").iterdir()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    with serving(data, *SMALL) as server:
        with entered(server, "ann") as ann:
            assert ann.ok(Opcode.DEPOSIT, 1).balance == 1
            oldest, items = said(ann, 9)
            assert oldest == 1
            assert [item.room_seq for item in items] == list(range(1, last + 2))  # she has left
            assert ann.ok(Opcode.JOIN_ROOM, 9).last_seq == last + 1
        wait_until(lambda: bool(events(server, "histories_set_aside")), "it is told")
        (told,) = events(server, "histories_set_aside")
        assert str(path) in told["reason"]
        assert (Path(told["kept"]) / path.name).exists()
        assert server.stop() == 0


def test_questions_of_many_at_once(start_server: StartServer) -> None:
    server = start_server(*SMALL, "--accounts", "64")
    wires = [entered(server, f"user{n}", new=True) for n in range(8)]
    ids = [[wire.ok(Opcode.DEPOSIT, 1).txn_id for _ in range(30)] for wire in wires]
    for wire in wires:
        for _ in range(3):
            wire.send(Opcode.TXN_HISTORY, 0, 256)
        wire.send(Opcode.HEARTBEAT, 4)
    for wire, own in zip(wires, ids, strict=True):
        for _ in range(3):
            assert [i.txn_id for i in wire.answer().body.transactions] == own[::-1]
        assert wire.answer().opcode == Opcode.HEARTBEAT, "it has not overtaken"
        wire.close()


def test_who_waits_for_the_archive_does_not_fill_the_server(start_server: StartServer) -> None:
    """Clients ask an archive that stands still, and go: their connections count no longer."""
    server = start_server(*SMALL, "--max-connections", "8", workers=1)
    wires = [entered(server, f"user{n}", new=True) for n in range(7)]
    ids = [[wire.ok(Opcode.DEPOSIT, 1).txn_id] for wire in wires]
    ids[0] += [wires[0].ok(Opcode.DEPOSIT, 1).txn_id for _ in range(70)]  # more than the ring has
    with frozen(archive_of(server)):
        for wire in wires:
            wire.send(Opcode.TXN_HISTORY, 0, 256)
            wire.send(Opcode.HEARTBEAT, 1)
        for wire in wires[1:]:
            wire.close()
        answer = wires[0].answer()
        assert (answer.opcode, answer.status) == (Opcode.TXN_HISTORY, Status.ERR_SERVER_BUSY)
        assert answer.body.retry_after_ms > 0
        assert wires[0].answer().opcode == Opcode.HEARTBEAT
        wires[0].close()
        wait_until(lambda: open_connections(server) == 0, "they have gone", 30.0)
    for n, own in enumerate(ids):
        with entered(server, f"user{n}") as wire:
            assert [item.txn_id for item in transactions(wire)] == own


def open_connections(server: RunningServer) -> int:
    region = Region.attach(server.name)
    try:
        return totals(region)["connections"]
    finally:
        region.close()


# ---- damage in memory


def damage(server: RunningServer) -> None:
    """Money from nowhere, and a death that has it found."""
    region = Region.attach(server.name)
    at = region.layout["accounts"].at(1, "balance") * WORD
    region.close()
    fd = os.open(f"/dev/shm/{server.name}", os.O_RDWR)  # noqa: S108 - the region's place
    try:
        os.pwrite(fd, (12345).to_bytes(WORD, "little"), at)
    finally:
        os.close(fd)
    os.kill(server.worker_pids()[0], signal.SIGKILL)


def test_a_damaged_region_is_made_anew_from_the_journal(start_server: StartServer) -> None:
    server = start_server()
    with entered(server, "ann", new=True) as ann:
        answered = ann.ok(Opcode.DEPOSIT, 5)
        damage(server)
        ann.expect_end()
    wait_until(lambda: len(events(server, "serving")) == 2, "it serves again", 30.0)
    with entered(server, "ann") as ann:
        assert ann.ok(Opcode.BALANCE) == (answered.balance, answered.txn_id)
        assert ann.call(Opcode.DEPOSIT, 5, req_id=1000).body.balance == 10


def test_a_damaged_region_without_a_journal_stops_the_server(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--durability", "none") as server:
        with entered(server, "ann", new=True) as ann:
            ann.ok(Opcode.DEPOSIT, 5)
        damage(server)
        assert server.wait() == DAMAGED

"""What was answered survives: kills of the journal process, of the master and of everything, and
damage in memory. Real processes, a real disk."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from client import Client
from client.errors import ClientError, ServerBusy
from libproto.errors import Status
from libproto.messages import Flag, Opcode
from server.exits import Exit
from server.journal.disk import Disk
from server.journal.load import load
from server.region.layout import WORD
from server.region.region import Region
from tests.helpers.leaks import region_name, wait_gone
from tests.helpers.server import ROOT, RunningServer, StartServer, lasting_port, wait_until
from tests.helpers.wire import Wire, frozen, registration, request
from tests.integration.banks import (
    ABOVE_ALL,
    SMALL,
    batches_of,
    entered,
    events,
    kill_all,
    log_id_of,
    records_of,
    register,
    said,
    serving,
    transactions,
    word,
)

PASSWORD = "sesame"  # noqa: S105 - of users who live as long as the test


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
        assert server.wait() == Exit.JOURNAL
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
        assert server.wait() == Exit.DAMAGED

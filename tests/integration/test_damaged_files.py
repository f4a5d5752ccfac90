"""A disk that is full, files that are damaged or missing, a directory that is not what it was: what
is lost is said, and what was answered is not. Real processes, a real disk."""

import json
import os
import re
import resource
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from libproto.errors import Status
from libproto.messages import EventKind, Flag, Opcode
from server.admin.journal_verify import IN_HISTORIES, LOST, verify
from server.exits import Exit
from server.journal.directory import DataDirectory, lock_data
from server.journal.disk import Disk
from server.journal.format import BATCH, events_in
from server.journal.reader import Batch
from server.region.records import RECORD_SIZE
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Wire
from tests.integration.banks import (
    ABOVE_ALL,
    CLIENT,
    SMALL,
    batches_of,
    entered,
    events,
    kill_all,
    records_of,
    register,
    said,
    serving,
    word,
)

AT_ONCE_S = 2.0  # on a busy machine; nothing that is refused waits for the disk


def guest(server: RunningServer, name: str, *, new: bool = False) -> Wire:
    """A connection logged in under no client_id."""
    if new:
        register(server, name)
    wire = Wire(server.connect())
    wire.hello(name)
    assert wire.login(name).status == Status.OK
    return wire


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
        assert server.wait() == Exit.JOURNAL
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


def test_a_journal_that_was_moved_away_can_be_moved_back(stopped: Path, tmp_path: Path) -> None:
    """The start that is refused meanwhile makes no directory of its name, for it to end up in."""
    journal, away = stopped / "journal", tmp_path / "away"
    journal.rename(away)
    assert "has had a journal, and it is gone" in refused(stopped)
    assert not journal.exists()
    away.rename(journal)
    with serving(stopped, *SMALL) as server:
        assert server.stop() == 0


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

"""What is older than the rings: history from the journal and from the archive, and an archive that
cannot write. Real processes, a real disk."""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libproto.errors import Status
from libproto.messages import EventKind, Opcode
from server.admin.journal_dump import Choice, dump
from server.admin.journal_list import rows
from server.admin.journal_verify import verify
from server.core.stats import totals
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import Damaged
from server.region.region import Region
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Wire, frozen, request
from tests.integration.banks import (
    SMALL,
    entered,
    events,
    kept,
    records_of,
    register,
    said,
    serving,
    transactions,
    word,
)

# ---- restarts


def await_archive(server: RunningServer, events_so_far: int) -> None:
    """Now and then, so that the small event ring does not go past it."""
    if events_so_far % 8 == 0:
        wait_until(lambda: kept(server) == events_so_far, "the archive keeps up")


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


def test_what_has_no_place_is_kept_for_its_time(start_server: StartServer) -> None:
    """With history_days: nobody's transactions go as others make many. They are read from packed
    segments, by tools too, and by an archive that begins anew."""
    flags = (
        "--txn-ring",
        "1024",
        "--event-ring",
        "16",
        "--history-size",
        "1",
        "--history-days",
        "1",
    )
    server = start_server(*flags, "--snapshot-interval", "1", "--durability", "async")
    journal = server.data / "journal"
    with entered(server, "ann", new=True) as ann, Wire(server.connect()) as filler:
        register(server, "filler")
        filler.hello("filler")
        filler.login("filler")
        txns = [ann.ok(Opcode.DEPOSIT, 1).txn_id]

        def is_packed() -> bool:
            filler.send_raw(b"".join(request(Opcode.DEPOSIT, n, 1) for n in range(1, 501)))
            for _ in range(500):
                assert filler.answer().status in (Status.OK, Status.ERR_SERVER_BUSY)
            txns.append(deposited(ann))
            return len(list(journal.glob("*.packed"))) > 1

        wait_until(is_packed, "two segments are packed")
        for _ in range(2):
            assert [item.txn_id for item in transactions(ann)] == txns
            assert ann.ok(Opcode.TXN_HISTORY, 0, 1).oldest_txn_id == 0
            assert journal_oldest(server) == 1
            os.kill(archive_of(server), signal.SIGKILL)
    assert server.stop() == 0
    data, disk = DataDirectory(server.data), Disk()
    report = verify(disk, data)
    assert report.is_good
    assert report.oldest == 1
    listed = list(rows(disk, data))
    assert [row["segment"] for row in listed] == list(range(1, len(listed) + 1))
    unpacked = [row["unpacked"] is not None for row in listed]
    assert unpacked == sorted(unpacked, reverse=True)
    assert not unpacked[-1]
    assert unpacked[1]
    shown = [
        entry["txn_id"]
        for entry in dump(disk, data, Choice(user=1, events=False))
        if not isinstance(entry, Damaged) and entry["kind"] == "DEPOSIT"
    ]
    assert shown == txns


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


def test_a_flood_in_one_room_pushes_nothing_out_of_another(start_server: StartServer) -> None:
    """Though the archive stands still until the ring has lapped all of it several times."""
    server = start_server(*SMALL, "--room-history", "50")
    with entered(server, "ann", new=True) as ann, entered(server, "bob", new=True) as bob:
        ann.ok(Opcode.JOIN_ROOM, 9)
        bob.ok(Opcode.JOIN_ROOM, 10)
        own = list[int]()
        wait_until(lambda: kept(server) == 2, "the archive is at rest")
        with frozen(archive_of(server)):
            for n in range(20):
                own.append(ann.ok(Opcode.CHAT_SEND, 9, f"m{n}").room_seq)
                flood = [bob.send(Opcode.CHAT_SEND, 10, "x" * 100) for _ in range(10)]
                assert [bob.answer().req_id for _ in flood] == flood
                bob.pushes.clear()
        oldest, items = said(ann, 9)
        assert (oldest, [item.room_seq for item in items]) == (1, [1, *own])


def test_who_comes_and_goes_pushes_nothing_out(start_server: StartServer) -> None:
    """Neither what was said, nor more of the others who came than there is room for."""
    server = start_server(*SMALL, "--room-history", "10")
    with entered(server, "ann", new=True) as ann, entered(server, "bob", new=True) as bob:
        ann.ok(Opcode.JOIN_ROOM, 9)
        seqs = [ann.ok(Opcode.CHAT_SEND, 9, f"m{n}").room_seq for n in range(10)]
        for _ in range(20):
            bob.ok(Opcode.JOIN_ROOM, 9)
            bob.ok(Opcode.LEAVE_ROOM, 9)
        wait_until(lambda: kept(server) == 51, "the archive keeps up")
        for _ in range(2):
            oldest, items = said(ann, 9)
            assert [i.room_seq for i in items if i.kind == EventKind.MESSAGE] == seqs
            came = [i.room_seq for i in items if i.kind in (EventKind.JOINED, EventKind.LEFT)]
            assert came == list(range(42, 52))
            assert oldest == seqs[0]
            ann.ok(Opcode.CHAT_SEND, 9, "one more")
            seqs = [*seqs[1:], 52]
            wait_until(lambda: kept(server) == 52, "the archive keeps up")


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


def test_a_long_way_back_in_memory_keeps_nobody_waiting(start_server: StartServer) -> None:
    """Without a journal: what another client sent after the question is done before its answer."""
    server = start_server("--txn-ring", "8192", "--durability", "none", workers=1)
    with entered(server, "ann", new=True) as ann, entered(server, "bob", new=True) as bob:
        for wire in (ann, bob):
            wire.ok(Opcode.JOIN_ROOM, 9)
        first = bob.ok(Opcode.DEPOSIT, 1).txn_id
        own = deposit_many(ann, 3000) + deposit_many(ann, 3000)
        with frozen(server.worker_pids()[0]):
            ann.pushes.clear()
            ann.send(Opcode.TXN_HISTORY, first, 3)
            ann.send(Opcode.TXN_HISTORY, own[2], 3)
            bob.send(Opcode.CHAT_SEND, 9, "meanwhile")
        answer = ann.answer().body
        assert (answer.oldest_txn_id, answer.transactions) == (0, ())
        assert [push.body.message for push in ann.pushes] == ["meanwhile"]
        assert [item.txn_id for item in ann.answer().body.transactions] == own[1::-1]
        assert bob.answer().status == Status.OK
        deposit_many(bob, 5000)
        kept = [txn for txn in own if txn > own[-1] + 5000 - 8192]
        assert [item.txn_id for item in transactions(ann)] == kept
        assert ann.ok(Opcode.TXN_HISTORY, kept[0], 9).oldest_txn_id == kept[0]


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
            # What follows tells that it was durable; else it would be taken for torn.
            wait_until(lambda: word(server, "archive", "cursor") == 1, "the first is durable")
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

"""Events of the journal that are damaged: whatever batch it is, a server starts, all money is
there, nothing is executed twice, no number is given twice; and every later start goes by what the
first one found.
"""

from collections.abc import Mapping
from itertools import count

import pytest

from libproto.messages import TxnKind
from server.core.check import problems
from server.core.errors import ClientTaken, OutcomeUnknown
from server.core.ledger import RECORDED
from server.journal.books import Books
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, Inconsistent
from server.journal.format import BATCH, BatchHead, BatchKind, events_in
from server.journal.load import Loaded, make_snapshot
from server.journal.reader import Batch
from server.journal.snapshot import paths
from server.journal.snapshot import read as read_snapshot
from server.journal.start import load_state
from server.region.layout import MARKED, RAISED
from server.region.records import INBOX, OFFSETS, RECORD_SIZE, RECORD_WORDS, RecordKind
from server.region.region import Region
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, at_random
from tests.helpers.region import STARTED_US, login, state_of
from tests.server.admin.bank import (
    DATA,
    NAMES,
    NOW,
    ROOM,
    Bank,
    Run,
    batches,
    break_at,
    cut_at,
    log_id,
)

NEW = 3  # which of the batches with events has a new client


def used(*, snapshot: bool = False) -> Bank:
    """A run with a snapshot, and one without (but for one at its end): batches of transactions
    alone, of events alone, of both, with pairs and with a new client."""
    bank = Bank()
    bank.work()
    with bank.run(snapshot=snapshot) as run:
        run.deposit(0, 50)
        run.commit()
        run.say(1, "events alone")
        run.whisper(0, 3, "and to one")
        run.commit()
        run.deposit(1, 60)
        run.pay_in_room(0, 2, 7)
        run.say(2, "both")
        run.pay_in_room(1, 3, 8)
        run.commit()
        login(run.state, 2, 8)
        run.say(1, "a new client")
        run.commit()
        run.transfer(2, 1, 5)
        run.commit()
        run.say(0, "the last word")
        run.commit()
    return bank


def disk_of(bank: Bank) -> SimulatedDisk:
    assert isinstance(bank.disk, SimulatedDisk)
    return bank.disk


def another(disk: SimulatedDisk, bank: Bank) -> Bank:
    """The same bank, on a disk that was left of its own."""
    return Bank(disk, balances=bank.balances, recall=bank.recall)


def newer(bank: Bank, disk: Disk | None = None) -> list[Batch]:
    """The batches above the newest snapshot."""
    disk = disk or bank.disk
    newest = paths(disk, DATA.snapshots)[0]
    head = read_snapshot(disk, newest, log_id(disk)).head
    return [batch for batch in batches(disk) if batch.end[:2] > head.position[:2]]


def with_events(found: list[Batch]) -> list[Batch]:
    return [batch for batch in found if batch.head.events_size]


def damage(disk: Disk, batch: Batch, at: int = 20) -> bytes:
    """One byte of its events; answers them as they are then."""
    offset = batch.offset + BATCH.size + batch.count * RECORD_SIZE
    break_at(disk, batch.path, offset + at)
    return read_file(disk, batch.path, batch.head.events_size, offset)


def loaded_of(disk: Disk) -> Loaded:
    return load_state(disk, DATA, log_id(disk), lambda _done, _of: None)


def check_whole(region: Region, bank: Bank) -> None:
    """All money that was ever answered for, and a state that holds together."""
    balances = region.column("accounts", "balance")[: len(NAMES) + 1]
    newest = max(bank.balances)
    assert (balances, problems(region)) == (bank.balances[newest], [])


def marks(region: Region) -> dict[tuple[int, int], int]:
    """Of every client, by user and client_id."""
    columns = map(region.column, ["clients"] * 3, ("user", "client_id", "marks"))
    return {(user, its_id): its for user, its_id, its in zip(*columns, strict=True) if user}


def marked(place: int) -> dict[tuple[int, int], int]:
    """What `marks` is where the events of the batch at this place of `used` were lost: one client
    comes later than some of them."""
    return dict.fromkeys([(1, 7), (2, 7), (3, 7)], MARKED) | {(2, 8): MARKED * (place >= NEW)}


def last_seqs(region: Region) -> tuple[list[int], list[int]]:
    """Of rooms and of inboxes."""
    return region.column("rooms", "last_seq"), region.column("users", "direct_seq")[
        : len(NAMES) + 1
    ]


def set_aside(disk: Disk) -> list[bytes]:
    """The parts of segments that starts have kept; one may have been cut off before it had."""
    found = [DATA.path / name for name in disk.names(DATA.path) if name.startswith("removed-")]
    return [
        read_file(disk, kept / "journal" / name)
        for kept in found
        if "journal" in disk.names(kept)
        for name in disk.names(kept / "journal")
    ]


def lost_of(disk: Disk) -> list[list[int]]:
    """What the starts have noted: the fields of each EVENTS_LOST, its own ones, and the kind of the
    batch that it is in."""
    noted = list[list[int]]()
    for batch in batches(disk):
        words = batch.words()
        noted += [
            [*words[at + 4 : at + 8], batch.head.kind]
            for at in range(0, len(words), RECORD_WORDS)
            if words[at + 1] == RecordKind.EVENTS_LOST
        ]
    return noted


# ---- any batch, any part of it


@pytest.mark.parametrize("place", range(5))
def test_a_server_starts_without_these_events_and_with_all_money(place: int) -> None:
    bank = used()
    disk = disk_of(bank)
    hit = with_events(newer(bank))[place]
    whole = loaded_of(disk).books
    damaged = damage(disk, hit)
    loaded = loaded_of(disk)
    assert [each.offset for each in loaded.lost] == [hit.offset]
    assert loaded.books.balances == whole.balances
    assert loaded.books.last_txn == whole.last_txn
    assert (loaded.books.txn, loaded.books.event) == (whole.txn, whole.event)
    with bank.start() as region:
        check_whole(region, bank)
        assert marks(region) == marked(place)
        assert region.header.epoch > whole.epoch
        assert not any(map(any, last_seqs(region))), "all begin anew"
        epoch = region.header.epoch
    assert set_aside(disk) == [damaged]
    first, following = hit.head.first_event, hit.head.next_event
    assert lost_of(disk) == [[first, following, 0, 0, BatchKind.BEGIN]]
    # And it is dealt with once: a later start finds nothing, and has the same state.
    for _ in range(2):
        assert not loaded_of(disk).lost
        with bank.start() as region:
            check_whole(region, bank)
            assert region.header.epoch == epoch
            assert marks(region) == marked(place)
    assert set_aside(disk) == [damaged]
    assert len(lost_of(disk)) == 1
    bank.work()
    assert not loaded_of(disk).lost


def test_the_batch_of_a_pair_is_among_them() -> None:
    """What the test above relies on."""
    found = with_events(newer(used()))
    assert len(found) == 5
    assert [bool(batch.count) for batch in found].count(False) == 3
    kinds = [{event.txn > 0 for event, _ in events_in(batch.events)} for batch in found]
    assert {True, False} in kinds


def test_the_event_of_a_pair_is_made_from_its_transaction() -> None:
    bank = used()
    disk = disk_of(bank)
    with bank.run(snapshot=False) as run:
        run.say(1, "before")
        run.pay_in_room(0, 2, 7)
        run.commit()
        seq = last_seqs(run.region)[0][ROOM]
    *_, hit = with_events(newer(bank))
    damage(disk, hit)
    books = loaded_of(disk).books
    assert books.last_seq(ROOM) == seq
    assert books.event == hit.head.next_event - 1


def test_every_bit_of_a_batch() -> None:
    """Of header and transactions it is refused, naming the place; of events it is passed over; of
    the closing word it is of no account."""
    bank = used()
    whole, refused, passed = loaded_of(disk_of(bank)).books, 0, 0
    for batch in newer(bank):
        records = BATCH.size + batch.count * RECORD_SIZE
        events = records + batch.head.events_size
        for at in range(0, batch.head.size, 5):
            disk = disk_of(bank).after_kill()
            break_at(disk, batch.path, batch.offset + at)
            if at < records:
                with pytest.raises(Damaged) as caught:
                    loaded_of(disk)
                assert (caught.value.path, caught.value.offset) == (batch.path, batch.offset)
                refused += 1
                continue
            loaded = loaded_of(disk)
            assert loaded.books.balances == whole.balances
            assert len(loaded.lost) == (at < events)
            passed += 1
    assert refused > 20 < passed
    assert {batch.head.kind for batch in newer(bank)} == set(BatchKind)


def test_below_the_newest_good_snapshot_it_costs_nothing() -> None:
    bank = used(snapshot=True)
    disk = disk_of(bank)
    whole = loaded_of(disk).books
    for batch in with_events(batches(disk)):
        damage(disk, batch)
    loaded = loaded_of(disk)
    assert not loaded.lost
    assert vars(loaded.books) == vars(whole)
    with bank.start() as region:
        check_whole(region, bank)
        assert region.header.epoch == whole.epoch
        assert not any(marks(region).values())
        assert last_seqs(region)[0][ROOM] == whole.last_seq(ROOM) > 0
    assert not set_aside(disk)
    assert not lost_of(disk)
    # The newest snapshot is damaged, too: now these events are above the one that is good.
    cut_at(disk, paths(disk, DATA.snapshots)[0], 100)
    assert loaded_of(disk).lost


def test_a_torn_batch_is_left_out_whole() -> None:
    """Its money too: a sector of its events was not written, and nobody had an answer."""
    bank = used()
    disk = disk_of(bank)
    with bank.run(stops=False, snapshot=False) as run:
        before = run.writer.position
        noted = read_file(disk, DATA.position)
        run.deposit(0, 5)
        for _ in range(6):
            run.say(0, "torn " * 30)
        after = run.commit()
        path = run.writer.segment
        assert path is not None
    fd = disk.open(DATA.position, writable=True)
    disk.write(fd, [noted], 0)
    disk.close(fd)
    hole = (after.offset - 1000) // 512 * 512
    assert hole > before.offset + BATCH.size + RECORD_SIZE
    fd = disk.open(path, writable=True)
    disk.write(fd, [bytes(512)], hole)
    disk.close(fd)
    loaded = loaded_of(disk)
    assert not loaded.lost
    assert loaded.end.position == before
    assert loaded.end.torn


def test_several_batches_and_a_start_between() -> None:
    """Found in two starts, each with its own."""
    bank = used()
    disk = disk_of(bank)
    first, second, third, *_ = with_events(newer(bank))
    damage(disk, second)
    with bank.start() as region:
        epoch = region.header.epoch
    damage(disk, first)
    damage(disk, third)
    assert {batch.offset for batch in loaded_of(disk).lost} == {first.offset, third.offset}
    with bank.start() as region:
        check_whole(region, bank)
        assert marks(region) == marked(2)
        # Rooms have begun anew since: what was in there counts for them no more.
        assert region.header.epoch == epoch
    assert not loaded_of(disk).lost
    assert [noted[0] for noted in lost_of(disk)] == [
        each.head.first_event for each in (second, first, third)
    ]


# ---- clients


def test_of_a_marked_client_nothing_is_executed_twice_and_outcomes_are_kept() -> None:
    bank = used()
    disk = disk_of(bank)
    with bank.run(snapshot=False) as run:
        run.transfer(0, 2, 11)
        paid = run.state.region.words[run.sessions[0].client + _newest_at(run)]
        run.commit()
        run.say(0, "is it there?")
        said = paid + 1
        hit = run.commit()
    damage(disk, next(batch for batch in batches(disk) if batch.end == hit))
    with bank.start() as region:
        state, balance = state_of(region), region.column("accounts", "balance")[1]
        session = login(state, 1, 7, next_req_id=said + 1)
        assert session.resumed
        assert session.floor == said + 1
        before = state.events.head()
        for flagged in (0, 1):
            with pytest.raises(OutcomeUnknown):
                state.chat.send(session, ROOM, "is it there?", STARTED_US, said, flagged)
            done = state.ledger.execute(
                session, TxnKind.TRANSFER, 2, 11, paid, bool(flagged), STARTED_US
            )
            assert done[0] == RECORDED
        assert state.events.head() == before
        assert region.column("accounts", "balance")[1] == balance
        state.memberships.join(session, ROOM, STARTED_US)
        state.chat.send(session, ROOM, "a new one", STARTED_US, said + 1, 0)
        assert problems(region) == []


def _newest_at(run: Run) -> int:
    return run.region.layout["clients"].offsets["newest"]


def test_the_floor_is_in_the_log_before_the_login_is_over() -> None:
    """Only the first LOGIN sets it; one that knows less than the record is refused as ever."""
    bank = used()
    disk = disk_of(bank)
    damage(disk, with_events(newer(bank))[1])
    with bank.start() as region:
        state = state_of(region)
        client = state.clients.find(1, 7)
        newest = region.words[state.clients.at(client, "newest")]
        with pytest.raises(ClientTaken):
            state.sessions.introduce(1, 7, newest, STARTED_US)
        assert state.clients.is_marked(client)
        head = state.log.head()
        assert not state.sessions.introduce(1, 7, newest + 9, STARTED_US), "it is no new record"
        record = state.log.read(head + 1)
        assert record is not None
        assert (record[1], record[4:8]) == (RecordKind.NEW_FLOOR, (1, 7, client, newest + 9))
        assert not state.clients.is_marked(client)
        assert not state.sessions.introduce(1, 7, newest + 20, STARTED_US)
        assert state.log.head() == head + 1
        with pytest.raises(ClientTaken):
            state.sessions.introduce(1, 7, newest + 8, STARTED_US)
        # A client without a record gets one that is not marked.
        state.sessions.introduce(1, 99, 5, STARTED_US)
        assert not state.clients.is_marked(state.clients.find(1, 99))
        assert state.clients.is_marked(state.clients.find(2, 7))


@pytest.mark.parametrize("snapshot", [False, True], ids=["journal", "snapshot"])
def test_marks_and_floors_are_there_after_a_restart(*, snapshot: bool) -> None:
    bank = used()
    disk = disk_of(bank)
    damage(disk, with_events(newer(bank))[1])
    with bank.start() as region:
        assert marks(region) == marked(1)
    if snapshot:  # of a start that served nobody
        _snapshot(disk)
    with bank.start() as region:
        state = state_of(region)
        assert marks(region) == marked(1)
    with bank.run(snapshot=snapshot) as run:  # but for one that was not marked, they log in
        floors = {s.user: s.floor for s in run.sessions}
        their = dict.fromkeys(marked(1), RAISED) | {(2, 8): 0}
        assert marks(run.region) == their
    with bank.start() as region:
        state = state_of(region)
        found = {user: state.clients.at(state.clients.find(user, 7)) for user in floors}
        its = {user: region.words[at + _floor(region)] for user, at in found.items()}
        assert its == floors
        assert marks(region) == their
        assert problems(region) == []


def _floor(region: Region) -> int:
    return region.layout["clients"].offsets["floor"]


def _snapshot(disk: Disk) -> None:
    end = loaded_of(disk).end.position
    make_snapshot(disk, DATA.journal, DATA.snapshots, log_id(disk), end, None, NOW)


def test_clients_of_the_batch_itself_are_marked_and_later_ones_are_not() -> None:
    bank = used()
    disk = disk_of(bank)
    with_new = [
        batch
        for batch in with_events(newer(bank))
        if RecordKind.NEW_CLIENT in batch.words()[1::RECORD_WORDS]
    ]
    assert len(with_new) == 1
    with bank.run(snapshot=False) as run:
        login(run.state, 3, 9)
        run.commit()
    damage(disk, with_new[0])
    books = loaded_of(disk).books
    later = books.slots[3, 9]
    assert [slot for slot in range(books.clients) if not books.marks[slot]] == [later]


def test_no_snapshot_is_made_past_events_that_no_start_has_dealt_with() -> None:
    bank = used()
    disk = disk_of(bank)
    hit = with_events(newer(bank))[2]
    damage(disk, hit)
    before = disk.names(DATA.snapshots)
    with pytest.raises(Damaged, match="of this batch are damaged") as caught:
        _snapshot(disk)
    assert (caught.value.path, caught.value.offset) == (hit.path, hit.offset)
    assert disk.names(DATA.snapshots) == before
    with bank.start() as region:
        balances = region.column("accounts", "balance")
    _snapshot(disk)
    newest = read_snapshot(disk, paths(disk, DATA.snapshots)[0], log_id(disk))
    assert newest.books.balances.tolist() == balances[: len(NAMES) + 1]
    assert newest.books.marks == list(marked(2).values())


# ---- where the histories have the events


def numbers_in(batch: Batch) -> Mapping[int, int]:
    """As the histories tell them."""
    return {event.room or INBOX | event.user: event.seq for event, _ in events_in(batch.events)}


@pytest.mark.parametrize("place", range(5))
def test_where_the_histories_have_them_numbers_go_on(place: int) -> None:
    """In the same epoch, and also at a later start, which does not ask them any more."""
    bank = used()
    disk = disk_of(bank)
    with bank.start() as region:
        seqs, epoch = last_seqs(region), region.header.epoch
    hit = with_events(newer(bank))[place]
    numbers, asked = numbers_in(hit), list[tuple[int, int]]()

    def recall(head: BatchHead, of: int) -> Mapping[int, int] | None:
        asked.append((head.first_event, of))
        return numbers

    bank.recall = recall
    damage(disk, hit)
    for _ in range(3):
        with bank.start() as region:
            check_whole(region, bank)
            assert region.header.epoch == epoch
            skipped = region.events.skipped
            for found, before in zip(last_seqs(region), seqs, strict=True):
                assert [seq - skipped for seq in found][1:] == before[1:]
            assert marks(region) == marked(place)
    assert asked == [(hit.head.first_event, epoch)]
    assert len(lost_of(disk)) == len(numbers)
    with bank.run(snapshot=False) as run:
        run.whisper(1, 3, "once more")
        run.say(1, "and on")
        run.commit()
    assert not loaded_of(disk).lost


def test_one_batch_that_the_histories_lack_is_enough_for_a_new_epoch() -> None:
    bank = used()
    disk = disk_of(bank)
    first, second, *_ = with_events(newer(bank))
    numbers = numbers_in(first)
    bank.recall = lambda head, _: numbers if head.first_event == first.head.first_event else None
    for batch in (first, second):
        damage(disk, batch)
    epoch = loaded_of(disk).books.epoch
    with bank.start() as region:
        assert region.header.epoch > epoch
        assert not any(map(any, last_seqs(region)))


# ---- the start that finds it is cut off


@pytest.mark.parametrize("known", [False, True], ids=["new epoch", "histories"])
def test_a_start_that_is_cut_off_at_any_call_is_done_again(*, known: bool) -> None:
    """Whatever is left of it: the next one finds the damage, or goes by what that one has noted."""
    bank = used()
    hit = with_events(newer(bank))[2]
    numbers = numbers_in(hit)
    if known:
        bank.recall = lambda _head, _epoch: numbers
    damaged = damage(disk_of(bank), hit)
    old = loaded_of(disk_of(bank)).books
    for call in count(1):
        disk = disk_of(bank).after_kill()
        made, is_cut = another(disk, bank), False
        disk.cut_at = disk.calls + call
        try:
            with made.start() as region:
                pass
        except PowerCut:
            is_cut = True
        left = [disk.after_kill(), *map(disk.after_power_cut, ADVERSARIES.values())]
        for each in (*left, disk.after_power_cut(at_random(call))):
            again = another(each, bank)
            with again.start() as region:
                check_whole(region, bank)
                epoch, seqs = region.header.epoch, last_seqs(region)
                assert marks(region) == marked(2)
                assert (epoch == old.epoch) == known
            assert damaged in set_aside(each)
            again.recall = lambda _head, _epoch: None if known else {}
            with again.start() as region:
                assert region.header.epoch == epoch
                assert marks(region) == marked(2)
                skips = region.events.skipped
                assert last_seqs(region)[0][ROOM] >= seqs[0][ROOM]
                assert (last_seqs(region)[0][ROOM] > skips) == known
            assert len(lost_of(each)) == (len(numbers) if known else 1)
        if not is_cut:
            assert call > 20
            return


# ---- records that do not follow


def test_records_of_damage_that_do_not_follow_are_refused() -> None:
    bank = used()
    disk = disk_of(bank)
    hit = with_events(newer(bank))[1]
    damage(disk, hit)
    with bank.run(snapshot=False):
        pass
    found = dict[int, list[tuple[int, bytes]]]()
    for batch in batches(disk):
        for place in range(batch.count):
            record = bytes(batch.records[place * RECORD_SIZE : (place + 1) * RECORD_SIZE])
            kind = int.from_bytes(record[8:16], "little")
            found.setdefault(kind, []).append((batch.first + place, record))
    for kind, name, value in (
        (RecordKind.NEW_FLOOR, "client_slot", 5),
        (RecordKind.NEW_FLOOR, "client_id", 6),
        (RecordKind.NEW_FLOOR, "floor", 0),
        (RecordKind.EVENTS_LOST, "next_event", 10**6),
        (RecordKind.EVENTS_LOST, "next_event", hit.head.next_event - 1),
        (RecordKind.EVENTS_LOST, "room", INBOX + 77),
    ):
        txn, record = found[kind][0]
        wrong = bytearray(record)
        at = OFFSETS[kind][name] * 8
        wrong[at : at + 8] = value.to_bytes(8, "little")
        books = _books_before(disk, txn)
        with pytest.raises(Inconsistent, match=f"transaction {txn} does not follow"):
            books.apply(bytes(wrong))
        _books_before(disk, txn).apply(record)


def _books_before(disk: Disk, txn: int) -> Books:
    books = Books()
    for batch in batches(disk):
        if batch.head.kind == BatchKind.BEGIN:
            books.begin(batch.head.ring, batch.head.skip, batch.head.epoch)
        if batch.last >= txn:
            books.apply(batch.records[: (txn - batch.first) * RECORD_SIZE])
            return books
        books.apply(batch.records)
        if batch.lost:
            books.lose_events(batch.head.first_event, batch.head.next_event, ())
        else:
            books.apply_events(batch.events, batch.head.next_event)
    raise AssertionError(txn)

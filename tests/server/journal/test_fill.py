"""What was made durable is what a server starts with: every word of it, at every moment; and what
comes after it goes on as if nothing had been between.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.messages import OUTCOME_WINDOW, TxnKind
from server.admin.audit import audit
from server.core.check import problems
from server.core.ledger import DONE, RECORDED, TOO_OLD
from server.core.log import NO_JOURNAL
from server.journal.errors import JournalError
from server.journal.load import Idleness, check_room, fill, make_snapshot
from server.journal.reader import heads, segments
from server.journal.snapshot import prune
from server.region.layout import OUTCOME_WORDS
from server.region.records import SUPPLY, TIME, RecordKind
from server.region.region import Region
from tests.helpers.region import (
    login,
    register,
    say,
    small_region,
    state_of,
    whisper,
    word,
)
from tests.server.journal.history import (
    CHATTY,
    JOURNAL,
    LOG_ID,
    MONEY_STEPS,
    NOW,
    ROOM_STEPS,
    SNAPSHOTS,
    VARIED,
    History,
    Step,
    batches,
    damage,
    filled,
    history,
    in_window,
    loaded_from,
    new_disk,
    open_writer,
    position_of,
    remove,
    ring_of,
    snapshot_at,
    snapshot_of,
    truth,
    truth_of,
    write_journal,
)

# ---- what was is what is


@settings(max_examples=25, deadline=None)
@given(ROOM_STEPS, st.integers(1, 9), st.data())
def test_any_history_is_loaded_as_it_was(
    steps: list[Step], batch: int, data: st.DataObject
) -> None:
    """From the journal alone, from any snapshot, and from a chain of them."""
    disk = new_disk()
    with history(*steps) as worked:
        write_journal(disk, worked, worked.head, batch)
        books = loaded_from(disk).books
        assert in_window(truth_of(books)) == in_window(worked.truths[-1])
        found = batches(disk)
        for place in sorted(data.draw(st.sets(st.integers(0, len(found) - 1), max_size=4))):
            end = found[place].end
            make_snapshot(disk, JOURNAL, SNAPSHOTS, LOG_ID, end, None, NOW)
            loaded = loaded_from(disk)
            assert vars(loaded.books) == vars(books)
            assert loaded.head is not None
            assert loaded.head.position == end
        with filled(loaded_from(disk)) as region:
            assert in_window(truth(region)) == in_window(worked.truths[-1])
            assert ring_of(region) == ring_of(worked.region)
    assert disk.open_files == 0


@pytest.mark.parametrize("snapshots", [False, True])
def test_a_region_of_every_moment_is_as_it_was(snapshots: bool) -> None:
    """Every word of the state, and the ring."""
    disk = new_disk()
    with history(*CHATTY) as worked:
        for txn in range(worked.head + 1):
            write_journal(disk, worked, txn)
            if snapshots and txn % 4 == 3:
                snapshot_at(disk, txn - 1)
            loaded = loaded_from(disk)
            assert loaded.end.last == txn
            with filled(loaded) as region:
                assert truth(region) == worked.truths[txn]
                assert b"".join(ring_of(region).values()) == worked.records(1, txn)
                assert word(region, "log", 0, "first") == 1


def test_what_is_not_the_loaders_stays_as_it_was() -> None:
    """And what begins anew does."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        with filled(loaded_from(disk)) as region:
            for log in ("log", "events"):
                told = [word(region, log, 0, f) for f in ("durable", "released", "limit")]
                assert told == [NO_JOURNAL] * 3
            clients = range(region.layout.capacities.clients)
            assert {word(region, "clients", slot, "idle_since") for slot in clients} == {NOW}
            assert {word(region, "clients", slot, "session") for slot in clients} == {0}
            assert audit(region, lambda _: None).problems == []


def test_a_region_of_nothing() -> None:
    loaded = loaded_from(new_disk())
    assert (loaded.head, loaded.bad, loaded.end.last) == (None, [], 0)
    with filled(loaded) as region, small_region(txn_ring=128, clients=4, accounts=5) as fresh:
        assert truth(region) == truth(fresh)
        assert ring_of(region) == {}
        assert word(region, "log", 0, "first") == 1
        register(state_of(region), "first")
        assert problems(region) == []


def test_last_seen_comes_back() -> None:
    """As it was told for the snapshot; of one who registered since, the registration."""
    disk = new_disk()
    with history() as worked:
        write_journal(disk, worked, worked.head)
        seen = [0, NOW + 5, 0]  # the registration of user 2 was not applied yet when it was asked
        end = position_of(disk, worked.head)
        make_snapshot(disk, JOURNAL, SNAPSHOTS, LOG_ID, end, seen, NOW)
        worked.do(Step("register"))
        write_journal(disk, worked, worked.head)
        with filled(loaded_from(disk)) as region:
            registered = worked.record(4)[2]
            assert [word(region, "users", user, "last_seen") for user in range(5)] == [
                0, NOW + 5, registered, worked.now, 0,
            ]  # fmt: skip
            assert worked.record(4)[1] == RecordKind.REGISTER
        for hints in ([], [0], [0, 1, 2, 3, 0, 0]):
            worked.do(Step("deposit"))
            write_journal(disk, worked, worked.head)
            end = position_of(disk, worked.head)
            make_snapshot(disk, JOURNAL, SNAPSHOTS, LOG_ID, end, hints, NOW)
            assert loaded_from(disk).books.last_seen == [
                0,
                NOW + 5,
                registered,
                worked.record(7)[2],
            ]


# ---- what comes after


def _retries(region: Region, slot: int) -> list[tuple[int, int, int, int, int, int]]:
    """(kind, payee, amount, req_id, txn_id, balance) of each outcome in the client's window."""
    at = region.layout["clients"].at(slot, "outcomes")
    words = region.words[at : at + OUTCOME_WINDOW * OUTCOME_WORDS].tolist()
    newest = word(region, "clients", slot, "newest")
    rows = [words[n : n + OUTCOME_WORDS] for n in range(0, len(words), OUTCOME_WORDS)]
    return [
        (target >> 32, target & 0xFFFFFFFF, amount, req_id, txn, balance)
        for req_id, txn, balance, target, amount, _, _ in rows
        if req_id and req_id + OUTCOME_WINDOW > newest
    ]


def test_what_was_executed_is_not_executed_again() -> None:
    disk, answered = new_disk(), 0
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        snapshot_at(disk, worked.head - 5)
        with filled(loaded_from(disk)) as region:
            state = state_of(region, 1)
            for slot in range(region.layout.capacities.clients):
                user, client_id = (
                    word(region, "clients", slot, field) for field in ("user", "client_id")
                )
                session = login(state, user, client_id, NOW)
                assert session.resumed
                newest = word(region, "clients", slot, "newest")
                for kind, other, amount, req_id, txn, balance in _retries(worked.region, slot):
                    assert state.ledger.execute(
                        session, kind, other, amount, req_id, 1, NOW
                    ) == (RECORDED, txn, balance)  # fmt: skip
                    answered += 1
                if newest > OUTCOME_WINDOW:
                    old = newest - OUTCOME_WINDOW
                    answer = state.ledger.execute(session, TxnKind.DEPOSIT, 0, 1, old, 1, NOW)
                    assert answer[0] == TOO_OLD
                answer = state.ledger.execute(
                    session, TxnKind.DEPOSIT, 0, 1, newest + 1, 1, NOW
                )  # fmt: skip
                assert answer[:2] == (DONE, worked.head + 1 + slot)
            assert problems(region) == []
            assert audit(region, lambda _: None).problems == []
    assert answered > 4


@settings(max_examples=15, deadline=None)
@given(MONEY_STEPS, MONEY_STEPS)
def test_it_goes_on_as_it_would_have(before: list[Step], after: list[Step]) -> None:
    """The same steps after a restart and without one: the same records, and the same state. And
    again after another restart."""
    disk = new_disk()
    with history(*before) as worked:
        write_journal(disk, worked, worked.head)
        snapshot_at(disk, max(1, worked.head // 2))
        for state, session in worked.sessions:
            state.sessions.end(session, NOW)
        worked.sessions.clear()
        with filled(loaded_from(disk)) as region:
            again = History(region)
            region.set_column(
                "clients", "idle_since", worked.region.column("clients", "idle_since")
            )
            worked.now = again.now = NOW
            again.truths = worked.truths.copy()
            for step in after:
                for one in (worked, again):
                    one.do(step)
            assert truth(region) == truth(worked.region)
            assert again.records(1, again.head) == worked.records(1, worked.head)
            assert problems(region) == []
            write_journal(disk, again, again.head)
            with filled(loaded_from(disk)) as third:
                assert truth(third) == truth(worked.region)


def test_history_is_as_it_was() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        with filled(loaded_from(disk)) as region:
            for user in range(1, 4):
                assert state_of(region).ledger.history(user, 0, 100) == worked.states[
                    0
                ].ledger.history(user, 0, 100)
                assert state_of(region).users.name(user) == f"user{user}"
                assert state_of(region).users.find(f"user{user}") == user


# ---- other capacities


def _go_on(region: Region, txn: int) -> None:
    """The next transaction has this txn_id, and a record with the supply after it."""
    state, log = state_of(region), region.layout["txn_ring"]
    balances = sum(region.column("accounts", "balance"))
    session = login(state, 1)
    answer = state.ledger.execute(session, TxnKind.DEPOSIT, 0, 1, 1, 0, NOW)
    assert answer[:2] == (DONE, txn)
    assert region.words[log.at(txn % log.records) + SUPPLY] == balances + 1
    state.sessions.end(session, NOW)


@pytest.mark.parametrize("ring", [2, 4, 16, 32, 64, 4096])
def test_the_ring_has_what_there_is_room_for(ring: int) -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        for txn in range(worked.head + 1):
            write_journal(disk, worked, txn)
            with filled(loaded_from(disk), txn_ring=ring) as region:
                first = max(1, txn - ring + 1)
                assert word(region, "log", 0, "first") == first
                kept = ring_of(region)
                assert sorted(kept) == list(range(first, txn + 1))
                assert b"".join(kept[n] for n in sorted(kept)) == worked.records(first, txn)
                assert truth(region) == worked.truths[txn]
                if txn:
                    _go_on(region, txn + 1)
                else:
                    register(state_of(region), "first")
                assert problems(region) == []


def test_a_larger_region_has_room_for_more() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        with filled(
            loaded_from(disk), accounts=100, clients=50, account_locks=3, workers=1, sessions=200
        ) as region:
            assert truth(region) == worked.truths[-1]
            state = state_of(region)
            names = [f"more{number}" for number in range(97)]
            users = register(state, *names)
            assert users == list(range(4, 101))
            for user in users[:46]:
                session = login(state, user, 7)
                answer = state.ledger.execute(session, TxnKind.DEPOSIT, 0, 5, 1, 0, NOW)
                assert answer[0] == DONE
            assert word(region, "registry", 0, "clients") == 50
            assert problems(region) == []


@pytest.mark.parametrize(("setting", "there_are"), [("accounts", 3), ("clients", 4), ("rooms", 3)])
def test_a_region_that_is_too_small_is_told(setting: str, there_are: int) -> None:
    disk = new_disk()
    with history(*CHATTY) as worked:
        write_journal(disk, worked, worked.head)
        loaded = loaded_from(disk)
        with filled(loaded, **{setting: there_are}) as region:
            check_room(region, loaded.books)
            assert truth(region) == worked.truths[-1]
        with (
            small_region(**{setting: there_are - 1}) as region,
            pytest.raises(JournalError, match=f"set {setting} to {there_are} or more"),
        ):
            check_room(region, loaded.books)


# ---- a journal that has been cut


def test_the_journal_may_begin_after_the_older_snapshot() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        for upto in (9, 14, 20):
            snapshot_at(disk, upto)
        older = prune(disk, SNAPSHOTS, LOG_ID)
        assert older is not None
        assert older.txn_id == 14
        found = heads(disk, JOURNAL)
        remove(disk, *[path for path, head in found if head.number < older.segment])
        oldest = heads(disk, JOURNAL)[0][1].first_txn
        assert 1 < oldest <= 15
        with filled(loaded_from(disk)) as region:
            assert truth(region) == worked.truths[-1]
            assert word(region, "log", 0, "first") == oldest
            assert sorted(ring_of(region)) == list(range(oldest, worked.head + 1))
            assert state_of(region).ledger.history(1, 0, 100)
            assert audit(region, lambda _: None).problems == []
        # The older of the two is as good.
        newest = snapshot_of(disk, 20)
        damage(disk, newest, b"bad")
        loaded = loaded_from(disk)
        assert [error.path for error in loaded.bad] == [newest]
        assert loaded.head is not None
        assert loaded.head.txn_id == 14
        assert truth_of(loaded.books) == worked.truths[-1]


def test_the_newest_record_may_be_gone() -> None:
    """A new segment has none yet, and those before it are not needed any more."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        before = segments(disk, JOURNAL)
        writer = open_writer(disk)
        writer.begin(16, 0, 1)
        make_snapshot(disk, JOURNAL, SNAPSHOTS, LOG_ID, writer.position, None, NOW)
        writer.close()
        remove(disk, *before)
        loaded = loaded_from(disk)
        assert loaded.end.last == worked.head
        with filled(loaded) as region:
            assert word(region, "log", 0, "first") == worked.head + 1
            assert ring_of(region) == {}
            assert truth(region) == worked.truths[-1]
            at = region.layout["txn_ring"].at(worked.head % region.layout["txn_ring"].records)
            assert region.words[at + TIME] == worked.record(worked.head)[TIME]
            for txn in range(worked.head + 1, worked.head + 200):
                _go_on(region, txn)
                assert problems(region) == []


def test_damage_below_the_snapshot_is_told_and_the_ring_goes_on_from_it() -> None:
    disk = new_disk()
    with history(*CHATTY) as worked:
        write_journal(disk, worked, worked.head)
        snapshot_at(disk, 15)
        path = segments(disk, JOURNAL)[1]
        damage(disk, path, b"bad", at=300)
        loaded = loaded_from(disk)
        with small_region(txn_ring=128, clients=4, accounts=5) as region:
            told = fill(region, loaded, NOW, Idleness({}, 0, 0, NOW))
            assert told is not None
            assert told.path == path
            assert truth(region) == worked.truths[-1]
            assert sorted(ring_of(region)) == list(range(16, worked.head + 1))
            assert word(region, "log", 0, "first") == 16
            assert audit(region, lambda _: None).problems == []


def test_rooms_and_inboxes_go_on_behind_what_was_skipped() -> None:
    disk = new_disk()
    with history(*CHATTY) as worked:
        write_journal(disk, worked, worked.head)
        writer = open_writer(disk)
        writer.begin(16, 16, 5)
        writer.begin(16, 16, 5)
        writer.close()
        with filled(loaded_from(disk)) as region:
            assert region.header.epoch == 5
            assert region.events.head == worked.moments[-1][1]
            state = state_of(region)
            for room in (1, 2, 3, 70):
                assert state.events.last_seq(room) == 32  # 5 is another epoch than none
            session = login(state, 1, 7, NOW)
            state.memberships.join(session, 70, NOW)
            assert state.events.last_seq(70) == 33
            assert say(state, session, 70, "x", NOW).seq == 34
            assert whisper(state, session, 3, "x", NOW).seq == 33

"""What was made durable is what a server starts with: every word of it, at every moment, and what
comes after it goes on as if nothing had been between. What is missing is told.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.messages import OUTCOME_WINDOW, TxnKind
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, JournalError, OtherFormat
from server.journal.format import BATCH, SEGMENT, SNAPSHOT, numbered
from server.journal.load import Loaded, fill, load, make_snapshot
from server.journal.reader import Batch, Reader, segments
from server.journal.snapshot import SUFFIX, newest, paths, prune, read
from server.journal.writer import Writer
from server.state.audit import audit
from server.state.check import problems
from server.state.layout import OUTCOME_WORDS, WORD
from server.state.ledger import DONE, RECORDED, TOO_OLD
from server.state.log import NO_JOURNAL
from server.state.records import OFFSETS, RECORD_SIZE, SUPPLY, RecordKind
from server.state.region import Region
from tests.helpers.disk import SimulatedDisk
from tests.helpers.region import check_quiet, login, register, small_region, state_of, word
from tests.server.journal.history import (
    JOURNAL,
    SNAPSHOTS,
    STEPS,
    VARIED,
    History,
    Step,
    folded,
    history,
    new_disk,
    truth,
    truth_of,
    write_journal,
)

NOW = 1_800_000_000_000_000


def _quiet(_done: int, _total: int) -> None:
    pass


def _load(disk: Disk) -> Loaded:
    return load(disk, JOURNAL, SNAPSHOTS, _quiet)


def _snapshot(disk: Disk, upto: int) -> int:
    made = make_snapshot(disk, JOURNAL, SNAPSHOTS, upto, None, NOW + upto)
    assert not made.bad
    return made.txn


def _damage(disk: Disk, path: Path, *pieces: bytes, at: int = 0) -> None:
    fd = disk.open(path, writable=True)
    disk.write(fd, pieces, at)
    disk.close(fd)


def _remove(disk: Disk, *gone: Path) -> None:
    for path in gone:
        disk.remove(path)


def _batches(disk: Disk) -> list[Batch]:
    return list(Reader(disk, JOURNAL).batches())


@contextmanager
def _filled(loaded: Loaded, **capacities: int) -> Iterator[Region]:
    """A region with what was loaded, in which all holds."""
    room = {"txn_ring": 128, "clients": 4, "accounts": 5} | capacities
    with small_region(**room) as region:
        fill(region, loaded, NOW)
        assert problems(region) == []
        check_quiet(region)
        yield region


def _ring(region: Region) -> dict[int, bytes]:
    ring, found = region.layout["txn_ring"], {}
    for slot in range(ring.records):
        at = ring.at(slot)
        if region.words[at]:
            found[region.words[at]] = bytes(region.bytes[at * WORD : at * WORD + RECORD_SIZE])
    return found


# ---- what was is what is


@settings(max_examples=25, deadline=None)
@given(STEPS, st.integers(1, 9), st.data())
def test_any_history_is_loaded_as_it_was(
    steps: list[Step], batch: int, data: st.DataObject
) -> None:
    """From the journal alone, from any snapshot, and from a chain of them."""
    disk = new_disk()
    with history(*steps) as worked:
        write_journal(disk, worked, worked.head, batch)
        books = folded(worked.records(1, worked.head))
        assert vars(_load(disk).books) == vars(books)
        for upto in sorted(data.draw(st.sets(st.integers(1, worked.head), max_size=4))):
            assert _snapshot(disk, upto) == upto
            loaded = _load(disk)
            assert vars(loaded.books) == vars(books)
            assert loaded.head is not None
            assert loaded.head.txn_id == upto
        with _filled(_load(disk)) as region:
            assert truth(region) == worked.truths[-1]
            assert _ring(region) == _ring(worked.region)
    assert disk.open_files == 0


def test_a_snapshot_at_every_moment_is_the_replay_to_it() -> None:
    """Each is made from the one before it; a batch may go on after it."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head, 5)
        for txn in range(1, worked.head + 1):
            assert _snapshot(disk, txn) == txn
            found = read(disk, numbered(SNAPSHOTS, txn, SUFFIX))
            assert vars(found.books) == vars(folded(worked.records(1, txn)))
            assert truth_of(found.books) == worked.truths[txn]
            assert found.head.durable == txn
            assert found.head.time == NOW + txn


@pytest.mark.parametrize("snapshots", [False, True])
def test_a_region_of_every_moment_is_as_it_was(snapshots: bool) -> None:
    """Every word of the state, and the ring."""
    disk = new_disk()
    with history(*VARIED) as worked:
        for txn in range(worked.head + 1):
            write_journal(disk, worked, txn)
            if snapshots and txn % 4 == 3:
                _snapshot(disk, txn - 1)
            loaded = _load(disk)
            assert loaded.end.last == txn
            with _filled(loaded) as region:
                assert truth(region) == worked.truths[txn]
                assert b"".join(_ring(region).values()) == worked.records(1, txn)
                assert word(region, "log", 0, "first") == 1


def test_what_is_not_the_loaders_stays_as_it_was() -> None:
    """And what begins anew does."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        with _filled(_load(disk)) as region:
            assert [word(region, "log", 0, f) for f in ("durable", "released", "limit")] == [
                NO_JOURNAL
            ] * 3
            clients = range(region.layout.capacities.clients)
            assert {word(region, "clients", slot, "idle_since") for slot in clients} == {NOW}
            assert {word(region, "clients", slot, "session") for slot in clients} == {0}
            assert audit(region, lambda _: None).problems == []


def test_a_region_of_nothing() -> None:
    loaded = _load(new_disk())
    assert (loaded.head, loaded.bad, loaded.end.last) == (None, [], 0)
    with _filled(loaded) as region, small_region(txn_ring=128, clients=4, accounts=5) as fresh:
        assert truth(region) == truth(fresh)
        assert _ring(region) == {}
        assert word(region, "log", 0, "first") == 1
        register(state_of(region), "first")
        assert problems(region) == []


def test_last_seen_comes_back() -> None:
    """As it was told for the snapshot; of one who registered since, the registration."""
    disk = new_disk()
    with history() as worked:
        write_journal(disk, worked, worked.head)
        seen = [0, NOW + 5, 0]  # the registration of user 2 was not applied yet when it was asked
        make_snapshot(disk, JOURNAL, SNAPSHOTS, worked.head, seen, NOW)
        worked.do(Step("register"))
        write_journal(disk, worked, worked.head)
        with _filled(_load(disk)) as region:
            registered = worked.record(4)[2]
            assert [word(region, "users", user, "last_seen") for user in range(5)] == [
                0, NOW + 5, registered, worked.now, 0,
            ]  # fmt: skip
            assert worked.record(4)[1] == RecordKind.REGISTER
        for hints in ([], [0], [0, 1, 2, 3, 0, 0]):
            worked.do(Step("deposit"))
            write_journal(disk, worked, worked.head)
            make_snapshot(disk, JOURNAL, SNAPSHOTS, worked.head, hints, NOW)
            assert _load(disk).books.last_seen == [0, NOW + 5, registered, worked.record(7)[2]]


# ---- what comes after


def _retries(region: Region, slot: int) -> list[tuple[int, int, int, int, int, int]]:
    """(kind, payee, amount, req_id, txn_id, balance) of each outcome in the client's window."""
    at = region.layout["clients"].at(slot, "outcomes")
    words = region.words[at : at + OUTCOME_WINDOW * OUTCOME_WORDS].tolist()
    newest = word(region, "clients", slot, "newest")
    rows = [words[n : n + OUTCOME_WORDS] for n in range(0, len(words), OUTCOME_WORDS)]
    return [
        (target >> 32, target & 0xFFFFFFFF, amount, req_id, txn, balance)
        for req_id, txn, balance, target, amount in rows
        if req_id and req_id + OUTCOME_WINDOW > newest
    ]


def test_what_was_executed_is_not_executed_again() -> None:
    disk, answered = new_disk(), 0
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        _snapshot(disk, worked.head - 5)
        with _filled(_load(disk)) as region:
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
@given(STEPS, STEPS)
def test_it_goes_on_as_it_would_have(before: list[Step], after: list[Step]) -> None:
    """The same steps after a restart and without one: the same records, and the same state. And
    again after another restart."""
    disk = new_disk()
    with history(*before) as worked:
        write_journal(disk, worked, worked.head)
        _snapshot(disk, max(1, worked.head // 2))
        for state, session in worked.sessions:
            state.sessions.end(session, NOW)
        worked.sessions.clear()
        with _filled(_load(disk)) as region:
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
            with _filled(_load(disk)) as third:
                assert truth(third) == truth(worked.region)


def test_history_is_as_it_was() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        with _filled(_load(disk)) as region:
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
            with _filled(_load(disk), txn_ring=ring) as region:
                first = max(1, txn - ring + 1)
                assert word(region, "log", 0, "first") == first
                kept = _ring(region)
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
        with _filled(
            _load(disk), accounts=100, clients=50, account_locks=3, workers=1, sessions=200
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


@pytest.mark.parametrize(("setting", "there_are"), [("accounts", 3), ("clients", 4)])
def test_a_region_that_is_too_small_is_told(setting: str, there_are: int) -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        loaded = _load(disk)
        with _filled(loaded, **{setting: there_are}) as region:
            assert truth(region) == worked.truths[-1]
        with (
            pytest.raises(JournalError, match=f"set {setting} to {there_are} or more"),
            _filled(loaded, **{setting: there_are - 1}),
        ):
            pass


# ---- a journal that has been cut


def test_the_journal_may_begin_after_the_older_snapshot() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        for upto in (9, 14, 20):
            _snapshot(disk, upto)
        assert prune(disk, SNAPSHOTS) == 14
        found = segments(disk, JOURNAL)
        starts = [int(path.name[:20]) for path in found]
        _remove(
            disk, *[path for path, after in zip(found, starts[1:], strict=False) if after <= 15]
        )
        oldest = int(segments(disk, JOURNAL)[0].name[:20])
        assert 1 < oldest <= 15
        with _filled(_load(disk)) as region:
            assert truth(region) == worked.truths[-1]
            assert word(region, "log", 0, "first") == oldest
            assert sorted(_ring(region)) == list(range(oldest, worked.head + 1))
            assert state_of(region).ledger.history(1, 0, 100)
            assert audit(region, lambda _: None).problems == []
        # The older of the two is as good.
        _damage(disk, numbered(SNAPSHOTS, 20, SUFFIX), b"bad")
        loaded = _load(disk)
        assert [error.path for error in loaded.bad] == [numbered(SNAPSHOTS, 20, SUFFIX)]
        assert loaded.head is not None
        assert loaded.head.txn_id == 14
        assert truth_of(loaded.books) == worked.truths[-1]


def test_the_newest_record_may_be_gone() -> None:
    """A new segment has none yet, and those before it are not needed any more."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        _snapshot(disk, worked.head)
        _remove(disk, *segments(disk, JOURNAL))
        header = SEGMENT.pack(1, worked.head + 1, 5, NOW)
        fd = disk.create(numbered(JOURNAL, worked.head + 1, "journal"))
        disk.write(fd, [header], 0)
        disk.allocate(fd, 2000)
        disk.close(fd)
        loaded = _load(disk)
        assert loaded.end.last == worked.head
        with _filled(loaded) as region:
            assert word(region, "log", 0, "first") == worked.head + 1
            assert _ring(region) == {}
            assert truth(region) == worked.truths[-1]
            for txn in range(worked.head + 1, worked.head + 200):
                _go_on(region, txn)
                assert problems(region) == []


def test_without_a_good_snapshot_all_of_the_journal_is_folded() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        for upto in (9, 14):
            _snapshot(disk, upto)
        for path in paths(disk, SNAPSHOTS):
            _damage(disk, path, b"bad")
        loaded = _load(disk)
        assert [error.path for error in loaded.bad] == paths(disk, SNAPSHOTS)
        assert loaded.head is None
        assert truth_of(loaded.books) == worked.truths[-1]
        # Where its beginning is gone, too, nothing is left to begin with.
        _remove(disk, segments(disk, JOURNAL)[0])
        with pytest.raises(JournalError) as caught:
            _load(disk)
        for path in (*paths(disk, SNAPSHOTS), JOURNAL):
            assert str(path) in str(caught.value)
        _remove(disk, *segments(disk, JOURNAL))
        with pytest.raises(JournalError, match="no snapshot is good"):
            _load(disk)
        # Without any snapshot it is the journal that is told of.
        _remove(disk, *paths(disk, SNAPSHOTS))
        assert _load(disk).books.txn == 0


def test_a_journal_without_its_beginning_and_no_snapshot_is_told() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        _remove(disk, segments(disk, JOURNAL)[0])
        with pytest.raises(Damaged, match="transactions 1 to 9 are missing"):
            _load(disk)


# ---- what was acknowledged and is missing


@pytest.mark.parametrize("good", [True, False])
def test_a_journal_that_ends_before_the_newest_snapshot_is_told(good: bool) -> None:
    """Whether that snapshot can be read or not: its name tells what was durable."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head, size=1 << 20)
        _snapshot(disk, 9)
        upto = 20
        _snapshot(disk, upto)
        if not good:
            _damage(disk, numbered(SNAPSHOTS, upto, SUFFIX), b"bad")
        path = segments(disk, JOURNAL)[0]
        fd = disk.open(path, writable=True)
        for batch in reversed(_batches(disk)):
            disk.truncate(fd, batch.offset + 1)  # torn
            if batch.first > upto:
                assert _load(disk).end.last == batch.first - 1
                continue
            with pytest.raises(Damaged) as caught:
                _load(disk)
            assert (caught.value.path, caught.value.offset) == (path, batch.offset)
            last = batch.first - 1
            assert caught.value.what == (
                f"the journal ends with transaction {last}, and all up to {upto} were acknowledged"
            )
        disk.close(fd)
        _remove(disk, path)
        with pytest.raises(Damaged) as caught:
            _load(disk)
        assert caught.value.path == JOURNAL
        unborn = numbered(JOURNAL, 5, "journal")
        disk.close(disk.create(unborn))
        with pytest.raises(Damaged) as caught:
            _load(disk)
        assert caught.value.path == unborn


def test_durable_beyond_the_snapshot_is_required() -> None:
    """The header tells more than the name where more was durable."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, 12)
        _snapshot(disk, 6)
        path = numbered(SNAPSHOTS, 6, SUFFIX)
        data = read_file(disk, path)
        words = [int.from_bytes(data[at : at + 8], "little") for at in range(8, 72, 8)]
        for durable in (12, 13):
            words[4] = durable
            body = data[SNAPSHOT.size :]
            _damage(disk, path, SNAPSHOT.pack(*words, rest=(body,)))
            if durable == 12:
                assert _load(disk).end.last == 12
        with pytest.raises(Damaged, match="all up to 13"):
            _load(disk)


def _forge(disk: SimulatedDisk, worked: History, wrong: int) -> tuple[Path, int]:
    """A journal, valid in all its CRCs, with a balance that is wrong; where that record stands."""
    writer = Writer(disk, JOURNAL, Reader(disk, JOURNAL).end, 2000, lambda: NOW)
    for first in range(1, worked.head + 1, 4):
        count = min(4, worked.head + 1 - first)
        records = bytearray(worked.records(first, first + count - 1))
        if first <= wrong < first + count:
            at = (wrong - first) * RECORD_SIZE + OFFSETS[RecordKind.TRANSFER]["from_balance"] * WORD
            records[at] ^= 1
        writer.append([bytes(records)], count)
    writer.close()
    (batch,) = [b for b in _batches(disk) if b.first <= wrong <= b.last]
    return batch.path, batch.offset + BATCH.size + (wrong - batch.first) * RECORD_SIZE


def test_a_record_that_does_not_follow_is_told_with_its_place() -> None:
    with history(*VARIED) as worked:
        for wrong in range(1, worked.head + 1):
            if worked.record(wrong)[1] != RecordKind.TRANSFER:
                continue
            disk = new_disk()
            path, offset = _forge(disk, worked, wrong)
            with pytest.raises(Damaged) as caught:
                _load(disk)
            assert (caught.value.path, caught.value.offset) == (path, offset)
            assert f"transaction {wrong} does not follow" in caught.value.what
            with pytest.raises(Damaged, match=f"transaction {wrong} does not follow"):
                make_snapshot(disk, JOURNAL, SNAPSHOTS, worked.head, None, NOW)
            assert disk.names(SNAPSHOTS) == []
            make_snapshot(disk, JOURNAL, SNAPSHOTS, wrong - 1, None, NOW)
            with pytest.raises(Damaged, match=f"transaction {wrong} does not follow"):
                _load(disk)


def test_a_snapshot_of_another_format_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = new_disk()
    with history() as worked:
        write_journal(disk, worked, worked.head)
        with monkeypatch.context() as patched:
            patched.setattr("server.journal.snapshot.FORMAT_VERSION", 2)
            _snapshot(disk, 3)
        with pytest.raises(OtherFormat):
            _load(disk)
        with pytest.raises(OtherFormat):
            make_snapshot(disk, JOURNAL, SNAPSHOTS, 4, None, NOW)


# ---- making snapshots


def test_nothing_new_makes_no_snapshot() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        assert _snapshot(disk, 0) == 0
        assert disk.names(SNAPSHOTS) == []
        assert _snapshot(disk, 7) == 7
        calls = disk.calls
        assert _snapshot(disk, 7) == _snapshot(disk, 3) == 7
        assert disk.calls == calls


def test_a_bad_snapshot_is_told_and_made_anew() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        for upto in (5, 8):
            _snapshot(disk, upto)
        path = numbered(SNAPSHOTS, 8, SUFFIX)
        _damage(disk, path, b"bad")
        made = make_snapshot(disk, JOURNAL, SNAPSHOTS, 8, None, NOW)
        assert (made.txn, [error.path for error in made.bad]) == (8, [path])
        snapshot, bad = newest(disk, SNAPSHOTS)
        assert snapshot is not None
        assert not bad
        assert truth_of(snapshot.books) == worked.truths[8]


def test_what_is_being_written_is_not_looked_at() -> None:
    """Behind `upto` stands anything: a half-written batch and a whole one after it."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head, 3, 1 << 20)
        batch = _batches(disk)[4]
        _damage(disk, batch.path, b"\0" * 100, at=batch.offset + 50)
        with pytest.raises(Damaged):
            _load(disk)
        assert _snapshot(disk, batch.first - 1) == batch.first - 1
        with pytest.raises(Damaged):
            _snapshot(disk, batch.first)


def test_a_journal_that_does_not_reach_it_makes_no_snapshot() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, 10)
        with pytest.raises(Damaged, match="ends with transaction 10, and all up to 11"):
            _snapshot(disk, 11)
        _snapshot(disk, 10)
        with pytest.raises(Damaged, match="ends with transaction 10, and all up to 11"):
            _snapshot(disk, 11)
        assert disk.names(SNAPSHOTS) == [f"{10:020}.snapshot"]


# ---- progress


def test_progress_is_told() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        for start in (0, 7):
            if start:
                _snapshot(disk, start)
            told: list[tuple[int, int]] = []

            def progress(done: int, total: int, told: list[tuple[int, int]] = told) -> None:
                told.append((done, total))

            load(disk, JOURNAL, SNAPSHOTS, progress)
            done, totals = zip(*told, strict=True)
            assert list(done) == sorted(set(done))
            assert done[-1] == worked.head - start
            assert len(set(totals)) == 1
            assert done[-1] <= totals[0] <= done[-1] + 2000 // RECORD_SIZE

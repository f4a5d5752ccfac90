"""Group commit over a disk that forgets: whatever was answered or shown is there after a restart.

A run works on a region as workers do, commits batches, and takes an answer for given, and a message
for shown, only when both durable words have reached what it shows. It is cut, or fails, at every
call to the disk in turn.
"""

import errno
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from libproto.messages import Flag, TxnKind
from server.core.check import problems
from server.core.errors import Busy, DiskFull, JournalFailed, NotJoined
from server.core.ledger import DONE, FULL, FUNDS, RECORDED
from server.core.log import NO_JOURNAL
from server.journal.commit import (
    LEAVE_BYTES,
    Committer,
    event_bytes,
    give_up,
    places,
    segment_bytes,
)
from server.journal.errors import JournalError
from server.journal.format import POSITION_FILE, SEGMENT, EventHead, events_in
from server.journal.load import Idleness, Loaded, fill, load, make_snapshot
from server.journal.position import PositionFile
from server.journal.position import read as read_position
from server.journal.reader import Reader, find_end
from server.journal.snapshot import prune
from server.journal.writer import OVERHEAD, Writer
from server.region.records import RECORD_SIZE, TEXT_MAX, TEXTS_MAX
from server.region.region import Region
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk
from tests.helpers.region import (
    STARTED_US,
    login,
    monotonic_us,
    next_req_id,
    register,
    say,
    small_region,
    state_of,
    watched,
    whisper,
    word,
)

LOG_ID = 0x106_1D
JOURNAL, SNAPSHOTS = Path("/data/journal"), Path("/data/snapshots")
NOTED = JOURNAL.parent / POSITION_FILE
STEPS = 40
CLIENT = 77
TXN_RING, RING = 8, 16


class Shown:
    """What clients have been told."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, tuple[int, ...]]] = []  # by what must be durable
        self.unseen: list[tuple[int, tuple[int, ...]]] = []  # messages, by their event
        self.messages: list[tuple[int, ...]] = []  # user, room, req_id, seq, txn
        self.answered: list[tuple[int, ...]] = []  # user, kind, other, amount, req_id, txn, balance
        self.balances: list[tuple[int, int, int]] = []  # user, last_txn, balance

    def let_go(self, released: int) -> None:
        for needed, what in self.waiting:
            if needed <= released and len(what) > 1:
                (self.balances if len(what) == 3 else self.answered).append(what)  # type: ignore[arg-type]
        self.waiting = [each for each in self.waiting if each[0] > released]

    def see(self, region: Region) -> None:
        """What leaves by now."""
        self.let_go(word(region, "log", 0, "released"))
        released = word(region, "events", 0, "released")
        self.messages += [what for needed, what in self.unseen if needed <= released]
        self.unseen = [each for each in self.unseen if each[0] > released]


def new_disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    for path in (JOURNAL, SNAPSHOTS):
        disk.make_directory(path)
    disk.sync_directory(JOURNAL.parent)
    return disk


def committer_on(region: Region, disk: SimulatedDisk, *, sync: bool = True) -> Committer:
    """As a journal process opens it that takes another's place."""
    end = find_end(disk, JOURNAL, LOG_ID, read_position(disk, NOTED, LOG_ID))
    size = segment_bytes(region.layout.capacities, 0)  # several in a run
    writer = Writer(disk, JOURNAL, LOG_ID, end, size, lambda: STARTED_US)
    noted = PositionFile(disk, NOTED, LOG_ID)
    made = Committer(region, writer, noted, sync=sync, wakeups=[], clock_us=lambda: 0)
    made.publish()
    return made


def begin(disk: SimulatedDisk, region: Region, loaded: Loaded) -> None:
    """As a start notes it, before anybody is served."""
    skip = 0 if loaded.end.clean else loaded.books.ring
    size = segment_bytes(region.layout.capacities, 0)
    writer = Writer(disk, JOURNAL, LOG_ID, loaded.end, size, lambda: STARTED_US)
    writer.begin(RING, skip, 7)
    loaded.books.begin(RING, skip, 7)
    writer.close()


def loaded_from(disk: SimulatedDisk) -> Loaded:
    noted = read_position(disk, NOTED, LOG_ID)
    return load(disk, JOURNAL, SNAPSHOTS, LOG_ID, noted, lambda *_: None)


def run(disk: SimulatedDisk, shown: Shown, region: Region) -> None:
    """The same work every time, but for where the disk ends it."""
    chance = random.Random(7)  # noqa: S311 - the same run each time
    begin(disk, region, loaded_from(disk))
    committer = committer_on(region, disk)
    committer._writer.prepare()  # as the process does
    committer.publish()
    states = [state_of(region, worker) for worker in range(3)]
    users = register(states[0], "ann", "bob", "cyd")
    committer.commit()
    sessions = [login(states[n], user, CLIENT) for n, user in enumerate(users)]
    committer.commit()
    for state, session in zip(states, sessions, strict=True):
        for room in (1, 2):
            state.memberships.join(session, room, STARTED_US)
        committer.commit()
    for step in range(STEPS):
        n = chance.randrange(3)
        state, session, user, other = states[n], sessions[n], users[n], users[(n + 1) % 3]
        req_id, amount, now = next_req_id(session, region), chance.randrange(1, 50), step
        what = chance.choice(("deposit", "withdraw", "transfer", "say", "whisper", "pair", "pay"))
        if what in ("say", "whisper"):
            room = chance.randrange(1, 3) if what == "say" else 0
            sent = (
                say(state, session, room, str(req_id), now)
                if room
                else whisper(state, session, other, str(req_id), now)
            )
            shown.unseen.append((sent.event, (user, room, req_id, sent.seq, 0)))
        elif what == "pair":
            made = state.pairs.transfer(session, 1, other, amount, str(req_id), req_id, 0, now)
            assert made.what in (DONE, FUNDS)
            if made.what == DONE:
                shown.unseen.append((made.event, (0, 1, 0, made.seq, made.txn)))
                shown.waiting.append((made.txn, (made.txn,)))
        elif what == "pay":
            state.chat.pay(session, other, state.log.head(), amount, 0, now)
        else:
            kind = TxnKind[what.upper()]
            payee = other if kind == TxnKind.TRANSFER else 0
            done, txn, balance = state.ledger.execute(session, kind, payee, amount, req_id, 0, now)
            assert done in (DONE, FUNDS)
            if done == DONE:
                answer = (user, kind, payee, amount, req_id, txn, balance)
                shown.waiting.append((txn, answer))
        live, balance, last = state.ledger.balance(session)
        assert live
        shown.waiting.append((last, (user, last, balance)))
        few = min(region.log.limit - region.log.head, region.events.limit - region.events.head) < 2
        if chance.random() < 0.4 or few:
            committer.commit()
            shown.see(region)
        if few and committer._writer.prepare():  # as the process does
            committer.publish()
        if step % 9 == 5:
            committer._noted.sync()
        if step in (15, 30):
            position = committer._writer.position
            make_snapshot(disk, JOURNAL, SNAPSHOTS, LOG_ID, position, None, STARTED_US)
            prune(disk, SNAPSHOTS, LOG_ID)
    committer.commit()
    shown.see(region)
    assert not shown.waiting
    assert not shown.unseen


def in_journal(disk: SimulatedDisk) -> list[EventHead]:
    found = Reader(disk, JOURNAL, LOG_ID).batches()
    return [event for batch in found for event, _ in events_in(batch.events)]


def check_restart(disk: SimulatedDisk, shown: Shown) -> None:
    """A server on what the disk has kept knows all that was told, and goes on; no number is used
    twice."""
    loaded = loaded_from(disk)
    with small_region(txn_ring=TXN_RING) as region:
        begin(disk, region, loaded)
        fill(region, loaded, STARTED_US, Idleness({}, 0, 0, monotonic_us()))
        assert problems(region) == []
        committer = committer_on(region, disk)
        state, books = state_of(region), loaded.books
        for user, last_txn, balance in shown.balances:
            assert last_txn <= books.txn, f"user {user} was shown {balance}"
        there = {(e.sender, e.room, e.req_id, e.seq, e.txn) for e in in_journal(disk)}
        sessions = {}

        def session_of(user: int) -> object:
            if user not in sessions:
                sessions[user] = login(state, user, CLIENT)
                assert sessions[user].resumed
            return sessions[user]

        for user, kind, other, amount, req_id, txn, balance in shown.answered:
            session_of(user)
            again = state.ledger.execute(
                sessions[user], kind, other, amount, req_id, int(Flag.POSSIBLE_DUPLICATE), 0
            )
            assert again == (RECORDED, txn, balance)
        for message in shown.messages:
            user, room, req_id, seq, txn = message
            assert message in there, "it was shown"
            if room and not txn:
                session_of(user)
                sent = state.chat.send(sessions[user], room, str(req_id), 0, req_id, 1)
                assert (sent.recorded, sent.seq) == (True, seq)
        newest = dict(sorted((user, (txn, balance)) for user, txn, balance in shown.balances))
        for user, (txn, balance) in newest.items():
            if books.last_txn[user] == txn:
                assert books.balances[user] == balance
        if books.users:
            session = login(state, 1)
            assert state.ledger.execute(session, TxnKind.DEPOSIT, 0, 1, 1, 0, 0)[0] == DONE
            seqs = {room: max((e.seq for e in in_journal(disk) if e.room == room), default=0)
                    for room in (1, 2)}  # fmt: skip
            for room in (1, 2):
                state.memberships.join(session, room, 0)
                assert state.events.last_seq(room) > seqs[room]
            head, event = word(region, "log", 0, "head"), region.events.head
            committer.commit()
            again_loaded = loaded_from(disk).books
            assert (again_loaded.txn, again_loaded.event) == (head, event)


@contextmanager
def fresh() -> Iterator[tuple[Region, Shown]]:
    with small_region(txn_ring=TXN_RING) as region:
        yield region, Shown()


def calls_of_a_run() -> int:
    disk = new_disk()
    with fresh() as (region, shown):
        run(disk, shown, region)
        assert len(shown.answered) > STEPS / 4
        assert len(shown.messages) > STEPS / 4
        assert {bool(each[4]) for each in shown.messages} == {False, True}
    check_restart(disk.after_power_cut(), shown)
    return disk.calls


CALLS = range(new_disk().calls + 1, calls_of_a_run() + 1)


def test_a_power_cut_at_every_call() -> None:
    for n in CALLS:
        disk = new_disk()
        disk.cut_at = n
        with fresh() as (region, shown), pytest.raises(PowerCut):
            run(disk, shown, region)
        for survives in ADVERSARIES.values():
            check_restart(disk.after_power_cut(survives), shown)


def test_a_kill_at_every_call() -> None:
    for n in CALLS:
        disk = new_disk()
        disk.cut_at = n
        with fresh() as (region, shown), pytest.raises(PowerCut):
            run(disk, shown, region)
        check_restart(disk.after_kill(), shown)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_error_at_every_call(number: int) -> None:
    """Of the journal's own calls: the region says so. A snapshot that fails is no harm."""
    failed = 0
    for n in CALLS:
        disk = new_disk()
        disk.fail_at = n, number
        with fresh() as (region, shown):
            with suppress(OSError):
                run(disk, shown, region)
                pytest.fail("the error was swallowed")
            if told := word(region, "journal", 0, "failed"):
                failed += 1
                assert told == number
                assert word(region, "log", 0, "limit") == 0
                assert word(region, "events", 0, "limit") == 0
                assert word(region, "events", 0, "leave_limit") == 0
                state = state_of(region)
                if word(region, "users", 1, "word"):
                    session = login(state, 1)
                    assert state.ledger.execute(session, 1, 0, 1, 1, 0, 0)[0] == FULL
        check_restart(disk.after_power_cut(), shown)
        check_restart(disk.after_kill(), shown)
    assert failed > 10


def test_async_answers_at_once_and_commits_all_the_same() -> None:
    disk = new_disk()
    with fresh() as (region, _):
        begin(disk, region, loaded_from(disk))
        committer = committer_on(region, disk, sync=False)
        state = state_of(region)
        register(state, "ann")
        assert word(region, "log", 0, "released") == NO_JOURNAL
        assert word(region, "log", 0, "durable") == 0
        assert committer.commit() == 1
        assert word(region, "log", 0, "durable") == 1
        assert word(region, "events", 0, "released") == NO_JOURNAL


def test_batches_go_round_the_ring() -> None:
    disk = new_disk()
    with small_region(txn_ring=8) as region:
        committer = committer_with(region, disk)
        state = state_of(region)
        register(state, "ann")
        session = login(state, 1)
        req_id = 0
        for size in (3, 5, 7, 8, 1, 8, 6):
            while committer.commit():
                pass
            for _ in range(size):
                req_id += 1
                assert state.ledger.execute(session, 1, 0, 1, req_id, 0, 0)[0] == DONE
            assert committer.commit() == size
        assert loaded_from(disk).books.balances[1] == req_id


# ---- places


def committer_with(
    region: Region, disk: SimulatedDisk, size: int = 0, *, prepared: bool = True
) -> Committer:
    """With segments of so many bytes; 0: as large as the server makes them."""
    end = find_end(disk, JOURNAL, LOG_ID, read_position(disk, NOTED, LOG_ID))
    size = size or segment_bytes(region.layout.capacities, 0)
    writer = Writer(disk, JOURNAL, LOG_ID, end, size, lambda: STARTED_US)
    if not end.path:
        writer.begin(RING, 0, 7)
    if prepared:
        with suppress(OSError):
            writer.prepare()
    noted = PositionFile(disk, NOTED, LOG_ID)
    made = Committer(region, writer, noted, sync=True, wakeups=[], clock_us=lambda: 0)
    made.publish()
    return made


def test_with_space_on_the_disk_each_ring_is_filled() -> None:
    """All of the events' ring by leaves, and all but an eighth of it by others."""
    disk = new_disk()
    with small_region(txn_ring=8) as region:
        committer_with(region, disk)
        assert (region.log.limit, region.events.limit) == (8, RING - RING // 8)
        assert region.events.leave_limit == RING


def test_events_go_round_the_ring() -> None:
    """Messages, and payments between them, which are not written."""
    disk = new_disk()
    with small_region() as region:
        committer = committer_with(region, disk)
        state = state_of(region)
        register(state, "ann")
        session = login(state, 1, 7)
        state.memberships.join(session, 1, 0)
        committer.commit()
        said = 1
        for size in (3, 14, 1, 7, 13, 14, 14):
            before = region.events.durable
            for n in range(size):
                if n % 3 == 2 and state.events.has_place_for_payment():
                    state.chat.pay(session, 1, 1, 1, 1, 0)
                else:
                    said = say(state, session, 1, f"m{n}", 0).seq
            assert committer.behind()
            assert region.events.released == before
            committer.commit()
            assert region.events.durable == region.events.head == before + size
            assert not committer.behind()
        books = loaded_from(disk).books
        assert (books.last_seq(1), books.event) == (said, region.events.head)


def test_payments_alone_are_durable_without_a_write() -> None:
    disk = new_disk()
    with small_region() as region:
        committer = committer_with(region, disk)
        state = state_of(region)
        register(state, "ann")
        session = login(state, 1, 7)
        committer.commit()
        calls = disk.calls
        for n in range(40):
            state.chat.pay(session, 1, 1, 1, 1, 0)
            committer.commit()
            assert region.events.durable == region.events.released == n + 1
        assert disk.calls == calls
        # Who takes its place goes on behind them: their slots are others' by now.
        committer = committer_with(region, disk)
        assert region.events.durable == 40
        state.memberships.join(session, 1, 0)
        committer.commit()
        assert [event.word for event in in_journal(disk)] == [41]


def test_a_pair_is_in_one_batch_whenever_the_heads_are_read() -> None:
    """Its transaction is seen and its event is not yet: it waits, and all behind it."""
    disk = new_disk()
    with small_region() as region:
        committer = committer_with(region, disk)
        state = state_of(region)
        register(state, "ann", "bob")
        session = login(state, 1, 7)
        state.memberships.join(session, 1, 0)
        state.ledger.execute(session, TxnKind.DEPOSIT, 0, 9, next_req_id(session, region), 0, 0)
        req_id = next_req_id(session, region)
        made = state.pairs.transfer(session, 1, 2, 3, "for tea", req_id, 0, 0)
        state.ledger.execute(session, TxnKind.DEPOSIT, 0, 1, next_req_id(session, region), 0, 0)
        event = region.events.head
        region.events.head = event - 1  # as it is before it is stored
        committer.commit()
        assert region.log.durable == made.txn - 1
        assert region.events.durable == event - 1
        region.events.head = event
        committer.commit()
        assert (region.log.durable, region.events.durable) == (region.log.head, event)
        last = list(Reader(disk, JOURNAL, LOG_ID).batches())[-1]
        assert (last.first, [each.txn for each, _ in events_in(last.events)]) == (
            made.txn,
            [made.txn],
        )
        loaded_from(disk)


def test_a_change_is_in_one_batch_with_its_text_and_its_event() -> None:
    """Whenever the heads are read: what comes before it is written, and it waits, text and all."""
    disk = new_disk()
    with small_region() as region:
        committer = committer_with(region, disk)
        state = state_of(region)
        register(state, "ann")
        session = login(state, 1, 7)
        state.memberships.join(session, 1, 0)
        state.ledger.execute(session, TxnKind.DEPOSIT, 0, 9, next_req_id(session, region), 0, 0)
        before = region.log.head
        req_id = next_req_id(session, region)
        made = state.changes.add_offer(session, 1, 3, "x" * TEXT_MAX, 9, req_id, 0, 0)
        assert made.txn == before + TEXTS_MAX + 1
        event = region.events.head
        region.events.head = event - 1  # as it is before it is stored
        committer.commit()
        assert region.log.durable == before
        assert loaded_from(disk).books.named.offers == {}
        region.events.head = event
        committer.commit()
        assert (region.log.durable, region.events.durable) == (made.txn, event)
        last = list(Reader(disk, JOURNAL, LOG_ID).batches())[-1]
        assert (last.first, [each.txn for each, _ in events_in(last.events)]) == (
            before + 1,
            [made.txn],
        )
        (offer,) = loaded_from(disk).books.named.offers.values()
        assert (offer.entry, offer.text) == (made.txn, b"x" * TEXT_MAX)


def test_the_log_is_released_before_the_events() -> None:
    """Who may show an event may show the transaction that it tells of: never the other way round,
    or members are told of a payment before the payer's own answer leaves."""
    disk, instants = new_disk(), set[tuple[bool, bool]]()
    with small_region() as region:

        def look() -> None:
            paid, told = region.log.released >= made.txn, region.events.released >= made.event
            assert paid or not told
            instants.add((paid, told))

        state = state_of(region)
        committer = committer_with(region, disk)
        register(state, "ann", "bob")
        session = login(state, 1, 7)
        state.memberships.join(session, 1, 0)
        state.ledger.execute(session, TxnKind.DEPOSIT, 0, 9, next_req_id(session, region), 0, 0)
        committer.commit()
        req_id = next_req_id(session, region)
        made = state.pairs.transfer(session, 1, 2, 3, "for tea", req_id, 0, 0)
        committer_with(watched(region, look), disk).commit()
        assert instants == {(False, False), (True, False), (True, True)}


def test_numbers_that_were_shown_and_are_lost_are_not_used_again() -> None:
    """In async they may be: each start that follows a crash leaves as many out as the ring has."""
    disk, shown = new_disk(), 0
    for crash in range(3):
        with small_region(txn_ring=TXN_RING) as region:
            loaded = loaded_from(disk)
            begin(disk, region, loaded)
            fill(region, loaded, STARTED_US, Idleness({}, 0, 0, monotonic_us()))
            committer = committer_on(region, disk, sync=False)
            committer._writer.prepare()  # as the process does
            committer.publish()
            state = state_of(region)
            if not crash:
                register(state, "ann")
            session = login(state, 1, 7)
            committer.commit()
            assert state.events.last_seq(1) >= shown
            state.memberships.join(session, 1, 0)
            for n in range(9):
                shown = say(state, session, 1, f"m{n}", 0).seq
        disk = disk.after_kill()
        assert in_journal(disk) == [], "all of them are lost"
    assert shown > 3 * 10


def test_an_event_that_is_not_there_any_more_is_never_written() -> None:
    disk = new_disk()
    with small_region() as region:
        committer = committer_with(region, disk)
        state = state_of(region)
        register(state, "ann")
        session = login(state, 1, 7)
        region.events.limit = 100  # nobody gives so many
        state.memberships.join(session, 1, 0)
        for n in range(RING):
            say(state, session, 1, f"m{n}", 0)
        with pytest.raises(JournalError, match="event 1 is not in its place"):
            committer.commit()
        assert in_journal(disk) == []


class FullDisk(SimulatedDisk):
    """One that allocates nothing from some moment on, until there is space again."""

    full = False

    def allocate(self, fd: int, size: int) -> None:
        if self.full and size > self.size(fd):
            raise OSError(errno.ENOSPC, "No space left on device")
        super().allocate(fd, size)


@pytest.mark.parametrize("size", range(3000, 12_000, 500))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_everything_that_got_a_place_is_written_though_the_disk_is_full(
    size: int, share: float
) -> None:
    """Money and messages in any mixture, until no more have a place, each in a batch of its own or
    several; a journal process that takes another's place gives no less, and the END has room."""
    disk = FullDisk()
    for path in (JOURNAL, SNAPSHOTS):
        disk.make_directory(path)
    chance = random.Random(size)  # noqa: S311 - the same run each time
    with small_region() as region:
        committer = committer_with(region, disk, size, prepared=chance.random() < 0.5)
        disk.full = True
        state = state_of(region)
        limits = region.log.limit, region.events.limit
        register(state, "ann")
        session = login(state, 1, 7)
        refused: set[str] = set()
        for turn in itertools.count():
            assert turn < 2000
            message = chance.random() < share
            try:
                if message:
                    if not state.events.last_seq(1):
                        state.memberships.join(session, 1, 0)
                    else:
                        say(state, session, 1, "x" * chance.randrange(64), 0)
                else:
                    what = state.ledger.execute(
                        session, TxnKind.DEPOSIT, 0, 1, next_req_id(session, region), 0, 0
                    )[0]
                    if what == FULL:
                        raise state.log.refusal()
            except Busy:
                refused.add("message" if message else "money")
                if committer.commit() == 0 and refused >= (
                    {"message"} if share == 1 else {"money"} if not share else {"message", "money"}
                ):
                    break
            if chance.random() < 0.2:
                committer.commit()
            if chance.random() < 0.02:
                committer = committer_with(region, disk, size, prepared=False)
            assert (region.log.limit, region.events.limit) >= limits
            limits = max(limits[0], region.log.limit), region.events.limit
        head, event = region.log.head, region.events.head
        committer._writer.finish()
        books = loaded_from(disk).books
        assert (books.txn, books.event) == (head, event)


@pytest.mark.parametrize("size", range(6000, 16_000, 500))
@pytest.mark.parametrize("taken_over", [False, True])
@pytest.mark.parametrize("rooms", [5, 60])
def test_all_members_can_leave_though_the_disk_is_full(
    size: int, rooms: int, taken_over: bool
) -> None:
    """Whatever else was taken until nothing has a place any more: users join rooms, some with two
    connections, and some leave them; then all are gone. Each leave is written, whatever it takes
    of batches and of processes that write them."""
    disk = FullDisk()
    for path in (JOURNAL, SNAPSHOTS):
        disk.make_directory(path)
    chance = random.Random(size)  # noqa: S311 - the same run each time
    with small_region() as region:
        committer = committer_with(region, disk, size, prepared=chance.random() < 0.5)
        disk.full = True
        state = state_of(region)
        users = register(state, *(name * 32 for name in "abc"))  # the longest
        sessions = [login(state, user) for user in (*users, users[0])]

        def work() -> None:
            session, room = chance.choice(sessions), chance.randrange(1, rooms)
            what = chance.choice(("join", "join", "join", "leave", "say", "pay"))
            if what == "join":
                state.memberships.join(session, room, 0)
            elif what == "leave":
                state.memberships.leave(session, room, 0)
            elif what == "say":
                with suppress(NotJoined):
                    say(state, session, room, "x" * chance.randrange(64), 0)
            else:
                req_id = next_req_id(session, region)
                if state.ledger.execute(session, TxnKind.DEPOSIT, 0, 1, req_id, 0, 0)[0] == FULL:
                    raise state.log.refusal()

        refused = 0
        for turn in itertools.count():
            assert turn < 5000
            try:
                work()
            except Busy:
                refused += committer.commit() == 0
            if refused == 40:
                break
            if chance.random() < 0.2:
                committer.commit()
            if taken_over and chance.random() < 0.02:
                committer = committer_with(region, disk, size, prepared=False)
        members, head = region.registry.members, region.events.head
        assert members == sum(region.column("rooms", "members"))
        for session in sessions:
            state.sessions.end(session, 0)
        while region.registry.ending_sessions:
            committer.commit()
            state.sessions.finish_ended(0)
        committer.commit()
        assert region.events.head == head + members
        assert region.registry.members == 0
        head, event = region.log.head, region.events.head
        committer._writer.finish()
        books = loaded_from(disk).books
        assert (books.txn, books.event) == (head, event)


def test_the_next_segment_is_larger_the_more_members_there_are() -> None:
    """So that requests need not wait for a rotation."""
    disk = new_disk()
    with small_region() as region:
        committer = committer_with(region, disk)
        capacities = region.layout.capacities
        before = segment_bytes(capacities, 0)
        region.registry.members = 2 * RING
        committer.publish()
        assert region.events.limit == places(capacities), "what was given stays given"
        size = segment_bytes(capacities, 0, 2 * RING)
        assert size >= before + RING * LEAVE_BYTES
        assert committer._writer.prepare(size)
        rings = capacities.txn_ring * (RECORD_SIZE + OVERHEAD)
        rings += places(capacities) * event_bytes(capacities)
        assert committer._writer.room >= rings + 2 * RING * LEAVE_BYTES
        assert not committer._writer.prepare(size)


def test_a_full_disk_is_told_and_heals() -> None:
    disk = FullDisk()
    for path in (JOURNAL, SNAPSHOTS):
        disk.make_directory(path)
    with small_region() as region:
        state = state_of(region)
        committer = committer_with(region, disk, SEGMENT.size + 3 * OVERHEAD + 3000, prepared=False)
        disk.full = True
        register(state, "ann")
        session = login(state, 1, 7)
        region.journal.full = errno.ENOSPC  # as the process does
        committer.commit()
        with pytest.raises(DiskFull):  # noqa: PT012 - some are taken
            for _ in range(100):
                if (
                    state.ledger.execute(session, 1, 0, 1, next_req_id(session, region), 0, 0)[0]
                    == FULL
                ):
                    raise state.log.refusal()
                committer.commit()
        with pytest.raises(DiskFull):  # noqa: PT012 - likewise
            for room in range(1, 70):
                state.memberships.join(session, room, 0)
                committer.commit()
        disk.full = False
        assert committer._writer.prepare()
        committer.publish()
        assert state.ledger.execute(session, 1, 0, 1, next_req_id(session, region), 0, 0)[0] == DONE
        give_up(region, errno.EIO)
        with pytest.raises(JournalFailed):
            state.memberships.join(session, 69, 0)

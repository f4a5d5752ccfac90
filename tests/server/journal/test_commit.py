"""Group commit over a disk that forgets: whatever was answered or shown is there after a restart.

A run works on a region as workers do, commits batches, and takes an answer for given only when
`released` has reached what it shows. It is cut, or fails, at every call to the disk in turn.
"""

import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from libproto.messages import Flag, TxnKind
from server.core.check import problems
from server.core.ledger import DONE, FULL, FUNDS, RECORDED
from server.core.log import NO_JOURNAL
from server.journal.commit import Committer
from server.journal.load import Idleness, fill, load, make_snapshot
from server.journal.reader import find_end
from server.journal.snapshot import prune
from server.journal.writer import Writer
from server.region.region import Region
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk
from tests.helpers.region import (
    STARTED_US,
    login,
    monotonic_us,
    register,
    small_region,
    state_of,
    word,
)

JOURNAL, SNAPSHOTS = Path("/data/journal"), Path("/data/snapshots")
SEGMENT_SIZE = 2048  # bytes: several in a run
STEPS = 40
CLIENT = 77


class Shown:
    """What clients have been told."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, tuple[int, ...]]] = []  # by what must be durable
        self.answered: list[tuple[int, ...]] = []  # user, kind, other, amount, req_id, txn, balance
        self.balances: list[tuple[int, int, int]] = []  # user, last_txn, balance

    def let_go(self, released: int) -> None:
        for needed, what in self.waiting:
            if needed <= released:
                (self.balances if len(what) == 3 else self.answered).append(what)  # type: ignore[arg-type]
        self.waiting = [each for each in self.waiting if each[0] > released]


def new_disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    for path in (JOURNAL, SNAPSHOTS):
        disk.make_directory(path)
    disk.sync_directory(JOURNAL.parent)
    return disk


def committer_on(region: Region, disk: SimulatedDisk, *, sync: bool = True) -> Committer:
    writer = Writer(disk, JOURNAL, find_end(disk, JOURNAL), SEGMENT_SIZE, lambda: STARTED_US)
    made = Committer(region, writer, sync=sync, wakeups=[], clock_us=lambda: 0)
    made.publish()
    return made


def run(disk: SimulatedDisk, shown: Shown, region: Region) -> None:
    """The same work every time, but for where the disk ends it."""
    chance = random.Random(7)  # noqa: S311 - the same run each time
    committer = committer_on(region, disk)
    states = [state_of(region, worker) for worker in range(3)]
    users = register(states[0], "ann", "bob", "cyd")
    sessions = [login(states[n], user, CLIENT) for n, user in enumerate(users)]
    req_ids = [0, 0, 0]
    for step in range(STEPS):
        n = chance.randrange(3)
        kind = chance.choice((TxnKind.DEPOSIT, TxnKind.WITHDRAW, TxnKind.TRANSFER))
        other = users[(n + 1) % 3] if kind == TxnKind.TRANSFER else 0
        amount = chance.randrange(1, 50)
        req_ids[n] += 1
        what, txn, balance = states[n].ledger.execute(
            sessions[n], kind, other, amount, req_ids[n], 0, STARTED_US + step
        )
        assert what in (DONE, FUNDS)
        if what == DONE:
            answer = (users[n], kind, other, amount, req_ids[n], txn, balance)
            shown.waiting.append((txn, answer))
        found = states[n].ledger.balance(sessions[n])
        assert found is not None
        shown.waiting.append((found[1], (users[n], found[1], found[0])))
        if chance.random() < 0.4:
            committer.commit()
            shown.let_go(word(region, "log", 0, "released"))
        if step in (15, 30):
            durable = word(region, "log", 0, "durable")
            make_snapshot(disk, JOURNAL, SNAPSHOTS, durable, None, STARTED_US)
            prune(disk, SNAPSHOTS)
    committer.commit()
    shown.let_go(word(region, "log", 0, "released"))
    assert not shown.waiting


def check_restart(disk: SimulatedDisk, shown: Shown) -> None:
    """A server on what the disk has kept knows all that was told, and goes on."""
    loaded = load(disk, JOURNAL, SNAPSHOTS, lambda *_: None)
    with small_region() as region:
        fill(region, loaded, STARTED_US, Idleness({}, 0, 0, monotonic_us()))
        assert problems(region) == []
        committer = committer_on(region, disk)
        state, books = state_of(region), loaded.books
        for user, last_txn, balance in shown.balances:
            assert last_txn <= books.txn, f"user {user} was shown {balance}"
        sessions = {}
        for user, kind, other, amount, req_id, txn, balance in shown.answered:
            if user not in sessions:
                sessions[user] = login(state, user, CLIENT)
                assert sessions[user].resumed
            again = state.ledger.execute(
                sessions[user], kind, other, amount, req_id, int(Flag.POSSIBLE_DUPLICATE), 0
            )
            assert again == (RECORDED, txn, balance)
        newest = dict(sorted((user, (txn, balance)) for user, txn, balance in shown.balances))
        for user, (txn, balance) in newest.items():
            if books.last_txn[user] == txn:
                assert books.balances[user] == balance
        if books.users:
            session = login(state, 1)
            assert state.ledger.execute(session, TxnKind.DEPOSIT, 0, 1, 1, 0, 0)[0] == DONE
            head = word(region, "log", 0, "head")
            committer.commit()
            assert load(disk, JOURNAL, SNAPSHOTS, lambda *_: None).books.txn == head


@contextmanager
def fresh() -> Iterator[tuple[Region, Shown]]:
    with small_region() as region:
        yield region, Shown()


def calls_of_a_run() -> int:
    disk = new_disk()
    with fresh() as (region, shown):
        run(disk, shown, region)
        assert len(shown.answered) > STEPS / 2
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
        committer = committer_on(region, disk, sync=False)
        state = state_of(region)
        register(state, "ann")
        assert word(region, "log", 0, "released") == NO_JOURNAL
        assert word(region, "log", 0, "durable") == 0
        assert committer.commit() == 1
        assert word(region, "log", 0, "durable") == 1
        assert word(region, "log", 0, "limit") == 1 + region.layout.capacities.txn_ring


def test_batches_go_round_the_ring() -> None:
    disk = new_disk()
    with small_region(txn_ring=8) as region:
        committer = committer_on(region, disk)
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
        loaded = load(disk, JOURNAL, SNAPSHOTS, lambda *_: None)
        assert loaded.books.balances[1] == req_id

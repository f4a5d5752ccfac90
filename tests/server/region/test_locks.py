"""The locks: shared between processes, taken by rank, and no wait without an end."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import pytest

from libproto.messages import TxnKind
from server.core.ledger import DONE
from server.core.state import State
from server.region.counters import LOCK_KINDS, index_of
from server.region.layout import WORD
from server.region.locks import (
    ALARM_NS,
    TICK_NS,
    Lock,
    LockOrderError,
    Locks,
    MasterGone,
    init_lock,
    unfree_locks,
)
from server.region.region import Region
from tests.helpers.leaks import wait_gone
from tests.helpers.region import (
    SMALL,
    Recovery,
    check_quiet,
    children,
    lock_value,
    login,
    pause,
    register,
    say,
    set_word,
    small_region,
    state_of,
    watched,
    whisper,
    word,
)
from tests.helpers.server import wait_until


class Ticks:
    """A clock that goes on by one tick at each look, and a hook for one of them."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.at: dict[int, Callable[[], None]] = {}  # by tick

    def __call__(self) -> int:
        self.now_ns += TICK_NS
        assert self.now_ns < 1_000 * TICK_NS, "the wait goes on and on"
        self.at.get(self.now_ns // TICK_NS, lambda: None)()
        return self.now_ns


def no_pause(_: float) -> None:
    raise AssertionError("it stands still though there is no recovery")


def all_locks(locks: Locks, account_locks: int) -> list[Lock]:
    """Every lock, in the order of the ranks."""
    return [
        locks.registry,
        *map(locks.account, range(account_locks)),
        locks.log,
        locks.event,
    ]


# ---- one lock


def test_every_lock_of_a_new_region_is_free() -> None:
    with small_region(account_locks=5) as region:
        check_quiet(region)
        assert len({lock.address for lock in all_locks(state_of(region).locks, 5)}) == 8


def test_a_lock_is_held_by_one() -> None:
    with small_region() as region:
        locks = state_of(region).locks
        others = state_of(region, 1).locks
        assert locks.log.acquire()
        assert lock_value(locks.log) == 0
        assert not others.log.acquire()
        assert lock_value(locks.log) == 0
        locks.log.release()
        assert lock_value(locks.log) == 1
        assert others.log.acquire()


def test_accounts_share_the_locks_there_are() -> None:
    with small_region(account_locks=3) as region:
        locks = state_of(region).locks
        assert len({locks.account(user).address for user in range(12)}) == 3
        assert locks.account(7) is locks.account(4) is locks.account(1)


def test_each_lock_has_a_cache_line_of_its_own() -> None:
    with small_region() as region:
        lines = [
            lock.address // 64 for lock in all_locks(state_of(region).locks, SMALL.account_locks)
        ]
        assert len(set(lines)) == len(lines)


def test_a_lock_made_anew_is_free_whatever_it_was() -> None:
    with small_region() as region:
        address = state_of(region).locks.event.address
        at = address - region.address
        fresh = bytes(region.bytes[at : at + 4 * WORD])
        region.bytes[at : at + 4 * WORD] = b"\xa5" * (4 * WORD)
        init_lock(address)
        assert bytes(region.bytes[at : at + 4 * WORD]) == fresh
        check_quiet(region)


def test_a_lock_is_one_for_all_processes() -> None:
    """A private one would seem to work: those who wait would be woken by their next tick only."""
    shared, private = ctypes.create_string_buffer(4 * WORD), ctypes.create_string_buffer(4 * WORD)
    libc = ctypes.CDLL(None)
    assert libc.sem_init(shared, 1, 1) == libc.sem_init(private, 0, 1) == 0
    assert shared.raw != private.raw
    with small_region() as region:
        for lock in all_locks(state_of(region).locks, SMALL.account_locks):
            at = lock.address - region.address
            assert bytes(region.bytes[at : at + 4 * WORD]) == shared.raw


def test_locks_that_are_not_as_new_are_named() -> None:
    with small_region() as region:
        assert unfree_locks(region) == {}
        locks = state_of(region).locks
        taken = {
            "registry[0].lock": locks.registry,
            "account_locks[5].lock": locks.account(5),
            "events[0].lock": locks.event,
        }
        locks.hold(*taken.values())
        assert unfree_locks(region) == {name: lock.address for name, lock in taken.items()}
        locks.release(*taken.values())
        assert unfree_locks(region) == {}


def test_a_lock_is_shared_between_processes() -> None:
    with small_region() as region, children() as processes:
        locks = state_of(region).locks

        def take() -> bool:
            return state_of(region, 1).locks.registry.acquire()

        locks.registry.acquire()
        assert not processes.start(take).result()
        locks.registry.release()
        assert processes.start(take).result()
        assert not locks.registry.acquire(), "it ended without giving the lock back"


# ---- ranks


@pytest.mark.parametrize(("first", "second"), list(product(range(6), repeat=2)))
def test_only_a_later_lock_may_follow(first: int, second: int) -> None:
    with small_region(account_locks=3) as region:
        locks = state_of(region).locks
        ranked = all_locks(locks, 3)
        locks.hold(ranked[first])
        if first < second:
            locks.hold(ranked[second])
            locks.release(ranked[first], ranked[second])
            check_quiet(region)
        else:
            with pytest.raises(LockOrderError):
                locks.hold(ranked[second])
            assert lock_value(ranked[second]) == (0 if first == second else 1)


def test_a_lock_not_held_is_not_given_back() -> None:
    with small_region() as region:
        locks = state_of(region).locks
        with pytest.raises(LockOrderError):
            locks.event.release()
        check_quiet(region)


def test_a_lock_that_was_waited_for_has_its_rank_too() -> None:
    with small_region() as region:
        others = state_of(region, 1).locks
        clock = Ticks()
        locks = state_of(region, 0, clock, no_pause).locks
        others.log.acquire()
        clock.at[2] = others.log.release
        locks.hold(locks.log)
        with pytest.raises(LockOrderError):
            locks.registry.acquire()


# ---- what is done under them


def _all_changes(state: State, region: Region) -> Iterator[tuple[str, tuple[Lock, ...]]]:
    """Every change of the state, after its name and the locks that it needs."""
    locks = state.locks
    registry, event = locks.registry, locks.event
    yield "register", (registry,)
    register(state, "ann", "bob")
    yield "log in, a new client", (registry, locks.account(1))
    old = login(state, 1, 7)
    yield "log in without a client", (registry, locks.account(1))
    again = login(state, 1, 0)
    yield "log in, another user", (registry, locks.account(2))
    bob = login(state, 2, 7)
    yield "join", (registry, event)
    state.memberships.join(old, 1, 1)
    state.memberships.join(again, 1, 1)
    yield "leave", (registry, event)
    state.memberships.leave(again, 1, 1)
    yield "send", (locks.account(1), event)
    say(state, old, 1, "x", 1)
    yield "send a direct message", (registry, locks.account(1), event)
    whisper(state, old, 2, "x", 1)
    yield "tell of a payment", (registry, event)
    state.chat.pay(old, 2, 1, 1, 1, 1)
    yield "deposit", (locks.account(1),)
    state.ledger.execute(old, TxnKind.DEPOSIT, 0, 9, 11, False, 1)
    yield "withdraw", (locks.account(1),)
    state.ledger.execute(old, TxnKind.WITHDRAW, 0, 1, 12, False, 1)
    yield "transfer", (locks.account(1), locks.account(2))
    state.ledger.execute(old, TxnKind.TRANSFER, 2, 1, 13, False, 1)
    yield "transfer in a room", (locks.account(1), locks.account(2))
    assert state.pairs.transfer(old, 1, 2, 1, "for you", 14, False, 1).what == DONE
    yield "supersede", (registry, locks.account(1))
    new = login(state, 1, 7)
    yield "end", (registry, event)
    for session in (old, again, bob, new):
        state.sessions.end(session, 1)
    yield "nothing more", ()
    check_quiet(region)


@pytest.mark.parametrize("account_locks", [SMALL.account_locks, 1])
def test_every_store_is_made_under_its_locks(account_locks: int) -> None:
    with small_region(account_locks=account_locks) as region:
        doing: tuple[str, tuple[Lock, ...]] = "", ()
        stores = 0

        def look() -> None:
            nonlocal stores
            stores += 1
            assert all(lock_value(lock) == 0 for lock in doing[1]), doing[0]

        for doing in _all_changes(state_of(watched(region, look)), region):
            assert stores or doing[0] == "register", f"nothing was stored before: {doing[0]}"
            stores = 0


# ---- waiting


def test_a_wait_ends_when_another_process_gives_the_lock_back() -> None:
    with small_region() as region, children() as processes:
        locks = state_of(region).locks
        ticks, tick = os.pipe()

        def wait() -> tuple[bool, int]:
            def clock_ns() -> int:
                os.write(tick, b".")
                return time.monotonic_ns()

            own = state_of(region, 1, clock_ns).locks
            assert not own.log.acquire()
            got = own.wait(own.log, ())
            value = lock_value(own.log)
            own.log.release()
            return got, value

        locks.log.acquire()
        waiter = processes.start(wait)
        for _ in range(4):  # the beginning, and three ticks in vain
            os.read(ticks, 1)
        locks.log.release()
        assert waiter.result() == (True, 0)
        os.close(ticks)
        os.close(tick)
        assert lock_value(locks.log) == 1
        waits = region.words[state_of(region, 1).counters + index_of("waits_log")]
        waited_ns = region.words[state_of(region, 1).counters + index_of("waited_ns_log")]
        assert waits == 1
        assert waited_ns >= 3 * TICK_NS


@pytest.mark.parametrize("kind", range(len(LOCK_KINDS)))
def test_a_wait_is_counted_by_its_kind(kind: int) -> None:
    with small_region() as region:
        others = state_of(region, 1).locks
        clock = Ticks()
        state = state_of(region, 2, clock, no_pause)
        lock, holder = (
            next(lock for lock in all_locks(locks, 3) if lock.kind == kind)
            for locks in (state.locks, others)
        )
        holder.acquire()
        clock.at[3] = holder.release
        state.locks.hold(lock)
        for other, name in enumerate(LOCK_KINDS):
            own = other == kind
            assert word(region, "counters", 2, f"waits_{name}") == own
            # begun at the first look, given back at the third, noticed at the fourth
            assert word(region, "counters", 2, f"waited_ns_{name}") == own * 3 * TICK_NS


def test_a_lock_got_at_once_is_not_counted() -> None:
    with small_region() as region:
        state = state_of(region, 0, Ticks(), no_pause)
        state.locks.hold(state.locks.log)
        assert word(region, "counters", 0, "waits_log") == 0


@pytest.mark.parametrize(("ticks", "alarm"), [(99, 0), (100, 0), (101, 3), (300, 3)])
def test_a_long_wait_raises_the_alarm(ticks: int, alarm: int) -> None:
    assert ALARM_NS == 100 * TICK_NS
    with small_region() as region:
        others = state_of(region, 1).locks
        clock = Ticks()
        locks = state_of(region, 2, clock, no_pause).locks
        others.log.acquire()
        clock.at[1 + ticks] = others.log.release  # the first look begins it
        locks.hold(locks.log)
        assert word(region, "header", 0, "alarm") == alarm


# ---- a recovery


def test_a_recovery_makes_a_wait_give_back_what_is_held() -> None:
    with small_region() as region:
        seen = []
        others = state_of(region, 1).locks

        def meanwhile() -> None:
            seen.append([lock_value(lock) for lock in held])

        recovery = Recovery(region, 0, meanwhile)
        locks = recovery.state.locks
        others.log.acquire()
        held = (locks.registry, locks.account(2), locks.account(3))
        for lock in held:
            lock.acquire()
        assert locks.wait(locks.log, held) is False
        assert seen == [[1, 1, 1]]
        assert lock_value(locks.log) == 0, "it never had that one"
        assert word(region, "workers", 0, "ack") == recovery.epoch
        assert word(region, "counters", 0, "waits_log") == 0
        others.log.release()
        check_quiet(region)


def test_a_recovery_that_is_going_on_is_seen_before_the_wait() -> None:
    with small_region() as region:
        set_word(region, "header", 0, "recovery", 5)
        others = state_of(region, 1).locks
        others.event.acquire()
        pauses = []

        def over(seconds: float) -> None:
            pauses.append(seconds)
            set_word(region, "header", 0, "recovery", 0)

        locks = state_of(region, 0, Ticks(), over).locks
        assert locks.wait(locks.event, ()) is False
        assert len(pauses) == 1
        assert word(region, "workers", 0, "ack") == 5


def test_it_stands_still_until_the_recovery_is_over_and_acknowledges_each_epoch() -> None:
    with small_region() as region:
        acknowledged = []
        script = [7, 7, 8, 8, 8, 9, 0]  # the recovery word after each pause

        def next_pause(_: float) -> None:
            acknowledged.append(word(region, "workers", 0, "ack"))
            set_word(region, "header", 0, "recovery", script.pop(0))

        locks = state_of(region, 0, Ticks(), next_pause).locks
        set_word(region, "header", 0, "recovery", 7)
        locks.acknowledge()
        assert acknowledged == [7, 7, 7, 8, 8, 8, 9]
        assert script == []


def test_without_a_recovery_nothing_is_acknowledged() -> None:
    with small_region() as region:
        state_of(region, 0, Ticks(), no_pause).locks.acknowledge()
        assert word(region, "workers", 0, "ack") == 0


def test_who_holds_a_lock_may_not_acknowledge() -> None:
    with small_region() as region:
        locks = state_of(region, 0, Ticks(), no_pause).locks
        locks.log.acquire()
        with pytest.raises(LockOrderError):
            locks.acknowledge()


def test_hold_begins_anew_after_a_recovery() -> None:
    with small_region() as region:
        others = state_of(region, 1).locks
        recovery = Recovery(region, 0, others.event.release)
        locks = recovery.state.locks
        others.event.acquire()
        locks.hold(locks.registry, locks.event)
        assert recovery.came
        assert lock_value(locks.registry) == lock_value(locks.event) == 0
        locks.release(locks.registry, locks.event)
        check_quiet(region)


def _has_acknowledged(region: Region, epoch: int) -> bool:
    return word(region, "workers", 1, "ack") == epoch


def test_a_process_that_waits_takes_part_in_a_recovery() -> None:
    with small_region() as region, children() as processes:
        locks = state_of(region).locks
        account = locks.account(1)

        def wait() -> tuple[bool, int]:
            own = state_of(region, 1).locks
            own.account(1).acquire()
            set_word(region, "workers", 1, "started", 1)
            return own.wait(own.log, (own.account(1),)), lock_value(account)

        locks.log.acquire()
        waiter = processes.start(wait)
        wait_until(lambda: word(region, "workers", 1, "started") == 1, "it holds its account")
        assert lock_value(account) == 0
        for epoch in (3, 4):
            set_word(region, "header", 0, "recovery", epoch)
            acknowledged = partial(_has_acknowledged, region, epoch)
            wait_until(acknowledged, f"it acknowledges {epoch}")
            assert lock_value(account) == 1
        set_word(region, "header", 0, "recovery", 0)
        assert waiter.result() == (False, 1)


# ---- the master's end


def _waits_for_the_log(state: State) -> None:
    state.locks.wait(state.locks.log, ())


def _stands_still(state: State) -> None:
    state.locks.acknowledge()


@pytest.mark.parametrize("stuck", [_waits_for_the_log, _stands_still])
def test_a_worker_whose_master_died_gives_up(stuck: Callable[[State], None]) -> None:
    with small_region() as region, children() as processes:
        locks = state_of(region).locks
        locks.log.acquire()
        set_word(region, "header", 0, "recovery", 6 if stuck is _stands_still else 0)

        def master() -> int:
            """Ends once its worker waits; answers the worker's id."""
            begun, begins = os.pipe()
            if pid := os.fork():
                os.read(begun, 1)
                return pid

            def clock_ns() -> int:
                os.write(begins, b".")
                return time.monotonic_ns()

            def stand_still(seconds: float) -> None:
                os.write(begins, b".")
                pause(seconds)

            try:
                stuck(state_of(region, 1, clock_ns, stand_still))
            except MasterGone:
                set_word(region, "workers", 1, "pid", os.getpid())
            finally:
                os._exit(0)

        pid = processes.start(master).result()
        wait_gone(pid)
        assert word(region, "workers", 1, "pid") == pid

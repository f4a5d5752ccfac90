"""The audit: silent where all holds, also while the workers go on; every planted damage is said."""

from collections.abc import Callable

import pytest

from libproto.messages import TxnKind
from server.admin.audit import audit
from server.core import ledger
from server.core.state import State
from server.region.locks import Locks
from server.region.region import Region
from tests.helpers.region import STARTED_US, login, register, say, small_region, state_of


def at_once(_: float) -> None:
    """A pause of no time: nothing else is running."""


def busy(region: Region) -> State:
    """Money, sessions, rooms, outcomes."""
    state = state_of(region)
    ann, bob, _ = register(state, "ann", "bob", "cid")
    session, other = login(state, ann, 7), login(state, bob)
    for req_id, (kind, payee, amount) in enumerate(
        ((TxnKind.DEPOSIT, 0, 100), (TxnKind.TRANSFER, bob, 30), (TxnKind.WITHDRAW, 0, 5)), 1
    ):
        done = state.ledger.execute(session, kind, payee, amount, req_id, 0, STARTED_US)
        assert done[0] == ledger.DONE
    state.memberships.join(session, 3, STARTED_US)
    state.memberships.join(other, 3, STARTED_US)
    say(state, other, 3, "hello", STARTED_US)
    return state


def test_all_holds() -> None:
    with small_region() as region:
        state = busy(region)
        done = audit(region, at_once)
        assert done.problems == []
        assert done.txn == state.log.head()
        assert done.checked["transactions"] == done.txn
        seen = Region.attach(region.name)
        try:
            assert audit(seen, at_once).problems == [], "read-only, as the program does it"
        finally:
            seen.close()


def plus_one(segment: str, record: int, field: str, words: int = 0) -> Callable[[Region], None]:
    def damage(region: Region) -> None:
        region.words[region.layout[segment].at(record, field) + words] += 1

    return damage


def out_of_range(segment: str, record: int, field: str) -> Callable[[Region], None]:
    def damage(region: Region) -> None:
        region.words[region.layout[segment].at(record, field)] = 2**64 - 1

    return damage


def durable_beyond(segment: str) -> Callable[[Region], None]:
    def damage(region: Region) -> None:
        at = region.layout[segment].at
        region.words[at(0, "durable")] = region.words[at(0, "head")] + 1

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (plus_one("txn_ring", 7, "record", 7), "does not follow"),  # from_balance
        (plus_one("txn_ring", 7, "record", 3), "supply"),
        (plus_one("accounts", 3, "balance"), "add up"),
        (plus_one("rooms", 3, "members"), "members"),
        (plus_one("rooms", 3, "last_seq"), "latest event"),
        (plus_one("users", 3, "first_session"), "listed"),
        (out_of_range("users", 3, "first_session"), "listed"),
        (out_of_range("registry", 0, "free_session"), "are free"),
        (plus_one("clients", 0, "newest"), "req_id"),
        (durable_beyond("log"), "transaction 8 is durable, and the newest is 7"),
        (durable_beyond("events"), "event 4 is durable, and the newest is 3"),
        (plus_one("account_locks", 1, "lock"), "account_locks[1].lock is not free"),
    ],
)
def test_damage_is_said(damage: Callable[[Region], None], said: str) -> None:
    with small_region() as region:
        busy(region)
        damage(region)
        assert any(said in problem for problem in audit(region, at_once).problems)


def test_a_change_that_is_under_way_is_no_damage() -> None:
    with small_region() as region:
        state = busy(region)
        locks: Locks = state.locks
        lock = locks.account(1)
        lock.acquire()
        held = [lock]

        def goes_on(_: float) -> None:
            if held:
                held.pop().release()

        assert audit(region, goes_on).problems == []


def test_a_transaction_that_is_committed_but_not_yet_applied_counts() -> None:
    with small_region() as region:
        state = busy(region)
        accounts = region.layout["accounts"]
        before = {
            (user, field): region.words[accounts.at(user, field)]
            for user in (1, 2)
            for field in ("balance", "last_txn")
        }
        session = login(state, 1)
        state.ledger.execute(session, TxnKind.TRANSFER, 2, 9, 1, 0, STARTED_US)
        for (user, field), value in before.items():
            region.words[accounts.at(user, field)] = value
        assert audit(region, at_once).problems == []

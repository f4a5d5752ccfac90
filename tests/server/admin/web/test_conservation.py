"""Conservation of money, as it is seen in a region that changes."""

from libproto.messages import TxnKind
from server.admin.conservation import SHARE, Conservation, imbalance
from server.core.ledger import DONE
from server.core.session import Session
from server.core.state import State
from server.region.region import Region
from tests.helpers.region import (
    STARTED_US,
    children,
    login,
    register,
    set_word,
    small_region,
    state_of,
    watched,
    word,
)
from tests.helpers.server import wait_until

NOW = STARTED_US + 5
ROUNDS = 400


def trade(state: State, session: Session, payee: int, rounds: int, first: int = 1) -> int:
    """Pay in, pay the other, pay out; the next req_id."""
    kinds = ((TxnKind.DEPOSIT, 0), (TxnKind.TRANSFER, payee), (TxnKind.WITHDRAW, 0))
    for _ in range(rounds):
        for kind, to in kinds:
            assert state.ledger.execute(session, kind, to, 3, first, 0, NOW)[0] == DONE or to == 0
            first += 1
    return first


def test_it_is_0_at_every_store_of_every_kind_of_transaction() -> None:
    with small_region() as region:
        assert imbalance(region) == 0
        found: list[int | None] = []
        ann, bob = register(state_of(region), "ann", "bob")
        state = state_of(watched(region, lambda: found.append(imbalance(region))))
        session = login(state, ann, 7)
        trade(state, session, bob, 3)
        assert len(found) > 50
        assert set(found) == {0}


def test_money_that_is_made_or_lost_is_seen() -> None:
    with small_region() as region:
        state = state_of(region)
        ann, bob, cyd = register(state, "ann", "bob", "cyd")
        session = login(state, ann, 7)
        trade(state, session, bob, 3)
        for user, change in ((cyd, 5), (cyd, -1)):
            before = word(region, "accounts", user, "balance")
            set_word(region, "accounts", user, "balance", before + change)
        assert imbalance(region) == 4


def _trades(region: Region, worker: int, user: int, payee: int) -> None:
    state = state_of(region, worker)
    trade(state, login(state, user, 7 + worker), payee, ROUNDS)


def test_it_is_0_while_processes_trade() -> None:
    """With a ring that is far smaller than a server's: there it may be unknown."""
    with small_region(txn_ring=256) as region, children() as processes:
        region.log.limit = 2**64 - 1
        users = register(state_of(region), "ann", "bob")
        working = [
            processes.start(_trades, region, worker, *(users if worker else users[::-1]))
            for worker in range(2)
        ]
        seen = Region.attach(region.name)
        found: list[int | None] = []

        def have_ended() -> bool:
            found.append(imbalance(seen))
            return all(each.answer.poll() for each in working)

        try:
            wait_until(have_ended, "both have traded")
        finally:
            seen.close()
        for each in working:
            each.result()
        assert set(found) <= {0, None}
        assert found.count(0) > len(found) / 2


def test_it_is_looked_at_as_seldom_as_it_costs() -> None:
    """And tells what it has found in between."""
    with small_region() as region:
        ann, bob, cyd = register(state_of(region), "ann", "bob", "cyd")
        trade(state_of(region), login(state_of(region), ann, 7), bob, 3)
        now, used = [1000.0], [0.0]

        def cpu() -> float:
            used[0] += 0.05  # each look takes as much: it is asked before and after
            return used[0]

        conservation = Conservation(region, lambda: now[0], cpu)
        assert conservation.imbalance() == 0
        before = word(region, "accounts", cyd, "balance")
        set_word(region, "accounts", cyd, "balance", before + 4)
        seconds = 0.05 / SHARE
        for passed in (0, seconds - 0.01):
            now[0] = 1000.0 + passed
            assert conservation.imbalance() == 0
        now[0] = 1000.0 + seconds + 0.01
        assert conservation.imbalance() == 4
        assert Conservation(region).imbalance() == 4

"""Of those who take an offer one gets it, whenever the other comes."""

from collections.abc import Callable

import pytest

from libproto.messages import TxnKind
from server.core.check import problems
from server.core.errors import NoSuchOffer
from server.core.ledger import DONE
from server.core.session import Session
from server.core.state import State
from server.region.region import Region
from tests.helpers.region import (
    STARTED_US,
    check_quiet,
    lock_value,
    login,
    next_req_id,
    register,
    small_region,
    state_of,
    watched,
)

PRICE = 7
OWNER, TAKER, OTHER = 1, 2, 3


class _Takes:
    """An owner and two takers, the first of whom reads through `watched`, the other not."""

    def __init__(self, region: Region) -> None:
        self.loads, self.at = 0, 0
        self.meanwhile: Callable[[], None] = lambda: None
        self.region = region
        self.state = state_of(watched(region, loaded=self._loaded), 0)
        self.aside = state_of(region, 1)
        register(self.aside, "ann", "bob", "cyd")
        self.owner = login(self.aside, OWNER, 5)
        self.taker = login(self.state, TAKER, 6)
        self.other = login(self.aside, OTHER, 7)
        for state, session in (
            (self.aside, self.owner), (self.state, self.taker), (self.aside, self.other)
        ):  # fmt: skip
            state.memberships.join(session, 1, STARTED_US)
            req_id = next_req_id(session, region)
            state.ledger.execute(session, TxnKind.DEPOSIT, 0, 100, req_id, 0, STARTED_US)
        self.entry = self.offer(self.owner)

    def offer(self, session: Session) -> int:
        req_id = next_req_id(session, self.region)
        return self.aside.changes.add_offer(session, 1, PRICE, "tea", 9, req_id, 0, STARTED_US).txn

    def take(self, state: State, session: Session) -> int:
        req_id = next_req_id(session, self.region)
        done = state.changes.take_offer(session, 1, self.entry, PRICE, req_id, 0, STARTED_US)
        return done.what

    def _loaded(self) -> None:
        self.loads += 1
        locks = self.aside.locks
        if self.loads == self.at and all(map(lock_value, (locks.log, locks.event))):
            accounts = [locks.account(user) for user in (OWNER, TAKER, OTHER)]
            if all(map(lock_value, accounts)):
                self.meanwhile()


@pytest.mark.parametrize("gone", ["taken", "removed"])
@pytest.mark.parametrize("another", [False, True], ids=["", "another in its place"])
def test_one_gets_it(gone: str, another: bool) -> None:
    """The other one takes it, or its owner removes it, between any two things that the first one
    reads; another offer may be in its place then, which somebody else owns."""
    with small_region() as region:
        takes, came = _Takes(region), set[bool]()
        before = bytes(region.bytes)
        assert takes.take(takes.state, takes.taker) == DONE
        total = takes.loads
        for at in range(1, total + 1):
            region.bytes[:] = before
            happened = list[int]()

            def meanwhile(happened: list[int] = happened) -> None:
                if gone == "taken":
                    happened.append(takes.take(takes.aside, takes.other))
                else:
                    req_id = next_req_id(takes.owner, region)
                    changes = takes.aside.changes
                    changes.remove_offer(takes.owner, 1, takes.entry, req_id, 0, STARTED_US)
                    happened.append(DONE)
                if another:
                    takes.offer(takes.other)

            takes.loads, takes.at, takes.meanwhile = 0, at, meanwhile
            if lost := _is_lost(lambda: takes.take(takes.state, takes.taker)):
                assert happened == [DONE], at
            else:
                # It came when nothing was left to be taken: asked again, there is none.
                takes.meanwhile = lambda: None
                assert _is_lost(lambda: takes.take(takes.aside, takes.other))
            came.add(lost)
            paid = PRICE * (gone == "taken" or not lost)
            balances = region.column("accounts", "balance")
            assert (sum(balances), balances[OWNER]) == (300, 100 + paid), at
            assert balances[TAKER] == 100 - PRICE * (not lost)
            assert takes.aside.boards.offer(takes.entry) is None
            assert problems(region) == []
            check_quiet(region)
        assert came == {False, True}


def _is_lost(take: Callable[[], int]) -> bool:
    try:
        what = take()
    except NoSuchOffer:
        return True
    assert what == DONE
    return False

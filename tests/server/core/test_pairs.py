"""TRANSFER_IN_ROOM: money and its event together, or neither; what it answers. The deaths in it are
in test_crash_points.py."""

import pytest

from libproto.messages import TxnKind
from server.core.errors import Busy, NotJoined, OtherRequest, OutcomeUnknown
from server.core.ledger import AMOUNT, DONE, FUNDS, LIMIT, NO_USER, RECORDED, SUPERSEDED
from server.core.pairs import Transferred
from server.core.session import Session
from server.core.state import State
from tests.helpers.region import (
    check_quiet,
    image,
    login,
    register,
    set_word,
    small_region,
    state_of,
    watched,
    word,
)
from tests.server.core.chatting import seen

PAYMENT = 7


def ready(state: State) -> Session:
    """Ann has 100 and is in room 1."""
    register(state, "ann", "bob")
    ann = login(state, 1, 7)
    state.ledger.execute(ann, TxnKind.DEPOSIT, 0, 100, 1, False, 1)
    state.audience.present(1, 2, 1)
    state.memberships.join(ann, 1, 1)
    return ann


def pay(
    state: State, session: Session, amount: int, req_id: int, *, to: int = 2, room: int = 1,
    note: str = "for you", flagged: bool = False,
) -> Transferred:  # fmt: skip
    return state.pairs.transfer(session, room, to, amount, note, req_id, flagged, 5)


def test_it_is_paid_and_told() -> None:
    with small_region() as region:
        state = state_of(region)
        ann = ready(state)
        done = pay(state, ann, 30, 2)
        assert done == (DONE, done.txn, 70, 2, 2, frozenset({2}))
        assert region.column("accounts", "balance")[1:3] == [70, 30]
        assert seen(state, 1)[-1] == (2, PAYMENT, "ann", f"{done.txn} 2 30 for you")
        assert pay(state, ann, 30, 2)[:4] == (RECORDED, done.txn, 70, 2)
        assert pay(state, ann, 30, 2, flagged=True)[0] == RECORDED
        for other in ({"amount": 31}, {"to": 1}, {"room": 2}, {"note": "for me"}):
            with pytest.raises(OtherRequest):
                pay(state, ann, other.pop("amount", 30), 2, **other)  # type: ignore[arg-type]
        check_quiet(region)


def test_what_is_refused_changes_nothing() -> None:
    with small_region(txn_ring=8) as region:
        state = state_of(region, max_balance=100, transfers=(1, 70))
        ann, free = ready(state), login(state, 2)
        state.ledger.execute(free, TxnKind.DEPOSIT, 0, 60, 1, False, 1)
        before = image(region)
        assert pay(state, ann, 101, 2)[:3] == (FUNDS, 0, 100)
        assert pay(state, ann, 1, 2, to=3).what == NO_USER
        assert pay(state, ann, 41, 2).what == LIMIT
        assert pay(state, ann, 71, 2).what == AMOUNT
        with pytest.raises(OutcomeUnknown):
            pay(state, free, 1, 2, to=1, flagged=True)
        with pytest.raises(NotJoined):
            pay(state, ann, 1, 2, room=2)
        assert image(region) == before
        for ring in ("log", "events"):
            limit = word(region, ring, 0, "limit")
            set_word(region, ring, 0, "limit", word(region, ring, 0, "head"))
            full = image(region)
            with pytest.raises(Busy):
                pay(state, ann, 1, 2)
            assert image(region) == full, ring
            check_quiet(region)
            set_word(region, ring, 0, "limit", limit)
        login(state, 1, 7)
        assert pay(state, ann, 1, 2).what == SUPERSEDED


def test_at_every_instant_it_is_known_that_there_is_an_event() -> None:
    """Whoever sees the transaction can tell that an event comes with it, and whoever sees the event
    sees the transaction: the journal cuts its batches by that."""
    with small_region() as region:
        seen_first: set[str] = set()
        state = state_of(watched(region, lambda: look()))
        looks = False

        def look() -> None:
            if not looks:
                return
            told = word(region, "log", 0, "last_pair_event") >= number
            paid, shown = region.log.head >= txn, region.events.head >= number
            assert told or not paid
            assert paid or not shown
            seen_first.add(f"{told:d}{paid:d}{shown:d}")

        ann = ready(state)
        txn, number, looks = region.log.head + 1, region.events.head + 1, True
        assert pay(state, ann, 30, 2)[1] == txn
        assert seen_first == {"000", "100", "110", "111"}

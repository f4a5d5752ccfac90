"""What operators do: passwords, roles, states of users, and money in and out."""

from typing import Any

import pytest

from libproto.messages import MAX_BALANCE, TxnKind
from libproto.scram import Verifier
from server.core.errors import (
    LimitReached,
    NoSuchUser,
    NotAdmitted,
    OtherRequest,
    StateRefusal,
    Superseded,
    TooLittle,
    WrongChange,
)
from server.core.ledger import DONE
from server.core.operators import Done
from server.core.state import State
from server.region.layout import OPERATOR_KEYS
from server.region.records import OFFSETS, RecordKind, UserRole, UserState
from server.region.region import Region
from tests.helpers.region import (
    STARTED_US,
    VERIFIER,
    check_quiet,
    image,
    login,
    register,
    set_word,
    small_region,
    state_of,
    word,
)

NEW = Verifier(b"t" * 16, 5000, b"l" * 32, b"w" * 32)
ANN, BOB = 1, 2
IN, OUT = RecordKind.PAID_IN, RecordKind.PAID_OUT
PAID = OFFSETS[IN]


def ready(region: Region) -> tuple[State, State]:
    """Two workers; Ann and Bob."""
    states = state_of(region), state_of(region, 1)
    register(states[0], "ann", "bob")
    return states


def cut(region: Region, worker: int) -> int:
    return word(region, "workers", worker, "cut")


# ---- passwords


def test_a_password_that_is_changed_ends_the_other_sessions() -> None:
    with small_region() as region:
        one, two = ready(region)
        mine, other, bobs = login(one, ANN, 7), login(two, ANN, 8), login(two, BOB)
        done = one.operators.set_verifier(ANN, NEW, STARTED_US, by=mine)
        assert done == Done(one.log.head(), frozenset({1}))
        assert one.users.verifier(ANN) == (NEW, done.txn << 1 | 1)
        assert [one.sessions.is_live(each) for each in (mine, other, bobs)] == [True, False, True]
        assert (cut(region, 0), cut(region, 1)) == (0, 1)
        with pytest.raises(Superseded):
            two.operators.set_verifier(ANN, VERIFIER, STARTED_US, by=other)
        # The operator's ends all.
        again = two.operators.set_verifier(ANN, VERIFIER, STARTED_US)
        assert two.users.verifier(ANN) == (VERIFIER, again.txn << 1)
        assert not one.sessions.is_live(mine)
        check_quiet(region)


def test_a_login_that_was_proved_before() -> None:
    """By a password that has been changed between the proof and the session."""
    with small_region() as region:
        one, two = ready(region)
        _, version = one.users.verifier(ANN)
        two.operators.set_verifier(ANN, NEW, STARTED_US)
        before = image(region)
        with pytest.raises(NotAdmitted, match="wrong username or password"):
            one.sessions.introduce(ANN, 7, 1, STARTED_US, version)
        with pytest.raises(NotAdmitted, match="wrong username or password"):
            one.sessions.login(ANN, "ann", 0, 1, 0, STARTED_US, version=version)
        assert image(region) == before
        version = one.users.version(ANN)
        assert one.sessions.introduce(ANN, 7, 1, STARTED_US, version)
        one.sessions.login(ANN, "ann", 7, 1, 0, STARTED_US, introduced=True, version=version)


class Seen:
    """A view after each store into which somebody reads a verifier."""

    def __init__(self, view: memoryview, reader: State, seen: list[Verifier]) -> None:
        self.view, self.reader, self.seen = view, reader, seen

    def __getitem__(self, place: Any) -> Any:
        return self.view[place]

    def __setitem__(self, place: Any, value: Any) -> None:
        self.view[place] = value
        self.seen.append(self.reader.users.verifier(ANN)[0])


def test_who_reads_meanwhile_gets_one_or_the_other() -> None:
    """Whatever store of the change the reader comes between."""
    with small_region() as region:
        one, two = ready(region)
        words, stores = region.words, 0
        for turn, verifier in enumerate((NEW, VERIFIER, NEW)):
            before, _ = two.users.verifier(ANN)
            seen: list[Verifier] = []
            users = one.users
            kept = users._words, users._bytes
            for name, view in (("_words", words), ("_bytes", region.bytes)):
                setattr(users, name, Seen(view, two, seen))
            try:
                one.operators.set_verifier(ANN, verifier, STARTED_US + turn)
            finally:
                users._words, users._bytes = kept
            assert seen == [before] * (len(seen) - 1) + [verifier]
            stores += len(seen)
        assert stores == 3 * 5


# ---- roles and states


def test_who_is_disabled_is_out_at_once_and_may_come_back() -> None:
    with small_region() as region:
        one, two = ready(region)
        sessions = [login(one, ANN, 7), login(two, ANN), login(two, ANN, 9)]
        done = one.operators.set_user(ANN, STARTED_US, state=UserState.DISABLED)
        assert done.touched == {0, 1}
        assert not any(map(one.sessions.is_live, sessions))
        assert two.ledger.execute(sessions[1], TxnKind.DEPOSIT, 0, 5, 1, 0, 1)[0] != DONE
        with pytest.raises(NotAdmitted, match="ask the operator"):
            login(two, ANN, 7)
        assert one.operators.set_user(ANN, STARTED_US, state=UserState.DISABLED) == (0, frozenset())
        one.operators.set_user(ANN, STARTED_US, role=UserRole.TELLER)
        assert one.users.state(ANN) == UserState.DISABLED, "a role leaves it as it is"
        one.operators.set_user(ANN, STARTED_US, state=UserState.ACTIVE)
        assert one.users.role(ANN) == UserRole.TELLER
        assert login(two, ANN, 7).resumed
        while region.registry.ending_sessions:
            two.sessions.finish_ended(STARTED_US)
        check_quiet(region)


def test_who_was_deleted_is_gone_for_good() -> None:
    with small_region() as region:
        one, two = ready(region)
        ann, bob = login(one, ANN, 7), login(two, BOB, 8)
        one.operators.move(ANN, IN, 70, "", 1, STARTED_US)
        with pytest.raises(WrongChange, match="balance of 70"):
            one.operators.set_user(ANN, STARTED_US, state=UserState.DELETED)
        one.operators.move(ANN, OUT, 0, "she has left", 2, STARTED_US)
        done = two.operators.set_user(ANN, STARTED_US, state=UserState.DELETED)
        assert done.txn
        assert not one.sessions.is_live(ann)
        assert (one.users.find("ann"), one.users.is_there(ANN)) == (ANN, False)
        before = image(region)
        for act in (
            lambda: one.users.register("ann", VERIFIER, STARTED_US),
            lambda: one.operators.set_user(ANN, STARTED_US, state=UserState.ACTIVE),
            lambda: one.operators.set_verifier(ANN, NEW, STARTED_US),
            lambda: one.operators.move(ANN, IN, 1, "", 3, STARTED_US),
            lambda: one.operators.kick(ANN, STARTED_US),
            lambda: two.chat.direct(bob, ANN, "there?", STARTED_US, 9, 0),
            lambda: two.blocks.set(bob, ANN, True, STARTED_US),
            lambda: login(one, ANN, 7),
        ):
            with pytest.raises(StateRefusal):
                act()
        assert one.operators.set_user(ANN, STARTED_US, state=UserState.DELETED).txn == 0
        assert image(region) == before


def test_nobody_who_is_not_there_is_changed() -> None:
    with small_region() as region:
        one, _ = ready(region)
        before = image(region)
        for user in (0, 3, 10**9):
            for act in (
                lambda user=user: one.operators.set_user(user, 1, role=UserRole.TELLER),
                lambda user=user: one.operators.set_verifier(user, NEW, 1),
                lambda user=user: one.operators.move(user, IN, 1, "", 3, 1),
                lambda user=user: one.operators.kick(user, 1),
            ):
                with pytest.raises(NoSuchUser):
                    act()
        assert image(region) == before


# ---- money


def test_money_comes_and_goes_once_for_each_key() -> None:
    with small_region(txn_ring=64) as region:
        one, two = ready(region)
        session = login(one, ANN, 7)
        one.ledger.execute(session, TxnKind.DEPOSIT, 0, 5, 1, 0, STARTED_US)
        note = "a reason that takes more than one record of text, " * 4
        came = one.operators.move(ANN, IN, 100, note, 11, STARTED_US)
        assert came == (one.log.head(), 105, False)
        record = one.log.read(came.txn)
        assert record is not None
        assert one.log.text_before(came.txn, record[PAID["text_size"]]).decode() == note
        went = two.operators.move(ANN, OUT, 30, "", 12, STARTED_US)
        assert went == (came.txn + 1, 75, False)
        assert two.operators.move(ANN, IN, 100, note, 11, STARTED_US) == (came.txn, 105, True)
        for other in (
            (BOB, IN, 100, note), (ANN, OUT, 100, note), (ANN, IN, 99, note), (ANN, IN, 100, ""),
        ):  # fmt: skip
            with pytest.raises(OtherRequest):
                one.operators.move(*other, 11, STARTED_US)
        history, _ = one.ledger.history(ANN, 0, 9)
        assert [(*row[2:5], row[6]) for row in history] == [
            (TxnKind.WITHDRAW, ANN, 0, 75), (TxnKind.DEPOSIT, 0, ANN, 105),
            (TxnKind.DEPOSIT, 0, ANN, 5),
        ]  # fmt: skip
        assert [row[-1] for row in history] == [0, 0, 1], "another asked for it"
        all_of_it = one.operators.move(ANN, OUT, 0, "", 13, STARTED_US)
        assert all_of_it.balance == 0
        assert one.operators.move(ANN, OUT, 0, "", 13, STARTED_US) == (*all_of_it[:2], True)
        assert one.log.supply() == 0
        check_quiet(region)


def test_the_newest_keys_are_kept() -> None:
    with small_region(txn_ring=64) as region:
        one, _ = ready(region)
        for key in range(1, OPERATOR_KEYS + 2):
            one.operators.move(ANN, IN, 1, "", key, STARTED_US)
        assert one.operators.move(ANN, IN, 1, "", 2, STARTED_US).recorded
        assert not one.operators.move(ANN, IN, 1, "", 1, STARTED_US).recorded, "it was the oldest"


def test_what_money_is_refused_changes_nothing() -> None:
    with small_region(txn_ring=64) as region:
        one = state_of(region, max_balance=MAX_BALANCE - 10)
        register(one, "ann", "bob")
        one.operators.move(ANN, IN, MAX_BALANCE - 20, "", 1, STARTED_US)
        before = image(region)
        for error, user, kind, amount in (
            (LimitReached, ANN, IN, 11),
            (LimitReached, BOB, IN, 21),
            (LimitReached, BOB, IN, 2**64 - 1),
            (TooLittle, ANN, OUT, MAX_BALANCE - 19),
            (TooLittle, BOB, OUT, 1),
            (WrongChange, BOB, OUT, 0),
            (WrongChange, BOB, IN, 0),
        ):
            with pytest.raises(error):
                one.operators.move(user, kind, amount, "", 2, STARTED_US)
        assert image(region) == before
        set_word(region, "log", 0, "limit", one.log.head())
        before = image(region)
        for act in (
            lambda: one.operators.move(BOB, IN, 1, "", 2, STARTED_US),
            lambda: one.operators.set_user(BOB, STARTED_US, role=UserRole.TELLER),
            lambda: one.operators.set_verifier(BOB, NEW, STARTED_US),
        ):
            with pytest.raises(StateRefusal):
                act()
        assert image(region) == before

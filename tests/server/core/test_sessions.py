"""Sessions and clients: slots, lists and what a later login takes over."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.messages import TxnKind
from server.core.errors import TableFull
from server.core.ledger import DONE, SUPERSEDED
from server.core.session import Session
from server.core.state import State
from server.region.records import OFFSETS, RecordKind
from server.region.region import Region
from tests.helpers.region import (
    RETENTION_S,
    STARTED_US,
    Recovery,
    check_quiet,
    image,
    login,
    register,
    set_durable,
    small_region,
    state_of,
    watched,
    word,
)

RETENTION_US = RETENTION_S * 1_000_000
NAMES = ("ann", "bob", "cyd")


def sessions_of(region: Region, user: int) -> list[int]:
    """Slots of a user's list, which is checked in both directions."""
    slots: list[int] = []
    following = word(region, "users", user, "first_session")
    previous = 0
    while following:
        slots.append(following - 1)
        assert word(region, "sessions", following - 1, "previous") == previous
        assert word(region, "sessions", following - 1, "user") == user
        previous, following = following, word(region, "sessions", following - 1, "next")
    return slots


def end(state: State, session: Session, now: int = STARTED_US) -> None:
    state.sessions.end(session, now)


def deposit(state: State, session: Session, req_id: int, *, flagged: bool = False) -> int:
    return state.ledger.execute(session, TxnKind.DEPOSIT, 0, 5, req_id, flagged, STARTED_US)[0]


# ---- sessions


def test_a_session_says_whose_it_is() -> None:
    with small_region() as region:
        state = state_of(region, 2)
        register(state, *NAMES)
        session, touched = state.sessions.login(2, "bob", 9, 1, 5, STARTED_US)
        assert (session.user, session.name, session.client_id) == (2, "bob", 9)
        assert not session.resumed
        assert touched == frozenset()
        shown = {
            field: word(region, "sessions", session.slot, field)
            for field in ("id", "mark", "user", "client", "worker", "capabilities")
        }
        assert shown == {
            "id": session.id,
            "mark": 0,
            "user": 2,
            "client": session.client_slot,
            "worker": 2,
            "capabilities": 5,
        }
        assert state.sessions.is_live(session)
        check_quiet(region)


def test_no_session_id_is_given_twice() -> None:
    with small_region() as region:
        states = [state_of(region, worker) for worker in range(3)]
        register(states[0], "ann")
        ids = []
        for n in range(30):
            session = login(states[n % 3], 1)
            ids.append(session.id)
            end(states[n % 3], session)
        assert len(set(ids)) == len(ids)
        assert 0 not in ids


def test_a_full_table_of_sessions_names_its_setting_and_changes_nothing() -> None:
    with small_region(sessions=3) as region:
        state = state_of(region)
        register(state, *NAMES)
        mine = login(state, 1, 7)
        others = [login(state, 2), login(state, 2)]
        before = image(region)
        for client_id in (0, 8):
            with pytest.raises(TableFull) as caught:
                login(state, 1, client_id)
            assert caught.value.setting == "sessions"
        assert image(region) == before
        assert state.sessions.is_live(mine)
        check_quiet(region)
        again = login(state, 1, 7)
        assert again.resumed, "it takes the place of the one that it supersedes"
        assert not state.sessions.is_live(mine)
        end(state, others[0])
        assert not login(state, 1, 8).resumed
        check_quiet(region)


def test_every_slot_is_used_again() -> None:
    with small_region(sessions=4) as region:
        state = state_of(region)
        register(state, "ann")
        for _ in range(3):
            made = [login(state, 1) for _ in range(4)]
            assert sorted(session.slot for session in made) == [0, 1, 2, 3]
            for session in (made[1], made[3], made[0], made[2]):
                end(state, session)


def test_an_ended_session_is_not_live_though_its_slot_is_used_again() -> None:
    with small_region(sessions=1) as region:
        state = state_of(region)
        register(state, "ann")
        old = login(state, 1)
        end(state, old)
        assert not state.sessions.is_live(old)
        new = login(state, 1)
        assert new.slot == old.slot
        assert not state.sessions.is_live(old)
        assert state.sessions.is_live(new)
        assert deposit(state, old, 1) == SUPERSEDED
        assert deposit(state, new, 1) == DONE


def test_a_free_slot_is_made_anew_whatever_it_holds() -> None:
    """What a session that was not ended in order has left behind."""
    with small_region() as region:
        state = state_of(region)
        register(state, "ann", "bob")
        login(state, 1, 7)
        slot = word(region, "registry", 0, "free_session") - 1
        sessions = region.layout["sessions"]
        for place in range(sessions.at(slot, "mark"), sessions.at(slot, "next")):
            region.words[place] = 1
        for place in range(sessions.lengths["rooms"]):
            region.words[sessions.at(slot, "rooms") + place] = 2**64 - 1
        session = login(state, 2)
        assert session.slot == slot
        assert state.sessions.is_live(session)
        assert deposit(state, session, 1) == DONE
        assert [state.memberships.member_ids(room, 0) for room in (1, 63, 64, 70)] == [[]] * 4


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 11)), max_size=60))
def test_the_lists_of_sessions_by_user(steps: list[tuple[int, int]]) -> None:
    """A step logs a user in (1, 2), or ends one of the sessions there are (0)."""
    with small_region() as region:
        state = state_of(region)
        register(state, "ann", "bob")
        live: list[Session] = []
        for user, which in steps:
            if user and len(live) < region.layout.capacities.sessions:
                live.append(login(state, user))
            elif live and not user:
                end(state, live.pop(which % len(live)))
            for each in (1, 2):
                expected = {session.slot for session in live if session.user == each}
                slots = sessions_of(region, each)
                assert set(slots) == expected
                assert len(slots) == len(expected)
                assert state.users.presence(each, 9)[0] == bool(expected)


def test_who_watches_for_payments_is_counted() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "ann", "bob")
        assert not state.audience.watched(1)
        first, second = login(state, 1, watches=True), login(state, 1, watches=True)
        login(state, 1)
        assert state.audience.watched(1)
        assert not state.audience.watched(2)
        state.sessions.end(first, STARTED_US)
        assert state.audience.watched(1)
        state.sessions.end(second, STARTED_US)
        assert not state.audience.watched(1)


# ---- clients


def test_a_client_is_known_from_its_first_login_on() -> None:
    with small_region() as region:
        state, other = state_of(region), state_of(region, 1)
        register(state, *NAMES)
        first = login(state, 1, 7)
        assert not first.resumed
        end(state, first)
        assert login(other, 1, 7).resumed
        assert not login(state, 2, 7).resumed, "of another user"
        assert not login(state, 1, 8).resumed, "with another id"
        assert not login(state, 1, 0).resumed
        assert not login(state, 1, 0).resumed, "0 is no client"
        assert login(state, 2, 7).resumed


def test_a_new_client_is_a_record_of_the_log_and_a_known_one_is_not() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, *NAMES)
        head = state.log.head()
        session = login(state, 2, 2**64 - 1, now=STARTED_US + 777, next_req_id=5)
        record = state.log.read(head + 1)
        assert record is not None
        at = OFFSETS[RecordKind.NEW_CLIENT]
        assert {name: record[at[name]] for name in at} == {
            "txn_id": head + 1,
            "kind": RecordKind.NEW_CLIENT,
            "time": STARTED_US + 777,
            "supply": 0,
            "user_id": 2,
            "client_id": 2**64 - 1,
            "client_slot": session.client_slot,
            "floor": 5,
        }
        login(state, 2, 2**64 - 1)
        login(state, 2, 0)
        assert state.log.head() == head + 1


def test_a_full_log_names_its_setting_and_changes_nothing() -> None:
    with small_region(txn_ring=4) as region:
        state = state_of(region)
        register(state, *NAMES)
        login(state, 1, 7)
        set_durable(region, 0)
        before = image(region)
        with pytest.raises(TableFull) as caught:
            login(state, 1, 8)
        assert caught.value.setting == "txn_ring"
        assert image(region) == before
        check_quiet(region)
        assert login(state, 1, 7).resumed


# ---- superseding


def test_a_later_login_of_the_client_supersedes() -> None:
    with small_region() as region:
        state, other = state_of(region), state_of(region, 1)
        register(state, *NAMES)
        old, also = login(state, 1, 7), login(state, 1, 8)
        free = login(state, 1, 0)
        bobs = login(state, 2, 7)
        before = state.events.head()
        new, touched = other.sessions.login(1, "ann", 7, 2, 0, STARTED_US)
        assert new.resumed
        assert touched == {0}, "the worker of the old one is told"
        live = [state.sessions.is_live(session) for session in (old, also, free, bobs, new)]
        assert live == [False, True, True, True, True]
        assert [deposit(state, session, 1) for session in (old, also, free, bobs)] == [
            SUPERSEDED, DONE, DONE, DONE,
        ]  # fmt: skip
        assert state.events.head() == before, "it was in no room"
        assert word(region, "workers", 0, "cut") == 1, "by which its worker knows"
        check_quiet(region)


def test_client_0_supersedes_nothing() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "ann")
        made = [login(state, 1, 0) for _ in range(4)]
        assert all(state.sessions.is_live(session) for session in made)
        assert state.events.head() == 0


def test_the_end_of_a_superseded_session_leaves_its_successor() -> None:
    with small_region(clients=1) as region:
        state, other = state_of(region), state_of(region, 1)
        register(state, *NAMES)
        old = login(state, 1, 7)
        new = login(other, 1, 7)
        end(state, old, 5)
        assert other.sessions.is_live(new)
        assert deposit(other, new, 1) == DONE
        assert state.users.presence(1, 9) == (True, 9)
        with pytest.raises(TableFull):
            login(state, 2, 7)
        newest = login(state, 1, 7)
        assert not other.sessions.is_live(new), "it was still known as the live one"
        assert state.sessions.is_live(newest)
        assert sessions_of(region, 1) == [newest.slot]


def test_one_after_the_other_supersedes_the_one_before() -> None:
    with small_region() as region:
        states = [state_of(region, worker) for worker in range(3)]
        register(states[0], "ann")
        made = [login(states[n % 3], 1, 7) for n in range(6)]
        live = [states[0].sessions.is_live(session) for session in made]
        assert live == [False] * 5 + [True]
        for n, session in enumerate(made):
            end(states[n % 3], session)
        assert sessions_of(region, 1) == []
        check_quiet(region)


# ---- leaves that have no place


def fill(region: Region, spare: int = 0) -> None:
    """The event ring has only so many places to spare."""
    region.events.limit = region.events.leave_limit = region.events.head + spare


@pytest.mark.parametrize("superseded", [False, True])
def test_a_session_that_has_ended_is_in_its_rooms_until_there_are_places(superseded: bool) -> None:
    """Its end is not refused; its slot is free after its last leave, whoever publishes that."""
    with small_region(sessions=3) as region:
        state, other = state_of(region), state_of(region, 1)
        register(state, *NAMES)
        old = login(state, 1, 7)
        for room in (1, 2, 3):
            state.memberships.join(old, room, STARTED_US)
        fill(region)
        if superseded:
            login(other, 1, 7)
        else:
            end(state, old)
        assert not state.sessions.is_live(old)
        assert deposit(state, old, 1) == SUPERSEDED
        head, also = region.events.head, int(superseded)
        counted = region.registry.live_sessions, region.registry.ending_sessions
        assert counted == (also, 1)
        for left in (1, 2):
            assert other.sessions.finish_ended(STARTED_US) == frozenset()
            fill(region, 1)
            other.sessions.finish_ended(STARTED_US)
            assert region.events.head == head + left, "as many as there are places"
            assert [state.memberships.member_count(room) for room in (1, 2, 3)] == [
                0, 1 - left // 2, 1,
            ]  # fmt: skip
            assert word(region, "sessions", old.slot, "id") == old.id
            assert old.slot in sessions_of(region, 1)
        made = [login(other, 2) for _ in range(3 - also)]
        assert old.slot not in {session.slot for session in made}, "it is not free yet"
        fill(region, 1)
        other.sessions.finish_ended(STARTED_US)
        assert word(region, "sessions", old.slot, "id") == 0
        assert region.registry.ending_sessions == 0
        assert region.events.head == head + 3
        for session in made:
            end(other, session)
        end(state, old)
        assert region.events.head == head + 3, "nothing is left to do"
        check_quiet(region)


def test_a_superseded_sessions_worker_is_told_before_its_leaves_are_shown() -> None:
    """So that it pushes no leave to the connection that it is about to cut off."""
    with small_region() as region:
        state, other = state_of(region), state_of(watched(region, lambda: look()), 1)
        register(state, *NAMES)
        old = login(state, 1, 7)
        state.memberships.join(old, 1, STARTED_US)
        head, instants = region.events.head, set()

        def look() -> None:
            cut, left = word(region, "workers", 0, "cut") == 1, region.events.head > head
            assert cut or not left
            assert not cut or not state.sessions.is_live(old), "it would find nothing to cut off"
            instants.add((cut, left))

        login(other, 1, 7)
        assert instants == {(False, False), (True, False), (True, True)}


# ---- a recovery in the middle


def come_first(other: State) -> None:
    login(other, 1, 7)


def nobody_comes(other: State) -> None:
    del other


@pytest.mark.parametrize(("meanwhile", "resumed"), [(come_first, True), (nobody_comes, False)])
@pytest.mark.parametrize("lock", ["registry", "account", "log"])
def test_a_login_that_a_recovery_interrupts_begins_anew(
    meanwhile: Callable[[State], None], resumed: bool, lock: str
) -> None:
    with small_region() as region:
        other = state_of(region, 1)
        register(other, "ann")
        taken = {
            "registry": other.locks.registry,
            "account": other.locks.account(1),
            "log": other.locks.log,
        }[lock]

        def happens() -> None:
            other.locks.release(taken)
            check_quiet(region)
            meanwhile(other)

        recovery = Recovery(region, 0, happens)
        other.locks.hold(taken)
        session = login(recovery.state, 1, 7)
        assert recovery.came
        assert session.resumed == resumed
        assert deposit(recovery.state, session, 1) == DONE
        assert len(sessions_of(region, 1)) == 1
        check_quiet(region)


@pytest.mark.parametrize("goes", [False, True])
def test_a_superseding_login_that_a_recovery_interrupts_begins_anew(goes: bool) -> None:
    """It waits for the event ring; while it stands still the old session goes, or stays."""
    with small_region() as region:
        other = state_of(region, 1)
        register(other, "ann")
        old = login(other, 1, 7)

        def meanwhile() -> None:
            other.locks.release(other.locks.event)
            assert other.sessions.is_live(old)
            if goes:
                end(other, old)

        recovery = Recovery(region, 0, meanwhile)
        other.locks.hold(other.locks.event)
        new = login(recovery.state, 1, 7)
        assert recovery.came
        assert new.resumed
        assert not other.sessions.is_live(old)
        assert word(region, "workers", 1, "cut") == (0 if goes else 1)
        check_quiet(region)

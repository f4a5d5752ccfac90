"""Joining, leaving, and who is in a room."""

from collections.abc import Callable

import pytest

from libproto.messages import ChatBroadcast
from server.core.errors import Superseded
from server.core.session import Session
from server.core.state import State
from tests.helpers.region import (
    SMALL,
    Recovery,
    check_quiet,
    image,
    login,
    say,
    small_region,
    state_of,
    whisper,
)
from tests.server.core.chatting import (
    JOINED,
    LEFT,
    MESSAGE,
    PLENTY,
    history,
    seen,
    three,
)


def test_a_room_from_beginning_to_end() -> None:
    with small_region() as region:
        state, (ann, bob, cyd) = three(region)
        assert state.memberships.join(ann, 5, 1)[:2] == (0, 1)
        assert state.memberships.join(bob, 5, 2)[:2] == (1, 2), "last_seq is the one before its own"
        assert say(state, ann, 5, "hé", 3)[0] == 3
        assert state.memberships.join(cyd, 5, 4)[:2] == (3, 3)
        state.memberships.leave(bob, 5, 5)
        assert say(state, cyd, 5, "x" * SMALL.max_message, 6)[0] == 6
        assert history(state, 5) == [
            ChatBroadcast(5, 1, 1, JOINED, 1, "ann", ""),
            ChatBroadcast(5, 2, 2, JOINED, 2, "bob", ""),
            ChatBroadcast(5, 3, 3, MESSAGE, 1, "ann", "hé"),
            ChatBroadcast(5, 4, 4, JOINED, 3, "cyd", ""),
            ChatBroadcast(5, 5, 5, LEFT, 2, "bob", ""),
            ChatBroadcast(5, 6, 6, MESSAGE, 3, "cyd", "x" * SMALL.max_message),
        ]
        assert state.events.last_seq(5) == 6
        assert state.memberships.member_count(5) == 2
        assert state.memberships.member_ids(5, 0) == [1, 3]
        check_quiet(region)


def test_joining_twice_and_leaving_what_was_not_joined_change_nothing() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        state.memberships.join(ann, 5, 1)
        say(state, ann, 5, "x", 1)
        before = image(region)
        assert state.memberships.join(ann, 5, 2) == (2, 1, 2, frozenset())
        assert state.memberships.leave(bob, 5, 2) == frozenset()
        assert state.memberships.leave(ann, 6, 2) == frozenset()
        assert image(region) == before


def test_a_second_connection_of_a_user_makes_no_event() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        again = login(state_of(region, 2), 1, 8)
        state.memberships.join(ann, 5, 1)
        assert state.memberships.join(again, 5, 2) == (1, 1, 1, frozenset())
        assert state.memberships.member_count(5) == 1
        assert state.memberships.member_ids(5, 0) == [1]
        assert state.memberships.leave(ann, 5, 3) == frozenset()
        assert state.memberships.member_count(5) == 1
        assert seen(state, 5) == [(1, JOINED, "ann", "")]
        state.memberships.leave(again, 5, 4)
        assert state.memberships.member_count(5) == 0
        assert seen(state, 5) == [(1, JOINED, "ann", ""), (2, LEFT, "ann", "")]


def test_who_leaves_and_comes_back_makes_events_again() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        for n in range(3):
            assert state.memberships.join(ann, 1, 1)[:2] == (2 * n, 1)
            state.memberships.leave(ann, 1, 1)
        assert [kind for _, kind, _, _ in seen(state, 1)] == [JOINED, LEFT] * 3


@pytest.mark.parametrize("room", [1, 63, 64, 65, SMALL.rooms])
def test_rooms_do_not_disturb_each_other(room: int) -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        state.memberships.join(ann, room, 1)
        for other in {1, 2, 62, 63, 64, 65, 66, SMALL.rooms} - {room}:
            assert state.memberships.member_ids(other, 0) == []
            assert state.memberships.member_count(other) == state.events.last_seq(other) == 0
            assert state.events.history(other, 0, 256, PLENTY) == (1, [])
        assert state.memberships.member_ids(room, 0) == [1]
        assert state.memberships.join(bob, room, 1)[:2] == (1, 2)
        assert state.memberships.listing(0, 256) == [(room, 2, 2)]


def test_the_end_of_a_session_leaves_all_its_rooms() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        for room in (2, 64, SMALL.rooms):
            state.memberships.join(ann, room, 1)
            state.memberships.join(bob, room, 1)
        state.sessions.end(ann, 5)
        for room in (2, 64, SMALL.rooms):
            assert state.memberships.member_ids(room, 0) == [2]
            assert seen(state, room)[2:] == [(3, LEFT, "ann", "")]
        assert login(state, 1).slot == ann.slot
        assert state.memberships.member_ids(2, 0) == [2], "used again, without its rooms"
        check_quiet(region)


def test_a_superseding_login_leaves_the_rooms_of_the_old_session() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        also = login(state, 1, 8)
        state.memberships.join(ann, 1, 1)
        state.memberships.join(ann, 2, 1)
        state.memberships.join(also, 2, 1)
        state.memberships.join(bob, 1, 1)
        new = login(state, 1, 7, now=9)
        assert seen(state, 1) == [
            (1, JOINED, "ann", ""),
            (2, JOINED, "bob", ""),
            (3, LEFT, "ann", ""),
        ]
        assert seen(state, 2) == [(1, JOINED, "ann", "")], "she is there with another connection"
        assert state.memberships.member_ids(1, 0) == [2]
        assert state.memberships.member_ids(2, 0) == [1]
        assert (state.memberships.member_count(1), state.memberships.member_count(2)) == (1, 1)
        before = image(region)
        for refused in (
            lambda: state.memberships.join(ann, 3, 1),
            lambda: state.memberships.join(ann, 1, 1),
            lambda: say(state, ann, 1, "x", 1),
            lambda: whisper(state, ann, 2, "x", 1),
        ):
            with pytest.raises(Superseded):
                refused()
        with pytest.raises(Superseded):
            state.memberships.leave(ann, 1, 1)
        assert image(region) == before
        state.sessions.end(ann, 10)
        assert state.events.last_seq(1) == 3, "it had left already"
        assert state.memberships.join(new, 1, 11)[:2] == (3, 2)
        check_quiet(region)


def test_a_superseded_session_leaves_nothing() -> None:
    """Its slot is free at once, and its successor's as a rule."""
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.memberships.join(ann, 1, 1)
        new = login(state, 1, 7)
        assert new.slot == ann.slot
        state.memberships.join(new, 1, 1)
        before = image(region)
        with pytest.raises(Superseded):
            state.memberships.leave(ann, 1, 1)
        assert image(region) == before
        check_quiet(region)


def test_workers_with_members_are_to_be_woken() -> None:
    with small_region() as region:
        state, (ann, bob, cyd) = three(region)
        state.audience.present(5, 0, 1)
        assert state.memberships.join(ann, 5, 1)[3] == {0}
        state.audience.present(5, 2, 2)
        assert state.memberships.join(cyd, 5, 1)[3] == {0, 2}
        assert say(state, ann, 5, "x", 1).touched == {0, 2}
        state.audience.present(5, 0, -1)
        assert state.memberships.leave(ann, 5, 1) == {2}
        state.audience.present(5, 2, -1)
        assert state.audience.listeners(5) == {2}
        state.audience.present(5, 2, -1)
        assert state.audience.listeners(5) == frozenset()
        assert state.audience.listeners(6) == frozenset()
        assert whisper(state, bob, 3, "x", 1).touched == {2}


def test_listing() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        assert state.memberships.listing(0, 256) == []
        for room in (3, 9, SMALL.rooms):
            state.memberships.join(ann, room, 1)
        state.memberships.join(bob, 9, 1)
        state.memberships.leave(ann, 3, 1)
        everything = [(3, 0, 2), (9, 2, 2), (SMALL.rooms, 1, 1)]
        for after in range(SMALL.rooms + 2):
            for limit in (1, 2, 3, 256):
                expected = [row for row in everything if row[0] > after][:limit]
                assert state.memberships.listing(after, limit) == expected
        assert state.memberships.listing(2**32 - 1, 256) == []


def test_members_are_users_in_order() -> None:
    with small_region() as region:
        state, (ann, bob, cyd) = three(region)
        for session in (cyd, ann, bob, login(state, 1)):
            state.memberships.join(session, 64, 1)
        assert state.memberships.member_ids(64, 0) == [1, 2, 3]
        assert state.memberships.member_ids(64, 1) == [2, 3]
        assert state.memberships.member_ids(64, 3) == []
        assert state.memberships.member_ids(64, 2**32 - 1) == []


# ---- a recovery in the middle


def _sends(state: State, session: Session) -> None:
    assert say(state, session, 1, "x", 1)[0] == 3


def _joins(state: State, session: Session) -> None:
    assert state.memberships.join(session, 2, 1)[0] == 1


def _leaves(state: State, session: Session) -> None:
    state.memberships.leave(session, 1, 1)


def _ends(state: State, session: Session) -> None:
    state.sessions.end(session, 1)


@pytest.mark.parametrize("action", [_sends, _joins, _leaves, _ends])
def test_an_action_that_a_recovery_interrupts_begins_anew(
    action: Callable[[State, Session], None],
) -> None:
    with small_region() as region:
        other, (_, bob, _) = three(region)

        def meanwhile() -> None:
            other.locks.release(other.locks.event)
            check_quiet(region)
            other.memberships.join(bob, 1, 1)
            other.memberships.join(bob, 2, 1)

        recovery = Recovery(region, 2, meanwhile)
        ann = login(recovery.state, 1, 9)
        other.memberships.join(ann, 1, 1)
        other.locks.hold(other.locks.event)
        action(recovery.state, ann)
        assert recovery.came
        gone = action in (_leaves, _ends)
        assert other.memberships.member_ids(1, 0) == ([2] if gone else [1, 2])
        assert [event.room_seq for event in history(other, 1)] == list(
            range(1, other.events.last_seq(1) + 1)
        )
        check_quiet(region)

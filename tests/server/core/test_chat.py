"""Direct messages, and sends of sessions that are superseded."""

import pytest

from server.core.errors import NotOnline, Superseded
from tests.helpers.region import (
    SMALL,
    Recovery,
    check_quiet,
    image,
    login,
    small_region,
    state_of,
)
from tests.server.core.chatting import (
    JOINED,
    LEFT,
    seen,
    three,
)


def test_direct_messages_are_numbered_per_recipient() -> None:
    with small_region() as region:
        state, (ann, bob, cyd) = three(region)
        numbers = []
        for sender, to in ((ann, 2), (cyd, 2), (ann, 3), (ann, 2), (bob, 2)):
            assert state.chat.direct(sender, to, "x", 1) == {to - 1}
            event = state.events.read(state.events.head())
            assert event is not None
            numbers.append((event.user, event.seq))
        assert numbers == [(2, 1), (2, 2), (3, 1), (2, 3), (2, 4)]
        assert [state.events.direct_seq(user) for user in (1, 2, 3)] == [0, 4, 1]


def test_direct_messages_go_to_all_connections_and_need_one() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        also = login(state_of(region, 2), 2, 8)
        assert state.chat.direct(ann, 2, "x", 1) == {1, 2}
        login(state, 2, 7)
        assert state.chat.direct(ann, 2, "x", 1) == {0, 2}, "not to a superseded one"
        state.sessions.end(also, 2)
        assert state.chat.direct(ann, 2, "x", 1) == {0}
        before = image(region)
        for nobody in (0, 4, SMALL.accounts, SMALL.accounts + 1, 2**32 - 1):
            with pytest.raises(NotOnline):
                state.chat.direct(ann, nobody, "x", 1)
        assert image(region) == before
        check_quiet(region)


def test_a_send_of_a_session_superseded_while_it_stands_still() -> None:
    with small_region() as region:
        other, (ann, _, _) = three(region)
        other.memberships.join(ann, 1, 1)

        def meanwhile() -> None:
            other.locks.release(other.locks.registry, other.locks.event)
            login(other, 1, 7)

        recovery = Recovery(region, 2, meanwhile)
        other.locks.hold(other.locks.registry, other.locks.event)
        with pytest.raises(Superseded):
            recovery.state.chat.send(ann, 1, "x", 1)
        assert recovery.came
        assert seen(other, 1) == [(1, JOINED, "ann", ""), (2, LEFT, "ann", "")]

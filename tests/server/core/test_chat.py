"""Direct messages, and sends of sessions that are superseded."""

import pytest

from server.core.errors import NoSuchUser, Superseded
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
    seen,
    three,
)


def test_direct_messages_are_numbered_per_recipient() -> None:
    with small_region() as region:
        state, (ann, bob, cyd) = three(region)
        numbers = []
        for sender, to in ((ann, 2), (cyd, 2), (ann, 3), (ann, 2), (bob, 2)):
            assert whisper(state, sender, to, "x", 1).touched == {to - 1}
            event = state.events.read(state.events.head())
            assert event is not None
            numbers.append((event.user, event.seq))
        assert numbers == [(2, 1), (2, 2), (3, 1), (2, 3), (2, 4)]
        assert [state.events.direct_seq(user) for user in (1, 2, 3)] == [0, 4, 1]


def test_direct_messages_go_to_all_connections_and_to_who_is_offline() -> None:
    with small_region() as region:
        state, (ann, _, cyd) = three(region)
        also = login(state_of(region, 2), 2, 8)
        assert whisper(state, ann, 2, "x", 1).touched == {1, 2}
        login(state, 2, 7)
        assert whisper(state, ann, 2, "x", 1).touched == {0, 2}, "not to a superseded one"
        state.sessions.end(also, 2)
        assert whisper(state, ann, 2, "x", 1).touched == {0}
        assert whisper(state, ann, 3, "x", 1).touched == {2}
        for session in (cyd, login(state, 3, 9)):
            state.sessions.end(session, 3)
        assert whisper(state, ann, 3, "x", 1)[:1] == (2,)
        assert whisper(state, ann, 3, "x", 1).touched == frozenset()
        before = image(region)
        for nobody in (0, 4, SMALL.accounts, SMALL.accounts + 1, 2**32 - 1):
            with pytest.raises(NoSuchUser):
                whisper(state, ann, nobody, "x", 1)
        assert image(region) == before
        check_quiet(region)


def test_a_send_of_a_session_superseded_while_it_stands_still() -> None:
    with small_region() as region:
        other, _ = three(region)

        def meanwhile() -> None:
            other.locks.release(other.locks.registry, other.locks.event)
            login(other, 1, 9)

        recovery = Recovery(region, 2, meanwhile)
        ann = login(recovery.state, 1, 9)
        other.memberships.join(ann, 1, 1)
        other.locks.hold(other.locks.registry, other.locks.event)
        with pytest.raises(Superseded):
            say(recovery.state, ann, 1, "x", 1)
        assert recovery.came
        assert seen(other, 1) == [(1, JOINED, "ann", ""), (2, LEFT, "ann", "")]

"""Direct messages, messages that are executed once, and sends of sessions that are superseded."""

import pytest

from libproto.messages import OUTCOME_WINDOW
from server.core.errors import NoSuchUser, NotJoined, OtherRequest, OutcomeUnknown, Superseded
from server.region.layout import OUTCOME_WORDS
from tests.helpers.region import (
    SMALL,
    Recovery,
    check_quiet,
    image,
    login,
    next_req_id,
    say,
    small_region,
    state_of,
    watched,
    whisper,
    word,
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


def test_a_room_that_there_is_not() -> None:
    """Whatever stands behind a session's rooms in the region, nobody is in it."""
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        for room in range(1, SMALL.rooms + 1):
            state.memberships.join(bob, room, 1)
        before = image(region)
        for room in (*range(SMALL.rooms + 1, 64 * 64), 1 << 20, 2**32 - 1):
            with pytest.raises(NotJoined):
                say(state, ann, room, "x", 1)
            with pytest.raises(NotJoined):
                state.pairs.transfer(ann, room, 2, 1, "x", next_req_id(ann, region), 0, 1)
        assert image(region) == before
        check_quiet(region)


# ---- executed once


def test_a_repeat_is_answered_with_the_first_outcome() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.memberships.join(ann, 1, 1)
        said, told = say(state, ann, 1, "x", 10), whisper(state, ann, 2, "x", 11)
        head, req_id = state.events.head(), next_req_id(ann, region)
        before = image(region)
        for flagged in (0, 1):
            again = state.chat.send(ann, 1, "x", 20, req_id - 2, flagged)
            assert again == (said.seq, 10, head, True, frozenset())
            again = state.chat.direct(ann, 2, "x", 20, req_id - 1, flagged)
            assert again == (told.seq, 11, head, True, frozenset())
        for room, message in ((2, "x"), (1, "y")):
            with pytest.raises(OtherRequest):
                state.chat.send(ann, room, message, 20, req_id - 2, 1)
        for user, message in ((3, "x"), (2, "y")):
            with pytest.raises(OtherRequest):
                state.chat.direct(ann, user, message, 20, req_id - 1, 1)
        with pytest.raises(OtherRequest):
            state.chat.send(ann, 2, "x", 20, req_id - 1, 1)
        with pytest.raises(NotJoined):
            state.chat.send(ann, 2, "x", 20, req_id, 0)
        assert image(region) == before
        for _ in range(OUTCOME_WINDOW):
            say(state, ann, 1, "x", 12)
        with pytest.raises(OutcomeUnknown):
            state.chat.send(ann, 1, "x", 20, req_id - 1, 1)
        late = login(state, 1, 8, next_req_id=40)
        state.memberships.join(late, 1, 1)
        for flagged in (0, 1):  # below the floor of its record
            with pytest.raises(OutcomeUnknown):
                state.chat.send(late, 1, "x", 20, 39, flagged)
        assert not state.chat.send(late, 1, "x", 20, 40, 1).recorded
        check_quiet(region)


def test_at_every_instant_a_message_that_is_shown_has_its_outcome() -> None:
    """Or who dies then leaves an event that is shown, and a request that is executed again."""
    with small_region() as region:
        plain, (ann, _, _) = three(region)
        plain.memberships.join(ann, 1, 1)
        instants, req_id, number = set(), 0, 0

        def look() -> None:
            outcome = region.words[ann.outcomes + req_id % OUTCOME_WINDOW * OUTCOME_WORDS]
            newest = word(region, "clients", ann.client_slot - 1, "newest")
            known, shown = (outcome, newest) == (req_id, req_id), region.events.head >= number
            assert known or not shown
            instants.add((known, shown))

        state = state_of(watched(region, look))
        for send in (say, whisper):
            instants.clear()
            req_id, number = next_req_id(ann, region), region.events.head + 1
            send(state, ann, 1, "x", 1)
            assert instants == {(False, False), (True, False), (True, True)}

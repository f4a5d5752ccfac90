"""Rooms and the event ring: examples first, then a machine against a plain model of them."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import event as noted
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from libproto.codec import PUSH
from libproto.framing import Decoder
from libproto.messages import ChatBroadcast, EventKind, Opcode
from server.core.errors import NotOnline, Superseded
from server.core.rooms import Event, SlotKind
from server.core.session import Session
from server.core.state import State
from server.region.region import Region
from tests.helpers.region import (
    SMALL,
    STARTED_US,
    Recovery,
    check_quiet,
    image,
    login,
    register,
    small_region,
    state_of,
    watched,
    word,
)

NAMES = ("ann", "bob", "cyd")
MESSAGE, JOINED, LEFT = EventKind.MESSAGE, EventKind.JOINED, EventKind.LEFT
RING = SMALL.event_ring
PLENTY = 1 << 20  # bytes of a history
BROADCAST = PUSH[Opcode.CHAT_BROADCAST]


def pushed(frame: bytes) -> tuple[int, tuple[Any, ...]]:
    """Opcode and fields of a push frame, which must be a whole and sound one."""
    decoder = Decoder(1 << 16)
    decoder.feed(frame)
    found = decoder.next()
    assert found is not None
    opcode, req_id, flags, status, buf, start, end, fault = found
    assert (req_id, flags, status, fault, decoder.buffered) == (0, 0, 0, 0, 0)
    return opcode, PUSH[opcode].decode(buf, start, end)


def chat(body: bytes) -> ChatBroadcast:
    return ChatBroadcast(*BROADCAST.decode(body, 0, len(body)))


def history(state: State, room: int, after: int = 0, limit: int = 256) -> list[ChatBroadcast]:
    return [chat(body) for body in state.rooms.history(room, after, limit, PLENTY)[1]]


def seen(state: State, room: int) -> list[tuple[int, int, str, str]]:
    """(room_seq, kind, name, message) of all the history of a room."""
    return [(e.room_seq, e.kind, e.from_name, e.message) for e in history(state, room)]


def three(region: Region) -> tuple[State, list[Session]]:
    """Ann, Bob and Cyd are logged in, each on a worker of their own."""
    states = [state_of(region, worker) for worker in range(3)]
    register(states[0], *NAMES)
    return states[0], [login(states[user - 1], user, 7) for user in (1, 2, 3)]


# ---- coming and going


def test_a_room_from_beginning_to_end() -> None:
    with small_region() as region:
        state, (ann, bob, cyd) = three(region)
        rooms = state.rooms
        assert rooms.join(ann, 5, 1)[:2] == (0, 1)
        assert rooms.join(bob, 5, 2)[:2] == (1, 2), "last_seq is the one before its own"
        assert rooms.send(ann, 5, "hé", 3)[0] == 3
        assert rooms.join(cyd, 5, 4)[:2] == (3, 3)
        rooms.leave(bob, 5, 5)
        assert rooms.send(cyd, 5, "x" * SMALL.max_message, 6)[0] == 6
        assert history(state, 5) == [
            ChatBroadcast(5, 1, 1, JOINED, 1, "ann", ""),
            ChatBroadcast(5, 2, 2, JOINED, 2, "bob", ""),
            ChatBroadcast(5, 3, 3, MESSAGE, 1, "ann", "hé"),
            ChatBroadcast(5, 4, 4, JOINED, 3, "cyd", ""),
            ChatBroadcast(5, 5, 5, LEFT, 2, "bob", ""),
            ChatBroadcast(5, 6, 6, MESSAGE, 3, "cyd", "x" * SMALL.max_message),
        ]
        assert rooms.last_seq(5) == 6
        assert rooms.member_count(5) == 2
        assert rooms.member_ids(5, 0) == [1, 3]
        check_quiet(region)


def test_joining_twice_and_leaving_what_was_not_joined_change_nothing() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        state.rooms.join(ann, 5, 1)
        state.rooms.send(ann, 5, "x", 1)
        before = image(region)
        assert state.rooms.join(ann, 5, 2) == (2, 1, frozenset())
        assert state.rooms.leave(bob, 5, 2) == frozenset()
        assert state.rooms.leave(ann, 6, 2) == frozenset()
        assert image(region) == before


def test_a_second_connection_of_a_user_makes_no_event() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        again = login(state_of(region, 2), 1, 8)
        state.rooms.join(ann, 5, 1)
        assert state.rooms.join(again, 5, 2) == (1, 1, frozenset())
        assert state.rooms.member_count(5) == 1
        assert state.rooms.member_ids(5, 0) == [1]
        assert state.rooms.leave(ann, 5, 3) == frozenset()
        assert state.rooms.member_count(5) == 1
        assert seen(state, 5) == [(1, JOINED, "ann", "")]
        state.rooms.leave(again, 5, 4)
        assert state.rooms.member_count(5) == 0
        assert seen(state, 5) == [(1, JOINED, "ann", ""), (2, LEFT, "ann", "")]


def test_who_leaves_and_comes_back_makes_events_again() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        for n in range(3):
            assert state.rooms.join(ann, 1, 1)[:2] == (2 * n, 1)
            state.rooms.leave(ann, 1, 1)
        assert [kind for _, kind, _, _ in seen(state, 1)] == [JOINED, LEFT] * 3


@pytest.mark.parametrize("room", [1, 63, 64, 65, SMALL.rooms])
def test_rooms_do_not_disturb_each_other(room: int) -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        state.rooms.join(ann, room, 1)
        for other in {1, 2, 62, 63, 64, 65, 66, SMALL.rooms} - {room}:
            assert state.rooms.member_ids(other, 0) == []
            assert state.rooms.member_count(other) == state.rooms.last_seq(other) == 0
            assert state.rooms.history(other, 0, 256, PLENTY) == (1, [])
        assert state.rooms.member_ids(room, 0) == [1]
        assert state.rooms.join(bob, room, 1)[:2] == (1, 2)
        assert state.rooms.listing(0, 256) == [(room, 2, 2)]


def test_the_end_of_a_session_leaves_all_its_rooms() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        for room in (2, 64, SMALL.rooms):
            state.rooms.join(ann, room, 1)
            state.rooms.join(bob, room, 1)
        state.sessions.end(ann, 5)
        for room in (2, 64, SMALL.rooms):
            assert state.rooms.member_ids(room, 0) == [2]
            assert seen(state, room)[2:] == [(3, LEFT, "ann", "")]
        assert login(state, 1).slot == ann.slot
        assert state.rooms.member_ids(2, 0) == [2], "the slot is used again, without its rooms"
        check_quiet(region)


def test_a_superseding_login_leaves_the_rooms_of_the_old_session() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        also = login(state, 1, 8)
        state.rooms.join(ann, 1, 1)
        state.rooms.join(ann, 2, 1)
        state.rooms.join(also, 2, 1)
        state.rooms.join(bob, 1, 1)
        new = login(state, 1, 7, now=9)
        assert seen(state, 1) == [
            (1, JOINED, "ann", ""),
            (2, JOINED, "bob", ""),
            (3, LEFT, "ann", ""),
        ]
        assert seen(state, 2) == [(1, JOINED, "ann", "")], "she is there with another connection"
        assert state.rooms.member_ids(1, 0) == [2]
        assert state.rooms.member_ids(2, 0) == [1]
        assert (state.rooms.member_count(1), state.rooms.member_count(2)) == (1, 1)
        before = image(region)
        for refused in (
            lambda: state.rooms.join(ann, 3, 1),
            lambda: state.rooms.join(ann, 1, 1),
            lambda: state.rooms.send(ann, 1, "x", 1),
            lambda: state.rooms.direct(ann, 2, "x", 1),
        ):
            with pytest.raises(Superseded):
                refused()
        assert state.rooms.leave(ann, 1, 1) == frozenset()
        assert image(region) == before
        state.sessions.end(ann, 10)
        assert state.rooms.last_seq(1) == 3, "it had left already"
        assert state.rooms.join(new, 1, 11)[:2] == (3, 2)
        check_quiet(region)


def test_workers_with_members_are_to_be_woken() -> None:
    with small_region() as region:
        state, (ann, bob, cyd) = three(region)
        rooms = state.rooms
        rooms.present(5, 0, 1)
        assert rooms.join(ann, 5, 1)[2] == {0}
        rooms.present(5, 2, 2)
        assert rooms.join(cyd, 5, 1)[2] == {0, 2}
        assert rooms.send(ann, 5, "x", 1)[1] == {0, 2}
        rooms.present(5, 0, -1)
        assert rooms.leave(ann, 5, 1) == {2}
        rooms.present(5, 2, -1)
        assert rooms.listeners(5) == {2}
        rooms.present(5, 2, -1)
        assert rooms.listeners(5) == frozenset()
        assert rooms.listeners(6) == frozenset()
        assert rooms.direct(bob, 3, "x", 1) == {2}


# ---- what is kept


def talk(state: State, session: Session, room: int, count: int) -> None:
    for _ in range(count):
        state.rooms.send(session, room, f"m{state.rooms.last_seq(room) + 1}", 1)


def test_the_oldest_event_is_named_when_the_ring_laps() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.rooms.join(ann, 1, 1)
        for last in range(2, 3 * RING):
            talk(state, ann, 1, 1)
            oldest, bodies = state.rooms.history(1, 0, 256, PLENTY)
            assert oldest == max(1, last - RING + 1)
            assert [chat(body).room_seq for body in bodies] == list(range(oldest, last + 1))
            assert word(region, "rooms", 1, "oldest_seq") == (oldest if last > RING else 0)


def test_a_quiet_room_is_lapped_by_another() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        state.rooms.join(ann, 1, 1)
        state.rooms.join(bob, 2, 1)
        talk(state, ann, 1, 2)
        talk(state, bob, 2, RING - 4)
        assert state.rooms.history(1, 0, 256, PLENTY)[0] == 1
        assert [seq for seq, *_ in seen(state, 1)] == [1, 2, 3]
        talk(state, bob, 2, 1)
        assert state.rooms.history(1, 0, 256, PLENTY)[0] == 2
        assert [seq for seq, *_ in seen(state, 1)] == [2, 3]
        talk(state, bob, 2, RING)
        assert state.rooms.history(1, 0, 256, PLENTY) == (4, []), "all is gone: from last_seq + 1"
        talk(state, ann, 1, 1)
        assert state.rooms.history(1, 0, 256, PLENTY)[0] == 4
        assert [seq for seq, *_ in seen(state, 1)] == [4], "and the chain ends there"


def test_direct_messages_lap_rooms_too() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        state.rooms.join(ann, 1, 1)
        for _ in range(RING):
            state.rooms.direct(bob, 1, "x", 1)
        assert state.rooms.history(1, 0, 256, PLENTY) == (2, [])
        state.rooms.join(bob, 1, 1)
        assert [seq for seq, *_ in seen(state, 1)] == [2]


def test_history_after_and_limit() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.rooms.join(ann, 1, 1)
        talk(state, ann, 1, RING + 4)
        last = RING + 5
        kept = list(range(last - RING + 1, last + 1))
        for after in (*range(last + 3), 2**64 - 1):
            for limit in (0, 1, 2, 5, RING, 256):
                shown = [each.room_seq for each in history(state, 1, after, limit)]
                assert shown == [seq for seq in kept if seq > after][:limit]
                assert state.rooms.history(1, after, limit, PLENTY)[0] == kept[0]


def test_history_of_so_many_bytes() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.rooms.join(ann, 1, 1)
        for length in (1, 10, 60, 3):
            state.rooms.send(ann, 1, "x" * length, 1)
        bodies = state.rooms.history(1, 0, 256, PLENTY)[1]
        assert len(bodies) == 5
        for room_bytes in range(sum(map(len, bodies)) + 2):
            shown = state.rooms.history(1, 0, 256, room_bytes)[1]
            assert shown == bodies[: len(shown)]
            assert sum(map(len, shown)) <= room_bytes
            following = bodies[len(shown) : len(shown) + 1]
            assert not following or sum(map(len, shown + following)) > room_bytes


def test_listing() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        assert state.rooms.listing(0, 256) == []
        for room in (3, 9, SMALL.rooms):
            state.rooms.join(ann, room, 1)
        state.rooms.join(bob, 9, 1)
        state.rooms.leave(ann, 3, 1)
        everything = [(3, 0, 2), (9, 2, 2), (SMALL.rooms, 1, 1)]
        for after in range(SMALL.rooms + 2):
            for limit in (1, 2, 3, 256):
                expected = [row for row in everything if row[0] > after][:limit]
                assert state.rooms.listing(after, limit) == expected
        assert state.rooms.listing(2**32 - 1, 256) == []


def test_members_are_users_in_order() -> None:
    with small_region() as region:
        state, (ann, bob, cyd) = three(region)
        for session in (cyd, ann, bob, login(state, 1)):
            state.rooms.join(session, 64, 1)
        assert state.rooms.member_ids(64, 0) == [1, 2, 3]
        assert state.rooms.member_ids(64, 1) == [2, 3]
        assert state.rooms.member_ids(64, 3) == []
        assert state.rooms.member_ids(64, 2**32 - 1) == []


# ---- the ring


def test_a_reader_sees_the_newest_and_nothing_where_it_was_lapped() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        reader = state_of(region, 2).rooms
        state.rooms.join(ann, 1, 1)
        for _ in range(2 * RING):
            talk(state, ann, 1, 1)
            head = reader.head()
            for number in range(1, head + 2):
                event = reader.read(number)
                assert (event is not None) == (head - RING < number <= head), (number, head)
                assert event is None or event.seq == number


def test_at_every_instant_a_reader_sees_whole_events_or_none() -> None:
    with small_region(event_ring=4, max_message=8) as region:
        reader, (ann, bob, _) = three(region)
        reader.rooms.join(ann, 1, 1)
        reader.rooms.join(bob, 2, 1)
        events = [(1, 1), (2, 1)]  # room and seq, by number
        instants = 0

        def look() -> None:
            nonlocal instants
            instants += 1
            head = reader.rooms.head()
            assert head in (len(events) - 1, len(events))
            for number in range(1, head + 1):
                event = reader.rooms.read(number)
                if event is None:
                    assert number <= head - 3, "that slot is not being reused"
                else:
                    assert (event.room, event.seq) == events[number - 1]
                    assert pushed(event.frame)[1][:2] == events[number - 1]
            for room in (1, 2):
                oldest, bodies = reader.rooms.history(room, 0, 256, PLENTY)
                seqs = [chat(body).room_seq for body in bodies]
                published = [seq for there, seq in events[:head] if there == room]
                assert seqs == list(range(seqs[0], seqs[-1] + 1)) if seqs else not bodies
                assert not seqs or seqs[0] <= oldest, "some are missing, and yet they are offered"
                assert oldest > published[-1] or (seqs and seqs[-1] >= published[-1])

        writer = state_of(watched(region, look))
        for n, session in enumerate((ann, bob, bob, ann, bob, bob, bob, bob, bob, ann, bob, ann)):
            room = session.user
            events.append((room, reader.rooms.last_seq(room) + 1))
            writer.rooms.send(session, room, "x" * (n % 8 + 1), 1)
        assert instants > 12 * 15


@pytest.mark.parametrize("instant", range(6))
def test_a_reader_that_is_lapped_at_any_instant_sees_the_old_event_or_none(instant: int) -> None:
    with small_region(event_ring=4) as region:
        writer, (ann, _, _) = three(region)
        writer.rooms.join(ann, 1, 1)
        loads = 0

        def lap() -> None:
            nonlocal loads
            loads += 1
            if loads == 1 + instant:
                for _ in range(4):
                    writer.rooms.send(ann, 1, "new", 1)

        reader = state_of(watched(region, loaded=lap), 1)
        for _ in range(5):
            writer.rooms.send(ann, 1, "old", 1)
        loads = 0
        event = reader.rooms.read(4)
        assert event is None or pushed(event.frame)[1] == (1, 4, 1, MESSAGE, 1, "ann", "old")


def test_an_event_is_a_finished_frame() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        rooms = state.rooms
        rooms.join(ann, 4, 10)
        rooms.send(ann, 4, "hello", 11)
        rooms.direct(ann, 2, "psst", 12)
        rooms.pay(ann, 2, 99, 500, 750, 13)
        rooms.leave(ann, 4, 14)
        events = [rooms.read(number) for number in range(1, 6)]
        assert [event and event[:5] for event in events] == [
            (SlotKind.JOINED, 4, 1, 1, ann.slot + 1),
            (SlotKind.MESSAGE, 4, 2, 1, 0),
            (SlotKind.DIRECT, 0, 1, 2, 0),
            (SlotKind.PAYMENT, 0, 0, 2, 0),
            (SlotKind.LEFT, 4, 3, 1, ann.slot + 1),
        ]
        assert [pushed(event.frame) for event in events if event] == [
            (Opcode.CHAT_BROADCAST, (4, 1, 10, JOINED, 1, "ann", "")),
            (Opcode.CHAT_BROADCAST, (4, 2, 11, MESSAGE, 1, "ann", "hello")),
            (Opcode.DIRECT_MESSAGE, (1, 12, 1, "ann", "psst")),
            (Opcode.PAYMENT, (99, 13, 1, "ann", 500, 750)),
            (Opcode.CHAT_BROADCAST, (4, 3, 14, LEFT, 1, "ann", "")),
        ]


def test_the_longest_name_and_message_fit() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "n" * 32)
        session = login(state, 1)
        text = "\N{GRINNING FACE}" * (SMALL.max_message // 4)
        state.rooms.join(session, SMALL.rooms, 2**63)
        state.rooms.send(session, SMALL.rooms, text, 2**63)
        state.rooms.direct(session, 1, text, 2**63)
        assert seen(state, SMALL.rooms)[1] == (2, MESSAGE, "n" * 32, text)
        event = state.rooms.read(3)
        assert event is not None
        assert pushed(event.frame)[1] == (1, 2**63, 1, "n" * 32, text)


def test_only_wanted_frames_are_copied() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.rooms.join(ann, 4, 1)
        state.rooms.join(ann, 5, 1)
        state.rooms.direct(ann, 2, "psst", 1)
        for wanted, copied in (
            (None, [True, True, True]),
            ({}, [False, False, True]),
            ({4: 0}, [True, False, True]),
            ({5: 0, 6: 0}, [False, True, True]),
        ):
            events = [state.rooms.read(number, wanted) for number in (1, 2, 3)]
            assert [bool(event and event.frame) for event in events] == copied
            assert [event and event.seq for event in events] == [1, 1, 1]


def test_direct_messages_are_numbered_per_recipient() -> None:
    with small_region() as region:
        state, (ann, bob, cyd) = three(region)
        numbers = []
        for sender, to in ((ann, 2), (cyd, 2), (ann, 3), (ann, 2), (bob, 2)):
            assert state.rooms.direct(sender, to, "x", 1) == {to - 1}
            event = state.rooms.read(state.rooms.head())
            assert event is not None
            numbers.append((event.user, event.seq))
        assert numbers == [(2, 1), (2, 2), (3, 1), (2, 3), (2, 4)]
        assert [state.rooms.direct_seq(user) for user in (1, 2, 3)] == [0, 4, 1]


def test_direct_messages_go_to_all_connections_and_need_one() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        also = login(state_of(region, 2), 2, 8)
        assert state.rooms.direct(ann, 2, "x", 1) == {1, 2}
        login(state, 2, 7)
        assert state.rooms.direct(ann, 2, "x", 1) == {0, 2}, "not to a superseded one"
        state.sessions.end(also, 2)
        assert state.rooms.direct(ann, 2, "x", 1) == {0}
        before = image(region)
        for nobody in (0, 4, SMALL.accounts, SMALL.accounts + 1, 2**32 - 1):
            with pytest.raises(NotOnline):
                state.rooms.direct(ann, nobody, "x", 1)
        assert image(region) == before
        check_quiet(region)


# ---- a recovery in the middle


def _sends(state: State, session: Session) -> None:
    assert state.rooms.send(session, 1, "x", 1)[0] == 3


def _joins(state: State, session: Session) -> None:
    assert state.rooms.join(session, 2, 1)[0] == 1


def _leaves(state: State, session: Session) -> None:
    state.rooms.leave(session, 1, 1)


def _ends(state: State, session: Session) -> None:
    state.sessions.end(session, 1)


@pytest.mark.parametrize("action", [_sends, _joins, _leaves, _ends])
def test_an_action_that_a_recovery_interrupts_begins_anew(
    action: Callable[[State, Session], None],
) -> None:
    with small_region() as region:
        other, (ann, bob, _) = three(region)
        other.rooms.join(ann, 1, 1)

        def meanwhile() -> None:
            other.locks.release(other.locks.event)
            check_quiet(region)
            other.rooms.join(bob, 1, 1)
            other.rooms.join(bob, 2, 1)

        recovery = Recovery(region, 2, meanwhile)
        other.locks.hold(other.locks.event)
        action(recovery.state, ann)
        assert recovery.came
        gone = action in (_leaves, _ends)
        assert other.rooms.member_ids(1, 0) == ([2] if gone else [1, 2])
        assert [event.room_seq for event in history(other, 1)] == list(
            range(1, other.rooms.last_seq(1) + 1)
        )
        check_quiet(region)


def test_a_send_of_a_session_superseded_while_it_stands_still() -> None:
    with small_region() as region:
        other, (ann, _, _) = three(region)
        other.rooms.join(ann, 1, 1)

        def meanwhile() -> None:
            other.locks.release(other.locks.registry, other.locks.event)
            login(other, 1, 7)

        recovery = Recovery(region, 2, meanwhile)
        other.locks.hold(other.locks.registry, other.locks.event)
        with pytest.raises(Superseded):
            recovery.state.rooms.send(ann, 1, "x", 1)
        assert recovery.came
        assert seen(other, 1) == [(1, JOINED, "ann", ""), (2, LEFT, "ann", "")]


# ---- against a model


@dataclass(eq=False)
class Member:
    """A connection: what its worker holds, and what the model knows."""

    session: Session
    state: State
    user: int
    client_id: int
    live: bool = True
    rooms: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)  # where its worker counts it as present


which_member = st.integers(0, SMALL.sessions - 1)  # modulo how many there are
some_room = st.sampled_from([1, 2, 64])
some_worker = st.integers(0, 2)


class RoomsMachine(RuleBasedStateMachine):
    """The ring is small and laps all the time. The model is the list of all events ever."""

    def __init__(self) -> None:
        super().__init__()
        self.cleanup = ExitStack()
        self.now = STARTED_US
        self.events: list[tuple[Event, tuple[Any, ...] | None]] = []  # with the frame's fields
        self.last: dict[int, int] = {}
        self.direct: dict[int, int] = {}
        self.members: list[Member] = []

    @initialize(ring=st.sampled_from([2, 8, 16]))
    def begin(self, ring: int) -> None:
        self.ring = ring
        self.region = self.cleanup.enter_context(small_region(event_ring=ring))
        self.states = [state_of(self.region, worker) for worker in range(3)]
        register(self.states[0], *NAMES)
        for user in (1, 2, 3):
            self._log_in(user, 7, self.states[user % 3])
        for which in (0, 1):
            self._join(self.members[which], 1)

    def teardown(self) -> None:
        self.cleanup.close()

    # ---- the model

    def _publish(
        self,
        kind: int,
        room: int,
        seq: int,
        user: int,
        session: int,
        fields: tuple[Any, ...] | None,
    ) -> None:
        self.events.append((Event(kind, room, seq, user, session, b""), fields))
        if room:
            self.last[room] = seq
        if kind == SlotKind.DIRECT:
            self.direct[user] = seq

    def _room_event(self, kind: int, room: int, member: Member, message: str = "") -> int:
        seq = self.last.get(room, 0) + 1
        slot = 0 if kind == MESSAGE else member.session.slot + 1
        fields = (room, seq, self.now, kind, member.user, NAMES[member.user - 1], message)
        self._publish(kind, room, seq, member.user, slot, fields)
        return seq

    def _users(self, room: int) -> list[int]:
        return sorted({member.user for member in self.members if room in member.rooms})

    def _listeners(self, room: int) -> set[int]:
        return {member.state.worker for member in self.members if room in member.counted}

    def _leave(self, member: Member, room: int) -> set[int]:
        if room not in member.rooms:
            return set()
        member.rooms.remove(room)
        if member.user in self._users(room):
            return set()
        self._room_event(LEFT, room, member)
        return self._listeners(room)

    def _leave_all(self, member: Member) -> set[int]:
        return set().union(*(self._leave(member, room) for room in sorted(member.rooms)))

    def _log_in(self, user: int, client_id: int, state: State) -> None:
        self.now += 1
        session, touched = state.sessions.login(user, NAMES[user - 1], client_id, 1, 0, self.now)
        expected = set()
        for member in self.members:
            if client_id and member.live and (member.user, member.client_id) == (user, client_id):
                self._publish(SlotKind.SUPERSEDED, 0, 0, user, member.session.slot + 1, None)
                expected = self._leave_all(member) | {member.state.worker}
                member.live = False
        assert touched == expected
        self.members.append(Member(session, state, user, client_id))

    def _member(self, which: int) -> Member:
        return self.members[which % len(self.members)]

    # ---- what is done

    @precondition(lambda self: len(self.members) < SMALL.sessions)
    @rule(user=st.integers(1, 3), client_id=st.sampled_from([0, 7, 8]), worker=some_worker)
    def log_in(self, user: int, client_id: int, worker: int) -> None:
        self._log_in(user, client_id, self.states[worker])

    @precondition(lambda self: len(self.members) > 1)
    @rule(which=which_member)
    def end(self, which: int) -> None:
        self.now += 1
        member = self.members[which % len(self.members)]
        touched = member.state.sessions.end(member.session, self.now)
        assert touched == self._leave_all(member)
        for room in member.counted:
            member.state.rooms.present(room, member.state.worker, -1)
        self.members.remove(member)

    @rule(which=which_member, room=some_room)
    def join(self, which: int, room: int) -> None:
        self._join(self._member(which), room)

    def _join(self, member: Member, room: int) -> None:
        self.now += 1
        rooms = member.state.rooms
        if not member.live:
            with pytest.raises(Superseded):
                rooms.join(member.session, room, self.now)
            return
        if room not in member.counted:
            rooms.present(room, member.state.worker, 1)
            member.counted.add(room)
        last, members, touched = rooms.join(member.session, room, self.now)
        assert last == self.last.get(room, 0)
        expected = set()
        if member.user not in self._users(room):
            self._room_event(JOINED, room, member)
            expected = self._listeners(room)
        member.rooms.add(room)
        assert touched == expected
        assert members == len(self._users(room))

    @rule(which=which_member, room=some_room)
    def leave(self, which: int, room: int) -> None:
        self.now += 1
        member = self._member(which)
        touched = member.state.rooms.leave(member.session, room, self.now)
        assert touched == self._leave(member, room)
        if room in member.counted:
            member.counted.remove(room)
            member.state.rooms.present(room, member.state.worker, -1)

    @rule(which=which_member, room=some_room, message=st.text(max_size=SMALL.max_message // 4))
    def send(self, which: int, room: int, message: str) -> None:
        self.now += 1
        member = self._member(which)
        if not member.live:
            with pytest.raises(Superseded):
                member.state.rooms.send(member.session, room, message, self.now)
            return
        seq, touched = member.state.rooms.send(member.session, room, message, self.now)
        assert seq == self._room_event(MESSAGE, room, member, message)
        assert touched == self._listeners(room)

    @rule(which=which_member, to_user=st.integers(0, 4))
    def send_direct(self, which: int, to_user: int) -> None:
        self.now += 1
        member = self._member(which)
        workers = {m.state.worker for m in self.members if m.live and m.user == to_user}
        if not member.live or not workers:
            with pytest.raises(NotOnline if member.live else Superseded):
                member.state.rooms.direct(member.session, to_user, "psst", self.now)
            return
        assert member.state.rooms.direct(member.session, to_user, "psst", self.now) == workers
        seq = self.direct.get(to_user, 0) + 1
        fields = (seq, self.now, member.user, NAMES[member.user - 1], "psst")
        self._publish(SlotKind.DIRECT, 0, seq, to_user, 0, fields)

    # ---- what is read

    def _kept(self, room: int) -> list[tuple[Any, ...]]:
        """Bodies of the room's events that are still in the ring."""
        return [body for event, body in self.events[-self.ring :] if body and event.room == room]

    @rule(
        room=some_room, back=st.integers(0, 20), limit=st.integers(0, 20), worker=some_worker,
        room_bytes=st.one_of(st.just(PLENTY), st.integers(0, 400)),
    )  # fmt: skip
    def history(self, room: int, back: int, limit: int, worker: int, room_bytes: int) -> None:
        after = max(0, self.last.get(room, 0) - back)
        oldest, bodies = self.states[worker].rooms.history(room, after, limit, room_bytes)
        kept = self._kept(room)
        expected = [body for body in kept if body[1] > after][:limit]
        while sum(len(BROADCAST.encode(*body)) for body in expected) > room_bytes:
            expected.pop()
        noted("a history with events" if expected else "an empty history")
        assert [tuple(chat(body)) for body in bodies] == expected
        assert oldest == (kept[0][1] if kept else self.last.get(room, 0) + 1)

    @rule(after=st.integers(0, 65), limit=st.integers(1, 3))
    def listing(self, after: int, limit: int) -> None:
        expected = [(room, len(self._users(room)), self.last[room]) for room in sorted(self.last)]
        shown = self.states[0].rooms.listing(after, limit)
        assert shown == [row for row in expected if row[0] > after][:limit]

    @invariant()
    def the_ring_is_the_models(self) -> None:
        rooms = self.states[0].rooms
        head = len(self.events)
        assert rooms.head() == head
        assert rooms.read(head + 1) is None
        for number in range(max(1, head - self.ring - 1), head + 1):
            event = rooms.read(number)
            if number <= head - self.ring:
                assert event is None
                continue
            expected, fields = self.events[number - 1]
            assert event is not None
            assert event[:5] == expected[:5]
            assert fields is None or pushed(event.frame)[1] == fields

    @invariant()
    def the_rooms_are_the_models(self) -> None:
        rooms = self.states[1].rooms
        for room in (1, 2, 64, 65):
            users = self._users(room)
            assert rooms.member_count(room) == len(users)
            assert rooms.member_ids(room, 0) == users
            assert rooms.last_seq(room) == self.last.get(room, 0)
            assert rooms.listeners(room) == self._listeners(room)
        for user in (1, 2, 3):
            assert rooms.direct_seq(user) == self.direct.get(user, 0)

    @invariant()
    def sessions_are_the_models(self) -> None:
        for member in self.members:
            assert member.state.sessions.is_live(member.session) == member.live
        check_quiet(self.region)


TestRoomsMachine = RoomsMachine.TestCase
TestRoomsMachine.settings = settings(max_examples=150, stateful_step_count=50)

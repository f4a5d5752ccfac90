"""The event ring: what readers see of it, and the histories in it."""

import pytest

from libproto.messages import Opcode, TxnKind
from server.core.errors import HistoriesBehind
from server.core.events import SlotKind
from tests.helpers.region import (
    SMALL,
    login,
    next_req_id,
    register,
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
    MESSAGE,
    PLENTY,
    RING,
    chat,
    history,
    pushed,
    seen,
    talk,
    three,
)


def test_the_oldest_event_is_named_when_the_ring_laps() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.memberships.join(ann, 1, 1)
        for last in range(2, 3 * RING):
            talk(state, ann, 1, 1)
            oldest, bodies = state.events.history(1, 0, 256, PLENTY)
            assert oldest == max(1, last - RING + 1)
            assert [chat(body).room_seq for body in bodies] == list(range(oldest, last + 1))
            assert word(region, "rooms", 1, "oldest_seq") == (oldest if last > RING else 0)


def test_the_oldest_event_of_the_ring() -> None:
    """The next one in an empty ring; and once it has gone round, not the slot that is next."""
    with small_region() as region:
        state, (ann, _, _) = three(region)
        assert state.events.oldest() == 1
        state.memberships.join(ann, 1, 1)
        for head in range(2, 3 * RING):
            talk(state, ann, 1, 1)
            assert state.events.head() == head
            assert state.events.oldest() == max(1, head - RING + 2)


def test_a_quiet_room_is_lapped_by_another() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        state.memberships.join(ann, 1, 1)
        state.memberships.join(bob, 2, 1)
        talk(state, ann, 1, 2)
        talk(state, bob, 2, RING - 4)
        assert state.events.history(1, 0, 256, PLENTY)[0] == 1
        assert [seq for seq, *_ in seen(state, 1)] == [1, 2, 3]
        talk(state, bob, 2, 1)
        assert state.events.history(1, 0, 256, PLENTY)[0] == 2
        assert [seq for seq, *_ in seen(state, 1)] == [2, 3]
        talk(state, bob, 2, RING)
        assert state.events.history(1, 0, 256, PLENTY) == (4, []), "all is gone: from last_seq + 1"
        talk(state, ann, 1, 1)
        assert state.events.history(1, 0, 256, PLENTY)[0] == 4
        assert [seq for seq, *_ in seen(state, 1)] == [4], "and the chain ends there"


def test_direct_messages_lap_rooms_too() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        state.memberships.join(ann, 1, 1)
        for _ in range(RING):
            whisper(state, bob, 1, "x", 1)
        assert state.events.history(1, 0, 256, PLENTY) == (2, [])
        state.memberships.join(bob, 1, 1)
        assert [seq for seq, *_ in seen(state, 1)] == [2]


def test_history_after_and_limit() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.memberships.join(ann, 1, 1)
        talk(state, ann, 1, RING + 4)
        last = RING + 5
        kept = list(range(last - RING + 1, last + 1))
        for after in (*range(last + 3), 2**64 - 1):
            for limit in (0, 1, 2, 5, RING, 256):
                shown = [each.room_seq for each in history(state, 1, after, limit)]
                assert shown == [seq for seq in kept if seq > after][:limit]
                assert state.events.history(1, after, limit, PLENTY)[0] == kept[0]


def test_history_of_so_many_bytes() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.memberships.join(ann, 1, 1)
        for length in (1, 10, 60, 3):
            say(state, ann, 1, "x" * length, 1)
        bodies = state.events.history(1, 0, 256, PLENTY)[1]
        assert len(bodies) == 5
        for room_bytes in range(sum(map(len, bodies)) + 2):
            shown = state.events.history(1, 0, 256, room_bytes)[1]
            assert shown == bodies[: len(shown)]
            assert sum(map(len, shown)) <= room_bytes
            following = bodies[len(shown) : len(shown) + 1]
            assert not following or sum(map(len, shown + following)) > room_bytes


def test_a_reader_sees_the_newest_and_nothing_where_it_was_lapped() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        reader = state_of(region, 2).events
        state.memberships.join(ann, 1, 1)
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
        reader.memberships.join(ann, 1, 1)
        reader.memberships.join(bob, 2, 1)
        events = [(1, 1), (2, 1)]  # room and seq, by number
        instants = 0

        def look() -> None:
            nonlocal instants
            instants += 1
            head = reader.events.head()
            assert head in (len(events) - 1, len(events))
            for number in range(1, head + 1):
                event = reader.events.read(number)
                if event is None:
                    assert number <= head - 3, "that slot is not being reused"
                else:
                    assert (event.room, event.seq) == events[number - 1]
                    assert pushed(event.frame)[1][:2] == events[number - 1]
            for room in (1, 2):
                oldest, bodies = reader.events.history(room, 0, 256, PLENTY)
                seqs = [chat(body).room_seq for body in bodies]
                published = [seq for there, seq in events[:head] if there == room]
                assert seqs == list(range(seqs[0], seqs[-1] + 1)) if seqs else not bodies
                assert not seqs or seqs[0] <= oldest, "some are missing, and yet they are offered"
                assert oldest > published[-1] or (seqs and seqs[-1] >= published[-1])

        writer = state_of(watched(region, look))
        for n, session in enumerate((ann, bob, bob, ann, bob, bob, bob, bob, bob, ann, bob, ann)):
            room = session.user
            events.append((room, reader.events.last_seq(room) + 1))
            say(writer, session, room, "x" * (n % 8 + 1), 1)
        assert instants > 12 * 15


@pytest.mark.parametrize("instant", range(6))
def test_a_reader_that_is_lapped_at_any_instant_sees_the_old_event_or_none(instant: int) -> None:
    with small_region(event_ring=4) as region:
        writer, (ann, _, _) = three(region)
        writer.memberships.join(ann, 1, 1)
        loads = 0

        def lap() -> None:
            nonlocal loads
            loads += 1
            if loads == 1 + instant:
                for _ in range(4):
                    say(writer, ann, 1, "new", 1)

        reader = state_of(watched(region, loaded=lap), 1)
        for _ in range(5):
            say(writer, ann, 1, "old", 1)
        loads = 0
        event = reader.events.read(4)
        assert event is None or pushed(event.frame)[1] == (1, 4, 1, MESSAGE, 1, "ann", "old")


def test_an_event_is_a_finished_frame() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.memberships.join(ann, 4, 10)
        say(state, ann, 4, "hello", 11)
        whisper(state, ann, 2, "psst", 12)
        state.chat.pay(ann, 2, 99, 500, 750, 13)
        state.memberships.leave(ann, 4, 14)
        events = [state.events.read(number) for number in range(1, 6)]
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
        state.memberships.join(session, SMALL.rooms, 2**63)
        say(state, session, SMALL.rooms, text, 2**63)
        whisper(state, session, 1, text, 2**63)
        assert seen(state, SMALL.rooms)[1] == (2, MESSAGE, "n" * 32, text)
        event = state.events.read(3)
        assert event is not None
        assert pushed(event.frame)[1] == (1, 2**63, 1, "n" * 32, text)


def test_only_wanted_frames_are_copied() -> None:
    with small_region() as region:
        state, (ann, _, _) = three(region)
        state.memberships.join(ann, 4, 1)
        state.memberships.join(ann, 5, 1)
        whisper(state, ann, 2, "psst", 1)
        for wanted, copied in (
            (None, [True, True, True]),
            ({}, [False, False, True]),
            ({4: 0}, [True, False, True]),
            ({5: 0, 6: 0}, [False, True, True]),
        ):
            events = [state.events.read(number, wanted) for number in (1, 2, 3)]
            assert [bool(event and event.frame) for event in events] == copied
            assert [event and event.seq for event in events] == [1, 1, 1]


def test_where_histories_are_behind_nothing_is_said_and_everybody_may_leave() -> None:
    with small_region() as region:
        state, (ann, bob, _) = three(region)
        state.memberships.join(ann, 1, 1)
        state.ledger.execute(ann, TxnKind.DEPOSIT, 0, 5, next_req_id(ann, region), 0, 1)
        region.archive.closed = 1
        before = state.events.head()
        for refused in (
            lambda: say(state, ann, 1, "x", 1),
            lambda: whisper(state, ann, 2, "x", 1),
            lambda: state.memberships.join(bob, 1, 1),
            lambda: state.pairs.transfer(ann, 1, 2, 1, "", next_req_id(ann, region), 0, 1),
        ):
            with pytest.raises(HistoriesBehind):
                refused()
        assert state.events.head() == before
        state.memberships.leave(ann, 1, 1)
        assert state.events.head() == before + 1
        region.archive.closed = 0
        assert state.memberships.join(bob, 1, 1)[:2] == (2, 1)

"""What members see of a room: order, gaps, differences, and how long deliveries take."""

from typing import Any
from zlib import crc32

import pytest

from bench.stress import notes
from bench.stress.rooms import Rooms, Seen, Stream, last_deliveries
from libproto import calls
from libproto.codec import PUSH
from libproto.messages import EventKind, Opcode

ROOM = 3
NOW = 1000.0
encode = PUSH[Opcode.CHAT_BROADCAST].encode


def told(seq: int, text: str = "", kind: int = EventKind.MESSAGE) -> tuple[Any, ...]:
    return ROOM, seq, 77, kind, 5, "ann", text or notes.compose(NOW, seq, 40)


def member(rooms: Rooms, last_seq: int = 0, *, slow: bool = False) -> Stream:
    stream = Stream(rooms, "ann", ROOM, slow=slow)
    stream.joined(last_seq, 9)
    return stream


def give(stream: Stream, fields: tuple[Any, ...], at: float = NOW + 0.5) -> None:
    body = encode(*fields)
    _, seq, kind, begins = calls.event(body, 0, len(body))
    stream.event(seq, kind, body, 0, begins, len(body), at)


@pytest.fixture
def rooms() -> Rooms:
    made = Rooms()
    made.begin({ROOM: 1})
    return made


def checks(rooms: Rooms) -> list[str]:
    return [problem.check for problem in rooms.problems]


@pytest.mark.parametrize("payload", [32, 33, 256, 4096])
def test_a_message_has_its_payload_and_its_time(payload: int) -> None:
    text = notes.compose(1234.5, 2**40, payload).encode()
    assert len(text) == payload
    assert notes.sent_at(b"." + text, 1, 1 + payload) == pytest.approx(1234.5)
    assert notes.sent_at(b"hello", 0, 5) == 0


def test_all_is_well(rooms: Rooms) -> None:
    stream = member(rooms)
    for seq in (1, 2):
        give(stream, told(seq))
    stream.gap(3, 5)
    give(stream, told(6))
    stream.joined(8, 9)
    give(stream, told(9))
    assert rooms.problems == []
    assert (rooms.events, rooms.gaps, rooms.missed_in_gaps) == (4, 1, 3)
    assert rooms.missed_unconnected == 2
    assert stream.position == 9


def test_a_silent_gap(rooms: Rooms) -> None:
    stream = member(rooms)
    give(stream, told(1))
    give(stream, told(3))
    assert checks(rooms) == ["events_missing"]


def test_a_gap_that_names_too_little(rooms: Rooms) -> None:
    stream = member(rooms)
    stream.gap(2, 3)
    assert checks(rooms) == ["events_missing"]


@pytest.mark.parametrize("gap", [(1, 1), (1, 2), (3, 2)])
def test_a_gap_of_what_was_told(rooms: Rooms, gap: tuple[int, int]) -> None:
    stream = member(rooms)
    give(stream, told(1))
    stream.gap(*gap)
    assert checks(rooms)


def test_an_event_twice(rooms: Rooms) -> None:
    stream = member(rooms)
    give(stream, told(1))
    give(stream, told(1))
    assert checks(rooms) == ["events_twice"]


def test_joining_backwards_and_another_epoch(rooms: Rooms) -> None:
    stream = member(rooms, 5)
    stream.joined(4, 9)
    stream.joined(4, 10)
    assert checks(rooms) == ["events_twice", "unexpected"]


def test_members_of_one_thread_are_told_differently(rooms: Rooms) -> None:
    give(member(rooms), told(1, "a"))
    give(member(rooms), told(1, "b"))
    assert checks(rooms) == ["events_differing"]


def test_members_of_two_threads_are_told_differently(rooms: Rooms) -> None:
    other = Rooms()
    other.begin({ROOM: 1})
    for seq in (1, 2):
        give(member(rooms, seq - 1), told(seq, "a"))
        give(member(other, seq - 1), told(seq, "ab"[seq - 1]))
    assert list(rooms.seen[ROOM].add(other.seen[ROOM])) == [2]


def test_an_event_that_is_not_what_was_acknowledged(rooms: Rooms) -> None:
    rooms.acknowledged(ROOM, 5, "ann", "a", 1, 77)
    give(member(rooms), told(1, "a"))
    assert rooms.problems == []
    rooms.acknowledged(ROOM, 5, "ann", "a", 2, 77)
    give(member(rooms, 1), told(2, "b"))
    assert checks(rooms) == ["events_differing"]


def test_what_was_before_the_run_is_not_compared(rooms: Rooms) -> None:
    rooms.begin({ROOM: 5})
    give(member(rooms, 3), told(4, "a"))
    give(member(rooms, 3), told(4, "b"))
    assert rooms.problems == []


def test_a_run_has_its_own_record(rooms: Rooms) -> None:
    stream = member(rooms)
    give(stream, told(1))
    rooms.begin({ROOM: 2})
    give(stream, told(2))
    assert list(last_deliveries([rooms.seen[ROOM]], NOW, NOW + 1)) == [(0, 500_000, 1)]


def test_delivery_is_to_the_last_member_slow_ones_apart(rooms: Rooms) -> None:
    other = Rooms()
    other.begin({ROOM: 1})
    give(member(rooms), told(1), NOW + 0.25)
    give(member(rooms, slow=True), told(1), NOW + 3.0)
    give(member(rooms), told(1), NOW + 0.75)
    give(member(other), told(1), NOW + 0.5)
    give(member(rooms, 1), told(2, "no message of a load"))
    give(member(rooms, 2), told(3, kind=EventKind.JOINED, text="x"))
    whole = Seen(1)
    for part in (rooms, other):
        assert list(whole.add(part.seen[ROOM])) == []
    assert list(last_deliveries([whole], NOW, NOW + 1)) == [(0, 750_000, 3)]
    assert list(last_deliveries([whole], NOW + 1, NOW + 2)) == []


def _said(rooms: Rooms, seq: int, *, acknowledged: int = 1) -> None:
    """A message of the load, as a member is told of it, and as so many senders are."""
    event = told(seq)
    give(member(rooms, seq - 1), event, NOW + 0.25)
    for _ in range(acknowledged):
        rooms.acknowledged(ROOM, *event[4:], *event[1:3])


def _repeated(*parts: Rooms) -> list[str]:
    whole = Seen(1)
    for part in parts:
        assert list(whole.add(part.seen[ROOM])) == []
    return list(whole.repeated())


def test_each_message_is_one_sender_s(rooms: Rooms) -> None:
    _said(rooms, 1)
    give(member(rooms, 1), told(2, kind=EventKind.JOINED, text="x"))
    assert _repeated(rooms) == []
    other = Rooms()
    other.begin({ROOM: 1})
    give(member(other), told(1), NOW + 0.5)
    assert _repeated(rooms, other) == [], "seen in another thread than its sender's"
    assert rooms.problems == []


def test_a_message_that_was_said_twice(rooms: Rooms) -> None:
    _said(rooms, 1)
    _said(rooms, 2, acknowledged=0)
    (problem,) = _repeated(rooms)
    assert "1 messages more than were sent" in problem
    rooms.not_told(ROOM)
    assert _repeated(rooms) == [], "the outcome of one is unknown: it may be that"


def test_two_messages_of_one_number(rooms: Rooms) -> None:
    _said(rooms, 1, acknowledged=2)
    (problem,) = _repeated(rooms)
    assert "two messages" in problem


def test_a_digest_is_never_the_mark_of_an_unseen_event() -> None:
    assert notes.digest(b"xyz", 1, 1) == 1
    assert notes.digest(b"xyz", 1, 2) == crc32(b"y") > 1

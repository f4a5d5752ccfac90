"""Events of a room read into typed fields: what the protocol says of each kind, and all else."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client import (
    AccessChanged,
    ChatBroadcast,
    ConnectionLost,
    Disconnected,
    EventKind,
    FileShared,
    MessageDeleted,
    OfferAdded,
    OfferRemoved,
    OfferTaken,
    RoleChanged,
    RoomAccess,
    RoomEvent,
    RoomPayment,
    RoomRole,
    TopicChanged,
    read_event,
)

FILE = 8
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
words = st.text(st.characters(codec="utf-8", exclude_characters=" "))
texts = st.text(st.characters(codec="utf-8"))

RIGHT: dict[int, st.SearchStrategy[RoomEvent]] = {
    EventKind.OFFER_ADDED: st.builds(OfferAdded, u64, u64, texts),
    EventKind.OFFER_REMOVED: st.builds(OfferRemoved, u64),
    EventKind.OFFER_TAKEN: st.builds(OfferTaken, u64, u64, u64, u32),
    EventKind.PAYMENT: st.builds(RoomPayment, u64, u32, u64, texts),
    FILE: st.builds(FileShared, u64, u64, words, texts),
    EventKind.ROOM_CHANGED: st.one_of(
        st.builds(TopicChanged, texts),
        st.builds(AccessChanged, st.sampled_from(RoomAccess)),
        st.builds(RoleChanged, u32, st.sampled_from(RoomRole)),
        st.builds(MessageDeleted, u64),
    ),
}
WORDS: dict[type, str] = {
    TopicChanged: "topic ",
    AccessChanged: "access ",
    RoleChanged: "role ",
    MessageDeleted: "deleted ",
}


def event(kind: int, text: str) -> ChatBroadcast:
    return ChatBroadcast(65, 1, 0, kind, 3, "bob", text)


def written(said: RoomEvent) -> str:
    """As a server writes it: fields parted by one blank, numbers in decimal digits."""
    fields = (str(int(each)) if isinstance(each, int) else each for each in said)
    return WORDS.get(type(said), "") + " ".join(fields)


@pytest.mark.parametrize("kind", RIGHT)
@given(data=st.data())
def test_what_is_written_is_read(kind: int, data: st.DataObject) -> None:
    said = data.draw(RIGHT[kind])
    read = read_event(event(kind, written(said)))
    assert read == said
    assert type(read) is type(said)


@given(kind=st.integers(0, 255), text=texts)
@example(EventKind.OFFER_TAKEN, "1 2 3 4 5")
@example(EventKind.OFFER_ADDED, "9" * 5000 + " 1 x")
def test_anything_else_is_nothing_and_never_an_error(kind: int, text: str) -> None:
    """What is read is what would be written so, and nothing else."""
    read = read_event(event(kind, text))
    if kind not in RIGHT:
        assert read is None
    elif read is not None:
        assert written(read) == text


@pytest.mark.parametrize("kind", RIGHT)
@given(data=st.data())
def test_what_was_damaged_is_nothing_or_what_it_says(kind: int, data: st.DataObject) -> None:
    text = written(data.draw(RIGHT[kind]))
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.sampled_from(["", " ", "-", "0", "\u0661", "+1"]))
    text = text[:at] + put + text[at + cut :]
    read = read_event(event(kind, text))
    assert read is None or written(read) == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (EventKind.OFFER_ADDED, ""),
        (EventKind.OFFER_ADDED, "1 2"),
        (EventKind.OFFER_ADDED, "1  2 x"),
        (EventKind.OFFER_ADDED, "01 2 x"),
        (EventKind.OFFER_ADDED, f"{2**64} 2 x"),
        (EventKind.OFFER_REMOVED, "1 "),
        (EventKind.OFFER_REMOVED, "-1"),
        (EventKind.OFFER_TAKEN, f"1 2 3 {2**32}"),
        (EventKind.PAYMENT, "1 2 3"),
        (EventKind.ROOM_CHANGED, "topic"),
        (EventKind.ROOM_CHANGED, "access 3"),
        (EventKind.ROOM_CHANGED, "role 1 6"),
        (EventKind.ROOM_CHANGED, "role 1"),
        (EventKind.ROOM_CHANGED, "deleted"),
        (EventKind.ROOM_CHANGED, "colour 3"),
        (EventKind.MESSAGE, "access 2"),
        (EventKind.SYSTEM, "access 2"),
        (200, "access 2"),
    ],
)
def test_what_is_no_event_of_its_kind(kind: int, text: str) -> None:
    assert read_event(event(kind, text)) is None


def test_an_empty_last_field_stays_one() -> None:
    assert read_event(event(EventKind.OFFER_ADDED, "1 2 ")) == OfferAdded(1, 2, "")
    assert read_event(event(EventKind.PAYMENT, "1 2 3 ")) == RoomPayment(1, 2, 3, "")
    assert read_event(event(EventKind.ROOM_CHANGED, "topic ")) == TopicChanged("")


@pytest.mark.parametrize("other", [None, "text", Disconnected(ConnectionLost("gone"))])
def test_what_is_no_event_of_a_room_says_nothing(other: object) -> None:
    """So that a program may pass it all that events() gives."""
    assert read_event(other) is None

"""Reading a missing range again: whatever the server still has, in order, and what it has not."""

from collections.abc import Callable, Generator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.core.gaps import Ask, Found, read_range
from libproto.messages import LIST_MAX, ChatBroadcast, EventKind, RoomGap, RoomHistoryResponse

ROOM, EPOCH = 7, 1


def _event(seq: int) -> ChatBroadcast:
    return ChatBroadcast(ROOM, seq, 0, EventKind.MESSAGE, 1, "alice", str(seq))


class History:
    """A room as ROOM_HISTORY shows it: the events kept, and how many go into one answer."""

    def __init__(self, seqs: list[int], oldest: int, page: int = LIST_MAX) -> None:
        self.seqs = seqs
        self.oldest = oldest
        self.page = page
        self.asked: list[Ask] = []

    def answer(self, ask: Ask) -> RoomHistoryResponse:
        self.asked.append(ask)
        after, limit = ask
        kept = [seq for seq in self.seqs if seq > after and seq >= self.oldest]
        events = tuple(map(_event, kept[: min(limit, self.page)]))
        return RoomHistoryResponse(ROOM, EPOCH, self.oldest, events)


def _drive(
    reading: Generator[Ask, RoomHistoryResponse, Found],
    answer: Callable[[Ask], RoomHistoryResponse],
) -> Found:
    try:
        ask = next(reading)
        while True:
            ask = reading.send(answer(ask))
    except StopIteration as done:
        return cast(Found, done.value)


def _read(history: History, first: int, last: int) -> Found:
    return _drive(read_range(ROOM, first, last), history.answer)


def test_a_range_that_is_all_there() -> None:
    history = History([*range(1, 11)], 1)
    assert _read(history, 3, 5) == [_event(3), _event(4), _event(5)]
    assert history.asked == [(2, 3)]


def test_its_beginning_is_gone() -> None:
    history = History([*range(5, 11)], 5)
    assert _read(history, 3, 6) == [RoomGap(ROOM, 3, 4), _event(5), _event(6)]


@pytest.mark.parametrize("oldest", [7, 8, 11])
def test_all_of_it_is_gone(oldest: int) -> None:
    history = History([*range(oldest, 11)], oldest)
    assert _read(history, 3, 6) == [RoomGap(ROOM, 3, 6)]
    assert len(history.asked) == 1


def test_numbers_that_no_event_ever_had_are_not_missing() -> None:
    assert _read(History([1, 2, 9, 10], 1), 3, 8) == []
    assert _read(History([1, 2, 9, 10], 1), 2, 9) == [_event(2), _event(9)]


def test_more_than_one_answer_holds() -> None:
    history = History([*range(1, 1001)], 1)
    assert _read(history, 1, 1000) == [*map(_event, range(1, 1001))]
    assert [limit for _, limit in history.asked] == [256, 256, 256, 232]


def test_what_goes_while_it_is_read() -> None:
    history = History([*range(1, 21)], 1, page=4)

    def answer(ask: Ask) -> RoomHistoryResponse:
        answered = history.answer(ask)
        history.oldest = 11
        return answered

    found = _drive(read_range(ROOM, 1, 20), answer)
    assert found == [
        *map(_event, range(1, 5)),
        RoomGap(ROOM, 5, 10),
        *map(_event, range(11, 21)),
    ]


def test_an_answer_that_goes_back_ends_it() -> None:
    def answer(ask: Ask) -> RoomHistoryResponse:
        del ask
        return RoomHistoryResponse(ROOM, EPOCH, 1, (_event(1), _event(2)))

    assert _drive(read_range(ROOM, 1, 9), answer) == [_event(1), _event(2)]


@given(
    used=st.sets(st.integers(1, 40)),
    oldest=st.integers(1, 45),
    page=st.integers(1, 10),
    first=st.integers(1, 40),
    length=st.integers(1, 40),
)
def test_any_range(used: set[int], oldest: int, page: int, first: int, length: int) -> None:
    last = first + length - 1
    kept = sorted(seq for seq in used if seq >= oldest)
    found = _read(History(kept, oldest, page), first, last)
    expected: Found = [_event(seq) for seq in kept if first <= seq <= last]
    if oldest > first:
        expected.insert(0, RoomGap(ROOM, first, min(oldest - 1, last)))
    assert found == expected

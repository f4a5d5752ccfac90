"""Where pushes wait: the limit, what is said of what was dropped, and interrupts."""

import threading
from typing import Any

import pytest

from client.core.inbox import SUMS_MAX, Inbox, Notice, TooManyRooms, size_of
from client.core.pushes import PaymentGap, Push, RoomRefused, RoomRestarted
from libproto.errors import Status
from libproto.messages import ChatBroadcast, DirectMessage, EventKind, Payment, RoomGap


def said(room_id: int, seq: int, message: str = "hi") -> ChatBroadcast:
    return ChatBroadcast(room_id, seq, 0, EventKind.MESSAGE, 3, "bob", message)


def paid(txn_id: int) -> Payment:
    return Payment(txn_id, 0, 3, "bob", 5, 5)


def direct(seq: int) -> DirectMessage:
    return DirectMessage(seq, 0, 3, "bob", "psst")


def take_all(inbox: Inbox) -> list[Any]:
    taken: list[Any] = []
    while (item := inbox.take()) is not None:
        taken.append(item)
    return taken


def full(*pushes: Push) -> Inbox:
    """An inbox that holds these and nothing more."""
    inbox = Inbox(sum(map(size_of, pushes)))
    for push in pushes:
        inbox.put(push)
    return inbox


def test_in_order_up_to_the_limit() -> None:
    pushes = [said(1, seq, "x" * seq) for seq in range(1, 100)]
    inbox = full(*pushes)
    assert not inbox.overflowing
    assert take_all(inbox) == pushes
    assert inbox.waiting_len == 0


@pytest.mark.parametrize(
    ("dropped", "told"),
    [
        ([said(1, 3), said(1, 4), said(1, 9)], [RoomGap(1, 3, 9)]),
        ([said(1, 3), said(2, 8), said(1, 4)], [RoomGap(1, 3, 4), RoomGap(2, 8, 8)]),
        ([RoomGap(1, 3, 5), said(1, 6), RoomGap(1, 7, 7)], [RoomGap(1, 3, 7)]),
        ([direct(5), direct(6), RoomGap(0, 7, 9)], [RoomGap(0, 5, 9)]),
        ([paid(10), said(1, 3), paid(70)], [PaymentGap(10, 70), RoomGap(1, 3, 3)]),
        (
            [said(1, 3), RoomRestarted(1, 8, 0), said(1, 1), said(1, 2)],
            [RoomRestarted(1, 8, 0), RoomGap(1, 1, 2)],
        ),
        (
            [said(1, 3), RoomRefused(1, Status.ERR_NOT_FOUND, "gone")],
            [RoomRefused(1, Status.ERR_NOT_FOUND, "gone")],
        ),
        ([Notice(None), Notice(None), Notice(None)], [Notice(None), Notice(None)]),
    ],
)
def test_what_is_dropped_is_summed_up(dropped: list[Push], told: list[Push]) -> None:
    first = [said(1, 1), said(1, 2)]
    inbox = full(*first)
    for push in dropped:
        inbox.put(push)
    assert inbox.overflowing
    counted = [
        each for each in dropped if not isinstance(each, RoomRestarted | RoomRefused | Notice)
    ]
    assert inbox.dropped == len(counted)
    assert take_all(inbox) == [*first, *told]
    assert not inbox.overflowing
    inbox.put(said(1, 100))
    assert take_all(inbox) == [said(1, 100)]


def test_what_is_dropped_is_told_at_the_end_too() -> None:
    inbox = full(said(1, 1))
    inbox.put(said(1, 2))
    inbox.end()
    assert inbox.ended
    assert take_all(inbox) == [said(1, 1), RoomGap(1, 2, 2)]


def test_a_push_above_the_limit_is_dropped_by_itself() -> None:
    inbox = Inbox(2 * size_of(said(1, 1)))
    inbox.put(said(1, 1, "x" * 10_000))
    inbox.put(said(1, 2))
    assert take_all(inbox) == [RoomGap(1, 1, 1), said(1, 2)]


def test_memory_is_bounded_whatever_comes() -> None:
    inbox = Inbox(100_000)
    for seq in range(1, 20_000):
        inbox.put(said(seq % 7, seq, "x" * (seq % 300)))
        inbox.put(paid(seq))
        inbox.put(Notice(None))
    assert inbox.waiting_len <= 100_000
    assert len(take_all(inbox)) < 1000
    room = 10
    while not inbox.overflowing:
        inbox.put(said(room, 1, "x" * 200))
    for room in range(11, 10 + SUMS_MAX):
        inbox.put(said(room, 1))
    with pytest.raises(TooManyRooms):
        inbox.put(said(room + 1, 1))
    inbox.put(said(room, 2))


def test_many_takers_and_one_that_puts() -> None:
    """Each push is taken once; those of each taker are in order."""
    count = 20_000
    inbox = Inbox(1 << 30)
    given: list[list[Push]] = [[] for _ in range(4)]

    def take(mine: list[Push]) -> None:
        while True:
            ended = inbox.ended
            item = inbox.take()
            if item is not None:
                mine.append(item)
            elif ended:
                return

    threads = [threading.Thread(target=take, args=(mine,)) for mine in given]
    for thread in threads:
        thread.start()
    for seq in range(count):
        inbox.put(RoomGap(1, seq, seq))
    inbox.end()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in given)
    assert sorted(push for mine in given for push in mine) == [
        RoomGap(1, seq, seq) for seq in range(count)
    ]

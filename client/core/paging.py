"""Lists that the server gives in parts, read to their end: without input or output.

A reading is a generator. It yields a `Call`, and is sent the answer; or it yields items, for the
program. Each client does that in its own way. A part is asked for when the items before it are
used up, so a list that changes meanwhile is read as it is then: no item comes twice, and none that
was there all the time is missed.
"""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

from client.core import arguments as check
from client.core import calls
from client.core.calls import Call
from client.core.pushes import RoomRestarted
from client.errors import ProtocolViolation
from libproto.messages import (
    BoardEntry,
    ChatBroadcast,
    DirectMessage,
    InboxHistoryResponse,
    Member,
    RoomEntry,
    RoomGap,
    RoomHistoryResponse,
    Transaction,
    TxnHistoryResponse,
)

T = TypeVar("T")

Pages = Generator[Call[Any] | Sequence[T], Any, None]
Items = Generator[T, None, None] | AsyncGenerator[T, None]
"""What the program iterates, of either client."""

INBOX = 0
"""The room whose gaps are of direct messages."""


def iter_rooms(after_room_id: int = 0) -> Pages[RoomEntry]:
    """Every room with members or events, ascending, as `rooms` gives them in parts."""
    return _rooms(check.room(after_room_id, "after_room_id"))


def _rooms(after: int) -> Pages[RoomEntry]:
    while rooms := (yield calls.rooms(after)):
        _check_order(after, *(entry.room_id for entry in rooms))
        yield rooms
        after = rooms[-1].room_id


def iter_members(room_id: int, after_user_id: int = 0) -> Pages[Member]:
    """Every member of a room by ascending user_id, as `members` gives them in parts."""
    return _members(check.room(room_id), check.user(after_user_id, "after_user_id"))


def _members(room_id: int, after: int) -> Pages[Member]:
    while members := (yield calls.members(room_id, after)):
        _check_order(after, *(member.user_id for member in members))
        yield members
        after = members[-1].user_id


def iter_board(room_id: int, contains: str = "", after_entry_id: int = 0) -> Pages[BoardEntry]:
    """Every entry of the board of a joined room whose text contains `contains`, in whatever
    case, by ascending entry_id, as `board` gives them in parts."""
    return _board(
        check.room(room_id),
        check.text("contains", contains),
        check.position(after_entry_id, "after_entry_id"),
    )


def _board(room_id: int, contains: str, after: int) -> Pages[BoardEntry]:
    while entries := (yield calls.board(room_id, after, contains=contains)):
        _check_order(after, *(entry.entry_id for entry in entries))
        yield entries
        after = entries[-1].entry_id


def iter_history(
    room_id: int, after_seq: int = 0, epoch: int | None = None
) -> Pages[ChatBroadcast | RoomGap | RoomRestarted]:
    """The events of a room after `after_seq`, ascending, to the newest one there is.

    A RoomGap is in the place of events that the server keeps no longer, those before the first
    included. A number that is absent without one was never given to an event. `epoch`: that of
    `after_seq`, as `join` or `history` told it. If the room is in another one by now, a
    RoomRestarted is given and then the events from the first on.
    """
    if epoch is not None:
        check.position(epoch, "epoch")
    return _history(check.room(room_id), check.position(after_seq, "after_seq"), epoch)


def _history(
    room_id: int, after: int, epoch: int | None
) -> Pages[ChatBroadcast | RoomGap | RoomRestarted]:
    return _kept(room_id, after, epoch, partial(calls.history, room_id), _room_seq)


def _room_seq(event: ChatBroadcast) -> int:
    return event.room_seq


def _seq(message: DirectMessage) -> int:
    return message.seq


def _kept(
    room_id: int,
    after: int,
    epoch: int | None,
    ask: Callable[[int], Call[Any]],
    seq_of: Callable[[T], int],
) -> Pages[T | RoomGap | RoomRestarted]:
    """What is kept of a room, or of the inbox. ask: for what comes after a number."""
    while True:
        answer: RoomHistoryResponse | InboxHistoryResponse = yield ask(after)
        if epoch not in (None, answer.epoch):
            after, epoch = 0, answer.epoch
            yield [RoomRestarted(room_id, epoch, 0)]
            continue
        epoch = answer.epoch
        found: Sequence[Any] = answer[-1]
        _check_order(after, *map(seq_of, found))
        yield [*_lost(room_id, after, answer.oldest_seq), *found]
        if not found:
            return
        after = seq_of(found[-1])


def iter_inbox(
    after_seq: int = 0, epoch: int | None = None
) -> Pages[DirectMessage | RoomGap | RoomRestarted]:
    """Direct messages to oneself after `after_seq`, ascending, to the newest one there is.

    RoomGap, RoomRestarted and `epoch` are as those of `iter_history`; the room is 0.
    """
    if epoch is not None:
        check.position(epoch, "epoch")
    return _inbox(check.position(after_seq, "after_seq"), epoch)


def _inbox(after: int, epoch: int | None) -> Pages[DirectMessage | RoomGap | RoomRestarted]:
    return _kept(INBOX, after, epoch, calls.inbox_history, _seq)


def iter_transactions(before_txn_id: int = 0) -> Pages[Transaction]:
    """One's own transactions, newest first, to the oldest that the server keeps. before_txn_id:
    only those that are older, 0: from the newest.

    Those that come meanwhile are newer than the first, and not among them. Whether there were
    older ones than the last, the `oldest_txn_id` of `transactions` tells.
    """
    return _transactions(check.position(before_txn_id, "before_txn_id"))


def _transactions(before: int) -> Pages[Transaction]:
    while True:
        answer: TxnHistoryResponse = yield calls.transactions(before)
        if not answer.transactions:
            return
        numbers = [-transaction.txn_id for transaction in answer.transactions]
        _check_order(-before if before else numbers[0] - 1, *numbers)
        yield answer.transactions
        before = answer.transactions[-1].txn_id


def _lost(room_id: int, after: int, oldest: int) -> list[RoomGap]:
    return [RoomGap(room_id, after + 1, oldest - 1)] if oldest > after + 1 else []


def _check_order(after: int, *numbers: int) -> None:
    """A list that does not go on would be read for ever."""
    for number in numbers:
        if number <= after:
            _violation()
        after = number


def _violation() -> NoReturn:
    raise ProtocolViolation("the server sent a list whose items are not in order")

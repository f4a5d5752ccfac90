"""What the event of a room says, beside a message: its text read into typed fields.

A server sends the events of the kinds 4 to 9 as text in fields parted by one blank, decimal numbers
first and the free text last. A client must not fail by what a later server sends: a kind that is
not known here, and a text that is not of its kind, are read as None, and shown as nothing.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from libproto.messages import ChatBroadcast, EventKind, RoomAccess, RoomRole

U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1
_DIGITS_MAX: Final = len(str(U64_MAX))


class OfferAdded(NamedTuple):
    """An entry was put on the board by `from_user`. price: minor units, 0 for a note. text: empty
    if it was deleted since."""

    entry_id: int
    price: int
    text: str


class OfferRemoved(NamedTuple):
    """An entry was taken off the board by its owner, or a moderator."""

    entry_id: int


class OfferTaken(NamedTuple):
    """An offer was taken by `from_user`, who paid `price`, minor units, to its `owner`, a user_id,
    in this transaction."""

    entry_id: int
    txn_id: int
    price: int
    owner: int


class RoomPayment(NamedTuple):
    """`from_user` paid somebody in the room. to_user: user_id; amount: minor units."""

    txn_id: int
    to_user: int
    amount: int
    note: str


class FileShared(NamedTuple):
    """`from_user` shared a file. size: bytes; name: empty if it was deleted since."""

    file_id: int
    size: int
    media_type: str
    name: str


class TopicChanged(NamedTuple):
    """The room has another topic."""

    topic: str


class AccessChanged(NamedTuple):
    """Who may join the room is another; CLOSED: it is no more, and everybody has left it."""

    access: RoomAccess


class RoleChanged(NamedTuple):
    """A user has another role in the room."""

    user_id: int
    role: RoomRole


class MessageDeleted(NamedTuple):
    """The text of an earlier event of the room was deleted."""

    room_seq: int


RoomEvent = (
    OfferAdded
    | OfferRemoved
    | OfferTaken
    | RoomPayment
    | FileShared
    | TopicChanged
    | AccessChanged
    | RoleChanged
    | MessageDeleted
)
"""What an event says that is neither a message nor somebody's coming or going."""


def read_event(event: object) -> RoomEvent | None:
    """Return what an event says; None if it is a message, a coming or going, of a kind that is not
    known here, or not as its kind is; and for what is no ChatBroadcast. Never raises."""
    if not isinstance(event, ChatBroadcast):
        return None
    read = _READERS.get(event.kind)
    if read is None:
        return None
    try:
        return read(event.message)
    except ValueError:
        return None


def _number(text: str, most: int = U64_MAX) -> int:
    """A decimal number as a server writes it. ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise ValueError(text)
    number = int(text)
    if number > most or str(number) != text:
        raise ValueError(text)
    return number


def _fields(text: str, count: int) -> list[str]:
    """Exactly so many fields; the last has what is left, blanks and all. ValueError."""
    found = text.split(" ", count - 1)
    if len(found) != count:
        raise ValueError(text)
    return found


def _added(text: str) -> OfferAdded:
    entry_id, price, rest = _fields(text, 3)
    return OfferAdded(_number(entry_id), _number(price), rest)


def _removed(text: str) -> OfferRemoved:
    return OfferRemoved(_number(text))


def _taken(text: str) -> OfferTaken:
    entry_id, txn_id, price, owner = _fields(text, 4)
    return OfferTaken(_number(entry_id), _number(txn_id), _number(price), _number(owner, U32_MAX))


def _payment(text: str) -> RoomPayment:
    txn_id, to_user, amount, note = _fields(text, 4)
    return RoomPayment(_number(txn_id), _number(to_user, U32_MAX), _number(amount), note)


def _file(text: str) -> FileShared:
    file_id, size, media_type, name = _fields(text, 4)
    return FileShared(_number(file_id), _number(size), media_type, name)


def _changed(text: str) -> RoomEvent:
    word, rest = _fields(text, 2)
    match word:
        case "topic":
            return TopicChanged(rest)
        case "access":
            return AccessChanged(RoomAccess(_number(rest)))
        case "role":
            user_id, role = _fields(rest, 2)
            return RoleChanged(_number(user_id, U32_MAX), RoomRole(_number(role)))
        case "deleted":
            return MessageDeleted(_number(rest))
    raise ValueError(text)


_FILE: Final = 8

_READERS: Final[dict[int, Callable[[str], RoomEvent]]] = {
    EventKind.OFFER_ADDED: _added,
    EventKind.OFFER_REMOVED: _removed,
    EventKind.OFFER_TAKEN: _taken,
    EventKind.PAYMENT: _payment,
    _FILE: _file,
    EventKind.ROOM_CHANGED: _changed,
}

"""Lines about rooms and boards: what the events of a room say beside messages, entries of boards,
and rooms. What others wrote is a part of its own, so that it is set apart where it is shown.
"""

import unicodedata
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from client.amounts import format_amount
from client.core.calls import RoomInfo
from client.core.room_events import (
    AccessChanged,
    FileShared,
    MessageDeleted,
    OfferAdded,
    OfferRemoved,
    OfferTaken,
    RoleChanged,
    RoomEvent,
    RoomPayment,
    TopicChanged,
    read_event,
)
from client.terminal.style import Line, Style
from libproto.messages import BoardEntry, ChatBroadcast, RoomAccess, RoomEntry, RoomRole

Names = Mapping[int, str]
"""Of users, by their ids; who is not among them is shown by the number."""

_ROLES = {
    RoomRole.NONE: "has no role any more",
    RoomRole.MEMBER: "is a member",
    RoomRole.MODERATOR: "is a moderator",
    RoomRole.OWNER: "is the owner",
    RoomRole.MUTED: "is muted",
    RoomRole.BANNED: "was put out",
}
_ACCESSES = {
    RoomAccess.PUBLIC: "everybody may join the room",
    RoomAccess.INVITED: "the room is joined by invitation only",
    RoomAccess.CLOSED: "the room is closed",
}


def plain_name(name: str) -> str:
    """A name of a room as names are compared: those that are equal are one room's."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def users_of(event: ChatBroadcast) -> tuple[int, ...]:
    """The users whose names a line about this event needs, but who made it."""
    match read_event(event):
        case OfferTaken(owner=user) | RoomPayment(to_user=user) | RoleChanged(user_id=user):
            return (user,) if user != event.from_user else ()
    return ()


def said_line(event: ChatBroadcast, names: Names) -> Line:
    """What an event says, behind its place: `alice offers a lamp for 2.50 (#17)`. Empty where it is
    to be shown as nothing."""
    said = read_event(event)
    if said is None:
        return []
    return [(Style.PERSON, event.from_name), *_said(said, {**names, event.from_user: ""}, event)]


def _said(said: RoomEvent, names: Names, event: ChatBroadcast) -> Line:
    match said:
        case OfferAdded(entry_id, 0, text):
            return [" notes: ", text or _DELETED, _number(entry_id)]
        case OfferAdded(entry_id, price, text):
            return [" offers for ", _money(price), ": ", text or _DELETED, _number(entry_id)]
        case OfferRemoved(entry_id):
            return [f" took #{entry_id} off the board"]
        case OfferTaken(entry_id, _, price, owner):
            return [f" took #{entry_id} of {_who(owner, names)} for ", _money(price)]
        case RoomPayment(_, to_user, amount, note):
            paid: Line = [f" paid {_who(to_user, names)} ", _money(amount)]
            return [*paid, ": ", note] if note else paid
        case FileShared(file_id, size, media_type, name):
            about = f" ({media_type}, {size} bytes, file {file_id})"
            return [" shared ", name or _DELETED, (Style.QUIET, about)]
        case TopicChanged(topic):
            return [" set the topic: ", topic] if topic else [" removed the topic"]
        case AccessChanged(access):
            return [": ", (Style.QUIET, _ACCESSES[access])]
        case RoleChanged(user_id, role):
            if user_id == event.from_user:
                return [(Style.QUIET, " opened the room")]
            return [": ", (Style.QUIET, f"{_who(user_id, names)} {_ROLES[role]}")]
        case MessageDeleted(room_seq):
            return [(Style.QUIET, f" deleted event {room_seq}")]


_DELETED = (Style.QUIET, "(deleted)")


def _number(entry_id: int) -> tuple[Style, str]:
    return (Style.QUIET, f" (#{entry_id})")


def _money(amount: int) -> tuple[Style, str]:
    return (Style.MONEY, format_amount(amount))


def _who(user_id: int, names: Names) -> str:
    return names.get(user_id) or f"user {user_id}"


def said_fields(event: ChatBroadcast) -> dict[str, Any]:
    """The same for JSON: `details`, the fields of what is said; nothing where there is none."""
    said = read_event(event)
    if said is None:
        return {}
    fields = {name: _word(value) for name, value in said._asdict().items()}
    return {"details": {"what": _snake(type(said).__name__), **fields}}


def _word(value: Any) -> Any:
    return value.name.lower() if isinstance(value, IntEnum) else value


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")


# ---- boards and rooms


def entry_line(entry: BoardEntry) -> Line:
    """`#17 2.50 alice: a lamp`; a note has no price."""
    price: Line = [_money(entry.price), " "] if entry.price else [(Style.QUIET, "note ")]
    return [
        (Style.QUIET, f"#{entry.entry_id} "),
        *price,
        (Style.PERSON, entry.username),
        ": ",
        entry.text or _DELETED,
    ]


def stats_lines(entries: list[BoardEntry]) -> list[Line]:
    """How many there are, what they cost, and whose they are."""
    prices = sorted(entry.price for entry in entries if entry.price)
    notes = len(entries) - len(prices)
    lines: list[Line] = [[f"{_count(len(prices), 'offer')}, {_count(notes, 'note')}"]]
    if prices:
        middle = prices[(len(prices) - 1) // 2]
        shown = [format_amount(each) for each in (prices[0], middle, prices[-1], sum(prices))]
        lines.append(
            [f"prices from {shown[0]} to {shown[2]}, half up to {shown[1]}, together {shown[3]}"]
        )
    for name in sorted({entry.username for entry in entries}):
        own = [entry for entry in entries if entry.username == name]
        offers = sum(1 for entry in own if entry.price)
        lines.append(
            [
                (Style.PERSON, name),
                f": {_count(offers, 'offer')}, {_count(len(own) - offers, 'note')}",
            ]
        )
    return lines


def room_line(room: RoomEntry, info: RoomInfo, unread: int = 0) -> Line:
    """`[room 65] gold, 2 members, last event 9, 3 unread, private: all things gold`."""
    line: Line = [(Style.PLACE, f"[room {room.room_id}]"), " "]
    if info.name:
        line += [(Style.PERSON, info.name), ", "]
    line.append(f"{_count(room.member_count, 'member')}, last event {room.last_seq}")
    if unread:
        line.append((Style.PERSON, f", {unread} unread"))
    if info.access != RoomAccess.PUBLIC:
        line.append((Style.QUIET, f", {access_word(info.access)}"))
    if info.role != RoomRole.NONE:
        line.append((Style.QUIET, f", you are {info.role.name.lower()}"))
    return [*line, ": ", info.topic] if info.topic else line


def room_fields(room: RoomEntry, info: RoomInfo) -> dict[str, Any]:
    """The same for JSON."""
    return {
        **room._asdict(),
        **{name: _word(value) for name, value in info._asdict().items()},
        "access": access_word(info.access),
    }


ACCESSES = {
    "public": RoomAccess.PUBLIC,
    "private": RoomAccess.INVITED,
}
"""What people call them; a room is closed by a command of its own."""

ROLES = {
    "none": RoomRole.NONE,
    "member": RoomRole.MEMBER,
    "moderator": RoomRole.MODERATOR,
    "owner": RoomRole.OWNER,
}
"""The same of roles; mutes and bans are commands of their own."""


def access_word(access: RoomAccess) -> str:
    """What people call it."""
    words = {value: word for word, value in ACCESSES.items()}
    return words.get(access, "closed")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

"""Rooms that were opened by name: what they are, and what each user may do in them.

Rooms up to `numbered` are there without being opened: public, without a name or an owner, and
nothing about them changes. A room above that is there from a ROOM_OPEN until it is closed; its
number may be used again, for another room, when nothing of the old one is left to be seen.

All of it changes under the log lock and the event lock together, as a record of the log
(`Changes`), so what is read under either of the two does not change meanwhile.
"""

import unicodedata
import zlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from libproto.messages import RoomAccess, RoomRole
from server.core.errors import NoSuchRoom, NotAllowed, TableFull
from server.core.table import Table
from server.region.layout import NAME_MAX, WORD
from server.region.records import OFFSETS, TEXT_MAX, RecordKind
from server.region.region import Region

OWNED_MAX: Final = 8
"""Rooms that a user may own."""

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = 2**64 - 1
_AT: Final = OFFSETS[RecordKind.ROOM_OPENED]
_TXN, _KIND, _TIME = _AT["txn_id"], _AT["kind"], _AT["time"]
_USER, _SUBJECT, _VALUE, _UNTIL = _AT["user"], _AT["subject"], _AT["value"], _AT["until"]
_ROOM, _ROOM_SEQ = _AT["room"], _AT["room_seq"]
_HELD: Final = (RoomRole.MUTED, RoomRole.BANNED)
"""Roles that stand over another, which is back when they end."""


class RoomInfo(NamedTuple):
    """What a user is told of a room."""

    name: str
    topic: str
    owner: int  # user id; 0: nobody
    access: int
    role: int  # the user's


class Standing(NamedTuple):
    """What a user is in a room."""

    role: int
    below: int  # of who is muted or banned, the role that is back afterwards; else the role


def likeness(name: str) -> int:
    """A number that names have in common which are the same room's; not 0."""
    folded = plain(name).encode()
    return zlib.crc32(folded) << 32 | zlib.crc32(folded, 1) or 1


def plain(name: str) -> str:
    """A name as names are compared."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def epoch_of(epoch: int, opened: int) -> int:
    """The epoch of a room's numbers: that of all rooms, where it was never opened by name. opened:
    the txn_id by which it was opened the last time."""
    if not opened:
        return epoch
    return (epoch ^ opened * _GOLDEN) & _MASK or 1


class Rooms:
    """The rooms as one worker sees them."""

    def __init__(self, region: Region, clock_us: Callable[[], int], numbered: int) -> None:
        """clock_us: lived time, microseconds. numbered: rooms up to this one are never opened."""
        layout = region.layout
        self._region, self._words, self._bytes = region, region.words, region.bytes
        self._clock_us = clock_us
        self._rooms, self._roles = layout["rooms"], layout["roles"]
        self._epoch: Final = region.header.index("epoch")
        self._durable: Final = region.events.index("durable")
        self._table: Final = Table(
            region, self._roles, region.log.index("role_probes"), self._is_free
        )
        offsets = self._rooms.offsets
        self._opened, self._access = offsets["opened"], offsets["access"]
        self._owner = offsets["owner"]
        self.numbered: Final = min(numbered, self._rooms.records - 1)

    # ---- what a room is

    def _at(self, room: int) -> int:
        return self._rooms.base + room * self._rooms.stride

    def is_one(self, room: int) -> bool:
        """May there be a room of that number?"""
        return 0 < room < self._rooms.records

    def opened(self, room: int) -> int:
        """The txn_id by which a room was opened the last time; 0: never."""
        return self._words[self._at(room) + self._opened]

    def is_open(self, room: int) -> bool:
        """Was it opened by name, and not closed since?"""
        at = self._at(room)
        return bool(self._words[at + self._opened]) and (
            self._words[at + self._access] != RoomAccess.CLOSED
        )

    def is_there(self, room: int) -> bool:
        """Can it be joined by anybody at all?"""
        return self.is_one(room) and (room <= self.numbered or self.is_open(room))

    def is_closed(self, room: int) -> bool:
        """Was it closed, and its number not used again?"""
        return self.is_one(room) and bool(self.opened(room)) and not self.is_open(room)

    def check_there(self, room: int) -> None:
        """NoSuchRoom, also of one that is closed."""
        if not self.is_there(room):
            raise NoSuchRoom

    def check_known(self, room: int) -> None:
        """NoSuchRoom; one that is closed is known until its number is used again."""
        if not self.is_closed(room):
            self.check_there(room)

    def epoch(self, room: int) -> int:
        """That the numbers of the room belong to."""
        return epoch_of(self._words[self._epoch], self.opened(room))

    def first_seq(self, room: int) -> int:
        """The room_seq of its first event since it was opened; of a numbered room 0."""
        return self._words[self._at(room) + self._rooms.offsets["first_seq"]]

    def info(self, room: int, user: int) -> RoomInfo:
        """Under the log lock or the event lock, of a room that is there."""
        if not self.is_open(room):
            return RoomInfo("", "", 0, int(RoomAccess.PUBLIC), int(RoomRole.NONE))
        words, at = self._words, self._at(room)
        name, topic = self._text(room, "name", NAME_MAX), self._text(room, "topic", TEXT_MAX)
        role = self.standing(room, user).role
        return RoomInfo(name, topic, words[at + self._owner], words[at + self._access], role)

    def access(self, room: int) -> int:
        return self._words[self._at(room) + self._access]

    def owner(self, room: int) -> int:
        return self._words[self._at(room) + self._owner]

    def topic(self, room: int) -> str:
        return self._text(room, "topic", TEXT_MAX)

    def _text(self, room: int, field: str, size: int) -> str:
        at = self._rooms.at(room, field) * WORD
        return bytes(self._bytes[at : at + size]).rstrip(b"\0").decode()

    def find(self, name: str) -> int:
        """The open room of a name; 0: none."""
        wanted, folded = likeness(name), plain(name)
        column = self._region.column("rooms", "likeness")
        for room, found in enumerate(column):
            if found == wanted and plain(self._text(room, "name", NAME_MAX)) == folded:
                return room
        return 0

    def free_room(self, now: int, retention_us: int) -> int:
        """The lowest number that a room may be opened on; 0: none. One that was closed is kept for
        the retention time, until nobody is in it, and its last event is durable."""
        rooms, words, durable = self._rooms, self._words, self._words[self._durable]
        at = rooms.offsets
        for room in range(self.numbered + 1, rooms.records):
            first = self._at(room)
            if not words[first + at["opened"]]:
                return room
            if (
                words[first + at["access"]] == RoomAccess.CLOSED
                and not words[first + at["members"]]
                and words[first + at["last_event"]] <= durable
                and words[first + at["closed"]] + retention_us <= now
            ):
                return room
        return 0

    def owned(self, user: int) -> int:
        """How many rooms a user owns."""
        return self._region.column("rooms", "owner").count(user)

    # ---- what a user is in it

    def standing(self, room: int, user: int) -> Standing:
        """What a user is in a room now."""
        if self.is_open(room) and self.owner(room) == user:
            return Standing(RoomRole.OWNER, RoomRole.OWNER)
        words, at = self._words, self._role_at(room, user)
        if not at:
            return Standing(RoomRole.NONE, RoomRole.NONE)
        below, role = divmod(words[at + 2], 256)
        if role not in _HELD:
            return Standing(role, role)
        until = words[at + 3]
        return Standing(below if until and until <= self._clock_us() else role, below)

    def check_join(self, room: int, user: int) -> None:
        """Whether a user may join a room, and read its history. NoSuchRoom, NotAllowed."""
        if not self.is_one(room):
            raise NoSuchRoom
        at = self._at(room)
        if not self._words[at + self._opened]:
            if room > self.numbered:
                raise NoSuchRoom
            return
        access = self._words[at + self._access]
        if access == RoomAccess.CLOSED:
            raise NotAllowed("the room is closed")
        role, below = self.standing(room, user)
        if role == RoomRole.BANNED:
            raise NotAllowed("you are banned from the room")
        if access == RoomAccess.INVITED and below == RoomRole.NONE:
            raise NotAllowed("the room is joined by invitation only")

    def check_inside(self, room: int, user: int) -> None:
        """Whether a user who has joined a room is still in it: a ban, and a closing, are complete
        with their record, though the leave comes later. NotAllowed."""
        if why := self._why_outside(room, user):
            raise NotAllowed(why)

    def _why_outside(self, room: int, user: int) -> str:
        """Why a user who has joined a room is not in it any more; empty: it is."""
        if self.opened(room):
            if not self.is_open(room):
                return "the room is closed"
            if self.standing(room, user).role == RoomRole.BANNED:
                return "you are banned from the room"
        return ""

    def check_speak(self, room: int, user: int) -> None:
        """Whether a user who has joined a room may write in it. NotAllowed."""
        self.check_inside(room, user)
        if self.standing(room, user).role == RoomRole.MUTED:
            raise NotAllowed("you are muted in the room")

    def may_stay(self, room: int, user: int, opened: int) -> bool:
        """May a user who has joined the room, as it was opened then, still be in it?"""
        return self.opened(room) == opened and not self._why_outside(room, user)

    def _role_at(self, room: int, user: int) -> int:
        """The word of what is known of a user's role; 0: nothing."""
        opened = self.opened(room)
        at = self._table.find(room << 32 | user) if opened else 0
        return at if at and self._words[at + 1] == opened else 0

    def first_place(self, room: int, user: int) -> int:
        """Where a role of a user is looked for first."""
        return self._table.first_place(room << 32 | user)

    def _is_free(self, at: int) -> bool:
        """May the place of a role be used for another?"""
        words = self._words
        return not words[at + 2] or words[at + 1] != self.opened(words[at] >> 32)

    def check_place_for(self, room: int, user: int) -> None:
        """TableFull, unless a role of a user stands somewhere, or may."""
        if not self._table.place_for(room << 32 | user):
            raise TableFull("room_roles")

    # ---- changes, under the log and event locks

    def apply(self, record: Sequence[int], text: bytes) -> None:
        """Store what the record of a change of a room says. Again without harm."""
        words, kind, room = self._words, record[_KIND], record[_ROOM]
        at, offsets = self._at(room), self._rooms.offsets
        if kind == RecordKind.ROOM_OPENED:
            self._store_text(room, "name", NAME_MAX, text)
            self._store_text(room, "topic", TEXT_MAX, b"")
            words[at + offsets["first_seq"]] = record[_ROOM_SEQ]
            words[at + offsets["closed"]] = words[at + offsets["offers"]] = 0
            words[at + self._owner] = record[_USER]
            words[at + offsets["likeness"]] = likeness(text.decode())
            words[at + self._access] = RoomAccess.PUBLIC
            words[at + self._opened] = record[_TXN]
        elif kind == RecordKind.ROOM_TOPIC:
            self._store_text(room, "topic", TEXT_MAX, text)
        elif kind == RecordKind.ROOM_ACCESS:
            words[at + self._access] = record[_VALUE]
            if record[_VALUE] == RoomAccess.CLOSED:
                words[at + offsets["closed"]] = record[_TIME]
                words[at + self._owner] = words[at + offsets["likeness"]] = 0
                words[at + offsets["offers"]] = 0
        elif kind == RecordKind.ROOM_ROLE:
            self._apply_role(room, record[_USER], record[_SUBJECT], record[_VALUE], record[_UNTIL])

    def _apply_role(self, room: int, by: int, user: int, role: int, until: int) -> None:
        if role == RoomRole.OWNER:
            self.set_role(room, by, RoomRole.MODERATOR, 0, 0)
            self._words[self._at(room) + self._owner] = user
            self.set_role(room, user, RoomRole.NONE, 0, 0)
        elif role in _HELD:
            self.set_role(room, user, role, self.standing(room, user).below, until)
        else:
            self.set_role(room, user, role, 0, 0)

    def set_role(self, room: int, user: int, role: int, below: int, until: int) -> None:
        """Store a role; NONE needs no place. below: of a mute or a ban, what is back when it ends.
        until: lived time, microseconds; 0: never."""
        words = self._words
        if role == RoomRole.NONE and not self._role_at(room, user):
            return
        at = self._table.claim(room << 32 | user, 2)
        words[at + 3] = until
        words[at + 2] = below << 8 | role
        words[at + 1] = self.opened(room)

    def _store_text(self, room: int, field: str, size: int, text: bytes) -> None:
        at = self._rooms.at(room, field) * WORD
        self._bytes[at : at + size] = text.ljust(size, b"\0")

    def lived(self) -> int:
        """Lived time now, microseconds."""
        return self._clock_us()

"""Rooms that were opened by name, roles in them and boards, as the journal's records make them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from libproto.messages import RoomAccess, RoomRole
from server.core.boards import Offer
from server.core.rooms import plain
from server.journal.errors import Inconsistent
from server.journal.format import BatchKind
from server.region.layout import NAME_MAX
from server.region.records import OFFSETS, TEXT_BYTES, TEXT_MAX, TEXTS_MAX, RecordKind

_AT: Final = OFFSETS[RecordKind.ROOM_OPENED]
_TXN, _KIND, _TIME, _USER = (_AT[name] for name in ("txn_id", "kind", "time", "user"))
_SUBJECT, _VALUE, _DETAIL = (_AT[name] for name in ("subject", "value", "detail"))
_SIZE, _ROOM, _ROOM_SEQ = (_AT[name] for name in ("text_size", "room", "room_seq"))
_US: Final = 1_000_000


@dataclass(slots=True)
class NamedRoom:
    """A room that was opened by name, closed or not."""

    opened: int  # txn_id
    first_seq: int  # of its first event; 0: its numbers began anew since
    owner: int  # user id; 0: it is closed
    access: int = RoomAccess.PUBLIC
    closed: int = 0  # when, microseconds since the Unix epoch
    name: bytes = b""
    topic: bytes = b""

    @property
    def is_open(self) -> bool:
        return self.access != RoomAccess.CLOSED


def compared_name(txn: int, name: bytes) -> str:
    """What no two open rooms have the same of. Inconsistent."""
    try:
        return plain(name.decode())
    except UnicodeDecodeError as error:
        raise Inconsistent(txn, f"a room's name, {name!r}, is not UTF-8") from error


@dataclass(slots=True)
class NamedRooms:
    """All of them, at one place of the journal; to begin with, those of a server that nobody has
    used."""

    rooms: dict[int, NamedRoom] = field(default_factory=dict)  # by room id
    names: dict[str, int] = field(default_factory=dict)  # room id by name, as names are compared
    # By room and user: the role, the one that is back when a mute or ban ends, and the lived time
    # of that; 0: never.
    roles: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=dict)
    offers: dict[int, Offer] = field(default_factory=dict)  # by entry_id, ascending
    lived: int = 0  # microseconds that servers have lived, as far as their batches tell
    batch_time: int = 0  # of the batch before, microseconds since the Unix epoch
    _text: list[bytes] = field(default_factory=list)  # of a change that comes

    # ---- time, and numbers

    def pass_time(self, kind: int, time: int) -> None:
        """A batch was written, at that time, microseconds since the Unix epoch."""
        if kind != BatchKind.BEGIN and time > self.batch_time > 0:
            self.lived += time - self.batch_time
        self.batch_time = time

    def is_as(self, other: "NamedRooms") -> bool:
        """Is all as in another, wherever lived time begins? A snapshot of format 3 did not tell of
        it."""
        return (self.rooms, self.names, self.offers, self._roles()) == (
            other.rooms, other.names, other.offers, other._roles(),
        )  # fmt: skip

    def _roles(self) -> dict[tuple[int, int], tuple[int, int, int]]:
        """With the time for which they last."""
        return {
            key: (role, below, until and until - self.lived)
            for key, (role, below, until) in self.roles.items()
        }

    def begin_anew(self) -> None:
        """The numbers of all rooms began anew."""
        for room in self.rooms.values():
            room.first_seq = 0

    # ---- records

    @property
    def awaits_change(self) -> bool:
        """Was there a text, and not yet what it is of?"""
        return bool(self._text)

    def add_text(self, txn: int, text: bytes) -> None:
        """A part of the text of a change that follows. Inconsistent."""
        if len(self._text) == TEXTS_MAX:
            raise Inconsistent(txn, "a text is longer than any change may have")
        self._text.append(text)

    def apply(self, record: Sequence[int], users: int) -> None:
        """A change of a room or a board. users: how many there are. Inconsistent: it does not
        follow from what was before."""
        txn, kind, room, by = record[_TXN], record[_KIND], record[_ROOM], record[_USER]
        text = self.take_text(txn, record[_SIZE])
        if not 0 < by <= users or record[_SUBJECT] > users:
            raise Inconsistent(txn, f"there is no user {max(by, record[_SUBJECT])}")
        if kind == RecordKind.ROOM_OPENED:
            self._open(txn, room, record[_ROOM_SEQ], by, text)
        elif kind == RecordKind.OFFER_ADDED:
            if room in self.rooms:
                self._open_room(txn, room)
            self.offers[txn] = Offer(txn, room, record[_TIME], by, record[_VALUE], text)
        elif kind == RecordKind.OFFER_REMOVED:
            offer = self.offers.pop(record[_VALUE], None)
            if offer is None or offer.room != room:
                raise Inconsistent(txn, f"no offer {record[_VALUE]} is on the board of room {room}")
        elif kind == RecordKind.ROOM_TOPIC:
            self._open_room(txn, room).topic = text
        elif kind == RecordKind.ROOM_ACCESS:
            self._set_access(txn, room, record[_VALUE], record[_TIME])
        elif kind == RecordKind.ROOM_ROLE:
            self._set_role(txn, room, by, record[_SUBJECT], record[_VALUE], record[_DETAIL])
        elif kind == RecordKind.TEXT_DELETED:
            offer = self.offers.get(record[_DETAIL])
            if offer is not None:
                self.offers[offer.entry] = offer._replace(text=b"")
        else:
            raise Inconsistent(txn, f"there is no kind {kind}")

    def take(self, txn: int, room: int, entry: int, owner: int, price: int) -> None:
        """An offer is taken. Inconsistent."""
        offer = self.offers.pop(entry, None)
        if offer is None or (offer.room, offer.user, offer.price) != (room, owner, price):
            why = f"no offer {entry} of user {owner} for {price} is on the board of room {room}"
            raise Inconsistent(txn, why)

    def take_text(self, txn: int, size: int) -> bytes:
        """The text of the record that follows it. Inconsistent."""
        text = b"".join(self._text)
        self._text = []
        if size > TEXT_MAX or len(text) - size not in range(TEXT_BYTES) or any(text[size:]):
            raise Inconsistent(txn, f"a text of {size} bytes is not there")
        return text[:size]

    def _open_room(self, txn: int, room: int) -> NamedRoom:
        found = self.rooms.get(room)
        if found is None or not found.is_open:
            raise Inconsistent(txn, f"room {room} is not open")
        return found

    def _open(self, txn: int, room: int, seq: int, owner: int, name: bytes) -> None:
        before, compared = self.rooms.get(room), compared_name(txn, name)
        if not room or (before is not None and before.is_open):
            raise Inconsistent(txn, f"room {room} is open")
        if not name or len(name) > NAME_MAX or compared in self.names:
            raise Inconsistent(txn, f"the name {name!r} is taken, or none")
        self.rooms[room] = NamedRoom(txn, seq, owner, name=name)
        self.names[compared] = room

    def _set_access(self, txn: int, room: int, access: int, time: int) -> None:
        found = self._open_room(txn, room)
        if access not in tuple(RoomAccess):
            raise Inconsistent(txn, f"there is no access {access}")
        found.access = access
        if access == RoomAccess.CLOSED:
            found.owner, found.closed = 0, time
            del self.names[compared_name(txn, found.name)]
            self.roles = {key: role for key, role in self.roles.items() if key[0] != room}
            self.offers = {e: offer for e, offer in self.offers.items() if offer.room != room}

    def _set_role(self, txn: int, room: int, by: int, user: int, role: int, seconds: int) -> None:
        found = self._open_room(txn, room)
        if not user or role not in tuple(RoomRole):
            raise Inconsistent(txn, f"user {user} cannot have the role {role}")
        key = room, user
        if role == RoomRole.OWNER:
            if found.owner != by:
                raise Inconsistent(txn, f"user {by} does not own room {room}")
            self.roles[room, by] = int(RoomRole.MODERATOR), 0, 0
            self.roles.pop(key, None)
            found.owner = user
        elif role in (RoomRole.MUTED, RoomRole.BANNED):
            now, below, _ = self.roles.get(key, (0, 0, 0))
            held = now in (RoomRole.MUTED, RoomRole.BANNED)
            until = self.lived + seconds * _US if seconds else 0
            self.roles[key] = role, below if held else now, until
        elif role:
            self.roles[key] = role, 0, 0
        else:
            self.roles.pop(key, None)

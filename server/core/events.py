"""The event ring: it carries all that is pushed, and what each event changes.

Every slot of the ring holds the finished push frame, so fan-out is a copy. `publish` is the only
place that makes an event, and its caller holds the event lock: the slot's old commit word is
cleared, payload and frame are written, the commit word is stored, then what the event changes
(`_complete`), the head last. That can be done again from the slot alone, so a worker that dies in
between leaves nothing half-done: the repair calls `complete`.
"""

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from libproto.messages import HEADER_LEN
from server.core.errors import RoomsBehind
from server.core.room_bits import RoomBits
from server.region.layout import WORD
from server.region.region import Region


class SlotKind(IntEnum):
    """What an event ring slot holds; the first four are the wire's EventKind."""

    MESSAGE = 0
    JOINED = 1
    LEFT = 2
    SYSTEM = 3
    DIRECT = 16
    PAYMENT = 17
    SUPERSEDED = 18  # no frame: for the session's worker


class Event(NamedTuple):
    """A slot of the ring, as read. `frame` is empty where nobody here wants it."""

    kind: int
    room: int
    seq: int
    user: int
    session: int
    frame: bytes


_HEAD = Struct("=7Q")  # kind, room, seq, user, session, previous, frame_len
_HEAD_WORDS = 8  # with the word before them


class Events:
    """The event ring and the rooms' counters as one worker sees them."""

    def __init__(self, region: Region, bits: RoomBits) -> None:
        layout = region.layout
        self._words, self._bytes, self._bits = region.words, region.bytes, bits
        self._rooms, self._users = layout["rooms"], layout["users"]
        self._head = region.events.index("head")
        ring = layout["event_ring"]
        self._ring, self._stride, self._mask = ring.base, ring.stride, ring.records - 1
        self._frame = ring.offsets["frame"]
        self._frame_size = ring.lengths["frame"] * WORD
        assert self._frame == _HEAD_WORDS
        rooms = self._rooms.offsets
        self._last, self._oldest = rooms["last_seq"], rooms["oldest_seq"]
        self._last_event = rooms["last_event"]
        self._reserved, self._kept = rooms["reserved"], rooms["kept"]

    # ---- publishing, under the event lock

    def next_seq(self, room: int) -> int:
        """The room_seq that the room's next event gets. RoomsBehind."""
        words, at = self._words, self._room(room)
        seq: int = words[at + self._last] + 1
        if seq > words[at + self._reserved]:
            raise RoomsBehind
        return seq

    def publish(
        self, kind: int, room: int, seq: int, user: int, session: int, frame: bytes
    ) -> None:
        """Make an event. kind: SlotKind. seq: the room_seq, or the recipient's direct_seq where
        room is 0. user: who joins or leaves; the recipient where room is 0. session: slot + 1 of
        the one that joins, leaves or is superseded."""
        words, blob = self._words, self._bytes
        number = words[self._head] + 1
        slot = self._ring + (number & self._mask) * self._stride
        previous = words[self._room(room) + self._last_event] if room else 0
        if words[slot]:
            gone = words[slot + 2]
            if gone:  # first, so that a reader who misses a frame finds it no longer offered
                words[self._room(gone) + self._oldest] = words[slot + 3] + 1
        words[slot] = 0
        at = (slot + 1) * WORD
        size = len(frame)
        blob[at : at + _HEAD.size] = _HEAD.pack(kind, room, seq, user, session, previous, size)
        at = (slot + self._frame) * WORD
        blob[at : at + size] = frame
        words[slot] = number  # the commit point
        self._complete(number, slot)

    def _complete(self, number: int, slot: int) -> None:
        """What a committed event changes; from its slot alone, and again without harm."""
        words = self._words
        kind, room, seq, user, session = words[slot + 1 : slot + 6].tolist()
        if kind == SlotKind.JOINED:
            self._bits.set(session - 1, room)
        elif kind == SlotKind.LEFT:
            self._bits.clear(session - 1, room)
        if room:
            at = self._room(room)
            words[at + self._last] = seq
            words[at + self._last_event] = number
        elif kind == SlotKind.DIRECT:
            words[self._users.at(user, "direct_seq")] = seq
        words[self._head] = number

    def complete(self) -> bool:
        """Complete the event that is committed beyond the head; True if there was one. For a
        repair, while all others are paused."""
        number = self._words[self._head] + 1
        slot = self._ring + (number & self._mask) * self._stride
        if self._words[slot] != number:
            return False
        self._complete(number, slot)
        return True

    def _room(self, room: int) -> int:
        return self._rooms.base + room * self._rooms.stride

    # ---- reading, without a lock

    def head(self) -> int:
        """The number of the newest event. Readers go by this, and not by the slots' words."""
        return self._words[self._head]

    def read(self, number: int, wanted: Mapping[int, object] | None = None) -> Event | None:
        """An event at or below the head, or None where the ring has gone past it.

        wanted: rooms whose frames are worth copying (None: all).
        """
        words = self._words
        slot = self._ring + (number & self._mask) * self._stride
        word, kind, room, seq, user, session, _, size = words[slot : slot + _HEAD_WORDS].tolist()
        if word != number:
            return None
        frame = b""
        if size <= self._frame_size and (not room or wanted is None or room in wanted):
            at = (slot + self._frame) * WORD
            frame = bytes(self._bytes[at : at + size])
        if words[slot] != number:
            return None
        return Event(kind, room, seq, user, session, frame)

    def last_seq(self, room: int) -> int:
        return self._words[self._room(room) + self._last]

    def direct_seq(self, user: int) -> int:
        return self._words[self._users.at(user, "direct_seq")]

    def history(
        self, room: int, after: int, limit: int, room_bytes: int
    ) -> tuple[int, list[bytes]]:
        """oldest_seq, and the CHAT_BROADCAST bodies above `after`, ascending: at most `limit` and
        `room_bytes` of them."""
        words, numbers = self._words, []
        number = words[self._room(room) + self._last_event]
        while number and limit:
            slot = self._ring + (number & self._mask) * self._stride
            word, _, there, seq, _, _, previous, _ = words[slot : slot + _HEAD_WORDS].tolist()
            if word != number or words[slot] != number or there != room or seq <= after:
                break
            numbers.append(number)
            number = previous
        bodies: list[bytes] = []
        for number in reversed(numbers):
            if len(bodies) == limit:
                break
            event = self.read(number)
            if event is None:  # lapped meanwhile: it is below oldest_seq, read after this
                bodies.clear()
                continue
            body = event.frame[HEADER_LEN:]
            room_bytes -= len(body)
            if room_bytes < 0:
                break
            bodies.append(body)
        return max(1, words[self._room(room) + self._oldest]), bodies

    def kept(self, room: int) -> int:
        """The oldest room_seq that the archive has; 0: none."""
        return self._words[self._room(room) + self._kept]

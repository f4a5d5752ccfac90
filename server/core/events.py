"""The event ring: it carries all that is pushed, and what each event changes.

Every slot of the ring holds the finished push frame, so fan-out is a copy. `publish` is the only
place that makes an event, and its caller holds the event lock: the slot's old commit word is
cleared, payload and frame are written, the commit word is stored, then what the event changes
(`_complete`), the head last. That can be done again from the slot alone, so a worker that dies in
between leaves nothing half-done: the repair calls `complete`.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from libproto.messages import HEADER_LEN, Opcode
from server.core.errors import (
    DiskFull,
    EventsFull,
    HistoriesBehind,
    JournalFailed,
    LeavesFull,
)
from server.core.outcomes import Outcomes
from server.core.room_bits import RoomBits
from server.region import machine
from server.region.layout import EVENT_FIELDS, TARGET_KIND_SHIFT, WORD
from server.region.region import Region


class SlotKind(IntEnum):
    """What an event ring slot holds; those below 16 are the wire's EventKind."""

    MESSAGE = 0
    JOINED = 1
    LEFT = 2
    SYSTEM = 3
    OFFER_ADDED = 4
    OFFER_REMOVED = 5
    OFFER_TAKEN = 6
    TRANSFER = 7
    FILE = 8
    ROOM_CHANGED = 9
    DIRECT = 16
    PAYMENT = 17


class Event(NamedTuple):
    """A slot of the ring, as read. `frame` is empty where nobody here wants it."""

    kind: int
    room: int
    seq: int
    user: int
    session: int
    time: int  # microseconds since the Unix epoch
    frame: bytes


Request = tuple[int, int, int, int, int]
"""The request that an event is made by, for its outcome: the sender's user id, the client's slot +
1 (0: it has no outcome) and its client_id, the req_id, and a digest of the message."""
NO_REQUEST: Request = (0, 0, 0, 0, 0)
_HEAD_WORDS = len(EVENT_FIELDS)
assert [field.name for field in EVENT_FIELDS] == [
    "word", "kind", "room", "seq", "user", "session", "previous", "frame_len", "time", "sender",
    "client_slot", "client_id", "req_id", "digest", "txn",
], "written and read by place"  # fmt: skip
_CHAT, _DIRECT = int(Opcode.CHAT_SEND), int(Opcode.DIRECT_SEND)
_JOINED, _LEFT, _DIRECT_KIND = map(int, (SlotKind.JOINED, SlotKind.LEFT, SlotKind.DIRECT))
_KIND_SHIFT = TARGET_KIND_SHIFT
_PAYMENT_SHARE = 8  # of the ring one part is never taken by payments


class Events:
    """The event ring and the rooms' counters as one worker sees them."""

    def __init__(self, region: Region, bits: RoomBits, outcomes: Outcomes) -> None:
        layout = region.layout
        self._view, self._bytes, self._bits = region.words, region.bytes, bits
        self._words = machine.words_of(region.words)
        rooms, users = layout["rooms"], layout["users"]
        self._room_base, self._room_stride = rooms.base, rooms.stride
        self._head, self._limit = region.events.index("head"), region.events.index("limit")
        self._leave_limit = region.events.index("leave_limit")
        self._full = region.journal.index("full")
        self._closed = region.archive.index("closed")
        self._first = region.events.index("first")
        self._skipped = region.events.index("skipped")
        self._outcomes = outcomes
        self._client_base, self._client_stride = layout["clients"].base, layout["clients"].stride
        self._user_base, self._user_stride = users.at(0, "direct_seq"), users.stride
        ring = layout["event_ring"]
        self._ring, self._stride, self._mask = ring.base, ring.stride, ring.records - 1
        self._frame = ring.offsets["frame"]
        self._frame_size = ring.lengths["frame"] * WORD
        assert self._frame == _HEAD_WORDS
        at = rooms.offsets
        self._last, self._oldest = at["last_seq"], at["oldest_seq"]
        self._last_event, self._kept = at["last_event"], at["kept"]
        self.others_wait = False
        """Requests of this worker that came before wait for a place: set by who keeps them."""

    # ---- publishing, under the event lock

    def check_open(self, more: int = 0) -> None:
        """Busy, unless one more event that is no leave may be made, and `more` after it: there is a
        place for it, and the archive keeps up with what it is to keep. A place is given again only
        when what is in it is durable."""
        words = self._words
        if words[self._closed]:
            raise HistoriesBehind
        if words[self._head] + more >= words[self._limit]:
            if not words[self._limit]:
                raise JournalFailed
            raise DiskFull if words[self._full] else EventsFull
        if self.others_wait:
            raise EventsFull

    def has_place_to_leave(self) -> bool:
        """Is there a place for one more leave? Space on the disk is kept for those of all members;
        so there is, or will be when what is in the ring is durable."""
        words = self._words
        return bool(words[self._head] < words[self._leave_limit])

    def check_leave(self) -> None:
        """LeavesFull, unless there is a place for one more leave. JournalFailed."""
        if not self.has_place_to_leave():
            raise LeavesFull if self._words[self._leave_limit] else JournalFailed

    def has_place_for_payment(self) -> bool:
        """A PAYMENT may be missed, so it does not take the last places."""
        words = self._words
        spare = (self._mask + 1) // _PAYMENT_SHARE
        return bool(words[self._head] + spare < words[self._limit])

    def next_seq(self, room: int) -> int:
        """The room_seq that the room's next event gets."""
        return int(self._words[self._room(room) + self._last]) + 1

    def payload(
        self,
        kind: int,
        room: int,
        seq: int,
        user: int,
        session: int,
        frame: bytes,
        now: int,
        request: Request = NO_REQUEST,
        txn: int = 0,
    ) -> bytes:
        """All of an event but its commit word, for `publish`. kind: SlotKind. seq: the room_seq, or
        the recipient's direct_seq where room is 0. user: who joins, leaves or speaks; the recipient
        where room is 0. session: slot + 1 of the one that joins or leaves. now: microseconds since
        the Unix epoch. txn: the transaction that it is published with."""
        words = self._words
        previous = words[self._room(room) + self._last_event] if room else 0
        sender, client_slot, client_id, req_id, digest = request
        return machine.block_of_14(
            kind, room, seq, user, session, previous, len(frame), now,
            sender, client_slot, client_id, req_id, digest, txn, frame,
        )  # fmt: skip

    def publish(self, payload: bytes) -> None:
        """Make the next event, from its payload; the caller has seen that there is a place for
        it."""
        words = self._words
        number = words[self._head] + 1
        slot = self._ring + (number & self._mask) * self._stride
        if words[slot]:
            gone = words[slot + 2]
            if gone:  # first, so that a reader who misses a frame finds it no longer offered
                machine.publish(words, self._room(gone) + self._oldest, words[slot + 3] + 1)
        machine.retract(words, slot)
        machine.store_block(words, self._bytes, slot + 1, payload)
        machine.publish(words, slot, number)  # the commit point
        self._complete(number, slot)

    def _complete(self, number: int, slot: int) -> None:
        """What a committed event changes; from its slot alone, and again without harm."""
        words = self._words
        kind, room, seq = words[slot + 1], words[slot + 2], words[slot + 3]
        user, session = words[slot + 4], words[slot + 5]
        at = self._room(room)
        if room:
            # First, and read last: who has seen anything below finds which event it is of.
            machine.publish(words, at + self._last_event, number)
        if words[slot + 10]:
            # Before the head: were it after, a worker that dies in between would leave an event
            # that is shown and a request that is executed again.
            self._store_outcome(slot, room or user, seq)
        if kind == _JOINED:
            self._bits.set(session - 1, room)
        elif kind == _LEFT:
            self._bits.clear(session - 1, room)
        if room:
            machine.publish(words, at + self._last, seq)
        elif kind == _DIRECT_KIND:
            machine.publish(words, self._user_base + user * self._user_stride, seq)
        machine.publish(words, self._head, number)

    def _store_outcome(self, slot: int, to: int, seq: int) -> None:
        """What a repeat of the request is answered with."""
        words = self._words
        target = (_CHAT if words[slot + 2] else _DIRECT) << _KIND_SHIFT | to
        client = self._client_base + (words[slot + 10] - 1) * self._client_stride
        self._outcomes.store(
            client, words[slot + 12], 0, words[slot + 8], target, 0, seq, words[slot + 13]
        )

    def complete(self) -> bool:
        """Complete the event that is committed beyond the head; True if there was one. For a
        repair, while all others are paused."""
        number = self._words[self._head] + 1
        slot = self._ring + (number & self._mask) * self._stride
        if self._words[slot] != number:
            return False
        self._complete(number, slot)
        return True

    def finish(self, number: int, payload: bytes) -> None:
        """The event of a committed transaction: publish it, unless that has been done. For a
        repair, while all others are paused, and nobody has published since."""
        words = self._words
        if words[self._head] >= number:
            return
        slot = self._ring + (number & self._mask) * self._stride
        if words[slot] == number:
            self._complete(number, slot)
        else:
            self.publish(payload)

    def _room(self, room: int) -> int:
        return self._room_base + room * self._room_stride

    # ---- reading, without a lock

    def head(self) -> int:
        """The number of the newest event. Readers go by this, and not by the slots' words."""
        return machine.look(self._words, self._head)

    def read(self, number: int, wanted: Mapping[int, object] | None = None) -> Event | None:
        """An event at or below the head, or None where the ring has gone past it.

        wanted: rooms whose frames are worth copying (None: all).
        """
        words = self._words
        slot = self._ring + (number & self._mask) * self._stride
        if machine.look(words, slot) != number:
            return None
        kind, room, seq = words[slot + 1], words[slot + 2], words[slot + 3]
        user, session, size = words[slot + 4], words[slot + 5], words[slot + 7]
        time, frame = words[slot + 8], b""
        if size <= self._frame_size and (not room or wanted is None or room in wanted):
            at = (slot + self._frame) * WORD
            frame = bytes(self._bytes[at : at + size])
        if machine.look_again(words, slot) != number:
            return None
        return Event(kind, room, seq, user, session, time, frame)

    def oldest(self) -> int:
        """The oldest event that is still in the ring, or the next one where it is empty. The slot
        of the next event may be written already."""
        words = self._words
        first, following = words[self._first], words[self._head] + 1
        return following - self._mask if following > first + self._mask else first

    def newest(self, *rooms: int) -> int:
        """The newest event that may be seen in what was read of these rooms before. The head alone
        does not tell: it is stored after the rooms' counters."""
        view, newest = self._view, self.head()
        for room in rooms:
            newest = max(newest, view[self._room(room) + self._last_event])
        return newest

    def last_seq(self, room: int) -> int:
        return machine.look(self._words, self._room(room) + self._last)

    def direct_seq(self, user: int) -> int:
        return machine.look(self._words, self._user_base + user * self._user_stride)

    def _chain(self, room: int, after: int) -> list[int]:
        """The numbers of a room's events above room_seq `after` that are in the ring, newest first.

        They are looked at by themselves, without a copy of the slot: a room may have all of them.
        """
        words, numbers = self._words, list[int]()
        number = machine.look(words, self._room(room) + self._last_event)
        while number:
            slot = self._ring + (number & self._mask) * self._stride
            if machine.look(words, slot) != number:
                break
            there, seq, previous = words[slot + 2], words[slot + 3], words[slot + 6]
            if machine.look_again(words, slot) != number or there != room or seq <= after:
                break
            numbers.append(number)
            number = previous
        return numbers

    def history(
        self, room: int, after: int, limit: int, room_bytes: int
    ) -> tuple[int, list[bytes]]:
        """oldest_seq, and the CHAT_BROADCAST bodies above `after`, ascending: at most `limit` and
        `room_bytes` of them."""
        words = self._view
        numbers = self._chain(room, after) if limit else []
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
        at = self._room(room)
        if words[at + self._last] <= words[self._skipped]:  # it has never had an event
            return 1, bodies
        return max(1, words[at + self._oldest]), bodies

    def inbox(self, user: int, after: int, limit: int, room_bytes: int) -> list[bytes]:
        """The DIRECT_MESSAGE bodies to a user above `after` that are in the ring, ascending: at
        most `limit` and `room_bytes` of them."""
        words, bodies = self._view, list[bytes]()
        head = words[self._head]
        for number in range(max(1, head - self._mask), head + 1):
            slot = self._ring + (number & self._mask) * self._stride
            _, kind, _, seq, its_user = words[slot : slot + 5].tolist()
            if kind != SlotKind.DIRECT or its_user != user or seq <= after:
                continue
            event = self.read(number)
            if event is None or (event.kind, event.user) != (SlotKind.DIRECT, user):
                bodies.clear()  # lapped meanwhile: what is older has gone
                continue
            room_bytes -= len(event.frame) - HEADER_LEN
            if room_bytes < 0 or len(bodies) == limit:
                break
            bodies.append(event.frame[HEADER_LEN:])
        return bodies

    def kept(self, room: int) -> int:
        """The oldest room_seq that the archive has; 0: none."""
        return self._words[self._room(room) + self._kept]

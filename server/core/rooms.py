"""Rooms: who is in them, and the event ring that carries all that is pushed.

Every slot of the ring holds the finished push frame, so fan-out is a copy. An event is published
under the event lock: the slot's old word goes, payload and frame are written, the word (the commit
point), then what the event changes, the head last. What an event changes can be done again from
its slot alone (`_complete`), so a worker that dies in between leaves nothing half-done.

Memberships are bits of the session's slot, changed under the registry lock; joined and left events
name users, so a user's second connection in a room makes none.
"""

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from libproto.codec import PUSH
from libproto.messages import HEADER_LEN, EventKind, Opcode
from server.core.errors import NotOnline, RoomsBehind, Superseded
from server.core.session import Session
from server.region.layout import WORD
from server.region.locks import InsideLock, Locks
from server.region.region import Region

Touched = frozenset[int]
"""Worker slots that have something new to push: wake them."""

_NOBODY: Touched = frozenset()


class SlotKind(IntEnum):
    """What an event ring slot holds; the first four are the wire's EventKind."""

    MESSAGE = 0
    JOINED = 1
    LEFT = 2
    SYSTEM = 3
    DIRECT = 16
    PAYMENT = 17
    SUPERSEDED = 18  # no frame: tells the session's worker


class Event(NamedTuple):
    """A slot of the ring, as read. `frame` is empty where nobody here wants it."""

    kind: int
    room: int
    seq: int
    user: int
    session: int
    frame: bytes


_HEAD = Struct("=14Q")  # kind, room, seq, user, session, previous, frame_len
_NO_REQUEST = (0,) * 7
_HEAD_WORDS = 15  # with the word before them

_broadcast = PUSH[Opcode.CHAT_BROADCAST].frame
_direct = PUSH[Opcode.DIRECT_MESSAGE].frame
_payment = PUSH[Opcode.PAYMENT].frame


class Rooms:
    """The rooms and the event ring as one worker sees them."""

    def __init__(self, region: Region, locks: Locks) -> None:
        layout = region.layout
        self._region, self._words, self._bytes = region, region.words, region.bytes
        self._locks = locks
        self.count = layout.capacities.rooms
        self._sessions, self._rooms = layout["sessions"], layout["rooms"]
        self._users, self._presence = layout["users"], layout["presence"]
        self._bits = self._sessions.offsets["rooms"]
        self._bits_words = self._sessions.lengths["rooms"]
        self._watchers = self._users.at(0, "watchers")
        self._head = region.events.index("head")
        ring = layout["event_ring"]
        self._ring, self._stride, self._mask = ring.base, ring.stride, ring.records - 1
        self._frame = ring.offsets["frame"]
        self._frame_size = ring.lengths["frame"] * WORD
        assert self._frame == _HEAD_WORDS
        rooms = self._rooms.offsets
        self._last, self._oldest = rooms["last_seq"], rooms["oldest_seq"]
        self._last_event, self._members = rooms["last_event"], rooms["members"]
        self._reserved, self._kept = rooms["reserved"], rooms["kept"]

    # ---- publishing, under the event lock

    def _publish(
        self, kind: int, room: int, seq: int, user: int, session: int, frame: bytes
    ) -> None:
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
        blob[at : at + _HEAD.size] = _HEAD.pack(
            kind, room, seq, user, session, previous, size, *_NO_REQUEST
        )
        at = (slot + self._frame) * WORD
        blob[at : at + size] = frame
        words[slot] = number  # the commit point
        self._complete(number, slot)

    def _complete(self, number: int, slot: int) -> None:
        """What a committed event changes; from its slot alone, and again without harm."""
        words = self._words
        kind, room, seq, user, session = words[slot + 1 : slot + 6].tolist()
        if kind == SlotKind.JOINED:
            self._set_bit(session - 1, room)
        elif kind == SlotKind.LEFT:
            self._clear_bit(session - 1, room)
        if room:
            at = self._room(room)
            words[at + self._last] = seq
            words[at + self._last_event] = number
        elif kind == SlotKind.DIRECT:
            words[self._users.at(user, "direct_seq")] = seq
        words[self._head] = number

    def _announce(self, kind: SlotKind, room: int, session: int, user: int, now: int) -> None:
        """A joined or left event, and the member count. Under the registry lock too."""
        words, at = self._words, self._room(room)
        seq = words[at + self._last] + 1
        frame = _broadcast(0, 0, room, seq, now, int(kind), user, self._name(user), "")
        self._publish(kind, room, seq, user, session + 1, frame)
        words[at + self._members] += 1 if kind == SlotKind.JOINED else -1

    def _name(self, user: int) -> str:
        at = self._users.at(user, "name") * WORD
        return bytes(self._bytes[at : at + 32]).rstrip(b"\0").decode()

    def _room(self, room: int) -> int:
        return self._rooms.base + room * self._rooms.stride

    def listeners(self, room: int) -> Touched:
        """Workers with members in the room."""
        at, workers = self._presence.at(room), self._presence.stride
        return frozenset(
            worker for worker, there in enumerate(self._words[at : at + workers].tolist()) if there
        )

    # ---- memberships, under the registry lock

    def _bit(self, session: int, room: int) -> tuple[int, int]:
        return self._sessions.at(session) + self._bits + (room >> 6), 1 << (room & 63)

    def _has_bit(self, session: int, room: int) -> bool:
        word, bit = self._bit(session, room)
        return bool(self._words[word] & bit)

    def _set_bit(self, session: int, room: int) -> None:
        word, bit = self._bit(session, room)
        self._words[word] |= bit

    def _clear_bit(self, session: int, room: int) -> None:
        word, bit = self._bit(session, room)
        self._words[word] &= ~bit

    def clear_bits(self, session: int) -> None:
        """No rooms: for a session's slot before it is published."""
        at = self._sessions.at(session) + self._bits
        for word in range(at, at + self._bits_words):
            self._words[word] = 0

    def _rooms_of(self, session: int) -> list[int]:
        at = self._sessions.at(session) + self._bits
        return [
            place << 6 | bit
            for place, word in enumerate(self._words[at : at + self._bits_words].tolist())
            if word
            for bit in range(64)
            if word >> bit & 1
        ]

    def _sessions_of(self, user: int) -> list[int]:
        """Slots of a user's live sessions."""
        words, out = self._words, []
        following = words[self._users.at(user, "first_session")]
        while following:
            out.append(following - 1)
            following = words[self._sessions.at(following - 1, "next")]
        return out

    def _elsewhere(self, session: int, user: int, room: int) -> bool:
        """Is the user in the room with another session?"""
        return any(
            other != session and self._has_bit(other, room) for other in self._sessions_of(user)
        )

    def join(self, session: Session, room: int, now: int) -> tuple[int, int, Touched]:
        """Join a room not joined yet. Answers last_seq (before the joiner's own event), the number
        of members, and the workers to wake. Superseded, RoomsBehind."""
        registry, event = self._locks.registry, self._locks.event
        self._locks.hold(registry, event)
        try:
            words, at, slot = self._words, self._room(room), session.slot
            live = self._is_live(session)
            last = words[at + self._last]
            touched = _NOBODY
            free = last < words[at + self._reserved]
            if live and free and not self._has_bit(slot, room):
                if self._elsewhere(slot, session.user, room):
                    self._set_bit(slot, room)
                else:
                    self._announce(SlotKind.JOINED, room, slot, session.user, now)
                    touched = self.listeners(room)
            members = words[at + self._members]
        except Exception as error:
            raise InsideLock("join") from error
        self._locks.release(registry, event)
        if not live:
            raise Superseded
        if not free:
            raise RoomsBehind
        return last, members, touched

    def leave(self, session: Session, room: int, now: int) -> Touched:
        """Leave a room; one not joined is left as it is."""
        registry, event = self._locks.registry, self._locks.event
        self._locks.hold(registry, event)
        try:
            touched = self._leave(session.slot, session.user, room, now)
        except Exception as error:
            raise InsideLock("leave") from error
        self._locks.release(registry, event)
        return touched

    def _leave(self, session: int, user: int, room: int, now: int) -> Touched:
        if not self._has_bit(session, room):
            return _NOBODY
        if self._elsewhere(session, user, room):
            self._clear_bit(session, room)
            return _NOBODY
        self._announce(SlotKind.LEFT, room, session, user, now)
        return self.listeners(room)

    def leave_all(self, session: int, user: int, now: int) -> Touched:
        """Out of all rooms. The caller holds the registry and event locks."""
        touched = _NOBODY
        for room in self._rooms_of(session):
            touched |= self._leave(session, user, room, now)
        return touched

    def supersede(self, session: int, user: int, now: int) -> Touched:
        """Out of all rooms, and a word to its worker. The caller holds registry and event locks."""
        # The word first: its connection is told of nothing after it, its own leaves included.
        self._publish(SlotKind.SUPERSEDED, 0, 0, user, session + 1, b"")
        touched = self.leave_all(session, user, now)
        return touched | {self._words[self._sessions.at(session, "worker")]}

    def _is_live(self, session: Session) -> bool:
        words, at = self._words, session.at
        return words[at] == session.id and not words[at + 1]

    def present(self, room: int, worker: int, change: int) -> None:
        """Count a worker's own connections in a room: who is told of its events."""
        self._words[self._presence.at(room) + worker] += change

    def recount(self, live: list[int]) -> None:
        """Member counts anew from the bits of the live sessions' slots."""
        members: dict[int, set[int]] = {}
        for session in live:
            user = self._words[self._sessions.at(session, "user")]
            for room in self._rooms_of(session):
                members.setdefault(room, set()).add(user)
        counts = [len(members.get(room, ())) for room in range(self._rooms.records)]
        self._region.set_column("rooms", "members", counts)

    def absent(self, worker: int) -> None:
        """A worker that has ended has no connections in any room."""
        for room in range(self._presence.records):
            self._words[self._presence.at(room) + worker] = 0

    def complete(self) -> bool:
        """Finish the event that stands committed beyond the head; True where there was one. For a
        repair, while all others stand still."""
        number = self._words[self._head] + 1
        slot = self._ring + (number & self._mask) * self._stride
        if self._words[slot] != number:
            return False
        self._complete(number, slot)
        return True

    # ---- speaking

    def send(self, session: Session, room: int, message: str, now: int) -> tuple[int, Touched]:
        """A message to a room the session has joined. Answers its room_seq. Superseded,
        RoomsBehind."""
        event = self._locks.event
        while not event.acquire(False) and not self._locks.wait(event, ()):
            pass
        try:
            live = self._is_live(session)
            at = self._room(room)
            seq = self._words[at + self._last] + 1
            free = seq <= self._words[at + self._reserved]
            if live and free:
                frame = _broadcast(0, 0, room, seq, now, 0, session.user, session.name, message)
                self._publish(EventKind.MESSAGE, room, seq, session.user, 0, frame)
        except Exception as error:
            raise InsideLock("chat send") from error
        event.release()
        if not live:
            raise Superseded
        if not free:
            raise RoomsBehind
        return seq, self.listeners(room)

    def direct(self, session: Session, to_user: int, message: str, now: int) -> Touched:
        """A message to all connections of a user. NotOnline, Superseded."""
        registry, event = self._locks.registry, self._locks.event
        self._locks.hold(registry, event)
        try:
            live = self._is_live(session)
            workers = _NOBODY
            if live and 0 < to_user < self._users.records:
                workers = self._workers_of(to_user)
            if workers:
                seq = self._words[self._users.at(to_user, "direct_seq")] + 1
                frame = _direct(0, 0, seq, now, session.user, session.name, message)
                self._publish(SlotKind.DIRECT, 0, seq, to_user, 0, frame)
        except Exception as error:
            raise InsideLock("direct send") from error
        self._locks.release(registry, event)
        if not live:
            raise Superseded
        if not workers:
            raise NotOnline
        return workers

    def _workers_of(self, user: int) -> Touched:
        """Workers of a user's live sessions that have not been superseded."""
        words, sessions = self._words, self._sessions
        return frozenset(
            words[sessions.at(slot, "worker")]
            for slot in self._sessions_of(user)
            if not words[sessions.at(slot, "mark")]
        )

    def watched(self, user: int) -> bool:
        """Does a connection of this user want PAYMENT pushes?"""
        return bool(self._words[self._watchers + user * self._users.stride])

    def pay(
        self, session: Session, payee: int, txn: int, amount: int, balance: int, now: int
    ) -> Touched:
        """Tell the payee's connections. balance: the payee's after it."""
        registry, event = self._locks.registry, self._locks.event
        self._locks.hold(registry, event)
        try:
            frame = _payment(0, 0, txn, now, session.user, session.name, amount, balance)
            self._publish(SlotKind.PAYMENT, 0, 0, payee, 0, frame)
            workers = self._workers_of(payee)
        except Exception as error:
            raise InsideLock("payment push") from error
        self._locks.release(registry, event)
        return workers

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
        word, kind, room, seq, user, session, _, size, *_ = words[
            slot : slot + _HEAD_WORDS
        ].tolist()
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

    def member_count(self, room: int) -> int:
        return self._words[self._room(room) + self._members]

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
            word, _, there, seq, _, _, previous, *_ = words[slot : slot + _HEAD_WORDS].tolist()
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

    def listing(self, after: int, limit: int) -> list[tuple[int, int, int]]:
        """(room, members, last_seq) of rooms above `after` that have members or events."""
        rooms = self._rooms
        all_words = self._words[rooms.base : rooms.base + rooms.records * rooms.stride].tolist()
        out = []
        for room in range(max(1, after + 1), rooms.records):
            at = room * rooms.stride
            members, last = all_words[at + self._members], all_words[at + self._last]
            if members or last:
                out.append((room, members, last))
                if len(out) == limit:
                    break
        return out

    def member_ids(self, room: int, after: int) -> list[int]:
        """User ids above `after` of a room's members, ascending."""
        column = self._region.column
        before, users = column("sessions", "id"), column("sessions", "user")
        bits, bit = self._bits_of(room), 1 << (room & 63)
        return sorted(
            {
                user
                for was, user, word, now in zip(
                    before, users, bits, column("sessions", "id"), strict=True
                )
                if was and was == now and word & bit and user > after
            }
        )

    def _bits_of(self, room: int) -> list[int]:
        """The word of every session's bits that has this room's."""
        sessions = self._sessions
        first = sessions.base + self._bits + (room >> 6)
        end = sessions.base + sessions.records * sessions.stride
        return self._words[first : end : sessions.stride].tolist()

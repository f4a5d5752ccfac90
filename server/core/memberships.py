"""Memberships: who is in which room.

They are bits of the sessions' slots (room_bits.py), changed under the registry lock. Joined and
left events name users, so a user's second connection in a room makes none: its bit alone changes.
Where there is an event, the bit changes with it (`Events`), and the count of members after it.
"""

from libproto.codec import PUSH
from libproto.messages import Opcode
from server.core.audience import NOBODY, Audience, Touched
from server.core.errors import Superseded
from server.core.events import Events, SlotKind
from server.core.room_bits import RoomBits
from server.core.session import Session, is_live
from server.core.users import Users
from server.region.locks import Locks
from server.region.region import Region

_broadcast = PUSH[Opcode.CHAT_BROADCAST].frame


class Memberships:
    """The memberships as one worker sees them."""

    def __init__(
        self,
        region: Region,
        locks: Locks,
        users: Users,
        bits: RoomBits,
        audience: Audience,
        events: Events,
    ) -> None:
        layout = region.layout
        self._region, self._words = region, region.words
        self._users, self._bits, self._audience, self._events = users, bits, audience, events
        self._sessions, self._rooms = layout["sessions"], layout["rooms"]
        self._last, self._members = self._rooms.offsets["last_seq"], self._rooms.offsets["members"]
        self._joining = locks.guard("join", locks.registry, locks.event)
        self._leaving = locks.guard("leave", locks.registry, locks.event)

    # ---- changes, under the registry and event locks

    def join(self, session: Session, room: int, now: int) -> tuple[int, int, Touched]:
        """Join a room not joined yet. Answers last_seq (before the joiner's own event), the number
        of members, and the workers to wake. Superseded, RoomsBehind."""
        slot, touched = session.slot, NOBODY
        with self._joining:
            if not is_live(self._words, session):
                raise Superseded
            last = self._events.next_seq(room) - 1
            if not self._bits.has(slot, room):
                if self._elsewhere(slot, session.user, room):
                    self._bits.set(slot, room)
                else:
                    touched = self._announce(SlotKind.JOINED, room, slot, session.user, now)
            members = self.member_count(room)
        return last, members, touched

    def leave(self, session: Session, room: int, now: int) -> Touched:
        """Leave a room; one not joined is left as it is."""
        with self._leaving:
            return self._leave(session.slot, session.user, room, now)

    def leave_all(self, session: int, user: int, now: int) -> Touched:
        """Out of all rooms. The caller holds the registry and event locks."""
        touched = NOBODY
        for room in self._bits.rooms(session):
            touched |= self._leave(session, user, room, now)
        return touched

    def supersede(self, session: int, user: int, now: int) -> Touched:
        """Out of all rooms, and its worker is sent a SUPERSEDED event. The caller holds the
        registry and event locks."""
        # That event first: the connection is sent nothing after it, its own leaves included.
        self._events.publish(SlotKind.SUPERSEDED, 0, 0, user, session + 1, b"")
        touched = self.leave_all(session, user, now)
        return touched | {self._words[self._sessions.at(session, "worker")]}

    def clear(self, session: int) -> None:
        """No rooms: for a session's slot before it is published."""
        self._bits.clear_all(session)

    def _leave(self, session: int, user: int, room: int, now: int) -> Touched:
        if not self._bits.has(session, room):
            return NOBODY
        if self._elsewhere(session, user, room):
            self._bits.clear(session, room)
            return NOBODY
        return self._announce(SlotKind.LEFT, room, session, user, now)

    def _elsewhere(self, session: int, user: int, room: int) -> bool:
        """Is the user in the room with another session?"""
        return any(
            other != session and self._bits.has(other, room)
            for other in self._audience.sessions_of(user)
        )

    def _announce(self, kind: SlotKind, room: int, session: int, user: int, now: int) -> Touched:
        """A joined or left event, and the count of members."""
        seq = self._events.last_seq(room) + 1
        frame = _broadcast(0, 0, room, seq, now, int(kind), user, self._users.name(user), "")
        self._events.publish(kind, room, seq, user, session + 1, frame)
        self._words[self._room(room) + self._members] += 1 if kind == SlotKind.JOINED else -1
        return self._audience.listeners(room)

    def recount(self, live: list[int]) -> None:
        """Member counts anew from the bits of the live sessions' slots. For a repair."""
        members: dict[int, set[int]] = {}
        for session in live:
            user = self._words[self._sessions.at(session, "user")]
            for room in self._bits.rooms(session):
                members.setdefault(room, set()).add(user)
        counts = [len(members.get(room, ())) for room in range(self._rooms.records)]
        self._region.set_column("rooms", "members", counts)

    # ---- reading, without a lock

    def _room(self, room: int) -> int:
        return self._rooms.base + room * self._rooms.stride

    def member_count(self, room: int) -> int:
        return self._words[self._room(room) + self._members]

    def member_ids(self, room: int, after: int) -> list[int]:
        """User ids above `after` of a room's members, ascending."""
        column = self._region.column
        before, users = column("sessions", "id"), column("sessions", "user")
        joined = self._bits.column(room)
        return sorted(
            {
                user
                for was, user, member, now in zip(
                    before, users, joined, column("sessions", "id"), strict=True
                )
                if was and was == now and member and user > after
            }
        )

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

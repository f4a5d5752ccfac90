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
from server.core.rooms import Rooms
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
        rooms: Rooms,
    ) -> None:
        layout = region.layout
        self._region, self._words = region, region.words
        self._users, self._bits, self._audience, self._events = users, bits, audience, events
        self._named = rooms
        self._sessions, self._rooms = layout["sessions"], layout["rooms"]
        self._skipped = region.events.index("skipped")
        self._all_members = region.registry.index("members")
        self._last, self._members = self._rooms.offsets["last_seq"], self._rooms.offsets["members"]
        self._joining = locks.guard("join", locks.registry, locks.event)
        self._leaving = locks.guard("leave", locks.registry, locks.event)

    # ---- changes, under the registry and event locks

    def join(self, session: Session, room: int, now: int) -> tuple[int, int, int, Touched]:
        """Join a room not joined yet. Answers last_seq (before the joiner's own event), the number
        of members, the newest event then, and the workers to wake. Superseded, NoSuchRoom,
        NotAllowed, Busy."""
        slot, touched = session.slot, NOBODY
        with self._joining:
            if not is_live(self._words, session):
                raise Superseded
            self._named.check_join(room, session.user)
            last = self._events.last_seq(room)
            if not self._bits.has(slot, room):
                if self._elsewhere(slot, session.user, room):
                    self._bits.set(slot, room)
                else:
                    self._events.check_open()
                    touched = self._announce(SlotKind.JOINED, room, slot, session.user, now)
            members, shown = self.member_count(room), self._events.head()
        return last, members, shown, touched

    def leave(self, session: Session, room: int, now: int) -> Touched:
        """Leave a room; one not joined is left as it is. Superseded, LeavesFull, JournalFailed."""
        with self._leaving:
            if not is_live(self._words, session):  # its slot may be another's by now
                raise Superseded
            if not self._needs_event(session.slot, session.user, room):
                self._bits.clear(session.slot, room)
                return NOBODY
            self._events.check_leave()
            return self._announce(SlotKind.LEFT, room, session.slot, session.user, now)

    def leave_some(self, session: int, user: int, now: int, most: int) -> tuple[Touched, bool]:
        """Out of the rooms of a session that has ended: of as many as there are places for, and at
        most so many with an event. The caller holds the registry and event locks. Answers the
        workers to wake, and whether it is in none any more."""
        touched = NOBODY
        for room in self._bits.rooms(session):
            if not self._needs_event(session, user, room):
                self._bits.clear(session, room)
                continue
            if not most or not self._events.has_place_to_leave():
                return touched, False
            most -= 1
            touched |= self._announce(SlotKind.LEFT, room, session, user, now)
        return touched, True

    def clear(self, session: int) -> None:
        """No rooms: for a session's slot before it is published."""
        self._bits.clear_all(session)

    def _needs_event(self, session: int, user: int, room: int) -> bool:
        """Does anybody learn that the session leaves? Not where the user stays with another."""
        return self._bits.has(session, room) and not self._elsewhere(session, user, room)

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
        event = self._events.payload(kind, room, seq, user, session + 1, frame, now)
        self._events.publish(event)
        change = 1 if kind == SlotKind.JOINED else -1
        self._words[self._room(room) + self._members] += change
        # After the head, as the journal relies on: see Committer.
        self._words[self._all_members] += change
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
        self._words[self._all_members] = sum(counts)

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
        rooms, skipped = self._rooms, self._words[self._skipped]
        all_words = self._words[rooms.base : rooms.base + rooms.records * rooms.stride].tolist()
        out = []
        for room in range(max(1, after + 1), rooms.records):
            at = room * rooms.stride
            members, last = all_words[at + self._members], all_words[at + self._last]
            if (members or last > skipped) and self._named.is_there(room):
                out.append((room, members, last))
                if len(out) == limit:
                    break
        return out

"""From the event ring to this worker's own clients.

One cursor goes through the ring; every event is looked at once and its finished frame copied into
the output of each member. A member that does not read misses events and is told exactly which; a
worker that was lapped reads the head first and then the rooms' counters, and tells every member
what it missed. Nobody waits for anybody.
"""

from typing import Final

from libproto.codec import PUSH
from libproto.messages import Opcode
from server.core.rooms import Event, SlotKind
from server.core.session import Session
from server.core.state import State
from server.region.counters import index_of
from server.worker.connection import DIRECT, Connection

_gap = PUSH[Opcode.ROOM_GAP].frame

SLICE: Final = 64  # events, between two writes to a member: they bound what its output may grow by


class LocalRoom:
    """A room that this worker has members in."""

    __slots__ = ("delivered", "members")

    def __init__(self, delivered: int) -> None:
        self.delivered = delivered  # room_seq up to which every member was served
        self.members: dict[Connection, int] = {}  # with the room_seq it was told of when it joined


class Fanout:
    """This worker's cursor and members."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._ring = state.rooms
        self._words = state.region.words
        self._counted = {
            name: state.counters + index_of(name)
            for name in ("pushes", "gaps", "laps", "superseded")
        }
        self.cursor = state.rooms.head()
        self.rooms: dict[int, LocalRoom] = {}
        self.users: dict[int, dict[Connection, None]] = {}
        self.sessions: dict[int, Connection] = {}  # by session slot
        self.gaps = 0  # told since the last poll
        self._touched: dict[Connection, None] = {}

    # ---- who is there

    def add(self, connection: Connection, session: Session) -> None:
        self.users.setdefault(session.user, {})[connection] = None
        self.sessions[session.slot] = connection
        connection.direct_told = self._ring.direct_seq(session.user)

    def remove(self, connection: Connection, session: Session) -> None:
        """Its session is over: no more pushes."""
        for room in tuple(connection.joined):
            self.leave(connection, room)
        others = self.users[session.user]
        del others[connection]
        if not others:
            del self.users[session.user]
        del self.sessions[session.slot]

    def enter(self, connection: Connection, room: int) -> None:
        """Before the join: whoever speaks after it then wakes this worker."""
        connection.joined.add(room)
        self._ring.present(room, self._state.worker, 1)

    def join(self, connection: Connection, room: int, last_seq: int) -> None:
        """It gets the events after last_seq."""
        local = self.rooms.get(room)
        if local is None:
            local = self.rooms[room] = LocalRoom(last_seq)
        local.members[connection] = last_seq

    def leave(self, connection: Connection, room: int) -> None:
        connection.joined.discard(room)
        connection.owed.pop(room, None)
        local = self.rooms.get(room)
        if local is not None:
            local.members.pop(connection, None)
            if not local.members:
                del self.rooms[room]
        self._ring.present(room, self._state.worker, -1)

    def delivered(self, room: int) -> int:
        return self.rooms[room].delivered

    def position(self, connection: Connection, room: int) -> int:
        """The room_seq up to which a member has been served, or told what it missed."""
        if room in connection.owed:
            return connection.owed[room] - 1
        local = self.rooms[room]
        return max(local.delivered, local.members[connection])

    # ---- what is new

    def poll(self) -> None:
        """Push all that was published before. Not a part of it: a worker that takes more requests
        in a loop turn than it pushes events would be lapped under load that it can bear."""
        head = self._ring.head()
        while self.cursor < head:
            self._push_slice(min(head, self.cursor + SLICE))
        if self.gaps:
            self._words[self._counted["gaps"]] += self.gaps
            self.gaps = 0

    def _push_slice(self, last: int) -> None:
        ring, cursor = self._ring, self.cursor
        while cursor < last:
            event = ring.read(cursor + 1, self.rooms)
            if event is None:
                cursor = self._lapped()
                break
            cursor += 1
            if event.room:
                self._room_event(event)
            elif event.kind == SlotKind.SUPERSEDED:
                self._superseded(event.session - 1)
            else:
                self._to_user(event)
        self.cursor = cursor
        for connection in self._touched:
            connection.flush()
        self._touched.clear()

    def _push(self, connection: Connection, frame: bytes) -> None:
        if connection.closing:
            return
        self._touched[connection] = None
        connection.out.append(frame)

    def _room_event(self, event: Event) -> None:
        local = self.rooms.get(event.room)
        if local is None or event.seq <= local.delivered:
            return
        seq, frame, touched = event.seq, event.frame, self._touched
        if seq != local.delivered + 1:  # numbers that were never used for an event
            self._missed(event.room, local, seq - 1)
        for connection, told in local.members.items():
            if seq <= told or connection.closing:
                continue
            if connection.choked:
                connection.owed.setdefault(event.room, seq)
                continue
            touched[connection] = None
            connection.out.append(frame)
        local.delivered = seq
        self._words[self._counted["pushes"]] += len(local.members)

    def _missed(self, room: int, local: LocalRoom, last: int) -> None:
        """Tell every member what it will not get, up to `last`."""
        for connection, told in local.members.items():
            first = max(told, local.delivered) + 1
            if first <= last:
                self._tell_gap(connection, room, first, last)
        local.delivered = max(local.delivered, last)

    def _tell_gap(self, connection: Connection, room: int, first: int, last: int) -> None:
        if connection.choked:
            connection.owed.setdefault(room, first)
        else:
            self._push(connection, _gap(0, 0, room, first, last))
            self.gaps += 1

    def _to_user(self, event: Event) -> None:
        for connection in self.users.get(event.user, ()):
            if event.kind == SlotKind.PAYMENT:
                if connection.watches and not connection.choked:
                    self._push(connection, event.frame)
            elif event.seq > connection.direct_told:
                if connection.choked:
                    connection.owed.setdefault(DIRECT, event.seq)
                else:
                    self._push(connection, event.frame)
                connection.direct_told = event.seq

    def _superseded(self, slot: int) -> None:
        connection = self.sessions.get(slot)
        if connection is not None and connection.session is not None:
            if self._state.sessions.is_live(connection.session):
                return  # the slot is another session's by now
            connection.end_session()
            self._words[self._counted["superseded"]] += 1

    def _lapped(self) -> int:
        """The ring has gone past the cursor. First the head, then the counters: what is published
        in between is in both, and told once."""
        head = self._ring.head()
        self._words[self._counted["laps"]] += 1
        self.end_superseded()  # before the gaps: these are told nothing any more
        for room, local in self.rooms.items():
            last = self._ring.last_seq(room)
            if last > local.delivered:
                self._missed(room, local, last)
        for user, connections in self.users.items():
            last = self._ring.direct_seq(user)
            for connection in connections:
                if last > connection.direct_told:
                    self._tell_gap(connection, DIRECT, connection.direct_told + 1, last)
                    connection.direct_told = last
        return head

    def end_superseded(self) -> None:
        """Look at every session's mark: where the event that tells of it may have been missed."""
        for slot in tuple(self.sessions):
            self._superseded(slot)

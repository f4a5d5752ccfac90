"""What a client that reconnects or moves knows of the rooms it has joined, and of its inbox: up to
where the program was given their events, and what it is still to be given.
"""

from collections.abc import Iterable, Sequence

from client.core import gaps
from client.core.pushes import Push, RoomRefused, RoomRestarted
from client.core.room_events import AccessChanged, RoleChanged, read_event
from libproto.errors import Status
from libproto.messages import (
    ChatBroadcast,
    DirectMessage,
    EventKind,
    InboxHistoryResponse,
    JoinRoomResponse,
    RoomAccess,
    RoomGap,
    RoomHistoryResponse,
    RoomRole,
)

CLOSED = "the room was closed"
BANNED = "you were put out of the room"


class _Room:
    """A joined room: its epoch, and the number up to which the program was given its events.
    While it catches up to `target`, what is pushed waits in `held`."""

    __slots__ = ("epoch", "held", "seen", "target")

    def __init__(self, epoch: int, seen: int) -> None:
        self.epoch: int | None = epoch
        self.seen = seen
        self.target: int | None = None
        self.held: list[ChatBroadcast | RoomGap] = []


class Rooms:
    """What the program was given of each joined room, and what it is still to be given."""

    def __init__(self) -> None:
        self._rooms: dict[int, _Room] = {}
        self.user_id = 0
        """Whose they are: who is banned leaves a room."""
        self.direct_seen: int | None = None
        """Number of the latest direct message; None: not known."""
        self._direct_held: list[DirectMessage | RoomGap] | None = None  # while the inbox is read

    def __contains__(self, room_id: int) -> bool:
        return room_id in self._rooms

    def joined_ids(self) -> list[int]:
        return sorted(self._rooms)

    def catching_up(self, room_id: int | None = None) -> bool:
        """Whether something that was missed in this room is yet to come; None: anywhere."""
        if room_id is not None:
            room = self._rooms.get(room_id)
            return room is not None and room.target is not None
        if self._direct_held is not None:
            return True
        return any(room.target is not None for room in self._rooms.values())

    def joined(self, room_id: int, answer: JoinRoomResponse) -> None:
        """The program has joined a room; a second time changes nothing, where it is the same one:
        one that was opened anew begins anew."""
        room = self._rooms.get(room_id)
        if room is None or room.epoch != answer.epoch:
            self._rooms[room_id] = _Room(answer.epoch, answer.last_seq)

    def left(self, room_id: int) -> None:
        self._rooms.pop(room_id, None)

    def clear(self) -> None:
        self._rooms.clear()
        self.direct_seen = None

    def forget_positions(self) -> None:
        """The server's state is another one: no room is where it was."""
        self.direct_seen = None
        for room in self._rooms.values():
            room.epoch = None

    def interrupt(self) -> None:
        """The connection was lost: what was held back will be in the history."""
        self._direct_held = None
        for room in self._rooms.values():
            room.target = None
            room.held.clear()

    def pushed(self, push: Push) -> Sequence[Push]:
        """What the program is given by a push, just now."""
        match push:
            case ChatBroadcast() | RoomGap() if room := self._rooms.get(push.room_id):
                if room.target is not None:
                    room.held.append(push)
                    return ()
                return self._given(room, push)
            case DirectMessage() | RoomGap(room_id=0):
                if self._direct_held is not None:
                    self._direct_held.append(push)
                    return ()
                return self._new_direct(push)
        return (push,)

    def _new_direct(self, push: DirectMessage | RoomGap) -> Sequence[Push]:
        """A direct message, and what its number shows to be missing before it."""
        first = push.seq if isinstance(push, DirectMessage) else push.first_seq
        seen = first - 1 if self.direct_seen is None else self.direct_seen
        self.direct_seen = push.seq if isinstance(push, DirectMessage) else push.last_seq
        return (RoomGap(0, seen + 1, first - 1), push) if seen + 1 < first else (push,)

    def _given(self, room: _Room, push: ChatBroadcast | RoomGap) -> Sequence[Push]:
        """What the program is given by what was pushed; if this user is out of the room by it, that
        the room is not joined any more."""
        given = self._new(room, push)
        if given and isinstance(push, ChatBroadcast) and (why := self._why_out(push)):
            self.left(push.room_id)
            return [*given, RoomRefused(push.room_id, Status.ERR_UNAUTHORIZED, why)]
        return given

    def _why_out(self, event: ChatBroadcast) -> str:
        """Why this user is out of the room by an event; empty if they are not."""
        if event.kind == EventKind.ROOM_CHANGED:
            match read_event(event):
                case AccessChanged(RoomAccess.CLOSED):
                    return CLOSED
                case RoleChanged(self.user_id, RoomRole.BANNED):
                    return BANNED
        return ""

    @staticmethod
    def _new(room: _Room, push: ChatBroadcast | RoomGap) -> Sequence[ChatBroadcast | RoomGap]:
        """As much of a push as the program was not given before."""
        last = push.room_seq if isinstance(push, ChatBroadcast) else push.last_seq
        if last <= room.seen:
            return ()
        if isinstance(push, RoomGap):
            push = push._replace(first_seq=max(push.first_seq, room.seen + 1))
        room.seen = last
        return (push,)

    # ---- the inbox, in a move

    def inbox_ends_at(self, seq: int) -> None:
        """The inbox was read up to its end, which is what the program knows of it, if nothing was
        pushed since."""
        if self.direct_seen is None:
            self.direct_seen = seq

    def hold_inbox(self) -> None:
        """It is read from `direct_seen` on, and what is pushed waits until that is done."""
        self._direct_held = []

    def inbox_answered(self, answer: InboxHistoryResponse) -> Sequence[Push]:
        """A part of it has come: what the program is given by that; with an empty one it is read,
        and what was pushed meanwhile follows."""
        if not answer.messages:
            return self.inbox_read()
        return [each for message in answer.messages for each in self._new_direct(message)]

    def inbox_read(self) -> Sequence[Push]:
        """Nothing more of it is to be had: what was pushed meanwhile."""
        held, self._direct_held = self._direct_held or [], None
        return [each for push in held if self._is_new(push) for each in self._new_direct(push)]

    def _is_new(self, push: DirectMessage | RoomGap) -> bool:
        last = push.seq if isinstance(push, DirectMessage) else push.last_seq
        return self.direct_seen is None or last > self.direct_seen

    # ---- after a reconnection

    def rejoined(self, room_id: int, answer: JoinRoomResponse) -> Sequence[Push]:
        """The room was joined again: what the program is given by that."""
        room = self._rooms[room_id]
        if answer.epoch != room.epoch:
            self._rooms[room_id] = _Room(answer.epoch, answer.last_seq)
            return (RoomRestarted(room_id, answer.epoch, answer.last_seq),)
        if answer.last_seq > room.seen:
            room.target = answer.last_seq
        return ()

    def wanted(self, room_id: int) -> gaps.Ask | None:
        """What to ask the room's history for; None where nothing is missing."""
        room = self._rooms.get(room_id)
        if room is None or room.target is None:
            return None
        return gaps.ask(room.seen, room.target)

    def answered(self, room_id: int, answer: RoomHistoryResponse) -> Sequence[Push]:
        """What was `wanted` has come: what the program is given by that."""
        room = self._rooms[room_id]
        assert room.target is not None
        found, seen = gaps.read_answer(room_id, room.seen, room.target, answer)
        return [*found, *self._caught_up(room, seen)]

    def not_told(self, room_id: int) -> Sequence[Push]:
        """What was `wanted` cannot be had: the program is told so."""
        room = self._rooms[room_id]
        assert room.target is not None
        gap = RoomGap(room_id, room.seen + 1, room.target)
        return [gap, *self._caught_up(room, room.target)]

    def _caught_up(self, room: _Room, seen: int) -> Iterable[Push]:
        room.seen = seen
        if seen != room.target:
            return []
        held, room.held, room.target = room.held, [], None
        return [event for push in held for event in self._given(room, push)]

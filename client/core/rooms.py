"""What a client that reconnects knows of the rooms it has joined: up to where the program was given
their events, and what it is still to be given.
"""

from collections.abc import Iterable, Sequence

from client.core import gaps
from client.core.pushes import Push, RoomRestarted
from libproto.messages import (
    ChatBroadcast,
    DirectMessage,
    JoinRoomResponse,
    RoomGap,
    RoomHistoryResponse,
)


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
        self._direct_seen = 0  # number of the latest direct message; 0 before the first

    def __contains__(self, room_id: int) -> bool:
        return room_id in self._rooms

    def joined_ids(self) -> list[int]:
        return sorted(self._rooms)

    def joined(self, room_id: int, answer: JoinRoomResponse) -> None:
        """The program has joined a room; a second time changes nothing."""
        self._rooms.setdefault(room_id, _Room(answer.epoch, answer.last_seq))

    def left(self, room_id: int) -> None:
        self._rooms.pop(room_id, None)

    def clear(self) -> None:
        self._rooms.clear()
        self._direct_seen = 0

    def forget_positions(self) -> None:
        """The server's state is another one: no room is where it was."""
        self._direct_seen = 0
        for room in self._rooms.values():
            room.epoch = None

    def interrupt(self) -> None:
        """The connection was lost: what was held back will be in the history."""
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
                return self._new(room, push)
            case DirectMessage(seq=last) | RoomGap(room_id=0, last_seq=last):
                first = last if isinstance(push, DirectMessage) else push.first_seq
                missed = RoomGap(0, self._direct_seen + 1, first - 1)
                known, self._direct_seen = self._direct_seen, last
                return (missed, push) if known and missed.first_seq <= missed.last_seq else (push,)
        return (push,)

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
        room = self._rooms[room_id]
        return None if room.target is None else gaps.ask(room.seen, room.target)

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
        return [event for push in held for event in self._new(room, push)]

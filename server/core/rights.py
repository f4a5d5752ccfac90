"""What others ask of a room, of one moment: what it is, and who may read and write in it."""

from server.core.rooms import RoomInfo, Rooms
from server.region.locks import Locks


class Rights:
    """Reads the table of rooms under the event lock, under which it is changed."""

    def __init__(self, locks: Locks, rooms: Rooms) -> None:
        self._rooms = rooms
        self._reading = locks.guard("room", locks.event)

    def info(self, room: int, user: int) -> RoomInfo:
        """What a user is told of a room. NoSuchRoom."""
        with self._reading:
            self._rooms.check_there(room)
            return self._rooms.info(room, user)

    def check_reader(self, room: int, user: int, *, joined: bool) -> None:
        """Whether a user may read the history of a room. NoSuchRoom, NotAllowed."""
        if joined and not self._rooms.opened(room):
            return
        with self._reading:
            if joined:
                self._rooms.check_inside(room, user)
            else:
                self._rooms.check_join(room, user)

    def check_speaker(self, room: int, user: int) -> None:
        """Whether a user who has joined a room may write in it. NotAllowed."""
        if self._rooms.opened(room):
            with self._reading:
                self._rooms.check_speak(room, user)

    def may_stay(self, room: int, user: int, opened: int) -> bool:
        """May a user who has joined the room, as it was opened then, still be in it? Who has seen
        the event of a change finds the change here, and not always without the lock: the event is
        published first."""
        with self._reading:
            return self._rooms.may_stay(room, user, opened)

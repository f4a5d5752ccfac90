"""Which workers have connections that an event is for: they are woken to push it."""

from server.region import machine
from server.region.region import Region

Touched = frozenset[int]
"""Worker slots that have something new to push."""

NOBODY: Touched = frozenset()


class Audience:
    """Rooms' listeners and users' sessions, as one worker sees them."""

    def __init__(self, region: Region) -> None:
        layout = region.layout
        self._view = region.words
        self._words = machine.words_of(region.words)
        self._sessions, self._users = layout["sessions"], layout["users"]
        self._presence = layout["presence"]
        self._watchers, self._user_stride = self._users.at(0, "watchers"), self._users.stride
        self._present, self._workers = self._presence.base, self._presence.stride

    # ---- rooms

    def present(self, room: int, worker: int, change: int) -> None:
        """Count a worker's own connections in a room."""
        self._view[self._presence.at(room) + worker] += change

    def absent(self, worker: int) -> None:
        """A worker that has ended has no connections in any room."""
        for room in range(self._presence.records):
            self._view[self._presence.at(room) + worker] = 0

    def listeners(self, room: int) -> Touched:
        """Workers with members in the room."""
        words, at = self._words, self._present + room * self._workers
        there = [worker for worker in range(self._workers) if words[at + worker]]
        return frozenset(there)

    # ---- users, under the registry lock

    def sessions_of(self, user: int) -> list[int]:
        """Slots of a user's live sessions."""
        words, out = self._view, []
        following = words[self._users.at(user, "first_session")]
        while following:
            out.append(following - 1)
            following = words[self._sessions.at(following - 1, "next")]
        return out

    def workers_of(self, user: int) -> Touched:
        """Workers of a user's live sessions that have not been superseded; of nobody, none."""
        if not 0 < user < self._users.records:
            return NOBODY
        words, sessions = self._view, self._sessions
        return frozenset(
            words[sessions.at(slot, "worker")]
            for slot in self.sessions_of(user)
            if not words[sessions.at(slot, "mark")]
        )

    def watched(self, user: int) -> bool:
        """Does a connection of this user want PAYMENT pushes? Takes no lock."""
        return bool(self._words[self._watchers + user * self._user_stride])

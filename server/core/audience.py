"""Which workers have connections that an event is for: they are woken to push it."""

from server.region.region import Region

Touched = frozenset[int]
"""Worker slots that have something new to push."""

NOBODY: Touched = frozenset()


class Audience:
    """Rooms' listeners and users' sessions, as one worker sees them."""

    def __init__(self, region: Region) -> None:
        layout = region.layout
        self._words = region.words
        self._sessions, self._users = layout["sessions"], layout["users"]
        self._presence = layout["presence"]
        self._watchers = self._users.at(0, "watchers")

    # ---- rooms

    def present(self, room: int, worker: int, change: int) -> None:
        """Count a worker's own connections in a room."""
        self._words[self._presence.at(room) + worker] += change

    def absent(self, worker: int) -> None:
        """A worker that has ended has no connections in any room."""
        for room in range(self._presence.records):
            self._words[self._presence.at(room) + worker] = 0

    def listeners(self, room: int) -> Touched:
        """Workers with members in the room."""
        at, workers = self._presence.at(room), self._presence.stride
        return frozenset(
            worker for worker, there in enumerate(self._words[at : at + workers].tolist()) if there
        )

    # ---- users, under the registry lock

    def sessions_of(self, user: int) -> list[int]:
        """Slots of a user's live sessions."""
        words, out = self._words, []
        following = words[self._users.at(user, "first_session")]
        while following:
            out.append(following - 1)
            following = words[self._sessions.at(following - 1, "next")]
        return out

    def workers_of(self, user: int) -> Touched:
        """Workers of a user's live sessions that have not been superseded; of nobody, none."""
        if not 0 < user < self._users.records:
            return NOBODY
        words, sessions = self._words, self._sessions
        return frozenset(
            words[sessions.at(slot, "worker")]
            for slot in self.sessions_of(user)
            if not words[sessions.at(slot, "mark")]
        )

    def watched(self, user: int) -> bool:
        """Does a connection of this user want PAYMENT pushes? Takes no lock."""
        return bool(self._words[self._watchers + user * self._users.stride])

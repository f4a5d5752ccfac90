"""How far back a user's own transactions are kept: what TXN_HISTORY answers as `oldest_txn_id`.

The transactions of an account are chained from the newest back, so the oldest kept one is found by
walking there. A `Trail` remembers on the way where it has been, at intervals: when the oldest ones
are dropped, the walk goes on from the last place that is still kept, not from the newest.
"""

from collections.abc import Callable
from typing import Final

from server.core.ledger import previous_of

MARK_EVERY: Final = 64  # transactions
USERS_MAX: Final = 1024  # whose trails are remembered

Read = Callable[[int], tuple[int, ...] | None]
"""A record by its txn_id; None where it is not kept."""


class Trail:
    """One user's."""

    __slots__ = ("_marks", "_next", "_steps", "at", "newest")

    def __init__(self) -> None:
        self.at = 0  # the oldest that was reached; 0: none
        self.newest = 0  # where the walk began
        self._next = 0  # the one before it; 0: there never was one
        self._marks: list[int] = []  # newest first
        self._steps = 0

    def walk(self, read: Read, user: int, newest: int, steps: int) -> bool:
        """Walk on, `steps` records at most; True once the oldest that is kept is known.

        newest: the user's newest transaction. What `read` raises passes through, and no step is
        lost by it.
        """
        if not self.at or read(self.at) is None:
            while self._marks and read(self._marks[-1]) is None:
                self._marks.pop()
            self.at = 0
            self._next = self._marks[-1] if self._marks else newest
            self.newest = newest
        for _ in range(steps):
            record = read(self._next) if self._next else None
            if record is None:
                return True
            if self._steps % MARK_EVERY == 0:
                self._marks.append(self._next)
            self._steps += 1
            self.at, self._next = self._next, previous_of(record, user)
        return False

    @property
    def oldest(self) -> int:
        """Once it is known: the least txn_id that is kept; 0: none was dropped. Where all were
        dropped, the number after the newest."""
        if not self._next:
            return 0
        return self.at or self.newest + 1


class Trails:
    """Those of the users who asked last."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._trails: dict[int, Trail] = {}  # what was used last stands last

    def walk(self, user: int, newest: int, steps: int) -> Trail | None:
        """The user's trail, if the oldest transaction is known after `steps` more records."""
        trail = self._trails.pop(user, None) or Trail()
        self._trails[user] = trail
        if len(self._trails) > USERS_MAX:
            del self._trails[next(iter(self._trails))]
        return trail if trail.walk(self._read, user, newest, steps) else None

"""What HELLO answers for a name that nobody has: what it might answer if somebody had it.

Passwords that were set under an earlier `scram_iterations` keep their iterations. So a name that
nobody has gets those of one of the users, always the same one's share for that name: which it is
follows from the name and a secret, and from how many users have how many iterations.
"""

import hmac
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import Final

from server.core.users import Users

LOOK_S: Final = 10.0  # how often users are looked at
SAMPLE: Final = 1024  # of them, at most


class Unknown:
    """As one worker answers."""

    def __init__(self, users: Users, clock_s: Callable[[], float], iterations: int) -> None:
        """iterations: of a new password."""
        self._users, self._clock_s, self._new = users, clock_s, iterations
        self._due = 0.0
        self._kinds: list[int] = [iterations]
        self._parts: list[int] = [1]

    def iterations(self, name: str) -> int:
        """For a name that nobody has."""
        if self._clock_s() >= self._due:
            self._due = self._clock_s() + LOOK_S
            self._look()
        digest = hmac.digest(self._users.salt_secret(), b"iterations " + name.encode(), "sha256")
        at = int.from_bytes(digest[:8]) * self._parts[-1] >> 64
        return self._kinds[bisect_right(self._parts, at)]

    def _look(self) -> None:
        """Few at first, so that a name goes from an old number to a new one, and not back."""
        found = Counter(self._users.iterations(SAMPLE)) or Counter([self._new])
        self._kinds = sorted(found)
        self._parts = list(accumulate(found[kind] for kind in self._kinds))

"""How long a client waits before it tries to connect again."""

import secrets
from collections.abc import Callable

PAUSE_S_FIRST = 0.05
"""Longest pause before the second attempt in a row; it doubles with each."""
PAUSE_S_MAX = 5.0
"""Longest pause, if the server does not ask for more."""
RESET_S = 1.0
"""A connection that lasted so long is followed by an attempt at once, a shorter one by the first
pause, so that a server which takes every login and then fails is not overrun."""

_random = secrets.SystemRandom()


class Backoff:
    """The pauses between attempts: none, then between half and all of a time that doubles from
    PAUSE_S_FIRST to PAUSE_S_MAX, if the program sets no others. By how much is drawn, so that the
    clients of a server that went away do not all come back at the same moments."""

    def __init__(
        self,
        draw: Callable[[], float] = _random.random,
        first_s: float = PAUSE_S_FIRST,
        max_s: float = PAUSE_S_MAX,
    ) -> None:
        """draw: gives a number from 0 to 1. first_s, max_s: instead of PAUSE_S_FIRST and
        PAUSE_S_MAX."""
        self._draw = draw
        self._first_s = first_s
        self._max_s = max_s
        self._attempts = 0
        self._last_at_s = 0.0

    def pause_s(self, now_s: float, succeeded: bool, at_least_s: float) -> float:
        """The pause before the next attempt. `succeeded`: the last attempt led to a connection that
        has been in use; `now_s` is monotonic."""
        if succeeded:
            self._attempts = 0 if now_s - self._last_at_s >= RESET_S else 1
        pause_s = 0.0
        if self._attempts:
            longest = min(self._max_s, self._first_s * 2.0 ** min(self._attempts - 1, 64))
            pause_s = longest * (1 + self._draw()) / 2
        self._attempts += 1
        pause_s = max(pause_s, at_least_s)
        self._last_at_s = now_s + pause_s
        return pause_s

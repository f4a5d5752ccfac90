"""What a client tries again by itself, how often, and after which pauses."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from client.core import arguments
from client.core.backoff import PAUSE_S_FIRST, PAUSE_S_MAX

_random = secrets.SystemRandom()
_ATTEMPTS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What a client tries again by itself. BadArgument if a value is not valid.

    busy_attempts: how often a request is sent, in all, that the server refuses for the moment: it
    answers ERR_SERVER_BUSY and says when to come again. No such refusal executes anything, so this
    is safe for payments too. 1 leaves it to the program. A pause that would pass the deadline of
    the call is not begun: the call raises ServerBusy at once. Requests that are made at the same
    time, by tasks or threads, may be executed in another order by that. `connect`, `register` and
    `login` are left to the program.

    pause_s_first, pause_s_max: the longest pause before the second attempt, and before any one; it
    doubles in between, and about half of it is drawn. A longer one that the server asks for is
    kept. These are the pauses between attempts to connect again, too.

    reconnect_for_s: how long a client with `reconnect=True` tries to get another connection before
    it is over with ConnectionLost; None: until it is closed.
    """

    busy_attempts: int = 4
    pause_s_first: float = PAUSE_S_FIRST
    pause_s_max: float = PAUSE_S_MAX
    reconnect_for_s: float | None = None

    def __post_init__(self) -> None:
        arguments.whole("busy_attempts", self.busy_attempts, 1, _ATTEMPTS_MAX, "attempts")
        arguments.seconds("pause_s_first", self.pause_s_first)
        arguments.seconds("pause_s_max", self.pause_s_max)
        if self.reconnect_for_s is not None:
            arguments.seconds("reconnect_for_s", self.reconnect_for_s)

    def longest_s(self, attempts: int) -> float:
        """The longest pause after so many attempts in a row, from 1 on."""
        return min(self.pause_s_max, self.pause_s_first * 2.0 ** min(attempts - 1, 64))


class Attempts:
    """The attempts of one call."""

    def __init__(self, policy: RetryPolicy, draw: Callable[[], float] = _random.random) -> None:
        """draw: gives a number from 0 to 1."""
        self._policy = policy
        self._draw = draw
        self._made = 0

    def pause_s(self, retry_after_ms: int, left_s: float) -> float | None:
        """How long to wait, after another attempt was answered ERR_SERVER_BUSY, before the next;
        None if there is to be none. left_s: until the deadline."""
        self._made += 1
        if not retry_after_ms or self._made >= self._policy.busy_attempts:
            return None
        asked_s = retry_after_ms / 1000
        drawn_s = self._policy.longest_s(self._made) * (1 + self._draw()) / 2
        # Those who were refused at the same moment do not all come back at the same moment.
        pause_s = max(asked_s * (1 + self._draw() / 4), drawn_s)
        if pause_s >= left_s:
            pause_s = asked_s
        return pause_s if pause_s < left_s else None

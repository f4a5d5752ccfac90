"""What a worker refuses when it has more to do than it can, and when that may come again.

**Overloaded** is a worker whose load stays above 1 for SUSTAINED_S, at every look: one long turn,
as after a repair, is not. The load is the greater of two ratios: of its lag, the time for which a
frame that can be read waits until it is read, to the lag limit; and of the answers that wait to
become durable, to the queue limit. So CoDel (RFC 8289) tells a queue that stays from a burst.

**Shedding.** From then on the *pressure* keeps the load at TARGET: it rises while the load is above
and falls while it is below, in proportion to the logarithm of how far (as PIE does, RFC 8033). A
pressure of 0.3 refuses three of ten chat requests, 1 all of them, 1.3 three of ten logins as well,
2 all logins, 3 everything that may be refused. So nothing of a class is refused before all of the
classes that count for less. Which of a class are refused is not drawn: they are spread evenly.

**Over** it is when nothing had to be refused for CALM_S, but for single looks. The time after which
refused requests may come again doubles with each second of shedding, and halves with each without.

This is a rule without a clock; lag.py says when it looks, and at what.
"""

import math
from enum import StrEnum
from typing import Final

from libproto.codec import ERROR
from libproto.messages import Opcode

SUSTAINED_S: Final = 0.1
TARGET: Final = 0.2  # of the limits, while it sheds
CALM_S: Final = 1.0
RETRY_FIRST_MS: Final = 100
RETRY_MAX_MS: Final = 10_000
DOUBLES_S: Final = 1.0
_STEP_S_MAX: Final = 1.0  # of one look: a worker that stood still has learnt little meanwhile
# What pressure follows from the error, the logarithm of load over TARGET within these bounds.
_PROPORTIONAL: Final = 0.3
_INTEGRAL_PER_S: Final = 4.0
_ERROR_MIN, _ERROR_MAX = -1.0, 2.0
_DETAIL: Final = "the server is overloaded; it was not executed"


class Class(StrEnum):
    """Requests by what they count for, least first; the values are those of the setting `shed`."""

    CHAT = "chat"
    LOGINS = "logins"
    LEDGER = "ledger"


_OF_LEDGER: Final = {
    Opcode.DEPOSIT,
    Opcode.WITHDRAW,
    Opcode.TRANSFER,
    Opcode.TRANSFER_IN_ROOM,
    Opcode.BOARD_TAKE,
    Opcode.BALANCE,
    Opcode.TXN_HISTORY,
}
_NEVER: Final = {Opcode.HEARTBEAT, Opcode.LOGOUT, Opcode.LEAVE_ROOM}
"""They keep a connection or end something, and cost less than the client that comes again."""


def class_of(opcode: int) -> Class | None:
    """The class of a request; None: it is never refused."""
    if opcode in _NEVER:
        return None
    if opcode in (Opcode.HELLO, Opcode.REGISTER, Opcode.LOGIN, Opcode.PASSWORD):
        return Class.LOGINS
    return Class.LEDGER if opcode in _OF_LEDGER else Class.CHAT


class Share:
    """What part of a class is refused. Hot path."""

    __slots__ = ("_credit", "body", "counter", "part")

    def __init__(self) -> None:
        self.part = 0.0  # 0 to 1
        self.body = b""  # of the refusal
        self.counter = 0  # word that counts the refused ones
        self._credit = 0.0

    def takes(self) -> bool:
        """Whether the next one is refused."""
        self._credit += self.part
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True


class Overload:
    """One worker's."""

    def __init__(self, lag_limit_s: float, queue_limit: int, most: Class) -> None:
        """A limit of 0: there is none. most: the class that counts for most of those that may be
        refused."""
        self.lag_limit_s: Final = lag_limit_s
        self._queue_limit: Final = queue_limit
        self._most: Final = 1.0 + list(Class).index(most)  # the greatest pressure
        self.shares: Final = {each: Share() for each in Class}
        self.nothing: Final = Share()
        """Of requests that are never refused."""
        self.sheds = False
        self.pressure = 0.0
        self._integral = 0.0
        self._above_since = math.inf
        self._looked = self._worked = -math.inf  # when it looked last; had to refuse something
        self._retry_ms = float(RETRY_FIRST_MS)
        self.retry_after_ms = RETRY_FIRST_MS
        self._set_retry()

    def load(self, lag_s: float, queue: int) -> float:
        """Above 1 a limit is passed."""
        lag = lag_s / self.lag_limit_s if self.lag_limit_s else 0.0
        return max(lag, queue / self._queue_limit if self._queue_limit else 0.0)

    def look(self, now_s: float, load: float) -> None:
        """How it is now. now_s: of a clock that never goes back."""
        elapsed_s, self._looked = now_s - self._looked, now_s
        if self.sheds:
            self._grow_retry(elapsed_s / DOUBLES_S)
            self._steer(now_s, min(elapsed_s, _STEP_S_MAX), load)
        elif load < 1.0:
            self._above_since = math.inf
            self._grow_retry(-elapsed_s / DOUBLES_S)
        else:
            self._grow_retry(-elapsed_s / DOUBLES_S)
            self._above_since = min(self._above_since, now_s)
            if now_s - self._above_since >= SUSTAINED_S:
                self.sheds, self._worked = True, now_s
                self._steer(now_s, 0.0, load)

    def _steer(self, now_s: float, elapsed_s: float, load: float) -> None:
        error = math.log(load / TARGET) if load > 0 else _ERROR_MIN
        error = min(_ERROR_MAX, max(_ERROR_MIN, error))
        integral = self._integral + _INTEGRAL_PER_S * elapsed_s * error
        self._integral = min(self._most, max(0.0, integral))
        before = self.pressure
        self._press(min(self._most, max(0.0, self._integral + _PROPORTIONAL * error)))
        # One look alone may have come late because the processor was somebody else's.
        if before > 0 and self.pressure > 0:
            self._worked = now_s
        elif now_s - self._worked >= CALM_S:
            self.sheds, self._above_since, self._integral = False, math.inf, 0.0
            self._press(0.0)

    def _press(self, pressure: float) -> None:
        self.pressure = pressure
        for number, share in enumerate(self.shares.values()):
            share.part = min(1.0, max(0.0, pressure - number))

    def _grow_retry(self, doublings: float) -> None:
        doublings = max(-64.0, min(64.0, doublings))
        retry_ms = self._retry_ms * 2**doublings
        self._retry_ms = min(float(RETRY_MAX_MS), max(float(RETRY_FIRST_MS), retry_ms))
        if int(self._retry_ms) != self.retry_after_ms:
            self._set_retry()

    def _set_retry(self) -> None:
        self.retry_after_ms = int(self._retry_ms)
        body = ERROR.encode(self.retry_after_ms, _DETAIL)
        for share in self.shares.values():
            share.body = body

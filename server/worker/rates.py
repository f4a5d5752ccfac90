"""How often somebody may ask for something: by session, user, address, and by what is asked for.

**Requests.** A client that sends more than its rate is read no faster than that: after each
request that came too early its connection is not read for as long. So nothing is lost, and not
every frame of a flood has to be answered. Only who goes on like that for PATIENCE_S, or would have
to wait for longer, as others have used up what its user or its address may have, is answered
ERR_SERVER_BUSY, and is not read for a moment after each of these.

**What is written** — all that goes to the journal — has a quota for each user, of an hour: who has
used it up is answered ERR_SERVER_BUSY, and pushes nobody's history out.

**What others notice** — messages in a room, to a user, payments told — and registrations have rates
of their own. All but the session's are counted over all workers (tallies.py).
"""

import time
from functools import lru_cache
from typing import Final

from libnet.sockets import network_of
from libproto.errors import Status
from server.config import Settings
from server.region.region import Region
from server.region.tallies import Allowances, Places
from server.worker.counters import Counters
from server.worker.refusal import Refused

PATIENCE_S: Final = 1.0
REFUSED_S: Final = 0.05
"""How much longer than it waits for the next a connection is not read after a refusal."""
TIMER_S: Final = 0.001  # timers of the event loop have this grain
BURST_S: Final = 1  # so much of a rate may be used at once, after a rest
CHAT_BURST_S: Final = 5
_WRITERS: Final = 4096
_US: Final = 1_000_000
_PATIENCE_US: Final = int(PATIENCE_S * _US)
_HOUR_US: Final = 3600 * _US


class Pace:
    """How much one connection has used of what it may."""

    __slots__ = ("address", "due", "held_since", "user")

    def __init__(self) -> None:
        self.due = 0  # when all requests are paid for, microseconds of CLOCK_MONOTONIC
        self.held_since = 0  # since when it has been asking for too much; 0: it does not
        self.address: Places = ()  # where its requests are counted; empty: not known yet
        self.user: Places = ()


class Rates:
    """Those of one worker's connections."""

    def __init__(
        self, region: Region, settings: Settings, counters: Counters, secret: bytes
    ) -> None:
        self._settings, self._counters = settings, counters
        self._allowances: Final = Allowances(region, secret)
        # Of those who have written last: a hash for each request would cost more than the rest.
        self._writes: Final = lru_cache(_WRITERS)(
            lambda user: self._allowances.places(b"w%d" % user)
        )
        self.outside: Final = bool(settings.unauthenticated_rate or settings.address_rate)
        """Requests have a rate before login."""
        self.inside: Final = bool(
            settings.rate_limit or settings.user_rate or settings.address_rate
        )
        """Requests have a rate after login."""

    def request(self, pace: Pace, user: int, peer: str) -> int:
        """Count one request of a connection. user: its user id, 0 before login. Returns for how
        many microseconds to stop reading the connection afterwards, usually 0. A negative number:
        refuse the request, which may be repeated after that many microseconds."""
        settings, now = self._settings, _now_us()
        rate = settings.rate_limit if user else settings.unauthenticated_rate
        due = max(pace.due, now)
        wait = due + _US // rate - now - BURST_S * _US if rate else 0
        if user and settings.user_rate:
            pace.user = pace.user or self._allowances.places(b"u%d" % user)
            wait = max(wait, self._take(pace.user, settings.user_rate, now))
        if settings.address_rate and wait <= _PATIENCE_US:
            pace.address = pace.address or self._allowances.places(b"a" + network_of(peer).encode())
            wait = max(wait, self._take(pace.address, settings.address_rate, now))
        if wait <= 0:
            if due - now < BURST_S * _US // 2:
                pace.held_since = 0
        else:
            pace.held_since = pace.held_since or now
            if max(wait, now - pace.held_since) > _PATIENCE_US:
                self._counters.count("rate_limited")
                return -wait
            self._counters.count("slowed")
        if rate:
            pace.due = due + _US // rate
        return max(0, wait)

    def _take(self, where: Places, rate: int, now: int) -> int:
        return self._allowances.take_at(where, now, _US // rate, BURST_S * rate, _PATIENCE_US)

    def check_write(self, user: int) -> None:
        """Refused, where a user has written too much."""
        quota = self._settings.user_writes
        if not quota:
            return
        interval_us = max(1, _HOUR_US // quota)
        wait = self._allowances.take_at(self._writes(user), _now_us(), interval_us, quota)
        if wait:
            self._counters.count("over_quota")
            raise Refused(
                Status.ERR_SERVER_BUSY,
                "too much written in an hour, by all programs of this user",
                wait // 1000 + 1,
            )

    def check_chat(self, user: int, room: int, to_user: int) -> None:
        """Refused, where a user says too much in a room, or to another user (room 0)."""
        rate = self._settings.chat_rate
        if rate:
            key = b"c%d %d %d" % (user, room, to_user)
            self._check(
                key, int(_US / rate), int(CHAT_BURST_S * rate), "too many messages in a short time"
            )

    def tells(self, payer: int, payee: int) -> bool:
        """Whether a PAYMENT may be pushed: it may be missed, and TXN_HISTORY has it."""
        rate = self._settings.payment_rate
        if not rate:
            return True
        key, burst = b"p%d %d" % (payer, payee), max(1, int(BURST_S * rate))
        return self._allowances.take(key, _now_us(), int(_US / rate), burst) == 0

    def check_registration(self, peer: str) -> None:
        """Refused, where there are too many of an address, or in all."""
        for key, most, whose in (
            (b"r" + network_of(peer).encode(), self._settings.address_registrations, " from here"),
            (b"r", self._settings.registrations, ""),
        ):
            if most:
                self._check(key, _HOUR_US // most, most, f"too many registrations{whose}")

    def _check(self, key: bytes, interval_us: int, burst: int, detail: str) -> None:
        wait = self._allowances.take(key, _now_us(), interval_us, max(1, burst))
        if wait:
            self._counters.count("rate_limited")
            raise Refused(Status.ERR_SERVER_BUSY, detail, wait // 1000 + 1)


def _now_us() -> int:
    return time.monotonic_ns() // 1000

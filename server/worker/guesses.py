"""Passwords that were wrong: who goes on guessing is answered later and later.

Failures are counted over all workers (tallies.py) by the name and the address together, by the
address, and by the name. What has failed is paid for by time, so all of this goes by itself. Nobody
is told anything by it: a name that nobody has counts as one that somebody has, and a right password
waits as a wrong one.

- **Name and address**: after `login_failures` wrong ones, one in PAIR_S. What would have to wait
  for longer than WAIT_S is refused, unread: so many connections at once help nobody.
- **Address**: ten times as many, one in ADDRESS_S, likewise.
- **Name**: whoever guesses from many addresses makes all wait, at most NAME_WAIT_S, and refuses
  nobody: from another address than a guesser's, the user gets in.
"""

import time
from typing import Final

import liblog
from libnet.sockets import network_of
from server.config import Settings
from server.region.region import Region
from server.region.tallies import Allowances
from server.worker.counters import Counters

PAIR_S: Final = 2.0
ADDRESS_S: Final = 0.1
NAME_S: Final = 0.5
WAIT_S: Final = 5.0
NAME_WAIT_S: Final = 1.0
EPISODE_S: Final = 600.0
"""It is logged once in this time, by name and address."""
_OTHERS: Final = 10  # times as many failures, of an address or a name
_US: Final = 1_000_000

log = liblog.get("worker")


class Guesses:
    """As one worker counts them."""

    def __init__(
        self, region: Region, settings: Settings, counters: Counters, secret: bytes
    ) -> None:
        self._allowances: Final = Allowances(region, secret)
        self._counters: Final = counters
        self._most: Final = settings.login_failures
        self._wait_us: Final = int(min(WAIT_S, settings.handshake_timeout / 2) * _US)

    def wait_us(self, name: str, peer: str) -> int:
        """How long a LOGIN waits before it is looked at. Less than 0: it is refused, and may come
        again after so long."""
        if not self._most:
            return 0
        now, wait = _now_us(), 0
        for key, interval, burst in self._counted(name, peer):
            if self._allowances.due_us(key, now, interval, burst) > 0:
                its = self._allowances.take(key, now, interval, burst, self._wait_us)
                if its > self._wait_us:
                    self._counters.count("guesses_refused")
                    return -its
                wait = max(wait, its)
        by_name = self._allowances.due_us(*self._of_name(name, now))
        wait = max(wait, min(by_name, int(NAME_WAIT_S * _US)))
        if wait:
            self._counters.count("guesses_delayed")
        return wait

    def failed(self, name: str, peer: str) -> None:
        """A LOGIN was wrong."""
        self._counters.count("failed_logins")
        if not self._most:
            return
        now, is_guessing = _now_us(), False
        keys = [*self._counted(name, peer)]
        for key, interval, burst in keys:
            if self._allowances.due_us(key, now, interval, burst) <= 0:  # else it has paid before
                self._allowances.take(key, now, interval, burst)
            is_guessing |= self._allowances.due_us(key, now, interval, burst) > 0
        key, now, interval, burst = self._of_name(name, now)
        self._allowances.take(key, now, interval, burst, self._wait_us)
        if is_guessing:
            episode = b"g" + keys[0][0]
            if self._allowances.take(episode, now, int(EPISODE_S * _US), 1) == 0:
                log.warning(
                    "guessing",
                    address=peer,
                    name=name,
                    advice="see the audit log; `tradechat-admin user passwd` if a password is weak",
                )

    def _counted(self, name: str, peer: str) -> list[tuple[bytes, int, int]]:
        """Key, interval in microseconds, and burst of what may be refused."""
        network = network_of(peer).encode()
        return [
            (b"f" + network + b" " + name.encode(), int(PAIR_S * _US), self._most),
            (b"f" + network, int(ADDRESS_S * _US), _OTHERS * self._most),
        ]

    def _of_name(self, name: str, now: int) -> tuple[bytes, int, int, int]:
        return b"f " + name.encode(), now, int(NAME_S * _US), _OTHERS * self._most


def _now_us() -> int:
    return time.monotonic_ns() // 1000

"""Conservation of money in a live region, without a lock.

The balances are copied while transfers go on. Those that may have changed meanwhile, or that a
transaction was about to store, are named by the newest records of the log, which also have the
balances after them; the others are as copied. So all are known as of one transaction, and that
one's record has the supply: what was paid in, less what was paid out.

A copy of a million balances takes tens of milliseconds, so a `Conservation`, which is asked again
and again, makes one only so often that it takes a small share of a processor, and tells the latest
in between.
"""

import math
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Final

from server.admin.audit import halves, records
from server.region.records import MONEY_KINDS, SUPPLY
from server.region.region import Region

SHARE: Final = 0.002  # of a processor
_TRIES: Final = 3  # the ring is far larger than what is written during a copy


class Conservation:
    """The imbalance of one region, for many askers, of several threads."""

    def __init__(
        self,
        region: Region,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        """clock, cpu: seconds that have passed, and that this thread has computed."""
        self._region, self._clock, self._cpu = region, clock, cpu
        self._lock = Lock()
        self._due = -math.inf
        self._latest: int | None = None

    def imbalance(self) -> int | None:
        """As `imbalance` does, of a moment that is not long ago."""
        with self._lock:
            if self._clock() >= self._due:
                began = self._cpu()
                self._latest = imbalance(self._region)
                self._due = self._clock() + (self._cpu() - began) / SHARE
            return self._latest


def imbalance(region: Region) -> int | None:
    """All balances less the supply, minor units: 0, if nothing is lost or made. None: the log has
    moved too far during each copy."""
    for _ in range(_TRIES):
        first = _applied(region)
        balances = region.column("accounts", "balance")
        last = region.log.head
        newest = records(region, first, last)
        if len(newest) == last - first + 1:
            return _sum_at(balances, newest) - newest[last][SUPPLY] if last else sum(balances)
    return None


def _applied(region: Region) -> int:
    """The newest transaction all of whose effects, and all of those before, stand in the accounts;
    1 at least, as there is no record 0.

    The head first: what is not above it has been applied, or is an intent that is read after.
    """
    head = region.log.head
    intents = [txn for txn in region.column("workers", "intent") if txn]
    return max(1, min([head, *(txn - 1 for txn in intents)]))


def _sum_at(balances: list[int], newest: Mapping[int, list[int]]) -> int:
    """All balances after the last of these records. balances: as copied before it."""
    total = sum(balances)
    after = {
        user: balance
        for record in newest.values()
        if record[1] in MONEY_KINDS
        for user, balance, _, _ in halves(record)
    }
    return total + sum(balance - balances[user] for user, balance in after.items())

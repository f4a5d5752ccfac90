"""Conservation of money in a live region, without a lock: fast enough to be asked every second.

The balances are copied while transfers go on. Those that may have changed meanwhile, or that a
transaction was about to store, are named by the newest records of the log, which also have the
balances after them; the others are as copied. So all are known as of one transaction, and that
one's record has the supply: what was paid in, less what was paid out.
"""

from collections.abc import Mapping
from typing import Final

from server.admin.audit import MONEY, halves, records
from server.region.records import SUPPLY
from server.region.region import Region

_TRIES: Final = 3  # the ring is far larger than what is written during a copy


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
        if record[1] in MONEY
        for user, balance, _, _ in halves(record)
    }
    return total + sum(balance - balances[user] for user, balance in after.items())

"""What the log says of money, against a sequential model and against what clients were told.

Every record is taken from the ring once it is there, in order; so the order of the log is the one
order in which all happened, and each answer must fit a place of it between its request and itself.
"""

from typing import Final, NamedTuple

from server.region.records import FIRST_CHANGE, OFFSETS, RECORD_WORDS, RecordKind
from server.region.region import Region

_MONEY: Final = OFFSETS[RecordKind.TRANSFER]
_CHANGE: Final = OFFSETS[RecordKind.ROOM_OPENED]
_KINDS: Final = (
    RecordKind.DEPOSIT,
    RecordKind.WITHDRAW,
    RecordKind.TRANSFER,
    RecordKind.OFFER_TAKEN,
)
_MASK: Final = 2**64 - 1


class Moved(NamedTuple):
    """A transaction of the log that moved money."""

    txn: int
    kind: int
    from_user: int
    to_user: int
    amount: int
    from_balance: int
    to_balance: int
    client_id: int
    req_id: int
    room: int
    room_seq: int
    digest: int  # of one that takes an offer, its entry_id


class Ledger:
    """The log so far, and what follows from it."""

    def __init__(self) -> None:
        self._region: Region | None = None
        self.head = 0
        self.moved: Final[dict[int, Moved]] = {}
        self.balances: Final[dict[int, list[tuple[int, int]]]] = {}
        """By user: txn_id and the balance from then on."""
        self._by_request: Final[dict[tuple[int, int, int], int]] = {}
        self.problems: Final[list[str]] = []

    def pause(self) -> None:
        """There is no region to follow."""
        self._region = None

    def begin(self, region: Region, shown: int) -> None:
        """A server has begun with what was kept. shown: the newest transaction that anybody was
        told of and could rely on: it must be there."""
        self._region = region
        self._ring = region.layout["txn_ring"]
        self._head_at = region.log.index("head")
        head = region.words[self._head_at]
        if head < shown:
            self.problems.append(f"the log ends with {head}, and {shown} was shown to somebody")
        if head > self.head:
            self.problems.append(f"the log ends with {head}, and {self.head} was the newest")
        self.head = head
        for txn in [txn for txn in self.moved if txn > head]:
            del self.moved[txn]
        for had in self.balances.values():
            while had and had[-1][0] > head:
                had.pop()
        for request in [key for key, txn in self._by_request.items() if txn > head]:
            del self._by_request[request]

    def follow(self) -> None:
        """Take what has been added since."""
        if self._region is None:
            return
        words = self._region.words
        head = words[self._head_at]
        while self.head < head:
            self.head += 1
            at = self._ring.at(self.head % self._ring.records)
            record = words[at : at + RECORD_WORDS].tolist()
            if record[0] != self.head:
                self.problems.append(f"transaction {self.head} is not in the ring: {record[0]}")
            elif record[1] >= FIRST_CHANGE and not record[_CHANGE["again"]]:
                names = "user", "client_id", "req_id"
                user, client_id, req_id = (record[_CHANGE[name]] for name in names)
                self._executes((user, client_id, req_id), self.head)
            elif record[1] in _KINDS:
                self._take(
                    Moved(
                        self.head,
                        record[1],
                        *(record[_MONEY[name]] for name in Moved._fields[2:]),
                    )
                )

    def balance(self, user: int) -> int:
        """By the model."""
        found = self.balances.get(user)
        return found[-1][1] if found else 0

    def _take(self, new: Moved) -> None:
        self.moved[new.txn] = new
        payer = new.from_user
        for user, told, change in (
            (payer, new.from_balance, -new.amount),
            (new.to_user, new.to_balance, new.amount),
        ):
            if user:
                right = self.balance(user) + change
                if not 0 <= right == told:
                    self.problems.append(f"{new}: user {user} has {right} after it")
                self.balances.setdefault(user, []).append((new.txn, told))
        if new.kind == RecordKind.OFFER_TAKEN:
            before = [each for each in self.moved.values() if each.digest == new.digest]
            if any(each.kind == new.kind and each.txn != new.txn for each in before):
                self.problems.append(f"{new}: the offer was taken before")
        asker = new.to_user if new.kind == RecordKind.DEPOSIT else payer
        self._executes((asker, new.client_id, new.req_id), new.txn)

    def _executes(self, request: tuple[int, int, int], txn: int) -> None:
        if request[1]:
            before = self._by_request.get(request)
            if before is not None:
                self.problems.append(f"{request} was executed as transactions {before} and {txn}")
            self._by_request[request] = txn

    def executed(self, user: int, client_id: int, req_id: int) -> int | None:
        """The transaction of a request; None: it has none."""
        return self._by_request.get((user, client_id, req_id))

    def balances_between(self, user: int, first: int, last: int) -> set[int]:
        """All that a user had at some time from transaction `first` on until `last`."""
        found, before = set(), 0
        for txn, balance in self.balances.get(user, ()):
            if txn <= first:
                before = balance
            elif txn <= last:
                found.add(balance)
        return found | {before}

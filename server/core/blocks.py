"""Who blocks whom: a user gets no direct message and no PAYMENT push from who is blocked.

All of it under the registry lock, which those who send hold as well.
"""

from typing import Final

from server.core.errors import LimitReached, NoSuchUser, Superseded, TableFull
from server.core.log import TxnLog
from server.core.session import Session, is_live
from server.core.table import Table
from server.core.users import Users
from server.region.locks import InsideLock, Locks, NothingChanged
from server.region.records import BLOCK, RecordKind
from server.region.region import Region

BLOCKED_MAX: Final = 256
"""Users that one user may block."""


class Blocks:
    """The blocks as one worker sees them."""

    def __init__(self, region: Region, locks: Locks, log: TxnLog, users: Users) -> None:
        self._region, self._words = region, region.words
        self._locks, self._log, self._users = locks, log, users
        self._table: Final = Table(
            region,
            region.layout["blocks"],
            region.registry.index("block_probes"),
            lambda at: not self._words[at + 1],
        )

    def blocks(self, user: int, other: int) -> bool:
        """Does a user block another? Under the registry lock."""
        at = self._table.find(user << 32 | other)
        return bool(at) and bool(self._words[at + 1])

    def of(self, user: int) -> int:
        """How many a user blocks."""
        column = self._region.column
        keys, on = column("blocks", "key"), column("blocks", "on")
        return sum(1 for key, it_is in zip(keys, on, strict=True) if it_is and key >> 32 == user)

    def set(self, session: Session, other: int, on: bool, now: int) -> int:
        """Block a user, or do so no more; answers the txn_id, 0 where that is so already. now:
        microseconds since the Unix epoch. Superseded, NoSuchUser, LimitReached, Busy."""
        registry = self._locks.registry
        while True:
            self._locks.hold(registry)
            try:
                txn = self._set(session, other, on, now)
            except NothingChanged:
                self._locks.release(registry)
                raise
            except Exception as error:
                raise InsideLock("block") from error
            if txn >= 0:
                self._locks.release(registry)
                return txn

    def _set(self, session: Session, other: int, on: bool, now: int) -> int:
        """Under the registry lock, which is still held afterwards; below 0: a recovery came
        between."""
        user = session.user
        if not is_live(self._words, session):
            raise Superseded
        if not (self._users.is_there(other) if on else self._users.exists(other)):
            raise NoSuchUser
        if self.blocks(user, other) == on:
            return 0
        if on:
            if self.of(user) >= BLOCKED_MAX:
                raise LimitReached(f"you block {BLOCKED_MAX} users, and nobody blocks more")
            if not self._table.place_for(user << 32 | other):
                raise TableFull("blocks")
        payload = BLOCK.pack(RecordKind.BLOCK, now, 0, user, other, on)
        txn = self._log.append(payload, 0, (self._locks.registry,))
        if txn == TxnLog.AGAIN:
            return -1
        if txn == TxnLog.FULL:
            raise self._log.refusal()
        self.apply(payload)
        self._log.done()
        return txn

    def apply(self, payload: bytes) -> None:
        """Store what a BLOCK record says (all its words but the first). Again without harm."""
        _, _, _, user, other, on = BLOCK.unpack(payload[: BLOCK.size])
        self.store(user, other, on)

    def store(self, user: int, other: int, on: int) -> None:
        """Store that a user blocks another, or no more."""
        at = self._table.claim(user << 32 | other, 1)
        self._words[at + 1] = on

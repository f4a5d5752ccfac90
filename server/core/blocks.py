"""Who blocks whom: a user gets no direct message and no PAYMENT push from who is blocked.

All of it under the registry lock, which those who send hold as well.
"""

from typing import Final

from server.core.errors import LimitReached, NoSuchUser, Superseded, TableFull
from server.core.log import TxnLog
from server.core.session import Session, is_live
from server.core.users import Users
from server.region.locks import InsideLock, Locks, NothingChanged
from server.region.records import BLOCK, RecordKind
from server.region.region import Region

BLOCKED_MAX: Final = 256
"""Users that one user may block."""

_GOLDEN: Final = 0x9E3779B97F4A7C15


class Blocks:
    """The blocks as one worker sees them."""

    def __init__(self, region: Region, locks: Locks, log: TxnLog, users: Users) -> None:
        self._region, self._words = region, region.words
        self._locks, self._log, self._users = locks, log, users
        self._blocks = region.layout["blocks"]
        self._probes: Final = region.registry.index("block_probes")

    def blocks(self, user: int, other: int) -> bool:
        """Does a user block another? Under the registry lock."""
        words, blocks, key = self._words, self._blocks, user << 32 | other
        place = self._first_place(key)
        for _ in range(words[self._probes]):
            at = blocks.base + place * blocks.stride
            if words[at] == key:
                return bool(words[at + 1])
            if not words[at]:
                return False
            place = (place + 1) % blocks.records
        return False

    def of(self, user: int) -> int:
        """How many a user blocks."""
        column = self._region.column
        keys, on = column("blocks", "key"), column("blocks", "on")
        return sum(1 for key, it_is in zip(keys, on, strict=True) if it_is and key >> 32 == user)

    def _place(self, key: int) -> int:
        """The word of a key, or of the place where it may stand; 0: none is free."""
        words, blocks, free = self._words, self._blocks, 0
        place = self._first_place(key)
        for probe in range(blocks.records):
            at = blocks.base + place * blocks.stride
            if words[at] == key:
                return at
            if not words[at]:
                return free or at
            if not words[at + 1]:
                free = free or at
            if free and probe >= words[self._probes]:  # it stands no farther on
                return free
            place = (place + 1) % blocks.records
        return free

    def _first_place(self, key: int) -> int:
        # By the high bits: the low ones of the product are those of who is blocked alone.
        return (key * _GOLDEN & 2**64 - 1) * self._blocks.records >> 64

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
        if not self._users.exists(other):
            raise NoSuchUser
        if self.blocks(user, other) == on:
            return 0
        if on:
            if self.of(user) >= BLOCKED_MAX:
                raise LimitReached(f"you block {BLOCKED_MAX} users, and nobody blocks more")
            if not self._place(user << 32 | other):
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
        words, at = self._words, self._place(user << 32 | other)
        if words[at] != user << 32 | other:
            place = (at - self._blocks.base) // self._blocks.stride
            first = self._first_place(user << 32 | other)
            probes = (place - first) % self._blocks.records + 1
            if probes > words[self._probes]:  # first, or it would not be found there
                words[self._probes] = probes
            words[at] = user << 32 | other
        words[at + 1] = on

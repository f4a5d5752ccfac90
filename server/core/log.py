"""The txn log: one total order of all that must last.

`append` is the middle of every durable change (step 4 of README.md): the caller holds its locks,
has written the payload of its intent, and applies the change afterwards.
"""

from typing import Final

from libproto.messages import MAX_BALANCE
from server.core.errors import Busy, DiskFull, JournalFailed, TableFull
from server.region.layout import WORD
from server.region.locks import Lock, Locks
from server.region.records import RECORD_WORDS, SUPPLY, TIME
from server.region.region import Region

NO_JOURNAL = 2**64 - 1  # durable, released and limit where nothing waits for durability


class TxnLog:
    """The log as one worker writes it."""

    FULL: Final = 0
    AGAIN: Final = -1
    LIMIT: Final = -2

    def __init__(self, region: Region, locks: Locks, worker: int) -> None:
        layout = region.layout
        self._words, self._bytes = region.words, region.bytes
        self._wait, self._lock = locks.wait, locks.log
        self._acquire, self._release = locks.log.acquire, locks.log.release
        self._head = region.log.index("head")
        self._limit = region.log.index("limit")
        self._full = region.journal.index("full")
        self._ring = layout["txn_ring"].base
        self._mask = layout.capacities.txn_ring - 1
        self.intent: Final = layout["workers"].at(worker, "intent")
        assert layout["txn_ring"].stride >= RECORD_WORDS
        self._stride = layout["txn_ring"].stride

    def append(self, payload: bytes, supply_change: int, held: tuple[Lock, ...]) -> int:
        """Commit a record. payload: all its words but the first. held: the caller's locks. Its time
        is made that of the record before it, where it is below that: a clock goes back, a log not.

        Answers the txn_id, with the intent standing: the caller applies the change and then calls
        `done`. FULL, and LIMIT where the supply would pass MAX_BALANCE: nothing happened, the locks
        are still held. AGAIN: a recovery came between, the locks have been released: begin anew.
        """
        words, blob, intent = self._words, self._bytes, self.intent
        at = (intent + 1) * WORD
        blob[at : at + len(payload)] = payload
        if not self._acquire(False) and not self._wait(self._lock, held):
            return self.AGAIN
        head = words[self._head]
        txn = head + 1
        newest = self._ring + (head & self._mask) * self._stride
        supply, time = words[newest + SUPPLY] + supply_change, words[newest + TIME]
        if supply > MAX_BALANCE:
            self._release()
            return self.LIMIT
        if txn > words[self._limit]:
            self._release()
            return self.FULL
        slot = self._ring + (txn & self._mask) * self._stride
        went_back = words[intent + TIME] < time
        if went_back:
            words[intent + TIME] = time
        words[intent] = txn  # from here on the intent counts
        words[slot] = 0  # whoever reads the old record sees that it goes
        at = (slot + 1) * WORD
        blob[at : at + len(payload)] = payload
        words[slot + SUPPLY] = supply
        if went_back:
            words[slot + TIME] = time
        words[slot] = txn  # the commit point
        words[self._head] = txn
        self._release()
        return txn

    def reserve(self, held: tuple[Lock, ...]) -> int:
        """The first half of `append`, for who does more with the log lock held: the next txn_id,
        with that lock held. FULL, AGAIN: as `append`."""
        words = self._words
        if not self._acquire(False) and not self._wait(self._lock, held):
            return self.AGAIN
        txn = int(words[self._head]) + 1
        if txn > words[self._limit]:
            self._release()
            return self.FULL
        return txn

    def time(self, now: int) -> int:
        """`now`, or the time of the newest record where that is above it. Under the log lock."""
        newest = self._ring + (self._words[self._head] & self._mask) * self._stride
        return max(now, int(self._words[newest + TIME]))

    def commit(self, txn: int, payload: bytes) -> None:
        """The second half: commit the record of the txn_id that was reserved; the supply stays as
        it is. The intent stands afterwards, and the log lock is still held."""
        words, blob, intent = self._words, self._bytes, self.intent
        at = (intent + 1) * WORD
        blob[at : at + len(payload)] = payload
        supply = words[self._ring + (txn - 1 & self._mask) * self._stride + SUPPLY]
        slot = self._ring + (txn & self._mask) * self._stride
        words[intent] = txn  # from here on the intent counts
        words[slot] = 0
        at = (slot + 1) * WORD
        blob[at : at + len(payload)] = payload
        words[slot + SUPPLY] = supply
        words[slot] = txn  # the commit point
        words[self._head] = txn

    @property
    def lock(self) -> Lock:
        """The log lock."""
        return self._lock

    def refusal(self) -> Busy:
        """Why there was no place: what FULL is answered with."""
        if not self._words[self._limit]:
            return JournalFailed()
        return DiskFull() if self._words[self._full] else TableFull("txn_ring")

    def done(self) -> None:
        """The change has been applied: the intent is over. Must come before the unlock, or a redo
        would overwrite what somebody else did since."""
        self._words[self.intent] = 0

    def intended(self) -> tuple[int, ...] | None:
        """What this worker was in the middle of when it died, if it was committed: the record. The
        head is made to reach it. For a repair, while all others are paused.

        It is asked by the head first: once that has passed it, the slot may be another's.
        """
        words = self._words
        txn = words[self.intent]
        if not txn:
            return None
        head = words[self._head]
        if txn > head and words[self._ring + (txn & self._mask) * self._stride] != txn:
            return None
        if txn > head:
            words[self._head] = txn
        return tuple(words[self.intent : self.intent + RECORD_WORDS].tolist())

    def head(self) -> int:
        """The newest txn_id."""
        return self._words[self._head]

    def read(self, txn: int) -> tuple[int, ...] | None:
        """The words of a record, or None where the ring no longer has it. Takes no lock."""
        words = self._words
        slot = self._ring + (txn & self._mask) * self._stride
        if words[slot] != txn:
            return None
        record = words[slot : slot + RECORD_WORDS].tolist()
        return tuple(record) if words[slot] == txn else None

"""The txn log: one total order of all that must last.

`append` is the middle of every durable change (step 4 of README.md): the caller holds its locks,
has written the payload of its intent, and applies the change afterwards.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from libproto.messages import MAX_BALANCE
from server.core.errors import Busy, DiskFull, JournalFailed, TableFull
from server.region import machine
from server.region.layout import WORD
from server.region.locks import Lock, Locks
from server.region.records import (
    OFFSETS,
    RECORD_WORDS,
    SUPPLY,
    TEXT_BYTES,
    TEXTS_MAX,
    TIME,
    RecordKind,
)
from server.region.region import Region

NO_JOURNAL = 2**64 - 1  # durable, released and limit where nothing waits for durability


# What the hot path needs: where this is compiled they are numbers of the machine.
_FULL, _AGAIN, _LIMIT = 0, -1, -2
_MAX_BALANCE = MAX_BALANCE
_TIME, _SUPPLY = TIME, SUPPLY
TEXT_AT: Final = OFFSETS[RecordKind.TEXT]["text"]
_TEXT: Final = Struct(f"=3Q{TEXT_BYTES}s")


class TxnLog:
    """The log as one worker writes it."""

    FULL, AGAIN, LIMIT = _FULL, _AGAIN, _LIMIT

    def __init__(self, region: Region, locks: Locks, worker: int) -> None:
        layout = region.layout
        self._view, self._bytes = region.words, region.bytes
        self._words = machine.words_of(region.words)
        self._locks = locks
        self.lock: Final = locks.log
        """The log lock."""
        self._head = region.log.index("head")
        self._limit = region.log.index("limit")
        self._full = region.journal.index("full")
        self._ring = layout["txn_ring"].base
        self._mask = layout.capacities.txn_ring - 1
        self.intent: Final = layout["workers"].at(worker, "intent")
        assert layout["txn_ring"].stride >= RECORD_WORDS
        self._stride = layout["txn_ring"].stride

    def append(self, payload: bytes, supply_change: int, held: tuple[Lock, ...]) -> int:
        """Commit a record. payload: all its words but the first. supply_change: at most
        MAX_BALANCE, up or down. held: the caller's locks. The record's time is made that of the one
        before it, where it is below that: a clock goes back, a log not.

        Answers the txn_id, with the intent standing: the caller applies the change and then calls
        `done`. FULL, and LIMIT where the supply would pass MAX_BALANCE: nothing happened, the locks
        are still held. AGAIN: a recovery came between, the locks have been released: begin anew.
        """
        self._intend(payload)
        if not self.lock.acquire() and not self._locks.wait(self.lock, held):
            return _AGAIN
        return self.commit_intended(len(payload) // WORD, supply_change)

    def _intend(self, payload: bytes) -> None:
        at = (self.intent + 1) * WORD
        self._bytes[at : at + len(payload)] = payload

    def commit_intended(self, size: int, supply_change: int) -> int:
        """The rest of `append`, once all words of the intent but the first are written, `size` of
        them, and the log lock is taken. It is released. FULL, LIMIT: as of `append`."""
        words, intent = self._words, self.intent
        head = words[self._head]
        txn = head + 1
        newest = self._ring + (head & self._mask) * self._stride
        supply, time = words[newest + _SUPPLY], words[newest + _TIME]
        if supply_change > 0 and supply > _MAX_BALANCE - supply_change:
            self.lock.release()
            return _LIMIT
        if txn > words[self._limit]:
            self.lock.release()
            return _FULL
        if words[intent + _TIME] < time:
            words[intent + _TIME] = time
        self._commit(txn, size, supply + supply_change)
        self.lock.release()
        return txn

    def _commit(self, txn: int, size: int, supply: int) -> None:
        words, intent = self._words, self.intent
        slot = self._ring + (txn & self._mask) * self._stride
        machine.publish(words, intent, txn)  # from here on the intent counts
        machine.retract(words, slot)  # whoever reads the old record sees that it goes
        machine.copy_words(words, slot + 1, intent + 1, size)
        words[slot + _SUPPLY] = supply
        machine.publish(words, slot, txn)  # the commit point
        machine.publish(words, self._head, txn)

    def reserve(self, held: tuple[Lock, ...]) -> int:
        """The first half of `append`, for who does more with the log lock held: the next txn_id,
        with that lock held. FULL, AGAIN: as `append`."""
        words = self._words
        if not self.lock.acquire() and not self._locks.wait(self.lock, held):
            return _AGAIN
        txn = int(words[self._head]) + 1
        if txn > words[self._limit]:
            self.lock.release()
            return _FULL
        return txn

    def has_place_for(self, count: int) -> bool:
        """Is there a place for so many more records? Under the log lock."""
        words = self._words
        return words[self._head] + count <= words[self._limit]

    def write_text(self, texts: Sequence[bytes], now: int) -> int:
        """The records of the text of a change, whose places there are, behind the head: they count
        with the record that is committed after them, and without it never have. texts: each of
        TEXT_BYTES at most. Answers the txn_id that comes next. Under the log lock."""
        view, head = self._view, self._view[self._head]
        supply = view[self._ring + (head & self._mask) * self._stride + SUPPLY]
        for txn, text in enumerate(texts, head + 1):
            slot = self._ring + (txn & self._mask) * self._stride
            machine.retract(self._words, slot)
            record = _TEXT.pack(RecordKind.TEXT, now, supply, text)
            self._bytes[(slot + 1) * WORD : (slot + 1) * WORD + len(record)] = record
            machine.publish(self._words, slot, txn)
        return head + len(texts) + 1

    def text_before(self, txn: int, size: int) -> bytes:
        """The text, of so many bytes, in the records right before one that was committed."""
        pieces, count = [], -(-size // TEXT_BYTES)
        for number in range(txn - count, txn):
            at = (self._ring + (number & self._mask) * self._stride + TEXT_AT) * WORD
            pieces.append(bytes(self._bytes[at : at + TEXT_BYTES]))
        return b"".join(pieces)[:size]

    def drop_text(self) -> None:
        """Clear the records behind the head, which belong to a change that was never committed: the
        number of a later transaction may not be found in its place before it is. For a repair,
        while all others are paused, when all intents are dealt with."""
        head = self._view[self._head]
        for txn in range(head + 1, head + 1 + TEXTS_MAX):
            slot = self._ring + (txn & self._mask) * self._stride
            if self._view[slot] == txn:
                self._view[slot] = 0

    def time(self, now: int) -> int:
        """`now`, or the time of the newest record where that is above it. Under the log lock."""
        newest = self._ring + (self._words[self._head] & self._mask) * self._stride
        return max(now, int(self._words[newest + _TIME]))

    def commit_reserved(self, txn: int, size: int, supply_change: int = 0) -> None:
        """The second half: commit the record of the txn_id that was reserved, of whose intent all
        words but the first are written, `size` of them. supply_change: one that `supply` allows.
        The intent stands afterwards, and the log lock is still held."""
        newest = self._ring + (txn - 1 & self._mask) * self._stride
        self._commit(txn, size, self._words[newest + _SUPPLY] + supply_change)

    def supply(self) -> int:
        """Deposits minus withdrawals. Under the log lock."""
        head = self._view[self._head]
        return int(self._view[self._ring + (head & self._mask) * self._stride + SUPPLY])

    def refusal(self) -> Busy:
        """Why there was no place: what FULL is answered with."""
        if not self._words[self._limit]:
            return JournalFailed()
        return DiskFull() if self._words[self._full] else TableFull("txn_ring")

    def done(self) -> None:
        """The change has been applied: the intent is over. Must come before the unlock, or a redo
        would overwrite what somebody else did since."""
        machine.publish(self._words, self.intent, 0)

    def intended(self) -> tuple[int, ...] | None:
        """What this worker was in the middle of when it died, if it was committed: the record. The
        head is made to reach it. For a repair, while all others are paused.

        It is asked by the head first: once that has passed it, the slot may be another's.
        """
        words = self._view
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
        words = self._view
        slot = self._ring + (txn & self._mask) * self._stride
        if words[slot] != txn:
            return None
        record = words[slot : slot + RECORD_WORDS].tolist()
        return tuple(record) if words[slot] == txn else None

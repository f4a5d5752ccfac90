"""Group commit: from the two rings into the journal, and what becomes of it in the region.

The bytes of the rings' slots are the bytes of the journal's records, so a batch is slices of the
region, written and synced as they stand: no slot is given out again before it is durable.
Everything the journal publishes stands in a word of its own, written by it alone.

PAYMENT slots are not written, since they may be missed. They count as durable as soon as all before
them is.

**Places.** A request gets one only where what is allocated on the disk has room for it, and beside
it for a leave of every member; so a leave is never refused for want of space. In the ring the last
eighth is for leaves: however many there are, all in it can be written, and there is a place for the
next. (Space for all of them in the ring as well would be a limit on members.)
"""

import errno
from collections.abc import Callable, Sequence
from typing import Final

from libnet.wakeup import Wakeup
from server.core.events import SlotKind
from server.core.log import NO_JOURNAL
from server.journal.errors import JournalError
from server.journal.format import EVENT_HEAD, SEGMENT, event_size
from server.journal.position import PositionFile
from server.journal.writer import OVERHEAD, Writer
from server.region import histogram, machine
from server.region.histogram import SIZES_FIRST, TIMES_FIRST
from server.region.layout import WORD, Capacities, frame_words, leave_words
from server.region.records import (
    FIRST_CHANGE,
    OFFSETS,
    RECORD_SIZE,
    RECORD_WORDS,
    RecordKind,
)
from server.region.region import Region

# What a batch needs: where this is compiled they are numbers of the machine.
_KIND, _EVENT = OFFSETS[RecordKind.TRANSFER]["kind"], OFFSETS[RecordKind.TRANSFER]["event"]
_TRANSFER, _TAKEN = int(RecordKind.TRANSFER), int(RecordKind.OFFER_TAKEN)
_TEXT, _FIRST_CHANGE, _PAYMENT = int(RecordKind.TEXT), FIRST_CHANGE, int(SlotKind.PAYMENT)
_WORD, _RECORD_SIZE, _RECORD_WORDS = WORD, RECORD_SIZE, RECORD_WORDS
_NO_JOURNAL = NO_JOURNAL
_SIZES_FIRST, _TIMES_FIRST = SIZES_FIRST, TIMES_FIRST


def give_up(region: Region, number: int) -> None:
    """Tell the workers that nothing becomes durable any more: no transaction and no event gets a
    place, and no answer that waits leaves. number: the errno, for whoever looks."""
    region.log.limit = region.events.limit = region.events.leave_limit = 0
    region.journal.failed = number


def _told(word: int) -> int:
    """What a journal has published, or 0 where there has been none."""
    return 0 if word == NO_JOURNAL else word


LEAVE_BYTES: Final = event_size(leave_words() * WORD) + OVERHEAD
"""Bytes of the largest leave, in a batch of its own."""
_LEAVE_BYTES, _TXN_BYTES = LEAVE_BYTES, RECORD_SIZE + OVERHEAD
_LEAVES_SHARE: Final = 8  # of the ring one part is for leaves


def event_bytes(capacities: Capacities) -> int:
    """Bytes that are kept for an event that is no leave: of the largest one in a batch of its own,
    or of a join and of the leave that follows from it."""
    return max(event_size(frame_words(capacities) * WORD) + OVERHEAD, 2 * LEAVE_BYTES)


def places(capacities: Capacities) -> int:
    """Events in a full ring beside those that only leaves have places for."""
    return capacities.event_ring - capacities.event_ring // _LEAVES_SHARE


def segment_bytes(capacities: Capacities, size: int, members: int = 0) -> int:
    """Bytes that a segment is to be allocated: `size`, and at least what both full rings can take,
    each record in a batch of its own, the leaves of so many members and some more, and the END."""
    leaves = max(capacities.event_ring, 1 << members.bit_length())
    rings = capacities.txn_ring * _TXN_BYTES + places(capacities) * event_bytes(capacities)
    return max(size, SEGMENT.size + rings + leaves * LEAVE_BYTES + OVERHEAD)


class Committer:
    """The rings' one reader that makes them durable."""

    def __init__(
        self,
        region: Region,
        writer: Writer,
        noted: PositionFile,
        *,
        sync: bool,
        wakeups: Sequence[Wakeup],
        clock_us: Callable[[], int],
    ) -> None:
        """noted: where what is durable is noted as well. sync: answers and pushes wait until they
        are durable. wakeups: of the workers, by slot. clock_us: a monotonic clock, microseconds."""
        self._region, self._view, self._bytes = region, region.words, region.bytes
        self._words = machine.words_of(region.words)
        self._writer, self._noted = writer, noted
        self._sync = sync
        self._clock_us = clock_us
        layout, capacities = region.layout, region.layout.capacities
        journal, ring = layout["journal"], layout["txn_ring"]
        self._head, self._event_head = region.log.index("head"), region.events.index("head")
        self._records, self._sync_us = journal.at(0, "records"), journal.at(0, "sync_us")
        self._longest = journal.at(0, "sync_us_max")
        self._ring, self._size, self._mask = ring.base, ring.records, ring.records - 1
        assert ring.stride * WORD == RECORD_SIZE, "a run of slots is a run of records"
        events = layout["event_ring"]
        self._events, self._stride, self._events_size = events.base, events.stride, events.records
        self._half, self._events_half = ring.records // 2, events.records // 2
        self._event_bytes, self._places = event_bytes(capacities), places(capacities)
        self._members = region.registry.index("members")
        self._durable, self._events_durable = (
            region.log.index("durable"),
            region.events.index("durable"),
        )
        self._released = region.log.index("released")
        self._events_released = region.events.index("released")
        self._limit, self._events_limit = region.log.index("limit"), region.events.index("limit")
        self._leave_limit = region.events.index("leave_limit")
        self._last_pair = region.log.index("last_pair_event")
        # The newest durable ones, of the events written or not; and what the process before this
        # one gave stays given.
        self._txn = writer.position.txn
        self._event = max(writer.position.event, _told(region.events.durable))
        self._txns_given, self._events_given = _told(region.log.limit), _told(region.events.limit)
        self._leaves_given = _told(region.events.leave_limit)
        workers = layout["workers"]
        self._parked = [(workers.at(n, "parked"), wakeup) for n, wakeup in enumerate(wakeups)]

    def publish(self) -> None:
        """What the journal holds is durable: the answers and pushes that wait may go, its slots be
        reused."""
        words, durable, event = self._words, self._txn, self._event
        machine.publish(words, self._durable, durable)
        machine.publish(words, self._events_durable, event)
        # The log's word first: what a worker parked before an event is answered before that event.
        machine.publish(words, self._released, durable if self._sync else _NO_JOURNAL)
        machine.publish(words, self._events_released, event if self._sync else _NO_JOURNAL)
        self._give()
        machine.publish(words, self._limit, self._txns_given)
        machine.publish(words, self._events_limit, self._events_given)
        machine.publish(words, self._leave_limit, self._leaves_given)
        for parked, wakeup in self._parked:
            if words[parked]:
                wakeup.set()

    def _give(self) -> None:
        """Give transactions, events and leaves their places. What was given stays given; each ring
        is filled, but where the disk has no room for as much: then half of what is left for each,
        beside the leaves of all members.
        """
        txns_given = max(self._txns_given, self._txn)
        events_given = max(self._events_given, self._event)
        self._leaves_given = max(self._leaves_given, self._event + self._events_size)
        open_txns, open_events = txns_given - self._txn, events_given - self._event
        txns, events = max(0, self._size - open_txns), max(0, self._places - open_events)
        # One more than are counted: who joins is counted after the event is there to be written.
        room = self._writer.room - (self._words[self._members] + 1) * _LEAVE_BYTES
        left = room - open_txns * _TXN_BYTES - open_events * self._event_bytes
        if left < txns * _TXN_BYTES + events * self._event_bytes:
            half = max(0, left) // 2
            txns = min(txns, half // _TXN_BYTES)
            events = min(events, half // self._event_bytes)
        self._txns_given, self._events_given = txns_given + txns, events_given + events

    def behind(self) -> bool:
        """Is there anything to commit?"""
        words = self._words
        return words[self._head] > self._txn or words[self._event_head] > self._event

    def half_full(self) -> bool:
        """Is half of a ring not durable yet? Soon there is no place in it."""
        words = self._words
        return (
            words[self._head] - self._txn > self._half
            or words[self._event_head] - self._event > self._events_half
        )

    def commit(self) -> int:
        """Make durable what is in the rings, as one batch; how many transactions and events.

        OSError: the journal has failed, and has been given up. JournalError: the region is not as
        it should be, and nothing was written.
        """
        words = self._words
        # The events' head first: the user or the client that an event names is in the transactions
        # that are read after it.
        head = machine.look(words, self._event_head)
        count = machine.look(words, self._head) - self._txn
        if words[self._last_pair] > head:
            count = self._before_pair(count, head)
        events = self._event_slots(head)
        number = count + head - self._event
        if not number:
            return 0
        began = self._clock_us()
        if count or events:
            try:
                self._writer.append(self._slots(count), count, events, head + 1)
                self._noted.write(self._writer.position)
            except OSError as error:
                give_up(self._region, error.errno or errno.EIO)
                raise
        self._txn += count
        self._event = head
        took = self._clock_us() - began
        self.publish()
        histogram.add(words, self._records, number, 1, _SIZES_FIRST)
        histogram.add(words, self._sync_us, took, 1, _TIMES_FIRST)
        if took > words[self._longest]:
            words[self._longest] = took
        return number

    def _before_pair(self, count: int, head: int) -> int:
        """How many transactions come before one whose event comes after event `head`: that one
        waits for the next batch, with its text and its event."""
        words, before = self._words, 0  # before: a text that what comes now may be of
        for place in range(count):
            slot = self._ring + (self._txn + 1 + place & self._mask) * _RECORD_WORDS
            kind = words[slot + _KIND]
            if kind == _TEXT:
                continue
            tells = kind in (_TRANSFER, _TAKEN) or kind >= _FIRST_CHANGE
            if tells and words[slot + _EVENT] > head:
                return before
            before = place + 1
        return count

    def _slots(self, count: int) -> list[memoryview]:
        """The slots of the next transactions, in order: one run, or two where the ring's end is
        between."""
        if not count:
            return []
        place = self._txn + 1 & self._mask
        first = min(count, self._size - place)
        if first == count:
            return [self._run(place, count)]
        return [self._run(place, first), self._run(0, count - first)]

    def _run(self, place: int, count: int) -> memoryview:
        at = self._ring * _WORD + place * _RECORD_SIZE
        return self._bytes[at : at + count * _RECORD_SIZE]

    def _event_slots(self, head: int) -> list[memoryview]:
        """The slots of the events up to `head` that are written, in order. JournalError: one was
        overwritten, though it had not become durable."""
        words = self._words
        found: list[memoryview] = []
        for number in range(self._event + 1, head + 1):
            slot = self._events + number % self._events_size * self._stride
            if machine.look(words, slot) != number:
                raise JournalError(f"event {number} is not in its place in the ring any more")
            if words[slot + 1] == _PAYMENT:
                continue
            at = slot * _WORD
            found.append(self._bytes[at : at + event_size(words[slot + 7])])
        return found


assert EVENT_HEAD.size == 15 * WORD, "its words are read by place above"

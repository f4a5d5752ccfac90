"""From the event ring into the files of the rooms.

It follows the ring with a cursor, as the workers do, and takes no lock. What waits for the disk is
memory, up to `BUFFERED_MAX`; then it is dropped. There, and where the ring has gone past it, or
past one that was killed, what is older than the hole is not offered any more: ROOM_HISTORY never
passes over a message in silence.

room_seqs are reserved ahead: a number is used only once a reservation of it is durable, so after a
crash a room goes on above what was reserved. Leaves cannot be refused, so `reserved` stays as far
below the durable reservation as there can be sessions to leave.
"""

import time
from typing import Final

import liblog
from libproto.messages import HEADER_LEN
from server.archive.store import RoomStore
from server.core.state import State
from server.region.region import Region

BLOCK: Final = 1 << 16  # room_seqs reserved at a time, beside those of leaves
BUFFERED_MAX: Final = 64 << 20  # bytes of events that wait for the disk

log = liblog.get("archive")


class Keeper:
    """From the event ring into the store."""

    def __init__(self, region: Region, store: RoomStore) -> None:
        self._region, self._words, self._store = region, region.words, store
        # Nobody's slot: only what reads without a lock is used.
        self.state: Final = State(region, 0, time.monotonic_ns, time.sleep, 0.0)
        self._ring = region.layout.capacities.event_ring
        self._margin = region.layout.capacities.sessions
        rooms = region.layout["rooms"]
        self._count = rooms.records
        self._at = {name: rooms.offsets[name] for name in rooms.offsets}
        self._base, self._stride = rooms.base, rooms.stride
        self._cursor_at, self._kept, self._laps, self._dropped = (
            region.archive.index(name) for name in ("cursor", "kept", "laps", "dropped")
        )
        self._expected: list[int] = []  # by room: the room_seq that comes next
        self._touched: set[int] = set()  # rooms with something that is not written yet
        self._written: set[int] = set()  # and with something that is on its way
        self._events = self._events_written = 0  # the same, counted
        self.urgent = False  # room_seqs run out

    def _word(self, room: int, field: str) -> int:
        return self._base + room * self._stride + self._at[field]

    def begin(self) -> None:
        """In a new region: the rooms go on above what may have been used, and all is reserved."""
        words, store = self._words, self._store
        self._region.header.epoch = store.epoch
        for room in range(1, self._count):
            last = store.ceiling(room)
            words[self._word(room, "began")] = words[self._word(room, "last_seq")] = last
            words[self._word(room, "oldest_seq")] = last + 1 if last else 0
            store.reserve(room, last + BLOCK + self._margin)
        self.go_on()

    def go_on(self) -> None:
        """From what is stored; the region may be in use."""
        words, store = self._words, self._store
        store.commit()
        self.cursor = max(0, self.state.events.head() - self._ring)
        self._expected = [0] * self._count
        for room in range(1, self._count):
            began = words[self._word(room, "began")]
            self._expected[room] = max(store.last(room), began) + 1
            self._tell(room)
        self._find_holes()

    def _tell(self, room: int) -> None:
        """In the region: what may be used, and how far back the store reaches."""
        words, store = self._words, self._store
        words[self._word(room, "reserved")] = max(0, store.ceiling(room) - self._margin)
        words[self._word(room, "kept")] = store.oldest(room)

    def _find_holes(self) -> None:
        """Where the ring no longer has what comes next, nothing before it is offered."""
        for room in range(1, self._count):
            there = self._words[self._word(room, "oldest_seq")]
            if there > self._expected[room]:
                self._drop(room, there)

    def _drop(self, room: int, before: int) -> None:
        self._store.drop(room, before)
        self._expected[room] = before
        self._touched.add(room)

    def collect(self) -> None:
        """Take what is new out of the ring."""
        events, words, store = self.state.events, self._words, self._store
        while self.cursor < events.head():
            event = events.read(self.cursor + 1)
            if event is None:
                words[self._laps] += 1
                self.cursor = max(self.cursor, events.head() - self._ring)
                self._find_holes()
                continue
            self.cursor += 1
            expected = self._expected[event.room] if event.room else 0
            if not event.room or event.seq < expected:
                continue
            if event.seq > expected:
                self._drop(event.room, event.seq)
            store.append(event.room, event.seq, event.frame[HEADER_LEN:])
            self._expected[event.room] = event.seq + 1
            self._touched.add(event.room)
            self._events += 1
            if store.buffered > BUFFERED_MAX:
                self._shed()
            if event.seq + BLOCK // 2 > words[self._word(event.room, "reserved")]:
                store.reserve(event.room, event.seq + BLOCK + self._margin)
                self.urgent = True
        words[self._cursor_at] = self.cursor

    def _shed(self) -> None:
        dropped = self._store.shed()
        self._words[self._dropped] += dropped
        self._events = 0
        log.error(
            "room_events_dropped",
            events=dropped,
            advice="too many waited for the disk: they are not kept, nor what is older in their "
            "rooms; look at the disk of the data directory",
        )

    @property
    def behind(self) -> bool:
        """Is there anything new in the ring?"""
        return self.cursor < self.state.events.head()

    @property
    def collected(self) -> bool:
        """Is there anything that is not written?"""
        return bool(self._touched)

    def write(self) -> bool:
        """Write what was collected; True where there is something to `sync`. OSError."""
        if not self._store.write():
            return False
        self._written, self._touched = self._touched, set()
        self._events_written, self._events = self._events, 0
        self.urgent = False
        for room in self._written:
            self._words[self._word(room, "kept")] = self._store.oldest(room)
        return True

    def finish(self) -> None:
        """After the sync: what was reserved may be used."""
        self._store.finish()
        self._words[self._kept] += self._events_written
        for room in self._written:
            self._tell(room)

    def settle(self) -> None:
        """The orderly stop: no room_seq is skipped at the next start."""
        self.collect()
        self._store.settle(
            {
                room: self._words[self._word(room, "last_seq")]
                for room in range(1, self._count)
                if self._store.ceiling(room)
            }
        )

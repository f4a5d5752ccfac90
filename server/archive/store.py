"""Keeping the rooms' events: the newest of each room, and which room_seqs may have been used.

Everything is one log of records in segments. A room's newest events are found by an index in
memory, made anew from the log when it is opened; what is no longer wanted goes with the oldest
segment, after what is still wanted there was copied to the end of the log. So records of a room do
not stand in the order of room_seq, and one may stand there twice: the later one counts.

Each record also says below which room_seq nothing is offered any more, the highest one counts. That
makes a drop last, and it keeps an event hidden whose neighbours have gone with their segment.

An error is final, as in the journal's writer.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from server.archive.index import Index, Room, Segment, place_of, segment_and_offset
from server.archive.segments import RECORD, SUFFIX, Scan, Torn, read_batch, record_size
from server.journal.disk import Disk
from server.journal.errors import Damaged
from server.journal.format import FORMAT_VERSION, ROOM_BATCH, ROOM_SEGMENT, numbered
from server.region.layout import WORD

_PACE: Final = 2
"""Bytes of old segments gone through for each byte that is written, while too much is there."""


class _Copy(NamedTuple):
    """An event on its way from the oldest segment to the end of the log."""

    room: Room
    at: int  # its index there
    record: memoryview


class _Begun(NamedTuple):
    """A segment that is made in the next `sync`, and what is written into it there."""

    path: Path
    size: int  # bytes
    header: bytes
    batch: list[bytes]


class RoomStore:
    """The one writer and reader of a directory of room segments.

    `append`, `reserve` and `drop` only buffer. `commit` writes all of it as one batch and syncs.
    Who would rather wait for the disk in another thread calls `write`, there `sync`, and then
    `finish`; between `write` and `finish` everything but `write` may be called, and `read` where
    the store is `readable`. Only `sync` waits for the disk.

    Disk use: with L bytes of live records (a record has 32 bytes and its body, padded to 8; each
    room one for its reservation) the files have at most 3 L bytes and 6 segments. L is the most
    that was live since the oldest of it was written; a batch larger than a segment counts as the
    size of one. Cleaning is part of each `write`, which for it reads twice the bytes that it was
    given to write (and a batch of the log at least), and nothing else.
    """

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        *,
        keep: int,
        segment_size: int,
        now: Callable[[], int],
        new_epoch: int,
        salt: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Open the directory, which is made where it is not there (its parent must be), and read
        all of it. Damaged, OtherFormat, OSError.

        keep: events that are offered of each room, the newest ones. segment_size: bytes that a new
        segment is allocated. now: microseconds since the Unix epoch. new_epoch: for a directory
        without state. salt: random bytes.
        """
        self._disk, self._directory, self._segment_size = disk, directory, segment_size
        self._now, self._salt_of = now, salt
        self._index = index = Index(keep)
        self._rooms, self._segments = index.rooms, index.segments
        self._events: list[tuple[int, int, bytes]] = []  # buffered: room, seq, body
        self._events_size = 0  # bytes of their records
        self._reservations: dict[int, Room] = {}  # buffered: rooms that need a new record
        self._written: list[tuple[Room, int]] = []  # ceilings that are on their way
        self._cleaned = ROOM_SEGMENT.size  # how far the oldest segment has been gone through
        self._credit = 0  # bytes that may yet be read for that
        self._reading = (0, -1)  # an older segment and its descriptor
        self._begun: _Begun | None = None  # is on its way
        self._gone: list[int] = []  # segments that are removed in the next `sync`
        self._failed = True

        disk.make_directory(directory)
        disk.sync_directory(directory.parent)
        scan = Scan(disk, directory)
        for number, offset, records in scan.batches():
            index.load(place_of(number, offset), records)
        self.torn: Final[Torn | None] = scan.torn
        """What a crash left at the very end, and was cut off."""
        if scan.unborn is not None:
            disk.remove(scan.unborn)
        disk.sync_directory(directory)
        self._batch = scan.batch  # the newest
        self._oldest = scan.oldest  # the first segment that is still needed
        if scan.segments:
            self.epoch = scan.segments[0].head.epoch
            for path, head, size in scan.segments:
                self._segments[head.number] = Segment(path, head.salt, size)
            self._number = scan.segments[-1].head.number
            self._reservations.update(index.complete())
            self._go_on(scan)
        else:
            self.epoch = new_epoch
            self._number, self._fd = 0, -1
            self._begin_segment(0)
            self._make_segment()
            self._begun = None
        self._failed = False

    def _go_on(self, scan: Scan) -> None:
        """Write on where the log ends: what a crash left there is cut off, and the last batch is
        made sure of."""
        disk, segment = self._disk, self._segments[self._number]
        self._fd = disk.open(segment.path, writable=True)
        self._offset = scan.end
        if scan.torn is not None and scan.torn.path == segment.path:
            disk.truncate(self._fd, scan.end)
            disk.allocate(self._fd, segment.size)
        # After a failed sync the system may show what it has not kept, and stop showing it at any
        # time: what was read, and is relied on, is written once more, and the sync speaks for it.
        disk.write(self._fd, [scan.tail], scan.last)
        disk.sync(self._fd)
        self._gone = [number for number in self._segments if number < self._oldest]
        self._remove_cleaned()
        self._forget_cleaned()

    # ---- asking

    @property
    def buffered(self) -> int:
        """Bytes of the records of the events that are not written yet."""
        return self._events_size

    @property
    def readable(self) -> bool:
        """False between `write` and `finish` where what was written is in no file yet."""
        return self._begun is None

    @property
    def size(self) -> int:
        """Bytes of all files, when all is finished that was written."""
        return sum(segment.size for segment in self._segments.values())

    @property
    def live(self) -> int:
        """Bytes of the records that are still wanted."""
        return self._index.live

    def rooms(self) -> list[int]:
        """Rooms of which anything is known, ascending; those above a limit that was lowered too."""
        return sorted(self._rooms)

    def ceiling(self, room: int) -> int:
        """No room_seq above it may have been used: what was durably reserved; 0: nothing."""
        known = self._rooms.get(room)
        return known.ceiling if known else 0

    def last(self, room: int) -> int:
        """The newest room_seq that `read` reaches; 0: none."""
        known = self._rooms.get(room)
        return known.seqs[-1] if known and known.seqs else 0

    def oldest(self, room: int) -> int:
        """The oldest room_seq that `read` reaches; 0: none."""
        known = self._rooms.get(room)
        return known.seqs[0] if known and known.seqs else 0

    def read(self, room: int, after: int, limit: int, room_bytes: int) -> list[bytes]:
        """Bodies of written events above `after`, ascending: at most `limit`, and `room_bytes` of
        them in all. OSError; Damaged where a file was changed from outside."""
        assert self._begun is None, "see `readable`"
        bodies: list[bytes] = []
        known = self._rooms.get(room)
        if known is None:
            return bodies
        first = bisect_right(known.seqs, after)
        for at in range(first, min(first + limit, len(known.seqs))):
            length = known.lengths[at]
            room_bytes -= length
            if room_bytes < 0:
                break
            number, offset = segment_and_offset(known.places[at])
            record = self._disk.read(self._file(number), RECORD.size + length, offset)
            words = RECORD.unpack_from(record) if len(record) == RECORD.size + length else ()
            if words[:2] + words[3:] != (room, known.seqs[at], length):
                raise Damaged(self._segments[number].path, offset, "another record stands there")
            bodies.append(record[RECORD.size :])
        return bodies

    def _file(self, number: int) -> int:
        """A descriptor of a segment, to read from."""
        if number == self._number:
            return self._fd
        if number != self._reading[0]:
            self._stop_reading()
            self._reading = (number, self._disk.open(self._segments[number].path))
        return self._reading[1]

    def _stop_reading(self) -> None:
        if self._reading[0]:
            self._disk.close(self._reading[1])
            self._reading = (0, -1)

    # ---- buffering

    def append(self, room: int, seq: int, body: bytes) -> None:
        """An event: above all before it in its room, and at most its ceiling. ValueError."""
        known = self._index.room(room)
        if not known.newest < seq <= known.ceiling or not body:
            raise ValueError(
                f"room {room}: event {seq} of {len(body)} bytes, after {known.newest}, with "
                f"{known.ceiling} reserved"
            )
        known.newest = seq
        self._events.append((room, seq, body))
        self._events_size += record_size(len(body))

    def reserve(self, room: int, ceiling: int) -> None:
        """Once it is committed the room_seqs up to `ceiling` may be used. ValueError where it is
        below what was asked for before."""
        known = self._index.room(room)
        if ceiling < known.reserved:
            raise ValueError(f"room {room}: {ceiling} is below {known.reserved}")
        if ceiling > known.reserved:
            known.reserved = ceiling
            self._reservations[room] = known

    def drop(self, room: int, before: int) -> None:
        """Events below `before` are offered no more, from now on: some that come just before it
        have been missed. At most one more than the ceiling: ValueError."""
        known = self._index.room(room)
        if before - 1 > known.ceiling:
            raise ValueError(f"room {room}: {before} dropped to, with {known.ceiling} reserved")
        if before <= known.floor:
            return
        known.floor = before
        known.newest = max(known.newest, before - 1)
        self._index.forget(known, bisect_left(known.seqs, before))
        self._events = [e for e in self._events if e[0] != room or e[1] >= before]
        self._events_size = sum(record_size(len(body)) for _, _, body in self._events)
        self._reservations[room] = known

    def shed(self) -> int:
        """Drop all events that are buffered, which hides those before them in their rooms; how many
        were buffered."""
        count, newest = len(self._events), {room: seq for room, seq, _ in self._events}
        self._events.clear()
        for room, seq in newest.items():
            self.drop(room, seq + 1)
        return count

    def settle(self, last: Mapping[int, int]) -> None:
        """The orderly stop: all is committed, and the ceiling of each room given becomes the last
        room_seq that was used, so that none is skipped. ValueError where that cannot be."""
        for number, seq in last.items():
            known = self._index.room(number)
            if not known.newest <= seq <= known.ceiling:
                raise ValueError(
                    f"room {number}: {seq} is the last, with events up to {known.newest} and "
                    f"{known.ceiling} reserved"
                )
            if seq != known.reserved:
                known.reserved = seq
                self._reservations[number] = known
        self.commit()

    # ---- writing

    def commit(self) -> None:
        """Write and sync what is buffered, as one batch; nothing where nothing is.

        OSError: nothing of it may be taken for durable, and the store is of no use any more.
        Damaged, of a segment that was to be cleaned: the same.
        """
        if self.write():
            self.sync()
            self.finish()

    def write(self) -> bool:
        """Write what is buffered; is there anything to `sync`? The events can be read from now on,
        if it is `readable`; they and the reservations are durable after `finish`."""
        if self._failed:
            raise OSError("the store of the rooms' events has failed before")
        if not self._events and not self._reservations:
            return False
        self._failed = True
        copies = self._clean(self._batch_size())
        size = self._batch_size() + sum(len(copy.record) for copy in copies)
        if self._offset + size > self._segments[self._number].size:
            self._begin_segment(size)
        place = place_of(self._number, self._offset + ROOM_BATCH.size)
        records = b"".join(self._records(place, copies))
        self._batch += 1
        segment = self._segments[self._number]
        header = ROOM_BATCH.pack(
            segment.salt, self._batch, self._oldest, len(records), self._now(), rest=(records,)
        )
        if self._begun is None:
            self._disk.write(self._fd, [header, records], self._offset)
        else:
            self._begun.batch.extend((header, records))
        self._gone = [number for number in self._segments if number < self._oldest]
        self._offset += size
        assert size == len(header) + len(records)
        return True

    def sync(self) -> None:
        """Wait until what was written is durable, and remove what is not needed any more. May be
        called in another thread. OSError: as in `commit`."""
        if self._begun is not None:
            self._make_segment()
        self._disk.sync(self._fd)
        self._remove_cleaned()

    def finish(self) -> None:
        """After a `sync` that did not fail: reservations count."""
        for room, ceiling in self._written:
            room.ceiling = ceiling
        self._written.clear()
        self._begun = None
        self._forget_cleaned()
        self._failed = False

    def _batch_size(self) -> int:
        """Bytes of a batch of what is buffered."""
        return ROOM_BATCH.size + self._events_size + len(self._reservations) * RECORD.size

    def _records(self, place: int, copies: list[_Copy]) -> Iterator[bytes | memoryview]:
        """All that is to be written, and into the index with it; place: of the first record."""
        pack, index = RECORD.pack, self._index
        for number, room in self._reservations.items():
            index.reserved(room, place)
            self._written.append((room, room.reserved))
            yield pack(number, room.reserved, room.floor, 0)
            place += RECORD.size // WORD
        for room, at, record in copies:
            room.places[at] = place
            index.count(place, len(record))
            yield record
            place += len(record) // WORD
        for number, seq, body in self._events:
            room, length = self._rooms[number], len(body)
            index.add(room, seq, place, length)
            yield pack(number, seq, room.floor, length)
            yield body
            yield bytes(-length % WORD)
            place += record_size(length) // WORD
        self._reservations.clear()
        self._events.clear()
        self._events_size = 0

    def _begin_segment(self, size: int) -> None:
        """A new segment with room for a batch of `size` bytes comes next."""
        number, salt = self._number + 1, int.from_bytes(self._salt_of(WORD), "little")
        path = numbered(self._directory, number, SUFFIX)
        allocated = max(self._segment_size, ROOM_SEGMENT.size + size)
        header = ROOM_SEGMENT.pack(
            FORMAT_VERSION, number, self._batch + 1, salt, self.epoch, self._now()
        )
        self._begun = _Begun(path, allocated, header, [])
        if self._number:
            self._segments[self._number].size = self._offset
        self._segments[number] = Segment(path, salt, allocated)
        self._number, self._offset = number, ROOM_SEGMENT.size

    def _make_segment(self) -> None:
        """Make it durable itself before anything is in it."""
        disk, old, begun = self._disk, self._fd, self._begun
        assert begun is not None
        self._fd = disk.create(begun.path)
        disk.allocate(self._fd, begun.size)
        disk.write(self._fd, [begun.header], 0)
        disk.sync(self._fd)
        disk.sync_directory(self._directory)
        if old >= 0:
            disk.truncate(old, self._segments[self._number - 1].size)  # what it has not used
            disk.close(old)
        if begun.batch:
            disk.write(self._fd, begun.batch, ROOM_SEGMENT.size)

    # ---- cleaning

    def _clean(self, written: int) -> list[_Copy]:
        """Go on with the oldest segment where too much is there; written: bytes of the next batch.
        Answers the events to copy; reservations to write again are buffered."""
        copies: list[_Copy] = []
        needed = (s.size for number, s in self._segments.items() if number >= self._oldest)
        used = sum(needed) - self._segments[self._number].size + self._offset
        most = 2 * self._index.live + self._segment_size
        self._credit += _PACE * written
        while self._oldest < self._number:
            segment = self._segments[self._oldest]
            if not segment.live:
                used -= segment.size
                self._oldest += 1
                self._cleaned = ROOM_SEGMENT.size
                continue
            if used <= most:
                self._credit = min(self._credit, 0)  # what is not needed now is not saved up
            if self._credit <= 0:
                break
            before = segment.live
            size = self._clean_batch(segment, copies)
            self._cleaned += size
            self._credit -= size
            used += before - segment.live
        return copies

    def _clean_batch(self, segment: Segment, copies: list[_Copy]) -> int:
        """Take what is live in the next batch of the oldest segment; the bytes of that batch."""
        offset, fd = self._cleaned, self._file(self._oldest)
        batch = read_batch(self._disk, fd, offset, segment.salt)
        if batch is None:
            raise Damaged(segment.path, offset, "a batch is no longer what it was")
        place = place_of(self._oldest, offset)
        at = ROOM_BATCH.size
        while at < len(batch):
            number, seq, _, length = RECORD.unpack_from(batch, at)
            room, here, size = self._rooms[number], place + at // WORD, record_size(length)
            if length:
                known = room.find(seq)
                if known >= 0 and room.places[known] == here:
                    copies.append(_Copy(room, known, batch[at : at + size]))
                    self._index.count(here, -size)
            elif room.reservation == here:
                self._reservations[number] = room
                room.reservation = 0
                self._index.count(here, -size)
            at += size
        return len(batch)

    def _remove_cleaned(self) -> None:
        """Nothing durable needs them; one at a time, so that never one in the middle is missing."""
        for number in self._gone:
            self._disk.remove(self._segments[number].path)
            self._disk.sync_directory(self._directory)

    def _forget_cleaned(self) -> None:
        for number in self._gone:
            if number == self._reading[0]:
                self._stop_reading()
            del self._segments[number]
        self._gone = []

    def close(self) -> None:
        """Close the files; what is buffered is forgotten."""
        self._stop_reading()
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

"""Keeping the histories: the newest events of every room, and the newest messages of every inbox.

Everything is one log of records in segments. What is kept is found by an index in memory, made anew
from the log when it is opened; what is no longer wanted goes with the oldest segment, after what is
still wanted there was copied to the end of the log. So records of a room do not stand in the order
of their numbers, and one may stand there twice: the later one counts. Each record also says below
which number nothing of its room is kept: so no event comes back whose neighbours have gone with
their segment.

All of it is made from the journal, and each batch says up to where: what a crash takes away is
taken from there once more.
"""

import os
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from server.archive.index import (
    UNWRITTEN,
    Index,
    Room,
    Segment,
    is_presence,
    place_of,
    segment_and_offset,
)
from server.archive.protocol import INBOX
from server.archive.segments import RECORD, SUFFIX, BatchHead, Scan, Torn, read_batch, record_size
from server.core.deletions import without_text
from server.journal.disk import Disk, Piece
from server.journal.errors import MEDIUM, Damaged, Unreadable
from server.journal.format import FORMAT_VERSION, ROOM_BATCH, ROOM_SEGMENT, numbered
from server.journal.reader import Position
from server.region.layout import WORD

_PACE: Final = 2
"""Bytes of old segments gone through for each byte that is written, while too much is there."""


class _Copy(NamedTuple):
    """An event on its way from the oldest segment to the end of the log."""

    room: int
    seq: int
    place: int  # the old one
    record: memoryview


class _Event(NamedTuple):
    """One that is not written yet."""

    room: int
    seq: int
    event: int  # number in the log
    sender: int
    body: bytes


class _Syncing(NamedTuple):
    """What a sync makes durable."""

    batch: int
    position: Position | None
    files: list[int]  # descriptors; all but the last are closed after it
    gone: list[int]  # segments that are not needed any more


class Identity(NamedTuple):
    """Of what the histories are."""

    log_id: int
    epoch: int


class Store:
    """The one writer and reader of a directory of history segments.

    `append` only buffers. `write` writes all of it as one batch, which can be read from then on;
    what it raises changes nothing, and it may be called again. `begin_sync`, `sync` and `end_sync`
    make what was written durable; `sync` alone waits for the disk, and may be called in another
    thread while all else goes on. What `sync` raises is final: what is kept then nobody knows, and
    the store is to be opened anew.

    Disk use: with L bytes of live records (a record has 48 bytes and its body, padded to 8) the
    files have at most 3 L bytes and 6 segments. L is the most that was live since the oldest of it
    was written; a batch larger than a segment counts as the size of one. Cleaning is part of each
    `write`, which for it reads twice the bytes that it was given to write (and a batch of the log
    at least), and nothing else.
    """

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        new: Identity,
        *,
        room_keep: int,
        inbox_keep: int,
        segment_size: int,
        now: Callable[[], int],
        salt: Callable[[int], bytes] = os.urandom,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the directory, which is made where it is not there (its parent must be), and read
        all of it. Damaged, OtherFormat, OSError.

        new: of a directory without state. room_keep, inbox_keep: events of each room and of each
        inbox that are kept; a lower number than before counts from the next one on. segment_size:
        bytes that a new segment is allocated. now: microseconds since the Unix epoch. salt: random
        bytes. beat: called for every batch that is read.
        """
        self._disk, self._directory, self._segment_size = disk, directory, segment_size
        self._now, self._salt_of = now, salt
        self._index = index = Index(room_keep, inbox_keep)
        self._rooms, self._segments = index.rooms, index.segments
        self._events: list[_Event] = []
        self._events_size = 0  # bytes of their records
        self._copies: list[_Copy] = []
        self._cleaned = ROOM_SEGMENT.size  # how far the oldest segment has been gone through
        self._credit = 0  # bytes that may yet be read for that
        self._reading = (0, -1)  # an older segment and its descriptor
        self._full: list[int] = []  # descriptors of segments that are full and not synced
        self._syncing: _Syncing | None = None
        self._failed = False

        disk.make_directory(directory)
        disk.sync_directory(directory.parent)
        scan = Scan(disk, directory)
        for head, number, offset, records in scan.batches():
            index.load(head.event, place_of(number, offset), records)
            beat()
        self.torn: Final[Torn | None] = scan.torn
        """Where a crash has cut off what was written last."""
        last: BatchHead | None = scan.last
        self.position: Position | None = last.position if last else None
        """Everything in the journal up to there has been written; None: nothing yet."""
        self.durable: Position | None = self.position
        """And is durable."""
        self._batch = self._synced = scan.batch
        self._oldest = scan.oldest  # the first segment that is still needed
        for path in reversed(scan.cut):
            disk.remove(path)
        self._number, self._fd, self._offset = 0, -1, 0
        self.identity = new
        if scan.segments:
            head_of_first = scan.segments[0].head
            self.identity = Identity(head_of_first.log_id, head_of_first.epoch)
            for path, head_of, size, used in scan.segments:
                is_last = path == scan.segments[-1].path
                self._segments[head_of.number] = Segment(
                    path, head_of.salt, size if is_last else used
                )
            index.complete()
            self._go_on(scan)
        else:  # durable, so that any other without it is damage
            disk.sync_directory(directory)
            self._begin_segment(0)
            try:
                disk.sync(self._fd)
                disk.sync_directory(directory)
            except BaseException:
                disk.close(self._fd)
                raise

    def _go_on(self, scan: Scan) -> None:
        """Write on where the log ends: what a crash left there is cut off, and what may not be
        durable is made so."""
        disk = self._disk
        self._number = max(self._segments)
        segment = self._segments[self._number]
        # After a failed sync the system may show what it has not kept, and stop showing it at any
        # time: what was read, and is relied on, is written once more, and the sync speaks for it.
        for number in sorted({each.segment for each in scan.unsure} | {self._number}):
            fd = disk.open(self._segments[number].path, writable=True)
            try:
                if number == self._number and scan.torn is not None:
                    disk.truncate(fd, scan.end)
                    disk.allocate(fd, segment.size)
                ours = [each for each in scan.unsure if each.segment == number]
                if ours:
                    disk.write(fd, [each.data for each in ours], ours[0].offset)
                disk.write(fd, [self._header_of(scan, number)], 0)
                disk.sync(fd)
            except BaseException:
                disk.close(fd)
                raise
            if number == self._number:
                self._fd, self._offset = fd, scan.end
            else:
                disk.close(fd)
        disk.sync_directory(self._directory)
        gone = [number for number in self._segments if number < self._oldest]
        self._remove(gone)
        self._forget(gone)

    @staticmethod
    def _header_of(scan: Scan, number: int) -> bytes:
        head = next(each.head for each in scan.segments if each.head.number == number)
        return ROOM_SEGMENT.pack(*head[1:-1])

    # ---- asking

    @property
    def buffered(self) -> int:
        """Bytes of the records of the events that are not written yet."""
        return self._events_size

    @property
    def failed(self) -> bool:
        """Is it of no use any more?"""
        return self._failed

    @property
    def unsynced(self) -> bool:
        """Has anything been written that is not durable?"""
        return self._batch != self._synced

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(segment.size for segment in self._segments.values())

    @property
    def live(self) -> int:
        """Bytes of the records that are still wanted."""
        return self._index.live

    def rooms(self) -> list[int]:
        """Rooms and inboxes of which something is kept, ascending."""
        return sorted(number for number, room in self._rooms.items() if room.seqs)

    def last(self, room: int) -> int:
        """The newest number that `read` reaches; 0: none."""
        known = self._rooms.get(room)
        seqs = [] if known is None else known.seqs[: self._written(known)]
        return seqs[-1] if seqs else 0

    def oldest(self, room: int) -> int:
        """The oldest number that `read` reaches; 0: none."""
        known = self._rooms.get(room)
        return known.seqs[0] if known and known.seqs and known.places[0] != UNWRITTEN else 0

    @staticmethod
    def _written(room: Room) -> int:
        """How many of its events can be read: the newest are not written yet."""
        end = len(room.places)
        while end and room.places[end - 1] == UNWRITTEN:
            end -= 1
        return end

    def read(self, room: int, after: int, limit: int, room_bytes: int) -> list[bytes]:
        """Bodies of written events above `after`, ascending: at most `limit`, and `room_bytes` of
        them in all. OSError; Damaged where a file was changed from outside."""
        bodies: list[bytes] = []
        known = self._rooms.get(room)
        if known is None:
            return bodies
        first = bisect_right(known.seqs, after)
        for at in range(first, min(first + limit, self._written(known))):
            length = known.lengths[at]
            room_bytes -= length
            if room_bytes < 0:
                break
            number, offset = segment_and_offset(known.places[at])
            record = self._disk.read(self._file(number), RECORD.size + length, offset)
            words = RECORD.unpack_from(record) if len(record) == RECORD.size + length else ()
            if words[:2] + words[5:] != (room, known.seqs[at], length):
                raise Damaged(self._segments[number].path, offset, "another record stands there")
            body = record[RECORD.size :]
            bodies.append(without_text(body) if known.seqs[at] in known.deleted else body)
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

    # ---- writing

    def append(self, room: int, seq: int, event: int, sender: int, body: bytes) -> None:
        """The next event of a room or inbox. event: its number in the log. ValueError: it is not
        above those before it."""
        known = self._index.room(room)
        if known.seqs and not (seq > known.seqs[-1] and event > known.events[-1]):
            raise ValueError(
                f"number {seq} of {room}, event {event}, after {known.seqs[-1]}, event "
                f"{known.events[-1]}"
            )
        presence = is_presence(room, body)
        self._index.add(known, seq, event, sender, len(body), presence=presence)
        if room < INBOX:
            self._index.note_deletion(known, event, body)
        self._events.append(_Event(room, seq, event, sender, body))
        self._events_size += record_size(len(body))

    def cut(self, position: Position) -> None:
        """The log ends at `position`: events above that one are not kept. OSError: as for
        `write`."""
        assert not self._events
        self._index.cut(position.event)
        self.write(position)

    def write(self, position: Position) -> None:
        """Write what is buffered, and that everything up to `position` of the journal is here.
        OSError: it has not been, and may be tried again; Damaged, of a segment that was to be
        cleaned: the store is of no use any more."""
        if self._failed:
            raise OSError("the store of the histories has failed before")
        size = ROOM_BATCH.size + self._events_size
        self._clean(size)
        size += sum(len(copy.record) for copy in self._copies)
        if self._offset + size > self._segments[self._number].size:
            self._begin_segment(size)
        start = place_of(self._number, self._offset + ROOM_BATCH.size)
        copies = b"".join(copy.record for copy in self._copies)
        records = copies + b"".join(self._records())
        header = ROOM_BATCH.pack(
            self._segments[self._number].salt,
            self._batch + 1,
            self._synced,
            self._oldest,
            *position,
            len(records),
            self._now(),
            rest=(records,),
        )
        self._disk.write(self._fd, [header, records], self._offset)
        self._batch += 1
        self.position = position
        self._offset += len(header) + len(records)
        self._place(start)

    def _records(self) -> list[Piece]:
        """Of what is buffered."""
        pieces: list[Piece] = []
        for number, seq, event, sender, body in self._events:
            length, floor = len(body), min(seq, self._rooms[number].floor)
            pieces += (
                RECORD.pack(number, seq, event, sender, floor, length),
                body,
                bytes(-length % WORD),
            )
        return pieces

    def _place(self, place: int) -> None:
        """What was just written is in the files: from `place` on."""
        index = self._index
        for number, seq, old, record in self._copies:
            room = self._rooms[number]
            at = room.find(seq)
            if at >= 0 and room.places[at] == old:  # else it has gone meanwhile
                index.count(old, -len(record))
                room.places[at] = place
                index.count(place, len(record))
            place += len(record) // WORD
        for number, seq, *_, body in self._events:
            room, size = self._rooms[number], record_size(len(body))
            at = room.find(seq)
            if at >= 0:
                room.places[at] = place
                index.count(place, size)
            place += size // WORD
        self._copies.clear()
        self._events.clear()
        self._events_size = 0

    def _begin_segment(self, size: int) -> None:
        """A new segment with room for a batch of `size` bytes comes next. OSError: nothing has
        changed."""
        disk, number = self._disk, self._number + 1
        salt = int.from_bytes(self._salt_of(WORD), "little")
        path = numbered(self._directory, number, SUFFIX)
        allocated = max(self._segment_size, ROOM_SEGMENT.size + size)
        header = ROOM_SEGMENT.pack(
            FORMAT_VERSION, *self.identity, number, self._batch + 1, salt, self._now()
        )
        fd = disk.create(path)
        try:
            disk.allocate(fd, allocated)
            disk.write(fd, [header], 0)
            if self._number:
                disk.truncate(self._fd, self._offset)  # what the one before has not used
        except OSError:
            disk.close(fd)
            disk.remove(path)
            raise
        if self._number:
            self._segments[self._number].size = self._offset
            self._full.append(self._fd)
        self._segments[number] = Segment(path, salt, allocated)
        self._number, self._fd, self._offset = number, fd, ROOM_SEGMENT.size

    # ---- making it durable

    def begin_sync(self) -> None:
        """What has been written until now is what the next `sync` makes durable."""
        assert self._syncing is None
        assert self.unsynced
        files = [*self._full, self._fd]
        gone = [number for number in self._segments if number < self._oldest]
        self._full = []
        self._syncing = _Syncing(self._batch, self.position, files, gone)

    def sync(self) -> None:
        """Wait until that is durable, and remove what is not needed any more. OSError: the store
        is of no use any more."""
        syncing = self._syncing
        assert syncing is not None
        try:
            for fd in syncing.files:
                self._disk.sync(fd)
            self._disk.sync_directory(self._directory)
            self._remove(syncing.gone)
        except BaseException:
            self._failed = True
            raise

    def end_sync(self) -> None:
        """After a `sync` that did not fail."""
        syncing, self._syncing = self._syncing, None
        assert syncing is not None
        self._synced, self.durable = syncing.batch, syncing.position
        for fd in syncing.files[:-1]:
            self._disk.close(fd)
        if syncing.files[-1] != self._fd and syncing.files[-1] not in self._full:
            self._disk.close(syncing.files[-1])
        self._forget(syncing.gone)

    def commit(self, position: Position) -> None:
        """`write`, and make it durable here. OSError, Damaged."""
        self.write(position)
        self.begin_sync()
        self.sync()
        self.end_sync()

    def _remove(self, numbers: list[int]) -> None:
        """Nothing durable needs them; one at a time, so that never one in the middle is missing."""
        for number in numbers:
            self._disk.remove(self._segments[number].path)
            self._disk.sync_directory(self._directory)

    def _forget(self, numbers: list[int]) -> None:
        for number in numbers:
            if number == self._reading[0]:
                self._stop_reading()
            del self._segments[number]

    # ---- cleaning

    def _clean(self, written: int) -> None:
        """Go on with the oldest segment where too much is there; written: bytes of the next batch.
        What is still wanted there is to be written once more. Damaged."""
        needed = (s.size for number, s in self._segments.items() if number >= self._oldest)
        used = sum(needed) + self._offset - self._segments[self._number].size
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
            if self._credit <= 0 or self._cleaned >= segment.size:
                break
            size = self._clean_batch(segment)
            self._cleaned += size
            self._credit -= size

    def _clean_batch(self, segment: Segment) -> int:
        """Take what is live in the next batch of the oldest segment; the bytes of that batch."""
        offset, fd = self._cleaned, self._file(self._oldest)
        try:
            batch = read_batch(self._disk, fd, offset, segment.salt)
        except OSError as error:
            if error.errno not in MEDIUM:
                raise
            self._failed = True
            raise Unreadable(segment.path, offset, error) from error
        if batch is None:
            self._failed = True
            raise Damaged(segment.path, offset, "a batch is no longer what it was")
        place, at = place_of(self._oldest, offset), ROOM_BATCH.size
        while at < len(batch):
            number, seq, _, _, _, length = RECORD.unpack_from(batch, at)
            here, size = place + at // WORD, record_size(length)
            room = self._rooms.get(number)
            known = room.find(seq) if room else -1
            if room and known >= 0 and room.places[known] == here:
                self._copies.append(_Copy(number, seq, here, batch[at : at + size]))
            at += size
        return len(batch)

    def close(self) -> None:
        """Close the files; what is buffered is forgotten. No `sync` may be under way."""
        self._stop_reading()
        files = {*self._full, *(self._syncing.files if self._syncing else ())} | {self._fd}
        for fd in files - {-1}:
            self._disk.close(fd)
        self._full, self._syncing, self._fd = [], None, -1

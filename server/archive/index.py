"""Where the events of rooms and inboxes are: an index in memory, made anew from the segments at
every start.

Of each room it has the newest events, of each inbox the newest messages, at most a tenth of them of
one sender. Who joins and leaves pushes nothing out that was said: of a room as many of these events
are kept, but they are counted apart, and the oldest of them leave holes. With it goes the count of
what is live in each segment. A place is a segment's number and the offset of a record in it, in one
word.
"""

from array import array
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Final

from libproto.messages import EventKind
from server.archive.protocol import INBOX
from server.archive.segments import RECORD, record_size
from server.core.deletions import KIND_AT, deleted_by
from server.region.layout import WORD

UNWRITTEN: Final = 0
"""The place of an event that is in no file yet."""
_OFFSET_BITS: Final = 32  # of an offset in words
_SHARE: Final = 10  # one sender's part of an inbox is one part in so many


_PRESENCE: Final = (EventKind.JOINED, EventKind.LEFT)


def is_presence(room: int, body: bytes | memoryview) -> bool:
    """Does an event of a room or inbox tell who joined or left?"""
    return room < INBOX and len(body) > KIND_AT and body[KIND_AT] in _PRESENCE


def place_of(segment: int, offset: int) -> int:
    """offset: bytes, whole words."""
    return segment << _OFFSET_BITS | offset // WORD


def segment_and_offset(place: int) -> tuple[int, int]:
    """What a place is made of; the offset in bytes."""
    return place >> _OFFSET_BITS, (place & (1 << _OFFSET_BITS) - 1) * WORD


class Room:
    """What is known of a room or an inbox. The arrays are by event, ascending."""

    __slots__ = (
        "deleted", "events", "floor", "keep", "lengths", "places", "presence", "senders", "seqs",
        "share",
    )  # fmt: skip

    def __init__(self, keep: int, share: int) -> None:
        """keep: how many it has at most. share: how many of one sender; 0: any number."""
        self.keep, self.share = keep, share
        self.seqs = array("Q")
        self.events = array("Q")  # numbers in the log
        self.places = array("Q")
        self.lengths = array("I")  # of the bodies, bytes
        self.senders = array("Q")
        self.floor = 0  # nothing below it is kept
        self.deleted: dict[int, int] = {}  # events whose text is not shown, and who deleted it
        self.presence = array("Q")  # the seqs of those that tell who joined or left

    @property
    def excess(self) -> int:
        """How many events, those of presence not counted, are too many."""
        return len(self.seqs) - len(self.presence) - self.keep

    def is_presence(self, at: int) -> bool:
        """Does the event at an index tell who joined or left?"""
        found = bisect_left(self.presence, self.seqs[at])
        return found < len(self.presence) and self.presence[found] == self.seqs[at]

    def find(self, seq: int) -> int:
        """The index of an event; -1: it is not there."""
        at = bisect_left(self.seqs, seq)
        return at if at < len(self.seqs) and self.seqs[at] == seq else -1

    def columns(self) -> tuple["array[int]", ...]:
        return self.seqs, self.events, self.places, self.lengths, self.senders

    def insert(self, at: int, values: tuple[int, int, int, int, int]) -> None:
        """values: by column."""
        for column, value in zip(self.columns(), values, strict=True):
            column.insert(at, value)

    def append(self, seq: int, event: int, place: int, length: int, sender: int) -> None:
        """The newest."""
        self.seqs.append(seq)
        self.events.append(event)
        self.places.append(place)
        self.lengths.append(length)
        self.senders.append(sender)

    def remove(self, first: int, last: int) -> None:
        """Take the events from index `first` to before `last` out."""
        if first >= last:
            return
        if self.presence:
            begin = bisect_left(self.presence, self.seqs[first])
            del self.presence[begin : bisect_right(self.presence, self.seqs[last - 1])]
        for column in self.columns():
            del column[first:last]


class Segment:
    """A file."""

    __slots__ = ("live", "path", "salt", "size")

    def __init__(self, path: Path, salt: int, size: int) -> None:
        self.path, self.salt, self.size = path, salt, size
        self.live = 0  # bytes of the records in it that are still wanted


class Index:
    """All rooms, inboxes and segments."""

    def __init__(self, room_keep: int, inbox_keep: int) -> None:
        """room_keep, inbox_keep: events that are kept of each room and of each inbox."""
        assert room_keep > 0 < inbox_keep
        self._keeps = room_keep, inbox_keep
        self.rooms: Final[dict[int, Room]] = {}
        self.segments: Final[dict[int, Segment]] = {}  # oldest first
        self.live = 0  # bytes, in all segments
        self._event = 0  # that is loaded

    def room(self, number: int) -> Room:
        """Of any number: one of which nothing is known yet, too."""
        room = self.rooms.get(number)
        if room is None:
            rooms, inboxes = self._keeps
            made = (inboxes, max(1, inboxes // _SHARE)) if number >= INBOX else (rooms, 0)
            room = self.rooms[number] = Room(*made)
        return room

    # ---- making it: `load` for each batch, then `complete`

    def load(self, event: int, place: int, records: memoryview) -> None:
        """The records of the next batch. event: up to which everything has been taken then; place:
        of the first record."""
        if event < self._event:
            self.cut(event)
        self._event = event
        unpack, at, end = RECORD.unpack_from, 0, len(records)
        while at < end:
            number, seq, its_event, sender, floor, length = unpack(records, at)
            room = self.room(number)
            room.floor = max(room.floor, floor)
            body = bytes(records[at + RECORD.size :][:length])
            if number < INBOX:
                self.note_deletion(room, its_event, body)
            values = seq, its_event, place + at // WORD, length, sender
            if not room.seqs or seq > room.seqs[-1]:
                room.append(*values)
                if len(room.seqs) > 3 * room.keep:  # the older ones are not wanted any more
                    room.remove(0, bisect_left(room.seqs, room.floor))
            else:  # one that cleaning has copied: where it is known, the later one counts
                known = room.find(seq)
                if known >= 0:
                    room.remove(known, known + 1)
                room.insert(bisect_left(room.seqs, seq), values)
            if is_presence(number, body):
                room.presence.insert(bisect_left(room.presence, seq), seq)
            at += record_size(length)
        assert at == end, "whole records"

    @staticmethod
    def note_deletion(room: Room, event: int, body: bytes) -> None:
        """Of an event of a room: if it deletes the text of another, that is not shown any more."""
        seq = deleted_by(body)
        if seq:
            room.deleted[seq] = event

    def cut(self, event: int) -> None:
        """Of events above this one nothing is kept."""
        for room in self.rooms.values():
            room.deleted = {seq: by for seq, by in room.deleted.items() if by <= event}
            room.remove(0, bisect_left(room.seqs, room.floor))
            first = bisect_right(room.events, event)
            self.uncount(room, first, len(room.seqs))
            room.remove(first, len(room.seqs))
            if not room.seqs:  # it goes on with a lower one
                room.floor = 0

    def complete(self) -> None:
        """All is loaded, and all segments are there: keep what is kept, count what is live."""
        for room in self.rooms.values():
            room.remove(0, bisect_left(room.seqs, room.floor))
            self._forget_deletions(room)
            if room.share:
                self._trim_senders(room)
            for _ in range(len(room.presence) - room.keep):  # likewise
                at = room.find(room.presence[0])
                room.remove(at, at + 1)
        for room in self.rooms.values():
            for place, length in zip(room.places, room.lengths, strict=True):
                self.count(place, record_size(length))

    @staticmethod
    def _trim_senders(room: Room) -> None:
        """Those that were too many of one sender may have been loaded again."""
        counts: dict[int, int] = {}
        for at in range(len(room.seqs) - 1, -1, -1):
            sender = room.senders[at]
            counts[sender] = counts.get(sender, 0) + 1
            if counts[sender] > room.share:
                room.remove(at, at + 1)

    # ---- keeping it

    @staticmethod
    def _forget_deletions(room: Room) -> None:
        """Of events that are not kept any more."""
        room.deleted = {seq: by for seq, by in room.deleted.items() if seq >= room.floor}

    def count(self, place: int, size: int) -> None:
        """So many bytes at a place are live (below 0: no longer)."""
        segment = self.segments.get(place >> _OFFSET_BITS)
        if segment is not None:
            segment.live += size
            self.live += size

    def uncount(self, room: Room, first: int, last: int) -> None:
        """The events from index `first` to before `last` are not wanted any more."""
        for place, length in zip(room.places[first:last], room.lengths[first:last], strict=True):
            self.count(place, -record_size(length))

    def _drop(self, room: Room, at: int) -> None:
        """The event at an index is not wanted any more; those around it are."""
        self.uncount(room, at, at + 1)
        room.remove(at, at + 1)

    def add(
        self, room: Room, seq: int, event: int, sender: int, length: int, *, presence: bool = False
    ) -> None:
        """The newest event of a room, which is not written yet; those that are too many go.
        presence: see `is_presence`."""
        if not room.seqs:
            room.floor = seq
        room.append(seq, event, UNWRITTEN, length, sender)
        if room.share:
            for _ in range(room.senders.count(sender) - room.share):
                self._drop(room, room.senders.index(sender))
        if len(room.deleted) > 2 * room.keep:
            self._forget_deletions(room)
        if presence:
            room.presence.append(seq)
            if len(room.presence) > room.keep:
                self._drop(room, room.find(room.presence[0]))
        excess = room.excess
        if excess > 0:
            self._drop_oldest(room, excess)

    def _drop_oldest(self, room: Room, excess: int) -> None:
        """So many that are not of presence, and what is before them."""
        end = 0
        while excess:
            excess -= not room.is_presence(end)
            end += 1
        self.uncount(room, 0, end)
        room.remove(0, end)
        room.floor = room.seqs[0]

"""Where the rooms' events are: an index in memory, made anew from the segments at every start.

It has what is offered: of each room the newest events, and the record that says how far room_seqs
are reserved. With it goes the count of what is live in each segment. A place is a segment's number
and the offset of a record in it, in one word.
"""

from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Final

from server.archive.segments import RECORD, record_size
from server.region.layout import WORD

_OFFSET_BITS: Final = 32  # of an offset in words


def place_of(segment: int, offset: int) -> int:
    """offset: bytes, whole words."""
    return segment << _OFFSET_BITS | offset // WORD


def segment_and_offset(place: int) -> tuple[int, int]:
    """What a place is made of; the offset in bytes."""
    return place >> _OFFSET_BITS, (place & (1 << _OFFSET_BITS) - 1) * WORD


class Room:
    """What is known of a room. The arrays are of the events that are offered, ascending."""

    __slots__ = (
        "ceiling",
        "floor",
        "lengths",
        "newest",
        "places",
        "reservation",
        "reserved",
        "seqs",
    )

    def __init__(self) -> None:
        self.seqs = array("Q")
        self.places = array("Q")
        self.lengths = array("I")  # of the bodies, bytes
        self.newest = 0  # the highest seq appended or dropped, buffered ones too
        self.floor = 0  # nothing below it is offered
        self.ceiling = 0  # durably reserved
        self.reserved = 0  # what that will be when all is written
        self.reservation = 0  # place of the record that says so; 0: none yet

    def find(self, seq: int) -> int:
        """The index of an event; -1: it is not offered."""
        at = bisect_left(self.seqs, seq)
        return at if at < len(self.seqs) and self.seqs[at] == seq else -1

    def cut(self, count: int) -> None:
        """The oldest events are no longer offered."""
        del self.seqs[:count], self.places[:count], self.lengths[:count]


class Segment:
    """A file of the log."""

    __slots__ = ("live", "path", "salt", "size")

    def __init__(self, path: Path, salt: int, size: int) -> None:
        self.path, self.salt, self.size = path, salt, size
        self.live = 0  # bytes of the records in it that are still wanted


class Index:
    """All rooms and segments. keep: events that are offered of each room."""

    def __init__(self, keep: int) -> None:
        assert keep > 0
        self.keep: Final = keep
        self.rooms: Final[dict[int, Room]] = {}
        self.segments: Final[dict[int, Segment]] = {}  # oldest first
        self.live = 0  # bytes, in all segments

    # ---- making it: `load` for each batch, then `complete`

    def load(self, place: int, records: memoryview) -> None:
        """The records of the next batch; place: of the first."""
        rooms, unpack, size, most = self.rooms, RECORD.unpack_from, RECORD.size, 2 * self.keep
        at, end = 0, len(records)
        while at < end:
            number, seq, oldest, length = unpack(records, at)
            room = rooms.get(number)
            if room is None:
                room = rooms[number] = Room()
            if oldest > room.floor:
                room.floor = oldest
            here = place + at // WORD
            if not length:
                room.ceiling, room.reservation = seq, here
            elif seq > room.newest:
                room.newest = seq
                room.seqs.append(seq)
                room.places.append(here)
                room.lengths.append(length)
                if len(room.seqs) > most:
                    room.cut(self.keep)
            else:
                self._load_again(room, seq, here, length)
            at += size + (length + 7 & -8)  # record_size(length), for each of millions
        assert at == end, "whole records"

    @staticmethod
    def _load_again(room: Room, seq: int, place: int, length: int) -> None:
        """An event that cleaning has copied; where it is known, the later one counts."""
        at = room.find(seq)
        if at >= 0:
            room.places[at] = place
        else:
            at = bisect_left(room.seqs, seq)
            room.seqs.insert(at, seq)
            room.places.insert(at, place)
            room.lengths.insert(at, length)

    def complete(self) -> dict[int, Room]:
        """All is loaded, and all segments are there: keep what is offered, count what is live.
        Answers the rooms that need a new record of where they begin."""
        moved, live, size = {}, dict.fromkeys(self.segments, 0), RECORD.size
        for number, room in self.rooms.items():
            room.cut(bisect_left(room.seqs, room.floor))
            if len(room.seqs) > self.keep:  # it was more before: what goes now must not come back
                room.cut(len(room.seqs) - self.keep)
                room.floor = room.seqs[0]
                moved[number] = room
            room.newest = max(room.newest, room.floor - 1)
            room.reserved = room.ceiling
            for place, length in zip(room.places, room.lengths, strict=True):
                live[place >> _OFFSET_BITS] += size + (length + 7 & -8)
            if room.reservation:
                live[room.reservation >> _OFFSET_BITS] += size
        for number, segment in self.segments.items():
            segment.live = live[number]
        self.live = sum(live.values())
        return moved

    # ---- keeping it

    def room(self, number: int) -> Room:
        """Of any number: one of which nothing is known yet, too."""
        room = self.rooms.get(number)
        if room is None:
            room = self.rooms[number] = Room()
        return room

    def count(self, place: int, size: int) -> None:
        """So many bytes at a place are live (below 0: no longer)."""
        self.segments[place >> _OFFSET_BITS].live += size
        self.live += size

    def reserved(self, room: Room, place: int) -> None:
        """The room's record is at another place now."""
        if room.reservation:
            self.count(room.reservation, -RECORD.size)
        room.reservation = place
        self.count(place, RECORD.size)

    def add(self, room: Room, seq: int, place: int, length: int) -> None:
        """The room's newest event; one that is too many goes."""
        room.seqs.append(seq)
        room.places.append(place)
        room.lengths.append(length)
        self.count(place, record_size(length))
        if len(room.seqs) > self.keep:
            self.forget(room, 1)
            room.floor = room.seqs[0]

    def forget(self, room: Room, count: int) -> None:
        """The oldest events of a room are no longer offered."""
        for place, length in zip(room.places[:count], room.lengths[:count], strict=True):
            self.count(place, -record_size(length))
        room.cut(count)

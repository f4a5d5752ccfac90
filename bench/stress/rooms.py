"""The events of rooms, as members see them: every number once and in order, or named as missed.

A message begins with the time it was sent at, so that every member can tell how long it took. What
is kept of an event is 21 bytes in each thread that saw it: a digest, to compare it between members,
when it was sent, when the last member had it, and how often a sender was told its number. A message
that members had and whose number no sender was told was said once more than it was sent.
"""

from __future__ import annotations  # array[int] is no type at run time before 3.12

from array import array
from collections.abc import Iterable, Iterator
from typing import Any, Final

from bench.lab.verdict import Problem
from bench.stress import notes
from libproto import calls
from libproto.messages import EventKind

_LONGEST_S = 3600.0  # what claims more is no message of a load
_SPARE: Final = 1000  # numbers that a column grows by
_MESSAGE = int(EventKind.MESSAGE)


class Seen:
    """What was seen of one room, by the event's number from `first` on."""

    def __init__(self, first: int, count: int = 0, unknown: int = 0) -> None:
        """count: how many numbers there are, seen or not; the columns are longer. unknown: messages
        of which it is not known whether they are in the room."""
        self.first = first
        self.count = count
        self.unknown = unknown
        self.digests = array("I")  # 0: nobody saw it
        self.sent = array("d")  # in s; 0 where it is no message of the load
        self.last = array("I")  # µs from the sending until the last member had it
        self.members = array("I")  # how many members had it, slow ones apart
        self.told = array("B")  # how many senders were told that it is theirs; 2: more than one

    def _reach(self, index: int) -> None:
        self.count = index + 1
        if (missing := self.count - len(self.digests)) > 0:
            for column in self.columns():
                column.frombytes(bytes((missing + _SPARE) * column.itemsize))

    def columns(self) -> tuple[array[Any], ...]:
        """All that is kept of events."""
        return self.digests, self.sent, self.last, self.members, self.told

    def note(self, seq: int, found: int) -> bool:
        """An event with this digest. False where another was seen under the number."""
        index = seq - self.first
        if index < 0:
            return True  # of before the run
        if index >= self.count:
            self._reach(index)
        known = notes.u32(self.digests, index)
        if not known:
            notes.put_u32(self.digests, index, found)
        return known in (0, found)

    def tell(self, seq: int) -> None:
        """A sender was told that this is its message."""
        index = seq - self.first
        if 0 <= index < self.count:
            notes.put_u8(self.told, index, min(2, notes.u8(self.told, index) + 1))

    def deliver(self, seq: int, sent: float, now: float) -> None:
        """A message of the load has come to a member."""
        index = seq - self.first
        if 0 <= index < self.count and 0 < now - sent < _LONGEST_S:
            notes.put_f64(self.sent, index, sent)
            took = notes.us(now - sent)
            if took > notes.u32(self.last, index):
                notes.put_u32(self.last, index, took)
            notes.put_u32(self.members, index, notes.u32(self.members, index) + 1)

    def add(self, other: Seen) -> Iterator[int]:
        """Take in what another thread or process saw; the numbers under which it saw another
        event."""
        assert self.first == other.first
        if other.count > self.count:
            self._reach(other.count - 1)
        for index in range(other.count):
            found = other.digests[index]
            if not found:
                continue
            if not self.note(self.first + index, found):
                yield self.first + index
            self.sent[index] = self.sent[index] or other.sent[index]
            self.last[index] = max(self.last[index], other.last[index])
            self.members[index] += other.members[index]
            self.told[index] = min(2, self.told[index] + other.told[index])
        self.unknown += other.unknown

    def repeated(self) -> Iterator[str]:
        """What is wrong with how often messages of the load were said; when all are answered."""
        untold = 0
        for index, told in enumerate(self.told[: self.count]):
            if told > 1:
                yield f"event {self.first + index}: two messages were given this number"
            untold += bool(self.sent[index]) and not told
        if untold > self.unknown:
            yield f"{untold - self.unknown} messages more than were sent: they were said twice"


class Rooms:
    """All rooms, as one thread sees them."""

    def __init__(self) -> None:
        self.seen: dict[int, Seen] = {}
        self.problems: list[Problem] = []
        self.events = 0  # pushed
        self.gaps = 0
        self.missed_in_gaps = 0
        self.missed_unconnected = 0

    def begin(self, first_seqs: dict[int, int]) -> None:
        """A run begins, with these numbers to come next."""
        self.seen = {room: Seen(first) for room, first in first_seqs.items()}
        self.problems = []
        self.events = self.gaps = self.missed_in_gaps = self.missed_unconnected = 0

    def acknowledged(self, room: int, user: int, name: str, text: str, seq: int, time: int) -> None:
        """A CHAT_SEND of this user was answered with this room_seq and time."""
        body = calls.said(room, seq, time, user, name, text)
        seen = self.seen[room]
        if not seen.note(seq, notes.digest(body, 0, len(body))):
            self.problem("events_differing", f"event {seq} of room {room} is not what was sent")
        seen.tell(seq)

    def not_told(self, room: int) -> None:
        """It will not be known whether a message is in this room."""
        self.seen[room].unknown += 1

    def problem(self, check: str, text: str) -> None:
        self.problems.append(Problem(check, text))


class Stream:
    """What one connection is told of one room, from an answered JOIN_ROOM on."""

    def __init__(self, rooms: Rooms, who: str, room: int, *, slow: bool) -> None:
        self.room = room
        self.position = 0  # the last number it has, or knows that it missed
        self._rooms = rooms
        self._all: dict[int, Seen] = {}  # what its thread sees in this run
        self._seen: Seen | None = None  # of this room
        self._who = f"{who} in room {room}"
        self._epoch = 0
        self._slow = slow

    def joined(self, last_seq: int, epoch: int) -> None:
        """By an answered JOIN_ROOM; after the first, what came in between was missed."""
        rooms = self._rooms
        if self._epoch and self._epoch != epoch:
            rooms.problem("unexpected", f"{self._who}: another epoch: the server began anew")
        elif self._epoch:
            if last_seq < self.position:
                text = f"{self._who} had event {self.position}, and joins again at {last_seq}"
                rooms.problem("events_twice", text)
            rooms.missed_unconnected += max(0, last_seq - self.position)
        self._epoch, self.position = epoch, last_seq

    def event(
        self, seq: int, kind: int, buf: bytes, start: int, at: int, end: int, now: float
    ) -> None:
        """A CHAT_BROADCAST, whose body is buf[start:end]; at: where in it the message begins."""
        rooms = self._rooms
        rooms.events += 1
        if seq != self.position + 1:
            self._out_of_order(seq, seq)
        if seq > self.position:
            self.position = seq
        if self._all is not rooms.seen:
            self._all, self._seen = rooms.seen, rooms.seen.get(self.room)
        seen = self._seen
        if seen is None:
            return  # no run yet
        if not seen.note(seq, notes.digest(buf, start, end)):
            text = f"{self._who}: event {seq} is not what others were told"
            rooms.problem("events_differing", text)
        if kind == _MESSAGE and not self._slow:
            seen.deliver(seq, notes.sent_at(buf, at, end), now)

    def gap(self, first: int, last: int) -> None:
        """A ROOM_GAP."""
        self._rooms.gaps += 1
        self._rooms.missed_in_gaps += last - first + 1
        if first != self.position + 1 or last < first:
            self._out_of_order(first, last)
        self.position = max(self.position, last)

    def _out_of_order(self, first: int, last: int) -> None:
        if first > self.position + 1:
            text = f"{self._who}: {self.position + 1} to {first - 1} not told"
            self._rooms.problem("events_missing", text)
        else:
            text = f"{self._who}: {first} to {last} after {self.position}"
            self._rooms.problem("events_twice", text)


def last_deliveries(
    seen: Iterable[Seen], start: float, end: float
) -> Iterator[tuple[int, int, int]]:
    """Of each message sent from `start` to `end` that members had: its second, µs until the last
    of them had it, and how many they were."""
    for room in seen:
        for sent, last, members in zip(room.sent, room.last, room.members, strict=True):
            if members and start <= sent < end:
                yield int(sent - start), last, members

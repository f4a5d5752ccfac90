"""What a kill of everything may have taken of the rooms' events.

Nobody waits for the disk with a message, so the newest ones of a room may be gone with the server:
those that it had not written. What is gone must be the end of what that server said in the room,
without a hole before it, and young; older ones that are missing are no doing of the crash. That
the numbers are not used again is another matter, and never forgiven.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from bench.faults.history import History, Missed
from libproto.messages import ChatBroadcast, RoomGap

YOUNG_S: Final = 1.0
"""An event that was older when the server was killed must be there. It is written within the flush
interval, 10 ms, by a process that waits for its turn of a busy processor."""


class Forgotten:
    """Which events are gone by a crash, and may be."""

    def __init__(self, history: History, events: Mapping[tuple[int, int], ChatBroadcast]) -> None:
        """events: by room and number, everything that anybody was told of."""
        self._crashes = history.crashes
        self._at: dict[tuple[int, int], int] = {}  # the crash that took it
        self.ages_s: Final[list[float]] = []
        """Of acknowledged messages: how old each was when the server was killed."""
        if not self._crashes:
            return
        times = [crash.time for crash in self._crashes]
        walls_us = [crash.wall_us for crash in self._crashes]
        # By room and number: which crash ended the server that said it, and how old it was then.
        known: dict[int, dict[int, tuple[int, float]]] = defaultdict(dict)
        acknowledged = [message for message in history.messages if message.room_seq]
        for message in acknowledged:
            at = bisect_left(times, message.sent)
            age_s = times[at] - message.answered if at < len(times) else 0.0
            known[message.room][message.room_seq] = at, age_s
        for (room, seq), event in events.items():
            at = bisect_left(walls_us, event.time)
            age_s = (walls_us[at] - event.time) / 1e6 if at < len(walls_us) else 0.0
            known[room][seq] = at, age_s
        for room, numbers in known.items():
            self._look(room, numbers, history.kept.get(room))
        for message in acknowledged:
            key = message.room, message.room_seq
            if key in self._at:
                self.ages_s.append(known[message.room][message.room_seq][1])

    def _look(self, room: int, known: dict[int, tuple[int, float]], kept: Missed | None) -> None:
        found = kept.found if kept is not None else None
        there, reaches = set[int](), 0
        for item in found or ():
            if isinstance(item, RoomGap):
                reaches = max(reaches, item.last_seq)  # older ones are kept no longer
            else:
                there.add(item.room_seq)
        newest: dict[int, int] = {}  # of those that are there, by the crash after it
        for seq in there:
            at = known[seq][0]
            newest[at] = max(newest.get(at, 0), seq)
        for seq, (at, age_s) in known.items():
            gone = seq > reaches and seq not in there and seq > newest.get(at, 0)
            if gone and at < len(self._crashes) and age_s <= YOUNG_S:
                self._at[room, seq] = at

    def may_miss(self, room: int, seq: int, asked: float) -> bool:
        """May a ROOM_HISTORY that was asked for at that time (monotonic, s) not have it?"""
        at = self._at.get((room, seq))
        return at is not None and asked > self._crashes[at].time

    def __contains__(self, event: tuple[int, int]) -> bool:
        """Is this room's number gone?"""
        return event in self._at

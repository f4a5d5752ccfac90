"""A plain model of the store of the rooms' events, and a player that keeps both in step.

The model knows nothing of segments, batches or places: of each room the ceiling and the events.
Segments are small, so that they are begun, cleaned and removed all the time.
"""

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from server.archive.segments import RECORD, record_size
from server.archive.store import RoomStore
from server.journal.disk import Disk
from server.journal.format import ROOM_BATCH
from tests.helpers.disk import SimulatedDisk

DIRECTORY: Final = Path("/data/rooms")
SEGMENT: Final = 640
KEEP: Final = 3
EPOCH: Final = 1_700_000_000_000_000
ALL: Final = 1 << 40  # more bytes than there are


def salts() -> Callable[[int], bytes]:
    drawn = random.Random(7)  # noqa: S311 - the same in every run
    return drawn.randbytes


def opened(
    disk: Disk,
    directory: Path = DIRECTORY,
    *,
    keep: int = KEEP,
    segment_size: int = SEGMENT,
    new_epoch: int = EPOCH,
    salt: Callable[[int], bytes] | None = None,
) -> RoomStore:
    return RoomStore(
        disk,
        directory,
        keep=keep,
        segment_size=segment_size,
        now=partial(next, count(1)),
        new_epoch=new_epoch,
        salt=salt or salts(),
    )


def body_of(room: int, seq: int, size: int = 40) -> bytes:
    return f"room {room} event {seq} ".encode().ljust(size, b"+")


class Unsynced(Disk):
    """Real files, that need to outlive nothing."""

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


# ---- the model


@dataclass
class Told:
    """What the store says of a room."""

    ceiling: int = 0
    floor: int = 0  # of drops
    events: dict[int, bytes] = field(default_factory=dict)

    def trim(self, keep: int) -> None:
        self.events = dict(sorted(self.events.items())[-keep:])


State: TypeAlias = dict[int, Told]


def trimmed(state: State, keep: int) -> State:
    state = deepcopy(state)
    for told in state.values():
        told.trim(keep)
    return state


Answers: TypeAlias = dict[int, tuple[int, int, int, list[bytes]]]


def answers(state: State) -> Answers:
    return {
        room: (told.ceiling, max(told.events, default=0), min(told.events, default=0), bodies)
        for room, told in sorted(state.items())
        if told.ceiling or told.events
        for bodies in [list(told.events.values())]
    }


def asked(store: RoomStore) -> Answers:
    """All that the store tells."""
    return {
        room: (store.ceiling(room), store.last(room), store.oldest(room), bodies)
        for room in store.rooms()
        for bodies in [store.read(room, 0, ALL, ALL)]
        if store.ceiling(room) or bodies
    }


class Player:
    """A store and its model, kept in step."""

    def __init__(self, disk: SimulatedDisk, keep: int = KEEP) -> None:
        self.disk, self.keep = disk, keep
        self.durable: list[State] = [{}]  # it is one of these
        self.after: State = {}  # what a commit under way would make of it
        self.shown: State = {}
        self.reserved: dict[int, int] = {}
        self.pending: list[tuple[int, int, bytes]] = []
        self.most_live = self.largest = 0
        self.store = opened(disk, keep=keep)
        self.epoch = self.store.epoch  # 0: it may be another

    def room(self, room: int) -> Told:
        return self.shown.setdefault(room, Told())

    def newest(self, room: int) -> int:
        pending = [seq for there, seq, _ in self.pending if there == room]
        told = self.room(room)
        return max(0, told.floor - 1, *told.events, *pending)

    def reserve(self, room: int, by: int) -> None:
        self.room(room)
        ceiling = self.reserved.get(room, 0) + by
        self.store.reserve(room, ceiling)
        self.reserved[room] = ceiling

    def append(self, room: int, skip: int = 0, size: int = 40) -> None:
        seq = self.newest(room) + 1 + skip
        body = body_of(room, seq, size)
        if seq > self.room(room).ceiling:
            with pytest.raises(ValueError, match="reserved"):
                self.store.append(room, seq, body)
            return
        self.store.append(room, seq, body)
        self.pending.append((room, seq, body))

    def drop(self, room: int, before: int) -> None:
        told = self.room(room)
        if before > told.ceiling + 1:
            with pytest.raises(ValueError, match="reserved"):
                self.store.drop(room, before)
            return
        self.store.drop(room, before)
        told.floor = max(told.floor, before)
        told.events = {seq: body for seq, body in told.events.items() if seq >= before}
        self.pending = [e for e in self.pending if e[0] != room or e[1] >= before]

    def write(self) -> bool:
        """What a write makes of the model; then that of the store."""
        shown = deepcopy(self.shown)
        for room, seq, body in self.pending:
            shown[room].events[seq] = body
            shown[room].trim(self.keep)
        size = sum(record_size(len(body)) for _, _, body in self.pending)
        self.after = deepcopy(shown)
        for room, ceiling in self.reserved.items():
            self.after[room].ceiling = ceiling
        self.largest = max(self.largest, size + ROOM_BATCH.size + len(shown) * RECORD.size)
        written = self.store.write()
        self.shown = shown
        self.pending = []
        self.most_live = max(self.most_live, self.store.live)
        return written

    def sync(self) -> None:
        self.store.sync()
        self.durable = [self.after]

    def finish(self) -> None:
        self.store.finish()
        for room, told in self.after.items():
            self.room(room).ceiling = told.ceiling

    def commit(self) -> None:
        if self.write():
            self.sync()
            self.finish()

    def settle(self) -> None:
        self.commit()
        last = {room: self.newest(room) for room in self.shown}
        self.reserved = dict(last)
        self.after = deepcopy(self.shown)
        for room, seq in last.items():
            self.after[room].ceiling = seq
        self.store.settle(last)
        self.durable, self.shown = [self.after], deepcopy(self.after)

    def reopen(self, disk: SimulatedDisk, states: list[State], *, keep: int | None = None) -> None:
        """Another process opens it: it must tell one of these states."""
        self.keep = keep or self.keep
        store = opened(disk, keep=self.keep, new_epoch=self.epoch + 1)
        told = asked(store)
        fitting = [s for s in states if answers(trimmed(s, self.keep)) == told]
        assert fitting, (told, [answers(trimmed(s, self.keep)) for s in states])
        assert store.epoch == self.epoch or not self.epoch
        self.epoch = store.epoch
        self.disk, self.store = disk, store
        self.durable = self._settled(fitting) if len(fitting) > 1 else fitting
        self.after = self.durable[0]
        self.shown = trimmed(self.after, self.keep)
        self.reserved = {room: told.ceiling for room, told in self.shown.items()}
        self.pending = []
        self.most_live = max(self.most_live, store.live)

    def _settled(self, fitting: list[State]) -> list[State]:
        """The states that the store may be in, of those that tell the same.

        They can differ in drops that nothing was below: these are dropped now, whichever it was.
        And in events that only a larger `keep` would show.
        """
        floors: dict[int, int] = {}
        for state in fitting:
            for room, told in state.items():
                floors[room] = max(floors.get(room, 0), told.floor)
        fitting = deepcopy(fitting)
        for room, floor in floors.items():
            self.store.drop(room, floor)
            for state in fitting:
                state.setdefault(room, Told()).floor = floor
        if not self.store.write():
            return fitting
        self.store.sync()
        self.store.finish()
        return [trimmed(fitting[0], self.keep)]  # each record says how far back its room goes

    def check(self) -> None:
        assert asked(self.store) == answers(self.shown)
        events = sum(
            record_size(len(body)) for told in self.shown.values() for body in told.events.values()
        )
        assert events <= self.store.live <= events + RECORD.size * len(self.shown)
        self.check_size()

    def check_size(self) -> None:
        names = self.disk.names(DIRECTORY)
        size = 0
        for name in names:
            fd = self.disk.open(DIRECTORY / name)
            size += self.disk.size(fd)
            self.disk.close(fd)
        assert self.store.size == size
        assert size <= 3 * self.most_live + 6 * max(SEGMENT, self.largest)

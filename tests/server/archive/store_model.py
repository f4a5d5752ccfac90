"""A plain model of the store of the histories, and a player that keeps both in step.

The model knows nothing of segments, batches or places: it folds the events up to the one that the
store says it has taken. Segments are small, so that they are begun, cleaned and removed all the
time.
"""

import random
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from libproto.messages import EventKind
from server.archive.protocol import INBOX
from server.archive.store import Identity, Store
from server.core.deletions import KIND_AT
from server.journal.disk import Disk
from server.journal.reader import Position
from tests.helpers.disk import SimulatedDisk

DIRECTORY: Final = Path("/data/rooms")
IDENTITY: Final = Identity(77, 1_700_000_000_000_000)
SEGMENT: Final = 900  # bytes
KEEP: Final = 3
INBOX_KEEP: Final = 20
SHARE: Final = 2  # a tenth of it
ALL: Final = 1 << 40  # more than there is of anything

Told = dict[int, list[bytes]]
"""What is kept, by room or inbox."""


def salts() -> Callable[[int], bytes]:
    drawn = random.Random(7)  # noqa: S311 - the same in every run
    return drawn.randbytes


def opened(
    disk: Disk,
    directory: Path = DIRECTORY,
    *,
    keep: int = KEEP,
    inbox_keep: int = INBOX_KEEP,
    segment_size: int = SEGMENT,
    identity: Identity = IDENTITY,
    salt: Callable[[int], bytes] | None = None,
) -> Store:
    return Store(
        disk,
        directory,
        identity,
        room_keep=keep,
        inbox_keep=inbox_keep,
        segment_size=segment_size,
        now=partial(next, count(1)),
        salt=salt or salts(),
    )


class Unsynced(Disk):
    """Real files, that need to outlive nothing."""

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


def place(event: int) -> Position:
    """Of the journal, behind an event."""
    return Position(1, 100 + event, 0, event, bytes([event % 256]) * 32)


class Said(NamedTuple):
    """An event of the log; its number is its index there, from 1."""

    room: int
    seq: int
    sender: int
    body: bytes
    presence: bool = False


def body_of(text: str, size: int, kind: EventKind) -> bytes:
    """What is read of it is its kind, and that it is not the same as another."""
    text_at = KIND_AT + 1
    return bytes(KIND_AT) + bytes([kind]) + text.encode().ljust(max(0, size - text_at), b"+")


def kept(log: list[Said]) -> Told:
    """What is kept of them."""
    told: dict[int, list[Said]] = {}
    for said in log:
        there = told.setdefault(said.room, [])
        there.append(said)
        if said.room < INBOX:
            presence = [each for each in there if each.presence]
            if len(presence) > KEEP:
                there.remove(presence[0])
            messages = [at for at, each in enumerate(there) if not each.presence]
            if len(messages) > KEEP:
                del there[: messages[-KEEP - 1] + 1]
            continue
        own = [each for each in there if each.sender == said.sender]
        if len(own) > SHARE:
            there.remove(own[0])
        del there[:-INBOX_KEEP]
    return {room: [said.body for said in there] for room, there in sorted(told.items())}


def asked(store: Store) -> Told:
    """All that the store tells."""
    return {room: store.read(room, 0, ALL, ALL) for room in store.rooms() if store.last(room)}


class Player:
    """A store, and the log that it is made from."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self.log: list[Said] = []
        self.taken = self.written = self.durable = 0  # events
        self.store = opened(disk)

    def say(
        self,
        room: int,
        sender: int = 1,
        size: int = 40,
        skip: int = 0,
        kind: EventKind = EventKind.MESSAGE,
    ) -> None:
        """Something happens; the store has not taken it."""
        last = max((said.seq for said in self.log if said.room == room), default=0)
        body = body_of(f"{room} event {last} of {sender} ", size, kind)
        presence = kind in (EventKind.JOINED, EventKind.LEFT)
        self.log.append(Said(room, last + 1 + skip, sender, body, presence))

    def take(self) -> None:
        """All that has happened, into the store's memory."""
        for event in range(self.taken + 1, len(self.log) + 1):
            said = self.log[event - 1]
            self.store.append(said.room, said.seq, event, said.sender, said.body)
        self.taken = len(self.log)

    def write(self) -> None:
        self.take()
        self.store.write(place(self.taken))
        self.written = self.taken

    def sync(self) -> None:
        """What was written."""
        if self.store.unsynced:
            written = self.written
            self.store.begin_sync()
            self.store.sync()
            self.store.end_sync()
            self.durable = written
            assert self.store.durable == place(written)

    def check(self) -> None:
        """What it tells is what happened, up to where it says."""
        reached = self.store.position.event if self.store.position else 0
        assert self.durable <= reached <= self.taken
        if self.taken == reached:
            assert asked(self.store) == kept(self.log[:reached])
            for room, bodies in asked(self.store).items():
                seqs = [said.seq for said in self.log[:reached] if said.room == room]
                assert self.store.last(room) == seqs[-1]
                first = next(s for s in self.log if s.room == room and s.body == bodies[0])
                assert self.store.oldest(room) == first.seq

    def reopen(self, disk: SimulatedDisk) -> None:
        """With what a crash has left: it has what was durable, and takes the rest once more."""
        self.disk, self.store = disk, opened(disk)
        reached = self.store.position.event if self.store.position else 0
        assert self.durable <= reached <= len(self.log)
        if reached:
            assert self.store.position == place(reached)
        self.taken = self.written = self.durable = reached
        self.check()
        size = 3 * max(self.store.live, 400) + 6 * SEGMENT + 4000
        assert self.store.size <= size, "what is not wanted goes"

    def copy(self) -> "Player":
        """With a store that is of no use: to be reopened."""
        other = Player.__new__(Player)
        other.log = deepcopy(self.log)
        other.taken = other.written = self.taken
        other.durable = self.durable
        return other

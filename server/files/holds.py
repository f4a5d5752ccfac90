"""What workers hold here for their connections: leases of uploads, and files they are publishing.

Both end with the worker. What it was publishing when it died may be published for all that: its
event can be in the ring, or be completed by the repair, and nobody was told. So such a file is free
again only when all events of that time have been seen.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from server.files.channel import Message
from server.files.errors import Busy
from server.files.store import Store
from server.region.region import Region

Owner = tuple[int, int]
"""A worker: its slot, and the number of its pool."""
SETTLED_S: Final = 2.0
"""After a worker was seen to have ended, before what it was publishing may be published again."""


class BeingPublished(Busy):
    def __init__(self) -> None:
        super().__init__("this file is being published just now")


class Holds:
    """Those of all workers."""

    def __init__(
        self, region: Region, store: Store, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._region, self._store, self._clock_s = region, store, clock_s
        placed = region.layout["workers"]
        self._pools = [placed.at(slot, "pool") for slot in range(placed.records)]
        self._leases: dict[Owner, Counter[int]] = {}
        self._claims: dict[int, Owner] = {}  # by file_id: who publishes it
        self._gone: dict[int, float] = {}  # by file_id: when its owner was seen to have ended

    # ---- leases: from a FILE_BEGIN to the end of its connection

    def lease(self, message: Message, file_id: int) -> None:
        """FilesError."""
        self._store.lease(file_id)
        self._leases.setdefault(_owner(message), Counter())[file_id] += 1

    def release(self, message: Message) -> None:
        """Nothing where it was released before."""
        owned = self._leases.get(_owner(message))
        if owned is not None and owned[message.file_id] > 0:
            owned[message.file_id] -= 1
            self._store.release(message.file_id)

    # ---- claims: from an END to its event

    def claim(self, message: Message) -> None:
        """Nobody else publishes it meanwhile. BeingPublished."""
        file_id, owner = message.file_id, _owner(message)
        held = self._claims.get(file_id)
        if held is not None and not self._is_over(file_id, held):
            raise BeingPublished
        self._claims[file_id] = owner
        self._gone.pop(file_id, None)

    def retract(self, message: Message) -> None:
        """It is not published after all."""
        if self._claims.get(message.file_id) == _owner(message):
            del self._claims[message.file_id]

    def published(self, file_id: int) -> None:
        """Its event has been seen."""
        self._claims.pop(file_id, None)
        self._gone.pop(file_id, None)

    def _is_over(self, file_id: int, owner: Owner) -> bool:
        """Has a worker ended, and is all that it can have published to be seen?"""
        if self._lives(owner):
            return False
        since = self._gone.setdefault(file_id, self._clock_s())
        events = self._region.events
        return (
            self._clock_s() - since >= SETTLED_S
            and not self._region.header.recovery
            and events.released >= events.head
        )

    def _lives(self, owner: Owner) -> bool:
        slot, pool = owner
        number: int = self._region.words[self._pools[slot]]
        return number == pool

    def sweep(self) -> None:
        """Release what workers had that have ended."""
        for owner in [each for each in self._leases if not self._lives(each)]:
            for file_id, count in self._leases.pop(owner).items():
                for _ in range(count):
                    self._store.release(file_id)
        for file_id, owner in tuple(self._claims.items()):
            if self._is_over(file_id, owner):
                del self._claims[file_id]
                self._gone.pop(file_id, None)


def _owner(message: Message) -> Owner:
    return message.worker, message.pool

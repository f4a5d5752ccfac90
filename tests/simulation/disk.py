"""The machine's disk as its processes use it: each call takes time, and others run meanwhile.

What stands behind it forgets what was not synced: see tests.helpers.disk.
"""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from server.journal.disk import Disk, Piece
from tests.helpers.disk import SECTOR, SimulatedDisk
from tests.simulation.scheduler import Scheduler

T = TypeVar("T")
_FAILURES: Final = {
    "sync": (errno.EIO,),
    "write": (errno.EIO, errno.ENOSPC),
    "allocate": (errno.ENOSPC,),
    "create": (errno.ENOSPC, errno.EIO),
    "sync_directory": (errno.EIO,),
}


class SteppedDisk(Disk):
    """The disk of one life of a machine."""

    def __init__(
        self, pace: Scheduler, disk: SimulatedDisk, random: Random, slow_ns: int, failing: float
    ) -> None:
        """slow_ns: what a sync takes on average. failing: how likely a call fails."""
        self._pace, self.behind, self._random = pace, disk, random
        self._slow_ns, self.failing = slow_ns, failing
        self.failed = 0
        """Calls that have failed."""

    def _do(self, name: str, call: Callable[[], T]) -> T:
        slow = self._slow_ns if "sync" in name else self._slow_ns // 50
        self._pace.sleep(self._random.expovariate(1) * slow / 1e9)
        if self.failing and name in _FAILURES and self._random.random() < self.failing:
            self.failed += 1
            number = self._random.choice(_FAILURES[name])
            self.behind.part = self._random.random()
            self.behind.fail_at = self.behind.calls + 1, number
        answer = call()
        self._pace.sleep(0)
        return answer

    def make_directory(self, path: Path) -> None:
        self._do("make_directory", lambda: self.behind.make_directory(path))

    def names(self, directory: Path) -> list[str]:
        return self._do("names", lambda: self.behind.names(directory))

    def create(self, path: Path) -> int:
        return self._do("create", lambda: self.behind.create(path))

    def open(self, path: Path, *, writable: bool = False) -> int:
        return self._do("open", lambda: self.behind.open(path, writable=writable))

    def size(self, fd: int) -> int:
        return self.behind.size(fd)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return self._do("read", lambda: self.behind.read(fd, size, offset))

    def allocate(self, fd: int, size: int) -> None:
        self._do("allocate", lambda: self.behind.allocate(fd, size))

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> None:
        """Sector by sector now and then: the kernel looks between two whether it is killed."""
        data = b"".join(pieces)
        first = SECTOR - offset % SECTOR
        if len(data) > first and self._random.random() < 0.3:
            self._do("write", lambda: self.behind.write(fd, [data[:first]], offset))
            data, offset = data[first:], offset + first
        self._do("write", lambda: self.behind.write(fd, [data], offset))

    def truncate(self, fd: int, size: int) -> None:
        self._do("truncate", lambda: self.behind.truncate(fd, size))

    def sync(self, fd: int) -> None:
        self._do("sync", lambda: self.behind.sync(fd))

    def sync_directory(self, path: Path) -> None:
        self._do("sync_directory", lambda: self.behind.sync_directory(path))

    def rename(self, old: Path, new: Path) -> None:
        self._do("rename", lambda: self.behind.rename(old, new))

    def remove(self, path: Path) -> None:
        self._do("remove", lambda: self.behind.remove(path))

    def close(self, fd: int) -> None:
        self.behind.close(fd)

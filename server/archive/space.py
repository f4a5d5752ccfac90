"""How much space the data directory takes, and how much is left: for whoever operates the server.

It is looked at now and then, in a thread: a disk that hangs is waited for by nobody.
"""

import os
import time
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from server.region.region import Region

EVERY_S: Final = 5.0
_BLOCK: Final = 512  # bytes: the unit of st_blocks


class Found(NamedTuple):
    """Bytes."""

    used: int
    free: int  # to this user


def measure(directory: Path) -> Found:
    """Measure all files below a directory, and what is left on its file system. Files that go
    meanwhile are left out. OSError."""
    used = 0
    for path, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                used += os.stat(Path(path, name), follow_symlinks=False).st_blocks * _BLOCK
    system = os.statvfs(directory)
    return Found(used, system.f_bavail * system.f_frsize)


class Space:
    """Publishes it in the region; by the archive process."""

    def __init__(self, region: Region, directory: Path, thread: Executor) -> None:
        self._region, self._directory, self._thread = region, directory, thread
        self._due = 0.0
        self._measuring: Future[Found] | None = None

    def turn(self) -> None:
        """Publish what has been found, and look again where it is time to."""
        if self._measuring is not None and self._measuring.done():
            with suppress(OSError):  # whoever writes there tells of it
                archive, found = self._region.archive, self._measuring.result()
                archive.disk_used, archive.disk_free = found
            self._measuring = None
        if self._measuring is None and time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY_S
            self._measuring = self._thread.submit(measure, self._directory)

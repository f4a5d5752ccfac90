"""JSON objects, a line each, between the leader and the load processes."""

import json
import os
import select
import time
from collections.abc import Iterable
from typing import Any

Told = dict[str, Any]


class Lines:
    """What comes through a pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._data = b""

    def fileno(self) -> int:
        return self.fd

    @property
    def has_next(self) -> bool:
        """Did another line come with an earlier one? The pipe is not readable for it again."""
        return b"\n" in self._data

    def next(self, timeout_s: float) -> Told | None:
        """The next object; None if none is whole in that time. EOFError at the end."""
        deadline = time.monotonic() + timeout_s
        while not self.has_next:  # what is long comes in several pieces
            if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(self.fd, 1 << 20)
            if not data:
                raise EOFError
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        found: Told = json.loads(line)
        return found


def say(fd: int, **what: Any) -> None:
    """Write an object; BrokenPipeError where nobody reads any more."""
    data = memoryview(json.dumps(what).encode() + b"\n")
    while data:
        data = data[os.write(fd, data) :]


def anything(lines: Iterable[Lines], timeout_s: float) -> list[Lines]:
    """Those of which something can be read, within that time."""
    lines = list(lines)
    if ready := [each for each in lines if each.has_next]:
        return ready
    ready, _, _ = select.select(lines, [], [], timeout_s)
    return ready

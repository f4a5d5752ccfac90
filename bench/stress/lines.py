"""JSON objects, a line each, between the leader and the load processes."""

import json
import os
import select
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

    def next(self, timeout_s: float) -> Told | None:
        """The next object; None if none is whole in that time. EOFError at the end."""
        if b"\n" not in self._data:
            if not select.select([self.fd], [], [], timeout_s)[0]:
                return None
            data = os.read(self.fd, 1 << 20)
            if not data:
                raise EOFError
            self._data += data
        line, newline, rest = self._data.partition(b"\n")
        if not newline:
            return None
        self._data = rest
        found: Told = json.loads(line)
        return found


def say(fd: int, **what: Any) -> None:
    """Write an object; BrokenPipeError where nobody reads any more."""
    data = memoryview(json.dumps(what).encode() + b"\n")
    while data:
        data = data[os.write(fd, data) :]


def anything(lines: Iterable[Lines], timeout_s: float) -> list[Lines]:
    """Those of which something can be read, within that time."""
    ready, _, _ = select.select(list(lines), [], [], timeout_s)
    return ready

"""What every turn of a connection asks of the kernel: the interpreted twin of kernel.pxd.

Sockets do not block.
"""

import os
import time
from typing import Final

RECEIVE_MAX: Final = 64 * 1024  # bytes, in one go


def receive(fd: int) -> bytes | None:
    """What has arrived, RECEIVE_MAX bytes at most; empty: the peer has sent its last byte; None:
    nothing just now. OSError."""
    try:
        return os.read(fd, RECEIVE_MAX)
    except (BlockingIOError, InterruptedError):
        return None


def send(fd: int, data: bytes, start: int) -> int:
    """How many of these bytes, from `start` on, the kernel has taken; it may be none. OSError."""
    try:
        return os.write(fd, memoryview(data)[start:])
    except (BlockingIOError, InterruptedError):
        return 0


def now_us() -> int:
    """The wall clock, microseconds since the Unix epoch."""
    return time.time_ns() // 1000

"""A flag that one process sets and another's event loop sees: an eventfd.

Made before the fork and inherited, so that each worker has one and every process can set it.
"""

import os


class Wakeup:
    """An eventfd used as a flag: non-blocking, close-on-exec, shared with forked processes.

    However often it is set, one `clear` unsets it. After `close` every use raises ValueError.
    """

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor, readable while the flag is set; -1 when closed."""
        return self._fd

    def set(self) -> None:
        """Set the flag. Safe in a signal handler, and never waits."""
        try:  # noqa: SIM105 - it is half as much work
            os.eventfd_write(self._fd, 1)
        except BlockingIOError:  # the counter is at its maximum, so the flag is set
            pass

    def clear(self) -> bool:
        """Unset the flag, and tell whether it was set."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close this process's descriptor; the other processes keep theirs. May be repeated."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)

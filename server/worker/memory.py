"""What a worker does when it gets no more memory (a limit of the process, or of the system).

It keeps a reserve, so that there is some to act with, and takes no connections while it is short of
it. A request that finds none ends its connection, and that one alone: nothing was executed, or it
is told as recorded when it comes again. Anywhere else it cannot be known what was not done: the
worker ends, and another one takes its place.
"""

import mmap
import os
from typing import Final, NoReturn

import liblog
from server.exits import Exit

RESERVE: Final = 4 << 20  # bytes: for the lines of the log, and the ends of connections
HEADROOM: Final = 16 << 20  # bytes that connections which are there may still want

log = liblog.get("worker")


def _space(size: int) -> mmap.mmap | None:
    """So much address space, which takes no page; None: there is not as much."""
    try:
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError):
        return None


class Memory:
    """The reserve of this worker."""

    def __init__(self) -> None:
        self._reserve = _space(RESERVE)
        self._lack: Final = liblog.Seldom()  # of lines about it

    def has_room(self) -> bool:
        """Is there enough for more connections?"""
        if self._reserve is None:
            return False
        space = _space(HEADROOM)
        if space is None:
            return False
        space.close()
        return True

    def ran_out(self) -> None:
        """A connection is aborted, as there was no memory for what it wanted."""
        self._release()
        if self._lack.due():
            log.error(
                "out_of_memory",
                advice="connections that want more are closed, and no others accepted, until there "
                "is some: raise the limit of memory, or lower --max-connections",
            )

    def restore(self) -> None:
        """Have the reserve again, if that can be."""
        if self._reserve is None:
            self._reserve = _space(RESERVE)

    def end(self, error: BaseException) -> NoReturn:
        """It is not known what was not done for lack of memory."""
        self._release()
        try:
            log.error("worker_out_of_memory", exc_info=error)
        finally:
            os._exit(Exit.FAILED)

    def _release(self) -> None:
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None

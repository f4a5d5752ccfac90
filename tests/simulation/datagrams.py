"""Flags and pairs of sockets for datagrams, between simulated processes; and who waits for them."""

import select
from collections import deque
from typing import Final, Protocol

from tests.simulation.scheduler import Scheduler, Task

_WAITING_MAX: Final = 4  # datagrams that have not been taken


class Descriptor(Protocol):
    """Something that a process waits for."""

    task: Task | None

    def fileno(self) -> int:
        """Its number, of the simulation."""

    def events(self) -> int:
        """What it is ready for, as bits of select.poll."""


class Flag:
    """A flag that one process sets and another's loop sees; in the place of libnet's Wakeup."""

    def __init__(self, fd: int) -> None:
        """fd: its descriptor, of the simulation."""
        self._fd = fd
        self.is_set = False
        self.task: Task | None = None
        """Who waits for it."""

    def fileno(self) -> int:
        return self._fd

    def events(self) -> int:
        return select.POLLIN if self.is_set else 0

    def set(self) -> None:
        self.is_set = True
        if self.task is not None:
            self.task.wake()

    def clear(self) -> bool:
        was, self.is_set = self.is_set, False
        return was

    def close(self) -> None:
        """There is nothing to give back."""


class DatagramEnd:
    """One end of a pair; it outlives the process that uses it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._inbox: deque[bytes] = deque()
        self.peer: DatagramEnd = self
        self.task: Task | None = None

    def fileno(self) -> int:
        return self._fd

    def events(self) -> int:
        there = select.POLLIN if self._inbox else 0
        return there | (select.POLLOUT if len(self.peer._inbox) < _WAITING_MAX else 0)

    def send(self, data: bytes) -> None:
        if len(self.peer._inbox) >= _WAITING_MAX:
            raise BlockingIOError
        self.peer._inbox.append(data)
        if self.peer.task is not None:
            self.peer.task.wake()

    def recv(self, size: int) -> bytes:
        del size
        if not self._inbox:
            raise BlockingIOError
        if self.peer.task is not None:
            self.peer.task.wake()
        return self._inbox.popleft()


def pair(first_fd: int) -> tuple[DatagramEnd, DatagramEnd]:
    """Two ends, with this descriptor and the next."""
    one, other = DatagramEnd(first_fd), DatagramEnd(first_fd + 1)
    one.peer, other.peer = other, one
    return one, other


class Poll:
    """In the place of select.poll."""

    def __init__(self, pace: Scheduler, descriptors: dict[int, Descriptor]) -> None:
        self._pace, self._descriptors = pace, descriptors
        self._mine: dict[int, int] = {}

    def register(self, what: int | Descriptor, events: int) -> None:
        fd = what if isinstance(what, int) else what.fileno()
        self._descriptors[fd].task = self._pace.current
        self._mine[fd] = events

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        until = self._pace.now_ns + milliseconds * 1e6
        while not (found := self._ready()) and self._pace.now_ns < until:
            self._pace.wait(until)
        return found

    def _ready(self) -> list[tuple[int, int]]:
        return [
            (fd, ready)
            for fd, wanted in self._mine.items()
            if (ready := self._descriptors[fd].events() & wanted)
        ]

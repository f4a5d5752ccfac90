"""Where a worker accepts: on its own listener, and on those of slots that are empty just now."""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final

import liblog
from libnet.pump import Pump
from libnet.transport import FrameProtocol
from server.region.region import Region

ACCEPT_MAX: Final = 64  # connections in one turn, before those that are open have theirs
RETRY_S: Final = 1.0  # after there was no descriptor, or no memory, for a connection

_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = liblog.get("worker")


class Listeners:
    """The listeners that one worker accepts on. The master says, in a word of each slot, who
    accepts for it while it has no worker."""

    def __init__(
        self,
        region: Region,
        slot: int,
        sockets: Sequence[socket.socket],
        pump: Pump,
        connection: Callable[[], FrameProtocol],
    ) -> None:
        """sockets: of all workers, by slot. connection: makes one for each that is accepted."""
        self._words: Final = region.words
        self._slot, self._sockets, self._pump = slot, sockets, pump
        self._loop: Final = pump.loop
        self._connection = connection
        workers = region.layout["workers"]
        self._hosts = [workers.at(other, "host") for other in range(workers.records)]
        self._open: dict[int, socket.socket] = {}  # by slot
        self._waits: dict[int, asyncio.TimerHandle] = {}  # those that go on later

    def open(self) -> None:
        """Accept on this worker's own."""
        self._begin(self._slot, self._sockets[self._slot])

    def _begin(self, slot: int, listener: socket.socket) -> None:
        self._open[slot] = listener
        self._loop.add_reader(listener.fileno(), self._accept, slot)

    def host(self) -> None:
        """Accept on the listeners of other slots as far as the master says so now, no further."""
        for slot, at in enumerate(self._hosts):
            if slot == self._slot or (self._words[at] == self._slot + 1) == (slot in self._open):
                continue
            if slot in self._open:
                self._end(slot)
            else:
                self._begin(slot, self._sockets[slot].dup())

    def _accept(self, slot: int) -> None:
        listener = self._open[slot]
        for _ in range(ACCEPT_MAX):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno == errno.EINVAL:  # the server stops, and has shut it down
                    self._end(slot)
                elif error.errno in _NO_ROOM:
                    self._wait(slot, error)
                else:
                    raise
                return
            sock.setblocking(False)
            self._pump.add(sock, self._connection())

    def _wait(self, slot: int, error: OSError) -> None:
        """Clients wait in the listener's queue until there is room for one."""
        log.error("not_accepting", error=error.strerror, retry_s=RETRY_S)
        self._loop.remove_reader(self._open[slot].fileno())
        self._waits[slot] = self._loop.call_later(RETRY_S, self._go_on, slot)

    def _go_on(self, slot: int) -> None:
        del self._waits[slot]
        self._loop.add_reader(self._open[slot].fileno(), self._accept, slot)

    def _end(self, slot: int) -> None:
        listener = self._open.pop(slot)
        waits = self._waits.pop(slot, None)
        if waits is None:
            self._loop.remove_reader(listener.fileno())
        else:
            waits.cancel()
        listener.close()

    def close(self) -> None:
        """Accept nothing more."""
        for slot in tuple(self._open):
            self._end(slot)

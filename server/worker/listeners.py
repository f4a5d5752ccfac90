"""Where a worker accepts: on the listeners that the master gives to it.

A listener is never closed while the server serves, as that would reset whoever waits in its queue.
It goes from one worker to another by a word; for a moment both accept on it, or nobody, and nobody
who connects notices that. What is accepted is served here, or given to a sibling (siblings.py).
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

import liblog
from libnet.pump import Pump
from libnet.sockets import peer_of
from libnet.transport import FrameProtocol
from server import handover
from server.region.region import Region
from server.worker.memory import Memory
from server.worker.siblings import Siblings

ACCEPT_MAX: Final = 64  # connections in one turn, before those that are open have theirs
RETRY_S: Final = 1.0  # after there was no descriptor, or no memory, for a connection

_NO_MEMORY: Final = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = liblog.get("worker")


class Listeners:
    """The listeners that one worker accepts on: the master says in a word of each whose it is."""

    def __init__(
        self,
        region: Region,
        slot: int,
        sockets: Sequence[socket.socket],
        queue: socket.socket,
        siblings: Siblings,
        pump: Pump,
        connection: Callable[[str], FrameProtocol],
        operate: Callable[[socket.socket], None],
        memory: Memory,
    ) -> None:
        """sockets: all there are. queue: of what siblings have accepted for this worker.
        connection: makes one, given the peer's address, for each that is served here. operate:
        takes an operator's, which the master gives."""
        self._words: Final = region.words
        self._slot, self._sockets, self._pump = slot, sockets, pump
        self._loop: Final = pump.loop
        self._queue, self._siblings = queue, siblings
        self._connection = connection
        self._operate = operate
        self._memory = memory
        self._lack: Final = liblog.Seldom()  # of lines about it
        self._loop.add_reader(queue.fileno(), self._take)
        workers = region.layout["workers"]
        self._hosts = [workers.at(number, "host") for number in range(len(sockets))]
        self.closed = False
        """It accepts nothing any more."""
        self._left = False  # nor takes what siblings give
        self._open: dict[int, socket.socket] = {}  # by the listener's number
        self._waits: dict[int, asyncio.TimerHandle] = {}  # those that go on later

    def host(self) -> None:
        """Accept where the master says so now, and nowhere else."""
        if self.closed:
            return
        for number, at in enumerate(self._hosts):
            if (self._words[at] == self._slot + 1) == (number in self._open):
                continue
            if number in self._open:
                self._end(number)
            else:
                listener = self._open[number] = self._sockets[number].dup()
                self._loop.add_reader(listener.fileno(), self._accept, number)

    def _accept(self, number: int) -> None:
        listener = self._open[number]
        if not self._memory.has_room():
            self._wait(number, _NO_MEMORY)
            return
        for _ in range(ACCEPT_MAX):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno == errno.EINVAL:  # the server stops, and has shut it down
                    self.close()
                elif error.errno in _NO_ROOM:
                    self._wait(number, error)
                else:
                    raise
                return
            if not self._siblings.give(sock):
                self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._pump.add(sock, self._connection(peer_of(sock)))

    def _take(self) -> None:
        """What siblings give: served here, or where this worker ends by yet another one."""
        try:
            if not self._memory.has_room():
                raise _NO_MEMORY
            for sock in handover.take(self._queue, ACCEPT_MAX):
                if sock.family == socket.AF_UNIX:
                    self._operate(sock)
                elif not (self.closed and self._siblings.give_anyway(sock)):
                    self._serve(sock)
        except OSError as error:
            self._tell(error)
            queue = self._queue.fileno()
            self._loop.remove_reader(queue)
            self._loop.call_later(RETRY_S, self._take_again)

    def _take_again(self) -> None:
        if not self._left:
            self._loop.add_reader(self._queue.fileno(), self._take)

    def _wait(self, number: int, error: OSError) -> None:
        """Clients wait in the listener's queue until there is room for one."""
        self._tell(error)
        self._loop.remove_reader(self._open[number].fileno())
        self._waits[number] = self._loop.call_later(RETRY_S, self._go_on, number)

    def _tell(self, error: OSError) -> None:
        if self._lack.due():
            log.error("not_accepting", error=error.strerror, retry_s=RETRY_S)

    def _go_on(self, number: int) -> None:
        del self._waits[number]
        self._loop.add_reader(self._open[number].fileno(), self._accept, number)

    def _end(self, number: int) -> None:
        listener = self._open.pop(number)
        waits = self._waits.pop(number, None)
        if waits is None:
            self._loop.remove_reader(listener.fileno())
        else:
            waits.cancel()
        listener.close()

    def close(self) -> None:
        """Accept nothing more, whatever the master says."""
        self.closed = True
        for number in tuple(self._open):
            self._end(number)

    def leave_queue(self) -> None:
        """Take nothing more of what siblings give: the master has another server serve it."""
        self._left = True
        self._loop.remove_reader(self._queue.fileno())

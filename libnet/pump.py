"""The transports of a worker's connections, all of them in one epoll.

An event loop makes a callback for each socket that is ready, and that costs more than most requests
do. Here the sockets are in an epoll of their own, whose descriptor is one more reader of the loop:
however many of them are ready, the loop makes one call. Listeners, timers and signals stay where
they are.

A `Pipe` is to its protocol what a transport of asyncio is, as far as FrameProtocol asks for it: its
methods mean the same, and it calls the same methods, in the same order. What a protocol raises ends
its connection, and goes to the loop's exception handler.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

from libnet import kernel
from libnet.sockets import limit_buffers
from libnet.transport import LONG_MIN, FrameProtocol

TURN_MAX: Final = 256  # sockets that are looked at in one turn of the loop, before all else in it
SEND_MAX: Final = 64 * 1024  # bytes that waited, in one go: a socket seldom takes more

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class Pipe:
    """One connection's transport."""

    __slots__ = (
        "_closing",
        "_eof",
        "_fd",
        "_high",
        "_interest",
        "_left",
        "_low",
        "_protocol",
        "_pump",
        "_reads",
        "_sent",
        "_sock",
        "_unsent",
        "_writes",
    )

    def __init__(self, pump: "Pump", sock: socket.socket, protocol: FrameProtocol) -> None:
        self._pump, self._sock, self._protocol = pump, sock, protocol
        self._fd = sock.fileno()
        self._interest = 0  # what the epoll watches for; 0: the socket is not in it
        self._reads = True
        self._closing = False  # nothing is read any more, and what is written is thrown away
        self._eof = False  # half-close once all is sent
        # What the kernel has not taken yet: long pieces as they are, short ones joined.
        self._unsent: list[bytes | bytearray] = []
        self._sent = 0  # bytes of the first piece, if it is a long one
        self._left = 0  # bytes of all
        self._writes = True  # the protocol has not been told to pause
        self._high = self._low = 0

    # ---- what asyncio's transports have

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Bytes that wait: over `high` of them the protocol is told to pause, until `low`."""
        self._high, self._low = high, low

    def limit_buffers(self, size: int) -> None:
        """Bytes that the kernel keeps at most of what arrives, and of what is sent."""
        limit_buffers(self._sock, size)

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._left

    def is_closing(self) -> bool:
        """It is closed, or will be when all is sent."""
        return self._closing

    def is_reading(self) -> bool:
        """What arrives is given to the protocol."""
        return self._reads and not self._closing

    def pause_reading(self) -> None:
        """What arrives waits in the kernel."""
        self._reads = False
        self._watch()

    def resume_reading(self) -> None:
        """What arrives is given to the protocol again."""
        self._reads = True
        self._watch()

    def write(self, data: bytes) -> None:
        """Send this, now as far as the kernel takes it."""
        if self._closing or self._eof:
            return
        sent = 0
        if not self._left:
            try:
                sent = kernel.send(self._fd, data, 0)
            except OSError:
                self.abort()
                return
            if sent == len(data):
                return
        try:
            self._keep(data, sent)
        except MemoryError:
            self._pump.lacks_memory(self)
            return
        if self._writes and self._left > self._high:
            self._writes = False
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        """Half-close, once all is sent."""
        if self._closing or self._eof:
            return
        self._eof = True
        if not self._left:
            self._shut_down()

    def close(self) -> None:
        """Close, once all is sent."""
        if self._closing:
            return
        self._closing = True
        if not self._left:
            self._end()
        else:
            self._watch()

    def abort(self) -> None:
        """Close at once; what is not sent is lost."""
        if self._closing and not self._left:
            return
        self._closing = True
        self._unsent.clear()
        self._left = 0
        self._end()

    def fileno(self) -> int:
        """The descriptor of its socket."""
        return self._fd

    # ---- for the pump

    def open(self) -> None:
        """The protocol has its transport: begin to read."""
        self._watch()

    def ready(self, events: int) -> None:
        """The epoll has found something, or an error: then a look finds it, too."""
        if events & ~_IN:
            self._send_more()
        if self._reads and not self._closing and events & ~_OUT:
            self._receive()

    def _keep(self, data: bytes, sent: int) -> None:
        """The kernel has taken so many bytes of it. MemoryError."""
        unsent, size = self._unsent, len(data) - sent
        if size >= LONG_MIN:
            if not unsent:
                self._sent = sent
            unsent.append(data)
        elif unsent and isinstance(unsent[-1], bytearray):
            unsent[-1] += data
        else:
            unsent.append(bytearray(data[sent:]))
        self._left += size
        if self._left == size:
            self._watch()

    def _receive(self) -> None:
        try:
            data = kernel.receive(self._fd)
        except OSError:
            self.abort()
            return
        if data:
            self._protocol.data_received(data)
        elif data is not None:
            self._reads = False
            self._watch()
            if not self._protocol.eof_received():
                self.close()

    def _send_more(self) -> None:
        if not self._left:
            return
        first = self._unsent[0]
        try:
            if isinstance(first, bytes):
                sent = kernel.send(self._fd, first, self._sent)
                self._sent += sent
                is_over = self._sent == len(first)
            else:
                with memoryview(first) as view:
                    following = bytes(view[:SEND_MAX])
                sent = kernel.send(self._fd, following, 0)
                del first[:sent]
                is_over = not first
        except OSError:
            self.abort()
            return
        self._left -= sent
        if is_over:
            del self._unsent[0]
            self._sent = 0
        if not self._left:
            if self._closing:
                self._end()
                return
            if self._eof:
                self._shut_down()
            self._watch()
        if not self._writes and self._left <= self._low:
            self._writes = True
            self._protocol.resume_writing()

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:  # the peer is gone
            self.abort()

    def _watch(self) -> None:
        """Have the epoll watch for what is wanted now."""
        wanted = 0
        if self._reads and not self._closing:
            wanted |= _IN
        if self._left:
            wanted |= _OUT
        if wanted != self._interest:
            self._pump.watch(self._fd, self._interest, wanted)
            self._interest = wanted

    def _end(self) -> None:
        """Out of the epoll now; the protocol is told in a turn of its own."""
        if self._interest:
            self._pump.watch(self._fd, self._interest, 0)
            self._interest = 0
        self._pump.loop.call_soon(self._lost)

    def _lost(self) -> None:
        self._pump.forget(self._fd)
        try:
            self._protocol.connection_lost(None)
        finally:
            self._sock.close()


class Pump:
    """The connections of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """OSError: there is no descriptor for its epoll."""
        self.loop: Final = loop
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._pipes: dict[int, Pipe] = {}  # by descriptor
        self._long_us = 0
        self._on_long: Callable[[], None] | None = None
        self._on_no_memory: Callable[[], None] | None = None
        loop.add_reader(self._epoll.fileno(), self._turn)

    def tell_of_long_turns(self, long_us: int, on_long: Callable[[], None]) -> None:
        """Call it after each turn that takes longer than so many microseconds."""
        self._long_us, self._on_long = long_us, on_long

    def tell_of_no_memory(self, on_no_memory: Callable[[], None]) -> None:
        """Call it where a connection is aborted as there was no memory for what it wanted; the
        first thing that it does is to make some."""
        self._on_no_memory = on_no_memory

    def add(self, sock: socket.socket, protocol: FrameProtocol) -> None:
        """A connection that was accepted: it is read from now on. sock: one that does not block; it
        is closed when the connection is."""
        pipe = Pipe(self, sock, protocol)
        self._pipes[sock.fileno()] = pipe
        protocol.connection_made(pipe)
        pipe.open()

    def fileno(self) -> int:
        """The descriptor of its epoll: it is ready while any connection is."""
        return self._epoll.fileno()

    def close(self) -> None:
        """No connection is watched any more."""
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def watch(self, fd: int, before: int, wanted: int) -> None:
        """Watch a socket for other events. One that is watched for none is not in the epoll: that
        would go on reporting an error which nobody looks for."""
        if not wanted:
            self._epoll.unregister(fd)
        elif before:
            self._epoll.modify(fd, wanted)
        else:
            self._epoll.register(fd, wanted)

    def forget(self, fd: int) -> None:
        """A connection is closed."""
        del self._pipes[fd]

    def lacks_memory(self, pipe: Pipe) -> None:
        """Something for this connection finds no memory: it ends, and the others go on."""
        if self._on_no_memory is not None:
            self._on_no_memory()
        pipe.abort()

    def _turn(self) -> None:
        pipes = self._pipes
        began = kernel.now_us() if self._long_us else 0
        for fd, events in self._poll(0, TURN_MAX):
            pipe = pipes.get(fd)
            if pipe is None:
                continue
            try:
                pipe.ready(events)
            except MemoryError:
                self.lacks_memory(pipe)
            except Exception as error:  # noqa: BLE001 - one connection's fault is not that of others
                pipe.abort()
                self.loop.call_exception_handler(
                    {"message": "a connection failed", "exception": error, "transport": pipe}
                )
        # A clock that is set back makes it long once, which costs a look.
        if began and kernel.now_us() - began > self._long_us and self._on_long is not None:
            self._on_long()

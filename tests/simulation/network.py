"""Connections that are joined in memory: what one end writes arrives at the other later, in pieces.

The server's end is a transport as its protocols know it; the client's end is asked by the client's
task. What was sent before a process dies may still arrive, or not: as with sockets.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from libnet.transport import FrameProtocol
from tests.simulation.loop import SimulatedLoop
from tests.simulation.scheduler import Scheduler, Task

WINDOW: Final = 4096
"""Bytes that the kernels between two ends hold of one direction, at most."""
RECEIVE: Final = 65536


class Direction:
    """Bytes on their way."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, bytes]] = deque()  # with the time at which each arrives
        self._last_ns = 0
        self.size = 0
        self.ended_ns: int | None = None  # the end arrives then
        self.reset = False

    def send(self, data: bytes, at_ns: int) -> None:
        self._last_ns = max(self._last_ns, at_ns)
        self._pieces.append((self._last_ns, data))
        self.size += len(data)

    def end(self, at_ns: int) -> None:
        self.ended_ns = self._last_ns = max(self._last_ns, at_ns)

    def cut(self) -> None:
        """A reset: what is on its way is lost."""
        self.reset = True
        self._pieces.clear()
        self.size = 0

    def due_ns(self) -> int | None:
        """When there is something to read next."""
        if self.reset:
            return 0
        return self._pieces[0][0] if self._pieces else self.ended_ns

    def is_ready(self, now_ns: int) -> bool:
        due = self.due_ns()
        return due is not None and due <= now_ns

    def receive(self, now_ns: int) -> bytes | None:
        """What has arrived; empty at the end; None: nothing yet. ConnectionResetError."""
        if self.reset:
            raise ConnectionResetError
        found = []
        while self._pieces and self._pieces[0][0] <= now_ns:
            found.append(self._pieces.popleft()[1])
        if found:
            data = b"".join(found)
            self.size -= len(data)
            return data
        if not self._pieces and self.ended_ns is not None and self.ended_ns <= now_ns:
            return b""
        return None


class Link:
    """One connection."""

    def __init__(self, pace: Scheduler, latency: Callable[[], int], peer: str) -> None:
        """latency: of the next piece, ns."""
        self.pace, self.peer = pace, peer
        self._latency = latency
        self.to_server, self.to_client = Direction(), Direction()
        self.server: Pipe | None = None
        self.server_task: Task | None = None
        self.client_task: Task | None = None

    # ---- the client's end

    def send(self, data: bytes, cuts: list[int]) -> None:
        """cuts: where it is cut into pieces."""
        at, now = 0, self.pace.now_ns
        for cut in (*sorted(cuts), len(data)):
            if cut > at:
                self.to_server.send(data[at:cut], now + self._latency())
                at = cut
        self._tell_server()

    def receive(self) -> bytes | None:
        """See Direction."""
        data = self.to_client.receive(self.pace.now_ns)
        if data and self.server is not None and self.server.waits:
            self._tell_server()
        return data

    def shut_down(self) -> None:
        """The client sends nothing more."""
        self.to_server.end(self.pace.now_ns + self._latency())
        self._tell_server()

    def reset(self) -> None:
        """Cut, for both ends."""
        self.to_server.cut()
        self.to_client.cut()
        self._tell_server()
        self._tell_client()

    # ---- the server's end

    def write(self, data: bytes) -> int:
        """How many bytes are taken."""
        taken = max(0, min(len(data), WINDOW - self.to_client.size))
        if taken and not self.to_client.reset:
            self.to_client.send(data[:taken], self.pace.now_ns + self._latency())
            self._tell_client()
        return taken

    def end(self) -> None:
        """The server sends nothing more."""
        self.to_client.end(self.pace.now_ns + self._latency())
        self._tell_client()

    def process_ended(self, loses: bool) -> None:
        """The server's process is gone. loses: what it has sent is lost as well."""
        self.server = self.server_task = None
        if loses:
            self.to_client.cut()
        elif self.to_client.ended_ns is None:
            self.end()
        self._tell_client()

    def _tell_server(self) -> None:
        if self.server_task is not None:
            self.server_task.wake()

    def _tell_client(self) -> None:
        if self.client_task is not None:
            self.client_task.wake()


class Pipe:
    """The server's end of a connection: its transport. See libnet.pump.Pipe."""

    def __init__(self, pump: "MemoryPump", link: Link, protocol: FrameProtocol) -> None:
        self._pump, self._link, self._protocol = pump, link, protocol
        self._reads, self._writes = True, True
        self._closing = self._eof = self._ended = False
        self._unsent = bytearray()
        self._high = self._low = 0

    @property
    def waits(self) -> bool:
        """Something is to be sent, and waits for the peer to read."""
        return bool(self._unsent)

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        # As small as what is on its way, so that peers which do not read are common.
        self._high, self._low = min(high, WINDOW), min(low, WINDOW // 4)

    def limit_buffers(self, size: int) -> None:
        """The window is what it is."""

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reads and not self._closing

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True

    def write(self, data: bytes, /) -> None:
        if self._closing or self._eof:
            return
        self._unsent += data
        self._send()
        if self._writes and len(self._unsent) > self._high:
            self._writes = False
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if self._closing or self._eof:
            return
        self._eof = True
        if not self._unsent:
            self._link.end()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._unsent:
            self._end()

    def abort(self) -> None:
        if self._ended:
            return
        self._closing = True
        self._unsent.clear()
        self._end()

    def fileno(self) -> int:
        return -1

    # ---- for the pump

    def due_ns(self) -> int | None:
        """When there is something to do for it."""
        if self._ended:
            return None
        if self._unsent and self._link.to_client.size < WINDOW:
            return 0
        return self._link.to_server.due_ns() if self.is_reading() else None

    def ready(self) -> None:
        """Do it."""
        if self._unsent:
            self._send_more()
        if self.is_reading() and self._link.to_server.is_ready(self._link.pace.now_ns):
            self._receive()

    def _send(self) -> None:
        taken = self._link.write(bytes(self._unsent))
        del self._unsent[:taken]

    def _send_more(self) -> None:
        if self._link.to_client.reset:
            self.abort()
            return
        self._send()
        if not self._unsent:
            if self._closing:
                self._end()
                return
            if self._eof:
                self._link.end()
        if not self._writes and len(self._unsent) <= self._low:
            self._writes = True
            self._protocol.resume_writing()

    def _receive(self) -> None:
        try:
            data = self._link.to_server.receive(self._link.pace.now_ns)
        except ConnectionResetError:
            self.abort()
            return
        if data:
            self._protocol.data_received(data)
        elif data is not None:
            self._reads = False
            if not self._protocol.eof_received():
                self.close()

    def _end(self) -> None:
        self._ended = True
        self._pump.loop.call_soon(self._lost)

    def _lost(self) -> None:
        self._pump.forget(self)
        self._link.server = None
        if self._link.to_client.ended_ns is None:
            self._link.end()
        self._protocol.connection_lost(None)


class MemoryPump:
    """The connections of one worker; in the place of libnet.pump.Pump."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop: Final = loop
        self._pipes: dict[Pipe, Link] = {}
        loop.add_source(self)

    def tell_of_long_turns(self, long_us: int, on_long: Callable[[], None]) -> None:
        """A turn takes no time here but for its steps."""

    def tell_of_no_memory(self, on_no_memory: Callable[[], None]) -> None:
        """There is as much as is wanted."""

    def add(self, link: Link, protocol: FrameProtocol) -> None:
        """A connection that was accepted."""
        pipe = Pipe(self, link, protocol)
        self._pipes[pipe] = link
        link.server, link.server_task = pipe, self.loop.task
        protocol.connection_made(pipe)

    def forget(self, pipe: Pipe) -> None:
        """It is closed."""
        del self._pipes[pipe]

    def links(self) -> list[Link]:
        """All that are open."""
        return list(self._pipes.values())

    def due_ns(self) -> int | None:
        """When there is something to do."""
        return min(
            (due for pipe in self._pipes if (due := pipe.due_ns()) is not None), default=None
        )

    def turn(self) -> None:
        """Do what is there to do."""
        now = self.loop.pace.now_ns
        for pipe in tuple(self._pipes):
            due = pipe.due_ns()
            if due is None or due > now:
                continue
            try:
                pipe.ready()
            except Exception as error:  # noqa: BLE001 - as in libnet.pump
                pipe.abort()
                self.loop.call_exception_handler(
                    {"message": "a connection failed", "exception": error}
                )

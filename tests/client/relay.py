"""A relay between a client and a server, which does to the connection what a bad network does."""

import queue
import select
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType

from libproto.messages import HEADER_LEN, Opcode

_LENGTH_AND_OPCODE = struct.Struct(">6xIH")
_SIZE = 65536  # bytes


class Relay:
    """Passes one connection on.

    hold: from the first request of this opcode on, requests are dropped, or with `cut` both
    connections are closed; `held` is set then. Between `pause` and `resume` nothing is read from
    the server; what it sends meanwhile fills its own buffers, as this side's are small. pause_at:
    the first request of this opcode is passed on, and pauses. port: where it listens, if not
    anywhere.
    """

    def __init__(
        self,
        server_port: int,
        hold: Opcode | None = None,
        *,
        cut: bool = False,
        pause_at: Opcode | None = None,
        port: int = 0,
    ) -> None:
        self.passed: Counter[int] = Counter()
        """How many requests of each opcode the server was sent."""
        self._pause_at = pause_at
        self.held = threading.Event()
        self._hold = hold
        self._cut = cut
        self._paused = False
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._orders, self._ordered = socket.socketpair()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def pause(self) -> None:
        """Read nothing more from the server; holds when this returns."""
        self._orders.send(b"p")
        self._done.get()

    def resume(self) -> None:
        self._orders.send(b"r")
        self._done.get()

    def close(self) -> None:
        """End both connections; nothing listens any more when this returns. May be repeated."""
        if self._orders.fileno() < 0:
            return
        self._orders.send(b"e")
        self._thread.join()
        self._orders.close()
        self._ordered.close()

    def _run(self) -> None:
        with self._listener:
            if self._ordered in select.select([self._listener, self._ordered], [], [])[0]:
                return
            client, _ = self._listener.accept()
        with client, socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SIZE)
            server.connect(("127.0.0.1", self._server_port))
            with suppress(ConnectionError):  # a reset is an end like another, to be passed on
                self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        held = bytearray()
        while True:
            sources = [client, self._ordered] if self._paused else [client, self._ordered, server]
            ready, _, _ = select.select(sources, [], [])
            if self._ordered in ready:
                order = self._ordered.recv(1)
                if order == b"e":
                    return
                self._paused = order == b"p"
                self._done.put(None)
                continue
            if server in ready:
                data = server.recv(_SIZE)
                if not data:
                    return
                client.sendall(data)
            if client in ready:
                data = client.recv(_SIZE)
                if not data:
                    return
                held += data
                self._forward(held, server)
                if self.held.is_set() and self._cut:
                    return

    def _forward(self, held: bytearray, server: socket.socket) -> None:
        """Send the whole frames that `held` begins with, up to the first that must not pass."""
        while not self.held.is_set() and len(held) >= HEADER_LEN:
            body_len, opcode = _LENGTH_AND_OPCODE.unpack_from(held)
            if opcode == self._hold:
                self.held.set()
            elif len(held) >= HEADER_LEN + body_len:
                if opcode == self._pause_at:
                    self._paused, self._pause_at = True, None
                server.sendall(held[: HEADER_LEN + body_len])
                self.passed[opcode] += 1
                del held[: HEADER_LEN + body_len]
            else:
                break

    def __enter__(self) -> "Relay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

"""A real HTTP server on loopback that does whatever a test has it do, byte by byte."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

Serve = Callable[["Request"], None]
"""Answers one request; the connection is closed after it."""


class Request:
    """One request, and the connection to answer it on."""

    def __init__(self, origin: "BadOrigin", connection: socket.socket, head: bytes) -> None:
        self.origin, self.connection = origin, connection
        line, *rest = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = line.split(" ", 2)
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (each.partition(":") for each in rest if each)
        }

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def answer(
        self,
        body: bytes = b"",
        status: str = "200 OK",
        *,
        length: int | None = -1,
        media_type: str | None = "text/plain",
        **headers: str,
    ) -> None:
        """length: what Content-Length says; None: nothing; -1: the truth."""
        lines = [f"HTTP/1.1 {status}", "Connection: close"]
        if length is not None:
            lines.append(f"Content-Length: {len(body) if length == -1 else length}")
        if media_type is not None:
            lines.append(f"Content-Type: {media_type}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode())
        if self.method != "HEAD":
            self.send(body)

    def wait_for_the_end(self) -> None:
        """Until the other side has closed, or the test is over."""
        with suppress(OSError):
            while self.connection.recv(4096):
                pass


class BadOrigin:
    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.serve: Serve = lambda request: request.answer(b"hello")
        self.tls: ssl.SSLContext | None = None
        self.requests: list[tuple[str, str]] = []
        self.heads: list[Request] = []
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                thread = threading.Thread(target=self._answer, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _answer(self, connection: socket.socket) -> None:
        with ExitStack() as stack:
            stack.enter_context(suppress(OSError))
            stack.enter_context(connection)
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                stack.enter_context(connection)
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(65536)
                if not data:
                    return
                head += data
            request = Request(self, connection, head)
            self.requests.append((request.method, request.path))
            self.heads.append(request)
            self.serve(request)

    def url(self, path: str = "/x.txt", host: str = "origin.test") -> str:
        return f"http://{host}:{self.port}{path}"

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


@contextmanager
def bad_origin() -> Iterator[BadOrigin]:
    origin = BadOrigin()
    try:
        yield origin
    finally:
        origin.close()

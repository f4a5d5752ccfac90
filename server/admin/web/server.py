"""The HTTP server of the admin port: the standard library's, bounded.

http.server is meant for simple needs, and this is one: a handful of clients, requests without a
body, answers of some kilobytes. What it lacks for a port that strangers may reach is added here:
limits for the connections at a time, for the size of a request, and for the time that it takes to
arrive and its answer to leave. One request per connection, so that none is held open.
"""

import io
import socket
import socketserver
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import BoundedSemaphore
from typing import Any, Final
from urllib.parse import urlsplit

import liblog

CONNECTIONS_MAX: Final = 16
STUCK_S: Final = 1.0  # without a turn of the loop that accepts, which has ten in that time
REQUEST_MAX: Final = 16 * 1024  # bytes of request line and headers
REQUEST_S: Final = 5.0  # for all of a request to arrive, and again for its answer to be taken

log = liblog.get("admin")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path is answered with."""

    body: bytes
    content_type: str
    status: HTTPStatus = HTTPStatus.OK


Routes = Mapping[str, Callable[[], Answer]]
"""By path: what makes the answer."""


class _Request(io.RawIOBase):
    """What arrives on a socket: at most REQUEST_MAX bytes, within REQUEST_S."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._left = sock, REQUEST_MAX
        self._deadline = time.monotonic() + REQUEST_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """As a socket's file does. TimeoutError: it is too slow. 0 where it is too long, as at its
        end."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        got = self._sock.recv_into(buffer, min(len(buffer), self._left))
        self._left -= got
        return got


class _Handler(BaseHTTPRequestHandler):
    """One request, and then the connection is closed: HTTP/1.0."""

    server: "AdminServer"

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Request(self.connection))

    def handle(self) -> None:
        try:
            super().handle()
        except OSError as error:  # too slow, or gone
            log.debug("admin_request_given_up", reason=str(error) or type(error).__name__)

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer a HEAD."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        make = self.server.routes.get(urlsplit(self.path).path)
        answer = make() if make else _NOT_FOUND
        self.connection.settimeout(REQUEST_S)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        """What `Server` says: not which version of Python there is."""
        return "tradechat"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        log.debug("admin_request", said=format % args)


_NOT_FOUND: Final = Answer(
    b"there is no such page: / /health /metrics /stats\n",
    "text/plain; charset=utf-8",
    HTTPStatus.NOT_FOUND,
)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    # Of the page: its own script and style, and nothing from anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class AdminServer(socketserver.ThreadingMixIn, HTTPServer):
    """Serves on a listener that is there already."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, routes: Routes) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()  # one that was made for nothing
        self.socket = listener
        self.routes: Final = routes
        self._free = BoundedSemaphore(CONNECTIONS_MAX)
        self._looked = time.monotonic()
        self._failures: Final = liblog.Seldom()  # of lines about them

    def service_actions(self) -> None:
        """At each turn of the loop that accepts."""
        self._looked = time.monotonic()

    def accepts(self, now: float) -> bool:
        """Does that loop run? now: time.monotonic()."""
        return now - self._looked < STUCK_S

    def finish(self, seconds: float) -> None:
        """Accept nothing more, and wait so long at most until all that was accepted is answered."""
        self.shutdown()
        deadline = time.monotonic() + seconds
        for _ in range(CONNECTIONS_MAX):
            if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, if one more connection may be."""
        if not self._free.acquire(blocking=False):
            request.close()
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """An error of the program, or no thread for one more connection; told once in a minute."""
        if self._failures.due():
            log.error("admin_request_failed", exc_info=True)

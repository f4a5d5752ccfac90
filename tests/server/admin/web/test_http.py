"""The HTTP server of the admin port: what it answers, and what nobody can make it hold."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from structlog.testing import capture_logs

from libnet.sockets import listen_first
from server.admin.web import server
from server.admin.web.server import CONNECTIONS_MAX, REQUEST_MAX, AdminServer, Answer
from tests.helpers.server import wait_until

WAIT_S = 30.0


@contextmanager
def serving(**routes: Callable[[], Answer]) -> Iterator[int]:
    """A server with these paths; its port."""
    listener = listen_first("127.0.0.1", 0)
    made = AdminServer(listener, {f"/{name}": route for name, route in routes.items()})
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
        wait_until(lambda: threading.active_count() == 1 or not _handlers(), "no request is left")


def _handlers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if "process_request_thread" in t.name]


def hello() -> Answer:
    return Answer(b"hello\n", "text/plain")


def exchange(port: int, request: bytes) -> bytes:
    """All that a request is answered with, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as sock:
        sock.sendall(request)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer


def test_a_page_is_answered_and_the_connection_closed() -> None:
    with serving(page=hello) as port:
        head, _, body = exchange(port, b"GET /page?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").partition(
            b"\r\n\r\n"
        )
        assert head.startswith(b"HTTP/1.0 200 ")
        assert body == b"hello\n"
        for line in (b"Content-Length: 6", b"Content-Type: text/plain", b"Cache-Control: no-store"):
            assert line in head.split(b"\r\n")
        assert b"Content-Security-Policy: default-src 'none'" in head
        head, _, body = exchange(port, b"HEAD /page HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
        assert (head.splitlines()[0].split()[1], body) == (b"200", b"")
        assert b"Content-Length: 6" in head


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /other HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /page/../page HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /page HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"501"),
        (b"GET /page HTTP/9.9\r\n\r\n", b"505"),
        (b"nonsense in a line\r\n\r\n", b"400"),
    ],
)
def test_what_is_not_answered_with_a_page(request_: bytes, status: bytes) -> None:
    with serving(page=hello) as port:
        answer = exchange(port, request_)
        assert status in answer, "in its first line, or where it is of no version, in the text"
        assert b"hello" not in answer
        assert exchange(port, b"GET /page HTTP/1.0\r\n\r\n").endswith(b"hello\n")


def test_so_many_connections_at_a_time_and_no_more() -> None:
    with serving(page=hello) as port:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS_MAX)]
        try:
            wait_until(lambda: len(_handlers()) == CONNECTIONS_MAX, "all have been accepted")
            with suppress(ConnectionResetError):
                assert exchange(port, b"") == b"", "closed at once"
            idle.pop().close()
            wait_until(lambda: len(_handlers()) < CONNECTIONS_MAX, "one has gone")
            assert exchange(port, b"GET /page HTTP/1.0\r\n\r\n").endswith(b"hello\n")
        finally:
            for sock in idle:
                sock.close()


def test_who_sends_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is between two bytes: it is the whole request that has a time."""
    monkeypatch.setattr(server, "REQUEST_S", 0.3)
    with (
        serving(page=hello) as port,
        socket.create_connection(("127.0.0.1", port), timeout=0.01) as sock,
    ):
        sock.sendall(b"GET /page HTTP/1.0\r\nX: ")

        def is_closed() -> bool:
            try:
                sock.sendall(b"x")
                return sock.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_closed, "the connection is closed")


def test_a_request_that_is_too_long_is_given_up() -> None:
    with serving(page=hello) as port:
        answer = b""
        with suppress(ConnectionError):
            answer = exchange(port, b"GET /page HTTP/1.0\r\nX: " + bytes(2 * REQUEST_MAX))
        assert b"200" not in answer.split(b"\r\n")[0]
        assert b"hello" not in answer
        assert exchange(port, b"GET /page HTTP/1.0\r\n\r\n").endswith(b"hello\n")


def test_a_fault_ends_one_request() -> None:
    def fault() -> Answer:
        raise ZeroDivisionError

    with capture_logs() as lines, serving(fault=fault, page=hello) as port:
        assert exchange(port, b"GET /fault HTTP/1.0\r\n\r\n") == b""
        assert exchange(port, b"GET /page HTTP/1.0\r\n\r\n").endswith(b"hello\n")
        assert "admin_request_failed" in [line["event"] for line in lines]

"""A server of a few lines for the tests of the clients: it says what the test's script says.

`Handshake` answers HELLO, REGISTER and LOGIN as a server does, in memory, and can be told to lie.
`serving` puts a script behind a real listening socket.
"""

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from libproto import scram
from libproto.codec import PUSH, REQUEST, RESPONSE, error_frame
from libproto.errors import Status
from libproto.framing import Decoder, Frame
from libproto.messages import MIN_ITERATIONS, HelloResponse, LoginResponse, Opcode

USERNAME = "ann"
PASSWORD = "correct horse"  # noqa: S105 - of a user that there is in tests alone
USER_ID = 7
LOG_ID = 0x0102030405060708
MAX_BODY_LEN = 65536
WAIT_S = 30.0
VERIFIER = scram.make_verifier(PASSWORD, bytes(range(16)), MIN_ITERATIONS)


class Request(NamedTuple):
    """One request as it was received."""

    opcode: int
    req_id: int
    flags: int
    fields: tuple[Any, ...]


def read_request(frame: Frame) -> Request:
    """The request in a frame, which must be a good one."""
    opcode, req_id, flags, status, buf, start, end, fault = frame
    assert (status, fault) == (0, 0)
    return Request(opcode, req_id, flags, REQUEST[opcode].decode(buf, start, end))


def answer(request: Request, *fields: Any, flags: int = 0) -> bytes:
    """The OK response to a request."""
    return RESPONSE[request.opcode].frame(request.req_id, flags, *fields)


def refuse(request: Request, status: int, detail: str = "no", retry_after_ms: int = 0) -> bytes:
    """The response that refuses a request."""
    return error_frame(request.opcode, request.req_id, status, detail, retry_after_ms)


def push(opcode: Opcode, *fields: Any) -> bytes:
    """A push."""
    return PUSH[opcode].frame(0, 0, *fields)


class Handshake:
    """Answers HELLO, REGISTER and LOGIN for the one user it knows.

    `hello` and `login` hold fields of the answers that are to differ from what is right.
    """

    def __init__(
        self, hello: dict[str, Any] | None = None, login: dict[str, Any] | None = None
    ) -> None:
        self.hello = hello or {}
        self.login = login or {}
        self.verifier = VERIFIER
        self.hello_bodies = b""
        self.next_req_id = 0  # of the latest LOGIN

    def respond(self, request: Request) -> bytes:
        if request.opcode == Opcode.HELLO:
            answered = HelloResponse(
                capabilities=0,
                server_name="test",
                max_body_len=MAX_BODY_LEN,
                heartbeat_s=3600,
                idle_timeout_s=3600,
                server_nonce=secrets.token_bytes(32),
                salt=self.verifier.salt,
                iterations=self.verifier.iterations,
                public_key=b"",
                identity=b"",
                signature=b"",
            )._replace(**self.hello)
            bodies = REQUEST[Opcode.HELLO].encode(*request.fields)
            self.hello_bodies = bodies + RESPONSE[Opcode.HELLO].encode(*answered)
            return answer(request, *answered)
        if request.opcode == Opcode.REGISTER:
            self.verifier = scram.Verifier(*request.fields[1:])
            return answer(request, USER_ID)
        assert request.opcode == Opcode.LOGIN
        username, proof, client_id, self.next_req_id = request.fields
        client = client_id, self.next_req_id
        message = scram.auth_message(self.hello_bodies, username, *client)
        valid = scram.proof_is_valid(self.verifier.stored_key, message, proof)
        if not valid or username != USERNAME:
            return refuse(request, Status.ERR_UNAUTHORIZED, "wrong username or password")
        signature = scram.server_signature(self.verifier.server_key, message)
        response = LoginResponse(USER_ID, 1, 0, LOG_ID, signature)
        return answer(request, *response._replace(**self.login))


class Wire:
    """The server's end of a connection, for a script. Inboxes are empty, and there are no
    transactions: who asks is told so, and no script sees it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._decoder = Decoder(MAX_BODY_LEN)

    def request(self) -> Request:
        """The next request; EOFError when the client has closed."""
        while True:
            request = self.any_request()
            if request.opcode == Opcode.INBOX_HISTORY:
                self.send(answer(request, 1, 1, []))
            elif request.opcode == Opcode.TXN_HISTORY:
                self.send(answer(request, 0, []))
            else:
                return request

    def any_request(self) -> Request:
        """The next one, of an inbox as well."""
        while (frame := self._decoder.next()) is None:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError("the client has closed")
            self._decoder.feed(data)
        return read_request(frame)

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def log_in(self, handshake: Handshake | None = None) -> None:
        """Answer a HELLO and a LOGIN."""
        handshake = handshake or Handshake()
        self.send(handshake.respond(self.request()))
        self.send(handshake.respond(self.request()))

    def wait_closed(self) -> list[Request]:
        """Until the client has closed; what it sent till then."""
        requests = []
        with suppress(EOFError):
            while True:
                requests.append(self.request())
        return requests


Script = Callable[[Wire], object]


@contextmanager
def serving(*scripts: Script) -> Iterator[int]:
    """A port of the loopback address that runs each script for one connection, in turn.

    What a script raises is raised at the end. A connection is closed when its script ends.
    """
    failures: list[BaseException] = []

    def run(listener: socket.socket) -> None:
        try:
            for script in scripts:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(WAIT_S)
                    script(Wire(sock))
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            failures.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        thread = threading.Thread(target=run, args=(listener,), name="peer")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(2 * WAIT_S)
            assert not thread.is_alive(), "the peer's script has not ended"
    if failures:
        raise failures[0]


@contextmanager
def serving_everybody(script: Script) -> Iterator[int]:
    """A port that runs the script for each connection, beside the others; it sees their ends."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def serve(sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(WAIT_S)
                script(Wire(sock))
        except (EOFError, ConnectionError):
            pass  # the client has gone
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            failures.append(error)

    def run(listener: socket.socket) -> None:
        while True:
            sock, _ = listener.accept()
            if stop.is_set():
                sock.close()
                return
            threads.append(threading.Thread(target=serve, args=(sock,), name="peer"))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        accepting = threading.Thread(target=run, args=(listener,), name="peer")
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            socket.create_connection(listener.getsockname(), WAIT_S).close()
            for thread in (accepting, *threads):
                thread.join(2 * WAIT_S)
                assert not thread.is_alive(), "the peer's script has not ended"
    if failures:
        raise failures[0]


def open_descriptors() -> dict[str, str]:
    """The descriptors of this process, and what each of them is."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them, or another's that has ended
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def answer_any(request: Request) -> bytes:
    """Two ones, as BALANCE and many others are answered, or what a sign of life asks for."""
    if request.opcode == Opcode.USER_NAME:
        return answer(request, USER_ID, USERNAME, 1, 0)
    return answer(request, 1, 1)


def answer_all(wire: Wire) -> None:
    """Log in whoever asks for it, as often as they like, and answer the rest with two ones."""
    handshake = Handshake()
    while True:
        request = wire.request()
        if request.opcode in (Opcode.HELLO, Opcode.LOGIN):
            wire.send(handshake.respond(request))
        else:
            wire.send(answer_any(request))


@contextmanager
def silence() -> Iterator[int]:
    """A port that accepts connections, in its backlog, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]

"""A blocking connection for what comes before and after a load: registering, logging in, reading.

One request at a time, each answer waited for. See wire.py for one of an event loop.
"""

import socket
import time
from typing import Any, Final

from bench.lab.cli import BenchFailed
from bench.lab.login import Greeting, decoder, greet, verifier
from libnet.sockets import connect
from libproto.codec import ERROR, REQUEST, RESPONSE
from libproto.errors import Status
from libproto.framing import Frame
from libproto.messages import Flag, HelloResponse, LoginResponse, Opcode
from libproto.scram import Verifier
from libproto.wrapping import Wrapper

TIMEOUT_S: Final = 30.0
BUSY_S: Final = 5.0
"""How long a request is repeated that is answered ERR_SERVER_BUSY: less than a server waits for a
LOGIN, or the connection would be closed and the reason lost."""
_ANEW_S: Final = 2.0
"""How long users are registered on one connection; with BUSY_S, less than a server waits for a
LOGIN."""
_PAUSE_S: Final = 0.01  # the least one after ERR_SERVER_BUSY
_RESPONSE: Final = int(Flag.RESPONSE)


class CallFailed(BenchFailed):
    """A request was refused, or not answered."""

    def __init__(self, text: str, status: int = Status.OK) -> None:
        """status: what it was refused with."""
        super().__init__(text)
        self.status = status


class Caller:
    """A connection that waits for each answer; pushes are passed over. CallFailed, NetError."""

    def __init__(self, host: str, port: int, *, encrypts: bool = False, source: str = "") -> None:
        """source: the address to come from, of several that this machine has."""
        self._address: Final = host, port
        self._source: Final = source
        self._encrypts: Final = encrypts
        self._begin()

    def _begin(self) -> None:
        if self._source:
            self.sock = socket.create_connection(self._address, TIMEOUT_S, (self._source, 0))
        else:
            self.sock = connect(*self._address, TIMEOUT_S)
        self.sock.settimeout(TIMEOUT_S)
        self.decoder = decoder(encrypts=self._encrypts)
        self.wrapper: Wrapper | None = None
        self.req_id = 0
        self._begun = time.monotonic()

    def greet(self, username: str) -> tuple[Greeting, bytes, HelloResponse]:
        """HELLO, on another connection where this one has had its own; its answer."""
        if self.wrapper is not None:
            self.close()
            self._begin()
        greeting = greet(username, encrypts=self._encrypts)
        _, _, _, _, buf, start, end, _ = self.frame(Opcode.HELLO, *greeting.fields)
        answer = HelloResponse._make(RESPONSE[Opcode.HELLO].decode(buf, start, end))
        try:
            self.wrapper = greeting.agree(answer, self.decoder)
        except ValueError as error:
            raise CallFailed(f"HELLO: {error}") from error
        return greeting, buf[start:end], answer

    def frame(self, opcode: Opcode, *fields: object) -> Frame:
        """One request and the frame that answers it OK; asked again where the server is busy."""
        deadline = time.monotonic() + BUSY_S
        while True:
            frame = self._answer(opcode, fields)
            _, _, _, status, buf, start, end, _ = frame
            if not status:
                return frame
            retry_after_ms, detail = ERROR.decode(buf, start, end)
            if status != Status.ERR_SERVER_BUSY or time.monotonic() > deadline:
                text = f"{opcode.name} was refused, {Status(status).name}: {detail}"
                raise CallFailed(text, status)
            time.sleep(max(retry_after_ms / 1000, _PAUSE_S))

    def _answer(self, opcode: Opcode, fields: tuple[object, ...]) -> Frame:
        self.req_id += 1
        try:
            data = REQUEST[opcode].frame(self.req_id, 0, *fields)
            self.sock.sendall(data if self.wrapper is None else self.wrapper.wrap(data))
            while True:
                while (frame := self.decoder.next()) is None:
                    data = self.sock.recv(65536)
                    if not data:
                        raise CallFailed(f"{opcode.name}: the server closed the connection")
                    self.decoder.feed(data)
                if frame[2] & _RESPONSE:
                    return frame
        except OSError as error:
            raise CallFailed(f"{opcode.name}: {error}") from error

    def call(self, opcode: Opcode, *fields: object) -> tuple[Any, ...]:
        """One request; the fields of the answer."""
        return RESPONSE[opcode].decode(*self.frame(opcode, *fields)[4:7])

    def register(self, usernames: list[str]) -> list[int]:
        """Register users; their ids."""
        made = self._verifier()
        return [self._register(name, made) for name in usernames]

    def register_new(self, usernames: list[str]) -> list[int]:
        """Register those users whom the server does not have; their ids, 0 for one that it has."""
        made, users = self._verifier(), []
        for name in usernames:
            try:
                users.append(self._register(name, made))
            except CallFailed as error:
                if error.status != Status.ERR_ALREADY_EXISTS:
                    raise
                users.append(0)
        return users

    def _register(self, username: str, made: Verifier) -> int:
        if time.monotonic() > self._begun + _ANEW_S:
            self.close()
            self._begin()
            self._verifier()
        user: int = self.call(Opcode.REGISTER, username, *made)[0]
        return user

    def _verifier(self) -> Verifier:
        """What users are registered with, from HELLO on."""
        return verifier(self.greet("")[2].iterations)

    def login(self, username: str, client_id: int) -> LoginResponse:
        """HELLO and LOGIN of a user that `register` has made, under a client_id that is new to the
        server, or 0."""
        greeting, body, answer = self.greet(username)
        fields = greeting.login(body, answer, client_id, 1)
        return LoginResponse._make(self.call(Opcode.LOGIN, *fields))

    def close(self) -> None:
        self.sock.close()

"""A client's connection, as its task uses it: frames out, frames in, with a deadline."""

import functools
from math import inf
from random import Random
from typing import Final, NamedTuple

from libproto import scram
from libproto.codec import REQUEST, RESPONSE
from libproto.errors import Status
from libproto.framing import Decoder
from libproto.messages import Flag, Opcode
from tests.simulation.network import Link
from tests.simulation.scheduler import Scheduler

PASSWORD: Final = "correct horse"  # noqa: S105 - of users that live as long as a run
_SALT: Final = b"salt of the test"
_NONCE: Final = b"nonce of the client"

_salted = functools.cache(scram.salted_password)


class Lost(Exception):
    """The connection is gone, or given up."""


class Frame(NamedTuple):
    """A frame that came."""

    opcode: int
    req_id: int
    flags: int
    status: int
    body: bytes

    @property
    def is_answer(self) -> bool:
        return bool(self.flags & Flag.RESPONSE)


class Wire:
    """One connection of a client."""

    def __init__(self, pace: Scheduler, random: Random, link: Link) -> None:
        self._pace, self._random, self.link = pace, random, link
        self._decoder = Decoder(1 << 20)
        self.hello_bodies = b""
        link.client_task = pace.current

    def send(self, data: bytes) -> None:
        """In pieces, now and then."""
        cuts = []
        if self._random.random() < 0.2:
            cuts = [self._random.randrange(len(data)) for _ in range(self._random.randint(1, 3))]
        self.link.send(data, cuts)

    def receive(self, deadline_ns: float = inf) -> Frame | None:
        """The next frame; None where none has come by then. Lost."""
        while True:
            frame = self._decoder.next()
            if frame is not None:
                opcode, req_id, flags, status, buf, start, end, fault = frame
                assert not fault, "the server sends a bad frame"
                return Frame(opcode, req_id, flags, status, bytes(buf[start:end]))
            try:
                data = self.link.receive()
            except ConnectionResetError as error:
                raise Lost from error
            if data == b"":
                raise Lost
            if data is not None:
                self._decoder.feed(data)
                continue
            if self._pace.now_ns >= deadline_ns:
                return None
            due = self.link.to_client.due_ns()
            self._pace.wait(min(deadline_ns, inf if due is None else due))

    def call(self, opcode: int, *fields: object, timeout_s: float = 5.0) -> Frame:
        """A request outside of a session, and its answer. Lost."""
        self.send(REQUEST[opcode].frame(1, 0, *fields))
        deadline = self._pace.now_ns + int(timeout_s * 1e9)
        while (frame := self.receive(deadline)) is not None:
            if frame.is_answer:
                return frame
        raise Lost

    def hello(self, name: str, capabilities: int) -> int:
        """Say HELLO: the status of the answer. Lost."""
        fields = capabilities, "simulation", name, _NONCE, b""
        answer = self.call(Opcode.HELLO, *fields)
        if answer.status == Status.OK:
            self.hello_bodies = REQUEST[Opcode.HELLO].encode(*fields) + answer.body
            body = RESPONSE[Opcode.HELLO].decode(answer.body, 0, len(answer.body))
            self._iterations = int(body[7])
        return answer.status

    def register(self, name: str) -> int:
        """The status. Lost."""
        salted = _salted(PASSWORD, _SALT, self._iterations)
        stored = scram.stored_key(scram.client_key(salted))
        fields = name, _SALT, self._iterations, stored, scram.server_key(salted)
        return self.call(Opcode.REGISTER, *fields).status

    def login(self, name: str, client_id: int, next_req_id: int) -> Frame:
        """The answer. Lost."""
        salted = _salted(PASSWORD, _SALT, self._iterations)
        message = scram.auth_message(self.hello_bodies, name, client_id, next_req_id)
        proof = scram.client_proof(scram.client_key(salted), message)
        return self.call(Opcode.LOGIN, name, proof, client_id, next_req_id)

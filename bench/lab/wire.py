"""A connection of an event loop: frames in and out, at the protocol's own level, nothing retried.

See caller.py for one that waits for each answer.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

from bench.lab.login import MAX_BODY_LEN, OTHER_REQ_IDS, greet, verifier
from libnet.sockets import is_self_connected
from libproto.codec import ERROR, PUSH, REQUEST, RESPONSE
from libproto.errors import PeerError, Status
from libproto.framing import Decoder, Frame
from libproto.messages import Flag, HelloResponse, LoginResponse, Opcode

_RESPONSE: Final = int(Flag.RESPONSE)
_DUPLICATE: Final = int(Flag.POSSIBLE_DUPLICATE)
_LINGER_0: Final = struct.pack("ii", 1, 0)  # a close that resets


class Lost(Exception):
    """The connection is over, and the answer did not come."""


class Refused(Exception):
    """An answer that is not OK."""

    def __init__(self, opcode: int, status: int, detail: str) -> None:
        super().__init__(f"{Opcode(opcode).name} was answered {Status(status).name}: {detail}")
        self.status = Status(status)


class Answer(NamedTuple):
    """A response. `fields` are those of the body, of an error's if the status is not OK."""

    status: Status
    recorded: bool  # POSSIBLE_DUPLICATE is set: the outcome of an earlier sending
    fields: tuple[Any, ...]


class Pending(NamedTuple):
    opcode: int
    sent: float
    settle: Callable[[Answer], None]


class Wire(asyncio.Protocol):
    """One connection. `push` gets opcode and fields of every push, `unexpected` a text for what no
    server may send; `closed` is set at the end. leaving: the server will close it, so nothing more
    is to be sent, and `call` is as if it were over. `left` is set when it is of no use any more: at
    the end, or when it is leaving and all is answered."""

    def __init__(
        self,
        push: Callable[[int, tuple[Any, ...]], None],
        unexpected: Callable[[str], None],
    ) -> None:
        self.closed = asyncio.Event()
        self.left = asyncio.Event()
        self.leaving = False
        self.pending: dict[int, Pending] = {}
        self.transport: asyncio.Transport
        self._push = push
        self._unexpected = unexpected
        self._decoder = Decoder(MAX_BODY_LEN)
        self._next_req_id = OTHER_REQ_IDS
        self._is_half = False  # the last frame was: nothing may follow it
        self._futures: set[asyncio.Future[Answer]] = set()

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        push: Callable[[int, tuple[Any, ...]], None],
        unexpected: Callable[[str], None],
    ) -> "Wire":
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: cls(push, unexpected), host, port)
        try:
            if is_self_connected(wire.transport.get_extra_info("socket")):
                raise ConnectionRefusedError("nobody listens: the socket has found itself")
        except OSError:  # or it was reset just now
            wire.transport.abort()
            raise
        return wire

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # which uvloop's is, but for its class

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.pending.clear()
        for future in tuple(self._futures):
            if not future.done():
                future.set_exception(Lost())
        self.closed.set()
        self.left.set()

    def data_received(self, data: bytes) -> None:
        decoder = self._decoder
        decoder.feed(data)
        while (frame := decoder.next()) is not None:
            try:
                self._take(frame)
            except PeerError as error:
                self._unexpected(f"{Opcode(frame[0]).name}: {error}")
        if decoder.dead:
            self.transport.abort()

    def _take(self, frame: Frame) -> None:
        opcode, req_id, flags, status, buf, start, end, fault = frame
        if fault:
            self._unexpected(f"a frame with fault {fault}, opcode {opcode:#06x}")
        elif opcode == Opcode.GOING_AWAY:
            self.leaving = True
            self._look_left()
        elif not flags & _RESPONSE and opcode in PUSH:
            self._push(opcode, PUSH[opcode].decode(buf, start, end))
        elif req_id not in self.pending or self.pending[req_id].opcode != opcode:
            text = f"an answer nobody waits for: opcode {opcode:#06x}, req_id {req_id}"
            self._unexpected(f"{text}, {Status(status).name}")
        else:
            codec = ERROR if status else RESPONSE[opcode]
            fields = codec.decode(buf, start, end)
            settle = self.pending.pop(req_id).settle
            settle(Answer(Status(status), bool(flags & _DUPLICATE), fields))
            self._look_left()

    def _look_left(self) -> None:
        if self.leaving and not self.pending:
            self.left.set()

    # ---- requests

    def send(
        self,
        opcode: Opcode,
        req_id: int,
        fields: tuple[object, ...],
        settle: Callable[[Answer], None],
        *,
        duplicate: bool = False,
        cut_at: float = 1.0,
    ) -> None:
        """Send a request; on a connection that has just ended, it is never answered. cut_at: which
        part of the frame is sent; with less than 1 it is the last."""
        frame = REQUEST[opcode].frame(req_id, _DUPLICATE if duplicate else 0, *fields)
        self.pending[req_id] = Pending(opcode, time.monotonic(), settle)
        if not self._is_half and not self.transport.is_closing():
            self._is_half = cut_at < 1.0
            self.transport.write(frame[: int(len(frame) * cut_at)] if self._is_half else frame)

    def ask(self, opcode: Opcode, *fields: object, settle: Callable[[Answer], None]) -> None:
        """A request that is not of the ledger, with the next req_id."""
        self._next_req_id += 1
        self.send(opcode, self._next_req_id, fields, settle)

    async def call(self, opcode: Opcode, *fields: object) -> tuple[Any, ...]:
        """The same, waiting for the fields of the answer. Lost, Refused."""
        if self.closed.is_set() or self.leaving:
            raise Lost
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def settle(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        self._futures.add(future)
        try:
            self.ask(opcode, *fields, settle=settle)
            answer = await future
        finally:
            self._futures.discard(future)
        if answer.status != Status.OK:
            raise Refused(opcode, answer.status, answer.fields[1])
        return answer.fields

    async def register(self, usernames: list[str]) -> list[int]:
        """Register users; their ids."""
        answer = HelloResponse._make(await self.call(Opcode.HELLO, *greet("").fields))
        made = verifier(answer.iterations)
        return [(await self.call(Opcode.REGISTER, name, *made))[0] for name in usernames]

    async def login(self, username: str, client_id: int, next_req_id: int) -> LoginResponse:
        """HELLO and LOGIN. next_req_id: greater than every req_id of the ledger under this
        client_id so far."""
        greeting = greet(username)
        answer = HelloResponse._make(await self.call(Opcode.HELLO, *greeting.fields))
        body = RESPONSE[Opcode.HELLO].encode(*answer)
        fields = greeting.login(body, answer, client_id, next_req_id)
        return LoginResponse._make(await self.call(Opcode.LOGIN, *fields))

    def waiting_s(self, now: float) -> float:
        """How long the oldest request has waited for its answer."""
        oldest = next(iter(self.pending.values()), None)
        return now - oldest.sent if oldest else 0.0

    def cut(self, *, reset: bool) -> None:
        """End the connection at once; by a reset, or in order (which leaves to the server what it
        has not read yet)."""
        sock: socket.socket = self.transport.get_extra_info("socket")
        if reset and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self.transport.abort()

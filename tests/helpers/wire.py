"""A raw client for tests: a socket, the codecs of libproto, and nothing in between.

It sends what it is told to, wrong frames too, and shows every frame as it came. `Lobby` opens
connections to one server, logs users in, and knows which worker each of them is on.
"""

import functools
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from libproto import scram
from libproto.codec import ERROR, PUSH, REQUEST, RESPONSE
from libproto.errors import Status
from libproto.framing import Decoder, Fault
from libproto.messages import MESSAGES, SIGNATURE_LEN, Capability, Flag, Opcode
from libproto.sealing import KeyPair, Keys, Opener, Sealer, is_signed
from libproto.wrapping import Unwrapper, Wrapper
from server.core.stats import served, totals
from server.region.counters import INDEX, ROWS
from server.region.region import Region
from tests.helpers.server import RunningServer, wait_until

DEADLINE_S = 60.0
PASSWORD = "correct horse"  # noqa: S105 - of users that live as long as a test
SALT = b"salt of the test"  # one for all users, so that the slow hash is computed once
NONCE = b"nonce of the client"
RECEIVE = 1 << 18  # bytes
CONNECT_TRIES = 400  # until the kernel has picked the worker that a test wants

_salted = functools.cache(scram.salted_password)


class Received(NamedTuple):
    """A frame as it was read."""

    opcode: int
    req_id: int
    flags: int
    status: int
    raw: bytes

    @property
    def is_answer(self) -> bool:
        return bool(self.flags & Flag.RESPONSE)

    @property
    def body(self) -> Any:
        """Its fields, named."""
        if not self.is_answer:
            codec = PUSH[self.opcode]
        else:
            codec = ERROR if self.status else RESPONSE[self.opcode]
        # tuple.__new__ is what _make does, and a checker knows no _make of a body in general
        return tuple.__new__(codec.body, codec.decode(self.raw, 0, len(self.raw)))


def request(opcode: int, req_id: int, *fields: object, flags: int = 0) -> bytes:
    """A request as a whole frame."""
    return REQUEST[opcode].frame(req_id, flags, *fields)


Client = tuple[str, int]
"""A username and a client_id."""
LEDGER = frozenset(message.opcode for message in MESSAGES if message.numbered)


class Wire:
    """One connection. Answers are expected in the order of the requests; pushes that come before
    an answer wait in `pushes`."""

    def __init__(self, sock: socket.socket, drawn: dict[Client, int] | None = None) -> None:
        """drawn: the greatest req_id of a ledger request by client, kept over its connections."""
        self.sock = sock
        self._drawn = {} if drawn is None else drawn
        self._client: Client = ("", 0)  # that is logged in
        self.pushes: deque[Received] = deque()
        self.session = 0  # its id, once logged in
        self.user = 0
        self.log_id = 0
        self._decoder = Decoder(1 << 20)
        self.wrapper: Wrapper | None = None  # of what is sent
        self.sealer: Sealer | None = None  # the same one's
        self.identity = b""  # of the server
        self._last_req_id = 0
        self._hello = b""  # the bodies of the latest HELLO and its response
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- frames

    def send_raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wrapped(self, data: bytes) -> bytes:
        """Whole frames as they go over this connection: sealed, where that was agreed."""
        return data if self.wrapper is None else self.wrapper.wrap(data)

    def send(self, opcode: int, *fields: object, flags: int = 0, req_id: int = 0) -> int:
        """Send a request; answers its req_id, the next one if none is given."""
        self._last_req_id = req_id or self._last_req_id + 1
        if opcode in LEDGER:
            drawn = self._drawn.get(self._client, 0)
            self._drawn[self._client] = max(drawn, self._last_req_id)
        self.send_raw(self.wrapped(request(opcode, self._last_req_id, *fields, flags=flags)))
        return self._last_req_id

    def receive(self, timeout_s: float = DEADLINE_S) -> Received | None:
        """The next frame, whatever it is; None at the end of the stream. A reset is an error."""
        deadline = time.monotonic() + timeout_s
        while True:
            frame = self._decoder.next()
            if frame is not None:
                opcode, req_id, flags, status, buf, start, end, fault = frame
                assert fault == Fault.NONE, f"the server sent a bad frame: {Fault(fault).name}"
                return Received(opcode, req_id, flags, status, buf[start:end])
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"nothing came within {timeout_s} s"
            if self._readable.poll(left_s * 1000):
                data = self.sock.recv(RECEIVE)
                if not data:
                    assert not self._decoder.buffered, "the stream ends inside a frame"
                    return None
                self._decoder.feed(data)

    def readable(self, timeout_s: float) -> bool:
        """Whether the server sends something, its end too, within that time."""
        return bool(self._readable.poll(timeout_s * 1000))

    def answer(self, timeout_s: float = DEADLINE_S) -> Received:
        """The next answer. ConnectionAbortedError at the end of the stream."""
        while True:
            frame = self.receive(timeout_s)
            if frame is None:
                raise ConnectionAbortedError("closed before the answer")
            if frame.is_answer:
                return frame
            self.pushes.append(frame)

    def push(self, timeout_s: float = DEADLINE_S) -> Received:
        """The next push."""
        if self.pushes:
            return self.pushes.popleft()
        frame = self.receive(timeout_s)
        assert frame is not None, "closed before the push"
        assert not frame.is_answer, f"an answer where a push was due: {frame}"
        return frame

    def expect_end(self, timeout_s: float = DEADLINE_S) -> None:
        """The stream ends in order, and no answer comes before."""
        while (frame := self.receive(timeout_s)) is not None:
            assert not frame.is_answer, f"an answer where the end was due: {frame}"

    # ---- requests

    def call(self, opcode: int, *fields: object, flags: int = 0, req_id: int = 0) -> Received:
        """Send a request and wait for its answer."""
        sent = self.send(opcode, *fields, flags=flags, req_id=req_id)
        answer = self.answer()
        assert (answer.opcode, answer.req_id) == (opcode, sent), answer
        return answer

    def ok(self, opcode: int, *fields: object) -> Any:
        """The fields of an answer that is OK."""
        answer = self.call(opcode, *fields)
        assert answer.status == Status.OK, (Opcode(opcode).name, Status(answer.status), answer.body)
        return answer.body

    def status(self, opcode: int, *fields: object) -> Status:
        """The status of an answer."""
        return Status(self.call(opcode, *fields).status)

    def hello(
        self,
        username: str = "",
        *,
        capabilities: int = 0,
        nonce: bytes = NONCE,
        key: bytes = b"",
    ) -> Received:
        """key: drawn where none is given and encryption is asked for; with one that is given, it is
        agreed and nothing can be read."""
        pair = KeyPair() if capabilities & Capability.ENCRYPTION and not key else None
        fields = (capabilities, "tests", username, nonce, key or (pair.public if pair else b""))
        answer = self.call(Opcode.HELLO, *fields)
        if answer.status == Status.OK:
            asked = REQUEST[Opcode.HELLO].encode(*fields)
            self._hello = asked + answer.raw
            self._salt, self._iterations = answer.body.salt, answer.body.iterations
            keys = None
            if pair is not None:
                body = answer.body
                unsigned = answer.raw[: -SIGNATURE_LEN - 2]
                assert is_signed(body.identity, asked, unsigned, body.signature)
                self.identity = body.identity
                keys = pair.agree(body.public_key, nonce, body.server_nonce)
            self.agree(keys, bool(answer.body.capabilities & Capability.COMPRESSION))
        return answer

    def agree(self, keys: Keys | None, compresses: bool) -> None:
        """What HELLO has agreed on holds from here on."""
        if keys is not None or compresses:
            self.sealer = Sealer(keys.client_to_server) if keys else None
            opener = Opener(keys.server_to_client) if keys else None
            self.wrapper = Wrapper(self.sealer, 0 if compresses else None)
            self._decoder = Unwrapper(self._decoder, opener, compresses)

    def register(self, username: str, iterations: int = 0, password: str = PASSWORD) -> Received:
        """iterations: as HELLO answered, if none are given."""
        return self.call(
            Opcode.REGISTER, *registration(username, iterations or self._iterations, password)
        )

    def proof(
        self,
        username: str,
        password: str = PASSWORD,
        *,
        client_id: int = 0,
        next_req_id: int = 1,
        salt: bytes = b"",
    ) -> bytes:
        """The client_proof for the latest HELLO. salt: as it answered, if none is given."""
        salted = _salted(password, salt or self._salt, self._iterations)
        message = scram.auth_message(self._hello, username, client_id, next_req_id)
        return scram.client_proof(scram.client_key(salted), message)

    def login(
        self,
        username: str,
        password: str = PASSWORD,
        *,
        client_id: int = 0,
        next_req_id: int | None = None,
        salt: bytes = b"",
    ) -> Received:
        """LOGIN after a HELLO; the server's signature is verified. next_req_id: above what was
        drawn under this client_id, if none is given."""
        client = username, client_id
        if next_req_id is None:
            next_req_id = self._drawn.get(client, 0) + 1
        proof = self.proof(
            username, password, client_id=client_id, next_req_id=next_req_id, salt=salt
        )
        answer = self.call(Opcode.LOGIN, username, proof, client_id, next_req_id)
        if answer.status == Status.OK:
            salted = _salted(password, salt or self._salt, self._iterations)
            message = scram.auth_message(self._hello, username, client_id, next_req_id)
            signature = scram.server_signature(scram.server_key(salted), message)
            assert answer.body.server_signature == signature
            self.session, self.user = answer.body.session_id, answer.body.user_id
            self._client, self.log_id = client, answer.body.log_id
        return answer


def registration(
    username: str, iterations: int, password: str = PASSWORD
) -> tuple[str, bytes, int, bytes, bytes]:
    """The fields of a REGISTER with the salt of the tests."""
    salted = _salted(password, SALT, iterations)
    stored = scram.stored_key(scram.client_key(salted))
    return username, SALT, iterations, stored, scram.server_key(salted)


def stop(pid: int) -> None:
    """Stop a process, and wait until it does nothing any more: the signal may take a moment."""
    assert pid > 0, "0 would be this process and all of its group"
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] in "TZ", "it is stopped")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for a while, as a busy machine may. Only an idle one: it holds no lock."""
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Lobby:
    """Connections to one server, closed together, and a view of its shared region."""

    def __init__(self, server: RunningServer, capabilities: int = 0) -> None:
        """capabilities: that every connection asks for."""
        self.server = server
        self._capabilities = capabilities
        self._region = Region.attach(server.name)
        self._wires: list[Wire] = []
        self._drawn: dict[Client, int] = {}
        self._users = 0
        self._prefix = os.urandom(3).hex()

    def close(self) -> None:
        for wire in self._wires:
            wire.close()
        self._region.close()

    def __enter__(self) -> "Lobby":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- connections

    def open(self) -> Wire:
        """A connection, in CONNECTED."""
        wire = Wire(self.server.connect(DEADLINE_S), self._drawn)
        self._wires.append(wire)
        return wire

    def name(self) -> str:
        """A username that nobody has."""
        self._users += 1
        return f"u{self._prefix}-{self._users}"

    def new_user(self) -> str:
        """The name of a user who has just registered."""
        username = self.name()
        with Wire(self.server.connect(DEADLINE_S)) as wire:
            wire.hello(username, capabilities=self._capabilities)
            assert wire.register(username).status == Status.OK
        return username

    def enter(
        self,
        username: str = "",
        *,
        worker: int | None = None,
        client_id: int = 0,
        next_req_id: int | None = None,
        capabilities: int = 0,
    ) -> Wire:
        """A connection with that user logged in, a new user if none is named. worker: the slot of
        the worker it must be on, if that matters."""
        username = username or self.new_user()
        wire = self.open() if worker is None else self.open_on(worker)
        wire.hello(username, capabilities=capabilities | self._capabilities)
        answer = wire.login(username, client_id=client_id, next_req_id=next_req_id)
        assert answer.status == Status.OK, answer.body
        return wire

    def open_on(self, worker: int) -> Wire:
        """A connection, in CONNECTED, on the worker of that slot. The kernel spreads connections,
        so this takes several."""
        for _ in range(CONNECT_TRIES):
            wire = self.open()
            if worker == self._accepts(wire):
                return wire
            self._wires.remove(wire)
            wire.close()
        raise AssertionError(f"no connection came to worker {worker}")

    def _accepts(self, wire: Wire) -> int:
        """The worker of a connection that has not logged in: the one whose count of HEARTBEATs a
        few of them raise."""
        before = self._heartbeats()
        probes = 3
        for _ in range(probes):
            wire.ok(Opcode.HEARTBEAT, 0)
        after = self._heartbeats()
        raised = [slot for slot, n in enumerate(after) if n - before[slot] >= probes]
        return raised[0] if len(raised) == 1 else -1

    # ---- the shared region

    def members(self, room: int) -> int:
        """How many users are in a room."""
        return self._region.words[self._region.layout["rooms"].at(room, "members")]

    def crowd(self) -> int:
        """The open connections that are counted by address, once in each row."""
        return sum(self._region.column("crowd", "open"))

    def _heartbeats(self) -> list[int]:
        """The HEARTBEATs that each worker has had."""
        return self._region.column("served", "requests")[ROWS.index("HEARTBEAT") :: len(ROWS)]

    def worker_of(self, wire: Wire) -> int:
        """The slot of the worker that has this logged-in connection."""
        sessions, words = self._region.layout["sessions"], self._region.words
        for slot in range(sessions.records):
            if words[sessions.at(slot, "id")] == wire.session:
                return words[sessions.at(slot, "worker")]
        raise AssertionError(f"session {wire.session} is not live")

    def counters(self) -> dict[str, int]:
        """Every counter, summed over the workers."""
        return totals(self._region)

    def served(self, row: str) -> dict[str, list[int]]:
        """What is counted of an opcode, by field, summed over the workers."""
        return served(self._region)[row]

    def by_worker(self, counter: str) -> list[int]:
        """One counter of each worker."""
        placed = self._region.layout["counters"]
        at = INDEX[counter]
        return [self._region.words[placed.at(slot) + at] for slot in range(placed.records)]

    def username(self, wire: Wire) -> str:
        """The name of the user logged in there."""
        return str(wire.ok(Opcode.USER_NAME, wire.user).username)

    def worker_pid(self, slot: int) -> int:
        return self._region.words[self._region.layout["workers"].at(slot, "pid")]


class RoomAccount:
    """What one connection has been told of a room: each number after its JOIN exactly once, in
    order, as an event or inside a ROOM_GAP."""

    def __init__(self, room: int, last_seq: int) -> None:
        self.room = room
        self.first = last_seq + 1
        self.last = last_seq
        self.events: dict[int, tuple[int, int, str]] = {}  # kind, from_user, message; by room_seq
        self.gaps: list[tuple[int, int]] = []

    def take(self, push: Received) -> None:
        """A push of this room; the first number that is not the next one is an error."""
        if push.opcode == Opcode.CHAT_BROADCAST:
            room, seq, _, kind, user, _, message = _decode_event(push.raw, 0, len(push.raw))
            assert seq == self.last + 1, f"event {seq} after {self.last}"
            self.events[seq] = kind, user, message
            self.last = seq
        else:
            assert push.opcode == Opcode.ROOM_GAP, push
            room, first, last = push.body
            assert first == self.last + 1, f"a gap from {first} after {self.last}"
            assert last >= first
            self.gaps.append((first, last))
            self.last = last
        assert room == self.room

    def take_all(self, wire: Wire) -> None:
        """The pushes that wait there."""
        while wire.pushes:
            self.take(wire.pushes.popleft())

    def take_until(self, wire: Wire, last_seq: int) -> None:
        """Whatever comes, up to that number."""
        while self.last < last_seq:
            self.take(wire.push())
        assert self.last == last_seq, "nothing is past it, if it is the room's last"


_decode_event = PUSH[Opcode.CHAT_BROADCAST].decode

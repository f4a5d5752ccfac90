"""A closed loop of requests that costs the machine as little as it can.

To measure a server on the machine that loads it, the load must be cheap: the frames are encoded
before the clock starts and the answers are decoded after it has stopped. In between there is only
epoll, recv and send. Every answer must be OK and in order; a run in which one is not has failed.
"""

import os
import random
import select
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from bench.lab.caller import Caller
from bench.lab.cli import BenchFailed
from bench.lab.process import CpuTime
from libproto.codec import REQUEST, RESPONSE
from libproto.messages import Opcode

_TIMEOUT_S = 30.0
_DEPOSIT = 10**12
LOADS: Final = (Opcode.TRANSFER, Opcode.BALANCE, Opcode.HEARTBEAT)
"""What the load may be of."""


class RunFailed(BenchFailed):
    """An answer was not what it had to be, or did not come in time."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one measured round took."""

    requests: int
    seconds: float
    client: CpuTime
    latencies: list[float]
    """In s, of each batch, from its sending until its last answer was there; see `run`."""


class _Connection(Caller):
    """One user's connection, blocking until the load begins."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.user = 0  # not known
        self.frames = memoryview(b"")
        self.request_size = 0  # bytes
        self.sent = 0  # requests
        self.sent_at = 0.0  # the last time
        self.received = 0  # bytes
        self.chunks: list[bytes] = []


class Generator:
    """Connections of as many users, who pay random users of the accounts."""

    def __init__(
        self,
        host: str,
        port: int,
        connections: int,
        accounts: int,
        seed: int,
        *,
        log_in: bool = True,
    ) -> None:
        """Registers `accounts` users and logs the first `connections` of them in. Not log_in: the
        other end is the floor, which has as many users and asks nobody who they are.
        """
        self._random = random.Random(seed)  # noqa: S311 - a load that can be repeated
        self._accounts = accounts
        self._connections: list[_Connection] = []
        if not log_in:
            self._connections = [_Connection(host, port) for _ in range(connections)]
            return
        names = [f"bench{number}" for number in range(accounts)]
        with closing(Caller(host, port)) as registrar:
            registrar.register(names)
        for name in names[:connections]:
            connection = _Connection(host, port)
            connection.user = connection.login(name, self._random.getrandbits(63) | 1).user_id
            connection.call(Opcode.DEPOSIT, _DEPOSIT)
            self._connections.append(connection)

    def _fields(self, opcode: Opcode, connection: _Connection) -> tuple[int, ...]:
        match opcode:
            case Opcode.TRANSFER:
                payee = self._random.randrange(1, self._accounts)
                return payee + (0 < connection.user <= payee), 1
            case Opcode.HEARTBEAT:
                return (connection.req_id,)
            case _:
                return ()

    def _prepare(self, opcode: Opcode, connection: _Connection, requests: int) -> None:
        encode, frames = REQUEST[opcode].frame, []
        for _ in range(requests):
            connection.req_id += 1
            frames.append(encode(connection.req_id, 0, *self._fields(opcode, connection)))
        connection.frames = memoryview(b"".join(frames))
        connection.request_size = len(frames[0])
        connection.sent = connection.received = 0
        connection.chunks = []

    def run(
        self,
        pipeline: int,
        requests: int,
        *,
        opcode: Opcode = Opcode.TRANSFER,
        batches: bool = False,
    ) -> Round:
        """`requests` of one of LOADS on each connection, `pipeline` of them in flight. RunFailed.

        batches: the next `pipeline` of them are sent when all of the last ones are answered, and
        the latency of each batch is taken; otherwise one is sent for each that is answered.
        """
        answer_size = len(RESPONSE[opcode].frame(1, 0, 1, 1))  # each has two numbers
        poll = select.epoll()
        by_fd = {}
        for connection in self._connections:
            self._prepare(opcode, connection, requests)
            connection.sock.setblocking(False)
            by_fd[connection.sock.fileno()] = connection
            poll.register(connection.sock, select.EPOLLIN)
        first = self._connections[0].req_id - requests + 1
        latencies: list[float] = []
        cpu, began = os.times(), time.monotonic()
        deadline = began + _TIMEOUT_S + requests * len(by_fd) / 1000
        for connection in self._connections:
            connection.sent_at = time.monotonic()
            self._send(connection, min(pipeline, requests))
        open_ = len(by_fd)
        whole = requests * answer_size
        while open_:
            ready = poll.poll(_TIMEOUT_S)
            if not ready or time.monotonic() > deadline:
                raise RunFailed("the server does not answer")
            for fd, _ in ready:
                connection = by_fd[fd]
                data = connection.sock.recv(65536)
                if not data:
                    raise RunFailed("the server closed a connection")
                connection.chunks.append(data)
                connection.received += len(data)
                answered = connection.received // answer_size
                due = min(requests, answered + pipeline)
                if batches:
                    if answered < connection.sent:
                        continue
                    now = time.monotonic()
                    latencies.append(now - connection.sent_at)
                    connection.sent_at = now
                if due > connection.sent:
                    self._send(connection, due - connection.sent)
                if connection.received >= whole:
                    open_ -= 1
        seconds, after = time.monotonic() - began, os.times()
        poll.close()
        for connection in self._connections:
            self._check(connection, first, requests)
            connection.sock.settimeout(_TIMEOUT_S)
        client = CpuTime(after.user - cpu.user, after.system - cpu.system)
        return Round(requests * len(by_fd), seconds, client, latencies)

    @staticmethod
    def _send(connection: _Connection, requests: int) -> None:
        at = connection.sent * connection.request_size
        end = at + requests * connection.request_size
        if connection.sock.send(connection.frames[at:end]) != end - at:
            raise RunFailed("the server does not read")
        connection.sent += requests

    @staticmethod
    def _check(connection: _Connection, first: int, requests: int) -> None:
        connection.decoder.feed(b"".join(connection.chunks))
        for expected in range(first, first + requests):
            frame = connection.decoder.next()
            if frame is None or frame[1] != expected or frame[3] or frame[7]:
                raise RunFailed(f"request {expected} was answered {frame and frame[:4]}")

    def close(self) -> None:
        for connection in self._connections:
            connection.sock.close()

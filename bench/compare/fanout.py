"""Messages to a room, under one and the same client for all servers.

One process, one epoll: a connection of each member, and one that publishes. It keeps a window of
messages in flight: the next one is sent when all members have one more. Every server sends each
member a stream of frames of one length, so the client counts bytes, and decodes nothing while it
measures. Afterwards the whole stream of the first member is compared with what was sent, and every
other one must have come to the same length.
"""

import os
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from bench.compare.contender import LOCALHOST, PAYLOAD, Contender, Figures, LoadFailed, figures
from bench.lab.process import CpuTime

_TIMEOUT_S: Final = 30.0
_WARM_UP_S: Final = 0.5
_READ: Final = 65536


def text_of(serial: int) -> bytes:
    """The message of that number, PAYLOAD bytes."""
    return b"%0*d" % (PAYLOAD, serial)


def connect(port: int) -> socket.socket:
    """A connection to a server of ours on the loopback interface."""
    sock = socket.create_connection((LOCALHOST, port), timeout=_TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes; fewer only where the other side has closed it."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


@dataclass(frozen=True, slots=True)
class Members:
    """Connections on which nothing is to come but what is published from now on."""

    members: Sequence[socket.socket]
    publisher: socket.socket


class Dialect(ABC):
    """A server of its own, and how it is spoken to."""

    frame_len: int
    """Bytes that a member is sent for a message."""

    @abstractmethod
    def cpu(self) -> CpuTime:
        """What all processes of the server have used so far."""

    @abstractmethod
    def open(self, members: int) -> Members: ...

    @abstractmethod
    def message(self, serial: int) -> bytes:
        """What the publisher sends."""

    @abstractmethod
    def text(self, frame: bytes) -> bytes:
        """The message in what a member is sent; empty where that is something else."""

    @abstractmethod
    def are_answers(self, data: bytes, messages: int) -> bool:
        """Whether this is what the publisher is sent for so many messages."""

    @abstractmethod
    def close(self) -> None: ...


@dataclass(slots=True)
class _Member:
    sock: socket.socket
    received: int = 0  # bytes
    messages: int = 0


@dataclass(slots=True)
class _Flight:
    """The messages of one run."""

    sent: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)  # members that do not have it yet
    latencies: list[float] = field(default_factory=list)  # to the last member, in s


class Fanout(Contender):
    """A room on a server. It is ended with this."""

    def __init__(self, dialect: Dialect, members: int) -> None:
        self._dialect = dialect
        self._serial = 0
        with ExitStack() as undo:
            undo.callback(dialect.close)
            opened = dialect.open(members)
            self._poll = undo.enter_context(select.epoll())
            for sock in (*opened.members, opened.publisher):
                undo.callback(sock.close)
                sock.setblocking(False)
                self._poll.register(sock, select.EPOLLIN)
            self._members = {sock.fileno(): _Member(sock) for sock in opened.members}
            self._publisher = opened.publisher
            self._undo = undo.pop_all()

    def load(self, in_flight: int, seconds: float) -> Figures:
        self._run(in_flight, min(seconds, _WARM_UP_S))
        return self._run(in_flight, seconds)

    def _run(self, window: int, seconds: float) -> Figures:
        for member in self._members.values():
            member.received = member.messages = 0
        first, flight = self._serial, _Flight()
        answers: list[bytes] = []
        stream: list[bytes] = []  # of the first member
        watched = next(iter(self._members))
        server, client, began = self._dialect.cpu(), os.times(), time.monotonic()
        end = began + seconds
        self._publish(flight, window)
        while len(flight.latencies) < len(flight.sent):
            ready = self._poll.poll(_TIMEOUT_S)
            if not ready:
                raise LoadFailed("messages do not come to all members")
            done = len(flight.latencies)
            for fd, _ in ready:
                of = self._members.get(fd)
                data = (self._publisher if of is None else of.sock).recv(_READ)
                if not data:
                    raise LoadFailed("the server closed a connection")
                if of is None:
                    answers.append(data)
                    continue
                if fd == watched:
                    stream.append(data)
                self._count(of, len(data), flight)
            if (free := len(flight.latencies) - done) and time.monotonic() < end:
                self._publish(flight, free)
        took, after = time.monotonic() - began, os.times()
        used = self._dialect.cpu().since(server)
        self._check(first, len(flight.sent), b"".join(stream), answers)
        return figures(
            len(flight.sent) * len(self._members),
            took,
            [each * 1000 for each in flight.latencies],
            used,
            after.user - client.user + after.system - client.system,
        )

    def _publish(self, flight: _Flight, messages: int) -> None:
        first = self._serial
        self._serial += messages
        data = b"".join(map(self._dialect.message, range(first, self._serial)))
        flight.sent += [time.monotonic()] * messages
        flight.left += [len(self._members)] * messages
        if self._publisher.send(data) != len(data):
            raise LoadFailed("the server does not read")

    def _count(self, member: _Member, size: int, flight: _Flight) -> None:
        member.received += size
        whole = member.received // self._dialect.frame_len
        if whole > len(flight.left):
            raise LoadFailed("a member was sent more than was published")
        for number in range(member.messages, whole):
            flight.left[number] -= 1
            if not flight.left[number]:
                flight.latencies.append(time.monotonic() - flight.sent[number])
        member.messages = whole

    def _check(self, first: int, messages: int, stream: bytes, answers: list[bytes]) -> None:
        """Every member was sent every message, and nothing else."""
        length, text = self._dialect.frame_len, self._dialect.text
        for member in self._members.values():
            if member.received != messages * length:
                raise LoadFailed(f"{member.received} bytes came for {messages} messages")
        for number in range(messages):
            frame = stream[number * length : (number + 1) * length]
            if text(frame) != text_of(first + number):
                raise LoadFailed(f"message {first + number} came as {frame!r}")
        data = b"".join(answers)
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._dialect.are_answers(data, messages):  # the last ones may be on their way
            ready, _, _ = select.select([self._publisher], [], [], _TIMEOUT_S)
            if not ready or time.monotonic() > deadline:
                raise LoadFailed("what was published was not answered as it is known")
            data += self._publisher.recv(_READ)

    def close(self) -> None:
        self._undo.close()

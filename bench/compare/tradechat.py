"""Our own server in the comparison: TRANSFERs, and a room; and the floor below it."""

import time
from contextlib import ExitStack, closing
from typing import Final

from bench.compare.contender import LOCALHOST, PAYLOAD, Counted, Figures, LoadFailed, figures
from bench.compare.fanout import Dialect, Members, text_of
from bench.compare.programs import find
from bench.cpu.floor import COMPILER, Floor
from bench.lab.caller import Caller
from bench.lab.generator import Generator
from bench.lab.process import CpuTime
from bench.lab.target import Server
from libproto.codec import PUSH, REQUEST
from libproto.framing import Decoder
from libproto.messages import EventKind, Opcode

_ROOM: Final = 1
_PUBLISHER: Final = "publisher"
_TIMEOUT_S: Final = 30.0
_LONGEST_ANSWER: Final = 1 << 20
# A server stands idle while the others are measured.
_FLAGS: Final = ("--idle-timeout=65535",)
_BROADCAST: Final = PUSH[Opcode.CHAT_BROADCAST]
_SEND: Final = REQUEST[Opcode.CHAT_SEND]


class Generated(Counted):
    """A server that speaks our protocol, under the generator: connections pay random accounts."""

    def __init__(
        self,
        server: Server | Floor,
        connections: int,
        accounts: int,
        seed: int,
        *,
        log_in: bool = True,
    ) -> None:
        """server: is ended with this."""
        with ExitStack() as undo:
            undo.enter_context(server)
            self._server = server
            self._generator = Generator(
                LOCALHOST, server.port, connections, accounts, seed, log_in=log_in
            )
            undo.callback(self._generator.close)
            self._connections = connections
            self._undo = undo.pop_all()

    def run(self, in_flight: int, requests: int) -> Figures:
        # Every connection sends whole pipelines.
        each = -(-requests // (self._connections * in_flight)) * in_flight
        before = self._server.cpu()
        done = self._generator.run(in_flight, each, batches=True)
        return figures(
            done.requests,
            done.seconds,
            [latency * 1000 for latency in done.latencies],
            self._server.cpu().since(before),
            sum(done.client),
        )

    def close(self) -> None:
        self._undo.close()


class Transfers(Generated):
    """Our own server."""

    def __init__(
        self, durability: str, workers: int, connections: int, accounts: int, seed: int
    ) -> None:
        server = Server(f"--durability={durability}", f"--workers={workers}", *_FLAGS)
        super().__init__(server, connections, accounts, seed)


class FloorTransfers(Generated):
    """The floor: what a transfer costs at the least. Missing without a compiler."""

    def __init__(self, workers: int, connections: int, accounts: int, seed: int) -> None:
        server = Floor(find(*COMPILER), workers, accounts)
        super().__init__(server, connections, accounts, seed, log_in=False)


class Room(Dialect):
    """All members are in one room, on all workers. Who publishes is a member as well, one more:
    only members may send. What it is sent is not counted."""

    frame_len = len(_BROADCAST.frame(0, 0, _ROOM, 1, 0, 0, 1, _PUBLISHER, "." * PAYLOAD))

    def __init__(self, durability: str, workers: int) -> None:
        self._server = Server(f"--durability={durability}", f"--workers={workers}", *_FLAGS)
        self._req_id = 0

    def cpu(self) -> CpuTime:
        return self._server.cpu()

    def open(self, members: int) -> Members:
        names = [*(f"member{number}" for number in range(members)), _PUBLISHER]
        port = self._server.port
        with closing(Caller(LOCALHOST, port)) as registrar:
            registrar.register(names)
        callers = []
        for client_id, name in enumerate(names, 1):
            caller = Caller(LOCALHOST, port)
            callers.append(caller)
            caller.login(name, client_id)
            caller.call(Opcode.JOIN_ROOM, _ROOM)
        publisher = callers[-1]
        last, _ = publisher.call(Opcode.CHAT_SEND, _ROOM, "all are here")
        for caller in callers:
            _read_until(caller, last)
        self._req_id = publisher.req_id
        return Members([caller.sock for caller in callers[:-1]], publisher.sock)

    def message(self, serial: int) -> bytes:
        self._req_id += 1
        return _SEND.frame(self._req_id, 0, _ROOM, text_of(serial).decode())

    def text(self, frame: bytes) -> bytes:
        decoder = Decoder(_LONGEST_ANSWER)
        decoder.feed(frame)
        found = decoder.next()
        if found is None or found[0] != Opcode.CHAT_BROADCAST or found[7]:
            return b""
        _, _, _, kind, _, _, message = _BROADCAST.decode(*found[4:7])
        return message.encode() if kind == EventKind.MESSAGE else b""

    def are_answers(self, data: bytes, messages: int) -> bool:
        decoder = Decoder(_LONGEST_ANSWER)
        decoder.feed(data)
        answers = broadcasts = 0
        while (frame := decoder.next()) is not None:
            opcode, _, _, status, _, _, _, fault = frame
            if status or fault:
                raise LoadFailed(f"CHAT_SEND was answered with status {status}, fault {fault}")
            answers += opcode == Opcode.CHAT_SEND
            broadcasts += opcode == Opcode.CHAT_BROADCAST
        return answers == broadcasts == messages

    def close(self) -> None:
        self._server.__exit__(None, None, None)


def _read_until(member: Caller, last: int) -> None:
    """Read what comes, until the room's event of this number."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        while (frame := member.decoder.next()) is None:
            member.decoder.feed(member.sock.recv(65536))
            if time.monotonic() > deadline:
                raise LoadFailed("the room's events do not come to all members")
        if frame[0] == Opcode.CHAT_BROADCAST and _BROADCAST.decode(*frame[4:7])[1] == last:
            return

"""The framed transport over real sockets: its phases, and the reasons not to read."""

import asyncio
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from libnet.pump import TURN_MAX, Pump
from libnet.transport import ANSWER_FIRST, FAIR_FRAMES, FrameProtocol, Phase
from libproto.codec import REQUEST
from libproto.framing import Decoder
from libproto.messages import Opcode

WAIT_S = 30.0
BIG = 64 * 1024

# The first loop of a process opens descriptors that uvloop keeps.
uvloop.new_event_loop().close()

heartbeat = REQUEST[Opcode.HEARTBEAT].frame


class Peer(FrameProtocol):
    """Answers each frame with its req_id, in 8 bytes; some later, some as the last ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, BIG)
        self.seen: list[int] = []
        self.answer_len = 8
        # req_id whose answer comes later; or is the last one; or that cannot be handled
        self.later = self.ends = self.fails = 0
        self.gone = asyncio.Event()

    def handle(self, frame: Decoder) -> bytes | None:
        req_id = frame.req_id
        self.seen.append(req_id)
        if req_id == self.later:
            self.pending += 1
            self.pause(ANSWER_FIRST)
            return None
        if req_id == self.fails:
            raise ZeroDivisionError
        if req_id == self.ends:
            self.last()
        return req_id.to_bytes(self.answer_len, "big")

    def answer_later(self) -> None:
        self.pending -= 1
        self.push(self.later.to_bytes(8, "big"))
        self.flush()
        self.settle()

    def lost(self) -> None:
        self.gone.set()


def frames(numbers: range) -> bytes:
    return b"".join(heartbeat(number, 0, 0) for number in numbers)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Peer, socket.socket]]:
    """A peer, and the other end of its connection."""
    loop = asyncio.get_running_loop()
    peer, pump = Peer(loop), Pump(loop)
    sock, accepted = connected_pair()
    pump.add(accepted, peer)
    try:
        yield peer, sock
    finally:
        sock.close()
        if peer.transport is not None:
            peer.abort()
            await peer.gone.wait()
        pump.close()


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection; neither blocks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    sock.setblocking(False)
    accepted.setblocking(False)
    return sock, accepted


def reset(sock: socket.socket) -> None:
    """Close it, so that its peer finds an error and not an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


async def received(sock: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(WAIT_S):
        while len(data) < size and (more := await loop.sock_recv(sock, BIG)):
            data += more
    return bytes(data)


def numbers_in(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8)]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> asyncio.Runner:
    return asyncio.Runner(loop_factory=request.param)


def test_an_answer_that_comes_later_is_not_overtaken(runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with connected() as (peer, sock):
            peer.later = 2
            sock.send(frames(range(1, 4)))
            await until(lambda: peer.seen == [1, 2])
            assert peer.transport is not None
            assert not peer.transport.is_reading()
            assert peer.busy
            peer.answer_later()
            assert numbers_in(await received(sock, 24)) == [1, 2, 3]
            await until(peer.transport.is_reading)
            assert not peer.busy

    with runner:
        runner.run(run())


def test_what_was_sent_before_a_half_close_is_answered(runner: asyncio.Runner) -> None:
    """More than one turn's share of it, and an answer that comes later."""

    async def run() -> None:
        async with connected() as (peer, sock):
            peer.later = FAIR_FRAMES + 2
            numbers = range(1, 3 * FAIR_FRAMES)
            sock.send(frames(numbers))
            sock.shutdown(socket.SHUT_WR)
            await until(lambda: peer.pending == 1)
            peer.answer_later()
            assert numbers_in(await received(sock, 1 << 20)) == list(numbers)
            await until(lambda: peer.phase == Phase.CLOSED)

    with runner:
        runner.run(run())


def test_the_last_answer_is_sent_and_nothing_after_it_is_handled(runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with connected() as (peer, sock):
            peer.ends = 2
            sock.send(frames(range(1, 4)))
            assert numbers_in(await received(sock, 1 << 20)) == [1, 2]  # until the half-close
            assert peer.phase == Phase.CLOSING
            sock.send(frames(range(4, 6)))  # discarded: it is read, so that no reset comes
            sock.shutdown(socket.SHUT_WR)
            await until(lambda: peer.phase == Phase.CLOSED)
            assert peer.seen == [1, 2]

    with runner:
        runner.run(run())


def test_finish_waits_for_the_answers_that_are_owed(runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with connected() as (peer, sock):
            peer.later = 1
            sock.send(frames(range(1, 3)))
            await until(lambda: peer.pending == 1)
            peer.finish()
            assert not peer.closing
            peer.answer_later()
            assert peer.phase == Phase.CLOSING
            assert numbers_in(await received(sock, 1 << 20)) == [1]
            assert peer.seen == [1]

    with runner:
        runner.run(run())


def test_who_does_not_read_is_not_read_from(runner: asyncio.Runner) -> None:
    """Until it has read: then every frame is handled, once."""

    async def run() -> None:
        async with connected() as (peer, sock):
            peer.answer_len = BIG
            numbers = range(1, 201)
            loop = asyncio.get_running_loop()
            sending = loop.create_task(loop.sock_sendall(sock, frames(numbers)))
            await until(lambda: peer.choked)
            assert peer.transport is not None
            assert not peer.transport.is_reading()
            handled = len(peer.seen)
            assert handled < len(numbers)
            assert len(await received(sock, BIG * len(numbers))) == BIG * len(numbers)
            await sending
            assert peer.seen == list(numbers)
            assert not peer.choked

    with runner:
        runner.run(run())


def test_nothing_is_handled_after_an_abort(runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with connected() as (peer, sock):
            sock.send(frames(range(1, 2)))
            await until(lambda: peer.seen == [1])
            peer.abort()
            assert peer.closing
            peer.data_received(frames(range(2, 3)))
            assert peer.seen == [1]
            await until(lambda: peer.phase == Phase.CLOSED)

    with runner:
        runner.run(run())


def test_a_peer_that_is_gone_is_noticed_by_who_writes(runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with connected() as (peer, sock):
            peer.later = 1
            sock.send(frames(range(1, 2)))
            await until(lambda: peer.pending == 1)
            reset(sock)  # while it is not read from
            peer.answer_later()
            await until(lambda: peer.phase == Phase.CLOSED)

    with runner:
        runner.run(run())


def test_a_reset_while_nothing_is_read_keeps_nobody_busy(runner: asyncio.Runner) -> None:
    """The epoll would report it again and again, though nobody looks for it."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        peer, pump = Peer(loop), Pump(loop)
        sock, accepted = connected_pair()
        pump.add(accepted, peer)
        peer.later = 1
        sock.send(frames(range(1, 2)))
        await until(lambda: peer.pending == 1)
        reset(sock)
        assert select.select([pump.fileno()], [], [], 0) == ([], [], [])
        peer.answer_later()
        await peer.gone.wait()
        pump.close()

    with runner:
        runner.run(run())


def test_what_cannot_be_handled_ends_its_connection_alone(runner: asyncio.Runner) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: told.append(context))
        async with connected() as (peer, sock), connected() as (other, other_sock):
            peer.fails = 2
            sock.send(frames(range(1, 4)))
            other_sock.send(frames(range(7, 9)))
            await until(lambda: peer.phase == Phase.CLOSED)
            assert numbers_in(await received(other_sock, 16)) == [7, 8]
            assert peer.seen == [1, 2]
            assert other.phase == Phase.OPEN
            assert [type(context["exception"]) for context in told] == [ZeroDivisionError]

    with runner:
        runner.run(run())


def test_all_is_sent_before_it_closes(runner: asyncio.Runner) -> None:
    """Though the peer reads late, and has said that it sends no more."""

    async def run() -> None:
        async with connected() as (peer, sock):
            peer.answer_len, count = BIG, 300  # more than the kernel takes
            sock.send(frames(range(1, count + 1)))
            sock.shutdown(socket.SHUT_WR)
            await until(lambda: peer.unsent > 0)
            assert len(await received(sock, 1 << 30)) == count * BIG
            await until(lambda: peer.phase == Phase.CLOSED)

    with runner:
        runner.run(run())


def test_long_and_short_pieces_wait_in_their_order(runner: asyncio.Runner) -> None:
    """What the kernel has not taken is kept in pieces, long ones as they are."""
    sizes = [8, 20, 70_000, 9, 16_384, 16_383, 200_000, 1, 5_000, 5_001, 65_536]

    async def run() -> None:
        async with connected() as (peer, sock):
            transport = peer.transport
            assert transport is not None
            sent, number = bytearray(), 0
            while peer.unsent < 1 << 20:
                for size in sizes:
                    number += 1
                    piece = number.to_bytes(4, "big") * (size // 4 + 1)
                    transport.write(piece)
                    sent += piece
            kept = transport.get_write_buffer_size()
            assert await received(sock, len(sent)) == sent
            assert kept < len(sent)
            await until(lambda: peer.unsent == 0)

    with runner:
        runner.run(run())


def test_many_connections_are_served_in_one_turn(runner: asyncio.Runner) -> None:
    """More of them than one turn looks at."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        pump, peers, socks = Pump(loop), list[Peer](), list[socket.socket]()
        for number in range(TURN_MAX + 20):
            sock, accepted = connected_pair()
            peers.append(Peer(loop))
            socks.append(sock)
            pump.add(accepted, peers[-1])
            sock.send(frames(range(number + 1, number + 2)))
        for number, sock in enumerate(socks):
            assert numbers_in(await received(sock, 8)) == [number + 1]
            sock.close()
        for peer in peers:
            await peer.gone.wait()
        pump.close()

    with runner:
        runner.run(run())


def test_how_long_a_slow_reader_may_take_for_what_is_left(runner: asyncio.Runner) -> None:
    """Of two that read nothing, the one that is given less time is closed first."""

    async def run() -> None:
        async with connected() as (patient, one), connected() as (impatient, other):
            for peer, sock in ((patient, one), (impatient, other)):
                peer.answer_len = BIG
                sock.send(frames(range(1, 301)))
            await until(lambda: patient.unsent > 0 and impatient.unsent > 0)
            patient.finish()
            impatient.finish(0.0)
            await impatient.gone.wait()
            assert patient.phase == Phase.CLOSING

    with runner:
        runner.run(run())

"""A worker's listeners, with real sockets: whom it accepts for, and what it does without room."""

import asyncio
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from libnet.pump import Pump
from libnet.sockets import listen
from libnet.transport import FrameProtocol
from server.worker import listeners
from server.worker.listeners import Listeners
from server.worker.memory import Memory
from server.worker.siblings import Siblings
from tests.helpers.region import small_region

WAIT_S = 30.0

# The first loop of a process opens descriptors that uvloop keeps.
uvloop.new_event_loop().close()


class Accepted(FrameProtocol):
    """A connection that was accepted."""

    def __init__(self, all_of_them: list["Accepted"]) -> None:
        super().__init__(asyncio.get_running_loop(), 0)
        all_of_them.append(self)
        self.gone = asyncio.Event()

    def lost(self) -> None:
        self.gone.set()


class House:
    """Listeners, and the one worker that is there, in slot 0."""

    def __init__(self, words: Any, hosts: list[int], listening: Listeners) -> None:
        self._words, self._hosts, self.listeners = words, hosts, listening
        self.accepted: list[Accepted] = []

    def host(self, slot: int, by: int) -> None:
        """The master's word: worker slot + 1, or 0."""
        self._words[self._hosts[slot]] = by
        self.listeners.host()


@contextmanager
def house(pump: Pump, sockets: list[socket.socket]) -> Iterator[House]:
    with small_region(workers=2) as region, ExitStack() as stack:
        accepted: list[Accepted] = []
        queues = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for sock in chain(*queues):
            stack.callback(sock.close)
        siblings = Siblings(region, 0, [sending for _, sending in queues], balances=True)
        listening = Listeners(
            region, 0, sockets, queues[0][0], siblings, pump, lambda _: Accepted(accepted),
            lambda sock: sock.close(), Memory(),
        )  # fmt: skip
        workers = region.layout["workers"]
        made = House(region.words, [workers.at(slot, "host") for slot in range(2)], listening)
        made.accepted = accepted
        made.host(0, 1)
        try:
            yield made
        finally:
            listening.close()
            for connection in accepted:
                connection.abort()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


def test_it_accepts_where_and_as_long_as_the_master_says_so() -> None:
    async def run() -> None:
        pump = Pump(asyncio.get_running_loop())
        sockets = [listen("127.0.0.1", 0) for _ in range(2)]
        addresses = [sock.getsockname() for sock in sockets]
        with house(pump, sockets) as one:
            clients = [socket.create_connection(address) for address in addresses]
            await until(lambda: len(one.accepted) == 1)
            one.host(1, 1)
            await until(lambda: len(one.accepted) == 2)
            one.host(1, 0)
            clients.append(socket.create_connection(addresses[1]))
            clients.append(socket.create_connection(addresses[0]))
            await until(lambda: len(one.accepted) == 3)
            one.host(1, 1)
            await until(lambda: len(one.accepted) == 4)
            for client in clients:
                client.close()
        for connection in one.accepted:
            await connection.gone.wait()
        for sock in sockets:
            sock.close()
        pump.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_without_a_descriptor_clients_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are accepted once there is one, and the log says what is missing."""
    monkeypatch.setattr(listeners, "RETRY_S", 0.01)

    async def run() -> None:
        pump = Pump(asyncio.get_running_loop())
        sock = listen("127.0.0.1", 0)
        client = socket.create_connection(sock.getsockname())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with house(pump, [sock]) as one, capture_logs() as logged:
            spare = sock.dup()
            lowest = spare.fileno()
            spare.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                await until(lambda: bool(logged))
                for _ in range(3):  # it has tried again by then
                    await asyncio.sleep(listeners.RETRY_S)
                assert not one.accepted
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: len(one.accepted) == 1)
            assert [line["event"] for line in logged] == ["not_accepting"]
            assert logged[0]["error"] == "Too many open files"
        client.close()
        await one.accepted[0].gone.wait()
        sock.close()
        pump.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_a_listener_that_is_shut_down_is_left_alone() -> None:
    """As the master does when the server stops: nothing crashes, and nothing spins."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        crashes: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: crashes.append(context))
        pump = Pump(loop)
        sock = listen("127.0.0.1", 0)
        other = sock.dup()
        with house(pump, [sock]) as one:
            other.shutdown(socket.SHUT_RDWR)
            await until(lambda: one.listeners.closed)
            one.host(0, 1)
        sock.close()
        other.close()
        pump.close()
        assert not crashes

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())

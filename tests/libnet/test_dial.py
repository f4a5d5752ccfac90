"""Connecting on an event loop, with real listeners: dead addresses, resolvers that hang, cancels.

Only the resolver's answers are set by the tests: they are those of the machine.
"""

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvloop

import libnet.dial
from libnet.dial import STAGGER_S, dial
from libnet.errors import ConnectFailed

TIMEOUT_S = 20.0
DEAD = "127.0.0.2"
ALIVE = "127.0.0.1"

uvloop.new_event_loop().close()  # the first one opens a pipe that stays

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on each kind of loop; what a loop is not told of by us is a failure."""

    def run_it(coroutine: Coroutine[Any, Any, None]) -> None:
        unhandled: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            runner.run(coroutine)
        assert unhandled == []

    return run_it


@contextmanager
def dead(host: str, port: int) -> Iterator[None]:
    """An address that does not answer: its listener's queue is full, so the kernel drops what comes
    next."""
    with ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server((host, port), backlog=0))
        address = listener.getsockname()
        for _ in range(16):
            sock = open_sockets.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
            poller = select.poll()
            poller.register(sock, select.POLLOUT)
            if not poller.poll(200):
                yield
                return
        pytest.fail("the kernel goes on accepting")


@contextmanager
def alive(backlog: int = 16) -> Iterator[int]:
    with socket.create_server((ALIVE, 0), backlog=backlog) as listener:
        yield listener.getsockname()[1]


def answer_with(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """The resolver knows these addresses of every name, in this order."""
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *args: Any, **options: Any) -> Any:
        if options.get("flags"):
            return real(host, port, *args, **options)
        return [found for each in hosts for found in real(each, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def soon(after_s: float = TIMEOUT_S) -> float:
    return asyncio.get_running_loop().time() + after_s


def test_an_address(run: Run) -> None:
    async def main(port: int) -> None:
        sock = await dial(ALIVE, port, soon())
        with sock:
            assert sock.getpeername() == (ALIVE, port)
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    with alive() as port:
        run(main(port))


def test_a_dead_first_address_costs_a_moment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, DEAD, ALIVE)

    async def main(port: int) -> None:
        began = time.monotonic()
        with await dial("server.test", port, soon()) as sock:
            assert sock.getpeername() == (ALIVE, port)
        assert STAGGER_S * 0.9 < time.monotonic() - began < TIMEOUT_S / 2

    with alive() as port, dead(DEAD, port):
        run(main(port))


def test_many_dead_addresses_are_within_the_one_deadline(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [f"127.0.0.{each}" for each in (2, 3, 4)]
    answer_with(monkeypatch, *hosts)

    async def main(port: int) -> None:
        began = time.monotonic()
        with pytest.raises(ConnectFailed, match=rf"server\.test port {port}: no answer in time"):
            await dial("server.test", port, soon(1.0))
        assert 0.9 < time.monotonic() - began < 1.0 + TIMEOUT_S / 2

    with alive() as port, ExitStack() as dead_ones:
        for host in hosts:
            dead_ones.enter_context(dead(host, port))
        run(main(port))


def test_an_address_that_refuses_does_not_delay_the_next(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, DEAD, ALIVE)  # nobody listens on the first

    async def main(port: int) -> None:
        with await dial("server.test", port, soon()) as sock:
            assert sock.getpeername() == (ALIVE, port)

    with alive() as port:
        run(main(port))


def test_a_resolver_that_hangs_delays_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the deadline nor the end of the loop, and it may answer after that."""
    go_on = threading.Event()
    real = socket.getaddrinfo

    def resolve(*args: Any, **options: Any) -> Any:
        if not options.get("flags"):
            assert go_on.wait(TIMEOUT_S)
        return real(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    async def main() -> None:
        with pytest.raises(ConnectFailed, match="no answer in time"):
            await dial("localhost", 1, soon(0.2))
        task = asyncio.create_task(dial("localhost", 1, soon()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    run(main())
    assert time.monotonic() - began < TIMEOUT_S / 2
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "tradechat-resolver":
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".b", "", "\x00", "ü..x"])
def test_a_host_that_cannot_be_resolved(run: Run, host: str) -> None:
    async def main() -> None:
        with pytest.raises(ConnectFailed, match="cannot connect to"):
            await dial(host, 9, soon())

    run(main())


def test_nobody_listens(run: Run) -> None:
    async def main(port: int) -> None:
        with pytest.raises(ConnectFailed, match=f"127.0.0.1 port {port}: Connection refused$"):
            await dial(ALIVE, port, soon())

    with socket.socket() as bound:
        bound.bind((ALIVE, 0))
        run(main(bound.getsockname()[1]))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("hosts", [(ALIVE,), (DEAD, ALIVE), (ALIVE, DEAD)])
def test_a_cancel_at_every_turn_leaves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...]
) -> None:
    """From before the first turn to after the last, as many as there are."""
    answer_with(monkeypatch, *hosts)
    monkeypatch.setattr(libnet.dial, "STAGGER_S", 0.001)
    cancelled: list[int] = []

    async def main(port: int) -> None:
        began = open_descriptors()
        for turns in range(1000):
            task = asyncio.create_task(dial("server.test", port, soon()))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                (await task).close()
            except asyncio.CancelledError:
                cancelled.append(turns)
            else:
                break
            await asyncio.sleep(0)
            assert open_descriptors() == began
        assert open_descriptors() == began

    with alive(4096) as port:
        run(main(port))
    assert 2 < len(cancelled) < 1000

"""What on_push and on_reconnect may do to a client: nothing. And clients that are forgotten."""

import asyncio
import gc
import os
import queue
import socket
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from client import AsyncClient, CallTimeout, Client, ConnectionLost, Push
from libproto.messages import Opcode, RoomGap
from tests.client.peer import (
    PASSWORD,
    USERNAME,
    WAIT_S,
    Wire,
    answer_any,
    push,
    serving,
    serving_everybody,
)
from tests.client.turns import until
from tests.helpers.server import wait_until
from tests.libnet.test_dial import ALIVE, DEAD, answer_with, dead

NewLoop = Callable[[], asyncio.AbstractEventLoop]


LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
PUSHES = [RoomGap(1, seq, seq) for seq in range(1, 11)]


def push_and_answer(wire: Wire) -> None:
    """Pushes, then an answer to whatever is asked."""
    wire.log_in()
    wire.send(*(push(Opcode.ROOM_GAP, *each) for each in PUSHES))
    while True:
        wire.send(answer_any(wire.request()))


# --- callbacks that do not return -------------------------------------------------------------


def test_an_on_push_that_does_not_return() -> None:
    """Answers go on; close says what it waits for, in its time, and the thread ends at last."""
    full: queue.Queue[Push] = queue.Queue(2)
    with serving_everybody(push_and_answer) as port:
        ann = Client(port=port, on_push=full.put)
        ann.connect()
        ann.login(USERNAME, PASSWORD)
        wait_until(full.full, "an on_push that waits")
        assert ann.balance() == (1, 1)
        began = time.monotonic()
        with pytest.raises(CallTimeout, match="on_push or on_reconnect has not returned"):
            ann.close(timeout_s=0.2)
        assert time.monotonic() - began < WAIT_S
        assert not ann.connected
        with pytest.raises(ConnectionLost, match="closed"):
            ann.balance()
        with pytest.raises(CallTimeout, match="on_push"):
            ann.connect(timeout_s=0.1)
        assert [full.get() for _ in range(3)] == PUSHES[:3]
        ann.close()
        assert full.empty()


def test_leaving_the_with_of_a_client_whose_callback_hangs() -> None:
    go_on = threading.Event()
    called = threading.Event()

    def on_push(_: Push) -> None:
        called.set()
        assert go_on.wait(WAIT_S)

    with serving_everybody(push_and_answer) as port:
        ann = Client(port=port, on_push=on_push)

        def body() -> None:
            with ann:
                ann.login(USERNAME, PASSWORD)
                assert called.wait(WAIT_S)
                ann.timeout_s = 0.1
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError) as caught:
            body()
        assert "on_push" in caught.value.__notes__[0]
        go_on.set()
        ann.close(timeout_s=WAIT_S)


def test_an_on_reconnect_that_does_not_return() -> None:
    go_on = threading.Event()
    told = threading.Event()

    def on_reconnect(_: Any) -> None:
        told.set()
        assert go_on.wait(WAIT_S)

    first = iter([True])

    def script(wire: Wire) -> None:
        if next(first, False):
            wire.log_in()
            wire.request()
        else:
            push_and_answer(wire)

    with (
        serving_everybody(script) as port,
        Client(port=port, on_reconnect=on_reconnect, reconnect=True) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        assert ann.balance() == (1, 1)
        assert told.wait(WAIT_S)
        assert ann.next_push() == PUSHES[0]
        go_on.set()
        ann.close()


@LOOPS
def test_an_async_on_push_is_awaited_and_does_not_delay_answers(new_loop: NewLoop) -> None:
    async def main(port: int) -> None:
        given: list[Push] = []
        go_on = asyncio.Event()

        async def on_push(each: Push) -> None:
            given.append(each)
            await go_on.wait()

        async with AsyncClient(port=port, on_push=on_push) as ann:
            await ann.login(USERNAME, PASSWORD)
            await until(lambda: bool(given))
            assert await ann.balance() == (1, 1)
            assert given == PUSHES[:1]
            go_on.set()
            await until(lambda: len(given) >= len(PUSHES))
            assert given == PUSHES

    with (
        serving_everybody(push_and_answer) as port,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        runner.run(main(port))


@LOOPS
def test_an_async_on_push_that_cannot_be_cancelled(new_loop: NewLoop) -> None:
    async def main(port: int) -> None:
        go_on = asyncio.Event()
        called = asyncio.Event()

        async def on_push(_: Push) -> None:
            called.set()
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    continue

        ann = AsyncClient(port=port, on_push=on_push)
        await ann.connect()
        await ann.login(USERNAME, PASSWORD)
        await called.wait()
        with pytest.raises(CallTimeout, match="on_push or on_reconnect was cancelled"):
            await ann.close(timeout_s=0.1)
        assert not ann.connected
        go_on.set()
        await ann.close()

    with (
        serving_everybody(push_and_answer) as port,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        runner.run(main(port))


@LOOPS
def test_an_async_on_push_that_waits_for_a_task_that_was_cancelled(new_loop: NewLoop) -> None:
    """It failed, as with any other exception: no push after it is lost without a word."""

    async def main(port: int) -> None:
        said: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: said.append(what))

        async def on_push(_: Push) -> None:
            waited = asyncio.get_running_loop().create_task(asyncio.Event().wait())
            waited.cancel()
            await waited

        async with AsyncClient(port=port, on_push=on_push) as ann:
            await ann.login(USERNAME, PASSWORD)
            await until(lambda: bool(said))
            assert isinstance(said[0]["exception"], asyncio.CancelledError)
            with pytest.raises(ConnectionLost, match="on_push raised CancelledError"):
                await ann.balance()

    with (
        serving_everybody(push_and_answer) as port,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        runner.run(main(port))


# --- clients that are forgotten ---------------------------------------------------------------


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("tradechat")]


def unclosed(caught: list[warnings.WarningMessage]) -> list[warnings.WarningMessage]:
    """The warnings of clients; one whose callback runs just now is forgotten a moment later."""
    found = [each for each in caught if "unclosed client" in str(each.message)]
    assert all(each.category is ResourceWarning for each in found)
    return found


class Bot:
    """A program whose client's callback belongs to it: a circle."""

    def __init__(self, port: int) -> None:
        self.client = Client(port=port, on_push=self.on_push, reconnect=True)
        self.client.connect()
        self.client.login(USERNAME, PASSWORD)

    def on_push(self, _: Push) -> None: ...


@pytest.mark.parametrize("kind", ["client", "bot"])
def test_forgotten_clients_are_ended_and_warned_of(kind: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with serving_everybody(push_and_answer) as port:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(30):
                if kind == "bot":
                    Bot(port)
                else:
                    Client(port=port).connect()
            wait_until(lambda: gc.collect() is not None and len(unclosed(caught)) == 30, "warnings")
        wait_until(lambda: not threads(), "the end of all threads")
    assert len(os.listdir("/proc/self/fd")) == before


@LOOPS
def test_forgotten_asyncio_clients_are_ended_and_warned_of(new_loop: NewLoop) -> None:
    ended = threading.Semaphore(0)

    def script(wire: Wire) -> None:
        wire.log_in()
        wire.wait_closed()
        ended.release()

    def all_are_told() -> bool:
        gc.collect()
        return len(unclosed(caught)) >= 30

    async def main(port: int) -> None:
        for _ in range(30):
            ann = AsyncClient(port=port, reconnect=True, on_push=lambda _: None)
            await ann.connect()
            await ann.login(USERNAME, PASSWORD)
        del ann
        await until(all_are_told)
        for _ in range(30):
            assert await asyncio.to_thread(ended.acquire, timeout=WAIT_S)

    with serving_everybody(script) as port, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main(port))
    assert len(unclosed(caught)) == 30


def test_a_client_that_was_closed_or_lost_is_not_warned_of() -> None:
    def gone(wire: Wire) -> None:
        wire.log_in()

    with serving(gone, gone) as port, warnings.catch_warnings():
        warnings.simplefilter("error")
        with Client(port=port) as ann:
            ann.login(USERNAME, PASSWORD)
        bob = Client(port=port)
        bob.connect()
        bob.login(USERNAME, PASSWORD)
        wait_until(lambda: not threads(), "the end of the connection")
        del ann, bob
        gc.collect()


# --- connecting by name -----------------------------------------------------------------------


def test_a_host_with_a_dead_first_address(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, DEAD, ALIVE)
    with serving_everybody(push_and_answer) as port, dead(DEAD, port):
        with Client("server.test", port, encrypt="off") as ann:
            ann.login(USERNAME, PASSWORD)
            assert ann.balance() == (1, 1)

        async def main() -> None:
            async with AsyncClient("server.test", port, encrypt="off") as bob:
                await bob.login(USERNAME, PASSWORD)
                assert await bob.balance() == (1, 1)

        asyncio.run(main())


def test_a_resolver_that_hangs_is_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    real = socket.getaddrinfo

    def resolve(*args: Any, **options: Any) -> Any:
        if not options.get("flags"):
            assert go_on.wait(WAIT_S)
        return real(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    began = time.monotonic()
    with pytest.raises(ConnectionLost, match="cannot connect to localhost port 1: no answer"):
        Client("localhost", 1).connect(timeout_s=0.2)
    with pytest.raises(ConnectionLost, match="cannot connect to localhost port 1: no answer"):
        asyncio.run(AsyncClient("localhost", 1).connect(timeout_s=0.2))
    assert time.monotonic() - began < WAIT_S
    go_on.set()
    wait_until(lambda: not threads(), "the end of the resolvers")

"""The asyncio client and its event loop: a closed one, another one, and cancels at every turn.

"At every turn": the call is made again and again, and cancelled at its next suspension each time,
until it is over before its cancel. So none of them is left out.
"""

import asyncio
import asyncio.proactor_events
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import uvloop

from client import AsyncClient, ConnectionLost, WrongPlace
from libproto.errors import MisuseError
from libproto.messages import Opcode, State
from tests.client.peer import (
    PASSWORD,
    USERNAME,
    WAIT_S,
    Wire,
    answer,
    answer_all,
    open_descriptors,
    serving,
    serving_everybody,
)
from tests.client.turns import turn, until

NewLoop = Callable[[], asyncio.AbstractEventLoop]


LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
TURNS_MAX = 500


async def log_in(port: int, **options: Any) -> AsyncClient:
    client = AsyncClient(port=port, **options)
    await client.connect()
    await client.login(USERNAME, PASSWORD)
    return client


def in_loop(new_loop: NewLoop, awaitable: Awaitable[Any]) -> Any:
    """Run it in a loop that is closed afterwards."""

    async def main() -> Any:
        return await awaitable

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


# --- a loop that was closed -------------------------------------------------------------------


@LOOPS
@pytest.mark.parametrize("reconnect", [False, True])
def test_a_loop_that_was_closed(new_loop: NewLoop, reconnect: bool) -> None:
    async def use(client: AsyncClient) -> None:
        assert not client.connected
        for call in (client.balance, client.next_push, lambda: anext(client.pushes())):
            with pytest.raises(ConnectionLost, match="event loop"):
                await call()
        await client.connect(timeout_s=WAIT_S)
        await client.login(USERNAME, PASSWORD)
        assert await client.balance() == (1, 1)
        await client.close()

    with serving_everybody(answer_all) as port:
        began = time.monotonic()
        in_loop(new_loop, use(in_loop(new_loop, log_in(port, reconnect=reconnect))))
        assert time.monotonic() - began < WAIT_S


@LOOPS
@pytest.mark.parametrize("then", ["close", "connect"])
def test_close_and_connect_drop_what_belonged_to_a_closed_loop(
    new_loop: NewLoop, then: str
) -> None:
    """The server sees the end of it, and no descriptor is left."""
    closed = threading.Event()

    def script(wire: Wire) -> None:
        with suppress(EOFError):
            wire.log_in()
            wire.wait_closed()
        closed.set()

    async def use(client: AsyncClient) -> None:
        await getattr(client, then)(timeout_s=WAIT_S)
        assert await asyncio.to_thread(closed.wait, WAIT_S)
        await client.close()

    with serving_everybody(script) as port:
        in_loop(new_loop, use(in_loop(new_loop, log_in(port))))


@LOOPS
def test_calls_under_way_when_their_loop_is_closed(new_loop: NewLoop) -> None:
    """They end with their loop; the next loop has nothing of them."""

    first = iter([True])

    def script(wire: Wire) -> None:
        if next(first, False):
            wire.log_in()
            wire.wait_closed()
        else:
            answer_all(wire)

    async def begin(port: int) -> tuple[AsyncClient, list[asyncio.Task[Any]]]:
        client = await log_in(port)
        tasks = [asyncio.create_task(client.deposit(1)), asyncio.create_task(client.next_push())]
        for _ in range(5):
            await turn()
        return client, tasks

    async def go_on(client: AsyncClient) -> None:
        await client.connect()
        await client.login(USERNAME, PASSWORD)
        assert await client.balance() == (1, 1)
        await client.close()

    with serving_everybody(script) as port:
        client, tasks = in_loop(new_loop, begin(port))
        assert all(task.cancelled() for task in tasks)
        in_loop(new_loop, go_on(client))


# --- another loop -----------------------------------------------------------------------------


@LOOPS
def test_a_loop_that_is_not_the_clients(new_loop: NewLoop) -> None:
    """Calls are refused before anything is sent; close ends the connection there."""

    async def elsewhere(client: AsyncClient) -> None:
        for call in (client.balance, client.next_push):
            with pytest.raises(MisuseError, match="another event loop"):
                await call()
        await client.close()

    async def main(port: int) -> None:
        client = await log_in(port)
        await asyncio.to_thread(in_loop, new_loop, elsewhere(client))
        await until(lambda: not client.connected)
        await client.connect()
        await client.close()

    with serving_everybody(answer_all) as port:
        in_loop(new_loop, main(port))


# --- cancels ----------------------------------------------------------------------------------


class CancelAt:
    """Awaits something, and cancels that at its nth suspension: at once or, if `late`, in the very
    turn in which it would go on."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], nth: int, late: bool) -> None:
        self._inner = coroutine.__await__()
        self._nth = nth
        self._late = late

    def _cancel(self, waiting_for: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._late and waiting_for is not None:
            waiting_for.add_done_callback(lambda _: task.cancel())
        else:
            asyncio.get_running_loop().call_soon(task.cancel)

    def __await__(self) -> Generator[Any, Any, Any]:
        step, suspensions = partial(next, self._inner), 0
        while True:
            try:
                waiting_for = step()
            except StopIteration as done:
                return done.value
            if suspensions == self._nth:
                self._cancel(waiting_for)
            suspensions += 1
            try:
                step = partial(self._inner.send, (yield waiting_for))
            except BaseException as error:  # noqa: BLE001 - it is for who is awaited
                step = partial(self._inner.throw, error)


async def cancelled_at(nth: int, late: bool, coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Whether it was cancelled; False if it was over before."""

    async def main() -> None:
        await CancelAt(coroutine, nth, late)

    try:
        await asyncio.create_task(main())
    except asyncio.CancelledError:
        return True
    return False


WAYS = pytest.mark.parametrize("late", [False, True], ids=["waiting", "going on"])


async def no_more_than(before: dict[str, str]) -> None:
    """As many descriptors as before; those of the peer's and of resolvers end a moment later."""
    with suppress(TimeoutError):
        await until(lambda: len(open_descriptors()) <= len(before))
    now = open_descriptors()
    more = sorted(now.items() - before.items())
    assert len(now) <= len(before), f"{len(now)} instead of {len(before)}: {more} are new"


@LOOPS
@WAYS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_cancel_at_every_turn_of_connect(new_loop: NewLoop, late: bool, host: str) -> None:
    async def main(port: int) -> None:
        client = AsyncClient(host, port)
        before = open_descriptors()
        for turns in range(TURNS_MAX):
            if not await cancelled_at(turns, late, client.connect()):
                break
            assert not client.connected
            await no_more_than(before)
        assert 0 < turns < TURNS_MAX - 1
        await client.login(USERNAME, PASSWORD)
        assert await client.balance() == (1, 1)
        await client.close()
        await no_more_than(before)

    with serving_everybody(answer_all) as port:
        in_loop(new_loop, main(port))


@LOOPS
def test_a_connect_that_times_out_at_any_moment(new_loop: NewLoop) -> None:
    async def main(port: int) -> None:
        client = AsyncClient(port=port)
        for timeout_us in range(0, 2000, 20):
            with suppress(ConnectionLost):
                await client.connect(timeout_s=timeout_us / 1e6)
                await client.close()
            assert not client.connected
        await client.connect()
        await client.login(USERNAME, PASSWORD)
        await client.close()

    with serving_everybody(answer_all) as port:
        in_loop(new_loop, main(port))


@LOOPS
@WAYS
def test_a_cancel_at_every_turn_of_login(new_loop: NewLoop, late: bool) -> None:
    async def main(port: int) -> None:
        client = AsyncClient(port=port)
        for turns in range(TURNS_MAX):
            await client.connect()
            was_cancelled = await cancelled_at(turns, late, client.login(USERNAME, PASSWORD))
            await client.close()
            if not was_cancelled:
                break
        assert 0 < turns < TURNS_MAX - 1
        await client.connect()
        await client.login(USERNAME, PASSWORD)
        assert await client.balance() == (1, 1)
        await client.close()

    with serving_everybody(answer_all) as port:
        in_loop(new_loop, main(port))


@LOOPS
@pytest.mark.parametrize("how", ["close", "cancel"])
def test_the_end_at_every_turn_of_reconnecting(new_loop: NewLoop, how: str) -> None:
    """By close, and by a program that cancels all tasks, as the end of asyncio.run() does."""

    def script(wire: Wire) -> None:
        wire.log_in()
        assert wire.request().opcode == Opcode.BALANCE  # and go

    async def main(port: int) -> None:
        client = AsyncClient(port=port, reconnect=True)
        for turns in range(40):
            await client.connect()
            await client.login(USERNAME, PASSWORD)
            task = asyncio.create_task(client.balance())
            await until(lambda: client.reconnecting)
            for _ in range(turns):
                await turn()
            if how == "cancel":
                for each in asyncio.all_tasks() - {asyncio.current_task()}:
                    each.cancel()
            await client.close()
            assert (client.connected, client.state) == (False, State.CONNECTED)
            with pytest.raises((ConnectionLost, asyncio.CancelledError)):
                await task

    with serving_everybody(script) as port:
        in_loop(new_loop, main(port))


@LOOPS
def test_a_reconnection_that_was_cancelled_is_told(new_loop: NewLoop) -> None:
    async def main(port: int) -> None:
        client = AsyncClient(port=port, reconnect=True)
        await client.connect()
        await client.login(USERNAME, PASSWORD)
        going.set()
        await until(lambda: client.reconnecting)
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        with pytest.raises(ConnectionLost, match="reconnecting was cancelled"):
            await client.balance()
        await client.connect()
        await client.login(USERNAME, PASSWORD)
        assert client.connected
        await client.close()

    going = threading.Event()
    first = iter([True])

    def script(wire: Wire) -> None:
        is_first = next(first, False)
        wire.log_in()
        if is_first:
            assert going.wait(WAIT_S)
        else:
            wire.wait_closed()

    with serving_everybody(script) as port:
        in_loop(new_loop, main(port))


@LOOPS
def test_close_ends_a_connect_under_way(new_loop: NewLoop) -> None:
    async def main(port: int) -> None:
        client = AsyncClient("no-such-host.invalid", port)
        task = asyncio.create_task(client.connect(timeout_s=WAIT_S))
        await turn()
        with pytest.raises(MisuseError, match="being connected"):
            await client.connect()
        await client.close()
        with pytest.raises(ConnectionLost):
            await task

    in_loop(new_loop, main(1))


@LOOPS
def test_after_a_connect_that_failed_nothing_waits(new_loop: NewLoop) -> None:
    """For a push that cannot come."""

    async def main() -> None:
        client = AsyncClient("no-such-host.invalid", 1)
        assert await cancelled_at(0, False, client.connect())
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                await client.next_push(timeout_s=1e6)
            with pytest.raises(ConnectionLost):
                await anext(client.pushes())
            with pytest.raises(ConnectionLost):
                await client.connect()

    in_loop(new_loop, main())


@LOOPS
def test_a_call_that_is_cancelled_before_it_is_sent_is_not_sent(new_loop: NewLoop) -> None:
    read_on = threading.Event()
    opcodes: list[int] = []

    def script(wire: Wire) -> None:
        wire.log_in()
        assert read_on.wait(WAIT_S)
        while True:
            request = wire.request()
            opcodes.append(request.opcode)
            found = (1, USERNAME, 1, 0) if request.opcode == Opcode.USER_LOOKUP else (1, 1)
            wire.send(answer(request, *found))

    async def main(port: int) -> None:
        client = await log_in(port)
        asked = []
        assert client._session is not None
        connection: Any = client._session.connection
        while not connection._link.full:
            asked.append(asyncio.create_task(client.lookup("x" * 60_000)))
            await turn()
            await turn()
        deposits = [asyncio.create_task(client.deposit(1)) for _ in range(3)]
        await turn()
        for task in deposits[:2]:
            task.cancel()
        await turn()
        read_on.set()
        await asyncio.gather(*asked, deposits[2])
        assert opcodes.count(Opcode.DEPOSIT) == 1
        assert client._core.unanswered_req_ids == ()
        await client.close()

    with serving_everybody(script) as port:
        in_loop(new_loop, main(port))


# --- a loop that cannot watch descriptors -----------------------------------------------------


class WithoutReaders(asyncio.SelectorEventLoop):
    """A loop that does everything but watch descriptors, as the one of Windows."""

    add_reader = asyncio.AbstractEventLoop.add_reader
    add_writer = asyncio.AbstractEventLoop.add_writer


def test_a_loop_that_cannot_watch_descriptors_is_refused() -> None:
    """Before anything is sent; the client can be used on another loop after that."""
    of_windows = asyncio.proactor_events.BaseProactorEventLoop
    assert of_windows.add_reader is WithoutReaders.add_reader

    def script(wire: Wire) -> None:
        wire.log_in()
        assert wire.wait_closed() == []

    with serving(script) as port:
        made = AsyncClient(port=port)

        async def main() -> None:
            async with made:
                await made.login(USERNAME, PASSWORD)

        with (
            asyncio.Runner(loop_factory=WithoutReaders) as runner,
            pytest.raises(WrongPlace, match="WithoutReaders cannot watch sockets"),
        ):
            runner.run(main())
        assert not made.connected
        asyncio.run(main())

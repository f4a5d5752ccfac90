"""Several threads, tasks and loops: what is safe, and what is refused with a clear error."""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from client import AsyncClient, Client, ClientError, MisuseError, WrongPlace
from client.core.turns import Turns
from tests.client.peer import PASSWORD, USERNAME, Handshake, Wire, serving
from tests.helpers.server import RunningServer

THREADS = 8


def at_once(call: Callable[[int], object]) -> list[object]:
    """What it gives or raises in each of several threads that begin at the same moment."""
    ready = threading.Barrier(THREADS)

    def run(number: int) -> object:
        ready.wait()
        try:
            return call(number)
        except ClientError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def test_one_thread_logs_in_and_the_others_are_told(shared: RunningServer) -> None:
    with Client(port=shared.port) as client:
        done = at_once(lambda _: client.login("alice", PASSWORD))
        assert sum(not isinstance(each, ClientError) for each in done) == 1
        for each in done:
            if isinstance(each, ClientError):
                assert isinstance(each, MisuseError)
                assert "one at a time" in str(each) or "already logged in" in str(each)
        assert client.username == "alice"
        assert client.lookup("alice").user_id == client.user_id


def test_one_thread_connects_and_the_others_are_told(shared: RunningServer) -> None:
    client = Client(port=shared.port, username="alice", password=PASSWORD)
    for _ in range(5):
        before = threading.active_count()
        done = at_once(lambda _: client.connect())
        assert sum(each is None for each in done) == 1
        for each in done:
            assert each is None or isinstance(each, MisuseError), each
        assert client.balance().last_txn_id >= 0
        assert threading.active_count() == before + 1
        client.close()


def test_every_thread_gets_its_own_answers(shared: RunningServer) -> None:
    """Of a client that all of them use, with the interpreter changing threads all the time."""
    names = ("alice", "bob", "carol")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with Client(port=shared.port, username="alice", password=PASSWORD) as client:
            ids = {name: client.lookup(name).user_id for name in names}

            def ask(number: int) -> int:
                for count in range(20):
                    name = names[(number + count) % 3]
                    assert client.lookup(name).user_id == ids[name]
                    assert client.user_name(ids[name]).username == name
                    receipt = client.deposit(number + 1)
                    assert client.retry(receipt.req_id) == receipt._replace(recorded=True)
                return number

            before = client.balance().balance
            assert at_once(ask) == list(range(THREADS))
            added = 20 * sum(range(1, THREADS + 1))
            assert client.balance().balance == before + added
            amounts = Counter(txn.amount for txn in client.iter_transactions())
            assert all(amounts[number + 1] >= 20 for number in range(THREADS))
    finally:
        sys.setswitchinterval(interval)


def test_tasks_log_in_one_at_a_time(shared: RunningServer) -> None:
    async def main() -> None:
        async with AsyncClient(port=shared.port) as client:
            calls = (client.login("alice", PASSWORD) for _ in range(5))
            first, *others = await asyncio.gather(*calls, return_exceptions=True)
            assert not isinstance(first, BaseException)
            assert {type(each) for each in others} == {MisuseError}
            assert all("one at a time" in str(each) for each in others)

    asyncio.run(main())


def test_a_login_that_was_given_up_is_no_obstacle() -> None:
    """Whether it timed out or was cancelled."""
    asked = threading.Event()

    def deaf(wire: Wire) -> None:
        wire.request()
        asked.set()
        wire.wait_closed()

    def good(wire: Wire) -> None:
        wire.log_in()
        wire.wait_closed()

    with serving(deaf, good) as port:
        client = Client(port=port)
        client.connect()
        with pytest.raises(TimeoutError):
            client.login(USERNAME, PASSWORD, timeout_s=0.05)
        client.close()
        with client:
            client.login(USERNAME, PASSWORD)

    async def main(port: int) -> None:
        client = AsyncClient(port=port, username=USERNAME, password=PASSWORD)
        connecting = asyncio.create_task(client.connect())
        await asyncio.to_thread(asked.wait)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        async with client:
            assert client.username == USERNAME

    asked.clear()
    with serving(deaf, good) as port:
        asyncio.run(main(port))


def test_another_loop_is_refused(shared: RunningServer) -> None:
    """In another thread; and nothing has happened to the client."""

    async def main() -> None:
        async with AsyncClient(port=shared.port, username="alice", password=PASSWORD) as client:
            calls: list[Callable[[], Any]] = [
                client.balance,
                lambda: client.deposit(5),
                lambda: client.join(1),
                lambda: client.next_push(1),
                lambda: client.login("alice", PASSWORD),
                lambda: anext(client.iter_rooms()),
            ]
            before = await client.balance()

            async def elsewhere(call: Callable[[], Any]) -> None:
                with pytest.raises((WrongPlace, MisuseError), match=r"event loop|already"):
                    await call()

            for call in calls:
                await asyncio.to_thread(asyncio.run, elsewhere(call))
            assert await client.balance() == before
            assert client.unanswered == ()

    asyncio.run(main())


def test_turns_that_are_lost_do_not_count() -> None:
    """As when an interrupt takes a turn away before it is over."""
    turns = Turns("busy")
    with turns.take():
        with pytest.raises(MisuseError, match="busy"), turns.take():
            pytest.fail("two at a time")
        with pytest.raises(MisuseError, match="busy"), turns.take():
            pytest.fail("two at a time")
    taken = turns.take()
    taken.__enter__()
    del taken  # never left
    with turns.take():
        pass


def test_a_handshake_is_answered_once() -> None:
    """Of two logins at once, one HELLO is sent."""

    def script(wire: Wire) -> None:
        handshake = Handshake()
        wire.send(handshake.respond(wire.request()))
        wire.send(handshake.respond(wire.request()))
        assert wire.wait_closed() == []

    with serving(script) as port, Client(port=port) as client:
        done = at_once(lambda _: client.login(USERNAME, PASSWORD))
        assert sum(not isinstance(each, ClientError) for each in done) == 1

"""Calls that are cancelled or time out at any moment: no later call gets another's answer, and of
every payment it can be found out whether it was made. With a real server."""

import asyncio
import itertools
import random
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from client import AsyncClient, CallTimeout, ChatBroadcast, Client, Receipt, UserLookupResponse
from client.core.gaps import Found
from tests.client.conftest import LoopFactory, register
from tests.client.peer import PASSWORD
from tests.client.turns import turn
from tests.helpers.server import RunningServer

NAMES = ("alice", "bob", "carol")
ROOM = 3
EVENTS = 40  # in the room, at least
PENDING_MAX = 20
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a room in which something was said."""
    made = RunningServer(tmp_path_factory.mktemp("busy") / "data", "--scram-iterations", "4096")
    with made:
        register(made, *NAMES)
        with Client(port=made.port, username="alice", password=PASSWORD) as alice:
            alice.join(ROOM)
            for number in range(EVENTS):
                alice.send(ROOM, str(number))
        yield made
    assert made.process.returncode == 0, made.log_text()


class Asked(NamedTuple):
    """A call that was made, what its answer has to be like, and how much it moves (0: nothing)."""

    task: "asyncio.Task[Any]"
    check: Callable[[Any], None]
    amount: int


def _is_user(name: str, user_id: int) -> Callable[[Any], None]:
    def check(answer: Any) -> None:
        assert (answer.username, answer.user_id) == (name, user_id)

    return check


def _is_history(after: int, limit: int) -> Callable[[Any], None]:
    def check(answer: Any) -> None:
        assert answer.room_id == ROOM
        assert [event.room_seq for event in answer.events] == list(
            range(after + 1, after + 1 + limit)
        )

    return check


def _is_receipt(answer: Any) -> None:
    assert isinstance(answer, Receipt)


class Cancelling(RuleBasedStateMachine):
    """One client, whose calls are made, cancelled, timed out, and cut off, in any order."""

    port: int
    loop_factory: LoopFactory

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=type(self).loop_factory)
        self.name = f"user{next(_numbers)}"
        self.pending: list[Asked] = []
        self.made: dict[int, Receipt] = {}  # deposits whose outcome is known, by amount
        self.unknown: dict[int, int] = {}  # amounts by req_id
        self.not_made: set[int] = set()  # amounts of deposits that were not sent
        self.amounts = itertools.count(1)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        self.client = AsyncClient(port=self.port, reconnect=True, timeout_s=60)
        await self.client.connect()
        await self.client.register(self.name, PASSWORD)
        await self.client.login(self.name, PASSWORD)
        self.ids = {name: (await self.client.lookup(name)).user_id for name in NAMES}

    # ---- what happens

    @precondition(lambda self: len(self.pending) < PENDING_MAX)
    @rule(
        kind=st.sampled_from(["lookup", "user_name", "history", "deposit", "deposit"]),
        number=st.integers(0, 29),
        timeout_s=st.sampled_from([None, None, 0.0, 0.0001, 0.001, 0.003]),
    )
    def ask(self, kind: str, number: int, timeout_s: float | None) -> None:
        self.run(self._ask(kind, number, timeout_s))

    async def _ask(self, kind: str, number: int, timeout_s: float | None) -> None:
        name = NAMES[number % 3]
        client, amount = self.client, 0
        call: Awaitable[Any]
        if kind == "lookup":
            call, check = client.lookup(name, timeout_s=timeout_s), _is_user(name, self.ids[name])
        elif kind == "user_name":
            check = _is_user(name, self.ids[name])
            call = client.user_name(self.ids[name], timeout_s=timeout_s)
        elif kind == "history":
            limit = 1 + number % 9
            call, check = (
                client.history(ROOM, number, limit, timeout_s=timeout_s),
                _is_history(number, limit),
            )
        else:
            amount, check = next(self.amounts), _is_receipt
            call = client.deposit(amount, timeout_s=timeout_s)
        self.pending.append(Asked(asyncio.ensure_future(call), check, amount))

    @rule(turns=st.integers(0, 30))
    def let_the_loop_turn(self, turns: int) -> None:
        self.run(self._turn(turns))

    async def _turn(self, turns: int) -> None:
        for _ in range(turns):
            await turn()

    @precondition(lambda self: self.pending)
    @rule(which=st.integers(0, PENDING_MAX), turns=st.integers(0, 3))
    def cancel(self, which: int, turns: int) -> None:
        """One call; perhaps in the turn in which its answer comes."""
        self.run(self._cancel(self.pending.pop(which % len(self.pending)), turns))

    async def _cancel(self, asked: Asked, turns: int) -> None:
        await self._turn(turns)
        asked.task.cancel()
        await self._settle(asked)

    @precondition(lambda self: self.pending)
    @rule()
    def wait_for_the_first(self) -> None:
        self.run(self._settle(self.pending.pop(0)))

    @rule()
    def lose_the_connection(self) -> None:
        self.run(self._lose())

    async def _lose(self) -> None:
        link = self.client._session.connection._link if self.client._session else None
        if link is not None:
            with suppress(OSError):  # it is being closed already
                link._sock.shutdown(socket.SHUT_RDWR)

    # ---- what has to be

    async def _settle(self, asked: Asked) -> None:
        """An answer is the call's own; without one, it is known whether there will be any."""
        try:
            answer = await asked.task
        except (asyncio.CancelledError, CallTimeout) as error:
            if asked.amount:
                req_id = getattr(error, "req_id", 0)
                if req_id:
                    self.unknown[req_id] = asked.amount
                else:
                    self.not_made.add(asked.amount)
            return
        asked.check(answer)
        if asked.amount:
            self.made[asked.amount] = answer

    def teardown(self) -> None:
        try:
            self.run(self._end())
        finally:
            self.runner.close()

    async def _end(self) -> None:
        if not hasattr(self, "client"):
            return
        async with asyncio.timeout(60):
            try:
                for asked in self.pending:
                    await self._settle(asked)
                for name in NAMES:  # and the stream of answers is in step
                    _is_user(name, self.ids[name])(await self.client.lookup(name))
                await self._check_money()
            finally:
                await self.client.close()

    async def _check_money(self) -> None:
        client = self.client
        assert {each.req_id for each in client.unanswered} <= self.unknown.keys()
        for req_id, amount in self.unknown.items():
            outcome = await client.retry(req_id)
            assert isinstance(outcome, Receipt)
            self.made[amount] = outcome
        found = {txn.amount: txn async for txn in client.iter_transactions()}
        assert found.keys() == self.made.keys()
        assert not found.keys() & self.not_made
        for amount, receipt in self.made.items():
            txn = found[amount]
            assert (txn.txn_id, txn.balance) == (receipt.txn_id, receipt.balance)
            assert txn.req_id == receipt.req_id
        assert (await client.balance()).balance == sum(self.made)


@pytest.mark.parametrize(
    "factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_calls_that_are_cancelled_at_any_moment(busy: RunningServer, factory: LoopFactory) -> None:
    machine = type(
        "Machine", (Cancelling,), {"port": busy.port, "loop_factory": staticmethod(factory)}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


THREADS = 6


def test_calls_of_threads_that_time_out_at_any_moment(busy: RunningServer) -> None:
    """Of the blocking client."""
    register(busy, "threads")
    with Client(port=busy.port, username="threads", password=PASSWORD, timeout_s=60) as client:
        ids = {name: client.lookup(name).user_id for name in NAMES}

        def work(number: int) -> list[int]:
            """Amounts of deposits that were answered, or may have been made."""
            draw = random.Random(number)  # noqa: S311 - a test's
            amounts = []
            for count in range(60):
                timeout_s = draw.choice([None, 0.0, 0.0002, 0.001, 0.003])
                name = draw.choice(NAMES)
                amount = 1 + number + THREADS * count
                with suppress(CallTimeout):
                    found: UserLookupResponse = client.lookup(name, timeout_s=timeout_s)
                    _is_user(name, ids[name])(found)
                unknown = 0
                try:
                    client.deposit(amount, timeout_s=timeout_s)
                except CallTimeout as error:
                    if not error.req_id:
                        continue  # it was not sent
                    unknown = error.req_id
                if unknown:
                    receipt = client.retry(unknown)
                    assert isinstance(receipt, Receipt)
                    assert receipt.req_id == unknown
                amounts.append(amount)
            return amounts

        with ThreadPoolExecutor(THREADS) as pool:
            made = [amount for amounts in pool.map(work, range(THREADS)) for amount in amounts]
        found = [txn.amount for txn in client.iter_transactions()]
        assert sorted(found) == sorted(made)
        assert client.unanswered == ()
        assert client.balance().balance == sum(made)


def test_what_the_answers_are_compared_with_can_fail(busy: RunningServer) -> None:
    """The checks above refuse what is another call's answer."""
    with Client(port=busy.port, username="alice", password=PASSWORD) as alice:
        events: Found = list(alice.history(ROOM, 3, 2).events)
        assert all(isinstance(event, ChatBroadcast) for event in events)
        _is_history(3, 2)(alice.history(ROOM, 3, 2))
        for wrong in (alice.history(ROOM, 4, 2), alice.history(ROOM, 3, 3)):
            with pytest.raises(AssertionError):
                _is_history(3, 2)(wrong)
        with pytest.raises(AssertionError):
            _is_user("bob", 1)(alice.lookup("alice"))

"""No program pays twice, or is told OK for a payment that was not made: copies, forks, interrupts,
timeouts and cancelled calls, against a real server.
"""

import asyncio
import copy
import itertools
import json
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from client import (
    AsyncClient,
    CallTimeout,
    Client,
    ClientError,
    ClientIdTaken,
    ConnectionLost,
    MisuseError,
    Opcode,
    OutcomeUnknown,
    Receipt,
    ReqIdTaken,
    Unanswered,
    WrongPlace,
)
from client.io import connection
from libproto.messages import Flag
from tests.client.on_a_loop import OnALoop
from tests.client.peer import (
    PASSWORD,
    USERNAME,
    WAIT_S,
    Handshake,
    Wire,
    answer,
    serving,
    serving_everybody,
)
from tests.client.relay import Relay
from tests.helpers.server import RunningServer

SHORT_S = 0.2  # until a call is given up whose answer does not come


# --- copies and forks


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_cannot_be_copied(
    kind: type[Client | AsyncClient], duplicate: Callable[[Any], Any]
) -> None:
    with pytest.raises(WrongPlace, match="cannot be copied"):
        duplicate(kind())


def _in_child(function: Callable[[], Any]) -> Any:
    """What the function returns, or the name of what it raises, in a child of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            try:
                said = function()
            except ClientError as error:
                said = type(error).__name__
            os.write(writer, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return json.loads(text)


def test_every_process_has_a_client_id_of_its_own(server: RunningServer, ann: Client) -> None:
    client = Client(port=server.port)

    def pay_in() -> list[int]:
        with client:
            # Were it drawn before, the server would refuse all but one of the logins.
            assert client.client_id == 0
            client.login("ann", PASSWORD)
            return [client.deposit(100).txn_id, client.client_id]

    done = [_in_child(pay_in) for _ in range(4)]
    assert len({txn_id for txn_id, _ in done}) == 4
    assert len({client_id for _, client_id in done}) == 4
    assert ann.balance().balance == 1400


def test_a_child_has_no_use_of_the_client_of_its_parent(server: RunningServer, ann: Client) -> None:
    def in_child() -> Any:
        for call in (
            lambda: ann.deposit(1),
            ann.new_req_id,
            ann.connect,
            lambda: ann.retry(1),
            ann.next_push,
        ):
            with pytest.raises(WrongPlace, match="make a client in each process"):
                call()
        ann.close()  # which must not end the connection of the parent
        return "refused"

    assert _in_child(in_child) == "refused"
    assert ann.deposit(1).balance == 1001
    given = Client(port=server.port, client_id=77)
    assert _in_child(lambda: given.connect()) == "WrongPlace"


def test_a_number_that_is_used_twice_says_so(ann: Client) -> None:
    first = ann.deposit(5, req_id=100)
    assert first == Receipt(first.txn_id, 1005, 100, False)
    assert ann.deposit(5, req_id=100) == first._replace(recorded=True)
    with pytest.raises(MisuseError, match="req_id 100 belongs to another request"):
        ann.deposit(6, req_id=100)
    assert ann.deposit(1).req_id == 101
    assert ann.balance().balance == 1006


def test_an_outcome_of_somebody_else_is_an_error() -> None:
    """Two programs with one client_id: the second one's payment was not made."""

    def script(wire: Wire) -> None:
        wire.log_in(Handshake(login={"resumed": 1}))
        wire.send(answer(wire.request(), 7, 1000, flags=Flag.POSSIBLE_DUPLICATE))
        wire.wait_closed()

    with serving(script) as port, Client(port=port, client_id=5) as client:
        client.login(USERNAME, PASSWORD)
        with pytest.raises(ReqIdTaken, match="DEPOSIT was not executed") as caught:
            client.deposit(10)
        assert caught.value.req_id == 1
        assert client.unanswered == ()
        with pytest.raises(MisuseError, match="no request was made under req_id 1"):
            client.retry(1)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.usefixtures("ann")
def test_a_given_client_id_with_a_past_is_refused(server: RunningServer) -> None:
    with Client(port=server.port, client_id=77) as first:
        first.login("ann", PASSWORD)
        first.deposit(1)
        with (
            Client(port=server.port, client_id=77) as second,
            pytest.raises(ClientIdTaken, match="in use beyond req_id 0"),
        ):
            second.login("ann", PASSWORD)
        assert first.deposit(1).balance == 1002, "it was not superseded"


# --- calls that are given up


@contextmanager
def held_back(server: RunningServer) -> Iterator[Relay]:
    """A relay that passes requests on and keeps the answers, once it is paused."""
    with Relay(server.port) as relay:
        yield relay


def _check_once(client: Client | AsyncClient, req_id: int, payee: int) -> None:
    assert client.unanswered == (Unanswered(req_id, Opcode.TRANSFER, 100, payee),)


class Interrupted(Exception):
    """What a signal handler raises."""


def _interrupt(call: Callable[[], object], kind: type[BaseException]) -> BaseException:
    """What comes out of a call that a signal handler ends."""

    def handler(*_: object) -> None:
        raise kind

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, SHORT_S)
        with pytest.raises(kind) as caught:
            call()
        return caught.value
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("named", [False, True])
def test_an_interrupted_payment_is_made_once(
    server: RunningServer, ann: Client, bob: Client, kind: type[BaseException], named: bool
) -> None:
    with held_back(server) as relay, Client(port=relay.port) as client:
        client.login("ann", PASSWORD)
        req_id = client.new_req_id() if named else None
        relay.pause()
        error: Any = _interrupt(lambda: client.transfer(bob.user_id, 100, req_id=req_id), kind)
        assert error.req_id == (req_id or 1)
        assert f"retry({error.req_id})" in error.__notes__[0]
        _check_once(client, error.req_id, bob.user_id)
        relay.resume()
        first, second = client.retry(error.req_id), client.retry(error.req_id)
        assert first.recorded
        assert first == second
        assert client.unanswered == ()
    assert (ann.balance().balance, bob.balance().balance) == (900, 100)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.usefixtures("ann")
def test_a_call_that_timed_out_is_made_once(server: RunningServer, bob: Client) -> None:
    with held_back(server) as relay, Client(port=relay.port) as client:
        client.login("ann", PASSWORD)
        relay.pause()
        with pytest.raises(CallTimeout) as caught:
            client.transfer(bob.user_id, 100, timeout_s=SHORT_S)
        _check_once(client, caught.value.req_id, bob.user_id)
        relay.resume()
        client.balance()  # the late answer has come before this one
        _check_once(client, caught.value.req_id, bob.user_id)
        assert client.retry(caught.value.req_id).recorded
    assert bob.balance().balance == 100


async def _wait_for(client: AsyncClient, payee: int, req_id: int | None) -> None:
    await asyncio.wait_for(client.transfer(payee, 100, req_id=req_id), SHORT_S)


async def _timeout(client: AsyncClient, payee: int, req_id: int | None) -> None:
    async with asyncio.timeout(SHORT_S):
        await client.transfer(payee, 100, req_id=req_id)


async def _sibling(client: AsyncClient, payee: int, req_id: int | None) -> None:
    async def fail() -> None:
        await asyncio.sleep(SHORT_S)
        raise Interrupted

    async with asyncio.TaskGroup() as group:
        group.create_task(client.transfer(payee, 100, req_id=req_id))
        group.create_task(fail())


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("give_up", [_wait_for, _timeout, _sibling])
@pytest.mark.parametrize("named", [False, True])
def test_a_cancelled_payment_is_made_once(
    server: RunningServer, ann: Client, bob: Client, give_up: Callable[..., Any], named: bool
) -> None:
    async def run(relay: Relay) -> None:
        async with AsyncClient(port=relay.port) as client:
            await client.login("ann", PASSWORD)
            req_id = client.new_req_id() if named else None
            relay.pause()
            with pytest.raises((TimeoutError, ExceptionGroup)) as caught:
                await give_up(client, bob.user_id, req_id)
            if isinstance(caught.value, TimeoutError):
                cancelled: Any = caught.value.__cause__
                assert cancelled.req_id == (req_id or 1)
                assert "retry(1)" in cancelled.__notes__[0]
            _check_once(client, req_id or 1, bob.user_id)
            relay.resume()
            for each in client.unanswered:
                assert (await client.retry(each.req_id)).recorded
            assert client.unanswered == ()

    with held_back(server) as relay:
        asyncio.run(run(relay))
    assert (ann.balance().balance, bob.balance().balance) == (900, 100)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.usefixtures("bob")
def test_a_retry_executes_what_was_refused_unseen(server: RunningServer, ann: Client) -> None:
    """A transfer refused for lack of funds whose answer was late; then there are funds."""
    with held_back(server) as relay, Client(port=relay.port) as client:
        client.login("bob", PASSWORD)
        relay.pause()
        with pytest.raises(CallTimeout) as caught:
            client.transfer(ann.user_id, 100, timeout_s=SHORT_S)
        relay.resume()
        client.deposit(500)
        done = client.retry(caught.value.req_id)
        assert isinstance(done, Receipt)
        assert (done.recorded, done.balance) == (False, 400)
        assert client.retry(caught.value.req_id) == done._replace(recorded=True)
    assert ann.balance().balance == 1100


@pytest.mark.usefixtures("both_ways")
@pytest.mark.usefixtures("ann")
def test_what_is_lost_with_the_connection_is_retried_on_the_next(
    server: RunningServer, bob: Client
) -> None:
    with held_back(server) as relay, Client(port=relay.port) as client:
        client.login("ann", PASSWORD)
        relay.pause()
        with pytest.raises(CallTimeout):
            client.transfer(bob.user_id, 100, timeout_s=SHORT_S)
        client.close()
        client.port = server.port
        client.connect()
        client.login("ann", PASSWORD)
        [each] = client.unanswered
        assert client.retry(each.req_id).recorded
    assert bob.balance().balance == 100


@pytest.mark.usefixtures("both_ways")
@pytest.mark.usefixtures("ann")
def test_numbers_of_another_user_are_not_sent(server: RunningServer, bob: Client) -> None:
    with Client(port=server.port) as client:
        client.login("ann", PASSWORD)
        req_id = client.transfer(bob.user_id, 100).req_id
        client.logout()
        client.login("bob", PASSWORD)
        with pytest.raises(OutcomeUnknown, match="drawn for another user"):
            client.retry(req_id)
        assert client.deposit(1).req_id == req_id + 1
    assert bob.balance().balance == 101


@pytest.mark.usefixtures("both_ways")
def test_numbers_are_kept_before_they_are_used(server: RunningServer, ann: Client) -> None:
    kept: list[int] = []

    def keep(number: int) -> None:
        if len(kept) == 2:
            raise OSError("no space left")
        kept.append(number)

    with Client(port=server.port, client_id=9, next_req_id=40, keep_next_req_id=keep) as client:
        client.login("ann", PASSWORD)
        assert client.deposit(1).req_id == 40
        assert client.deposit(1, req_id=50).req_id == 50
        assert kept == [41, 51]
        with pytest.raises(OSError, match="no space"):
            client.deposit(1)
        assert client.next_req_id == 51
        assert client.unanswered == ()
    assert ann.balance().balance == 1002


# --- another loop


@pytest.mark.usefixtures("ann")
def test_a_call_from_another_loop_is_refused(server: RunningServer) -> None:
    async def elsewhere(client: AsyncClient) -> None:
        for call in (client.deposit(1), client.balance(), client.next_push()):
            with pytest.raises(WrongPlace, match="another event loop"):
                await call

    async def run() -> None:
        async with AsyncClient(port=server.port) as client:
            await client.login("ann", PASSWORD)
            await asyncio.to_thread(asyncio.run, elsewhere(client))
            assert client.unanswered == ()
            assert (await client.balance()).balance == 1000

    asyncio.run(run())


def test_a_login_that_was_given_up_ends_the_connection() -> None:
    """Its answer may come at any time, and until then nothing may be sent under its client_id."""

    def silent_after_hello(wire: Wire) -> None:
        wire.send(Handshake().respond(wire.request()))
        wire.request()
        wire.wait_closed()

    def usual(wire: Wire) -> None:
        wire.log_in()
        wire.wait_closed()

    with serving(silent_after_hello, usual) as port, Client(port=port) as client:
        with pytest.raises(CallTimeout, match="LOGIN got no answer"):
            client.login(USERNAME, PASSWORD, timeout_s=1.0)
        with pytest.raises(ConnectionLost, match="a login was given up before its answer"):
            client.login(USERNAME, PASSWORD)
        client.connect()
        assert client.login(USERNAME, PASSWORD).user_id == client.user_id


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_nothing_is_sent_while_the_server_may_carry_out_a_login_that_was_given_up(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Carried out after the next one, it would end that session, which has the same client_id."""
    monkeypatch.setattr(connection, "PART_S", WAIT_S)
    connections, again = itertools.count(1), threading.Event()

    def script(wire: Wire) -> None:
        if next(connections) > 1:
            again.set()
            wire.log_in()
        else:
            wire.send(Handshake().respond(wire.request()))
            wire.request()
            assert wire.wait_closed() == []  # it sends no more
            assert not again.wait(SHORT_S), "the LOGIN may still be carried out"
        wire.wait_closed()

    with serving_everybody(script) as port, _client(kind, port) as client:
        with pytest.raises(CallTimeout, match="LOGIN got no answer"):
            client.login(USERNAME, PASSWORD, timeout_s=1.0)
        client.connect()
        assert client.login(USERNAME, PASSWORD).user_id == client.user_id


def test_a_server_that_does_not_close_after_a_login_that_was_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "PART_S", SHORT_S)
    connections, done = itertools.count(1), threading.Event()

    def script(wire: Wire) -> None:
        if next(connections) > 1:
            wire.log_in()
            wire.wait_closed()
        else:
            wire.send(Handshake().respond(wire.request()))
            wire.request()
            assert done.wait(WAIT_S)

    with serving_everybody(script) as port, Client(port=port) as client:
        with pytest.raises(CallTimeout, match="LOGIN got no answer"):
            client.login(USERNAME, PASSWORD, timeout_s=1.0)
        client.connect()
        assert client.login(USERNAME, PASSWORD).user_id == client.user_id
        done.set()


def _client(kind: str, port: int) -> Any:
    return Client(port=port) if kind == "blocking" else OnALoop(asyncio.new_event_loop, port=port)

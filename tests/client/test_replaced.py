"""What a login finds that is not as it was left: another log, a client_id that is not taken any
more, a client record that was given away. Against real servers, which are really replaced."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from client import (
    CallTimeout,
    Client,
    ClientIdTaken,
    ConnectionLost,
    EventKind,
    LogReplaced,
    OutcomesUnknown,
    OutcomeUnknown,
    ReloginFailed,
    RoomRestarted,
    ServerBusy,
    Unanswered,
)
from libproto.messages import Opcode
from tests.client.conftest import Make, register
from tests.client.meddler import Meddler
from tests.client.peer import WAIT_S
from tests.client.relay import Relay
from tests.client.test_blocking import in_thread
from tests.helpers import wire
from tests.helpers.server import RunningServer, StartServer, lasting_port, wait_until
from tests.helpers.wire import PASSWORD

ROOM = 3
SHORT_S = 0.2  # until a call is given up whose answer does not come
SMALL = ("--clients", "2", "--client-retention", "1", "--client-grace", "1")


def register_alike(server: RunningServer, name: str) -> None:
    """Register a user with the salt that it has on every server of these tests, as on one whose
    data was put back: a client that reconnects has no password, and needs the same salt."""
    with wire.Wire(server.connect()) as made:
        made.hello(name)
        made.register(name)


def under_way(client: Any, relay: Relay) -> Future[Any]:
    """A deposit of 5 that waits for its answer, and that the relay does not pass on."""
    future = in_thread(lambda: client.deposit(5, timeout_s=WAIT_S))
    assert relay.held.wait(WAIT_S)
    return future


def give_up_a_deposit(client: Any, relay: Relay) -> int:
    """A deposit of 5 that reaches the server, and whose answer does not come in time."""
    relay.pause()
    with pytest.raises(CallTimeout) as caught:
        client.deposit(5, timeout_s=SHORT_S)
    req_id: int = caught.value.req_id
    assert client.unanswered == (Unanswered(req_id, Opcode.DEPOSIT, 5, 0),)
    return req_id


@contextmanager
def somebody(server: RunningServer, name: str, **options: Any) -> Iterator[Client]:
    with Client(port=server.port, **options) as client:
        client.login(name, PASSWORD)
        yield client


def use_its_client_id(server: RunningServer, client: Any) -> None:
    """Another program does, and goes far ahead of its numbers."""
    with somebody(server, "ann", client_id=client.client_id, next_req_id=100) as other:
        assert other.deposit(1000).req_id == 100


# --- another log


def test_another_log_is_said(make: Make, start_server: StartServer) -> None:
    """At the next login. What is unanswered is not repeated by itself; the other log cannot tell
    what became of it, and is not made to execute it."""
    old, new = start_server(), start_server()
    for server in (old, new):
        register(server, "ann")
    with Relay(old.port) as relay, make(port=relay.port) as client:
        before = client.login("ann", PASSWORD).log_id
        req_id = give_up_a_deposit(client, relay)
        client.close()
        client.port = new.port
        client.connect()
        after = client.login("ann", PASSWORD).log_id
        assert client.next_push() == LogReplaced(before, after)
        assert before != after
        assert client.unanswered == (Unanswered(req_id, Opcode.DEPOSIT, 5, 0),)
        with pytest.raises(OutcomeUnknown):
            client.retry(req_id)
        assert client.unanswered == ()
        assert client.balance().balance == 0
        assert client.deposit(7).balance == 7
        client.close()
        client.connect()
        client.login("ann", PASSWORD)
        with pytest.raises(CallTimeout):
            client.next_push(0)


def test_a_client_comes_back_to_another_log(
    make_lasting: Make, start_server: StartServer, tmp_path: Path
) -> None:
    """A data directory is replaced while the server is down; the client notices by itself."""
    old, port = start_server(), lasting_port()
    register_alike(old, "ann")
    other = tmp_path / "other"
    with RunningServer(other) as prepared:
        register_alike(prepared, "ann")
    with ExitStack() as stack:
        relay = Relay(old.port, hold=Opcode.DEPOSIT, port=port)
        stack.enter_context(relay)
        client = make_lasting(port=port)
        stack.enter_context(client)
        before = client.login("ann", PASSWORD).log_id
        client.join(ROOM)
        assert client.next_push(WAIT_S).kind == EventKind.JOINED
        deposit = under_way(client, relay)
        relay.close()
        with RunningServer(other, "--port", str(port)):
            with pytest.raises(ConnectionLost, match="has another log now: it was not repeated"):
                deposit.result(WAIT_S)
            replaced, restarted = client.next_push(WAIT_S), client.next_push(WAIT_S)
            assert isinstance(replaced, LogReplaced)
            assert replaced.log_id_before == before != replaced.log_id
            assert isinstance(restarted, RoomRestarted)
            assert restarted.room_id == ROOM
            wait_until(lambda: bool(client.connected), "the connection")
            assert (client.balance().balance, client.reconnects) == (0, 1)
            with pytest.raises(OutcomeUnknown):
                client.retry(1)
            assert client.deposit(7).balance == 7
            client.close()


# --- a client_id that the server does not take any more


@pytest.mark.usefixtures("both_ways")
def test_a_client_id_that_was_drawn_is_drawn_anew(make: Make, server: RunningServer) -> None:
    register(server, "ann")
    with Relay(server.port) as relay, make(port=relay.port) as client:
        client.login("ann", PASSWORD)
        given_up, req_id = client.client_id, give_up_a_deposit(client, relay)
        client.close()
        use_its_client_id(server, client)
        client.port = server.port
        client.connect()
        client.login("ann", PASSWORD)
        assert client.client_id not in (0, given_up)
        assert client.next_push() == OutcomesUnknown((req_id,))
        assert client.unanswered == ()
        with pytest.raises(OutcomeUnknown, match="client_id that was given up"):
            client.retry(req_id)
        done = client.deposit(7)
        assert (done.req_id, done.balance) == (req_id + 1, 1012)


@pytest.mark.usefixtures("both_ways")
def test_a_client_that_comes_back_draws_its_client_id_anew(
    make_lasting: Make, server: RunningServer
) -> None:
    register(server, "ann")
    port = lasting_port()
    with (
        Relay(server.port, hold=Opcode.DEPOSIT, port=port) as relay,
        make_lasting(port=port) as client,
    ):
        client.login("ann", PASSWORD)
        given_up = client.client_id
        deposit = under_way(client, relay)
        relay.close()
        use_its_client_id(server, client)
        with Meddler(server.port, port=port) as way:
            with pytest.raises(OutcomeUnknown):
                deposit.result(WAIT_S)
            assert client.next_push(WAIT_S) == OutcomesUnknown((1,))
            wait_until(lambda: bool(client.connected), "the connection")
            assert client.client_id not in (0, given_up)
            assert client.balance().balance == 1000
            assert Opcode.DEPOSIT not in way.seen, "it was not sent under the new one"
            assert (client.deposit(7).balance, client.reconnects) == (1007, 1)
            client.close()


def test_a_client_id_that_was_given_is_not_replaced(
    make_lasting: Make, server: RunningServer
) -> None:
    """The program has to be told: it keeps the number in a file."""
    register(server, "ann")
    port = lasting_port()
    with (
        Relay(server.port, hold=Opcode.DEPOSIT, port=port) as relay,
        make_lasting(port=port, client_id=77) as client,
    ):
        client.login("ann", PASSWORD)
        deposit = under_way(client, relay)
        relay.close()
        use_its_client_id(server, client)
        with Relay(server.port, port=port):
            with pytest.raises(ReloginFailed, match="client_id 0x4d is in use beyond req_id 1"):
                deposit.result(WAIT_S)
            assert not client.reconnecting
        client.port = server.port
        client.connect()
        with pytest.raises(ClientIdTaken, match="client_id 0x4d is in use beyond req_id 1"):
            client.login("ann", PASSWORD)
        assert client.client_id == 77


# --- a client record that was given away


def take_a_place(server: RunningServer, name: str) -> None:
    """Have a client record; the server says when one may be given away."""

    def is_taken() -> bool:
        try:
            with somebody(server, name, client_id=9):
                return True
        except ServerBusy:
            return False

    wait_until(is_taken, "a record is given away")


def test_what_was_executed_under_a_record_that_is_gone(
    make_lasting: Make, start_server: StartServer
) -> None:
    """It was executed, its answer was lost, and while the client was away others took the places
    of all clients: it is not executed again, and the caller learns that nobody can tell."""
    server, port = start_server(*SMALL), lasting_port()
    register(server, "ann", "bob", "cyd")
    with (
        Relay(server.port, pause_at=Opcode.DEPOSIT, port=port) as relay,
        make_lasting(port=port) as client,
    ):
        client.login("ann", PASSWORD)
        client_id = client.client_id
        deposit = in_thread(lambda: client.deposit(5, timeout_s=WAIT_S))
        with somebody(server, "ann", client_id=0) as looking:
            wait_until(lambda: looking.balance().balance == 5, "it was executed")
        relay.close()
        take_a_place(server, "bob")
        take_a_place(server, "cyd")
        with Relay(server.port, port=port):
            with pytest.raises(OutcomeUnknown) as caught:
                deposit.result(WAIT_S)
            assert caught.value.req_id == 1
            wait_until(lambda: bool(client.connected), "the connection")
            assert (client.client_id, client.resumed) == (client_id, False)
            assert client.balance().balance == 5
            with pytest.raises(OutcomeUnknown):
                client.retry(1)
            assert client.deposit(7).balance == 12
            client.close()

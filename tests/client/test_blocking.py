"""The blocking client: against a real server, and against scripts that a real one would not play.

`test_aio.py` asks the same of the other client.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest

from client import (
    AlreadyExists,
    BadPacket,
    CallTimeout,
    Client,
    ClientError,
    ConnectionLost,
    InsufficientFunds,
    MisuseError,
    NotFound,
    NotLoggedIn,
    OutcomeUnknown,
    ProtocolViolation,
    Push,
    RetryPolicy,
    ServerBusy,
    Unauthorized,
)
from libproto.errors import Status
from libproto.messages import (
    BalanceResponse,
    ChatBroadcast,
    DirectMessage,
    EventKind,
    Opcode,
    Payment,
    RoomEntry,
    RoomGap,
    State,
    TxnKind,
)
from tests.client.peer import (
    MAX_BODY_LEN,
    PASSWORD,
    USER_ID,
    USERNAME,
    WAIT_S,
    Handshake,
    Script,
    Wire,
    answer,
    push,
    refuse,
    serving,
    silence,
)
from tests.helpers.server import RunningServer, StartServer, wait_until


@contextmanager
def user(server: RunningServer, name: str, **options: Any) -> Iterator[Client]:
    """A new user of a real server, connected and logged in."""
    with Client(server.host, server.port, **options) as made:
        made.register(name, PASSWORD)
        made.login(name, PASSWORD)
        yield made


@contextmanager
def logged_in(port: int, **options: Any) -> Iterator[Client]:
    """The user of a scripted server."""
    with Client(port=port, **options) as made:
        made.login(USERNAME, PASSWORD)
        yield made


def in_thread(function: Callable[[], Any]) -> Future[Any]:
    """Call it in a thread of its own, which ends with it."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised by who asks for the result
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


# --- a real server ----------------------------------------------------------------------------


def test_every_call(server: RunningServer) -> None:
    with (
        Client(server.host, server.port, payments=True) as ann,
        Client(server.host, server.port, payments=True, client_id=0) as bob,
    ):
        assert (ann.connected, ann.state, ann.user_id) == (True, State.CONNECTED, 0)
        ann_id = ann.register("ann", PASSWORD)
        assert (ann.connected, ann.state) == (True, State.GREETED)
        session = ann.login("ann", PASSWORD)
        assert session.user_id == ann.user_id == ann_id
        assert (session.session_id, session.resumed) == (ann.session_id, 0)
        assert (ann.username, ann.state, ann.resumed) == ("ann", State.AUTHENTICATED, False)
        assert ann.server_name
        assert (ann.heartbeat_s, ann.max_body_len) == (15, MAX_BODY_LEN)
        bob_id = bob.register("bob", PASSWORD)
        bob.login("bob", PASSWORD)

        beat = ann.heartbeat()
        assert abs(beat.server_time - beat.client_time) < 60e6

        joined = ann.join(3)
        assert (joined.room_id, joined.member_count) == (3, 1)
        assert bob.join(3).member_count == 2
        said = ann.send(3, "hello")
        assert said.room_seq == joined.last_seq + 3  # after both of them joined
        history = bob.history(3)
        assert [event.kind for event in history.events] == [
            EventKind.JOINED,
            EventKind.JOINED,
            EventKind.MESSAGE,
        ]
        assert history.events[-1] == (
            3, said.room_seq, said.time, EventKind.MESSAGE, ann_id, "ann", "hello",
        )  # fmt: skip
        assert bob.history(3, said.room_seq - 1).events == history.events[-1:]
        assert bob.history(3, limit=1).events == history.events[:1]
        assert ann.rooms() == (RoomEntry(3, 2, said.room_seq),)
        assert ann.rooms(3) == ()
        assert [member.username for member in ann.members(3)] == ["ann", "bob"]
        assert [member.username for member in ann.members(3, ann_id)] == ["bob"]
        assert ann.lookup("bob")[:3] == (bob_id, "bob", 1)
        assert ann.user_name(bob_id)[:3] == (bob_id, "bob", 1)
        sent = bob.direct(ann_id, "psst")

        deposit = ann.deposit(1000)
        assert deposit.balance == 1000
        assert ann.withdraw(100).balance == 900
        paid = ann.transfer(bob_id, 250)
        assert paid.balance == 650
        assert ann.balance() == (650, paid.txn_id)
        own = ann.transactions()
        newest, *older = own.transactions
        assert own.oldest_txn_id == 0
        assert newest[2:7] == (TxnKind.TRANSFER, ann_id, bob_id, 250, 650)
        assert [txn.req_id for txn in (newest, *older)] == [4, 3, 2], "1 was a message"
        assert ann.transactions(paid.txn_id, 1) == (0, tuple(older[:1]))

        pushed = [bob.next_push() for _ in range(2)]
        assert pushed[0] == history.events[-1] or pushed[0] == history.events[1]
        assert any(isinstance(push, Payment) for push in bob.pushes(1.0))
        direct = next(push for push in ann.pushes(1.0) if isinstance(push, DirectMessage))
        assert direct[1:] == (sent.time, bob_id, "bob", "psst")

        ann.leave(3)
        ann.logout()
        assert (ann.connected, ann.state) == (True, State.CONNECTED)
        ann.login("ann", PASSWORD)
        assert ann.resumed


def test_errors_by_status(server: RunningServer) -> None:
    with user(server, "ann") as ann, Client(server.host, server.port) as bob:
        with pytest.raises(NotLoggedIn, match="BALANCE: log in first"):
            bob.balance()
        with pytest.raises(AlreadyExists):
            bob.register("ann", PASSWORD)
        with pytest.raises(Unauthorized, match="wrong"):
            bob.login("ann", "not the password")
        with pytest.raises(Unauthorized):
            bob.login("nobody", PASSWORD)
        bob.register("bob", PASSWORD)
        bob.login("bob", PASSWORD)
        for call, error in (
            (lambda: ann.join(0), NotFound),
            (lambda: ann.leave(1), NotFound),
            (lambda: ann.send(1, "hi"), Unauthorized),
            (lambda: ann.lookup("nobody"), NotFound),
            (lambda: ann.user_name(99), NotFound),
            (lambda: ann.direct(99, "hi"), NotFound),
            (lambda: ann.deposit(0), BadPacket),
            (lambda: ann.withdraw(1), InsufficientFunds),
            (lambda: ann.transfer(99, 1), NotFound),
            (lambda: ann.transfer(ann.user_id, 1), BadPacket),
        ):
            with pytest.raises(error) as caught:
                call()
            assert caught.value.retry_after_ms == 0
            assert caught.value.req_id > 0
        assert ann.balance().balance == 0
        with pytest.raises(MisuseError, match="already logged in as 'bob'"):
            bob.login("bob", PASSWORD)


def test_a_closed_registration(start_server: StartServer) -> None:
    server = start_server("--registration", "closed", workers=1)
    with Client(server.host, server.port) as ann, pytest.raises(Unauthorized, match="closed"):
        ann.register("ann", PASSWORD)


def test_a_rate_limit(start_server: StartServer) -> None:
    server = start_server("--rate-limit", "2", workers=1)
    once = RetryPolicy(busy_attempts=1)
    with user(server, "ann", retry=once) as ann:
        with pytest.raises(ServerBusy) as caught:
            [ann.balance() for _ in range(100)]
        assert caught.value.retry_after_ms > 0


def test_a_full_server(start_server: StartServer) -> None:
    server = start_server("--max-connections", "1", workers=1)
    with user(server, "ann"), Client(server.host, server.port) as bob:
        with pytest.raises(ServerBusy) as caught:
            bob.register("bob", PASSWORD)
        assert caught.value.retry_after_ms > 0
        assert not bob.connected


def test_repeating_a_ledger_request(server: RunningServer) -> None:
    with user(server, "ann") as ann:
        first = ann.deposit(10)
        second = ann.deposit(20)
        with Client(server.host, server.port, client_id=7, next_req_id=5) as later:
            later.login("ann", PASSWORD)
            with pytest.raises(OutcomeUnknown):
                later.deposit(1, req_id=1, possible_duplicate=True)
        ann.close()
        ann.connect()
        assert ann.login("ann", PASSWORD).resumed
        assert ann.deposit(10, req_id=1, possible_duplicate=True) == first._replace(recorded=True)
        assert ann.retry(2) == second._replace(recorded=True)
        with pytest.raises(MisuseError, match="belongs to another request"):
            ann.deposit(11, req_id=1, possible_duplicate=True)
        assert ann.deposit(5).balance == 35


def test_calls_of_many_threads(server: RunningServer) -> None:
    with user(server, "ann") as ann, ThreadPoolExecutor(8) as pool:
        deposits = list(pool.map(lambda _: ann.deposit(1), range(400)))
        assert len({deposit.txn_id for deposit in deposits}) == 400
        assert sorted(deposit.balance for deposit in deposits) == list(range(1, 401))


def test_pushes_by_callback(server: RunningServer) -> None:
    got: list[Push] = []
    with (
        user(server, "ann") as ann,
        Client(server.host, server.port, payments=True, on_push=got.append) as bob,
    ):
        bob_id = bob.register("bob", PASSWORD)
        bob.login("bob", PASSWORD)
        bob.join(1)
        ann.join(1)
        ann.send(1, "hi")
        ann.deposit(5)
        ann.transfer(bob_id, 5)
        ann.direct(bob_id, "psst")
        wait_until(lambda: len(got) >= 5, "all pushes")
        chat = [event for event in got if isinstance(event, ChatBroadcast)]
        seqs = [event.room_seq for event in chat]
        assert seqs == list(range(seqs[0], seqs[0] + 3))
        assert chat[-1].message == "hi"
        assert {type(event) for event in got} == {ChatBroadcast, DirectMessage, Payment}
        with pytest.raises(MisuseError, match="on_push"):
            bob.pushes()
        with pytest.raises(MisuseError, match="on_push"):
            bob.next_push()


# --- timeouts ---------------------------------------------------------------------------------


def test_a_server_that_never_answers() -> None:
    with silence() as port, closing(Client(port=port, timeout_s=0.05)) as ann:
        ann.connect(timeout_s=WAIT_S)
        for call in (ann.register, ann.login):
            with pytest.raises(CallTimeout) as caught:
                call(USERNAME, PASSWORD)
            assert caught.value.opcode == Opcode.HELLO
            assert caught.value.req_id > 0
        with pytest.raises(CallTimeout, match="HEARTBEAT got no answer") as caught:
            ann.heartbeat()
        assert caught.value.opcode == Opcode.HEARTBEAT
        with pytest.raises(CallTimeout, match="no push") as caught:
            ann.next_push()
        assert (caught.value.req_id, caught.value.opcode) == (0, None)
        assert ann.connected


def test_a_late_answer_is_discarded() -> None:
    timed_out = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        first = wire.request()
        assert timed_out.wait(WAIT_S)
        wire.send(answer(first, 1, 1))
        wire.send(answer(wire.request(), 2, 2))
        wire.wait_closed()

    with serving(script) as port, logged_in(port) as ann:
        with pytest.raises(CallTimeout):
            ann.balance(timeout_s=0.01)
        timed_out.set()
        assert ann.balance() == (2, 2)


def test_the_window_of_ledger_requests_makes_calls_wait() -> None:
    """64 in flight; the 65th is sent when the first is answered, and not sent if none is."""
    refused = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        requests = [wire.request() for _ in range(64)]
        assert refused.wait(WAIT_S)
        balance = wire.request()
        assert balance.opcode == Opcode.BALANCE
        for request in requests:
            wire.send(answer(request, request.req_id, 1))
        wire.send(answer(balance, 1, 1))
        last = wire.request()
        assert last.req_id == 66  # 65 was drawn, and not sent in time
        wire.send(answer(last, 65, 1))
        wire.wait_closed()

    with serving(script) as port, logged_in(port) as ann, ThreadPoolExecutor(64) as pool:
        calls = [pool.submit(ann.deposit, 1) for _ in range(64)]
        wait_until(lambda: ann.next_req_id == 65, "64 requests in flight")
        with pytest.raises(CallTimeout, match="could not be sent") as caught:
            ann.deposit(1, timeout_s=0.01)
        assert caught.value.req_id == 0
        late = in_thread(lambda: ann.deposit(1))
        refused.set()
        ann.balance()
        assert sorted(call.result().txn_id for call in calls) == list(range(1, 65))
        assert late.result().txn_id == 65


# --- the end of a connection ------------------------------------------------------------------


def _cut_answer(wire: Wire) -> None:
    frame = answer(wire.request(), 1, 1)
    wire.send(frame[: len(frame) // 2])


def _cut_header(wire: Wire) -> None:
    wire.send(answer(wire.request(), 1, 1)[:10])


def _nothing(wire: Wire) -> None:
    wire.request()


def _reset(wire: Wire) -> None:
    wire.request()
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ENDS = [_cut_answer, _cut_header, _nothing, _reset]


def then(script: Script) -> Script:
    """A script after the login."""

    def run(wire: Wire) -> None:
        wire.log_in()
        script(wire)

    return run


@pytest.mark.parametrize("end", ENDS)
def test_a_server_that_goes_away(end: Script) -> None:
    with serving(then(end), Wire.log_in) as port, logged_in(port) as ann:
        with pytest.raises(ConnectionLost) as caught:
            ann.deposit(5)
        assert caught.value.req_ids == (1,)
        assert not ann.connected
        with pytest.raises(ConnectionLost) as again:
            ann.balance()
        assert again.value is not caught.value
        with pytest.raises(ConnectionLost):
            ann.next_push()
        ann.connect()
        ann.login(USERNAME, PASSWORD)


def test_all_calls_under_way_fail_with_the_connection() -> None:
    def script(wire: Wire) -> None:
        for _ in range(8):
            wire.request()

    with serving(then(script)) as port, logged_in(port) as ann:
        calls = [in_thread(lambda: ann.deposit(1)) for _ in range(4)]
        calls += [in_thread(ann.balance) for _ in range(4)]
        failures = [call.exception(WAIT_S) for call in calls]
        assert all(type(failure) is ConnectionLost for failure in failures)
        assert len(set(map(id, failures))) == 8
        (req_ids,) = {f.req_ids for f in failures if isinstance(f, ConnectionLost)}
        assert req_ids == (1, 2, 3, 4)


def _junk(_: Wire) -> bytes:
    return b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64)


def _answer_to_nothing(wire: Wire) -> bytes:
    return answer(wire.request()._replace(req_id=12345), 1, 1)


def _damaged(wire: Wire) -> bytes:
    frame = answer(wire.request(), 1, 1)
    return frame[:-1] + bytes([frame[-1] ^ 1])


VIOLATIONS = [_junk, _answer_to_nothing, _damaged]


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_what_is_not_the_protocol_closes_the_connection(
    violation: Callable[[Wire], bytes],
) -> None:
    def script(wire: Wire) -> None:
        wire.send(violation(wire))
        wire.wait_closed()

    with serving(then(script)) as port, logged_in(port) as ann:
        with pytest.raises(ProtocolViolation):
            ann.balance()
        with pytest.raises(ProtocolViolation):
            ann.balance()
        assert not ann.connected


def test_a_server_that_signs_wrongly() -> None:
    def script(wire: Wire) -> None:
        wire.log_in(Handshake(login={"server_signature": bytes(32)}))
        assert wire.wait_closed() == []

    with serving(script) as port, Client(port=port) as ann:
        with pytest.raises(ProtocolViolation, match="signature"):
            ann.login(USERNAME, PASSWORD)
        assert (ann.connected, ann.user_id) == (False, 0)


def test_close_fails_what_is_under_way_and_may_be_repeated() -> None:
    received = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        wire.request()
        received.set()
        wire.wait_closed()

    with serving(script) as port, logged_in(port) as ann:
        call, waiter = in_thread(lambda: ann.deposit(1)), in_thread(lambda: list(ann.pushes()))
        assert received.wait(WAIT_S)
        closers = [in_thread(ann.close) for _ in range(4)]
        for closer in closers:
            closer.result(WAIT_S)
        error = call.exception(WAIT_S)
        assert isinstance(error, ConnectionLost)
        assert error.req_ids == (1,)
        assert waiter.result(WAIT_S) == []
        ann.close()
        with pytest.raises(ConnectionLost, match="closed"):
            ann.balance()


def test_a_client_that_was_never_connected() -> None:
    ann = Client()
    ann.close()
    with pytest.raises(ConnectionLost, match="connect"):
        ann.balance()
    with pytest.raises(ConnectionLost, match="connect"):
        ann.pushes()
    with pytest.raises(ConnectionLost, match="connect"):
        ann.next_push()


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        port = bound.getsockname()[1]
        with pytest.raises(ConnectionLost, match=f"cannot connect to 127.0.0.1 port {port}"):
            Client(port=port).connect()


def test_connecting_twice_is_misuse() -> None:
    with silence() as port, Client(port=port) as ann, pytest.raises(MisuseError):
        ann.connect()


# --- pushes -----------------------------------------------------------------------------------


def test_pushes_come_before_the_loss_is_told() -> None:
    gaps = [RoomGap(1, seq, seq) for seq in range(10)]

    def script(wire: Wire) -> None:
        wire.send(*(push(Opcode.ROOM_GAP, *gap) for gap in gaps))

    with serving(then(script)) as port, logged_in(port) as ann:
        pushes = ann.pushes()
        assert [next(pushes) for _ in gaps] == gaps
        with pytest.raises(ConnectionLost):
            next(pushes)


def test_pushes_end_when_none_came_in_time() -> None:
    with serving(then(send_one_and_wait)) as port, logged_in(port) as ann:
        assert list(ann.pushes(0.2)) == [RoomGap(1, 2, 3)]
        assert ann.connected


def send_one_and_wait(wire: Wire) -> None:
    wire.send(push(Opcode.ROOM_GAP, 1, 2, 3))
    wire.wait_closed()


def test_answers_are_not_behind_pushes() -> None:
    """A program that takes none: what does not fit is named by gaps, in its place."""
    bulk = 50_000
    chat = partial(ChatBroadcast, 1, time=5, kind=EventKind.MESSAGE, from_user=3, from_name="bob")

    def script(wire: Wire) -> None:
        for first in range(1, bulk, 100):
            wire.send(
                *(
                    push(Opcode.CHAT_BROADCAST, *chat(room_seq=seq, message="x" * 100))
                    for seq in range(first, first + 100)
                )
            )
        wire.send(answer(wire.request(), 1, 1))
        wire.send(push(Opcode.CHAT_BROADCAST, *chat(room_seq=bulk + 1, message="last")))
        wire.send(answer(wire.request(), 2, 1))
        wire.wait_closed()

    with serving(then(script)) as port, logged_in(port, pushes_max_bytes=1_000_000) as ann:
        assert ann.balance() == (1, 1)
        assert ann.balance() == (2, 1)
        expected = 1
        for event in ann.pushes():
            first, last = (
                (event.first_seq, event.last_seq)
                if isinstance(event, RoomGap)
                else (event.room_seq, event.room_seq)  # type: ignore[union-attr] # there is nothing else
            )
            assert first == expected
            expected = last + 1
            if last == bulk + 1:
                break
        assert bulk - 3000 < ann.pushes_dropped < bulk


def test_a_call_that_is_late_names_the_pushes_that_were_dropped() -> None:
    """Whoever looks for the reason learns that the program takes none."""

    def script(wire: Wire) -> None:
        chat = ChatBroadcast(1, 0, 5, EventKind.MESSAGE, 3, "bob", "x" * 1000)
        for seq in range(1, 11):
            wire.send(push(Opcode.CHAT_BROADCAST, *chat._replace(room_seq=seq)))
        wire.send(answer(wire.request(), 1, 1))
        assert [each.opcode for each in wire.wait_closed()] == [Opcode.DEPOSIT] * 2

    with serving(then(script)) as port, logged_in(port, pushes_max_bytes=4000) as ann:
        assert ann.balance() == (1, 1)
        dropped = ann.pushes_dropped
        assert 0 < dropped < 10
        with pytest.raises(CallTimeout, match=f"; {dropped} pushes were dropped, as the program"):
            ann.deposit(5, timeout_s=0.2)
        list(ann.pushes(0))
        with pytest.raises(CallTimeout) as caught:
            ann.deposit(5, timeout_s=0.2)
        assert "dropped" not in str(caught.value)


def test_both_ends_write_before_they_read() -> None:
    """Neither's full buffers may keep the client from reading."""
    pushes, message, calls = 100_000, "x" * 60_000, 200

    def script(wire: Wire) -> None:
        wire.log_in()
        wire.sock.settimeout(3 * WAIT_S)
        block = b"".join(push(Opcode.ROOM_GAP, 1, 1, 1) for _ in range(1000))
        for _ in range(pushes // 1000):
            wire.send(block)
        for _ in range(calls):
            wire.send(answer(wire.request(), 1, 1))
        wire.wait_closed()

    got: list[Push] = []
    with (
        serving(script) as port,
        logged_in(port, on_push=got.append, pushes_max_bytes=1 << 26, timeout_s=3 * WAIT_S) as ann,
        ThreadPoolExecutor(8) as pool,
    ):
        assert len(list(pool.map(lambda _: ann.send(1, message), range(calls)))) == calls
        wait_until(lambda: len(got) == pushes, "all pushes")


def test_a_server_that_does_not_read() -> None:
    """Calls time out while whole frames are unsent; one that is cut off ends the connection."""
    enough = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        assert enough.wait(WAIT_S)

    with serving(script) as port, logged_in(port) as ann:
        seen: set[type[ClientError]] = set()
        while ConnectionLost not in seen:
            with pytest.raises(ClientError) as caught:
                ann.send(1, "x" * 60_000, timeout_s=0.01)
            seen.add(type(caught.value))
        assert seen == {CallTimeout, ConnectionLost}
        assert "did not read" in str(caught.value)
        enough.set()


def test_a_request_that_could_not_be_sent_leaves_nothing() -> None:
    """It is behind others, of which the server reads none."""
    enough = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        assert enough.wait(WAIT_S)
        wire.wait_closed()

    with serving(script) as port, logged_in(port) as ann, ThreadPoolExecutor(200) as pool:
        asked = [pool.submit(ann.lookup, "x" * 60_000) for _ in range(200)]
        assert ann._session is not None
        connection: Any = ann._session._connection
        wait_until(lambda: connection._link.full, "a server that does not read")
        with pytest.raises(CallTimeout, match="could not be sent") as caught:
            ann.deposit(1, timeout_s=0.01)
        assert caught.value.req_id == 0
        assert ann.connected
        assert ann._core.unanswered_req_ids == ()
        enough.set()
        ann.close()
        assert {type(each.exception(WAIT_S)) for each in asked} == {ConnectionLost}


def test_on_push_may_make_calls_and_close() -> None:
    """What it waits for keeps no answer back."""
    done: Future[BalanceResponse] = Future()

    def on_push(_: Push) -> None:
        try:
            balance = ann.balance()
            ann.close()
            done.set_result(balance)
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            done.set_exception(error)

    def script(wire: Wire) -> None:
        wire.log_in()
        wire.send(push(Opcode.ROOM_GAP, 1, 2, 3))
        wire.send(answer(wire.request(), 1, 1))
        wire.wait_closed()

    with serving(script) as port, Client(port=port, on_push=on_push) as ann:
        ann.login(USERNAME, PASSWORD)
        assert done.result(WAIT_S) == (1, 1)
        assert not ann.connected


def greet_and_push(wire: Wire) -> None:
    wire.log_in()
    send_one_and_wait(wire)


@pytest.mark.parametrize(
    ("raised", "hooked"),
    [(ZeroDivisionError, ZeroDivisionError), (SystemExit, RuntimeError)],
    ids=["error", "exit"],
)
def test_on_push_that_raises_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, raised: type[BaseException], hooked: type[BaseException]
) -> None:
    """And the interpreter says what was raised: of SystemExit it would say nothing in a thread."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def on_push(_: Push) -> None:
        raise raised

    with serving(greet_and_push) as port, Client(port=port, on_push=on_push) as ann:
        ann.login(USERNAME, PASSWORD)
        wait_until(lambda: not ann.connected, "the end of the connection")
        with pytest.raises(ConnectionLost, match=f"on_push raised {raised.__name__}"):
            ann.balance()
    assert [each.exc_type for each in told] == [hooked]


def test_a_coroutine_that_nobody_awaits_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a callback that could not be seen to be asynchronous: its pushes would all be lost."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    async def on_push(_: Push) -> None: ...

    with serving(greet_and_push) as port, Client(port=port, on_push=lambda p: on_push(p)) as ann:
        ann.login(USERNAME, PASSWORD)
        wait_until(lambda: not ann.connected, "the end of the connection")
        with pytest.raises(ConnectionLost, match="on_push raised TypeError"):
            ann.balance()
    assert "only AsyncClient awaits" in str(told[0].exc_value)


# --- heartbeats -------------------------------------------------------------------------------


def test_heartbeats_by_themselves(start_server: StartServer) -> None:
    """Two heartbeats are longer than the server waits for a sign of life."""
    server = start_server("--heartbeat", "1", "--idle-timeout", "2", workers=1)
    with user(server, "ann") as ann:
        assert list(ann.pushes(5.0)) == []
        assert ann.balance().balance == 0


def test_a_server_that_falls_silent() -> None:
    def script(wire: Wire) -> None:
        wire.log_in(Handshake(hello={"heartbeat_s": 1, "idle_timeout_s": 1}))
        beats = wire.wait_closed()
        assert {beat.opcode for beat in beats} == {Opcode.HEARTBEAT}

    with serving(script) as port, logged_in(port) as ann:
        with pytest.raises(ConnectionLost, match="silent for 2 s"):
            ann.next_push(WAIT_S)
        assert not ann.connected


def test_refusals_carry_when_to_retry() -> None:
    def script(wire: Wire) -> None:
        wire.send(refuse(wire.request(), Status.ERR_SERVER_BUSY, "overload", 70))
        wire.wait_closed()

    once = RetryPolicy(busy_attempts=1)
    with serving(then(script)) as port, logged_in(port, retry=once) as ann:
        with pytest.raises(ServerBusy, match="ERR_SERVER_BUSY: overload") as caught:
            ann.deposit(1)
        assert caught.value.retry_after_ms == 70
        assert ann.user_id == USER_ID

"""The asyncio client, on asyncio's own loop and on uvloop: what `test_blocking.py` asks, and what
only tasks can do.
"""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from client import (
    AlreadyExists,
    AsyncClient,
    BadArgument,
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
from client.base import ClientBase
from libproto.errors import Status
from libproto.messages import (
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
from tests.client.conftest import RunAndCollect
from tests.client.peer import (
    MAX_BODY_LEN,
    PASSWORD,
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
from tests.client.test_blocking import (
    ENDS,
    VIOLATIONS,
    greet_and_push,
    send_one_and_wait,
    then,
)
from tests.client.turns import turn, until
from tests.helpers.server import RunningServer, StartServer

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def run(run_and_collect: RunAndCollect) -> Run:
    """Runs a coroutine on each kind of loop; what a loop is not told of by us is a failure."""

    def run_it(coroutine: Coroutine[Any, Any, None]) -> None:
        assert run_and_collect(coroutine) == []

    return run_it


@asynccontextmanager
async def user(server: RunningServer, name: str) -> AsyncIterator[AsyncClient]:
    """A new user of a real server, connected and logged in."""
    async with AsyncClient(server.host, server.port) as made:
        await made.register(name, PASSWORD)
        await made.login(name, PASSWORD)
        yield made


@asynccontextmanager
async def logged_in(port: int, **options: Any) -> AsyncIterator[AsyncClient]:
    """The user of a scripted server."""
    async with AsyncClient(port=port, **options) as made:
        await made.login(USERNAME, PASSWORD)
        yield made


async def wait_for(event: threading.Event) -> None:
    """Until a script has set it."""
    assert await asyncio.to_thread(event.wait, 2 * WAIT_S)


async def outcome(awaitable: Awaitable[Any]) -> BaseException | None:
    """What it raises; None if it does not."""
    try:
        await awaitable
    except Exception as error:  # noqa: BLE001 - the caller looks at it
        return error
    return None


def test_both_clients_have_the_same_names() -> None:
    def names(cls: type[ClientBase]) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert names(Client) == names(AsyncClient)


# --- a real server ----------------------------------------------------------------------------


def test_every_call(server: RunningServer, run: Run) -> None:
    async def main() -> None:
        async with (
            AsyncClient(server.host, server.port, payments=True) as ann,
            AsyncClient(server.host, server.port, payments=True, client_id=0) as bob,
        ):
            assert (ann.connected, ann.state, ann.user_id) == (True, State.CONNECTED, 0)
            ann_id = await ann.register("ann", PASSWORD)
            assert (ann.connected, ann.state) == (True, State.GREETED)
            session = await ann.login("ann", PASSWORD)
            assert session.user_id == ann.user_id == ann_id
            assert (session.session_id, session.resumed) == (ann.session_id, 0)
            assert (ann.username, ann.state, ann.resumed) == ("ann", State.AUTHENTICATED, False)
            assert (ann.heartbeat_s, ann.max_body_len) == (15, MAX_BODY_LEN)
            bob_id = await bob.register("bob", PASSWORD)
            await bob.login("bob", PASSWORD)

            beat = await ann.heartbeat()
            assert abs(beat.server_time - beat.client_time) < 60e6

            joined = await ann.join(3)
            assert (joined.room_id, joined.member_count) == (3, 1)
            assert (await bob.join(3)).member_count == 2
            said = await ann.send(3, "hello")
            history = await bob.history(3)
            assert [event.kind for event in history.events] == [
                EventKind.JOINED,
                EventKind.JOINED,
                EventKind.MESSAGE,
            ]
            assert (*history.events[-1][1:3], 1, False) == said
            assert (await bob.history(3, said.room_seq - 1)).events == history.events[-1:]
            assert (await bob.history(3, limit=1)).events == history.events[:1]
            assert await ann.rooms() == (RoomEntry(3, 2, said.room_seq),)
            assert await ann.rooms(3) == ()
            assert [member.username for member in await ann.members(3)] == ["ann", "bob"]
            assert [member.username for member in await ann.members(3, ann_id)] == ["bob"]
            assert (await ann.lookup("bob"))[:3] == (bob_id, "bob", 1)
            assert (await ann.user_name(bob_id))[:3] == (bob_id, "bob", 1)
            sent = await bob.direct(ann_id, "psst")

            assert (await ann.deposit(1000)).balance == 1000
            assert (await ann.withdraw(100)).balance == 900
            paid = await ann.transfer(bob_id, 250)
            assert paid.balance == 650
            assert await ann.balance() == (650, paid.txn_id)
            newest, *older = (await ann.transactions()).transactions
            assert newest[2:7] == (TxnKind.TRANSFER, ann_id, bob_id, 250, 650)
            assert [txn.req_id for txn in (newest, *older)] == [4, 3, 2], "1 was a message"
            assert await ann.transactions(paid.txn_id, 1) == (0, tuple(older[:1]))

            assert isinstance(await bob.next_push(), ChatBroadcast)
            kinds = set()
            async for event in bob.pushes():
                kinds.add(type(event))
                if kinds == {ChatBroadcast, Payment}:
                    break
            async for event in ann.pushes():
                if isinstance(event, DirectMessage):
                    assert event[1:] == (sent.time, bob_id, "bob", "psst")
                    break

            await ann.leave(3)
            await ann.logout()
            assert (ann.connected, ann.state) == (True, State.CONNECTED)
            await ann.login("ann", PASSWORD)
            assert ann.resumed

    run(main())


def test_errors_by_status(server: RunningServer, run: Run) -> None:
    async def main() -> None:
        async with (
            user(server, "ann") as ann,
            AsyncClient(server.host, server.port) as bob,
        ):
            for call, expected in (
                (bob.balance(), NotLoggedIn),
                (bob.register("ann", PASSWORD), AlreadyExists),
                (bob.login("ann", "not the password"), Unauthorized),
                (ann.join(0), NotFound),
                (ann.leave(1), NotFound),
                (ann.send(1, "hi"), Unauthorized),
                (ann.lookup("nobody"), NotFound),
                (ann.user_name(99), NotFound),
                (ann.direct(99, "hi"), NotFound),
                (ann.deposit(0), BadPacket),
                (ann.withdraw(1), InsufficientFunds),
                (ann.transfer(99, 1), NotFound),
                (ann.login("ann", PASSWORD), MisuseError),
                (ann.deposit(-1), BadArgument),
            ):
                assert type(await outcome(call)) is expected
            assert (await ann.balance()).balance == 0

    run(main())


def test_a_full_server(start_server: StartServer, run: Run) -> None:
    server = start_server("--max-connections", "1", workers=1)

    async def main() -> None:
        async with user(server, "ann"), AsyncClient(server.host, server.port) as bob:
            with pytest.raises(ServerBusy) as caught:
                await bob.register("bob", PASSWORD)
            assert caught.value.retry_after_ms > 0
            assert not bob.connected

    run(main())


def test_repeating_a_ledger_request(server: RunningServer, run: Run) -> None:
    async def main() -> None:
        async with user(server, "ann") as ann:
            first = await ann.deposit(10)
            async with AsyncClient(server.host, server.port, client_id=7, next_req_id=5) as later:
                await later.login("ann", PASSWORD)
                with pytest.raises(OutcomeUnknown):
                    await later.deposit(1, req_id=1, possible_duplicate=True)
            await ann.close()
            await ann.connect()
            assert (await ann.login("ann", PASSWORD)).resumed
            again = await ann.deposit(10, req_id=1, possible_duplicate=True)
            assert again == first._replace(recorded=True)
            assert (await ann.deposit(5)).balance == 15

    run(main())


def test_many_calls_at_once(server: RunningServer, run: Run) -> None:
    """More than the server keeps outcomes of: the others wait for their turn."""

    async def main() -> None:
        async with user(server, "ann") as ann:
            deposits = await asyncio.gather(*(ann.deposit(1) for _ in range(500)))
            assert [deposit.balance for deposit in deposits] == list(range(1, 501))

    run(main())


def test_pushes_by_callback(server: RunningServer, run: Run) -> None:
    async def main() -> None:
        got: asyncio.Queue[Push] = asyncio.Queue()
        async with (
            user(server, "ann") as ann,
            AsyncClient(server.host, server.port, on_push=got.put_nowait) as bob,
        ):
            bob_id = await bob.register("bob", PASSWORD)
            await bob.login("bob", PASSWORD)
            await bob.join(1)
            await ann.join(1)
            await ann.send(1, "hi")
            await ann.direct(bob_id, "psst")
            events = [await asyncio.wait_for(got.get(), WAIT_S) for _ in range(4)]
            chat = [event for event in events if isinstance(event, ChatBroadcast)]
            seqs = [event.room_seq for event in chat]
            assert seqs == list(range(seqs[0], seqs[0] + 3))
            assert chat[-1].message == "hi"
            with pytest.raises(MisuseError, match="on_push"):
                bob.pushes()
            with pytest.raises(MisuseError, match="on_push"):
                await bob.next_push()

    run(main())


# --- timeouts ---------------------------------------------------------------------------------


def test_a_server_that_never_answers(run: Run) -> None:
    async def main(port: int) -> None:
        ann = AsyncClient(port=port, timeout_s=0.05)
        await ann.connect(timeout_s=WAIT_S)
        try:
            for call in (ann.register, ann.login):
                with pytest.raises(CallTimeout) as caught:
                    await call(USERNAME, PASSWORD)
                assert caught.value.opcode == Opcode.HELLO
            with pytest.raises(CallTimeout, match="HEARTBEAT got no answer") as caught:
                await ann.heartbeat()
            assert caught.value.opcode == Opcode.HEARTBEAT
            with pytest.raises(CallTimeout, match="no push") as caught:
                await ann.next_push()
            assert (caught.value.req_id, caught.value.opcode) == (0, None)
            assert ann.connected
        finally:
            await ann.close()

    with silence() as port:
        run(main(port))


def test_late_answers_are_discarded(run: Run) -> None:
    """Of a call that timed out, and of one that was cancelled."""
    given_up = threading.Event()
    received = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        requests = [wire.request(), wire.request()]
        received.set()
        assert given_up.wait(WAIT_S)
        for request in requests:
            wire.send(answer(request, 1, 1))
        wire.send(answer(wire.request(), 2, 2))
        wire.wait_closed()

    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            with pytest.raises(CallTimeout):
                await ann.balance(timeout_s=0.01)
            task = asyncio.create_task(ann.balance())
            await wait_for(received)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            given_up.set()
            assert await ann.balance() == (2, 2)

    with serving(script) as port:
        run(main(port))


def test_hashing_that_takes_too_long(run: Run) -> None:
    def script(wire: Wire) -> None:
        handshake = Handshake(hello={"iterations": 2_000_000})
        wire.send(handshake.respond(wire.request()))
        wire.wait_closed()

    async def main(port: int) -> None:
        async with AsyncClient(port=port) as ann:
            with pytest.raises(CallTimeout, match="hashed"):
                await ann.login(USERNAME, PASSWORD, timeout_s=0.2)

    with serving(script) as port:
        run(main(port))


# --- the end of a connection ------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_a_server_that_goes_away(end: Script, run: Run) -> None:
    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            with pytest.raises(ConnectionLost) as caught:
                await ann.deposit(5)
            assert caught.value.req_ids == (1,)
            assert not ann.connected
            with pytest.raises(ConnectionLost) as again:
                await ann.balance()
            assert again.value is not caught.value
            with pytest.raises(ConnectionLost):
                await ann.next_push()
            await ann.connect()
            await ann.login(USERNAME, PASSWORD)

    with serving(then(end), Wire.log_in) as port:
        run(main(port))


def test_all_calls_under_way_fail_with_the_connection(run: Run) -> None:
    def script(wire: Wire) -> None:
        for _ in range(8):
            wire.request()

    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            calls: list[Awaitable[Any]] = [ann.deposit(1) for _ in range(4)]
            calls += [ann.balance() for _ in range(4)]
            failures = await asyncio.gather(*map(outcome, calls))
            assert len(set(map(id, failures))) == 8
            for failure in failures:
                assert isinstance(failure, ConnectionLost)
                assert failure.req_ids == (1, 2, 3, 4)

    with serving(then(script)) as port:
        run(main(port))


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_what_is_not_the_protocol_closes_the_connection(
    violation: Callable[[Wire], bytes], run: Run
) -> None:
    def script(wire: Wire) -> None:
        wire.send(violation(wire))
        wire.wait_closed()

    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            for _ in range(2):
                with pytest.raises(ProtocolViolation):
                    await ann.balance()
            assert not ann.connected

    with serving(then(script)) as port:
        run(main(port))


def test_a_server_that_signs_wrongly(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.log_in(Handshake(login={"server_signature": bytes(32)}))
        assert wire.wait_closed() == []

    async def main(port: int) -> None:
        async with AsyncClient(port=port) as ann:
            with pytest.raises(ProtocolViolation, match="signature"):
                await ann.login(USERNAME, PASSWORD)
            assert (ann.connected, ann.user_id) == (False, 0)

    with serving(script) as port:
        run(main(port))


def test_close_fails_what_is_under_way_and_may_be_repeated(run: Run) -> None:
    received = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        wire.request()
        received.set()
        wire.wait_closed()

    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            call = asyncio.create_task(outcome(ann.deposit(1)))
            waiter = asyncio.create_task(outcome(ann.next_push(WAIT_S)))
            await wait_for(received)
            await asyncio.gather(ann.close(), ann.close())
            error = await call
            assert isinstance(error, ConnectionLost)
            assert error.req_ids == (1,)
            assert isinstance(await waiter, ConnectionLost)
            assert [event async for event in ann.pushes()] == []
            await ann.close()
            with pytest.raises(ConnectionLost, match="closed"):
                await ann.balance()

    with serving(script) as port:
        run(main(port))


def test_a_client_that_was_never_connected(run: Run) -> None:
    async def main() -> None:
        ann = AsyncClient()
        await ann.close()
        for call in (ann.balance(), ann.next_push()):
            error = await outcome(call)
            assert isinstance(error, ConnectionLost)
            assert "connect" in str(error)

    run(main())


def test_nobody_listens(run: Run) -> None:
    async def main(port: int) -> None:
        with pytest.raises(ConnectionLost, match=f"cannot connect to 127.0.0.1 port {port}"):
            await AsyncClient(port=port).connect()

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        run(main(bound.getsockname()[1]))


def test_connecting_twice_is_misuse(run: Run) -> None:
    async def main(port: int) -> None:
        async with AsyncClient(port=port) as ann:
            with pytest.raises(MisuseError):
                await ann.connect()

    with silence() as port:
        run(main(port))


# --- pushes -----------------------------------------------------------------------------------


def test_pushes_come_before_the_loss_is_told(run: Run) -> None:
    gaps = [RoomGap(1, seq, seq) for seq in range(10)]

    def script(wire: Wire) -> None:
        wire.send(*(push(Opcode.ROOM_GAP, *gap) for gap in gaps))

    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            pushes = ann.pushes()
            assert [await anext(pushes) for _ in gaps] == gaps
            with pytest.raises(ConnectionLost):
                await anext(pushes)

    with serving(then(script)) as port:
        run(main(port))


def test_pushes_end_when_none_came_in_time(run: Run) -> None:
    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            assert [event async for event in ann.pushes(0.2)] == [RoomGap(1, 2, 3)]
            assert ann.connected

    with serving(then(send_one_and_wait)) as port:
        run(main(port))


def test_answers_are_not_behind_pushes(run: Run) -> None:
    """A program that takes none: what does not fit is named by gaps, in its place."""
    bulk = 50_000

    def script(wire: Wire) -> None:
        for first in range(1, bulk, 100):
            wire.send(*(push(Opcode.ROOM_GAP, 1, seq, seq) for seq in range(first, first + 100)))
        wire.send(answer(wire.request(), 1, 1))
        wire.wait_closed()

    async def main(port: int) -> None:
        async with logged_in(port, pushes_max_bytes=1_000_000) as ann:
            assert await ann.balance() == (1, 1)
            expected = 1
            while expected <= bulk:
                gap = await ann.next_push()
                assert isinstance(gap, RoomGap)
                assert gap.first_seq == expected
                expected = gap.last_seq + 1
            assert bulk - 4000 < ann.pushes_dropped < bulk

    with serving(then(script)) as port:
        run(main(port))


def test_what_arrived_is_read_though_a_request_finds_the_connection_gone(run: Run) -> None:
    """The reset and what was sent before it have come before the loop looks."""
    gone = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        assert wire.request().opcode == Opcode.HEARTBEAT
        wire.send(push(Opcode.ROOM_GAP, 1, 1, 1))
        wire.sock.shutdown(socket.SHUT_RD)  # what comes now is answered with a reset
        wire.sock.close()
        gone.set()

    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            beat = asyncio.create_task(outcome(ann.heartbeat()))
            while not gone.is_set():
                await turn()
                assert gone.wait(0.01) or not beat.done()
            for _ in range(3):
                assert isinstance(await outcome(ann.balance(timeout_s=0.05)), ClientError)
            assert isinstance(await beat, ConnectionLost)
            assert await ann.next_push() == RoomGap(1, 1, 1)
            with pytest.raises(ConnectionLost):
                await ann.next_push()

    with serving(script) as port:
        run(main(port))


def test_both_ends_write_before_they_read(run: Run) -> None:
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

    async def main(port: int) -> None:
        got: list[Push] = []
        async with logged_in(
            port, on_push=got.append, pushes_max_bytes=1 << 26, timeout_s=3 * WAIT_S
        ) as ann:
            said = await asyncio.gather(*(ann.send(1, message) for _ in range(calls)))
            assert len(said) == calls
            await until(lambda: len(got) >= pushes)
            assert len(got) == pushes

    with serving(script) as port:
        run(main(port))


def test_a_server_that_does_not_read(run: Run) -> None:
    """Calls time out while whole frames are unsent; one that is cut off ends the connection."""
    enough = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        assert enough.wait(WAIT_S)

    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            seen: set[type[ClientError]] = set()
            while ConnectionLost not in seen:
                with pytest.raises(ClientError) as caught:
                    await ann.send(1, "x" * 60_000, timeout_s=0.01)
                seen.add(type(caught.value))
            assert seen == {CallTimeout, ConnectionLost}
            assert "did not read" in str(caught.value)
        enough.set()

    with serving(script) as port:
        run(main(port))


def test_on_push_that_raises_ends_the_connection() -> None:
    """On asyncio's loop; each tells its exception handler in words of its own."""
    contexts: list[dict[str, Any]] = []

    def on_push(_: Push) -> None:
        raise ZeroDivisionError

    async def main(port: int) -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: contexts.append(context)
        )
        async with AsyncClient(port=port, on_push=on_push) as ann:
            await ann.login(USERNAME, PASSWORD)
            with pytest.raises(ConnectionLost, match="on_push"):
                await ann.deposit(1)

    with serving(greet_and_push) as port:
        asyncio.run(main(port))
    assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError]


# --- heartbeats -------------------------------------------------------------------------------


def test_heartbeats_by_themselves(start_server: StartServer, run: Run) -> None:
    """Two heartbeats are longer than the server waits for a sign of life."""
    server = start_server("--heartbeat", "1", "--idle-timeout", "2", workers=1)

    async def main() -> None:
        async with user(server, "ann") as ann:
            assert [event async for event in ann.pushes(5.0)] == []
            assert (await ann.balance()).balance == 0

    run(main())


def test_a_server_that_falls_silent(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.log_in(Handshake(hello={"heartbeat_s": 1, "idle_timeout_s": 1}))
        beats = wire.wait_closed()
        assert {beat.opcode for beat in beats} == {Opcode.HEARTBEAT}

    async def main(port: int) -> None:
        async with logged_in(port) as ann:
            with pytest.raises(ConnectionLost, match="silent for 2 s"):
                await ann.next_push(WAIT_S)
            assert not ann.connected

    with serving(script) as port:
        run(main(port))


def test_refusals_carry_when_to_retry(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.send(refuse(wire.request(), Status.ERR_SERVER_BUSY, "overload", 70))
        wire.wait_closed()

    async def main(port: int) -> None:
        async with logged_in(port, retry=RetryPolicy(busy_attempts=1)) as ann:
            with pytest.raises(ClientError, match="ERR_SERVER_BUSY: overload") as caught:
                await ann.deposit(1)
            assert isinstance(caught.value, ServerBusy)
            assert caught.value.retry_after_ms == 70

    with serving(then(script)) as port:
        run(main(port))

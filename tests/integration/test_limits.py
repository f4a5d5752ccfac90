"""What the server does when there is too much: of connections, requests, time, or of what its
tables hold. Every refusal says when to come back or what the operator can raise, and touches nobody
else.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import pytest

from libproto.errors import Status
from libproto.framing import assemble
from libproto.messages import EventKind, Flag, Opcode
from server.worker.rates import REFUSED_S
from tests.helpers.server import StartServer, wait_until
from tests.helpers.wire import NONCE, Lobby, Received, Wire, registration, request

BUSY = Status.ERR_SERVER_BUSY
EARLY = 0.9  # of a deadline: the server's clock is coarse
LATE_S = 40.0  # on any machine; what is not closed by then stays


# ---- connections


def test_refused_connections_that_stay_open_are_in_nobodys_way(start_server: StartServer) -> None:
    with Lobby(start_server("--max-connections", "4", workers=2)) as lobby:
        username = lobby.new_user()
        first, *_ = [lobby.enter(username) for _ in range(4)]
        assert is_refused(lobby.open())
        assert lobby.counters()["connections"] == 4
        first.close()
        wait_until(lambda: not is_refused(lobby.open()), "somebody gets the place", LATE_S)


def is_refused(wire: Wire) -> bool:
    """Whether a new connection is over the limit: then it gets one frame and the end."""
    wire.send(Opcode.HEARTBEAT, 1)
    frame = wire.receive()
    assert frame is not None
    if frame.opcode == Opcode.HEARTBEAT:
        return False
    assert (frame.opcode, frame.req_id, frame.flags) == (Opcode.HELLO, 0, Flag.RESPONSE)
    assert frame.status == BUSY
    assert frame.body.retry_after_ms > 0
    assert frame.body.detail
    assert wire.receive() is None
    return True


def test_the_connection_limit(start_server: StartServer) -> None:
    """Over all workers together. Who is in is not disturbed, and a place that is free again is
    given away."""
    with Lobby(start_server("--max-connections", "6", workers=3)) as lobby:
        username = lobby.new_user()
        wait_until(lambda: lobby.counters()["connections"] == 0, "the registration is over")
        inside = [lobby.enter(username) for _ in range(6)]
        for wire in inside:
            wire.ok(Opcode.JOIN_ROOM, 1)
        for number in range(1, 11):
            wire = lobby.open()
            assert is_refused(wire)
            wire.close()
            assert lobby.counters()["refused"] == number
        seq = inside[0].ok(Opcode.CHAT_SEND, 1, "still here").room_seq
        assert seq == 2
        for wire in inside:
            while wire.push().body.room_seq < seq:
                pass
        inside.pop().close()
        wait_until(lambda: lobby.counters()["connections"] == 5, "all but five are gone")
        lobby.enter(username)
        assert is_refused(lobby.open())


def test_many_connections_at_once_over_the_limit(start_server: StartServer) -> None:
    """However they arrive, no more than the limit get in, and each of the others is told."""
    with Lobby(start_server("--max-connections", "8", workers=4)) as lobby:
        wires = [lobby.open() for _ in range(40)]
        with ThreadPoolExecutor(len(wires)) as pool:
            refused = list(pool.map(is_refused, wires))
        inside = [wire for wire, out in zip(wires, refused, strict=True) if not out]
        assert 0 < len(inside) <= 8
        for wire in inside:
            wire.ok(Opcode.HEARTBEAT, 2)
        for wire in wires:
            wire.close()
        wait_until(lambda: lobby.counters()["connections"] == 0, "all are gone")
        assert not is_refused(lobby.open())


# ---- the request rate

RATE = 20  # requests a second


def test_the_request_rate(start_server: StartServer) -> None:
    """Over it a connection is read no faster: nothing is refused for a second. After that requests
    are refused with the time to wait, and not many of them. And it is each session's own."""
    with Lobby(start_server("--rate-limit", str(RATE))) as lobby:
        wire, other = lobby.enter(), lobby.enter()
        sent = 5 * RATE
        began = time.monotonic()
        wire.send_raw(b"".join(request(Opcode.DEPOSIT, n, 1) for n in range(1, sent + 1)))
        answers = [wire.answer() for _ in range(sent)]
        seconds = time.monotonic() - began
        executed = [answer for answer in answers if answer.status == Status.OK]
        refused = [answer for answer in answers if answer.status != Status.OK]
        assert RATE <= len(executed) <= RATE + seconds * RATE + 1
        assert all(answer.status == Status.OK for answer in answers[: RATE + 1])
        assert refused
        for answer in refused:
            assert answer.status == BUSY
            assert 0 < answer.body.retry_after_ms <= 1000 / RATE + 1
        assert len(refused) <= seconds / REFUSED_S + 1, "not read for a moment after each of them"
        assert lobby.counters()["rate_limited"] == len(refused)
        assert lobby.counters()["slowed"] > 0

        assert other.ok(Opcode.HEARTBEAT, 1).client_time == 1
        wait_until(lambda: wire.call(Opcode.BALANCE).status == Status.OK, "it may go on")


def test_what_was_refused_for_its_rate_can_be_sent_again(start_server: StartServer) -> None:
    """Under the same req_id, and it is executed once: the refusal left no outcome."""
    with Lobby(start_server("--rate-limit", str(RATE))) as lobby:
        wire = lobby.enter(client_id=5)
        wire.send_raw(b"".join(request(Opcode.DEPOSIT, n, 1) for n in range(1, 4 * RATE)))
        unanswered = [n for n in range(1, 4 * RATE) if wire.answer().status == BUSY]
        assert unanswered

        def is_executed(req_id: int) -> bool:
            return wire.call(Opcode.DEPOSIT, 1, req_id=req_id).status == Status.OK

        for req_id in unanswered:
            wait_until(partial(is_executed, req_id), "it is executed in its turn")
        history = wire.call(Opcode.TXN_HISTORY, 0, 256)
        while history.status == BUSY:
            history = wire.call(Opcode.TXN_HISTORY, 0, 256)
        assert history.body.transactions[0].balance == 4 * RATE - 1


# ---- time


class Started(NamedTuple):
    """A connection, and a moment before the last that was sent on it: its deadline is counted from
    a later one."""

    wire: Wire
    at: float  # time.monotonic()


def started(make: Callable[[], Wire]) -> Started:
    at = time.monotonic()
    return Started(make(), at)


def closed_after_s(
    on: Started, do: Callable[[Wire], object], every_s: float, limit_s: float
) -> float:
    """Seconds until the server closes this connection, on which `do` is done now and then; inf
    where it has not within the limit."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        do(on.wire)
        while on.wire.readable(every_s):
            if on.wire.receive() is None:
                return time.monotonic() - on.at
    return math.inf


def stays_open(on: Started, do: Callable[[Wire], object], every_s: float, for_s: float) -> bool:
    """Whether it is open after that time, `do` being done now and then. A machine that kept this
    thread waiting for half the time in one go has made it silent itself: that says nothing."""
    end, last = time.monotonic() + for_s, on.at
    while (now := time.monotonic()) < end:
        if now - last > for_s / 4:
            return True
        last = now
        try:
            do(on.wire)
            while on.wire.readable(every_s):
                if on.wire.receive() is None:
                    return time.monotonic() - last > for_s / 4
        except ConnectionError:
            return False
    return True


def nothing(wire: Wire) -> None:
    del wire


def beat(wire: Wire) -> None:
    wire.send(Opcode.HEARTBEAT, 1)


def hello(wire: Wire) -> None:
    wire.send(Opcode.HELLO, 0, "tests", "somebody", NONCE, b"")


def test_the_handshake_deadline(start_server: StartServer) -> None:
    """Whoever has not logged in by then is closed, HEARTBEATs and HELLOs or not; and again after
    LOGOUT. Who has is not."""
    deadline_s = 0.6
    with Lobby(start_server("--handshake-timeout", str(deadline_s))) as lobby:
        member = lobby.enter()
        out = lobby.enter()
        with ThreadPoolExecutor(4) as pool:
            closing = [
                pool.submit(closed_after_s, started(lobby.open), do, 0.05, LATE_S)
                for do in (nothing, beat, hello)
            ]
            for each in closing:
                assert deadline_s * EARLY < each.result() < math.inf
            begun = Started(out, time.monotonic())
            out.ok(Opcode.LOGOUT)
            assert deadline_s * EARLY < closed_after_s(begun, beat, 0.05, LATE_S) < math.inf
        member.ok(Opcode.BALANCE)
        wait_until(lambda: lobby.counters()["timed_out"] == 4, "all are counted")


def test_no_account_holds_more_than_it_may(start_server: StartServer) -> None:
    """The payee's as well; and nothing changes. The money of all has a limit of its own."""
    with Lobby(start_server("--max-balance", "1000")) as lobby:
        ann, bob = lobby.enter(), lobby.enter()
        ann.ok(Opcode.DEPOSIT, 1000)
        bob.ok(Opcode.DEPOSIT, 999)
        for wire, opcode, *fields in (
            (ann, Opcode.DEPOSIT, 1),
            (ann, Opcode.DEPOSIT, 2**64 - 1),
            (ann, Opcode.TRANSFER, bob.user, 2),
            (bob, Opcode.DEPOSIT, 2),
        ):
            answer = wire.call(opcode, *fields)
            assert (answer.status, answer.body.retry_after_ms) == (Status.ERR_LIMIT, 0)
        assert ann.ok(Opcode.TRANSFER, bob.user, 1).balance == 999
        assert bob.ok(Opcode.BALANCE).balance == 1000
    with Lobby(start_server()) as lobby:
        ann, bob = lobby.enter(), lobby.enter()
        ann.ok(Opcode.DEPOSIT, 2**63 - 2)
        assert bob.status(Opcode.DEPOSIT, 2) == Status.ERR_LIMIT
        bob.ok(Opcode.DEPOSIT, 1)
        assert bob.status(Opcode.DEPOSIT, 1) == Status.ERR_LIMIT
        # Whom somebody has made so rich can be paid all that there is beside.
        assert ann.ok(Opcode.TRANSFER, bob.user, 2**63 - 2).balance == 0
        assert bob.ok(Opcode.WITHDRAW, 2**63 - 1).balance == 0


def test_a_payment_is_neither_smaller_nor_larger_than_it_may_be(start_server: StartServer) -> None:
    """In a room and on a board, too."""
    room = 7
    with Lobby(start_server("--min-transfer", "3", "--max-transfer", "20")) as lobby:
        ann, bob = lobby.enter(), lobby.enter()
        ann.ok(Opcode.DEPOSIT, 1000)
        for wire in (ann, bob):
            wire.ok(Opcode.JOIN_ROOM, room)
        for amount in (2, 21, 2**63):
            status = Status.ERR_LIMIT if amount < 1000 else Status.ERR_INSUFFICIENT_FUNDS
            answer = ann.call(Opcode.TRANSFER, bob.user, amount)
            assert answer.status == status
            if status == Status.ERR_LIMIT:
                assert answer.body.detail == f"a payment is 3 to 20, not {amount}"
            answer = ann.call(Opcode.TRANSFER_IN_ROOM, room, bob.user, amount, "")
            assert answer.status == status
            assert bob.status(Opcode.BOARD_ADD, room, amount, "an offer") == Status.ERR_LIMIT
        assert ann.ok(Opcode.BALANCE).balance == 1000
        assert ann.ok(Opcode.TRANSFER, bob.user, 3).balance == 997
        assert ann.ok(Opcode.TRANSFER_IN_ROOM, room, bob.user, 20, "").balance == 977
        entry = bob.ok(Opcode.BOARD_ADD, room, 20, "an offer").entry_id
        assert ann.ok(Opcode.BOARD_TAKE, room, entry, 20).balance == 957


IDLE_S = 2
UNKNOWN = assemble(0x0777, 1, 0, 0, b"")
MALFORMED = assemble(Opcode.HEARTBEAT, 1, 0, 0, b"short")


def test_the_idle_timeout(start_server: StartServer) -> None:
    """Valid frames keep a connection, refused requests among them; silence does not, nor does
    anything that the table of bad input answers, nor half a frame."""
    flags = ("--idle-timeout", str(IDLE_S), "--heartbeat", "1", "--handshake-timeout", "60")
    with Lobby(start_server(*flags)) as lobby:
        room = 5

        def no_such_user(wire: Wire) -> None:
            wire.send(Opcode.USER_NAME, 4000)

        def amount_0(wire: Wire) -> None:
            wire.send(Opcode.DEPOSIT, 0)

        def login_again(wire: Wire) -> None:
            wire.send(Opcode.LOGIN, "somebody", b"", 0, 1)

        def bad_frame(wire: Wire) -> None:
            wire.send_raw(request(Opcode.HEARTBEAT, 0, 1))

        def malformed(wire: Wire) -> None:
            wire.send_raw(MALFORMED)

        def bad_hello(wire: Wire) -> None:
            wire.send(Opcode.HELLO, 0, "tests", "some body", NONCE, b"")

        def unknown_opcode(wire: Wire) -> None:
            wire.send_raw(UNKNOWN)

        def one_byte(wire: Wire) -> None:
            wire.send_raw(b"\0")

        def big_frame() -> Wire:
            wire = lobby.enter()
            wire.send_raw(request(Opcode.USER_LOOKUP, 1, "x" * 60_000)[:100])
            return wire

        def greeted() -> Wire:
            wire = lobby.open()
            wire.hello("somebody")
            return wire

        def member() -> Wire:
            wire = lobby.enter()
            wire.ok(Opcode.JOIN_ROOM, room)
            return wire

        go = [
            (silent := started(member), nothing),
            (started(lobby.enter), bad_frame),
            (started(lobby.enter), unknown_opcode),
            (started(lobby.enter), malformed),
            (started(greeted), bad_hello),
            (started(big_frame), one_byte),
        ]
        with ThreadPoolExecutor(16) as pool:
            stay = [
                (do.__name__, pool.submit(stays_open, started(make), do, 0.2, 2 * IDLE_S))
                for make, do in (
                    (lobby.enter, beat),
                    (lobby.enter, no_such_user),
                    (lobby.enter, amount_0),
                    (lobby.enter, login_again),
                    (lobby.open, hello),
                )
            ]
            ends = [
                (do.__name__, pool.submit(closed_after_s, on, do, 0.2, LATE_S)) for on, do in go
            ]
            for name, end in ends:
                assert IDLE_S * EARLY < end.result() < math.inf, name
            for name, stayed in stay:
                assert stayed.result(), name
        watcher = lobby.enter()
        assert not watcher.ok(Opcode.USER_NAME, silent.wire.user).online
        watcher.ok(Opcode.JOIN_ROOM, room)
        joined, left, _ = watcher.ok(Opcode.ROOM_HISTORY, room, 0, 5).events
        assert (joined.kind, left.kind) == (EventKind.JOINED, EventKind.LEFT)
        assert left.from_user == silent.wire.user


# ---- full tables


def check_full(answer: Received, setting: str) -> None:
    assert answer.status == BUSY
    assert setting in answer.body.detail
    assert answer.body.retry_after_ms > 0


def test_no_more_accounts(start_server: StartServer) -> None:
    with Lobby(start_server("--accounts", "3")) as lobby:
        names = [lobby.new_user() for _ in range(3)]
        for _ in range(2):
            wire = lobby.open()
            wire.hello("fourth")
            answer = wire.register("fourth")
            check_full(answer, "accounts")
            assert wire.register(names[0]).status == Status.ERR_ALREADY_EXISTS
        wires = [lobby.enter(name) for name in names]
        wires[0].ok(Opcode.DEPOSIT, 30)
        wires[0].ok(Opcode.TRANSFER, wires[2].user, 10)
        assert [wire.ok(Opcode.BALANCE).balance for wire in wires] == [20, 0, 10]
        assert wires[0].status(Opcode.TRANSFER, wires[2].user + 1, 1) == Status.ERR_NOT_FOUND
        assert wires[0].status(Opcode.USER_LOOKUP, "fourth") == Status.ERR_NOT_FOUND


def test_no_more_clients(start_server: StartServer) -> None:
    """Who is known may come again, and client 0 takes no place."""
    with Lobby(start_server("--clients", "2")) as lobby:
        username = lobby.new_user()
        first, _ = (lobby.enter(username, client_id=client_id) for client_id in (1, 2))
        first.ok(Opcode.DEPOSIT, 5)
        third = lobby.open()
        third.hello(username)
        answer = third.login(username, client_id=3)
        check_full(answer, "clients")
        assert third.login(username).status == Status.ERR_UNAUTHORIZED  # the nonce is used up
        third.hello(username)
        assert third.login(username, client_id=0).status == Status.OK
        assert third.ok(Opcode.BALANCE).balance == 5
        again = lobby.enter(username, client_id=2)
        again.ok(Opcode.DEPOSIT, 5)
        assert first.ok(Opcode.BALANCE).balance == 10


def test_an_idle_clients_place_is_given_away(start_server: StartServer) -> None:
    """After the retention time, to who wants it: the client that has been idle the longest; one
    with a session never."""
    with Lobby(start_server("--clients", "3", "--client-retention", "1")) as lobby:
        username = lobby.new_user()
        stays = lobby.enter(username, client_id=1)
        assert stays.call(Opcode.DEPOSIT, 5, req_id=1).status == Status.OK
        for client_id in (2, 3):
            idle = lobby.enter(username, client_id=client_id)
            assert idle.call(Opcode.DEPOSIT, 5, req_id=1).status == Status.OK
            idle.ok(Opcode.LOGOUT)
        wire = lobby.open()

        def enters(client_id: int) -> bool:
            wire.hello(username)
            return wire.login(username, client_id=client_id).status == Status.OK

        assert not enters(4)
        wait_until(lambda: enters(4), "a client has been idle for long enough")
        assert wire.call(Opcode.DEPOSIT, 5, req_id=1).status == Status.OK
        assert wire.ok(Opcode.BALANCE).balance == 20
        retry = lobby.open()
        retry.hello(username)
        assert retry.login(username, client_id=3).body.resumed == 1  # 2 was idle for longer
        answer = retry.call(Opcode.DEPOSIT, 5, req_id=1)
        assert (answer.status, bool(answer.flags & Flag.POSSIBLE_DUPLICATE)) == (Status.OK, True)
        answer = stays.call(Opcode.DEPOSIT, 5, req_id=1)
        assert (answer.status, bool(answer.flags & Flag.POSSIBLE_DUPLICATE)) == (Status.OK, True)
        refused = lobby.open()
        refused.hello(username)
        assert refused.login(username, client_id=2).status == BUSY  # all three have sessions


@pytest.mark.parametrize("count", [1, 2])
def test_a_region_of_the_smallest_size(start_server: StartServer, count: int) -> None:
    """One of each: it serves, and refuses what there is no place for."""
    flags = (
        "--accounts", str(count), "--clients", "1", "--sessions", "2", "--max-connections", "2",
        "--rooms", "1", "--txn-ring", "64", "--event-ring", "16", "--account-locks", "1",
        "--max-message", "1",
    )  # fmt: skip
    with Lobby(start_server(*flags, workers=1)) as lobby:
        wire = lobby.open()
        wire.hello("")
        names = [lobby.name() for _ in range(count + 1)]
        iterations = wire.hello("").body.iterations
        statuses = [wire.status(Opcode.REGISTER, *registration(name, iterations)) for name in names]
        assert statuses == [Status.OK] * count + [BUSY]
        wire.hello(names[0])
        assert wire.login(names[0], client_id=1).status == Status.OK
        joined = wire.ok(Opcode.JOIN_ROOM, 1)
        assert wire.ok(Opcode.CHAT_SEND, 1, "x").room_seq == joined.last_seq + 2
        for amount in range(1, 201):
            wire.ok(Opcode.DEPOSIT, amount)
        assert wire.ok(Opcode.BALANCE).balance == 200 * 201 // 2
        shown = wire.ok(Opcode.TXN_HISTORY, 0, 256).transactions
        assert len(shown) == 200, "the journal has what has gone from the ring"

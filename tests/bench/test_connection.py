"""A connection of the load against a server that says what a script says."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from bench.lab.login import verifier
from bench.stress.connection import Member
from bench.stress.load import Begin, Load
from bench.stress.notes import ANSWER, now
from bench.stress.options import parse
from bench.stress.record import READ, Answer, Span, Unknown
from libproto.errors import Status
from libproto.messages import (
    MIN_ITERATIONS,
    ChatBroadcast,
    EventKind,
    Flag,
    Opcode,
    TxnKind,
)
from tests.client.leaving import GOING_AWAY, Old, Sequence, moved_to
from tests.client.peer import (
    USER_ID,
    USERNAME,
    WAIT_S,
    Handshake,
    Request,
    Script,
    Wire,
    answer,
    push,
    refuse,
    serving,
)
from tests.helpers.server import wait_until

FUNDS = 1000
DUPLICATE = Flag.POSSIBLE_DUPLICATE


def door() -> Handshake:
    handshake = Handshake(login={"resumed": 1})
    handshake.verifier = verifier(MIN_ITERATIONS)
    return handshake


def log_in(wire: Wire) -> None:
    wire.log_in(door())


def deposit(wire: Wire, *, repeated: bool) -> Request:
    request = wire.request()
    flags = DUPLICATE if repeated else 0
    assert request == Request(Opcode.DEPOSIT, 1, flags, (FUNDS,))
    return request


def funded(wire: Wire) -> None:
    log_in(wire)
    wire.send(answer(deposit(wire, repeated=False), 5, FUNDS))


@contextmanager
def loading(
    *scripts: Script,
    words: tuple[str, ...] = ("--mix=trade-heavy", "--ratio=0:0:0:1"),
    rooms: tuple[int, ...] = (),
    timeout: float = 5.0,
    slow: bool = False,
    place: int = 0,
    account: int = 0,
) -> Iterator[Load]:
    """A thread of the load with one connection, to these scripts in turn."""
    options = parse([*words, f"--funds={FUNDS}"])
    member = Member(account, USERNAME, USER_ID, list(rooms), slow)
    with serving(*scripts) as port:
        address = (socket.AF_INET, ("127.0.0.1", port))
        load = Load(replace(options, timeout=timeout), place, address, [USER_ID, 99], [member])
        load.start()
        try:
            yield load
        finally:
            load.tell("end")
            load.join()
    assert load.error is None


def settle(load: Load) -> None:
    wait_until(lambda: not load.unsettled(), "all is settled")


def begin(load: Load) -> Span:
    """A run that goes on until it is stopped."""
    span = Span(now(), now() + 3600)
    load.tell(Begin(span, {1: 1}))
    wait_until(lambda: load.recorder.span is span, "the run begins")
    return span


def answers(load: Load) -> list[Answer]:
    return [Answer._make(each) for each in ANSWER.iter_unpack(load.trail.answers)]


def test_a_request_is_repeated_until_its_outcome_is_known() -> None:
    def lose(wire: Wire) -> None:
        log_in(wire)
        deposit(wire, repeated=False)

    def busy(wire: Wire) -> None:
        log_in(wire)
        wire.send(refuse(deposit(wire, repeated=True), Status.ERR_SERVER_BUSY, "busy", 30))
        deposit(wire, repeated=True)

    def at_last(wire: Wire) -> None:
        log_in(wire)
        wire.send(answer(deposit(wire, repeated=True), 5, FUNDS, flags=DUPLICATE))
        wire.wait_closed()

    with loading(lose, busy, at_last) as load:
        settle(load)
        (told,) = answers(load)
        assert told[:6] == (5, TxnKind.DEPOSIT, USER_ID, 0, FUNDS, FUNDS)
        assert told.sent < told.answered
        assert load.everybody[0].reconnects == 2
        assert load.trail.unexpected == []


def test_it_moves_before_the_server_closes_its_connection() -> None:
    """What is under way is answered first, and nothing is lost or sent again."""
    sequence = Sequence()

    class Leaving(Old):
        def serve(self, wire: Wire) -> None:
            log_in(wire)
            request = deposit(wire, repeated=False)
            self.tell(wire)
            wire.send(answer(request, 5, FUNDS))

    with loading(Leaving(sequence), moved_to(sequence, Wire.wait_closed, door())) as load:
        sequence.await_step("old: closed")
        settle(load)
        assert [told.txn_id for told in answers(load)] == [5]
        (connection,) = load.everybody
        assert (connection.moves, connection.reconnects) == (1, 0)
        assert load.trail.unexpected == []
        assert not load.recorder.errors


def test_it_may_be_told_to_move_before_it_is_logged_in() -> None:
    """Then it logs in first, and has its session taken along."""
    sequence = Sequence()

    class Early(Old):
        def serve(self, wire: Wire) -> None:
            handshake = door()
            wire.send(GOING_AWAY, handshake.respond(wire.request()))
            wire.send(handshake.respond(wire.request()))
            wire.send(answer(deposit(wire, repeated=False), 5, FUNDS))
            sequence.note("old: told")

    with loading(Early(sequence), moved_to(sequence, Wire.wait_closed, door())) as load:
        sequence.await_step("old: closed")
        settle(load)
        assert load.trail.unexpected == []
        (connection,) = load.everybody
        assert (connection.moves, connection.reconnects) == (1, 0)


def asked(seed: int, place: int, account: int) -> list[Request]:
    """The first requests of this account's connection, in a thread at this place."""
    many = 32
    found: list[Request] = []

    def serve(wire: Wire) -> None:
        funded(wire)
        found.extend(wire.request() for _ in range(many))

    what = ("--mix=trade-heavy", "--ratio=1:1:1:1", "--connections=1", "--accounts=2")
    words = (*what, f"--pipeline={many}", f"--seed={seed}")
    with loading(serve, words=words, place=place, account=account) as load:
        settle(load)
        begin(load)
        wait_until(lambda: len(found) == many, "the requests")
    return found


def test_a_seed_gives_each_connection_its_requests_whatever_thread_it_is_in() -> None:
    one = asked(seed=7, place=0, account=1)
    assert asked(seed=7, place=3, account=1) == one
    assert asked(seed=7, place=0, account=0) != one
    assert asked(seed=8, place=0, account=1) != one


def test_an_outcome_that_is_not_known_any_more() -> None:
    def forget(wire: Wire) -> None:
        log_in(wire)
        wire.send(refuse(deposit(wire, repeated=False), Status.ERR_TIMEOUT, "outcome unknown"))
        wire.wait_closed()

    with loading(forget) as load:
        settle(load)
        (unknown,) = load.trail.unknown
        assert unknown[:5] == Unknown(USER_ID, 1, TxnKind.DEPOSIT, 0, FUNDS, 0.0)[:5]
        assert answers(load) == []


def test_a_request_that_is_not_answered_fails_and_ends_its_connection() -> None:
    def silent(wire: Wire) -> None:
        funded(wire)
        assert wire.request().opcode == Opcode.BALANCE
        assert wire.wait_closed() == []

    def again(wire: Wire) -> None:
        log_in(wire)
        request = wire.request()
        assert request.opcode == Opcode.BALANCE
        wire.send(answer(request, FUNDS, 5))
        wire.wait_closed()

    with loading(silent, again, timeout=2.0) as load:
        settle(load)
        span = begin(load)
        wait_until(lambda: load.recorder.succeeded == 1, "the second connection")
        span.end = now()
        recorder = load.recorder
        kinds = {(opcode, kind) for _, opcode, kind in recorder.errors}
        assert kinds == {(Opcode.BALANCE, "timeout")}
        assert recorder.failed == 1
        assert answers(load)[-1][:6] == (5, READ, USER_ID, 0, 0, FUNDS)


def test_a_refusal_for_load_is_waited_out() -> None:
    gone = []

    def busy(wire: Wire) -> None:
        funded(wire)
        request, refused = wire.request(), now()
        wire.send(refuse(request, Status.ERR_SERVER_BUSY, "busy", 200))
        request = wire.request()
        gone.append(now() - refused)
        wire.send(answer(request, FUNDS, 5))
        wire.wait_closed()

    with loading(busy) as load:
        settle(load)
        span = begin(load)
        wait_until(lambda: load.recorder.succeeded == 1, "the second request")
        span.end = now()
        assert load.recorder.failed == 1
    assert gone[0] >= 0.2


@pytest.mark.parametrize("rooms", [(), (1,)])
def test_what_the_protocol_does_not_allow_is_told(rooms: tuple[int, ...]) -> None:
    event = ChatBroadcast(1, 1, 0, EventKind.MESSAGE, 9, "bob", "hello")

    def confused(wire: Wire) -> None:
        log_in(wire)
        if rooms:
            join = wire.request()
            wire.send(push(Opcode.CHAT_BROADCAST, *event), answer(join, 1, 0, 1, 77))
        request = deposit(wire, repeated=False)
        wire.send(answer(request._replace(req_id=2), 5, FUNDS))
        if not rooms:
            wire.send(push(Opcode.CHAT_BROADCAST, *event))
        wire.send(answer(request._replace(opcode=Opcode.WITHDRAW), 5, FUNDS))
        wire.send(answer(request, 5, FUNDS))
        wire.wait_closed()

    with loading(confused, rooms=rooms) as load:
        settle(load)
        texts = " ".join(load.trail.unexpected)
        assert texts.count("nobody waits for") == 2
        assert f"opcode {Opcode.WITHDRAW:#06x}" in texts
        assert texts.count("not in room 1") == 1


def test_a_push_that_is_left_out_is_found() -> None:
    events = [
        ChatBroadcast(1, seq, 0, EventKind.MESSAGE, 9, "bob", f"message {seq}")
        for seq in range(1, 4)
    ]

    def forgetful(wire: Wire) -> None:
        log_in(wire)
        wire.send(answer(wire.request(), 1, 0, 1, 77))
        wire.send(answer(deposit(wire, repeated=False), 5, FUNDS))
        wire.send(*(push(Opcode.CHAT_BROADCAST, *events[seq]) for seq in (0, 2)))
        wire.wait_closed()

    with loading(forgetful, rooms=(1,)) as load:
        settle(load)
        wait_until(lambda: not load.behind({1: 3}), "the last event")
        assert [problem.check for problem in load.rooms.problems] == ["events_missing"]
        assert "room 1" in load.behind({1: 4})


def test_pushes_of_several_rooms() -> None:
    def talk(wire: Wire) -> None:
        log_in(wire)
        for _ in range(2):
            join = wire.request()
            wire.send(answer(join, *join.fields, 0, 1, 77))
        wire.send(answer(deposit(wire, repeated=False), 5, FUNDS))
        for seq in range(1, 4):
            for room in (1, 2):
                event = ChatBroadcast(room, seq, 0, EventKind.MESSAGE, 9, "bob", f"of room {room}")
                wire.send(push(Opcode.CHAT_BROADCAST, *event))
        wire.wait_closed()

    with loading(talk, rooms=(1, 2)) as load:
        settle(load)
        wait_until(lambda: not load.behind({1: 3, 2: 3}), "the last events")
        assert load.rooms.problems == []
        assert load.trail.unexpected == []


def test_what_the_kernel_does_not_take_at_once_is_sent_later() -> None:
    """Sixty-four messages of four KiB each, where a few of them have room."""
    asked: list[Request] = []

    def listen(wire: Wire) -> None:
        log_in(wire)
        wire.send(answer(wire.request(), 1, 0, 1, 77))
        wire.send(answer(deposit(wire, repeated=False), 5, FUNDS))
        asked.extend(wire.request() for _ in range(64))
        wire.wait_closed()

    words = ("--mix=chat-heavy", "--pipeline=64", "--payload=4096")
    with loading(listen, words=words, rooms=(1,)) as load:
        settle(load)
        (fd,) = load.connections
        with socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        begin(load).end = now()
        wait_until(lambda: len(asked) == 64, "all requests")
    said = [request for request in asked if request.opcode == Opcode.CHAT_SEND]
    assert [request.req_id for request in said] == list(range(2, len(said) + 2))
    assert {len(request.fields[1]) for request in said} == {4096}


@pytest.mark.parametrize("loses", [False, True])
def test_a_slow_member_takes_little_until_the_end(*, loses: bool) -> None:
    """And on a connection that it made in the middle of the run, too."""
    begun, sent = threading.Event(), threading.Event()
    events = [
        ChatBroadcast(1, seq, 0, EventKind.MESSAGE, 9, "bob", "." * 1000) for seq in range(1, 201)
    ]

    def lose(wire: Wire) -> None:
        log_in(wire)
        wire.send(answer(wire.request(), 1, 0, 1, 77))
        assert begun.wait(WAIT_S)

    def flood(wire: Wire) -> None:
        log_in(wire)
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        wire.send(answer(wire.request(), 1, 0, 1, 77))
        assert begun.wait(WAIT_S)
        wire.send(*(push(Opcode.CHAT_BROADCAST, *event) for event in events))
        sent.set()
        wire.wait_closed()

    with loading(*([lose] if loses else []), flood, rooms=(1,), slow=True) as load:
        settle(load)
        span = begin(load)
        begun.set()
        wait_until(lambda: not load.behind({1: 1}), "the first event")
        assert not sent.wait(0.3)  # it would take a minute
        span.end = now()
        load.tell("drain")
        wait_until(lambda: not load.behind({1: 200}), "the last event")
        assert load.rooms.problems == []

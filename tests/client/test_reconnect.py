"""Both clients over lost connections: scripts that a server would rarely play, and a real server
whose workers are killed. Each test is for the blocking client and for the one of asyncio.
"""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

import client.core.resume
import client.io.connection
from client import (
    AsyncClient,
    CallTimeout,
    Client,
    ClientError,
    ConnectionLost,
    Push,
    Receipt,
    ReloginFailed,
    RoomReceipt,
    RoomRestarted,
    Sent,
    Superseded,
)
from client.core.inbox import size_of
from libproto.codec import error_frame
from libproto.errors import MisuseError, Status
from libproto.messages import (
    ChatBroadcast,
    DirectMessage,
    EventKind,
    Flag,
    Opcode,
    RoomGap,
    TxnKind,
)
from server.region.region import Region
from tests.client.conftest import Make
from tests.client.peer import (
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
)
from tests.client.test_blocking import ENDS, in_thread, then
from tests.helpers.server import RunningServer, StartServer, lasting_port, wait_until

ROOM = 1


def resumed() -> Handshake:
    return Handshake(login={"resumed": 1})


def back(script: Script) -> Script:
    """A script after the client has logged in again."""

    def run(wire: Wire) -> None:
        wire.log_in(resumed())
        script(wire)

    return run


def message(seq: int) -> ChatBroadcast:
    return ChatBroadcast(ROOM, seq, 0, EventKind.MESSAGE, 3, "bob", f"message {seq}")


# --- calls ------------------------------------------------------------------------------------


def answer_the_repeated(wire: Wire) -> None:
    again = wire.request()
    assert again[:3] == (Opcode.DEPOSIT, 1, Flag.POSSIBLE_DUPLICATE)
    wire.send(answer(again, 9, 5, flags=Flag.POSSIBLE_DUPLICATE))
    balance = wire.request()
    assert balance.opcode == Opcode.BALANCE
    wire.send(answer(balance, 5, 9))
    wire.wait_closed()


@pytest.mark.parametrize("end", ENDS)
def test_a_deposit_outlives_its_connection(make_lasting: Make, end: Script) -> None:
    told: list[ClientError | None] = []
    with (
        serving(then(end), back(answer_the_repeated)) as port,
        make_lasting(port=port, on_reconnect=told.append) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        assert ann.deposit(5)[:2] == (9, 5)
        assert ann.balance() == (5, 9)
        assert (ann.reconnects, ann.connected, ann.reconnecting) == (1, True, False)
        wait_until(lambda: len(told) == 2, "both notices")
        assert [type(each) for each in told] == [ConnectionLost, type(None)]
        assert ann.resumed


def test_many_losses(make_lasting: Make) -> None:
    """At every stage of coming back, until it succeeds."""

    def at_the_door(wire: Wire) -> None:
        wire.request()
        wire.send(error_frame(Opcode.HELLO, 0, Status.ERR_SERVER_BUSY, "full", 20))

    def at_the_login(wire: Wire) -> None:
        handshake = resumed()
        wire.send(handshake.respond(wire.request()))
        wire.send(refuse(wire.request(), Status.ERR_SERVER_BUSY, "too many", 20))
        wire.wait_closed()

    def after_hello(wire: Wire) -> None:
        wire.send(resumed().respond(wire.request()))

    def read_one(wire: Wire) -> None:
        wire.request()

    scripts: list[Script] = [at_the_door, Wire.request, at_the_login, after_hello, back(read_one)]
    told: list[ClientError | None] = []
    with (
        serving(then(read_one), *scripts, back(answer_the_repeated)) as port,
        make_lasting(port=port, on_reconnect=told.append) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        assert ann.deposit(5)[:2] == (9, 5)
        assert ann.balance() == (5, 9)
        assert ann.reconnects == 1
        wait_until(lambda: len(told) == 2, "both notices")


def test_a_server_that_accepts_and_is_silent(
    make_lasting: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.io.connection, "ATTEMPT_S", 0.2)
    scripts: list[Script] = [then(ENDS[2]), Wire.wait_closed, back(answer_the_repeated)]
    with serving(*scripts) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        assert ann.deposit(5)[:2] == (9, 5)
        assert ann.balance() == (5, 9)


def test_a_server_that_falls_silent(make_lasting: Make) -> None:
    def silent(wire: Wire) -> None:
        wire.log_in(Handshake(hello={"heartbeat_s": 1, "idle_timeout_s": 1}))
        assert [request.opcode for request in wire.wait_closed()][:2] == [
            Opcode.DEPOSIT,
            Opcode.USER_NAME,
        ]

    with serving(silent, back(answer_the_repeated)) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        assert ann.deposit(5)[:2] == (9, 5)
        assert ann.balance() == (5, 9)


def test_signs_of_life_go_on(make_lasting: Make) -> None:
    """Though the program asks for nothing."""
    heard = threading.Event()
    beats = {"heartbeat_s": 1, "idle_timeout_s": 9}

    def again(wire: Wire) -> None:
        wire.log_in(Handshake(hello=beats, login={"resumed": 1}))
        assert wire.request().opcode == Opcode.USER_NAME
        heard.set()
        wire.wait_closed()

    def first(wire: Wire) -> None:
        wire.log_in(Handshake(hello=beats))

    with serving(first, again) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        assert heard.wait(WAIT_S)


def test_a_refusal_that_does_not_tell_is_waited_out(make_lasting: Make) -> None:
    def busy(wire: Wire) -> None:
        for _ in range(3):
            wire.send(refuse(wire.request(), Status.ERR_SERVER_BUSY, "rate limit", 10))
        answer_the_repeated(wire)

    with serving(then(ENDS[2]), back(busy)) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        assert ann.deposit(5)[:2] == (9, 5)
        assert ann.balance() == (5, 9)


def test_what_was_being_said_is_said_once(make_lasting: Make) -> None:
    """And what was asked for before it is before it again."""

    def first(wire: Wire) -> None:
        for _ in range(3):
            wire.request()

    def second(wire: Wire) -> None:
        requests = [wire.request() for _ in range(3)]
        assert [(request.opcode, request.flags) for request in requests] == [
            (Opcode.BALANCE, 0),
            (Opcode.JOIN_ROOM, 0),
            (Opcode.CHAT_SEND, Flag.POSSIBLE_DUPLICATE),
        ]
        wire.send(answer(requests[0], 1, 2), answer(requests[1], ROOM, 0, 1, 7))
        wire.send(answer(requests[2], 2, 123, flags=Flag.POSSIBLE_DUPLICATE))
        wire.wait_closed()

    with serving(then(first), back(second)) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        balance = in_thread(ann.balance)
        wait_until(lambda: len(ann._core._pending) == 1, "BALANCE is under way")
        join = in_thread(lambda: ann.join(ROOM))
        wait_until(lambda: len(ann._core._pending) == 2, "JOIN is under way")
        assert ann.send(ROOM, "hi") == Sent(2, 123, 1, True)
        assert balance.result(WAIT_S) == (1, 2)
        assert join.result(WAIT_S).room_id == ROOM


def test_a_deadline_stays_what_it_was(make_lasting: Make) -> None:
    ended = threading.Event()

    def never(wire: Wire) -> None:
        wire.request()
        assert ended.wait(WAIT_S)

    def later(wire: Wire) -> None:
        again = wire.request()
        assert (again.req_id, again.flags) == (1, Flag.POSSIBLE_DUPLICATE)
        wire.send(answer(again, 9, 5))
        wire.wait_closed()

    with serving(then(ENDS[2]), never, back(later)) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        with pytest.raises(CallTimeout, match="no answer") as caught:
            ann.deposit(5, timeout_s=0.3)
        assert caught.value.req_id == 1
        assert (ann.reconnecting, ann.connected) == (True, False)
        assert ann._core.unanswered_req_ids == (1,)
        with pytest.raises(CallTimeout, match="could not be sent") as caught:
            ann.deposit(6, timeout_s=0.05)
        assert caught.value.req_id == 0
        with pytest.raises(MisuseError, match="reconnects by itself"):
            ann.connect()
        ended.set()
        again = ann.deposit(5, req_id=1, possible_duplicate=True)
        assert again == (9, 5, 1, False)
        assert ann._core.unanswered_req_ids == ()


# --- rooms and pushes -------------------------------------------------------------------------


def _join(wire: Wire, last_seq: int, epoch: int = 7) -> None:
    join = wire.request()
    assert (join.opcode, join.fields) == (Opcode.JOIN_ROOM, (ROOM,))
    wire.send(answer(join, ROOM, last_seq, 1, epoch))


def _said(seq: int) -> bytes:
    return push(Opcode.CHAT_BROADCAST, *message(seq))


def _member(wire: Wire) -> None:
    _join(wire, 0)
    wire.send(_said(1))


def _member_again(wire: Wire) -> None:
    _join(wire, 4)
    wire.send(_said(5))
    history = wire.request()
    assert history.fields == (ROOM, 1, 3)
    wire.send(_said(6), answer(history, ROOM, 7, 3, [message(3), message(4)]))
    wire.wait_closed()


MISSED = [message(1), RoomGap(ROOM, 2, 2), *(message(seq) for seq in (3, 4, 5, 6))]


def test_pushes_go_on(make_lasting: Make) -> None:
    with serving(then(_member), back(_member_again)) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        ann.join(ROOM)
        pushes = ann.pushes()
        assert [next(pushes) for _ in MISSED] == MISSED
        ann.close()
        assert list(pushes) == []


def test_pushes_go_on_by_callback(make_lasting: Make) -> None:
    got: list[Push] = []
    with (
        serving(then(_member), back(_member_again)) as port,
        make_lasting(port=port, on_push=got.append) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        ann.join(ROOM)
        wait_until(lambda: len(got) == len(MISSED), "all pushes")
        assert got == MISSED


def test_new_calls_do_not_wait_for_a_history(make_lasting: Make) -> None:
    """However long it takes; pushes of the room and the end of its membership come after it."""

    def again(wire: Wire) -> None:
        _join(wire, 4)
        history = wire.request()
        assert history.opcode == Opcode.ROOM_HISTORY
        wire.send(_said(5))
        deposit = wire.request()
        assert deposit.opcode == Opcode.DEPOSIT
        wire.send(answer(deposit, 9, 5))
        balance = wire.request()
        assert balance.opcode == Opcode.BALANCE, "the LEAVE_ROOM before it waits"
        wire.send(answer(balance, 5, 9))
        wire.send(answer(history, ROOM, 7, 1, [message(seq) for seq in (2, 3, 4)]))
        leave = wire.request()
        assert leave.opcode == Opcode.LEAVE_ROOM
        wire.send(answer(leave, ROOM))
        wire.wait_closed()

    with (
        serving(then(_member), back(again)) as port,
        make_lasting(port=port) as ann,
        ThreadPoolExecutor(1) as pool,
    ):
        ann.login(USERNAME, PASSWORD)
        ann.join(ROOM)
        wait_until(lambda: ann.reconnects == 1, "it is connected again")
        assert ann.connected
        assert ann.deposit(5).balance == 5
        left = pool.submit(ann.leave, ROOM)
        wait_until(lambda: left.running(), "the call is made")
        assert ann.balance() == (5, 9)
        assert [ann.next_push() for _ in range(5)] == [message(seq) for seq in range(1, 6)]
        left.result(WAIT_S)


def test_a_room_that_began_anew(make_lasting: Make) -> None:
    def again(wire: Wire) -> None:
        _join(wire, 2, epoch=8)
        wire.send(_said(3))
        wire.wait_closed()

    with serving(then(_member), back(again)) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        ann.join(ROOM)
        assert [ann.next_push() for _ in range(3)] == [
            message(1),
            RoomRestarted(ROOM, 8, 2),
            message(3),
        ]


def test_a_program_that_takes_no_pushes(make_lasting: Make) -> None:
    """What did not fit is named by a gap, and the connection is not the slower for it."""

    def flood(wire: Wire) -> None:
        _join(wire, 0)
        wire.send(*(_said(seq) for seq in range(1, 21)))

    def again(wire: Wire) -> None:
        _join(wire, 20)
        wire.send(_said(21))
        wire.wait_closed()

    with (
        serving(then(flood), back(again)) as port,
        make_lasting(port=port, pushes_max_bytes=10 * size_of(message(10))) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        ann.join(ROOM)
        wait_until(lambda: ann.reconnects == 1 and ann.pushes_dropped == 11, "all pushes")
        given = [ann.next_push() for _ in range(11)]
        assert given == [*(message(seq) for seq in range(1, 11)), RoomGap(ROOM, 11, 21)]


# --- the end ----------------------------------------------------------------------------------


def test_close_ends_the_pauses(make_lasting: Make) -> None:
    """Nobody listens any more."""
    with serving(then(ENDS[2])) as port:
        ann = make_lasting(port=port)
        ann.__enter__()
        ann.login(USERNAME, PASSWORD)
        deposit: Future[Any] = in_thread(lambda: ann.deposit(5, timeout_s=WAIT_S))
        pushes = in_thread(lambda: list(ann.pushes()))
    wait_until(lambda: bool(ann.reconnecting), "the loss")
    wait_until(lambda: ann._core.backoff._attempts > 3, "some attempts")
    began = time.monotonic()
    ann.__exit__(None, None, None)
    assert time.monotonic() - began < WAIT_S / 2
    error = deposit.exception(WAIT_S)
    assert isinstance(error, ConnectionLost)
    assert "closed" in str(error)
    assert error.req_ids == (1,)
    assert pushes.result(WAIT_S) == []
    assert not ann.reconnecting


def test_close_ends_an_attempt(make_lasting: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.io.connection, "ATTEMPT_S", 100 * WAIT_S)  # it ends by itself never
    trying = threading.Event()

    def never(wire: Wire) -> None:
        wire.request()
        trying.set()
        wire.wait_closed()

    with serving(then(lambda _: None), never) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        assert trying.wait(WAIT_S)
        ann.close(timeout_s=WAIT_S)
        assert not ann.reconnecting
        with pytest.raises(ConnectionLost, match="closed"):
            ann.balance()


def test_a_login_that_is_not_taken_any_more(make_lasting: Make) -> None:
    def forgotten(wire: Wire) -> None:
        wire.send(Handshake(hello={"salt": bytes(16)}).respond(wire.request()))
        assert wire.wait_closed() == []

    with serving(then(ENDS[2]), forgotten) as port, make_lasting(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        with pytest.raises(ReloginFailed, match="salt") as caught:
            ann.deposit(5)
        assert caught.value.req_ids == (1,)
        assert (ann.connected, ann.reconnecting) == (False, False)
        with pytest.raises(ReloginFailed):
            ann.next_push()


def test_without_a_login_nothing_is_established_again(make_lasting: Make) -> None:
    with serving(ENDS[2]) as port, make_lasting(port=port) as ann:
        with pytest.raises(ConnectionLost):
            ann.login(USERNAME, PASSWORD)
        assert not ann.reconnecting


def test_on_reconnect_that_raises_ends_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    hooked: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", hooked.append)

    def on_reconnect(_: ClientError | None) -> None:
        raise ZeroDivisionError

    with (
        serving(then(ENDS[2])) as port,
        Client(port=port, reconnect=True, on_reconnect=on_reconnect) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        with pytest.raises(ConnectionLost, match="on_reconnect"):
            ann.deposit(5)
    assert [each.exc_type for each in hooked] == [ZeroDivisionError]


def test_on_reconnect_that_raises_ends_the_asyncio_client() -> None:
    contexts: list[dict[str, Any]] = []

    def on_reconnect(_: ClientError | None) -> None:
        raise ZeroDivisionError

    async def main(port: int) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        async with AsyncClient(port=port, reconnect=True, on_reconnect=on_reconnect) as ann:
            await ann.login(USERNAME, PASSWORD)
            with pytest.raises(ConnectionLost, match="on_reconnect"):
                await ann.deposit(5)

    with serving(then(ENDS[2])) as port:
        asyncio.run(main(port))
    assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError]


# --- a real server ----------------------------------------------------------------------------


def test_a_superseded_client_stays_down(
    make_lasting: Make, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.core.resume, "PROBE_S", 1)
    with (
        make_lasting(port=server.port, client_id=5) as old,
        make_lasting(port=server.port, client_id=5) as new,
    ):
        old.register("ann", PASSWORD)
        old.login("ann", PASSWORD)
        new.login("ann", PASSWORD)
        with pytest.raises(Superseded):
            list(old.pushes())
        with pytest.raises(Superseded):
            old.balance()
        assert (old.connected, old.reconnecting, old.reconnects) == (False, False, 0)
        assert new.balance().balance == 0
        old.connect()
        old.login("ann", PASSWORD)
        with pytest.raises(Superseded):
            new.balance()
        assert old.balance().balance == 0
        assert (old.reconnects, new.reconnects) == (0, 0)


def test_a_server_that_began_without_its_state(
    make_lasting: Make, start_server: StartServer
) -> None:
    first = start_server("--port", str(lasting_port()))
    with make_lasting(port=first.port) as ann:
        ann.register("ann", PASSWORD)
        ann.login("ann", PASSWORD)
        assert first.stop() == 0
        wait_until(lambda: bool(ann.reconnecting), "the loss")
        start_server("--port", str(first.port))
        with pytest.raises(ReloginFailed):
            ann.next_push(WAIT_S * 2)


KILLS = 8
FLOW_S = 300.0
"""Longer than any call takes on a loaded machine, a start of the server included."""


class Member:
    """A user in the room who speaks all the time, and what they were given."""

    def __init__(self, make: Make, server: RunningServer, name: str) -> None:
        self.got: list[Push] = []
        self.said: dict[str, int] = {}  # room_seq by text, in order
        self.name = name
        self.client = make(server.host, server.port, timeout_s=FLOW_S, on_push=self.got.append)

    def enter(self) -> None:
        """Connect, and join the room."""
        self.user_id = self.client.register(self.name, PASSWORD)
        self.client.login(self.name, PASSWORD)
        self.first = self.client.join(ROOM).last_seq + 1

    def speak(self, stopped: threading.Event) -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            self.say(f"{self.name} {number}")

    def say(self, text: str) -> None:
        self.said[text] = self.client.send(ROOM, text).room_seq

    def has_heard(self, text: str) -> bool:
        return any(isinstance(e, ChatBroadcast) and e.message == text for e in self.got[-50:])


def _worker_pid(region: Region, session_id: int) -> int:
    """Of the worker that holds this session; 0 if there is none."""
    words, sessions, workers = region.words, region.layout["sessions"], region.layout["workers"]
    for slot in range(sessions.records):
        if words[sessions.at(slot, "id")] == session_id:
            return words[workers.at(words[sessions.at(slot, "worker")], "pid")]
    return 0


def _kill_under(member: Member, server: RunningServer, region: Region) -> None:
    """Kill the worker that this member is on, and wait until they are back."""
    ann = member.client
    pid = 0

    def found() -> bool:
        nonlocal pid
        pid = _worker_pid(region, ann.session_id) if ann.connected else 0
        return pid in server.worker_pids()

    wait_until(found, f"{member.name} is on a worker", 30.0)
    before = ann.reconnects
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: ann.reconnects > before, f"{member.name} is back", 30.0)


def _history(member: Member, after: int) -> list[ChatBroadcast]:
    found: list[ChatBroadcast] = []
    while events := member.client.history(ROOM, found[-1].room_seq if found else after).events:
        found += events
    return found


def _paid(member: Member) -> set[int]:
    """The txn_ids of this user's own transfers; none is listed twice."""
    ids: list[int] = []
    before = 0
    while page := member.client.transactions(before).transactions:
        ids += [t.txn_id for t in page if t.kind == TxnKind.TRANSFER]
        before = page[-1].txn_id
    assert len(set(ids)) == len(ids)
    return set(ids)


def _check(member: Member) -> None:
    """What a member was given of the room is what happened there since they joined, each event once
    and in order, and all that they said is in it, once and in its order."""
    room = [push for push in member.got if isinstance(push, ChatBroadcast)]
    happened = _history(member, member.first - 1)[: len(room)]
    differ = [pair for pair in zip_longest(room, happened) if pair[0] != pair[1]]
    assert not differ, f"{member.name} at {differ[0]}, {len(room)} given, {len(happened)} there"
    by_seq = {event.room_seq: event for event in room}
    for gap in member.got:
        assert isinstance(gap, ChatBroadcast | RoomGap)
        if isinstance(gap, RoomGap):
            assert not by_seq.keys() & set(range(gap.first_seq, gap.last_seq + 1))
    own = [e for e in room if (e.from_user, e.kind) == (member.user_id, EventKind.MESSAGE)]
    assert [(event.message, event.room_seq) for event in own] == list(member.said.items())


@pytest.mark.usefixtures("both_ways")
def test_workers_are_killed(make_lasting: Make, start_server: StartServer) -> None:
    """Money and words flow while the workers under them are killed; nobody above the clients can
    tell."""
    # histories that still have everything at the end
    many = str(1 << 18)
    server = start_server("--event-ring", many, "--txn-ring", many, "--max-message", "64")
    members = [Member(make_lasting, server, name) for name in ("ann", "bob", "cat")]
    ann, bob, _ = members
    stopped = threading.Event()
    answers: list[Receipt] = []

    def pay() -> None:
        while not stopped.is_set():
            answers.append(ann.client.transfer(bob.user_id, 1))

    with ExitStack() as stack:
        region = stack.enter_context(closing(Region.attach(server.name)))
        for member in members:
            stack.enter_context(member.client)
            member.enter()
        ann.client.deposit(1_000_000)
        flows = [in_thread(pay), in_thread(pay)]
        flows += [in_thread(partial(member.speak, stopped)) for member in members]
        try:
            for number in range(KILLS):
                some = len(answers) + 100
                wait_until(lambda n=some: len(answers) >= n, "money flows", 60.0)  # type: ignore[misc]
                _kill_under(members[number % 2], server, region)
        finally:
            stopped.set()
            failures = [flow.exception(FLOW_S) for flow in flows]
        assert failures == [None] * len(flows)

        ann.say("the end")
        for member in members:
            wait_until(partial(member.has_heard, "the end"), "all is heard", 30.0)

        txn_ids = {answer.txn_id for answer in answers}
        assert len(txn_ids) == len(answers)
        assert txn_ids == _paid(ann)
        assert ann.client.balance().balance == 1_000_000 - len(answers)
        assert bob.client.balance().balance == len(answers)
        for member in members:
            _check(member)
        assert sum(member.client.reconnects for member in members) >= KILLS


CRASHES = 3


@pytest.mark.usefixtures("both_ways")
def test_everything_is_killed(
    make_lasting: Make, start_server: StartServer, tmp_path: Path
) -> None:
    """kill -9 of the whole server, again and again, while people speak in a room, to each other,
    and pay each other there: each of these was done once, and in order."""
    flags = ("--data", str(tmp_path / "the data"), "--room-history", "100000")
    server = start_server(*flags, "--port", str(lasting_port()))
    members = [Member(make_lasting, server, name) for name in ("ann", "bob")]
    ann, bob = members
    stopped = threading.Event()
    paid: list[RoomReceipt] = []
    whispered: list[str] = []

    def pay() -> None:
        while not stopped.is_set():
            number = len(paid)
            paid.append(ann.client.transfer_in_room(ROOM, bob.user_id, 1, f"for {number}"))

    def whisper() -> None:
        while not stopped.is_set():
            ann.client.direct(bob.user_id, f"psst {len(whispered)}")
            whispered.append(f"psst {len(whispered)}")

    with ExitStack() as stack:
        for member in members:
            stack.enter_context(member.client)
            member.enter()
        ann.client.deposit(1_000_000)
        flows = [in_thread(pay), in_thread(whisper)]
        flows += [in_thread(partial(member.speak, stopped)) for member in members]
        try:
            for _ in range(CRASHES):
                some = len(paid) + 50

                def all_flow(some: int = some) -> bool:
                    return len(paid) >= some or any(flow.done() for flow in flows)

                wait_until(all_flow, "money flows", FLOW_S)
                server.crash()
                server = start_server(*flags, "--port", str(server.port))
        finally:
            stopped.set()
            failures = [flow.exception(FLOW_S) for flow in flows]
        assert failures == [None] * len(flows)
        ann.say("the end")
        for member in members:
            wait_until(partial(member.has_heard, "the end"), "all is heard", 30.0)

        told = [each for each in bob.got if isinstance(each, DirectMessage)]
        assert len({each.seq for each in told}) == len(told)
        for member in members:
            member.got = [each for each in member.got if getattr(each, "room_id", 0) == ROOM]
            _check(member)
        events = [
            e for e in ann.got if isinstance(e, ChatBroadcast) and e.kind == EventKind.PAYMENT
        ]
        assert [(event.room_seq, event.message) for event in events] == [
            (done.room_seq, f"{done.txn_id} {bob.user_id} 1 for {number}")
            for number, done in enumerate(paid)
        ]
        assert bob.client.balance().balance == len(paid)
        kept: list[str] = []
        after = 0
        while page := bob.client.inbox_history(after).messages:
            kept += [each.message for each in page]
            after = page[-1].seq
        assert kept == whispered[-len(kept) :]
        assert len(kept) == min(len(whispered), 100), "of one sender a tenth of what is kept"
        # Ann was paying again before each kill; Bob may have been on the way.
        assert ann.client.reconnects >= CRASHES
        assert bob.client.reconnects >= 1

"""The core that goes on over lost connections, against a server of a few lines in memory: whatever
is lost and wherever the streams are cut, each call is answered once and each event is given once.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.core import auth, calls
from client.core.backoff import PAUSE_S_FIRST, PAUSE_S_MAX, RESET_S, Backoff
from client.core.calls import Call, DirectSent, Sent
from client.core.numbers import Numbers
from client.core.pushes import LogReplaced, Push, RoomRefused, RoomRestarted
from client.core.resume import AGAIN_S, PROBE_S, ResumingCore
from client.core.session import OTHER_REQ_IDS, Answered
from client.errors import (
    ClientError,
    ConnectionLost,
    ProtocolViolation,
    ReloginFailed,
    RequestFailed,
    ServerBusy,
    Superseded,
    Unauthorized,
)
from libproto import scram
from libproto.errors import Status
from libproto.framing import Decoder
from libproto.messages import (
    MIN_ITERATIONS,
    ChatBroadcast,
    DirectMessage,
    EventKind,
    Flag,
    Opcode,
    RoomGap,
    State,
)
from tests.client.peer import (
    LOG_ID,
    MAX_BODY_LEN,
    PASSWORD,
    USER_ID,
    USERNAME,
    Handshake,
    Request,
    answer,
    push,
    read_request,
    refuse,
)

EPOCH = 77


class Link:
    """A core that has logged in, and the server's end of its connection."""

    def __init__(self, client_id: int | None = 99) -> None:
        self.core = ResumingCore(Numbers(client_id), False, "test")
        self.handshake = Handshake()
        self.begin()
        keys = auth.derive(self.greet(), PASSWORD)
        greeting = self.greet()
        self.answered(self.handshake.respond(self.send(self.core.login(greeting, keys))))
        assert self.core.state == State.AUTHENTICATED

    def begin(self) -> None:
        self.decoder = Decoder(MAX_BODY_LEN)
        self.reader = Decoder(MAX_BODY_LEN)
        self.core.begin(self.decoder)

    def greet(self) -> auth.Greeting:
        call = auth.hello(USERNAME, "test", 0)
        result: auth.Greeting = self.answered(self.handshake.respond(self.send(call))).result
        return result

    def send(self, call: Call[Any]) -> Request:
        """A request of the program's, as the server reads it."""
        assert self.core.may_send(call, None)
        return self.read(self.core.request(call)[1])[0]

    def read(self, data: bytes) -> list[Request]:
        self.reader.feed(data)
        found = []
        while (frame := self.reader.next()) is not None:
            found.append(read_request(frame))
        return found

    def own(self) -> list[Request]:
        """What the core sends by itself."""
        data = b"".join(self.core.outbox)
        self.core.outbox.clear()
        return self.read(data)

    def receive(self, *frames: bytes) -> list[Answered | Push]:
        self.decoder.feed(b"".join(frames))
        events: list[Answered | Push] = []
        while (frame := self.decoder.next()) is not None:
            events += self.core.take(frame)
        return events

    def answered(self, frame: bytes) -> Answered:
        [event] = self.receive(frame)
        assert isinstance(event, Answered)
        return event

    def join(self, room: int, last_seq: int, epoch: int = EPOCH) -> None:
        self.receive(answer(self.send(calls.join(room)), room, last_seq, 1, epoch))

    def reconnect(self, reason: ClientError | None = None) -> list[int]:
        """Lose the connection and log in again; the req_ids of the calls that failed."""
        failed = self.core.lose(reason or ConnectionLost("gone"))
        assert self.core.loss is None
        assert not self.core.linked
        self.begin()
        for _ in range(2):
            [request] = self.own()
            assert self.receive(self.handshake.respond(request)) == []
        return failed


def message(room: int, seq: int, text: str = "hi") -> ChatBroadcast:
    return ChatBroadcast(room, seq, 0, EventKind.MESSAGE, 3, "bob", text)


def said(event: ChatBroadcast) -> bytes:
    return push(Opcode.CHAT_BROADCAST, *event)


# --- logging in again -------------------------------------------------------------------------


def test_the_same_user_and_client_log_in_again_without_the_password() -> None:
    link = Link()
    link.core.lose(ConnectionLost("gone"))
    link.begin()
    [hello] = link.own()
    assert (hello.opcode, hello.fields[2]) == (Opcode.HELLO, USERNAME)
    assert link.receive(link.handshake.respond(hello)) == []
    [login] = link.own()
    assert (login.opcode, login.fields[0], login.fields[2]) == (Opcode.LOGIN, USERNAME, 99)
    assert link.core.reconnects == 0
    assert not link.core.steady
    assert not link.core.may_send(calls.balance(), None)
    assert link.receive(link.handshake.respond(login)) == []
    assert link.core.reconnects == 1
    assert link.core.may_send(calls.balance(), None)
    assert PASSWORD.encode() not in repr(vars(link.core)).encode()


@pytest.mark.parametrize("lost", [ConnectionLost("gone"), ServerBusy("full", 10)], ids=repr)
def test_before_a_login_and_after_a_logout_a_loss_is_a_loss(lost: ClientError) -> None:
    fresh = ResumingCore(Numbers(None), False, "test")
    fresh.begin(Decoder(MAX_BODY_LEN))
    assert fresh.lose(lost) == []
    assert fresh.loss is lost
    link = Link()
    link.receive(answer(link.send(calls.logout())))
    waiting = link.send(calls.heartbeat(1))
    assert link.core.lose(lost) == [waiting.req_id]
    assert link.core.loss is lost
    assert type(link.core.failure()) is type(lost)


def test_what_is_not_the_protocol_is_the_end() -> None:
    link = Link()
    waiting = link.send(calls.deposit(1))
    assert link.core.lose(ProtocolViolation("what")) == [waiting.req_id]
    assert isinstance(link.core.loss, ProtocolViolation)
    assert link.core.unanswered_req_ids == (1,)


def test_after_the_end_one_begins_anew() -> None:
    link = Link()
    link.join(1, 0)
    link.core.end(ConnectionLost("closed"))
    link.begin()
    assert link.own() == []
    assert link.core.steady
    assert link.core.linked
    assert link.core.lose(ConnectionLost("gone")) == []
    assert link.core.loss is not None


@pytest.mark.parametrize(
    "change", [{"salt": bytes(16)}, {"iterations": MIN_ITERATIONS + 1}], ids=str
)
def test_another_salt_is_not_answered_with_the_old_keys(change: dict[str, Any]) -> None:
    link = Link()
    link.core.lose(ConnectionLost("gone"))
    link.begin()
    [request] = link.own()
    with pytest.raises(ReloginFailed, match="salt"):
        link.receive(Handshake(hello=change).respond(request))
    assert link.own() == []


def _relogin(link: Link, respond: Callable[[Request], bytes]) -> None:
    link.core.lose(ConnectionLost("gone"))
    link.begin()
    [hello] = link.own()
    link.receive(link.handshake.respond(hello))
    [login] = link.own()
    link.receive(respond(login))


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (Status.ERR_UNAUTHORIZED, ReloginFailed),
        (Status.ERR_BAD_PACKET, ReloginFailed),
        (Status.ERR_SERVER_BUSY, ServerBusy),
        (Status.ERR_INTERNAL, ConnectionLost),
        (Status.ERR_CHECKSUM_FAIL, ConnectionLost),
    ],
)
def test_a_refused_login(status: Status, raised: type[ClientError]) -> None:
    """Refused for the moment, or for good."""
    link = Link()
    with pytest.raises(raised) as caught:
        _relogin(link, lambda login: refuse(login, status, "no", 20))
    assert type(caught.value) is raised
    link.core.lose(caught.value)
    assert (link.core.loss is None) == (raised is not ReloginFailed)
    if raised is ServerBusy:
        assert link.core.pause_s(1.0) == 0.02


def test_a_server_without_the_key_is_found_out_again() -> None:
    link = Link()
    link.handshake.login = {"server_signature": bytes(32)}
    with pytest.raises(ProtocolViolation, match="signature"):
        _relogin(link, link.handshake.respond)


def test_another_user_of_the_same_name() -> None:
    link = Link()
    link.send(calls.deposit(1))
    link.handshake.login = {"user_id": USER_ID + 1}
    with pytest.raises(ReloginFailed, match="another user"):
        _relogin(link, link.handshake.respond)
    assert link.core.unanswered_req_ids == (1,)


# --- requests ---------------------------------------------------------------------------------


def test_payments_first_and_by_req_id() -> None:
    link = Link()
    balance = link.send(calls.balance())
    deposits = [link.send(calls.deposit(amount)) for amount in (1, 2, 3)]
    link.answered(answer(deposits[1], 8, 2))
    lookup = link.send(calls.lookup("bob"))
    assert link.reconnect() == []
    first, third = link.own()
    assert [(r.req_id, r.flags, r.fields) for r in (first, third)] == [
        (1, Flag.POSSIBLE_DUPLICATE, (1,)),
        (3, Flag.POSSIBLE_DUPLICATE, (3,)),
    ]
    assert link.answered(answer(third, 9, 6)).req_id == 3
    assert not link.core.steady
    assert link.answered(answer(first, 7, 1, flags=Flag.POSSIBLE_DUPLICATE)).result[:2] == (7, 1)
    assert link.core.steady
    assert link.own() == [balance, lookup]
    assert link.answered(answer(balance, 6, 9)).result == (6, 9)
    assert link.core.unanswered == {}
    assert link.send(calls.deposit(4)).req_id == 4


def flagged(request: Request) -> Request:
    return request._replace(flags=Flag.POSSIBLE_DUPLICATE)


def test_what_was_said_is_said_once_and_in_order() -> None:
    """In its room, and each once the one before it is answered: a busy server would else answer
    the second and not the first. Money does not wait for it."""
    link = Link()
    link.join(1, 0)
    sent, direct = link.send(calls.send(1, "hi")), link.send(calls.direct(3, "psst"))
    deposit, balance = link.send(calls.deposit(1)), link.send(calls.balance())
    paid = link.send(calls.transfer_in_room(1, 3, 5, "tea"))
    gone = ConnectionLost("gone")
    assert link.reconnect(gone) == []
    failure = link.core.failure()
    assert isinstance(failure, ConnectionLost)
    assert failure is not gone
    assert failure.req_ids == (), "all of them are being repeated"
    [first, join] = link.own()
    assert first == flagged(deposit)
    assert join.opcode == Opcode.JOIN_ROOM
    link.answered(answer(first, 1, 1))
    assert link.own() == []
    assert link.receive(answer(join, 1, 0, 1, EPOCH)) == []
    assert link.own() == [flagged(sent)]
    assert link.receive(refuse(sent, Status.ERR_SERVER_BUSY, "full", 100)) == []
    assert link.core.again_after_s == 0.1
    assert link.own() == []
    link.core.again()
    assert link.own() == [flagged(sent)]
    recorded = answer(sent, 7, 123, flags=Flag.POSSIBLE_DUPLICATE)
    assert link.answered(recorded).result == Sent(7, 123, sent.req_id, True)
    assert link.own() == [flagged(direct)]
    assert link.answered(answer(direct, 124)).result == DirectSent(124, direct.req_id, False)
    assert link.own() == [balance, flagged(paid)]
    assert not link.core.steady
    link.answered(answer(paid, 2, 0, 8))
    assert link.core.steady
    assert link.core.unanswered == {}


def test_a_room_that_was_being_joined_is_joined_before_a_message_to_it() -> None:
    link = Link()
    requests = [link.send(call) for call in (calls.join(1), calls.send(1, "hi"), calls.leave(1))]
    link.reconnect()
    assert link.own() == [requests[0], flagged(requests[1])]
    link.answered(answer(requests[0], 1, 0, 1, EPOCH))
    assert link.own() == []
    link.answered(answer(requests[1], 2, 0))
    assert link.own() == [requests[2]]
    assert link.core.steady


def test_a_message_that_was_given_up_does_not_hold_up_the_next() -> None:
    link = Link()
    first, second = link.send(calls.direct(3, "psst")), link.send(calls.direct(3, "hey"))
    third = link.send(calls.direct(3, "oh"))
    link.reconnect()
    assert link.own() == [flagged(first)]
    link.core.abandon(first.req_id)
    link.core.abandon(second.req_id)
    assert link.receive(answer(first, 1)) == []
    assert link.own() == [flagged(third)]
    link.answered(answer(third, 2))
    assert link.core.steady
    assert link.core.unanswered_req_ids == (second.req_id,)


def test_a_message_to_a_room_that_cannot_be_joined_again() -> None:
    """It may have been said before the connection was lost: only who asks again learns that."""
    link = Link()
    link.join(1, 0)
    sent = link.send(calls.send(1, "hi"))
    link.reconnect()
    [join] = link.own()
    link.receive(refuse(join, Status.ERR_NOT_FOUND, "no such room"))
    assert link.own() == [flagged(sent)]
    error = link.answered(refuse(sent, Status.ERR_UNAUTHORIZED, "not joined")).error
    assert isinstance(error, Unauthorized)
    assert link.core.steady
    assert link.core.unanswered_req_ids == (sent.req_id,)


def test_next_req_id_is_above_all_that_were_drawn() -> None:
    link = Link()
    assert link.handshake.next_req_id == 1
    for number in (1, 2, 3):
        link.answered(answer(link.send(calls.deposit(number)), number, 10))
        link.send(calls.balance())
    link.reconnect()
    assert link.handshake.next_req_id == 4
    link.core.request(calls.deposit(1), 100)
    link.reconnect()
    assert link.handshake.next_req_id == 101


def test_client_id_0_repeats_no_numbered_request() -> None:
    link = Link(client_id=0)
    deposit, balance = link.send(calls.deposit(1)), link.send(calls.balance())
    direct = link.send(calls.direct(3, "psst"))
    assert link.reconnect() == [deposit.req_id, direct.req_id]
    assert link.own() == [balance]


def test_a_call_that_was_given_up_is_not_repeated() -> None:
    link = Link()
    deposits = [link.send(calls.deposit(1)) for _ in range(3)]
    balance = link.send(calls.balance())
    link.core.abandon(1)
    link.core.lose(ConnectionLost("gone"))
    link.core.abandon(2)
    link.core.abandon(balance.req_id)
    link.begin()
    for _ in range(2):
        [request] = link.own()
        link.receive(link.handshake.respond(request))
    [third] = link.own()
    assert third.req_id == 3
    link.answered(answer(third, 1, 1))
    assert link.own() == []
    assert link.core.unanswered_req_ids == (1, 2)
    again = link.read(link.core.request(calls.deposit(1), 2, True)[1])[0]
    assert again == deposits[1]._replace(flags=Flag.POSSIBLE_DUPLICATE)
    link.answered(answer(again, 1, 1))
    assert link.core.unanswered.keys() == {1}


@pytest.mark.parametrize(
    "status", [Status.ERR_SERVER_BUSY, Status.ERR_INTERNAL, Status.ERR_CHECKSUM_FAIL]
)
def test_a_refusal_that_does_not_tell_is_not_told(status: Status) -> None:
    """The request may have been executed on the lost connection: it is repeated later."""
    link = Link()
    link.send(calls.deposit(1))
    link.reconnect()
    [again] = link.own()
    assert link.receive(refuse(again, status, "later", 300)) == []
    assert link.core.again_after_s == 0.3
    assert not link.core.steady
    link.core.again()
    assert link.core.again_after_s is None
    assert link.own() == [again]
    assert link.answered(answer(again, 1, 1)).result[:2] == (1, 1)
    assert link.core.steady


def test_a_request_that_waits_to_be_repeated_may_be_given_up() -> None:
    link = Link()
    link.send(calls.deposit(1))
    link.reconnect()
    [again] = link.own()
    link.receive(refuse(again, Status.ERR_SERVER_BUSY))
    assert link.core.again_after_s == AGAIN_S
    link.core.abandon(1)
    link.core.again()
    assert link.own() == []
    assert link.core.steady
    assert link.core.unanswered_req_ids == (1,)
    [again] = link.read(link.core.request(calls.deposit(1), 1, True)[1])
    assert link.answered(answer(again, 1, 1)).result[:2] == (1, 1)


def test_a_request_may_be_given_up_while_it_is_lost_again() -> None:
    link = Link()
    link.send(calls.deposit(1))
    link.reconnect()
    assert [again.req_id for again in link.own()] == [1]
    link.core.lose(ConnectionLost("gone"))
    link.core.abandon(1)
    link.begin()
    for _ in range(2):
        [request] = link.own()
        link.receive(link.handshake.respond(request))
    assert link.own() == []
    assert link.core.steady


@pytest.mark.parametrize(
    "status", [Status.ERR_INSUFFICIENT_FUNDS, Status.ERR_NOT_FOUND, Status.ERR_TIMEOUT]
)
def test_a_refusal_that_tells_is_told(status: Status) -> None:
    link = Link()
    link.send(calls.withdraw(1))
    link.reconnect()
    [again] = link.own()
    error = link.answered(refuse(again, status)).error
    assert type(error) is RequestFailed.by_status[status]
    assert link.core.unanswered == {}


# --- rooms ------------------------------------------------------------------------------------


def _fetch(link: Link, room: int, last_seq: int) -> Request:
    """Rejoin a room; the ROOM_HISTORY that follows."""
    [join] = link.own()
    assert join.fields == (room,)
    assert link.receive(answer(join, room, last_seq, 1, EPOCH)) == []
    [history] = link.own()
    assert history.opcode == Opcode.ROOM_HISTORY
    return history


def test_what_was_missed_comes_before_what_is_new() -> None:
    link = Link()
    link.join(5, 10)
    assert link.receive(said(message(5, 11))) == [message(5, 11)]
    link.reconnect()
    history = _fetch(link, 5, 14)
    assert history.fields == (5, 11, 3)
    assert link.receive(said(message(5, 15)), said(message(6, 1))) == [message(6, 1)]
    missed = [message(5, seq) for seq in (12, 13, 14)]
    got = link.receive(answer(history, 5, EPOCH, 1, missed))
    assert got == [*missed, message(5, 15)]
    assert link.core.caught_up
    assert link.receive(said(message(5, 15)), said(message(5, 16))) == [message(5, 16)]


def test_a_long_absence_is_read_by_pages() -> None:
    link = Link()
    link.join(5, 0)
    link.reconnect()
    history = _fetch(link, 5, 300)
    assert history.fields == (5, 0, 256)
    # what one body holds may be less than was asked for
    assert (
        len(link.receive(answer(history, 5, EPOCH, 1, [message(5, n) for n in range(1, 201)])))
        == 200
    )
    [history] = link.own()
    assert history.fields == (5, 200, 100)
    link.reconnect()
    history = _fetch(link, 5, 301)
    assert history.fields == (5, 200, 101)
    link.receive(answer(history, 5, EPOCH, 1, [message(5, n) for n in range(201, 302)]))
    assert link.core.caught_up


def test_new_calls_do_not_wait_for_a_long_history() -> None:
    """Each room keeps its order; what ends it waits: LEAVE_ROOM, and LOGOUT for all rooms."""
    link = Link()
    for room in (5, 6):
        link.join(room, 0)
    link.reconnect()
    joins = link.own()
    assert not link.core.may_send(calls.balance(), None), "the rooms are not joined"
    link.receive(answer(joins[0], 5, 300, 1, EPOCH), answer(joins[1], 6, 0, 1, EPOCH))
    [history] = link.own()
    assert link.core.steady
    assert not link.core.caught_up
    assert link.answered(answer(link.send(calls.deposit(5)), 1, 5)).error is None
    assert link.answered(answer(link.send(calls.send(5, "hi")), 301, 0)).error is None
    assert link.receive(said(message(5, 301))) == [], "it comes after what was missed"
    assert not link.core.may_send(calls.leave(5), None)
    assert not link.core.may_send(calls.logout(), None)
    link.answered(answer(link.send(calls.leave(6)), 6))
    link.receive(answer(history, 5, EPOCH, 1, [message(5, n) for n in range(1, 201)]))
    [history] = link.own()
    missed = [message(5, n) for n in range(201, 301)]
    assert link.receive(answer(history, 5, EPOCH, 1, missed)) == [*missed, message(5, 301)]
    assert link.core.caught_up
    link.answered(answer(link.send(calls.leave(5)), 5))
    assert link.core.may_send(calls.logout(), None)


def test_a_leave_under_way_comes_after_what_was_missed() -> None:
    link = Link()
    link.join(5, 0)
    leaving = link.send(calls.leave(5))
    link.reconnect()
    history = _fetch(link, 5, 2)
    assert link.own() == []
    missed = [message(5, 1), message(5, 2)]
    assert link.receive(answer(history, 5, EPOCH, 1, missed)) == missed
    assert link.own() == [leaving]
    assert link.core.caught_up


def test_what_the_history_holds_no_longer_is_a_gap() -> None:
    link = Link()
    link.join(5, 3)
    link.reconnect()
    history = _fetch(link, 5, 9)
    got = link.receive(answer(history, 5, EPOCH, 8, [message(5, 8), message(5, 9)]))
    assert got == [RoomGap(5, 4, 7), message(5, 8), message(5, 9)]
    link.reconnect()
    history = _fetch(link, 5, 12)
    assert link.receive(answer(history, 5, EPOCH, 99, [])) == [RoomGap(5, 10, 12)]
    assert link.core.steady


def test_a_history_that_is_refused_is_a_gap() -> None:
    link = Link()
    link.join(5, 3)
    link.reconnect()
    history = _fetch(link, 5, 9)
    link.receive(said(message(5, 10)))
    got = link.receive(refuse(history, Status.ERR_INTERNAL))
    assert got == [RoomGap(5, 4, 9), message(5, 10)]


@pytest.mark.parametrize("opcode", [Opcode.JOIN_ROOM, Opcode.ROOM_HISTORY])
def test_a_busy_server_is_asked_again_for_a_room(opcode: Opcode) -> None:
    link = Link()
    link.join(5, 3)
    link.reconnect()
    [request] = link.own()
    if opcode == Opcode.ROOM_HISTORY:
        link.receive(answer(request, 5, 4, 1, EPOCH))
        [request] = link.own()
    assert link.receive(refuse(request, Status.ERR_SERVER_BUSY, "rate", 200)) == []
    assert link.core.again_after_s == 0.2
    link.core.again()
    [again] = link.own()
    assert (again.opcode, again.fields) == (request.opcode, request.fields)


def test_a_room_of_another_epoch() -> None:
    link = Link()
    link.join(5, 30)
    link.reconnect()
    [join] = link.own()
    assert link.receive(answer(join, 5, 4, 1, EPOCH + 1)) == [RoomRestarted(5, EPOCH + 1, 4)]
    assert link.core.steady
    assert link.receive(said(message(5, 5))) == [message(5, 5)]


def test_no_room_is_where_it_was_after_another_log() -> None:
    """Not even one whose epoch and numbers look like those before."""
    link = Link()
    link.join(5, 10)
    link.handshake.login = {"log_id": LOG_ID + 1}
    link.core.lose(ConnectionLost("gone"))
    link.begin()
    [hello] = link.own()
    link.receive(link.handshake.respond(hello))
    [login] = link.own()
    assert link.receive(link.handshake.respond(login)) == [LogReplaced(LOG_ID, LOG_ID + 1)]
    [join] = link.own()
    got = link.receive(answer(join, 5, 12, 1, EPOCH))
    assert got == [RoomRestarted(5, EPOCH, 12)]
    assert link.own() == []
    assert link.receive(said(message(5, 13))) == [message(5, 13)]


def test_a_room_that_cannot_be_joined_again() -> None:
    link = Link()
    link.join(5, 30)
    link.reconnect()
    [join] = link.own()
    got = link.receive(refuse(join, Status.ERR_NOT_FOUND, "no such room"))
    assert got == [RoomRefused(5, Status.ERR_NOT_FOUND, "no such room")]
    assert link.core.steady
    sent = link.send(calls.send(5, "hi"))
    error = link.answered(refuse(sent, Status.ERR_UNAUTHORIZED)).error
    assert isinstance(error, Unauthorized), "not joined, and not superseded"


def test_rooms_that_were_left_are_not_joined_again() -> None:
    link = Link()
    for room in (1, 2, 3):
        link.join(room, 0)
    link.receive(answer(link.send(calls.leave(2)), 2))
    leaving = link.send(calls.leave(3))
    link.reconnect()
    joins = link.own()
    assert [(join.opcode, *join.fields) for join in joins] == [
        (Opcode.JOIN_ROOM, 1),
        (Opcode.JOIN_ROOM, 3),  # so that the LEAVE has an answer
    ]
    for join in joins:
        link.receive(answer(join, join.fields[0], 0, 1, EPOCH))
    assert link.own() == [leaving]
    link.answered(answer(leaving, 3))
    link.reconnect()
    assert [join.fields for join in link.own()] == [(1,)]


def test_joining_again_does_not_move_what_was_given() -> None:
    link = Link()
    link.join(5, 10)
    link.join(5, 12)
    assert link.receive(said(message(5, 11))) == [message(5, 11)]


def test_a_gap_that_overlaps_is_cut() -> None:
    link = Link()
    link.join(5, 10)
    link.receive(said(message(5, 11)))
    assert link.receive(push(Opcode.ROOM_GAP, 5, 10, 11)) == []
    assert link.receive(push(Opcode.ROOM_GAP, 5, 10, 14)) == [RoomGap(5, 12, 14)]


def test_missed_direct_messages_are_named_where_their_numbers_tell() -> None:
    def direct(seq: int) -> DirectMessage:
        return DirectMessage(seq, 0, 3, "bob", "psst")

    def sent(seq: int) -> bytes:
        return push(Opcode.DIRECT_MESSAGE, *direct(seq))

    link = Link()
    assert link.receive(sent(4), sent(5)) == [direct(4), direct(5)]
    link.reconnect()
    assert link.receive(sent(9)) == [RoomGap(0, 6, 8), direct(9)]
    assert link.receive(push(Opcode.ROOM_GAP, 0, 10, 11)) == [RoomGap(0, 10, 11)]
    assert link.receive(sent(12)) == [direct(12)]
    assert link.receive(sent(1)) == [direct(1)], "the server counts from 1 again"


# --- superseded -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [calls.balance(), calls.deposit(1), calls.join(1), calls.leave(2), calls.send(2, "hi")],
    ids=lambda call: call.opcode.name,
)
def test_a_superseded_session_stays_down(call: Call[Any]) -> None:
    link = Link()
    link.join(2, 0)
    waiting = link.send(calls.withdraw(1))
    request = link.send(call)
    with pytest.raises(Superseded, match="say HELLO first") as caught:
        link.receive(refuse(request, Status.ERR_UNAUTHORIZED, "say HELLO first"))
    assert link.core.lose(caught.value) == [waiting.req_id, request.req_id]
    assert isinstance(link.core.loss, Superseded)
    assert link.core.loss.req_ids == (1,)
    assert type(link.core.failure()) is Superseded


def test_an_idle_session_asks_whether_it_was_superseded() -> None:
    link = Link()
    assert link.core.beat_s == PROBE_S
    [probe] = link.read(link.core.beat(123)[1])
    assert (probe.opcode, probe.fields) == (Opcode.USER_NAME, (USER_ID,))
    assert link.receive(answer(probe, USER_ID, USERNAME, 1, 0)) == []
    [probe] = link.read(link.core.beat(123)[1])
    with pytest.raises(Superseded):
        link.receive(refuse(probe, Status.ERR_UNAUTHORIZED))
    fresh = ResumingCore(Numbers(None), False, "test")
    fresh.begin(Decoder(MAX_BODY_LEN))
    assert fresh.beat_s == 0


def test_not_being_a_member_is_not_being_superseded() -> None:
    link = Link()
    refusal = refuse(link.send(calls.send(1, "hi")), Status.ERR_UNAUTHORIZED)
    assert isinstance(link.answered(refusal).error, Unauthorized)


# --- pauses -----------------------------------------------------------------------------------


def _pauses(draw: float, count: int = 12) -> list[float]:
    backoff, now, pauses = Backoff(lambda: draw), 1000.0, []
    for number in range(count):
        pauses.append(backoff.pause_s(now, number == 0, 0.0))
        now += pauses[-1]
    return pauses


def test_pauses_grow_up_to_a_limit() -> None:
    longest, shortest = _pauses(1.0), _pauses(0.0)
    assert longest[:4] == [0.0, PAUSE_S_FIRST, 2 * PAUSE_S_FIRST, 4 * PAUSE_S_FIRST]
    assert longest[-1] == PAUSE_S_MAX
    assert shortest == [pause / 2 for pause in longest]
    drawn = [Backoff(random.Random(n).random) for n in range(9)]  # noqa: S311 - a test's
    assert len({b.pause_s(0, False, 0) + b.pause_s(0, False, 0) for b in drawn}) == 9


def test_after_a_connection_that_lasted_the_first_attempt_comes_at_once() -> None:
    backoff = Backoff(lambda: 1.0)
    assert backoff.pause_s(100.0, True, 0.0) == 0.0
    assert backoff.pause_s(100.0 + RESET_S, False, 0.0) > 0, "it never came to be used"
    now = 200.0
    assert backoff.pause_s(now, True, 0.0) == 0.0
    for moment in (0.5, 0.9, 1.4):  # they do not last
        assert backoff.pause_s(now + moment * RESET_S, True, 0.0) == PAUSE_S_FIRST
    assert backoff.pause_s(now + 3 * RESET_S, True, 0.0) == 0.0


def test_what_the_server_asks_for_is_kept() -> None:
    backoff = Backoff(lambda: 1.0)
    assert backoff.pause_s(100.0, True, 0.7) == 0.7
    assert backoff.pause_s(100.7, False, 0.01) == PAUSE_S_FIRST


# --- any cut ----------------------------------------------------------------------------------

ROOMS = (1, 2)


def _room(number: int) -> int:
    return ROOMS[number % len(ROOMS)]


class Room:
    """What the server has of a room. Numbers without an event were never used for one."""

    def __init__(self) -> None:
        self.last = 0
        self.oldest = 1
        self.events: dict[int, ChatBroadcast] = {}
        self.pushed = 0  # up to which number this connection was served


class Account:
    """What the program was given of a room since it joined."""

    def __init__(self, last_seq: int) -> None:
        self.last = last_seq
        self.given: list[ChatBroadcast | RoomGap] = []


class World:
    """A program, a core, a connection and a server; any of what is under way may be lost."""

    def __init__(self) -> None:
        self.core = ResumingCore(Numbers(99), False, "test")
        self.handshake = Handshake()
        self.up = False
        # the server
        self.rooms = {number: Room() for number in ROOMS}
        self.closed: set[int] = set()
        self.epoch = EPOCH
        self.texts = 0
        self.busy = 0
        # by req_id: txn_id and balance, or room_seq and time
        self.outcomes: dict[int, tuple[int, int]] = {}
        self.executed: list[int] = []  # payments
        self.said: list[int] = []  # messages, in the order in which they were executed
        self.balance = 0
        # the connection
        self.joined: set[int] = set()
        self.requests: list[Request] = []
        self.late: list[bytes] = []
        self.stream = b""
        # the program
        self.waiting: dict[int, Call[Any]] = {}
        self.done: dict[int, Answered | None] = {}  # None: failed or given up
        self.accounts: dict[int, Account] = {}

    # ---- the connection

    def begin(self) -> None:
        self.decoder, self.reader = Decoder(MAX_BODY_LEN), Decoder(MAX_BODY_LEN)
        self.up = True
        self.core.begin(self.decoder)
        self.collect()

    def collect(self) -> None:
        data = b"".join(self.core.outbox)
        self.core.outbox.clear()
        self.transmit(data)

    def transmit(self, data: bytes) -> None:
        self.reader.feed(data)
        while (frame := self.reader.next()) is not None:
            self.requests.append(read_request(frame))

    def log_in(self) -> None:
        self.begin()
        number, frame = self.core.request(auth.hello(USERNAME, "test", 0))
        self.transmit(frame)
        self.serve(1)
        [greeted] = self.take(len(self.stream))
        assert isinstance(greeted, Answered)
        assert greeted.req_id == number
        keys = auth.derive(greeted.result, PASSWORD)
        self.transmit(self.core.request(self.core.login(greeted.result, keys))[1])
        self.serve(1)
        self.take(len(self.stream))
        assert self.core.state == State.AUTHENTICATED

    def take(self, size: int) -> list[Answered | Push]:
        data, self.stream = self.stream[:size], self.stream[size:]
        self.decoder.feed(data)
        events: list[Answered | Push] = []
        while (frame := self.decoder.next()) is not None:
            events += self.core.take(frame)
        self.collect()
        return events

    # ---- the program

    def call(self, call: Call[Any]) -> None:
        if self.core.may_send(call, None):
            req_id, frame = self.core.request(call)
            self.waiting[req_id] = call
            self.transmit(frame)

    def deposit(self, number: int) -> None:
        self.call(calls.deposit(1 + number % 9))

    def ask_for_the_balance(self, _: int) -> None:
        self.call(calls.balance())

    def join(self, number: int) -> None:
        self.call(calls.join(_room(number)))

    def leave(self, number: int) -> None:
        self.call(calls.leave(_room(number)))

    def say(self, number: int) -> None:
        self.call(calls.send(_room(number), "own"))

    def give_up(self, number: int) -> None:
        sure = {Opcode.JOIN_ROOM, Opcode.LEAVE_ROOM}
        able = sorted(n for n, call in self.waiting.items() if call.opcode not in sure)
        if able:
            req_id = able[number % len(able)]
            self.core.abandon(req_id)
            del self.waiting[req_id]
            self.done[req_id] = None

    def receive(self, number: int) -> None:
        if self.up:
            self.hand_out(self.take(number))

    def hand_out(self, events: list[Answered | Push]) -> None:
        for event in events:
            match event:
                case Answered():
                    call = self.waiting.pop(event.req_id)  # KeyError: answered twice
                    assert event.req_id not in self.done
                    self.done[event.req_id] = event
                    if event.error is None:
                        self.note(call, event.result)
                case ChatBroadcast() | RoomGap():
                    account = self.accounts[event.room_id]
                    account.given.append(event)
                case RoomRestarted():
                    self.finish(event.room_id)
                    self.accounts[event.room_id] = Account(event.last_seq)
                case RoomRefused():
                    self.finish(event.room_id)
                case _:
                    raise AssertionError(event)

    def note(self, call: Call[Any], result: Any) -> None:
        if call.opcode == Opcode.JOIN_ROOM:
            self.accounts.setdefault(result.room_id, Account(result.last_seq))
        elif call.opcode == Opcode.LEAVE_ROOM:
            self.finish(call.fields[0])

    def finish(self, room: int) -> None:
        self.check_account(room)
        del self.accounts[room]

    # ---- the server

    def serve(self, number: int) -> None:
        for _ in range(min(1 + number % 5, len(self.requests))):
            self.execute(self.requests.pop(0))

    def execute(self, request: Request) -> None:
        opcode, req_id, flags, fields = request
        room = fields[0] if fields else 0
        match opcode:
            case Opcode.HELLO | Opcode.LOGIN:
                self.stream += self.handshake.respond(request)
                return
            case _ if self.busy and (flags or opcode in (Opcode.JOIN_ROOM, Opcode.ROOM_HISTORY)):
                self.busy -= 1
                self.stream += refuse(request, Status.ERR_SERVER_BUSY, "busy", 5)
            case Opcode.DEPOSIT:
                recorded = req_id in self.outcomes
                assert flags or not recorded
                if not recorded:
                    self.balance += fields[0]
                    self.executed.append(req_id)
                    self.outcomes[req_id] = (len(self.executed), self.balance)
                self.late.append(answer(request, *self.outcomes[req_id]))
            case Opcode.BALANCE:
                self.stream += answer(request, self.balance, len(self.executed))
            case Opcode.JOIN_ROOM if room in self.closed:
                self.stream += refuse(request, Status.ERR_NOT_FOUND)
            case Opcode.JOIN_ROOM:
                here = self.rooms[room]
                if room not in self.joined:
                    here.pushed = here.last
                self.stream += answer(request, room, here.pushed, 1, self.epoch)
                if room not in self.joined:
                    self.joined.add(room)
                    self.publish(room, EventKind.JOINED)
            case Opcode.CHAT_SEND if req_id in self.outcomes:
                assert flags
                outcome = self.outcomes[req_id]
                self.stream += answer(request, *outcome, flags=Flag.POSSIBLE_DUPLICATE)
            case Opcode.LEAVE_ROOM | Opcode.CHAT_SEND if room not in self.joined:
                missing = opcode == Opcode.LEAVE_ROOM
                self.stream += refuse(
                    request, Status.ERR_NOT_FOUND if missing else Status.ERR_UNAUTHORIZED
                )
            case Opcode.LEAVE_ROOM:
                self.joined.discard(room)
                self.publish(room, EventKind.LEFT)
                self.stream += answer(request, room)
            case Opcode.CHAT_SEND:
                self.outcomes[req_id] = (self.publish(room), 0)
                self.said.append(req_id)
                self.stream += answer(request, *self.outcomes[req_id])
            case Opcode.ROOM_HISTORY:
                _, after, limit = fields
                here = self.rooms[room]
                found = [e for n, e in here.events.items() if n > after and n >= here.oldest]
                self.stream += answer(
                    request, room, self.epoch, here.oldest, found[: min(limit, 3)]
                )
            case _:
                raise AssertionError(request)

    def publish(self, room: int, kind: EventKind = EventKind.MESSAGE) -> int:
        here = self.rooms[room]
        here.last += 1
        self.texts += 1
        event = ChatBroadcast(room, here.last, 0, kind, 3, "bob", str(self.texts))
        here.events[here.last] = event
        if room in self.joined:
            if here.last > here.pushed + 1:
                self.stream += push(Opcode.ROOM_GAP, room, here.pushed + 1, here.last - 1)
            self.stream += said(event)
            here.pushed = here.last
        return here.last

    def others_speak(self, number: int) -> None:
        for _ in range(1 + number // 2 % 5):
            self.publish(_room(number))

    def a_number_is_skipped(self, number: int) -> None:
        self.rooms[_room(number)].last += 1

    def the_ring_goes_on(self, number: int) -> None:
        here = self.rooms[_room(number)]
        here.oldest = max(here.oldest, here.last + 1 - number // 2 % 5)

    def the_server_is_busy(self, number: int) -> None:
        self.busy = 1 + number % 3

    def late_answers_come(self, _: int) -> None:
        self.stream += b"".join(self.late)
        self.late.clear()

    def a_room_closes(self, number: int) -> None:
        self.closed.add(_room(number))

    def a_room_opens(self, number: int) -> None:
        self.closed.discard(_room(number))

    # ---- what is lost

    def restart(self, _: int) -> None:
        """The server begins anew without its old state."""
        self.cut(0)
        for room in self.accounts:
            self.check_account(room)  # against the numbers that were in use till now
        self.epoch += 1
        self.rooms = {number: Room() for number in ROOMS}
        for account in self.accounts.values():
            account.given.clear()
            account.last = -1

    def cut(self, _: int) -> None:
        if not self.up:
            return
        self.up = False
        self.joined.clear()
        self.requests.clear()
        self.late.clear()
        self.stream = b""
        assert self.core.lose(ConnectionLost("gone")) == []

    def another_connection(self, _: int) -> None:
        if not self.up:
            self.begin()

    def back_in_use(self, _: int) -> None:
        """Another connection, and as far as it goes by itself."""
        self.another_connection(0)
        self.settle()

    def time_passes(self, _: int) -> None:
        if self.core.again_after_s is not None:
            self.core.again()
            self.collect()

    def settle(self) -> None:
        while self.requests or self.late or self.stream or self.core.again_after_s is not None:
            self.time_passes(0)
            self.serve(4)
            self.late_answers_come(0)
            self.hand_out(self.take(len(self.stream)))

    # ---- what holds

    def check_account(self, number: int) -> None:
        """Every number after the join once, in order; a gap says only what cannot be had."""
        account, here = self.accounts[number], self.rooms[number]
        if account.last < 0:  # of the epoch before, and it was checked then
            assert account.given == []
            return
        last = account.last
        for event in account.given:
            if isinstance(event, ChatBroadcast):
                assert event == here.events[event.room_seq]
                unused = range(last + 1, event.room_seq)
                last = event.room_seq
            else:
                assert last < event.first_seq <= event.last_seq
                for seq in range(event.first_seq, event.last_seq + 1):
                    assert seq not in here.events or seq < here.oldest
                unused = range(last + 1, event.first_seq)
                last = event.last_seq
            assert not any(seq in here.events for seq in unused), "a silent gap"

    def check(self) -> None:
        self.busy = 0
        self.back_in_use(0)
        assert self.core.caught_up
        assert self.waiting == {}
        for req_id, answered in self.done.items():
            if req_id < OTHER_REQ_IDS and answered is not None:
                if answered.error is not None:
                    assert isinstance(answered.error, Unauthorized), "it was not joined"
                    assert req_id not in self.outcomes
                    continue
                assert answered.result[:3] == (*self.outcomes[req_id], req_id)
        given_up = {n for n, answered in self.done.items() if answered is None}
        assert len(set(self.executed)) == len(self.executed)
        assert set(self.executed) | set(self.said) <= self.done.keys()
        assert self.said == sorted(set(self.said)), "said twice, or in another order"
        refused = {n for n, answered in self.done.items() if answered and answered.error}
        assert set(self.core.unanswered) <= given_up | refused
        for number, account in self.accounts.items():
            self.check_account(number)
            here = self.rooms[number]
            ends = [
                e.room_seq if isinstance(e, ChatBroadcast) else e.last_seq for e in account.given
            ]
            told = max([account.last, *ends])
            assert not any(seq > told for seq in here.events), "the end is missing"


# What happens, and how often in proportion.
STEPS: list[Callable[[World, int], None]] = [
    step
    for step, weight in (
        (World.deposit, 4),
        (World.ask_for_the_balance, 1),
        (World.join, 2),
        (World.leave, 1),
        (World.say, 2),
        (World.give_up, 1),
        (World.receive, 8),
        (World.serve, 8),
        (World.others_speak, 4),
        (World.a_number_is_skipped, 1),
        (World.the_ring_goes_on, 1),
        (World.the_server_is_busy, 1),
        (World.late_answers_come, 3),
        (World.a_room_closes, 1),
        (World.a_room_opens, 3),
        (World.cut, 3),
        (World.restart, 1),
        (World.another_connection, 4),
        (World.back_in_use, 2),
        (World.time_passes, 2),
    )
    for _ in range(weight)
]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 400)), min_size=50, max_size=150))
def test_any_cut(steps: list[tuple[Callable[[World, int], None], int]]) -> None:
    world = World()
    world.log_in()
    for room in ROOMS:
        world.join(room)
    world.settle()
    for step, number in steps:
        step(world, number)
    world.check()


def test_the_peer_knows_the_key() -> None:
    """Else the handshakes above would prove nothing."""
    salted = scram.salted_password(PASSWORD, Handshake().verifier.salt, MIN_ITERATIONS)
    assert Handshake().verifier.server_key == scram.server_key(salted)

"""The core that goes on over lost connections, against a server of a few lines in memory: logins,
requests that are repeated, the session's end, and pauses."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from client.core import calls
from client.core.backoff import PAUSE_S_FIRST, PAUSE_S_MAX, RESET_S, Backoff
from client.core.calls import Call, DirectSent, Sent
from client.core.catching_up import AGAIN_S
from client.core.numbers import Numbers
from client.core.resume import PROBE_S, ResumingCore
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
from libproto.errors import Status
from libproto.framing import Decoder
from libproto.messages import (
    MIN_ITERATIONS,
    Flag,
    Opcode,
)
from tests.client.lossy import EPOCH, Link
from tests.client.peer import (
    MAX_BODY_LEN,
    PASSWORD,
    USER_ID,
    USERNAME,
    Handshake,
    Request,
    answer,
    refuse,
)

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


# --- superseded -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [calls.balance(), calls.leave(2), calls.transfer(3, 1), calls.direct(3, "hi")],
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

"""The core without a socket: the server's end is in memory, and the stream is cut anywhere."""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import errors
from client.base import ClientBase
from client.core import auth, calls
from client.core.calls import (
    BoardAdded,
    Call,
    DirectSent,
    LinkFetched,
    Receipt,
    RoomChange,
    RoomOpened,
    RoomReceipt,
    Sent,
)
from client.core.numbers import Numbers
from client.core.pushes import MAKERS, Push
from client.core.session import OTHER_REQ_IDS, Answered, ClientCore
from client.errors import (
    BadArgument,
    CallTimeout,
    ClientError,
    ConnectionLost,
    MisuseError,
    ProtocolViolation,
    ReqIdTaken,
    RequestFailed,
    ServerBusy,
)
from libproto.codec import PUSH, REQUEST, RESPONSE, error_frame
from libproto.errors import Status
from libproto.framing import Decoder, assemble
from libproto.messages import (
    BY_OPCODE,
    MIN_ITERATIONS,
    OUTCOME_WINDOW,
    BoardEntry,
    ChatBroadcast,
    Flag,
    Opcode,
    RoomAccess,
    RoomGap,
    RoomRole,
    State,
)
from tests.client.peer import (
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
from tests.libproto.strategies import values

ROWS: dict[str, Callable[..., Call[Any]]] = {
    name: row
    for name, row in vars(calls).items()
    if inspect.isfunction(row) and row.__module__ == calls.__name__ and not name.startswith("_")
}


OUTCOMES: dict[Opcode, type] = {
    Opcode.CHAT_SEND: Sent,
    Opcode.DIRECT_SEND: DirectSent,
    Opcode.ROOM_OPEN: RoomOpened,
    Opcode.ROOM_SET: RoomChange,
    Opcode.ROOM_ROLE: RoomChange,
    Opcode.DEPOSIT: Receipt,
    Opcode.WITHDRAW: Receipt,
    Opcode.TRANSFER: Receipt,
    Opcode.TRANSFER_IN_ROOM: RoomReceipt,
    Opcode.BOARD_ADD: BoardAdded,
    Opcode.LINK_FETCH: LinkFetched,
    Opcode.BOARD_REMOVE: RoomChange,
    Opcode.BOARD_TAKE: RoomReceipt,
}


def any_call(name: str) -> Call[Any]:
    """A call of this row, with arguments that are valid."""
    values: dict[Any, Any] = {str: "x", RoomAccess: RoomAccess.INVITED, RoomRole: RoomRole.MEMBER}
    parameters = inspect.signature(ROWS[name]).parameters.values()
    return ROWS[name](*(values.get(parameter.annotation, 1) for parameter in parameters))


def opcode_of(name: str) -> Opcode:
    return any_call(name).opcode


def call_of(name: str, data: st.DataObject) -> Call[Any]:
    """A call of this row with any fields that the wire can carry."""
    call = any_call(name)
    call.fields = data.draw(values(REQUEST[call.opcode].body))
    return call


def answer_fields(opcode: int, data: st.DataObject) -> tuple[Any, ...]:
    """Any fields of an answer that the protocol has."""
    fields: tuple[Any, ...] = data.draw(values(RESPONSE[opcode].body))
    if opcode == Opcode.ROOM_INFO:
        enums = st.sampled_from(RoomAccess), st.sampled_from(RoomRole)
        fields = (*fields[:3], *map(data.draw, enums))
    return fields


class Pair:
    """A core and the stream that comes to it."""

    def __init__(self, client_id: int | None = None, payments: bool = False) -> None:
        self.core = ClientCore(Numbers(client_id), payments, "test")
        self.decoder = Decoder(MAX_BODY_LEN)
        self.core.begin(self.decoder)

    def reconnect(self, reason: ClientError) -> list[int]:
        failed = self.core.end(reason)
        self.decoder = Decoder(MAX_BODY_LEN)
        self.core.begin(self.decoder)
        return failed

    def request(
        self, call: Call[Any], req_id: int | None = None, possible_duplicate: bool = False
    ) -> Request:
        """A request, as the server reads it."""
        number, frame = self.core.request(call, req_id, possible_duplicate)
        reader = Decoder(MAX_BODY_LEN)
        reader.feed(frame)
        read = reader.next()
        assert read is not None
        assert reader.next() is None
        request = read_request(read)
        assert request.req_id == number
        assert request.opcode == call.opcode
        assert request.fields == call.fields
        return request

    def receive(self, data: bytes) -> Iterator[Answered | Push | None]:
        self.decoder.feed(data)
        while (frame := self.decoder.next()) is not None:
            yield self.core.receive(frame)

    def one(self, data: bytes) -> Answered | Push | None:
        (event,) = self.receive(data)
        return event

    def answered(self, data: bytes) -> Answered:
        event = self.one(data)
        assert isinstance(event, Answered)
        return event

    def greet(self, handshake: Handshake) -> auth.Greeting:
        request = self.request(auth.hello(USERNAME, "test", self.core.capabilities))
        result: auth.Greeting = self.answered(handshake.respond(request)).result
        return result

    def log_in(self, handshake: Handshake | None = None, password: str = PASSWORD) -> Answered:
        handshake = handshake or Handshake()
        greeting = self.greet(handshake)
        call = self.core.login(greeting, auth.derive(greeting, password))
        return self.answered(handshake.respond(self.request(call)))


# --- the tables -------------------------------------------------------------------------------


def test_there_is_a_call_for_every_request() -> None:
    of_a_login = {Opcode.HELLO, Opcode.REGISTER, Opcode.LOGIN, Opcode.PASSWORD}
    files = {Opcode.FILE_BEGIN, Opcode.FILE_PUT, Opcode.FILE_END, Opcode.FILE_GET}
    without = of_a_login | files  # which take several requests
    assert {opcode_of(name) for name in ROWS} | without == REQUEST.keys()


@pytest.mark.parametrize("status", [status for status in Status if status])
def test_every_status_has_its_error(status: Status) -> None:
    pair = Pair()
    request = pair.request(calls.balance())
    error = pair.answered(refuse(request, status, "why", 250)).error
    assert error is not None
    assert type(error) is RequestFailed.by_status[status]
    assert (error.status, error.detail, error.retry_after_ms) == (status, "why", 250)
    assert error.req_id == request.req_id
    assert str(error) == f"{status.name}: why"


@pytest.mark.parametrize(
    "error",
    [
        *(cls("why", 250, 3) for cls in RequestFailed.by_status.values()),
        CallTimeout("late", 3, Opcode.DEPOSIT),
        ConnectionLost("gone", (1, 2)),
        ProtocolViolation("what"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_copied_error_is_the_same(error: ClientError) -> None:
    """Each of several callers raises its own."""
    copied = copy.copy(error)
    assert copied is not error
    assert type(copied) is type(error)
    assert (copied.args, vars(copied), str(copied)) == (error.args, vars(error), str(error))


def test_builtin_handlers_catch_what_they_should() -> None:
    assert issubclass(CallTimeout, TimeoutError)
    assert issubclass(ConnectionLost, ConnectionError)
    assert not issubclass(errors.OutcomeUnknown, TimeoutError)


@pytest.mark.parametrize("fields", [("gold", "", 1, 9, 0), ("gold", "", 1, 0, 9)], ids=str)
def test_a_room_that_there_is_not_is_a_violation(fields: tuple[Any, ...]) -> None:
    pair = Pair()
    request = pair.request(calls.room_info(65))
    with pytest.raises(ProtocolViolation, match="a room that there is not"):
        pair.one(answer(request, *fields))


def test_an_offer_is_taken_for_the_price_that_was_seen() -> None:
    entry = BoardEntry(7, 0, 3, "bob", 250, "a lamp")
    taken = [calls.board_take(65, entry), calls.board_take(65, 7, 250)]
    assert [call.fields for call in taken] == [(65, 7, 250)] * 2
    assert calls.board_take(65, entry, 200).fields == (65, 7, 200)
    with pytest.raises(BadArgument, match="price=None"):
        calls.board_take(65, 7)


def test_helpers_say_which_role_they_set() -> None:
    made = [
        calls.invite(65, 3),
        calls.kick(65, 3),
        calls.ban(65, 3, 60),
        calls.mute(65, 3),
        calls.pardon(65, 3),
    ]
    assert [call.fields for call in made] == [
        (65, 3, RoomRole.MEMBER, 0),
        (65, 3, RoomRole.BANNED, 1),
        (65, 3, RoomRole.BANNED, 60),
        (65, 3, RoomRole.MUTED, 0),
        (65, 3, RoomRole.NONE, 0),
    ]
    with pytest.raises(BadArgument, match="NONE, MEMBER, MODERATOR, OWNER, MUTED, BANNED"):
        calls.set_role(65, 3, 6)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(BadArgument, match="PUBLIC, INVITED, CLOSED"):
        calls.set_room(65, "", True)  # type: ignore[arg-type]  # what is refused


# --- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ROWS))
@given(data=st.data())
def test_every_call_gets_its_answer(name: str, data: st.DataObject) -> None:
    opcode = opcode_of(name)
    pair = Pair()
    request = pair.request(call_of(name, data))
    fields = answer_fields(opcode, data)
    got = pair.answered(answer(request, *fields))
    assert (got.req_id, got.error) == (request.req_id, None)
    if name in {"logout", "leave", "block", "unblock"}:
        assert got.result is None
    elif name in {"delete", "rooms", "members", "board"}:
        assert got.result == fields[0]
    elif BY_OPCODE[opcode].numbered:
        if name == "open_room":
            fields = (fields[0], bool(fields[1]))
        assert got.result == (*fields, request.req_id, False)
        assert type(got.result) is OUTCOMES[opcode]
    elif name == "room_info":
        assert got.result == fields
        assert [type(each) for each in got.result[3:]] == [RoomAccess, RoomRole]
    else:
        assert got.result == fields
        assert type(got.result) is RESPONSE[opcode].body


@pytest.mark.parametrize("opcode", [Opcode(number) for number in MAKERS])
@given(data=st.data())
def test_every_push_is_given(opcode: Opcode, data: st.DataObject) -> None:
    fields = data.draw(values(PUSH[opcode].body))
    got = Pair().one(push(opcode, *fields))
    assert got == fields
    assert type(got) is PUSH[opcode].body


def test_what_goes_away_is_not_given() -> None:
    pair = Pair()
    assert pair.one(push(Opcode.GOING_AWAY, 5000, "restart")) is None
    assert pair.core.going_away == (5000, "restart")
    pair.core.begin(Decoder(MAX_BODY_LEN))
    assert pair.core.going_away is None


@given(data=st.data())
def test_answers_in_any_allowed_order_and_any_cut(data: st.DataObject) -> None:
    """Ledger answers may be overtaken; pushes come between; callers give up; the stream is cut."""
    pair = Pair()
    names = data.draw(st.lists(st.sampled_from(sorted(ROWS.keys() - {"logout"})), max_size=12))
    requests = [pair.request(call_of(name, data)) for name in names]
    given_up = {request.req_id for request in requests if data.draw(st.booleans())}
    for req_id in given_up:
        pair.core.abandon(req_id)
    unanswered = {r.req_id for r in requests if BY_OPCODE[r.opcode].numbered}
    assert pair.core.unanswered.keys() == unanswered
    # Each ledger answer is moved behind some of those that need not wait.
    order = sorted(
        range(len(requests)),
        key=lambda at: at + (data.draw(st.integers(0, 5)) if requests[at].req_id < 99 else 0),
    )
    stream: list[bytes] = []
    expected: list[Any] = []
    for request in (requests[at] for at in order):
        if data.draw(st.booleans()):
            gap = RoomGap(1, len(expected), 2)
            stream.append(push(Opcode.ROOM_GAP, *gap))
            expected.append(gap)
        status = data.draw(st.sampled_from(Status))
        if status:
            stream.append(refuse(request, status))
        else:
            stream.append(answer(request, *answer_fields(request.opcode, data)))
        if request.req_id not in given_up:
            expected.append((request.req_id, status))
    whole = b"".join(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    events: list[Any] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        for event in pair.receive(whole[start:end]):
            if isinstance(event, Answered):
                error = event.error
                assert error is None or isinstance(error, RequestFailed)
                events.append((event.req_id, error.status if error else Status.OK))
            elif event is not None:
                events.append(event)
    assert events == expected
    assert pair.core.end(ConnectionLost("over")) == []
    assert pair.core.unanswered == {}


def test_an_answer_is_good_for_one_request() -> None:
    pair = Pair()
    response = answer(pair.request(calls.balance()), 1, 2)
    assert pair.answered(response).result == (1, 2)
    with pytest.raises(ProtocolViolation, match="a response to nothing"):
        pair.one(response)


def _damaged(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


def _balance_with(flags: int, *, status: int = 0) -> bytes:
    body = RESPONSE[Opcode.BALANCE].encode(1, 2)
    return assemble(Opcode.BALANCE, OTHER_REQ_IDS, flags, status, body)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n<html>", "bad header"),
        (_damaged(_balance_with(Flag.RESPONSE)), "bad checksum"),
        (_balance_with(Flag.RESPONSE | Flag.ENCRYPTED), "flags 0x05"),
        (_balance_with(Flag.RESPONSE | Flag.COMPRESSED), "flags 0x06"),
        (_balance_with(Flag.RESPONSE, status=11), "status 11"),
        (_balance_with(Flag.RESPONSE, status=1), "left over|missing|ends inside"),
        (_balance_with(0), "neither a response nor a push"),
        (RESPONSE[Opcode.BALANCE].frame(OTHER_REQ_IDS + 1, 0, 1, 2), "response to nothing"),
        (RESPONSE[Opcode.DEPOSIT].frame(OTHER_REQ_IDS, 0, 1, 2), "response to nothing"),
        (PUSH[Opcode.ROOM_GAP].frame(1, 0, 1, 1, 1), "neither a response nor a push"),
        (PUSH[Opcode.ROOM_GAP].frame(0, Flag.POSSIBLE_DUPLICATE, 1, 1, 1), "neither a response"),
        (error_frame(Opcode.BALANCE, 0, Status.ERR_SERVER_BUSY, "full"), "response to nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_the_protocol_is_a_violation(data: bytes, what: str) -> None:
    pair = Pair()
    assert pair.request(calls.balance()).req_id == OTHER_REQ_IDS
    with pytest.raises(ProtocolViolation, match=what):
        pair.one(data)


def test_a_full_server_refuses_the_connection() -> None:
    with pytest.raises(ServerBusy, match="full") as caught:
        Pair().one(error_frame(Opcode.HELLO, 0, Status.ERR_SERVER_BUSY, "full", 1500))
    assert caught.value.retry_after_ms == 1500


# --- the session ------------------------------------------------------------------------------


def test_login_proves_both_ends() -> None:
    pair = Pair(client_id=99)
    got = pair.log_in(Handshake(hello={"server_name": "here", "heartbeat_s": 5}))
    assert got.error is None
    assert got.result.user_id == USER_ID
    assert pair.core.state == State.AUTHENTICATED
    assert (pair.core.username, pair.core.user_id, pair.core.session_id) == (USERNAME, USER_ID, 1)
    assert (pair.core.server_name, pair.core.heartbeat_s) == ("here", 5)


def test_register_then_login() -> None:
    pair, handshake = Pair(), Handshake()
    call = auth.register(pair.greet(handshake), "a new password")
    assert pair.answered(handshake.respond(pair.request(call))).result == USER_ID
    assert pair.core.state == State.GREETED
    assert pair.log_in(handshake, "a new password").error is None


def test_a_wrong_password_is_unauthorized() -> None:
    pair = Pair()
    error = pair.log_in(password="wrong").error  # noqa: S106 - and it is
    assert isinstance(error, errors.Unauthorized)
    assert pair.core.state == State.CONNECTED


@pytest.mark.parametrize("signature", [b"", bytes(32), bytes(31), bytes(64)])
def test_a_server_without_the_key_is_found_out(signature: bytes) -> None:
    pair = Pair()
    with pytest.raises(ProtocolViolation, match="signature"):
        pair.log_in(Handshake(login={"server_signature": signature}))
    assert pair.core.state != State.AUTHENTICATED
    assert pair.core.user_id == 0


@pytest.mark.parametrize(
    "lie",
    [
        {"iterations": MIN_ITERATIONS - 1},
        {"iterations": 2**32 - 1},
        {"salt": b""},
        {"server_nonce": bytes(15)},
        {"capabilities": 1},
    ],
    ids=str,
)
def test_a_weak_or_costly_greeting_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation):
        Pair().log_in(Handshake(hello=lie))
    if "iterations" in lie:
        pair = Pair()
        with pytest.raises(ProtocolViolation):
            auth.register(pair.greet(Handshake(hello=lie)), PASSWORD)


def test_nonces_are_fresh() -> None:
    hellos = [auth.hello(USERNAME, "test", 0) for _ in range(2)]
    assert hellos[0].fields[3] != hellos[1].fields[3]


def test_logout_leads_back() -> None:
    pair = Pair()
    pair.log_in()
    assert pair.answered(answer(pair.request(calls.logout()))).result is None
    assert pair.core.state == State.CONNECTED
    assert pair.log_in().error is None


def test_the_session_follows_an_answer_that_nobody_waits_for() -> None:
    pair, handshake = Pair(), Handshake()
    greeting = pair.greet(handshake)
    call = pair.core.login(greeting, auth.derive(greeting, PASSWORD))
    request = pair.request(call)
    pair.core.abandon(request.req_id)
    assert pair.one(handshake.respond(request)) is None
    assert pair.core.state == State.AUTHENTICATED
    assert pair.core.user_id == USER_ID


def test_the_limit_of_bodies_is_the_servers() -> None:
    pair = Pair()
    pair.log_in(Handshake(hello={"max_body_len": 100}))
    assert pair.decoder.max_body_len == 100
    pair.request(calls.send(1, "x" * 94))
    with pytest.raises(MisuseError, match="at most 100"):
        pair.request(calls.send(1, "x" * 95))


def test_a_client_id_is_drawn_at_the_first_login() -> None:
    assert Pair(0).core.client_id == 0
    assert Pair(5).core.client_id == 5
    ids = set()
    for _ in range(8):
        pair = Pair()
        assert pair.core.client_id == 0
        pair.log_in()
        ids.add(pair.core.client_id)
        pair.reconnect(ConnectionLost("gone"))
        pair.log_in()
        assert pair.core.client_id in ids
    assert len(ids) == 8
    assert all(0 < number < 2**64 for number in ids)


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(MisuseError, match="timeout"):
        ClientBase(timeout_s=timeout_s)


# --- heartbeats -------------------------------------------------------------------------------


def _beat(pair: Pair) -> Request:
    req_id, frame = pair.core.beat(123)
    decoder = Decoder(MAX_BODY_LEN)
    decoder.feed(frame)
    read = decoder.next()
    assert read is not None
    request = read_request(read)
    assert request[:2] == (Opcode.HEARTBEAT, req_id)
    assert request.fields == (123,)
    return request


def test_a_silent_server_is_given_up_after_its_own_idle_timeout() -> None:
    pair = Pair()
    pair.log_in(Handshake(hello={"heartbeat_s": 15, "idle_timeout_s": 60}))
    for _ in range(5):  # 60 s of silence lie between the first and the fifth
        _beat(pair)
    with pytest.raises(ConnectionLost, match="silent for 75 s"):
        _beat(pair)


def test_whatever_is_heard_is_a_sign_of_life() -> None:
    pair = Pair()
    pair.log_in(Handshake(hello={"heartbeat_s": 15, "idle_timeout_s": 15}))
    for _ in range(5):
        request = _beat(pair)
        assert pair.one(answer(request, 123, 456)) is None
    for _ in range(5):
        _beat(pair)
        pair.one(push(Opcode.ROOM_GAP, 1, 1, 1))


# --- numbered requests --------------------------------------------------------------------------


def test_req_ids_of_numbered_requests_are_dense() -> None:
    """Other requests must not use up the window in which the server keeps outcomes."""
    pair = Pair()
    numbered, others = [], []
    for call in (calls.deposit(1), calls.send(1, "hi"), calls.direct(3, "psst")):
        numbered.append(pair.request(call).req_id)
        others.append(pair.request(calls.balance()).req_id)
        others.append(_beat(pair).req_id)
    assert numbered == [1, 2, 3]
    assert others == list(range(OTHER_REQ_IDS, OTHER_REQ_IDS + 6))
    pair.reconnect(ConnectionLost("gone"))
    assert pair.request(calls.transfer(1, 1)).req_id == 4


def test_numbered_requests_in_flight_stay_within_the_window() -> None:
    pair = Pair()
    requests: list[Request] = []
    kinds = (calls.deposit(1), calls.send(1, "hi"))
    while pair.core.may_send(kinds[len(requests) % 2], None):
        requests.append(pair.request(kinds[len(requests) % 2]))
    assert len(requests) == OUTCOME_WINDOW
    for request in requests[1:]:  # the newest ones do not help
        pair.answered(answer(request, 1, 1))
        assert not any(pair.core.may_send(call, None) for call in kinds)
    assert pair.core.may_send(calls.balance(), None)
    assert pair.core.may_send(calls.deposit(1), 1)  # a repeated one moves nothing
    pair.answered(answer(requests[0], 1, 1))
    assert pair.core.may_send(calls.deposit(1), None)


def test_client_id_0_has_no_window() -> None:
    pair = Pair(client_id=0)
    for _ in range(2 * OUTCOME_WINDOW):
        assert pair.core.may_send(calls.deposit(1), None)
        pair.request(calls.deposit(1))


def test_a_lost_connection_names_the_unanswered() -> None:
    pair = Pair()
    requests = [pair.request(calls.deposit(amount)) for amount in (1, 2, 3)]
    other = pair.request(calls.balance())
    pair.answered(answer(requests[1], 1, 1))
    pair.core.abandon(3)
    assert pair.core.end(ConnectionLost("gone")) == [1, other.req_id]
    failure = pair.core.failure()
    assert isinstance(failure, ConnectionLost)
    assert failure.req_ids == (1, 3)
    assert pair.core.end(ConnectionLost("again")) == []
    assert str(pair.core.failure()) == "gone"
    with pytest.raises(ConnectionLost, match="gone"):
        pair.request(calls.balance())


@pytest.mark.parametrize(
    ("call", "fields", "result"),
    [
        (calls.deposit(5), (9, 5), Receipt(9, 5, 1, True)),
        (calls.send(1, "hi"), (7, 123), Sent(7, 123, 1, True)),
        (calls.direct(3, "psst"), (123,), DirectSent(123, 1, True)),
        (calls.transfer_in_room(1, 3, 5, "tea"), (9, 5, 7), RoomReceipt(9, 5, 7, 1, True)),
    ],
    ids=lambda value: value.opcode.name if isinstance(value, Call) else "",
)
def test_a_repeated_request_settles_what_became_of_it(
    call: Call[Any], fields: tuple[Any, ...], result: Any
) -> None:
    pair = Pair()
    first = pair.request(call)
    assert pair.reconnect(ConnectionLost("gone")) == [1]
    assert pair.core.unanswered == {1: call}
    again = pair.request(call, 1, possible_duplicate=True)
    assert (again.req_id, again.flags) == (first.req_id, Flag.POSSIBLE_DUPLICATE)
    response = answer(again, *fields, flags=Flag.POSSIBLE_DUPLICATE)
    assert pair.answered(response).result == result
    assert pair.core.unanswered == {}
    assert pair.request(call).req_id == 2


@pytest.mark.parametrize("status", [status for status in Status if status])
def test_what_the_refusal_of_a_repeated_request_tells(status: Status) -> None:
    """Some refusals come before the server looks whether it was executed."""
    pair = Pair()
    pair.request(calls.deposit(5))
    pair.reconnect(ConnectionLost("gone"))
    again = pair.request(calls.deposit(5), 1, possible_duplicate=True)
    assert pair.answered(refuse(again, status)).error is not None
    unknown = {"ERR_SERVER_BUSY", "ERR_UNAUTHORIZED", "ERR_CHECKSUM_FAIL", "ERR_INTERNAL"}
    assert (1 in pair.core.unanswered) == (status.name in unknown)


def test_a_request_repeated_on_the_same_connection_gets_the_second_answer() -> None:
    """The first is refused late, the second is executed: its caller must not hear of the first."""
    pair = Pair()
    first = pair.request(calls.withdraw(5))
    pair.core.abandon(first.req_id)
    again = pair.request(calls.withdraw(5), first.req_id, possible_duplicate=True)
    assert pair.one(refuse(first, Status.ERR_INSUFFICIENT_FUNDS)) is None
    assert pair.core.unanswered.keys() == {1}
    got = pair.answered(answer(again, 9, 5))
    assert (got.error, got.result) == (None, Receipt(9, 5, 1, False))
    assert pair.core.unanswered == {}


def test_the_same_call_again_under_its_number_is_a_repeated_one() -> None:
    """The first may have been executed: a busy server does not tell."""
    pair = Pair(client_id=5)
    pair.log_in()
    call = calls.send(1, "hi")
    pair.core.numbers.claim(call, 7, False)
    assert pair.request(call, 7).flags == 0
    pair.reconnect(ConnectionLost("gone"))
    again = calls.send(1, "hi")
    pair.core.numbers.claim(again, 7, False)
    request = pair.request(again, 7)
    assert request.flags == Flag.POSSIBLE_DUPLICATE
    assert pair.answered(refuse(request, Status.ERR_SERVER_BUSY)).error is not None
    assert pair.core.unanswered.keys() == {7}


def test_a_request_in_flight_is_not_repeated() -> None:
    pair = Pair()
    pair.request(calls.deposit(5))
    with pytest.raises(MisuseError, match="in flight"):
        pair.request(calls.deposit(5), 1, possible_duplicate=True)


@pytest.mark.parametrize("req_id", [0, -1, OTHER_REQ_IDS])
def test_req_ids_that_cannot_be(req_id: int) -> None:
    with pytest.raises(MisuseError, match="req_id"):
        Pair().request(calls.deposit(5), req_id)


@pytest.mark.parametrize(
    "call",
    [
        Call(Opcode.DEPOSIT, (-1,), Receipt._make),
        Call(Opcode.DEPOSIT, (1.5,), Receipt._make),
        Call(Opcode.TRANSFER, (2**32, 1), Receipt._make),
    ],
)
def test_a_value_the_wire_cannot_carry_changes_nothing(call: Call[Any]) -> None:
    pair = Pair()
    with pytest.raises(MisuseError):
        pair.request(call)
    assert pair.core.unanswered == {}
    assert pair.core.unanswered == {}
    # a number that was drawn is not drawn again
    assert pair.request(calls.deposit(1)).req_id == 2


def test_a_request_that_was_not_sent_leaves_nothing() -> None:
    pair = Pair()
    pair.core.retract(pair.request(calls.deposit(5)).req_id)
    assert pair.core.unanswered == {}
    pair.request(calls.deposit(6))
    pair.reconnect(ConnectionLost("gone"))
    pair.core.retract(pair.request(calls.deposit(6), 2, possible_duplicate=True).req_id)
    assert pair.core.unanswered.keys() == {2}, "it is still not known what became of the first"
    pair.core.retract(_beat(pair).req_id)
    assert pair.core.end(ConnectionLost("over")) == []


def test_unanswered_requests_out_of_the_window_are_forgotten() -> None:
    pair = Pair()
    for _ in range(3 * OUTCOME_WINDOW):
        pair.core.abandon(pair.request(calls.deposit(1)).req_id)
    assert pair.core.unanswered_req_ids == tuple(range(129, 193))


def test_a_recorded_outcome_of_what_was_not_repeated_is_no_result() -> None:
    """Another program has used this number: its payment was made, and this one was not."""
    pair = Pair(client_id=5)
    pair.log_in(Handshake(login={"resumed": 1}))
    request = pair.request(calls.deposit(1))
    got = pair.answered(answer(request, 9, 100, flags=Flag.POSSIBLE_DUPLICATE))
    assert isinstance(got.error, ReqIdTaken)
    assert got.error.req_id == request.req_id
    assert "was not executed" in str(got.error)
    assert pair.core.unanswered == {}


def test_a_recorded_outcome_says_so() -> None:
    pair = Pair(client_id=5)
    pair.log_in()
    call = calls.deposit(5)
    assert pair.core.numbers.claim(call, 100, False) == 100
    first = pair.answered(answer(pair.request(call, 100), 9, 100))
    assert first.result == Receipt(9, 100, 100, False)
    again = calls.deposit(5)
    pair.core.numbers.claim(again, 100, False)
    second = pair.answered(answer(pair.request(again, 100), 9, 100, flags=Flag.POSSIBLE_DUPLICATE))
    assert second.error is None
    assert second.result == Receipt(9, 100, 100, True)


@pytest.mark.parametrize("client_id", [None, 5])
def test_a_client_that_comes_back_goes_on_counting(client_id: int | None) -> None:
    pair = Pair(client_id)
    pair.log_in(Handshake(login={"resumed": 0}))
    pair.request(calls.deposit(1))
    pair.reconnect(ConnectionLost("gone"))
    pair.log_in(Handshake(login={"resumed": 1}))
    assert pair.core.resumed
    assert pair.request(calls.deposit(1)).req_id == 2


def test_another_user_does_not_inherit_unanswered_requests() -> None:
    pair = Pair()
    pair.log_in()
    pair.request(calls.deposit(1))
    pair.reconnect(ConnectionLost("gone"))
    pair.log_in()
    assert pair.core.unanswered.keys() == {1}
    pair.reconnect(ConnectionLost("gone"))
    pair.log_in(Handshake(login={"user_id": 8}))
    assert pair.core.unanswered == {}


def test_a_push_is_what_its_table_says() -> None:
    event = ChatBroadcast(1, 2, 3, 0, 4, "bob", "hi")
    assert Pair().one(push(Opcode.CHAT_BROADCAST, *event)) == event

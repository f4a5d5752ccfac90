"""A refusal for want of a right, and being put out of a room, are neither the end of the session
nor of the connection: what the core that reconnects makes of them.
"""

from functools import partial
from typing import Any

import pytest

from client.core import calls
from client.core.calls import Call, Sent
from client.core.pushes import RoomRefused
from client.core.session import Answered
from client.errors import Superseded, Unauthorized
from libproto.errors import Status
from libproto.messages import ChatBroadcast, EventKind, Flag, Opcode, RoomAccess, RoomGap
from tests.client.lossy import EPOCH, Link, said
from tests.client.peer import USER_ID, USERNAME, answer, refuse


@pytest.mark.parametrize(
    "call",
    [
        calls.deposit(1),
        calls.join(1),
        calls.history(2),
        calls.send(2, "hi"),
        calls.board(2),
        calls.ban(2, 3),
    ],
    ids=lambda call: call.opcode.name,
)
def test_a_superseded_session_is_found_out(call: Call[Any]) -> None:
    """What may be refused for another reason is followed by what tells."""
    link = Link()
    link.join(2, 0)
    waiting = link.send(calls.withdraw(1))
    request = link.send(call)
    refusal = partial(refuse, status=Status.ERR_UNAUTHORIZED, detail="say HELLO first")
    assert link.receive(refusal(request)) == []
    [probe] = link.own()
    assert (probe.opcode, probe.fields) == (Opcode.USER_NAME, (USER_ID,))
    with pytest.raises(Superseded, match="say HELLO first") as caught:
        link.receive(refusal(probe))
    assert link.core.lose(caught.value) == [waiting.req_id, request.req_id]
    assert isinstance(link.core.loss, Superseded)
    assert link.core.loss.req_ids == (1,)
    assert type(link.core.failure()) is Superseded


RIGHTS = [
    calls.join(1),
    calls.history(2),
    calls.send(2, "hi"),
    calls.transfer_in_room(2, 3, 1),
    calls.set_room(2, "", RoomAccess.PUBLIC),
    calls.mute(2, 3),
    calls.delete(2, 1),
    calls.board_add(2, 5, "a lamp"),
    calls.board(2),
    calls.board_remove(2, 1),
    calls.board_take(2, 1, 5),
    calls.deposit(1),
]


@pytest.mark.parametrize("call", RIGHTS, ids=lambda call: call.opcode.name)
def test_not_having_the_right_is_not_being_superseded(call: Call[Any]) -> None:
    link = Link()
    link.join(2, 0)
    request = link.send(call)
    assert link.receive(refuse(request, Status.ERR_UNAUTHORIZED, "you are muted")) == []
    [probe] = link.own()
    [told] = link.receive(answer(probe, USER_ID, USERNAME, 1, 0))
    assert isinstance(told, Answered)
    assert (told.req_id, str(told.error)) == (request.req_id, "ERR_UNAUTHORIZED: you are muted")
    assert link.core.at_rest
    assert link.core.unanswered_req_ids == ()


def test_a_refusal_that_is_kept_back_is_asked_for_again_on_another_connection() -> None:
    link = Link()
    link.join(2, 0)
    request = link.send(calls.send(2, "hi"))
    assert link.receive(refuse(request, Status.ERR_UNAUTHORIZED)) == []
    link.own()
    link.reconnect()
    [join] = link.own()
    assert link.receive(answer(join, 2, 0, 1, EPOCH)) == []
    [again] = link.own()
    assert (again.req_id, again.flags) == (request.req_id, Flag.POSSIBLE_DUPLICATE)
    assert link.receive(refuse(again, Status.ERR_UNAUTHORIZED)) == []
    assert not link.core.steady
    [probe] = link.own()
    [told] = link.receive(answer(probe, USER_ID, USERNAME, 1, 0))
    assert isinstance(told, Answered)
    assert isinstance(told.error, Unauthorized)
    assert link.core.steady


def test_a_call_that_times_out_while_its_refusal_is_kept_back_can_be_made_again() -> None:
    link = Link()
    link.join(2, 0)
    request = link.send(calls.send(2, "hi"))
    link.receive(refuse(request, Status.ERR_UNAUTHORIZED))
    link.core.abandon(request.req_id)
    [probe] = link.own()
    [again] = link.read(link.core.request(calls.send(2, "hi"), request.req_id, True)[1])
    assert link.receive(answer(probe, USER_ID, USERNAME, 1, 0)) == []
    assert link.answered(answer(again, 5, 9)).result == Sent(5, 9, request.req_id, False)


# --- put out of a room ------------------------------------------------------------------------


def message(room: int, seq: int, text: str = "hi") -> ChatBroadcast:
    return ChatBroadcast(room, seq, 0, EventKind.MESSAGE, 3, "bob", text)


def changed(room: int, seq: int, text: str) -> ChatBroadcast:
    return ChatBroadcast(room, seq, 0, EventKind.ROOM_CHANGED, 3, "bob", text)


@pytest.mark.parametrize(
    ("text", "why"),
    [("access 2", "the room was closed"), (f"role {USER_ID} 5", "you were put out of the room")],
)
def test_who_is_put_out_of_a_room_does_not_join_it_again(text: str, why: str) -> None:
    link = Link()
    link.join(2, 0)
    link.join(3, 0)
    out = changed(2, 1, text)
    refused = RoomRefused(2, Status.ERR_UNAUTHORIZED, why)
    assert link.receive(said(out)) == [out, refused]
    refusal = refuse(link.send(calls.send(2, "hi")), Status.ERR_UNAUTHORIZED)
    assert isinstance(link.answered(refusal).error, Unauthorized)
    link.reconnect()
    [join] = link.own()
    assert join.fields == (3,)
    assert link.receive(answer(join, 3, 0, 1, EPOCH)) == []
    assert link.core.steady


@pytest.mark.parametrize(
    "text", [f"role {USER_ID} 4", f"role {USER_ID + 1} 5", "access 1", "topic access 2", "access x"]
)
def test_what_puts_nobody_out(text: str) -> None:
    link = Link()
    link.join(2, 0)
    event = changed(2, 1, text)
    assert link.receive(said(event)) == [event]
    link.reconnect()
    assert [join.fields for join in link.own()] == [(2,)]


def test_who_is_put_out_while_catching_up_is_given_all_that_was_before() -> None:
    link = Link()
    link.join(2, 0)
    link.reconnect()
    [join] = link.own()
    link.receive(answer(join, 2, 2, 1, EPOCH))
    [history] = link.own()
    out = changed(2, 3, f"role {USER_ID} 5")
    assert link.receive(said(out)) == []
    # An earlier ban, which had ended, is one of the past.
    missed = [changed(2, 1, f"role {USER_ID} 5"), message(2, 2)]
    refused = RoomRefused(2, Status.ERR_UNAUTHORIZED, "you were put out of the room")
    assert link.receive(answer(history, 2, EPOCH, 1, missed)) == [*missed, out, refused]
    assert link.own() == []
    link.reconnect()
    assert link.own() == []


def test_a_room_that_was_opened_anew_begins_anew() -> None:
    """Its closing was not seen: it is another room, and the position in the old one is nothing."""
    link = Link()
    link.join(2, 50)
    link.join(2, 3, EPOCH + 1)
    assert link.receive(said(message(2, 4))) == [message(2, 4)]
    link.reconnect()
    [join] = link.own()
    assert link.receive(answer(join, 2, 4, 1, EPOCH + 1)) == []


@pytest.mark.parametrize("own", [calls.join(2), calls.history(2)], ids=["join", "history"])
def test_what_the_core_asks_is_not_superseded_by_the_lack_of_a_right(own: Call[Any]) -> None:
    """Banned meanwhile: the program is told, and the other requests go on."""
    link = Link()
    link.join(2, 0)
    link.reconnect()
    [request] = link.own()
    if own.opcode == Opcode.ROOM_HISTORY:
        link.receive(answer(request, 2, 1, 1, EPOCH))
        [request] = link.own()
    assert link.receive(refuse(request, Status.ERR_UNAUTHORIZED, "banned")) == []
    [probe] = link.own()
    told = link.receive(answer(probe, USER_ID, USERNAME, 1, 0))
    if own.opcode == Opcode.ROOM_HISTORY:
        assert told == [RoomGap(2, 1, 1)]
    else:
        assert told == [RoomRefused(2, Status.ERR_UNAUTHORIZED, "banned")]
    assert link.core.steady
    assert link.core.caught_up

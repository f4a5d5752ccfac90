"""Rooms after a lost connection: joined again, with what was missed, in its order."""

import pytest

from client.core import calls
from client.core.pushes import LogReplaced, RoomRefused, RoomRestarted
from client.errors import (
    ConnectionLost,
    Unauthorized,
)
from libproto.errors import Status
from libproto.messages import (
    ChatBroadcast,
    DirectMessage,
    EventKind,
    Opcode,
    RoomGap,
)
from tests.client.lossy import EPOCH, Link, said
from tests.client.peer import (
    LOG_ID,
    Request,
    answer,
    push,
    refuse,
)


def message(room: int, seq: int, text: str = "hi") -> ChatBroadcast:
    return ChatBroadcast(room, seq, 0, EventKind.MESSAGE, 3, "bob", text)


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

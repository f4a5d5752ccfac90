"""Messages and payments in rooms are executed exactly once under a client_id, wherever they are
repeated: on another worker, after a kill -9 of the worker or of everything, and after a restart.
What anybody was shown is there afterwards."""

from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import EventKind, Flag, Opcode
from tests.helpers.server import StartServer
from tests.helpers.wire import Lobby, Wire

CLIENT = 0xC0FFEE
AGAIN = int(Flag.POSSIBLE_DUPLICATE)
ROOM = 7


def texts(wire: Wire, room: int = ROOM) -> list[tuple[int, str]]:
    """(room_seq, message) of all messages of a room."""
    found, after = [], 0
    while events := wire.ok(Opcode.ROOM_HISTORY, room, after, 256).events:
        after = events[-1].room_seq
        found += [(e.room_seq, e.message) for e in events if e.kind == EventKind.MESSAGE]
    return found


def test_a_message_repeated_anywhere_is_said_once(lobby: Lobby) -> None:
    username, room = lobby.new_user(), 11
    wire = lobby.enter(username, client_id=CLIENT, worker=0)
    wire.ok(Opcode.JOIN_ROOM, room)
    first = wire.call(Opcode.CHAT_SEND, room, "hello", req_id=10)
    assert (first.status, first.flags) == (Status.OK, Flag.RESPONSE)
    for worker in range(4):
        again = lobby.enter(username, client_id=CLIENT, worker=worker, next_req_id=11)
        for flags in (0, AGAIN):
            answer = again.call(Opcode.CHAT_SEND, room, "hello", req_id=10, flags=flags)
            assert answer.status == Status.OK, "before it has joined the room again, too"
            assert answer.flags == Flag.RESPONSE | AGAIN
            assert answer.body == first.body
        assert again.call(Opcode.CHAT_SEND, room, "other", req_id=10).status == (
            Status.ERR_BAD_PACKET
        )
        assert again.call(Opcode.DEPOSIT, 5, req_id=10).status == Status.ERR_BAD_PACKET
        assert again.call(Opcode.CHAT_SEND, 12, "hello", req_id=10).status == (
            Status.ERR_BAD_PACKET
        )
    assert texts(again, room) == [(first.body.room_seq, "hello")]


def test_messages_and_money_share_the_window(lobby: Lobby) -> None:
    room = 13
    wire = lobby.enter(client_id=CLIENT)
    wire.ok(Opcode.JOIN_ROOM, room)
    assert wire.call(Opcode.CHAT_SEND, room, "old", req_id=6).status == Status.OK
    assert wire.call(Opcode.DEPOSIT, 5, req_id=70).status == Status.OK
    assert wire.call(Opcode.CHAT_SEND, room, "old", req_id=6, flags=AGAIN).status == (
        Status.ERR_TIMEOUT
    )
    assert wire.call(Opcode.CHAT_SEND, room, "late", req_id=7).status == Status.OK
    assert wire.call(Opcode.DEPOSIT, 5, req_id=7).status == Status.ERR_BAD_PACKET


def test_a_message_with_the_flag_and_without_a_client_is_not_executed(lobby: Lobby) -> None:
    wire = lobby.enter()
    wire.ok(Opcode.JOIN_ROOM, ROOM)
    assert wire.call(Opcode.CHAT_SEND, ROOM, "x", flags=AGAIN).status == Status.ERR_TIMEOUT
    assert wire.call(Opcode.CHAT_SEND, 8, "x").status == Status.ERR_UNAUTHORIZED
    assert wire.call(Opcode.CHAT_SEND, 1 << 20, "x").status == Status.ERR_NOT_FOUND


def test_a_payment_in_a_room(lobby: Lobby) -> None:
    room, note = 17, "for the café"
    payer, payee, member = lobby.enter(client_id=CLIENT), lobby.enter(), lobby.enter()
    for wire in (payer, member):
        wire.ok(Opcode.JOIN_ROOM, room)
    payer.call(Opcode.DEPOSIT, 100, req_id=1)
    fields = (room, payee.user, 30, note)
    first = payer.call(Opcode.TRANSFER_IN_ROOM, *fields, req_id=2)
    assert first.status == Status.OK
    assert first.body.balance == 70
    again = payer.call(Opcode.TRANSFER_IN_ROOM, *fields, req_id=2, flags=AGAIN)
    assert (again.flags, again.body) == (Flag.RESPONSE | AGAIN, first.body)
    while (told := member.push().body).kind != EventKind.PAYMENT:
        pass
    assert told.room_seq == first.body.room_seq
    assert told.message == f"{first.body.txn_id} {payee.user} 30 {note}"
    assert payee.ok(Opcode.BALANCE).balance == 30
    history = payee.ok(Opcode.TXN_HISTORY, 0, 10).transactions
    assert [(t.txn_id, t.amount, t.kind) for t in history] == [(first.body.txn_id, 30, 3)]
    for wrong, status in (
        ((room, payee.user, 31, note), Status.ERR_BAD_PACKET),
        ((room, payee.user, 30, "other"), Status.ERR_BAD_PACKET),
        ((18, payee.user, 30, note), Status.ERR_BAD_PACKET),
    ):
        assert payer.call(Opcode.TRANSFER_IN_ROOM, *wrong, req_id=2).status == status
    for req_id, refused, status in (
        (3, (room, payee.user, 0, ""), Status.ERR_BAD_PACKET),
        (3, (room, payer.user, 1, ""), Status.ERR_BAD_PACKET),
        (3, (room, payee.user, 1, "x" * 257), Status.ERR_BAD_PACKET),
        (3, (room, payee.user, 1, "two\nlines"), Status.ERR_BAD_PACKET),
        (3, (19, payee.user, 1, ""), Status.ERR_UNAUTHORIZED),
        (3, (1 << 20, payee.user, 1, ""), Status.ERR_NOT_FOUND),
        (3, (room, 1 << 20, 1, ""), Status.ERR_NOT_FOUND),
        (3, (room, payee.user, 71, ""), Status.ERR_INSUFFICIENT_FUNDS),
    ):
        answer = payer.call(Opcode.TRANSFER_IN_ROOM, *refused, req_id=req_id)
        assert answer.status == status, refused
    assert payer.ok(Opcode.BALANCE).balance == 70


@pytest.mark.parametrize("orderly", [True, False], ids=["stopped", "killed"])
def test_over_a_restart(start_server: StartServer, tmp_path: Path, orderly: bool) -> None:
    """Messages, direct messages and payments are known again, and nobody's text is lost."""
    data = str(tmp_path / "the data")
    server = start_server("--data", data)
    with Lobby(server) as lobby:
        ann, bob = lobby.new_user(), lobby.enter()
        wire = lobby.enter(ann, client_id=CLIENT)
        wire.ok(Opcode.JOIN_ROOM, ROOM)
        wire.call(Opcode.DEPOSIT, 100, req_id=1)
        requests: dict[int, tuple[Opcode, tuple[object, ...]]] = {
            2: (Opcode.CHAT_SEND, (ROOM, "one")),
            3: (Opcode.TRANSFER_IN_ROOM, (ROOM, bob.user, 10, "two")),
            4: (Opcode.DIRECT_SEND, (bob.user, "three")),
            5: (Opcode.CHAT_SEND, (ROOM, "four")),
        }
        answers = {
            req_id: wire.call(opcode, *fields, req_id=req_id)
            for req_id, (opcode, fields) in requests.items()
        }
        assert {answer.status for answer in answers.values()} == {Status.OK}
        last = wire.ok(Opcode.JOIN_ROOM, ROOM).last_seq
        epoch, bobs = wire.ok(Opcode.ROOM_HISTORY, ROOM, 0, 1).epoch, bob.user
    if orderly:
        assert server.stop() == 0
    else:
        server.crash()
    with Lobby(start_server("--data", data)) as lobby:
        wire = lobby.enter(ann, client_id=CLIENT, next_req_id=6)
        for req_id, (opcode, fields) in requests.items():
            again = wire.call(opcode, *fields, req_id=req_id, flags=AGAIN)
            assert again.flags == Flag.RESPONSE | AGAIN, req_id
            assert again.body == answers[req_id].body
        assert wire.ok(Opcode.ROOM_HISTORY, ROOM, 0, 1).epoch == epoch
        joined = wire.ok(Opcode.JOIN_ROOM, ROOM)
        skipped = joined.last_seq - last
        assert skipped <= 1 if orderly else skipped >= 1000, "numbers that a crash may have used"
        assert wire.ok(Opcode.USER_NAME, bobs).user_id == bobs
        assert [text for _, text in texts(wire)] == ["one", "four"]
        new = wire.ok(Opcode.CHAT_SEND, ROOM, "five")
        assert new.room_seq == joined.last_seq + 2, "after its own joined event"

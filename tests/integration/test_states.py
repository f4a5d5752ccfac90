"""What every request is answered in each of the three states of a connection, and where it leads:
the table "Session" of the protocol, written out here once more and not taken from the code."""

import hashlib
from collections.abc import Callable

import pytest

from libproto.codec import REQUEST
from libproto.errors import Status
from libproto.messages import BY_OPCODE, Flag, Opcode, State
from tests.helpers.server import StartServer
from tests.helpers.wire import SALT, Lobby, Wire, registration
from tests.integration.test_bad_input import frame, spoiled

ITERATIONS = 4096
ROOM = 3
OK, BAD, NO = Status.OK, Status.ERR_BAD_PACKET, Status.ERR_UNAUTHORIZED

# opcode: what it is answered in CONNECTED, GREETED, AUTHENTICATED
TABLE = {
    Opcode.HELLO: (OK, OK, BAD),
    Opcode.REGISTER: (NO, OK, BAD),
    Opcode.LOGIN: (NO, OK, BAD),
    Opcode.LOGOUT: (NO, NO, OK),
    Opcode.HEARTBEAT: (OK, OK, OK),
    **dict.fromkeys(
        (
            Opcode.PASSWORD,
            Opcode.JOIN_ROOM,
            Opcode.LEAVE_ROOM,
            Opcode.CHAT_SEND,
            Opcode.ROOM_HISTORY,
            Opcode.ROOM_LIST,
            Opcode.ROOM_MEMBERS,
            Opcode.DIRECT_SEND,
            Opcode.INBOX_HISTORY,
            Opcode.USER_LOOKUP,
            Opcode.USER_NAME,
            Opcode.DEPOSIT,
            Opcode.WITHDRAW,
            Opcode.TRANSFER,
            Opcode.TRANSFER_IN_ROOM,
            Opcode.ROOM_OPEN,
            Opcode.ROOM_INFO,
            Opcode.ROOM_SET,
            Opcode.ROOM_ROLE,
            Opcode.BLOCK,
            Opcode.CHAT_DELETE,
            Opcode.BOARD_ADD,
            Opcode.BOARD_LIST,
            Opcode.BOARD_REMOVE,
            Opcode.BOARD_TAKE,
            Opcode.FILE_BEGIN,
            Opcode.FILE_PUT,
            Opcode.FILE_END,
            Opcode.FILE_GET,
            Opcode.BALANCE,
            Opcode.TXN_HISTORY,
        ),
        (NO, NO, OK),
    ),
    Opcode.LINK_FETCH: (NO, NO, Status.ERR_NOT_FOUND),  # no host is allowed
}
# state: where a request leads that is answered OK
LEADS_TO = {
    Opcode.HELLO: State.GREETED,
    Opcode.LOGIN: State.AUTHENTICATED,
    Opcode.LOGOUT: State.CONNECTED,
}


def test_the_table_is_complete() -> None:
    requests = {opcode for opcode, message in BY_OPCODE.items() if message.request is not None}
    assert set(map(int, TABLE)) == requests


def state_of(wire: Wire) -> State:
    """Asked without a change: a REGISTER with a bad salt is refused differently in each."""
    status = wire.status(Opcode.REGISTER, "x", b"short", ITERATIONS, SALT * 2, SALT * 2)
    if status == NO:
        return State.CONNECTED
    assert status == BAD
    return State.AUTHENTICATED if wire.status(Opcode.BALANCE) == OK else State.GREETED


def bring(lobby: Lobby, username: str, state: State) -> Wire:
    """A connection of that user in that state; logged in, it has joined ROOM and has money."""
    wire = lobby.open()
    if state != State.CONNECTED:
        wire.hello(username)
    if state == State.AUTHENTICATED:
        assert wire.login(username).status == OK
        wire.ok(Opcode.JOIN_ROOM, ROOM)
        wire.ok(Opcode.DEPOSIT, 100)
    assert state_of(wire) == state
    return wire


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize("opcode", TABLE, ids=lambda opcode: opcode.name)
def test_every_request_in_every_state(lobby: Lobby, opcode: Opcode, state: State) -> None:
    username, other = lobby.new_user(), lobby.enter()
    wire = bring(lobby, username, state)
    named = mine = theirs = said = upload = empty = shared = ROOM
    if state == State.AUTHENTICATED:
        named = wire.ok(Opcode.ROOM_OPEN, f"room of {username}").room_id
        other.ok(Opcode.JOIN_ROOM, ROOM)
        said = wire.ok(Opcode.CHAT_SEND, ROOM, "to be deleted").room_seq
        mine, theirs = (w.ok(Opcode.BOARD_ADD, ROOM, 5, "a ring").entry_id for w in (wire, other))
        none = hashlib.sha256().digest()
        upload = wire.ok(Opcode.FILE_BEGIN, ROOM, 1, bytes(32), "text/plain", "b.txt").file_id
        empty, shared = (
            w.ok(Opcode.FILE_BEGIN, ROOM, 0, none, "text/plain", "a.txt").file_id
            for w in (wire, other)
        )
        other.ok(Opcode.FILE_END, shared)
    fields: dict[Opcode, Callable[[], tuple[object, ...]]] = {
        Opcode.HELLO: lambda: (0, "tests", username, bytes(16), b""),
        Opcode.REGISTER: lambda: registration(lobby.name(), ITERATIONS),
        Opcode.LOGIN: lambda: (
            username,
            wire.proof(username) if state != State.CONNECTED else bytes(32),
            0,
            1,
        ),
        Opcode.HEARTBEAT: lambda: (1,),
        Opcode.PASSWORD: lambda: registration(username, ITERATIONS)[1:],
        Opcode.JOIN_ROOM: lambda: (ROOM + 1,),
        Opcode.LEAVE_ROOM: lambda: (ROOM,),
        Opcode.CHAT_SEND: lambda: (ROOM, "hello"),
        Opcode.ROOM_HISTORY: lambda: (ROOM, 0, 10),
        Opcode.ROOM_LIST: lambda: (0,),
        Opcode.ROOM_MEMBERS: lambda: (ROOM, 0),
        Opcode.DIRECT_SEND: lambda: (other.user, "hello"),
        Opcode.INBOX_HISTORY: lambda: (0, 10),
        Opcode.USER_LOOKUP: lambda: (username,),
        Opcode.USER_NAME: lambda: (other.user,),
        Opcode.DEPOSIT: lambda: (1,),
        Opcode.WITHDRAW: lambda: (1,),
        Opcode.TRANSFER: lambda: (other.user, 1),
        Opcode.TRANSFER_IN_ROOM: lambda: (ROOM, other.user, 1, "for you"),
        Opcode.TXN_HISTORY: lambda: (0, 10),
        Opcode.ROOM_OPEN: lambda: (f"another of {username}",),
        Opcode.ROOM_INFO: lambda: (named,),
        Opcode.ROOM_SET: lambda: (named, "topic", 1),
        Opcode.ROOM_ROLE: lambda: (named, other.user, 1, 0),
        Opcode.CHAT_DELETE: lambda: (ROOM, said),
        Opcode.BLOCK: lambda: (other.user, 1),
        Opcode.BOARD_ADD: lambda: (ROOM, 5, "a stone"),
        Opcode.BOARD_LIST: lambda: (ROOM, 0, 10, ""),
        Opcode.BOARD_REMOVE: lambda: (ROOM, mine),
        Opcode.BOARD_TAKE: lambda: (ROOM, theirs, 5),
        Opcode.FILE_BEGIN: lambda: (ROOM, 1, bytes(32), "text/plain", "a.txt"),
        Opcode.FILE_PUT: lambda: (upload, 0, b"a"),
        Opcode.FILE_END: lambda: (empty,),
        Opcode.FILE_GET: lambda: (shared, 0, 1),
        Opcode.LINK_FETCH: lambda: (ROOM, "http://127.0.0.1/"),
    }
    before = lobby.counters()[f"errors_{opcode.name}"]
    expected = TABLE[opcode][state]
    answer = wire.call(opcode, *fields.get(opcode, tuple)())
    assert answer.status == expected, answer.body
    if expected:
        assert answer.body.retry_after_ms == 0
        assert lobby.counters()[f"errors_{opcode.name}"] == before + 1
    after = LEADS_TO.get(opcode, state) if expected == OK else state
    assert state_of(wire) == after


def test_hello_again_makes_a_fresh_nonce(lobby: Lobby) -> None:
    """The proof for the HELLO before it is worth nothing any more."""
    username = lobby.new_user()
    wire = lobby.open()
    first = wire.hello(username)
    old_proof = wire.proof(username)
    second = wire.hello(username)
    assert first.body.server_nonce != second.body.server_nonce
    assert first.body.salt == second.body.salt
    assert wire.status(Opcode.LOGIN, username, old_proof, 0, 1) == NO
    wire.hello(username)
    assert wire.login(username).status == OK


def test_a_failed_login_leads_to_connected(lobby: Lobby) -> None:
    username = lobby.new_user()
    wire = lobby.open()
    wire.hello(username)
    assert wire.status(Opcode.LOGIN, username, bytes(32), 0, 1) == NO
    assert state_of(wire) == State.CONNECTED
    wire.hello(username)
    assert wire.login(username).status == OK


def test_a_login_that_is_not_looked_at_leaves_the_state(lobby: Lobby) -> None:
    """What the table of bad input refuses spends no nonce, and does not count."""
    username = lobby.new_user()
    wire = lobby.open()
    wire.hello(username)
    body = REQUEST[Opcode.LOGIN].encode(username, wire.proof(username), 0, 1)
    good = frame(Opcode.LOGIN, body)
    for bad, status in (
        (frame(Opcode.LOGIN, body[:-1]), BAD),
        (frame(Opcode.LOGIN, body + b"\0"), BAD),
        (frame(Opcode.LOGIN, body, flags=Flag.COMPRESSED), BAD),
        (frame(Opcode.LOGIN, body, status=1), BAD),
        (spoiled(good), Status.ERR_CHECKSUM_FAIL),
        (spoiled(good), Status.ERR_CHECKSUM_FAIL),
    ):
        wire.send_raw(bad)
        assert wire.answer().status == status
    wire.send_raw(good)
    assert wire.answer().status == OK


def test_a_login_without_a_place_leads_to_connected(start_server: StartServer) -> None:
    """However it is refused: the nonce is spent, no record is made, and it does not count; with a
    wrong proof nobody learns that there is no place."""
    with Lobby(start_server("--clients", "1")) as lobby:
        username = lobby.new_user()
        there = lobby.enter(username, client_id=1)
        wire = lobby.open()
        for _ in range(4):
            wire.hello(username)
            answer = wire.login(username, client_id=2)
            assert answer.status == Status.ERR_SERVER_BUSY
            assert answer.body.retry_after_ms
            assert state_of(wire) == State.CONNECTED
        wire.hello(username)
        assert wire.login(username, "wrong", client_id=2).status == NO
        there.ok(Opcode.BALANCE)
        wire.hello(username)
        assert wire.login(username, client_id=1).body.resumed == 1


@pytest.mark.parametrize("greeted", [True, False], ids=["wrong proof", "without HELLO"])
def test_the_third_failed_login_closes_after_the_answer(lobby: Lobby, greeted: bool) -> None:
    """Whyever each of them was ERR_UNAUTHORIZED; what comes behind it is not executed."""
    username = lobby.new_user()
    wire = lobby.open()
    for attempt in range(1, 4):
        if greeted:
            wire.hello(username)
        assert wire.status(Opcode.LOGIN, username, bytes(32), 0, 1) == NO
        if attempt < 3:
            wire.ok(Opcode.HEARTBEAT, 1)
    wire.expect_end()


def test_failed_logins_of_a_connection_add_up(lobby: Lobby) -> None:
    """A LOGIN that succeeds between them does not forget them."""
    username = lobby.new_user()
    wire = lobby.open()
    for _ in range(2):
        wire.hello(username)
        assert wire.status(Opcode.LOGIN, username, bytes(32), 0, 1) == NO
    wire.hello(username)
    assert wire.login(username).status == OK
    wire.ok(Opcode.LOGOUT)
    wire.hello(username)
    assert wire.status(Opcode.LOGIN, username, bytes(32), 0, 1) == NO
    wire.expect_end()


def test_logout_and_login_as_another_on_one_connection(lobby: Lobby) -> None:
    """Nothing of the first session is left: neither rooms nor money nor the client."""
    first, second = lobby.new_user(), lobby.new_user()
    wire = lobby.open()
    wire.hello(first)
    wire.login(first, client_id=5)
    wire.ok(Opcode.JOIN_ROOM, ROOM)
    wire.ok(Opcode.DEPOSIT, 70)
    wire.ok(Opcode.LOGOUT)
    assert state_of(wire) == State.CONNECTED
    wire.hello(second)
    assert wire.login(second, client_id=5).body.resumed == 0
    assert wire.ok(Opcode.BALANCE) == (0, 0)
    assert wire.status(Opcode.CHAT_SEND, ROOM, "hello") == NO
    assert not wire.ok(Opcode.USER_LOOKUP, first).online

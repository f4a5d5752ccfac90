"""Rooms as a client sees them: joining, speaking, reading what was said, and who is there."""

from typing import Any

import pytest

from libproto.errors import Status
from libproto.messages import EventKind, Opcode
from tests.helpers.server import StartServer, wait_until
from tests.helpers.wire import NONCE, Lobby, RoomAccount, Wire

ROOMS = 256
WORKERS = 4
MAX_MESSAGE = 4096
LIST_MAX = 256
NO_SUCH_ROOMS = [0, ROOMS + 1, 2**32 - 1]


# ---- which rooms there are


@pytest.mark.parametrize("room", NO_SUCH_ROOMS)
def test_no_such_room(lobby: Lobby, room: int) -> None:
    wire = lobby.enter()
    for opcode, *fields in (
        (Opcode.JOIN_ROOM, room),
        (Opcode.LEAVE_ROOM, room),
        (Opcode.CHAT_SEND, room, "hello"),
        (Opcode.TRANSFER_IN_ROOM, room, wire.user + 1, 1, "hello"),
        (Opcode.ROOM_HISTORY, room, 0, 10),
        (Opcode.ROOM_MEMBERS, room, 0),
    ):
        assert wire.status(opcode, *fields) == Status.ERR_NOT_FOUND


@pytest.mark.parametrize("room", [1, ROOMS])
def test_the_first_and_the_last_room(lobby: Lobby, room: int) -> None:
    wire = lobby.enter()
    wire.ok(Opcode.JOIN_ROOM, room)
    wire.ok(Opcode.CHAT_SEND, room, "hello")
    assert wire.ok(Opcode.ROOM_HISTORY, room, 0, 256).events[-1].message == "hello"


def test_a_room_not_joined(lobby: Lobby) -> None:
    """By this connection: that another of the user's has joined is no help."""
    room, username = 20, lobby.new_user()
    lobby.enter(username).ok(Opcode.JOIN_ROOM, room)
    wire = lobby.enter(username)
    assert wire.status(Opcode.CHAT_SEND, room, "hello") == Status.ERR_UNAUTHORIZED
    assert wire.status(Opcode.LEAVE_ROOM, room) == Status.ERR_NOT_FOUND
    assert wire.ok(Opcode.ROOM_MEMBERS, room, 0).members == ((wire.user, username),)


def test_the_history_of_a_room_is_open_to_every_user(lobby: Lobby) -> None:
    """On every worker, without joining and without an event, also where nobody is in the room any
    more; but not to who has not logged in."""
    room = 61
    wire = lobby.enter(worker=0)
    joined = wire.ok(Opcode.JOIN_ROOM, room)
    said = wire.ok(Opcode.CHAT_SEND, room, "hello")
    shown = wire.ok(Opcode.ROOM_HISTORY, room, 0, 256)
    assert shown.epoch == joined.epoch
    readers = [lobby.enter(worker=worker) for worker in range(4)]
    for reader in readers:
        assert reader.ok(Opcode.ROOM_HISTORY, room, 0, 256) == shown
        assert not reader.pushes
    assert wire.ok(Opcode.ROOM_HISTORY, room, said.room_seq, 256).events == ()
    wire.ok(Opcode.LEAVE_ROOM, room)
    for reader in readers:
        answer = reader.ok(Opcode.ROOM_HISTORY, room, said.room_seq, 256)
        assert [event.kind for event in answer.events] == [EventKind.LEFT]
        assert reader.ok(Opcode.ROOM_LIST, room - 1).rooms[0] == (room, 0, said.room_seq + 1)
        assert reader.status(Opcode.CHAT_SEND, room, "hello") == Status.ERR_UNAUTHORIZED
    outside = lobby.open()
    assert outside.status(Opcode.ROOM_HISTORY, room, 0, 1) == Status.ERR_UNAUTHORIZED


def test_the_history_of_a_room_without_events(lobby: Lobby) -> None:
    wire = lobby.enter()
    empty = wire.ok(Opcode.ROOM_HISTORY, 62, 0, 256)
    assert (empty.room_id, empty.oldest_seq, empty.events) == (62, 1, ())
    assert wire.ok(Opcode.ROOM_HISTORY, 62, 7, 0) == empty
    assert 62 not in [entry.room_id for entry in wire.ok(Opcode.ROOM_LIST, 0).rooms]
    wire.ok(Opcode.JOIN_ROOM, 62)
    answer = wire.ok(Opcode.ROOM_HISTORY, 62, 0, 0)  # limit 0
    assert (answer.oldest_seq, answer.events) == (1, ())


# ---- texts

TURNED = "\u202eabc"  # an override that is not closed
BAD_TEXTS = ("a\0", "\x1b[2J", "a\rb", "\x7f", "\x85", "\u2028", "a\ufffe", "\U0010ffff", TURNED)
GOOD_TEXTS = ("a\tb\nc", TURNED + "\u202c", "\u2067a\u2069", "a\u200fb", "\u0378")


def test_texts_that_would_disturb_others_are_refused(lobby: Lobby) -> None:
    """To the room and to one user, and nothing of them is kept; those that only look so are not."""
    room = 63
    wire, other = lobby.enter(), lobby.enter()
    first = wire.ok(Opcode.JOIN_ROOM, room).last_seq
    for text in BAD_TEXTS:
        assert wire.status(Opcode.CHAT_SEND, room, text) == Status.ERR_BAD_PACKET
        assert wire.status(Opcode.DIRECT_SEND, other.user, text) == Status.ERR_BAD_PACKET
        # before it is looked at where it goes
        assert wire.status(Opcode.CHAT_SEND, 0, text) == Status.ERR_BAD_PACKET
    for text in GOOD_TEXTS:
        wire.ok(Opcode.CHAT_SEND, room, text)
        wire.ok(Opcode.DIRECT_SEND, other.user, text)
    events = wire.ok(Opcode.ROOM_HISTORY, room, first, 256).events
    assert [event.message for event in events] == ["", *GOOD_TEXTS]
    assert [other.push().body.message for _ in GOOD_TEXTS] == list(GOOD_TEXTS)


def test_the_client_name_is_a_text_of_at_most_64_bytes(lobby: Lobby) -> None:
    wire = lobby.open()
    for name, status in (
        ("", Status.OK),
        ("x" * 64, Status.OK),
        ("é" * 32, Status.OK),
        ("é" * 33, Status.ERR_BAD_PACKET),
        ("x" * 65, Status.ERR_BAD_PACKET),
        *((text, Status.ERR_BAD_PACKET) for text in (*BAD_TEXTS, "a\tb", "a\nb")),
    ):
        assert wire.status(Opcode.HELLO, 0, name, "", NONCE, b"") == status


# ---- joining and leaving


def test_join_tells_where_the_room_stands(lobby: Lobby) -> None:
    room = 21
    first, second = lobby.enter(worker=0), lobby.enter(worker=1)
    joined = first.ok(Opcode.JOIN_ROOM, room)
    assert (joined.room_id, joined.last_seq, joined.member_count) == (room, 0, 1)
    first.ok(Opcode.CHAT_SEND, room, "one")
    later = second.ok(Opcode.JOIN_ROOM, room)
    assert (later.last_seq, later.member_count, later.epoch) == (2, 2, joined.epoch)
    own = second.push().body
    assert (own.room_seq, own.kind, own.from_user) == (3, EventKind.JOINED, second.user)


def test_joining_twice_changes_nothing(lobby: Lobby) -> None:
    """No event, no second member; and the numbers that follow its answer's last_seq follow."""
    room = 22
    wire = lobby.enter()
    account = RoomAccount(room, wire.ok(Opcode.JOIN_ROOM, room).last_seq)
    account.take_until(wire, account.first)
    for turn in range(5):
        again = wire.ok(Opcode.JOIN_ROOM, room)
        assert (again.member_count, again.last_seq) == (1, account.last)
        seq = wire.ok(Opcode.CHAT_SEND, room, f"turn {turn}").room_seq
        account.take_until(wire, seq)
    wire.ok(Opcode.LEAVE_ROOM, room)
    assert not lobby.enter().ok(Opcode.ROOM_MEMBERS, room, 0).members
    assert list(account.events) == list(range(1, 7))


def test_leaving_and_joining_again(lobby: Lobby) -> None:
    """What was said meanwhile is not pushed, and is in the history."""
    room = 23
    wire, other = lobby.enter(worker=0), lobby.enter(worker=1)
    other.ok(Opcode.JOIN_ROOM, room)
    wire.ok(Opcode.JOIN_ROOM, room)
    wire.ok(Opcode.LEAVE_ROOM, room)
    assert wire.status(Opcode.LEAVE_ROOM, room) == Status.ERR_NOT_FOUND
    wire.pushes.clear()
    other.ok(Opcode.CHAT_SEND, room, "meanwhile")
    joined = wire.ok(Opcode.JOIN_ROOM, room)
    assert wire.push().body.room_seq == joined.last_seq + 1
    events = wire.ok(Opcode.ROOM_HISTORY, room, 0, 256).events
    assert [event.kind for event in events] == [
        EventKind.JOINED, EventKind.JOINED, EventKind.LEFT, EventKind.MESSAGE, EventKind.JOINED,
    ]  # fmt: skip


def test_many_rooms_of_one_connection(lobby: Lobby) -> None:
    rooms = range(60, 190)
    wire, other = lobby.enter(worker=2), lobby.enter(worker=3)
    for room in rooms:
        wire.ok(Opcode.JOIN_ROOM, room)
    for room in rooms:
        other.ok(Opcode.JOIN_ROOM, room)
        other.ok(Opcode.CHAT_SEND, room, f"in {room}")
    said: dict[int, str] = {}
    while len(said) < len(rooms):
        event = wire.push().body
        if event.kind == EventKind.MESSAGE:
            said[event.room_id] = event.message
    assert said == {room: f"in {room}" for room in rooms}


# ---- messages


@pytest.mark.parametrize(
    "message",
    ["x", "x" * MAX_MESSAGE, "é" * (MAX_MESSAGE // 2), "✓ 漢字 🎉\n\t\u202b\u05d0\u05d1\u202c"],
)
def test_messages_arrive_as_they_were_sent(lobby: Lobby, message: str) -> None:
    """To rooms and to users, on another worker and from the history."""
    room = 24
    wire, other = lobby.enter(worker=0), lobby.enter(worker=1)
    account = RoomAccount(room, other.ok(Opcode.JOIN_ROOM, room).last_seq)
    wire.ok(Opcode.JOIN_ROOM, room)
    sent = wire.ok(Opcode.CHAT_SEND, room, message)
    account.take_until(other, sent.room_seq)
    assert account.events[sent.room_seq] == (EventKind.MESSAGE, wire.user, message)
    (item,) = other.ok(Opcode.ROOM_HISTORY, room, sent.room_seq - 1, 5).events
    assert item == (
        room, sent.room_seq, sent.time, EventKind.MESSAGE, wire.user, lobby.username(wire), message
    )  # fmt: skip
    wire.ok(Opcode.DIRECT_SEND, other.user, message)
    assert other.push().body.message == message


@pytest.mark.parametrize("message", ["", "x" * (MAX_MESSAGE + 1), "é" * (MAX_MESSAGE // 2) + "x"])
def test_a_message_that_is_too_short_or_too_long(lobby: Lobby, message: str) -> None:
    room = 25
    wire = lobby.enter()
    last = wire.ok(Opcode.JOIN_ROOM, room).last_seq
    assert wire.status(Opcode.CHAT_SEND, room, message) == Status.ERR_BAD_PACKET
    assert wire.status(Opcode.DIRECT_SEND, wire.user, message) == Status.ERR_BAD_PACKET
    assert wire.ok(Opcode.CHAT_SEND, room, "fine").room_seq == last + 2


def test_the_longest_message_is_a_setting(start_server: StartServer) -> None:
    with Lobby(start_server("--max-message", "10")) as lobby:
        wire = lobby.enter()
        wire.ok(Opcode.JOIN_ROOM, 1)
        wire.ok(Opcode.CHAT_SEND, 1, "x" * 10)
        assert wire.status(Opcode.CHAT_SEND, 1, "x" * 11) == Status.ERR_BAD_PACKET


# ---- history


def history(wire: Wire, room: int, after: int, limit: int) -> tuple[int, tuple[Any, ...]]:
    answer = wire.ok(Opcode.ROOM_HISTORY, room, after, limit)
    assert answer.room_id == room
    return answer.oldest_seq, answer.events


def test_history_pages(lobby: Lobby) -> None:
    """Ascending, from after_seq on, at most 256 and at most `limit`."""
    room = 26
    wire, reader = lobby.enter(worker=0), lobby.enter(worker=1)
    wire.ok(Opcode.JOIN_ROOM, room)
    assert history(wire, room, 0, 0) == (1, ())
    for number in range(2, 301):
        assert wire.ok(Opcode.CHAT_SEND, room, str(number)).room_seq == number
    reader.ok(Opcode.JOIN_ROOM, room)
    everything: list[Any] = []
    sizes = []
    while page := history(reader, room, len(everything), 65535)[1]:
        everything += page
        sizes.append(len(page))
    assert sizes == [LIST_MAX, 301 - LIST_MAX]
    assert [event.room_seq for event in everything] == list(range(1, 302))
    assert [event.message for event in everything[1:300]] == [str(n) for n in range(2, 301)]
    for after, limit in ((0, 1), (0, 7), (290, 7), (296, 7), (300, 7), (301, 7), (2**64 - 1, 7)):
        oldest, events = history(reader, room, after, limit)
        assert oldest == 1
        assert list(events) == everything[after : after + limit]


def test_history_is_at_most_a_body(lobby: Lobby) -> None:
    """Long messages make shorter pages, none of them empty before the end."""
    room = 27
    wire = lobby.enter()
    wire.ok(Opcode.JOIN_ROOM, room)
    texts = [f"{number:04}" + "x" * (MAX_MESSAGE - 4) for number in range(40)]
    for text in texts:
        wire.ok(Opcode.CHAT_SEND, room, text)
    read: list[str] = []
    after, pages = 1, 0
    while events := history(wire, room, after, 256)[1]:
        read += [event.message for event in events]
        after, pages = events[-1].room_seq, pages + 1
    assert read == texts
    assert 3 <= pages <= 4


def test_history_that_has_gone_from_the_ring(start_server: StartServer) -> None:
    """oldest_seq says from where on there is any; what is there is without a gap."""
    with Lobby(start_server("--event-ring", "64", "--durability", "none")) as lobby:
        wire, busy = lobby.enter(), lobby.enter()
        wire.ok(Opcode.JOIN_ROOM, 1)
        busy.ok(Opcode.JOIN_ROOM, 2)
        for number in range(2, 101):
            wire.ok(Opcode.CHAT_SEND, 1, str(number))
        oldest, events = history(wire, 1, 0, 256)
        assert 100 - 64 < oldest <= 100 - 64 + 2
        assert [event.room_seq for event in events] == list(range(oldest, 101))
        for _ in range(20):
            busy.ok(Opcode.CHAT_SEND, 2, "push them out")
        later, events = history(wire, 1, 0, 256)
        assert later == oldest + 20
        assert [event.room_seq for event in events] == list(range(later, 101))
        for _ in range(64):
            busy.ok(Opcode.CHAT_SEND, 2, "all of them")
        assert history(wire, 1, 0, 256) == (101, ())
        assert wire.ok(Opcode.CHAT_SEND, 1, "and on").room_seq == 101
        assert [event.room_seq for event in history(wire, 1, 0, 256)[1]] == [101]


# ---- lists


def test_room_list(lobby: Lobby) -> None:
    """Rooms with members or events, ascending; what one worker knows, all know."""
    room = 250
    wire = lobby.enter(worker=0)
    wire.ok(Opcode.JOIN_ROOM, room)
    wire.ok(Opcode.CHAT_SEND, room, "hello")
    for worker in range(WORKERS):
        rooms = lobby.enter(worker=worker).ok(Opcode.ROOM_LIST, 0).rooms
        assert [entry.room_id for entry in rooms] == sorted({entry.room_id for entry in rooms})
        assert (room, 1, 2) in rooms
        assert 251 not in {entry.room_id for entry in rooms}
        after = lobby.enter(worker=worker).ok(Opcode.ROOM_LIST, room - 1).rooms
        assert after[0] == (room, 1, 2)
    wire.close()
    reader = lobby.enter()
    wait_until(lambda: (room, 0, 3) in reader.ok(Opcode.ROOM_LIST, 0).rooms, "it has left")
    assert not reader.ok(Opcode.ROOM_LIST, ROOMS).rooms
    assert not reader.ok(Opcode.ROOM_LIST, 2**32 - 1).rooms


def test_room_list_pages(start_server: StartServer) -> None:
    with Lobby(start_server("--rooms", "600", "--numbered-rooms", "600")) as lobby:
        wire = lobby.enter()
        joined = list(range(1, 601, 2))
        for room in joined:
            wire.ok(Opcode.JOIN_ROOM, room)
        first = wire.ok(Opcode.ROOM_LIST, 0).rooms
        second = wire.ok(Opcode.ROOM_LIST, first[-1].room_id).rooms
        assert (len(first), len(first) + len(second)) == (LIST_MAX, len(joined))
        assert [entry.room_id for entry in first + second] == joined
        assert not wire.ok(Opcode.ROOM_LIST, second[-1].room_id).rooms
        assert wire.status(Opcode.JOIN_ROOM, 601) == Status.ERR_NOT_FOUND


def test_room_members(lobby: Lobby) -> None:
    """Users, not connections, ascending by id, over all workers; open to every user."""
    room = 28
    members = {}
    for slot in range(8):
        username = lobby.new_user()
        for _ in range(2):
            wire = lobby.enter(username, worker=slot % WORKERS)
            wire.ok(Opcode.JOIN_ROOM, room)
        members[wire.user] = username
    outsider = lobby.enter()
    assert list(outsider.ok(Opcode.ROOM_MEMBERS, room, 0).members) == sorted(members.items())
    third = sorted(members)[2]
    assert (
        list(outsider.ok(Opcode.ROOM_MEMBERS, room, third).members) == sorted(members.items())[3:]
    )
    assert not outsider.ok(Opcode.ROOM_MEMBERS, room, 2**32 - 1).members
    assert not outsider.ok(Opcode.ROOM_MEMBERS, 29, 0).members


def test_room_members_pages(lobby: Lobby) -> None:
    room, count = 30, LIST_MAX + 20
    users = []
    for _ in range(count):
        wire = lobby.enter()
        joined = wire.ok(Opcode.JOIN_ROOM, room)
        users.append(wire.user)
    assert joined.member_count == count
    first = wire.ok(Opcode.ROOM_MEMBERS, room, 0).members
    second = wire.ok(Opcode.ROOM_MEMBERS, room, first[-1].user_id).members
    assert (len(first), len(second)) == (LIST_MAX, 20)
    assert [member.user_id for member in first + second] == users
    assert not wire.ok(Opcode.ROOM_MEMBERS, room, second[-1].user_id).members


# ---- who is there


def test_lookup(lobby: Lobby) -> None:
    """By name and by number, online and offline; names are case-sensitive."""
    username = lobby.new_user()
    reader = lobby.enter(worker=0)
    wire = lobby.enter(username, worker=1)
    now = reader.ok(Opcode.HEARTBEAT, 0).server_time
    found = reader.ok(Opcode.USER_LOOKUP, username)
    assert (found.user_id, found.username, found.online) == (wire.user, username, 1)
    assert found.last_seen >= now
    by_number = reader.ok(Opcode.USER_NAME, wire.user)
    assert by_number[:3] == found[:3]
    wire.ok(Opcode.LOGOUT)
    later = reader.ok(Opcode.HEARTBEAT, 0).server_time
    gone = reader.ok(Opcode.USER_LOOKUP, username)
    assert (gone.online, now <= gone.last_seen <= later) == (0, True)
    assert reader.ok(Opcode.USER_NAME, wire.user) == gone
    for name in (username.upper(), username[:-1], "", "no such name", "x" * 33, "x" * 60_000):
        assert reader.status(Opcode.USER_LOOKUP, name) == Status.ERR_NOT_FOUND
    for user in (0, 4096, 2**32 - 1):
        assert reader.status(Opcode.USER_NAME, user) == Status.ERR_NOT_FOUND


def test_online_until_the_last_session_ends(lobby: Lobby) -> None:
    username = lobby.new_user()
    reader = lobby.enter()
    wires = [lobby.enter(username, worker=slot) for slot in range(WORKERS)]
    for wire in wires:
        assert reader.ok(Opcode.USER_LOOKUP, username).online
        wire.ok(Opcode.LOGOUT)
    assert not reader.ok(Opcode.USER_LOOKUP, username).online

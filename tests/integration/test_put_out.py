"""Who is put out of a room, banned or with all others as it is closed: what their last of it is."""

from collections.abc import Iterator
from typing import Any

import pytest

from libproto.errors import Status
from libproto.messages import ChatBroadcast, EventKind, Opcode, RoomAccess, RoomGap, RoomRole
from server.region.region import Region
from tests.helpers.server import StartServer, wait_until
from tests.helpers.wire import Lobby, Wire, frozen

LAST = "the last word"


def _room(lobby: Lobby, name: str, workers: list[int]) -> tuple[int, Wire, list[Wire]]:
    """Its number, its owner, and members on these workers, who have read all of it so far."""
    owner = lobby.enter(worker=0)
    opened = owner.ok(Opcode.ROOM_OPEN, name)
    assert opened.created
    room = opened.room_id
    owner.ok(Opcode.JOIN_ROOM, room)
    members = [lobby.enter(worker=worker) for worker in workers]
    for member in members:
        member.ok(Opcode.JOIN_ROOM, room)
    return room, owner, members


def _told(wire: Wire, until: str) -> list[str]:
    """Texts of the changes of the room that are pushed, up to this one."""
    told: list[str] = []
    while not told or told[-1] != until:
        event = wire.push().body
        assert isinstance(event, ChatBroadcast), "nothing was missed"
        if event.kind == EventKind.ROOM_CHANGED:
            told.append(event.message)
    return told


@pytest.mark.parametrize("worker", [0, 1], ids=["here", "elsewhere"])
def test_who_is_in_a_room_that_is_closed_gets_all_up_to_the_closing(
    lobby: Lobby, worker: int
) -> None:
    """One request changes the topic and closes the room: when the first of its two events is read
    the room is closed already."""
    room, owner, (member,) = _room(lobby, f"closing {worker}", [worker])
    owner.ok(Opcode.ROOM_SET, room, LAST, int(RoomAccess.CLOSED))
    assert _told(member, "access 2") == [f"topic {LAST}", "access 2"]
    assert member.status(Opcode.CHAT_SEND, room, "still here?") == Status.ERR_UNAUTHORIZED
    assert member.status(Opcode.JOIN_ROOM, room) == Status.ERR_UNAUTHORIZED


@pytest.mark.parametrize("worker", [0, 1], ids=["here", "elsewhere"])
def test_who_is_banned_gets_all_up_to_the_ban(lobby: Lobby, worker: int) -> None:
    """Both are banned before the worker of either has read a word of it."""
    room, owner, members = _room(lobby, f"banning {worker}", [worker, worker])
    users = [member.user for member in members]
    for user in users:
        owner.send(Opcode.ROOM_SET, room, f"of {user}", int(RoomAccess.PUBLIC))
        owner.send(Opcode.ROOM_ROLE, room, user, int(RoomRole.BANNED), 0)
    for _ in range(4):
        assert owner.answer().status == Status.OK
    bans = [f"role {user} {int(RoomRole.BANNED)}" for user in users]
    first = [f"topic of {users[0]}", bans[0]]
    assert _told(members[0], bans[0]) == first
    assert _told(members[1], bans[1]) == [*first, f"topic of {users[1]}", bans[1]]
    for member in members:
        assert member.status(Opcode.CHAT_SEND, room, "let me in") == Status.ERR_UNAUTHORIZED
        assert not member.pushes


@pytest.mark.parametrize("worker", [0, 1], ids=["here", "elsewhere"])
def test_who_is_banned_has_left(lobby: Lobby, worker: int) -> None:
    room, owner, (member,) = _room(lobby, f"left {worker}", [worker])
    owner.ok(Opcode.ROOM_ROLE, room, member.user, int(RoomRole.BANNED), 0)
    while (event := owner.push().body).kind != EventKind.LEFT:
        pass
    assert event.from_user == member.user
    members = owner.ok(Opcode.ROOM_MEMBERS, room, 0).members
    assert [each.user_id for each in members] == [owner.user]


@pytest.mark.parametrize("worker", [0, 1], ids=["here", "elsewhere"])
def test_all_have_left_a_room_that_is_closed(lobby: Lobby, worker: int) -> None:
    room, owner, _ = _room(lobby, f"emptied {worker}", [worker])
    owner.ok(Opcode.ROOM_SET, room, "", int(RoomAccess.CLOSED))
    wait_until(lambda: lobby.members(room) == 0, "all have left")


# ---- before the event is durable: its worker has not read it


@pytest.fixture
def own_lobby(start_server: StartServer) -> Iterator[Lobby]:
    """A server of two workers to itself, in sync."""
    with Lobby(start_server()) as made:
        yield made


def _ask_before_it_is_durable(
    lobby: Lobby, owner: Wire, change: tuple[Any, ...], member: Wire, asked: list[tuple[Any, ...]]
) -> list[Status]:
    """The answers to what a member asks for between the execution of a change and the moment at
    which it may be shown: none comes before that."""
    region = Region.attach(lobby.server.name)
    try:
        before = region.events.head
        with frozen(region.journal.pid):
            opcode, *fields = change
            owner.send(opcode, *fields)
            wait_until(lambda: region.events.head > before, "it is executed")
            for opcode, *fields in asked:
                member.send(opcode, *fields)
            member.send(Opcode.HEARTBEAT, 1)
            assert member.answer().opcode == Opcode.HEARTBEAT, "the others wait"
    finally:
        region.close()
    return [Status(member.answer().status) for _ in asked]


@pytest.mark.parametrize("closed", [False, True], ids=["banned", "closed"])
def test_it_counts_from_its_execution_on(own_lobby: Lobby, closed: bool) -> None:
    room, owner, (member,) = _room(own_lobby, "at once", [1])
    offered = owner.ok(Opcode.BOARD_ADD, room, 1, "tea").entry_id
    member.ok(Opcode.DEPOSIT, 5)
    change: tuple[Any, ...] = Opcode.ROOM_ROLE, room, member.user, int(RoomRole.BANNED), 0
    if closed:
        change = Opcode.ROOM_SET, room, "", int(RoomAccess.CLOSED)
    asked: list[tuple[Any, ...]] = [
        (Opcode.ROOM_HISTORY, room, 0, 9),
        (Opcode.JOIN_ROOM, room),
        (Opcode.CHAT_SEND, room, "me too"),
        (Opcode.BOARD_LIST, room, 0, 9, ""),
        (Opcode.BOARD_TAKE, room, offered, 1),
    ]
    refused = [Status.ERR_UNAUTHORIZED] * 5
    if closed:
        refused[3:] = [Status.ERR_NOT_FOUND] * 2
    assert _ask_before_it_is_durable(own_lobby, owner, change, member, asked) == refused
    assert owner.answer().status == Status.OK
    assert member.ok(Opcode.BALANCE).balance == 5


@pytest.mark.parametrize("closed", [False, True], ids=["banned", "closed"])
def test_who_is_lapped_is_put_out_without_a_gap(start_server: StartServer, closed: bool) -> None:
    """The event of the ban, or of the closing, has gone from the ring before the worker reads it;
    in a room that others are in, they are told what they missed."""
    with Lobby(start_server("--event-ring=16")) as lobby:
        room, owner, (member,) = _room(lobby, "lapped", [1])
        other = lobby.enter(worker=1)
        seen = other.ok(Opcode.JOIN_ROOM, room).last_seq  # and its own is the next
        elsewhere = lobby.enter(worker=0)
        elsewhere.ok(Opcode.JOIN_ROOM, 1)
        for wire in (member, other):
            while wire.push().body.from_user != other.user:
                pass
        with frozen(lobby.worker_pid(1)):
            if closed:
                owner.ok(Opcode.ROOM_SET, room, "", int(RoomAccess.CLOSED))
            else:
                owner.ok(Opcode.ROOM_ROLE, room, member.user, int(RoomRole.BANNED), 0)
            for _ in range(20):
                elsewhere.ok(Opcode.CHAT_SEND, 1, "and on")
        stay = [] if closed else [owner.user, other.user]
        wait_until(lambda: lobby.members(room) == len(stay), "the others have left")
        member.ok(Opcode.HEARTBEAT, 1)
        assert not member.pushes, "it is told no more of the room"
        if not closed:
            assert other.push().body == RoomGap(room, seen + 2, seen + 2), "of the ban"

"""Who is put out of a room, banned or with all others as it is closed: what their last of it is."""

import pytest

from libproto.errors import Status
from libproto.messages import ChatBroadcast, EventKind, Opcode, RoomAccess, RoomRole
from tests.helpers.server import wait_until
from tests.helpers.wire import Lobby, Wire

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

"""Rooms that are opened by name, and what their owners and moderators do in them, over the wire."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import EventKind, Opcode, RoomAccess, RoomRole
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby, Wire

NUMBERED = 4
ROOMS = 16
FIRST = NUMBERED + 1
OWNED_MAX = 8
FLAGS = (
    "--numbered-rooms", str(NUMBERED), "--rooms", str(ROOMS), "--room-retention", "0.001",
)  # fmt: skip
DENIED, NOT_FOUND, BAD = Status.ERR_UNAUTHORIZED, Status.ERR_NOT_FOUND, Status.ERR_BAD_PACKET


@pytest.fixture
def lobby(tmp_path: Path) -> Iterator[Lobby]:
    with RunningServer(tmp_path / "data", *FLAGS) as server, Lobby(server) as made:
        yield made
        assert server.stop() == 0, server.log_text()


def opened(wire: Wire, name: str = "gold") -> int:
    """A new room of that name, which the caller owns."""
    room, created = wire.ok(Opcode.ROOM_OPEN, name)
    assert created == 1
    return int(room)


def events(wire: Wire, room: int) -> list[tuple[int, str]]:
    """Kind and message of what the room's history has."""
    found = wire.ok(Opcode.ROOM_HISTORY, room, 0, 256).events
    return [(event.kind, event.message) for event in found]


def wait_for(wire: Wire, last_seq: int) -> list[int]:
    """Wait for an event to be pushed; the numbers of those that were."""

    def pushed() -> list[int]:
        wire.ok(Opcode.HEARTBEAT, 1)
        broadcasts = [push.body for push in wire.pushes if push.opcode == Opcode.CHAT_BROADCAST]
        return [event.room_seq for event in broadcasts]

    wait_until(lambda: last_seq in pushed(), "the event is pushed")
    return pushed()


def again(wire: Wire) -> int:
    """The number of a room that is opened for a moment, or to stay where it is the first one."""
    room = opened(wire)
    if room != FIRST:
        wire.ok(Opcode.ROOM_SET, room, "", RoomAccess.CLOSED)
    return room


# ---- opening


def test_a_room_is_opened_by_the_first_who_names_it(lobby: Lobby) -> None:
    ann, bob = lobby.enter(worker=0), lobby.enter(worker=1)
    assert ann.ok(Opcode.ROOM_OPEN, "Gold") == (FIRST, 1)
    assert bob.ok(Opcode.ROOM_OPEN, "gold") == (FIRST, 0)
    assert bob.ok(Opcode.ROOM_OPEN, "\N{FULLWIDTH LATIN SMALL LETTER G}OLD") == (FIRST, 0), (
        "after NFKC and case folding"
    )
    assert bob.ok(Opcode.ROOM_OPEN, "silver") == (FIRST + 1, 1)
    assert ann.ok(Opcode.ROOM_INFO, FIRST) == ("Gold", "", ann.user, 0, RoomRole.OWNER)
    assert bob.ok(Opcode.ROOM_INFO, FIRST) == ("Gold", "", ann.user, 0, RoomRole.NONE)
    assert events(bob, FIRST) == [(EventKind.ROOM_CHANGED, f"role {ann.user} 3")]
    listed = [entry.room_id for entry in bob.ok(Opcode.ROOM_LIST, 0).rooms]
    assert listed == [FIRST, FIRST + 1]


def test_names_are_texts_of_64_bytes(lobby: Lobby) -> None:
    wire = lobby.enter()
    for name in ("", "x" * 65, "a\nb", "a\tb", "a\x1bb", "a\u202eb", "é" * 33):
        assert wire.status(Opcode.ROOM_OPEN, name) == BAD, ascii(name)
    assert wire.ok(Opcode.ROOM_OPEN, "é" * 32).created == 1
    assert wire.ok(Opcode.ROOM_INFO, FIRST).name == "é" * 32


def test_numbers_that_no_open_room_has(lobby: Lobby) -> None:
    wire = lobby.enter()
    for room in (0, FIRST, ROOMS, ROOMS + 1, 2**32 - 1):
        for opcode, *fields in (
            (Opcode.JOIN_ROOM, room),
            (Opcode.CHAT_SEND, room, "hello"),
            (Opcode.ROOM_HISTORY, room, 0, 9),
            (Opcode.ROOM_MEMBERS, room, 0),
            (Opcode.ROOM_INFO, room),
            (Opcode.ROOM_SET, room, "", 0),
            (Opcode.ROOM_ROLE, room, wire.user + 1, 1, 0),
            (Opcode.TRANSFER_IN_ROOM, room, wire.user + 1, 1, ""),
            (Opcode.BOARD_ADD, room, 1, "x"),
            (Opcode.BOARD_LIST, room, 0, 9, ""),
        ):
            assert wire.status(opcode, *fields) == NOT_FOUND, (room, opcode)


def test_numbered_rooms_are_public_and_stay_as_they_are(lobby: Lobby) -> None:
    wire, other = lobby.enter(), lobby.enter()
    assert wire.ok(Opcode.ROOM_INFO, 1) == ("", "", 0, 0, 0)
    assert wire.status(Opcode.ROOM_SET, 1, "mine", 0) == DENIED
    assert wire.status(Opcode.ROOM_ROLE, 1, other.user, 1, 0) == DENIED


def test_nobody_owns_more_than_eight(lobby: Lobby) -> None:
    ann, bob = lobby.enter(), lobby.enter()
    rooms = [opened(ann, f"room {number}") for number in range(OWNED_MAX)]
    assert rooms == list(range(FIRST, FIRST + OWNED_MAX))
    assert ann.status(Opcode.ROOM_OPEN, "one more") == Status.ERR_LIMIT
    mine = opened(bob, "of bob")
    assert bob.status(Opcode.ROOM_ROLE, mine, ann.user, RoomRole.OWNER, 0) == Status.ERR_LIMIT
    ann.ok(Opcode.ROOM_SET, rooms[0], "", RoomAccess.CLOSED)
    bob.ok(Opcode.ROOM_ROLE, mine, ann.user, RoomRole.OWNER, 0)
    for number in range(ROOMS - FIRST - OWNED_MAX + 1):  # the closed one's number is used as well
        opened(lobby.enter(), f"other {number}")
    assert bob.status(Opcode.ROOM_OPEN, "no number") == Status.ERR_SERVER_BUSY


# ---- changing


def test_topic_and_access_are_events_of_their_own(lobby: Lobby) -> None:
    ann, bob = lobby.enter(worker=0), lobby.enter(worker=1)
    room = opened(ann)
    for wire in (ann, bob):
        wire.ok(Opcode.JOIN_ROOM, room)
    last = ann.ok(Opcode.ROOM_SET, room, "all about gold", RoomAccess.INVITED).room_seq
    assert events(ann, room)[-2:] == [(9, "topic all about gold"), (9, "access 1")]
    assert ann.ok(Opcode.ROOM_SET, room, "all about gold", RoomAccess.INVITED).room_seq == last + 1
    assert events(ann, room)[-1] == (9, "topic all about gold"), "nothing changed: one of the topic"
    ann.ok(Opcode.ROOM_SET, room, "", RoomAccess.INVITED)
    assert events(ann, room)[-1] == (9, "topic "), "the blank before an empty field stays"
    assert bob.ok(Opcode.ROOM_INFO, room) == ("gold", "", ann.user, 1, 0)
    for topic in ("x" * 257, "a\nb"):
        assert ann.status(Opcode.ROOM_SET, room, topic, 0) == BAD
    assert ann.status(Opcode.ROOM_SET, room, "", 3) == BAD
    assert bob.status(Opcode.ROOM_SET, room, "mine", 1) == DENIED
    long = "x" * 256
    ann.ok(Opcode.ROOM_SET, room, long, 1)
    assert bob.ok(Opcode.ROOM_INFO, room).topic == long


def test_a_private_room(lobby: Lobby) -> None:
    ann, bob, cyd = (lobby.enter() for _ in range(3))
    room = opened(ann)
    cyd.ok(Opcode.JOIN_ROOM, room)
    ann.ok(Opcode.ROOM_SET, room, "", RoomAccess.INVITED)
    assert bob.status(Opcode.JOIN_ROOM, room) == DENIED
    assert bob.status(Opcode.ROOM_HISTORY, room, 0, 9) == DENIED
    assert bob.ok(Opcode.ROOM_MEMBERS, room, 0).members[0].user_id == cyd.user
    cyd.ok(Opcode.CHAT_SEND, room, "who is inside stays")
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.MEMBER, 0)
    assert bob.ok(Opcode.ROOM_INFO, room).role == RoomRole.MEMBER
    bob.ok(Opcode.JOIN_ROOM, room)
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.NONE, 0)
    bob.ok(Opcode.CHAT_SEND, room, "still here")
    bob.ok(Opcode.ROOM_HISTORY, room, 0, 9)
    bob.ok(Opcode.LEAVE_ROOM, room)
    assert bob.status(Opcode.JOIN_ROOM, room) == DENIED


def test_who_may_give_which_role(lobby: Lobby) -> None:
    ann, bob, cyd, dan = (lobby.enter() for _ in range(4))
    room = opened(ann)
    assert ann.status(Opcode.ROOM_ROLE, room, ann.user, 1, 0) == BAD
    assert ann.status(Opcode.ROOM_ROLE, room, bob.user, 6, 0) == BAD
    assert ann.status(Opcode.ROOM_ROLE, room, 2**32 - 1, 1, 0) == NOT_FOUND
    assert bob.status(Opcode.ROOM_ROLE, room, cyd.user, 1, 0) == DENIED
    assert bob.status(Opcode.ROOM_ROLE, room, 2**32 - 1, 1, 0) == DENIED, "that comes first"
    for user in (bob.user, cyd.user):
        ann.ok(Opcode.ROOM_ROLE, room, user, RoomRole.MODERATOR, 0)
    for role in (RoomRole.NONE, RoomRole.MEMBER, RoomRole.MUTED, RoomRole.BANNED):
        bob.ok(Opcode.ROOM_ROLE, room, dan.user, role, 0)
        for above in (ann.user, cyd.user):
            assert bob.status(Opcode.ROOM_ROLE, room, above, role, 0) == DENIED
    for role in (RoomRole.MODERATOR, RoomRole.OWNER):
        assert bob.status(Opcode.ROOM_ROLE, room, dan.user, role, 0) == DENIED
    bob.ok(Opcode.ROOM_SET, room, "by a moderator", RoomAccess.PUBLIC)
    assert bob.status(Opcode.ROOM_SET, room, "", RoomAccess.INVITED) == DENIED
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.OWNER, 0)
    assert events(ann, room)[-1] == (9, f"role {bob.user} 3"), "it is one event"
    assert ann.ok(Opcode.ROOM_INFO, room)[2:] == (bob.user, 0, RoomRole.MODERATOR)
    assert bob.ok(Opcode.ROOM_INFO, room).role == RoomRole.OWNER
    assert ann.status(Opcode.ROOM_SET, room, "", RoomAccess.CLOSED) == DENIED


def test_who_is_muted_reads_and_does_not_write(lobby: Lobby) -> None:
    ann, bob = lobby.enter(worker=0), lobby.enter(worker=1)
    room = opened(ann)
    bob.ok(Opcode.JOIN_ROOM, room)
    bob.ok(Opcode.DEPOSIT, 100)
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.MODERATOR, 0)
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.MUTED, 0)
    for opcode, *fields in (
        (Opcode.CHAT_SEND, room, "hello"),
        (Opcode.BOARD_ADD, room, 5, "a ring"),
        (Opcode.TRANSFER_IN_ROOM, room, ann.user, 1, ""),
        (Opcode.ROOM_SET, room, "mine", 0),
    ):
        assert bob.status(opcode, *fields) == DENIED, opcode
    bob.ok(Opcode.ROOM_HISTORY, room, 0, 9)
    bob.ok(Opcode.LEAVE_ROOM, room)
    bob.ok(Opcode.JOIN_ROOM, room)
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.MUTED, 1)
    wait_until(lambda: bob.ok(Opcode.ROOM_INFO, room).role == RoomRole.MODERATOR, "the mute ends")
    bob.ok(Opcode.CHAT_SEND, room, "the role before it is back")


def test_who_is_banned_is_out_at_once(lobby: Lobby) -> None:
    """On every worker; the event of the ban is the last that they get."""
    ann, name = lobby.enter(worker=0), lobby.new_user()
    room = opened(ann)
    ann.ok(Opcode.JOIN_ROOM, room)
    banned = [lobby.enter(name, worker=worker) for worker in range(2)]
    for wire in banned:
        wire.ok(Opcode.JOIN_ROOM, room)
    seq = ann.ok(Opcode.ROOM_ROLE, room, banned[0].user, RoomRole.BANNED, 0).room_seq
    ann.ok(Opcode.CHAT_SEND, room, "and do not come back")
    there = ((ann.user, lobby.username(ann)),)
    wait_until(lambda: ann.ok(Opcode.ROOM_MEMBERS, room, 0).members == there, "they leave")
    for wire in banned:
        assert max(wait_for(wire, seq)) == seq
        assert wire.status(Opcode.LEAVE_ROOM, room) == NOT_FOUND
        assert wire.status(Opcode.CHAT_SEND, room, "hello") == DENIED
        assert wire.status(Opcode.JOIN_ROOM, room) == DENIED
        assert wire.status(Opcode.ROOM_HISTORY, room, 0, 9) == DENIED
    told = [kind for kind, _ in events(ann, room)]
    assert told.count(EventKind.JOINED) == 2
    assert told.count(EventKind.LEFT) == 1
    ann.ok(Opcode.ROOM_ROLE, room, banned[0].user, RoomRole.NONE, 0)
    banned[1].ok(Opcode.JOIN_ROOM, room)


def test_a_room_is_closed_and_its_number_used_again(lobby: Lobby) -> None:
    ann, bob, cyd = lobby.enter(worker=0), lobby.enter(worker=1), lobby.enter(worker=0)
    room = opened(ann)
    ann.ok(Opcode.ROOM_ROLE, room, cyd.user, RoomRole.MODERATOR, 0)
    epoch = 0
    for wire in (ann, bob):
        epoch = wire.ok(Opcode.JOIN_ROOM, room).epoch
    bob.ok(Opcode.BOARD_ADD, room, 5, "a ring")
    bob.ok(Opcode.CHAT_SEND, room, "a secret of this room")
    seq = ann.ok(Opcode.ROOM_SET, room, "", RoomAccess.CLOSED).room_seq
    for wire in (ann, bob):
        assert max(wait_for(wire, seq)) == seq
        for opcode, *fields in (
            (Opcode.JOIN_ROOM, room), (Opcode.CHAT_SEND, room, "x"),
            (Opcode.ROOM_HISTORY, room, 0, 9),
        ):  # fmt: skip
            assert wire.status(opcode, *fields) == DENIED, opcode
        for opcode, *fields in (
            (Opcode.ROOM_INFO, room), (Opcode.ROOM_MEMBERS, room, 0), (Opcode.LEAVE_ROOM, room),
            (Opcode.ROOM_SET, room, "", 0), (Opcode.BOARD_LIST, room, 0, 9, ""),
            (Opcode.ROOM_ROLE, room, cyd.user, 0, 0), (Opcode.BOARD_ADD, room, 1, "x"),
        ):  # fmt: skip
            assert wire.status(opcode, *fields) == NOT_FOUND, opcode
        assert wire.ok(Opcode.ROOM_LIST, 0).rooms == ()
    # The lowest number that is free: when the last leave is published, and durable.
    wait_until(lambda: again(bob) == room, "its number is used again")
    bob.ok(Opcode.JOIN_ROOM, room)
    assert events(bob, room)[0] == (EventKind.ROOM_CHANGED, f"role {bob.user} 3")
    assert "secret" not in str(events(bob, room))
    assert bob.ok(Opcode.BOARD_LIST, room, 0, 9, "").entries == ()
    assert cyd.ok(Opcode.ROOM_INFO, room).role == RoomRole.NONE
    assert cyd.ok(Opcode.JOIN_ROOM, room).epoch != epoch


# ---- durable


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_rooms_boards_and_blocks_outlive_the_server(tmp_path: Path, how: str) -> None:
    data = tmp_path / "data"
    with RunningServer(data, *FLAGS) as server, Lobby(server) as lobby:
        ann, bob, cyd = (lobby.enter(name) for name in (lobby.new_user() for _ in range(3)))
        names = [lobby.username(wire) for wire in (ann, bob, cyd)]
        room = opened(ann)
        for wire in (ann, bob):
            wire.ok(Opcode.DEPOSIT, 100)
            wire.ok(Opcode.JOIN_ROOM, room)
        ann.ok(Opcode.ROOM_SET, room, "what gold is worth", RoomAccess.INVITED)
        ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.MODERATOR, 0)
        ann.ok(Opcode.ROOM_ROLE, room, cyd.user, RoomRole.BANNED, 0)
        entry = bob.ok(Opcode.BOARD_ADD, room, 30, "a ring " + "x" * 200).entry_id
        taken = bob.ok(Opcode.BOARD_ADD, room, 20, "a stone").entry_id
        paid = ann.ok(Opcode.BOARD_TAKE, room, taken, 20)
        assert paid.balance == 80
        bob.ok(Opcode.BLOCK, cyd.user, 1)
        epoch = bob.ok(Opcode.JOIN_ROOM, room).epoch
        before = events(bob, room)
        if how == "killed":
            server.crash()
        else:
            assert server.stop() == 0
    for _ in range(2):
        with RunningServer(data, *FLAGS) as server, Lobby(server) as lobby:
            ann, bob, cyd = map(lobby.enter, names)
            info = ann.ok(Opcode.ROOM_INFO, room)
            assert info == ("gold", "what gold is worth", ann.user, 1, RoomRole.OWNER)
            assert bob.ok(Opcode.ROOM_INFO, room).role == RoomRole.MODERATOR
            assert cyd.status(Opcode.JOIN_ROOM, room) == DENIED
            assert bob.ok(Opcode.JOIN_ROOM, room).epoch == epoch
            assert events(bob, room)[: len(before)] == before
            [offer] = bob.ok(Opcode.BOARD_LIST, room, 0, 9, "").entries
            assert (offer.entry_id, offer.price, offer.user_id) == (entry, 30, bob.user)
            assert offer.text == "a ring " + "x" * 200
            assert (ann.ok(Opcode.BALANCE).balance, bob.ok(Opcode.BALANCE).balance) == (80, 120)
            cyd.ok(Opcode.DIRECT_SEND, bob.user, "do you hear me?")
            assert bob.ok(Opcode.INBOX_HISTORY, 0, 9).messages == ()
            assert bob.ok(Opcode.ROOM_OPEN, "GOLD") == (room, 0)
            assert server.stop() == 0

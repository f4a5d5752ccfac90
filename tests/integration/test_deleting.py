"""CHAT_DELETE: who may, and that nobody is shown the text from that event on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libproto.errors import Status
from libproto.messages import EventKind, Opcode, RoomRole
from tests.helpers.server import RunningServer
from tests.helpers.wire import Lobby, Wire, frozen

ROOM, RING = 1, 16
FLAGS = ("--event-ring", str(RING), "--numbered-rooms", "4", "--rooms", "8")
DENIED, NOT_FOUND = Status.ERR_UNAUTHORIZED, Status.ERR_NOT_FOUND


@pytest.fixture
def lobby(tmp_path: Path) -> Iterator[Lobby]:
    with RunningServer(tmp_path / "data", *FLAGS) as server, Lobby(server) as made:
        yield made
        assert server.stop() == 0, server.log_text()


def events(wire: Wire, room: int = ROOM) -> dict[int, Any]:
    """The history, by number."""
    return {event.room_seq: event for event in wire.ok(Opcode.ROOM_HISTORY, room, 0, 256).events}


def say(wire: Wire, text: str, room: int = ROOM) -> int:
    return int(wire.ok(Opcode.CHAT_SEND, room, text).room_seq)


def test_an_author_deletes_a_message(lobby: Lobby) -> None:
    ann, bob = lobby.enter(worker=0), lobby.enter(worker=1)
    for wire in (ann, bob):
        wire.ok(Opcode.JOIN_ROOM, ROOM)
    seq = say(ann, "a slip of the tongue")
    assert bob.status(Opcode.CHAT_DELETE, ROOM, seq) == DENIED
    by = ann.ok(Opcode.CHAT_DELETE, ROOM, seq).room_seq
    for reader in (ann, bob, lobby.enter()):
        found = events(reader)
        assert (found[seq].kind, found[seq].from_user, found[seq].message) == (0, ann.user, "")
        assert (found[by].kind, found[by].message) == (EventKind.ROOM_CHANGED, f"deleted {seq}")
    for number in (seq, by, by + 1, 0, 2**64 - 1, 1):  # 1: it says who joined
        assert ann.status(Opcode.CHAT_DELETE, ROOM, number) == NOT_FOUND, number
    assert ann.status(Opcode.CHAT_DELETE, 8, 1) == NOT_FOUND


def test_what_is_old_is_deleted_too(lobby: Lobby) -> None:
    """The ring has gone past it, and past the event that deletes it."""
    ann = lobby.enter()
    ann.ok(Opcode.JOIN_ROOM, ROOM)
    seq = say(ann, "old")
    for number in range(2 * RING):
        say(ann, f"number {number}")
    assert events(ann)[seq].message == "old"
    ann.ok(Opcode.CHAT_DELETE, ROOM, seq)
    assert events(ann)[seq].message == ""
    for number in range(2 * RING):
        say(ann, f"number {number}")
    assert events(ann)[seq].message == ""
    assert ann.status(Opcode.CHAT_DELETE, ROOM, seq) == NOT_FOUND


def test_a_push_that_is_still_owed_is_a_gap(lobby: Lobby) -> None:
    """In the place of the text, where the member's worker comes to it after the deletion."""
    ann, bob = lobby.enter(worker=0), lobby.enter(worker=1)
    for wire in (ann, bob):
        wire.ok(Opcode.JOIN_ROOM, ROOM)
    before = say(ann, "before")
    while bob.push().body.room_seq != before:
        pass
    with frozen(lobby.worker_pid(1)):
        seq = say(ann, "a slip of the tongue")
        after = say(ann, "after")
        by = ann.ok(Opcode.CHAT_DELETE, ROOM, seq).room_seq
    gap, said, deleted = (bob.push() for _ in range(3))
    assert (gap.opcode, gap.body) == (Opcode.ROOM_GAP, (ROOM, seq, seq))
    assert (said.body.room_seq, said.body.message) == (after, "after")
    assert (deleted.body.room_seq, deleted.body.message) == (by, f"deleted {seq}")


def test_the_fields_before_a_text_stay(lobby: Lobby) -> None:
    ann, bob = lobby.enter(), lobby.enter()
    room = ann.ok(Opcode.ROOM_OPEN, "market").room_id
    for wire in (ann, bob):
        wire.ok(Opcode.JOIN_ROOM, room)
        wire.ok(Opcode.DEPOSIT, 100)
    paid = bob.ok(Opcode.TRANSFER_IN_ROOM, room, ann.user, 5, "for you know what")
    added = bob.ok(Opcode.BOARD_ADD, room, 7, "a thing")
    for done in (paid, added):  # the owner of the room may
        ann.ok(Opcode.CHAT_DELETE, room, done.room_seq)
    found = events(ann, room)
    assert found[paid.room_seq].message == f"{paid.txn_id} {ann.user} 5 "
    assert found[added.room_seq].message == f"{added.entry_id} 7 "
    [entry] = ann.ok(Opcode.BOARD_LIST, room, 0, 9, "").entries
    assert (entry.entry_id, entry.price, entry.text) == (added.entry_id, 7, "")
    taken = ann.ok(Opcode.BOARD_TAKE, room, added.entry_id, 7)
    assert ann.status(Opcode.CHAT_DELETE, room, taken.room_seq) == NOT_FOUND, "it has no text"


def test_who_is_no_member_may_delete_their_own(lobby: Lobby) -> None:
    ann, bob = lobby.enter(), lobby.enter()
    room = ann.ok(Opcode.ROOM_OPEN, "market").room_id
    bob.ok(Opcode.JOIN_ROOM, room)
    first, second = say(bob, "one", room), say(bob, "two", room)
    bob.ok(Opcode.LEAVE_ROOM, room)
    bob.ok(Opcode.CHAT_DELETE, room, first)
    ann.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.BANNED, 0)
    assert bob.status(Opcode.CHAT_DELETE, room, second) == DENIED
    assert bob.status(Opcode.CHAT_DELETE, room, second + 9) == NOT_FOUND, "that comes first"
    assert events(ann, room)[second].message == "two"


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_it_stays_deleted_over_restarts(tmp_path: Path, killed: bool) -> None:
    data = tmp_path / "data"
    with RunningServer(data, *FLAGS) as server, Lobby(server) as lobby:
        name = lobby.new_user()
        ann = lobby.enter(name)
        ann.ok(Opcode.JOIN_ROOM, ROOM)
        seqs = [say(ann, f"text {number}") for number in range(3)]
        entry = ann.ok(Opcode.BOARD_ADD, ROOM, 5, "a thing")
        for seq in (seqs[0], seqs[2], entry.room_seq):
            ann.ok(Opcode.CHAT_DELETE, ROOM, seq)
        if killed:
            server.crash()
        else:
            assert server.stop() == 0
    for _ in range(2):
        with RunningServer(data, *FLAGS) as server, Lobby(server) as lobby:
            ann = lobby.enter(name)
            found = events(ann)
            assert [found[seq].message for seq in seqs] == ["", "text 1", ""]
            ann.ok(Opcode.JOIN_ROOM, ROOM)
            [offer] = ann.ok(Opcode.BOARD_LIST, ROOM, 0, 9, "").entries
            assert offer.text == ""
            assert ann.status(Opcode.CHAT_DELETE, ROOM, seqs[0]) == NOT_FOUND
            assert server.stop() == 0

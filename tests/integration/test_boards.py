"""Boards over the wire: offers, who takes them, and that each is taken once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import Capability, EventKind, Flag, Opcode, RoomRole, TxnKind
from tests.helpers.server import RunningServer
from tests.helpers.wire import Lobby, Wire

ENTRIES, OFFERS, ROOM = 3, 5, 1
FLAGS = (
    "--board-entries", str(ENTRIES), "--offers", str(OFFERS), "--numbered-rooms", "4", "--rooms",
    "8", "--max-balance", "1000",
)  # fmt: skip
DENIED, NOT_FOUND, BAD = Status.ERR_UNAUTHORIZED, Status.ERR_NOT_FOUND, Status.ERR_BAD_PACKET


@pytest.fixture
def lobby(tmp_path: Path) -> Iterator[Lobby]:
    with RunningServer(tmp_path / "data", *FLAGS) as server, Lobby(server) as made:
        yield made
        assert server.stop() == 0, server.log_text()


def trader(lobby: Lobby, *, money: int = 100, worker: int | None = None) -> Wire:
    wire = lobby.enter(worker=worker)
    wire.ok(Opcode.DEPOSIT, money)
    wire.ok(Opcode.JOIN_ROOM, ROOM)
    return wire


def texts(wire: Wire, room: int = ROOM, after: int = 0, contains: str = "") -> list[str]:
    return [e.text for e in wire.ok(Opcode.BOARD_LIST, room, after, 256, contains).entries]


def test_an_offer_is_added_listed_and_taken(lobby: Lobby) -> None:
    ann, bob = trader(lobby, worker=0), trader(lobby, worker=1)
    added = ann.ok(Opcode.BOARD_ADD, ROOM, 30, "a ring, hardly used")
    [entry] = bob.ok(Opcode.BOARD_LIST, ROOM, 0, 9, "RING").entries
    assert entry[:1] + entry[2:] == (
        added.entry_id, ann.user, lobby.username(ann), 30, "a ring, hardly used",
    )  # fmt: skip
    taken = bob.ok(Opcode.BOARD_TAKE, ROOM, added.entry_id, 30)
    assert taken.balance == 70
    assert ann.ok(Opcode.BALANCE).balance == 130
    assert texts(ann) == []
    events = ann.ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events
    told = [(e.kind, e.from_user, e.message) for e in events if e.kind > EventKind.SYSTEM]
    assert told == [
        (EventKind.OFFER_ADDED, ann.user, f"{added.entry_id} 30 a ring, hardly used"),
        (EventKind.OFFER_TAKEN, bob.user, f"{added.entry_id} {taken.txn_id} 30 {ann.user}"),
    ]
    assert events[-1].room_seq == taken.room_seq
    [newest, *_] = ann.ok(Opcode.TXN_HISTORY, 0, 9).transactions
    assert (newest.txn_id, newest.kind, newest.from_user, newest.amount) == (
        taken.txn_id, TxnKind.TRANSFER, bob.user, 30,
    )  # fmt: skip


def test_the_owner_is_told_of_the_payment(lobby: Lobby) -> None:
    name = lobby.new_user()
    ann = lobby.enter(name, capabilities=int(Capability.PAYMENTS))
    ann.ok(Opcode.JOIN_ROOM, ROOM)
    entry = ann.ok(Opcode.BOARD_ADD, ROOM, 30, "a ring").entry_id
    bob = trader(lobby)
    txn = bob.ok(Opcode.BOARD_TAKE, ROOM, entry, 30).txn_id
    while (push := ann.push()).opcode != Opcode.PAYMENT:
        pass
    assert (push.body.txn_id, push.body.from_user, push.body.amount) == (txn, bob.user, 30)


def test_what_is_refused_in_its_order(lobby: Lobby) -> None:
    ann, bob, poor = trader(lobby), trader(lobby), trader(lobby, money=5)
    rich = trader(lobby, money=990)
    outside = lobby.enter()
    entry = ann.ok(Opcode.BOARD_ADD, ROOM, 30, "a ring").entry_id
    note = ann.ok(Opcode.BOARD_ADD, ROOM, 0, "a note").entry_id
    theirs = rich.ok(Opcode.BOARD_ADD, ROOM, 20, "of one who is rich").entry_id
    take = Opcode.BOARD_TAKE
    for wire, entry_id, price, status in (
        (outside, entry, 0, BAD),
        (outside, entry, 30, DENIED),
        (bob, entry + 1000, 30, NOT_FOUND),
        (ann, entry, 31, BAD),
        (bob, entry, 31, BAD),
        (bob, note, 1, BAD),
        (poor, entry, 30, Status.ERR_INSUFFICIENT_FUNDS),
        (bob, theirs, 20, Status.ERR_LIMIT),
    ):
        assert wire.status(take, ROOM, entry_id, price) == status, (entry_id, price)
    bob.ok(Opcode.JOIN_ROOM, 2)
    assert bob.status(take, 2, entry, 30) == NOT_FOUND, "it is on another board"
    for opcode, *fields in (
        (Opcode.BOARD_ADD, ROOM, 1, "x"), (Opcode.BOARD_LIST, ROOM, 0, 9, ""),
        (Opcode.BOARD_REMOVE, ROOM, entry),
    ):  # fmt: skip
        assert outside.status(opcode, *fields) == DENIED
    for text in ("", "x" * 257, "two\nlines", "\x1b[31m", "\u202e"):
        assert ann.status(Opcode.BOARD_ADD, ROOM, 1, text) == BAD
    assert ann.status(Opcode.BOARD_ADD, ROOM, 2**63, "x") == Status.ERR_LIMIT
    assert texts(ann) == ["a ring", "a note", "of one who is rich"]
    assert ann.ok(Opcode.BALANCE).balance == bob.ok(Opcode.BALANCE).balance == 100


def test_an_entry_is_removed_by_its_owner_or_a_moderator(lobby: Lobby) -> None:
    owner, ann, bob = (lobby.enter() for _ in range(3))
    room = owner.ok(Opcode.ROOM_OPEN, "market").room_id
    for wire in (owner, ann, bob):
        wire.ok(Opcode.JOIN_ROOM, room)
    first, second, third = (
        ann.ok(Opcode.BOARD_ADD, room, 1, f"number {n}").entry_id for n in range(3)
    )
    assert bob.status(Opcode.BOARD_REMOVE, room, first) == DENIED
    seq = ann.ok(Opcode.BOARD_REMOVE, room, first).room_seq
    [event] = ann.ok(Opcode.ROOM_HISTORY, room, seq - 1, 9).events
    assert (event.kind, event.message) == (EventKind.OFFER_REMOVED, str(first))
    assert ann.status(Opcode.BOARD_REMOVE, room, first) == NOT_FOUND
    owner.ok(Opcode.BOARD_REMOVE, room, second)
    owner.ok(Opcode.ROOM_ROLE, room, bob.user, RoomRole.MODERATOR, 0)
    bob.ok(Opcode.BOARD_REMOVE, room, third)
    assert texts(ann, room) == []


def test_limits_of_a_board_and_of_all(lobby: Lobby) -> None:
    ann = trader(lobby)
    for number in range(ENTRIES):
        ann.ok(Opcode.BOARD_ADD, ROOM, 1, f"number {number}")
    assert ann.status(Opcode.BOARD_ADD, ROOM, 1, "x") == Status.ERR_LIMIT
    ann.ok(Opcode.JOIN_ROOM, 2)
    for number in range(OFFERS - ENTRIES):
        ann.ok(Opcode.BOARD_ADD, 2, 1, f"number {number}")
    busy = ann.call(Opcode.BOARD_ADD, 2, 1, "x")
    assert busy.status == Status.ERR_SERVER_BUSY
    assert busy.body.retry_after_ms > 0
    [first, *_] = ann.ok(Opcode.BOARD_LIST, ROOM, 0, 9, "").entries
    ann.ok(Opcode.BOARD_REMOVE, ROOM, first.entry_id)
    ann.ok(Opcode.BOARD_ADD, 2, 1, "there is a place again")


def test_a_list_is_ascending_and_goes_on_where_it_ended(lobby: Lobby) -> None:
    ann = trader(lobby)
    entries = [ann.ok(Opcode.BOARD_ADD, ROOM, 1, text).entry_id for text in ("Ape", "Bee", "cow")]
    assert texts(ann, after=entries[0]) == ["Bee", "cow"]
    assert texts(ann, contains="E") == ["Ape", "Bee"]
    assert texts(ann, after=entries[2]) == []
    found = ann.ok(Opcode.BOARD_LIST, ROOM, 0, 2, "").entries
    assert [entry.entry_id for entry in found] == entries[:2]
    assert ann.ok(Opcode.BOARD_LIST, ROOM, 0, 0, "").entries == ()


def test_a_repeated_request_is_answered_as_the_first_time(lobby: Lobby) -> None:
    """Also after the entry is gone, and in the session that follows."""
    name, client = lobby.new_user(), 77
    ann, bob = lobby.enter(name, client_id=client), trader(lobby)
    ann.ok(Opcode.JOIN_ROOM, ROOM)
    ann.ok(Opcode.DEPOSIT, 50)
    theirs = bob.ok(Opcode.BOARD_ADD, ROOM, 30, "of bob").entry_id
    requests: list[tuple[Opcode, tuple[object, ...], tuple[object, ...]]] = [
        (Opcode.ROOM_OPEN, ("market",), ("market 2",)),
        (Opcode.BOARD_ADD, (ROOM, 7, "of ann"), (ROOM, 8, "of ann")),
        (Opcode.BOARD_TAKE, (ROOM, theirs, 30), (ROOM, theirs, 31)),
        (Opcode.ROOM_SET, (5, "topic", 1), (5, "topic", 0)),
        (Opcode.ROOM_ROLE, (5, bob.user, 1, 0), (5, bob.user, 1, 9)),
    ]
    first = [
        ann.call(opcode, *fields, req_id=req_id)
        for req_id, (opcode, fields, _) in enumerate(requests, 10)
    ]
    entry = first[1].body.entry_id
    requests.append((Opcode.BOARD_REMOVE, (ROOM, entry), (ROOM, entry + 1)))
    first.append(ann.call(Opcode.BOARD_REMOVE, ROOM, entry, req_id=15))
    assert {answer.status for answer in first} == {Status.OK}
    events = len(ann.ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events)
    again = lobby.enter(name, client_id=client, next_req_id=16)
    again.ok(Opcode.JOIN_ROOM, ROOM)
    flag = int(Flag.POSSIBLE_DUPLICATE)
    for req_id, ((opcode, fields, others), was) in enumerate(zip(requests, first, strict=True), 10):
        repeated = again.call(opcode, *fields, req_id=req_id, flags=flag)
        assert (repeated.status, repeated.body) == (Status.OK, was.body), opcode
        assert repeated.flags & flag
        assert again.call(opcode, *others, req_id=req_id, flags=flag).status == BAD, opcode
    assert len(again.ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events) == events + 2, "left, joined"
    assert again.ok(Opcode.BALANCE).balance == 20

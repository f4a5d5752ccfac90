"""Named rooms, boards and blocks as the clients see them, over real servers: offers that two want,
rooms that one is put out of, private rooms, and a server that is killed in the middle of all that.
"""

import itertools
import operator
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from client import (
    AccessChanged,
    BadPacket,
    BoardEntry,
    CallTimeout,
    ChatBroadcast,
    Client,
    DirectMessage,
    InsufficientFunds,
    MessageDeleted,
    NotFound,
    OfferAdded,
    OfferRemoved,
    OfferTaken,
    Opcode,
    Payment,
    Push,
    RoleChanged,
    RoomAccess,
    RoomRefused,
    RoomRestarted,
    RoomRole,
    Status,
    TopicChanged,
    Unauthorized,
    read_event,
)
from tests.client.conftest import Make, register
from tests.client.peer import PASSWORD
from tests.client.relay import Relay
from tests.helpers.server import RunningServer, StartServer, lasting_port, wait_until

NAMES = ("ann", "bob", "cid")
WAIT_S = 60.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose closed rooms may be used again at once."""
    data = tmp_path_factory.mktemp("boards") / "data"
    with RunningServer(data, "--room-retention", "0.001", "--rooms", "512") as made:
        yield made
    assert made.process.returncode == 0, made.log_text()


def name_of_a_room() -> str:
    return f"room {next(_numbers)}"


class People:
    """Users of this test alone, and their clients, all closed in the end."""

    def __init__(self, server: RunningServer, stack: ExitStack) -> None:
        self.port = server.port
        self._names = {name: f"{name}{next(_numbers)}" for name in NAMES}
        self._stack = stack
        register(server, *self._names.values())

    def enter(
        self, name: str, make: Callable[..., Any] = Client, port: int = 0, **options: Any
    ) -> Client:
        """A client that has logged in; port: if not the server's own."""
        client: Client = self._stack.enter_context(make(port=port or self.port, **options))
        client.login(self._names[name], PASSWORD)
        return client


@pytest.fixture
def people(house: RunningServer) -> Iterator[People]:
    with ExitStack() as stack:
        yield People(house, stack)


def next_event(client: Client, kind: type | tuple[type, ...]) -> Any:
    """The next push of this type, or the next event that says it; others are passed over."""
    while True:
        push = client.next_push(timeout_s=WAIT_S)
        assert push is not None, f"no {kind} within {WAIT_S} s"
        said = read_event(push) if isinstance(push, ChatBroadcast) else None
        for each in (push, said):
            if isinstance(each, kind):
                return each


def pushes_up_to(client: Client, last: Callable[[Push], bool]) -> list[Push]:
    found: list[Push] = []
    while not found or not last(found[-1]):
        push = client.next_push(timeout_s=WAIT_S)
        assert push is not None, found
        found.append(push)
    return found


# --- boards


def test_a_board_is_read_and_written(people: People) -> None:
    ann, bob = people.enter("ann"), people.enter("bob")
    room = ann.open_room(name_of_a_room()).room_id
    for each in (ann, bob):
        each.join(room)
    lamp = ann.board_add(room, 250, "a lamp, Straße")
    note = bob.board_add(room, 0, "back at noon")
    assert note.entry_id > lamp.entry_id
    entries = bob.board(room)
    assert entries == tuple(bob.iter_board(room))
    assert [(e.entry_id, e.username, e.price, e.text) for e in entries] == [
        (lamp.entry_id, ann.username, 250, "a lamp, Straße"),
        (note.entry_id, bob.username, 0, "back at noon"),
    ]
    assert bob.board(room, contains="STRASSE") == entries[:1]
    assert bob.board(room, after_entry_id=lamp.entry_id) == entries[1:]
    assert next_event(bob, OfferAdded) == OfferAdded(lamp.entry_id, 250, "a lamp, Straße")
    with pytest.raises(Unauthorized):
        bob.board_remove(room, lamp.entry_id)
    removed = ann.board_remove(room, note.entry_id)  # as owner of the room
    assert next_event(bob, OfferRemoved) == OfferRemoved(note.entry_id)
    assert removed.room_seq == note.room_seq + 1
    with pytest.raises(BadPacket, match="your own"):
        ann.board_take(room, lamp.entry_id, 250)
    with pytest.raises(BadPacket, match="price"):
        bob.board_take(room, lamp.entry_id, 249)
    with pytest.raises(BadPacket, match="no price"):
        bob.board_take(room, entries[1])
    with pytest.raises(InsufficientFunds):
        bob.board_take(room, entries[0])
    with pytest.raises(NotFound):
        bob.board_take(room, note.entry_id, 5)
    bob.leave(room)
    with pytest.raises(Unauthorized):
        bob.board(room)


def test_a_long_board_is_read_by_pages(people: People) -> None:
    ann = people.enter("ann")
    room = ann.open_room(name_of_a_room()).room_id
    ann.join(room)
    texts = [f"{number} {'x' * 250}" for number in range(256)]
    for text in texts:
        ann.board_add(room, 1, text)
    assert len(ann.board(room)) < 256, "they fit into one answer, and nothing was read by pages"
    assert [entry.text for entry in ann.iter_board(room)] == texts
    assert [entry.text for entry in ann.iter_board(room, "77 X")] == [
        text for text in texts if "77 x" in text
    ]


def test_of_two_takers_one_gets_it(people: People) -> None:
    ann, takers = people.enter("ann"), [people.enter("bob"), people.enter("cid")]
    room = ann.open_room(name_of_a_room()).room_id
    ann.join(room)
    for each in takers:
        each.join(room)
        each.deposit(10_000)
    count, price = 40, 25
    entries = [ann.board_add(room, price, f"lot {number}").entry_id for number in range(count)]
    before = [each.balance().balance for each in (ann, *takers)]
    both = threading.Barrier(2)

    def take_all(taker: Client) -> list[int]:
        got = []
        for entry in entries:
            both.wait(WAIT_S)
            try:
                done = taker.board_take(room, entry, price)
            except NotFound:
                continue
            assert not done.recorded
            got.append(entry)
        return got

    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(take_all, takers))
    assert sorted(got[0] + got[1]) == entries
    assert ann.board(room) == ()
    paid = [-price * len(each) for each in got]
    after = [each.balance().balance for each in (ann, *takers)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [count * price, *paid]
    takings = [next_event(ann, OfferTaken) for _ in entries]
    assert [taking.entry_id for taking in takings] == entries
    assert [taking.txn_id for taking in takings] == sorted(taking.txn_id for taking in takings)


def test_the_owner_of_an_offer_is_told_of_the_money(people: People) -> None:
    ann, bob = people.enter("ann", payments=True), people.enter("bob")
    room = ann.open_room(name_of_a_room()).room_id
    offer = (ann.join(room), ann.board_add(room, 125, "a lamp"))[1]
    ann.leave(room)  # who is not there is told, too
    bob.join(room)
    bob.deposit(1000)
    [entry] = bob.board(room)
    done = bob.board_take(room, entry)
    told = next_event(ann, Payment)
    assert (told.txn_id, told.from_name, told.amount) == (done.txn_id, bob.username, 125)
    assert told.balance == ann.balance().balance
    assert ann.transactions(limit=1).transactions[0].txn_id == done.txn_id
    taken = next_event(bob, OfferTaken)
    assert taken == OfferTaken(offer.entry_id, done.txn_id, 125, ann.user_id)


# --- exactly once


def _open(client: Client, room: int, other: int, **options: Any) -> Any:
    return client.open_room(f"the room after {room} of {other}", **options)


def _set(client: Client, room: int, other: int, **options: Any) -> Any:
    return client.set_room(room, f"the topic of {other}", RoomAccess.PUBLIC, **options)


def _role(client: Client, room: int, other: int, **options: Any) -> Any:
    return client.mute(room, other, 60, **options)


def _add(client: Client, room: int, other: int, **options: Any) -> Any:
    return client.board_add(room, 5, f"for {other}", **options)


def _remove(client: Client, room: int, other: int, **options: Any) -> Any:
    [entry] = [each for each in client.board(room) if each.user_id == other]
    return client.board_remove(room, entry.entry_id, **options)


def _take(client: Client, room: int, other: int, **options: Any) -> Any:
    [entry] = [each for each in client.board(room) if each.user_id == other]
    return client.board_take(room, entry, **options)


@pytest.mark.parametrize(
    ("opcode", "call"),
    [
        (Opcode.ROOM_OPEN, _open),
        (Opcode.ROOM_SET, _set),
        (Opcode.ROOM_ROLE, _role),
        (Opcode.BOARD_ADD, _add),
        (Opcode.BOARD_REMOVE, _remove),
        (Opcode.BOARD_TAKE, _take),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_what_is_not_answered_is_done_once(
    house: RunningServer, people: People, opcode: Opcode, call: Callable[..., Any]
) -> None:
    bob = people.enter("bob")
    first = people.enter("ann")
    room = first.open_room(name_of_a_room()).room_id
    with Relay(house.port, pause_at=opcode) as relay:
        ann = people.enter("ann", port=relay.port)
        for each in (ann, bob):
            each.join(room)
        bob.board_add(room, 5, "a lamp")
        ann.deposit(1000)
        before = ann.balance().balance, ann.history(room).events[-1].room_seq
        req_id = ann.new_req_id()
        with pytest.raises(CallTimeout) as late:
            call(ann, room, bob.user_id, req_id=req_id, timeout_s=0.2)
        assert late.value.req_id == req_id
        [unanswered] = ann.unanswered
        assert (unanswered.req_id, unanswered.opcode) == (req_id, opcode)
        relay.resume()
        done: Any = ann.retry(req_id)
        assert done.recorded
        assert ann.unanswered == ()
        events = ann.history(room, before[1]).events
        if opcode == Opcode.ROOM_OPEN:
            assert done.created
            assert _open(ann, room, bob.user_id)[:2] == (done.room_id, False)
        else:
            assert [event.room_seq for event in events] == [done.room_seq]
        assert ann.balance().balance == before[0] - 5 * (opcode == Opcode.BOARD_TAKE)
        ann.close()


# --- rooms


def test_a_room_is_opened_by_name(people: People) -> None:
    ann, bob = people.enter("ann"), people.enter("bob")
    name = name_of_a_room()
    room, created, _, recorded = ann.open_room(name)
    assert (room > 64, created, recorded) == (True, True, False)
    assert bob.open_room(name.upper())[:2] == (room, False)
    assert bob.room_info(room) == (name, "", ann.user_id, RoomAccess.PUBLIC, RoomRole.NONE)
    bob.join(room)
    ann.set_room(room, "all things gold", RoomAccess.INVITED)
    said = [next_event(bob, TopicChanged), next_event(bob, AccessChanged)]
    assert said == [TopicChanged("all things gold"), AccessChanged(RoomAccess.INVITED)]
    ann.set_role(room, bob.user_id, RoomRole.MODERATOR)
    assert next_event(bob, RoleChanged) == RoleChanged(bob.user_id, RoomRole.MODERATOR)
    assert bob.room_info(room)[1:] == (
        "all things gold", ann.user_id, RoomAccess.INVITED, RoomRole.MODERATOR,
    )  # fmt: skip
    with pytest.raises(Unauthorized):
        bob.set_room(room, "", RoomAccess.PUBLIC)  # its access is the owner's
    bob.set_room(room, "silver", RoomAccess.INVITED)
    ann.set_role(room, bob.user_id, RoomRole.OWNER)
    assert ann.room_info(room)[2:] == (bob.user_id, RoomAccess.INVITED, RoomRole.MODERATOR)
    with pytest.raises(Unauthorized):
        ann.ban(room, bob.user_id)
    with pytest.raises(Unauthorized):
        ann.set_room(7, "a room without a name", RoomAccess.PUBLIC)
    with pytest.raises(NotFound):
        ann.room_info(500)
    with pytest.raises(BadPacket):
        ann.open_room("two\nlines")


def test_a_private_room_is_for_who_is_invited(make_lasting: Make, people: People) -> None:
    ann, bob = people.enter("ann"), people.enter("bob", make_lasting)
    room = ann.open_room(name_of_a_room()).room_id
    ann.join(room)
    ann.set_room(room, "", RoomAccess.INVITED)
    ann.send(room, "a secret")
    for refused in (bob.join, bob.history, bob.board):
        with pytest.raises(Unauthorized):
            refused(room)
    ann.invite(room, bob.user_id)
    assert bob.join(room).room_id == room
    assert "a secret" in [event.message for event in bob.history(room).events]
    ann.pardon(room, bob.user_id)  # who is inside stays
    assert bob.send(room, "still here").room_seq
    bob.leave(room)
    with pytest.raises(Unauthorized):
        bob.join(room)
    assert bob.connected


def test_who_is_banned_leaves_at_once(make_lasting: Make, people: People) -> None:
    ann, bob = people.enter("ann"), people.enter("bob", make_lasting)
    room = ann.open_room(name_of_a_room()).room_id
    for each in (ann, bob):
        each.join(room)
    ann.ban(room, bob.user_id)
    ann.send(room, "he is gone")
    found = pushes_up_to(bob, lambda push: isinstance(push, RoomRefused))
    assert isinstance(found[-2], ChatBroadcast)
    assert read_event(found[-2]) == RoleChanged(bob.user_id, RoomRole.BANNED)
    assert found[-1] == RoomRefused(room, Status.ERR_UNAUTHORIZED, "you were put out of the room")
    for refused in (bob.join, bob.history, bob.board):
        with pytest.raises(Unauthorized):
            refused(room)
    with pytest.raises(Unauthorized):
        bob.send(room, "hello?")
    assert bob.user_id not in [member.user_id for member in ann.iter_members(room)]
    ann.pardon(room, bob.user_id)
    joined = bob.join(room)
    ann.kick(room, bob.user_id)
    again = pushes_up_to(bob, lambda push: isinstance(push, RoomRefused))
    events = [event for event in again if isinstance(event, ChatBroadcast)]
    assert events[0].room_seq == joined.last_seq + 1
    assert "he is gone" not in [getattr(push, "message", "") for push in found + again]

    def may_join() -> bool:
        try:
            bob.join(room)
        except Unauthorized:
            return False
        return True

    wait_until(may_join, "the second after which who was kicked may join")


def test_a_mute_ends(make_lasting: Make, people: People) -> None:
    ann, bob = people.enter("ann"), people.enter("bob", make_lasting)
    room = ann.open_room(name_of_a_room()).room_id
    for each in (ann, bob):
        each.join(room)
    ann.set_role(room, bob.user_id, RoomRole.MODERATOR)
    ann.mute(room, bob.user_id, 3600)
    bob.deposit(10)
    for refused in (
        lambda: bob.send(room, "hm"),
        lambda: bob.board_add(room, 5, "a lamp"),
        lambda: bob.transfer_in_room(room, ann.user_id, 5, "hm"),
    ):
        with pytest.raises(Unauthorized, match="muted"):
            refused()
    assert bob.board(room) == ()
    assert bob.room_info(room).role == RoomRole.MUTED
    ann.mute(room, bob.user_id, 1)

    def may_speak() -> bool:
        try:
            bob.send(room, "at last")
        except Unauthorized:
            return False
        return True

    wait_until(may_speak, "the end of the mute")
    assert bob.room_info(room).role == RoomRole.MODERATOR
    assert bob.connected


def test_a_closed_room_is_left_and_its_number_is_another_rooms(
    make_lasting: Make, people: People
) -> None:
    ann, bob = people.enter("ann"), people.enter("bob", make_lasting)
    name = name_of_a_room()
    room = ann.open_room(name).room_id
    for each in (ann, bob):
        old = each.join(room)
    entry = ann.board_add(room, 5, "of the old room").entry_id
    ann.set_role(room, bob.user_id, RoomRole.MODERATOR)
    ann.set_room(room, "", RoomAccess.CLOSED)
    found = pushes_up_to(bob, lambda push: isinstance(push, RoomRefused))
    assert isinstance(found[-2], ChatBroadcast)
    assert read_event(found[-2]) == AccessChanged(RoomAccess.CLOSED)
    assert found[-1] == RoomRefused(room, Status.ERR_UNAUTHORIZED, "the room was closed")
    with pytest.raises(NotFound):
        bob.room_info(room)
    with pytest.raises(Unauthorized):
        bob.send(room, "anybody?")

    def reopened() -> bool:
        return bob.open_room(name_of_a_room()).room_id == room

    # Others of this module may have closed rooms of lower numbers.
    with pytest.raises(Unauthorized):
        bob.join(room)
    wait_until(reopened, "the number is used again")
    assert bob.room_info(room)[1:] == ("", bob.user_id, RoomAccess.PUBLIC, RoomRole.OWNER)
    new = bob.join(room)
    assert new.epoch != old.epoch
    assert bob.board(room) == ()
    ann.join(room)
    with pytest.raises(NotFound):
        ann.board_take(room, entry, 5)
    history = bob.history(room)
    assert read_event(history.events[0]) == RoleChanged(bob.user_id, RoomRole.OWNER)
    assert history.oldest_seq == history.events[0].room_seq


def test_who_was_away_is_told_of_the_closing_once(
    house: RunningServer, people: People, make_lasting: Make
) -> None:
    """And of a room that was opened anew under its number, that it is another one."""
    ann = people.enter("ann")
    closed, reopened, kept = (ann.open_room(name_of_a_room()).room_id for _ in range(3))
    with Relay(house.port) as relay:
        bob = people.enter("bob", make_lasting, relay.port)
        for room in (closed, reopened, kept):
            bob.join(room)
        lost_at = relay.port
        relay.close()
        wait_until(lambda: not bob.connected, "the loss is noticed")
        for room in (closed, reopened):
            ann.set_room(room, "", RoomAccess.CLOSED)
        wait_until(
            lambda: bob.user_id not in [m.user_id for m in ann.iter_members(kept)], "bob has left"
        )
        lower = min(closed, reopened)
        closed, reopened = max(closed, reopened), lower
        while ann.open_room(name_of_a_room()).room_id != reopened:
            pass
        with Relay(house.port, port=lost_at):
            found = pushes_up_to(bob, lambda push: isinstance(push, RoomRefused))
            told = [push for push in found if isinstance(push, RoomRefused | RoomRestarted)]
            assert [(type(push), push.room_id) for push in told] == [
                (RoomRestarted, reopened),
                (RoomRefused, closed),
            ]
            bob.close()


# --- blocks


def test_who_is_blocked_is_not_heard(people: People) -> None:
    ann, bob = people.enter("ann", payments=True), people.enter("bob")
    bob.deposit(100)
    ann.block(bob.user_id)
    ann.block(bob.user_id)
    bob.direct(ann.user_id, "unwanted")
    bob.transfer(ann.user_id, 5)
    ann.unblock(bob.user_id)
    bob.direct(ann.user_id, "wanted")
    assert next_event(ann, (DirectMessage, Payment)).message == "wanted"
    assert "unwanted" not in [getattr(each, "message", "") for each in ann.iter_inbox()]
    with pytest.raises(NotFound):
        ann.block(4000)
    with pytest.raises(BadPacket):
        ann.block(ann.user_id)


# --- a server that is killed


def test_everything_is_there_after_kill_9(start_server: StartServer, make_lasting: Make) -> None:
    port = lasting_port()
    server = start_server("--port", str(port))
    with ExitStack() as stack:
        people = People(server, stack)
        ann, bob = people.enter("ann", make_lasting), people.enter("bob", make_lasting)
        cid = people.enter("cid", make_lasting)
        room, banned, closed = (ann.open_room(name).room_id for name in ("Gold", "Tin", "Lead"))
        for each in (ann, bob, cid):
            each.deposit(1000)
            each.join(room)
        bob.join(banned)
        ann.set_room(room, "all things gold", RoomAccess.INVITED)
        ann.set_role(room, bob.user_id, RoomRole.MODERATOR)
        ann.invite(room, cid.user_id)
        ann.mute(room, cid.user_id)
        ann.ban(banned, bob.user_id)
        ann.set_room(closed, "", RoomAccess.CLOSED)
        kept, taken = (ann.board_add(room, 5, text).entry_id for text in ("a lamp", "a chair"))
        bob.board_take(room, taken, 5)
        cid.block(bob.user_id)
        board = bob.board(room)
        assert [entry.entry_id for entry in board] == [kept]
        assert isinstance(board[0], BoardEntry)
        server.crash()
        again = RunningServer(server.data, "--port", str(port))
        stack.callback(again.stop)
        assert bob.board(room) == board
        assert bob.room_info(room) == (
            "Gold", "all things gold", ann.user_id, RoomAccess.INVITED, RoomRole.MODERATOR,
        )  # fmt: skip
        assert cid.room_info(room).role == RoomRole.MUTED
        with pytest.raises(Unauthorized, match="muted"):
            cid.send(room, "hm")
        with pytest.raises(Unauthorized, match="banned"):
            bob.join(banned)
        with pytest.raises(NotFound):
            ann.room_info(closed)
        with pytest.raises(NotFound):
            bob.board_take(room, taken, 5)
        assert ann.open_room("gold")[:2] == (room, False)
        bob.direct(cid.user_id, "unwanted")
        assert cid.inbox_history().messages == ()
        done = bob.board_take(room, board[0])
        assert (done.balance, ann.balance().balance) == (990, 1010)
        for each in (ann, bob, cid):
            each.close()


def both_workers(server: RunningServer) -> list[int]:
    """Their process ids, once both are there."""
    wait_until(lambda: len(server.worker_pids()) == 2, "both workers are there")
    return server.worker_pids()


@pytest.mark.parametrize(("what", "kills"), [("a worker", 6), ("everything", 2)])
def test_each_offer_is_paid_once_while_there_are_kills(
    start_server: StartServer, what: str, kills: int
) -> None:
    """Everybody sells and buys; what the events of the room say is what the accounts say."""
    port = lasting_port()
    server = start_server("--port", str(port))
    with ExitStack() as stack:
        people = People(server, stack)
        traders = [people.enter(name, reconnect=True, timeout_s=WAIT_S) for name in NAMES]
        room = traders[0].open_room("market").room_id
        for each in traders:
            each.join(room)
            each.deposit(100_000)
        rounds, over = [0] * len(traders), threading.Event()

        def trade(number: int) -> tuple[int, list[tuple[int, int, int]]]:
            """How many this one put up; and what it took: entry, price, transaction."""
            me = traders[number]
            taken: list[tuple[int, int, int]] = []
            while not over.is_set():
                me.board_add(room, 1 + number, f"lot {rounds[number]}")
                rounds[number] += 1
                for entry in me.board(room):
                    if entry.user_id != me.user_id:
                        try:
                            done = me.board_take(room, entry)
                        except NotFound:
                            continue
                        taken.append((entry.entry_id, entry.price, done.txn_id))
                        break
            return rounds[number], taken

        with ThreadPoolExecutor(len(traders)) as pool:
            futures = [pool.submit(trade, number) for number in range(len(traders))]
            try:
                for victim in range(kills):
                    start = [count + 3 for count in rounds]
                    wait_until(
                        lambda start=start: all(map(operator.ge, rounds, start)),  # type: ignore[misc]  # its default is a list
                        "everybody trades",
                    )
                    if what == "a worker":
                        os.kill(both_workers(server)[victim % 2], signal.SIGKILL)
                    else:
                        server.crash()
                        server = RunningServer(server.data, "--port", str(port))
                        stack.callback(server.stop)
            finally:
                over.set()
            added = sum(future.result()[0] for future in futures)
            taken = [each for future in futures for each in future.result()[1]]
        said = {
            (said.entry_id, said.price, said.txn_id)
            for event in traders[0].iter_history(room)
            if isinstance(event, ChatBroadcast)
            and isinstance(said := read_event(event), OfferTaken)
        }
        assert len(taken) == len(said)
        assert set(taken) == said
        assert len({entry for entry, _, _ in taken}) == len(taken)
        left = {entry.entry_id for entry in traders[0].iter_board(room)}
        assert left.isdisjoint(entry for entry, _, _ in taken)
        assert len(left) + len(taken) == added
        balances = [each.balance().balance for each in traders]
        assert [next(each.iter_transactions()).balance for each in traders] == balances
        assert sum(balances) == 100_000 * len(traders)
        for each in traders:
            each.close()


def test_a_text_is_deleted_by_its_author_or_a_moderator(make_lasting: Make, people: People) -> None:
    ann, bob = people.enter("ann"), people.enter("bob", make_lasting)
    room = ann.open_room(name_of_a_room()).room_id
    for each in (ann, bob):
        each.join(room)
    first, second = ann.send(room, "mine"), bob.send(room, "his")
    with pytest.raises(Unauthorized):
        bob.delete(room, first.room_seq)
    assert bob.connected
    done = ann.delete(room, second.room_seq)
    assert next_event(bob, MessageDeleted) == MessageDeleted(second.room_seq)
    with pytest.raises(NotFound):
        bob.delete(room, second.room_seq)
    texts = {event.room_seq: event.message for event in bob.history(room).events}
    assert (texts[first.room_seq], texts[second.room_seq]) == ("mine", "")
    assert texts[done] == f"deleted {second.room_seq}"

"""`tradechat-cli` and its chat about rooms with a name, boards and blocks, with a real server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from client import Client, RoomAccess, RoomEntry, RoomInfo, RoomRole
from client.terminal import room_lines
from client.terminal.display import event_fields, event_line, is_shown, text_of
from libproto.messages import BoardEntry, ChatBroadcast, EventKind
from tests.client.peer import PASSWORD
from tests.client.programs import Ended, Piped, Terminal, run
from tests.helpers.server import RunningServer

NAMES = {2: "bob", 3: "cid"}


@pytest.fixture
def alice(shared: RunningServer) -> Iterator[Client]:
    with Client(port=shared.port) as client:
        client.login("alice", PASSWORD)
        yield client


def _one(done: Ended) -> dict[str, Any]:
    assert (done.code, done.err) == (0, "")
    [line] = done.lines
    found: dict[str, Any] = json.loads(line)
    return found


# ---- lines


def _event(kind: int, text: str) -> ChatBroadcast:
    return ChatBroadcast(65, 4, 0, kind, 1, "ann", text)


@pytest.mark.parametrize(
    ("kind", "text", "shown", "details"),
    [
        (EventKind.OFFER_ADDED, "17 250 a lamp", "ann offers for 2.50: a lamp (#17)",
         {"what": "offer_added", "entry_id": 17, "price": 250, "text": "a lamp"}),
        (EventKind.OFFER_ADDED, "17 0 at noon", "ann notes: at noon (#17)",
         {"what": "offer_added", "entry_id": 17, "price": 0, "text": "at noon"}),
        (EventKind.OFFER_ADDED, "17 250 ", "ann offers for 2.50: (deleted) (#17)",
         {"what": "offer_added", "entry_id": 17, "price": 250, "text": ""}),
        (EventKind.OFFER_REMOVED, "17", "ann took #17 off the board",
         {"what": "offer_removed", "entry_id": 17}),
        (EventKind.OFFER_TAKEN, "17 40 250 2", "ann took #17 of bob for 2.50",
         {"what": "offer_taken", "entry_id": 17, "txn_id": 40, "price": 250, "owner": 2}),
        (EventKind.PAYMENT, "40 2 250 for lunch", "ann paid bob 2.50: for lunch",
         {"what": "room_payment", "txn_id": 40, "to_user": 2, "amount": 250, "note": "for lunch"}),
        (EventKind.PAYMENT, "40 9 250 ", "ann paid user 9 2.50",
         {"what": "room_payment", "txn_id": 40, "to_user": 9, "amount": 250, "note": ""}),
        (8, "3 1200 image/png a.png", "ann shared a.png (image/png, 1200 bytes, file 3)",
         {"what": "file_shared", "file_id": 3, "size": 1200, "media_type": "image/png",
          "name": "a.png"}),
        (EventKind.ROOM_CHANGED, "topic gold", "ann set the topic: gold",
         {"what": "topic_changed", "topic": "gold"}),
        (EventKind.ROOM_CHANGED, "topic ", "ann removed the topic",
         {"what": "topic_changed", "topic": ""}),
        (EventKind.ROOM_CHANGED, "access 1", "ann: the room is joined by invitation only",
         {"what": "access_changed", "access": "invited"}),
        (EventKind.ROOM_CHANGED, "role 2 5", "ann: bob was put out",
         {"what": "role_changed", "user_id": 2, "role": "banned"}),
        (EventKind.ROOM_CHANGED, "role 1 3", "ann opened the room",
         {"what": "role_changed", "user_id": 1, "role": "owner"}),
        (EventKind.ROOM_CHANGED, "deleted 3", "ann deleted event 3",
         {"what": "message_deleted", "room_seq": 3}),
    ],
)  # fmt: skip
def test_what_an_event_says(kind: int, text: str, shown: str, details: dict[str, Any]) -> None:
    event = _event(kind, text)
    assert is_shown(event)
    assert text_of(event_line(event, names=NAMES)) == f"[room 65] * {shown}"
    assert event_fields(event)["details"] == details
    assert event_fields(event)["message"] == text


@pytest.mark.parametrize(
    ("kind", "text"), [(EventKind.OFFER_ADDED, "17"), (EventKind.ROOM_CHANGED, "x 1"), (99, "x")]
)
def test_what_is_not_known_is_shown_as_nothing(kind: int, text: str) -> None:
    event = _event(kind, text)
    assert not is_shown(event)
    assert "details" not in event_fields(event)


@pytest.mark.parametrize(
    ("kind", "text", "users"),
    [
        (EventKind.OFFER_TAKEN, "17 40 250 2", (2,)),
        (EventKind.PAYMENT, "40 2 250 ", (2,)),
        (EventKind.ROOM_CHANGED, "role 2 5", (2,)),
        (EventKind.ROOM_CHANGED, "role 1 3", ()),
        (EventKind.OFFER_ADDED, "17 250 2", ()),
        (EventKind.MESSAGE, "role 2 5", ()),
    ],
)
def test_whose_names_a_line_needs(kind: int, text: str, users: tuple[int, ...]) -> None:
    assert room_lines.users_of(_event(kind, text)) == users


@pytest.mark.parametrize(
    ("room", "info", "shown"),
    [
        (RoomEntry(7, 1, 12), RoomInfo("", "", 0, RoomAccess.PUBLIC, RoomRole.NONE),
         "[room 7] 1 member, last event 12"),
        (RoomEntry(65, 2, 0), RoomInfo("gold", "all of it", 3, RoomAccess.PUBLIC, RoomRole.OWNER),
         "[room 65] gold, 2 members, last event 0, you are owner: all of it"),
        (RoomEntry(66, 0, 1), RoomInfo("tin", "", 3, RoomAccess.INVITED, RoomRole.NONE),
         "[room 66] tin, 0 members, last event 1, private"),
    ],
)  # fmt: skip
def test_rooms_are_listed(room: RoomEntry, info: RoomInfo, shown: str) -> None:
    assert text_of(room_lines.room_line(room, info)) == shown
    unread = text_of(room_lines.room_line(room, info, 3))
    number = shown.partition("last event ")[2].partition(",")[0].partition(":")[0]
    told = f"last event {number}"
    assert unread == shown.replace(told, f"{told}, 3 unread")


def test_the_figures_of_a_board() -> None:
    entries = [
        BoardEntry(number, 0, 1, name, price, "x")
        for number, (name, price) in enumerate([("bob", 100), ("ann", 0), ("bob", 300), ("bob", 1)])
    ]
    assert [text_of(line) for line in room_lines.stats_lines(entries)] == [
        "3 offers, 1 note",
        "prices from 0.01 to 3.00, half up to 1.00, together 4.01",
        "ann: 0 offers, 1 note",
        "bob: 3 offers, 0 notes",
    ]
    assert [text_of(line) for line in room_lines.stats_lines([])] == ["0 offers, 0 notes"]


# ---- one-shot commands


def test_rooms_are_opened_and_changed(shared: RunningServer, alice: Client) -> None:
    opened = _one(run(shared.port, "--user", "bob", "rooms", "open", "Brass", "--json"))
    room = opened["room_id"]
    assert opened == {"room_id": room, "created": True}
    again = run(shared.port, "--user", "alice", "rooms", "open", "brass")
    assert again == Ended(0, f"there is room {room}\n", "")
    for command in (
        ("topic", "BRASS", "all", "things"),
        ("access", str(room), "private"),
        ("invite", "brass", "alice"),
        ("role", "brass", "alice", "moderator"),
        ("mute", "brass", "carol", "--seconds", "60"),
        ("ban", "brass", "carol"),
        ("pardon", "brass", "carol"),
    ):
        done = run(shared.port, "--user", "bob", "rooms", *command)
        assert (done.code, done.err) == (0, ""), command
        assert done.out.startswith("done: event ")
    assert alice.room_info(room)[:2] == ("Brass", "all things")
    assert alice.room_info(room)[3:] == (RoomAccess.INVITED, RoomRole.MODERATOR)
    done = run(shared.port, "--user", "alice", "rooms", "--json")
    listed = [json.loads(line) for line in done.lines]
    [found] = [each for each in listed if each["room_id"] == room]
    assert (found["name"], found["topic"], found["access"], found["role"]) == (
        "Brass", "all things", "private", "moderator",
    )  # fmt: skip
    shown = run(shared.port, "--user", "carol", "rooms").lines
    line = f"[room {room}] Brass, 0 members, last event {found['last_seq']}, private: all things"
    assert line in shown
    refused = run(shared.port, "--user", "carol", "rooms", "topic", "brass", "mine")
    assert (refused.code, refused.out) == (1, "")
    assert "the server refused this" in refused.err
    closed = run(shared.port, "--user", "bob", "rooms", "close", "brass", "--json")
    assert closed.code == 0
    nowhere = run(shared.port, "--user", "bob", "send", "brass", "hello")
    assert (nowhere.code, nowhere.out) == (1, "")
    assert "no room is called 'brass'" in nowhere.err


def test_a_board_is_traded_on(shared: RunningServer, alice: Client) -> None:
    room = alice.open_room("copper").room_id
    alice.deposit(1000)
    added = _one(
        run(shared.port, "--user", "bob", "board", "add", "Copper", "2.50", "a", "lamp", "--json")
    )
    entry = added["entry_id"]
    note = run(shared.port, "--user", "bob", "board", "note", "copper", "at noon")
    assert note.code == 0
    shown = run(shared.port, "--user", "alice", "board", "list", "copper").lines
    assert shown[0] == f"#{entry} 2.50 bob: a lamp"
    assert shown[1].endswith(" note bob: at noon")
    found = _one(
        run(shared.port, "--user", "alice", "board", "list", "copper", "--find", "LAMP", "--json")
    )
    assert (found["entry_id"], found["price"], found["text"]) == (entry, 250, "a lamp")
    taking = ("board", "take", "copper", f"#{entry}", "--price", "2.50", "--key", f"lamp {entry}")
    wrong = run(shared.port, "--user", "alice", *taking[:5], "2")
    assert (wrong.code, wrong.out) == (1, "")
    balance = alice.balance().balance
    first = _one(run(shared.port, "--user", "alice", *taking, "--json"))
    again = _one(run(shared.port, "--user", "alice", *taking, "--json"))
    assert (first["recorded"], again["recorded"]) == (False, True)
    assert first["txn_id"] == again["txn_id"]
    assert (first["balance"], alice.balance().balance) == (balance - 250, balance - 250)
    unclear = run(shared.port, "--user", "alice", *taking[:4], "--key", "other")
    assert (unclear.code, unclear.out) == (2, "")
    assert "--key goes with --price" in unclear.err
    gone = run(shared.port, "--user", "alice", *taking[:4])
    assert gone.code == 1
    assert f"there is no entry {entry}" in gone.err
    left = alice.join(room) and alice.board(room)
    assert [each.text for each in left] == ["at noon"]
    dropped = run(shared.port, "--user", "bob", "board", "drop", "copper", str(left[0].entry_id))
    assert dropped.code == 0
    assert alice.board(room) == ()
    history = run(shared.port, "--user", "alice", "history", "copper").lines
    assert any(line.endswith(f"* alice took #{entry} of bob for 2.50") for line in history)


def test_a_person_is_asked_before_an_offer_is_taken(shared: RunningServer, alice: Client) -> None:
    room = alice.open_room("tin").room_id
    alice.join(room)
    with Client(port=shared.port) as bob:
        bob.login("bob", PASSWORD)
        bob.deposit(100_000)
    entry = alice.board_add(room, 50_000, "a lamp").entry_id
    small = alice.board_add(room, 50, "a match").entry_id
    asked = "take 'a lamp' of alice for 500.00? [y/N] "
    with Terminal(shared.port, "--user", "bob", "board", "take", "tin", str(entry)) as terminal:
        terminal.expect(asked)
        terminal.say("n")
        terminal.expect("nothing was done")
        assert terminal.end() == 2
    assert entry in [each.entry_id for each in alice.board(room)]
    with Terminal(shared.port, "--user", "bob", "board", "take", "tin", str(entry)) as terminal:
        terminal.expect(asked)
        terminal.say("y")
        terminal.expect(f"took #{entry} for 500.00")
        assert terminal.end() == 0
    with Terminal(shared.port, "--user", "bob", "board", "take", "tin", str(small)) as terminal:
        terminal.expect(f"took #{small} for 0.50")
        assert terminal.end() == 0
    assert alice.board(room) == ()


def test_blocks(shared: RunningServer, alice: Client) -> None:
    with Client(port=shared.port) as carol:
        carol.login("carol", PASSWORD)
        seen = len(carol.inbox_history().messages)
        done = run(shared.port, "--user", "carol", "block", "alice")
        assert done == Ended(0, "alice is blocked\n", "")
        alice.direct(carol.user_id, "unwanted")
        assert _one(run(shared.port, "--user", "carol", "unblock", "alice", "--json")) == {
            "username": "alice", "blocked": False,
        }  # fmt: skip
        alice.direct(carol.user_id, "wanted")
        assert [m.message for m in carol.inbox_history().messages[seen:]] == ["wanted"]
    assert run(shared.port, "--user", "carol", "block", "nobody").code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("board",), "COMMAND"),
        (("board", "list"), "ROOM"),
        (("board", "take", "tin", "x"), "is no whole number"),
        (("board", "add", "tin", "1.005", "x"), "is not a valid amount"),
        (("rooms", "access", "tin", "closed"), "is not one of: public, private"),
        (("rooms", "role", "tin", "bob", "banned"), "is not one of: none, member"),
        (("rooms", "open", "77"), "is not a valid name of a room"),
        (("rooms", "ban", "tin", "bob", "--seconds", "0"), "is no whole number"),
    ],
)
def test_usage(arguments: tuple[str, ...], said: str) -> None:
    done = run(1, "--user", "alice", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


# ---- the chat, line after line


def test_a_script_about_rooms_and_boards(shared: RunningServer, alice: Client) -> None:
    alice.deposit(10_000)
    before = alice.balance().balance
    with Piped(shared.port, "--user", "alice", "--room", "Silver") as chat:
        chat.expect("opened room ")
        chat.expect("joined room ")
        room = alice.open_room("silver").room_id
        for line, shown in (
            ("/topic spoons and forks", "* alice set the topic: \u2068spoons and forks\u2069\n"),
            ("/topic", "spoons and forks\n"),
            ("/note back at noon", "* alice notes: "),
            ("/offer 1.50 a spoon", "* alice offers for 1.50: "),
            ("/board stats", "alice: 1 offer, 1 note\n2 made in all\nlast change "),
            ("/board stats", " alice offers for 1.50: a spoon ("),
            ("/board find SPOON", "1.50 alice: a spoon\n"),
            ("/who", "alice, last heard "),
            ("/who silver", "alice, last heard "),
            ("/buffer 1\n/buffer Silver\n/buffer", "2 #Silver, here\n"),
            ("/leave nowhere", "there is no room called 'nowhere': /rooms lists them\n"),
            ("/leave #SILVER", f"left room {room}\n"),
            ("/join silver", f"joined room {room} silver, 1 member\n"),
            ("/pay bob 2 for lunch", "* alice paid bob 2.00: for lunch\n"),
            ("/rooms", "Silver, 1 member"),
            ("/mute bob 60", "* alice: bob is muted\n"),
            ("/kick bob", "* alice: bob was put out\n"),
            ("/pardon bob", "* alice: bob has no role any more\n"),
            ("/access private", "* alice: the room is joined by invitation only\n"),
            ("/invite bob", "* alice: bob is a member\n"),
            ("/role bob moderator", "* alice: bob is a moderator\n"),
            ("/block bob", "bob is blocked"),
            ("/unblock bob", "bob is not blocked\n"),
        ):
            chat.say(line)
            chat.expect(shown.replace("\u2068", "").replace("\u2069", ""))
        assert alice.room_info(room)[1:] == (
            "spoons and forks", alice.user_id, RoomAccess.INVITED, RoomRole.OWNER,
        )  # fmt: skip
        assert alice.balance().balance == before - 200
        with Client(port=shared.port) as bob:
            bob.login("bob", PASSWORD)
            bob.join(room)
            offer = bob.board_add(room, 300, "a fork").entry_id
            for line, shown in (
                (f"/board show {offer}", f"#{offer} 3.00 bob: a fork\n"),
                (f"/take {offer}", f"* alice took #{offer} of bob for 3.00\n"),
                (f"/take {offer}", f"there is no entry {offer} on the board"),
                ("/drop mine", "2 entries taken off the board\n"),
            ):
                chat.say(line)
                chat.expect(shown)
            assert bob.board(room) == ()
            bob.board_add(room, 300, "a knife")
            chat.say("/board clear")
            chat.expect("1 entry taken off the board\n")
            assert bob.board(room) == ()
            chat.say("/close")
            chat.expect("* alice: the room is closed\n")
            chat.expect(f"room {room} is not joined any more: the room was closed\n")
        chat.say("/board")
        chat.expect("no room is joined")
        chat.close_input()
        assert chat.wait() == 1  # of the take of what was gone
    assert alice.balance().balance == before - 200 - 300


def test_a_person_who_was_banned_is_told(shared: RunningServer, alice: Client) -> None:
    room = alice.open_room("lead").room_id
    alice.join(room)
    with Piped(shared.port, "--user", "bob", "--room", "lead") as chat:
        chat.expect("joined room ")
        bob = alice.lookup("bob").user_id
        alice.ban(room, bob)
        chat.expect("* alice: bob was put out\n")
        chat.expect(f"room {room} is not joined any more: you were put out of the room\n")
        chat.say("/join lead")
        chat.expect("the server refused this: you are banned from the room\n")
        chat.close_input()
        assert chat.wait() == 1


def test_a_person_is_asked_in_the_chat(shared: RunningServer, alice: Client) -> None:
    room = alice.open_room("zinc").room_id
    alice.join(room)
    with Client(port=shared.port) as bob:
        bob.login("bob", PASSWORD)
        bob.deposit(1000)
    entry = alice.board_add(room, 100, "a bucket").entry_id
    with Terminal(shared.port, "--user", "bob", "--plain", "--room", "zinc") as terminal:
        terminal.expect("joined room")
        terminal.say(f"/take {entry}")
        terminal.expect("take 'a bucket' of alice for 1.00?")
        terminal.say("n")
        terminal.expect("nothing was done")
        assert len(alice.board(room)) == 1
        terminal.say(f"/take {entry}")
        terminal.expect("take 'a bucket' of alice for 1.00?")
        terminal.say("y")
        terminal.expect(f"took #{entry} for 1.00")
        terminal.say("/quit")
        assert terminal.end() == 0
    assert alice.board(room) == ()

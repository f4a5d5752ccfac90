"""What is pushed, to whom and in which order, over four workers."""

import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from libproto.errors import Status
from libproto.messages import Capability, EventKind, Opcode
from tests.helpers.server import StartServer
from tests.helpers.wire import Lobby, RoomAccount, Wire, request

WORKERS = 4
PER_WORKER = 4
PAYMENTS = int(Capability.PAYMENTS)
AT_ONCE_S = 20.0  # on any machine; a third of the idle timeout, which would end it too


@pytest.fixture
def wide_lobby(start_server: StartServer) -> Iterator[Lobby]:
    """A server whose ring is long enough for all that a test says: no worker is ever lapped."""
    with Lobby(start_server("--event-ring", "16384", workers=WORKERS)) as lobby:
        yield lobby


def on_every_worker(lobby: Lobby, username: str = "", capabilities: int = 0) -> list[Wire]:
    return [
        lobby.enter(username, worker=slot, capabilities=capabilities) for slot in range(WORKERS)
    ]


# ---- one order

SENDERS = 5
MESSAGES = 400  # of each sender
PIPELINED = 20
STAYS = 40  # of each that comes and goes


def test_sixteen_members_over_four_workers_see_one_order(wide_lobby: Lobby) -> None:
    """Sixteen stay, five send as fast as they can, and four come and go. All see the same events
    under the same numbers, without a gap or a repeat: those who stay from their JOIN to the end,
    those who come and go from each JOIN answer to the LEAVE answer."""
    lobby, room = wide_lobby, 7
    staying = [lobby.enter(worker=slot) for slot in range(WORKERS) for _ in range(PER_WORKER)]
    accounts = [RoomAccount(room, wire.ok(Opcode.JOIN_ROOM, room).last_seq) for wire in staying]
    stop = threading.Event()

    def stay(wire: Wire, account: RoomAccount) -> None:
        while not account.events or account.events[account.last][2] != "the end":
            account.take(wire.push())

    def send(wire: Wire, number: int) -> dict[int, str]:
        """Answers what it said, by room_seq."""
        account = RoomAccount(room, wire.ok(Opcode.JOIN_ROOM, room).last_seq)
        said = {}
        for first in range(0, MESSAGES, PIPELINED):
            texts = [f"{number}:{n}" for n in range(first, first + PIPELINED)]
            wire.send_raw(b"".join(request(Opcode.CHAT_SEND, 9, room, text) for text in texts))
            for text in texts:
                answer = wire.answer()
                assert answer.status == Status.OK
                said[answer.body.room_seq] = text
            account.take_all(wire)
        account.take_until(wire, max(account.last, *said))
        return said

    def come_and_go(wire: Wire) -> list[RoomAccount]:
        stays: list[RoomAccount] = []
        while not stop.is_set() or len(stays) < STAYS:
            wire.send(Opcode.JOIN_ROOM, room)
            answer = wire.answer()
            assert not wire.pushes, "pushed before the answer to JOIN_ROOM"
            account = RoomAccount(room, answer.body.last_seq)
            while (EventKind.JOINED, wire.user, "") not in account.events.values():
                account.take(wire.push())
            if len(stays) % 3:
                wire.ok(Opcode.HEARTBEAT, 1)
            wire.ok(Opcode.LEAVE_ROOM, room)
            account.take_all(wire)
            wire.ok(Opcode.HEARTBEAT, 1)
            assert not wire.pushes, "pushed after the answer to LEAVE_ROOM"
            stays.append(account)
        return stays

    with ThreadPoolExecutor(64) as pool:
        readers = [
            pool.submit(stay, wire, account)
            for wire, account in zip(staying, accounts, strict=True)
        ]
        coming = [pool.submit(come_and_go, wire) for wire in on_every_worker(lobby)]
        sending = [pool.submit(send, lobby.enter(), number) for number in range(SENDERS)]
        said: dict[int, str] = {}
        for sender in sending:
            for seq, text in sender.result().items():
                assert seq not in said
                said[seq] = text
        stop.set()
        stays = [account for going in coming for account in going.result()]
        closer = lobby.enter()
        closer.ok(Opcode.JOIN_ROOM, room)
        closer.ok(Opcode.CHAT_SEND, room, "the end")
        for reader in readers:
            reader.result()

    story = accounts[0].events
    heard = {seq: message for seq, (kind, _, message) in story.items() if not kind}
    assert said == {seq: text for seq, text in heard.items() if text != "the end"}
    assert len(said) == SENDERS * MESSAGES
    for number in range(SENDERS):
        mine = [text for text in heard.values() if text.startswith(f"{number}:")]
        assert mine == [f"{number}:{n}" for n in range(MESSAGES)], "a sender's own order"
    for account in (*accounts, *stays):
        assert not account.gaps
        assert account.events == {seq: story[seq] for seq in account.events if seq in story}
    for account in accounts[1:]:
        assert account.events == {seq: story[seq] for seq in range(account.first, account.last + 1)}
    assert len(stays) >= STAYS * WORKERS
    assert lobby.counters()["laps"] == 0


def test_an_event_is_there_before_the_sender_sends_again(lobby: Lobby) -> None:
    """Two who answer each other over two workers see their exchange in one order, each event once;
    and nobody waits for a timer: a hundred exchanges take far less than a hundred ticks."""
    room = 40
    left, right = lobby.enter(worker=0), lobby.enter(worker=1)
    accounts = {
        wire: RoomAccount(room, wire.ok(Opcode.JOIN_ROOM, room).last_seq) for wire in (left, right)
    }
    for turn in range(100):
        speaker, hearer = (left, right) if turn % 2 else (right, left)
        seq = speaker.ok(Opcode.CHAT_SEND, room, f"turn {turn}").room_seq
        accounts[hearer].take_until(hearer, seq)
        assert accounts[hearer].events[seq] == (EventKind.MESSAGE, speaker.user, f"turn {turn}")
    last = accounts[right].last
    for wire, account in accounts.items():
        account.take_all(wire)
        account.take_until(wire, last)


# ---- joined and left


def test_joined_and_left_name_users_and_not_connections(lobby: Lobby) -> None:
    """A user on four workers joins and leaves with each of them: one joined and one left event."""
    room = 41
    watcher = lobby.enter(worker=1)
    account = RoomAccount(room, watcher.ok(Opcode.JOIN_ROOM, room).last_seq)
    username = lobby.new_user()
    wires = on_every_worker(lobby, username)
    user = wires[0].user
    for wire in wires:
        assert wire.ok(Opcode.JOIN_ROOM, room).member_count == 2
    wires[0].ok(Opcode.LEAVE_ROOM, room)
    wires[1].close()
    wires[2].ok(Opcode.LOGOUT)
    wires[3].ok(Opcode.CHAT_SEND, room, "the last of us")
    wires[3].ok(Opcode.LEAVE_ROOM, room)
    account.take_until(watcher, account.first + 3)
    assert list(account.events.values()) == [
        (EventKind.JOINED, watcher.user, ""),
        (EventKind.JOINED, user, ""),
        (EventKind.MESSAGE, user, "the last of us"),
        (EventKind.LEFT, user, ""),
    ]


@pytest.mark.parametrize("how", ["fin", "reset", "half-close"])
def test_a_client_that_goes_away_has_left(lobby: Lobby, how: str) -> None:
    """At once, in every room that it was in, seen on another worker: not by any timeout, which are
    of a minute here."""
    rooms = (42, 43)
    watcher, gone = lobby.enter(worker=2), lobby.enter(worker=3)
    accounts = {}
    for room in rooms:
        accounts[room] = RoomAccount(room, watcher.ok(Opcode.JOIN_ROOM, room).last_seq)
        gone.ok(Opcode.JOIN_ROOM, room)
        for _ in range(2):
            accounts[room].take(watcher.push())
    if how == "half-close":
        gone.sock.shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    for _ in rooms:
        push = watcher.push(timeout_s=AT_ONCE_S)
        accounts[push.body.room_id].take(push)
    for account in accounts.values():
        assert account.events[account.last] == (EventKind.LEFT, gone.user, "")
    assert not watcher.ok(Opcode.USER_NAME, gone.user).online


def test_logout_leaves_all_rooms(lobby: Lobby) -> None:
    room = 44
    watcher, wire = lobby.enter(worker=0), lobby.enter(worker=1)
    account = RoomAccount(room, watcher.ok(Opcode.JOIN_ROOM, room).last_seq)
    wire.ok(Opcode.JOIN_ROOM, room)
    wire.ok(Opcode.LOGOUT)
    watcher.ok(Opcode.CHAT_SEND, room, "are you there?")
    account.take_until(watcher, account.first + 3)
    kinds = [kind for kind, _, _ in account.events.values()]
    assert kinds == [EventKind.JOINED, EventKind.JOINED, EventKind.LEFT, EventKind.MESSAGE]
    wire.ok(Opcode.HEARTBEAT, 1)
    assert all(push.body.kind == EventKind.JOINED for push in wire.pushes)


def test_rooms_are_apart(lobby: Lobby) -> None:
    """Members of one room hear nothing of another, on the same worker or not."""
    wires = on_every_worker(lobby)
    for place, wire in enumerate(wires):
        wire.ok(Opcode.JOIN_ROOM, 50 + place)
    for place, wire in enumerate(wires):
        wire.ok(Opcode.CHAT_SEND, 50 + place, f"to {place}")
    for place, wire in enumerate(wires):
        account = RoomAccount(50 + place, wire.push().body.room_seq)
        account.take(wire.push())
        assert account.events[account.last][2] == f"to {place}"
        wire.ok(Opcode.HEARTBEAT, 1)
        assert not wire.pushes


# ---- direct messages


def test_a_direct_message_reaches_all_connections_of_the_user(lobby: Lobby) -> None:
    """On every worker, two on one of them; numbered per recipient; nobody else gets it."""
    username = lobby.new_user()
    wires = [*on_every_worker(lobby, username), lobby.enter(username, worker=0)]
    sender, stranger = lobby.enter(worker=3), lobby.enter(worker=0)
    texts = [f"news {n} — ✓" for n in range(30)]
    times = [sender.ok(Opcode.DIRECT_SEND, wires[0].user, text).time for text in texts]
    for wire in wires:
        for number, text in enumerate(texts, 1):
            push = wire.push()
            assert push.opcode == Opcode.DIRECT_MESSAGE
            assert push.body == (
                number,
                times[number - 1],
                sender.user,
                lobby.username(sender),
                text,
            )
    late = lobby.enter(username)
    sender.ok(Opcode.DIRECT_SEND, late.user, "one more")
    for wire in (*wires, late):
        assert (wire.push().body.seq, wire.pushes) == (len(texts) + 1, wire.pushes)
    for wire in (sender, stranger, *wires, late):
        wire.ok(Opcode.HEARTBEAT, 1)
        assert not wire.pushes


def test_direct_messages_of_many_senders_are_in_one_order(lobby: Lobby) -> None:
    username, each = lobby.new_user(), 100
    wires = on_every_worker(lobby, username)
    senders = on_every_worker(lobby)

    def send(wire: Wire) -> None:
        to_user = wires[0].user
        wire.send_raw(
            b"".join(request(Opcode.DIRECT_SEND, 5, to_user, str(n)) for n in range(each))
        )
        for _ in range(each):
            assert wire.answer().status == Status.OK

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(send, senders))
    seen = [[wire.push().body for _ in range(each * WORKERS)] for wire in wires]
    assert [item.seq for item in seen[0]] == list(range(1, each * WORKERS + 1))
    assert seen[1:] == seen[:1] * (WORKERS - 1)


def test_a_direct_message_to_oneself(lobby: Lobby) -> None:
    username = lobby.new_user()
    here, there = lobby.enter(username, worker=0), lobby.enter(username, worker=1)
    here.ok(Opcode.DIRECT_SEND, here.user, "note")
    assert (here.push().body.message, there.push().body.message) == ("note", "note")


def test_a_direct_message_to_nobody(lobby: Lobby) -> None:
    """One who does not exist, user 0 and the highest number; but who is offline has an inbox."""
    wire, gone = lobby.enter(), lobby.enter()
    gone.ok(Opcode.LOGOUT)
    assert wire.status(Opcode.DIRECT_SEND, gone.user, "for later") == Status.OK
    for user in (4000, 0, 2**32 - 1):
        assert wire.status(Opcode.DIRECT_SEND, user, "hello?") == Status.ERR_NOT_FOUND


# ---- payments


def test_payments_are_pushed_to_those_who_asked(lobby: Lobby) -> None:
    """On every worker: to the payee's connections with the capability, and to no others."""
    username = lobby.new_user()
    asked = on_every_worker(lobby, username, PAYMENTS)
    others = on_every_worker(lobby, username)
    payer = lobby.enter(worker=2, capabilities=PAYMENTS)
    payer.ok(Opcode.DEPOSIT, 1000)
    others[0].ok(Opcode.DEPOSIT, 5)
    paid = [payer.ok(Opcode.TRANSFER, asked[0].user, amount).txn_id for amount in range(1, 21)]
    for wire in asked:
        for amount, txn_id in enumerate(paid, 1):
            push = wire.push()
            assert push.opcode == Opcode.PAYMENT
            assert push.body.txn_id == txn_id
            assert (push.body.from_user, push.body.from_name) == (
                payer.user,
                lobby.username(payer),
            )
            assert (push.body.amount, push.body.balance) == (
                amount,
                5 + amount * (amount + 1) // 2,
            )
    for wire in (*asked, *others, payer):
        wire.ok(Opcode.HEARTBEAT, 1)
        assert not wire.pushes


def test_who_logs_out_is_not_told_of_payments(lobby: Lobby) -> None:
    payer, payee = lobby.enter(), lobby.enter(capabilities=PAYMENTS)
    payer.ok(Opcode.DEPOSIT, 10)
    payee.ok(Opcode.LOGOUT)
    payer.ok(Opcode.TRANSFER, payee.user, 10)
    payee.ok(Opcode.HEARTBEAT, 1)
    assert not payee.pushes

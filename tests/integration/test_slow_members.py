"""Clients that do not read, and workers that fall behind: each is told exactly what it missed,
nobody else waits, and no worker's memory grows with what waits."""

import itertools
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from libnet.transport import FLUSH_S
from libproto.errors import Status
from libproto.messages import EventKind, Opcode
from tests.helpers.server import StartServer, wait_until
from tests.helpers.wire import Lobby, Received, RoomAccount, Wire, frozen, request

ROOM = 7
TEXT = "x" * 4090  # with a number, a message of the longest size
MESSAGES = 2000
BATCH = 25  # messages in one write
SLOW = 5
MEMORY_KIB = 24 * 1024  # a worker may grow by; unbounded buffers would take 8 MiB a slow member
SMALL_BUFFER = 16 * 1024  # of a client that shall be slow soon, bytes
LARGE_BUFFER = 1 << 20


@pytest.fixture
def pair(start_server: StartServer) -> Iterator[Lobby]:
    """A server of two workers, to itself."""
    # Who only listens, as long as a slow machine takes, is not thrown out of its rooms meanwhile.
    with Lobby(start_server("--idle-timeout", "3600")) as lobby:
        yield lobby


@pytest.fixture
def short_ring(start_server: StartServer) -> Iterator[Lobby]:
    """Four workers whose ring laps them after 16 events."""
    with Lobby(start_server("--event-ring", "16", workers=4)) as lobby:
        yield lobby


def private_kib(pid: int) -> int:
    """A process's own memory, in KiB: without the shared region, which it touches bit by bit."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1])


def slow_down(wire: Wire) -> Wire:
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    return wire


def speed_up(wire: Wire) -> Wire:
    """Before it reads all that waits: through a small window that takes seconds."""
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LARGE_BUFFER)
    return wire


def send_many(wire: Wire, texts: list[str], opcode: int = Opcode.CHAT_SEND, to: int = ROOM) -> None:
    """Batch by batch, as fast as the answers come."""
    for first in range(0, len(texts), BATCH):
        batch = texts[first : first + BATCH]
        wire.send_raw(b"".join(request(opcode, 1 + n, to, text) for n, text in enumerate(batch)))
        for _ in batch:
            assert wire.answer().status == Status.OK


class Direct:
    """What one connection has been told of the direct messages to its user."""

    def __init__(self) -> None:
        self.last = 0
        self.messages: dict[int, str] = {}
        self.gaps: list[tuple[int, int]] = []

    def take(self, push: Received) -> None:
        if push.opcode == Opcode.DIRECT_MESSAGE:
            assert push.body.seq == self.last + 1
            self.last = push.body.seq
            self.messages[self.last] = push.body.message
        else:
            assert (push.opcode, push.body.room_id) == (Opcode.ROOM_GAP, 0)
            assert push.body.first_seq == self.last + 1 <= push.body.last_seq
            self.last = push.body.last_seq
            self.gaps.append(push.body[1:])


# ---- members that do not read


def test_members_that_do_not_read(pair: Lobby) -> None:
    """Five of them, on both workers. The others get every event at once; memory stays; and when
    the slow ones read they find every number, as an event or in a gap, and go on as the others."""
    fast = [pair.enter(worker=slot) for slot in (0, 1)]
    accounts = [RoomAccount(ROOM, wire.ok(Opcode.JOIN_ROOM, ROOM).last_seq) for wire in fast]
    slow = [slow_down(pair.enter(worker=slot % 2)) for slot in range(SLOW)]
    slow_accounts = [RoomAccount(ROOM, wire.ok(Opcode.JOIN_ROOM, ROOM).last_seq) for wire in slow]
    sender = pair.enter()
    sender_account = RoomAccount(ROOM, sender.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    before = [private_kib(pair.worker_pid(slot)) for slot in (0, 1)]

    last = sender_account.first + MESSAGES

    def keep_up(wire: Wire, account: RoomAccount) -> None:
        account.take_until(wire, last)

    with ThreadPoolExecutor(len(fast)) as pool:
        readers = [
            pool.submit(keep_up, wire, account)
            for wire, account in zip(fast, accounts, strict=True)
        ]
        for first in range(0, MESSAGES, BATCH):
            send_many(sender, [f"{n:06}{TEXT}" for n in range(first, first + BATCH)])
            sender_account.take_all(sender)
        for reader in readers:
            reader.result()
    sender_account.take_until(sender, last)
    for account in (*accounts, sender_account):
        assert not account.gaps
    grown = [private_kib(pair.worker_pid(slot)) - was for slot, was in enumerate(before)]
    assert max(grown) < MEMORY_KIB, grown

    # nobody waits for those who still do not read
    for turn in range(20):
        seq = fast[turn % 2].ok(Opcode.CHAT_SEND, ROOM, f"turn {turn}").room_seq
        for wire, account in zip(fast, accounts, strict=True):
            while account.last < seq:
                account.take(wire.push())
        last = seq

    story = accounts[0].events
    for wire, account in zip(slow, slow_accounts, strict=True):
        account.take_until(speed_up(wire), last)
        assert account.gaps, "it was not slow enough for this test"
        for seq in account.events.keys() & story.keys():
            assert account.events[seq] == story[seq]
        told = sum(end - first + 1 for first, end in account.gaps) + len(account.events)
        assert told == last - account.first + 1
    # what a gap names can be asked for, as far as the ring reaches
    wire, (first, end) = slow[0], slow_accounts[0].gaps[-1]
    events = wire.ok(Opcode.ROOM_HISTORY, ROOM, end - 5, 256).events
    assert events[0].room_seq == end - 4
    assert all(story[event.room_seq][2] == event.message for event in events)
    # and all is as before
    seq = sender.ok(Opcode.CHAT_SEND, ROOM, "welcome back").room_seq
    for wire, account in zip(slow, slow_accounts, strict=True):
        account.take_until(wire, seq)
        assert account.events[seq] == (EventKind.MESSAGE, sender.user, "welcome back")
    told = sum(len(account.gaps) for account in slow_accounts)
    wait_until(lambda: pair.counters()["gaps"] >= told, "both workers have counted their gaps")


def test_a_member_that_reads_now_and_then(pair: Lobby) -> None:
    """Choked and relieved many times while the flow goes on."""
    wire, sender = slow_down(pair.enter(worker=0)), pair.enter(worker=1)
    account = RoomAccount(ROOM, wire.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    sender.ok(Opcode.JOIN_ROOM, ROOM)
    for turn in itertools.count():
        send_many(sender, [f"{turn:06}{TEXT}"] * 250)
        sender.pushes.clear()
        for _ in range(60):  # less than is kept for who does not read
            account.take(wire.push())
        if len(account.gaps) >= 3:
            break
        assert turn < 40, "it was not slow enough for this test"
    seq = sender.ok(Opcode.CHAT_SEND, ROOM, "the end").room_seq
    account.take_until(wire, seq)
    assert account.events[max(account.events)][2]


def test_a_slow_member_that_leaves_or_closes(pair: Lobby) -> None:
    """Its LEAVE is answered behind what was pushed before, and no gap of the room comes after; one
    that just goes away is no trouble either."""
    leaving, closing = (slow_down(pair.enter(worker=0)) for _ in range(2))
    sender = pair.enter(worker=1)
    account = RoomAccount(ROOM, leaving.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    closing.ok(Opcode.JOIN_ROOM, ROOM)
    sender.ok(Opcode.JOIN_ROOM, ROOM)
    send_many(sender, [TEXT] * 1500)
    closing.close()
    speed_up(leaving).send(Opcode.LEAVE_ROOM, ROOM)
    while (frame := leaving.receive()) is not None and not frame.is_answer:
        account.take(frame)
    assert frame is not None
    assert (frame.opcode, frame.status) == (Opcode.LEAVE_ROOM, Status.OK)
    sender.ok(Opcode.CHAT_SEND, ROOM, "after")
    leaving.ok(Opcode.HEARTBEAT, 1)
    assert not leaving.pushes
    members = sender.ok(Opcode.ROOM_MEMBERS, ROOM, 0).members
    assert [user for user, _ in members] == [sender.user]


def test_direct_messages_to_who_does_not_read(pair: Lobby) -> None:
    """Named by gaps with room_id 0; the user's other connection gets them all."""
    username = pair.new_user()
    slow, fast = slow_down(pair.enter(username, worker=0)), pair.enter(username, worker=1)
    sender = pair.enter()
    count = 1500
    accounts = {wire: Direct() for wire in (slow, fast)}
    for first in range(0, count, BATCH):
        texts = [f"{n:06}{TEXT}" for n in range(first + 1, first + 1 + BATCH)]
        send_many(sender, texts, Opcode.DIRECT_SEND, slow.user)
        while accounts[fast].last < first + BATCH:
            accounts[fast].take(fast.push())
    sender.ok(Opcode.DIRECT_SEND, slow.user, "the end")
    for wire, account in accounts.items():
        speed_up(wire)
        while account.last < count + 1:
            account.take(wire.push())
    assert not accounts[fast].gaps
    assert accounts[slow].gaps
    everything = accounts[fast].messages
    assert everything.items() >= accounts[slow].messages.items()


def test_answers_that_are_not_read(pair: Lobby) -> None:
    """Who asks and does not read is not read from either: its worker's memory stays, others are
    answered, and every answer comes in the end, in order."""
    wire, other = slow_down(pair.enter(worker=0)), pair.enter(worker=0)
    wire.ok(Opcode.JOIN_ROOM, ROOM)
    send_many(wire, [TEXT] * 50)
    wire.pushes.clear()
    size = len(wire.call(Opcode.ROOM_HISTORY, ROOM, 0, 256).raw)
    assert size > 50_000
    before = private_kib(pair.worker_pid(0))
    asked = 800
    data = b"".join(request(Opcode.ROOM_HISTORY, n, ROOM, 0, 256) for n in range(1, asked + 1))
    wire.send_raw(data)
    for number in range(50):
        assert other.ok(Opcode.HEARTBEAT, number).client_time == number
    assert private_kib(pair.worker_pid(0)) - before < MEMORY_KIB < asked * size // 1024
    wire.pushes.clear()
    speed_up(wire)
    for number in range(1, asked + 1):
        answer = wire.answer()
        assert (answer.req_id, answer.status, len(answer.raw)) == (number, Status.OK, size)


def test_a_client_that_does_not_read_does_not_delay_the_stop(start_server: StartServer) -> None:
    """After the half-close it would be given FLUSH_S to take what is left; at a stop it is waited
    for only while it takes something. Three tries: a busy machine can delay any of them."""
    for _ in range(3):
        server = start_server("--graceful-timeout", "60")
        with Lobby(server) as lobby:
            wire = slow_down(lobby.enter(worker=0))
            wire.ok(Opcode.JOIN_ROOM, ROOM)
            send_many(wire, [TEXT] * 50)
            wire.pushes.clear()
            asked = (request(Opcode.ROOM_HISTORY, n, ROOM, 0, 256) for n in range(1, 201))
            wire.send_raw(b"".join(asked))
            wait_until(lambda: unsent(server.port) > SMALL_BUFFER, "it is full")  # noqa: B023 - at once
            began = time.monotonic()
            assert server.stop() == 0
            if time.monotonic() - began < FLUSH_S - 1:
                return
    pytest.fail("each stop took as long as a client may take that reads")


def unsent(port: int) -> int:
    """Bytes that the kernel holds for clients of this port which do not read."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4][:8], 16) for row in rows if int(row[1][-4:], 16) == port)


# ---- workers that fall behind


def test_a_lapped_worker_tells_exact_gaps(short_ring: Lobby) -> None:
    """One that stands still while the ring goes round: its members are told of every number once,
    in each of their rooms; direct messages too."""
    lobby = short_ring
    rooms = (1, 2, 3)
    username = lobby.new_user()
    member, late = lobby.enter(username, worker=0), lobby.enter(worker=0)
    sender = lobby.enter(worker=1)
    accounts = {}
    for room in rooms:
        accounts[room] = RoomAccount(room, member.ok(Opcode.JOIN_ROOM, room).last_seq)
        sender.ok(Opcode.JOIN_ROOM, room)
        for _ in range(2):
            accounts[room].take(member.push())
    late.ok(Opcode.JOIN_ROOM, rooms[0])
    accounts[rooms[0]].take(member.push())
    late_account = RoomAccount(rooms[0], late.push().body.room_seq)
    direct = Direct()
    before = lobby.by_worker("laps")[0]
    for turn in range(5):
        with frozen(lobby.worker_pid(0)):
            last = {}
            for number in range(40):
                room = rooms[number % 2]  # nothing happens in the third
                last[room] = sender.ok(Opcode.CHAT_SEND, room, f"{turn}.{number}").room_seq
                sender.ok(Opcode.DIRECT_SEND, member.user, f"{turn}.{number}")
        laps = before + turn + 1
        wait_until(partial(lambda n: lobby.by_worker("laps")[0] >= n, laps), "it has noticed")
        for room in rooms:
            last[room] = sender.ok(Opcode.CHAT_SEND, room, "awake").room_seq
        while (
            any(accounts[room].last < seq for room, seq in last.items())
            or direct.last < (turn + 1) * 40
        ):
            push = member.push()
            if push.opcode == Opcode.DIRECT_MESSAGE or push.body.room_id == 0:
                direct.take(push)
            else:
                accounts[push.body.room_id].take(push)
        late_account.take_until(late, last[rooms[0]])
        assert accounts[rooms[0]].gaps[turn:], "it was not lapped"
        assert direct.gaps[turn:]
    assert not accounts[rooms[2]].gaps
    assert late_account.gaps == accounts[rooms[0]].gaps


def test_members_of_workers_that_lap_each_other(short_ring: Lobby) -> None:
    """Four workers, everybody sends as fast as they can into two rooms: every member has a whole
    account of both, and what two of them saw under one number is the same."""
    lobby = short_ring
    rooms, each = (1, 2), 600
    wires = [lobby.enter(worker=slot % 4) for slot in range(8)]
    accounts = [
        {room: RoomAccount(room, wire.ok(Opcode.JOIN_ROOM, room).last_seq) for room in rooms}
        for wire in wires
    ]

    def chat(place: int) -> dict[int, int]:
        """Answers the last number that it made in each room."""
        wire, last = wires[place], dict.fromkeys(rooms, 0)
        for first in range(0, each, BATCH):
            room = rooms[(first // BATCH + place) % 2]
            wire.send_raw(
                b"".join(request(Opcode.CHAT_SEND, 1, room, f"{place}:{n}") for n in range(BATCH))
            )
            for _ in range(BATCH):
                answer = wire.answer()
                assert answer.status == Status.OK
                last[room] = answer.body.room_seq
            for push in wire.pushes:
                accounts[place][push.body.room_id].take(push)
            wire.pushes.clear()
        return last

    with ThreadPoolExecutor(len(wires)) as pool:
        lasts = list(pool.map(chat, range(len(wires))))
    last = {room: max(each[room] for each in lasts) for room in rooms}
    stories: dict[int, dict[int, tuple[int, int, str]]] = {room: {} for room in rooms}
    for wire, mine in zip(wires, accounts, strict=True):
        while any(mine[room].last < last[room] for room in rooms):
            push = wire.push()
            mine[push.body.room_id].take(push)
        for room, account in mine.items():
            for seq, event in account.events.items():
                assert stories[room].setdefault(seq, event) == event
    assert lobby.counters()["laps"] > 0


def test_a_superseded_session_of_a_lapped_worker(short_ring: Lobby) -> None:
    """The ring's word about it is gone, and it is out all the same; no gap tells it of what was
    said after the LOGIN that took its place."""
    lobby, client_id = short_ring, 9
    username = lobby.new_user()
    old, new = lobby.enter(username, client_id=client_id, worker=0), lobby.open_on(1)
    sender = lobby.enter(worker=1)
    old.ok(Opcode.JOIN_ROOM, ROOM)
    sender.ok(Opcode.JOIN_ROOM, ROOM)
    for _ in range(2):
        old.push()
    new.hello(username)
    with frozen(lobby.worker_pid(0)):
        assert new.login(username, client_id=client_id).status == Status.OK
        for _ in range(40):
            sender.ok(Opcode.CHAT_SEND, ROOM, "after it")
            sender.ok(Opcode.DIRECT_SEND, new.user, "to the new one")
    wait_until(lambda: lobby.by_worker("laps")[0] > 0, "it has noticed")
    assert old.status(Opcode.BALANCE) == Status.ERR_UNAUTHORIZED
    old.ok(Opcode.HEARTBEAT, 1)
    assert not old.pushes
    assert new.ok(Opcode.BALANCE) == (0, 0)


# ---- a worker that stops for a moment


def test_a_worker_that_stands_still_delays_its_own_clients_only(pair: Lobby) -> None:
    """The others are served meanwhile; its own get everything afterwards, without a gap."""
    still, moving = pair.enter(worker=0), pair.enter(worker=1)
    account = RoomAccount(ROOM, still.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    other = RoomAccount(ROOM, moving.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    with ExitStack() as stack:
        stack.enter_context(frozen(pair.worker_pid(0)))
        for number in range(200):
            seq = moving.ok(Opcode.CHAT_SEND, ROOM, str(number)).room_seq
            other.take_until(moving, seq)
        moving.ok(Opcode.DEPOSIT, 5)
    account.take_until(still, seq)
    assert not account.gaps
    assert account.events.items() >= other.events.items()

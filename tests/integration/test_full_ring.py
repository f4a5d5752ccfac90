"""The event ring is full, or what is in it is not durable: what waits, what is refused and when,
and what goes on. The journal process is stopped, so that nothing becomes durable."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from libproto.errors import Status
from libproto.messages import EventKind, Opcode
from server.region.region import Region
from tests.helpers.server import StartServer, wait_until
from tests.helpers.wire import Lobby, RoomAccount, Wire, frozen

ROOM, RING = 3, 16
PLACES = RING - RING // 8  # the others are for leaves


@pytest.fixture
def lobby(start_server: StartServer) -> Iterator[Lobby]:
    """A server of two workers to itself, in sync, with a small event ring."""
    with Lobby(start_server("--event-ring", str(RING))) as lobby:
        yield lobby


@contextmanager
def stopped_journal(lobby: Lobby) -> Iterator[None]:
    """It does nothing for a while; shorter than its master's patience."""
    region = Region.attach(lobby.server.name)
    pid = region.journal.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        region.close()


def head(lobby: Lobby) -> int:
    region = Region.attach(lobby.server.name)
    try:
        return int(region.events.head)
    finally:
        region.close()


def fill(lobby: Lobby, wire: Wire) -> int:
    """Send until no event has a place but leaves; how many were sent. None of them is answered
    yet."""
    full, sent = head(lobby) + PLACES, 0
    for _ in range(PLACES):
        wire.send(Opcode.CHAT_SEND, ROOM, f"m{sent}")
        sent += 1
    wait_until(lambda: head(lobby) == full, "the ring is full")
    return sent


def test_while_the_journal_stands_still(lobby: Lobby) -> None:
    """Answers of messages, and pushes, wait; what shows nothing of it goes on."""
    speaker, member = lobby.enter(worker=0), lobby.enter(worker=1)
    idle = [lobby.enter(worker=slot) for slot in (0, 1)]
    first = RoomAccount(ROOM, speaker.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    account = RoomAccount(ROOM, member.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    first.take_until(speaker, account.first)
    account.take_until(member, account.first)
    before = head(lobby)
    with stopped_journal(lobby):
        speaker.send(Opcode.CHAT_SEND, ROOM, "wait for it")
        wait_until(lambda: head(lobby) == before + 1, "the message is published")
        for _ in range(20):
            for wire in idle:
                wire.ok(Opcode.HEARTBEAT, 1)
        assert not speaker.readable(0)
        assert not member.readable(0)
    seq = speaker.answer().body.room_seq
    account.take_until(member, seq)
    assert account.events[seq] == (EventKind.MESSAGE, speaker.user, "wait for it")


def test_a_request_waits_for_a_place(lobby: Lobby) -> None:
    """JOIN_ROOM and CHAT_SEND are refused after a second, and not before; those for which there
    are places in time are executed, in order, and nothing overtakes them."""
    speaker, joiner, sender = (lobby.enter(worker=slot) for slot in (0, 1, 1))
    for wire in (speaker, sender):
        wire.ok(Opcode.JOIN_ROOM, ROOM)
    with stopped_journal(lobby):
        sent = fill(lobby, speaker)
        began = time.monotonic()
        joiner.send(Opcode.JOIN_ROOM, ROOM)
        sender.send(Opcode.CHAT_SEND, ROOM, "no place")
        sender.send(Opcode.HEARTBEAT, 1)
        for wire in (joiner, sender):
            answer = wire.answer()
            assert answer.status == Status.ERR_SERVER_BUSY
            assert answer.body.retry_after_ms == 100
        assert time.monotonic() - began >= 1
        assert sender.answer().opcode == Opcode.HEARTBEAT, "which came after it"
        joiner.send(Opcode.JOIN_ROOM, ROOM)
        sender.send(Opcode.CHAT_SEND, ROOM, "a place in time")
        sender.send(Opcode.HEARTBEAT, 1)
    assert joiner.answer().status == Status.OK
    said = sender.answer()
    assert (said.opcode, said.status) == (Opcode.CHAT_SEND, Status.OK)
    assert sender.answer().opcode == Opcode.HEARTBEAT
    assert [speaker.answer().status for _ in range(sent)] == [Status.OK] * sent
    events = speaker.ok(Opcode.ROOM_HISTORY, ROOM, 0, 256).events
    assert [event.message for event in events].count("a place in time") == 1
    assert "no place" not in [event.message for event in events]


def test_a_leave_is_never_refused(lobby: Lobby) -> None:
    """Members leave, log out and are gone while nothing becomes durable: more of them than there
    are places, over workers. Those who leave wait for as long as it takes, though a JOIN_ROOM is
    refused meanwhile; then all have left, each once."""
    speaker = lobby.enter(worker=0)
    members = [lobby.enter(worker=n % 2) for n in range(9)]
    for wire in (speaker, *members):
        account = RoomAccount(ROOM, wire.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    account.take_until(members[-1], account.first)
    leaving, logging_out, gone = members[:3], members[3:6], members[6:]
    idle = [lobby.enter(worker=slot) for slot in (0, 1)]
    with stopped_journal(lobby):
        sent = fill(lobby, speaker)
        full = head(lobby) + RING - PLACES
        for wire in leaving:
            wire.send(Opcode.LEAVE_ROOM, ROOM)
        for wire in logging_out:
            wire.send(Opcode.LOGOUT)
        for wire in gone:
            wire.close()
        wait_until(lambda: head(lobby) == full, "the places of leaves are taken")
        for wire in idle:
            wire.send(Opcode.JOIN_ROOM, ROOM)
        assert [wire.answer().status for wire in idle] == [Status.ERR_SERVER_BUSY] * 2
        assert head(lobby) == full
    assert [wire.answer().status for wire in (*leaving, *logging_out)] == [Status.OK] * 6
    assert [speaker.answer().status for _ in range(sent)] == [Status.OK] * sent
    wait_until(lambda: speaker_members(lobby) == [speaker.user], "all have left")
    joined = idle[0].ok(Opcode.JOIN_ROOM, ROOM)
    assert joined.member_count == 2
    said = account.last + sent
    events = speaker.ok(Opcode.ROOM_HISTORY, ROOM, account.last, 256).events
    left = [event.from_user for event in events if event.kind == EventKind.LEFT]
    assert sorted(left) == sorted(wire.user for wire in members)
    assert joined.last_seq == said + len(members)


def test_who_has_left_may_go_on(lobby: Lobby) -> None:
    """What a connection sent behind a LEAVE_ROOM that waits is executed after it, in order; one
    that is superseded meanwhile is told so."""
    username = lobby.new_user()
    old = lobby.enter(username, worker=0, client_id=5)
    speaker, member = lobby.enter(worker=0), lobby.enter(worker=1)
    others = [lobby.enter(worker=1) for _ in range(RING - PLACES)]
    for wire in (speaker, member, old, *others):
        wire.ok(Opcode.JOIN_ROOM, ROOM)
    with stopped_journal(lobby):
        sent = fill(lobby, speaker)
        full = head(lobby) + len(others)
        for wire in others:
            wire.close()
        wait_until(lambda: head(lobby) == full, "the places of leaves are taken")
        for wire in (member, old):
            wire.send(Opcode.LEAVE_ROOM, ROOM)
            wire.send(Opcode.CHAT_SEND, ROOM, "who is not there any more")
        lobby.enter(username, worker=1, client_id=5, next_req_id=100)
    answers = [member.answer() for _ in range(2)]
    assert [answer.status for answer in answers] == [Status.OK, Status.ERR_UNAUTHORIZED]
    assert [old.answer().status for _ in range(2)] == [Status.ERR_UNAUTHORIZED] * 2
    assert [speaker.answer().status for _ in range(sent)] == [Status.OK] * sent
    wait_until(lambda: speaker_members(lobby) == [speaker.user], "all have left")


def test_superseding_with_a_full_ring(lobby: Lobby) -> None:
    """Over workers: the old connection is cut off, moves no money and gets no pushes, and its
    leaves follow when there are places."""
    username = lobby.new_user()
    old = lobby.enter(username, worker=0, client_id=5)
    speaker = lobby.enter(worker=1)
    others = [lobby.enter(worker=0) for _ in range(RING - PLACES)]
    for wire in (*others, old, speaker):
        account = RoomAccount(ROOM, wire.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    with stopped_journal(lobby):
        sent = fill(lobby, speaker)
        full = head(lobby) + len(others)
        for wire in others:
            wire.close()
        wait_until(lambda: head(lobby) == full, "the places of leaves are taken")
        lobby.enter(username, worker=1, client_id=5, next_req_id=100)
        assert old.call(Opcode.DEPOSIT, 1).status == Status.ERR_UNAUTHORIZED
        assert head(lobby) == full
        members = speaker_members(lobby)
        assert old.user in members, "it has not left yet"
    wait_until(lambda: old.user not in speaker_members(lobby), "it leaves")
    assert [speaker.answer().status for _ in range(sent)] == [Status.OK] * sent
    before = account.last + sent + len(others)
    (left,) = speaker.ok(Opcode.ROOM_HISTORY, ROOM, before + 1, 256).events
    assert (left.kind, left.from_user) == (EventKind.LEFT, old.user)
    account.take_until(speaker, left.room_seq)  # as an event, or in a gap where that came first


def speaker_members(lobby: Lobby) -> list[int]:
    """Users in the room, by the region."""
    region = Region.attach(lobby.server.name)
    try:
        sessions = region.layout["sessions"]
        return [
            region.words[sessions.at(slot, "user")]
            for slot, session in enumerate(region.column("sessions", "id"))
            if session and region.words[sessions.at(slot, "rooms")] >> ROOM & 1
        ]
    finally:
        region.close()


def test_a_join_is_answered_before_its_pushes(lobby: Lobby) -> None:
    """What is published after the join is pushed after its answer, though both wait for the disk:
    every number from the answer on, once."""
    speaker, joiner = lobby.enter(worker=0), lobby.enter(worker=1)
    speaker.ok(Opcode.JOIN_ROOM, ROOM)
    before = head(lobby)
    with stopped_journal(lobby):
        joiner.send(Opcode.JOIN_ROOM, ROOM)
        wait_until(lambda: head(lobby) == before + 1, "it has joined")
        for text in ("one", "two", "three"):
            speaker.send(Opcode.CHAT_SEND, ROOM, text)
        wait_until(lambda: head(lobby) == before + 4, "they are published")
    first = joiner.receive()
    assert first is not None
    assert (first.opcode, first.is_answer) == (Opcode.JOIN_ROOM, True), "not a push"
    account = RoomAccount(ROOM, first.body.last_seq)
    account.take_until(joiner, first.body.last_seq + 4)
    assert [text for _, _, text in account.events.values()] == ["", "one", "two", "three"]


def test_a_lapped_worker_tells_what_was_missed_when_it_is_durable(lobby: Lobby) -> None:
    """It has stood still for more than the ring, and what came last is not durable yet: the gap
    that would tell of it waits, and then names every number that is not pushed."""
    speaker, member = lobby.enter(worker=0), lobby.enter(worker=1)
    speaker.ok(Opcode.JOIN_ROOM, ROOM)
    account = RoomAccount(ROOM, member.ok(Opcode.JOIN_ROOM, ROOM).last_seq)
    account.take_until(member, account.first)
    laps = lobby.by_worker("laps")[1]
    with ExitStack() as stack:
        with frozen(lobby.worker_pid(1)):
            for n in range(2 * RING):
                last = speaker.ok(Opcode.CHAT_SEND, ROOM, f"m{n}").room_seq
            stack.enter_context(stopped_journal(lobby))
            before = head(lobby)
            speaker.send(Opcode.CHAT_SEND, ROOM, "not yet")
            wait_until(lambda: head(lobby) == before + 1, "the message is published")
        wait_until(lambda: lobby.by_worker("laps")[1] > laps, "it has noticed")
        for _ in range(5):
            member.ok(Opcode.HEARTBEAT, 1)
        assert not member.pushes
    account.take_until(member, last + 1)
    assert account.gaps == [(account.first + 1, last + 1)]

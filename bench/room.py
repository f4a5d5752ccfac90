"""`tradechat-bench room`: one room of very many members, and what each of them gets of it.

A server with its default settings, and all members in one room of it, over all its workers. Some
of them speak, when it is due and whatever the answers do (an open loop). Each member reads, and it
is known which numbers of the room came to each: one that was neither pushed nor named by a ROOM_GAP
is a silent gap, and there must be none. What is measured is from the sending of a message until a
member has read it, over all messages and members. The members are this one process, which reads one
after the other: with many of them that is a part of the time.
"""

import argparse
import select
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from struct import Struct
from typing import Any, Final

from bench.lab.caller import Caller
from bench.lab.cli import EXIT_GOOD, EXIT_VIOLATED, BenchFailed, Program, number
from bench.lab.figures import aligned
from bench.lab.limits import allow_files
from bench.lab.target import Server
from libcli.arguments import Parser
from libproto.codec import ERROR, REQUEST, RESPONSE
from libproto.errors import Status
from libproto.framing import Frame
from libproto.messages import Flag, JoinRoomResponse, Opcode

PROGRAM: Final = Program("tradechat-bench room")
_HOST: Final = "127.0.0.1"
_ROOM: Final = 1
_READ: Final = 1 << 18  # bytes
_AT_ONCE: Final = 16  # joins that are on their way
_SETTLE_S: Final = 30.0  # the longest that is waited for what must come
_HEARTBEAT_S: Final = 20.0  # of each member: less than a server's idle timeout
_BROADCAST: Final = Struct(">IQ")  # room_id, room_seq: how its body begins
_GAP: Final = Struct(">IQQ")

Row = dict[str, Any]


class Seen:
    """Which events of the room a member knows of."""

    def __init__(self) -> None:
        self.last = 0  # the newest; where it begins: what the JOIN answers
        self.silent = self.told = self.repeated = 0

    def pushed(self, seq: int) -> None:
        self._add(seq, seq)

    def gap(self, first: int, last: int) -> None:
        """It is told that it does not get them."""
        self._add(first, last)
        self.told += last - first + 1

    def _add(self, first: int, last: int) -> None:
        if first <= self.last:
            self.repeated += 1
        else:
            self.silent += first - self.last - 1
        self.last = max(self.last, last)


class _Member(Caller):
    """One user's connection."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(_HOST, port)
        self.login(name, 1)
        self.sock.setblocking(False)
        self.joined, self.seen = False, Seen()
        self.again = 0.0
        """When it is to ask for its JOIN again; 0: it has asked."""
        self.sent: dict[int, float] = {}
        """By req_id, when: of messages that are not answered yet."""

    def ask(self, opcode: Opcode, *fields: object) -> None:
        self.req_id += 1
        frame = REQUEST[opcode].frame(self.req_id, 0, *fields)
        if self.sock.send(frame) != len(frame):
            raise BenchFailed("a member's socket takes no more requests")


class Room:
    """The members, and what they have read."""

    def __init__(self, members: Sequence[_Member]) -> None:
        self.members = members
        self._by_fd = {member.sock.fileno(): member for member in members}
        self._poll = select.epoll()
        for fd in self._by_fd:
            self._poll.register(fd, select.EPOLLIN)
        self.sent: dict[int, float] = {}
        """By room_seq, when the message was sent."""
        self.refused = self._heartbeats = 0
        self._began = time.perf_counter()
        self.seqs, self.times = array("Q"), array("d")
        """What was pushed to whomever, and when it was read."""

    def close(self) -> None:
        self._poll.close()

    def turn(self, timeout_s: float) -> None:
        """Read what is there, or comes in this time."""
        for fd, _ in self._poll.poll(timeout_s):
            self._read(self._by_fd[fd])
        due = (time.perf_counter() - self._began) / _HEARTBEAT_S * len(self.members)
        while self._heartbeats < due:
            self.members[self._heartbeats % len(self.members)].ask(Opcode.HEARTBEAT, 0)
            self._heartbeats += 1

    def until(self, there: Callable[[], bool], what: str) -> None:
        """BenchFailed where it does not come in time."""
        deadline = time.monotonic() + _SETTLE_S
        while not there():
            if time.monotonic() > deadline:
                raise BenchFailed(f"{what}: not within {_SETTLE_S:g} s")
            self.turn(0.1)

    def _read(self, member: _Member) -> None:
        data = member.sock.recv(_READ)
        if not data:
            raise BenchFailed("the server has closed the connection of a member")
        now, decoder = time.perf_counter(), member.decoder
        decoder.feed(data)
        while (frame := decoder.next()) is not None:
            if frame[0] == Opcode.CHAT_BROADCAST:
                seq = _BROADCAST.unpack_from(frame[4], frame[5])[1]
                member.seen.pushed(seq)
                self.seqs.append(seq)
                self.times.append(now)
            elif frame[0] == Opcode.ROOM_GAP:
                _, first, last = _GAP.unpack_from(frame[4], frame[5])
                member.seen.gap(first, last)
            elif frame[2] & Flag.RESPONSE:
                self._answered(member, frame)

    def _answered(self, member: _Member, frame: Frame) -> None:
        opcode, req_id, _, status, buf, start, end, _ = frame
        if status == Status.ERR_SERVER_BUSY and opcode == Opcode.CHAT_SEND:
            self.refused += 1
            del member.sent[req_id]
        elif status == Status.ERR_SERVER_BUSY and opcode == Opcode.JOIN_ROOM:
            retry_after_ms, _ = ERROR.decode(buf, start, end)
            member.again = time.monotonic() + retry_after_ms / 1000
        elif status:
            raise BenchFailed(f"{Opcode(opcode).name} was answered {Status(status).name}")
        elif opcode == Opcode.CHAT_SEND:
            self.sent[RESPONSE[opcode].decode(buf, start, end)[0]] = member.sent.pop(req_id)
        elif opcode == Opcode.JOIN_ROOM:
            answer = JoinRoomResponse._make(RESPONSE[opcode].decode(buf, start, end))
            member.joined, member.seen.last = True, answer.last_seq

    # ---- what is done

    def join(self) -> None:
        """All of them, while those who are inside read who comes."""
        for first in range(0, len(self.members), _AT_ONCE):
            some = self.members[first : first + _AT_ONCE]
            for member in some:
                member.ask(Opcode.JOIN_ROOM, _ROOM)
            self.until(partial(self._are_in, some), "a JOIN is answered")
        self.until(self.all_read, "who has joined is pushed to all")
        del self.seqs[:], self.times[:]

    def _are_in(self, some: Sequence[_Member]) -> bool:
        """Who was refused because the server was busy asks again, when it is time."""
        for member in some:
            if member.again and time.monotonic() > member.again:
                member.again = 0.0
                member.ask(Opcode.JOIN_ROOM, _ROOM)
        return all(member.joined for member in some)

    def all_read(self) -> bool:
        """Does everybody know of the newest event?"""
        newest = max(member.seen.last for member in self.members)
        return all(member.seen.last == newest for member in self.members)

    def speak(self, speakers: int, rate: float, seconds: float, text: str) -> int:
        """The first so many say it in turn; how many messages that are."""
        began, done, count = time.perf_counter(), 0, int(rate * seconds)
        while done < count:
            now = time.perf_counter()
            due = began + done / rate
            if due > now:
                self.turn(due - now)
                continue
            member = self.members[done % speakers]
            member.ask(Opcode.CHAT_SEND, _ROOM, text)
            member.sent[member.req_id] = now
            done += 1
            self.turn(0)
        speaking = self.members[:speakers]
        self.until(lambda: not any(member.sent for member in speaking), "messages are answered")
        return count


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM.name,
        description="One room of very many members: what each of them gets, and how late.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--members", type=number(1, 3500), default=2000, help="of the room")
    add("--speakers", type=number(1, 3500), default=20, help="of these; they speak in turn")
    add("--rate", type=number(0.1, 10_000, float), default=20.0, help="messages per second, of all")
    add("--seconds", type=number(0.1, 3600, float), default=30.0, help="how long they speak")
    add("--payload", type=number(1, 4096), default=64, help="bytes of a message")
    add("--workers", type=number(1, 64), default=4, help="of the server")
    add("--durability", default="sync", help="of the server")
    add("--json", action="store_true", help="a JSON object")
    return made


def measure(options: argparse.Namespace) -> Row:
    """BenchFailed, NetError."""
    allow_files(options.members, "take fewer with --members")
    with ExitStack() as stack:
        flags = f"--workers={options.workers}", f"--durability={options.durability}"
        server = stack.enter_context(Server(*flags))
        names = [f"member{place}" for place in range(options.members)]
        with closing(Caller(_HOST, server.port)) as registrar:
            registrar.register(names)
        members = [stack.enter_context(closing(_Member(server.port, name))) for name in names]
        room = stack.enter_context(closing(Room(members)))
        room.join()
        joining = sum(member.seen.told for member in members)
        before = server.cpu()
        said = room.speak(options.speakers, options.rate, options.seconds, "." * options.payload)
        used = sum(server.cpu().since(before))
        complete = True
        try:
            room.until(room.all_read, "what was said is pushed to all")
        except BenchFailed:
            complete = False  # they were not told of it: the gap is silent
        return row(room, options, said, used, joining, complete=complete)


def row(
    room: Room, options: argparse.Namespace, said: int, used: float, joining: int, *, complete: bool
) -> Row:
    """used: seconds of the server's CPU. joining: events that were told by ROOM_GAP before."""
    members, sent = room.members, room.sent
    newest = max(member.seen.last for member in members)
    late = sorted(
        when - sent[seq] for seq, when in zip(room.seqs, room.times, strict=True) if seq in sent
    )
    never = sum(newest - member.seen.last for member in members)
    assert complete == (not never)
    made: Row = {
        "members": len(members),
        "workers": options.workers,
        "speakers": options.speakers,
        "messages": said,
        "refused": room.refused,
        "deliveries": len(late),
        "silent": sum(member.seen.silent for member in members) + never,
        "repeated": sum(member.seen.repeated for member in members),
        "told": sum(member.seen.told for member in members) - joining,
        "told_joining": joining,
        "server_us": round(used / len(late) * 1e6, 2) if late else None,
    }
    for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1)):
        made[f"{name}_ms"] = round(late[int((len(late) - 1) * part)] * 1e3, 2) if late else None
    return made


def table(found: Row) -> str:
    """What was said and read, then how late."""
    words = {
        "members": "members, all of them reading",
        "workers": "workers of the server",
        "messages": "messages",
        "refused": "messages refused, ERR_SERVER_BUSY",
        "deliveries": "deliveries of these",
        "silent": "events in silent gaps: must be 0",
        "repeated": "events that came twice: must be 0",
        "told": "events told by ROOM_GAP",
        "told_joining": "the same, while all joined",
        "server_us": "server CPU time per delivery, µs",
        "p50_ms": "from sending to reading, p50, ms",
        "p95_ms": "p95, ms",
        "p99_ms": "p99, ms",
        "max_ms": "the latest, ms",
    }
    return aligned([(text, f"{found[name]:,}") for name, text in words.items()], 1)


def main(words: list[str]) -> int:
    """words: after `room`. Answers the exit code."""
    options = parser().parse_args(words)
    if options.speakers > options.members:
        parser().error("--speakers must not be more than --members")

    def body() -> int:
        found = measure(options)
        if options.json:
            PROGRAM.tell_row(found)
        else:
            PROGRAM.tell_table(table(found))
        return EXIT_VIOLATED if found["silent"] or found["repeated"] else EXIT_GOOD

    return PROGRAM.run(body)

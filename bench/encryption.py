"""`tradechat-bench encryption`: what an encrypted connection costs the server, beside a clear one.

One server, with clear and with encrypted connections of as many users, which take turns in each
run: TRANSFERs, so many in flight on each; messages to a room, of which a request is the delivery to
one member; and HELLO, on a connection for each. It tells the CPU time of all processes of the
server per request. What a load program does with the answers is not measured, so it only counts
their bytes.
"""

import argparse
import select
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from statistics import median
from typing import Final

from bench.lab.caller import Caller
from bench.lab.cli import BenchFailed, Program, number
from bench.lab.figures import aligned
from bench.lab.target import Server
from libcli.arguments import Parser
from libproto.codec import PUSH, REQUEST
from libproto.messages import HEADER_LEN, SEAL_LEN, Opcode

PROGRAM: Final = Program("tradechat-bench encryption")
_HOST: Final = "127.0.0.1"
_ROOMS: Final = {False: 1, True: 2}  # by: are its members encrypted?
_ANSWER: Final = HEADER_LEN + 16  # bytes, of a TRANSFER
_PUSH: Final = HEADER_LEN + 4 + 8 + 8 + 1 + 4 + 2 + 2  # bytes, but for the name and the text
_READ_S: Final = 30.0
_READ: Final = 1 << 18  # bytes
# The others have their turn, and nothing is refused: an answer is as long as it should be.
_FLAGS: Final = ("--durability=none", "--idle-timeout=3600", "--lag-limit=0", "--queue-limit=0")
_LAST: Final = "all are here"

Row = dict[str, float | str]


class _User(Caller):
    """One user's connection."""

    def __init__(self, port: int, name: str, *, encrypts: bool) -> None:
        super().__init__(_HOST, port, encrypts=encrypts)
        self.name = name
        self.id = self.login(name, 0).user_id
        self.seal = SEAL_LEN if encrypts else 0
        self.sock.setblocking(False)

    def send(self, frames: bytes) -> None:
        """All of these at once."""
        data = frames if self.wrapper is None else self.wrapper.wrap(frames)
        if self.sock.send(data) != len(data):
            raise BenchFailed("a connection takes no more requests")

    def ask(self, opcode: Opcode, *fields: object) -> int:
        """Send one request; its req_id."""
        self.req_id += 1
        self.send(REQUEST[opcode].frame(self.req_id, 0, *fields))
        return self.req_id

    def read_until(self, answered: int) -> None:
        """The message _LAST, and the answer to that request where it is not 0: nothing comes after
        them."""
        heard = False
        while answered or not heard:
            while (frame := self.decoder.next()) is None:
                data = self.sock.recv(_READ)
                if not data:
                    raise BenchFailed("the server closed a connection")
                self.decoder.feed(data)
            opcode, req_id, _, _, buf, start, end, _ = frame
            if opcode == Opcode.CHAT_BROADCAST:
                heard |= PUSH[opcode].decode(buf, start, end)[-1] == _LAST
            elif req_id == answered:
                answered = 0

    def transfers(self, payee: int, count: int) -> bytes:
        """So many requests."""
        first, self.req_id = self.req_id + 1, self.req_id + count
        made = REQUEST[Opcode.TRANSFER].frame
        return b"".join(made(number, 0, payee, 1) for number in range(first, self.req_id + 1))


def _read(expected: dict[_User, int]) -> None:
    """So many bytes of each. BenchFailed."""
    by_fd = {user.sock.fileno(): user for user in expected}
    left = {fd: expected[user] for fd, user in by_fd.items()}
    deadline = time.monotonic() + _READ_S
    with closing(select.epoll()) as poll:
        for fd in left:
            poll.register(fd, select.EPOLLIN)
        while left:
            if time.monotonic() > deadline:
                raise BenchFailed("the server does not answer")
            for fd, _ in poll.poll(1.0):
                data = by_fd[fd].sock.recv(_READ)
                left[fd] -= len(data)
                if not data or left[fd] < 0:
                    raise BenchFailed("the server has sent something else")
                if not left[fd]:
                    poll.unregister(fd)
                    del left[fd]


def _transfers(users: Sequence[_User], rounds: int, pipeline: int) -> int:
    payee = users[0].id
    for _ in range(rounds):
        for user in users[1:]:
            user.send(user.transfers(payee, pipeline))
        _read({user: pipeline * (_ANSWER + user.seal) for user in users[1:]})
    return rounds * pipeline * (len(users) - 1)


def _messages(users: Sequence[_User], rounds: int, length: int) -> int:
    speaker, text = users[0], "x" * length
    room, seal = _ROOMS[speaker.seal > 0], speaker.seal
    pushed = _PUSH + len(speaker.name) + length + seal
    answered = HEADER_LEN + 16 + seal
    for _ in range(rounds):
        speaker.req_id += 1
        speaker.send(REQUEST[Opcode.CHAT_SEND].frame(speaker.req_id, 0, room, text))
        _read({user: pushed + (answered if user is speaker else 0) for user in users})
    return rounds * len(users)


def _greetings(port: int, rounds: int, *, encrypts: bool) -> int:
    for _ in range(rounds):
        with closing(Caller(_HOST, port, encrypts=encrypts)) as caller:
            caller.greet("")
    return rounds


def _users(port: int, count: int, *, encrypts: bool, stack: ExitStack) -> list[_User]:
    names = [f"{'e' if encrypts else 'c'}{number}" for number in range(count)]
    with closing(Caller(_HOST, port)) as registrar:
        registrar.register(names)
    users = []
    for name in names:
        user = stack.enter_context(closing(_User(port, name, encrypts=encrypts)))
        user.sock.setblocking(True)
        user.call(Opcode.DEPOSIT, 1 << 40)
        user.call(Opcode.JOIN_ROOM, _ROOMS[encrypts])
        users.append(user)
    speaker = users[0]
    answered = speaker.ask(Opcode.CHAT_SEND, _ROOMS[encrypts], _LAST)
    for user in users:
        user.read_until(answered if user is speaker else 0)
        user.sock.setblocking(False)
    return users


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM.name,
        description="Measure what an encrypted connection costs the server, beside a clear one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--users", type=number(2, 1000), default=50, help="of each kind")
    made.add_argument("--pipeline", type=number(1, 64), default=16, help="TRANSFERs in flight")
    made.add_argument("--lengths", type=number(1, 4096), nargs="+", default=[100, 1000],
                      help="bytes of a message")  # fmt: skip
    made.add_argument("--rounds", type=number(1, 10**6), default=200, help="of each load and run")
    made.add_argument("--runs", type=number(1, 1000), default=5, help="clear and encrypted in each")
    made.add_argument("--json", action="store_true", help="one JSON object per run")
    return made


def measure(options: argparse.Namespace, tell: Callable[[Row], None]) -> list[Row]:
    """One row for each load, kind and run. BenchFailed."""
    rows: list[Row] = []
    with ExitStack() as stack:
        server = stack.enter_context(Server(*_FLAGS))
        users = {
            encrypts: _users(server.port, options.users, encrypts=encrypts, stack=stack)
            for encrypts in (False, True)
        }

        def add(what: str, encrypts: bool, load: Callable[[], int]) -> None:
            before = server.cpu()
            done = load()
            spent = sum(server.cpu().since(before))
            kind = "encrypted" if encrypts else "clear"
            rows.append({"load": what, "connections": kind, "us": round(spent / done * 1e6, 2)})
            tell(rows[-1])

        for _ in range(options.runs):
            for encrypts, mine in users.items():
                port, rounds = server.port, options.rounds
                add("TRANSFER", encrypts, partial(_transfers, mine, rounds, options.pipeline))
                for length in options.lengths:
                    what = f"delivery of {length} bytes"
                    add(what, encrypts, partial(_messages, mine, rounds, length))
                add("HELLO", encrypts, partial(_greetings, port, rounds, encrypts=encrypts))
    return rows


def table(rows: list[Row]) -> str:
    """Medians, in microseconds of the server's CPU time."""
    lines = [["load", "clear us", "encrypted us", "more us", "ratio"]]
    for load in dict.fromkeys(str(row["load"]) for row in rows):
        clear, encrypted = (
            median(float(r["us"]) for r in rows if (r["load"], r["connections"]) == (load, kind))
            for kind in ("clear", "encrypted")
        )
        ratio = f"{encrypted / clear:.2f}" if clear else "-"
        lines.append([load, f"{clear:.2f}", f"{encrypted:.2f}", f"{encrypted - clear:.2f}", ratio])
    return aligned(lines, 1)


def main(words: list[str]) -> int:
    """words: after `encryption`. Answers the exit code."""
    options = parser().parse_args(words)

    return PROGRAM.tell_measured(partial(measure, options), table, as_json=options.json)

"""`tradechat-bench spread`: how connections lie over the workers, and how late that makes answers.

Two servers, one after the other: one whose workers give connections to those that have fewer
(`--balance on`), and one where each keeps what the kernel gives it. All users log in; then one
worker is killed, and those whose connection is lost log in again, all at once, as clients do. Each
time it tells how many connections the worker with the fewest and the one with the most has, and
p50 and p99 of BALANCE at a rate that is kept whatever the answers do (an open loop): from the time
when the request is due until its answer is read. The users are this one process, which is a part of
that time.
"""

import argparse
import os
import select
import signal
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Final

from bench.lab.caller import Caller
from bench.lab.cli import EXIT_GOOD, BenchFailed, Program, number
from bench.lab.figures import aligned
from bench.lab.limits import allow_files
from bench.lab.process import workers_of
from bench.lab.target import Server
from libcli.arguments import Parser
from libproto.codec import REQUEST
from libproto.errors import Status
from libproto.messages import Flag, Opcode

PROGRAM: Final = Program("tradechat-bench spread")
_HOST: Final = "127.0.0.1"
_SETTLE_S: Final = 30.0  # the longest that is waited for what must come
_HEARTBEAT_S: Final = 20.0
_MS: Final = 1000.0
_ESTABLISHED: Final = "01"  # TCP_ESTABLISHED in /proc/net/tcp

Row = dict[str, Any]


class _User(Caller):
    """One who asks for its balance, and does not wait for the answer."""

    def __init__(self, port: int, name: str) -> None:
        Caller.__init__(self, _HOST, port)
        self.name, self.due = name, 0.0
        self.login(name, 0)

    def ask(self, due: float) -> None:
        self.req_id += 1
        self.due = due
        self.sock.sendall(REQUEST[Opcode.BALANCE].frame(self.req_id, 0))

    def answered(self) -> bool:
        """Is the answer there? Pushes are passed over. ConnectionError at the end."""
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError
        self.decoder.feed(data)
        found = False
        while (frame := self.decoder.next()) is not None:
            if frame[2] & Flag.RESPONSE:
                if frame[3]:
                    raise BenchFailed(f"BALANCE was answered {Status(frame[3]).name}")
                found = True
        return found


def _established(port: int) -> set[str]:
    """The sockets of connections to a port of this machine, as /proc names them."""
    found = set[str]()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == _ESTABLISHED and int(words[1].split(":")[1], 16) == port:
            found.add(f"socket:[{words[9]}]")
    return found


def _files_of(pid: int) -> set[str]:
    """What a process has open, as /proc names it."""
    found = set[str]()
    with suppress(FileNotFoundError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


class _Crowd:
    """All users of a server."""

    def __init__(self, server: Server, count: int, stack: ExitStack) -> None:
        self._server = server
        names = [f"user{place}" for place in range(count)]
        with closing(Caller(_HOST, server.port)) as registrar:
            registrar.register(names)
        self._users = [_User(server.port, name) for name in names]
        stack.callback(self._close)

    def _close(self) -> None:
        for user in self._users:
            user.close()

    def by_worker(self) -> list[int]:
        """Connections of each worker, fewest first."""
        there = _established(self._server.port)
        return sorted(len(there & _files_of(pid)) for pid in workers_of(self._server.pid))

    def lose_a_worker(self) -> int:
        """Kill one; when it is replaced, those who were on it log in again. How many they are."""
        before = workers_of(self._server.pid)
        os.kill(before[0], signal.SIGKILL)
        deadline = time.monotonic() + _SETTLE_S
        while before[0] in (now := workers_of(self._server.pid)) or len(now) < len(before):
            if time.monotonic() > deadline:
                raise BenchFailed(f"the worker was not replaced within {_SETTLE_S:g} s")
            time.sleep(0.01)
        lost = 0
        for place, user in enumerate(self._users):
            if select.select([user.sock], [], [], 0)[0] and self._is_over(user):
                user.close()
                self._users[place] = _User(self._server.port, user.name)
                lost += 1
        return lost

    @staticmethod
    def _is_over(user: _User) -> bool:
        try:
            user.answered()
        except ConnectionError:
            return True
        return False

    def ask(self, rate: float, seconds: float) -> list[float]:
        """Each in turn asks for its balance; seconds until each answer, in order of size."""
        by_fd = {user.sock.fileno(): user for user in self._users}
        took: list[float] = []
        with closing(select.epoll()) as poll:
            for fd in by_fd:
                poll.register(fd, select.EPOLLIN)
            began, sent, count = time.perf_counter(), 0, int(rate * seconds)
            while len(took) < count:
                now = time.perf_counter()
                if now - began > seconds + _SETTLE_S:
                    raise BenchFailed(f"{count - len(took)} requests were not answered")
                if sent < count and (due := began + sent / rate) <= now:
                    user = self._users[sent % len(self._users)]
                    if not user.due:  # who still waits is passed over: its answer is late already
                        user.ask(due)
                        sent += 1
                        continue
                    self._read(poll, by_fd, 0.001, took)
                    continue
                left = began + sent / rate - now if sent < count else 0.01
                self._read(poll, by_fd, max(left, 0.0), took)
        return sorted(took)

    def _read(
        self, poll: select.epoll, by_fd: dict[int, _User], timeout_s: float, took: list[float]
    ) -> None:
        for fd, _ in poll.poll(timeout_s):
            user = by_fd[fd]
            if user.answered():
                took.append(time.perf_counter() - user.due)
                user.due = 0.0


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM.name,
        description="How connections lie over the workers, with and without their balancing it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--connections", type=number(4, 10_000), nargs="+", default=[100, 1000], help="in all")
    add("--workers", type=number(2, 64), default=4, help="of the server")
    add("--rate", type=number(1, 100_000), default=2000, help="requests per second, of all")
    add("--seconds", type=number(0.1, 3600, float), default=5.0, help="how long they ask")
    add("--json", action="store_true", help="one JSON object per row")
    return made


def measure(options: argparse.Namespace, connections: int, balance: str) -> list[Row]:
    """One server's rows. BenchFailed, NetError."""
    allow_files(connections, "take fewer with --connections")
    rows: list[Row] = []
    most = connections + options.workers + 64
    with ExitStack() as stack:
        server = stack.enter_context(
            Server(
                f"--workers={options.workers}",
                f"--balance={balance}",
                "--durability=none",
                "--idle-timeout=3600",
                *(f"--{name}={most}" for name in ("accounts", "clients", "sessions")),
                f"--max-connections={most}",
            )
        )
        crowd = _Crowd(server, connections, stack)
        for what in ("all have logged in", "a worker was killed"):
            again = crowd.lose_a_worker() if rows else 0
            spread = crowd.by_worker()
            took = crowd.ask(options.rate, options.seconds)
            rows.append(
                {
                    "connections": connections,
                    "balance": balance,
                    "after": what,
                    "logged_in_again": again,
                    "fewest": spread[0],
                    "most": spread[-1],
                    "p50_ms": round(took[len(took) // 2] * _MS, 2),
                    "p99_ms": round(took[len(took) * 99 // 100] * _MS, 2),
                }
            )
    return rows


def main(words: list[str]) -> int:
    """words: after `spread`. Answers the exit code."""
    options = parser().parse_args(words)

    def body() -> int:
        rows: list[Row] = []
        for connections in options.connections:
            for balance in ("on", "off"):
                PROGRAM.warn(f"{connections} connections, --balance {balance}")
                rows += measure(options, connections, balance)
        if options.json:
            for row in rows:
                PROGRAM.tell_row(row)
        else:
            told = [list(rows[0]), *([f"{value}" for value in row.values()] for row in rows)]
            PROGRAM.tell_table(aligned(told, 0))
        return EXIT_GOOD

    return PROGRAM.run(body)

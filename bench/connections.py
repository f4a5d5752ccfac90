"""`tradechat-bench connections`: what it costs the server to keep many connections open.

Two servers at a time, alike. On both some users pay one another; on one of them many more
connections are open, which do nothing: either they have not logged in, or each is a session in a
room. It tells how much memory of the workers a connection takes, and the server's CPU time per
TRANSFER of those who are active, with and without the crowd, by turns. User memory only: what the
kernel keeps for a socket is not in it.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Final

from bench.lab.caller import Caller
from bench.lab.cli import Program
from bench.lab.figures import aligned, spread
from bench.lab.generator import Generator
from bench.lab.limits import allow_files
from bench.lab.process import Memory, memory_of, workers_of
from bench.lab.target import Server
from libcli.arguments import Parser
from libproto.messages import Opcode

PROGRAM: Final = Program("tradechat-bench connections")
IDLE: Final = "idle"
IN_ROOMS: Final = "in rooms"
_HOST: Final = "127.0.0.1"
_WARM_UP: Final = 10  # a tenth of the requests

Row = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM.name,
        description="Measure what open connections cost: memory each, and CPU time of the others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--connections", type=int, nargs="+", default=[1000, 10_000], help="that do nothing")
    add("--kind", nargs="+", choices=(IDLE, IN_ROOMS), default=[IDLE, IN_ROOMS], help="of these")
    add("--members", type=int, default=100, help="of each room")
    add("--active", type=int, default=100, help="connections that transfer, one request at a time")
    add("--requests", type=int, default=50_000, help="of one run, over all active ones")
    add("--runs", type=int, default=5, help="of each server, by turns")
    add("--workers", type=int, default=2, help="of each server")
    add("--durability", default="none", help="of each server")
    add("--json", action="store_true", help="one JSON object per row")
    return made


class _Active:
    """A server, and the users who pay one another on it."""

    def __init__(self, options: argparse.Namespace, crowd: int, stack: ExitStack) -> None:
        most = crowd + 2 * options.active + options.workers
        capacities = (
            f"--{name}={most}" for name in ("accounts", "clients", "sessions", "max-connections")
        )
        self.server = stack.enter_context(
            Server(
                f"--workers={options.workers}",
                f"--durability={options.durability}",
                f"--rooms={_room_of(crowd, options)}",
                *capacities,
                # Nobody says anything, and nobody gives way.
                *("--handshake-timeout=3600", "--idle-timeout=65535"),
                f"--unauthenticated-connections={most}",
            )
        )
        users = options.active, max(2, options.active)
        self._load = Generator(_HOST, self.server.port, *users, seed=1)
        stack.callback(self._load.close)
        self._each = max(1, options.requests // options.active)

    def warm_up(self) -> None:
        self._load.run(1, max(1, self._each // _WARM_UP))

    def server_us(self) -> float:
        """Server CPU time per transfer, in µs."""
        self.warm_up()
        before = self.server.cpu()
        done = self._load.run(1, self._each)
        return sum(self.server.cpu().since(before)) / done.requests * 1e6

    def memory(self) -> Memory:
        """Of its workers."""
        return memory_of(workers_of(self.server.pid))


def _room_of(number: int, options: argparse.Namespace) -> int:
    return 1 + number // int(options.members)


def _crowd(
    kind: str, connections: int, options: argparse.Namespace, port: int, stack: ExitStack
) -> None:
    """Open them; what was pushed to them before the last has come stays unread. CallFailed."""
    names = [f"crowd{number}" for number in range(connections)]
    if kind == IN_ROOMS:
        with closing(Caller(_HOST, port)) as registrar:
            registrar.register(names)
    callers = []
    for number, name in enumerate(names):
        caller = stack.enter_context(closing(Caller(_HOST, port)))
        callers.append(caller)
        if kind == IN_ROOMS:
            caller.login(name, 1)
            caller.call(Opcode.JOIN_ROOM, _room_of(number, options))
    for caller in callers:
        caller.call(Opcode.HEARTBEAT, 0)  # the server has all of them now


def measure(options: argparse.Namespace, tell: Callable[[Row], None]) -> list[Row]:
    """A row for each kind and number, told as soon as it is there. BenchFailed, NetError."""
    allow_files(max(options.connections) + 2 * options.active, "take fewer with --connections")
    rows = []
    for kind in options.kind:
        for connections in options.connections:
            rows.append(_row(kind, connections, options))
            tell(rows[-1])
    return rows


def _row(kind: str, connections: int, options: argparse.Namespace) -> Row:
    with ExitStack() as stack:
        alone, crowded = (_Active(options, connections, stack) for _ in range(2))
        crowded.warm_up()  # what a worker takes once is not of the crowd
        before = crowded.memory()
        _crowd(kind, connections, options, crowded.server.port, stack)
        memory = crowded.memory().since(before)
        pairs = [(alone.server_us(), crowded.server_us()) for _ in range(options.runs)]
    return {
        "kind": kind,
        "connections": connections,
        **{f"{name}_bytes": round(value / connections) for name, value in memory._asdict().items()},
        "alone_us": [round(us, 2) for us, _ in pairs],
        "crowded_us": [round(us, 2) for _, us in pairs],
    }


def table(rows: list[Row]) -> str:
    """Bytes of each connection; CPU time per transfer as median, least and greatest."""
    head = ("kind", "connections", "USS, B", "RSS, B", "region, B", "alone, µs", "crowded, µs")
    lines = [[*head, "crowded / alone"]]
    for row in rows:
        alone, crowded = row["alone_us"], row["crowded_us"]
        ratios = [more / less for less, more in zip(alone, crowded, strict=True) if less]
        named = ("connections", "uss_bytes", "rss_bytes", "region_bytes")
        words = [row["kind"], *(f"{row[name]:,}" for name in named)]
        lines.append([*words, spread(alone), spread(crowded), spread(ratios)])
    return aligned(lines, 1)


def main(words: list[str]) -> int:
    """words: after `connections`. Answers the exit code."""
    options = parser().parse_args(words)
    numbers = (options.members, options.active, options.requests, options.runs, options.workers)
    if min(*options.connections, *numbers) < 1:
        parser().error("all numbers must be at least 1")

    return PROGRAM.tell_measured(partial(measure, options), table, as_json=options.json)

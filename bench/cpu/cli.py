"""`tradechat-bench cpu`: what a request costs the server, in CPU time.

Starts a server for each durability named and loads it from 100 connections, with TRANSFERs,
BALANCEs and HEARTBEATs, one at a time on each and then 16 in flight; and one more with a room of
100, in which a request is the delivery of a message to a member. It tells throughput and the CPU
time of all processes of the server per request, user and system, with the load program's own beside
it: that one is Python, and shares the cores. Alternating with the servers runs the floor, a server
in C. Timings differ between machines and from moment to moment; CPU time per request differs least,
and its multiple of the floor, taken within each run, less still.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple

from bench.compare import tradechat
from bench.compare.fanout import Fanout
from bench.compare.programs import Missing, find
from bench.cpu.floor import COMPILER, Floor
from bench.lab.cli import Program, number
from bench.lab.figures import aligned, spread
from bench.lab.generator import LOADS, Generator, Round
from bench.lab.process import CpuTime
from bench.lab.target import Server
from libcli.arguments import Parser
from libproto.messages import Opcode

PROGRAM: Final = Program("tradechat-bench cpu")
DELIVERY: Final = "delivery"
FLOOR: Final = "floor"
_WARM_UP: Final = 10  # a tenth of the requests

Row = dict[str, float | str]


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM.name,
        description="Measure the server's CPU time per request.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    operations = [*(each.name for each in LOADS), DELIVERY]
    made.add_argument(
        "--operation", nargs="+", choices=operations, default=operations, help="what is measured"
    )
    made.add_argument("--connections", type=int, default=100, help="one user each")
    made.add_argument("--accounts", type=int, default=1000, help="payees, chosen uniformly")
    made.add_argument("--members", type=int, default=100, help="of the room")
    made.add_argument("--workers", type=int, default=2, help="of the server")
    made.add_argument(
        "--pipeline", type=int, nargs="+", default=[1, 16], help="requests in flight on each"
    )
    made.add_argument(
        "--durability", nargs="+", default=["none", "sync"], help="of the servers, one each"
    )
    made.add_argument("--requests", type=int, default=200_000, help="of one run, over all")
    made.add_argument(
        "--seconds", type=number(0.001, 1e6, float), default=2.0, help="of one run, of deliveries"
    )
    made.add_argument("--runs", type=int, default=5, help="of each pipeline, alternating")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--json", action="store_true", help="one JSON object per run")
    return made


class _Loaded(NamedTuple):
    """A server, and what loads it."""

    name: str
    server: Server | Floor
    load: Generator


def _row(of: _Loaded, opcode: Opcode, pipeline: int, each: int) -> Row:
    of.load.run(pipeline, max(1, each // _WARM_UP), opcode=opcode)
    before = of.server.cpu()
    done = of.load.run(pipeline, each, opcode=opcode)
    return _told(of.name, opcode, pipeline, done, of.server.cpu().since(before))


def _told(name: str, opcode: Opcode, pipeline: int, done: Round, server: CpuTime) -> Row:
    def us(seconds: float) -> float:
        return round(seconds / done.requests * 1e6, 2)

    return {
        "operation": opcode.name,
        "server": name,
        "pipeline": pipeline,
        "requests": done.requests,
        "requests_per_s": round(done.requests / done.seconds),
        "server_us": us(sum(server)),
        "server_user_us": us(server.user),
        "server_system_us": us(server.system),
        "client_us": us(sum(done.client)),
    }


def _delivery_row(name: str, room: Fanout, pipeline: int, seconds: float) -> Row:
    figures = room.load(pipeline, seconds)
    return {
        "operation": DELIVERY,
        "server": name,
        "pipeline": pipeline,
        "requests": figures.requests,
        "requests_per_s": round(figures.per_s),
        "server_us": round(figures.server_us, 3),
        "client_us": round(figures.client_us, 3),
    }


def _servers(arguments: argparse.Namespace, stack: ExitStack) -> Iterator[_Loaded]:
    """Those of the transfers, and the floor where there is a compiler."""
    accounts = arguments.accounts
    flags = (
        f"--workers={arguments.workers}",
        f"--accounts={max(4096, accounts)}",
        f"--max-connections={max(4096, 2 * arguments.connections)}",
    )

    def load(port: int, *, log_in: bool) -> Generator:
        users = arguments.connections, accounts, arguments.seed
        made = Generator("127.0.0.1", port, *users, log_in=log_in)
        stack.callback(made.close)
        return made

    for durability in arguments.durability:
        server = stack.enter_context(Server(f"--durability={durability}", *flags))
        yield _Loaded(durability, server, load(server.port, log_in=True))
    try:
        compiler = find(*COMPILER)
    except Missing as error:
        PROGRAM.warn(f"{error}; the floor is left out")
        return
    floor = stack.enter_context(Floor(compiler, arguments.workers, accounts))
    yield _Loaded(FLOOR, floor, load(floor.port, log_in=False))


def _rooms(arguments: argparse.Namespace, stack: ExitStack) -> Iterator[tuple[str, Fanout]]:
    for durability in arguments.durability:
        room = tradechat.Room(durability, arguments.workers)
        yield durability, stack.enter_context(Fanout(room, arguments.members))


def measure(arguments: argparse.Namespace, tell: Callable[[Row], None]) -> list[Row]:
    """One row per load, told as soon as it is there: in each run every server has its turn.
    BenchFailed."""
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        tell(row)

    opcodes = [each for each in LOADS if each.name in arguments.operation]
    each = max(1, arguments.requests // arguments.connections)
    with ExitStack() as stack:
        servers = list(_servers(arguments, stack)) if opcodes else []
        rooms = list(_rooms(arguments, stack)) if DELIVERY in arguments.operation else []
        for _ in range(arguments.runs):
            for pipeline in arguments.pipeline:
                for opcode in opcodes:
                    for server in servers:
                        add(_row(server, opcode, pipeline, each))
                for name, room in rooms:
                    add(_delivery_row(name, room, pipeline, arguments.seconds))
    return rows


_COLUMNS: Final = (
    "requests_per_s", "server_us", "server_user_us", "server_system_us", "client_us",
)  # fmt: skip
_OF_FLOOR: Final = "server_us / floor"


def table(rows: list[Row]) -> str:
    """Medians by operation, pipeline and server, with the least and the greatest. The multiple of
    the floor is taken within each run."""
    lines = [["operation", "server", "pipeline", "runs", *_COLUMNS, _OF_FLOOR]]
    for operation, pipeline in dict.fromkeys((r["operation"], r["pipeline"]) for r in rows):
        alike = [r for r in rows if (r["operation"], r["pipeline"]) == (operation, pipeline)]
        floor = [float(r["server_us"]) for r in alike if r["server"] == FLOOR]
        for server in dict.fromkeys(r["server"] for r in alike):
            mine = [r for r in alike if r["server"] == server]
            values = [[float(r[name]) for r in mine if name in r] for name in _COLUMNS]
            pairs = zip(mine, floor, strict=True) if floor else ()
            values.append([float(r["server_us"]) / least for r, least in pairs if least])
            head = str(operation), str(server), str(pipeline), str(len(mine))
            lines.append([*head, *map(spread, values)])
    return aligned(lines, 2)


def main(words: list[str]) -> int:
    """words: after `cpu`. Answers the exit code."""
    arguments = parser().parse_args(words)
    if not 1 <= arguments.connections <= arguments.accounts or arguments.accounts < 2:
        parser().error("--accounts must be at least 2, and not less than --connections")
    if min(*arguments.pipeline, arguments.requests, arguments.runs, arguments.members) < 1:
        parser().error("--pipeline, --requests, --runs and --members must be at least 1")
    if arguments.seconds <= 0:
        parser().error("--seconds must be above 0")

    return PROGRAM.tell_measured(partial(measure, arguments), table, as_json=arguments.json)

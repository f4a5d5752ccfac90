"""`tradechat-bench cpu`: what a TRANSFER costs the server, in CPU time.

Starts a server for each durability named, loads it from 100 connections, with one transfer at a
time each and with 16 in flight each, and prints throughput and the CPU time of all its processes
per request, user and system, with the load generator's own beside it. Alternating with them runs
the floor: a server that answers as many bytes and does no work. Timings differ between machines and
from moment to moment; CPU time per request differs least, and its multiple of the floor less still.
"""

import argparse
import json
from contextlib import ExitStack
from statistics import median

from bench.cpu.floor import Floor
from bench.lab.cli import EXIT_GOOD, Program
from bench.lab.generator import Generator, Round
from bench.lab.process import CpuTime
from bench.lab.target import Server

PROGRAM = Program("tradechat-bench cpu")
_WARM_UP = 10  # a tenth of the requests


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM.name,
        description="Measure the server's CPU time per TRANSFER.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--connections", type=int, default=100, help="one user each")
    made.add_argument("--accounts", type=int, default=1000, help="payees, chosen uniformly")
    made.add_argument("--workers", type=int, default=2, help="of the server")
    made.add_argument(
        "--pipeline", type=int, nargs="+", default=[1, 16], help="requests in flight on each"
    )
    made.add_argument(
        "--durability", nargs="+", default=["none", "sync"], help="of the servers, one each"
    )
    made.add_argument("--requests", type=int, default=200_000, help="of one run, over all")
    made.add_argument("--runs", type=int, default=5, help="of each pipeline, alternating")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--json", action="store_true", help="one JSON object per run")
    return made


def _row(what: str, pipeline: int, done: Round, server: CpuTime) -> dict[str, float | str]:
    def us(seconds: float) -> float:
        return round(seconds / done.requests * 1e6, 2)

    return {
        "server": what,
        "pipeline": pipeline,
        "requests": done.requests,
        "requests_per_s": round(done.requests / done.seconds),
        "server_us": us(sum(server)),
        "server_user_us": us(server.user),
        "server_system_us": us(server.system),
        "client_us": us(sum(done.client)),
    }


def measure(arguments: argparse.Namespace) -> list[dict[str, float | str]]:
    """One row per run: the servers and the floor alternating. RunFailed, ServerFailed."""
    rows = []
    flags = (
        f"--workers={arguments.workers}",
        f"--accounts={max(4096, arguments.accounts)}",
        f"--max-connections={max(4096, 2 * arguments.connections)}",
    )
    each = max(1, arguments.requests // arguments.connections)
    with ExitStack() as stack:
        servers: list[tuple[str, Server | Floor, int]] = [
            (
                durability,
                stack.enter_context(Server(f"--durability={durability}", *flags)),
                arguments.accounts,
            )
            for durability in arguments.durability
        ]
        servers.append(("floor", stack.enter_context(Floor(arguments.workers)), 0))
        loads = [
            Generator("127.0.0.1", each_.port, arguments.connections, accounts, arguments.seed)
            for _, each_, accounts in servers
        ]
        for _ in range(arguments.runs):
            for pipeline in arguments.pipeline:
                for (what, measured, _), load in zip(servers, loads, strict=True):
                    load.run(pipeline, max(1, each // _WARM_UP))
                    before = measured.cpu()
                    done = load.run(pipeline, each)
                    rows.append(_row(what, pipeline, done, measured.cpu().since(before)))
                    if arguments.json:
                        PROGRAM.tell(json.dumps(rows[-1]))
        for load in loads:
            load.close()
    return rows


def table(rows: list[dict[str, float | str]]) -> str:
    """Medians by server and pipeline, with the least and the greatest."""
    columns = [name for name in rows[0] if name not in ("server", "pipeline", "requests")]
    lines = ["pipeline  server     runs" + "".join(f"{name:>26}" for name in columns)]
    for pipeline in dict.fromkeys(row["pipeline"] for row in rows):
        for what in dict.fromkeys(row["server"] for row in rows):
            mine = [r for r in rows if r["pipeline"] == pipeline and r["server"] == what]
            cells = []
            for name in columns:
                values = [float(row[name]) for row in mine]
                spread = f"{median(values):g} ({min(values):g} to {max(values):g})"
                cells.append(f"{spread:>26}")
            lines.append(f"{pipeline:8}  {what:9}{len(mine):6}" + "".join(cells))
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """words: after `cpu`. Answers the exit code."""
    arguments = parser().parse_args(words)
    if not 1 <= arguments.connections <= arguments.accounts or arguments.accounts < 2:
        parser().error("--accounts must be at least 2, and not less than --connections")
    if min(*arguments.pipeline, arguments.requests, arguments.runs) < 1:
        parser().error("--pipeline, --requests and --runs must be at least 1")

    def body() -> int:
        rows = measure(arguments)
        if not arguments.json:
            PROGRAM.tell(table(rows))
        return EXIT_GOOD

    return PROGRAM.run(body)

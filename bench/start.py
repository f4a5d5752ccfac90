"""`tradechat-bench start`: how long a server takes until it serves.

Three starts take turns: of a server with nothing on disk, as it comes; of one with room for a
million accounts, empty too; and of one that was killed, and finds all its transactions in the
journal and no snapshot. Those are made before, by a server under load. A time is from the start of
the process until it says that it is ready.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, Final

from bench.lab.cli import EXIT_GOOD, BenchFailed, Program
from bench.lab.figures import aligned, spread
from bench.lab.generator import Generator
from bench.lab.target import OwnServer, Server
from libcli.arguments import Parser

PROGRAM: Final = Program("tradechat-bench start")
EMPTY: Final = "empty"
LARGE: Final = "empty, with --accounts"
REPLAY: Final = "replay"
_PIPELINE: Final = 16
_MILLION: Final = 1_000_000
_NO_SNAPSHOT: Final = ("--snapshot-size=1048576", "--snapshot-interval=0")

Row = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM.name,
        description="Measure how long a server takes to start: empty, large, with a long journal.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--transactions", type=int, default=_MILLION, help="to replay, about")
    add("--accounts", type=int, default=_MILLION, help="of the large one")
    add("--connections", type=int, default=100, help="that make the transactions")
    add("--workers", type=int, default=2, help="of each server")
    add("--runs", type=int, default=3, help="of each, by turns")
    add("--json", action="store_true", help="one JSON object per row")
    return made


class _Killed:
    """A server that has been killed, and whose journal is all that it left."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self._server = stack.enter_context(
            OwnServer(f"bench-{os.getpid()}-replay", f"--workers={options.workers}", *_NO_SNAPSHOT)
        )
        users = options.connections, max(2, options.connections)
        each = -(-options.transactions // options.connections)
        with closing(Generator("127.0.0.1", self._server.port, *users, seed=1)) as load:
            load.run(_PIPELINE, each)
        self.transactions = each * options.connections
        """At least; users and clients are transactions too."""
        self._server.crash()

    def start(self) -> float:
        """Seconds. It is killed again afterwards. BenchFailed where it has not replayed it all."""
        began = time.perf_counter()
        self._server.begin_again()
        asyncio.run(self._server.await_ready())
        took = time.perf_counter() - began
        loaded = self._server.logged("loaded")[-1]["txn_id"]
        self._server.crash()
        if loaded < self.transactions:
            raise BenchFailed(f"{loaded} transactions were replayed, of {self.transactions}")
        self.transactions = loaded
        return took


def _start(*flags: str) -> float:
    """Seconds, of a server in an empty directory."""
    began = time.perf_counter()
    with Server(*flags):
        return time.perf_counter() - began


def measure(options: argparse.Namespace) -> list[Row]:
    """A row for each kind of start. BenchFailed."""
    workers = f"--workers={options.workers}"
    with ExitStack() as stack:
        killed = _Killed(options, stack)
        turns: dict[str, Callable[[], float]] = {
            EMPTY: lambda: _start(workers),
            f"{LARGE} {options.accounts}": lambda: _start(
                workers, f"--accounts={options.accounts}"
            ),
            REPLAY: killed.start,
        }
        found: dict[str, list[float]] = {what: [] for what in turns}
        for _ in range(options.runs):
            for what, turn in turns.items():
                found[what].append(turn())
    rows: list[Row] = [
        {"what": what, "seconds": [round(each, 4) for each in times]}
        for what, times in found.items()
    ]
    million = _MILLION / killed.transactions
    rows[-1] |= {
        "transactions": killed.transactions,
        "s_per_million": [round(each * million, 4) for each in found[REPLAY]],
    }
    return rows


def table(rows: list[Row]) -> str:
    """Seconds as median, least and greatest."""
    lines = [("start", "transactions", "s", "s per million")]
    for row in rows:
        transactions = f"{row['transactions']:,}" if "transactions" in row else ""
        million = spread(row.get("s_per_million", ()))
        lines.append((row["what"], transactions, spread(row["seconds"]), million))
    return aligned(lines, 1)


def main(words: list[str]) -> int:
    """words: after `start`. Answers the exit code."""
    options = parser().parse_args(words)
    numbers = (options.transactions, options.connections, options.runs, options.workers)
    if min(options.accounts, *numbers) < 1:
        parser().error("all numbers must be at least 1")

    def body() -> int:
        rows = measure(options)
        if options.json:
            for row in rows:
                PROGRAM.tell_row(row)
        else:
            PROGRAM.tell_table(table(rows))
        return EXIT_GOOD

    return PROGRAM.run(body)

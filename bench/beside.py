"""What a trader notices of members who load files: payments with and without them, by turns, on one
server. The members are in a process of their own, `python -m bench.beside`.
"""

import os
import select
import subprocess
import sys
import time
from contextlib import closing
from statistics import median
from typing import Any, Final

from bench.lab.caller import Caller
from bench.lab.cli import BenchFailed
from bench.lab.target import Server
from bench.member import Member
from libproto.messages import Opcode

LOADERS: Final = 50
BYTES_PER_S: Final = 50 << 20  # that they load, all together
FILES_PER_S: Final = 100  # at most
TURNS: Final = 4  # at most
PAYMENTS: Final = 25  # in a turn, for each of the times
_PAUSE_S: Final = 0.001  # between payments

Row = dict[str, Any]


def beside(kib: int, times: int) -> Row:
    """While a file of this size is loaded. times: more of them are more payments. ServerFailed,
    BenchFailed."""
    payments = PAYMENTS * times
    size = kib << 10
    rate = min(FILES_PER_S, BYTES_PER_S / size)
    with Server("--workers=2", f"--accounts={LOADERS + 8}", "--max-file=64") as server:
        with closing(Caller("127.0.0.1", server.port)) as registrar:
            registrar.register(["trader", *map(_name, range(LOADERS))])
        with closing(Member(server.port, "trader", LOADERS + 1)) as trader:
            file_id = trader.share(os.urandom(size), "one")
            _p99_us(trader, payments)
            turns = []
            for _ in range(min(TURNS, times)):
                alone = _p99_us(trader, payments)
                with subprocess.Popen(  # noqa: S603 - a program of our own
                    [sys.executable, "-m", __name__, *map(str, (server.port, file_id, size, rate))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                ) as load:
                    assert load.stdin is not None
                    assert load.stdout is not None
                    load.stdout.readline()
                    turns.append((alone, _p99_us(trader, payments)))
                    load.stdin.close()
                    if load.wait():
                        raise BenchFailed("the members who load files have failed")
    return {
        "KiB": kib,
        "loaders": LOADERS,
        "files_per_s": round(rate, 1),
        "p99_alone_us": round(median(alone for alone, _ in turns)),
        "p99_beside_us": round(median(busy for _, busy in turns)),
        "ratio": round(median(busy / alone for alone, busy in turns), 2),
    }


def _name(number: int) -> str:
    return f"loader{number}"


def _p99_us(trader: Member, payments: int) -> float:
    took = []
    for _ in range(payments):
        began = time.perf_counter()
        trader.call(Opcode.DEPOSIT, 1)
        took.append(time.perf_counter() - began)
        time.sleep(_PAUSE_S)
    return sorted(took)[payments * 99 // 100] * 1e6


def load(port: int, file_id: int, size: int, rate: float) -> None:
    """Load a file so many times a second, by one member after the other, until there is no more
    standard input."""
    members = [Member(port, _name(number), number + 1) for number in range(LOADERS)]
    os.write(1, b"ready\n")
    began, done = time.perf_counter(), 0
    while True:
        for member in members:
            member.read(file_id, size)
            done += 1
            left = began + done / rate - time.perf_counter()
            if select.select([sys.stdin], [], [], max(0.0, left))[0]:
                return


if __name__ == "__main__":
    load(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))

"""`tradechat-bench delivery`: how long a message takes to a member of its room, at rest.

Starts a server for each durability named. One message at a time is sent to a room of two, and what
counts is from its sending until the other member has read it. Between the servers' turns a plain
fdatasync of as much is timed on the same file system: with `sync` a message waits for one.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from bench.lab.caller import Caller
from bench.lab.cli import EXIT_GOOD, BenchFailed, Program
from bench.lab.target import Server
from libcli.arguments import Parser
from libproto.codec import PUSH, REQUEST
from libproto.messages import Opcode

PROGRAM: Final = Program("tradechat-bench delivery")
DISK: Final = "fdatasync"
_ROOM: Final = 1
_BLOCK: Final = 4096  # bytes, of a small batch of the journal
_FILE_LEN: Final = 1 << 20  # allocated before, as a segment is
_REST_S: Final = 0.002  # after each, so that the next finds everything asleep
_TEXT: Final = "." * 64


class _Pair:
    """Two members of a room on one server; the first speaks."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        with closing(Caller("127.0.0.1", port)) as registrar:
            registrar.register(["ann", "bob"])
        self._ann, self._bob = (
            stack.enter_context(closing(Caller("127.0.0.1", port))) for _ in range(2)
        )
        for client_id, (name, caller) in enumerate((("ann", self._ann), ("bob", self._bob)), 1):
            caller.login(name, client_id)
            caller.call(Opcode.JOIN_ROOM, _ROOM)
        self._seen = 0

    def deliver(self) -> float:
        """Say something; seconds until the other has it."""
        self._ann.req_id += 1
        frame = REQUEST[Opcode.CHAT_SEND].frame(self._ann.req_id, 0, _ROOM, _TEXT)
        began = time.perf_counter()
        self._ann.sock.sendall(frame)
        seq = self._read_message()
        took = time.perf_counter() - began
        self._drain()
        if seq <= self._seen:
            raise BenchFailed(f"message {seq} came after message {self._seen}")
        self._seen = seq
        return took

    def _read_message(self) -> int:
        decoder = self._bob.decoder
        while True:
            while (frame := decoder.next()) is None:
                decoder.feed(self._bob.sock.recv(65536))
            if frame[0] == Opcode.CHAT_BROADCAST:
                fields = PUSH[Opcode.CHAT_BROADCAST].decode(*frame[4:7])
                if fields[6] == _TEXT:
                    return int(fields[1])

    def _drain(self) -> None:
        """Until the sender has its answer."""
        decoder = self._ann.decoder
        while True:
            while (frame := decoder.next()) is None:
                decoder.feed(self._ann.sock.recv(65536))
            if frame[0] == Opcode.CHAT_SEND:
                if frame[3]:
                    raise BenchFailed(f"CHAT_SEND was answered with status {frame[3]}")
                return


class _Disk:
    """A file that is allocated, and written from its beginning again."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / "file", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._file, bytes(_FILE_LEN), 0)
        os.fsync(self._file)
        self._at = 0

    def sync(self) -> float:
        data = os.urandom(_BLOCK)
        began = time.perf_counter()
        os.pwrite(self._file, data, self._at)
        os.fdatasync(self._file)
        self._at = (self._at + _BLOCK) % _FILE_LEN
        return time.perf_counter() - began

    def close(self) -> None:
        os.close(self._file)


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM.name,
        description="Measure how long a message takes to another member, one at a time.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--messages", type=int, default=2000, help="to each server")
    made.add_argument("--workers", type=int, default=2, help="of each server")
    made.add_argument(
        "--durability", nargs="+", default=["none", "sync"], help="of the servers, one each"
    )
    made.add_argument("--json", action="store_true", help="a JSON object per row")
    return made


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """By durability, and for the disk: seconds. ServerFailed, BenchFailed."""
    with ExitStack() as stack:
        turns: dict[str, Callable[[], float]] = {}
        for durability in arguments.durability:
            server = stack.enter_context(
                Server(f"--durability={durability}", f"--workers={arguments.workers}")
            )
            turns[durability] = _Pair(server.port, stack).deliver
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="tradechat-bench-"))
        turns[DISK] = stack.enter_context(closing(_Disk(Path(directory)))).sync
        found: dict[str, list[float]] = {what: [] for what in turns}
        for number in range(arguments.messages + arguments.messages // 10):
            for what, turn in turns.items():
                time.sleep(_REST_S)
                took = turn()
                if number >= arguments.messages // 10:  # warm
                    found[what].append(took)
        return found


def rows(found: dict[str, list[float]]) -> list[dict[str, float | str]]:
    """What is told of each: p50, p90 and p99 in µs."""
    made: list[dict[str, float | str]] = []
    for what, times in found.items():
        cuts = quantiles(times, n=100, method="inclusive")
        named = {"p50_us": median(times), "p90_us": cuts[89], "p99_us": cuts[98]}
        made.append({"what": what, **{name: round(s * 1e6, 1) for name, s in named.items()}})
    return made


def _line(row: dict[str, float | str]) -> str:
    figures = "".join(f"{key}{value:>10}  " for key, value in row.items() if key != "what")
    return f"{row['what']:10}{figures.rstrip()}"


def main(words: list[str]) -> int:
    """words: after `delivery`. Answers the exit code."""
    arguments = parser().parse_args(words)
    if arguments.messages < 10:
        parser().error("--messages must be at least 10")

    def body() -> int:
        found = rows(measure(arguments))
        if arguments.json:
            for row in found:
                PROGRAM.tell_row(row)
        else:
            PROGRAM.tell_table("\n".join(map(_line, found)))
        return EXIT_GOOD

    return PROGRAM.run(body)

"""`tradechat-bench files`: how fast files are shared and read.

For each size: one member uploads files, another reads them, once with the worker's cache off and
once with it on; then many members read one file at once. Beside it, in the same run: the same bytes
by HTTP from a server on loopback (Python's own), in one request, and, for many readers, `sendfile`
of the same bytes over as many sockets. At last, what a trader notices while members load files.
"""

import argparse
import http.client
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Final

from bench.beside import Row, beside
from bench.lab.caller import Caller
from bench.lab.cli import EXIT_GOOD, BenchFailed, Program
from bench.lab.figures import aligned
from bench.lab.target import Server
from bench.member import Member
from libcli.arguments import Parser

PROGRAM: Final = Program("tradechat-bench files")
SIZES_KIB: Final = (1, 64, 1024, 16384)
_MIB: Final = 1 << 20


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM.name,
        description="Measure how fast files are shared and read.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--sizes", nargs="+", type=int, default=list(SIZES_KIB), help="KiB")
    made.add_argument("--times", type=int, default=20, help="that each is done")
    made.add_argument("--readers", type=int, default=20, help="at once")
    made.add_argument("--workers", type=int, default=2, help="of each server")
    made.add_argument("--json", action="store_true", help="a JSON object per row")
    return made


def _timed(times: int, act: Callable[[int], object]) -> float:
    """The median of so many times, seconds; the first one is not among them."""
    took = []
    for number in range(times + 1):
        began = time.perf_counter()
        act(number)
        took.append(time.perf_counter() - began)
    return median(took[1:])


class _Http:
    """An HTTP server on loopback, of a directory."""

    def __init__(self, directory: str) -> None:
        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=directory))
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def read(self, name: str, size: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", f"/{name}")
        if len(connection.getresponse().read()) != size:
            raise BenchFailed("the HTTP server has sent something else")
        connection.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _one_reader(arguments: argparse.Namespace, cache_mb: int, rows: dict[int, Row]) -> None:
    flags = (f"--workers={arguments.workers}", f"--file-cache-mb={cache_mb}", "--max-file=64")
    space = ("--files-max-bytes=8000000000", "--files-user-bytes=8000000000")
    with ExitStack() as stack:
        server = stack.enter_context(Server(*flags, *space))
        with closing(Caller("127.0.0.1", server.port)) as registrar:
            registrar.register(["ann", "bob"])
        ann, bob = (
            stack.enter_context(closing(Member(server.port, name, number)))
            for number, name in enumerate(("ann", "bob"), 1)
        )
        for kib in arguments.sizes:
            size, row = kib << 10, rows[kib]
            share = _timed(arguments.times, partial(_share_one, ann, size))
            one = ann.share(os.urandom(size), "one")
            read = _timed(arguments.times, partial(_read_one, bob, one, size))
            if cache_mb:
                row["read_cached_ms"] = round(read * 1e3, 3)
            else:
                row["share_ms"] = round(share * 1e3, 3)
                row["read_ms"] = round(read * 1e3, 3)


def _share_one(member: Member, size: int, number: int) -> None:
    member.share(os.urandom(size), f"{number}")


def _read_one(member: Member, file_id: int, size: int, _: int) -> None:
    member.read(file_id, size)


def _read_http(origin: _Http, name: str, size: int, _: int) -> None:
    origin.read(name, size)


def _many_readers(arguments: argparse.Namespace, kib: int) -> Row:
    """MB/s of many readers of one file, and of a bare sendfile loop to as many."""
    size, count = kib << 10, arguments.readers
    with ExitStack() as stack:
        server = stack.enter_context(
            Server(f"--workers={arguments.workers}", f"--accounts={count + 8}", "--max-file=64")
        )
        names = [f"reader{number}" for number in range(count)]
        with closing(Caller("127.0.0.1", server.port)) as registrar:
            registrar.register(names)
        members = [
            stack.enter_context(closing(Member(server.port, name, number + 1)))
            for number, name in enumerate(names)
        ]
        file_id = members[0].share(os.urandom(size), "one")
        for member in members:
            member.read(file_id, size)
        rounds = max(1, 64 * _MIB // (size * count))
        ours = _at_once(
            [partial(_repeat, rounds, partial(member.read, file_id, size)) for member in members]
        )
    bare = _bare(size, count, rounds)
    moved = size * count * rounds / 1e6
    return {
        "KiB": kib,
        "readers": count,
        "MB_per_s": round(moved / ours, 1),
        "sendfile_MB_per_s": round(moved / bare, 1),
        "ratio": round(bare / ours, 2),
    }


def _repeat(times: int, act: Callable[[], object]) -> None:
    for _ in range(times):
        act()


def _at_once(acts: Sequence[Callable[[], None]]) -> float:
    """Seconds until all of them are done, each in a thread."""
    threads = [threading.Thread(target=act) for act in acts]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _bare(size: int, count: int, rounds: int) -> float:
    """Seconds that sendfile to as many sockets takes, another thread reading each."""
    with tempfile.TemporaryFile() as file, ExitStack() as stack:
        file.write(os.urandom(size))
        file.flush()
        pairs = [socket.socketpair() for _ in range(count)]
        for pair in pairs:
            for sock in pair:
                stack.enter_context(closing(sock))

        def send(sock: socket.socket) -> None:
            for _ in range(rounds):
                sent = 0
                while sent < size:
                    sent += os.sendfile(sock.fileno(), file.fileno(), sent, size - sent)

        def receive(sock: socket.socket) -> None:
            left = size * rounds
            while left:
                left -= len(sock.recv(1 << 18))

        acts = [partial(send, a) for a, _ in pairs] + [partial(receive, b) for _, b in pairs]
        return _at_once(acts)


def measure(arguments: argparse.Namespace) -> tuple[list[Row], list[Row], list[Row]]:
    """Of one reader by size, of many, and of a trader beside them. ServerFailed, BenchFailed."""
    rows: dict[int, Row] = {kib: {"KiB": kib} for kib in arguments.sizes}
    _one_reader(arguments, 0, rows)
    _one_reader(arguments, 64, rows)
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="tradechat-bench-"))
        origin = stack.enter_context(closing(_Http(directory)))
        for kib in arguments.sizes:
            name, size = f"{kib}", kib << 10
            (Path(directory) / name).write_bytes(os.urandom(size))
            took = _timed(arguments.times, partial(_read_http, origin, name, size))
            rows[kib]["http_ms"] = round(took * 1e3, 3)
            rows[kib]["http_to_cached"] = round(took * 1e3 / rows[kib]["read_cached_ms"], 2)
    many = [_many_readers(arguments, kib) for kib in arguments.sizes]
    return list(rows.values()), many, [beside(kib, arguments.times) for kib in arguments.sizes]


def main(words: list[str]) -> int:
    """words: after `files`. Answers the exit code."""
    arguments = parser().parse_args(words)
    if arguments.times < 1 or arguments.readers < 1:
        parser().error("--times and --readers must be at least 1")

    def body() -> int:
        for found in measure(arguments):
            if arguments.json:
                for row in found:
                    PROGRAM.tell_row(row)
            else:
                table = [list(found[0]), *([str(cell) for cell in row.values()] for row in found)]
                PROGRAM.tell_table(aligned(table, 0))
        return EXIT_GOOD

    return PROGRAM.run(body)

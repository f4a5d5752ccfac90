"""`python -m bench.ipc`: what it costs to hand a chunk of a file from one process to another.

The ways that a system has for it, side by side.

One process asks for chunk after chunk, as a worker does, and another one fills each, as the files
process does; both copy the bytes once. Commands go by a POSIX message queue where the data is in
shared memory, and back comes an eventfd, as in the server; by sockets and pipes they go with the
data. The ways take turns, so that what else the machine does meanwhile concerns all of them alike.
"""

import argparse
import ctypes
import mmap
import os
import resource
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from statistics import median
from typing import Final, NamedTuple

import posix_ipc

from bench.lab.cli import EXIT_GOOD, Program
from bench.lab.figures import aligned
from libcli.arguments import Parser
from libproto.messages import CHUNK_MAX

PROGRAM: Final = Program(f"python -m {__spec__.name}")
_COMMAND: Final = b"chunk..."
_END: Final = b"end....."
_PRIVATE, _CREATE, _REMOVE = 0, 0o1600, 0  # IPC_PRIVATE, IPC_CREAT and mode 0600, IPC_RMID


class Way(NamedTuple):
    """Both ends, made before the fork. ask: the chunk, after a command. serve: wait for one
    command, and answer it; False: it was the end."""

    ask: Callable[[bytes], bytes]
    serve: Callable[[bytes], bool]


class Cost(NamedTuple):
    latency_us: float  # median of a chunk
    mb_per_s: float
    cpu_us: float  # of a chunk, both processes


def _by_memory(memory: memoryview, stack: ExitStack) -> Way:
    name = f"/tradechat-ipc-{secrets.token_hex(8)}"
    queue = posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_messages=8, max_message_size=8)
    stack.callback(queue.close)
    queue.unlink()
    woken = os.eventfd(0)
    stack.callback(os.close, woken)
    stack.callback(memory.release)

    def ask(command: bytes) -> bytes:
        queue.send(command)
        if command == _END:
            return b""
        os.eventfd_read(woken)
        return bytes(memory)

    def serve(data: bytes) -> bool:
        if queue.receive()[0] == _END:
            return False
        memory[:] = data
        os.eventfd_write(woken, 1)
        return True

    return Way(ask, serve)


def posix_segments(stack: ExitStack) -> Way:
    """As the server does it."""
    name = f"/tradechat-ipc-{secrets.token_hex(8)}"
    made = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=CHUNK_MAX)
    made.unlink()
    mapped = stack.enter_context(closing(mmap.mmap(made.fd, CHUNK_MAX)))
    made.close_fd()
    return _by_memory(memoryview(mapped), stack)


def system_v_segments(stack: ExitStack) -> Way:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    number = libc.shmget(_PRIVATE, ctypes.c_size_t(CHUNK_MAX), _CREATE)
    if number < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    address = libc.shmat(number, None, 0)
    libc.shmctl(number, _REMOVE, None)  # it goes with the last process that has it
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    stack.callback(libc.shmdt, ctypes.c_void_p(address))
    return _by_memory(
        memoryview((ctypes.c_char * CHUNK_MAX).from_address(address)).cast("B"), stack
    )


def _by_stream(
    ours: Callable[[bytes], object],
    from_peer: Callable[[int], bytes],
    theirs: Callable[[bytes | memoryview], int],
    from_us: Callable[[int], bytes],
) -> Way:
    def ask(command: bytes) -> bytes:
        ours(command)
        got: list[bytes] = []
        left = 0 if command == _END else CHUNK_MAX
        while left:
            got.append(from_peer(left))
            left -= len(got[-1])
        return b"".join(got)

    def serve(data: bytes) -> bool:
        if from_us(len(_COMMAND)) == _END:
            return False
        left = memoryview(data)
        while left:
            left = left[theirs(left) :]
        return True

    return Way(ask, serve)


def unix_socket(stack: ExitStack) -> Way:
    one, other = map(stack.enter_context, socket.socketpair())
    return _by_stream(one.sendall, one.recv, other.send, other.recv)


def pipes(stack: ExitStack) -> Way:
    asked, asks = os.pipe()
    given, gives = os.pipe()
    for fd in (asked, asks, given, gives):
        stack.callback(os.close, fd)
    return _by_stream(
        lambda data: os.write(asks, data),
        lambda size: os.read(given, size),
        lambda data: os.write(gives, data),
        lambda size: os.read(asked, size),
    )


WAYS: Final[dict[str, Callable[[ExitStack], Way]]] = {
    "POSIX segment, message queue": posix_segments,
    "System V segment, message queue": system_v_segments,
    "Unix socket": unix_socket,
    "two pipes": pipes,
}


def measure(make: Callable[[ExitStack], Way], chunks: int) -> Cost:
    """By one of the ways, in a process of its own. OSError."""
    with ExitStack() as stack:
        return _measured(make(stack), chunks)


def begin(way: Way, data: bytes) -> int:
    """A process that serves this: its id."""
    pid = os.fork()
    if not pid:
        while way.serve(data):
            pass
        os._exit(0)
    return pid


def _measured(way: Way, chunks: int) -> Cost:
    pid = begin(way, os.urandom(CHUNK_MAX))
    took: list[float] = []
    own = _cpu(resource.getrusage(resource.RUSAGE_SELF))
    began = time.perf_counter()
    for _ in range(chunks):
        at = time.perf_counter()
        got = way.ask(_COMMAND)
        took.append(time.perf_counter() - at)
        assert len(got) == CHUNK_MAX
    seconds = time.perf_counter() - began
    cpu = _cpu(resource.getrusage(resource.RUSAGE_SELF)) - own
    way.ask(_END)
    cpu += _cpu(os.wait4(pid, 0)[2])
    moved = CHUNK_MAX * chunks / 1e6
    return Cost(median(took) * 1e6, moved / seconds, cpu * 1e6 / chunks)


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def main(words: list[str]) -> int:
    parser = Parser(prog=PROGRAM.name, description=__doc__.splitlines()[0])
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--chunks", type=int, default=5000, help="of 60 KiB, each time")
    parser.add_argument("--times", type=int, default=5, help="that the ways take turns")
    options = parser.parse_args(words)
    if options.chunks < 1 or options.times < 1:
        parser.error("--chunks and --times must be at least 1")

    def body() -> int:
        found: dict[str, list[Cost]] = {name: [] for name in WAYS}
        for _ in range(options.times):
            for name, make in WAYS.items():
                found[name].append(measure(make, options.chunks))
        table = [["way", "latency_us", "MB_per_s", "cpu_us"]]
        for name, costs in found.items():
            table.append([name, *(f"{median(column):.1f}" for column in zip(*costs, strict=True))])
        PROGRAM.tell_table(aligned(table, 0))
        return EXIT_GOOD

    return PROGRAM.run(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What is asked of a running server's master, over a socket in the data directory: by an operator's
tool, and by a server that is to take its place.

One request and one answer, a message of JSON each; a take-over goes on from there. The socket is
its user's alone (0600), and the master asks the system who is at the other end as well.
`tradechat-admin` changes nothing by itself.
"""

import json
import os
import socket
import struct
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

SOCKET: Final = "admin.sock"
MESSAGE_MAX: Final = 4096
"""Bytes of a message."""
TAKE_OVER: Final = "take-over"
"""What a server asks for that is to take the place of the one that runs: answered by an Offer with
the listening sockets, or by an Answer that refuses. Each side then says its Steps."""
SOCKETS_MAX: Final = 253  # in one message: SCM_MAX_FD of the system
OPERATE: Final = "operate"
"""What is asked for an act on users or their money: the connection is handed to a worker, which
gets the act as the next message, and answers it."""
ACT_MAX: Final = 64 * 1024
"""Bytes of an act, and of its answer."""
PROGRESS: Final = "progress"
"""What is asked while a process is drained: has it ended? Its id stands where a worker's number
does."""
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Ask(NamedTuple):
    """What is asked for: `restart`, `drain` of the worker in a slot, TAKE_OVER, OPERATE, or
    PROGRESS of a process that is drained."""

    command: str
    worker: int = 0


class Answer(NamedTuple):
    """What became of it: a sentence. To `drain`: the process that is replaced."""

    done: bool
    text: str
    process: int = 0


class Offer(NamedTuple):
    """What a server that is to go on is given; the sockets come with it."""

    workers: int  # listeners of the workers; one more is that of the admin port
    region: int  # bytes of the shared region, which are free when the server before has ended
    version: str


class Step(StrEnum):
    """How far a take-over is."""

    GO = "go"  # the new server has all that it can have before: the old one is to end
    WAIT = "wait"  # connections that the old one has accepted, and nobody has served, come with it
    RELEASED = "released"  # the old one has let go of the data directory
    SERVES = "serves"  # the new one serves: the old one is not needed any more


class Peer(NamedTuple):
    """Who is at the other end, as the system says."""

    pid: int
    uid: int


def encode(message: Ask | Answer | Offer) -> bytes:
    """A message as it is sent."""
    return json.dumps(message._asdict()).encode()[:MESSAGE_MAX]


def decode_ask(data: bytes) -> Ask:
    """ValueError: it is none."""
    fields = json.loads(data)
    match fields:
        case {"command": str(command), "worker": int(worker)}:
            return Ask(command, worker)
    raise ValueError("neither a command nor a worker")


def decode_answer(data: bytes) -> Answer:
    """ValueError: it is none."""
    fields = json.loads(data)
    match fields:
        case {"done": bool(done), "text": str(text), "process": int(process)}:
            return Answer(done, text, process)
        case {"done": bool(done), "text": str(text)}:
            return Answer(done, text)
    raise ValueError("no answer")


def decode_offer(data: bytes) -> Offer:
    """ValueError: it is none."""
    fields = json.loads(data)
    match fields:
        case {"workers": int(workers), "region": int(region), "version": str(version)}:
            return Offer(workers, region, version)
    raise ValueError("no offer")


def peer(sock: socket.socket) -> Peer:
    """Who has connected, or who listens. OSError."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return Peer(pid, uid)


def receive(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[socket.socket]]:
    """A message, and the sockets that came with it, as far as there are descriptors for them.
    OSError."""
    space = socket.CMSG_SPACE(4 * SOCKETS_MAX)
    data, ancillary, _, _ = sock.recvmsg(MESSAGE_MAX, space, socket.MSG_CMSG_CLOEXEC | flags)
    came: list[socket.socket] = []
    for _, _, fds in ancillary:
        for fd in memoryview(fds)[: len(fds) - len(fds) % 4].cast("i"):
            with suppress(OSError):  # it was reset meanwhile, and is of no family any more
                came.append(socket.socket(fileno=fd))
    return data, came


def make() -> socket.socket:
    """A socket for either side. OSError."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def address(directory: Path) -> tuple[str, int]:
    """An address of the socket in this directory, however long its path is, and a descriptor to be
    closed after use. OSError."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{fd}/{SOCKET}", fd

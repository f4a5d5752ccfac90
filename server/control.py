"""What an operator's tool asks of a running server's master, over a socket in the data directory.

One request and one answer, a message of JSON each. The socket is its user's alone (0600), and the
master asks the system who is at the other end as well. `tradechat-admin` changes nothing by itself.
"""

import json
import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

SOCKET: Final = "admin.sock"
MESSAGE_MAX: Final = 4096
"""Bytes of a request or an answer."""


class Ask(NamedTuple):
    """What is asked for: `restart`, or `drain` of the worker in a slot."""

    command: str
    worker: int = 0


class Answer(NamedTuple):
    """What became of it: a sentence."""

    done: bool
    text: str


def encode(message: Ask | Answer) -> bytes:
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
        case {"done": bool(done), "text": str(text)}:
            return Answer(done, text)
    raise ValueError("no answer")


def make() -> socket.socket:
    """A socket for either side. OSError."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def address(directory: Path) -> tuple[str, int]:
    """An address of the socket in this directory, however long its path is, and a descriptor to be
    closed after use. OSError."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{fd}/{SOCKET}", fd

"""What workers ask the archive, and what it answers: datagrams over a pair of sockets for each
worker. Words of the machine's own byte order: both ends run on it.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from server.region import records

DATAGRAM_MAX: Final = 1 << 17  # bytes

_QUESTION: Final = struct.Struct("=7Q")
_HEAD: Final = struct.Struct("=QQ")  # of an answer: token, whether it could be answered
_OLDEST: Final = struct.Struct("=QQ")
_ITEM: Final = struct.Struct("=8Q")
_COUNTS: Final = struct.Struct("=QI")

INBOX: Final = records.INBOX
HELLO: Final = 0
"""Token of what a new archive process says first: what was asked before is to be asked again."""


class Kind(IntEnum):
    """What is asked for, with the fields of the question."""

    TXNS = 1  # user, txn_id to begin at, before, limit
    EVENTS = 2  # room or INBOX | user, after, limit, bytes


class Question(NamedTuple):
    """One question."""

    token: int  # from 1
    kind: int
    until: int  # that somebody waits for the answer: time.monotonic_ns
    fields: tuple[int, int, int, int]

    def pack(self) -> bytes:
        return _QUESTION.pack(self.token, self.kind, self.until, *self.fields)

    @classmethod
    def unpack(cls, data: bytes) -> "Question":
        token, kind, until, *fields = _QUESTION.unpack(data)
        return cls(token, kind, until, (fields[0], fields[1], fields[2], fields[3]))


def pack_hello() -> bytes:
    return _HEAD.pack(HELLO, True)


def pack_failure(token: int) -> bytes:
    """It cannot be read; the archive's log says why."""
    return _HEAD.pack(token, False)


def head_of(data: bytes) -> tuple[int, bool]:
    """An answer's token, and whether there is one."""
    token, good = _HEAD.unpack_from(data)
    return token, bool(good)


def pack_txns(token: int, reached: int, oldest: int, items: Sequence[Sequence[int]]) -> bytes:
    """What TXN_HISTORY answers. reached: the oldest transaction of the user that is kept; 0: none.
    oldest: `oldest_txn_id`, which is 0 where none was dropped."""
    head = _HEAD.pack(token, True) + _OLDEST.pack(reached, oldest)
    return head + b"".join(_ITEM.pack(*item) for item in items)


def unpack_txns(data: bytes) -> tuple[int, int, list[tuple[int, ...]]]:
    """reached, oldest, and the items."""
    reached, oldest = _OLDEST.unpack_from(data, _HEAD.size)
    items = memoryview(data)[_HEAD.size + _OLDEST.size :]
    return reached, oldest, list(_ITEM.iter_unpack(items))


def pack_events(token: int, oldest: int, bodies: Sequence[bytes]) -> bytes:
    """Of a room or an inbox: the oldest number that is kept (0: none), and bodies of CHAT_BROADCAST
    or DIRECT_MESSAGE. No bodies: it has nothing above `after`, and all that has happened since is
    in the ring."""
    sizes = struct.pack(f"={len(bodies)}I", *map(len, bodies))
    return _HEAD.pack(token, True) + _COUNTS.pack(oldest, len(bodies)) + sizes + b"".join(bodies)


def unpack_events(data: bytes) -> tuple[int, list[bytes]]:
    oldest, count = _COUNTS.unpack_from(data, _HEAD.size)
    at = _HEAD.size + _COUNTS.size
    sizes = struct.unpack_from(f"={count}I", data, at)
    at += 4 * count
    bodies = []
    for size in sizes:
        bodies.append(data[at : at + size])
        at += size
    return oldest, bodies

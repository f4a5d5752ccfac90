"""How a load thread writes down what it sees: the interpreted twin of notes.pxd.

Columns are arrays; whoever names a place in one has looked that it is there. Times are in s of
`now`, unless they say µs.
"""

from __future__ import annotations  # array[int] is no type at run time before 3.12

import struct
import time
from array import array
from typing import Final
from zlib import crc32

ANSWER: Final = struct.Struct(">QBIIQQdd")
"""A ledger answer, packed; see record.Answer."""
MAX_US: Final = 2**32 - 1
HEAD: Final = 16
"""Characters at the beginning of a message: when it was sent, in ns of `now`, in hex."""


def now() -> float:
    """The clock of all times here: one for all processes of the machine."""
    return time.monotonic()


def us(passed_s: float) -> int:
    """Whole µs, MAX_US at most."""
    return min(int(passed_s * 1e6), MAX_US)


def append(column: array[int], value: int) -> None:
    """A further u32."""
    column.append(value)


def u8(column: array[int], at: int) -> int:
    """Of a column of bytes."""
    return column[at]


def put_u8(column: array[int], at: int, value: int) -> None:
    column[at] = value


def u32(column: array[int], at: int) -> int:
    """Of a column of u32."""
    return column[at]


def put_u32(column: array[int], at: int, value: int) -> None:
    column[at] = value


def put_f64(column: array[float], at: int, value: float) -> None:
    """Of a column of doubles."""
    column[at] = value


def answer(
    packed: bytearray,
    txn_id: int,
    kind: int,
    user: int,
    payee: int,
    amount: int,
    balance: int,
    sent: float,
    answered: float,
) -> None:
    """A further ANSWER."""
    packed += ANSWER.pack(txn_id, kind, user, payee, amount, balance, sent, answered)


def digest(buf: bytes, start: int, end: int) -> int:
    """Of the body of a CHAT_BROADCAST; never 0."""
    return crc32(buf[start:end]) or 1


def compose(sent: float, serial: int, payload: int) -> str:
    """A message of `payload` bytes, HEAD at least."""
    head = f"{int(sent * 1e9):0{HEAD}x} {serial} "
    return head.ljust(payload, ".")[:payload]


def sent_at(buf: bytes, start: int, end: int) -> float:
    """When the message buf[start:end] was sent, in s; 0 where it is no message of a load."""
    try:
        return int(buf[start : min(start + HEAD, end)], 16) / 1e9
    except ValueError:
        return 0.0


# what notes.pxd takes for granted
assert (ANSWER.size, HEAD, MAX_US) == (49, 16, 0xFFFFFFFF)
assert [array(code).itemsize for code in "BId"] == [1, 4, 8]

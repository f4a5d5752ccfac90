"""The bodies that a client of much load has most to do with: the interpreted twin of calls.pxd.

What is here does by the codecs what calls.pxd does in C: it makes requests, and reads responses and
events. It answers and refuses the same: the codecs refuse for both.
"""

from typing import Any, Final

from libproto import words
from libproto.codec import PUSH, REQUEST, RESPONSE
from libproto.fields import fields_of
from libproto.messages import BalanceRequest, EventKind, Opcode

_ENCODE: Final = PUSH[Opcode.CHAT_BROADCAST].encode
_DECODE: Final = PUSH[Opcode.CHAT_BROADCAST].decode
_MESSAGE: Final = int(EventKind.MESSAGE)


def request(opcode: int, req_id: int, flags: int, fields: tuple[Any, ...]) -> bytes:
    """The frame of a request with these fields. MisuseError as of Codec.frame."""
    return REQUEST[opcode].frame(req_id, flags, *fields)


def pair(opcode: int, buf: bytes, start: int, end: int) -> tuple[int, int]:
    """The body of a response of words.PAIRS. PeerError as of Codec.decode."""
    first, second = RESPONSE[opcode].decode(buf, start, end)
    return first, second


def event(buf: bytes, start: int, end: int) -> tuple[int, int, int, int]:
    """room_id, room_seq and kind of a CHAT_BROADCAST, and where in `buf` its message begins, which
    ends where the body does. PeerError as of Codec.decode."""
    room, seq, _, kind, _, _, message = _DECODE(buf, start, end)
    return room, seq, kind, end - len(message.encode())


def said(room: int, seq: int, time: int, user: int, name: str, text: str) -> bytes:
    """The body of the CHAT_BROADCAST of a message. MisuseError as of Codec.encode."""
    return _ENCODE(room, seq, time, _MESSAGE, user, name, text)


# what calls.pxd takes for granted, beside what words.pxd does
assert (words.WORDS, _MESSAGE) == ((Opcode.HEARTBEAT, Opcode.DEPOSIT, Opcode.WITHDRAW), 0)
assert [int(opcode) for opcode in words.WORDS] == [0x0004, 0x0201, 0x0202]
assert (fields_of(BalanceRequest), int(Opcode.BALANCE)) == ((), 0x0204)

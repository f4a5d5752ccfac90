"""The bodies of the most frequent requests and responses: the interpreted twin of words.pxd.

What is here does by the codecs what words.pxd does in C, for bodies that are one, two or three
words of fixed size. It answers and refuses the same: the codecs refuse for both.
"""

from typing import Final

from libproto.codec import REQUEST, RESPONSE
from libproto.fields import Body, fields_of
from libproto.framing import KNOWN_FLAGS
from libproto.messages import Flag, Opcode, TransferRequest

PAIRS: Final = (
    Opcode.HEARTBEAT,
    Opcode.CHAT_SEND,
    Opcode.DEPOSIT,
    Opcode.WITHDRAW,
    Opcode.TRANSFER,
    Opcode.BALANCE,
)
"""Responses that are two u64."""
WORDS: Final = (Opcode.HEARTBEAT, Opcode.DEPOSIT, Opcode.WITHDRAW)
"""Requests that are one u64."""


def pair(opcode: int, req_id: int, flags: int, first: int, second: int) -> bytes:
    """The frame of a response of PAIRS; RESPONSE is set. MisuseError as of Codec.frame."""
    return RESPONSE[opcode].frame(req_id, flags, first, second)


def word(opcode: int, buf: bytes, start: int, end: int) -> int:
    """The body of a request of WORDS. PeerError as of Codec.decode."""
    value: int = REQUEST[opcode].decode(buf, start, end)[0]
    return value


def transfer(buf: bytes, start: int, end: int) -> tuple[int, int]:
    """to_user and amount of a TRANSFER request. PeerError as of Codec.decode."""
    to_user, amount = REQUEST[Opcode.TRANSFER].decode(buf, start, end)
    return to_user, amount


def _codes(body: Body) -> str:
    return "".join(field.kind.code or "?" for field in fields_of(body))


# what words.pxd takes for granted
assert all(_codes(RESPONSE[opcode].body) == "QQ" for opcode in PAIRS)
assert all(_codes(REQUEST[opcode].body) == "Q" for opcode in WORDS)
assert (_codes(TransferRequest), int(Opcode.TRANSFER)) == ("IQ", 0x0203)
assert (TransferRequest._fields, int(Flag.RESPONSE), KNOWN_FLAGS) == (("to_user", "amount"), 4, 15)

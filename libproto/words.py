"""The bodies of the most frequent requests and responses: the interpreted twin of words.pxd.

What is here does by the codecs what words.pxd does in C, for bodies that are one, two or three
words of fixed size. It answers and refuses the same: the codecs refuse for both.
"""

from typing import Final

from libproto.codec import PUSH, REQUEST, RESPONSE
from libproto.fields import Body, fields_of
from libproto.framing import KNOWN_FLAGS
from libproto.messages import (
    ChatBroadcast,
    ChatSendRequest,
    Flag,
    Opcode,
    TransferInRoomRequest,
    TransferInRoomResponse,
    TransferRequest,
)

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
MESSAGE_AT: Final = 6
"""Offset of the message in the body of a CHAT_SEND request: behind the room, and its length."""
NOTE_AT: Final = 18
"""Offset of the note in the body of a TRANSFER_IN_ROOM request: behind its length, the last."""


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


def chat_send(buf: bytes, start: int, end: int) -> int:
    """The room of a CHAT_SEND request, whose message is then what follows MESSAGE_AT. PeerError as
    of Codec.decode; that the message is UTF-8 may be left to the caller."""
    room: int = REQUEST[Opcode.CHAT_SEND].decode(buf, start, end)[0]
    return room


def transfer_in_room(buf: bytes, start: int, end: int) -> tuple[int, int, int]:
    """room, to_user and amount of a TRANSFER_IN_ROOM request, whose note is then what follows
    NOTE_AT. PeerError as of Codec.decode; that the note is UTF-8 may be left to the caller."""
    room, to_user, amount, _ = REQUEST[Opcode.TRANSFER_IN_ROOM].decode(buf, start, end)
    return room, to_user, amount


def transferred_in_room(req_id: int, flags: int, txn: int, balance: int, seq: int) -> bytes:
    """The frame of a TRANSFER_IN_ROOM response; RESPONSE is set. MisuseError as of Codec.frame."""
    return RESPONSE[Opcode.TRANSFER_IN_ROOM].frame(req_id, flags, txn, balance, seq)


def broadcast(
    room: int, seq: int, time: int, kind: int, user: int, name: str, message: bytes
) -> bytes:
    """The frame of a CHAT_BROADCAST push. name, message: of less than 64 KiB of UTF-8 each;
    MisuseError where a value cannot be carried."""
    frame: bytes = PUSH[Opcode.CHAT_BROADCAST].frame(
        0, 0, room, seq, time, kind, user, name, message.decode()
    )
    return frame


def _codes(body: Body) -> str:
    return "".join(field.kind.code or f"({field.kind.name})" for field in fields_of(body))


# what words.pxd takes for granted
assert all(_codes(RESPONSE[opcode].body) == "QQ" for opcode in PAIRS)
assert all(_codes(REQUEST[opcode].body) == "Q" for opcode in WORDS)
assert (_codes(TransferRequest), int(Opcode.TRANSFER)) == ("IQ", 0x0203)
assert (TransferRequest._fields, int(Flag.RESPONSE), KNOWN_FLAGS) == (("to_user", "amount"), 4, 15)
assert (_codes(ChatSendRequest), int(Opcode.CHAT_SEND)) == ("I(str)", 0x0103)
assert (_codes(TransferInRoomRequest), int(Opcode.TRANSFER_IN_ROOM)) == ("IIQ(str)", 0x0206)
assert _codes(TransferInRoomResponse) == "QQQ"
assert (_codes(ChatBroadcast), int(Opcode.CHAT_BROADCAST)) == ("IQQBI(str)(str)", 0x0104)

"""What a change of a room or a board is, and what its record says of it: the texts beside it, the
message of its event, and the outcome of the request that made it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from libproto.messages import EventKind, Opcode, RoomRole
from server.core.outcomes import Outcome
from server.region.layout import TARGET_KIND_SHIFT
from server.region.records import OFFSETS, TEXT_BYTES, RecordKind

_AT: Final = OFFSETS[RecordKind.ROOM_OPENED]
_MONEY: Final = OFFSETS[RecordKind.OFFER_TAKEN]


class Change(NamedTuple):
    """A change that may be made."""

    kind: RecordKind
    room: int
    event: EventKind
    subject: int = 0
    value: int = 0
    detail: int = 0
    text: bytes = b""
    digest: int = 0
    again: bool = False  # the outcome of the request is with a change that follows


def outcome_of(record: Sequence[int]) -> Outcome:
    """What a repeat of the request that made a change is answered with; of an OFFER_TAKEN too."""
    kind, room = record[_AT["kind"]], record[_AT["room"]]
    req_id, txn = record[_AT["req_id"]], record[_AT["txn_id"]]
    seq, digest, value = record[_AT["room_seq"]], record[_AT["digest"]], record[_AT["value"]]
    balance, amount, to = 0, value, room
    if kind == RecordKind.OFFER_TAKEN:
        opcode, balance = Opcode.BOARD_TAKE, record[_MONEY["from_balance"]]
        amount = record[_MONEY["amount"]]
    elif kind == RecordKind.ROOM_OPENED:
        opcode, balance, to = Opcode.ROOM_OPEN, room, 0
    elif kind in (RecordKind.ROOM_TOPIC, RecordKind.ROOM_ACCESS):
        opcode = Opcode.ROOM_SET
    elif kind == RecordKind.ROOM_ROLE:
        opcode, amount = Opcode.ROOM_ROLE, role_amount(record[_AT["subject"]], value)
    elif kind == RecordKind.OFFER_ADDED:
        opcode = Opcode.BOARD_ADD
    else:
        opcode = Opcode.BOARD_REMOVE
    return Outcome(req_id, txn, balance, opcode << TARGET_KIND_SHIFT | to, amount, seq, digest)


def role_amount(user: int, role: int) -> int:
    """What stands in the place of an amount in the outcome of a ROOM_ROLE."""
    return role << 32 | user


def texts_of(text: bytes) -> list[bytes]:
    """The parts of a text, one for each record of TEXT."""
    return [text[at : at + TEXT_BYTES] for at in range(0, len(text), TEXT_BYTES)]


def event_text(change: Change, txn: int, user: int) -> bytes:
    """The message of the event, as the protocol gives it."""
    match change.kind:
        case RecordKind.ROOM_OPENED:
            return b"role %d %d" % (user, RoomRole.OWNER)
        case RecordKind.ROOM_TOPIC:
            return b"topic %b" % change.text
        case RecordKind.ROOM_ACCESS:
            return b"access %d" % change.value
        case RecordKind.ROOM_ROLE:
            return b"role %d %d" % (change.subject, change.value)
        case RecordKind.OFFER_ADDED:
            return b"%d %d %b" % (txn, change.value, change.text)
        case RecordKind.TEXT_DELETED:
            return b"deleted %d" % change.value
        case _:
            return b"%d" % change.value

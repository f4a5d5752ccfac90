"""The records of the txn log, by kind: the ring's bytes are the journal's bytes.

Every record opens with the same four words; what follows depends on the kind. A worker's intent
is a record too: absolute after-values, so that doing it again changes nothing.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

RECORD_WORDS = 20
RECORD_SIZE = RECORD_WORDS * 8  # bytes
INBOX = 1 << 32
"""Added to a user id: the number of the inbox, where room ids are smaller."""


class RecordKind(IntEnum):
    """The first three are the wire's TxnKind."""

    DEPOSIT = 1
    WITHDRAW = 2
    TRANSFER = 3
    REGISTER = 16
    NEW_CLIENT = 17
    NEW_FLOOR = 18  # of a client that may lack outcomes: by its first LOGIN after that was found
    EVENTS_LOST = 19  # a start has found the events of a batch damaged


@dataclass(frozen=True, slots=True)
class RecordField:
    name: str
    about: str
    words: int = 1
    text: str = ""  # "", "text" or "bytes"


COMMON = (
    RecordField("txn_id", "commit word, and the place in the total order"),
    RecordField("kind", "RecordKind"),
    RecordField("time", "microseconds since the Unix epoch"),
    RecordField("supply", "deposits minus withdrawals after it"),
)
_MONEY = (
    RecordField("from_user", "0: the world"),
    RecordField("to_user", "0: the world"),
    RecordField("amount", "minor units"),
    RecordField("from_balance", "after it"),
    RecordField("to_balance", "after it"),
    RecordField("from_previous", "txn_id of the payer's transaction before it"),
    RecordField("to_previous", "txn_id of the payee's transaction before it"),
    RecordField("client_id", "of the client that asked for it; 0: none"),
    RecordField("req_id", "of the request"),
    RecordField("client_slot", "slot + 1 of the client; 0: none"),
    RecordField("room", "where it is told, in an event that is published with it; 0: nowhere"),
    RecordField("room_seq", "of that event"),
    RecordField("event", "its number"),
    RecordField("digest", "of the room and the note, to tell one request from another"),
)
_REGISTER = (
    RecordField("user_id", "the new user"),
    RecordField("iterations", "SCRAM"),
    RecordField("name", "the username, zero-padded", 4, "text"),
    RecordField("salt", "SCRAM", 2, "bytes"),
    RecordField("stored_key", "SCRAM", 4, "bytes"),
    RecordField("server_key", "SCRAM", 4, "bytes"),
)
_NEW_CLIENT = (
    RecordField("user_id", "whose client"),
    RecordField("client_id", "chosen by the client"),
    RecordField("client_slot", "slot + 1"),
    RecordField("floor", "next_req_id of its LOGIN: of requests below it nothing is known"),
)
_EVENTS_LOST = (
    RecordField("first_event", "of the batch that is damaged, as in its header"),
    RecordField("next_event", "likewise"),
    RecordField(
        "room",
        "a room that was told of in it (2^32 and the user_id: an inbox), as the histories have it; "
        "0: they do not have these events",
    ),
    RecordField("seq", "the newest number of that room in it"),
)
BY_KIND: dict[RecordKind, tuple[RecordField, ...]] = {
    RecordKind.DEPOSIT: _MONEY,
    RecordKind.WITHDRAW: _MONEY,
    RecordKind.TRANSFER: _MONEY,
    RecordKind.REGISTER: _REGISTER,
    RecordKind.NEW_CLIENT: _NEW_CLIENT,
    RecordKind.NEW_FLOOR: _NEW_CLIENT,
    RecordKind.EVENTS_LOST: _EVENTS_LOST,
}


def _offsets(kind: RecordKind) -> dict[str, int]:
    at, out = 0, {}
    for field in COMMON + BY_KIND[kind]:
        out[field.name] = at
        at += field.words
    assert at <= RECORD_WORDS, kind
    return out


OFFSETS = {kind: _offsets(kind) for kind in RecordKind}

# Word offsets that the ledger uses by name.
TIME = OFFSETS[RecordKind.TRANSFER]["time"]
SUPPLY = OFFSETS[RecordKind.TRANSFER]["supply"]
FROM_USER = OFFSETS[RecordKind.TRANSFER]["from_user"]
MONEY_WORDS = len(COMMON) + sum(field.words for field in _MONEY)

# All but the first word, which is stored last. Native byte order: words of the region. Records of
# money are stored word by word.
NEW_CLIENT = struct.Struct(f"={len(COMMON) + len(_NEW_CLIENT) - 1}Q")
"""Of a NEW_FLOOR, too."""
EVENTS_LOST = struct.Struct(f"={len(COMMON) + len(_EVENTS_LOST) - 1}Q")
REGISTER = struct.Struct("=3Q 2Q 32s 16s 32s 32s")
assert REGISTER.size == sum(field.words for field in COMMON + _REGISTER) * 8 - 8

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
    """The first three are the wire's TxnKind. From ROOM_OPENED on they are changes of rooms and
    boards, each published with an event of its room."""

    DEPOSIT = 1
    WITHDRAW = 2
    TRANSFER = 3
    OFFER_TAKEN = 4  # a transfer to the owner of an offer, which leaves its board with it
    PAID_IN = 5  # a deposit by the operator, with a note; its text is before it
    PAID_OUT = 6  # a withdrawal by the operator, likewise
    REGISTER = 16
    NEW_CLIENT = 17
    NEW_FLOOR = 18  # of a client that may lack outcomes: by its first LOGIN after that was found
    EVENTS_LOST = 19  # a start has found the events of a batch damaged
    TEXT = 20  # a part of the text of the change that follows it
    BLOCK = 21
    VERIFIER = 22  # a user has another password
    USER_SET = 23  # what a user may do, and whether there is one any more
    ROOM_OPENED = 32
    ROOM_TOPIC = 33
    ROOM_ACCESS = 34
    ROOM_ROLE = 35
    OFFER_ADDED = 36
    OFFER_REMOVED = 37
    TEXT_DELETED = 38


class UserRole(IntEnum):
    """What a user may do beside what all may."""

    USER = 0
    TELLER = 1  # deposit and withdraw, where `deposits` is `tellers`
    OPERATOR = 2  # the same


class UserState(IntEnum):
    """Whether a user may log in, and be paid."""

    ACTIVE = 0
    DISABLED = 1  # no login; money may come
    DELETED = 2  # nothing any more, for good: neither the id nor the name is given again


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
    RecordField(
        "digest",
        "of the room and the note, to tell one request from another; of an OFFER_TAKEN, the "
        "entry_id of the offer",
    ),
)
_PAID = (
    *_MONEY[:-1],
    RecordField("digest", "of the note, to tell one command from another"),
    RecordField("text_size", "bytes of the note in the records of TEXT right before it"),
    RecordField("key", "of the command: what was executed once is not executed again"),
)
TEXT_WORDS = RECORD_WORDS - len(COMMON)
TEXT_BYTES = TEXT_WORDS * 8
"""Of a text, in one record; the rest of it is in the next."""
TEXT_MAX = 256
"""Bytes of the text of a change: a name of a room, its topic, an offer."""
TEXTS_MAX = -(-TEXT_MAX // TEXT_BYTES)
"""Records of TEXT before a change, at most."""
_TEXT = (RecordField("text", "a part of it, zero-padded", TEXT_WORDS, "text"),)
_CHANGE = (
    RecordField("user", "who asked for it"),
    RecordField("subject", "the user whose role it is; 0: none"),
    RecordField(
        "value",
        "of a ROOM_ACCESS the access, of a ROOM_ROLE the role, of an OFFER_ADDED the price, of an "
        "OFFER_REMOVED the entry_id, of a TEXT_DELETED the room_seq of the event that had the text",
    ),
    RecordField(
        "detail",
        "of a ROOM_ROLE how long a mute or a ban lasts, seconds; 0: for good. Of a TEXT_DELETED "
        "the entry_id, if the text was that of an offer",
    ),
    RecordField("text_size", "bytes of the text in the records of TEXT right before it"),
    RecordField("again", "1: the outcome of its request is with a change that follows"),
    RecordField("until", "lived time at which it ends, as the server had it then; 0: never"),
    RecordField("client_id", "of the client that asked for it; 0: none"),
    RecordField("req_id", "of the request"),
    RecordField("client_slot", "slot + 1 of the client; 0: none"),
    RecordField("room", "which is changed"),
    RecordField("room_seq", "of the event that is published with it"),
    RecordField("event", "its number"),
    RecordField("digest", "of the request, to tell one from another"),
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
_BLOCK = (
    RecordField("user_id", "who blocks, or does so no more"),
    RecordField("blocked", "user id of who is blocked"),
    RecordField("on", "1: from now on; 0: no more"),
)
_VERIFIER = (
    RecordField("user_id", "whose password it is"),
    RecordField("iterations", "SCRAM"),
    RecordField("kept", "id of the user's session that goes on, all others have ended; 0: none"),
    RecordField("salt", "SCRAM", 2, "bytes"),
    RecordField("stored_key", "SCRAM", 4, "bytes"),
    RecordField("server_key", "SCRAM", 4, "bytes"),
)
_USER_SET = (
    RecordField("user_id", "who"),
    RecordField("role", "UserRole"),
    RecordField("state", "UserState; of one that is not active all sessions have ended"),
)
BY_KIND: dict[RecordKind, tuple[RecordField, ...]] = {
    RecordKind.DEPOSIT: _MONEY,
    RecordKind.WITHDRAW: _MONEY,
    RecordKind.TRANSFER: _MONEY,
    RecordKind.OFFER_TAKEN: _MONEY,
    RecordKind.PAID_IN: _PAID,
    RecordKind.PAID_OUT: _PAID,
    RecordKind.REGISTER: _REGISTER,
    RecordKind.NEW_CLIENT: _NEW_CLIENT,
    RecordKind.NEW_FLOOR: _NEW_CLIENT,
    RecordKind.EVENTS_LOST: _EVENTS_LOST,
    RecordKind.TEXT: _TEXT,
    RecordKind.BLOCK: _BLOCK,
    RecordKind.VERIFIER: _VERIFIER,
    RecordKind.USER_SET: _USER_SET,
    RecordKind.ROOM_OPENED: _CHANGE,
    RecordKind.ROOM_TOPIC: _CHANGE,
    RecordKind.ROOM_ACCESS: _CHANGE,
    RecordKind.ROOM_ROLE: _CHANGE,
    RecordKind.OFFER_ADDED: _CHANGE,
    RecordKind.OFFER_REMOVED: _CHANGE,
    RecordKind.TEXT_DELETED: _CHANGE,
}
MONEY_KINDS = (
    RecordKind.DEPOSIT,
    RecordKind.WITHDRAW,
    RecordKind.TRANSFER,
    RecordKind.OFFER_TAKEN,
    RecordKind.PAID_IN,
    RecordKind.PAID_OUT,
)
"""Kinds of records that move money: all have the same fields."""
PAID_KINDS = (RecordKind.PAID_IN, RecordKind.PAID_OUT)
"""Those that the operator asked for."""
FIRST_CHANGE = int(RecordKind.ROOM_OPENED)
"""From this kind on a record is of a change of a room."""


def may_tell(kind: int) -> bool:
    """May a record of this kind be published with an event? Then its words of room, room_seq and
    event are where those of a transfer are."""
    return kind in (RecordKind.TRANSFER, RecordKind.OFFER_TAKEN) or kind >= FIRST_CHANGE


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
CHANGE_WORDS = len(COMMON) + sum(field.words for field in _CHANGE)
for _name in ("client_id", "req_id", "client_slot", "room", "room_seq", "event", "digest"):
    assert OFFSETS[RecordKind.ROOM_OPENED][_name] == OFFSETS[RecordKind.TRANSFER][_name], _name

# All but the first word, which is stored last. Native byte order: words of the region. Records of
# money are stored word by word.
NEW_CLIENT = struct.Struct(f"={len(COMMON) + len(_NEW_CLIENT) - 1}Q")
"""Of a NEW_FLOOR, too."""
BLOCK = struct.Struct(f"={len(COMMON) + len(_BLOCK) - 1}Q")
USER_SET = struct.Struct(f"={len(COMMON) + len(_USER_SET) - 1}Q")
PAID = struct.Struct(f"={len(COMMON) + len(_PAID) - 1}Q")
EVENTS_LOST = struct.Struct(f"={len(COMMON) + len(_EVENTS_LOST) - 1}Q")
REGISTER = struct.Struct("=3Q 2Q 32s 16s 32s 32s")
VERIFIER = struct.Struct("=3Q 3Q 16s 32s 32s")
assert VERIFIER.size == sum(field.words for field in COMMON + _VERIFIER) * 8 - 8
assert REGISTER.size == sum(field.words for field in COMMON + _REGISTER) * 8 - 8

"""The live region as named, typed values, for whoever looks at it from outside.

No lock is taken and nothing is stored: a region attached read-only is enough, and an inspector that
is killed leaves no trace. What keeps it right instead is the reader's rule: a record is copied
twice, word by word, and it counts only if the words that publish it are the same in both copies.
Words that stand for themselves (counters, positions) are right one by one, and need not be of one
moment.

Names, kinds and places come from layout.py and records.py; here is only how a kind is read.
"""

import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, TypeAlias

from libproto.messages import RoomAccess
from server.core.events import SlotKind
from server.core.log import NO_JOURNAL
from server.region.layout import (
    OUTCOME_FIELDS,
    OUTCOME_WORDS,
    WORD,
    Field,
    Kind,
    Placed,
    ServerState,
)
from server.region.records import (
    BY_KIND,
    COMMON,
    OFFSETS,
    RecordField,
    RecordKind,
    UserRole,
    UserState,
)
from server.region.region import Region
from server.region.status import state_at


class Mark(Enum):
    """What stands in the place of a value that is not shown."""

    HIDDEN = "«hidden»"  # a secret
    CHANGING = "«changing»"  # it was being written while it was read


class Time(int):
    """Microseconds since the Unix epoch."""


Value: TypeAlias = "int | str | bytes | Mark | Sequence[Value] | Mapping[str, Value] | None"
"""A field as read. None: there is none (no time, no intent, no journal)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as read; `values` is None where it changed meanwhile."""

    index: int
    values: dict[str, Value] | None


# Never shown: who has these can log in as somebody, or tell which names are registered.
SECRETS: Final = frozenset(
    {"salt_secret", "stored_key", "server_key", "other_stored_key", "other_server_key"}
)

# The fields whose (first) words must not have changed between the two copies, for a record to be of
# one moment: its commit word, or what is stored together. A client's slot can go from one client of
# a user to another one of the same user, so its commit word alone would not tell.
GUARDS: Final[dict[str, tuple[str, ...]]] = {
    "users": ("word",),
    "accounts": ("balance", "last_txn"),
    "operator_keys": ("txn",),
    "clients": ("user", "client_id"),
    "sessions": ("id",),
    "rooms": ("last_seq", "oldest_seq", "last_event"),
    "status": ("updated",),
    "roles": ("key", "opened"),
    "offers": ("word",),
    "blocks": ("key",),
    "deletions": ("event",),
    "txn_ring": ("record",),
    "event_ring": ("word",),
}

# A record of these segments is in use where one of these fields is not 0; of others, always.
_USED_BY: Final[dict[str, tuple[str, ...]]] = {
    "users": ("word",),
    "name_index": ("user",),
    "operator_keys": ("txn",),
    "clients": ("user",),
    "client_buckets": ("first",),
    "sessions": ("id",),
    "rooms": ("last_seq", "members", "opened"),
    "roles": ("role",),
    "offers": ("word",),
    "blocks": ("on",),
    "deletions": ("event",),
    "presence": ("connections",),
    "served": ("requests", "sent"),
    "crowd": ("open",),
    "allowances": ("due",),
    "txn_ring": ("record",),
    "event_ring": ("word",),
}
RINGS: Final = ("txn_ring", "event_ring")

_NAMED: Final[dict[tuple[str, str], type[IntEnum]]] = {
    ("header", "state"): ServerState,
    ("users", "role"): UserRole,
    ("users", "state"): UserState,
    ("operator_keys", "kind"): RecordKind,
    ("event_ring", "kind"): SlotKind,
    ("rooms", "access"): RoomAccess,
}
_SEMAPHORE_VALUE: Final = 2**32 - 1  # glibc: the low half of a sem_t's first word; then the waiters


def used_indices(region: Region, segment: str) -> list[int]:
    """The records of a segment that are in use: ascending, those of a ring from the newest on.

    KeyError: no such segment.
    """
    placed = region.layout[segment]
    if segment in RINGS:
        numbers = _column(region, placed, placed.segment.fields[0].name)
        used = [index for index, number in enumerate(numbers) if number]
        return sorted(used, key=numbers.__getitem__, reverse=True)
    if segment == "accounts":  # of the users there are
        return used_indices(region, "users")
    if segment == "account_locks":
        locks = _column(region, placed, "lock")
        return [i for i, lock in enumerate(locks) if lock & _SEMAPHORE_VALUE != 1]
    if segment not in _USED_BY:
        return list(range(placed.records))
    columns = [
        _column(region, placed, name, word)
        for name in _USED_BY[segment]
        for word in range(placed.lengths[name])
    ]
    return [index for index, words in enumerate(zip(*columns, strict=True)) if any(words)]


def read(region: Region, segment: str, index: int) -> Entry:
    """One record. KeyError: no such segment; IndexError: no such record."""
    placed = region.layout[segment]
    first = placed.at(index)
    words = region.words[first : first + placed.stride]
    before = words.tolist()
    values = decode(placed, before, words.tolist())
    if segment == "status" and values is not None:
        state, updated = (before[placed.offsets[name]] for name in ("state", "updated"))
        values["state"] = state_at(state, updated, time.monotonic_ns() // 1000).name
    return Entry(index, values)


def decode(placed: Placed, before: Sequence[int], after: Sequence[int]) -> dict[str, Value] | None:
    """A record's fields by name, given its words in two copies, the second made after the first.
    None where it changed between them."""
    segment = placed.segment
    for name in GUARDS.get(segment.name, ()):
        if before[placed.offsets[name]] != after[placed.offsets[name]]:
            return None
    values: dict[str, Value] = {}
    for field in segment.fields:
        at, length = placed.offsets[field.name], placed.lengths[field.name]
        values[field.name] = _value(
            segment.name, field, before[at : at + length], after[at : at + length]
        )
    if segment.name == "workers" and values["intent"] is None:
        values["intent_event"] = None  # what is left of the one before
    if segment.name == "event_ring":  # the slot is as long as the longest frame
        frame, size = values["frame"], values["frame_len"]
        assert isinstance(frame, bytes)
        assert isinstance(size, int)
        values["frame"] = frame[:size]
    return values


def decode_txn(words: Sequence[int]) -> dict[str, Value] | None:
    """A record of the txn log (or an intent) by its kind; None where its commit word is 0.

    Of a kind that is not known only the number is shown: its words may hold secrets.
    """
    if not words[0]:
        return None
    if words[1] not in BY_KIND:
        return {"txn_id": words[0], "kind": words[1]}
    kind = RecordKind(words[1])
    offsets = OFFSETS[kind]
    values = {
        field.name: _txn_value(field, words[offsets[field.name] :][: field.words])
        for field in COMMON + BY_KIND[kind]
    }
    return values | {"kind": kind.name}


def _column(region: Region, placed: Placed, name: str, word: int = 0) -> list[int]:
    """One word of all records."""
    first = placed.at(0, name) + word
    end = placed.base + placed.records * placed.stride
    return region.words[first : end : placed.stride].tolist()


def _value(segment: str, field: Field, words: Sequence[int], after: Sequence[int]) -> Value:
    if field.name in SECRETS:
        return Mark.HIDDEN
    match field.kind:
        case Kind.TIME:
            return Time(words[0]) if words[0] else None
        case Kind.TEXT:
            return _text(words)
        case Kind.BLOB:
            return _blob(words)
        case Kind.SEMAPHORE:
            return words[0] & _SEMAPHORE_VALUE
        case Kind.BITS:
            return [
                place * WORD * 8 + bit
                for place, word in enumerate(words)
                for bit in range(WORD * 8)
                if word >> bit & 1
            ]
        case Kind.RECORD:
            return decode_txn(words) if words[0] == after[0] else Mark.CHANGING
    if field.name == "outcomes":
        return _outcomes(words, after)
    if field.words != 1:
        return list(words)
    if (segment, field.name) in _NAMED:
        return _name_of(_NAMED[segment, field.name], words[0])
    if segment in ("log", "events") and words[0] == NO_JOURNAL:
        return None
    return words[0]


def _txn_value(field: RecordField, words: Sequence[int]) -> Value:
    if field.name in SECRETS:
        return Mark.HIDDEN
    if field.text:
        return _text(words) if field.text == "text" else _blob(words)
    return Time(words[0]) if field.name == "time" else words[0]


def _outcomes(words: Sequence[int], after: Sequence[int]) -> list[Value]:
    """Those that are there. An outcome has no commit word: all of it must be the same twice."""
    out: list[Value] = []
    for at in range(0, len(words), OUTCOME_WORDS):
        outcome = words[at : at + OUTCOME_WORDS]
        if list(outcome) != list(after[at : at + OUTCOME_WORDS]):
            out.append(Mark.CHANGING)
        elif outcome[0]:
            out.append(dict(zip(OUTCOME_FIELDS, outcome, strict=True)))
    return out


def _blob(words: Sequence[int]) -> bytes:
    return struct.pack(f"={len(words)}Q", *words)


def _text(words: Sequence[int]) -> str:
    """Zero-padded UTF-8; what is not, and what does not print, is escaped."""
    text = _blob(words).rstrip(b"\0").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _name_of(names: type[IntEnum], value: int) -> str | int:
    """The name, or the number where it has none."""
    try:
        return names(value).name
    except ValueError:
        return value

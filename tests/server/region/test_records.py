"""The records of the log: the structs that write them and the table that reads them agree."""

import struct

import pytest

from libproto.messages import TxnKind
from server.region.records import (
    BLOCK,
    BY_KIND,
    CHANGE_WORDS,
    COMMON,
    EVENTS_LOST,
    FIRST_CHANGE,
    FROM_USER,
    MONEY_WORDS,
    NEW_CLIENT,
    OFFSETS,
    PAID,
    PAID_KINDS,
    RECORD_SIZE,
    RECORD_WORDS,
    REGISTER,
    SUPPLY,
    TEXT_BYTES,
    USER_SET,
    VERIFIER,
    RecordKind,
    may_tell,
)

MONEY_KINDS = (RecordKind.DEPOSIT, RecordKind.WITHDRAW, RecordKind.TRANSFER)
CHANGES = [kind for kind in RecordKind if kind >= FIRST_CHANGE]
PACKED = {
    **dict.fromkeys((*MONEY_KINDS, RecordKind.OFFER_TAKEN), struct.Struct(f"={MONEY_WORDS - 1}Q")),
    **dict.fromkeys(CHANGES, struct.Struct(f"={CHANGE_WORDS - 1}Q")),
    RecordKind.TEXT: struct.Struct(f"=3Q{TEXT_BYTES}s"),
    **dict.fromkeys(PAID_KINDS, PAID),
    RecordKind.BLOCK: BLOCK,
    RecordKind.VERIFIER: VERIFIER,
    RecordKind.USER_SET: USER_SET,
    RecordKind.REGISTER: REGISTER,
    RecordKind.NEW_CLIENT: NEW_CLIENT,
    RecordKind.NEW_FLOOR: NEW_CLIENT,
    RecordKind.EVENTS_LOST: EVENTS_LOST,
}


def test_the_first_kinds_are_those_of_the_wire() -> None:
    assert [(kind.name, kind.value) for kind in MONEY_KINDS] == [
        (kind.name, kind.value) for kind in TxnKind
    ]


def test_every_kind_has_its_fields() -> None:
    assert set(BY_KIND) == set(OFFSETS) == set(PACKED) == set(RecordKind)
    assert 0 not in list(RecordKind), "0 is a slot never used"


@pytest.mark.parametrize("kind", RecordKind)
def test_fields_lie_one_after_another_and_fit(kind: RecordKind) -> None:
    end = 0
    for field in COMMON + BY_KIND[kind]:
        assert OFFSETS[kind][field.name] == end, field.name
        assert field.text in ("", "text", "bytes")
        end += field.words
    assert end <= RECORD_WORDS
    assert RECORD_SIZE == RECORD_WORDS * 8
    names = [field.name for field in COMMON + BY_KIND[kind]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", RecordKind)
def test_what_a_struct_packs_stands_where_the_table_says(kind: RecordKind) -> None:
    """Every field gets a value of its own, is packed, and found again at its offset."""
    fields = (COMMON + BY_KIND[kind])[1:]  # the commit word is stored last, by itself
    values: list[int | bytes] = [
        bytes([17 + i]) * (field.words * 8) if field.text else 1_000_000_007 * (i + 1)
        for i, field in enumerate(fields)
    ]
    record = bytes(8) + PACKED[kind].pack(*values)
    assert len(record) <= RECORD_SIZE
    assert len(record) == 8 * sum(field.words for field in COMMON + BY_KIND[kind])
    for field, value in zip(fields, values, strict=True):
        at = OFFSETS[kind][field.name] * 8
        found = record[at : at + field.words * 8]
        assert found == (value if isinstance(value, bytes) else struct.pack("=Q", value))


def test_what_may_tell_of_an_event_says_so_in_one_place() -> None:
    for kind in RecordKind:
        told = [OFFSETS[kind].get(name) for name in ("room", "room_seq", "event")]
        of_transfer = [OFFSETS[RecordKind.TRANSFER][name] for name in ("room", "room_seq", "event")]
        assert (told == of_transfer) == (may_tell(kind) or kind in (*MONEY_KINDS, *PAID_KINDS))


def test_what_is_read_by_place() -> None:
    for offsets in OFFSETS.values():
        assert offsets["txn_id"] == 0, "the commit word"
        assert (offsets["kind"], offsets["supply"]) == (1, SUPPLY)
    assert {OFFSETS[kind]["from_user"] for kind in MONEY_KINDS} == {FROM_USER}

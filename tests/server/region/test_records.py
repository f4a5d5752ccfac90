"""The records of the log: the structs that write them and the table that reads them agree."""

import struct

import pytest

from libproto.messages import TxnKind
from server.region.records import (
    BY_KIND,
    COMMON,
    EVENTS_LOST,
    FROM_USER,
    MONEY_WORDS,
    NEW_CLIENT,
    OFFSETS,
    RECORD_SIZE,
    RECORD_WORDS,
    REGISTER,
    SUPPLY,
    RecordKind,
)

MONEY_KINDS = (RecordKind.DEPOSIT, RecordKind.WITHDRAW, RecordKind.TRANSFER)
PACKED = dict.fromkeys(MONEY_KINDS, struct.Struct(f"={MONEY_WORDS - 1}Q")) | {
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


def test_what_is_read_by_place() -> None:
    for offsets in OFFSETS.values():
        assert offsets["txn_id"] == 0, "the commit word"
        assert (offsets["kind"], offsets["supply"]) == (1, SUPPLY)
    assert {OFFSETS[kind]["from_user"] for kind in MONEY_KINDS} == {FROM_USER}

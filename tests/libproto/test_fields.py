"""Annotations become fields."""

from typing import NamedTuple

import pytest

from libproto.fields import U8, U16, U32, U64, Bytes, Str, fields_of


class Item(NamedTuple):
    number: U16


class Everything(NamedTuple):
    a: U8
    b: U16
    c: U32
    d: U64
    e: Str
    f: Bytes
    g: tuple[Item, ...]


class Wrong(NamedTuple):
    number: int


def test_fields_in_wire_order() -> None:
    fields = fields_of(Everything)
    assert [field.name for field in fields] == list("abcdefg")
    assert [field.kind.name for field in fields] == [
        "u8",
        "u16",
        "u32",
        "u64",
        "str",
        "bytes",
        "list",
    ]
    assert [field.kind.size for field in fields] == [1, 2, 4, 8, 0, 0, 0]
    assert [field.item for field in fields] == [None] * 6 + [Item]


def test_an_annotation_that_is_no_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="number"):
        fields_of(Wrong)

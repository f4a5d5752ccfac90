"""Hypothesis strategies for bodies, made from the annotations of the table."""

from typing import Any

from hypothesis import strategies as st

from libproto.codec import ERROR, PUSH, REQUEST, RESPONSE, Codec
from libproto.fields import Body, Field, fields_of
from libproto.messages import BY_OPCODE

CODECS: dict[str, tuple[int, int, Codec]] = {
    **{f"{BY_OPCODE[o].name}-request": (o, 0, codec) for o, codec in REQUEST.items()},
    **{f"{BY_OPCODE[o].name}-response": (o, 4, codec) for o, codec in RESPONSE.items()},
    **{f"{BY_OPCODE[o].name}-push": (o, 0, codec) for o, codec in PUSH.items()},
    "error": (0, 4, ERROR),
}
"""Every codec under a name for the test's report, with its opcode and its own flags."""


def values(body: Body) -> st.SearchStrategy[tuple[Any, ...]]:
    """Valid values of the fields of a body."""
    return st.tuples(*(_value(field) for field in fields_of(body)))


def _value(field: Field) -> st.SearchStrategy[Any]:
    if field.item is not None:
        item = field.item
        items = values(item).map(lambda fields: item(*fields))
        return st.lists(items, max_size=8).map(tuple)
    if field.kind.name == "str":
        return st.text(st.characters(codec="utf-8"))
    if field.kind.name == "bytes":
        return st.binary()
    return st.integers(0, 256**field.kind.size - 1)

"""The kinds of fields that bodies are made of.

A body is a NamedTuple whose annotations are these kinds. To a type checker a `U32` is an `int`
and a `Str` is a `str`; at import the codec reads the `Kind` behind the annotation. A list of
items is annotated `tuple[Item, ...]`, where Item is a NamedTuple body itself.
"""

from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

Body = type[tuple[Any, ...]]
"""The NamedTuple class that describes a body."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one field travels: its name, and its `struct` code and size in bytes if both are fixed.

    Integers are big-endian. Kinds with no code (str, bytes, list) begin with a u16: the length in
    bytes, or the count of items.
    """

    name: str
    code: str = ""
    size: int = 0


U8 = Annotated[int, Kind("u8", "B", 1)]
U16 = Annotated[int, Kind("u16", "H", 2)]
U32 = Annotated[int, Kind("u32", "I", 4)]
U64 = Annotated[int, Kind("u64", "Q", 8)]
Str = Annotated[str, Kind("str")]
Bytes = Annotated[bytes, Kind("bytes")]

LIST = Kind("list")
"""The kind of every `tuple[Item, ...]`."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a body; `item` is the body class of a list's items, None in other kinds."""

    name: str
    kind: Kind
    item: Body | None = None


def fields_of(body: Body) -> tuple[Field, ...]:
    """The fields of a body class, in wire order. TypeError if an annotation is not a kind."""
    return tuple(
        _field(name, annotation)
        for name, annotation in get_type_hints(body, include_extras=True).items()
    )


def _field(name: str, annotation: Any) -> Field:
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple:
        return Field(name, LIST, arguments[0])
    for argument in arguments:
        if isinstance(argument, Kind):
            return Field(name, argument)
    raise TypeError(f"field {name}: {annotation!r} is not a kind of the wire")

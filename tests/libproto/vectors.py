"""The frames of tests/data/frames.json, which another implementation made.

The file knows the whole protocol. Those of opcodes that are reserved wait for their messages: the
valid frames that tests use are those whose opcode the table has.
"""

import json
from pathlib import Path
from typing import Any

from libproto.codec import ERROR, PUSH, REQUEST, RESPONSE, Codec
from libproto.fields import Body, Field, fields_of
from libproto.messages import BY_OPCODE

_VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "frames.json").read_text(encoding="utf-8")
)

EVERY_VALID: list[dict[str, Any]] = _VECTORS["valid"]
VALID: list[dict[str, Any]] = [v for v in EVERY_VALID if v["opcode"] in BY_OPCODE]
INVALID: list[dict[str, Any]] = _VECTORS["invalid"]
SCRAM: dict[str, Any] = _VECTORS["scram"]
ENCRYPTION: dict[str, Any] = _VECTORS["encryption"]


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["name"]).replace(" ", "-")


def codec_of(vector: dict[str, Any]) -> Codec:
    if vector["status"]:
        return ERROR
    return {"request": REQUEST, "response": RESPONSE, "push": PUSH}[vector["direction"]][
        vector["opcode"]
    ]


def values_of(body: Body, fields: dict[str, Any]) -> tuple[Any, ...]:
    """The fields of a vector as the tuple that a decoder gives."""
    assert list(fields) == [field.name for field in fields_of(body)]
    return tuple(_value(field, fields[field.name]) for field in fields_of(body))


def _value(field: Field, value: Any) -> Any:
    if field.item is not None:
        item = field.item
        return tuple(item(*values_of(item, entry)) for entry in value)
    return bytes.fromhex(value) if field.kind.name == "bytes" else value

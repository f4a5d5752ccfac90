"""A dissector of the protocol for Wireshark, made from the table of messages.

`dissector` joins the tables, as Lua, with the code of `dissector_template.lua`.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum, IntFlag
from importlib.resources import files
from string import Template
from typing import Final, NamedTuple

import libproto
from libproto.errors import Status
from libproto.fields import Body, Field, fields_of
from libproto.framing import KNOWN_FLAGS
from libproto.messages import (
    HEADER_LEN,
    MAGIC,
    MESSAGES,
    RESERVED,
    VERSION,
    Capability,
    ChatBroadcast,
    ErrorBody,
    EventKind,
    Flag,
    Opcode,
    Transaction,
    TxnKind,
)

PORT: Final = 7878
"""A server's own default."""
PROGRAM: Final = f"python -m {libproto.__name__} dissector"

KINDS: Final[Mapping[tuple[Body, str], tuple[str, type[IntEnum]]]] = {
    (ChatBroadcast, "kind"): ("event_kind", EventKind),
    (Transaction, "kind"): ("txn_kind", TxnKind),
}
"""Fields whose values have names: what the dissector calls them, and the names."""
BITS: Final[Mapping[str, type[IntFlag]]] = {"capabilities": Capability}
"""Fields that are bits with names."""
TIMES: Final = frozenset({"time", "client_time", "server_time", "last_seen"})
"""Fields that are microseconds since the Unix epoch."""
MONEY: Final = frozenset({"amount", "balance", "price"})
"""Fields that are minor units."""


HEADER_NAMES: Final = frozenset(
    {
        *("magic", "version", "flags", "header_len", "body_len", "opcode", "status", "req_id"),
        *("checksum", "reserved", "message_name", "body", "encrypted", "compressed", "left_over"),
        *("count", "header", "refused", "ports"),
    }
)
"""What the dissector calls other things below `tradechat.`: fields of a body with these names are
below `tradechat.body.`."""


class _Shown(NamedTuple):
    """A field of the dissector: its name below `tradechat.`, and what its values are."""

    name: str
    kind: str
    label: str
    values: str


def dissector() -> str:
    """The dissector, in Lua."""
    template = files(libproto.__name__).joinpath("dissector_template.lua")
    return Template(template.read_text(encoding="utf-8")).substitute(
        version=libproto.__version__,
        program=PROGRAM,
        port=PORT,
        header_len=HEADER_LEN,
        magic=f"0x{MAGIC:04X}",
        protocol_version=VERSION,
        tables="\n".join(_tables()),
    )


def shown_name(body: Body, field: Field) -> str:
    """What a field is called below `tradechat.`: its own name; with its kind behind it where fields
    of that name are of several kinds."""
    if (body, field.name) in KINDS:
        return KINDS[body, field.name][0]
    if field.name in HEADER_NAMES:
        return f"body.{field.name}"
    kinds = {other.kind.name for _, other in _all_fields() if other.name == field.name}
    return field.name if len(kinds) == 1 else f"{field.name}_{field.kind.name}"


def _bodies(body: Body | None) -> Iterator[Body]:
    """A body, and those of the items in it."""
    if body is not None:
        yield body
        for field in fields_of(body):
            yield from _bodies(field.item)


def _all_fields() -> Iterator[tuple[Body, Field]]:
    yield from ((ErrorBody, field) for field in fields_of(ErrorBody))
    for message in MESSAGES:
        for described in (message.request, message.response, message.push):
            for body in _bodies(described):
                yield from ((body, field) for field in fields_of(body))


def _shown() -> list[_Shown]:
    """Every field of the dissector once, by name."""
    found: dict[str, _Shown] = {}
    for body, field in _all_fields():
        name = shown_name(body, field)
        values = name if (body, field.name) in KINDS else "bits" if field.name in BITS else ""
        found[name] = _Shown(name, field.kind.name, field.name, values)
    return [found[name] for name in sorted(found)]


def _tables() -> Iterator[str]:
    names = {int(opcode): opcode.name for opcode in Opcode} | RESERVED
    yield from _names("OPCODES", {code: names[code] for code in sorted(names)}, "0x{:04X}")
    yield from _names("STATUSES", {int(status): status.name for status in Status})
    for flag in (Flag.RESPONSE, Flag.ENCRYPTED, Flag.COMPRESSED):
        yield f"local {flag.name} = {int(flag)}"
    yield f"local RESERVED_FLAGS = {0xFF & ~KNOWN_FLAGS}"
    yield f"local FLAGS = {_bits(Flag)}"
    yield "local BITS = {"
    yield from (f"    {name} = {_bits(bits)}," for name, bits in BITS.items())
    yield "}"
    yield "local VALUES = {"
    for name, kind in KINDS.values():
        values = ", ".join(f"[{int(each)}] = {_text(each.name.lower())}" for each in kind)
        yield f"    {name} = {{ {values} }},"
    yield "}"
    yield f"local TIMES = {_set(TIMES)}"
    yield f"local MONEY = {_set(MONEY)}"
    yield "local FIELDS = {"
    for each in _shown():
        values = _text(each.values) if each.values else "nil"
        described = ", ".join((_text(each.name), _text(each.kind), _text(each.label), values))
        yield f"    {{ {described} }},"
    yield "}"
    yield f"local ERROR = {_body(ErrorBody)}"
    yield "local BODIES = {"
    for message in MESSAGES:
        yield f"    [0x{int(message.opcode):04X}] = {{ -- {message.name}"
        for direction in ("request", "response", "push"):
            body: Body | None = getattr(message, direction)
            if body is not None:
                yield f"        {direction} = {_body(body)},"
        yield "    },"
    yield "}"


def _names(table: str, names: Mapping[int, str], form: str = "{}") -> Iterator[str]:
    yield f"local {table} = {{"
    yield from (f"    [{form.format(code)}] = {_text(name)}," for code, name in names.items())
    yield "}"


def _bits(bits: type[IntFlag]) -> str:
    return "{ " + ", ".join(f"{{ {int(each)}, {_text(each.name or '')} }}" for each in bits) + " }"


def _set(names: frozenset[str]) -> str:
    return "{ " + ", ".join(f"{name} = true" for name in sorted(names)) + " }"


def _body(body: Body) -> str:
    parts = []
    for field in fields_of(body):
        item = f", {_body(field.item)}" if field.item is not None else ""
        parts.append(f"{{ {_text(shown_name(body, field))}, {_text(field.kind.name)}{item} }}")
    return "{ " + ", ".join(parts) + " }" if parts else "{}"


def _text(text: str) -> str:
    assert text.isascii()
    assert not {'"', "\\"} & set(text)
    return f'"{text}"'

"""Encoders and decoders, made from the table of messages.

Python that walks over a table for every frame costs several times what the work itself does. So
at import, once, the annotations of each body are turned into the source of three functions that
have nothing left to decide, and these are compiled. A body of fixed size is one `struct.Struct`
each way; in others, every run of fixed fields is one, up to and with the length that follows it.

Decoding a body with lengths in it does not check each of them against the body's end: positions
only grow, so if the last one is the end then all of them were inside.
"""

from collections.abc import Callable
from functools import cache
from itertools import repeat, starmap
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, and reads as one
from types import CodeType
from typing import Any
from zlib import crc32

from libproto.errors import MisuseError, PeerError, Status
from libproto.fields import Body, Field, fields_of
from libproto.framing import KNOWN_FLAGS, PREFIX, assemble
from libproto.messages import HEADER_LEN, LIST_MAX, MESSAGES, ErrorBody, Flag
from libproto.wire import COVERED

_RESPONSE = int(Flag.RESPONSE)  # combining IntFlags costs a microsecond, ints do not


class Codec:
    """The functions of one body.

    `decode(buf, start, end)` gives the fields of the body buf[start:end] as a plain tuple, the
    items of lists as tuples of their NamedTuples; `body._make` names them. PeerError
    (ERR_BAD_PACKET) if that is not exactly such a body.

    `encode(*fields)` gives the body, `frame(req_id, flags, *fields)` a whole frame with status 0.
    The frame of a response has RESPONSE set. MisuseError if a value cannot be carried.
    """

    __slots__ = ("body", "decode", "encode", "frame")

    def __init__(self, opcode: int, name: str, body: Body, base_flags: int) -> None:
        self.body = body
        self.decode: Callable[[bytes, int, int], tuple[Any, ...]]
        self.encode: Callable[..., bytes]
        self.frame: Callable[..., bytes]
        fields = fields_of(body)
        writer = _Writer(opcode, name, base_flags)
        if all(field.kind.code for field in fields):
            source = writer.fixed(fields)
        else:
            source = writer.variable(fields)
        exec(_compiled(source), writer.names)  # noqa: S102 - the source comes from our own table alone
        self.decode = writer.names["decode"]
        self.encode = writer.names["encode"]
        self.frame = writer.names["frame"]


@cache
def _compiled(source: str) -> CodeType:
    """Its code: bodies of fixed size differ in nothing but what their names stand for."""
    return compile(source, f"<{__name__}>", "exec")


def error_frame(
    opcode: int, req_id: int, status: int, detail: str, retry_after_ms: int = 0, flags: int = 0
) -> bytes:
    """The response that refuses a request; RESPONSE is set. retry_after_ms 0: do not retry."""
    body = ERROR.encode(retry_after_ms, detail)
    return assemble(opcode, req_id, flags | _RESPONSE, status, body)


class _Writer:
    """Writes the source of one body's functions, and collects the names that they use."""

    def __init__(self, opcode: int, name: str, base_flags: int) -> None:
        self.names: dict[str, Any] = {
            "NAME": name,
            "OPCODE": opcode,
            "FLAGS": base_flags,
            "LIST_MAX": LIST_MAX,
            "StructError": StructError,
            "ENCODE_ERRORS": (StructError, TypeError, AttributeError, ValueError),
            "assemble": assemble,
            "crc32": crc32,
            "bad_count": _bad_count,
            "bad_length": _bad_length,
            "bad_text": _bad_text,
            "count": _count,
            "misuse": _misuse,
            "cut_short": _cut_short,
            "repeat": repeat,
            "starmap": starmap,
            "new": tuple.__new__,
        }
        self.opcode = opcode
        self.base_flags = base_flags
        self.serial = 0

    def bind(self, value: Any) -> str:
        """A fresh global name for a value."""
        self.serial += 1
        name = f"g{self.serial}"
        self.names[name] = value
        return name

    def fixed(self, fields: tuple[Field, ...]) -> str:
        """The functions of a body of fixed size.

        The checksum covers the header up to req_id, which is the same in every frame but for the
        flags, and then req_id, the reserved bytes and the body, which are one pack. So its first
        part is computed here, for each combination of flags.
        """
        codes = "".join(field.kind.code for field in fields)
        layout = Struct(">" + codes)
        prefixes = {}
        for flags in range(KNOWN_FLAGS + 1):
            word = PREFIX | flags | self.base_flags
            prefix = COVERED.pack(word, HEADER_LEN, layout.size, self.opcode, 0, 0)[:14]
            prefixes[flags] = prefix, crc32(prefix)
        self.names |= {
            "SIZE": layout.size,
            "PREFIXES": prefixes,
            "unpack_from": layout.unpack_from,
            "pack_body": layout.pack,
            "pack_covered": Struct(">Q6x" + codes).pack,
            "pack_frame": Struct(">14sQI6x" + codes).pack,
        }
        return """
def decode(buf, start, end):
    if end - start != SIZE:
        raise bad_length(NAME, start + SIZE - end)
    return unpack_from(buf, start)

def encode(*fields):
    try:
        return pack_body(*fields)
    except StructError as error:
        raise misuse(NAME, error) from None

def frame(req_id, flags, *fields):
    try:
        prefix, crc = PREFIXES[flags]
        crc = crc32(pack_covered(req_id, *fields), crc)
        return pack_frame(prefix, req_id, crc, *fields)
    except (KeyError, StructError) as error:
        raise misuse(NAME, error) from None
"""

    def variable(self, fields: tuple[Field, ...]) -> str:
        """The functions of a body with a str, bytes or list in it."""
        values = _targets("f", len(fields))
        decode = self.decoding(fields, "f", "        ")
        prepare, joined = self.encoding(fields, "f", "        ")
        return f"""
def decode(buf, start, end):
    q = start
    try:
{decode}
    except StructError:
        raise cut_short(NAME) from None
    except UnicodeDecodeError:
        raise bad_text(NAME, q - end) from None
    if q != end:
        raise bad_length(NAME, q - end)
    return ({values})

def encode(*fields):
    try:
        {values} = fields
{prepare}
        return {joined}
    except ENCODE_ERRORS as error:
        raise misuse(NAME, error) from None

def frame(req_id, flags, *fields):
    return assemble(OPCODE, req_id, flags | FLAGS, 0, encode(*fields))
"""

    def decoding(self, fields: tuple[Field, ...], prefix: str, indent: str) -> str:
        """Statements that read `fields` from position q on into prefix0, prefix1, … and move q."""
        lines = []
        for run, last in _runs(fields):
            layout = Struct(">" + "".join(field.kind.code for _, field in run) + "H" * (last >= 0))
            targets = [f"{prefix}{index}" for index, _ in run] + ["n"] * (last >= 0)
            unpack = self.bind(layout.unpack_from)
            lines.append(f"{', '.join(targets)}, = {unpack}(buf, q)")
            if last < 0:
                lines.append(f"q += {layout.size}")
                continue
            target, field = f"{prefix}{last}", fields[last]
            if field.item is not None:
                lines.append(f"q += {layout.size}")
                lines += self.decoding_list(field.item, target)
                continue
            lines.append(f"p = q + {layout.size}")
            lines.append("q = p + n")
            text = ".decode()" if field.kind.name == "str" else ""
            lines.append(f"{target} = buf[p:q]{text}")
        return "\n".join(indent + line for line in lines)

    def decoding_list(self, item: Body, target: str) -> list[str]:
        lines = ["if n > LIST_MAX:", "    raise bad_count(NAME, n)"]
        fields, item_name = fields_of(item), self.bind(item)
        if all(field.kind.code for field in fields):
            layout = Struct(">" + "".join(field.kind.code for field in fields))
            unpack = self.bind(layout.iter_unpack)
            return [
                *lines,
                "p = q",
                f"q += n * {layout.size}",
                f"{target} = tuple(map(new, repeat({item_name}), {unpack}(buf[p:q])))",
            ]
        values = _targets(f"{target}_", len(fields))
        return [
            *lines,
            "items = []",
            "for _ in range(n):",
            *self.decoding(fields, f"{target}_", "    ").split("\n"),
            f"    items.append(new({item_name}, ({values})))",
            f"{target} = tuple(items)",
        ]

    def encoding(self, fields: tuple[Field, ...], prefix: str, indent: str) -> tuple[str, str]:
        """Statements that prepare what has a length, and the expression of the whole."""
        lines, terms = [], []
        for run, last in _runs(fields):
            codes = "".join(field.kind.code for _, field in run)
            values = [f"{prefix}{index}" for index, _ in run]
            if last >= 0:
                codes += "H"
                source, raw = f"{prefix}{last}", f"{prefix}{last}_raw"
                field = fields[last]
                if field.item is not None:
                    values.append(f"count({source})")
                    lines += self.encoding_list(field.item, source, raw)
                else:
                    text = ".encode()" if field.kind.name == "str" else ""
                    lines.append(f"{raw} = {source}{text}")
                    values.append(f"len({raw})")
            terms.append(f"{self.bind(Struct('>' + codes).pack)}({', '.join(values)})")
            if last >= 0:
                terms.append(raw)
        return "\n".join(indent + line for line in lines), " + ".join(terms)

    def encoding_list(self, item: Body, source: str, raw: str) -> list[str]:
        fields = fields_of(item)
        if all(field.kind.code for field in fields):
            layout = Struct(">" + "".join(field.kind.code for field in fields))
            return [f"{raw} = b''.join(starmap({self.bind(layout.pack)}, {source}))"]
        values = _targets(f"{source}_", len(fields))
        prepare, joined = self.encoding(fields, f"{source}_", "    ")
        return [
            "items = []",
            f"for {values} in {source}:",
            *prepare.split("\n"),
            f"    items.append({joined})",
            f"{raw} = b''.join(items)",
        ]


def _targets(prefix: str, count: int) -> str:
    return "".join(f"{prefix}{index}, " for index in range(count))


def _runs(fields: tuple[Field, ...]) -> list[tuple[list[tuple[int, Field]], int]]:
    """Cut fields into runs of fixed ones, each with the index of the one that ends it, or -1."""
    runs = []
    run: list[tuple[int, Field]] = []
    for index, field in enumerate(fields):
        if field.kind.code:
            run.append((index, field))
        else:
            runs.append((run, index))
            run = []
    if run:
        runs.append((run, -1))
    return runs


# What the generated functions raise. Each gives the exception, so that the `raise` is theirs.


def _bad_length(name: str, missing: int) -> PeerError:
    what = f"{missing} missing" if missing > 0 else f"{-missing} left over"
    return PeerError(Status.ERR_BAD_PACKET, f"{name}: bytes of the body: {what}")


def _cut_short(name: str) -> PeerError:
    return PeerError(Status.ERR_BAD_PACKET, f"{name}: the body ends inside a field")


def _bad_text(name: str, missing: int) -> PeerError:
    if missing > 0:  # the text was cut out past the end of the body, so it is no text at all
        return _bad_length(name, missing)
    return PeerError(Status.ERR_BAD_PACKET, f"{name}: a string is not UTF-8")


def _bad_count(name: str, count: int) -> PeerError:
    return PeerError(
        Status.ERR_BAD_PACKET, f"{name}: a list of {count}, at most {LIST_MAX} allowed"
    )


def _misuse(name: str, error: Exception) -> MisuseError:
    return MisuseError(f"{name}: {type(error).__name__}: {error}")


def _count(items: tuple[Any, ...]) -> int:
    if len(items) > LIST_MAX:
        raise MisuseError(f"a list of {len(items)}, at most {LIST_MAX} allowed")
    return len(items)


REQUEST: dict[int, Codec] = {}
"""Codecs of request bodies, by opcode."""
RESPONSE: dict[int, Codec] = {}
"""Codecs of the bodies of responses with status OK, by opcode."""
PUSH: dict[int, Codec] = {}
"""Codecs of the bodies of pushes, by opcode; their req_id is 0."""
ERROR = Codec(0, "error response", ErrorBody, _RESPONSE)
"""The body of every response whose status is not OK. Its frames are made by `error_frame`."""

for _message in MESSAGES:
    _opcode, _name = int(_message.opcode), _message.name
    if _message.request is not None:
        REQUEST[_opcode] = Codec(_opcode, f"{_name} request", _message.request, 0)
    if _message.response is not None:
        RESPONSE[_opcode] = Codec(_opcode, f"{_name} response", _message.response, _RESPONSE)
    if _message.push is not None:
        PUSH[_opcode] = Codec(_opcode, f"{_name} push", _message.push, 0)

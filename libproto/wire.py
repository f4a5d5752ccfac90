"""The bytes of a frame's header and its checksum: the interpreted twin of wire.pxd.

What is here does in Python what wire.pxd does in C for the modules that are compiled. Both are
called by the same names, `wire.header` and so on, and answer the same.
"""

from struct import Struct
from typing import Final
from zlib import crc32

# magic, version and flags as one u32; header_len; body_len; opcode; status; req_id; and then the
# checksum and the reserved bytes (a u16 and a u32)
HEADER: Final = Struct(">IHIHHQIHI")
SEALED: Final = Struct(">IHIHHQ")
"""The header bytes that are sealed with an encrypted body: those before the checksum."""
COVERED: Final = Struct(">IHIHHQ6x")
"""The header bytes that the checksum covers: all but the checksum itself."""
CHECKSUM_AT: Final = 22
"""Offset of the checksum, the end of the header's first covered part."""
RESERVED_AT: Final = CHECKSUM_AT + 4
"""Offset of the reserved bytes, from where the checksum covers everything again."""

# From this frame length on, a view costs less than a copy.
_VIEW_MIN: Final = 1024

header: Final = HEADER.unpack_from
"""The fields of the header at an offset, as in HEADER. The bytes are there: callers have looked."""


def checksum(data: bytes, start: int, end: int) -> int:
    """CRC-32/ISO-HDLC over all of the frame data[start:end] but its checksum field."""
    if end - start < _VIEW_MIN:
        return crc32(data[start + 26 : end], crc32(data[start : start + 22]))
    return crc32(memoryview(data)[start + 26 : end], crc32(data[start : start + 22]))


def frame(word: int, opcode: int, status: int, req_id: int, body: bytes) -> bytes:
    """A whole frame around a body; word: its first four bytes. StructError where a field is out of
    range, OverflowError of the compiled twin."""
    size = len(body)
    head = COVERED.pack(word, 32, size, opcode, status, req_id)
    crc = crc32(body, crc32(head))
    return HEADER.pack(word, 32, size, opcode, status, req_id, crc, 0, 0) + body


def head(word: int, body_len: int, opcode: int, status: int, req_id: int) -> bytes:
    """The first 22 bytes of a header, those before the checksum; as `frame` otherwise."""
    return SEALED.pack(word, 32, body_len, opcode, status, req_id)


def crc(data: bytes, before: int) -> int:
    """CRC-32/ISO-HDLC of these bytes, behind those whose checksum is `before`; 0: of them alone."""
    return crc32(data, before)


# the numbers that stand above in place of names, which would be looked up for every frame
assert (HEADER.size, COVERED.size, CHECKSUM_AT, RESERVED_AT) == (32, 28, 22, 26)
assert SEALED.size == CHECKSUM_AT

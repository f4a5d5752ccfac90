"""Frames: the header, the checksum, and a decoder for a stream that is cut anywhere.

The decoder knows nothing of opcodes or bodies. It refuses a bad header before it reads a body,
so a length that lies costs nothing, and it says with each frame what is wrong with the frame
itself; what the frame asks for is the concern of the session and the codec.

`Decoder.next` is on the hot path of the server. Whole frames are taken in place from the bytes
that were fed; only a frame that spans two feeds is ever copied.
"""

from enum import IntEnum
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class, and reads as one
from zlib import crc32

from libproto.errors import MisuseError
from libproto.messages import HEADER_LEN, MAGIC, VERSION, Flag

Frame = tuple[int, int, int, int, bytes, int, int, int]
"""opcode, req_id, flags, status, buf, start, end, fault. The body is buf[start:end]."""

# magic, version and flags as one u32; header_len; body_len; opcode; status; req_id; and then the
# checksum and the reserved bytes (a u16 and a u32)
HEADER = Struct(">IHIHHQIHI")
COVERED = Struct(">IHIHHQ6x")
"""The header bytes that the checksum covers: all but the checksum itself."""
PREFIX = MAGIC << 16 | VERSION << 8
"""The first four bytes of a frame with no flags set."""
CHECKSUM_AT = 22
"""Offset of the checksum, the end of the header's first covered part."""
RESERVED_AT = CHECKSUM_AT + 4
"""Offset of the reserved bytes, from where the checksum covers everything again."""
KNOWN_FLAGS = int(~Flag(0))

assert HEADER.size == HEADER_LEN
assert COVERED.size == HEADER_LEN - 4

# From this body length on, a view costs less than a copy of the body.
_VIEW_MIN = 1024


class Fault(IntEnum):
    """What is wrong with a frame. The names are in the order of the checks."""

    NONE = 0
    HEADER = 1
    """Magic, version, header_len, or body_len over the maximum. Nothing after it is a frame."""
    CHECKSUM = 2
    RESERVED = 3
    """A reserved flag or a reserved byte is not 0."""


def checksum(frame: bytes) -> int:
    """CRC-32/ISO-HDLC over all of a frame but its checksum field."""
    return crc32(frame[RESERVED_AT:], crc32(frame[:CHECKSUM_AT]))


def assemble(opcode: int, req_id: int, flags: int, status: int, body: bytes) -> bytes:
    """A whole frame around a body. MisuseError if a header field is out of range."""
    if flags & ~KNOWN_FLAGS:
        raise MisuseError(f"flags {flags:#x}: there are no such flags")
    word = PREFIX | flags
    size = len(body)
    try:
        head = COVERED.pack(word, HEADER_LEN, size, opcode, status, req_id)
        crc = crc32(body, crc32(head))
        return HEADER.pack(word, HEADER_LEN, size, opcode, status, req_id, crc, 0, 0) + body
    except StructError as error:
        raise MisuseError(f"header: {error}") from None


class Decoder:
    """Takes a stream in pieces of any size, gives its frames.

    `max_body_len` (bytes) may be changed between frames. After a HEADER fault the decoder is
    `dead`: where the next frame begins is unknown, so it holds nothing, discards what it is fed,
    and gives no more frames.
    """

    __slots__ = ("_data", "_pos", "_tail", "dead", "max_body_len")

    def __init__(self, max_body_len: int) -> None:
        self.max_body_len = max_body_len
        self.dead = False
        self._data = b""  # parsed in place from _pos on
        self._pos = 0
        self._tail = bytearray()  # what was fed after _data, while _data holds half a frame

    @property
    def buffered(self) -> int:
        """Bytes held that were not yet given as frames."""
        return len(self._data) - self._pos + len(self._tail)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        if self._pos == len(self._data) and not self._tail:
            if not self.dead:
                self._data = data
                self._pos = 0
        else:
            self._tail += data

    def next(self) -> Frame | None:
        """The next frame, or None if it is not complete. A HEADER fault needs only the header."""
        data = self._data
        pos = self._pos
        start = pos + 32
        size = len(data)
        if start > size:
            return self._refill(32) if pos < size or self._tail else None
        head, header_len, body_len, opcode, status, req_id, crc, high, low = _unpack(data, pos)
        flags = head ^ 0x4E530100
        if flags > 0xFF or header_len != 32 or body_len > self.max_body_len:
            self._data = b""
            self._pos = 0
            self._tail.clear()
            self.dead = True
            return opcode, req_id, flags & 0xFF, status, b"", 0, 0, 1
        end = start + body_len
        if end > size:
            return self._refill(32 + body_len)
        self._pos = end
        if body_len < _VIEW_MIN:
            found = crc32(data[pos + 26 : end], crc32(data[pos : pos + 22]))
        else:
            found = crc32(memoryview(data)[pos + 26 : end], crc32(data[pos : pos + 22]))
        if found != crc:
            return opcode, req_id, flags, status, data, start, end, 2
        if high or low or flags > 0x0F:
            return opcode, req_id, flags, status, data, start, end, 3
        return opcode, req_id, flags, status, data, start, end, 0

    def _refill(self, needed: int) -> Frame | None:
        """Go on once `needed` bytes are there: join what is held only then.

        A frame is thus joined at most twice, for its header and for its body, however many pieces
        it comes in, and what is kept of the bytes fed is only the half frame at their end.
        """
        if self._pos:
            self._data = self._data[self._pos :]
            self._pos = 0
        if not self._tail or len(self._data) + len(self._tail) < needed:
            return None
        self._data += self._tail
        self._tail.clear()
        return self.next()


_unpack = HEADER.unpack_from
# the numbers that next() has in place of names, which would be looked up for every frame
assert (PREFIX, KNOWN_FLAGS) == (0x4E530100, 0x0F)
assert (HEADER_LEN, CHECKSUM_AT, RESERVED_AT) == (32, 22, 26)
assert tuple(Fault) == (0, 1, 2, 3)

"""Frames: the header, the checksum, and a decoder for a stream that is cut anywhere.

The decoder knows nothing of opcodes or bodies. It refuses a bad header before it reads a body,
so a length that lies costs nothing, and it says with each frame what is wrong with the frame
itself; what the frame asks for is the concern of the session and the codec.

`Decoder.following` is on the hot path of the server. Whole frames are taken in place from the bytes
that were fed; only a frame that spans two feeds is ever copied.
"""

from enum import IntEnum
from struct import error as StructError  # noqa: N812 - it is a class, and reads as one

from libproto import wire
from libproto.errors import MisuseError
from libproto.messages import HEADER_LEN, MAGIC, VERSION, Flag
from libproto.wire import CHECKSUM_AT, HEADER, RESERVED_AT

Frame = tuple[int, int, int, int, bytes, int, int, int]
"""opcode, req_id, flags, status, buf, start, end, fault. The body is buf[start:end]."""

PREFIX = MAGIC << 16 | VERSION << 8
"""The first four bytes of a frame with no flags set."""
KNOWN_FLAGS = int(~Flag(0))


class Fault(IntEnum):
    """What is wrong with a frame. The names are in the order of the checks."""

    NONE = 0
    HEADER = 1
    """Magic, version, header_len, or body_len over the maximum. Nothing after it is a frame."""
    CHECKSUM = 2
    SEALING = 3
    """In the clear where encryption is agreed, or it does not open; see `libproto.wrapping`."""
    RESERVED = 4
    """A reserved flag or a reserved byte is not 0."""
    INFLATION = 5
    """COMPRESSED, and not exactly one complete zlib stream; see `libproto.wrapping`."""


def checksum(frame: bytes) -> int:
    """CRC-32/ISO-HDLC over all of a frame but its checksum field. MisuseError: it has no header."""
    if len(frame) < HEADER_LEN:
        raise MisuseError(f"a frame of {len(frame)} bytes: its header alone has {HEADER_LEN}")
    return wire.checksum(frame, 0, len(frame))


def assemble(opcode: int, req_id: int, flags: int, status: int, body: bytes) -> bytes:
    """A whole frame around a body. MisuseError if a header field is out of range."""
    if flags & ~KNOWN_FLAGS:
        raise MisuseError(f"flags {flags:#x}: there are no such flags")
    try:
        return wire.frame(PREFIX | flags, opcode, status, req_id, body)
    except (StructError, OverflowError, TypeError) as error:
        raise MisuseError(f"header: {error}") from None


class Decoder:
    """Takes a stream in pieces of any size, gives its frames.

    `following` puts a frame into the attributes `opcode`, `req_id`, `flags`, `status`, `buf`,
    `start`, `end` and `fault`; they mean nothing before the first frame, after a False, and after
    a further `feed`. `next` gives it as a tuple.

    `max_body_len` (bytes) may be changed between frames. After a HEADER fault the decoder is
    `dead`: where the next frame begins is unknown, so it holds nothing, discards what it is fed,
    and gives no more frames.
    """

    __slots__ = (
        "_tail",
        "buf",
        "dead",
        "end",
        "fault",
        "flags",
        "max_body_len",
        "opcode",
        "req_id",
        "start",
        "status",
    )

    def __init__(self, max_body_len: int) -> None:
        self.max_body_len = max_body_len
        self.dead = False
        self.buf = b""  # parsed in place: the next frame begins where the last one ended
        self.end = 0
        self._tail = bytearray()  # what was fed after buf, while buf holds half a frame
        self.opcode = 0
        self.req_id = 0
        self.flags = 0
        self.status = 0
        self.start = 0
        self.fault = 0

    @property
    def buffered(self) -> int:
        """Bytes held that were not yet given as frames."""
        return len(self.buf) - self.end + len(self._tail)

    @property
    def waiting(self) -> int:
        """Whole frames held that were not yet given, as far as they came in one piece."""
        data, pos, found = self.buf, self.end, 0
        while pos + HEADER_LEN <= len(data):
            pos += HEADER_LEN + wire.header(data, pos)[2]
            found += pos <= len(data)
        return found

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        if self.end == len(self.buf) and not self._tail:
            if not self.dead:
                self.buf = data
                self.end = 0
        else:
            self._tail += data

    def next(self) -> Frame | None:
        """The next frame, or None if it is not complete. A HEADER fault needs only the header."""
        if not self.following():
            return None
        return (
            self.opcode,
            self.req_id,
            self.flags,
            self.status,
            self.buf,
            self.start,
            self.end,
            self.fault,
        )

    def following(self) -> bool:
        """Go to the next frame, as `next` does; False if it is not complete."""
        data = self.buf
        pos = self.end
        start = pos + 32
        size = len(data)
        if start > size:
            return self._refill(32) if pos < size or self._tail else False
        head, header_len, body_len, opcode, status, req_id, crc, high, low = wire.header(data, pos)
        flags = head ^ 0x4E530100
        self.opcode = opcode
        self.req_id = req_id
        self.flags = flags & 0xFF
        self.status = status
        if flags > 0xFF or header_len != 32 or body_len > self.max_body_len:
            self.buf = b""
            self.start = 0
            self.end = 0
            self._tail.clear()
            self.dead = True
            self.fault = 1
            return True
        end = start + body_len
        if end > size:
            return self._refill(32 + body_len)
        self.start = start
        self.end = end
        if wire.checksum(data, pos, end) != crc:
            self.fault = 2
        elif high or low or flags > 0x0F:
            self.fault = 4
        else:
            self.fault = 0
        return True

    def _refill(self, needed: int) -> bool:
        """Go on once `needed` bytes are there: join what is held only then.

        A frame is thus joined at most twice, for its header and for its body, however many pieces
        it comes in, and what is kept of the bytes fed is only the half frame at their end.
        """
        if self.end:
            self.buf = self.buf[self.end :]
            self.end = 0
        if not self._tail or len(self.buf) + len(self._tail) < needed:
            return False
        self.buf += self._tail
        self._tail.clear()
        return self.following()


# the numbers that stand above in place of names, which would be looked up for every frame
assert (PREFIX, KNOWN_FLAGS) == (0x4E530100, 0x0F)
assert (HEADER_LEN, CHECKSUM_AT, RESERVED_AT, HEADER.size) == (32, 22, 26, 32)
assert tuple(Fault) == (0, 1, 2, 3, 4, 5)

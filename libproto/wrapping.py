"""Frames of a connection on which encryption or compression was agreed.

A frame that leaves is compressed where that makes it shorter, and then sealed; one that comes is
opened and then inflated. What is above and below knows plain frames only: `Wrapper` takes them as
they are, and `Unwrapper` is a decoder that gives them as they were.

Nobody can have us hold more than a frame may: an inflated body is never longer than max_body_len,
however short it was on the wire.
"""

import zlib
from typing import TYPE_CHECKING, Final

from libproto import wire
from libproto.errors import MisuseError
from libproto.framing import Decoder, Fault
from libproto.messages import HEADER_LEN, SEAL_LEN, Flag
from libproto.wire import SEALED

if TYPE_CHECKING:  # it loads slowly, and not every connection needs it
    from libproto.sealing import Opener, Sealer

COMPRESS_MIN: Final = 512
"""Bytes of a body from where on it is compressed: a shorter one hardly gets shorter by that."""
_LEVEL: Final = 1

_HEADER_LEN = HEADER_LEN
_ENCRYPTED, _COMPRESSED = int(Flag.ENCRYPTED), int(Flag.COMPRESSED)
_HEADER, _CHECKSUM, _SEALING, _INFLATION = map(
    int, (Fault.HEADER, Fault.CHECKSUM, Fault.SEALING, Fault.INFLATION)
)


def inflate(body: bytes, max_len: int) -> bytes | None:
    """What is in exactly one complete zlib stream; None where it is not that, or is longer."""
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(body, max_len + 1)
    except zlib.error:
        return None
    if len(inflated) > max_len or not stream.eof or stream.unused_data:
        return None
    return inflated


class Wrapper:
    """What leaves on one connection."""

    __slots__ = ("_compressed", "_sealer")

    def __init__(self, sealer: "Sealer | None", compressed: int | None = None) -> None:
        """sealer: None where no encryption was agreed. compressed: flags that a frame has which is
        to be compressed, 0 for all of them; None where that was not agreed."""
        self._sealer = sealer
        self._compressed = compressed

    def close(self) -> None:
        """Let go of the key."""
        if self._sealer is not None:
            self._sealer.close()

    def wrap(self, data: bytes) -> bytes:
        """The same frames as they are sent, in the order in which they are. data: whole ones."""
        pos, size = 0, len(data)
        wrapped = []
        while pos + _HEADER_LEN <= size:
            head, _, body_len, opcode, status, req_id, _, _, _ = wire.header(data, pos)
            start = pos + _HEADER_LEN
            pos = start + body_len
            wrapped.append(self._frame(head, opcode, status, req_id, data[start:pos]))
        if pos != size:
            raise MisuseError("only whole frames can be wrapped")
        return wrapped[0] if len(wrapped) == 1 else b"".join(wrapped)

    def _frame(self, head: int, opcode: int, status: int, req_id: int, body: bytes) -> bytes:
        wanted, sealer = self._compressed, self._sealer
        if wanted is not None and len(body) >= COMPRESS_MIN and head & wanted == wanted:
            deflated = zlib.compress(body, _LEVEL)
            if len(deflated) < len(body):
                head, body = head | _COMPRESSED, deflated
        if sealer is not None:
            head |= _ENCRYPTED
            body = sealer.seal(wire.head(head, len(body) + 16, opcode, status, req_id), body)
        return wire.frame(head, opcode, status, req_id, body)


class Unwrapper(Decoder):
    """Gives the frames of a decoder as they were before they were wrapped, without ENCRYPTED and
    COMPRESSED. Those flags are left where they were not agreed.

    What does not open is a SEALING fault, and what does not inflate an INFLATION fault.
    """

    __slots__ = ("_inflates", "_opener", "_stream")

    def __init__(self, stream: Decoder, opener: "Opener | None", inflates: bool) -> None:
        """stream: where the frames come from, also those that it holds already. opener: None where
        no encryption was agreed. inflates: compression was."""
        Decoder.__init__(self, stream.max_body_len)
        self._stream = stream
        self._opener = opener
        self._inflates = inflates

    def agree(self, opener: "Opener | None", inflates: bool) -> None:
        """What holds from the next frame on; as where it is made."""
        self._opener = opener
        self._inflates = inflates

    def close(self) -> None:
        """Let go of the key: nothing opens any more."""
        if self._opener is not None:
            self._opener.close()

    @property
    def buffered(self) -> int:
        return self._stream.buffered

    @property
    def waiting(self) -> int:
        return self._stream.waiting

    def feed(self, data: bytes) -> None:
        self._stream.feed(data)

    def following(self) -> bool:
        stream, opener = self._stream, self._opener
        stream.max_body_len = self.max_body_len
        if not stream.following():
            return False
        flags, fault = stream.flags, stream.fault
        buf, start, end = stream.buf, stream.start, stream.end
        if fault == _HEADER:
            self.dead = True
        elif opener is not None:
            if fault == _CHECKSUM:
                opener.skip()
            elif not flags & _ENCRYPTED:
                opener.skip()
                fault = _SEALING
            else:
                at = start - _HEADER_LEN
                body = opener.open(buf[at : at + 22], buf[start:end])
                if body is None:
                    fault = _SEALING
                else:
                    flags ^= _ENCRYPTED
                    buf, start, end = body, 0, len(body)
        if self._inflates and not fault and flags & _COMPRESSED:
            body = inflate(buf[start:end], self.max_body_len)
            if body is None:
                fault = _INFLATION
            else:
                flags ^= _COMPRESSED
                buf, start, end = body, 0, len(body)
        self.opcode = stream.opcode
        self.req_id = stream.req_id
        self.status = stream.status
        self.flags = flags
        self.buf = buf
        self.start = start
        self.end = end
        self.fault = fault
        return True


# the numbers that stand above in place of names, which would be looked up for every frame
assert (SEALED.size, HEADER_LEN, SEAL_LEN) == (22, 32, 16)

"""The asyncio transport of framed connections, for servers and clients alike.

What a peer can make us hold is bounded: output over its high mark stops the reading and the
handling of frames until the peer has read, and one connection handles only a fair share of frames
before the others have their turn. All that a turn produces leaves in one write.

An answer may come later than its turn. `pending` counts those: the connection does not end in order
before they are sent. `held` keeps the frames after one unhandled, where an answer must not be
overtaken, or too much is owed.

Subclasses say what to do with a frame; this module knows nothing of opcodes.
"""

import asyncio
from time import time_ns
from typing import Final, cast

from libproto.framing import Decoder, Frame

FAIR_FRAMES: Final = 64  # of one connection and turn
HIGH_MARK: Final = 256 * 1024  # bytes of output that wait for the peer
LOW_MARK: Final = 64 * 1024
FLUSH_S: Final = 10.0  # after a half-close: how long a slow reader may take for what is left
LINGER_S: Final = 1.0  # after a half-close: how long what still arrives is discarded


class FrameProtocol(asyncio.Protocol):
    """One connection: bytes in, frames handled, frames out."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_body_len: int) -> None:
        self.loop: Final = loop
        self.decoder: Final = Decoder(max_body_len)
        self.transport: asyncio.Transport | None = None
        self.out: list[bytes] = []
        self.now = 0  # wall clock of this turn, microseconds since the Unix epoch: one look for all
        self.choked = False  # the output is over its high mark
        self.ending = False  # set by `handle`: this answer is the last one
        self.closing = False  # half-closed or closed: nothing is handled any more
        self.pending = 0  # answers that come later
        self.held = False  # frames wait until an answer has come
        self._finishing = False  # nothing is handled any more, but answers are owed
        self._ended = False  # the peer has sent its last byte
        self._scheduled = False  # a further turn is due

    # ---- for subclasses

    def handle(self, frame: Frame) -> bytes | None:
        """What one frame is answered with: whole frames, or None. Called in order of arrival.
        May set `ending`: the answer is sent, and the connection is finished."""
        raise NotImplementedError

    def opened(self) -> None:
        """The connection is there."""

    def relieved(self) -> None:
        """The peer has read enough: the output is below its low mark again."""

    def lost(self) -> None:
        """The connection is gone. Called once."""

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio.Transport by their methods, and not by their class
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_MARK, low=LOW_MARK)
        self.opened()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self.decoder.feed(data)
        if not self._scheduled and not self.choked and not self.held:
            self.turn()

    def turn(self) -> None:
        """Handle a fair share of the frames that are there, and send the answers in one write."""
        self._scheduled = False
        if self.closing or self.choked or self.held or self._finishing:
            return
        self.now = time_ns() // 1000
        out, following, handle = self.out, self.decoder.next, self.handle
        size = 0
        for _ in range(FAIR_FRAMES):
            frame = following()
            if frame is None:
                if self._ended:
                    self.finish()
                break
            answer = handle(frame)
            if answer is not None:
                out.append(answer)
                size += len(answer)
                if size > HIGH_MARK:
                    self._again()
                    break
            if self.ending or self.held:
                break
        else:
            self._again()
        if self.ending:
            self.finish()
        elif out:
            self.flush()

    def _again(self) -> None:
        """There may be more frames here: let the others have their turn first."""
        if not self._scheduled and self.transport is not None and not self.closing:
            self._scheduled = True
            if not self._ended:
                self.transport.pause_reading()
            self.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self.turn()
        if not (self._scheduled or self.choked or self.held or self.closing or self._ended):
            assert self.transport is not None
            self.transport.resume_reading()

    def hold(self) -> None:
        """Handle no frame after this one until `release`."""
        if not self.held:
            self.held = True
            if self.transport is not None and not self.closing and not self._ended:
                self.transport.pause_reading()

    def release(self) -> None:
        """Go on with the frames that wait."""
        if self.held:
            self.held = False
            if not self.closing and not self._scheduled:
                self._scheduled = True
                self.loop.call_soon(self._next_turn)

    def settle(self) -> None:
        """Answers that were owed have been sent, or will never be: go on where it was for them."""
        if self.pending:
            return
        if self._finishing:
            self._finishing = False
            self.finish()
        else:
            self.release()

    def flush(self) -> None:
        """Send what waits in `out`, in one write."""
        if self.out and self.transport is not None:
            data = self.out[0] if len(self.out) == 1 else b"".join(self.out)
            self.out.clear()
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.choked = True
        if self.transport is not None and not self.closing:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.choked = False
        if self.closing:
            return
        self.relieved()
        self._scheduled = True
        self.loop.call_soon(self._next_turn)

    def eof_received(self) -> bool:
        """The peer half-closed: what it sent is still answered."""
        self._ended = True
        if self.closing:
            self.abort()  # we half-closed before: now both ends are done
        elif not self._scheduled and not self.choked and not self.held:
            self.finish()
        return True

    @property
    def busy(self) -> bool:
        """Frames that have arrived still wait for their turn, or answers are owed."""
        return self._scheduled or self.held or self.pending > 0

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.closing = True
        self.transport = None
        self.out.clear()
        self.lost()

    # ---- ending

    def finish(self) -> None:
        """Send what waits, half-close, and discard what still arrives for a moment, so that the
        last answer is not lost to a reset."""
        if self.closing:
            return
        if self.pending:
            self._finishing = True
            if self.transport is not None:
                self.transport.pause_reading()  # what comes now waits in the kernel
            return
        self.closing = True
        transport = self.transport
        if transport is None:
            return
        self.flush()
        if self._ended or not transport.can_write_eof():
            transport.close()
            return
        transport.resume_reading()
        transport.write_eof()
        self.loop.call_later(LINGER_S, self._lingered, self.loop.time() + FLUSH_S)

    def _lingered(self, deadline: float) -> None:
        """Abort, but leave a slow reader some time for the output that it still is to get."""
        transport = self.transport
        if transport is None:
            return
        if transport.get_write_buffer_size() and self.loop.time() < deadline:
            self.loop.call_later(LINGER_S, self._lingered, deadline)
        else:
            transport.abort()

    def abort(self) -> None:
        """End at once; what waits is lost."""
        if self.transport is not None:
            self.transport.abort()

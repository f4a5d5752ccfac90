"""The protocol of framed connections: bytes in, frames handled, frames out.

What a peer can make us hold is bounded: output over its high mark stops the reading and the
handling of frames until the peer has read, and one connection handles only a fair share of frames
before the others have their turn. All that a turn produces leaves in one write.

Where a connection stands is its phase; why it is not read just now is a set of reasons. Reading
follows from these two in one place, `_update`, and nothing else pauses or resumes the transport.

An answer may come later than its turn. `pending` counts those: the connection does not end in order
before they are sent. Where an answer must not be overtaken, or too many are owed, the frames after
it wait: `pause(ANSWER_FIRST)`. `background` counts requests that others may overtake: they keep the
connection from ending, and nothing else.

Frames are plain on this side of the transport: where something else was agreed (`agree`), those
that leave go through a wrapper as they are written, in that order, and those that come through a
decoder that undoes the same.

Subclasses say what to do with a frame; this module knows nothing of opcodes.
"""

import asyncio
from enum import IntEnum
from typing import Final, Protocol

from libnet import kernel
from libproto.framing import Decoder
from libproto.wrapping import Wrapper

FAIR_FRAMES: Final = 64  # of one connection and turn
HIGH_MARK: Final = 256 * 1024  # bytes of output that wait for the peer
LOW_MARK: Final = 64 * 1024
LONG_MIN: Final = 16 * 1024  # bytes of a piece: from here on a copy costs more than a write
FLUSH_S: Final = 10.0  # after a half-close: how long a slow reader may take for what is left
LINGER_S: Final = 1.0  # after a half-close: how long what still arrives is discarded

# What each turn asks: where this is compiled they are numbers of the machine.
_FAIR_FRAMES, _HIGH_MARK = FAIR_FRAMES, HIGH_MARK


class Phase(IntEnum):
    """Where a connection stands; it only goes forward."""

    OPEN = 0  # frames are handled
    FINISHING = 1  # no frame is handled any more; the answers that are owed are sent first
    CLOSING = 2  # half-closed or aborted: what still arrives is discarded
    CLOSED = 3  # gone


# Reasons not to read, as bits of a set. While there is one, no frame is handled either.
OUTPUT_FULL: Final = 1  # the peer does not read: output is over its high mark
ANSWER_FIRST: Final = 2  # an answer must come before the next frame
OTHERS_FIRST: Final = 4  # a further turn is due, after those of the other connections
TOO_FAST: Final = 8  # the peer sends more than its share


class Transport(Protocol):
    """What is asked of a transport: these methods of asyncio.Transport, and `limit_buffers` of the
    pump's."""

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...
    def limit_buffers(self, size: int) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def is_closing(self) -> bool: ...
    def is_reading(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def write(self, data: bytes, /) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def fileno(self) -> int: ...


class FrameProtocol:
    """One connection: bytes in, frames handled, frames out. To its transport it is an
    asyncio.Protocol."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_body_len: int) -> None:
        self.loop: Final = loop
        self.decoder = Decoder(max_body_len)
        self.wrapper: Wrapper | None = None  # of what leaves
        self.transport: Transport | None = None
        self.out: Final[list[bytes]] = []
        self.now = 0  # wall clock of this turn, microseconds since the Unix epoch: one look for all
        self.phase = Phase.OPEN
        self.pending = 0  # answers that come later
        self.parked_bytes = 0  # of these, those that are there and wait for something
        self.background = 0  # requests that take their time, and keep nobody waiting
        self.arrived = 0  # when what was read last arrived, as `now`
        self.owed_before = 0  # answers to what was read before that, and has no answer yet
        self._owed: Final[list[tuple[int, int]]] = []  # these by read: answers, arrival; few
        self._reasons = 0  # not to read
        self._peer_ended = False  # the peer has sent its last byte
        self._flush_s = FLUSH_S
        # What follows from the phase and the reasons; set with them, in `_update`.
        self._stopped = False  # no frame is handled now
        self.closing = False  # half-closed, aborted or gone: nothing can be sent
        self.choked = False  # the output is over its high mark

    # ---- for subclasses

    def handle(self, frame: Decoder) -> bytes | None:
        """What one frame is answered with: whole frames, or None. Called in order of arrival.
        frame: the decoder, which stands at it. After `last` in it the answer is sent, and the
        connection is finished."""
        raise NotImplementedError  # what a frame means is for the subclass to say

    def opened(self) -> None:
        """The connection is there."""

    def sends(self, frames: list[bytes]) -> None:
        """These leave now, in one write."""

    def relieved(self) -> None:
        """The peer has read enough: the output is below its low mark again."""

    def lost(self) -> None:
        """The connection is gone. Called once."""

    # ---- the phase, the reasons not to read, and what follows from them

    def _update(self, phase: Phase, reasons: int) -> None:
        """Change phase and reasons, and read or do not read accordingly."""
        self.phase, self._reasons = phase, reasons
        self._stopped = bool(phase or reasons)
        self.closing = phase >= Phase.CLOSING
        self.choked = bool(reasons & OUTPUT_FULL)
        transport = self.transport
        if transport is None or self._peer_ended or transport.is_closing():
            return
        reads = phase == Phase.CLOSING or (phase == Phase.OPEN and not reasons)
        if reads != transport.is_reading():
            if reads:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def pause(self, reason: int) -> None:
        """Read no more, and handle no frame after this one, until `resume` with the same reason."""
        self._update(self.phase, self._reasons | reason)

    def resume(self, reason: int) -> None:
        """This reason is gone: read on, and handle the frames that wait, unless there is another.
        Nothing where it was not paused for that reason."""
        if not self._reasons & reason:
            return
        reasons = self._reasons & ~reason
        if self.phase == Phase.OPEN and not reasons:
            reasons = OTHERS_FIRST
            self.loop.call_soon(self._next_turn)
        self._update(self.phase, reasons)

    # ---- asyncio

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(HIGH_MARK, LOW_MARK)
        self.opened()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        if self.pending > self.owed_before:
            self._owed.append((self.pending - self.owed_before, self.arrived))
            self.owed_before = self.pending
        self.now = self.arrived = kernel.now_us()
        self.decoder.feed(data)
        if not self._stopped:
            self.turn()

    def turn(self) -> None:
        """Handle a fair share of the frames that are there, and send the answers in one write."""
        out, frame = self.out, self.decoder
        size = 0
        for _ in range(_FAIR_FRAMES):
            if not frame.following():
                if self._peer_ended:
                    self.finish()
                break
            answer = self.handle(frame)
            if answer is not None:
                out.append(answer)
                size += len(answer)
                if size > _HIGH_MARK:
                    self._again()
                    break
            if self._stopped:
                break
        else:
            self._again()
        if self._stopped and self.phase == Phase.FINISHING:
            self.finish()
        elif out:
            self.flush()

    def _again(self) -> None:
        """There may be more frames here: let the others have their turn first."""
        if not self.phase and not self._reasons & OTHERS_FIRST:
            self.pause(OTHERS_FIRST)
            self.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._reasons &= ~OTHERS_FIRST
        self._stopped = bool(self.phase or self._reasons)
        if not self._stopped:
            self.now = kernel.now_us()
            self.turn()
        self._update(self.phase, self._reasons)  # not before: the transport would read meanwhile

    def push(self, frame: bytes) -> None:
        """Add a frame to what the next `flush` sends."""
        self.out.append(frame)

    def flush(self) -> None:
        """Send what waits in `out`: in one write, unless they are long."""
        transport = self.transport
        if self.out and transport is not None and not self.closing:
            frames = self.out[:]
            self.out.clear()
            if self.wrapper is not None:
                frames = [self.wrapper.wrap(b"".join(frames))]
            self.sends(frames)
            if len(frames) > 1 and len(frames[0]) < LONG_MIN:
                frames = [b"".join(frames)]
            for frame in frames:
                transport.write(frame)

    def agree(self, wrapper: Wrapper | None, decoder: Decoder) -> None:
        """Frames in both directions are wrapped from now on, but for those that were flushed, and
        the one that is being handled. decoder: it goes on where this one's stands; this one itself
        where nothing comes wrapped."""
        self.wrapper, self.decoder = wrapper, decoder
        self._again()  # a turn has its decoder in hand

    def limit_waiting(self, high: int, low: int, buffers: int) -> None:
        """How much may wait for the peer: output here, and in each of the kernel's two buffers.
        Bytes."""
        transport = self.transport
        if transport is not None and not self.closing:
            transport.set_write_buffer_limits(high, low)
            transport.limit_buffers(buffers)

    def pause_writing(self) -> None:
        self.pause(OUTPUT_FULL)

    def resume_writing(self) -> None:
        self.resume(OUTPUT_FULL)
        if not self.closing:
            self.relieved()

    def eof_received(self) -> bool:
        """The peer half-closed: what it sent is still answered."""
        self._peer_ended = True
        if self.closing:
            self.abort()  # we half-closed before: now both ends are done
        elif not self._reasons:
            self.finish()
        return True

    @property
    def untouched(self) -> bool:
        """Nothing has been read or sent: another process can serve it as well."""
        return not (self.arrived or self.out or self.phase or self.transport is None)

    def fileno(self) -> int:
        """The descriptor of the socket; -1 where it is closed."""
        return -1 if self.transport is None else self.transport.fileno()

    @property
    def busy(self) -> bool:
        """Frames that have arrived still wait for their turn, or answers are owed."""
        return (
            bool(self._reasons & (OTHERS_FIRST | ANSWER_FIRST))
            or self.pending + self.background > 0
        )

    @property
    def waiting(self) -> int:
        """Frames that have arrived and are not answered yet."""
        owed = self.pending + self.background
        return owed + (self.decoder.waiting if self._reasons else 0)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.transport = None
        self._update(Phase.CLOSED, self._reasons)
        self.out.clear()
        self.lost()

    # ---- answers that come later

    def arrival(self) -> int:
        """When the frame arrived whose answer leaves next, where `owed_before`. To be called by
        `sends`, once for each answer: they leave in the order of their frames."""
        answers, arrived = self._owed[0]
        if answers > 1:
            self._owed[0] = answers - 1, arrived
        else:
            del self._owed[0]
        self.owed_before -= 1
        return arrived

    def settle(self) -> None:
        """Answers that were owed have been sent, or will never be: when none is owed any more,
        finish what was to be finished, or handle the frames that waited for them."""
        if self.pending:
            return
        if self.phase == Phase.FINISHING:
            self.finish()
        else:
            self.resume(ANSWER_FIRST)

    # ---- ending

    def last(self) -> None:
        """For `handle`: its answer is the last one; the connection is finished after it."""
        if self.phase == Phase.OPEN:
            self._update(Phase.FINISHING, self._reasons)

    def finish(self, flush_s: float = FLUSH_S) -> None:
        """Send what waits, half-close, and discard what still arrives for a moment, so that the
        last answer is not lost to a reset. Where answers are owed: once they are sent. flush_s:
        how long a slow reader may take for what is left."""
        if self.closing:
            return
        self._flush_s = min(self._flush_s, flush_s)
        if self.pending or self.background:
            self._update(Phase.FINISHING, self._reasons)  # what comes now waits in the kernel
            return
        transport = self.transport
        if transport is None:
            self._update(Phase.CLOSING, self._reasons)
            return
        self.flush()
        self._update(Phase.CLOSING, self._reasons)
        if self._peer_ended:
            transport.close()
            return
        transport.write_eof()
        self.loop.call_later(LINGER_S, self._lingered, self.loop.time() + self._flush_s)

    def _lingered(self, deadline: float) -> None:
        """Abort, but leave a slow reader some time for the output that it still is to get."""
        transport = self.transport
        if transport is None:
            return
        if transport.get_write_buffer_size() and self.loop.time() < deadline:
            self.loop.call_later(LINGER_S, self._lingered, deadline)
        else:
            transport.abort()

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def abort(self) -> None:
        """End at once; what waits is lost, and nothing is handled any more."""
        if self.transport is not None:
            self._update(max(self.phase, Phase.CLOSING), self._reasons)
            self.transport.abort()

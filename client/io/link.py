"""One TCP connection on an event loop: bytes in, whole frames out.

The link owns its socket and watches it through the loop, so that how much of each frame the kernel
has taken is known at every moment: a frame nobody waits for any more is taken back if none of it
was sent, and one that was cut off is told apart from one that was sent (`take_back`).

Where frames are sealed, that is done when it is their turn, as their numbers may not have a gap:
one that was sealed is sent.

Reading never depends on writing, nor on what the program does: were both ends to stop reading until
the other has read, both would wait for ever.

The watching is by descriptor, not by socket: a loop that dies keeps no hold on the socket, which
`close` closes whether its loop still runs or not.
"""

import asyncio
import enum
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from libproto.wrapping import Wrapper

RECEIVE_LEN: Final = 32 * 1024  # bytes of one turn of the loop, then the others have theirs
BATCH_LEN: Final = 64 * 1024  # bytes, about, that leave in one write
HIGH_MARK: Final = 256 * 1024  # bytes of frames that wait here; further calls wait outside


class Sent(enum.Enum):
    """How much of a frame the kernel has."""

    NOTHING = enum.auto()
    PART = enum.auto()
    ALL = enum.auto()


class Link:
    """A connected, non-blocking socket. Its owner is told of what is received, of the end (once,
    with the reason), and when there is space for more frames after there was none."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        received: Callable[[bytes], None],
        ended: Callable[[str], None],
        relieved: Callable[[], None],
        soon: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        """soon: calls something after what is going on; the loop's call_soon by default."""
        self._loop = loop
        self._sock = sock
        self._received = received
        self._ended = ended
        self._relieved = relieved
        self._soon = soon or loop.call_soon
        self._out: deque[tuple[bytes, int]] = deque()
        self._out_len = 0  # bytes of all of them
        self.wrapper: Wrapper | None = None  # of those that are sent from now on
        self._wrapped = 0  # of the first of them: what they are is what is sent
        self._sent_len = 0  # bytes of the first of them that were sent
        self._flushing = False  # a flush is due at the end of this turn
        self._blocked = False  # the kernel takes no more: the server does not read
        self._broken = False  # a write failed: only what the server said before is of interest
        self._retired = False
        # uvloop says no more of a connection whose reset came with the last data: that is for who
        # reads on.
        self._reads_again = not isinstance(loop, asyncio.SelectorEventLoop)
        self.closed = False
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def full(self) -> bool:
        """Whether a further frame would wait."""
        return self._blocked or self._out_len >= HIGH_MARK

    def send(self, frame: bytes, number: int = 0) -> None:
        """Send a frame, under the number that `take_back` may name; what is sent in one turn of the
        loop leaves in one write."""
        if self._broken:
            return
        self._out.append((frame, number))
        self._out_len += len(frame)
        if not self._flushing and not self._blocked:
            self._flushing = True
            self._soon(self._flush)

    def take_back(self, number: int) -> Sent:
        """Drop the frame of this number if nothing of it was sent; tells how much was."""
        for position, (frame, its_number) in enumerate(self._out):
            if its_number == number:
                if position == 0 and self._sent_len:
                    return Sent.PART
                if position < self._wrapped:
                    return Sent.ALL
                del self._out[position]
                self._out_len -= len(frame)
                return Sent.NOTHING
        return Sent.ALL

    def close(self) -> None:
        """End the connection at once: what is unsent belongs to calls that fail or are repeated."""
        if self.closed:
            return
        self.closed = True
        self._out.clear()
        if self.wrapper is not None:
            self.wrapper.close()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
        self._shut_down()
        self._sock.close()

    async def part(self, limit_s: float) -> None:
        """Send no more, and close once the server has closed: by then it has read what was sent,
        and does nothing of it any more. It is closed after `limit_s` in any case."""
        self.retire()
        try:
            self._sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(limit_s):
                while await self._loop.sock_recv(self._sock, RECEIVE_LEN):
                    pass
        except (OSError, TimeoutError):
            pass  # the connection is broken, or the server stuck: no more can be known
        finally:
            self.close()

    def retire(self) -> None:
        """Neither read nor write any more: another connection has its place. It is there until
        `close`."""
        self._broken = self._retired = True
        self._out.clear()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())

    def forget(self) -> None:
        """Close our descriptor only: in a forked child, the connection is the parent's."""
        self.closed = True
        self._sock.close()

    def _shut_down(self) -> None:
        """A copy of the descriptor in a forked child must not keep the connection open."""
        with suppress(OSError):  # the server was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    # ---- what the loop calls

    def _readable(self) -> None:
        try:
            self._receive()
        except BaseException:
            self._give_up()
            raise

    def _receive(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_LEN)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(f"the connection was lost: {error.strerror}")
            return
        if not data:
            self._end("the server closed the connection")
            return
        self._received(data)
        if self._reads_again and not (self.closed or self._retired):
            self._loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        if not (self.closed or self._retired):
            self._readable()

    def _end(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._ended(reason)

    def _flush(self) -> None:
        try:
            self._flushing = False
            while self._out and not self.closed and not self._blocked:
                self._send_some()
            if not self._out and not self.closed:
                self._relieved()
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """A signal handler raised: what was received or sent just then is not known, so the stream
        is out of step."""
        if not self.closed:
            self.retire()
            self._loop.call_soon(self._end, "the client was interrupted")

    def _send_some(self) -> None:
        batch, size = [], -self._sent_len
        for position in range(len(self._out)):
            frame = self._wrapped_frame(position)
            batch.append(frame)
            size += len(frame)
            if size >= BATCH_LEN:
                break
        batch[0] = batch[0][self._sent_len :]
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            # What the server said before it closed is still to be read, and that tells the reason.
            self._broken = True
            self._out.clear()
            self._shut_down()
            return
        self._took(sent)
        if sent < size and not self._blocked:
            self._blocked = True
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _wrapped_frame(self, position: int) -> bytes:
        """One of those that are to be sent, as it is sent; those before it are so already."""
        frame, number = self._out[position]
        if self.wrapper is not None and position >= self._wrapped:
            wrapped = self.wrapper.wrap(frame)
            self._out[position] = wrapped, number
            self._out_len += len(wrapped) - len(frame)
            self._wrapped = position + 1
            return wrapped
        return frame

    def _took(self, sent: int) -> None:
        """The kernel has so many bytes more."""
        self._sent_len += sent
        while self._out and self._sent_len >= len(self._out[0][0]):
            frame, _ = self._out.popleft()
            self._sent_len -= len(frame)
            self._out_len -= len(frame)
            self._wrapped = max(0, self._wrapped - 1)

    def _writable(self) -> None:
        self._blocked = False
        self._loop.remove_writer(self._sock.fileno())
        self._flush()

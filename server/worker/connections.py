"""The open connections of this worker, and what concerns all of them: limit, deadlines, the stop.

Of a connection it knows no more than `OpenConnection` says.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from libproto.codec import PUSH
from libproto.messages import Opcode
from server.child import DRAIN_SHARE
from server.config import Settings
from server.region.counters import index_of
from server.region.region import Region
from server.worker.counters import Counters

DRAIN_S: Final = 0.001  # at a stop: between looks whether all is answered
SHED_S: Final = 0.1  # at a stop: how long requests that come later are still answered
ANSWERED_S: Final = 0.5
"""Where another server takes the place: how long one is waited for that always has more to ask, or
is to log in."""
END_S: Final = 0.01  # at a stop: between looks whether all connections are closed
STALLED_S: Final = 1.0  # at a stop: a client that takes nothing for so long is waited for no more


_going_away = PUSH[Opcode.GOING_AWAY].frame


class OpenConnection(Protocol):
    """What is known here of a connection."""

    @property
    def busy(self) -> bool:
        """It has frames to handle, or answers to wait for."""

    @property
    def begins(self) -> bool:
        """It has no session, and has asked for something: a login comes next, it seems."""

    @property
    def untouched(self) -> bool:
        """Nothing has been read or sent: another process can serve it as well."""

    @property
    def waiting(self) -> int:
        """Frames that have arrived and are not answered yet."""

    def fileno(self) -> int:
        """The descriptor of the socket; -1 where it is closed."""

    @property
    def unsent(self) -> int:
        """Bytes that still wait to be sent."""

    def push(self, frame: bytes, /) -> None:
        """Add a frame to what the next flush sends."""

    def flush(self) -> None:
        """Send what was pushed, in one write."""

    def check_deadlines(self, now: float) -> bool:
        """Finish it if it is past a deadline; True the first time. now: the loop's seconds."""

    def finish(self) -> None:
        """Send what waits, then close."""

    def abort(self) -> None:
        """Close at once."""


class Connections:
    """The open connections of one worker."""

    def __init__(self, region: Region, slot: int, settings: Settings, counters: Counters) -> None:
        self._settings, self._counters = settings, counters
        self._words: Final = region.words
        gauges, at = region.layout["counters"], index_of("connections")
        self._gauges = [gauges.at(worker) + at for worker in range(gauges.records)]
        self._mine = gauges.at(slot) + at
        self._open: dict[OpenConnection, bool] = {}  # is it counted?
        self.draining = False
        """The server stops: no further request is executed."""
        self.guarded = settings.rate_limit > 0
        """Something may stand in the way of a request: a rate limit, or the stop."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: OpenConnection) -> bool:
        """Count a new one; False where there are more now than may be, in all workers. One that is
        refused, and takes its time to close, is in nobody's way."""
        self._open[connection] = True
        words = self._words
        words[self._mine] += 1
        self._counters.count("accepted")
        if sum(words[at] for at in self._gauges) <= self._settings.max_connections:
            return True
        self._open[connection] = False
        words[self._mine] -= 1
        self._counters.count("refused")
        return False

    def remove(self, connection: OpenConnection) -> None:
        """It is closed. Nothing where it was never added."""
        if self._open.pop(connection, False):
            self._words[self._mine] -= 1

    def waiting(self) -> int:
        """Frames that have arrived and are not answered yet, of all of them."""
        return sum(connection.waiting for connection in self._open)

    def sweep(self, now: float) -> None:
        """Finish those that are past a deadline. now: the loop's seconds."""
        for connection in tuple(self._open):
            if connection.check_deadlines(now):
                self._counters.count("timed_out")

    def announce(self, seconds: float, reason: str) -> None:
        """Tell every client that this worker will end, not before so long."""
        frame = _going_away(0, 0, int(seconds * 1000), reason)
        for connection in tuple(self._open):
            connection.push(frame)
            connection.flush()

    async def until_gone(self, loop: asyncio.AbstractEventLoop, stops: Callable[[], bool]) -> None:
        """Until all clients have gone by themselves, drain_timeout at most. stops: need it be
        waited for no longer?"""
        deadline = loop.time() + self._settings.drain_timeout
        while self._open and loop.time() < deadline and not stops():
            await asyncio.sleep(END_S)

    async def drain(
        self,
        loop: asyncio.AbstractEventLoop,
        waits: Callable[[], bool],
        abort_waiting: Callable[[], None],
    ) -> None:
        """Answer what was received, refuse what comes later, send what waits, close; all within
        graceful_timeout. waits: does any answer wait that may still become durable?"""
        deadline = loop.time() + self._settings.graceful_timeout * DRAIN_SHARE
        while any(connection.busy for connection in self._open) and loop.time() < deadline:
            await asyncio.sleep(DRAIN_S)
        self.draining = self.guarded = True
        await asyncio.sleep(max(0.0, min(SHED_S, deadline - loop.time())))
        while waits() and loop.time() < deadline:
            await asyncio.sleep(END_S)
        abort_waiting()
        for connection in tuple(self._open):
            connection.finish()
        await self._close(loop, deadline)
        for connection in tuple(self._open):
            connection.abort()
        while self._open:
            await asyncio.sleep(0)

    def give_untouched(self, give: Callable[[int], bool]) -> None:
        """Give away those that nothing has been read from. give: a descriptor; False where it is
        not taken."""
        for connection in [each for each in self._open if each.untouched]:
            if give(connection.fileno()):
                connection.abort()  # it is another process's: only this descriptor is closed

    async def hand_over(
        self,
        loop: asyncio.AbstractEventLoop,
        waits: Callable[[], bool],
        abort_waiting: Callable[[], None],
    ) -> None:
        """The same where another server takes the place of this one, but that nothing is refused:
        a connection is closed when it is answered, and what its client sends later it sends again
        to the other server."""
        deadline = loop.time() + self._settings.graceful_timeout * DRAIN_SHARE
        soon = min(deadline, loop.time() + ANSWERED_S)
        while (
            busy := [each for each in self._open if each.busy or each.begins]
        ) and loop.time() < soon:
            for connection in self._open.keys() - set(busy):
                connection.finish()
            await asyncio.sleep(DRAIN_S)
        for connection in tuple(self._open):
            connection.finish()  # with what it is owed; frames behind that are not executed
        while waits() and loop.time() < deadline:
            await asyncio.sleep(END_S)
        abort_waiting()
        await self._close(loop, deadline)
        for connection in tuple(self._open):
            connection.abort()
        while self._open:
            await asyncio.sleep(0)

    async def _close(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Until all are closed, or the deadline. One whose client takes nothing of what is left for
        it is aborted: it would not take the rest either."""
        least: dict[OpenConnection, tuple[int, float]] = {}  # what was unsent, and since when
        while self._open and (now := loop.time()) < deadline:
            for connection in tuple(self._open):
                unsent, since = least.get(connection, (connection.unsent + 1, now))
                if connection.unsent < unsent:
                    least[connection] = connection.unsent, now
                elif now - since > STALLED_S:
                    connection.abort()
            await asyncio.sleep(END_S)

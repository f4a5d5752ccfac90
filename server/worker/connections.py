"""The open connections of this worker, and what concerns all of them: limit, deadlines, the stop.

Of a connection it knows no more than `OpenConnection` says.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final, Protocol

from libnet.sockets import network_of
from libproto.codec import PUSH
from libproto.messages import Opcode
from server.child import DRAIN_SHARE
from server.config import Settings
from server.region.counters import index_of
from server.region.region import Region
from server.region.tallies import Crowd
from server.worker.counters import Counters

DRAIN_S: Final = 0.001  # at a stop: between looks whether all is answered
SHED_S: Final = 0.1  # at a stop: how long requests that come later are still answered
ANSWERED_S: Final = 0.5
"""Where another server takes the place: how long one is waited for that always has more to ask, or
is to log in."""
END_S: Final = 0.01  # at a stop: between looks whether all connections are closed
GRACE_S: Final = 0.25
"""How long one that is not logged in has before it gives way to another of its own address."""
REFUSED_MAX: Final = 256
"""Connections that are refused and take their time to close: each has its descriptor."""
STALLED_S: Final = 1.0  # at a stop: a client that takes nothing for so long is waited for no more


_going_away = PUSH[Opcode.GOING_AWAY].frame


class OpenConnection(Protocol):
    """What is known here of a connection."""

    @property
    def peer(self) -> str:
        """The address at the other end."""

    @property
    def pending(self) -> int:
        """Answers that it waits for."""

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

    def guard(self) -> None:
        """Look again whether something stands in the way of its requests."""

    def make_way(self) -> None:
        """Tell the client that its time was up, and close."""

    def abort(self) -> None:
        """Close at once."""


class _Gauge:
    """A gauge of this worker, and its sum over all."""

    def __init__(self, region: Region, slot: int, name: str) -> None:
        self._words: Final = region.words
        gauges, at = region.layout["counters"], index_of(name)
        self._all = [gauges.at(worker) + at for worker in range(gauges.records)]
        self._mine = gauges.at(slot) + at

    def add(self, by: int) -> None:
        self._words[self._mine] += by

    def sum(self) -> int:
        return sum(self._words[at] for at in self._all)


class Connections:
    """The open connections of one worker.

    How many there may be is limited in three ways: in all, of one address, and of those that are
    not logged in. The first two refuse a new one. Where there are too many that are not logged in,
    or a new one would be refused for their sake, one of them gives way: the oldest of the address
    that has most of them here, after a moment to log in where that is the new one's own. So who
    opens connections and leaves them keeps nobody else out: an honest client is logged in before
    its turn to give way comes.
    """

    def __init__(
        self, region: Region, slot: int, settings: Settings, counters: Counters, secret: bytes
    ) -> None:
        """secret: of the server, for what is counted by address."""
        self._settings, self._counters = settings, counters
        self._all: Final = _Gauge(region, slot, "connections")
        self._all_outside: Final = _Gauge(region, slot, "unauthenticated")
        self._of_address: Final = Crowd(region, slot, secret)
        self._open: dict[OpenConnection, bool] = {}  # is it counted?
        self._refused = 0  # of these, those that are not
        self._outside: dict[str, dict[OpenConnection, float]] = {}
        """Those that are counted and not logged in, and since when: by address, oldest first."""
        self.draining = False
        """The server stops: no further request is executed."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: OpenConnection) -> str:
        """Count a new one. Where it is one too many it is not counted, and the answer says of
        what; else the answer is empty. One that is refused, and takes its time to close, is in
        nobody's way."""
        settings, counters = self._settings, self._counters
        counters.count("accepted")
        self._open[connection] = True
        self._all.add(1)
        where = self._of_address.places(network_of(connection.peer).encode())
        self._of_address.add(where, 1)
        self.is_outside(connection)
        limit = settings.address_connections
        refusal = ""
        if limit and self._of_address.count(where) > limit:
            refusal = "too many connections from one address"
            counters.count("refused_address")
        elif self._all.sum() > settings.max_connections and not self._make_way(connection):
            refusal = "too many connections"
        elif self._all_outside.sum() > settings.unauthenticated_limit and not self._make_way(
            connection
        ):
            refusal = "too many connections that are not logged in"
        if refusal:
            counters.count("refused")
            self._leave_out(connection)
        return refusal

    def _make_way(self, newcomer: OpenConnection) -> bool:
        """Close one that is not logged in and has had its time, in the place of a new one. False
        where there is none."""
        by_age = max(self._outside.values(), key=len)  # the newcomer is among them
        own = self._outside[newcomer.peer]
        until = math.inf if len(by_age) > len(own) else time.monotonic() - GRACE_S
        for oldest, since in by_age.items():
            if oldest is newcomer or since > until:
                break
            if not oldest.pending:  # one that waits for its answer to LOGIN is all but in
                self._counters.count("made_way")
                self._leave_out(oldest)
                oldest.make_way()
                return True
        return False

    def _leave_out(self, connection: OpenConnection) -> None:
        """Count it no more, though it is still there."""
        self._uncount(connection)
        self._open[connection] = False
        self._refused += 1

    def _uncount(self, connection: OpenConnection) -> None:
        self._all.add(-1)
        self._of_address.add(self._of_address.places(network_of(connection.peer).encode()), -1)
        self.is_inside(connection)

    @property
    def crowded(self) -> bool:
        """So many refused ones take their time to close that the next is closed at once."""
        return self._refused > REFUSED_MAX

    def is_outside(self, connection: OpenConnection) -> None:
        """It is not logged in, or not any more."""
        if self._open.get(connection):
            self._outside.setdefault(connection.peer, {})[connection] = time.monotonic()
            self._all_outside.add(1)

    def is_inside(self, connection: OpenConnection) -> None:
        """It is logged in, or gone. Nothing where it was before."""
        mine = self._outside.get(connection.peer)
        if mine is not None and connection in mine:
            del mine[connection]
            self._all_outside.add(-1)
            if not mine:
                del self._outside[connection.peer]

    def remove(self, connection: OpenConnection) -> None:
        """It is closed. Nothing where it was never added."""
        counted = self._open.get(connection)
        if counted:
            self._uncount(connection)
        elif counted is not None:
            self._refused -= 1
        self._open.pop(connection, None)

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
        self.draining = True
        for connection in self._open:
            connection.guard()
        await asyncio.sleep(max(0.0, min(SHED_S, deadline - loop.time())))
        while waits() and loop.time() < deadline:
            await asyncio.sleep(END_S)
        abort_waiting()
        for connection in tuple(self._open):
            connection.finish()
        await self._close(loop, deadline)

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

    async def _close(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Close all, by the deadline. One whose client takes nothing of what is left for it is
        aborted: it would not take the rest either."""
        least: dict[OpenConnection, tuple[int, float]] = {}  # what was unsent, and since when
        while self._open and (now := loop.time()) < deadline:
            for connection in tuple(self._open):
                unsent, since = least.get(connection, (connection.unsent + 1, now))
                if connection.unsent < unsent:
                    least[connection] = connection.unsent, now
                elif now - since > STALLED_S:
                    connection.abort()
            await asyncio.sleep(END_S)
        while self._open:
            for connection in tuple(self._open):  # one that has come just now, too
                connection.abort()
            await asyncio.sleep(0)

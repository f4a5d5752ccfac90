"""Requests that wait for a place in the event ring: leaves first, the others in order of arrival.

A ring is full while the journal has not made durable what is in it. That is over in a moment as a
rule, so a request is not refused at once: it is tried again as there are places, for WAIT_S at
most. A leave is not refused at all, and waits for as long as it takes. No other frame of its
connection is handled before, and no request of this worker that came later gets a place.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from server.core.events import Events
from server.region.region import Region

WAIT_S: Final = 1.0
POLL_S: Final = 0.01  # between looks, while something waits

Attempt = Callable[[bool], bool]
"""Tries again; True where the request is answered, as it always is when told that it is late."""


class Places:
    """This worker's requests that wait."""

    def __init__(self, region: Region, loop: asyncio.AbstractEventLoop, events: Events) -> None:
        self._words: Final = region.words
        self._limit: Final = region.events.index("limit")
        self._leave_limit: Final = region.events.index("leave_limit")
        self._loop: Final = loop
        self._events: Final = events
        self._leaves: deque[Attempt] = deque()
        self._others: deque[tuple[float, Attempt]] = deque()
        self._looked = -1, -1  # the limits, when they were tried last
        self._looks = False

    def wait(self, attempt: Attempt, *, to_leave: bool) -> None:
        """`attempt` is called when a limit has moved; unless it is to leave, for the last time
        after WAIT_S."""
        if to_leave:
            self._leaves.append(attempt)
        else:
            self._others.append((self._loop.time() + WAIT_S, attempt))
            self._events.others_wait = True
        if not self._looks:
            # Tried at the first look: a limit may have moved since there was no place.
            self._looks, self._looked = True, (-1, -1)
            self._loop.call_later(POLL_S, self._look)

    def in_turn(self, execute: Callable[[], bytes | None]) -> bytes | None:
        """Execute a request whose turn it is, whoever waits behind it."""
        events = self._events
        events.others_wait = False
        try:
            return execute()
        finally:
            events.others_wait = bool(self._others)

    def _limits(self) -> tuple[int, int]:
        return self._words[self._leave_limit], self._words[self._limit]

    def _look(self) -> None:
        limits, (leave_limit, limit) = self._limits(), self._looked
        self._looked = limits
        if limits[0] != leave_limit:
            while self._leaves and self._leaves[0](False):
                self._leaves.popleft()
        others, now = self._others, self._loop.time()
        while others:
            deadline, attempt = others[0]
            late = now >= deadline
            if not (late or limits[1] != limit) or not attempt(late):
                break
            others.popleft()
        self._events.others_wait = bool(others)
        self._looks = bool(self._leaves or others)
        if self._looks:
            self._loop.call_later(POLL_S, self._look)

"""Requests that wait for a place in the event ring, in order of arrival.

A ring is full while the journal has not made durable what is in it. That is over in a moment as a
rule, so a request is not refused at once: it is tried again as there are places, for WAIT_S at
most. No other frame of its connection is handled before.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from server.region.region import Region

WAIT_S: Final = 1.0
POLL_S: Final = 0.01  # between looks, while something waits

Attempt = Callable[[bool], bool]
"""Tries again; True where the request is answered, as it always is when told that it is late."""


class Places:
    """This worker's requests that wait."""

    def __init__(self, region: Region, loop: asyncio.AbstractEventLoop) -> None:
        self._words: Final = region.words
        self._limit: Final = region.events.index("limit")
        self._loop: Final = loop
        self._waiting: deque[tuple[float, Attempt]] = deque()
        self._looked = 0  # the limit, when it was tried last

    def wait(self, attempt: Attempt) -> None:
        """`attempt` is called when the limit has moved, and for the last time after WAIT_S."""
        if not self._waiting:
            self._looked = self._words[self._limit]
            self._loop.call_later(POLL_S, self._look)
        self._waiting.append((self._loop.time() + WAIT_S, attempt))

    def _look(self) -> None:
        waiting, now, limit = self._waiting, self._loop.time(), self._words[self._limit]
        moved, self._looked = limit != self._looked, limit
        while waiting:
            deadline, attempt = waiting[0]
            late = now >= deadline
            if not (late or moved) or not attempt(late):
                break
            waiting.popleft()
        if waiting:
            self._loop.call_later(POLL_S, self._look)

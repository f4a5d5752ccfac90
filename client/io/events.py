"""The readers of `events`: of a thread, and of a task.

A reader has a queue of its own, which is bounded (`client.core.inbox` says how), and holds neither
the client nor its connection: the connection puts into the queue as long as the program holds the
reader.
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from client.core.inbox import Inbox
from client.core.pushes import Event
from client.errors import CallTimeout, ClientError, WrongPlace
from client.io.waiting import next_item, wait_for_item

Over = Callable[[], ClientError | None]
"""Why nothing more will come; None if the program has closed the client."""


class _Reader:
    """What both readers are."""

    def __init__(
        self,
        queue: Inbox,
        silence_s: float | None,
        over: Over,
        remove: Callable[[Inbox], object],
    ) -> None:
        self._queue = queue
        self._silence_s = silence_s
        self._over = over
        self._remove = remove
        self._closed = False

    @property
    def dropped(self) -> int:
        """How many events did not fit into the queue. Gaps say which."""
        return self._queue.dropped

    def _close(self) -> None:
        self._closed = True
        self._remove(self._queue)

    def _reason(self) -> ClientError | None:
        """Why nothing comes any more; None: the program has ended it."""
        return None if self._closed else self._over()


class Events(_Reader):
    """What `Client.events` gives: an iterator; `with` closes it at the end."""

    def close(self) -> None:
        """Read no more. A thread that waits for an event finds the end. May be repeated."""
        self._close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._closed:
            raise StopIteration
        deadline = None if self._silence_s is None else time.monotonic() + self._silence_s
        try:
            event: Event | None = wait_for_item(self._queue, deadline)
        except CallTimeout:
            raise StopIteration from None
        if event is None:
            raise self._reason() or StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncEvents(_Reader):
    """What `AsyncClient.events` gives: an asynchronous iterator; `async with` closes it at the
    end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        queue: Inbox,
        silence_s: float | None,
        over: Over,
        remove: Callable[[Inbox], object],
    ) -> None:
        super().__init__(queue, silence_s, over, remove)
        self._loop = loop

    async def aclose(self) -> None:
        """Read no more. A task that waits for an event finds the end. May be repeated."""
        self._check_loop()
        self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        self._check_loop()
        if self._closed:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._silence_s):
                event: Event | None = await next_item(self._queue)
        except TimeoutError:
            raise StopAsyncIteration from None
        if event is None:
            raise self._reason() or StopAsyncIteration
        return event

    def _check_loop(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            raise WrongPlace("these events are read in the event loop of their client")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

"""The asyncio client with the methods of the blocking one, for tests that are for both."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

from client import AsyncClient, Push


class OnALoop:
    """An AsyncClient on a loop of its own thread, with the methods of the blocking client."""

    def __init__(
        self, loop_factory: Callable[[], asyncio.AbstractEventLoop], *args: Any, **options: Any
    ) -> None:
        self._loop = loop_factory()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client = AsyncClient(*args, **options)

    @property
    def port(self) -> int:
        return self._client.port

    @port.setter
    def port(self, port: int) -> None:
        self._client.port = port

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not inspect.iscoroutinefunction(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(found(*args, **options), self._loop).result()

        return call

    def pushes(self, timeout_s: float | None = None) -> Iterator[Push]:
        pushes = self._client.pushes(timeout_s)
        while True:
            following = asyncio.run_coroutine_threadsafe(_following(pushes), self._loop)
            if (push := following.result()) is None:
                return
            yield push

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


async def _following(pushes: Any) -> Push | None:
    found: Push | None = await anext(pushes, None)
    return found

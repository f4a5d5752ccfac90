"""While a chat has no connection: who waits for the next one, and when it gives up."""

import asyncio

from client.aio import AsyncClient
from client.errors import ClientError, ConnectionLost


class Outage:
    """Told by the client's on_reconnect; the client establishes the connection again by itself."""

    def __init__(self, give_up_after_s: float = 0.0) -> None:
        """give_up_after_s: seconds without a connection after which the client is closed; 0 for
        never."""
        self.client: AsyncClient | None = None
        self.losses = 0
        """How often the connection was lost."""
        self.reason: ClientError | None = None
        """Why the client was closed, if it was closed by this."""
        self._limit_s = give_up_after_s
        self._is_up = asyncio.Event()
        self._is_up.set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_out(self) -> bool:
        return not self._is_up.is_set()

    def tell(self, lost: ClientError | None) -> None:
        """The client's on_reconnect."""
        self._stop_timer()
        if lost is None:
            self._is_up.set()
            return
        self.losses += 1
        self._is_up.clear()
        if self._limit_s:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._limit_s, self._give_up, lost)

    async def over(self) -> None:
        """Until there is a connection."""
        await self._is_up.wait()

    def stop(self) -> None:
        """The chat ends: it is not closed by this any more."""
        self._stop_timer()

    def _give_up(self, lost: ClientError) -> None:
        assert self.client is not None, "it has told of its connection"
        self.reason = ConnectionLost(f"{lost}, and it did not come back within {self._limit_s:g} s")
        self._closing = asyncio.ensure_future(self.client.close())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

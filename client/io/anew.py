"""Another connection in the place of one that has had its only HELLO, as an encrypted one has."""

import asyncio
import socket
from collections.abc import Callable

from client.errors import ClientError, ConnectionLost
from libnet.dial import dial
from libnet.errors import ConnectFailed


class Anew:
    """The dialing of it, once at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int],
        adopt: Callable[[socket.socket], None],
        lose: Callable[[ClientError], None],
        end: Callable[[ClientError], None],
    ) -> None:
        """adopt: is given the socket. lose: there is no connection to be had. end: somebody has
        cancelled it, as asyncio.run() does at its end."""
        self._loop, self._address = loop, address
        self._adopt, self._lose, self._end = adopt, lose, end
        self.task: asyncio.Task[None] | None = None

    @property
    def is_dialing(self) -> bool:
        """It is under way."""
        return self.task is not None and not self.task.done()

    def dial(self) -> None:
        """Connect."""
        self.task = self._loop.create_task(self._dial())
        self.task.add_done_callback(self._done)

    def cancel(self) -> None:
        """It is not wanted any more."""
        if self.task is not None:
            self.task.cancel()

    async def _dial(self) -> None:
        try:
            sock = await dial(*self._address, None)
        except ConnectFailed as error:
            self.task = None
            self._lose(ConnectionLost(str(error)))
        else:
            self.task = None
            self._adopt(sock)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._end(ConnectionLost("connecting was cancelled"))
        else:
            task.result()  # nothing that was not foreseen is swallowed

"""Where a worker accepts: on its own listener, and on those of slots that are empty just now."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

from server.region.region import Region

BACKLOG: Final = 1024  # connections that wait to be accepted


class Listeners:
    """The listeners that one worker accepts on. The master says, in a word of each slot, who
    accepts for it while it has no worker."""

    def __init__(
        self,
        region: Region,
        slot: int,
        sockets: Sequence[socket.socket],
        loop: asyncio.AbstractEventLoop,
        connection: Callable[[], asyncio.Protocol],
    ) -> None:
        """sockets: of all workers, by slot. connection: makes one for each that is accepted."""
        self._words: Final = region.words
        self._slot, self._sockets, self._loop = slot, sockets, loop
        self._connection = connection
        workers = region.layout["workers"]
        self._hosts = [workers.at(other, "host") for other in range(workers.records)]
        self._own: asyncio.AbstractServer | None = None
        self._hosted: dict[int, asyncio.AbstractServer | None] = {}  # None: not yet

    async def open(self) -> None:
        """Accept on this worker's own."""
        self._own = await self._accept(self._sockets[self._slot])

    async def _accept(self, listener: socket.socket) -> asyncio.AbstractServer:
        return await self._loop.create_server(self._connection, sock=listener, backlog=BACKLOG)

    def host(self) -> None:
        """Accept on the listeners of other slots as far as the master says so now, no further."""
        for slot, at in enumerate(self._hosts):
            if (self._words[at] == self._slot + 1) == (slot in self._hosted):
                continue
            if slot in self._hosted:
                server = self._hosted.pop(slot)
                if server is not None:
                    server.close()
            else:
                self._hosted[slot] = None
                self._loop.create_task(self._accept_for(slot))

    async def _accept_for(self, slot: int) -> None:
        server = await self._accept(self._sockets[slot].dup())
        if slot in self._hosted:
            self._hosted[slot] = server
        else:
            server.close()

    def close(self) -> None:
        """Accept nothing more."""
        for server in (self._own, *self._hosted.values()):
            if server is not None:
                server.close()
        self._own = None
        self._hosted.clear()

"""The inbox in a chat: what came while one was away, and what comes now, each shown once.

What is shown is up to where a position says, which outlives the chat. A direct message that is
pushed with a number beyond the next one shows that some were missed: they are fetched, and shown in
their place.
"""

import asyncio
from contextlib import suppress

from client.aio import AsyncClient
from client.core.gaps import FoundDirect, read_inbox
from client.errors import CallTimeout, ConnectionLost, RequestFailed
from client.terminal import display
from client.terminal.advice import explain
from client.terminal.display import Screen
from client.terminal.position import InboxPosition
from libproto.messages import DirectMessage, RoomGap

AT_ONCE_MAX = 100
"""Of the direct messages that came while one was away so many are shown, the newest."""


class InboxView:
    """The inbox of who is logged in, on a screen."""

    def __init__(
        self, client: AsyncClient, screen: Screen, people: set[str], position: InboxPosition
    ) -> None:
        """people: names seen, which this adds to."""
        self._client = client
        self._screen = screen
        self._people = people
        self._position = position
        self._turn = asyncio.Lock()  # what is shown is in order

    async def catch_up(self) -> None:
        """Show what came since the position."""
        async with self._turn:
            await self._catch_up()

    async def look_again(self) -> None:
        """The same after a reconnection; where the connection is lost again, the next one does."""
        with suppress(ConnectionLost):
            await self.catch_up()

    async def pushed(self, message: DirectMessage) -> None:
        """Show a direct message, if it was not shown, and what was missed before it."""
        async with self._turn:
            known = self._position.seq
            if known is not None and message.seq > known + 1:
                await self._catch_up()
            if self._position.seq is None or message.seq > self._position.seq:
                self._show(message)
                self._position.advance(self._position.epoch, message.seq)

    async def missed(self, gap: RoomGap) -> None:
        """Show what is missing of the pushes."""
        async with self._turn:
            known = self._position.seq
            if not await self._catch_up() and (known is None or gap.last_seq > known):
                self._show(gap)

    async def show_last(self, count: int) -> None:
        """Show the last direct messages, with their times. Raises what the call does."""
        found, _, _ = await self._read(0, None)
        for each in found[-count:]:
            self._show(each, dated=True)

    async def _catch_up(self) -> bool:
        """False where the inbox cannot be read now, which is said."""
        position = self._position
        try:
            found, epoch, reached = await self._read(position.seq or 0, position.epoch)
        except (RequestFailed, CallTimeout) as error:
            self._screen.complain(explain(error))
            return False
        if len(found) > AT_ONCE_MAX:
            self._screen.remark(f"{len(found)} direct messages came: /inbox {len(found)} has all")
        for each in found[-AT_ONCE_MAX:]:
            self._show(each, dated=True)
        position.advance(epoch, reached)
        return True

    async def _read(self, after: int, epoch: int | None) -> tuple[FoundDirect, int, int]:
        reading = read_inbox(after, epoch)
        try:
            ask = next(reading)
            while True:
                ask = reading.send(await self._client.inbox_history(*ask))
        except StopIteration as done:
            found: tuple[FoundDirect, int, int] = done.value
            return found

    def _show(self, item: DirectMessage | RoomGap, *, dated: bool = False) -> None:
        if isinstance(item, RoomGap):
            self._screen.show(display.gap_line(item))
        else:
            self._people.add(item.from_name)
            self._screen.show(display.direct_line(item, dated=dated))

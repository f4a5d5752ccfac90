"""The inbox in a chat: what came while one was away, and what comes now, each shown once.

What is shown is up to where a position says, which outlives the chat. A direct message that is
pushed with a number beyond the next one shows that some were missed: they are fetched, and shown in
their place.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from client.aio import AsyncClient
from client.chat import entries
from client.chat.face import Face
from client.chat.model import Model
from client.chat.room_log import RoomLog
from client.core.gaps import FoundDirect, read_inbox
from client.errors import CallTimeout, ConnectionLost, RequestFailed
from client.terminal.advice import explain
from client.terminal.position import InboxPosition
from libproto.messages import DirectMessage, RoomGap

AT_ONCE_MAX = 100
"""Of the direct messages that came while one was away so many are shown, the newest."""


class InboxView:
    """The inbox of who is logged in."""

    def __init__(
        self,
        client: AsyncClient,
        model: Model,
        face: Face,
        people: set[str],
        position: InboxPosition,
        lasting: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]],
        log: RoomLog,
    ) -> None:
        """people: names seen, which this adds to. lasting: makes a call over lost connections."""
        self._client = client
        self._model = model
        self._face = face
        self._people = people
        self._position = position
        self._lasting = lasting
        self._log = log
        self._turn = asyncio.Lock()  # what is shown is in order

    async def catch_up(self) -> None:
        """Show what came since the position."""
        async with self._turn:
            await self._catch_up()

    async def look_again(self) -> int:
        """The same after a reconnection, and how many came; where the connection is lost again,
        the next one does."""
        try:
            async with self._turn:
                return await self._catch_up() or 0
        except ConnectionLost:
            return 0

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
            if await self._catch_up() is None and (known is None or gap.last_seq > known):
                self._show(gap)

    async def show_last(self, count: int) -> None:
        """Show the last direct messages, with their times. Raises what the call does."""
        found, _, _ = await self._read(0, None)
        for each in found[-count:]:
            self._face.result(entries.dated(entries.of_direct(each)))

    async def _catch_up(self) -> int | None:
        """How many came; None where the inbox cannot be read now, which is said."""
        position = self._position
        try:
            found, epoch, reached = await self._read(position.seq or 0, position.epoch)
        except (RequestFailed, CallTimeout) as error:
            self._face.complain(explain(error))
            return None
        if len(found) > AT_ONCE_MAX:
            self._face.remark(f"{len(found)} direct messages came: /inbox {len(found)} has all")
        for each in found[-AT_ONCE_MAX:]:
            self._show(each, dated=True)
        position.advance(epoch, reached)
        return len(found)

    async def _read(self, after: int, epoch: int | None) -> tuple[FoundDirect, int, int]:
        reading = read_inbox(after, epoch)
        try:
            ask = next(reading)
            while True:
                ask = reading.send(await self._lasting(partial(self._client.inbox_history, *ask)))
        except StopIteration as done:
            found: tuple[FoundDirect, int, int] = done.value
            return found

    def _show(self, item: DirectMessage | RoomGap, *, dated: bool = False) -> None:
        entry = entries.of_direct(item)
        if isinstance(item, RoomGap):
            buffer = self._model.program
        elif item.from_name in self._model.ignored:
            return
        else:
            self._people.add(item.from_name)
            buffer = self._model.open_direct(item.from_name)
        self._model.add(buffer, entry)
        self._face.shown(buffer, entry, dated=dated and isinstance(item, DirectMessage))
        self._face.attract(buffer, entry)
        self._log.write(buffer, entry)

"""A market maker on the board of a room: it buys one good below a price and sells it above another.

TRADECHAT_URL=tradechat://maker:password@host:7878 \\
    python examples/market_maker.py ROOM GOOD BID ASK STOCK

An offer whose text is GOOD is a good for sale. The maker takes offers of others up to BID, and has
at most DEPTH of its own on the board, at ASK. STOCK is how many it has to begin with. Each taking
is made once, whatever the connection does; what happened while it was lost is seen on the board.
"""

import asyncio
import signal
import sys

from tradechat import (
    AsyncClient,
    ChatBroadcast,
    InsufficientFunds,
    NotFound,
    OfferAdded,
    OfferRemoved,
    OfferTaken,
    Reconnected,
    RoomGap,
    RoomRefused,
    RoomRestarted,
    format_amount,
    parse_amount,
    read_event,
)

DEPTH = 2
"""Offers of its own on the board at a time."""


class Maker:
    """What the maker knows: how many of the good it has, and which offers are its own."""

    def __init__(
        self, client: AsyncClient, room: int, good: str, bid: int, ask: int, stock: int
    ) -> None:
        """bid, ask: minor units. stock: those that are offered are among them."""
        self._client = client
        self._room, self._good, self._bid, self._ask = room, good, bid, ask
        self._stock = stock
        self._own: set[int] = set()

    async def look(self) -> None:
        """Go by the board, as it is: at the start, and when something may have been missed."""
        board = self._client.iter_board(self._room, self._good)
        found = [entry async for entry in board if entry.text == self._good]
        own = {entry.entry_id for entry in found if entry.user_id == self._client.user_id}
        for entry_id in self._own - own:  # nobody else takes them off the board, but a moderator
            self._sold(entry_id)
        self._own = own
        for entry in found:
            if entry.entry_id not in own:
                await self._buy(entry.entry_id, entry.price)
        await self._offer()

    async def see(self, event: ChatBroadcast) -> None:
        """Go by one event of the room."""
        match read_event(event):
            case OfferAdded(entry_id, price, self._good) if event.from_user != self._client.user_id:
                await self._buy(entry_id, price)
            case OfferTaken(entry_id=entry_id) if entry_id in self._own:
                self._sold(entry_id)
            case OfferRemoved(entry_id) if entry_id in self._own:  # by a moderator
                self._own.discard(entry_id)
        await self._offer()

    def _sold(self, entry_id: int) -> None:
        self._own.discard(entry_id)
        self._stock -= 1
        print(f"sold #{entry_id} for {format_amount(self._ask)}, stock {self._stock}", flush=True)

    async def _buy(self, entry_id: int, price: int) -> None:
        if not 0 < price <= self._bid:  # a price of 0 is a note
            return
        try:
            await self._client.board_take(self._room, entry_id, price)
        except NotFound:  # somebody else was faster
            return
        except InsufficientFunds:
            print(f"no money for #{entry_id}", file=sys.stderr, flush=True)
            return
        self._stock += 1
        print(f"bought #{entry_id} for {format_amount(price)}, stock {self._stock}", flush=True)

    async def _offer(self) -> None:
        while len(self._own) < min(DEPTH, self._stock):
            added = await self._client.board_add(self._room, self._ask, self._good)
            self._own.add(added.entry_id)


async def trade(client: AsyncClient, name: str, good: str, bid: int, ask: int, stock: int) -> None:
    """Trade in the room of this name, until the client is closed."""
    room = (await client.open_room(name)).room_id
    async with client.events() as events:
        joined = await client.join(room)
        seen = joined.last_seq  # what was before, the board tells
        maker = Maker(client, room, good, bid, ask, stock)
        await maker.look()
        print(f"trading in room {room}", flush=True)
        async for event in events:
            match event:
                case ChatBroadcast(room_id=where, room_seq=seq) if where == room and seq > seen:
                    seen = seq
                    await maker.see(event)
                case RoomGap(room_id=where) if where == room:
                    await maker.look()
                case RoomRestarted(room_id=where, last_seq=seq) if where == room:
                    seen = seq
                    await maker.look()
                case Reconnected():
                    await maker.look()
                case RoomRefused(room_id=where, detail=detail) if where == room:
                    raise SystemExit(f"no more trade in room {room}: {detail}")


async def main(room: str, good: str, bid: str, ask: str, stock: str) -> None:
    """Run until Ctrl-C or SIGTERM."""
    async with AsyncClient(reconnect=True) as client:  # TRADECHAT_URL says where, and as whom
        trading = trade(client, room, good, parse_amount(bid), parse_amount(ask), int(stock))
        task = asyncio.ensure_future(trading)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            print("stopped")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""A bot in a room: it repeats what follows `!echo`, each time once, whatever the connection does.

TRADECHAT_URL=tradechat://echo:password@host:7878 python examples/echo_bot.py ROOM
"""

import asyncio
import signal
import sys

from tradechat import AsyncClient, BadPacket, ChatBroadcast, EventKind, RoomGap, RoomRefused

COMMAND = "!echo "


async def answer(client: AsyncClient, event: ChatBroadcast) -> None:
    """Answer one event of the room, if it asks for that."""
    if event.kind != EventKind.MESSAGE or event.from_user == client.user_id:
        return
    if event.message.startswith(COMMAND):
        try:
            await client.send(event.room_id, event.message.removeprefix(COMMAND))
        except BadPacket as error:  # nothing is left to say, for instance
            print(f"not repeated: {error.detail}", file=sys.stderr)


async def serve(client: AsyncClient, room_id: int) -> None:
    """Answer what is said in the room from now on, until the client is closed."""
    joined = await client.join(room_id)
    answered = joined.last_seq  # up to this event
    print(f"listening in room {room_id}", flush=True)
    async with client.events() as events:
        async for event in events:
            match event:
                case ChatBroadcast():
                    if event.room_seq > answered:
                        await answer(client, event)
                        answered = event.room_seq
                case RoomGap(room_id=room, last_seq=last) if room == room_id:
                    # This program was too slow, and the history has what was dropped.
                    async for missed in client.iter_history(room_id, answered):
                        if isinstance(missed, ChatBroadcast):
                            await answer(client, missed)
                            answered = missed.room_seq
                        if answered >= last:
                            break
                case RoomRefused(detail=detail):
                    raise SystemExit(f"thrown out of room {room_id}: {detail}")


async def main(room_id: int) -> None:
    """Run until Ctrl-C or SIGTERM."""
    async with AsyncClient(reconnect=True) as client:  # TRADECHAT_URL says where, and as whom
        task = asyncio.ensure_future(serve(client, room_id))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            print("stopped")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

"""Readers of events: each has all of them in order, in a queue of its own that is bounded."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from client import (
    AsyncClient,
    AsyncEvents,
    BadArgument,
    ChatBroadcast,
    Client,
    ConnectionLost,
    DirectMessage,
    Disconnected,
    Event,
    PaymentGap,
    Reconnected,
    RoomGap,
    WrongPlace,
)
from client.core.inbox import Inbox, size_of
from client.core.readers import Readers
from libproto.messages import Opcode, Payment
from tests.client import turns
from tests.client.peer import PASSWORD, USERNAME, Wire, push, serving
from tests.client.relay import Relay
from tests.helpers.server import RunningServer

ROOM = 5


def said(seq: int, room_id: int = ROOM) -> ChatBroadcast:
    return ChatBroadcast(room_id, seq, 1, 0, 3, "bob", f"message {seq}")


def broadcast(*seqs: int) -> bytes:
    return b"".join(push(Opcode.CHAT_BROADCAST, *said(seq)) for seq in seqs)


def alice(server: RunningServer, **options: Any) -> Client:
    return Client(server.host, server.port, username="alice", password=PASSWORD, **options)


def bob(server: RunningServer, **options: Any) -> Client:
    return Client(server.host, server.port, username="bob", password=PASSWORD, **options)


def seqs_of(events: list[Event], room_id: int) -> list[int]:
    """The numbers of a room that these events give or name as missing."""
    found: list[int] = []
    for event in events:
        if isinstance(event, ChatBroadcast) and event.room_id == room_id:
            found.append(event.room_seq)
        elif isinstance(event, RoomGap) and event.room_id == room_id:
            found += range(event.first_seq, event.last_seq + 1)
    return found


def _has_grown(events: Any, put_len: int) -> bool:
    """Was anything put into its queue since then?"""
    return bool(events._queue._put_len != put_len)


def until(events: Iterator[Event], message: str) -> list[Event]:
    """Events up to a message."""
    found: list[Event] = []
    for event in events:
        found.append(event)
        if isinstance(event, ChatBroadcast) and event.message == message:
            return found
    pytest.fail(f"{message!r} did not come, but {found}")


def events_to_reconnected(events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        yield event
        if event == Reconnected(1):
            return


async def async_until(events: AsyncEvents, message: str) -> list[Event]:
    found: list[Event] = []
    async for event in events:
        found.append(event)
        if isinstance(event, ChatBroadcast) and event.message == message:
            return found
    pytest.fail(f"{message!r} did not come, but {found}")


# --- with a real server


def test_every_reader_has_every_event(shared: RunningServer) -> None:
    with alice(shared) as one, bob(shared) as other:
        joined = one.join(20)
        with one.events() as first:
            # Its own event, which the first reader has, and one that begins later has not.
            assert seqs_of([next(first)], 20) == [joined.last_seq + 1]
            with one.events() as second:
                other.join(20)
                for number in range(300):
                    other.send(20, str(number))
                other.send(20, "last")
                wanted = list(range(joined.last_seq + 2, joined.last_seq + 304))
                assert seqs_of(until(first, "last"), 20) == wanted
                assert seqs_of(until(second, "last"), 20) == wanted
                assert (first.dropped, second.dropped) == (0, 0)


def test_the_first_reader_begins_with_what_waits(shared: RunningServer) -> None:
    with alice(shared) as one:
        joined = one.join(21)
        one.send(21, "before")
        one.heartbeat()
        events = one.events()
        one.send(21, "after")
        found = seqs_of(until(events, "after"), 21)
        assert found == list(range(joined.last_seq + 1, found[-1] + 1))
        events.close()
        assert list(events) == []
        one.send(21, "for nobody")
        assert [p.message for p in one.pushes(0.5) if isinstance(p, ChatBroadcast)] == [
            "for nobody"
        ]


def test_asyncio_readers(shared: RunningServer) -> None:
    async def main() -> None:
        url = f"tradechat://alice@{shared.host}:{shared.port}"
        async with AsyncClient(url, password=PASSWORD) as one:
            await one.join(22)
            async with one.events() as first, one.events() as second:
                readers = [asyncio.create_task(async_until(e, "last")) for e in (first, second)]
                await asyncio.gather(*(one.send(22, str(number)) for number in range(100)))
                await one.send(22, "last")
                seen, others = await asyncio.gather(*readers)
                assert len(seqs_of(seen, 22)) >= 101
                assert seqs_of(seen, 22)[-101:] == seqs_of(others, 22)[-101:]

    asyncio.run(main())


def test_it_ends_when_the_client_is_closed(shared: RunningServer) -> None:
    one = alice(shared)
    one.connect()
    events = one.events()
    ended: list[list[Event]] = []
    reader = threading.Thread(target=lambda: ended.append(list(events)))
    reader.start()
    one.close()
    reader.join(30)
    assert ended == [[]]

    async def main() -> list[Event]:
        async with AsyncClient(port=shared.port) as other:
            events = other.events()
            reading = asyncio.create_task(_all(events))
            await turns.turn()
        return await reading

    assert asyncio.run(main()) == []


async def _all(events: AsyncEvents) -> list[Event]:
    return [event async for event in events]


def test_a_reader_that_is_closed_elsewhere_finds_the_end(shared: RunningServer) -> None:
    with alice(shared) as one:
        events = one.events()
        ended: list[list[Event]] = []
        reader = threading.Thread(target=lambda: ended.append(list(events)))
        reader.start()
        events.close()
        reader.join(30)
        assert ended == [[]]
        assert list(one.events(timeout_s=0.05)) == []


def test_a_lost_connection_is_an_event(shared: RunningServer) -> None:
    """Of a client that reconnects: and nothing is missing after it."""
    with Relay(shared.port) as relay, bob(shared) as other:
        port = relay.port
        one = Client(port=port, username="alice", password=PASSWORD, reconnect=True)
        with one:
            joined = one.join(23)
            with one.events() as events:
                other.join(23)
                other.send(23, "before")
                seen = until(events, "before")
                relay.close()
                with Relay(shared.port, port=port):
                    other.send(23, "meanwhile")
                    seen += until(events, "meanwhile")
                    kinds: list[type] = [
                        type(e) for e in seen if isinstance(e, Disconnected | Reconnected)
                    ]
                    if Reconnected not in kinds:
                        kinds += [type(e) for e in events_to_reconnected(events)][-1:]
                    assert kinds == [Disconnected, Reconnected]
                    last = seqs_of(seen, 23)[-1]
                    assert seqs_of(seen, 23) == list(range(joined.last_seq + 1, last + 1))
                    one.close()


# --- with a server that says what the test says


def test_a_slow_reader_is_told_what_it_missed() -> None:
    """The other reader, and the answers, are not behind it."""
    count = 400

    def script(wire: Wire) -> None:
        wire.log_in()
        assert wire.request().opcode == Opcode.HEARTBEAT
        for seq in range(1, count + 1):
            wire.send(broadcast(seq))
        for txn_id in range(1, 4):
            wire.send(push(Opcode.PAYMENT, txn_id, 1, 3, "bob", 5, 5))
        wire.send(push(Opcode.DIRECT_MESSAGE, 9, 1, 3, "bob", "psst"))
        assert wire.wait_closed() == []

    with serving(script) as port, Client(port=port, username=USERNAME, password=PASSWORD) as ann:
        slow, fast = ann.events(max_bytes=4096), ann.events()
        with pytest.raises(TimeoutError):  # it is not answered
            ann.heartbeat(timeout_s=0.01)
        for _ in range(count + 4):
            next(fast)
        assert fast.dropped == 0
        assert slow.dropped > 0
        found: list[Event] = []
        for event in slow:
            found.append(event)
            if isinstance(event, RoomGap) and event.room_id == 0:
                break
        assert seqs_of(found, ROOM) == list(range(1, count + 1))
        assert found[-2:] == [PaymentGap(1, 3), RoomGap(0, 9, 9)]
        assert slow.dropped == sum(isinstance(e, ChatBroadcast) for e in found) * -1 + count + 4


def test_a_connection_that_is_lost_for_good_is_an_error_after_the_last_event() -> None:
    def script(wire: Wire) -> None:
        wire.log_in()
        wire.send(broadcast(1, 2))
        wire.request()

    with serving(script) as port, Client(port=port, username=USERNAME, password=PASSWORD) as ann:
        events = ann.events()
        with pytest.raises(ConnectionLost):
            ann.balance()
        assert [next(events), next(events)] == [said(1), said(2)]
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="closed the connection"):
                next(events)
        with pytest.raises(ConnectionLost):
            next(ann.events())

    async def main(port: int) -> None:
        async with AsyncClient(port=port, username=USERNAME, password=PASSWORD) as ann:
            events = ann.events()
            with pytest.raises(ConnectionLost):
                await ann.balance()
            assert [await anext(events), await anext(events)] == [said(1), said(2)]
            with pytest.raises(ConnectionLost, match="closed the connection"):
                await anext(events)

    with serving(script) as port:
        asyncio.run(main(port))


def test_callbacks_and_readers_both_get_pushes() -> None:
    called: list[Any] = []
    enough = threading.Event()

    def on_push(item: Any) -> None:
        called.append(item)
        if len(called) == 3:
            enough.set()

    def script(wire: Wire) -> None:
        wire.log_in()
        wire.request()
        wire.send(broadcast(1, 2, 3))
        wire.wait_closed()

    with (
        serving(script) as port,
        Client(port=port, username=USERNAME, password=PASSWORD, on_push=on_push) as ann,
        closing(ann.events()) as events,
    ):
        with pytest.raises(TimeoutError):
            ann.balance(timeout_s=0.01)
        assert [next(events) for _ in range(3)] == [said(1), said(2), said(3)]
        assert enough.wait(30)
        assert called == [said(1), said(2), said(3)]


def test_a_cancel_loses_no_event() -> None:
    """A reader whose task is cancelled again and again, in the turns of the loop at and after that
    in which an event comes."""
    count = 200

    def script(wire: Wire) -> None:
        wire.log_in()
        for seq in range(1, count + 1):
            wire.send(broadcast(seq))
            wire.request()
        wire.wait_closed()

    async def main(port: int) -> None:
        async with AsyncClient(port=port, username=USERNAME, password=PASSWORD) as ann:
            events = ann.events()
            found: list[Event] = []
            put_len = 0
            while len(found) < count:
                reading = asyncio.create_task(anext(events))
                beat = asyncio.create_task(ann.balance())
                await turns.until(partial(_has_grown, events, put_len))
                put_len = events._queue._put_len
                for _ in range(len(found) % 4):
                    await turns.turn()
                reading.cancel()
                try:
                    found.append(await reading)
                except asyncio.CancelledError:
                    found.append(await anext(events))
                beat.cancel()
            assert found == [said(seq) for seq in range(1, count + 1)]

    with serving(script) as port:
        asyncio.run(main(port))


# --- readers


def drained(queue: Inbox) -> list[Any]:
    found = []
    while (item := queue.take()) is not None:
        found.append(item)
    return found


def test_a_forgotten_reader_is_not_fed() -> None:
    inbox = Inbox(10**6)
    readers = Readers(inbox, called_back=False)
    queue = Inbox(10**6)
    readers.add(queue)
    readers.put(said(1))
    assert (drained(queue), drained(inbox)) == ([said(1)], [])
    del queue
    gc.collect()
    readers.put(said(2))
    assert drained(inbox) == [said(2)]


def test_what_was_dropped_before_the_first_reader_is_told_to_it() -> None:
    inbox = Inbox(size_of(said(1)))
    readers = Readers(inbox, called_back=False)
    for seq in (1, 2, 3):
        readers.put(said(seq))
    readers.put(Payment(7, 1, 3, "bob", 5, 5))
    first, second = Inbox(10**6), Inbox(10**6)
    readers.add(first)
    readers.add(second)
    readers.tell(Disconnected(ConnectionLost("gone")))
    readers.put(DirectMessage(4, 1, 3, "bob", "psst"))
    assert drained(first)[:3] == [said(1), RoomGap(ROOM, 2, 3), PaymentGap(7, 7)]
    assert [type(item) for item in drained(second)] == [Disconnected, DirectMessage]
    assert drained(inbox) == []
    readers.end()
    assert first.ended
    assert second.ended
    late = Inbox(10**6)
    readers.add(late)
    assert late.ended


def test_what_becomes_of_the_connection_is_bounded_too() -> None:
    queue = Inbox(0)
    for number in range(1, 1000):
        queue.put(Disconnected(ConnectionLost("gone")))
        queue.put(Reconnected(number))
    found = drained(queue)
    assert len(found) <= 3
    assert [type(item) for item in found[-2:]] == [Disconnected, Reconnected]
    assert found[-1] == Reconnected(999)


# --- misuse


def test_where_events_cannot_be_read(shared: RunningServer) -> None:
    with pytest.raises(ConnectionLost, match="connect"):
        Client(port=shared.port).events()
    with alice(shared) as one:
        wrong: list[dict[str, Any]] = [{"max_bytes": -1}, {"timeout_s": "1"}]
        for argument in wrong:
            with pytest.raises(BadArgument):
                one.events(**argument)

    async def main() -> None:
        async with AsyncClient(port=shared.port) as other:
            events = other.events()

            async def elsewhere() -> None:
                with pytest.raises(WrongPlace, match="event loop"):
                    await anext(events)
                with pytest.raises(WrongPlace, match="event loop"):
                    other.events()

            await asyncio.to_thread(asyncio.run, elsewhere())

    asyncio.run(main())

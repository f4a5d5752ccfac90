"""A worker's end of the questions to the archive, over a real pair of sockets: nobody waits for
ever, and no question is lost in silence."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.archive.client import ArchiveClient
from server.archive.protocol import (
    DATAGRAM_MAX,
    Kind,
    Question,
    pack_failure,
    pack_hello,
    pack_txns,
)

FIELDS = (1, 2, 3, 4)
NEVER_S = 3600.0
DEADLINE_S = 20.0


@asynccontextmanager
async def pair(answer_s: float = NEVER_S) -> AsyncIterator[tuple[ArchiveClient, socket.socket]]:
    """A worker's end, and the archive's socket."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (ours, theirs):
        sock.setblocking(False)
    client = ArchiveClient(ours, loop, answer_s)
    try:
        yield client, theirs
    finally:
        client.give_up()
        loop.remove_reader(ours.fileno())
        ours.close()
        theirs.close()


def asked(sock: socket.socket) -> list[Question]:
    """All questions that are there."""
    found: list[Question] = []
    while True:
        try:
            found.append(Question.unpack(sock.recv(DATAGRAM_MAX)))
        except BlockingIOError:
            return found


async def next_of(told: asyncio.Queue[bytes]) -> bytes:
    return await asyncio.wait_for(told.get(), DEADLINE_S)


def test_who_gets_no_answer_is_told_and_a_late_one_is_ignored() -> None:
    async def run() -> None:
        async with pair(answer_s=0.05) as (client, archive):
            told: asyncio.Queue[bytes] = asyncio.Queue()
            assert client.ask(Kind.TXNS, FIELDS, told.put_nowait)
            assert await next_of(told) == b""
            (question,) = asked(archive)
            archive.send(pack_txns(question.token, 5, 0, [range(8)]))
            assert client.ask(Kind.TXNS, FIELDS, told.put_nowait)
            assert await next_of(told) == b""
            assert told.empty()

    asyncio.run(run())


def test_an_answer_comes_to_who_asked_and_once() -> None:
    async def run() -> None:
        async with pair() as (client, archive):
            first: asyncio.Queue[bytes] = asyncio.Queue()
            second: asyncio.Queue[bytes] = asyncio.Queue()
            assert client.ask(Kind.TXNS, FIELDS, first.put_nowait)
            assert client.ask(Kind.TXNS, FIELDS, second.put_nowait)
            one, two = asked(archive)
            answer = pack_txns(two.token, 5, 0, [range(8)])
            for data in (answer, answer, pack_failure(one.token)):
                archive.send(data)
            assert await next_of(first) == b""
            assert await next_of(second) == answer
            assert second.empty()

    asyncio.run(run())


def test_what_cannot_be_asked_again_is_told_to_who_waits() -> None:
    """More wait than the socket holds: an archive that was killed had taken some of them."""

    async def run() -> None:
        async with pair() as (client, archive):
            told: asyncio.Queue[bytes] = asyncio.Queue()
            count = 0
            while client.ask(Kind.TXNS, FIELDS, told.put_nowait):
                count += 1
            taken = asked(archive)  # and it was killed
            assert len(taken) == count
            extra = 0
            while client.ask(Kind.TXNS, FIELDS, told.put_nowait):
                extra += 1
            discarded = asked(archive)  # as the new one does, which says hello
            assert len(discarded) == extra > 0
            archive.send(pack_hello())
            assert await next_of(told) == b""
            again = asked(archive)
            assert len(again) + 1 + told.qsize() == count + extra
            assert [q.token for q in again] == [q.token for q in (*taken, *discarded)][: len(again)]

    asyncio.run(run())

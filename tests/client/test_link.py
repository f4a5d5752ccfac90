"""A connection on an event loop: what of each frame was sent, and what ends it."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from client.io.link import HIGH_MARK, Link, Sent
from tests.client.conftest import RunAndCollect
from tests.client.peer import WAIT_S
from tests.client.turns import turn, until

FRAME = b"x" * 50_000


class Interrupted(Exception):
    """What a signal handler raises."""


class End:
    """One end as a link, the other as a plain socket, and what the link has said."""

    def __init__(self, received: Callable[[bytes], None] | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = socket.create_connection(listener.getsockname())
            self.peer, _ = listener.accept()
        sock.setblocking(False)
        self.peer.settimeout(WAIT_S)
        self.got: list[bytes] = []
        self.ends: list[str] = []
        self.relieved = 0
        self.link = Link(
            asyncio.get_running_loop(),
            sock,
            received or self.got.append,
            self.ends.append,
            self._relieve,
        )

    def _relieve(self) -> None:
        self.relieved += 1

    async def block(self) -> int:
        """Send numbered frames until the kernel takes no more; the number of the last one."""
        number = 0
        while not self.link.full:
            number += 1
            self.link.send(FRAME, number)
            await turn()
            await turn()
        return number

    def close(self) -> None:
        self.link.close()
        self.peer.close()


def test_what_is_sent_in_one_turn_leaves_in_order(run_and_collect: RunAndCollect) -> None:
    async def main() -> None:
        end = End()
        frames = [bytes([each]) * each for each in range(1, 100)]
        for each in frames:
            end.link.send(each)
        await until(lambda: end.relieved > 0)
        assert end.peer.recv(1 << 20) == b"".join(frames)
        end.peer.send(b"hello")
        await until(lambda: bool(end.got))
        end.close()
        assert (end.got, end.ends) == ([b"hello"], [])

    assert run_and_collect(main()) == []


def test_how_much_of_a_frame_was_sent(run_and_collect: RunAndCollect) -> None:
    async def main() -> None:
        end = End()
        last = await end.block()
        end.link.send(b"unsent", last + 1)
        end.link.send(b"kept", last + 2)
        assert end.link.take_back(last + 1) is Sent.NOTHING
        assert end.link.take_back(last + 1) is Sent.ALL  # it is not here any more
        assert end.link.take_back(1) is Sent.ALL
        parts = [each for each in range(1, last + 1) if end.link.take_back(each) is Sent.PART]
        assert parts in ([], [last])  # none, if the kernel's buffer ends with a frame
        received = bytearray()
        end.peer.setblocking(False)
        async with asyncio.timeout(WAIT_S):
            while len(received) < last * len(FRAME) + 4:
                received += await asyncio.get_running_loop().sock_recv(end.peer, 1 << 16)
        assert received == FRAME * last + b"kept"
        await until(lambda: not end.link.full)
        end.close()

    assert run_and_collect(main()) == []


def test_what_waits_is_bounded(run_and_collect: RunAndCollect) -> None:
    async def main() -> None:
        end = End()
        while not end.link.full:  # in one turn: nothing is sent yet
            end.link.send(FRAME)
        assert end.link._out_len < HIGH_MARK + len(FRAME)
        end.close()

    assert run_and_collect(main()) == []


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_the_end_is_told_once_and_after_what_came_before(
    run_and_collect: RunAndCollect, how: str
) -> None:
    async def main() -> None:
        end = End()
        end.peer.send(b"last words")
        if how == "reset":
            end.link.send(b"unread")  # closing with unread bytes is a reset
            await until(lambda: end.relieved > 0)
        end.peer.close()
        for _ in range(3):
            end.link.send(b"too late")
            await turn()
        await until(lambda: bool(end.ends))
        end.close()
        assert end.got == [b"last words"]
        assert len(end.ends) == 1

    assert run_and_collect(main()) == []


def test_an_interrupt_ends_the_stream(run_and_collect: RunAndCollect) -> None:
    """What was received just then is lost, and what would follow is out of step."""

    async def main() -> None:
        def interrupted(_: bytes) -> None:
            raise Interrupted

        end = End(interrupted)
        end.peer.send(b"first")
        await until(lambda: bool(end.ends))
        end.peer.send(b"second")
        for _ in range(10):
            await turn()
        assert end.ends == ["the client was interrupted"]
        end.close()

    assert [type(each["exception"]) for each in run_and_collect(main())] == [Interrupted]

"""From a connection that the server will close to another one, with the session, unnoticed.

The other one is made and greeted while the session is still where it is: a HELLO changes nothing on
the server, so what goes wrong until then is tried again. Then the connection is brought to rest,
and `take_over` is told, which has the core log in on the other one.
"""

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from client.core.auth import Greeting
from client.core.numbers import Numbers
from client.core.resume import ATTEMPT_S, ResumingCore
from client.core.session import MAX_BODY_LEN, Answered, ClientCore
from client.errors import ClientError, ConnectionLost
from libnet.dial import dial
from libnet.errors import ConnectFailed
from libproto.framing import Decoder
from libproto.wrapping import Unwrapper, Wrapper

SPREAD_S: Final = 1.0
"""Longest time from GOING_AWAY until another connection is made: by how much less is drawn, so that
not all clients of a worker log in elsewhere at one moment."""
SPREAD_PART: Final = 0.1
"""Of the time that the server leaves them, the part that clients are spread over, at most."""
REST_S: Final = 0.25
"""How long, before a move, requests are waited for that are under way; new ones wait meanwhile."""
PAUSE_S: Final = (0.05, 1.0)
"""First and longest pause between attempts; it doubles with each."""
_RECEIVE_LEN: Final = 4096  # bytes, more than the answer to HELLO has

_random: Final = random.SystemRandom()


class Approached(NamedTuple):
    """A connection on which HELLO was answered. `decoder` has what came after that."""

    sock: socket.socket
    decoder: Decoder
    greeting: Greeting
    wrapper: Wrapper | None
    spent: bool


class Mover:
    """The moves of one client, one at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int],
        core: ResumingCore,
        take_over: Callable[[Approached], None],
        stay: Callable[[], None],
        send_own: Callable[[], None],
    ) -> None:
        """take_over: called when the connection is at rest; the other one is its own then. stay:
        called when requests may be sent on the old one again after all. send_own: sends what the
        core has to say by itself."""
        self._loop, self._address, self._core = loop, address, core
        self._take_over, self._stay, self._send_own = take_over, stay, send_own
        self.task: asyncio.Task[None] | None = None
        self._changed: asyncio.Future[None] | None = None  # what the task waits for

    def go(self) -> None:
        """The server has said that it will close the connection."""
        if self.task is None or self.task.done():
            self.task = self._loop.create_task(self._move())

    def note_change(self) -> None:
        """Something was answered, or is waited for no longer."""
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def cancel(self) -> None:
        """The connection is lost: there is nothing to be moved."""
        if self.task is not None:
            self.task.cancel()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed = self._loop.create_future()
            await self._changed

    async def _move(self) -> None:
        core, said = self._core, self._core.going_away
        assert said is not None
        spread_s = min(SPREAD_S, SPREAD_PART * said.reconnect_within_ms / 1000)
        await asyncio.sleep(_random.uniform(0, spread_s))
        pause_s = PAUSE_S[0]
        while True:
            await self._until(lambda: core.may_move)  # a login under way comes to its end
            core.prepare_move()
            self._send_own()
            there = await self._approach()
            if there is None:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S[1])
                continue
            try:
                if await self._rest(there.greeting.username):
                    break
            except BaseException:
                there.sock.close()
                raise
            there.sock.close()
        self.task = None
        self._take_over(there)

    async def _approach(self) -> Approached | None:
        """Connect, and say HELLO for the user of the core; None if that does not succeed."""
        with suppress(ConnectFailed, ClientError, OSError, TimeoutError):
            async with asyncio.timeout(ATTEMPT_S):
                sock = await dial(*self._address, None)
                try:
                    return await self._greet(sock)
                except BaseException:
                    sock.close()
                    raise
        return None

    async def _greet(self, sock: socket.socket) -> Approached:
        core, loop = self._core, self._loop
        # A core of its own takes the frames: that of the session is still on the other connection.
        door = ClientCore(Numbers(0), False, core.client_name)
        door.security = core.security
        decoder = Unwrapper(Decoder(MAX_BODY_LEN), None, False)
        door.begin(decoder)
        _, hello = door.request(core.hello(core.username))
        await loop.sock_sendall(sock, hello)
        while data := await loop.sock_recv(sock, _RECEIVE_LEN):
            decoder.feed(data)
            while (frame := decoder.next()) is not None:
                event = door.receive(frame)
                if isinstance(event, Answered):
                    if event.error is not None:
                        raise event.error
                    return Approached(sock, decoder, event.result, door.wrapper, door.spent)
                if door.going_away is not None:
                    raise ConnectionLost("this connection goes away too")
        raise ConnectionLost("the server closed the connection")

    async def _rest(self, username: str) -> bool:
        """Have no new requests sent, and wait a moment until those under way are answered; longer
        where one of them must not be sent again. False if the session is another user's then."""
        core = self._core
        core.hold()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(REST_S):
                    await self._until(lambda: core.at_rest)
            await self._until(lambda: core.may_leave)
        except BaseException:
            core.release()
            raise
        if core.may_move and username == core.username:
            return True
        core.release()
        self._stay()
        return False

"""The asyncio client; it runs on any loop, uvloop's too.

One connection is one `FrameProtocol`; with a core that goes on over lost connections, one takes the
place of another, and the calls that wait, and the pushes that nobody took yet, stay where they are.
Reading must not depend on writing: were both ends to stop
reading until the other has read, both would wait for ever. So a full output buffer makes calls
wait, not the reading; what stops the reading are pushes that the program does not take.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from client.base import ClientBase, now_us
from client.core.calls import Call
from client.core.login import Step, Steps
from client.core.pushes import Push
from client.core.resume import ATTEMPT_S
from client.core.session import MAX_BODY_LEN, PUSHES_MAX, Answered, ClientCore
from client.errors import CallTimeout, ClientError, ConnectionLost
from libnet.sockets import USER_TIMEOUT_MS, is_self_connected, tune
from libnet.transport import FrameProtocol
from libproto.errors import MisuseError
from libproto.framing import Frame
from libproto.messages import State

R = TypeVar("R")


class _Link(FrameProtocol):
    """One connection; what it is for is said by `_Connection`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: "_Connection") -> None:
        super().__init__(loop, MAX_BODY_LEN)
        self._owner = owner
        self._flushing = False
        self.is_self_connected = False
        self.full = False  # the server does not read
        self.gone = asyncio.Event()

    def send(self, frame: bytes) -> None:
        """What is sent in one turn of the loop leaves in one write."""
        self.out.append(frame)
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flushing = False
        self.flush()

    def hold(self) -> None:
        """Read no more."""
        super().pause_writing()

    def go_on(self) -> None:
        """Read again."""
        super().resume_writing()

    def end(self) -> None:
        """At once: what is unsent belongs to calls that fail, or that are repeated."""
        self.closing = True
        self.abort()

    # ---- FrameProtocol

    def opened(self) -> None:
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        self.is_self_connected = is_self_connected(sock)
        if self.is_self_connected:
            self.end()
        else:
            tune(sock, USER_TIMEOUT_MS)
            self._owner.opened(self)

    def handle(self, frame: Frame) -> None:
        if not self.closing:
            self._owner.handle(frame)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._owner.relieved()

    def lost(self) -> None:
        self.gone.set()
        self._owner.dropped(self)


class _Connection:
    """A connection, and those that take its place; the calls that wait on it."""

    def __init__(
        self,
        address: tuple[str, int],
        client_core: ClientCore,
        on_push: Callable[[Push], object] | None,
        on_reconnect: Callable[[ClientError | None], object] | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._address = address
        self._core = client_core
        self._on_push = on_push
        self._on_reconnect = on_reconnect
        self._link: _Link | None = None
        self._links: set[_Link] = set()  # that are not gone
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._pushes: deque[Push] = deque()
        self._pushed = asyncio.Event()  # a push came, or the end
        self._turn = asyncio.Lock()  # to send; held by the one who waits for room
        self._room = asyncio.Event()  # for another request, or the end
        self._held = False  # too many pushes: nothing is read
        self._drained = asyncio.Event()  # they were taken
        self._timer: asyncio.TimerHandle | None = None
        self._resuming = False  # another connection is wanted, or not yet what the lost one was
        self._resumer: asyncio.Task[None] | None = None
        self._decided = asyncio.Event()  # a new connection is logged in, or lost
        self._again: asyncio.TimerHandle | None = None
        self.closed = False

    async def dial(self, deadline: float) -> None:
        """Connect by the deadline; OSError or UnicodeError."""
        async with asyncio.timeout_at(deadline):
            _, link = await self.loop.create_connection(
                lambda: _Link(self.loop, self), *self._address
            )
        if link.is_self_connected:
            raise ConnectionRefusedError("nobody listens there")

    # ---- calls

    async def call(
        self, call: Call[R], deadline: float, req_id: int | None, possible_duplicate: bool
    ) -> R:
        number, future = 0, None
        try:
            async with asyncio.timeout_at(deadline):
                async with self._turn:
                    while not self._may_send(call, req_id):
                        self._room.clear()
                        await self._room.wait()
                    number, frame = self._core.request(call, req_id, possible_duplicate)
                    future = self._waiting[number] = self.loop.create_future()
                    assert self._link is not None, "request() raises where there is no connection"
                    self._link.send(frame)
                result: R = await future
                return result
        except TimeoutError:
            what = "got no answer in time" if number else "could not be sent in time"
            raise CallTimeout(f"{call.opcode.name} {what}", number, call.opcode) from None
        finally:
            # Timed out or cancelled. The number may be in use again by the time we get here.
            if future is not None and self._waiting.get(number) is future:
                del self._waiting[number]
                self._core.abandon(number)
                self._room.set()

    def _may_send(self, call: Call[Any], req_id: int | None) -> bool:
        if self._core.loss is not None:
            return True  # to be told so
        link = self._link
        return link is not None and not link.full and self._core.may_send(call, req_id)

    async def next_push(self, deadline: float | None) -> Push:
        """The oldest push; None waits for ever."""
        try:
            async with asyncio.timeout_at(deadline):
                while not self._pushes:
                    if self._core.loss is not None:
                        raise self._core.failure()
                    self._pushed.clear()
                    await self._pushed.wait()
        except TimeoutError:
            raise CallTimeout("no push came in time") from None
        push = self._pushes.popleft()
        if self._held and len(self._pushes) <= PUSHES_MAX // 2:
            self._held = False
            self._drained.set()
            if self._link is not None:
                self._link.go_on()
        return push

    # ---- what a link tells

    def opened(self, link: _Link) -> None:
        self._links.add(link)
        if self.closed:
            link.end()
            return
        self._link = link
        self._core.begin(link.decoder)
        self._send_own()

    def handle(self, frame: Frame) -> None:
        try:
            events = self._core.take(frame)
        except ClientError as error:
            self._lose(error)
            return
        for event in events:
            if isinstance(event, Answered):
                self._answer(event)
            else:
                self._push(event)
        if self._resuming:
            self._resume()

    def relieved(self) -> None:
        """The server has read what waited."""
        self._room.set()

    def dropped(self, link: _Link) -> None:
        self._links.discard(link)
        if link is self._link:
            self._lose(ConnectionLost("the server closed the connection"))

    # ---- what the server sends

    def _answer(self, answered: Answered) -> None:
        future = self._waiting.pop(answered.req_id)
        if not future.done():  # cancelled in this turn of the loop
            if answered.error is not None:
                future.set_exception(answered.error)
            else:
                future.set_result(answered.result)
        self._room.set()
        if self._timer is None:
            self._time_beat()

    def _push(self, push: Push) -> None:
        if self._on_push is not None:
            self._call_back(self._on_push, push)
            return
        self._pushes.append(push)
        self._pushed.set()
        if len(self._pushes) >= PUSHES_MAX and not self._held and self._link is not None:
            self._held = True
            self._drained.clear()
            self._link.hold()

    def _call_back(self, function: Callable[[R], object], what: R) -> None:
        try:
            function(what)
        except BaseException:
            self._end(ConnectionLost("on_push or on_reconnect raised an exception"))
            raise

    def _time_beat(self) -> None:
        if self._core.beat_s:
            self._timer = self.loop.call_later(self._core.beat_s, self._beat)

    def _beat(self) -> None:
        self._time_beat()
        if self._link is None or self._link.full:
            return  # as many requests as there are to read are a sign of life
        try:
            _, frame = self._core.beat(now_us(), self._held)
        except ClientError as error:
            self._lose(error)
        else:
            self._link.send(frame)

    # ---- another connection

    async def _reconnect(self) -> None:
        """Until there is one that is logged in; the core does the rest by itself."""
        while self._core.loss is None and self._link is None:
            if self._held:
                await self._drained.wait()
            await asyncio.sleep(self._core.pause_s(self.loop.time()))
            self._decided.clear()
            with suppress(OSError, UnicodeError):
                deadline = self.loop.time() + ATTEMPT_S
                await self.dial(deadline)
                async with asyncio.timeout_at(deadline):
                    await self._decided.wait()
            if self._core.state != State.AUTHENTICATED:
                self._lose(ConnectionLost(f"no login within {ATTEMPT_S:g} s"))

    def _resume(self) -> None:
        """Do what a new connection has to do before it is what the lost one was."""
        self._send_own()
        if self._core.state == State.AUTHENTICATED:
            self._decided.set()
            if self._timer is None:
                self._time_beat()
        if self._core.again_after_s is not None and self._again is None:
            self._again = self.loop.call_later(self._core.again_after_s, self._do_again)
        if self._core.steady and self._link is not None:
            self._resuming = False
            self._room.set()
            if self._on_reconnect is not None:
                self._call_back(self._on_reconnect, None)

    def _do_again(self) -> None:
        self._again = None
        self._core.again()
        self._resume()

    def _send_own(self) -> None:
        for frame in self._core.outbox:
            assert self._link is not None, "the core has nothing to say without a connection"
            self._link.send(frame)
        self._core.outbox.clear()

    # ---- the end

    async def close(self) -> None:
        self.closed = True
        self._end(ConnectionLost("the client was closed"))
        if self._resumer is not None:
            await asyncio.wait({self._resumer})
        for link in tuple(self._links):
            await link.gone.wait()

    def _lose(self, reason: ClientError) -> None:
        """The connection is lost, or has to be given up; another one is made if the core wants."""
        self._fail(self._core.lose(reason))
        if self._core.loss is not None:
            return
        self._decided.set()
        if self._resumer is None or self._resumer.done():
            self._resumer = self.loop.create_task(self._reconnect())
        if not self._resuming:
            self._resuming = True
            if self._on_reconnect is not None:
                self._call_back(self._on_reconnect, self._core.failure())

    def _end(self, reason: ClientError) -> None:
        """The client is down, whatever the core wants."""
        self._fail(self._core.end(reason))
        if self._resumer is not None:
            self._resumer.cancel()

    def _fail(self, req_ids: list[int]) -> None:
        """These calls fail, and the connection ends."""
        for req_id in req_ids:
            future = self._waiting.pop(req_id)
            if not future.done():
                future.set_exception(self._core.failure())
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()
        self._timer = self._again = None
        self._pushed.set()
        self._room.set()
        link, self._link = self._link, None
        if link is not None:
            link.end()


class AsyncBase(ClientBase):
    """What `client.aio.AsyncClient` is but for its calls: connecting, closing, waiting, pushes."""

    _connection: _Connection | None = None

    async def connect(self, *, timeout_s: float | None = None) -> None:
        """Connect; again after a loss, too. Raises ConnectionLost if that fails."""
        deadline = self._deadline(timeout_s)
        if self._core.loss is None:
            raise MisuseError("the client is connected, or reconnects by itself")
        await self.close()
        connection = _Connection(
            (self.host, self.port), self._core, self._on_push, self._on_reconnect
        )
        try:
            await connection.dial(deadline)
        except (OSError, UnicodeError) as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise ConnectionLost(
                f"cannot connect to {self.host} port {self.port}: {reason}",
                self._core.unanswered_req_ids,
            ) from error
        self._connection = connection

    async def close(self) -> None:
        """Close the connection, and make no other; calls under way fail with ConnectionLost. May be
        repeated."""
        if self._connection is not None:
            await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ---- how every call is made

    def _deadline(self, timeout_s: float | None) -> float:
        return asyncio.get_running_loop().time() + self._timeout(timeout_s)

    async def _call(
        self,
        call: Call[R],
        timeout_s: float | None,
        req_id: int | None = None,
        possible_duplicate: bool = False,
    ) -> R:
        deadline = self._deadline(timeout_s)
        return await self._connected().call(call, deadline, req_id, possible_duplicate)

    async def _run(self, steps: Steps[R], timeout_s: float | None) -> R:
        deadline = self._deadline(timeout_s)
        proceed: Callable[[], Step] = partial(next, steps)
        with closing(steps):
            while True:
                try:
                    step = proceed()
                except StopIteration as done:
                    result: R = done.value
                    return result
                try:
                    proceed = partial(steps.send, await self._do(step, deadline))
                except ClientError as error:
                    proceed = partial(steps.throw, error)

    async def _do(self, step: Step, deadline: float) -> Any:
        if isinstance(step, Call):
            return await self._connected().call(step, deadline, None, False)
        try:  # in a thread: it takes long, and the loop has to go on
            async with asyncio.timeout_at(deadline):
                return await asyncio.to_thread(step)
        except TimeoutError:
            raise CallTimeout("the password could not be hashed in time") from None

    def _connected(self) -> _Connection:
        if self._connection is None:
            raise self._core.failure()
        return self._connection

    # ---- pushes

    async def next_push(self, timeout_s: float | None = None) -> Push:
        """The next push. Raises CallTimeout if none comes, ConnectionLost if none can."""
        self._check_pushes()
        return await self._connected().next_push(self._deadline(timeout_s))

    def pushes(self, timeout_s: float | None = None) -> AsyncIterator[Push]:
        """Pushes as they come, until `close`, or until none came for `timeout_s` (None: for ever).

        Raises ConnectionLost when the connection was lost for good, after the last push.
        """
        self._check_pushes()
        silence_s = None if timeout_s is None else self._timeout(timeout_s)
        return self._iterate(self._connected(), silence_s)

    @staticmethod
    async def _iterate(connection: _Connection, silence_s: float | None) -> AsyncIterator[Push]:
        while True:
            try:
                push = await connection.next_push(
                    None if silence_s is None else connection.loop.time() + silence_s
                )
            except CallTimeout:
                return
            except ConnectionLost:
                if connection.closed:
                    return
                raise
            yield push

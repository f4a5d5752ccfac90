"""The asyncio client; it runs on any loop that can watch descriptors, uvloop's too.

A `_Session` is one `connect`: the connection, on the loop that it was made in, and the task that
calls `on_push` and `on_reconnect`. Neither holds the client, so that one which the program has
forgotten is noticed, and ended. A session whose loop was closed is dropped by the next call.
"""

import asyncio
import inspect
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from client.base import ClientBase, callback_raised
from client.core import arguments
from client.core.calls import Call
from client.core.files import Pause, Transfer, Wanted
from client.core.inbox import NOTICES_LEN, Inbox, Notice
from client.core.login import Step, Steps, login
from client.core.paging import Pages
from client.core.pushes import Disconnected, Push, Reconnected
from client.core.readers import Readers
from client.core.retry import Attempts
from client.errors import (
    CallTimeout,
    ClientError,
    ConnectionLost,
    MisuseError,
    ServerBusy,
    WrongPlace,
)
from client.io.connection import CLOSED, Connection
from client.io.events import AsyncEvents
from client.io.steps import follow_async
from client.io.waiter import Waiter
from client.io.waiting import next_item

FAIR_CALLBACKS: Final = 1024
"""Calls of on_push in a row, before the others have their turn: more than one turn can receive."""

R = TypeVar("R")
T = TypeVar("T")


class _Session:
    """One `connect` of a client: its connection, and the task that calls back."""

    def __init__(self, client: "AsyncBase") -> None:
        self._client = weakref.ref(client)
        self.loop: Final = asyncio.get_running_loop()
        self._core = client._core
        self.closed = False
        self._over = asyncio.Event()
        self.inbox = Inbox(client.pushes_max_bytes)
        self.readers = Readers(self.inbox, called_back=client._on_push is not None)
        # What is called back: the pushes and the notices, in their order, or the notices alone.
        self._calls_back = client._on_push is not None or client._on_reconnect is not None
        self._news = self.inbox if client._on_push else Inbox(NOTICES_LEN)
        self._caller: asyncio.Task[None] | None = None
        self.connection: Final = Connection(
            self.loop,
            (client.host, client.port),
            client._core,
            self.readers,
            self._notice,
            self._end_news,
        )

    def _end_news(self) -> None:
        self._over.set()
        self._news.end()

    async def open(self, deadline: float) -> None:
        await self.connection.open(deadline)
        if self._calls_back:
            self._caller = self.loop.create_task(self._call_back())

    def _notice(self, reason: ClientError | None) -> None:
        if self._calls_back:
            self._news.put(Notice(reason))
        self.readers.tell(
            Reconnected(self._core.reconnects) if reason is None else Disconnected(reason)
        )

    async def _call_back(self) -> None:
        called = 0
        while (item := await next_item(self._news)) is not None:
            client = self._client()
            if client is None or self.closed:
                return
            try:
                done = client._call_back(item)
                if inspect.isawaitable(done):
                    await done
            except BaseException as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                    raise  # by `close`, or at the end of the loop; else of what it waited for
                reason = callback_raised(item, error)
                self.connection.end(ConnectionLost(reason))
                if not isinstance(error, Exception | asyncio.CancelledError):
                    raise
                self.loop.call_exception_handler({"message": reason, "exception": error})
                return
            del client, done
            called += 1
            if called % FAIR_CALLBACKS == 0:
                await asyncio.sleep(0)

    async def call(
        self, call: Call[R], deadline: float, req_id: int | None, possible_duplicate: bool
    ) -> R:
        future: asyncio.Future[R] = self.loop.create_future()
        waiter = Waiter(call, req_id, possible_duplicate, partial(_settle, future))
        self.connection.submit(waiter, deadline)
        try:
            return await future
        except BaseException:  # cancelled; an answer that has come since is not given to anybody
            self.connection.withdraw(waiter)
            if future.done() and not future.cancelled():
                future.exception()
            raise

    def events(self, silence_s: float | None, max_bytes: int) -> AsyncEvents:
        """A reader, which has what comes from now on."""
        queue = Inbox(max_bytes)
        self.readers.add(queue)
        return AsyncEvents(self.loop, queue, silence_s, self._why_over, self.readers.remove)

    def _why_over(self) -> ClientError | None:
        return None if self.closed else self._core.failure()

    async def pause(self, pause_s: float) -> None:
        """Wait so long, or until the client is over: who calls after that is told why."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._over.wait()

    @property
    def forgotten(self) -> bool:
        """Whether there is something to end that nobody has ended."""
        return not (self.closed or self.connection.over)

    def end(self) -> None:
        """Close the connection at once."""
        self.closed = True
        self.connection.end(ConnectionLost(CLOSED))

    def drop(self) -> None:
        """The loop was closed."""
        self.connection.drop(
            ConnectionLost("the event loop that the client was connected in was closed: connect()")
        )

    async def wait_closed(self, deadline: float) -> None:
        """After `end`: until the tasks are over. CallTimeout says what they wait for."""
        caller = self._caller
        try:
            async with asyncio.timeout_at(deadline):
                if caller is not None and caller is not asyncio.current_task():
                    caller.cancel()
                    await asyncio.wait({caller})
        except TimeoutError:
            raise CallTimeout(
                "close: on_push or on_reconnect was cancelled, and has not returned in time; the "
                "connection is closed"
            ) from None
        with suppress(TimeoutError):  # the program has closed it, whatever the server does
            async with asyncio.timeout_at(deadline):
                await self.connection.wait_over()


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return  # cancelled in this turn of the loop
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """WrongPlace on a loop that cannot watch descriptors."""
    if type(loop).add_reader is asyncio.AbstractEventLoop.add_reader:
        raise WrongPlace(
            f"{type(loop).__name__} cannot watch sockets (it is what Windows has by default): run "
            "the program with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)"
        )


class AsyncBase(ClientBase):
    """What `client.aio.AsyncClient` is but for its calls: connecting, closing, waiting, pushes."""

    _awaits = True
    _session: _Session | None = None

    async def connect(self, *, timeout_s: float | None = None) -> None:
        """Connect, and log in where the client was given username and password; again after a loss
        or a cancel, too. Raises ConnectionLost if that fails, CallTimeout if a callback of the
        connection before does not return in time, and what `login` raises, with the connection
        closed."""
        deadline = self._deadline(timeout_s)
        session = self._session
        if session is not None and session.loop.is_closed():
            session.drop()
        if self._core.loss is None:
            raise MisuseError("the client is connected, or reconnects by itself")
        _check_loop(asyncio.get_running_loop())
        if session is not None and session.connection.dialing:
            raise MisuseError("the client is being connected")
        with self._turns.take():
            if session is not None:
                await self._close(session, deadline)
            session = self._session = _Session(self)
            self._inbox = session.inbox
            await session.open(deadline)
            if self._core.credentials.complete:
                try:
                    await self._proceed(login(self._core), deadline)
                except BaseException:
                    session.end()
                    raise

    async def close(self, *, timeout_s: float | None = None) -> None:
        """Close the connection, and make no other; calls under way fail with ConnectionLost. May be
        repeated. Raises CallTimeout if on_push or on_reconnect does not return in time: then the
        connection is closed, and only the callback goes on."""
        if self._session is not None and self._is_ours:
            await self._close(self._session, self._deadline(timeout_s))

    async def _close(self, session: _Session, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        if session.loop.is_closed():
            session.drop()
        elif session.loop is loop:
            session.end()
            await session.wait_closed(deadline)
        elif session.loop.is_running():  # in another thread
            session.loop.call_soon_threadsafe(session.end)
        else:
            session.end()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except CallTimeout as late:
            if error is None:
                raise
            error.add_note(str(late))  # what went wrong first is of more interest

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        session = self._session
        if session is None or not (session.forgotten and self._is_ours):
            return
        warn(f"unclosed client {self!r}", ResourceWarning, source=self)
        if session.loop.is_closed():
            session.drop()
        else:
            with suppress(RuntimeError):  # it was closed just now
                session.loop.call_soon_threadsafe(session.end)

    @property
    def connected(self) -> bool:
        """Whether there is a connection that can be used, as far as is known."""
        session = self._session
        return super().connected and not (session is not None and session.loop.is_closed())

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
        attempts = Attempts(self._core.policy)
        with self._prepared(call, req_id, possible_duplicate) as number:
            while True:
                session = self._connected()
                try:
                    return await session.call(call, deadline, number, possible_duplicate)
                except ServerBusy as busy:
                    pause_s = self._pause_s(attempts, busy, deadline - session.loop.time())
                    if pause_s is None:
                        raise
                await session.pause(pause_s)

    def _turn_pages(self, pages: Pages[T], timeout_s: float | None) -> AsyncGenerator[T, None]:
        if timeout_s is not None:
            arguments.seconds("timeout_s", timeout_s)
        return self._items(pages, timeout_s)

    async def _items(self, pages: Pages[T], timeout_s: float | None) -> AsyncGenerator[T, None]:
        proceed: Callable[[], Call[Any] | Sequence[T]] = partial(next, pages)
        with closing(pages):
            while True:
                try:
                    page = proceed()
                except StopIteration:
                    return
                if isinstance(page, Call):
                    proceed = partial(pages.send, await self._call(page, timeout_s))
                    continue
                proceed = partial(next, pages)
                for item in page:
                    yield item

    async def _run(self, steps: Steps[R], timeout_s: float | None) -> R:
        with self._turns.take():
            return await self._proceed(steps, self._deadline(timeout_s))

    async def _proceed(self, steps: Steps[R], deadline: float) -> R:
        return await follow_async(steps, lambda step: self._do(step, deadline))

    async def _do(self, step: Step, deadline: float) -> Any:
        if isinstance(step, Call):
            return await self._connected().call(step, deadline, None, False)
        try:  # in a thread: it takes long, and the loop has to go on
            async with asyncio.timeout_at(deadline):
                return await asyncio.to_thread(step)
        except TimeoutError:
            raise CallTimeout("the password could not be hashed in time") from None

    async def _transfer(self, transfer: Transfer[R], timeout_s: float | None) -> R:
        """timeout_s: of each request."""
        self._check_transfer()
        return await follow_async(transfer, lambda wanted: self._give(wanted, timeout_s))

    async def _give(self, wanted: Wanted, timeout_s: float | None) -> Any:
        if isinstance(wanted, Call):
            number = wanted.req_id or None
            return await self._call(wanted, timeout_s, number, wanted.recordable)
        if isinstance(wanted, list):
            session, deadline = self._connected(), self._deadline(timeout_s)
            made = (session.call(call, deadline, None, False) for call in wanted)
            return await asyncio.gather(*made, return_exceptions=True)
        if isinstance(wanted, Pause):
            return await self._connected().pause(wanted.seconds)
        return await asyncio.to_thread(wanted)  # it may wait for a disk

    def _connected(self) -> _Session:
        return self._here(self._opened())

    def _opened(self) -> _Session:
        if self._session is None:
            raise self._core.failure()
        return self._session

    @staticmethod
    def _here(session: _Session) -> _Session:
        """A session of this loop, or one whose loop was closed, and which is dropped by that."""
        if session.loop is not asyncio.get_running_loop():
            if not session.loop.is_closed():
                raise WrongPlace(
                    "this client was connected in another event loop: make one in each, or hand "
                    "the call over with asyncio.run_coroutine_threadsafe()"
                )
            session.drop()
        return session

    # ---- pushes

    async def next_push(self, timeout_s: float | None = None) -> Push:
        """The next push. Raises CallTimeout if none comes, ConnectionLost if none can."""
        self._check_pushes()
        return await self._next_push(self._connected(), self._deadline(timeout_s))

    async def _next_push(self, session: _Session, deadline: float | None) -> Push:
        try:
            async with asyncio.timeout_at(deadline):
                push: Push | None = await next_item(self._here(session).inbox)
        except TimeoutError:
            raise CallTimeout("no push came in time") from None
        if push is None:
            raise self._core.failure()
        return push

    def pushes(self, timeout_s: float | None = None) -> AsyncGenerator[Push, None]:
        """Pushes as they come, until `close`, or until none came for `timeout_s` (None: for ever).

        Raises ConnectionLost when the connection was lost for good, after the last push.
        """
        self._check_pushes()
        silence_s = None if timeout_s is None else self._timeout(timeout_s)
        return self._iterate(self._opened(), silence_s)

    def events(self, timeout_s: float | None = None, max_bytes: int | None = None) -> AsyncEvents:
        """What comes unasked, for this reader: `for event in client.events()`, with an AsyncClient
        `async for`.

        Each reader has a queue of its own and is given every event: the pushes, and Disconnected
        and Reconnected. The first one begins with the pushes that nobody has taken yet, any other
        one with what comes next. While there is a reader, `pushes` and `next_push` are given
        nothing; on_push is.

        It ends when the client is closed, or if nothing came for `timeout_s` (None: for ever), and
        raises ConnectionLost when the connection was lost for good, after the last event. The
        queue takes `max_bytes` of memory, about (None: `pushes_max_bytes`). What comes while it is
        full is dropped, and a gap in its place says so: a RoomGap, of direct messages with room 0,
        or a PaymentGap. `dropped` of the reader counts.
        """
        silence_s = None if timeout_s is None else self._timeout(timeout_s)
        return self._connected().events(silence_s, self._queue_len(max_bytes))

    async def _iterate(
        self, session: _Session, silence_s: float | None
    ) -> AsyncGenerator[Push, None]:
        while True:
            try:
                push = await self._next_push(
                    session, None if silence_s is None else session.loop.time() + silence_s
                )
            except CallTimeout:
                return
            except ConnectionLost:
                if session.closed:
                    return
                raise
            yield push

"""The blocking client: calls from any number of threads, and one thread that does what they ask.

The connection belongs to a thread with an event loop (`client.io.thread`), which runs what the
asyncio client runs, `client.io.connection`. A call is an order to it and a ticket to wait on, so a
signal handler that raises leaves nothing half done: the call is withdrawn, and the connection is
what it was. `on_push` and `on_reconnect` are called by another thread, so that what they wait for
keeps no answer back; they may make calls.

A `_Session` is one `connect`. Neither it nor its threads hold the client, so that one which the
program has forgotten is noticed, and ended.
"""

import asyncio
import inspect
import os
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
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
from client.core.resume import ResumingCore
from client.core.retry import Attempts
from client.errors import CallTimeout, ClientError, ConnectionLost, MisuseError, ServerBusy
from client.io.connection import CLOSED, Connection
from client.io.events import Events
from client.io.steps import follow
from client.io.thread import Background, LoopThread, Ticket
from client.io.waiter import Waiter
from client.io.waiting import left, wait_for_item

GRACE_S: Final = 1.0
"""How long after a deadline the connection's thread may take to say that it has passed."""

R = TypeVar("R")
T = TypeVar("T")


class _Session:
    """One `connect` of a client: its connection and its threads."""

    def __init__(self, client: "BlockingBase", deadline: float) -> None:
        self._client = weakref.ref(client)
        self._address = (client.host, client.port)
        self._core: ResumingCore = client._core
        self._deadline = deadline
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._opened = Ticket()
        self.closed = False
        self.thread = LoopThread(self._main, "tradechat-client")
        self.inbox = Inbox(client.pushes_max_bytes, self.thread.order)
        self.readers = Readers(self.inbox, called_back=client._on_push is not None)
        # What is called back: the pushes and the notices, in their order, or the notices alone.
        self._calls_back = client._on_push is not None or client._on_reconnect is not None
        self._news = self.inbox if client._on_push else Inbox(NOTICES_LEN, self.thread.order)
        self.caller = Background(self._call_back, "tradechat-callbacks")

    # ---- in the loop's thread

    async def _main(self) -> None:
        over = asyncio.Event()
        connection = self._connection = Connection(
            asyncio.get_running_loop(),
            self._address,
            self._core,
            self.readers,
            self._notice,
            over.set,
            self.thread.soon,
        )
        try:
            await connection.open(self._deadline)
            if self._calls_back:
                self.caller.start()
            self._opened.settle()
            await over.wait()
            await connection.wait_over()
        except ConnectionLost as error:
            self._opened.settle(error=error)
        finally:
            connection.end(ConnectionLost("the client's thread failed"))
            self._news.end()
            self._opened.settle(error=ConnectionLost("the client's thread failed"))

    def _notice(self, reason: ClientError | None) -> None:
        if self._calls_back:
            self._news.put(Notice(reason))
        self.readers.tell(
            Reconnected(self._core.reconnects) if reason is None else Disconnected(reason)
        )

    # ---- in the thread that calls back

    def _call_back(self) -> None:
        while (item := wait_for_item(self._news, None)) is not None:
            client = self._client()
            if client is None or self.closed:
                return
            try:
                if inspect.iscoroutine(done := client._call_back(item)):
                    done.close()
                    raise TypeError("it returned a coroutine, which only AsyncClient awaits")
            except BaseException as error:
                reason = callback_raised(item, error)
                self.end(ConnectionLost(reason))
                if isinstance(error, SystemExit):  # threading.excepthook would say nothing of it
                    raise RuntimeError(f"{reason} in a thread: only the connection ends") from error
                raise  # to threading.excepthook
            del client, done

    # ---- in any thread

    def open(self) -> None:
        """Start, and wait for the connection."""
        try:
            self.thread.start()
            if not self._opened.wait(left(self._deadline) + GRACE_S):
                raise CallTimeout("connect: the client's thread does not run")
        except BaseException:
            self.end(ConnectionLost(CLOSED))
            raise
        if self._opened.error is not None:
            self.thread.join(GRACE_S)
            raise self._opened.error

    @property
    def forgotten(self) -> bool:
        """Whether there is something to end that nobody has ended."""
        return self.thread.begun and not self.thread.ended and not self.closed

    def end(self, reason: ClientError) -> None:
        """The connection is closed soon, whatever it does."""
        self.thread.order(partial(self._end, reason))

    def _end(self, reason: ClientError) -> None:
        if self._connection is not None:
            self._connection.end(reason)

    def call(
        self, call: Call[R], deadline: float, req_id: int | None, possible_duplicate: bool
    ) -> R:
        if self.thread.is_current:
            raise MisuseError("a call from the client's own thread would wait for itself")
        ticket = Ticket()
        waiter = Waiter(call, req_id, possible_duplicate, ticket.settle)
        connection = self._connection
        try:
            if connection is None or not self.thread.order(
                partial(connection.submit, waiter, deadline)
            ):
                raise self._core.failure()
            if not ticket.wait(left(deadline) + GRACE_S):
                raise CallTimeout("the client's thread does not run")
        except BaseException:  # of a signal handler
            if connection is not None:
                self.thread.order(partial(connection.withdraw, waiter))
            raise
        if ticket.error is not None:
            raise ticket.error
        result: R = ticket.result
        return result

    def call_all(self, calls: list[Call[Any]], deadline: float) -> list[Any]:
        """Make several calls at the same time, in their order; the result or error of each."""
        if self.thread.is_current:
            raise MisuseError("a call from the client's own thread would wait for itself")
        connection = self._connection
        tickets = [Ticket() for _ in calls]
        waiters = [
            Waiter(call, None, False, ticket.settle)
            for call, ticket in zip(calls, tickets, strict=True)
        ]
        try:
            for waiter in waiters:
                if connection is None or not self.thread.order(
                    partial(connection.submit, waiter, deadline)
                ):
                    raise self._core.failure()
            for ticket in tickets:
                if not ticket.wait(left(deadline) + GRACE_S):
                    raise CallTimeout("the client's thread does not run")
        except BaseException:  # of a signal handler
            if connection is not None:
                for waiter in waiters:
                    self.thread.order(partial(connection.withdraw, waiter))
            raise
        return [ticket.result if ticket.error is None else ticket.error for ticket in tickets]

    def events(self, silence_s: float | None, max_bytes: int, timeout_s: float) -> Events:
        """A reader, which has what comes from now on."""
        queue = Inbox(max_bytes, self.thread.order)
        added = Ticket()

        def add() -> None:
            self.readers.add(queue)
            added.settle()

        if not self.thread.order(add):
            self.readers.add(queue)  # that thread has ended
        elif not added.wait(timeout_s):
            raise CallTimeout("events: the client's thread does not run")
        return Events(queue, silence_s, self._why_over, self._remove)

    def _why_over(self) -> ClientError | None:
        return None if self.closed else self._core.failure()

    def _remove(self, queue: Inbox) -> None:
        self.thread.order(partial(self.readers.remove, queue))

    def pause(self, pause_s: float) -> None:
        """Wait so long, or until the client is over: who calls after that is told why."""
        self.thread.join(pause_s)

    def close(self, deadline: float) -> None:
        """End, and wait for the threads: CallTimeout says which of them goes on."""
        self.closed = True
        self.end(ConnectionLost(CLOSED))
        if not (self.thread.is_current or self.thread.join(left(deadline))):
            raise CallTimeout("close: the client's thread has not ended in time")
        if not (self.caller.is_current or self.caller.join(left(deadline))):
            raise CallTimeout(
                "close: on_push or on_reconnect has not returned in time; the connection is "
                "closed, and the thread that runs it ends when it does"
            )


class BlockingBase(ClientBase):
    """What `client.blocking.Client` is but for its calls: connecting, closing, waiting, pushes."""

    _session: _Session | None = None

    def connect(self, *, timeout_s: float | None = None) -> None:
        """Connect, and log in where the client was given username and password; again after a loss
        or a cancel, too. Raises ConnectionLost if that fails, CallTimeout if a callback of the
        connection before does not return in time, and what `login` raises, with the connection
        closed."""
        deadline = self._deadline(timeout_s)
        if self._core.loss is None:
            raise MisuseError("the client is connected, or reconnects by itself")
        with self._turns.take():
            if self._session is not None:
                self._session.close(deadline)
            session = self._session = _Session(self, deadline)
            self._inbox = session.inbox
            session.open()
            if self._core.credentials.complete:
                try:
                    self._proceed(login(self._core), deadline)
                except BaseException as error:
                    session.end(ConnectionLost(CLOSED))
                    if isinstance(error, Exception):  # else it is an interrupt, which must not wait
                        session.thread.join(GRACE_S)
                    raise

    def close(self, *, timeout_s: float | None = None) -> None:
        """Close the connection, and make no other; calls under way fail with ConnectionLost. May be
        repeated. Raises CallTimeout if on_push or on_reconnect does not return in time: then the
        connection is closed, and only the callback goes on."""
        if self._session is not None and self._is_ours:
            self._session.close(self._deadline(timeout_s))

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CallTimeout as late:
            if error is None:
                raise
            error.add_note(str(late))  # what went wrong first is of more interest

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        session = self._session
        if session is not None and session.forgotten and self._is_ours:
            warn(f"unclosed client {self!r}", ResourceWarning, source=self)
            session.end(ConnectionLost(CLOSED))

    # ---- how every call is made

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + self._timeout(timeout_s)

    def _call(
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
                    return session.call(call, deadline, number, possible_duplicate)
                except ServerBusy as busy:
                    pause_s = self._pause_s(attempts, busy, left(deadline))
                    if pause_s is None:
                        raise
                session.pause(pause_s)

    def _turn_pages(self, pages: Pages[T], timeout_s: float | None) -> Generator[T, None, None]:
        if timeout_s is not None:
            arguments.seconds("timeout_s", timeout_s)
        return self._items(pages, timeout_s)

    def _items(self, pages: Pages[T], timeout_s: float | None) -> Generator[T, None, None]:
        proceed: Callable[[], Call[Any] | Sequence[T]] = partial(next, pages)
        with closing(pages):
            while True:
                try:
                    page = proceed()
                except StopIteration:
                    return
                if isinstance(page, Call):
                    proceed = partial(pages.send, self._call(page, timeout_s))
                    continue
                proceed = partial(next, pages)
                yield from page

    def _run(self, steps: Steps[R], timeout_s: float | None) -> R:
        with self._turns.take():
            return self._proceed(steps, self._deadline(timeout_s))

    def _proceed(self, steps: Steps[R], deadline: float) -> R:
        return follow(steps, lambda step: self._do(step, deadline))

    def _do(self, step: Step, deadline: float) -> Any:
        if isinstance(step, Call):
            return self._connected().call(step, deadline, None, False)
        return step()

    def _transfer(self, transfer: Transfer[R], timeout_s: float | None) -> R:
        """timeout_s: of each request."""
        self._check_transfer()
        return follow(transfer, lambda wanted: self._give(wanted, timeout_s))

    def _give(self, wanted: Wanted, timeout_s: float | None) -> Any:
        if isinstance(wanted, Call):
            number = wanted.req_id or None
            return self._call(wanted, timeout_s, number, wanted.recordable)
        if isinstance(wanted, list):
            return self._connected().call_all(wanted, self._deadline(timeout_s))
        if isinstance(wanted, Pause):
            return self._connected().pause(wanted.seconds)
        return wanted()

    def _connected(self) -> _Session:
        if self._session is None:
            raise self._core.failure()
        return self._session

    # ---- pushes

    def next_push(self, timeout_s: float | None = None) -> Push:
        """The next push. Raises CallTimeout if none comes, ConnectionLost if none can."""
        self._check_pushes()
        session = self._connected()
        push: Push | None = wait_for_item(session.inbox, self._deadline(timeout_s))
        if push is None:
            raise self._core.failure()
        return push

    def pushes(self, timeout_s: float | None = None) -> Generator[Push, None, None]:
        """Pushes as they come, until `close`, or until none came for `timeout_s` (None: for ever).

        Raises ConnectionLost when the connection was lost for good, after the last push.
        """
        self._check_pushes()
        silence_s = None if timeout_s is None else self._timeout(timeout_s)
        return self._iterate(self._connected(), silence_s)

    def events(self, timeout_s: float | None = None, max_bytes: int | None = None) -> Events:
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
        queue_len, wait_s = self._queue_len(max_bytes), self.timeout_s + GRACE_S
        return self._connected().events(silence_s, queue_len, wait_s)

    def _iterate(self, session: _Session, silence_s: float | None) -> Generator[Push, None, None]:
        while True:
            deadline = None if silence_s is None else time.monotonic() + silence_s
            try:
                push: Push | None = wait_for_item(session.inbox, deadline)
            except CallTimeout:
                return
            if push is None:
                if session.closed:
                    return
                raise self._core.failure()
            yield push

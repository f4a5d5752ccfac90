"""A thread with an event loop, to which other threads give orders that no interrupt can split.

A signal handler that raises can come between any two steps of the main thread. So the program's
threads share nothing with this one but a queue of orders, which grows by one atomic step, and wait
on nothing but a `Ticket` of their own. An order that was given is carried out though its giver was
interrupted before the loop was woken: by the next order, or by a timer. This thread itself is never
interrupted, as Python runs signal handlers in the main thread.

`Thread.start` can be split as well, and would then leave what cannot be told from a thread that
never ends. So a thread of the interpreter's lowest kind, which one step begins, starts this one.
"""

import asyncio
import threading
from _thread import allocate_lock, start_new_thread
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from client.core.inbox import emptied


class Ticket:
    """What one thread waits on for another: settled once, with a result or an error."""

    __slots__ = ("_lock", "error", "result", "settled")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self.settled = False
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Wake who waits. To be called by one thread; only the first time counts."""
        if not self.settled:
            self.result, self.error = result, error
            self.settled = True
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Whether it was settled in time. One thread may wait, and more than once."""
        if not self.settled:
            self._lock.acquire(timeout=min(max(0.0, timeout_s), threading.TIMEOUT_MAX))
        return self.settled


class Background:
    """A thread that can be joined by any number of others, and told whether it was begun."""

    def __init__(self, run: Callable[[], object], name: str) -> None:
        self._run = run
        self._name = name
        self._begun: list[int] = []
        self._thread: threading.Thread | None = None
        self._joiners: deque[Ticket] = deque()
        self.ended = False

    def start(self) -> None:
        """Begin; to be called once. One step begins the thread and notes that it was begun."""
        self._begun.extend(map(start_new_thread, (self._start,), ((),)))

    @property
    def begun(self) -> bool:
        """Whether it was started: an interrupt may have come before."""
        return bool(self._begun)

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread."""
        return self._thread is threading.current_thread()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended, or did so in time, or was never begun."""
        if not self._begun:
            return True
        ticket = Ticket()
        self._joiners.append(ticket)
        if not self.ended and not ticket.wait(timeout_s):
            with suppress(ValueError):  # it was settled just now
                self._joiners.remove(ticket)
            return self.ended
        assert self._thread is not None, "it ended"
        self._thread.join(timeout_s)  # there is nothing left that it could wait for
        return True

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run_to_the_end, name=self._name, daemon=True)
        self._thread.start()

    def _run_to_the_end(self) -> None:
        try:
            self._run()
        finally:
            self.ended = True
            for joiner in emptied(self._joiners):
                joiner.settle()


class LoopThread(Background):
    """A thread that runs an event loop until its main coroutine ends."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        super().__init__(self._run_loop, name)
        self._main = main
        self._orders: deque[Callable[[], object]] = deque()
        self._after_orders: list[Callable[[], object]] | None = None  # while they are carried out
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deaf = False

    def order(self, action: Callable[[], object]) -> bool:
        """Have the loop's thread do something soon; where it ends, it does that before. False if
        nothing will be done, as it was never begun or has ended."""
        self._orders.append(action)
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(self._take_orders)
        if self._begun and not self._deaf:
            return True
        try:
            self._orders.remove(action)
        except ValueError:
            return True  # it was done, and then the thread ended
        return False

    def _run_loop(self) -> None:
        # Of this kind whatever the program prefers: it is on every system, watches descriptors, and
        # its time is time.monotonic().
        loop = asyncio.SelectorEventLoop()
        try:
            main = loop.create_task(self._main())
            loop.call_soon(self._take_orders)
            self._loop = loop  # not before: the first step of main comes before any order
            loop.run_until_complete(main)
        finally:
            self._deaf = True
            for order in emptied(self._orders):
                order()
            loop.close()

    def soon(self, action: Callable[[], object]) -> None:
        """In the loop's thread: do something soon. After the orders, if it comes of one of them,
        and not a turn of the loop later."""
        if self._after_orders is not None:
            self._after_orders.append(action)
        else:
            assert self._loop is not None
            self._loop.call_soon(action)

    def _take_orders(self) -> None:
        after = self._after_orders = []
        for order in emptied(self._orders):
            self._carry_out(order)
        self._after_orders = None
        for action in after:
            self._carry_out(action)

    def _carry_out(self, action: Callable[[], object]) -> None:
        """One that fails does not stop the others."""
        assert self._loop is not None
        try:
            action()
        except Exception as error:  # noqa: BLE001 - told of as what fails in a turn of its own
            self._loop.call_exception_handler(
                {"message": f"Exception in {action!r}", "exception": error}
            )

"""An event loop of a simulated process: callbacks, timers and sources, by the scheduler's clock."""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from math import inf
from typing import Any, Final, Protocol

from tests.simulation.scheduler import Killed, Scheduler, Task

TURNS_MAX: Final = 100_000


class Source(Protocol):
    """Something that a loop looks at in each turn."""

    def due_ns(self) -> int | None:
        """When there is something to do; None: it is not known, and the task is woken for it."""

    def turn(self) -> None:
        """Do what is there to do."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """As much of a loop as a worker asks for."""

    def __init__(self, pace: Scheduler) -> None:
        assert pace.current is not None, "a loop is made by its task"
        self.pace: Final = pace
        self.task: Final[Task] = pace.current
        self._fail: Callable[[Any, dict[str, Any]], object] | None = None
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_count = 0
        self._sources: list[Source] = []
        self._readers: dict[int, tuple[Callable[[], bool], Callable[[], object]]] = {}
        self._signals: dict[int, Callable[[], object]] = {}
        self._held: set[int] = set()
        self.descriptors: dict[int, Callable[[], bool]] = {}
        """Is it readable? By descriptors of the simulation."""

    # ---- asyncio's

    def time(self) -> float:
        return self.pace.now_ns / 1e9

    def get_debug(self) -> bool:
        return False

    def call_soon(  # type: ignore[override] # no type variables
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override] # likewise
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override] # likewise
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when it is due."""

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def add_reader(  # type: ignore[override] # likewise
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        self._readers[fd] = self.descriptors[fd], lambda: callback(*args)

    def remove_reader(self, fd: Any) -> bool:
        return self._readers.pop(fd, None) is not None

    def add_signal_handler(  # type: ignore[override] # likewise
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        self._signals[sig] = lambda: callback(*args)
        if sig in self._held:
            self.signal(sig)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Killed):  # asyncio passes on what it cannot know
            raise error
        assert self._fail is not None, "a callback fails while the loop runs"
        self._fail(self, context)

    def set_exception_handler(
        self, handler: Callable[[Any, dict[str, Any]], object] | None
    ) -> None:
        self._fail = handler

    def close(self) -> None:
        """There is nothing to give back."""

    # ---- the simulation's

    def add_source(self, source: Source) -> None:
        self._sources.append(source)

    def signal(self, number: int) -> None:
        """The process gets it: at once, or when it unblocks it."""
        handler = self._signals.get(number)
        if handler is None:
            self._held.add(number)
        else:
            self.call_soon(handler)
            self.task.wake()

    def run_until_complete(self, work: Coroutine[Any, Any, None]) -> None:  # type: ignore[override]
        main = asyncio.Task(work, loop=self)
        turned_ns = turns = 0
        try:
            while not main.done():
                self._turn()
                turns = turns + 1 if turned_ns == self.pace.now_ns else 0
                turned_ns = self.pace.now_ns
                if turns > TURNS_MAX:
                    raise RuntimeError("the loop turns and turns, and nothing of it is a step")
            main.result()
        finally:
            if main.done():
                main.exception()  # seen, whatever ended the loop
            main._log_destroy_pending = False  # type: ignore[attr-defined] # killed, it is pending

    def _turn(self) -> None:
        if not self._ready:
            self._sleep()
        for source in self._sources:
            source.turn()
        for is_ready, callback in tuple(self._readers.values()):
            if is_ready():
                callback()
        now = self.time()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self._ready.append(timer)
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _sleep(self) -> None:
        """Until there is something to do."""
        if any(is_ready() for is_ready, _ in self._readers.values()):
            return
        due = min((at for each in self._sources if (at := each.due_ns()) is not None), default=inf)
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if self._timers:
            due = min(due, self._timers[0][0] * 1e9)
        if due > self.pace.now_ns:
            self.pace.wait(due)

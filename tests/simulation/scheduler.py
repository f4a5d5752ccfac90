"""Tasks that share one thread and are switched where the seed says.

A task is a greenlet, as the product's code is synchronous and has to give up its turn in the middle
of a function. A **step** is a load or a store of the shared region, or a call of a semaphore: who
makes one counts `left` down, and calls `turn` where it has come to its end. How many steps a task
is given is drawn anew at each switch. Time is what the steps take, and jumps where nobody is ready.
"""

from asyncio import AbstractEventLoop
from asyncio.events import _set_running_loop
from collections.abc import Callable
from math import inf, log
from random import Random
from typing import Final, Protocol

from greenlet import getcurrent, greenlet

START_NS: Final = 1_000_000_000_000  # of the monotonic clock
_MASK: Final = 2**64 - 1


class Killed(BaseException):
    """The process of the task is gone: nothing of it runs any more."""


class Deadlock(AssertionError):
    """Nobody is ready, and nothing will make anybody so."""


class Runs(Protocol):
    """What a task belongs to."""

    name: str
    loop: AbstractEventLoop | None  # asyncio's running loop, while it runs


class Task:
    """Something that runs until it waits, or its steps are used up."""

    def __init__(self, number: int, owner: Runs, run: Callable[[], None]) -> None:
        self.number: Final = number
        self.owner: Final = owner
        self.until: float = 0  # the time at which it is ready, ns
        self.stopped = False  # it is not run, ready or not
        self.dying = False
        self.ended = False
        self.error: BaseException | None = None
        self._poked = False
        self._work = run
        self.greenlet: Final = greenlet(self._run)

    def _run(self) -> None:
        try:
            self._work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, the scheduler tells of it
            self.error = error
        self.ended = True

    def wake(self) -> None:
        """It has something to do, whatever it waits for."""
        self.until, self._poked = 0, True

    def took_poke(self) -> bool:
        """Was it woken since it waited last?"""
        poked, self._poked = self._poked, False
        return poked


class Scheduler:
    """The tasks, the clock and the steps."""

    def __init__(self, random: Random, mean_steps: float, step_ns: int) -> None:
        """mean_steps: that a task is given. step_ns: how long one takes."""
        self._random: Final = random.random
        self.mean_steps, self.step_ns = mean_steps, step_ns
        self.now_ns = START_NS
        self.steps = 0
        self.switches = 0
        self.left = 0
        """Steps that the running task still has."""
        self.digest = 0
        """Of the whole schedule: equal runs have equal ones."""
        self.current: Task | None = None
        self.tasks: Final[list[Task]] = []
        self.on_switch: Callable[[Task | None], None] = lambda _: None
        self._hub: Final = getcurrent()
        self._numbers = 0
        self._waits: Final[dict[int, list[Task]]] = {}

    # ---- for tasks

    def turn(self) -> None:
        """The steps of the running task are used up."""
        task = self.current
        assert task is not None, "a step of nobody"
        if task.dying:
            raise Killed
        self._hub.switch()

    def wait(self, until_ns: float) -> None:
        """The running task waits until then, or until it is woken."""
        task = self.current
        assert task is not None, "nobody waits"
        if task.dying:
            raise Killed
        if task.took_poke():
            return
        task.until = until_ns
        self._hub.switch()
        task.took_poke()

    def sleep(self, seconds: float) -> None:
        """The running task waits for so long, whoever wakes it."""
        until = self.now_ns + int(seconds * 1e9) + 1
        while self.now_ns < until:
            self.wait(until)

    def wait_for(self, key: int, until_ns: float) -> None:
        """The running task waits until `release` of the same key, or until then."""
        assert self.current is not None, "nobody waits"
        waiting = self._waits.setdefault(key, [])
        waiting.append(self.current)
        try:
            self.wait(until_ns)
        finally:
            waiting.remove(self.current)

    def release(self, key: int) -> None:
        """Whoever waits for this is ready."""
        for task in self._waits.get(key, ()):
            task.wake()

    # ---- for the hub

    def spawn(self, owner: Runs, run: Callable[[], None]) -> Task:
        """A new task, which is ready."""
        self._numbers += 1
        task = Task(self._numbers, owner, run)
        self.tasks.append(task)
        return task

    def kill(self, task: Task) -> None:
        """No step of it happens any more. From the hub, or another task."""
        task.dying = True
        if task.ended:
            return
        before, self.current = self.current, task
        left, self.left = self.left, 0
        if task.greenlet:  # it has begun
            parent, task.greenlet.parent = task.greenlet.parent, getcurrent()
            _set_running_loop(task.owner.loop)
            try:
                task.greenlet.throw(Killed)
            finally:
                _set_running_loop(before.owner.loop if before is not None else None)
                task.greenlet.parent = parent
        self.current, self.left = before, left
        task.ended = True
        if task in self.tasks:
            self.tasks.remove(task)

    def run(self, until_steps: int, done: Callable[[], bool] = lambda: False) -> None:
        """Until so many steps were made in all, or it is done. Deadlock."""
        while self.steps < until_steps and not done():
            self.on_switch(None)
            ready = [t for t in self.tasks if t.until <= self.now_ns and not t.stopped]
            if not ready:
                soonest = min((t.until for t in self.tasks if not t.stopped), default=inf)
                if soonest == inf:
                    raise Deadlock(f"nobody is ready after {self.steps} steps")
                self.now_ns = int(soonest) + 1
                continue
            self._let_run(ready[int(self._random() * len(ready))])

    def _let_run(self, task: Task) -> None:
        self.left = quantum = 1 + int(-log(1.0 - self._random()) * self.mean_steps)
        self.current = task
        self.switches += 1
        _set_running_loop(task.owner.loop)
        task.greenlet.switch()
        _set_running_loop(None)
        self.current = None
        used = max(1, quantum - self.left)
        self.steps += used
        self.now_ns += used * self.step_ns
        self.digest = (self.digest * 1_000_003 + task.number * 65_537 + used) & _MASK
        if task.ended:
            self.tasks.remove(task)
            if task.error is not None:
                raise task.error
        self.on_switch(task)

"""Simulated processes, and what of the system they see instead of the real one.

`installed` puts the simulation in the place of the clock, of process ids and of randomness in all
modules of the product, for as long as a run takes. Which process asks is who runs just now.
"""

import os
import sys
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from random import Random
from time import gmtime, strftime, struct_time
from types import ModuleType
from typing import Any, Final, NoReturn
from unittest.mock import patch

import structlog

from server.core import state as state_module
from tests.simulation.scheduler import START_NS, Killed, Scheduler, Task
from tests.simulation.view import SteppedLocks, SteppedRegion

EPOCH_NS: Final = 1_700_000_000_000_000_000  # of the wall clock, at the start
MASTER: Final = 1000  # its process id
_OURS: Final = ("server", "libnet", "libproto", "liblog")


class Exited(Killed):
    """The process has ended itself."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Process:
    """One process: a task, with its view of the region."""

    def __init__(self, name: str, pid: int, region: SteppedRegion) -> None:
        self.name = name
        self.pid: Final = pid
        self.region: Final = region
        self.loop: AbstractEventLoop | None = None
        self.code: int | None = None
        """Its exit code, once it has ended; -9: it was killed."""
        self.task: Task | None = None
        self.reason = ""
        """Why it has ended, as it has told."""

    def begin(self, pace: Scheduler, run: Callable[[], object]) -> None:
        """run: its whole life."""

        def life() -> None:
            try:
                run()
                self.code = 0
            except Exited as ended:
                self.code = ended.code

        self.task = pace.spawn(self, life)


class Clock:
    """The module `time`, as the product's modules see it."""

    def __init__(self, pace: Scheduler) -> None:
        self._pace = pace
        self.wall_ns = EPOCH_NS - START_NS
        """What the wall clock is ahead of the monotonic one."""

    def monotonic_ns(self) -> int:
        return self._pace.now_ns

    def monotonic(self) -> float:
        return self._pace.now_ns / 1e9

    def time_ns(self) -> int:
        return self._pace.now_ns + self.wall_ns

    def time(self) -> float:
        return self.time_ns() / 1e9

    def strftime(self, form: str, at: struct_time | None = None) -> str:
        return strftime(form, at or self.gmtime())

    def gmtime(self, seconds: float | None = None) -> struct_time:
        return gmtime(self.time() if seconds is None else seconds)

    def sleep(self, seconds: float) -> None:
        self._pace.sleep(seconds)


class _Log:
    """Takes what is logged, and drops it."""

    def __init__(self, take: Callable[[str, str, dict[str, Any]], None]) -> None:
        self._take = take

    def __call__(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        fields = dict(event)
        self._take(method, str(fields.pop("event", "")), fields)
        raise structlog.DropEvent


def _modules() -> Iterator[ModuleType]:
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in _OURS and module.__dict__.get("time") is time:
            yield module


@contextmanager
def installed(
    pace: Scheduler,
    clock: Clock,
    random: Random,
    logged: Callable[[str, str, dict[str, Any]], None],
) -> Iterator[None]:
    """logged: takes what a process logs from `warning` on: level, event, fields."""

    def pid() -> int:
        owner = pace.current.owner if pace.current is not None else None
        return owner.pid if isinstance(owner, Process) else MASTER

    def leave(code: int) -> NoReturn:
        raise Exited(int(code))

    before = structlog.get_config()
    with ExitStack() as stack:
        for module in _modules():
            stack.enter_context(patch.object(module, "time", clock))
        for name, instead in (
            ("getpid", pid), ("getppid", lambda: MASTER), ("urandom", random.randbytes),
            ("_exit", leave),
        ):  # fmt: skip
            stack.enter_context(patch.object(os, name, instead))
        for name in ("Locks", "CheckedLocks"):
            stack.enter_context(patch.object(state_module, name, SteppedLocks))
        structlog.configure(
            processors=[_Log(logged)],
            wrapper_class=structlog.make_filtering_bound_logger("warning"),
            logger_factory=lambda *_: None,
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

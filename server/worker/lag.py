"""How late a worker's loop is: how long a frame that can be read waits until it is read.

That is what a timer is late by. While a worker does little, no timer runs for this: the pump says
where a turn took long, and then the timer runs until the worker has been calm for CALM_S.
"""

import asyncio
import time
from typing import Final

import liblog
from server.worker.counters import Counters
from server.worker.durable import Durable
from server.worker.overload import Class, Overload
from server.worker.reporter import Reporter

log = liblog.get("worker")

LOOK_S: Final = 0.002  # between looks, while something is late
CALM_S: Final = 0.2
SUSPECT: Final = 0.1
"""A turn of the pump that takes so much of the lag limit is looked into, and so is a queue."""


class Lag:
    """Looks at this worker's lag and queue, and tells the rule of overload."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        overload: Overload,
        durable: Durable,
        counters: Counters,
        reporter: Reporter,
    ) -> None:
        self._loop, self._overload, self._durable = loop, overload, durable
        self._counters, self._reporter = counters, reporter
        self._looks = False
        self._due = self._calm_since = 0.0
        self._began = 0.0  # of this overload
        self._lag_s_max, self._queue_max = 0.0, 0
        self._before: dict[str, int] = {}

    @property
    def suspect_us(self) -> int:
        """So long a turn of the pump is to be told of; 0: none."""
        return max(1, int(self._overload.lag_limit_s * SUSPECT * 1e6)) * (
            self._overload.lag_limit_s > 0
        )

    def suspect(self) -> None:
        """Something took long: look."""
        if not self._looks:
            self._looks = True
            self._calm_since = time.monotonic()
            self._again()

    def glance(self, lag_s: float) -> None:
        """Look where that is needed. lag_s: that a timer of the loop was late by."""
        if self._overload.load(lag_s, self._durable.queue) > SUSPECT:
            self.suspect()

    def _again(self) -> None:
        self._due = time.monotonic() + LOOK_S
        self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        lag_s, queue, overload = max(0.0, now - self._due), self._durable.queue, self._overload
        self._reporter.late(lag_s)
        load, shed = overload.load(lag_s, queue), overload.sheds
        overload.look(now, load)
        if overload.sheds:
            self._lag_s_max = max(self._lag_s_max, lag_s)
            self._queue_max = max(self._queue_max, queue)
        if overload.sheds != shed:
            self._over() if shed else self._begun(now, lag_s, queue)
        if load > SUSPECT or overload.sheds:
            self._calm_since = now
        self._looks = now - self._calm_since < CALM_S
        if self._looks:
            self._again()

    def _refused(self) -> dict[str, int]:
        return {f"shed_{each}": self._counters.read(f"shed_{each}") for each in Class}

    def _begun(self, now: float, lag_s: float, queue: int) -> None:
        self._began, self._before = now, self._refused()
        self._lag_s_max, self._queue_max = lag_s, queue
        self._counters.count("overloads")
        self._counters.count("overloaded")
        log.warning(
            "overloaded",
            lag_ms=round(lag_s * 1000, 1),
            queue=queue,
            advice="more workers, or another machine: see docs/OPERATIONS.md",
        )

    def _over(self) -> None:
        self._counters.count("overloaded", -1)
        refused = {name: count - self._before[name] for name, count in self._refused().items()}
        log.info(
            "overload_over",
            seconds=round(time.monotonic() - self._began, 1),
            lag_ms_max=round(self._lag_s_max * 1000, 1),
            queue_max=self._queue_max,
            **refused,
        )

"""After a worker's death: quiesce, repair, resume.

A semaphore has no owner, so what a dead worker held cannot be asked of it. The others are stopped
for a moment: the recovery word is raised, and each acknowledges as soon as it holds nothing.
What is not free then was the dead one's. A child of the master repairs the region, so that damage
in it cannot take the master down; then the word is lowered.
"""

import signal
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import liblog
from server.child import fork_failure
from server.exits import Exit
from server.master.children import REPAIRS, WORKER, Children
from server.master.resources import Resources

ACKNOWLEDGE_S: Final = 1.0  # who has not acknowledged a recovery by then is killed
POLL_S: Final = 0.0005  # while workers acknowledge
REPAIRS_MAX: Final = 5  # that die themselves
FORK_AGAIN_S: Final = 0.1  # after a fork that failed
FORK_AGAIN_MAX_S: Final = 2.0

log = liblog.get("master")


class Outcome(Enum):
    """What has come of a recovery."""

    REPAIRED = auto()
    DAMAGED = auto()  # the invariants do not hold: nobody may go on with this region
    ABANDONED = auto()  # there was no time for it: the server stops


class Recovery:
    """Recoveries of one server."""

    def __init__(
        self,
        resources: Resources,
        children: Children,
        wait: Callable[[float], None],
        hurried: Callable[[], bool],
    ) -> None:
        """wait: for so many seconds at most, and take note of what happens; workers that end are
        added to `dead`. hurried: the time to stop is over, so no more of it is spent here."""
        self._resources, self._children = resources, children
        self._wait, self._hurried = wait, hurried
        self._region: Final = resources.region
        header = self._region.layout["header"]
        self._recovery, self._alarm = header.at(0, "recovery"), header.at(0, "alarm")
        self._epoch = 0  # of recoveries: no number is used twice
        self.dead: Final[list[int]] = []
        """Slots of workers that were reaped and are not repaired after."""
        self._repair_code: int | None = None  # of the repair that has ended

    def repair_ended(self, code: int) -> None:
        """The repair has been reaped."""
        self._repair_code = code

    @property
    def alarmed(self) -> bool:
        """Does a worker wait for a lock far longer than any transaction takes? Logged."""
        alarm = self._region.words[self._alarm]
        if alarm:
            log.error("lock_held_too_long", waiting=alarm - 1)
        return bool(alarm)

    def run(self) -> Outcome:
        """Quiesce, repair, resume. With no dead worker, who stands inside a lock is found."""
        began = time.monotonic()
        if not self._quiesce():
            return Outcome.ABANDONED
        still = time.monotonic()
        dead = tuple(self.dead)
        if dead and (outcome := self._repair(dead)) is not Outcome.REPAIRED:
            return outcome
        del self.dead[: len(dead)]  # one that has died meanwhile is for the next recovery
        self._resume()
        self._count(time.monotonic() - began, still - began, dead)
        return Outcome.REPAIRED

    def _quiesce(self) -> bool:
        """Until every live worker has acknowledged; False where there is no time for it."""
        words, workers = self._region.words, self._region.layout["workers"]
        self._epoch += 1
        words[self._recovery] = self._epoch
        self._wake()
        deadline, killed = time.monotonic() + ACKNOWLEDGE_S, False
        while late := [
            child
            for child in self._children.of(WORKER)
            if words[workers.at(child.slot, "ack")] != self._epoch
        ]:
            if self._hurried():
                return False
            if time.monotonic() > deadline and not killed:
                self._region.repairs.kills += len(late)
                for child in late:
                    log.error("worker_unresponsive", worker=child.slot)
                self._children.signal(late, signal.SIGKILL)
                killed = True
            self._wait(POLL_S)
        return True

    def _repair(self, dead: tuple[int, ...]) -> Outcome:
        """Run the repair until it has ended well."""
        died, pause_s = 0, FORK_AGAIN_S
        while died < REPAIRS_MAX:
            try:
                self._children.spawn(REPAIRS, dead=dead)
            except OSError as error:
                log.error("repair_not_forked", reason=fork_failure(error))
                self._rest(pause_s)
                pause_s = min(2 * pause_s, FORK_AGAIN_MAX_S)
                if self._hurried():
                    return Outcome.ABANDONED
                continue
            code = self._await_repair()
            if code == Exit.OK:
                return Outcome.REPAIRED
            if code == Exit.FAILED:
                break
            log.warning("repair_died", code=code)
            died += 1
        if self._resources.data is None:
            log.error("state_lost", advice="start the server again: it was without a journal")
        else:
            log.error("state_discarded")
        return Outcome.DAMAGED

    def _await_repair(self) -> int:
        """Until it has been reaped, and killed before if it takes too long: its exit code."""
        self._repair_code, deadline = None, time.monotonic() + REPAIRS.seconds
        while self._repair_code is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self._children.signal(self._children.of(REPAIRS), signal.SIGKILL)
                left = REPAIRS.seconds
                deadline = time.monotonic() + left
            self._wait(left)
        return self._repair_code

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._hurried():
            self._wait(left)

    def _resume(self) -> None:
        words = self._region.words
        words[self._alarm] = 0  # whoever waited has given up meanwhile
        words[self._recovery] = 0
        self._wake()

    def _wake(self) -> None:
        for wakeup in self._resources.wakeups:
            wakeup.set()

    def _count(self, pause_s: float, until_still_s: float, dead: tuple[int, ...]) -> None:
        words, repairs = self._region.words, self._region.layout["repairs"]
        pause_us = int(pause_s * 1e6)
        words[repairs.at(0, "pauses")] += 1
        words[repairs.at(0, "paused_us")] += pause_us
        longest = repairs.at(0, "paused_us_max")
        words[longest] = max(words[longest], pause_us)
        log.info(
            "workers_resumed",
            pause_ms=round(pause_us / 1000, 1),
            until_still_ms=round(until_still_s * 1000, 1),
            repaired=sorted(dead),
        )

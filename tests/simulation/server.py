"""One life of a server: a region, a master, and the processes that it has begun.

A life ends with the processes: killed all at once, stopped in order, or ended by the master because
the state can be kept no longer. The next one begins with what the disk has.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from random import Random
from typing import Any, Final, Protocol

from server.config import Settings
from server.core.state import initialise
from server.exits import Exit
from server.journal.disk import Disk
from server.region.layout import Capacities
from server.region.region import Region
from tests.helpers import leaks
from tests.simulation import keepers
from tests.simulation import master as masters
from tests.simulation import worker as workers
from tests.simulation.datagrams import Descriptor, Flag, pair
from tests.simulation.disk import SteppedDisk
from tests.simulation.keepers import KeeperProcess
from tests.simulation.master import Hosts, Master
from tests.simulation.process import MASTER, Clock, Process
from tests.simulation.scheduler import Scheduler, Task
from tests.simulation.view import SteppedRegion
from tests.simulation.worker import WorkerProcess

JOURNAL_FD: Final = 99
WORKER_FD: Final = 100  # and those after it
ARCHIVE_FDS: Final = 200  # likewise


class Watches(Protocol):
    """Who is told what happens in a server."""

    pace: Scheduler
    clock: Clock
    random: Random
    settings: Settings
    key: Any

    def found(self, problem: str) -> None:
        """Something is not as it should be."""

    def loaded(self, region: Region) -> None:
        """The region has the state."""

    def traced(self, what: str, word: int, file: str, line: int) -> None:
        """A step comes next."""


class Server(Hosts):
    """One life of it."""

    def __init__(
        self, world: Watches, capacities: Capacities, disk: SteppedDisk | None, *, traces: bool
    ) -> None:
        """disk: None: nothing is kept."""
        self._world, self._pace, self.device = world, world.pace, disk
        self._traces = traces
        capacities = replace(capacities, workers=world.settings.workers)
        now_us = world.clock.time_ns() // 1000
        self.region: Final = Region.create(leaks.region_name(), capacities, now_us)
        self.region.unlink()
        initialise(self.region)
        self.flags: Final = [Flag(WORKER_FD + slot) for slot in range(world.settings.workers)]
        self.journal_flag: Final = Flag(JOURNAL_FD)
        self._pairs = [
            pair(ARCHIVE_FDS + 2 * slot) for slot in range(world.settings.workers)
        ] if disk is not None else []  # fmt: skip
        self.processes: Final[list[Process]] = []
        self.repairs_killed = 0
        """One after the other."""
        self.over = ""
        """Why it has ended; empty while it lives."""
        self.stops = self._is_gone = False
        self.is_loaded = disk is None
        self._pids = MASTER
        self._ended_pids: dict[int, int] = {}
        view = self._view()
        self.master: Final = Master(self._pace, view, self, self.flags, world.settings.workers)
        self._host: Final = Process("master", MASTER, view)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """It is what its processes see; gone at the end."""
        ends = [end for both in self._pairs for end in both]
        there: list[Descriptor] = [*self.flags, self.journal_flag, *ends]
        descriptors = {each.fileno(): each for each in there}
        with ExitStack() as stack:
            stack.callback(self._close)
            stack.enter_context(masters.installed(self._pace, self.region))
            if self.device is not None:
                clock, random = self._world.clock, self._world.random
                stack.enter_context(keepers.installed(self._pace, clock, random, descriptors, self))
            stack.callback(self.end, "the run is over")
            yield

    def _close(self) -> None:
        try:
            self.region.close()
        except BufferError:  # a slice is still in a frame that has ended: it goes with that
            os.close(self.region.fd)

    def begin(self) -> None:
        """Start it."""
        self._host.begin(self._pace, self._live)

    def _live(self) -> None:
        self.master.run(keeps=self.device is not None)

    def end(self, why: str, loses: Callable[[], bool] = lambda: True) -> None:
        """All processes are gone at once. loses: what a connection had on its way?"""
        self.over = self.over or why
        if self._is_gone:
            return
        self._is_gone = True
        for process in (*self.processes, self._host):
            if process.task is not None:
                self._pace.kill(process.task)
        for worker in self.workers():
            for link in worker.links():
                link.process_ended(loses())
        self.processes.clear()

    def stop(self) -> None:
        """SIGTERM to the master: all end in order."""
        self.stops = self.master.stops = True
        for worker in self.workers():
            worker.leave()

    # ---- its processes

    def _view(self) -> SteppedRegion:
        tell = self._world.traced if self._traces else None
        return SteppedRegion(self.region, self._pace, tell)

    def workers(self) -> list[WorkerProcess]:
        return [each for each in self.processes if isinstance(each, WorkerProcess)]

    def _begin(self, process: Process, run: Callable[[], object]) -> Process:
        self.processes.append(process)
        process.begin(self._pace, run)
        return process

    def _pid(self) -> int:
        self._pids += 1
        return self._pids

    def begin_worker(self, slot: int) -> None:
        process = WorkerProcess(f"worker {slot}", self._pid(), self._view())
        process.slot = slot

        settings, key = self._world.settings, self._world.key
        archive = self._pairs[slot][0] if self._pairs else None
        self._begin(
            process,
            lambda: workers.run(process, settings, self.flags, self.journal_flag, archive, key),
        )

    def begin_repair(self, run: Callable[[Region], None]) -> None:
        process = Process("repair", self._pid(), self._view())
        self._begin(process, lambda: run(process.region))

    def begin_loader(self) -> None:
        process = Process("loader", self._pid(), self._view())
        self._begin(process, lambda: keepers.run_loader(process, self._world.settings))

    def begin_keeper(self, name: str) -> KeeperProcess:
        process = KeeperProcess(name, self._pid(), self._view())
        settings = self._world.settings
        if name == "journal":
            flags, flag = self.flags, self.journal_flag
            self._begin(process, lambda: keepers.run_journal(process, settings, flags, flag))
        else:
            ends = [end for _, end in self._pairs]
            self._begin(process, lambda: keepers.run_archive(process, settings, ends))
        return process

    def begin_snapshot(self, run: Callable[[], None]) -> int:
        process = Process("snapshot", self._pid(), self._view())
        self._begin(process, run)
        return process.pid

    def wait_for(self, pid: int, *, hang: bool) -> tuple[int, int]:
        while hang and pid not in self._ended_pids:
            self._pace.sleep(0.01)
        if pid not in self._ended_pids:
            return 0, 0
        return pid, self._ended_pids[pid] & 0xFF

    def disk(self) -> Disk:
        assert self.device is not None, "one that keeps something"
        return self.device

    def workers_left(self) -> bool:
        return bool(self.workers())

    def kill(self, process: Process) -> None:
        """SIGKILL: nothing of it happens any more."""
        if process.task is None or process not in self.processes:
            return
        self._pace.kill(process.task)
        process.code = -9
        self.has_ended(process)

    def has_ended(self, process: Process) -> None:
        """It is gone."""
        code = process.code or 0
        self.processes.remove(process)
        kind = process.name.partition(" ")[0]
        if isinstance(process, WorkerProcess):
            self.flags[process.slot].task = None
            for link in process.links():
                link.process_ended(self._world.random.random() < 0.5)
            self.master.ended.append((process.slot, code))
            self.journal_flag.set()
            if code not in (-9, 0) or (not code and not self.stops):
                self._world.found(f"{process.name} has ended with {code}")
        elif kind == "repair":
            if not code:
                self.repairs_killed = 0
            self.master.ended.append((None, code))
        elif kind == "snapshot":
            self._ended_pids[process.pid] = code
        elif isinstance(process, KeeperProcess):
            self._keeper_ended(process, code)
        elif kind == "loader":
            if code:
                self._over(process, code)
            else:
                self.is_loaded = True
                self._world.loaded(self.region)
        if self._host.task is not None:
            self._host.task.wake()

    def _keeper_ended(self, process: KeeperProcess, code: int) -> None:
        if process.name == "journal":
            for snapshot in [each for each in self.processes if each.name == "snapshot"]:
                self.kill(snapshot)  # it has asked for that
            self.journal_flag.task = None
        if self.stops and not code:
            if not any(isinstance(each, KeeperProcess) for each in self.processes):
                self.over = "stopped"
        elif process.name == "journal" and code in (Exit.IO_FAILED, Exit.DATA_REFUSED):
            self._over(process, code)
        else:
            fails = self.device is not None and self.device.failed
            if code != -9 and not fails:
                self._world.found(f"{process.name} has ended with {code}: {process.reason}")
            self.master.keeper_ended(process.name)

    def _over(self, process: Process, code: int) -> None:
        """It cannot go on, or not begin. That is right where the disk has failed, or it was
        killed."""
        assert self.device is not None, "one that keeps something"
        self.over = f"{process.name}: exit code {code}"
        if code != -9 and not self.device.failed:
            self._world.found(f"{process.name} has ended with {code}: {process.reason}")

    def reap(self, task: Task) -> None:
        """A task has ended."""
        process = task.owner
        if isinstance(process, Process) and process in self.processes:
            self.has_ended(process)

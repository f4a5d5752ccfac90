"""The master as far as it concerns the region: it sees deaths, has the region repaired by the real
recovery, and fills the places of workers. What it forks are tasks.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest.mock import patch

from server.core import check, recovery
from server.master import children
from server.master.children import REPAIRS, WORKER, Birth, Role
from server.master.recovery import Outcome, Recovery
from server.region import status
from server.region.layout import WORD
from server.region.locks import fresh_semaphore
from server.region.region import Region
from tests.simulation.keepers import KeeperProcess
from tests.simulation.process import MASTER, Process
from tests.simulation.scheduler import Scheduler
from tests.simulation.view import SteppedRegion

WATCH_S: Final = 0.25  # between looks for workers that hang
HUNG_S: Final = 10.0
KEEPERS: Final = ("journal", "archive")
"""They are begun before the workers, and end after them."""


class Hosts:
    """What a master does with processes: to be given by the world."""

    def workers(self) -> list[Any]:
        """Those that have not been reaped: each with a slot."""
        raise NotImplementedError

    def kill(self, process: Process) -> None:
        raise NotImplementedError

    def begin_worker(self, slot: int) -> None:
        raise NotImplementedError

    def begin_repair(self, run: Callable[[Region], None]) -> None:
        raise NotImplementedError

    def begin_loader(self) -> None:
        raise NotImplementedError

    def begin_keeper(self, name: str) -> KeeperProcess:
        raise NotImplementedError

    is_loaded: bool


class _Children:
    """As much of server.master.children.Children as a recovery asks for."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def of(self, *roles: Role) -> list[Any]:
        assert roles == (WORKER,), "a recovery asks for workers"
        return self._hosts.workers()

    def signal(self, processes: Collection[Process], number: int) -> None:
        del number  # SIGKILL is the only one that it sends
        for process in processes:
            self._hosts.kill(process)

    def spawn(self, role: Role, slot: int | None = None, dead: Collection[int] = ()) -> None:
        del slot
        assert role is REPAIRS, "a recovery forks repairs"

        def repair(region: Region) -> None:
            resources: Any = SimpleNamespace(region=region)
            children._run_repair(Birth(resources, 0, MASTER, tuple(dead)))

        self._hosts.begin_repair(repair)


class Master:
    """The master's task."""

    def __init__(
        self,
        pace: Scheduler,
        region: SteppedRegion,
        hosts: Hosts,
        wakeups: Collection[Any],
        seats: int,
    ) -> None:
        """seats: places of workers."""
        self._pace, self._region, self._hosts, self._seats = pace, region, hosts, seats
        resources: Any = SimpleNamespace(region=region, wakeups=wakeups, data=None)
        self._recovery = Recovery(resources, cast(Any, _Children(hosts)), self._wait, lambda: False)
        self.ended: deque[tuple[int | None, int]] = deque()
        """Processes that have ended, and were not reaped: the slot of a worker, None for a repair;
        the exit code."""
        self.recovers = self.damaged = self.stops = False
        self._keepers: dict[str, KeeperProcess | None] = {}  # None: one is due
        self._empty: set[int] = set(range(seats))
        self._beats: dict[int, tuple[int, int]] = {}

    @property
    def is_quiet(self) -> bool:
        """All workers are there, and nothing is to be repaired."""
        return not (self.ended or self._recovery.dead or self._empty or self.recovers)

    def keeper_ended(self, name: str) -> None:
        """Another one is due."""
        self._keepers[name] = None

    def run(self, *, keeps: bool) -> None:
        """Its whole life. keeps: state, on a disk."""
        if keeps:
            self._hosts.begin_loader()
            while not self._hosts.is_loaded:
                self._wait(WATCH_S)
            self._keepers = dict.fromkeys(KEEPERS)
            while not all(each is not None and each.serves for each in self._keepers.values()):
                self._begin_keepers()
                self._wait(0.01)
        while True:
            self._begin_keepers()
            if not self.stops:
                self._fill()
            self._wait(WATCH_S)
            self._kill_hung()
            while self._recovery.dead or self._recovery.alarmed:
                self.recovers = True
                dead = tuple(self._recovery.dead)
                if self._recovery.run() is not Outcome.REPAIRED:
                    self.damaged = True
                    return
                self._empty.update(dead)
                self.recovers = False
            if self.stops and not self._hosts.workers():
                for keeper in self._keepers.values():
                    if keeper is not None and keeper.stop is not None:
                        keeper.stop.tell()

    def _begin_keepers(self) -> None:
        for name, keeper in self._keepers.items():
            if keeper is None:
                self._keepers[name] = self._hosts.begin_keeper(name)

    def _fill(self) -> None:
        for slot in sorted(self._empty):
            self._empty.discard(slot)
            self._beats[slot] = -1, self._pace.now_ns
            self._hosts.begin_worker(slot)

    def _wait(self, seconds: float) -> None:
        """As the supervisor: take note of what has ended."""
        if not self.ended:
            self._pace.wait(self._pace.now_ns + int(seconds * 1e9))
        while self.ended:
            slot, code = self.ended.popleft()
            if slot is None:
                self._recovery.repair_ended(code)
                continue
            self._region.words[self._region.layout["workers"].at(slot, "pid")] = 0
            status.stopped(self._region, slot, self._pace.now_ns // 1000)
            if code or not self.stops:
                self._recovery.dead.append(slot)

    def _kill_hung(self) -> None:
        now = self._pace.now_ns
        for worker in self._hosts.workers():
            beat = self._region.words[self._region.layout["workers"].at(worker.slot, "beat")]
            before, seen = self._beats[worker.slot]
            if beat != before:
                self._beats[worker.slot] = beat, now
            elif now - seen > HUNG_S * 1e9:
                self._hosts.kill(worker)


def _init_lock(pace: Scheduler, address: int) -> None:
    """What init_lock does, in steps."""
    assert pace.current is not None, "of a process"
    process = pace.current.owner
    assert isinstance(process, Process), "of a process"
    region, fresh = process.region, fresh_semaphore()
    at = (address - region.address) // WORD
    for values in ([0] * len(fresh), fresh):
        for place, value in enumerate(values):
            region.words[at + place] = value
    pace.release(address)


@contextmanager
def installed(pace: Scheduler, region: Region) -> Iterator[None]:
    """The simulation in the place of what a repair asks the system for. region: as it is: that its
    invariants hold is looked at in one go, while all are paused."""
    with ExitStack() as stack:
        for module, name, instead in (
            (children, "follow_parent", lambda *_: None),
            (children, "setproctitle", SimpleNamespace(setproctitle=lambda _: None)),
            (children, "check", SimpleNamespace(problems=lambda _: check.problems(region))),
            (recovery, "init_lock", lambda address: _init_lock(pace, address)),
        ):
            stack.enter_context(patch.object(module, name, instead))
        yield

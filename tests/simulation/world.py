"""A whole server with its clients, put together for one seed; and what is done to it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import inf
from random import Random
from typing import Any, Final
from zlib import crc32

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from libproto.messages import MIN_ITERATIONS
from libproto.sealing import ServerKey
from server.config import Settings
from server.core import check
from server.core.state import initialise
from server.master.recovery import REPAIRS_MAX
from server.region.layout import Capacities
from server.region.region import Region
from tests.helpers import leaks
from tests.simulation import master as masters
from tests.simulation import worker as workers
from tests.simulation.clients import Client
from tests.simulation.ledger import Ledger
from tests.simulation.master import Hosts, Master
from tests.simulation.network import Link
from tests.simulation.process import MASTER, Clock, Process
from tests.simulation.process import installed as processes_installed
from tests.simulation.scheduler import Deadlock, Scheduler, Task
from tests.simulation.swarm import Swarm
from tests.simulation.view import SteppedRegion
from tests.simulation.worker import Flag, WorkerProcess

DRAIN_STEPS: Final = 400_000
"""With the faults over, all that was asked is answered within so many steps."""
_CAPACITIES: Final = Capacities(
    workers=2,
    accounts=12,
    rooms=5,
    clients=16,
    sessions=24,
    txn_ring=64,
    event_ring=16,
    max_message=64,
    account_locks=6,
    offers=3,
    roles=16,
    blocks=16,
)


@dataclass(frozen=True)
class Outcome:
    """What has come of a run."""

    seed: int
    steps: int
    switches: int
    digest: int
    problems: tuple[str, ...]
    counts: Counter[tuple[str, str]]
    faults: Counter[tuple[str, str]]
    answered: int


class World(Hosts):
    """One run."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        """tell: of each step, as a line."""
        self.seed: Final = seed
        self.random: Final = Random(seed)  # noqa: S311 - the same for the same seed
        self.swarm: Final = Swarm(self.random)
        self.pace = Scheduler(self.random, self.swarm.mean_steps, self.swarm.step_ns)
        self.clock: Final = Clock(self.pace)
        self._line = tell
        self.problems: Final[list[str]] = []
        self.counts: Final[Counter[tuple[str, str]]] = Counter()
        self.faults: Final[Counter[tuple[str, str]]] = Counter()
        self.users: dict[str, int] = {}
        self.operations = self.swarm.operations
        self.patience_s = self.swarm.patience_s
        self.draining = False
        self.shown = 0
        self._pids = MASTER
        self._processes: list[Process] = []
        self._stopped: dict[Process, float] = {}  # until when, ns
        self._next_fault = self._after_a_fault()
        self._repairs_killed = 0  # one after the other
        self._key = ServerKey(Ed25519PrivateKey.from_private_bytes(self.random.randbytes(32)))
        self.settings: Final = Settings(
            durability="none",
            workers=self.swarm.workers,
            scram_iterations=MIN_ITERATIONS,
            login_failures=0,
            unauthenticated_rate=0,
            handshake_timeout=60.0,
            idle_timeout=3600,
        )

    # ---- what clients ask for

    def connect(self) -> Link | None:
        """To one of the workers that listen."""
        there = [
            each.listeners
            for each in self.workers()
            if each.listeners is not None and each.listeners.accepts
        ]
        if not there:
            return None
        link = Link(self.pace, self._latency, "127.0.0.1")
        self.random.choice(there).connect(link)
        return link

    def _latency(self) -> int:
        return int(self.random.expovariate(1 / self.swarm.latency_ns))

    def found(self, problem: str) -> None:
        self.problems.append(f"step {self.pace.steps}: {problem}")

    def count(self, operation: str, what: str) -> None:
        self.counts[operation, what] += 1

    # ---- what the master asks for

    def workers(self) -> list[WorkerProcess]:
        return [each for each in self._processes if isinstance(each, WorkerProcess)]

    def _view(self) -> SteppedRegion:
        return SteppedRegion(self.region, self.pace, self._traced if self._line else None)

    def _traced(self, what: str, word: int, file: str, line: int) -> None:
        assert self._line is not None
        assert self.pace.current is not None
        self._line(f"{self.pace.current.owner.name} {what} {word} {file}:{line}")

    def begin_worker(self, slot: int) -> None:
        self._pids += 1
        process = WorkerProcess(f"worker {slot}", self._pids, self._view())
        process.slot = slot
        self._processes.append(process)

        def crashed(error: BaseException | None, message: str) -> None:
            self.found(f"{process.name}: {message}: {error!r}")

        process.begin(
            self.pace,
            lambda: workers.run(
                process, self.pace, self.settings, self._flags, self._journal_flag, self._key,
                crashed,
            ),
        )  # fmt: skip

    def begin_repair(self, run: Callable[[Region], None]) -> None:
        self._pids += 1
        process = Process("repair", self._pids, self._view())
        self._processes.append(process)
        process.begin(self.pace, lambda: run(process.region))

    def kill(self, process: Process) -> None:
        """SIGKILL: nothing of it happens any more."""
        if process.task is None or process not in self._processes:
            return
        self.pace.kill(process.task)
        process.code = -9
        self._has_ended(process)

    def _has_ended(self, process: Process) -> None:
        self._processes.remove(process)
        self._stopped.pop(process, None)
        if isinstance(process, WorkerProcess):
            self._flags[process.slot].task = None
            for link in process.links():
                link.process_ended(self.random.random() < 0.5)
            self.master.ended.append((process.slot, process.code or 0))
        else:
            if not process.code:
                self._repairs_killed = 0
            self.master.ended.append((None, process.code or 0))
        assert self._master_task is not None
        self._master_task.wake()

    # ---- faults

    def _after_a_fault(self) -> float:
        every = self.swarm.fault_steps
        return self.pace.steps + (self.random.expovariate(1 / every) if every else inf)

    def _phase(self, process: Process) -> str:
        if self.master.recovers:
            return "in a recovery"
        words, at = self.region.words, self.region.layout["workers"]
        if isinstance(process, WorkerProcess) and words[at.at(process.slot, "intent")]:
            return "with an intent"
        return "else"

    def _fault(self) -> None:
        kind = self.random.choice(self.swarm.faults)
        if kind == "cut":
            links = [link for each in self.workers() for link in each.links()]
            if links:
                self.faults[kind, "any"] += 1
                self.random.choice(links).reset()
            return
        process = self.random.choice(self._processes) if self._processes else None
        if process is None or process.task is None:
            return
        if kind == "kill" and not isinstance(process, WorkerProcess):
            if self._repairs_killed == REPAIRS_MAX - 1:
                return  # after one more the master gives up
            self._repairs_killed += 1
        self.faults[f"{kind} {process.name.partition(' ')[0]}", self._phase(process)] += 1
        if kind == "kill":
            self.kill(process)
        elif process not in self._stopped:
            process.task.stopped = True
            self._stopped[process] = self.pace.now_ns + self.random.expovariate(1) * 5e8

    def _go_on(self) -> None:
        for process, until in tuple(self._stopped.items()):
            if until <= self.pace.now_ns or self.draining:
                del self._stopped[process]
                if process.task is not None:
                    process.task.stopped = False

    def _switched(self, task: Task | None) -> None:
        """After each turn of a task, and before the next is chosen."""
        if task is not None:
            self.ledger.follow()
            if task.ended and isinstance(task.owner, Process) and task.owner in self._processes:
                if task.owner.code != 0 or isinstance(task.owner, WorkerProcess):
                    self.found(f"{task.owner.name} has ended with {task.owner.code}")
                self._has_ended(task.owner)
            return
        if self._stopped:
            self._go_on()
        if self.pace.steps >= self._next_fault and not self.draining:
            self._next_fault = self._after_a_fault()
            self._fault()

    def _logged(self, level: str, event: str, fields: dict[str, Any]) -> None:
        task = self.pace.current
        if task is not None and task.dying:
            return  # its process is gone, and says nothing any more
        if level == "error" and event not in _EXPECTED:
            self.found(f"{event} {fields}")

    # ---- a run

    @contextmanager
    def _set_up(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(
                processes_installed(self.pace, self.clock, self.random, self._logged)
            )
            stack.enter_context(workers.installed())
            capacities = replace(_CAPACITIES, workers=self.swarm.workers)
            self.region = Region.create(
                leaks.region_name(), capacities, self.clock.time_ns() // 1000
            )
            stack.callback(self.region.close)
            self.region.unlink()
            initialise(self.region)
            stack.enter_context(masters.installed(self.pace, self.region))
            self.ledger = Ledger(self.region)
            self._flags = [Flag(100 + slot) for slot in range(self.swarm.workers)]
            self._journal_flag = Flag(99)
            stack.callback(self._end_all)
            yield

    def _end_all(self) -> None:
        for task in tuple(self.pace.tasks):
            self.pace.kill(task)

    def run(self, steps: int) -> Outcome:
        """Run it for so many steps, and then until all is answered."""
        with self._set_up():
            view = self._view()
            self.master = Master(
                self.pace, view, self, self._flags, self.swarm.workers,
                lambda: self.found("the region cannot be repaired"),
            )  # fmt: skip
            owner = Process("master", MASTER, view)
            owner.begin(self.pace, self.master.run)
            self._master_task = owner.task
            clients = [
                Client(self, f"user{n % self.swarm.users}", 1 + n, Random(self.random.random()))  # noqa: S311
                for n in range(self.swarm.clients)
            ]
            for client in clients:
                self.pace.spawn(client, client.run)
            self.pace.on_switch = self._switched
            try:
                self.pace.run(steps, lambda: bool(self.problems))
                self._drain(clients)
            except Deadlock as error:
                self.found(str(error))
            return self._outcome(clients)

    def _drain(self, clients: list[Client]) -> None:
        """With the faults over, everybody gets an answer, and the region is in order."""
        if self.problems:
            return
        self.draining = True
        until = self.pace.steps + DRAIN_STEPS
        self.pace.run(
            until,
            lambda: (
                bool(self.problems)
                or (self.master.is_quiet and all(client.is_idle for client in clients))
            ),
        )
        if self.pace.steps >= until:
            waits = ", ".join(f"{each.name}: {each.open}" for each in clients if not each.is_idle)
            self.found(f"not all is answered after {DRAIN_STEPS} steps without a fault: {waits}")
        self.pace.run(self.pace.steps + 2000, lambda: bool(self.problems))
        self.problems.extend(self.ledger.problems)
        self.problems.extend(self._quiet_problems())

    def _quiet_problems(self) -> list[str]:
        found = [each for each in check.problems(self.region) if not each.endswith("is not free")]
        for user in self.users.values():
            at = self.region.layout["accounts"].at(user, "balance")
            if self.region.words[at] != self.ledger.balance(user):
                found.append(f"user {user} has {self.region.words[at]}, by the log another balance")
        return found

    def _outcome(self, clients: list[Client]) -> Outcome:
        digest = crc32(self.pace.digest.to_bytes(8), crc32(self.region.bytes))
        return Outcome(
            self.seed,
            self.pace.steps,
            self.pace.switches,
            digest,
            tuple(self.problems),
            self.counts,
            self.faults,
            sum(client.answered for client in clients),
        )


_EXPECTED: Final = frozenset({"worker_unresponsive", "lock_held_too_long", "process_stuck"})

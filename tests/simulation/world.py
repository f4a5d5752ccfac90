"""A server with its clients, put together for one seed; and what is done to it."""

import traceback
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack
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
from server.master.recovery import REPAIRS_MAX
from server.region.layout import Capacities
from server.region.locks import unfree_locks
from server.region.region import Region
from tests.helpers.disk import SimulatedDisk, at_random
from tests.simulation import worker as workers
from tests.simulation.clients import Client
from tests.simulation.coverage import COMMITTED, ELSE, INTENT, LOCKS, Struck, phase_of, struck
from tests.simulation.disk import SteppedDisk
from tests.simulation.keepers import ROOT
from tests.simulation.ledger import Ledger
from tests.simulation.network import Link
from tests.simulation.process import Clock, Process
from tests.simulation.process import installed as processes_installed
from tests.simulation.requests import ROOMS
from tests.simulation.rooms import Rooms
from tests.simulation.scheduler import Deadlock, Scheduler, Task
from tests.simulation.server import Server
from tests.simulation.swarm import Swarm

DRAIN_STEPS: Final = 400_000
"""With the faults over, all that was asked is answered within so many steps."""
LOOKS: Final = 10  # at the locks, at the end
PATIENCE: Final = 5000
"""Steps that a fault waits for what it aims at."""
AIMS: Final = (ELSE, LOCKS, LOCKS, INTENT, COMMITTED, COMMITTED)
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
_EXPECTED: Final = frozenset(
    {
        "worker_unresponsive",
        "lock_held_too_long",
        "process_stuck",
        # of a disk that fails
        "journal_unwritable",
        "disk_full",
        "snapshot_failed",
        "snapshot_unwritable",
        "histories_unwritable",
        "events_not_copied",
    }
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
    struck: Counter[Struck]
    history: tuple[str, ...]
    """Faults, and what the last answers were, in order."""
    answered: int


class World:
    """One run."""

    def __init__(
        self,
        seed: int,
        tell: Callable[[str], None] | None = None,
        *,
        clients: Collection[int] | None = None,
        faults: Collection[int] | None = None,
    ) -> None:
        """tell: of each step, as a line. clients, faults: those alone, by number; None: all."""
        self.seed: Final = seed
        self.random = Random(seed)  # noqa: S311 - the same for the same seed
        self.swarm: Final = Swarm(self.random)
        self.pace = Scheduler(self.random, self.swarm.mean_steps, self.swarm.step_ns)
        self.clock = Clock(self.pace)
        self._line = tell
        self.problems: Final[list[str]] = []
        self.counts: Final[Counter[tuple[str, str]]] = Counter()
        self.struck: Final[Counter[Struck]] = Counter()
        self.history: Final[list[str]] = []
        self._only, self._present = faults, clients
        self._faults = 0  # that were due
        self._aim, self._eager = ELSE, 1.0
        self.users: dict[str, int] = {}
        self.operations = self.swarm.operations
        self.patience_s = self.swarm.patience_s
        self.babble = self.swarm.babble
        self.draining = False
        self.shown = 0
        self.ledger = Ledger()
        self.rooms = Rooms()
        self.offers: dict[int, tuple[int, int]] = {}
        self._clients: list[Client] = []
        self._stopped: dict[Process, float] = {}  # until when, ns
        self._next_fault = self._after_a_fault()
        self.key = ServerKey(Ed25519PrivateKey.from_private_bytes(self.random.randbytes(32)))
        self.settings = Settings(
            durability=self.swarm.durability,
            workers=self.swarm.workers,
            scram_iterations=MIN_ITERATIONS,
            login_failures=0,
            unauthenticated_rate=0,
            handshake_timeout=60.0,
            idle_timeout=3600,
            graceful_timeout=0.5,
            numbered_rooms=ROOMS,
            segment_size=1,
            snapshot_size=1,
        )
        self._capacities: Final = replace(_CAPACITIES, txn_ring=self.swarm.txn_ring)
        self._disk = SimulatedDisk(ROOT)
        self._stack = ExitStack()

    # ---- what clients ask for

    def connect(self) -> Link | None:
        """To one of the workers that listen."""
        there = [
            each.listeners
            for each in self.server.workers()
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

    def tells(self, what: str) -> None:
        self.history.append(f"step {self.pace.steps}: {what}")

    def traced(self, what: str, word: int, file: str, line: int) -> None:
        assert self._line is not None
        assert self.pace.current is not None
        self._line(f"{self.pace.current.owner.name} {what} {word} {file}:{line}")

    # ---- lives of the server

    def _boot(self) -> None:
        """Begin the next life of the server."""
        self._stack.close()
        keeps = self.swarm.durability != "none"
        disk = SteppedDisk(
            self.pace, self._disk, self.random, self.swarm.disk_ns,
            0.0 if self.draining else self.swarm.disk_fails,
        )  # fmt: skip
        traces = self._line is not None
        self.server = Server(self, self._capacities, disk if keeps else None, traces=traces)
        self._stack.enter_context(self.server.installed())
        self.ledger.pause()
        self.rooms.pause()
        if not keeps:
            self.loaded(self.server.region)
        self.server.begin()

    def loaded(self, region: Region) -> None:
        """The region has the state with which the server goes on."""
        relies = self.swarm.durability == "sync"
        self.ledger.begin(region, self.shown if relies else 0)
        self.rooms.begin(region, relies=relies)
        self.shown = min(self.shown, self.ledger.head)
        for client in self._clients:
            client.forget_after(self.ledger.head, relies=relies)

    def _end_life(self, why: str, *, power_cut: bool = False) -> None:
        """All processes are gone; the server is started again."""
        self.server.end(why, lambda: power_cut or self.random.random() < 0.5)
        self._stopped.clear()
        if power_cut:
            survivors = at_random(self.random.getrandbits(32))
            self._disk = self._disk.after_power_cut(survivors)
        self._boot()

    # ---- faults

    def _after_a_fault(self) -> float:
        every = self.swarm.fault_steps
        return self.pace.steps + (self.random.expovariate(1 / every) if every else inf)

    def _aimed_at(self) -> list[Process]:
        """Whom the next fault may strike: a process that is where it is to strike one."""
        processes = self.server.processes
        if self._aim == ELSE:
            return processes
        return [each for each in processes if phase_of(each, self.server) == self._aim]

    def _fault(self, targets: list[Process]) -> None:
        server = self.server
        kind = self.random.choice(self.swarm.faults)
        process = self.random.choice(targets)
        if process.task is None:
            return
        who = f"{kind} {process.name.partition(' ')[0]}" if kind in ("kill", "stop") else kind
        what = struck(who, process, server)
        self._faults += 1
        if self._only is not None and self._faults - 1 not in self._only:
            return
        self.history.append(f"step {self.pace.steps}: {what.fault} {what.phase}, {what.operation}")
        self.struck[what] += 1
        keeps = self.swarm.durability != "none"
        if kind == "cut":
            links = [link for each in server.workers() for link in each.links()]
            if links:
                self.random.choice(links).reset()
        elif kind in ("kill all", "power cut"):
            if keeps:
                self._end_life(kind, power_cut=kind == "power cut")
        elif kind == "clock":
            # The wall clock is set: by some seconds, or by hours, back or forth.
            self.clock.wall_ns += int(self.random.gauss(0, 1) * self.random.choice((1e9, 1e13)))
        elif kind == "restart":
            if keeps and server.is_loaded and not server.stops:
                server.stop()
        elif kind == "stop":
            process.task.stopped = True
            self._stopped[process] = self.pace.now_ns + self.random.expovariate(1) * 5e8
        elif process.name != "repair" or server.repairs_killed < REPAIRS_MAX - 1:
            # After one more the master would give up.
            server.repairs_killed += process.name == "repair"
            server.kill(process)

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
            self.rooms.follow()
            if task.ended:
                self.server.reap(task)
            return
        if self._stopped:
            self._go_on()
        if self.server.over:
            self._end_life("over")
        elif self.server.master.damaged:
            self.found("the region cannot be repaired")
        elif self.pace.steps >= self._next_fault and not self.draining:
            self._strike()

    def _strike(self) -> None:
        """A fault is due: it waits for somebody to be where it aims, for a while."""
        targets = self._aimed_at()
        if self.pace.steps > self._next_fault + PATIENCE:
            targets = targets or self.server.processes
        # Not always the first moment: what comes later in a phase has its turn, too.
        if targets and self.random.random() < self._eager:
            self._next_fault = self._after_a_fault()
            self._eager = self.random.choice((1.0, 0.3, 0.1))
            self._aim = self.random.choice(AIMS)
            self._fault(targets)

    def _logged(self, level: str, event: str, fields: dict[str, Any]) -> None:
        task = self.pace.current
        if task is not None and task.dying:
            return  # its process is gone, and says nothing any more
        if level == "error" and event not in _EXPECTED:
            self.found(f"{event} {fields}")

    # ---- a run

    def run(self, steps: int) -> Outcome:
        """Run it for so many steps, and then until all is answered."""
        with ExitStack() as stack:
            stack.enter_context(
                processes_installed(self.pace, self.clock, self.random, self._logged)
            )
            stack.enter_context(workers.installed(self.pace))
            stack.callback(self._end_all)
            self._boot()
            for n in range(self.swarm.clients):
                name, random = f"user{n % self.swarm.users}", Random(self.random.random())  # noqa: S311
                if self._present is not None and n not in self._present:
                    continue
                client = Client(self, name, 1 + n, random)
                self._clients.append(client)
                self.pace.spawn(client, client.run)
            self.pace.on_switch = self._switched
            try:
                self.pace.run(steps, lambda: bool(self.problems))
                self._drain()
            except Deadlock as error:
                self.found(str(error))
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                self.found("".join(traceback.format_exception(error)))
            self.problems.extend(self.ledger.problems + self.rooms.problems)
            return self._outcome()

    def _end_all(self) -> None:
        self._stack.close()
        for task in tuple(self.pace.tasks):
            self.pace.kill(task)

    def _drain(self) -> None:
        """With the faults over, everybody gets an answer, and the region is in order."""
        if self.problems:
            return
        self.draining = True
        if self.server.device is not None:
            self.server.device.failing = 0.0
        until = self.pace.steps + DRAIN_STEPS
        self.pace.run(until, lambda: bool(self.problems) or self._is_quiet())
        if self.pace.steps >= until:
            waits = [f"{each.name}: {each.open}" for each in self._clients if not each.is_idle]
            self.found(f"not all is answered after {DRAIN_STEPS} steps without a fault: {waits}")
        held = set(unfree_locks(self.server.region))
        for _ in range(LOOKS):
            self.pace.run(self.pace.steps + 200, lambda: bool(self.problems))
            held &= set(unfree_locks(self.server.region))
        self.problems.extend(f"{lock} is never free" for lock in sorted(held))
        self.problems.extend(self._quiet_problems())

    def _is_quiet(self) -> bool:
        server = self.server
        return (
            server.is_loaded
            and not server.stops
            and server.master.is_quiet
            and all(client.is_idle for client in self._clients)
        )

    def _quiet_problems(self) -> list[str]:
        region = self.server.region
        found = [each for each in check.problems(region) if not each.endswith("is not free")]
        for user in self.users.values():
            has = region.words[region.layout["accounts"].at(user, "balance")]
            if has != self.ledger.balance(user):
                found.append(f"user {user} has {has}, by the log {self.ledger.balance(user)}")
        return found

    def _outcome(self) -> Outcome:
        digest = self.pace.digest & 0xFFFF_FFFF
        if not self.server.over:
            digest ^= crc32(self.server.region.bytes)
        return Outcome(
            self.seed,
            self.pace.steps,
            self.pace.switches,
            digest,
            tuple(self.problems),
            self.counts,
            self.struck,
            tuple(self.history),
            sum(client.answered for client in self._clients),
        )

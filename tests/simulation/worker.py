"""A worker: the real one, on a loop, connections and a listener of the simulation."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest.mock import patch

from libnet.transport import FrameProtocol
from libproto.sealing import ServerKey
from server.child import Report
from server.config import Settings
from server.worker import process as worker_process
from server.worker import reporter
from server.worker.fatal import FATAL, die
from server.worker.memory import Memory
from server.worker.process import Inherited, Worker
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Link, MemoryPump
from tests.simulation.process import Process
from tests.simulation.scheduler import Scheduler, Task


class Flag:
    """A flag that one process sets and another's loop sees; in the place of libnet's Wakeup."""

    def __init__(self, fd: int) -> None:
        """fd: its descriptor, of the simulation."""
        self._fd = fd
        self.is_set = False
        self.task: Task | None = None
        """Who waits for it."""

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        self.is_set = True
        if self.task is not None:
            self.task.wake()

    def clear(self) -> bool:
        was, self.is_set = self.is_set, False
        return was


class MemoryListeners:
    """Where connections of a worker come from; in the place of its Listeners."""

    def __init__(
        self,
        region: object,
        slot: int,
        listeners: object,
        queue: object,
        siblings: object,
        pump: MemoryPump,
        connection: Callable[[str], FrameProtocol],
        operate: object,
        memory: object,
    ) -> None:
        del region, slot, listeners, queue, siblings, operate, memory
        self._pump, self._connection = pump, connection
        self._backlog: list[Link] = []
        self.accepts = False
        pump.loop.add_source(self)
        host = pump.loop.task.owner
        assert isinstance(host, WorkerProcess), "a worker's loop"
        host.listeners, host.pump = self, pump

    def connect(self, link: Link) -> None:
        """A client connects."""
        self._backlog.append(link)
        self._pump.loop.task.wake()

    @property
    def backlog(self) -> Sequence[Link]:
        return self._backlog

    def due_ns(self) -> int | None:
        return 0 if self._backlog and self.accepts else None

    def turn(self) -> None:
        if self.accepts:
            while self._backlog:
                link = self._backlog.pop(0)
                self._pump.add(link, self._connection(link.peer))

    def host(self) -> None:
        """The master says in a word of each listener whose it is: here each worker has its own."""
        self.accepts = True

    def close(self) -> None:
        self.accepts = False
        for link in self._backlog:
            link.reset()
        self._backlog.clear()


class WorkerProcess(Process):
    """A worker."""

    slot: int = 0
    listeners: MemoryListeners | None = None
    pump: MemoryPump | None = None
    serves: bool = False
    told: bool = False
    """It is to end in order."""

    def links(self) -> list[Link]:
        """Its connections, those that it has not accepted too."""
        found = self.pump.links() if self.pump is not None else []
        return [*found, *(self.listeners.backlog if self.listeners is not None else ())]

    def leave(self) -> None:
        """SIGTERM."""
        self.told = True
        if isinstance(self.loop, SimulatedLoop):
            self.loop.signal(signal.SIGTERM)


class _Report(Report):
    def serves(self) -> None:
        self.served = True


def run(
    process: WorkerProcess,
    pace: Scheduler,
    settings: Settings,
    flags: Sequence[Flag],
    journal: Flag,
    key: ServerKey,
    crashed: Callable[[BaseException | None, str], None],
) -> None:
    """The whole life of a worker. crashed: of a callback that raised."""

    def failed(context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, FATAL):
            die(error)
        crashed(error, str(context.get("message")))

    slot = process.slot
    loop = process.loop = SimulatedLoop(pace, failed)  # type: ignore[abstract] # all that is used
    flags[slot].task = loop.task
    loop.descriptors[flags[slot].fileno()] = lambda: flags[slot].is_set
    inherited = Inherited(
        settings=settings,
        region=process.region,
        listeners=(),
        queues=cast(Any, [(None, None)] * len(flags)),
        wakeups=cast(Any, flags),
        ready=-1,
        journal=cast(Any, journal),
        archive=None,
        key=key,
    )
    report = _Report(-1, slot)
    try:
        if process.told:
            loop.signal(signal.SIGTERM)
        worker = Worker(inherited, slot, loop, Memory())
        process.serves = True
        loop.run_until_complete(worker.serve(report))
    except FATAL as error:
        die(error)


_SIGNALS: Final = SimpleNamespace(
    SIGTERM=signal.SIGTERM,
    SIG_UNBLOCK=signal.SIG_UNBLOCK,
    signal=lambda *_: None,
    pthread_sigmask=lambda *_: None,
)


@contextmanager
def installed() -> Iterator[None]:
    """The simulation in the place of what a worker asks the system for."""
    with ExitStack() as stack:
        for module, name, instead in (
            (worker_process, "Pump", MemoryPump),
            (worker_process, "Listeners", MemoryListeners),
            (worker_process, "signal", _SIGNALS),
            (worker_process, "_check_descriptors", lambda _: None),
            (worker_process, "path_of", lambda _: None),
            (reporter, "own_memory", lambda: 0),
        ):
            stack.enter_context(patch.object(module, name, instead))
        yield

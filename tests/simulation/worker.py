"""A worker: the real one, on a loop, connections and a listener of the simulation."""

import asyncio
import select
import signal
from asyncio.events import _set_running_loop
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest.mock import patch

from libnet.transport import FrameProtocol
from libproto.sealing import ServerKey
from server.config import Settings
from server.region.region import Region
from server.region.tallies import Crowd
from server.worker import process as worker_process
from server.worker import reporter
from server.worker.listeners import Listeners
from server.worker.process import Inherited
from tests.simulation.datagrams import DatagramEnd, Flag
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Link, MemoryPump
from tests.simulation.process import MASTER, Process
from tests.simulation.scheduler import Scheduler
from tests.simulation.view import SteppedRegion

_GIVEN: Final = signature(Listeners.__init__)


class MemoryListeners:
    """Where connections of a worker come from; in the place of its Listeners."""

    def __init__(self, *given: Any) -> None:
        """given: as to the real one, by its names."""
        named = _GIVEN.bind(None, *given).arguments
        pump: MemoryPump = named["pump"]
        self._pump: Final = pump
        self._connection: Callable[[str], FrameProtocol] = named["connection"]
        self._backlog: list[Link] = []
        self.accepts = self._closed = False
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
        self.accepts = not self._closed

    def close(self) -> None:
        self.accepts, self._closed = False, True
        for link in self._backlog:
            link.reset()
        self._backlog.clear()


class WorkerProcess(Process):
    """A worker."""

    slot: int = 0
    listeners: MemoryListeners | None = None
    pump: MemoryPump | None = None
    flag: Flag | None = None
    archive: DatagramEnd | None = None
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


def run(
    process: WorkerProcess,
    settings: Settings,
    flags: Sequence[Flag],
    journal: Flag,
    archive: DatagramEnd | None,
    key: ServerKey,
) -> None:
    """The whole life of a worker. archive: its end of the pair; None: there is no archive."""
    inherited = Inherited(
        settings=settings,
        region=process.region,
        listeners=(),
        queues=cast(Any, [(None, None)] * len(flags)),
        wakeups=cast(Any, flags),
        ready=-1,
        journal=cast(Any, journal),
        archive=cast(Any, archive),
        key=key,
    )
    flags[process.slot].task = process.task
    process.flag, process.archive = flags[process.slot], archive
    if archive is not None:
        archive.task = process.task
    worker_process.run(inherited, process.slot, MASTER)


class _Report:
    """In the place of server.child.Report."""

    def __init__(self, fd: int, place: int) -> None:
        del fd, place
        self.served = False

    def serves(self) -> None:
        self.served = True


_begin_crowd: Final = Crowd.__init__


def _begin_crowd_at_once(crowd: Crowd, region: Region, worker: int, secret: bytes) -> None:
    """Thousands of words that are cleared, at each start of a worker, are one step here."""
    assert isinstance(region, SteppedRegion), "as a worker sees it"
    plain = cast(Region, SimpleNamespace(words=region.raw, layout=region.layout))
    _begin_crowd(crowd, plain, worker, secret)
    crowd.__dict__["_words"] = region.words


def _new_loop(pace: Scheduler) -> SimulatedLoop:
    """The loop of the worker that runs."""
    assert pace.current is not None, "a loop is made by a process"
    process = pace.current.owner
    assert isinstance(process, WorkerProcess), "by a worker"
    loop = process.loop = SimulatedLoop(pace)  # type: ignore[abstract] # all that is used
    _set_running_loop(loop)
    flag = process.flag
    assert flag is not None, "it is woken by its flag"
    loop.descriptors[flag.fileno()] = lambda: flag.is_set
    archive = process.archive
    if archive is not None:
        loop.descriptors[archive.fileno()] = lambda: bool(archive.events() & select.POLLIN)
    if process.told:
        loop.signal(signal.SIGTERM)
    return loop


_SIGNALS: Final = SimpleNamespace(
    SIGTERM=signal.SIGTERM,
    SIG_UNBLOCK=signal.SIG_UNBLOCK,
    signal=lambda *_: None,
    pthread_sigmask=lambda *_: None,
)


@contextmanager
def installed(pace: Scheduler) -> Iterator[None]:
    """The simulation in the place of what a worker asks the system for."""
    loops = SimpleNamespace(new_event_loop=lambda: _new_loop(pace))
    of_asyncio = SimpleNamespace(
        set_event_loop=lambda _: None,
        Event=asyncio.Event,
        AbstractEventLoop=asyncio.AbstractEventLoop,
    )
    with ExitStack() as stack:
        for module, name, instead in (
            (worker_process, "uvloop", loops),
            (worker_process, "asyncio", of_asyncio),
            (worker_process, "gc", SimpleNamespace(freeze=lambda: None)),
            (worker_process, "enter", lambda *_, **__: None),
            (worker_process, "Report", _Report),
            (worker_process, "Pump", MemoryPump),
            (worker_process, "Listeners", MemoryListeners),
            (worker_process, "signal", _SIGNALS),
            (worker_process, "_check_descriptors", lambda _: None),
            (worker_process, "path_of", lambda _: None),
            (worker_process, "FilesClient", lambda *_: None),
            (reporter, "own_memory", lambda: 0),
            (Crowd, "__init__", _begin_crowd_at_once),
        ):
            stack.enter_context(patch.object(module, name, instead))
        yield

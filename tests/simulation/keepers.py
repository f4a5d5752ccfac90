"""The processes that bring the state to disk and back: loader, journal, its snapshots and archive.
The real ones, with the simulation in the place of what they ask the system for.
"""

import os
import select
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final, NoReturn, Protocol, cast
from unittest.mock import patch

from server.archive import desk, keeper
from server.archive import process as archive_process
from server.archive.keeper import Keeper
from server.archive.store import Store
from server.config import Settings
from server.exits import Exit
from server.journal import life, start, upkeep
from server.journal import process as journal_process
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.journal.process import Inherited
from server.journal.upkeep import Snapshots
from server.journal.writer import Writer
from server.master import children, resources
from server.master.children import Birth
from server.region.region import Region
from tests.simulation.datagrams import DatagramEnd, Descriptor, Flag, Poll
from tests.simulation.process import MASTER, Clock, Exited, Process
from tests.simulation.scheduler import Scheduler

ROOT: Final = Path("/data")
SEGMENT: Final = 16 * 1024  # bytes, of a segment; what full rings need is more
ARCHIVE_SEGMENT: Final = 2048  # bytes, of the histories
ARCHIVE_FD: Final = 98
_MIB: Final = 8 * 1024  # bytes that a MiB of the settings is here


class Machine(Protocol):
    """What these processes have around them."""

    def disk(self) -> Disk:
        """Of the machine."""

    def workers_left(self) -> bool:
        """Does any worker live?"""

    def begin_snapshot(self, run: Callable[[], None]) -> int:
        """Begin a process of this; its process id."""

    def wait_for(self, pid: int, *, hang: bool) -> tuple[int, int]:
        """As os.waitpid."""


class KeeperProcess(Process):
    """The journal, or the archive."""

    serves = False
    stop: "SimulatedStop | None" = None


class SimulatedStop:
    """In the place of server.journal.life.Stop: told by the master."""

    machine: Machine

    def __init__(self, workers: object, patience_s: float, wakeup: Flag) -> None:
        del workers, patience_s
        self._wakeup = wakeup
        self._told = False
        owner = wakeup.task.owner if wakeup.task is not None else None
        assert isinstance(owner, KeeperProcess), "who waits for its flag"
        owner.stop = self

    def tell(self) -> None:
        """SIGTERM."""
        self._told = True
        self._wakeup.set()

    def watch(self, poll: object) -> None:
        """Whoever is the last to leave sets the flag."""

    def __bool__(self) -> bool:
        return self._told and self.alone

    @property
    def alone(self) -> bool:
        return not self.machine.workers_left()


class _Report:
    """In the place of server.child.Report."""

    served = False

    def __init__(self, fd: int, place: int) -> None:
        del fd, place
        self.reason = ""

    pace: Scheduler

    def serves(self) -> None:
        self.served = True
        assert self.pace.current is not None
        owner = self.pace.current.owner
        if isinstance(owner, KeeperProcess):
            owner.serves = True

    def fails(self, reason: str) -> None:
        assert self.pace.current is not None
        owner = self.pace.current.owner
        assert isinstance(owner, Process)
        owner.reason = reason


class _Executor:
    """In the place of a thread: what it is given is done at once."""

    def __init__(self, threads: int) -> None:
        del threads

    def submit(self, call: Callable[..., Any], *given: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(call(*given))
        except Exception as error:  # noqa: BLE001 - it is for who asks for the result
            future.set_exception(error)
        return future

    def __enter__(self) -> "_Executor":
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to wait for."""


class _SimulatedSnapshots(Snapshots):
    """Made by a process of its own, which is a task."""

    machine: Machine

    def _become_snapshot(self, upto: Any, parent: int) -> NoReturn:
        make = super()._become_snapshot
        self._child = self.machine.begin_snapshot(lambda: make(upto, parent))
        return None  # type: ignore[misc] # the one that goes on is the parent


class _Space:
    """In the place of server.archive.space.Space: nobody asks how much is left."""

    def __init__(self, *given: object) -> None:
        del given

    def turn(self) -> None:
        """Nothing."""


class _Presence:
    """In the place of server.journal.directory.Presence: nobody removes the files."""

    def __init__(self, data: DataDirectory) -> None:
        del data

    def check(self, segment: Path | None) -> None:
        del segment


def run_journal(process: KeeperProcess, settings: Settings, flags: list[Flag], flag: Flag) -> None:
    """The whole life of a journal process. flags: of the workers; flag: its own."""
    flag.task = process.task
    inherited = Inherited(
        settings=settings,
        region=process.region,
        data=DataDirectory(ROOT),
        wakeups=flags,  # type: ignore[arg-type] # flags of the simulation
        wakeup=flag,  # type: ignore[arg-type] # likewise
        ready=-1,
        workers=-1,
    )
    journal_process.run(inherited, MASTER)


def run_archive(process: KeeperProcess, settings: Settings, ends: Sequence[DatagramEnd]) -> None:
    """The whole life of an archive process. ends: its ends of the pairs."""
    inherited = archive_process.Inherited(
        settings=settings,
        region=process.region,
        data=DataDirectory(ROOT),
        sockets=cast(Any, ends),
        ready=-1,
        workers=-1,
    )
    archive_process.run(inherited, MASTER)


def run_loader(process: Process, settings: Settings) -> None:
    """Open the data directory, as the master does it at a start, and the whole life of a loader."""
    region = process.region
    try:
        data = resources._opened(region, DataDirectory(ROOT))
    except (JournalError, OSError) as error:
        process.reason = str(error)
        raise Exited(Exit.NOT_STARTED) from error
    shared: Any = SimpleNamespace(
        region=region, settings=settings, data=data,
        reports_to=SimpleNamespace(fileno=lambda: -1),
    )  # fmt: skip
    children._run_loader(Birth(shared, 0, MASTER))


def _restore(
    region: Region, data: DataDirectory, retention_s: float, grace_s: float, size: int, recall: Any
) -> None:
    del size
    start.restore(region, data, retention_s, grace_s, SEGMENT, recall)


@contextmanager
def installed(
    pace: Scheduler,
    clock: Clock,
    random: Random,
    descriptors: dict[int, Descriptor],
    machine: Machine,
) -> Iterator[None]:
    """The simulation in the place of what they ask the system for."""
    signals = SimpleNamespace(
        SIGALRM=0, SIG_UNBLOCK=0, ITIMER_REAL=0, SIGKILL=9,
        signal=lambda *_: None, pthread_sigmask=lambda *_: None, setitimer=lambda *_: None,
    )  # fmt: skip
    stop = type("Stop", (SimulatedStop,), {"machine": machine})
    snapshots = type("Snapshots", (_SimulatedSnapshots,), {"machine": machine})
    report = type("Report", (_Report,), {"pace": pace})
    polls = SimpleNamespace(
        poll=lambda: Poll(pace, descriptors), POLLIN=select.POLLIN, POLLOUT=select.POLLOUT
    )
    system = SimpleNamespace(
        waitpid=lambda pid, how: machine.wait_for(pid, hang=not how),
        WNOHANG=1, getpid=lambda: MASTER, nice=lambda _: None, _exit=_exit,
    )  # fmt: skip
    writer = partial(Writer, salt=random.randbytes)
    store = partial(Store, salt=random.randbytes)
    keep = partial(Keeper, segment_size=ARCHIVE_SEGMENT, clock_s=clock.monotonic)

    def woken() -> Flag:
        """The flag of an archive that begins."""
        flag = Flag(ARCHIVE_FD)
        flag.task, descriptors[ARCHIVE_FD] = pace.current, flag
        return flag

    titles = SimpleNamespace(setproctitle=lambda _: None)
    with ExitStack() as stack:
        for module, names in (
            (journal_process, {
                "Disk": machine.disk, "Writer": writer, "Presence": _Presence, "Stop": stop,
                "Snapshots": snapshots, "Report": report, "select": polls, "_MIB": _MIB,
            }),
            (archive_process, {
                "Disk": machine.disk, "Keeper": keep, "Stop": stop, "Report": report,
                "Wakeup": woken, "Space": _Space, "ThreadPoolExecutor": _Executor,
            }),
            (keeper, {"Store": store}),
            (desk, {"select": polls}),
            (upkeep, {
                "fork": lambda: 0, "os": system, "setproctitle": titles, "_MIB": _MIB,
                "follow_parent": lambda *_: None,
            }),
            (life, {"enter": lambda *_: None}),
            (start, {"Disk": machine.disk, "Writer": writer, "signal": signals}),
            (resources, {"Disk": machine.disk}),
            (children, {"Disk": machine.disk, "Report": report, "restore": _restore}),
        ):  # fmt: skip
            for name, instead in names.items():
                stack.enter_context(patch.object(module, name, instead))
        yield


def _exit(code: int) -> NoReturn:
    os._exit(code)  # the simulation's, while it is installed

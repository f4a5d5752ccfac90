"""The children of the master. Each role is one row of `ROLES`: what it inherits, how it is watched,
what its death means. Below the table, the children that live just now.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Final, NoReturn

import setproctitle

import liblog
from server.admin.web import process as admin
from server.archive import process as archive
from server.archive.numbers import numbers_of
from server.child import REPORT_MAX, Report, follow_parent, fork, reason_of
from server.core import check, recovery
from server.core.state import State
from server.early import signal_name
from server.exits import Exit
from server.files import process as files
from server.files.channel import queue_name
from server.files.channel import remove as remove_queue
from server.files.segments import remove_pools
from server.journal import process as journal
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.journal.start import restore
from server.master.resources import Part, Resources
from server.worker import process as worker

REPAIR_S: Final = 10.0  # a repair that takes longer is killed and started over
PROBLEMS_MAX: Final = 20  # that are logged
LOADER: Final = archive.READY - 1
REPAIR: Final = archive.READY - 2
ADMIN: Final = archive.READY - 3

log = liblog.get("master")


class Death(Enum):
    """What follows when a child of this role has ended without having been told to."""

    RECOVER = auto()  # it may have held locks: the state is repaired, then it is forked again
    RESTART = auto()  # it is forked again
    REPEAT = auto()  # what it was to do is done again, by another one
    END_START = auto()  # the server cannot start


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child begins with."""

    resources: Resources
    slot: int
    master: int  # process id
    dead: tuple[int, ...] = ()  # for the repair: slots of workers

    @property
    def report(self) -> int:
        return self.resources.reports_to.fileno()


def _run_worker(birth: Birth) -> NoReturn:
    shared = birth.resources
    inherited = worker.Inherited(
        shared.settings,
        shared.region,
        shared.listeners,
        shared.queues,
        shared.wakeups,
        birth.report,
        shared.journal_wakeup,
        shared.questions[birth.slot] if shared.questions else None,
        shared.key,
    )
    worker.run(inherited, birth.slot, birth.master)


def _run_journal(birth: Birth) -> NoReturn:
    shared = birth.resources
    assert shared.data is not None
    inherited = journal.Inherited(
        shared.settings,
        shared.region,
        shared.data,
        shared.wakeups,
        shared.journal_wakeup,
        birth.report,
        shared.workers_watched.fileno(),
    )
    journal.run(inherited, birth.master)


def _run_archive(birth: Birth) -> NoReturn:
    shared = birth.resources
    assert shared.data is not None
    inherited = archive.Inherited(
        shared.settings,
        shared.region,
        shared.data,
        shared.answers,
        birth.report,
        shared.workers_watched.fileno(),
    )
    archive.run(inherited, birth.master)


def _run_files(birth: Birth) -> NoReturn:
    shared = birth.resources
    assert shared.data is not None
    inherited = files.Inherited(
        shared.settings,
        shared.region,
        shared.data,
        shared.wakeups,
        shared.questions[-1],
        birth.report,
    )
    files.run(inherited, birth.master)


def _run_admin(birth: Birth) -> NoReturn:
    shared = birth.resources
    assert shared.admin_listener is not None
    inherited = admin.Inherited(
        shared.settings,
        shared.region,
        shared.admin_listener,
        birth.report,
        ADMIN,
        shared.admin_alive,
    )
    admin.run(inherited, birth.master)


def _run_loader(birth: Birth) -> NoReturn:
    """Bring the state on disk into the region."""
    code, report = Exit.NOT_STARTED, Report(birth.report, LOADER)
    try:
        follow_parent(birth.master, signal.SIGKILL)
        setproctitle.setproctitle("tradechat: loader")
        data, settings = birth.resources.data, birth.resources.settings
        assert data is not None
        restore(
            birth.resources.region,
            data,
            settings.client_retention,
            settings.client_grace,
            settings.segment_size << 20,
            partial(numbers_of, Disk(), data.rooms, birth.resources.region.header.log_id),
        )
        code = Exit.OK
    except (JournalError, OSError, MemoryError) as error:
        report.fails(reason_of(error, birth.resources.settings.data))
    except BaseException as error:
        log.error("loader_crashed", exc_info=error)
    finally:
        os._exit(code)


def _run_repair(birth: Birth) -> NoReturn:
    """Repair the region after workers that died; FAILED where its invariants do not hold then."""
    code, region = Exit.FAILED, birth.resources.region
    try:
        follow_parent(birth.master, signal.SIGKILL)
        setproctitle.setproctitle("tradechat: repair")
        states = [State(region, slot, time.monotonic_ns, time.sleep, 0.0) for slot in birth.dead]
        done = recovery.repair(states, time.time_ns() // 1000)
        found = check.problems(region)
        for problem in found[:PROBLEMS_MAX]:
            log.error("invariant_broken", problem=problem)
        log.info("repaired", workers=sorted(birth.dead), **done)
        code = Exit.FAILED if found else Exit.OK
    except BaseException as error:
        log.error("repair_crashed", exc_info=error)
    finally:
        os._exit(code)


@dataclass(frozen=True, slots=True)
class Role:
    """A row of the table of children."""

    name: str  # in the log; ps shows it too
    run: Callable[[Birth], NoReturn]
    inherits: frozenset[Part]  # beside what every child has
    death: Death
    place: int | None = None  # among the slots; None: each worker has its own
    beat: str = ""  # segment of the region where it counts on, so that it is seen to run
    watched: bool = False  # it stores nothing there: to be seen to run it sets a wake-up
    slow_start: bool = False  # it reads all that is on disk before it counts
    final: frozenset[int] = frozenset()  # exit codes after which the next one would do no better
    seconds: float = math.inf  # that it may take in all


_DISK: Final = frozenset({Part.WORKERS_WATCHED, Part.REPORTS})

WORKER: Final = Role(
    "worker",
    _run_worker,
    frozenset(
        {
            Part.LISTENERS,
            Part.QUEUES,
            Part.WAKEUPS,
            Part.JOURNAL_WAKEUP,
            Part.QUESTIONS,
            Part.WORKERS_ALIVE,
            Part.REPORTS,
        }
    ),
    Death.RECOVER,
    beat="workers",
)
KEEP_JOURNAL: Final = Role(
    "journal",
    _run_journal,
    _DISK | {Part.WAKEUPS, Part.JOURNAL_WAKEUP},
    Death.RESTART,
    place=journal.READY,
    beat="journal",
    final=frozenset({Exit.IO_FAILED, Exit.DATA_REFUSED}),
)
KEEP_ARCHIVE: Final = Role(
    "archive",
    _run_archive,
    _DISK | {Part.ANSWERS},
    Death.RESTART,
    place=archive.READY,
    beat="archive",
    slow_start=True,
)
SERVE_FILES: Final = Role(
    "files",
    _run_files,
    frozenset({Part.WAKEUPS, Part.QUESTIONS, Part.REPORTS}),
    Death.RESTART,
    place=files.READY,
    beat="files",
    slow_start=True,
)
SHOW: Final = Role(
    "admin",
    _run_admin,
    frozenset({Part.ADMIN, Part.REPORTS}),
    Death.RESTART,
    place=ADMIN,
    watched=True,
    slow_start=True,
)
LOAD: Final = Role("loader", _run_loader, frozenset({Part.REPORTS}), Death.END_START, place=LOADER)
REPAIRS: Final = Role(
    "repair", _run_repair, frozenset(), Death.REPEAT, place=REPAIR, seconds=REPAIR_S
)
ROLES: Final = (WORKER, KEEP_JOURNAL, KEEP_ARCHIVE, SERVE_FILES, SHOW, LOAD, REPAIRS)
KEEPERS: Final = (KEEP_JOURNAL, KEEP_ARCHIVE)
"""They bring the state to disk: forked before the workers, ended after them."""
REPLACED: Final = (*KEEPERS, SERVE_FILES, SHOW)
"""Where one dies another is forked, and that is all."""


@dataclass(slots=True)
class Child:
    """A process that was forked and has not been reaped."""

    role: Role
    slot: int  # of a worker; else the role's place
    pid: int
    born: float = field(default_factory=time.monotonic)
    serving: float = math.inf  # since when: time.monotonic()
    generation: int = 0  # of a worker; see Crew
    beat: int = 0  # as last seen
    beat_seen: float = field(default_factory=time.monotonic)  # when it changed

    @property
    def name(self) -> str:
        return f"worker {self.slot}" if self.role is WORKER else self.role.name


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that has been reaped."""

    child: Child
    code: int  # its exit code; -N: killed by signal N

    @property
    def how(self) -> str:
        """In words."""
        if self.code < 0:
            return f"killed by {signal_name(-self.code)}"
        return f"exit code {self.code}" if self.code else "it ended"


class Children:
    """Those that live. Only `reap` waits for a process, so the id of one in here is not reused."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._by_pid: dict[int, Child] = {}
        self.reasons: dict[int, str] = {}  # by slot: why the latest one could not go on

    def __iter__(self) -> Iterator[Child]:
        return iter(tuple(self._by_pid.values()))

    def __bool__(self) -> bool:
        return bool(self._by_pid)

    def of(self, *roles: Role) -> list[Child]:
        """Those of these roles."""
        return [child for child in self if child.role in roles]

    def spawn(self, role: Role, slot: int | None = None, dead: Collection[int] = ()) -> Child:
        """Fork a child. slot: of a worker. dead: for a repair. OSError: it cannot be forked now."""
        place = role.place if slot is None else slot
        assert place is not None, "a worker has a slot"
        if role is SERVE_FILES:
            self._resources.region.files.number += 1
        birth = Birth(self._resources, place, os.getpid(), tuple(dead))
        pid = fork()
        if pid == 0:
            _become(role, birth)
        self.reasons.pop(place, None)
        child = Child(role, place, pid)
        self._by_pid[pid] = child
        return child

    def reap(self) -> list[Ended]:
        """Those that have ended since. Orphans that the system handed to us, as the first process
        of a container gets them, are reaped as well."""
        ended: list[Ended] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if not pid:
                return ended
            if child := self._by_pid.pop(pid, None):
                self._remove_left(child)
                ended.append(Ended(child, os.waitstatus_to_exitcode(status)))

    def _remove_left(self, child: Child) -> None:
        """It has been reaped: what it shared with others is nobody's any more."""
        region = self._resources.region
        if child.role is WORKER:
            region.words[region.layout["workers"].at(child.slot, "pool")] = 0
            remove_pools(region.name, child.slot)
        elif child.role is SERVE_FILES:
            region.files.serving = region.files.pid = 0
            remove_queue(queue_name(region.name, region.files.number))
            region.files.reaped = region.files.number
            for wakeup in self._resources.wakeups:
                wakeup.set()

    def reported(self) -> list[int]:
        """Slots of those that serve, as they have told since; takes note of why others cannot."""
        serving: list[int] = []
        while True:
            try:
                message = os.read(self._resources.reports.fileno(), 1 + REPORT_MAX)
            except BlockingIOError:
                return serving
            if not message[1:]:
                serving.append(message[0])
            else:
                self.reasons[message[0]] = message[1:].decode(errors="replace")

    @staticmethod
    def signal(children: Collection[Child], number: signal.Signals) -> None:
        """Send it to each."""
        for child in children:
            os.kill(child.pid, number)

    def kill(self, seconds: float) -> list[Child]:
        """SIGKILL to all; those that have not ended after so long, as a disk that hangs keeps
        them."""
        self.signal(self._by_pid.values(), signal.SIGKILL)
        deadline = time.monotonic() + seconds
        while self._by_pid and time.monotonic() < deadline:
            if not self.reap():
                time.sleep(0.001)
        return list(self)


def _become(role: Role, birth: Birth) -> NoReturn:
    try:
        birth.resources.keep_only(role.inherits)
        role.run(birth)
    except BaseException as error:
        log.error("child_crashed", process=role.name, exc_info=error)
    finally:
        os._exit(Exit.FAILED)  # whatever happens, a child never runs the master's code

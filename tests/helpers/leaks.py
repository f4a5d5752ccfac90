"""What a test leaves behind: processes, entries of /dev/shm, open descriptors.

The server is many processes around one shared region, so a test that forgets one of them disturbs
the tests after it, and a server that forgets one would do so on its operator's machine. `watch()`
looks before and after a piece of work and names what is new.

Processes are read from /proc: every descendant of this one, zombies included. `adopt_orphans()`
makes this process the one that orphans are handed to (PR_SET_CHILD_SUBREAPER), so that a worker
whose master was killed is still a descendant. Therefore a test that kills a master has to wait for
its workers, as it waits for every child: `wait_gone(pid)` does both.

The machine is shared, with the other processes of one run of pytest at least. Whose an entry of
/dev/shm is, its name tells: `region_name()` makes one with the id of the pytest process it is made
under, which `begin()` puts into the environment for every process below. Such an entry is ours or
another's, whoever holds it: that of a server which was killed on purpose is held by nobody for a
while. An entry with a name of another kind is not ours if another user made it, if a process that
is not our descendant holds it, or if it is of a server that such a one kills and starts again. What
ends by itself a moment later is no leak: a difference is looked at again until GRACE_S have passed.
"""

import ctypes
import gc
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

GRACE_S = 3.0
POLL_S = 0.01
SHM = "/dev/shm"  # noqa: S108 - the place is the subject here, nothing is written to it
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
# Of the interpreter: multiprocessing starts it once and it lives as long as we do.
INTERPRETERS_OWN = b"multiprocessing.resource_tracker"
OWNER = "LEAKS_OWNER"  # in the environment: the id of the process that leaks are charged to
_NAMED = re.compile(r"test-(\d+)-")
_OF_BENCH = re.compile(
    r"(?:bench|faults-[\w-]+?)-(\d+)"
)  # the id of the bench that started the server


class LeakError(AssertionError):
    """A piece of work left something behind; the message lists it."""


class Process(NamedTuple):
    """One line of /proc/PID/stat, as far as it matters here."""

    pid: int
    parent: int
    state: str
    name: str


class Snapshot(NamedTuple):
    """What was there at one moment. `descriptors` maps a descriptor to what it is open on."""

    processes: dict[int, Process]
    shm: frozenset[str]
    descriptors: dict[int, str]


def begin() -> None:
    """Charge this process with what is made by itself and below, unless one above it is charged."""
    os.environ.setdefault(OWNER, str(os.getpid()))


def _owner() -> str:
    return os.environ.get(OWNER, str(os.getpid()))


def region_name() -> str:
    """A name that no region has, and which tells who is charged with it."""
    return f"test-{_owner()}-{uuid.uuid4().hex[:12]}"


def adopt_orphans() -> None:
    """Make this process the parent of every orphan among its descendants; OSError if refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _process(pid: int) -> Process | None:
    """The process with this id; None when there is none any more."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in brackets and may hold any character, brackets and blanks too.
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
    return Process(pid, int(parent), state, name)


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants() -> dict[int, Process]:
    """Every living or unreaped process below this one, by id."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # the usual case after a test, and /proc need not be walked
        return {}
    children: dict[int, list[Process]] = {}
    for pid in _all_pids():
        if (process := _process(pid)) is not None:
            children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    open_parents = [os.getpid()]
    while open_parents:
        for child in children.get(open_parents.pop(), []):
            found[child.pid] = child
            open_parents.append(child.pid)
    return found


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor that listed the directory
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def snapshot() -> Snapshot:
    """What there is now."""
    return Snapshot(descendants(), frozenset(os.listdir(SHM)), _descriptors())


def _is_interpreters_own(process: Process) -> bool:
    try:
        return INTERPRETERS_OWN in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _new_processes(before: Snapshot) -> list[Process]:
    """New descendants, but for those of a process that was there before (a server a module shares
    may start a worker while one of its tests runs).
    """
    now = descendants()
    new = []
    for process in now.values():
        ancestor: Process | None = process
        while ancestor is not None and ancestor.pid not in before.processes:
            ancestor = now.get(ancestor.parent)
        if ancestor is None and not _is_interpreters_own(process):
            new.append(process)
    return new


def _describe(process: Process) -> str:
    unreaped = ", ended but never waited for" if process.state == "Z" else ""
    return f"process {process.pid} ({process.name}){unreaped}"


def _files_held(pid: int) -> Iterator[tuple[int, int]]:
    """Device and inode of every file that this process has mapped or open."""
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        device, inode = line.split(maxsplit=5)[3:5]
        major, minor = device.split(":")
        yield os.makedev(int(major, 16), int(minor, 16)), int(inode)
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            status = descriptor.stat()
            yield status.st_dev, status.st_ino


def _of_others(names: set[str]) -> set[str]:
    """Those of these entries of /dev/shm that are another user's, that a living process which is
    not ours is named in, or that such a one has mapped or open.

    The last by inode: a named semaphore is made under another name than it has later.
    """
    ours, living = {os.getpid(), *descendants()}, set(_all_pids())
    of_others: set[str] = set()
    by_file: dict[tuple[int, int], str] = {}
    for name in names:
        maker = int(found[1]) if (found := _OF_BENCH.match(name)) else 0
        with suppress(FileNotFoundError):  # just removed
            status = os.stat(f"{SHM}/{name}")
            if status.st_uid != os.geteuid() or maker in living - ours:
                of_others.add(name)
            else:
                by_file[status.st_dev, status.st_ino] = name
    for pid in living - ours if by_file else ():
        # A process of another user may not be read, and one may end while we look.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            of_others |= {by_file[file] for file in _files_held(pid) if file in by_file}
    return of_others


def _new_shm(before: Snapshot) -> list[str]:
    new = set(os.listdir(SHM)) - before.shm
    owners = {name: found[1] for name in new if (found := _NAMED.match(name))}
    ours = {name for name, owner in owners.items() if owner == _owner()}
    if unnamed := new - owners.keys():
        ours |= unnamed - _of_others(unnamed)
    return [f"{SHM}/{name}" for name in sorted(ours)]


def _new_descriptors(before: Snapshot) -> list[str]:
    """Descriptors that are open now and were not, once the collector has had its turn: a socket in
    a reference cycle closes then, and what is open still has an owner that should have closed it.
    """

    def new() -> list[str]:
        return [
            f"descriptor {number} on {target}"
            for number, target in sorted(_descriptors().items())
            if number not in before.descriptors
        ]

    if new():
        gc.collect()
    return new()


def leaks_since(before: Snapshot, grace_s: float = GRACE_S) -> list[str]:
    """What is there now and was not at `before`, a line each, after at most `grace_s` seconds."""
    deadline = time.monotonic() + grace_s
    while True:
        lines = [_describe(process) for process in _new_processes(before)]
        lines += _new_shm(before) + _new_descriptors(before)
        if not lines or time.monotonic() >= deadline:
            return lines
        time.sleep(POLL_S)


def _end_new_processes(before: Snapshot) -> None:
    """Kill and reap what `leaks_since` told of. Workers become ours when their master has gone, so
    this looks again until there is none.
    """
    while new := _new_processes(before):
        for process in new:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        for process in new:
            wait_gone(process.pid)


@contextmanager
def watch(grace_s: float = GRACE_S) -> Iterator[None]:
    """Raise LeakError if the work under it ends well and leaves something behind.

    Processes that were left are ended first: one that lived on would hold our standard output open
    and be in the way of the work that follows.
    """
    before = snapshot()
    yield
    if lines := leaks_since(before, grace_s):
        _end_new_processes(before)
        raise LeakError("left behind: " + "; ".join(lines))


def wait_gone(pid: int, timeout_s: float = 10.0) -> None:
    """Wait until this process has ended, and reap it if it is ours; TimeoutError if it stays."""
    deadline = time.monotonic() + timeout_s
    while (process := _process(pid)) is not None:
        if process.state == "Z" and process.parent == os.getpid():
            with suppress(ChildProcessError):  # another thread was faster
                os.waitpid(pid, 0)
        elif process.state == "Z":
            return  # what is left is for its parent
        elif time.monotonic() >= deadline:
            raise TimeoutError(f"process {pid} ({process.name}) still runs after {timeout_s} s")
        else:
            time.sleep(POLL_S)

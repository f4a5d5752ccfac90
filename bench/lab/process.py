"""The processes of a server, seen from outside: by /proc, and by the titles they give themselves;
and the CPU time that they take.

A process is held by a pidfd while something is done to it, so that nobody else is hit who gets its
number later.
"""

import os
import random
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

WORKER_TITLE: Final = b"tradechat: worker"
JOURNAL_TITLE: Final = b"tradechat: journal"
ARCHIVE_TITLE: Final = b"tradechat: archive"
FILES_TITLE: Final = b"tradechat: files"
STOP_S: Final = 30.0
"""How long a process may take to end in order."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def children_of(pid: int) -> list[int]:
    """Process ids of the children; none if it has ended."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def family_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(each for child in children_of(pid) for each in family_of(child))]


def titled(master: int, name: bytes) -> list[int]:
    """The children of a server's master whose title begins so."""
    return [pid for pid in children_of(master) if title(pid).startswith(name)]


def workers_of(master: int) -> list[int]:
    """The workers of a server that serve."""
    return titled(master, WORKER_TITLE)


def title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def started(pid: int) -> int:
    """When it began, in clock ticks; with the pid this names one process for ever. 0: ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def shared_memory_of(pid: int) -> set[str]:
    """The entries of /dev/shm that a process has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    paths = (line.split(maxsplit=5)[5] for line in lines if "/dev/shm/" in line)  # noqa: S108
    return {path for path in paths if not path.endswith(" (deleted)")}


class Held:
    """A process of a server that cannot be taken for another. ProcessLookupError where it has
    ended."""

    def __init__(self, pid: int, name: bytes = WORKER_TITLE) -> None:
        """name: how its title begins."""
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        if not title(pid).startswith(name):  # the number was somebody else's already
            os.close(self._fd)
            raise ProcessLookupError

    def signal(self, number: signal.Signals) -> None:
        """ProcessLookupError where it has ended."""
        signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        os.close(self._fd)


class Victims:
    """Processes of a server, to be hit at random."""

    def __init__(self, master: int, rng: random.Random) -> None:
        """master: process id; 0 if not known, and then there is nobody to be hit."""
        self.killed: set[int] = set()  # a kill is not yet a death: nobody is to be hit twice
        self._master = master
        self._random = rng

    def any(self, name: bytes = WORKER_TITLE) -> Held | None:
        """One at random of those whose title begins so, to be closed; None while there is none."""
        found = [pid for pid in titled(self._master, name) if pid not in self.killed]
        try:
            return Held(self._random.choice(found), name) if found else None
        except ProcessLookupError:
            return None  # it ended by itself just then

    def kill(self, victim: Held) -> bool:
        """SIGKILL, and close it; False where it had ended before."""
        with closing(victim):
            try:
                victim.signal(signal.SIGKILL)
            except ProcessLookupError:
                return False
            self.killed.add(victim.pid)
            return True


class CpuTime(NamedTuple):
    """Seconds of CPU."""

    user: float
    system: float

    def since(self, before: "CpuTime") -> "CpuTime":
        return CpuTime(self.user - before.user, self.system - before.system)


def cpu_of(processes: Iterable[int]) -> CpuTime:
    """What these processes, and the children that they have waited for, have used so far; nothing
    of one that has ended."""
    user = system = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        user += int(fields[11]) + int(fields[13])
        system += int(fields[12]) + int(fields[14])
    return CpuTime(user / _TICKS, system / _TICKS)


def cpu_of_server(master: int) -> CpuTime:
    """What a server's processes have used so far, those included that have died."""
    return cpu_of([master, *children_of(master)])


class Memory(NamedTuple):
    """Bytes, of user space: what the kernel keeps for a socket is in none of them."""

    uss: int
    """Of one process alone."""
    rss: int
    """What it shares with others included; of several processes that counts several times."""
    region: int
    """Of the shared region, as far as it has been touched. It is in neither of the others."""

    def since(self, before: "Memory") -> "Memory":
        return Memory(*(now - then for now, then in zip(self, before, strict=True)))


def memory_of(processes: Iterable[int]) -> Memory:
    """What these processes have, added up; nothing of one that has ended."""
    uss = rss = region = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        is_region = False
        for line in lines:
            name, _, value = line.partition(":")
            match name:
                case "Rss" if is_region:
                    region += _bytes(value)
                case "Rss":
                    rss += _bytes(value)
                case "Private_Clean" | "Private_Dirty" if not is_region:
                    uss += _bytes(value)
                case _ if " " in name:  # a mapping: addresses, permissions, and what is mapped
                    is_region = "/dev/shm/" in line  # noqa: S108
    return Memory(uss, rss, region)


def _bytes(value: str) -> int:
    return int(value.split()[0]) * 1024  # "12 kB"


def end(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> None:
    """End a process of ours by a signal, and wait; it is killed where it has not ended after
    STOP_S."""
    try:
        process.send_signal(number)
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pass  # it is killed
    finally:
        process.kill()
        process.wait()


@contextmanager
def signals_held() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of the `with`: a process that is being started is then
    known, and can be ended. For the main thread."""
    came: list[int] = []
    handlers = {
        each: signal.signal(each, lambda number, _: came.append(number))
        for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        for number in came[:1]:
            signal.raise_signal(number)

"""The processes of a server, seen from outside: by /proc, and by the titles they give themselves.

A process is held by a pidfd while something is done to it, so that nobody else is hit who gets its
number later.
"""

import os
import random
import signal
from contextlib import closing
from pathlib import Path
from typing import Final

WORKER_TITLE: Final = b"tradechat: worker"


def children_of(pid: int) -> list[int]:
    """Process ids of the children; none if it has ended."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def family_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(each for child in children_of(pid) for each in family_of(child))]


def workers_of(master: int) -> list[int]:
    """The workers of a server that serve."""
    return [pid for pid in children_of(master) if title(pid).startswith(WORKER_TITLE)]


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
    """A worker that cannot be taken for another process. ProcessLookupError where it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        if not title(pid).startswith(WORKER_TITLE):  # the number was somebody else's already
            os.close(self._fd)
            raise ProcessLookupError

    def signal(self, number: signal.Signals) -> None:
        """ProcessLookupError where it has ended."""
        signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        os.close(self._fd)


class Workers:
    """The workers of a server, to be hit at random."""

    def __init__(self, master: int, rng: random.Random) -> None:
        """master: process id; 0 if not known, and then there is nobody to be hit."""
        self.killed: set[int] = set()  # a kill is not yet a death: nobody is to be hit twice
        self._master = master
        self._random = rng

    def any(self) -> Held | None:
        """One at random, to be closed; None while there is none."""
        workers = [pid for pid in workers_of(self._master) if pid not in self.killed]
        try:
            return Held(self._random.choice(workers)) if workers else None
        except ProcessLookupError:
            return None  # it ended by itself just then

    def kill(self, worker: Held) -> bool:
        """SIGKILL, and close it; False where it had ended before."""
        with closing(worker):
            try:
                worker.signal(signal.SIGKILL)
            except ProcessLookupError:
                return False
            self.killed.add(worker.pid)
            return True

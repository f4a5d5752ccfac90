"""Other people's programs: where they are, how they are started, and that they end.

A server is a child of ours in a process group of its own, so that Ctrl-C is for us, and it is ended
by its pid. What it writes is in a temporary directory. As root, a server that refuses root is
started as the user that Debian made for it, or as nobody.
"""

import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from bench.compare.contender import LOCALHOST, LoadFailed
from bench.lab.process import CpuTime, cpu_of_server, end, signals_held

START_S: Final = 30.0
RUN_S: Final = 120.0
"""A program that takes longer than that, beyond the time it was given, hangs."""
_ASK_S: Final = 0.02  # between two looks whether a server is ready
_TAIL: Final = 10  # lines of a log that are told

PLACES: list[str] = ["/usr/lib/postgresql/*/bin", "/usr/sbin", "/usr/local/sbin"]
"""Where programs are beside PATH; of several versions the newest."""


class Missing(Exception):
    """A program is not installed."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(f"{program} is not installed: apt-get install {package}")


def find(program: str, package: str, *, beside: str = "") -> str:
    """Its path. package: the apt package that has it. beside: the path of another program, in whose
    directory it is looked for first. Missing."""
    places = [str(Path(beside).resolve().parent)] if beside else []
    places += os.environ.get("PATH", os.defpath).split(os.pathsep)
    for pattern in PLACES:
        found = [str(each) for each in Path("/").glob(pattern.lstrip("/"))]
        places += sorted(found, key=_numbers, reverse=True)
    path = shutil.which(program, path=os.pathsep.join(places))
    if path is None:
        raise Missing(program, package)
    return path


def _numbers(text: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", text)]


def version(program: str) -> str:
    """The first line of what it says to `--version`."""
    return output([program, "--version"]).partition("\n")[0].strip()


class User(NamedTuple):
    """Whom a program runs as; of no effect where it is who we are."""

    uid: int
    gid: int


def unprivileged(*names: str) -> User:
    """The first of these users that there is, for root; ourselves otherwise."""
    if os.geteuid() != 0:
        return User(os.geteuid(), os.getegid())
    for name in names:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(found.pw_uid, found.pw_gid)
    raise LoadFailed(f"there is no user {' or '.join(names)} to start a server as")


def start(
    command: Sequence[str], *, output: int, directory: str, user: User | None = None
) -> subprocess.Popen[str]:
    """In a process group of its own. output: where its output and its errors go, or PIPE."""
    other = user if user is not None and user.uid != os.geteuid() else None
    return subprocess.Popen(  # noqa: S603 - programs of this package, with our own arguments
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE if output == subprocess.PIPE else subprocess.STDOUT,
        text=True,
        cwd=directory,
        process_group=0,
        user=other.uid if other else None,
        group=other.gid if other else None,
        extra_groups=[] if other else None,
    )


def output(command: Sequence[str], *, user: User | None = None, directory: str = "/") -> str:
    """What a program writes; it is killed where we are interrupted. LoadFailed."""
    with ExitStack() as undo:
        with signals_held():  # one that has been started is known, and ends
            process = undo.enter_context(
                start(command, output=subprocess.PIPE, directory=directory, user=user)
            )
            undo.callback(process.kill)
        try:
            told, errors = process.communicate(timeout=RUN_S)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"{command[0]} does not end") from None
    if process.returncode:
        raise LoadFailed(f"{command[0]} failed: {(errors or told).strip()}")
    return told


def children_cpu_s() -> float:
    """Seconds of CPU of all children of ours that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        port: int = sock.getsockname()[1]
        return port


def directory(undo: ExitStack, user: User | None = None) -> str:
    """A temporary directory that `user` may write in; removed with `undo`."""
    made = undo.enter_context(tempfile.TemporaryDirectory(prefix="tradechat-compare-"))
    if user is not None and user.uid != os.geteuid():
        os.chown(made, user.uid, user.gid)
    return made


class Daemon:
    """A server; ended by `close`. LoadFailed where it does not start."""

    def __init__(
        self,
        command: Sequence[str],
        directory: str,
        is_ready: Callable[[], bool],
        *,
        stop: signal.Signals = signal.SIGTERM,
        user: User | None = None,
    ) -> None:
        """directory: that it is started in, and that its output goes to. stop: the signal that ends
        it quickly and in order."""
        self._name = Path(command[0]).name
        self._log = Path(directory) / "output"
        self._stop = stop
        with ExitStack() as undo:
            with signals_held(), self._log.open("w") as log:
                self._process = start(command, output=log.fileno(), directory=directory, user=user)
                undo.callback(self.close)
            deadline = time.monotonic() + START_S
            while not is_ready():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = "\n".join(self._log.read_text().splitlines()[-_TAIL:])
                    raise LoadFailed(f"{self._name} does not start: {said}")
                time.sleep(_ASK_S)
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu(self) -> CpuTime:
        """What its processes have used so far, those included that have ended."""
        return cpu_of_server(self.pid)

    def close(self) -> None:
        """In order; killed where it does not end."""
        end(self._process, self._stop)

"""The server that is measured or broken: one of the program's own, or one that is named."""

import asyncio
import ctypes
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import posix_ipc

from bench.lab.cli import BenchFailed
from bench.lab.process import (
    CpuTime,
    cpu_of_server,
    family_of,
    shared_memory_of,
    signals_held,
    started,
)
from libproto.messages import MIN_ITERATIONS

SERVER: Final = f"{__name__.partition('bench.')[0]}server"
"""The server's package: it is beside bench, in a checkout at the top and installed in tradechat."""
START_S: Final = 30.0  # the longest that a server may take to serve
_STOP_S: Final = 30.0

_INSPECT_S: Final = 20.0
_END_S: Final = 30.0
_ERRORS_MAX: Final = 10
_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_SWEEP: Final = """\
read -r _ && exit
while stat=$(cat "/proc/$2/stat" 2>/dev/null); do
    case "${stat##*) }" in Z*) break ;; esac # it has ended, and nobody waits for it
    sleep 0.1
done
rm -rf "$1"
"""
_PORT_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT: Final = 10_000
_numbers = itertools.count()  # of servers, which have a name each


def steady_port() -> int:
    """A port that is free, and that no outgoing connection gets meanwhile: a server can be started
    on it again and again, whoever retries to connect to it."""
    for port in range(int(_PORT_RANGE.read_text().split()[0]) - 1 - os.getpid() % 1000, 0, -7):
        if port < _LOWEST_PORT:
            break
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerFailed(f"no port is free below those of {_PORT_RANGE}")


def _follow_parent() -> None:
    """SIGTERM when the program that starts this process has ended, however it did."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class _Sweeper:
    """Removes a server's directory where this program can not: it was killed. A process, which
    does so when the server has ended."""

    def __init__(self, directory: str, server: int) -> None:
        """server: process id."""
        command = ["/bin/sh", "-c", _SWEEP, "sweep", directory, str(server)]
        # In a process group of its own: what ends us is not to end it.
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            command, stdin=subprocess.PIPE, process_group=0
        )

    def end(self) -> None:
        """It is not needed."""
        self._process.communicate(b"\n")


ROOMS_MAX: Final = 1 << 16


class ServerFailed(BenchFailed):
    """The server did not start; the text is what it said."""


class Server:
    """A server in a temporary directory, on a free port; ended by the end of the `with`."""

    def __init__(self, *flags: str) -> None:
        """flags: of tradechat-server; --port among them is taken for the free one."""
        self._directory = tempfile.TemporaryDirectory(prefix="tradechat-bench-")
        self._log = Path(self._directory.name) / "log"
        self._regions: set[str] = set()
        self._command = [
            sys.executable, "-m", SERVER, "--port", "0",
            "--name", f"bench-{os.getpid()}-{next(_numbers)}",
            "--data", f"{self._directory.name}/data", "--log-file", str(self._log),
            "--stats-interval", "0", "--admin-port", "0",
            # A load logs in at once, and opens no rooms by name.
            "--scram-iterations", str(MIN_ITERATIONS), "--numbered-rooms", str(ROOMS_MAX), *flags,
        ]  # fmt: skip
        with ExitStack() as undo:
            undo.callback(self._directory.cleanup)
            with signals_held():
                self._begin()
                undo.callback(self._end)
            assert self._process.stdout is not None
            ready, _, _ = select.select([self._process.stdout], [], [], START_S)
            self.port = self._read_ready(bool(ready))
            self._undo = undo.pop_all()

    def _started(self, *flags: str) -> "subprocess.Popen[str]":
        # In a process group of its own: Ctrl-C is for us, and we end it.
        return subprocess.Popen(  # noqa: S603 - our own server, our own flags
            [*self._command, *flags],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=_follow_parent,
        )

    def _begin(self) -> None:
        self._process = self._started()
        self._sweeper = _Sweeper(self._directory.name, self._process.pid)

    def _read_ready(self, said: bool) -> int:
        """The port in the line that it has said, or has ended without; said: it has done either in
        time. ServerFailed."""
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split() if said else []
        if not words or words[0] != "ready":
            text = self._log.read_text() if self._log.exists() else ""
            raise ServerFailed(text or "the server did not start in time")
        self._regions |= shared_memory_of(self.pid)
        return int(dict(word.split("=") for word in words[1:])["port"])

    @property
    def directory(self) -> str:
        """Its own, which goes with it."""
        return self._directory.name

    @property
    def pid(self) -> int:
        """Process id of its master."""
        return self._process.pid

    def cpu(self) -> CpuTime:
        """What all processes of the server have used so far."""
        return cpu_of_server(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    def _end(self) -> None:
        try:
            self._process.terminate()
            self._process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            pass  # it is killed
        finally:
            self._process.kill()
            self._process.communicate()
            self._sweeper.end()
            for path in self._regions:  # of a server that was killed, and none came after it
                _remove_what_is_left(Path(path))


def _remove_what_is_left(region: Path) -> None:
    """A region, and the segments and queues of its files."""
    for each in (region, *region.parent.glob(f"{region.name}_segments_*")):
        each.unlink(missing_ok=True)
    for number in (0, 1):
        with suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_message_queue(f"/{region.name}_files_{number}")


def _kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL to a server's processes, which are a group; all are gone then. May be repeated."""
    if process.returncode is not None:
        return
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # whoever the master leaves behind is our child then
    os.killpg(process.pid, signal.SIGKILL)  # it is there as long as nobody has waited for it
    process.wait()
    with suppress(ChildProcessError):  # nobody is left of the group
        while True:
            os.waitpid(-process.pid, 0)
    assert process.stdout is not None
    process.stdout.close()


class OwnServer(Server):
    """A server of the script's own, in a temporary directory."""

    def __init__(self, name: str, *flags: str) -> None:
        self.name = name
        super().__init__("--name", name, *flags)

    def ended(self) -> bool:
        return self._process.poll() is not None

    # ---- killed as a whole, and started again on its data

    def crash(self) -> None:
        """SIGKILL to all its processes at one moment; when this returns all are gone."""
        for pid in family_of(self.pid):
            self._regions |= shared_memory_of(pid)
        _kill(self._process)

    def begin_again(self) -> None:
        """Start it again: same data, same port. `await_ready` comes next, or `crash`."""
        assert self._process.stdout is not None
        with signals_held():
            self._process.stdout.close()
            self._sweeper.end()
            self._begin()

    # ---- another one in its place

    def begin_successor(self) -> None:
        """Start another one that takes its place. `await_successor` comes next, or
        `kill_successor`."""
        with signals_held():
            self._successor = self._started("--take-over")
            self._undo.callback(_kill, self._successor)

    def successor_ended(self) -> bool:
        return self._successor.poll() is not None

    @contextmanager
    def successor_stopped(self) -> Iterator[None]:
        """Its master does nothing meanwhile."""
        self._successor.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._successor.send_signal(signal.SIGCONT)

    def kill_successor(self) -> None:
        """SIGKILL to all its processes at one moment; when this returns all are gone."""
        _kill(self._successor)

    async def await_successor(self, before: int = 0) -> None:
        """Until it serves, and the one before has ended with this code. ServerFailed."""
        former, self._process = self._process, self._successor
        self._sweeper.end()
        self._sweeper = _Sweeper(self._directory.name, self.pid)
        await self.await_ready()
        if (code := former.wait(_END_S)) != before:
            raise ServerFailed(f"the server whose place was taken ended with exit code {code}")
        assert former.stdout is not None
        former.stdout.close()

    async def await_ready(self) -> None:
        """ServerFailed."""
        loop, said = asyncio.get_running_loop(), asyncio.Event()
        output = self._process.stdout
        assert output is not None
        loop.add_reader(output, said.set)
        try:
            async with asyncio.timeout(START_S):
                await said.wait()
        except TimeoutError:
            pass  # and nothing is said then
        finally:
            loop.remove_reader(output)
        self._read_ready(said.is_set())

    def wait(self) -> int:
        """Until it has ended; its exit code. subprocess.TimeoutExpired."""
        return self._process.wait(_END_S)

    def errors(self) -> list[str]:
        """The newest errors that it has logged."""
        errors = [line for line in self._lines() if json.loads(line)["level"] == "error"]
        return errors[-_ERRORS_MAX:]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of this event in its log."""
        return [line for text in self._lines() if (line := json.loads(text))["event"] == event]

    def _lines(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def files_left(self) -> list[str]:
        """What is in its directory beside its data and its log."""
        folder = Path(self._directory.name)
        return sorted(str(path) for path in folder.iterdir() if path.name not in ("data", "log"))


class Target:
    """Where the server is, and which process is its master."""

    def __init__(
        self, host: str, port: int, pid: int, name: str, own: OwnServer | None = None
    ) -> None:
        """pid: of the master, 0 if not known. name: of its region; "" is by its port."""
        self.host, self.port, self.pid = host, port, pid
        self.own = own
        self._name = name
        self._started = started(pid) if pid else 0

    def ended(self) -> str:
        """How it has ended, in words; "" while it runs, as far as can be seen."""
        if not self.pid or (self._started and started(self.pid) == self._started):
            return ""
        return f"the server has ended{f', exit code {self.own.wait()}' if self.own else ''}"

    def repairs(self) -> dict[str, Any]:
        """The server's own count of its repairs; empty where it cannot be read."""
        named = ("--name", self._name) if self._name else ("--port", str(self.port))
        command = [
            *(sys.executable, "-m", f"{SERVER}.admin.cli", "inspect", "repairs"),
            *(*named, "--json"),
        ]
        told = subprocess.run(  # noqa: S603 - our own program
            command, stdout=subprocess.PIPE, timeout=_INSPECT_S, check=False
        )
        if told.returncode:
            return {}
        found: dict[str, Any] = json.loads(told.stdout)
        return {name: value for name, value in found.items() if name not in ("segment", "index")}

"""A real server for a test: its own port, region name and data directory, and nothing left of it.

`start` runs `python -m server` and waits for its `ready` line; the `server` fixture hands out
such servers and stops them.
"""

import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

import server as server_package
from libproto.messages import MIN_ITERATIONS
from server.files.channel import remove_queues
from server.files.segments import remove_pools
from tests.helpers import leaks

START_S = 60.0
STOP_S = 60.0
PATIENCE_S = 3600
"""How long a process may stand still before its master kills it: a test that stops one may take
longer than the default, on a slow machine. Tests of just that pass a flag of their own."""
ROOT = Path(__file__).resolve().parents[2]


class RunningServer:
    """A server process that serves on `host`, `port`."""

    program: Sequence[str] = (sys.executable, "-m", server_package.__name__)
    folder = ROOT
    """Its working directory."""

    def __init__(self, data: Path, *flags: str, workers: int = 2, **environment: str) -> None:
        """flags: further ones of tradechat-server. environment: further variables."""
        self.host = "127.0.0.1"
        self.name = leaks.region_name()
        self.data = data
        self.log = data.parent / f"{self.name}.log"
        command = [
            *self.program, "--port", "0", "--name", self.name,
            "--data", str(data), "--workers", str(workers), "--log-file", str(self.log),
            "--log-format", "json", "--segment-size", "1", "--worker-timeout", str(PATIENCE_S),
            *("--lag-limit", "0"),  # how fast a machine is must not decide what is refused
            *(() if "--scram-iterations" in flags else ("--scram-iterations", str(MIN_ITERATIONS))),
            *flags,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "TRADECHAT_CHECK_LOCKS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = self._await_ready()

    def _await_ready(self) -> int:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if ready else ""
        found = re.fullmatch(r"ready host=\S+ port=(\d+) workers=\d+ pid=(\d+)\n", line)
        if not found:
            self.process.kill()
            _, error = self.process.communicate()
            raise AssertionError(f"the server did not start: {line!r}\n{error}\n{self.log_text()}")
        return int(found[1])

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        """A bare socket to it."""
        return socket.create_connection((self.host, self.port), timeout=timeout_s)

    def children(self) -> dict[int, str]:
        """Its processes but the master, by id: what they are (`worker 0`, `journal`)."""
        if self.process.returncode is not None:
            return {}
        pid = self.process.pid
        found = {}
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            with suppress(FileNotFoundError, ProcessLookupError):
                title = Path(f"/proc/{child}/cmdline").read_bytes().strip(b"\0").decode()
                found[child] = title.removeprefix("tradechat: ")
        return found

    def worker_pids(self) -> list[int]:
        """Process ids of its workers."""
        return [pid for pid, what in self.children().items() if what.startswith("worker")]

    def journal_pid(self) -> int:
        """Process id of its journal; 0 where there is none just now."""
        return next((pid for pid, what in self.children().items() if what == "journal"), 0)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Until it has ended; its exit code."""
        try:
            self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode

    def stop(self) -> int:
        """End it in order; its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def crash(self) -> None:
        """kill -9 of every process of it."""
        pids = [self.process.pid, *self.children()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()
        for pid in pids[1:]:
            leaks.wait_gone(pid)
        # A snapshot dies with its journal, whose name it may have still, and is ours then.
        for process in leaks.descendants().values():
            if process.parent == os.getpid() and process.name.startswith(_MAKE_SNAPSHOTS):
                leaks.wait_gone(process.pid)
        # The next server of this name would replace it; these have a name each.
        Path(f"/dev/shm/{self.name}").unlink(missing_ok=True)  # noqa: S108 - the region's place
        remove_pools(self.name)
        remove_queues(self.name)

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


_MAKE_SNAPSHOTS = ("tradechat: snap", "tradechat: jour")
StartServer = Callable[..., RunningServer]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers, as RunningServer does; each is stopped at the end of the test and must end
    with exit code 0, if the test has not ended it before."""
    servers: list[RunningServer] = []

    def start(*flags: str, workers: int = 2, **environment: str) -> RunningServer:
        made = RunningServer(
            tmp_path / f"data{len(servers)}", *flags, workers=workers, **environment
        )
        servers.append(made)
        return made

    yield start
    for each in servers:
        if each.process.poll() is None:
            assert each.stop() == 0, each.log_text()


@pytest.fixture
def server(start_server: StartServer) -> RunningServer:
    """A server of two workers."""
    return start_server()


_ports = itertools.count(64 * os.getpid())  # other processes of the run look elsewhere


def lasting_port() -> int:
    """A port that stays free while nobody listens on it, for a server that comes or comes again.

    It is below those that the kernel gives to whoever asks for any, or connects: one of these may
    be another's a moment later.
    """
    given = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    end = max(int(given[0]), 2048)  # half of it, so that none is one of root's
    for number in _ports:
        port = end // 2 + number % (end // 2)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Poll until the condition holds; AssertionError past the deadline, which no machine that works
    comes near: how fast it is must not decide what a test says."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        select.select([], [], [], 0.005)

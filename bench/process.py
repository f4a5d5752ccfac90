"""A server of the benchmark's own, and the CPU time that its processes take."""

import itertools
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

START_S = 30.0
_STOP_S = 30.0
_numbers = itertools.count()  # of servers, which have a name each
_TICKS = os.sysconf("SC_CLK_TCK")


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
    try:
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        children = []
    return cpu_of([master, *map(int, children)])


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


class ServerFailed(Exception):
    """The server did not start; the text is what it said."""


class Server:
    """A server in a temporary directory, on a free port; ended by the end of the `with`."""

    def __init__(self, *flags: str) -> None:
        """flags: of tradechat-server; --port among them is taken for the free one."""
        self._directory = tempfile.TemporaryDirectory(prefix="tradechat-bench-")
        self._log = Path(self._directory.name) / "log"
        self._command = [
            sys.executable, "-m", "server", "--port", "0",
            "--name", f"bench-{os.getpid()}-{next(_numbers)}",
            "--data", f"{self._directory.name}/data", "--log-file", str(self._log),
            "--stats-interval", "0", *flags,
        ]  # fmt: skip
        with ExitStack() as undo:
            undo.callback(self._directory.cleanup)
            with signals_held():
                self._process = self._begun()
                undo.callback(self._end)
            assert self._process.stdout is not None
            ready, _, _ = select.select([self._process.stdout], [], [], START_S)
            self.port = self._read_ready(bool(ready))
            self._undo = undo.pop_all()

    def _begun(self) -> "subprocess.Popen[str]":
        # In a process group of its own: Ctrl-C is for us, and we end it.
        return subprocess.Popen(  # noqa: S603 - our own server, our own flags
            self._command, stdout=subprocess.PIPE, text=True, process_group=0
        )

    def _read_ready(self, said: bool) -> int:
        """The port in the line that it has said, or has ended without; said: it has done either in
        time. ServerFailed."""
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split() if said else []
        if not words or words[0] != "ready":
            text = self._log.read_text() if self._log.exists() else ""
            raise ServerFailed(text or "the server did not start in time")
        return int(dict(word.split("=") for word in words[1:])["port"])

    def cpu(self) -> CpuTime:
        """What all processes of the server have used so far."""
        return cpu_of_server(self._process.pid)

    def __enter__(self) -> "Server":
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

"""The server in a process forked from this one, so that it can be what no program that is started
can be in a test: another user, with limits that would keep an interpreter from starting.
"""

import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from server.config import Configuration, Settings
from server.master.serve import serve
from tests.helpers import leaks

NOBODY = 65534


class ForkedServer:
    """A server with these settings; `before` is called in its process first. Used with `with`, it
    is told to stop at the end, and waited for."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        before: Callable[[], object] = lambda: None,
        *,
        take_over: bool = False,
    ) -> None:
        self.settings = settings
        self._take_over = take_over
        self._out, self._err = directory / "stdout", directory / "stderr"
        self.code: int | None = None
        for path in (self._out, self._err):
            path.touch()
        with warnings.catch_warnings():
            # Of a fork beside other threads. The only one is faulthandler's watchdog: no Python.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            self._become(before)
        self._pidfd = os.pidfd_open(self.pid)

    def _become(self, before: Callable[[], object]) -> None:
        code = 70
        try:
            os.setsid()
            for fd, path in ((1, self._out), (2, self._err)):
                opened = os.open(path, os.O_WRONLY | os.O_APPEND)
                os.dup2(opened, fd)
                os.close(opened)
            before()
            configuration = Configuration(self.settings, lambda: self.settings)
            code = serve(self.settings, configuration, take_over=self._take_over)
        except BaseException:  # noqa: BLE001 - told to whoever reads standard error
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def error(self) -> str:
        return self._err.read_text()

    def await_ready(self, timeout_s: float = 60.0) -> None:
        """Until it serves; AssertionError where it ends before."""
        deadline = time.monotonic() + timeout_s
        while not self.output.startswith("ready "):
            assert not self.ended(0.01), self.error
            assert time.monotonic() < deadline, self.error

    def ended(self, timeout_s: float) -> bool:
        """Wait so long for its end."""
        if self.code is None and select.select([self._pidfd], [], [], timeout_s)[0]:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code is not None

    def stop(self, timeout_s: float = 60.0) -> int:
        """Tell it to stop, and wait: its exit code."""
        if self.code is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            assert self.ended(timeout_s), self.error
        assert self.code is not None
        return self.code

    def __enter__(self) -> "ForkedServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            if self.code is None:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            os.close(self._pidfd)


def children_of(pid: int) -> dict[int, str]:
    """The processes that this one has forked, by id: what they are (`worker 0`, `journal`)."""
    found = {}
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        with suppress(FileNotFoundError, ProcessLookupError):
            title = Path(f"/proc/{child}/cmdline").read_bytes().strip(b"\0").decode()
            found[child] = title.removeprefix("tradechat: ")
    return found


def small_settings(data: Path, workers: int = 2, graceful_timeout: float = 10.0) -> Settings:
    """Of a small server on a free port, with a name of its own and no admin port."""
    return Settings(
        port=0,
        admin_port=0,
        name=leaks.region_name(),
        data=data,
        workers=workers,
        accounts=64,
        rooms=16,
        clients=64,
        sessions=64,
        max_connections=64,
        txn_ring=64,
        event_ring=64,
        graceful_timeout=graceful_timeout,
        log_format="json",
        stats_interval=0,
    )

"""The master: makes what the workers share, forks them, and supervises. No event loop, no client
I/O, and no hand in the state that its children may damage.

Signal handlers only queue; the loop in `Master.supervise` acts. A child's end is seen through its
pidfd. Until a worker's locks can be given back by a repair, the death of one ends the server in
order: nobody may go on over locks that nobody can give back.
"""

import fcntl
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import setproctitle

import liblog
from libnet.errors import AddressInUse, NetError
from libnet.sockets import listen, probe_port, tune
from libnet.wakeup import Wakeup
from server import stats, worker
from server.config import Settings
from server.state.layout import Capacities
from server.state.region import Region, RegionError
from server.state.state import initialise

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_NOT_STARTED: Final = 3
EXIT_WORKER_DIED: Final = 4
EXIT_INTERRUPTED: Final = 130  # a second SIGINT

START_S: Final = 30.0  # the longest that workers may take to serve
KILL_MARGIN_S: Final = 2.0  # after the graceful timeout
USER_TIMEOUT_MS: Final = 30_000  # unacknowledged output of a connection

log = liblog.get("master")


class CannotStart(Exception):
    """The server cannot start; the text says why and what to do."""


@dataclass(slots=True)
class Child:
    slot: int
    pid: int
    pidfd: int


def capacities(settings: Settings) -> Capacities:
    """The region's capacities, from the settings."""
    return Capacities(
        workers=settings.workers,
        accounts=settings.accounts,
        rooms=settings.rooms,
        clients=settings.clients,
        sessions=settings.sessions,
        txn_ring=settings.txn_ring,
        event_ring=settings.event_ring,
        max_message=settings.max_message,
        account_locks=settings.account_locks or settings.accounts,
    )


def lock_data(data: Path) -> int:
    """Take the data directory for this server: a descriptor whose lock every child inherits.
    CannotStart where another server has it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        fd = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotStart(
            f"the data directory {data} cannot be used: {os.strerror(error.errno or 0)}; "
            "choose another with --data"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise CannotStart(
            f"the data directory {data} is in use by a running server: stop it, or choose another "
            "with --data"
        ) from error
    return fd


def listeners(settings: Settings) -> list[socket.socket]:
    """One listening socket per worker, all on one port. CannotStart."""
    try:
        if settings.port:
            probe_port(settings.host, settings.port)
        first = listen(settings.host, settings.port)
        port = first.getsockname()[1]
        rest = [listen(settings.host, port) for _ in range(settings.workers - 1)]
    except AddressInUse as error:
        raise CannotStart(
            f"port {settings.port} of {settings.host} is in use: stop what listens there, or "
            "choose another with --port"
        ) from error
    except NetError as error:
        raise CannotStart(f"cannot listen on {settings.host}: {error}; see --host") from error
    for sock in (first, *rest):
        tune(sock, USER_TIMEOUT_MS)  # inherited by what it accepts
    return [first, *rest]


class Master:
    """The supervisor of one server."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Final = settings
        self._lock = lock_data(settings.data)
        self._listeners = listeners(settings)
        self.port: Final = self._listeners[0].getsockname()[1]
        try:
            self.region: Final = Region.create(
                settings.name_on(self.port), capacities(settings), time.time_ns() // 1000
            )
        except RegionError as error:
            raise CannotStart(str(error)) from error
        initialise(self.region)
        self._wakeups = [Wakeup() for _ in range(settings.workers)]
        self._ready, self._ready_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._signals, self._signals_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._children: dict[int, Child] = {}  # by pidfd
        self._poll = select.poll()
        self._stats = stats.Stats(self.region)
        self._exit_code = EXIT_OK

    # ---- children

    def _fork(self, slot: int) -> None:
        master = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become_worker(slot, master)
        child = Child(slot, pid, os.pidfd_open(pid))
        self._children[child.pidfd] = child
        self._poll.register(child.pidfd, select.POLLIN)

    def _become_worker(self, slot: int, master: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            for fd in (self._ready, self._signals, self._signals_write, *self._children):
                os.close(fd)
            inherited = worker.Inherited(
                self.settings, self.region, self._listeners, self._wakeups, self._ready_write
            )
            worker.run(inherited, slot, master)
        finally:
            os._exit(worker.EXIT_FAILED)  # whatever happens, a child never runs the master's code

    def _reap(self, pidfd: int) -> tuple[Child, str]:
        """The child that has ended, and how; "" where in order."""
        child = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        _, status = os.waitpid(child.pid, 0)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return child, f"killed by {signal.Signals(-code).name}"
        return child, f"ended with exit code {code}" if code else ""

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children.values():
            signal.pidfd_send_signal(child.pidfd, number)

    # ---- the server's life

    def run(self) -> int:
        """Start, serve until told to stop, end. Answers the exit code."""
        signal.set_wakeup_fd(self._signals_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self._poll.register(self._signals, select.POLLIN)
        self._poll.register(self._ready, select.POLLIN)
        try:
            for slot in range(self.settings.workers):
                self._fork(slot)
            if self._await_ready():
                self._announce()
                self._supervise()
            self._stop()
        finally:
            self._signal_all(signal.SIGKILL)
            for pidfd in tuple(self._children):
                self._reap(pidfd)
            self.region.unlink()
        return self._exit_code

    def _await_ready(self) -> bool:
        """Until all workers serve. False where one cannot, or a signal came before."""
        waiting, deadline = set(range(self.settings.workers)), time.monotonic() + START_S
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                log.error("workers do not start in time", workers=sorted(waiting))
                self._exit_code = EXIT_NOT_STARTED
                return False
            for fd, _ in self._poll.poll(left * 1000):
                if fd == self._ready:
                    waiting.difference_update(os.read(fd, 64))
                elif fd == self._signals:
                    return False
                else:
                    child, how = self._reap(fd)
                    log.error("worker cannot start", worker=child.slot, how=how or "it ended")
                    self._exit_code = EXIT_NOT_STARTED
                    return False
        return True

    def _announce(self) -> None:
        settings = self.settings
        header = self.region.layout["header"]
        self.region.words[header.at(0, "state")] = 1
        print(  # noqa: T201 - the one line on standard output, for scripts
            f"ready host={settings.host} port={self.port} workers={settings.workers} "
            f"pid={os.getpid()}",
            flush=True,
        )
        log.info(
            "serving",
            host=settings.host,
            port=self.port,
            workers=settings.workers,
            region=self.region.name,
            region_mib=round(self.region.layout.size / 2**20, 1),
            registration=settings.registration,
        )

    def _supervise(self) -> None:
        """Until a signal or a worker's death."""
        interval = self.settings.stats_interval
        due = time.monotonic() + interval
        while True:
            wait_ms = max(0.0, due - time.monotonic()) * 1000 if interval else None
            for fd, _ in self._poll.poll(wait_ms):
                if fd == self._signals:
                    numbers = os.read(fd, 64)
                    log.info("stopping", signal=signal.Signals(numbers[0]).name)
                    return
                if fd == self._ready:
                    continue
                child, how = self._reap(fd)
                log.error(
                    "a worker has died; it may have held locks, so the server stops: start it "
                    "again",
                    worker=child.slot,
                    worker_pid=child.pid,
                    how=how or "ended by itself",
                )
                self._exit_code = EXIT_WORKER_DIED
                return
            if interval and time.monotonic() >= due:
                due += interval
                log.info("stats", **self._stats.line(time.monotonic()))

    def _stop(self) -> None:
        """In order: workers answer, flush and end; who does not is killed."""
        words, header = self.region.words, self.region.layout["header"]
        words[header.at(0, "state")] = 2
        for sock in self._listeners:
            sock.close()
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self.settings.graceful_timeout + KILL_MARGIN_S
        while self._children:
            left = deadline - time.monotonic()
            if left <= 0:
                slots = sorted(child.slot for child in self._children.values())
                log.warning("workers do not end in time and are killed", workers=slots)
                self._signal_all(signal.SIGKILL)
                return
            for fd, _ in self._poll.poll(left * 1000):
                if fd == self._signals:
                    if signal.SIGINT in os.read(fd, 64):
                        log.warning("interrupted again: ending at once")
                        self._exit_code = EXIT_INTERRUPTED
                        return
                elif fd != self._ready:
                    child, how = self._reap(fd)
                    if how:
                        log.error("worker fails at the stop", worker=child.slot, how=how)
        log.info("stopped")


def serve(settings: Settings) -> int:
    """Run a server; answers its exit code."""
    setproctitle.setproctitle("tradechat: master")
    liblog.configure(settings.log_level, settings.log_format, settings.log_file)
    needed = worker.open_files_needed(settings)
    allowed = worker.raise_open_files(needed)
    if allowed < needed:
        log.warning(
            "fewer open files are allowed than max_connections needs: connections over it will be "
            "refused by the system; raise `ulimit -n` or lower --max-connections",
            allowed=allowed,
            needed=needed,
        )
    try:
        master = Master(settings)
    except CannotStart as error:
        log.error("cannot start", reason=str(error))
        return EXIT_NOT_STARTED
    return master.run()

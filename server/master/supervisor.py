"""The master: makes what the workers share, forks them, and supervises. No event loop, no client
I/O, and no hand in the state that its children may damage.

Signal handlers only queue; the loop in `_supervise` acts. A child's end is seen through its pidfd.

A semaphore has no owner, so what a dead worker held cannot be asked of it. `_recover` therefore
stops the others for a moment: it raises the recovery word, and each acknowledges as soon as it
holds nothing. What is not free then was the dead one's. A child of the master repairs the region,
so that damage in it cannot take the master down; the word is lowered, and the slot filled again.

With a journal a new region is filled from disk by another short-lived child, and the journal
process serves before the first worker and ends after the last. It holds no lock: its death is no
recovery. A region that is found damaged is thrown away, and the server begins anew from disk.
"""

import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final, NoReturn

import setproctitle

import liblog
from libnet.errors import AddressInUse, NetError
from libnet.sockets import listen, probe_port, tune
from libnet.wakeup import Wakeup
from server.archive import process as archive
from server.child import STOP_SIGNALS
from server.config import WORKERS_MAX, Settings
from server.core import check, recovery, stats
from server.core.state import State, initialise
from server.journal import process as journal
from server.journal.directory import DataDirectory, DirectoryUnusable, lock_data
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.region.layout import Capacities
from server.region.region import Region, RegionError
from server.worker import process as worker
from server.worker.fatal import EXIT_FAILED

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_NOT_STARTED: Final = 3
EXIT_DAMAGED: Final = 5
EXIT_JOURNAL: Final = 6  # the journal cannot be written
EXIT_INTERRUPTED: Final = 130  # a second SIGINT

START_S: Final = 30.0  # the longest that workers may take to serve
KILL_MARGIN_S: Final = 2.0  # after the graceful timeout
ACKNOWLEDGE_S: Final = 1.0  # who has not acknowledged a recovery by then is killed
REPAIR_S: Final = 10.0  # a repair that takes longer is killed and started over
REPAIRS_MAX: Final = 5  # tries
KEEPER_TRIES: Final = 5  # to start or to end a journal or archive process that is killed
WATCH_S: Final = 0.25  # how often the master looks at the workers' alarms and beats
BACK_OFF_S: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # before a slot is filled again
ALONE_S: Final = 0.2  # the longest back-off while no worker is there at all
STEADY_S: Final = 0.5  # a worker that served so long was no failure: its slot is filled at once
PROBLEMS_MAX: Final = 20  # that are logged
REBUILDS_MAX: Final = 3  # times that a server begins anew after damage
# Their places among the slots: beyond the workers'.
JOURNAL: Final = journal.READY
ARCHIVE: Final = archive.READY
LOADER: Final = ARCHIVE - 1
KEEPERS: Final = (JOURNAL, ARCHIVE)  # they keep the state on disk
_NAMES: Final = {JOURNAL: "journal", ARCHIVE: "archive", LOADER: "loader"}
assert WORKERS_MAX <= LOADER
_REPAIRED, _BROKEN = 0, 1  # exit codes of the repair
USER_TIMEOUT_MS: Final = 30_000  # unacknowledged output of a connection

log = liblog.get("master")


class CannotStart(Exception):
    """The server cannot start; the text says why and what to do."""


@dataclass(slots=True)
class Child:
    slot: int  # of a worker; or JOURNAL, ARCHIVE, LOADER
    pid: int
    pidfd: int
    serving: float = math.inf  # since when: time.monotonic()
    beat: int = 0  # as last seen
    beat_seen: float = 0.0  # when it changed

    @property
    def name(self) -> str:
        return _NAMES.get(self.slot, f"worker {self.slot}")


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


def _how(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}" if code else "it ended"


def _datagram_pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in pair:
        sock.setblocking(False)
    return pair


class Master:
    """The supervisor of one server."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Final = settings
        try:
            self._lock = lock_data(settings.data)
        except DirectoryUnusable as error:
            raise CannotStart(str(error)) from error
        self._listeners = listeners(settings)
        self.port: Final = self._listeners[0].getsockname()[1]
        try:
            self.region: Final = Region.create(
                settings.name_on(self.port), capacities(settings), time.time_ns() // 1000
            )
        except RegionError as error:
            raise CannotStart(str(error)) from error
        initialise(self.region)
        self._data: DataDirectory | None = None
        if settings.durability != "none":
            self._data = self._open_data(DataDirectory(settings.data))
        self._wakeups = [Wakeup() for _ in range(settings.workers)]
        self._journal_wakeup = Wakeup()
        # From the workers to the archive: both ends stay, whoever dies.
        self._questions = [_datagram_pair() for _ in range(settings.workers if self._data else 0)]
        # At its end when nobody has its other end any more: no worker, and not the master either.
        self._workers_end, self._workers_here = os.pipe2(os.O_CLOEXEC)
        self._ready, self._ready_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._signals, self._signals_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._children: dict[int, Child] = {}  # by pidfd
        self._vacant: dict[int, float] = {}  # by slot: when it is filled again, time.monotonic()
        self._failures = dict.fromkeys((*range(settings.workers), *KEEPERS), 0)
        self._epoch = 0  # of recoveries: no number is used twice
        self._signalled: list[signal.Signals] = []  # what came, in order
        self._draining = False
        self._finishes = 0
        self._poll = select.poll()
        self._stats = stats.Stats(self.region)
        self._exit_code = EXIT_OK

    def _open_data(self, data: DataDirectory) -> DataDirectory:
        """The data directory, in use for this region. CannotStart."""
        region = self.region
        at = region.layout["header"].at(0, "salt_secret") * 8
        try:
            secret = data.open(Disk(), bytes(region.bytes[at : at + 32]))
        except (JournalError, OSError) as error:
            region.unlink()
            raise CannotStart(f"the data directory {data.path} cannot be used: {error}") from error
        region.bytes[at : at + 32] = secret
        return data

    # ---- children

    def _workers(self) -> list[Child]:
        return [child for child in self._children.values() if child.slot < LOADER]

    def _fork(self, slot: int) -> Child:
        master = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal to stop that comes before the child can act on it is kept for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._become(slot, master)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        child = Child(slot, pid, os.pidfd_open(pid), beat_seen=time.monotonic())
        self._children[child.pidfd] = child
        self._poll.register(child.pidfd, select.POLLIN)
        return child

    def _become(self, slot: int, master: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            for fd in (self._ready, self._signals, self._signals_write, *self._children):
                os.close(fd)
            if slot == LOADER:
                self._become_loader()
            elif slot == JOURNAL:
                self._become_journal(master)
            elif slot == ARCHIVE:
                self._become_archive(master)
            os.close(self._workers_end)
            inherited = worker.Inherited(
                self.settings,
                self.region,
                self._listeners,
                self._wakeups,
                self._ready_write,
                self._journal_wakeup,
                self._questions[slot][0] if self._questions else None,
            )
            worker.run(inherited, slot, master)
        finally:
            os._exit(EXIT_FAILED)  # whatever happens, a child never runs the master's code

    def _become_journal(self, master: int) -> NoReturn:
        assert self._data is not None
        if self._workers_here >= 0:
            os.close(self._workers_here)
        for sock in self._listeners:
            sock.close()
        inherited = journal.Inherited(
            self.settings,
            self.region,
            self._data,
            self._wakeups,
            self._journal_wakeup,
            self._ready_write,
            self._workers_end,
        )
        journal.run(inherited, master)

    def _become_archive(self, master: int) -> NoReturn:
        assert self._data is not None
        if self._workers_here >= 0:
            os.close(self._workers_here)
        for sock in self._listeners:
            sock.close()
        inherited = archive.Inherited(
            self.settings,
            self.region,
            self._data,
            [theirs for _, theirs in self._questions],
            self._ready_write,
            self._workers_end,
        )
        archive.run(inherited, master)

    def _become_loader(self) -> NoReturn:
        code = EXIT_NOT_STARTED
        try:
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            setproctitle.setproctitle("tradechat: loader")
            assert self._data is not None
            journal.restore(self.region, self._data)
            code = EXIT_OK
        except (JournalError, OSError) as error:
            log.error("cannot start", reason=str(error))
        except BaseException as error:
            log.error("cannot start: loading fails", exc_info=error)
        finally:
            os._exit(code)

    def _reap(self, pidfd: int) -> tuple[Child, int]:
        """The child that has ended, and its exit code; -N where signal N killed it."""
        child = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        _, status = os.waitpid(child.pid, 0)
        os.close(pidfd)
        return child, os.waitstatus_to_exitcode(status)

    @staticmethod
    def _signal(children: Collection[Child], number: signal.Signals) -> None:
        for child in children:
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
            if self._start():
                self._announce()
                self._supervise()
            if self._signalled:
                log.info("stopping", signal=self._signalled[0].name)
            if self._exit_code != EXIT_DAMAGED:
                self._stop()
        finally:
            self._signal(self._children.values(), signal.SIGKILL)
            for pidfd in tuple(self._children):
                self._reap(pidfd)
            self.region.unlink()
            self._close()
        return self._exit_code

    def _close(self) -> None:
        """What is not needed any more; the lock of the data directory last."""
        for sock in self._listeners:
            sock.close()
        for wakeup in (*self._wakeups, self._journal_wakeup):
            wakeup.close()
        for pair in self._questions:
            for sock in pair:
                sock.close()
        signal.set_wakeup_fd(-1)
        if self._workers_here >= 0:
            os.close(self._workers_here)
        ends = (self._ready, self._ready_write, self._signals, self._signals_write)
        for fd in (*ends, self._workers_end, self._lock):
            os.close(fd)

    def _start(self) -> bool:
        """Until all serve. False where one cannot, or a signal came before."""
        if self._data is not None:
            if not self._load():
                return False
            for slot in KEEPERS:
                self._fork(slot)
            if not self._await_ready(set(KEEPERS), math.inf):  # as much as there is on disk
                return False
        slots = range(self.settings.workers)
        for slot in slots:
            self._fork(slot)
        return self._await_ready(set(slots), START_S)

    def _load(self) -> bool:
        """The state on disk into the region, by a child: however long it takes."""
        child = self._fork(LOADER)
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._signals:
                    self._signalled += map(signal.Signals, os.read(fd, 64))
                    return False
                if fd == child.pidfd:
                    _, code = self._reap(fd)
                    if code:
                        self._exit_code = EXIT_NOT_STARTED
                    return not code

    def _await_ready(self, waiting: set[int], seconds: float) -> bool:
        """Until those in these slots serve, for so long. False where one cannot, or a signal came
        before."""
        deadline, tries = time.monotonic() + seconds, 0
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                log.error("processes do not start in time", slots=sorted(waiting))
                self._exit_code = EXIT_NOT_STARTED
                return False
            for fd, _ in self._poll.poll(min(left, START_S) * 1000):
                if fd == self._ready:
                    slots = os.read(fd, 64)
                    waiting.difference_update(slots)
                    for slot in slots:
                        self._serves(slot)
                elif fd == self._signals:
                    self._signalled += map(signal.Signals, os.read(fd, 64))
                    return False
                else:
                    child, code = self._reap(fd)
                    if child.slot in KEEPERS and code < 0 and tries < KEEPER_TRIES:
                        log.warning("a process was killed, and begins again", process=child.name)
                        tries += 1
                        self._fork(child.slot)
                        continue
                    log.error("a process cannot start", process=child.name, how=_how(code))
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
            durability=settings.durability,
        )

    def _supervise(self) -> None:
        """Until a signal, or damage that cannot be repaired."""
        interval = self.settings.stats_interval
        due = time.monotonic() + interval
        while not self._signalled and not self._exit_code:
            now = time.monotonic()
            dues = [now + WATCH_S, *self._vacant.values()]
            if interval:
                dues.append(due)
            dead = self._wait(max(0.0, min(dues) - now))
            if (self._watch() or dead) and not self._recover(dead):
                return
            self._fill()
            if interval and time.monotonic() >= due:
                due += interval
                log.info("stats", **self._stats.line(time.monotonic()))

    def _wait(self, seconds: float) -> list[int]:
        """Wait for something to happen. Takes note of signals; answers the slots of the workers
        that have ended, which are reaped."""
        dead = []
        for fd, _ in self._poll.poll(seconds * 1000):
            if fd == self._signals:
                self._signalled += map(signal.Signals, os.read(fd, 64))
            elif fd == self._ready:
                for slot in os.read(fd, 64):
                    self._serves(slot)
            else:
                child, code = self._reap(fd)
                if self._draining and not code:
                    continue  # in order: it has ended its sessions and holds nothing
                log.warning(
                    "process has died",
                    process=child.name,
                    process_pid=child.pid,
                    how=_how(code),
                )
                if child.slot not in KEEPERS:
                    dead.append(child.slot)
                elif child.slot == JOURNAL and code in journal.FINAL:  # it has said why
                    log.error("the server stops, as it can make nothing durable any more")
                    self._exit_code = EXIT_JOURNAL
                    continue
                self._vacate(child)
        return dead

    def _serves(self, slot: int) -> None:
        """A worker says that it serves: nobody need accept for it any more."""
        for child in self._children.values():
            if child.slot == slot:
                child.serving = time.monotonic()
        if slot < LOADER:
            self._host(slot, None)

    def _vacate(self, child: Child) -> None:
        """Its slot is filled again: at once, or after a back-off where it fails in a row."""
        now = time.monotonic()
        failures = 0 if now - child.serving > STEADY_S else self._failures[child.slot] + 1
        self._failures[child.slot] = failures
        delay = BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
        alone = child.slot == JOURNAL or not self._workers()
        self._vacant[child.slot] = now + (min(delay, ALONE_S) if alone else delay)

    def _word(self, slot: int, field: str) -> int:
        if slot in KEEPERS:
            segment = "journal" if slot == JOURNAL else "archive"
            return self.region.layout[segment].at(0, field)
        return self.region.layout["workers"].at(slot, field)

    def _watch(self) -> bool:
        """Kill workers that stand still. True where one stands inside a lock: nobody has died, and
        a recovery finds out who it is."""
        words, now = self.region.words, time.monotonic()
        alarm = self.region.layout["header"].at(0, "alarm")
        for child in tuple(self._children.values()):
            beat = words[self._word(child.slot, "beat")]
            if beat != child.beat:
                child.beat, child.beat_seen = beat, now
            elif child.slot == ARCHIVE and child.serving == math.inf:
                pass  # it reads all that is on disk of the rooms, however long that takes
            elif now - child.beat_seen > self.settings.worker_timeout:
                log.error(
                    "process stands still and is killed; see worker_timeout",
                    process=child.name,
                    seconds=round(now - child.beat_seen, 1),
                )
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
                child.beat_seen = now
        if words[alarm]:
            log.error(
                "a worker waits for a lock far longer than any transaction takes: who holds it is "
                "stopped or stuck, and will be killed",
                waiting=words[alarm] - 1,
            )
            return True
        return False

    # ---- recovery

    def _recover(self, dead: list[int]) -> bool:
        """Quiesce, repair, resume. dead: slots of workers that were reaped; those that die
        meanwhile are added. False where the region is damaged: the server must end."""
        began = time.monotonic()
        self._quiesce(dead)
        still = time.monotonic()
        if dead and not self._repair(dead):
            self._exit_code = EXIT_DAMAGED
            return False
        self._resume()
        pause_us = int((time.monotonic() - began) * 1e6)
        words, repairs = self.region.words, self.region.layout["repairs"]
        words[repairs.at(0, "pauses")] += 1
        words[repairs.at(0, "paused_us")] += pause_us
        longest = repairs.at(0, "paused_us_max")
        words[longest] = max(words[longest], pause_us)
        log.info(
            "workers go on",
            pause_ms=round(pause_us / 1000, 1),
            until_still_ms=round((still - began) * 1000, 1),
            repaired=sorted(dead),
        )
        return True

    def _quiesce(self, dead: list[int]) -> None:
        """Until every live worker has acknowledged; those that die meanwhile are added."""
        words = self.region.words
        self._epoch += 1
        words[self.region.layout["header"].at(0, "recovery")] = self._epoch
        self._wake()
        deadline, killed = time.monotonic() + ACKNOWLEDGE_S, False
        while late := [
            child
            for child in self._workers()
            if words[self._word(child.slot, "ack")] != self._epoch
        ]:
            if time.monotonic() > deadline and not killed:
                for child in late:
                    log.error("worker does not acknowledge and is killed", worker=child.slot)
                    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
                killed = True
            dead += self._wait(0.0005)

    def _repair(self, dead: list[int]) -> bool:
        """Run the repair until it has ended well; False where the invariants do not hold."""
        for _ in range(REPAIRS_MAX):
            pid = os.fork()
            if pid == 0:
                self._become_repair(dead)
            pidfd = os.pidfd_open(pid)
            ended, _, _ = select.select([pidfd], [], [], REPAIR_S)
            if not ended:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            os.close(pidfd)
            code = os.waitstatus_to_exitcode(status)
            if code == _REPAIRED:
                return True
            if code == _BROKEN:
                break
            log.warning("the repair has died and is started over", how=code)
        if self._data is None:
            log.error(
                "the shared state does not hold together after a worker's death, and the server "
                "stops rather than go on with it: what was in memory is lost; start it again",
            )
        else:
            log.error(
                "the shared state does not hold together after a worker's death: it is thrown "
                "away, and the server begins anew from its journal; all connections are lost",
            )
        return False

    def _become_repair(self, dead: list[int]) -> NoReturn:
        code = -1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            setproctitle.setproctitle("tradechat: repair")
            states = [State(self.region, slot, time.monotonic_ns, time.sleep, 0.0) for slot in dead]
            done = recovery.repair(states, time.time_ns() // 1000)
            found = check.problems(self.region)
            for problem in found[:PROBLEMS_MAX]:
                log.error("invariant broken", problem=problem)
            log.info("repaired", workers=sorted(dead), **done)
            code = _BROKEN if found else _REPAIRED
        except BaseException as error:
            log.error("the repair fails", exc_info=error)
            code = _BROKEN
        finally:
            os._exit(code)

    def _resume(self) -> None:
        header = self.region.layout["header"]
        self.region.words[header.at(0, "alarm")] = 0  # whoever waited has given up meanwhile
        self.region.words[header.at(0, "recovery")] = 0
        self._wake()

    def _wake(self) -> None:
        for wakeup in self._wakeups:
            wakeup.set()

    def _fill(self) -> None:
        """Fork workers into vacant slots that are due; for the others a sibling accepts."""
        now = time.monotonic()
        for slot, due in tuple(self._vacant.items()):
            if due <= now:
                del self._vacant[slot]
                self._fork(slot)
            elif slot < LOADER:
                self._host(slot, next((c.slot for c in self._workers()), None))

    def _host(self, slot: int, host: int | None) -> None:
        """Let a sibling accept on the listener of a slot that is empty; None: no longer."""
        words, at = self.region.words, self._word(slot, "host")
        value = 0 if host is None else host + 1
        if words[at] != value:
            words[at] = value
            self._wake()

    def _stop(self) -> None:
        """In order: workers answer, flush and end; who does not is killed. One that dies meanwhile
        is repaired after, for the others may need its locks to end. The journal ends last."""
        self._draining, before = True, len(self._signalled)
        words, header = self.region.words, self.region.layout["header"]
        words[header.at(0, "state")] = 2
        for sock in self._listeners:
            sock.close()
        self._signal(self._workers(), signal.SIGTERM)
        deadline = time.monotonic() + self.settings.graceful_timeout + KILL_MARGIN_S
        while workers := self._workers():
            left = deadline - time.monotonic()
            if left <= 0:
                slots = sorted(child.slot for child in workers)
                log.warning("workers do not end in time and are killed", workers=slots)
                self._signal(workers, signal.SIGKILL)
                for child in workers:
                    self._reap(child.pidfd)
                break
            dead = self._wait(min(left, WATCH_S))
            if self._interrupted(before):
                return
            if dead and not self._recover(dead):
                return
            for slot in KEEPERS:  # the workers' last answers wait for them
                if self._vacant.pop(slot, None) is not None:
                    self._fork(slot)
        os.close(self._workers_here)
        self._workers_here = -1
        self._signal(self._children.values(), signal.SIGTERM)
        while self._children:  # a snapshot takes as long as it takes; SIGINT again does not wait
            self._wait(WATCH_S)
            if self._interrupted(before):
                return
            for slot in KEEPERS:  # what it has not written yet another one writes
                if self._vacant.pop(slot, None) is not None:
                    self._finish(slot)
        log.info("stopped")

    def _finish(self, slot: int) -> None:
        """At the end of a stop a process has died that keeps the state on disk."""
        self._finishes += 1
        if self._finishes <= KEEPER_TRIES:
            self._signal([self._fork(slot)], signal.SIGTERM)
        else:
            log.error(
                "a process dies again and again before all is on disk, and is given up; see what "
                "it said before",
                process=_NAMES[slot],
            )
            self._exit_code = EXIT_JOURNAL

    def _interrupted(self, before: int) -> bool:
        """Has a SIGINT come beside what began the stop?"""
        if signal.SIGINT not in self._signalled[before:]:
            return False
        log.warning("interrupted again: ending at once")
        self._exit_code = EXIT_INTERRUPTED
        return True


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
    for _ in range(1 + REBUILDS_MAX):
        try:
            master = Master(settings)
        except CannotStart as error:
            log.error("cannot start", reason=str(error))
            return EXIT_NOT_STARTED
        code = master.run()
        if code != EXIT_DAMAGED or settings.durability == "none":
            break
        settings = replace(settings, port=master.port, sources=None)
    return code

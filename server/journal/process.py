"""The journal process: it makes the txn ring durable, and has snapshots made.

It takes no lock and no part in a recovery: it follows the log's head. Killed at any instant it is
forked again, looks for the journal's end, and goes on from there; the ring keeps what is not
durable. It ends last: when it has been told to, and no worker is left.

A snapshot is made by a child of it, of low priority, from the newest snapshot and the journal after
that: so nothing waits for it, and every record is checked once more on the way.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import setproctitle

import liblog
from libnet.wakeup import Wakeup
from server.child import BEAT_S, Report, follow_parent, fork
from server.config import Settings
from server.core.log import NO_JOURNAL
from server.exits import Exit
from server.journal import idle
from server.journal.commit import Committer, give_up
from server.journal.directory import DataDirectory, Presence
from server.journal.disk import Disk
from server.journal.errors import Damaged, JournalError
from server.journal.life import LAST_S, POLL_S, Ends, Stop, live, now_us
from server.journal.load import Idleness, fill, load, make_snapshot
from server.journal.reader import find_end, first_txn, segments
from server.journal.snapshot import paths as snapshot_paths
from server.journal.snapshot import prune, txn_of
from server.journal.writer import Writer
from server.region.records import RECORD_SIZE
from server.region.region import Region

READY: Final = 255  # what it writes into the pipe of those who serve

COMPANY: Final = 8  # records in a batch: with as many the next one waits for company
GATHER_S: Final = 0.0005
SLICE_S: Final = 0.1  # of a longer sleep: between looks whether the end has come
PROGRESS_S: Final = 1.0
PRESENCE_S: Final = 0.3  # between looks whether the files were removed, while nothing is written
NICENESS: Final = 10  # of a snapshot's process
_MIB: Final = 1 << 20
_SNAPSHOT_ADVICE: Final = (
    "the journal is kept whole, and grows, until a snapshot succeeds: is there space in the data "
    "directory?"
)
_DAMAGED_ADVICE: Final = (
    "run `tradechat-admin journal verify`: it names the last transaction that is good, and "
    "docs/JOURNAL.md says how to repair"
)

log = liblog.get("journal")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the master hands to the journal process over the fork."""

    settings: Settings
    region: Region
    data: DataDirectory
    wakeups: Sequence[Wakeup]  # of the workers
    wakeup: Wakeup  # its own
    ready: int  # a pipe: READY is written when it serves
    workers: int  # a pipe that is at its end when no worker is left


def clock_us() -> int:
    """Microseconds of the monotonic clock."""
    return time.monotonic_ns() // 1000


class Snapshots:
    """When a snapshot is made, and what of the journal may go then."""

    def __init__(self, inherited: Inherited, disk: Disk) -> None:
        settings, data = inherited.settings, inherited.data
        self._disk, self._data, self._region = disk, data, inherited.region
        self._every_txns = settings.snapshot_size * _MIB // RECORD_SIZE
        self._every_s = settings.snapshot_interval
        self._keep = settings.history_size * _MIB
        self._ring = inherited.region.layout.capacities.txn_ring
        self._child = 0  # process id; 0: none
        self._tried_at = time.monotonic()
        self._tried = self._tell()

    def _tell(self) -> int:
        """Tell in the region what there is; the txn_id of the newest snapshot, 0: none."""
        journal = self._region.journal
        txn = max(map(txn_of, snapshot_paths(self._disk, self._data.snapshots)), default=0)
        if journal.snapshot != txn:
            journal.snapshot, journal.snapshot_time = txn, now_us()
        paths = segments(self._disk, self._data.journal)
        journal.oldest = first_txn(paths[0]) if paths else 0
        return txn

    def _remove_segments(self, older: int) -> None:
        """Remove those that neither a restart nor the history needs any more.

        A restart needs what comes after the older of two snapshots, and the ring's records."""
        disk, directory = self._disk, self._data.journal
        paths = segments(disk, directory)
        needed = min(older, self._region.log.head - self._ring)
        sizes = []
        for path in paths:
            fd = disk.open(path)
            sizes.append(disk.size(fd))
            disk.close(fd)
        gone = 0
        while (
            gone + 1 < len(paths)
            and sum(sizes[gone:]) > self._keep
            and first_txn(paths[gone + 1]) - 1 <= needed
        ):
            gone += 1
        self._region.journal.oldest = first_txn(paths[gone]) if paths else 0  # before they go
        for path in paths[:gone]:
            disk.remove(path)
        if gone:
            disk.sync_directory(directory)

    def look(self, durable: int) -> None:
        """Begin one if it is time, or see to the one that is being made. What fails here is no
        failure of the journal."""
        try:
            self._look(durable)
        except OSError as error:
            log.error("snapshot_failed", reason=str(error), advice=_SNAPSHOT_ADVICE)

    def _look(self, durable: int) -> None:
        if durable and not self._region.journal.oldest:
            self._tell()
        if self._child:
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if pid:
                self._child = 0
                if status == 0:
                    self._tell()
                else:
                    log.error("snapshot_failed", advice=_SNAPSHOT_ADVICE)
            return
        new, age = durable - self._tried, time.monotonic() - self._tried_at
        if new >= self._every_txns or (new > 0 and self._every_s and age >= self._every_s):
            self._tried, self._tried_at = durable, time.monotonic()
            parent = os.getpid()
            self._child = fork()
            if self._child == 0:
                self._become_snapshot(durable, parent)

    def _become_snapshot(self, durable: int, parent: int) -> NoReturn:
        code = 1
        try:
            follow_parent(parent, signal.SIGKILL)
            os.nice(NICENESS)
            setproctitle.setproctitle("tradechat: snapshot")
            self.make(durable)
            code = 0
        except JournalError as error:
            log.error("journal_damaged", reason=str(error), advice=_DAMAGED_ADVICE)
        except OSError as error:
            log.error("snapshot_unwritable", reason=str(error))
        except BaseException as error:
            log.error("snapshot_crashed", exc_info=error)
        finally:
            os._exit(code)

    def make(self, durable: int) -> None:
        """Make one, in this process, and remove what is not needed then. JournalError, OSError."""
        began = time.monotonic()
        last_seen = self._region.column("users", "last_seen")
        made = make_snapshot(
            self._disk, self._data.journal, self._data.snapshots, durable, last_seen, now_us()
        )
        _tell_bad(made.bad)
        self._remove_segments(prune(self._disk, self._data.snapshots))
        log.info("snapshot_made", txn_id=made.txn, seconds=round(time.monotonic() - began, 3))

    def last(self, durable: int) -> None:
        """At the end: of all that is durable, so that the next start is a short one."""
        if self._child:
            os.waitpid(self._child, 0)
            self._child = 0
        if durable > self._region.journal.snapshot:
            try:
                self.make(durable)
            except (JournalError, OSError) as error:
                log.error(
                    "snapshot_failed",
                    reason=str(error),
                    advice="nothing is lost, since the journal has it all: the next start takes "
                    "longer",
                )
                return
        self._tell()


def _tell_bad(bad: Sequence[Damaged]) -> None:
    for error in bad:
        log.warning(
            "snapshot_damaged",
            reason=str(error),
            advice="the snapshot before it is used and nothing is lost; look at the disk",
        )


def _open(inherited: Inherited, disk: Disk, alive: Callable[[], None]) -> Writer:
    """The journal's end, to be written on. JournalError, OSError."""
    directory = inherited.data.journal
    end = find_end(disk, directory, alive)
    durable = inherited.region.log.durable  # by the process before this one
    if end.last < durable != NO_JOURNAL:
        raise Damaged(
            end.path or directory,
            end.offset,
            f"the journal ends with transaction {end.last}, and all up to {durable} were durable",
        )
    if end.torn or end.unborn:
        log.warning(
            "journal_end_cut",  # it was being written when the server ended; nobody had an answer
            path=str(end.unborn or end.path),
            offset=end.offset,
            bytes=end.torn,
            last_txn=end.last,
        )
    return Writer(disk, directory, end, inherited.settings.segment_size * _MIB, now_us)


def _serve(inherited: Inherited, report: Report) -> None:
    settings, region = inherited.settings, inherited.region
    words, journal = region.words, region.journal
    beat = journal.index("beat")

    def alive() -> None:
        words[beat] += 1

    looked = 0.0

    def watch() -> None:
        """Beat, and notice within PRESENCE_S that the files were removed."""
        nonlocal looked
        alive()
        if (now := time.monotonic()) - looked > PRESENCE_S:
            presence.check(writer.segment)
            looked = now

    disk = Disk()
    writer = _open(inherited, disk, alive)
    is_sync = settings.durability == "sync"
    committer = Committer(
        region, writer, sync=is_sync, wakeups=inherited.wakeups, clock_us=clock_us
    )
    committer.publish()
    snapshots, presence = Snapshots(inherited, disk), Presence(inherited.data)
    stop = Stop(inherited.workers, settings.graceful_timeout + LAST_S, inherited.wakeup)
    journal.pid = os.getpid()
    journal.failed = 0  # what ended the one before has been mended
    report.serves()
    poll = select.poll()
    poll.register(inherited.wakeup.fileno(), select.POLLIN)
    while True:
        watch()
        ending = bool(stop)  # asked before the last look at the ring
        if committer.behind():
            presence.check(writer.segment)  # nothing is answered for that is lost already
        count = committer.commit()
        snapshots.look(writer.last)
        if ending and not committer.behind():
            break
        if count and not is_sync:
            _sleep(settings.flush_interval, stop, watch)
        elif count >= COMPANY:
            time.sleep(GATHER_S)
        elif not count:
            stop.watch(poll)
            _rest(region, committer, poll)
            inherited.wakeup.clear()
    if not stop.alone:
        give_up(region, errno.ETIMEDOUT)
        log.warning("worker_outlived_journal")  # it can make no transaction any more
    snapshots.last(writer.last)
    writer.close()
    if stop.alone:
        _keep_idle_times(region, inherited.data, disk, writer.last)


def _rest(region: Region, committer: Committer, poll: select.poll) -> None:
    """With nothing to do. Who appends at this instant may not see that this sleeps, and this not
    see the record: the second look sees it. With `sync` the worker looks again, too."""
    words, waiting = region.words, region.journal.index("waiting")
    words[waiting] = 1
    for seconds in (POLL_S, BEAT_S):
        if committer.behind() or poll.poll(seconds * 1000):
            break
    words[waiting] = 0


def _keep_idle_times(region: Region, data: DataDirectory, disk: Disk, txn: int) -> None:
    try:
        idle.write(disk, data.idle, txn, idle.of_region(region, clock_us()))
    except OSError as error:
        log.warning("idle_times_unwritable", file=str(data.idle), reason=str(error))


def _sleep(seconds: float, stop: Stop, alive: Callable[[], None]) -> None:
    """Less where the end has come. alive: called often enough for any `worker_timeout`."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop:
        time.sleep(min(left, SLICE_S))
        alive()


def run(inherited: Inherited, master: int) -> NoReturn:
    """The whole life of a journal process, after its fork. Ends the process."""
    directory = inherited.data.journal

    def unusable(error: JournalError) -> None:
        log.error("journal_unusable", reason=str(error), advice=_DAMAGED_ADVICE)

    def unwritable(error: OSError) -> None:
        log.error(
            "journal_unwritable",
            directory=str(directory),
            reason=error.strerror,
            errno=error.errno,
            advice="no transaction is accepted any more, and what was answered is safe: mend the "
            "disk or make space on it, and start the server again",
        )

    def crashed(error: BaseException) -> None:
        log.error("journal_crashed", exc_info=error)

    ends = Ends(
        directory,
        lambda number: give_up(inherited.region, number),
        unusable,
        unwritable,
        crashed,
        unwritable_code=Exit.IO_FAILED,
    )
    report = Report(inherited.ready, READY)
    live("journal", inherited.settings, master, report, lambda: _serve(inherited, report), ends)


def restore(region: Region, data: DataDirectory, retention_s: float, grace_s: float) -> None:
    """Bring a new region to the state on disk. For the main thread of a process that does nothing
    else: every PROGRESS_S it logs how far it is. retention_s, grace_s: the settings
    client_retention and client_grace. JournalError, OSError."""
    began = time.monotonic()
    step, done, total = "snapshot", 0, 0

    def progress(folded: int, of: int) -> None:
        nonlocal step, done, total
        step, done, total = "journal", folded, of

    def tell(*_: object) -> None:
        log.info("loading", step=step, transactions=done, of=max(done, total))

    disk = Disk()
    signal.signal(signal.SIGALRM, tell)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, PROGRESS_S, PROGRESS_S)
    try:
        loaded = load(disk, data.journal, data.snapshots, progress)
        step = "region"
        times, why = idle.take(disk, data.idle, loaded.books.txn)
        retention_us, grace_us = int(retention_s * 1e6), int(grace_s * 1e6)
        fill(region, loaded, now_us(), Idleness(times, retention_us, grace_us, clock_us()))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    _tell_bad(loaded.bad)
    if why:
        log.warning("idle_times_unknown", file=str(data.idle), reason=why)
    log.info(
        "loaded",
        txn_id=loaded.books.txn,
        users=loaded.books.users,
        seconds=round(time.monotonic() - began, 3),
    )

"""The journal process: it makes what is in the two rings durable, and has snapshots made.

It takes no lock and no part in a recovery: it follows the heads. Killed at any instant it is forked
again, looks for the journal's end, and goes on from there; the rings keep what is not durable. It
ends last: when it has been told to, and no worker is left.

A snapshot is made by a child of it, of low priority, from the newest snapshot and the journal after
that: so nothing waits for it, and every record is checked once more on the way.
"""

import errno
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import liblog
from libnet.wakeup import Wakeup
from server.child import BEAT_S, Report
from server.config import Settings
from server.core.log import NO_JOURNAL
from server.exits import Exit
from server.journal import idle
from server.journal.aside import set_torn_aside
from server.journal.commit import Committer, give_up, segment_bytes
from server.journal.directory import DataDirectory, Presence
from server.journal.disk import Disk
from server.journal.errors import Damaged, JournalError, why
from server.journal.life import LAST_S, POLL_S, Ends, Stop, live, now_us
from server.journal.position import PositionFile
from server.journal.position import read as read_position
from server.journal.reader import find_end
from server.journal.upkeep import DAMAGED_ADVICE, Snapshots
from server.journal.writer import Writer
from server.region.region import Region

READY: Final = 255  # what it writes into the pipe of those who serve

COMPANY: Final = 8  # records in a batch: with as many the next one waits for company
GATHER_S: Final = 0.0005
SLICE_S: Final = 0.005  # while a batch gathers: between looks whether it must not wait
PRESENCE_S: Final = 0.3  # between looks whether the files were removed, while nothing is written
NOTED_S: Final = 1.0  # between syncs of what is noted as durable, and tries to allocate a segment
NOTICED_S: Final = 0.5  # less a clock may be set back without a word: it is set now and then
_MIB: Final = 1 << 20

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


class WallClock:
    """Notices that the system's clock was set back."""

    def __init__(self, wall_s: Callable[[], float], monotonic_s: Callable[[], float]) -> None:
        """Two clocks, in seconds: the one that is watched, and one that nobody sets."""
        self._wall_s, self._monotonic_s = wall_s, monotonic_s
        self._ahead_s = wall_s() - monotonic_s()

    def went_back_s(self) -> float:
        """By how much since this was asked last, in seconds; 0: not by NOTICED_S."""
        before_s, self._ahead_s = self._ahead_s, self._wall_s() - self._monotonic_s()
        return back_s if (back_s := before_s - self._ahead_s) >= NOTICED_S else 0.0


class _Journal:
    """The journal at work."""

    def __init__(self, inherited: Inherited) -> None:
        """Go on where the journal ends. JournalError, OSError."""
        settings, region, data = inherited.settings, inherited.region, inherited.data
        self._inherited, self._settings, self._region = inherited, settings, region
        self._words, self._disk, self._data = region.words, Disk(), data
        self._beat, self._waiting = region.journal.index("beat"), region.journal.index("waiting")
        self._looked = self._synced = 0.0
        self._clock = WallClock(time.time, time.monotonic)
        self._writer = self._open(region.header.log_id)
        self._noted = PositionFile(self._disk, data.position, region.header.log_id)
        self._committer = Committer(
            region,
            self._writer,
            self._noted,
            sync=settings.durability == "sync",
            wakeups=inherited.wakeups,
            clock_us=clock_us,
        )
        self._prepare()
        self._committer.publish()
        self._snapshots = Snapshots(settings, data, region, self._disk, self._writer)
        self._presence = Presence(data)
        patience_s = settings.graceful_timeout + LAST_S
        self._stop = Stop(inherited.workers, patience_s, inherited.wakeup)

    def _open(self, log_id: int) -> Writer:
        disk, data, region = self._disk, self._data, self._region
        noted = read_position(disk, data.position, log_id)
        end = find_end(disk, data.journal, log_id, noted, self._alive)
        durable = region.log.durable  # by the process before this one
        if end.last < durable != NO_JOURNAL:
            raise Damaged(
                end.path or data.journal,
                end.offset,
                f"the journal ends with transaction {end.last}, and all up to {durable} were "
                "durable",
            )
        set_torn_aside(disk, data, end)
        return Writer(disk, data.journal, log_id, end, self._segment_bytes(), now_us)

    def _segment_bytes(self) -> int:
        region, size = self._region, self._settings.segment_size * _MIB
        return segment_bytes(region.layout.capacities, size, region.registry.members)

    def _alive(self) -> None:
        self._words[self._beat] += 1

    def _watch(self) -> None:
        """Beat; now and then notice that the files were removed, and make last what is noted."""
        self._alive()
        now = time.monotonic()
        if now - self._looked > PRESENCE_S:
            self._presence.check(self._writer.segment)
            self._looked = now
        if now - self._synced > NOTED_S:
            self._noted.sync()
            self._synced = now
            self._prepare()
            went_back_s = self._clock.went_back_s()
            if went_back_s:
                log.warning(
                    "clock_went_back",
                    seconds=round(went_back_s, 3),
                    advice="transactions are dated as the newest one until the clock has reached "
                    "that: is the clock right?",
                )

    def _prepare(self) -> None:
        """Have the next segment allocated. Where the disk has no space for it, less is let into
        the rings, and it is tried again."""
        told = self._region.journal
        try:
            prepared = self._writer.prepare(self._segment_bytes())
        except OSError as error:
            if not told.full:
                log.error(
                    "disk_full",
                    directory=str(self._data.journal),
                    reason=error.strerror,
                    advice="requests that need space are refused until there is some again: make "
                    "room on the disk",
                )
            told.full = error.errno or errno.ENOSPC
            return
        if told.full:
            told.full = 0
            log.info("disk_has_space", directory=str(self._data.journal))
        if prepared:
            self._committer.publish()

    def serve(self) -> None:
        """Until told to end, and all is durable. JournalError, OSError."""
        committer, writer, stop = self._committer, self._writer, self._stop
        region, inherited = self._region, self._inherited
        is_sync, poll = self._settings.durability == "sync", select.poll()
        poll.register(inherited.wakeup.fileno(), select.POLLIN)
        while True:
            self._watch()
            ending = bool(stop)  # asked before the last look at the rings
            if committer.behind():
                # Nothing is answered for that is lost already.
                self._presence.check(writer.segment)
            segment = writer.position.segment
            count = committer.commit()
            if writer.position.segment != segment:
                self._prepare()
            self._snapshots.look()
            if ending and not committer.behind():
                break
            if count and not is_sync:
                self._let_gather(self._settings.flush_interval)
            elif count >= COMPANY:
                time.sleep(GATHER_S)
            elif not count:
                self._rest(poll)
        if not stop.alone:
            give_up(region, errno.ETIMEDOUT)
            log.warning("worker_outlived_journal")  # it can make no transaction any more

    def _let_gather(self, seconds: float) -> None:
        """Wait for that long; less where a ring is filling up, or the end has come."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._stop or self._committer.half_full():
                break
            time.sleep(min(left, SLICE_S))
            self._watch()

    def _rest(self, poll: select.poll) -> None:
        """Until there is something to commit, or for a moment."""
        self._stop.watch(poll)
        self._words[self._waiting] = 1
        # Who appends at this instant may not see that this sleeps, and this not see the record: the
        # second look sees it. With `sync` the worker looks again, too.
        for seconds in (POLL_S, BEAT_S):
            if self._committer.behind() or poll.poll(seconds * 1000):
                break
        self._words[self._waiting] = 0
        self._inherited.wakeup.clear()

    def end(self) -> None:
        """Everything is durable: leave the shortest start behind. OSError."""
        self._snapshots.last()
        orderly = self._stop.alone
        if orderly:
            self._writer.finish()
            self._noted.write(self._writer.position)
        self._noted.sync()
        self._writer.close()
        if orderly:
            _keep_idle_times(self._region, self._data, self._disk, self._writer.last)


def _keep_idle_times(region: Region, data: DataDirectory, disk: Disk, txn: int) -> None:
    try:
        idle.write(disk, data.idle, txn, idle.of_region(region, clock_us()))
    except OSError as error:
        log.warning("idle_times_unwritable", file=str(data.idle), reason=why(error))


def _serve(inherited: Inherited, report: Report) -> None:
    journal = _Journal(inherited)
    inherited.region.journal.pid = os.getpid()
    inherited.region.journal.failed = 0  # what ended the one before has been mended
    report.serves()
    journal.serve()
    journal.end()


def run(inherited: Inherited, master: int) -> NoReturn:
    """The whole life of a journal process, after its fork. Ends the process."""
    directory = inherited.data.journal

    def unusable(error: JournalError) -> None:
        log.error("journal_unusable", reason=str(error), advice=DAMAGED_ADVICE)

    def unwritable(error: OSError) -> None:
        log.error(
            "journal_unwritable",
            directory=str(directory),
            reason=error.strerror,
            errno=error.errno,
            advice="no transaction is accepted any more, and what was answered is safe, with "
            "`--durability async` but for the last moments: mend the disk or make space on it, and "
            "start the server again",
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

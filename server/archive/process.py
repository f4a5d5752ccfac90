"""The archive process: it keeps the rooms' events, and answers for what is older than the rings.

What it finds is written and synced within the flush interval; nobody waits for it, and it does not
wait for the disk either: threads do, so that a slow one costs memory and no message.
"""

import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NoReturn

import liblog
from libnet.wakeup import Wakeup
from server.archive.desk import Answers, Desk
from server.archive.history import History
from server.archive.keeper import Keeper
from server.archive.store import RoomStore
from server.child import BEAT_S, Report
from server.config import Settings
from server.exits import Exit
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.journal.life import LAST_S, POLL_S, Ends, Stop, live, now_us
from server.region.layout import ServerState
from server.region.region import Region

READY: Final = 254  # what it writes into the pipe of those who serve
SEGMENT_SIZE: Final = 4 << 20  # bytes
AGAIN_S: Final = 0.001

log = liblog.get("archive")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the master hands to the archive process over the fork."""

    settings: Settings
    region: Region
    data: DataDirectory
    sockets: Sequence[socket.socket]  # to the workers, by slot
    ready: int  # a pipe: READY is written when it serves
    workers: int  # a pipe that is at its end when no worker is left


def _open(inherited: Inherited) -> RoomStore:
    """The files. JournalError, OSError."""
    store = RoomStore(
        Disk(),
        inherited.data.rooms,
        keep=inherited.settings.room_history,
        segment_size=SEGMENT_SIZE,
        now=now_us,
        new_epoch=inherited.region.header.epoch,
    )
    if store.torn is not None:
        log.warning(
            "rooms_end_cut",  # it was being written when the server ended
            torn=str(store.torn),
        )
    return store


def _serve(inherited: Inherited, report: Report) -> None:
    settings, region = inherited.settings, inherited.region
    store = _open(inherited)
    keeper = Keeper(region, store)
    if region.header.state != ServerState.STARTING:
        keeper.go_on()
    else:
        keeper.begin()
    history = History(Disk(), inherited.data.journal, lambda: region.log.durable)
    answers = Answers(keeper.state, store, history)
    woken = Wakeup()
    stop = Stop(inherited.workers, settings.graceful_timeout + LAST_S, woken)
    region.archive.pid = os.getpid()
    region.archive.failed = 0  # what ended the one before has been mended
    with ThreadPoolExecutor(1) as disk_thread, ThreadPoolExecutor(1) as reading:
        for each in (disk_thread, reading):
            each.submit(int).result()  # its thread is there, or cannot be
        desk = Desk(inherited.sockets, answers, reading, woken)
        archive = _Archive(inherited, keeper, store, desk, disk_thread)
        report.serves()
        while not stop:
            stop.watch(desk.poll)
            archive.turn()
        archive.finish()
    woken.close()
    if stop.alone:  # else a worker may yet use a number that is reserved
        keeper.settle()
    store.close()


class _Archive:
    """What it does by turns while it serves."""

    def __init__(
        self,
        inherited: Inherited,
        keeper: Keeper,
        store: RoomStore,
        desk: Desk,
        disk_thread: Executor,
    ) -> None:
        self._keeper, self._store, self._desk = keeper, store, desk
        self._disk_thread = disk_thread
        self._words, archive = inherited.region.words, inherited.region.archive
        self._beat, self._queries, self._waiting = map(
            archive.index, ("beat", "queries", "waiting")
        )
        self._answered = self._words[self._queries]  # by those before this one
        self._interval = inherited.settings.flush_interval
        self._short = min(self._interval, POLL_S)
        self._due = 0.0  # when it is written again: time.monotonic()
        self._syncing: Future[None] | None = None

    def turn(self) -> None:
        """Collect, write and answer what there is; wait where there is nothing. OSError."""
        keeper, desk = self._keeper, self._desk
        self._words[self._beat] += 1
        asked = desk.wait(self._short) if self._syncing or keeper.collected else self._sleep()
        keeper.collect()
        if self._syncing is not None and self._syncing.done():
            self.finish()
        self._write(at_once=keeper.urgent or asked)
        if asked and (keeper.collected or not self._store.readable):
            # What is not in the files yet might be asked for.
            time.sleep(AGAIN_S)
        elif asked:
            desk.take()
        desk.work()
        self._words[self._queries] = self._answered + desk.answered

    def _write(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if self._syncing is None and (now >= self._due or at_once) and self._keeper.write():
            self._due = now + self._interval
            self._syncing = self._disk_thread.submit(self._store.sync)

    def finish(self) -> None:
        """Until what is being synced is on disk. OSError."""
        if self._syncing is not None:
            self._syncing.result()
            self._syncing = None
            self._keeper.finish()

    def _sleep(self) -> bool:
        """With nothing to do; is there a question? Who publishes at this instant may not see that
        this sleeps, and this not see the event: the second look sees it."""
        self._words[self._waiting] = 1
        asked = False
        for seconds in (self._short, BEAT_S):
            if self._keeper.behind:
                break
            asked = self._desk.wait(seconds)
            if self._desk.woken:
                break
        self._words[self._waiting] = 0
        return asked


def run(inherited: Inherited, master: int) -> NoReturn:
    """The whole life of an archive process, after its fork. Ends the process."""
    directory = inherited.data.rooms

    def give_up(number: int) -> None:
        """Nobody need wait for an answer; number: the errno."""
        inherited.region.archive.failed = number

    def unusable(error: JournalError) -> None:
        log.error(
            "rooms_unusable",
            reason=str(error),
            advice="look at the disk, then at docs/JOURNAL.md: what the server says and how to "
            "repair",
        )

    def unwritable(error: OSError) -> None:
        log.error(
            "rooms_unwritable",
            directory=str(directory),
            reason=error.strerror,
            errno=error.errno,
            advice="rooms carry on until their reserved numbers are used up, and what is said now "
            "is not kept: mend the disk or make space on it",
        )

    def crashed(error: BaseException) -> None:
        log.error("archive_crashed", exc_info=error)

    ends = Ends(directory, give_up, unusable, unwritable, crashed, unwritable_code=Exit.FAILED)
    report = Report(inherited.ready, READY)
    live("archive", inherited.settings, master, report, lambda: _serve(inherited, report), ends)

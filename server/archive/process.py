"""The archive process: it keeps the histories of rooms and inboxes, and answers for what is older
than the rings.

It reads the journal's files behind the journal process, and takes no lock. Nobody waits for it or
for its disk: one that is slow or full costs a lag, which the journal keeps for it.
"""

import errno
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NoReturn

import liblog
from libnet.wakeup import Wakeup
from server.archive.desk import Answers, Desk
from server.archive.follower import Durable
from server.archive.history import History
from server.archive.keeper import Keeper, Limits
from server.archive.space import Space
from server.child import BEAT_S, Report
from server.config import Settings
from server.core.state import State
from server.exits import Exit
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.life import LAST_S, POLL_S, Ends, Stop, live
from server.region.region import Region

READY: Final = 254  # what it writes into the pipe of those who serve
_MIB: Final = 1 << 20

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


def _serve(inherited: Inherited, report: Report) -> None:
    settings, region, data = inherited.settings, inherited.region, inherited.data
    words, archive = region.words, region.archive
    beat, queries = map(archive.index, ("beat", "queries"))
    before = words[queries]

    def alive() -> None:
        words[beat] += 1

    with ThreadPoolExecutor(1) as syncing, ThreadPoolExecutor(1) as reading:
        for thread in (syncing, reading):  # one that cannot be begun is told at the start
            thread.submit(int).result()
        limits = Limits(
            settings.room_history, settings.inbox_history, settings.archive_lag_max * _MIB
        )
        keeper = Keeper(region, data, Disk(), limits, syncing, beat=alive)
        keeper.turn()
        # Nobody's slot: only what reads without a lock is used.
        state = State(region, 0, time.monotonic_ns, time.sleep, 0.0)
        history = History(
            Disk(), data.journal, lambda: Durable(region.log.durable, region.events.durable)
        )
        woken = Wakeup()
        stop = Stop(inherited.workers, settings.graceful_timeout + LAST_S, woken)
        desk = Desk(inherited.sockets, Answers(state, keeper, history), reading, woken)
        space = Space(region, data.path, reading)
        archive.pid = os.getpid()
        archive.failed = 0  # what ended the one before has been mended
        report.serves()

        more = True
        while not stop:
            alive()
            stop.watch(desk.poll)
            # Nobody wakes it for an event: that would cost the journal and the workers a core just
            # when they want it, and nobody waits for the histories but who asks.
            soon = POLL_S if keeper.behind or desk.busy else BEAT_S
            asked = desk.wait(0 if more else soon)
            more = keeper.turn()
            if asked:
                desk.take()
            desk.work()
            space.turn()
            words[queries] = before + desk.answered
        keeper.finish()
        keeper.close()
    woken.close()


def run(inherited: Inherited, master: int) -> NoReturn:
    """The whole life of an archive process, after its fork. Ends the process."""
    archive = inherited.region.archive

    def give_up(number: int) -> None:
        """Nobody need wait for an answer, and no more is to be missing than is missing now."""
        archive.failed = number
        archive.closed = 1

    def crashed(error: BaseException) -> None:
        give_up(errno.EIO)
        log.error("archive_crashed", exc_info=error)

    ends = Ends(inherited.data.rooms, give_up, crashed, crashed, crashed, Exit.FAILED)
    report = Report(inherited.ready, READY)
    live("archive", inherited.settings, master, report, lambda: _serve(inherited, report), ends)

"""The files process: it does all that is done with files, so that no worker waits for a disk or for
a far server.

It owns the command channel (channel.py) and the store (store.py); the segments are the workers'
(segments.py). It takes no lock of the region. It may be killed at any instant: whoever waits for it
is told to come again, and its successor goes on from what is on disk.
"""

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

import liblog
from libnet.wakeup import Wakeup
from server.child import BEAT_S, Report, enter, limit_of, reason_of
from server.config import Settings
from server.core.state import State
from server.early import STOP_SIGNALS
from server.exits import Exit
from server.files.archive import Asking
from server.files.channel import DEPTH, Commands, depth
from server.files.contents import FOLDER
from server.files.desk import Desk
from server.files.errors import FilesError
from server.files.fetching import Links
from server.files.holds import Holds
from server.files.limits import Limits
from server.files.published import Published, clock_us
from server.files.records import index_of
from server.files.store import Store
from server.journal.commit import segment_bytes
from server.journal.directory import DataDirectory
from server.region.region import Region

READY: Final = 250  # its place among the slots
TURN_MAX: Final = 64  # messages that are served before anything else is looked at
EXPIRE_S: Final = 10.0  # between looks for what is not to be kept any longer
_SOON_S: Final = 0.01  # while it waits for the archive
_DAY_S: Final = 86400
_SEGMENTS_SPARED: Final = 4

log = liblog.get("files")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the master hands to the files process over the fork."""

    settings: Settings
    region: Region
    data: DataDirectory
    wakeups: Sequence[Wakeup]  # of the workers
    archive: socket.socket | None  # to the archive process
    ready: int  # for its Report


def limits_of(settings: Settings) -> Limits:
    return Limits(
        file_bytes=settings.max_file << 20,
        total_bytes=settings.files_max_bytes,
        user_bytes=min(settings.files_user_bytes, settings.files_max_bytes),
        retention_s=settings.file_retention * _DAY_S,
    )


def _opened(inherited: Inherited) -> Store:
    """The store. Where it is new and the log is not, as after a restore without the files, its
    numbers begin where none was before: what the log tells of one file is never another.
    FilesError, OSError."""
    directory = inherited.data.path / FOLDER
    is_new = not index_of(directory).exists()
    limits = replace(limits_of(inherited.settings), spare_bytes=_spare(inherited, directory))
    store = Store(directory, limits, now=clock_us)
    if is_new and inherited.region.events.head:
        store.never_again(int(time.time()))
    return store


def _spare(inherited: Inherited, directory: Path) -> int:
    """Bytes that are left for the journal, where both are on one file system: four of its segments,
    so that money and messages go on when what users share has filled it. OSError."""
    if directory.exists() and directory.stat().st_dev != inherited.data.journal.stat().st_dev:
        return 0
    capacities, size = inherited.region.layout.capacities, inherited.settings.segment_size << 20
    return _SEGMENTS_SPARED * segment_bytes(capacities, size)


class Files:
    """The life of the process, while it serves."""

    def __init__(self, inherited: Inherited) -> None:
        settings, region = inherited.settings, inherited.region
        self._region, self._words = region, region.words
        files = region.files
        self._beat, self._queued = files.index("beat"), files.index("queued")
        self._told = False
        self._woken: Final = Wakeup()
        self._store: Final = _opened(inherited)
        state = State(region, 0, time.monotonic_ns, time.sleep, 0.0)  # read without a lock
        asking = Asking(inherited.archive) if inherited.archive else None
        self._asking: Final = asking
        holds = Holds(region, self._store)
        self._published: Final = Published(state, self._store, holds, asking)
        self._desk: Final = Desk(
            region,
            self._store,
            self._published,
            holds,
            list(inherited.wakeups),
            lambda loan, place, url: self._links.fetch(loan, place, url),
            lambda url, sha256: self._links.forget(url, sha256),
        )
        self._commands: Final = Commands(region.name, files.number)
        self._poll: Final = select.poll()
        self._poll.register(self._commands, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        if asking is not None:
            self._poll.register(asking, select.POLLIN)
        self._expire_due = time.monotonic()
        self._links: Final = Links(region, self._store, self._desk, settings)
        self._poll.register(self._links, select.POLLIN)

    def _stop(self, *_: object) -> None:
        self._told = True
        self._woken.set()

    def serve(self, report: Report) -> None:
        """Until SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        files = self._region.files
        wanted, (held, limit) = DEPTH, depth()
        if held < wanted:
            log.info(
                "files_queue_short",
                messages=held,
                advice=f"requests beyond that wait in the workers; with fs.mqueue.msg_max above "
                f"{limit}, {wanted} at most, fewer do",
            )
        files.pid, files.depth = os.getpid(), self._commands.depth
        self._count()
        files.serving = files.number
        report.serves()
        while not self._told:
            self._turn()
        files.serving = 0
        self._links.close()
        self._commands.close()
        self._store.close()

    def _turn(self) -> None:
        words = self._words
        words[self._beat] += 1
        soon = _SOON_S if self._published.busy else BEAT_S
        self._poll.poll(min(soon, self._links.wait_s()) * 1000)
        self._woken.clear()
        words[self._queued] = self._commands.waiting
        for _ in range(TURN_MAX):
            message = self._commands.receive()
            if message is None:
                break
            self._desk.take(message)
        self._desk.try_again()
        self._links.turn()
        self._published.turn()
        if self._asking is not None and not self._published.busy:
            self._asking.drain()
        if time.monotonic() >= self._expire_due:
            self._expire_due = time.monotonic() + EXPIRE_S
            self._expire()
        self._count()

    def _expire(self) -> None:
        self._desk.sweep()
        gone = self._store.expire(clock_us())
        if gone.contents:
            self._region.files.removed += 1
        if gone.uploads or gone.contents:
            log.info("files_expired", uploads=len(gone.uploads), contents=len(gone.contents))

    def _count(self) -> None:
        usage, files = self._store.usage(), self._region.files
        files.contents, files.uploads = usage.contents, usage.uploads
        files.uploads_bytes = usage.uploads_bytes
        files.contents_bytes = usage.total - usage.uploads_bytes


def run(inherited: Inherited, master: int) -> NoReturn:
    """The whole life of a files process, after its fork. Ends the process."""
    code, report = Exit.FAILED, Report(inherited.ready, READY)
    try:
        enter(inherited.settings, "files", master)
        Files(inherited).serve(report)
        code = Exit.OK
    except (FilesError, OSError) as error:
        reason = limit_of(error) or reason_of(error, inherited.data.path / FOLDER)
        report.fails(f"files: {reason}")
        if report.served:
            log.error("files_failed", reason=reason, code=getattr(error, "errno", errno.EIO))
    except BaseException as error:
        if not report.served and (limit := limit_of(error)):
            report.fails(limit)
        else:
            log.error("files_crashed", exc_info=error)
    finally:
        os._exit(code)

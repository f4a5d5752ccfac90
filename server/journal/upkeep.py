"""When a snapshot is made, and which files of the journal may go then."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import setproctitle

import liblog
from server.child import follow_parent, fork
from server.config import Settings
from server.journal import packed, spill
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import Damaged, JournalError, why
from server.journal.format import SegmentHead
from server.journal.life import now_us
from server.journal.load import make_snapshot
from server.journal.reader import Position, heads, segments
from server.journal.snapshot import SnapshotHead, newest_head, prune
from server.journal.writer import Writer
from server.region.region import Region

NICENESS: Final = 10  # of a snapshot's process
_DAY_US: Final = 86_400_000_000
PACKING_S: Final = 2.0
"""For so long segments are packed after one snapshot; the others wait for the next one. The stop of
a server waits for it."""
_MIB: Final = 1 << 20
_SNAPSHOT_ADVICE: Final = (
    "the journal is kept whole, and grows, until a snapshot succeeds: is there space in the data "
    "directory?"
)
DAMAGED_ADVICE: Final = (
    "run `tradechat-admin journal verify`: it says of every file what is damaged; `tradechat-admin "
    "journal repair` says what would be lost, and asks"
)

log = liblog.get("journal")


class Snapshots:
    """When a snapshot is made, and what of the journal may go then."""

    def __init__(
        self, settings: Settings, data: DataDirectory, region: Region, disk: Disk, writer: Writer
    ) -> None:
        self._disk, self._data, self._region, self._writer = disk, data, region, writer
        self._log_id = region.header.log_id
        self._every = settings.snapshot_size * _MIB  # bytes
        self._every_s = settings.snapshot_interval
        self._keep = settings.history_size * _MIB
        self._days = settings.history_days
        self._ring = region.layout.capacities.txn_ring
        self._child = 0  # process id; 0: none
        self._tried_at = time.monotonic()
        self._tried = writer.written  # bytes
        newest = self._tell()
        self._seen = (newest.txn_id, newest.event) if newest else (0, 0)

    def _tell(self) -> SnapshotHead | None:
        """Tell in the region what there is; the newest snapshot."""
        journal = self._region.journal
        newest = newest_head(self._disk, self._data.snapshots)
        txn = newest.txn_id if newest else 0
        if journal.snapshot != txn:
            journal.snapshot, journal.snapshot_time = txn, now_us()
        if not journal.oldest:  # whoever removes a segment tells
            journal.oldest = oldest_txn(self._disk, self._data.journal)
        return newest

    def _remove_segments(self, older: SnapshotHead | None) -> None:
        """Remove those that neither a restart nor the history needs any more.

        A restart needs what comes after the older of two snapshots, and the ring's records."""
        if older is None:
            return
        region = self._region

        def told(oldest: int) -> None:
            region.journal.oldest = oldest

        needed = Needed(older.segment, region.log.head - self._ring, region.archive.cursor)
        since = now_us() - round(self._days * _DAY_US) if self._days else None
        remove_segments(self._disk, self._data.journal, needed, self._keep, told, since)

    def look(self) -> None:
        """Begin one if it is time, or see to the one that is being made. What fails here is no
        failure of the journal."""
        try:
            self._look()
        except (OSError, JournalError) as error:
            log.error("snapshot_failed", reason=why(error), advice=_SNAPSHOT_ADVICE)

    def _look(self) -> None:
        position = self._writer.position
        if position.txn and not self._region.journal.oldest:
            self._tell()
        if self._child:
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if pid:
                self._child = 0
                if status == 0 and (newest := self._tell()):
                    self._seen = newest.txn_id, newest.event
                elif status:
                    log.error("snapshot_failed", advice=_SNAPSHOT_ADVICE)
            return
        new, age = self._writer.written - self._tried, time.monotonic() - self._tried_at
        if new >= self._every or (new > 0 and self._every_s and age >= self._every_s):
            self._tried, self._tried_at = self._writer.written, time.monotonic()
            parent = os.getpid()
            self._child = fork()
            if self._child == 0:
                self._become_snapshot(position, parent)

    def _become_snapshot(self, upto: Position, parent: int) -> NoReturn:
        code = 1
        try:
            follow_parent(parent, signal.SIGKILL)
            os.nice(NICENESS)
            setproctitle.setproctitle("tradechat: snapshot")
            self.make(upto)
            code = 0
        except JournalError as error:
            log.error("journal_damaged", reason=str(error), advice=DAMAGED_ADVICE)
        except OSError as error:
            log.error("snapshot_unwritable", reason=why(error))
        except BaseException as error:
            log.error("snapshot_crashed", exc_info=error)
        finally:
            os._exit(code)

    def make(self, upto: Position) -> None:
        """Make one, in this process, and remove what is not needed then. JournalError, OSError."""
        began, data = time.monotonic(), self._data
        last_seen = self._region.column("users", "last_seen")
        made = make_snapshot(
            self._disk, data.journal, data.snapshots, self._log_id, upto, last_seen, now_us()
        )
        tell_bad(made.bad)
        self._remove_segments(prune(self._disk, data.snapshots, self._log_id))
        log.info("snapshot_made", txn_id=made.txn, seconds=round(time.monotonic() - began, 3))

    def last(self) -> None:
        """At the end: of all that is durable, so that the next start is a short one."""
        if self._child:
            os.waitpid(self._child, 0)
            self._child = 0
        position = self._writer.position
        if (position.txn, position.event) != self._seen:
            try:
                self.make(position)
            except (JournalError, OSError) as error:
                log.error(
                    "snapshot_failed",
                    reason=why(error),
                    advice="nothing is lost, since the journal has it all: the next start takes "
                    "longer",
                )
                return
        self._tell()


class Needed(NamedTuple):
    """What of the journal is."""

    segment: int  # all from this one on
    txn: int  # all transactions above this one
    event: int  # all events above this one, by the archive


def oldest_txn(disk: Disk, directory: Path) -> int:
    """The first transaction that TXN_HISTORY can reach; 0: there is no journal yet. OSError."""
    found = heads(disk, directory)[:1]
    for _, head in found:
        before = packed.leading_to(disk, directory, head)
        return before[0][1].first_txn if before else head.first_txn
    return 0


def remove_segments(
    disk: Disk,
    directory: Path,
    needed: Needed,
    keep: int,
    told: Callable[[int], None],
    since: int | None = None,
) -> None:
    """Remove the oldest segments while they have more than `keep` bytes together and are not
    needed; of those that only the archive needs, the events are copied before. Where they cannot
    be, the segment stays. told: is called with the oldest transaction, before any goes. since:
    those that end after that time are packed before, and packed ones that end before it go;
    microseconds since the Unix epoch; None: no packed one is kept. OSError."""
    # Where a header is damaged, the segment goes with the one before it.
    found, names = heads(disk, directory), segments(disk, directory)
    sizes = []
    for path, _ in found:
        fd = disk.open(path)
        sizes.append(disk.size(fd))
        disk.close(fd)
    if not found:
        return
    gone, began = 0, time.monotonic()
    while gone + 1 < len(found) and sum(sizes[gone:]) > keep:
        head, following = found[gone][1], found[gone + 1][1]
        if following.number > needed.segment or following.first_txn > needed.txn + 1:
            break
        lacked = following.first_event > needed.event + 1
        if lacked and not _copy(disk, directory, head, following):
            break
        is_kept = since is not None and following.created >= since
        is_late = time.monotonic() - began > PACKING_S
        if is_kept and (is_late or not _pack(disk, found[gone][0], head, following)):
            break
        gone += 1
    old = packed.outdated(disk, directory, since)
    leading = packed.leading_to(disk, directory, found[gone][1])
    kept = [head for path, head in leading if path not in old]
    told((kept[0] if kept else found[gone][1]).first_txn)
    for path in (*old, *(path for path in names if path < found[gone][0])):
        disk.remove(path)
        disk.sync_directory(directory)  # at no time is there a gap
    spill.remove_taken(disk, directory, needed.event)


def _copy(disk: Disk, directory: Path, head: SegmentHead, following: SegmentHead) -> bool:
    """Copy the events of a segment for the archive; False: they could not be."""
    try:
        spill.write(disk, directory, head, following)
    except (OSError, JournalError) as error:
        log.error("events_not_copied", segment=head.number, reason=why(error))
        return False
    log.warning("events_copied", segment=head.number)
    return True


def _pack(disk: Disk, path: Path, head: SegmentHead, following: SegmentHead) -> bool:
    """Pack a segment; False: it could not be."""
    try:
        packed.write(disk, path, head, following)
    except OSError as error:
        log.error("segment_not_packed", segment=head.number, reason=why(error))
        return False
    log.debug("segment_packed", segment=head.number)
    return True


def tell_bad(bad: Sequence[Damaged]) -> None:
    """Log what is wrong with snapshots that were passed over."""
    for error in bad:
        log.warning(
            "snapshot_damaged",
            reason=str(error),
            advice="an older one is used, or the journal alone, and nothing is lost: look at "
            "the disk",
        )

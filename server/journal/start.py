"""From the data directory to a new region, at a start of the server: the state is loaded, the start
is noted in the journal, and the region is filled.
"""

import signal
import time
from collections.abc import Callable
from typing import Final

import liblog
from server.journal import idle, lost
from server.journal.aside import set_torn_aside
from server.journal.commit import segment_bytes
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.journal.format import FORMAT_VERSION
from server.journal.life import now_us
from server.journal.load import Idleness, Loaded, check_room, fill, load
from server.journal.position import PositionFile
from server.journal.position import read as read_position
from server.journal.reader import segments
from server.journal.upkeep import DAMAGED_ADVICE, tell_bad
from server.journal.writer import Writer
from server.region.region import Region

PROGRESS_S: Final = 1.0

log = liblog.get("journal")


def restore(
    region: Region,
    data: DataDirectory,
    retention_s: float,
    grace_s: float,
    segment_size: int,
    recall: lost.Recall,
) -> None:
    """Bring a new region to the state on disk. For the main thread of a process that does nothing
    else: every PROGRESS_S it logs how far it is. retention_s, grace_s: the settings
    client_retention and client_grace. segment_size: bytes. recall: asks the histories.
    JournalError, OSError."""
    began = time.monotonic()
    step, done, total = "snapshot", 0, 0

    def progress(folded: int, of: int) -> None:
        nonlocal step, done, total
        step, done, total = "journal", folded, of

    def tell(*_: object) -> None:
        log.info("loading", step=step, transactions=done, of=max(done, total))

    disk, log_id = Disk(), region.header.log_id
    signal.signal(signal.SIGALRM, tell)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, PROGRESS_S, PROGRESS_S)
    try:
        is_new = data.is_new(disk)
        loaded = load_state(disk, data, log_id, progress)
        step = "region"
        check_room(region, loaded.books)
        times, why = idle.take(disk, data.idle, loaded.books.txn)
        converted = 0 if is_new else data.convert(disk)
        found = note_start(disk, data, loaded, region, segment_size, recall)
        if is_new:
            data.settle(disk)
        retention_us, grace_us = int(retention_s * 1e6), int(grace_s * 1e6)
        clock_us = time.monotonic_ns() // 1000
        idleness = Idleness(times, retention_us, grace_us, clock_us)
        damaged = fill(region, loaded, now_us(), idleness)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    tell_bad(loaded.bad)
    lost.tell(found)
    if damaged is not None:
        log.warning(
            "history_damaged",
            reason=str(damaged),
            advice="all that is in it is in a snapshot too, so that no money and no user is lost; "
            "transactions before it are not shown. Look at the disk",
        )
    behind_us = loaded.books.time - now_us()
    if behind_us > 0:
        log.warning(
            "clock_behind_log",
            seconds=round(behind_us / 1e6, 3),
            advice="transactions are dated as the newest one until the clock has reached that: "
            "is the clock right?",
        )
    if why:
        log.warning("idle_times_unknown", file=str(data.idle), reason=why)
    if converted:
        log.warning(
            "data_directory_converted",
            path=str(data.given),
            from_format=converted,
            to_format=FORMAT_VERSION,
            advice="older versions of tradechat cannot read it any more",
        )
    if is_new:
        log.warning("new_data_directory", path=str(data.given))
    log.info(
        "loaded",
        txn_id=loaded.books.txn,
        users=loaded.books.users,
        seconds=round(time.monotonic() - began, 3),
    )


def load_state(
    disk: Disk, data: DataDirectory, log_id: int, progress: Callable[[int, int], None]
) -> Loaded:
    """The state that a server starts with; nothing is changed. progress: as for `load`.
    JournalError: no server starts, and why; OSError."""
    is_new = data.is_new(disk)
    if not is_new and not segments(disk, data.journal):
        raise JournalError(data.journal_gone)
    noted = read_position(disk, data.position, log_id)
    if not is_new and noted is None:
        raise JournalError(
            f"{data.position}, which tells how far the journal is durable, is missing or damaged: "
            "so nobody knows whether the journal's end is there. Take it from a backup of the "
            f"whole directory. {DAMAGED_ADVICE}"
        )
    return load(disk, data.journal, data.snapshots, log_id, noted, progress)


def note_start(
    disk: Disk,
    data: DataDirectory,
    loaded: Loaded,
    region: Region,
    segment_size: int,
    recall: lost.Recall,
) -> list[lost.Found]:
    """Note in the journal that a server starts, before anybody is served. After a crash numbers
    that rooms and inboxes may have used, and whose events are lost, are left out; events that are
    damaged are dealt with, which is answered. OSError."""
    books, capacities = loaded.books, region.layout.capacities
    set_torn_aside(disk, data, loaded.end)
    found = lost.find(disk, data, loaded, recall)
    size = segment_bytes(capacities, segment_size)
    writer = Writer(disk, data.journal, loaded.log_id, loaded.end, size, now_us)
    skip = 0 if loaded.end.clean else books.ring
    epoch, now = books.epoch or region.header.epoch, now_us()
    if lost.begins_anew(found):
        epoch = max(now, epoch + 1)
    begin, records = (capacities.event_ring, skip, epoch), lost.records(found, books, now)
    writer.begin(*begin, records)
    books.begin(*begin)
    books.apply(b"".join(records))
    noted = PositionFile(disk, data.position, loaded.log_id)
    noted.write(writer.position)
    noted.sync()
    noted.close()
    writer.close()
    return found

"""What is cut off at the end of the journal, or passed over in it, is set aside and never dropped:
who looks into a crash may want it, and nobody has to trust that it was worth nothing.
"""

import time
from pathlib import Path

import liblog
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.format import BATCH, JOURNAL, REMOVED
from server.journal.reader import Batch, End
from server.region.records import RECORD_SIZE

log = liblog.get("journal")


def set_torn_aside(disk: Disk, data: DataDirectory, end: End) -> None:
    """Copy the remains of a batch that was being written, before a Writer cuts them off. Logged.
    OSError."""
    if not end.torn or end.path is None:
        return
    path = _set_aside(disk, data, end.path, end.offset, end.torn)
    log.warning(
        "journal_end_cut",  # it was being written when the server ended; nobody had an answer
        path=str(end.path),
        offset=end.offset,
        bytes=end.torn,
        last_txn=end.last,
        kept=str(path),
    )


def set_events_aside(disk: Disk, data: DataDirectory, batch: Batch) -> Path:
    """Copy the bytes of events that are damaged; where to. OSError."""
    offset = batch.offset + BATCH.size + batch.count * RECORD_SIZE
    return _set_aside(disk, data, batch.path, offset, batch.head.events_size)


def _set_aside(disk: Disk, data: DataDirectory, segment: Path, offset: int, size: int) -> Path:
    """Copy a part of a segment; where to. OSError."""
    kept = new_directory(disk, data) / JOURNAL
    disk.make_directory(kept)
    fd = disk.open(segment)
    try:
        part = disk.read(fd, size, offset)
    finally:
        disk.close(fd)
    path = kept / f"{segment.name}.{offset}"
    fd = disk.create(path)
    try:
        disk.write(fd, [part], 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.sync_directory(kept)
    disk.sync_directory(kept.parent)
    return path


def new_directory(disk: Disk, data: DataDirectory) -> Path:
    """A directory in the data directory for what is taken away now. OSError."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    taken, name, number = disk.names(data.path), REMOVED + stamp, 1
    while name in taken:
        number += 1
        name = f"{REMOVED}{stamp}-{number}"
    path = data.path / name
    disk.make_directory(path)
    disk.sync_directory(data.path)
    return path

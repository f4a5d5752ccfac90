"""Cutting a damaged journal back to a good state. Nothing is deleted: what is taken away is copied
before anything is changed, so a repair that is interrupted can be done again.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from server.admin.journal_tool import good_to
from server.journal.books import Books
from server.journal.directory import DataDirectory
from server.journal.disk import Disk, Piece, read_file
from server.journal.errors import Damaged, JournalError, Refused
from server.journal.format import (
    BATCH,
    FORMAT_VERSION,
    JOURNAL,
    REMOVED,
    SEGMENT,
    SNAPSHOTS,
    TEMPORARY,
    batch_head,
    numbered,
    segment_head,
)
from server.journal.load import fold, load
from server.journal.reader import SUFFIX, Batch, Reader, first_txn
from server.journal.snapshot import Snapshot, write
from server.journal.snapshot import paths as snapshot_paths
from server.journal.snapshot import read as read_snapshot
from server.region.layout import WORD
from server.region.records import RECORD_SIZE

_BATCH_MAGIC: Final = BATCH.magic.to_bytes(WORD, "little")


class Repaired(NamedTuple):
    """What a repair has done."""

    txn: int  # the newest transaction now
    kept: Path | None  # where what was taken away is; None: nothing was to be done
    cut: list[tuple[Path, int]]  # segments that were cut, and their bytes that are still used
    removed: list[Path]  # segments and snapshots that were taken away
    changed: list[Path]  # snapshots that say now that no more was durable
    lost: int  # transactions that could be read, and are taken away
    first_lost: int  # 0: none
    last_lost: int
    unreadable: int  # bytes in which there was something else


class _Plan(NamedTuple):
    kept: Path | None  # the segment that the journal ends with; None: it is made anew
    content: tuple[Piece, ...]  # that it is to have
    used: int  # bytes of it
    later: list[Path]  # segments, newest first
    drop: list[Path]  # snapshots
    rewrite: list[Path]  # snapshots
    is_same: bool  # the segment need not be changed


def repair(disk: Disk, data: DataDirectory, until: int, now: int, stamp: str) -> Repaired:
    """Make `until` the newest transaction. The caller has the data directory's lock.

    now: microseconds since the Unix epoch. stamp: the same for the name of the directory that what
    is taken away is kept in. All is copied and synced before anything is cut; a repair that was
    interrupted is done again. Refused: it cannot be done, and nothing was changed. OtherFormat,
    OSError.
    """
    data.identity(disk)
    plan = _plan(disk, data, until, now)
    lost, first_lost, last_lost, unreadable = _lost(disk, plan, until)
    touched = [*plan.drop, *plan.rewrite, *plan.later]
    if plan.kept is not None and not plan.is_same:
        touched.append(plan.kept)
    if touched or not plan.is_same:
        kept = _keep(disk, data, touched, stamp) if touched else None
        _cut(disk, data, plan, until, now)
    else:
        kept = None
    loaded = load(disk, data.journal, data.snapshots, lambda _done, _total: None)
    if loaded.books.txn != until:
        raise JournalError(f"the state is of transaction {loaded.books.txn} now, not of {until}")
    return Repaired(
        until,
        kept,
        [(plan.kept, plan.used)] if plan.kept is not None and not plan.is_same else [],
        [*plan.drop, *plan.later],
        plan.rewrite,
        lost,
        first_lost,
        last_lost,
        unreadable,
    )


def _plan(disk: Disk, data: DataDirectory, until: int, now: int) -> _Plan:
    """What is to be done. Refused."""
    good, drop, rewrite = _snapshots(disk, data, until)
    reader = Reader(disk, data.journal)
    if not reader.paths:
        raise Refused(f"there is no journal in {data.journal}")
    books = good[0].books if good else Books()
    batch = _followed(disk, data, reader, books, until)
    kept = max((path for path in reader.paths if first_txn(path) <= until), default=None)
    later = [path for path in reversed(reader.paths) if kept is None or path > kept]
    if kept is None:  # all of it is after `until`: the first begins anew, without a batch
        only = read_file(disk, reader.paths[0])
        if len(later) == 1 and segment_head(only) and not only[SEGMENT.size :].strip(b"\0"):
            return _Plan(None, (), 0, [], drop, rewrite, is_same=True)
        salt = int.from_bytes(os.urandom(WORD), "little")
        header = SEGMENT.pack(FORMAT_VERSION, until + 1, salt, now)
        return _Plan(None, (header,), len(header), later, drop, rewrite, is_same=False)
    assert batch is not None, "the one that `until` is in"
    pieces, used, is_same = _shortened(read_file(disk, kept), batch, until)
    return _Plan(kept, pieces, used, later, drop, rewrite, is_same)


def _snapshots(
    disk: Disk, data: DataDirectory, until: int
) -> tuple[list[Snapshot], list[Path], list[Path]]:
    """The good ones up to `until`, newest first; those to drop; those whose header says that more
    was durable."""
    good, drop, rewrite = [], [], []
    for path in snapshot_paths(disk, data.snapshots):
        try:
            found = read_snapshot(disk, path)
        except Damaged:
            drop.append(path)
            continue
        if found.books.txn > until:
            drop.append(path)
            continue
        good.append(found)
        if found.head.durable > until:
            rewrite.append(path)
    return good, drop, rewrite


def _followed(
    disk: Disk, data: DataDirectory, reader: Reader, books: Books, until: int
) -> Batch | None:
    """Fold the journal into the books up to `until`; the batch that it is in, if it is in one.
    Refused where that cannot be done."""
    first = first_txn(reader.paths[0])
    if books.txn < first - 1:
        oldest = min((found.books.txn for found in _all_good(disk, data)), default=0)
        why = "there is no snapshot that is good"
        if oldest:
            why = f"the oldest state that is there is of transaction {oldest}"
        raise Refused(
            f"the state at transaction {until} cannot be made: the journal begins with {first}, "
            f"and {why}"
        )
    before, batch = first - 1, None
    if until <= before:
        return None
    try:
        for batch in reader.batches(before):
            fold(books, batch, min(batch.last, until))
            before = batch.last
            if before >= until:
                break
    except Damaged as error:
        reached = max(before, good_to(error))
        raise Refused(
            f"transaction {until} is behind the damage ({error}): the journal is good up to "
            f"{reached}"
        ) from error
    if before < until:
        raise Refused(f"the journal ends with transaction {before}")
    return batch


def _shortened(data: bytes, batch: Batch, until: int) -> tuple[tuple[Piece, ...], int, bool]:
    """The segment up to `until`, as long as it was; the bytes used of it; whether it is the same as
    before."""
    head = segment_head(data)
    assert head is not None, "a batch was read from it"
    pieces: list[Piece] = [data[: batch.offset]]
    records = batch.records[: (until + 1 - batch.first) * RECORD_SIZE]
    if batch.last > until:
        count = until + 1 - batch.first
        header = BATCH.pack(head.salt, batch.first, count, batch.time, rest=(records,))
    else:
        header = data[batch.offset : batch.offset + BATCH.size]
    pieces += [header, records]
    used = sum(map(len, pieces))
    is_same = batch.last == until and not data[used:].strip(b"\0")
    pieces.append(bytes(len(data) - used))
    return tuple(pieces), used, is_same


def _all_good(disk: Disk, data: DataDirectory) -> Iterator[Snapshot]:
    for path in snapshot_paths(disk, data.snapshots):
        try:
            yield read_snapshot(disk, path)
        except Damaged:
            continue


def _lost(disk: Disk, plan: _Plan, until: int) -> tuple[int, int, int, int]:
    """Of what is taken away: how many transactions above `until` can be read there, the first and
    the last of them, and the bytes that are something else."""
    count = first = last = unreadable = 0
    cut = [plan.kept] if plan.kept is not None and not plan.is_same else []
    for path in [*cut, *reversed(plan.later)]:
        data = read_file(disk, path)
        head = segment_head(data)
        at, end = SEGMENT.size if head is not None else 0, len(data.rstrip(b"\0"))
        while at < end:
            found = batch_head(data, at)
            if found is None or (head is not None and found.salt != head.salt):
                following = data.find(_BATCH_MAGIC, at + 1)
                following = end if following < 0 else min(following, end)
                unreadable += following - at
                at = following
                continue
            at += BATCH.size + found.records * RECORD_SIZE
            newest = found.first_txn + found.records - 1
            if newest > until:
                oldest_here = max(found.first_txn, until + 1)
                count += newest + 1 - oldest_here
                first, last = first or oldest_here, newest
    return count, first, last, unreadable


def _keep(disk: Disk, data: DataDirectory, touched: list[Path], stamp: str) -> Path:
    """Copy files to where they stay, and make that last."""
    taken, number = disk.names(data.path), 1
    name = REMOVED + stamp
    while name in taken:
        number += 1
        name = f"{REMOVED}{stamp}-{number}"
    kept = data.path / name
    disk.make_directory(kept)
    for part, source in ((JOURNAL, data.journal), (SNAPSHOTS, data.snapshots)):
        files = [path for path in touched if path.parent == source]
        if not files:
            continue
        disk.make_directory(kept / part)
        for path in files:
            _write(disk, kept / part / path.name, (read_file(disk, path),))
        disk.sync_directory(kept / part)
    disk.sync_directory(kept)
    disk.sync_directory(data.path)
    return kept


def _write(disk: Disk, path: Path, pieces: tuple[Piece, ...]) -> None:
    """A new file, its content synced and its name not yet."""
    fd = disk.create(path)
    try:
        disk.write(fd, pieces, 0)
        disk.sync(fd)
    finally:
        disk.close(fd)


def _cut(disk: Disk, data: DataDirectory, plan: _Plan, until: int, now: int) -> None:
    """In an order in which whatever is there after a crash is either good or still refused, and
    the same repair can be done again: the base it needs stays, and no segment in the middle is
    ever missing."""
    for path in plan.drop:
        disk.remove(path)
        disk.sync_directory(data.snapshots)
    for path in plan.rewrite:  # in one step each
        write(disk, data.snapshots, read_snapshot(disk, path).books, until, now)
    target = plan.kept or numbered(data.journal, until + 1, SUFFIX)
    for path in plan.later:
        if path != target:
            disk.remove(path)
            disk.sync_directory(data.journal)
    if plan.is_same:
        return
    temporary = target.with_name(target.name + TEMPORARY)
    if temporary.name in disk.names(data.journal):
        disk.remove(temporary)
    _write(disk, temporary, plan.content)
    disk.rename(temporary, target)
    disk.sync_directory(data.journal)

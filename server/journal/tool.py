"""Looking at a data directory from outside, and cutting a damaged journal back to a good state.

Looking stores nothing and takes no lock, so it works beside a running server. What is being written
meanwhile can look like damage for a moment: a batch that was half there when its bytes were read,
with the next one whole behind it, or a file that has gone. So what is wrong counts only if it is
still so when all is read once more.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.books import Books, Inconsistent
from server.journal.describe import REMOVED
from server.journal.directory import DataDirectory
from server.journal.disk import Disk, Piece, read_file
from server.journal.errors import Damaged, JournalError
from server.journal.format import (
    BATCH,
    FORMAT_VERSION,
    JOURNAL,
    SEGMENT,
    SNAPSHOTS,
    TEMPORARY,
    batch_head,
    numbered,
    segment_head,
)
from server.journal.load import load
from server.journal.reader import SUFFIX, Batch, Reader, first_txn, segments
from server.journal.room_segments import RECORD, Scan, record_size
from server.journal.snapshot import Snapshot, write
from server.journal.snapshot import paths as snapshot_paths
from server.journal.snapshot import read as read_snapshot
from server.state.inspect import Value, decode_txn
from server.state.layout import WORD
from server.state.records import OFFSETS, RECORD_SIZE, RECORD_WORDS, RecordKind

_TRIES: Final = 5
_BATCH_MAGIC: Final = BATCH.magic.to_bytes(WORD, "little")
_USERS: Final = ("from_user", "to_user", "user_id")


class Refused(JournalError):
    """What was asked for cannot be done with what is there; nothing was changed."""


# ---- verify


class File(NamedTuple):
    """A file that was read, and what it holds; `problem` is empty where it is good."""

    path: Path
    holds: str
    offset: int = 0  # of the problem, bytes
    problem: str = ""


@dataclass(slots=True)
class Report:
    """What a data directory holds."""

    txn: int = 0  # the newest up to which all is good in the journal
    oldest: int = 0  # the oldest that is in the journal; 0: none
    files: list[File] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[File]:
        return [file for file in self.files if file.problem]


def verify(disk: Disk, data: DataDirectory) -> Report:
    """Read and check everything. OtherFormat, OSError: it cannot be read."""
    data.identity(disk)
    before: list[tuple[Path, str]] | None = None
    for attempt in range(1, _TRIES + 1):
        try:
            report = _verify(disk, data)
        except FileNotFoundError:  # removed by the server, as no longer needed
            if attempt == _TRIES:
                raise
            continue
        wrong = [(file.path, file.problem) for file in report.problems]
        if not wrong or wrong == before:
            break
        before = wrong
    return report


def _verify(disk: Disk, data: DataDirectory) -> Report:
    report = Report()
    good: list[Snapshot] = []
    # Before the journal: what they have seen durable it must reach.
    for path in reversed(snapshot_paths(disk, data.snapshots)):
        try:
            found = read_snapshot(disk, path)
        except Damaged as error:
            report.files.append(File(path, "a snapshot", error.offset, error.what))
        else:
            good.append(found)
            holds = f"the state at {found.head.txn_id}: {_count(found.head.users, 'user')}"
            report.files.append(File(path, holds))
    _verify_journal(disk, data, good, report)
    _verify_rooms(disk, data, report)
    return report


def _verify_journal(disk: Disk, data: DataDirectory, good: list[Snapshot], report: Report) -> None:
    reader = Reader(disk, data.journal)
    first = first_txn(reader.paths[0]) if reader.paths else 1
    books: Books | None = Books()
    if first != 1:
        books = next((found.books for found in good if found.books.txn >= first - 1), None)
    due = [found for found in good if books is None or found.books is not books]
    required = max([found.head.durable for found in good], default=0)
    read: dict[Path, tuple[int, int, int]] = {}  # batches, first and last txn_id
    report.oldest = first if reader.paths else 0
    last = first - 1
    try:
        for batch in reader.batches(first - 1):
            if books is not None:
                for found in _fold(books, batch, due):
                    place = next(i for i, each in enumerate(report.files) if each.path == found)
                    report.files[place] = report.files[place]._replace(
                        problem="the snapshot is not what the journal makes"
                    )
            count, begin, _ = read.get(batch.path, (0, batch.first, 0))
            read[batch.path] = (count + 1, begin, batch.last)
            last = batch.last
        if books is None:
            raise Damaged(reader.paths[0], 0, f"transactions 1 to {first - 1} are missing, and no "
                          "snapshot is good that has them")  # fmt: skip
        end = reader.end
        if end.last < required:
            where = end.path or end.unborn or data.journal
            raise Damaged(where, end.offset, f"the journal ends with transaction {end.last}, and "
                          f"all up to {required} were durable once")  # fmt: skip
    except Damaged as error:
        wrong: Damaged | None = error
        last = max(last, _good_to(error))
    else:
        wrong = None
        if end.torn or end.unborn:
            report.notes.append(
                f"{end.unborn or end.path}, offset {end.offset}: what stands here was not written "
                "wholly. That is no damage: the batch was being written, by a server that runs or "
                "that was killed"
            )
    report.txn = last
    for path in reader.paths:
        bad = wrong is not None and wrong.path == path
        if path in read:
            count, begin, until = read[path]
            holds = f"transactions {begin} to {until}, {count} batches"
        else:
            holds = "no transaction" if wrong is None or bad else "not read"
        offset, problem = (wrong.offset, wrong.what) if wrong is not None and bad else (0, "")
        report.files.append(File(path, holds, offset, problem))
    if wrong is not None and wrong.path not in reader.paths:
        report.files.append(File(wrong.path, "", wrong.offset, wrong.what))


def _fold(books: Books, batch: Batch, due: list[Snapshot]) -> list[Path]:
    """Apply a batch, and compare the snapshots that are of a transaction in it: those that differ.
    Damaged."""
    different = []
    while due and due[0].books.txn <= batch.last:
        found = due.pop(0)
        if found.books.txn < batch.first - 1:
            continue  # the journal begins after it
        _apply(books, batch, found.books.txn)
        if books.txn == found.books.txn and _state(books) != _state(found.books):
            different.append(found.path)
    _apply(books, batch, batch.last)
    return different


def _apply(books: Books, batch: Batch, upto: int) -> None:
    """Fold a batch's records up to a txn_id. Damaged."""
    try:
        books.apply(batch.records[: max(0, upto + 1 - batch.first) * RECORD_SIZE])
    except Inconsistent as error:
        offset = batch.offset + BATCH.size + (error.txn - batch.first) * RECORD_SIZE
        raise Damaged(batch.path, offset, str(error)) from error


def _good_to(error: Damaged) -> int:
    """The transaction before a record that does not follow; 0: that is not what is wrong."""
    return error.__cause__.txn - 1 if isinstance(error.__cause__, Inconsistent) else 0


def _state(books: Books) -> dict[str, object]:
    """All but what no record tells."""
    return {name: value for name, value in vars(books).items() if name != "last_seen"}


def _verify_rooms(disk: Disk, data: DataDirectory, report: Report) -> None:
    scan = Scan(disk, data.rooms)
    wrong: Damaged | None = None
    events: dict[int, int] = {}  # by segment
    try:
        for number, offset, records in scan.batches():
            at, count = 0, 0
            while at + RECORD.size <= len(records):
                _, _, _, length = RECORD.unpack_from(records, at)
                count += length > 0
                at += record_size(length)
            if at != len(records):
                path = scan.segments[-1].path
                raise Damaged(path, offset, "the records of a batch do not fill it")
            events[number] = events.get(number, 0) + count
    except Damaged as error:
        wrong = error
    for path, head, _ in scan.segments:
        bad = wrong is not None and wrong.path == path
        offset, problem = (wrong.offset, wrong.what) if wrong is not None and bad else (0, "")
        holds = f"{_count(events.get(head.number, 0), 'event')} of rooms"
        report.files.append(File(path, holds, offset, problem))
    if wrong is not None and all(wrong.path != segment.path for segment in scan.segments):
        report.files.append(File(wrong.path, "", wrong.offset, wrong.what))
    if scan.torn is not None and wrong is None:
        report.notes.append(
            f"{scan.torn.path}, offset {scan.torn.offset}: what stands here was not written "
            "wholly. That is no damage"
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ---- dump


def user_id(disk: Disk, data: DataDirectory, text: str) -> int:
    """The user of a name, or of an id where nobody has that name. Refused: there is none."""
    is_id = text.isascii() and text.isdigit() and len(text) < 20
    name, id_, known = text.encode("utf-8", "replace"), int(text) if is_id else 0, 0
    at = OFFSETS[RecordKind.REGISTER]
    offset, words = at["name"] * WORD, 4
    for path in snapshot_paths(disk, data.snapshots):
        try:
            books = read_snapshot(disk, path).books
        except (Damaged, FileNotFoundError):
            continue
        if name in books.user_ids:
            return books.user_ids[name]
        known = books.users
        break
    try:
        for batch in _batches(disk, data, 1):
            numbers = batch.records.cast("Q")
            for place in range(batch.count):
                first = place * RECORD_WORDS
                if numbers[first + at["kind"]] != RecordKind.REGISTER:
                    continue
                begin = place * RECORD_SIZE + offset
                found = bytes(batch.records[begin : begin + words * WORD]).rstrip(b"\0")
                user = numbers[first + at["user_id"]]
                if found == name:
                    return user
                known = max(known, user)
    except Damaged:
        pass  # the dump itself tells of it
    if 0 < id_ <= known:
        return id_
    raise Refused(f"there is no user {text!r}")


def oldest(disk: Disk, data: DataDirectory) -> int:
    """The first transaction that the journal has; 1 where it has none."""
    paths = segments(disk, data.journal)
    return first_txn(paths[0]) if paths else 1


def dump(
    disk: Disk, data: DataDirectory, first: int, last: int | None, user: int | None
) -> Iterator[dict[str, Value]]:
    """The records from one txn_id to another, oldest first, secrets hidden; of one user, or of all.
    Damaged: after what is good before it."""
    for batch in _batches(disk, data, first):
        words = batch.words()
        for place in range(batch.count):
            txn = batch.first + place
            if last is not None and txn > last:
                return
            if txn < first:
                continue
            values = decode_txn(words[place * RECORD_WORDS : (place + 1) * RECORD_WORDS])
            assert values is not None, "its number is not 0"
            if user is None or user in [values.get(name) for name in _USERS]:
                yield values


def _batches(disk: Disk, data: DataDirectory, first: int) -> Iterator[Batch]:
    """The batches from a txn_id on, or from the first that is there; again from where it was if
    something was wrong. Damaged."""
    after, before = max(first, oldest(disk, data)) - 1, ""
    while True:
        try:
            for batch in Reader(disk, data.journal).batches(after):
                yield batch
                after = batch.last
        except (Damaged, FileNotFoundError) as error:
            if str(error) == before:
                raise
            before = str(error)
        else:
            return


# ---- repair


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
    reader = Reader(disk, data.journal)
    if not reader.paths:
        raise Refused(f"there is no journal in {data.journal}")
    first = first_txn(reader.paths[0])
    books = good[0].books if good else Books()
    if books.txn < first - 1:
        oldest = min((found.books.txn for found in _all_good(disk, data)), default=0)
        why = f"the oldest state that is there is of transaction {oldest}" if oldest else (
            "there is no snapshot that is good"
        )  # fmt: skip
        raise Refused(
            f"the state at transaction {until} cannot be made: the journal begins with {first}, "
            f"and {why}"
        )
    before, batch = first - 1, None
    if until > before:
        try:
            for batch in reader.batches(before):
                _apply(books, batch, min(batch.last, until))
                before = batch.last
                if before >= until:
                    break
        except Damaged as error:
            good_to = max(before, _good_to(error))
            raise Refused(
                f"transaction {until} is behind the damage ({error}): the journal is good up to "
                f"{good_to}"
            ) from error
        if before < until:
            raise Refused(f"the journal ends with transaction {before}")
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
    data_of = read_file(disk, kept)
    head = segment_head(data_of)
    assert head is not None, "a batch was read from it"
    pieces: list[Piece] = [data_of[: batch.offset]]
    records = batch.records[: (until + 1 - batch.first) * RECORD_SIZE]
    if batch.last > until:
        count = until + 1 - batch.first
        header = BATCH.pack(head.salt, batch.first, count, batch.time, rest=(records,))
    else:
        header = data_of[batch.offset : batch.offset + BATCH.size]
    pieces += [header, records]
    used = sum(map(len, pieces))
    is_same = batch.last == until and not data_of[used:].strip(b"\0")
    pieces.append(bytes(len(data_of) - used))
    return _Plan(kept, tuple(pieces), used, later, drop, rewrite, is_same)


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

"""Looking at a data directory from outside: is it good, and what is in it?

Looking stores nothing and takes no lock, so it works beside a running server. What is being written
meanwhile can look like damage for a moment: a batch that was half there when its bytes were read,
with the next one whole behind it, or a file that has gone. So what is wrong counts only if it is
still so when all is read once more.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from server.admin.inspect import Value, decode_txn
from server.archive.segments import RECORD, Scan, record_size
from server.journal.books import Books, Inconsistent
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import Damaged, Refused
from server.journal.format import (
    BATCH,
)
from server.journal.load import fold
from server.journal.reader import Batch, Reader, first_txn, segments
from server.journal.snapshot import Snapshot
from server.journal.snapshot import paths as snapshot_paths
from server.journal.snapshot import read as read_snapshot
from server.region.layout import WORD
from server.region.records import OFFSETS, RECORD_SIZE, RECORD_WORDS, RecordKind

_TRIES: Final = 5
_BATCH_MAGIC: Final = BATCH.magic.to_bytes(WORD, "little")
_USERS: Final = ("from_user", "to_user", "user_id")


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
        last = max(last, good_to(error))
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
        fold(books, batch, found.books.txn)
        if books.txn == found.books.txn and _state(books) != _state(found.books):
            different.append(found.path)
    fold(books, batch, batch.last)
    return different


def good_to(error: Damaged) -> int:
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

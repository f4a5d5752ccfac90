"""Is a data directory good, file by file, and does a server start with it?

Looking stores nothing and takes no lock, so it works beside a running server. What is being written
meanwhile can look like damage for a moment: a batch that was half there when its bytes were read,
with the next one whole behind it, or a file that has gone. So what is wrong counts only if it is
still so when all is read once more.

Whether a server starts is asked of what the server itself asks.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from server.admin.journal_survey import Held, Match, Seen, Survey, survey
from server.archive.numbers import numbers_of
from server.archive.segments import RECORD, Scan, record_size
from server.journal import packed, spill
from server.journal.directory import DataDirectory
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, JournalError
from server.journal.load import Loaded, events_damaged
from server.journal.reader import number_of
from server.journal.start import load_state

_TRIES: Final = 5
_MATCHES: Final = {
    Match.DIFFERENT: "the journal makes another state",
    Match.FOREIGN: "it is a snapshot of another journal: this one has another batch at its place",
    Match.BEYOND: "the journal ends before it: the end of the journal is missing",
}
ONLY_HISTORY: Final = "only history: a server starts with what is newer"
DEALT_WITH: Final = (
    "a start has dealt with it: a server starts with what is there, and loses no more"
)
_UNSURE: Final = "it is not known any more whether messages from before were executed"
LOST: Final = (
    "a server starts, and no money is lost: but what was said in these events is, so rooms and "
    f"inboxes begin a new epoch, and {_UNSURE}"
)
OF_AN_OLDER_EPOCH: Final = (
    "a server starts, and no money is lost: but what was said in these events is, before rooms "
    f"and inboxes began the epoch that they are in, and {_UNSURE}"
)
IN_HISTORIES: Final = (
    f"a server starts, and no money is lost; the histories have these events; but {_UNSURE}"
)
PASSED_OVER: Final = "a server passes it over, and loses nothing"
CHAT_REFUSED: Final = (
    "a server serves money, and refuses chat until `tradechat-admin journal repair` has moved it "
    "away"
)
HISTORIES_ANEW: Final = "a server serves money and chat, and makes the histories anew"


@dataclass(slots=True)
class Problem:
    """Something in a file that is not as it should be."""

    offset: int  # bytes
    what: str
    effect: str = ""  # what a server does nevertheless


@dataclass(slots=True)
class File:
    """A file that was read, and what it holds."""

    path: Path
    holds: str = ""
    problems: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """What a data directory holds."""

    files: dict[Path, File] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusal: str = ""  # why no server starts
    txn: int = 0  # newest transaction of the state that a server starts with, or could
    event: int = 0  # newest event, likewise
    oldest: int = 0  # the oldest transaction that can be read in the journal; 0: none

    @property
    def is_good(self) -> bool:
        return not self.refusal and not any(file.problems for file in self.files.values())

    def file(self, path: Path, holds: str = "") -> File:
        """The row of a file, which is made where there is none."""
        file = self.files.setdefault(path, File(path))
        file.holds = file.holds or holds
        return file

    def add(self, error: Damaged, effect: str = "") -> None:
        """Something that is damaged; once."""
        problems = self.file(error.path).problems
        if (error.offset, error.what) not in [(known.offset, known.what) for known in problems]:
            problems.append(Problem(error.offset, error.what, effect))


def verify(disk: Disk, data: DataDirectory) -> Report:
    """Read and check everything. OtherFormat, DirectoryUnusable, OSError: it
    cannot be read."""
    before: list[tuple[Path, list[Problem]]] | None = None
    for attempt in range(1, _TRIES + 1):
        try:
            report = _verify(disk, data)
        except FileNotFoundError:  # removed by the server, as no longer needed
            if attempt == _TRIES:
                raise
            continue
        wrong = [(file.path, file.problems) for file in report.files.values() if file.problems]
        if (not wrong and not report.refusal) or wrong == before:
            break
        before = wrong
    return report


def _verify(disk: Disk, data: DataDirectory) -> Report:
    report, identity = Report(), data.identity(disk)
    data.check_directories()
    report.file(data.identity_file, f"log {identity.log_id:016x}")
    becoming = data.begun_repair(disk)
    found = survey(disk, data, (identity.log_id, *filter(None, [becoming])))
    loaded: Loaded | None = None
    refused: JournalError | None = None
    try:
        data.check_repaired(disk)
        loaded = load_state(disk, data, identity.log_id, lambda _done, _of: None)
    except JournalError as error:
        report.refusal, refused = str(error), error
    _tell_journal(found, loaded, data, report)
    _tell_packed(disk, data, report)
    _tell_copied(disk, data, report)
    for seen in found.snapshots:
        _tell_snapshot(seen, loaded, report)
    _tell_position(disk, data, found, report)
    if isinstance(refused, Damaged):
        report.add(refused)
    epoch = loaded.books.epoch if loaded is not None else 0
    _verify_rooms(disk, data, report, identity.log_id, epoch)
    if loaded is not None:
        report.txn, report.event = loaded.books.txn, loaded.books.event
    elif found.reached is not None:
        report.txn, report.event = found.reached.position.txn, found.reached.position.event
    return report


def _tell_journal(
    found: Survey, loaded: Loaded | None, data: DataDirectory, report: Report
) -> None:
    for path in found.paths:
        held = found.segments.get(path)
        report.file(path, "nothing that can be read" if held is None else _holds(held))
    held_txns = [held.first_txn for held in found.segments.values() if held.txns]
    report.oldest = min(held_txns, default=0)
    needed = (0, 0)  # from here on a server reads it
    if loaded is not None:
        needed = loaded.head.position[:2] if loaded.head else needed
    else:
        needed = max(
            (s.snapshot.head.position[:2] for s in found.good if s.snapshot), default=needed
        )
    for error in found.damages:
        is_segment = error.path in found.paths
        is_old = is_segment and (number_of(error.path), error.offset) < needed
        report.add(error, ONLY_HISTORY if is_old else "")
    new = _lost_now(loaded, data) if loaded is not None else {}
    for error in found.lost:
        if (number_of(error.path), error.offset) < needed:
            report.add(error, ONLY_HISTORY)
        else:
            report.add(error, new.get(str(error), DEALT_WITH if loaded is not None else ""))
    end = found.end
    if end is not None and end.torn:
        report.notes.append(
            f"{end.path}, offset {end.offset}: what stands here was not written wholly. That is no "
            "damage: the batch was being written, by a server that runs or that was killed"
        )


def _lost_now(loaded: Loaded, data: DataDirectory) -> dict[str, str]:
    """What a start would do about the events that it would find damaged, by what is wrong."""
    effects = {}
    for batch in loaded.lost:
        effect, epoch = OF_AN_OLDER_EPOCH, loaded.books.epoch
        if loaded.books.lost[batch.head.first_event].epoch == epoch:
            numbers = numbers_of(loaded.disk, data.rooms, loaded.log_id, batch.head, epoch)
            effect = LOST if numbers is None else IN_HISTORIES
        effects[str(events_damaged(batch))] = effect
    return effects


def _tell_packed(disk: Disk, data: DataDirectory, report: Report) -> None:
    for path in packed.paths(disk, data.journal):
        held = Held()
        try:
            for batch in packed.batches(disk, path):
                held.take(batch)
                if batch.lost:
                    report.add(events_damaged(batch), ONLY_HISTORY)
        except FileNotFoundError:  # its time is over
            continue
        except Damaged as error:
            report.add(error, ONLY_HISTORY)
        report.file(path, _holds(held))
        if held.txns:
            report.oldest = min(report.oldest or held.first_txn, held.first_txn)


def _tell_copied(disk: Disk, data: DataDirectory, report: Report) -> None:
    for item in spill.read_all(disk, data.journal):
        if isinstance(item, Damaged):
            report.file(item.path, "events for the histories")
            report.add(item, CHAT_REFUSED)
        else:
            head = item.head
            report.file(
                item.path, f"for the histories: events {head.first_event} to {head.next_event - 1}"
            )


def _holds(held: Held) -> str:
    parts = []
    if held.txns:
        parts.append(f"transactions {held.first_txn} to {held.first_txn + held.txns - 1}")
    if held.last_event >= held.first_event > 0:
        parts.append(f"events {held.first_event} to {held.last_event}")
    return ", ".join([*(parts or ["no transaction"]), count_of(held.batches, "batch", "es")])


def _tell_snapshot(seen: Seen, loaded: Loaded | None, report: Report) -> None:
    effect = PASSED_OVER if loaded is not None else ""
    if seen.snapshot is None:
        assert seen.error is not None
        report.file(seen.path, "a snapshot")
        report.add(seen.error, effect)
        return
    head = seen.snapshot.head
    report.file(
        seen.path,
        f"the state at transaction {head.txn_id} and event {head.event}: "
        f"{count_of(head.users, 'user')}",
    )
    if seen.match in _MATCHES:
        is_used = loaded is not None and loaded.head == head
        report.add(Damaged(seen.path, 0, _MATCHES[seen.match]), "" if is_used else effect)
    elif seen.match is Match.UNKNOWN:
        report.notes.append(
            f"{seen.path} is good in itself; the journal does not have its place, so they could "
            "not be compared"
        )


def _tell_position(disk: Disk, data: DataDirectory, found: Survey, report: Report) -> None:
    noted = found.noted
    if data.position.name not in disk.names(data.path):
        report.add(Damaged(data.position, 0, "it is missing"))
    elif noted is None:
        read_file(disk, data.position)
        what = "nothing in it is whole, or of this log"
        report.add(Damaged(data.position, 0, what))
    else:
        report.file(
            data.position,
            f"durable were transaction {noted.txn} and event {noted.event}, in segment "
            f"{noted.segment} at offset {noted.offset}",
        )


def _verify_rooms(disk: Disk, data: DataDirectory, report: Report, log_id: int, epoch: int) -> None:
    """epoch: of the numbers of rooms and inboxes; 0: it is not known."""
    if data.rooms.name not in disk.names(data.path):
        report.notes.append(f"{data.rooms} is missing: {HISTORIES_ANEW}")
    scan = Scan(disk, data.rooms)
    events: dict[int, int] = {}  # by segment
    wrong: Damaged | None = None
    try:
        for _, number, offset, records in scan.batches():
            at, count = 0, 0
            while at + RECORD.size <= len(records):
                *_, length = RECORD.unpack_from(records, at)
                count += length > 0
                at += record_size(length)
            if at != len(records):
                path = scan.segments[-1].path
                raise Damaged(path, offset, "the records of a batch do not fill it")
            events[number] = events.get(number, 0) + count
    except Damaged as error:
        wrong = error
    for path, head, *_ in scan.segments:
        report.file(path, f"{count_of(events.get(head.number, 0), 'event')} of rooms")
    heads = [segment.head for segment in scan.segments]
    if any(head.log_id != log_id or (epoch and head.epoch != epoch) for head in heads):
        report.notes.append(
            f"{data.rooms} is of another log, or of rooms that have begun anew since, as they do "
            f"with a repair: {HISTORIES_ANEW}"
        )
    if wrong is not None:
        report.add(wrong, HISTORIES_ANEW)
    elif scan.torn is not None:
        report.notes.append(
            f"{scan.torn.path}, offset {scan.torn.offset}: what stands here was not written "
            "wholly. That is no damage"
        )


def count_of(number: int, what: str, plural: str = "s") -> str:
    """A number and what it counts."""
    return f"{number} {what}{'' if number == 1 else plural}"

"""All of a journal, past whatever is damaged in it, and each snapshot beside what the journal
makes: what verify tells, and what a repair chooses from.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from server.journal.books import Books
from server.journal.directory import DataDirectory
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged
from server.journal.format import SEGMENT, BatchKind, SegmentHead, batch_head, segment_head
from server.journal.load import events_damaged, fold
from server.journal.position import read as read_position
from server.journal.reader import Batch, End, Position, Reader, find_batch, number_of, start_of
from server.journal.snapshot import Snapshot
from server.journal.snapshot import paths as snapshot_paths
from server.journal.snapshot import read as read_snapshot

Place = tuple[int, int]
"""Number of a segment, and an offset in it."""


class Match(Enum):
    """What a good snapshot is beside the journal."""

    UNKNOWN = auto()  # the journal does not have that place, or it is damaged there
    GOOD = auto()  # the journal has the place, and makes the same state where it tells of it
    DIFFERENT = auto()  # the journal makes another state
    FOREIGN = auto()  # that place of the journal is another one
    BEYOND = auto()  # the journal ends before it


@dataclass(slots=True)
class Seen:
    """A snapshot's file."""

    path: Path
    snapshot: Snapshot | None = None  # None: damaged
    error: Damaged | None = None  # Foreign: it is of another log
    match: Match = Match.UNKNOWN


@dataclass(slots=True)
class Held:
    """What could be read in a segment."""

    batches: int = 0
    first_txn: int = 0
    txns: int = 0
    first_event: int = 0
    last_event: int = 0

    def take(self, batch: Batch) -> None:
        """One more."""
        head = batch.head
        self.first_txn = self.first_txn or head.first_txn
        self.first_event = self.first_event or head.first_event
        self.batches, self.txns = self.batches + 1, self.txns + head.txns
        self.last_event = batch.end.event


class Reached(NamedTuple):
    """The end of a batch whose state is known."""

    base: Seen | None  # it follows from this snapshot; None: from the beginning
    position: Position
    path: Path | None = None  # the segment; None: the journal does not have that place
    batch: int = 0  # offset of the last batch; 0: not known, or the segment has none
    clean: bool = False  # it is an END


@dataclass(slots=True)
class Survey:
    """What a data directory has of its journal."""

    paths: list[Path]  # the segments, oldest first
    noted: Position | None  # what was durable for certain
    log_id: int  # identity of the newest segment
    unborn: Path | None = None  # a segment that was being made
    segments: dict[Path, Held] = field(default_factory=dict)
    damages: list[Damaged] = field(default_factory=list)
    lost: list[Damaged] = field(default_factory=list)  # events of batches, and nothing else of them
    snapshots: list[Seen] = field(default_factory=list)  # newest first
    end: End | None = None  # None: the newest segment is damaged behind its last good batch
    reached: Reached | None = None  # the newest place whose state is known

    @property
    def good(self) -> list[Seen]:
        """The snapshots that can be read."""
        return [seen for seen in self.snapshots if seen.snapshot is not None]


def survey(
    disk: Disk, data: DataDirectory, log_ids: Sequence[int], until: int | None = None
) -> Survey:
    """Look at everything. log_ids: the identity of the log, and a second one where a repair was
    interrupted in giving it that. until: `reached` has no transaction above it. OtherFormat,
    OSError."""
    # Before the journal, which only grows: what is known to be durable it must reach.
    noted = [read_position(disk, data.position, log_id) for log_id in log_ids]
    snapshots = [_seen(disk, path, log_ids) for path in snapshot_paths(disk, data.snapshots)]
    log_id = _newest_of(disk, data, log_ids)
    reader = Reader(disk, data.journal, log_id)
    found = Survey(reader.paths, noted[-1], log_id, reader.end.unborn, snapshots=snapshots)
    _Surveyor(disk, reader, found, until).go()
    return found


def _newest_of(disk: Disk, data: DataDirectory, log_ids: Sequence[int]) -> int:
    """The identity that the newest segment has, if it is one of these."""
    paths = Reader(disk, data.journal, log_ids[0]).paths
    head = _head_of(disk, paths[-1]) if paths else None
    return head.log_id if head is not None and head.log_id in log_ids else log_ids[0]


def _head_of(disk: Disk, path: Path) -> SegmentHead | None:
    try:
        return segment_head(read_file(disk, path, SEGMENT.size))
    except OSError:
        return None


def _seen(disk: Disk, path: Path, log_ids: Sequence[int]) -> Seen:
    seen = Seen(path)
    for log_id in log_ids:
        try:
            seen.snapshot, seen.error = read_snapshot(disk, path, log_id), None
        except Damaged as error:
            seen.error = error
        else:
            break
    return seen


def same_state(one: Books, other: Books) -> bool:
    """In all but what no record tells."""
    left, right = vars(one), vars(other)
    apart = {"last_seen", "named"}
    return one.named.is_as(other.named) and all(
        left[name] == right[name] for name in left if name not in apart
    )


class _Surveyor:
    """One pass over the journal."""

    def __init__(self, disk: Disk, reader: Reader, found: Survey, until: int | None) -> None:
        self._disk, self._reader, self._found, self._until = disk, reader, found, until
        self._due = list(reversed(found.good))
        self._due.sort(key=_place_of)
        self._books: Books | None = None  # of the place that has been reached; None: not known
        self._base: Seen | None = None
        self._is_gap = True  # nothing is known of what stands before

    def go(self) -> None:
        found, reader = self._found, self._reader
        if reader.paths and number_of(reader.paths[0]) == 1:
            self._books = Books()
            self._reach(reader.end.position, None, 0)
        for item in walk(self._disk, reader):
            if isinstance(item, Batch):
                self._take(item)
            elif isinstance(item, End):
                self._finish(item)
            else:
                self._lose(item)
        for seen in self._due:
            seen.match = Match.UNKNOWN if found.end is None else Match.BEYOND

    def _lose(self, error: Damaged) -> None:
        self._found.damages.append(error)
        self._books, self._is_gap = None, True

    def _take(self, batch: Batch) -> None:
        head, number = batch.head, number_of(batch.path)
        self._found.segments.setdefault(batch.path, Held()).take(batch)
        start = Position(number, batch.offset, batch.first - 1, head.first_event - 1, head.previous)
        self._meet(start, batch.path, 0)
        self._is_gap = False
        if batch.lost:
            self._found.lost.append(events_damaged(batch))
        if self._books is not None:
            try:
                fold(self._books, batch)
            except Damaged as error:
                self._lose(error)
        if self._books is not None:
            self._reach(batch.end, batch.path, batch.offset, clean=head.kind == BatchKind.END)
        self._meet(batch.end, batch.path, batch.offset)

    def _finish(self, end: End) -> None:
        self._found.end = end
        if end.path is None:
            return
        self._found.segments.setdefault(end.path, Held())
        self._meet(end.position, end.path, end.batch)
        if self._books is not None:
            self._reach(end.position, end.path, end.batch, clean=end.clean)

    def _meet(self, at: Position, path: Path, batch: int) -> None:
        """The snapshots up to a place."""
        while self._due and _place_of(self._due[0]) <= at[:2]:
            seen = self._due.pop(0)
            assert seen.snapshot is not None
            if _place_of(seen) < at[:2]:
                seen.match = Match.UNKNOWN if self._is_gap else Match.FOREIGN
            elif seen.snapshot.head.position != at:
                seen.match = Match.FOREIGN
            elif self._books is None or self._books.lost:
                # In it are events, too, that were damaged after it was made.
                seen.match = Match.GOOD
                self._books, self._base = deepcopy(seen.snapshot.books), seen
                self._reach(at, path, batch)
            else:
                is_same = same_state(self._books, seen.snapshot.books)
                seen.match = Match.GOOD if is_same else Match.DIFFERENT

    def _reach(self, at: Position, path: Path | None, batch: int, *, clean: bool = False) -> None:
        if self._until is None or at.txn <= self._until:
            self._found.reached = Reached(self._base, at, path, batch, clean)


def _place_of(seen: Seen) -> Place:
    assert seen.snapshot is not None
    return seen.snapshot.head.position[:2]


# ---- past the damage


def walk(
    disk: Disk, reader: Reader, start: Position | None = None
) -> Iterator[Batch | Damaged | End]:
    """Every batch after a position that is good (None: from the oldest segment on), and what is not
    between them; then the end, unless what stands there is damaged. OtherFormat, OSError."""
    passed: Place = (0, 0) if start is None else start[:2]
    tried: set[Place] = set()
    while True:
        try:
            for batch in reader.batches(start):
                yield batch
                passed = batch.end[:2]
        except Damaged as error:
            wrong = error
        except FileNotFoundError:
            raise
        except OSError as error:
            wrong = Damaged(Path(error.filename), 0, f"it cannot be read: {error.strerror}")
        else:
            yield reader.end
            return
        yield wrong
        more, start = _resume(disk, reader, wrong, passed, tried)
        yield from more
        if start is None:
            return
        tried.add(start[:2])


def _resume(
    disk: Disk, reader: Reader, wrong: Damaged, passed: Place, tried: set[Place]
) -> tuple[list[Damaged], Position | None]:
    """Where a good batch, or segment, begins behind a damage; and what else is damaged before."""
    paths, more = reader.paths, list[Damaged]()
    for path in paths[paths.index(wrong.path) :] if wrong.path in paths else []:
        number, is_here = number_of(path), path == wrong.path
        try:
            data = read_file(disk, path)
        except FileNotFoundError:
            raise
        except OSError as error:
            if not is_here:
                more.append(Damaged(path, 0, f"it cannot be read: {error.strerror}"))
            continue
        head = segment_head(data)
        if head is None or head.number != number:
            if not is_here:
                more.append(Damaged(path, 0, "the segment's header is damaged"))
            continue
        is_passed = is_here and (wrong.offset > 0 or passed > (number, 0))
        if not is_passed and (number, 0) not in tried:
            return more, start_of(head)
        offset = max(wrong.offset + 1 if is_here else 0, passed[1] if passed[0] == number else 0)
        at = find_batch(data, offset, head.salt)
        if at is not None and (number, at) not in tried:
            found = batch_head(data, at)
            assert found is not None
            return more, Position(
                number, at, found.first_txn - 1, found.first_event - 1, found.previous
            )
    return more, None

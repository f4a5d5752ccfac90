"""Bringing a damaged journal back to a state that a server starts with: the one that loses least,
or one that was chosen. First it is planned, and what would be lost is told; then it is done.

Nothing is deleted: what is taken away or changed is copied, and synced, before anything else. A
repair that drops something gives the log another identity, and the numbers of rooms and inboxes
another epoch: what clients remember of the part that is gone is of no use any more, and so they
notice. While that goes on the directory says so, no server starts with it, and a repair that was
interrupted is done once more.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from server.admin.journal_survey import Held, Match, Reached, Seen, Survey, survey
from server.core.events import SlotKind
from server.journal import packed, spill
from server.journal.aside import new_directory
from server.journal.books import Books
from server.journal.directory import DataDirectory, Identity
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, Foreign, Refused
from server.journal.format import (
    BATCH,
    BATCH_END,
    JOURNAL,
    SEGMENT,
    SNAPSHOTS,
    TEMPORARY,
    BatchHead,
    batch_head,
    event_size,
    events_in,
    segment_head,
    sha256,
)
from server.journal.load import fold
from server.journal.position import PositionFile
from server.journal.reader import Batch, End, Position, Reader, find_batch, number_of
from server.journal.snapshot import txn_of, write
from server.journal.writer import OVERHEAD, Writer
from server.region.records import (
    MONEY_KINDS,
    OFFSETS,
    RECORD_SIZE,
    RECORD_WORDS,
    RecordKind,
)

_SEGMENT_SIZE: Final = SEGMENT.size + 2 * OVERHEAD
"""Bytes of the segment that a repair begins: a BEGIN and an END. A server begins another one."""
_AT: Final = OFFSETS[RecordKind.TRANSFER]
_MESSAGES: Final = (SlotKind.MESSAGE, SlotKind.DIRECT)


@dataclass(slots=True)
class Lost:
    """What a server has no more after a repair."""

    first_txn: int = 0
    last_txn: int = 0  # of those that are known to have been there; below first_txn: none
    txns: int = 0  # of these, how many can still be read in the copies
    first_event: int = 0
    last_event: int = 0
    events: int = 0
    messages: int = 0  # of these events
    since: int = 0  # when the first and the last batch of it was written: µs since the epoch;
    till: int = 0  # 0: not known
    unreadable: int = 0  # bytes of which nobody knows what was in them
    amounts: dict[str, int] = field(default_factory=dict)
    """By user, what the readable transactions had changed: minor units."""

    @property
    def is_nothing(self) -> bool:
        return not (
            self.last_txn >= self.first_txn
            or self.last_event >= self.first_event
            or self.unreadable
        )


@dataclass(slots=True)
class Plan:
    """What a repair would do."""

    reached: Reached  # where the journal ends then
    books: Books  # the state there
    becoming: int  # a repair to this identity was interrupted; 0: none
    until: int  # the newest transaction then
    part: Batch | None = None  # a batch of which only the beginning is kept
    cut: bool = False  # the segment goes on behind that place
    later: list[Path] = field(default_factory=list)  # segments that go, newest first
    history: list[Path] = field(default_factory=list)  # likewise, oldest first: damaged ones
    drop: list[Path] = field(default_factory=list)  # snapshots
    keep: list[Seen] = field(default_factory=list)  # snapshots
    begins_anew: bool = False  # another identity
    lost: Lost = field(default_factory=Lost)
    stays: list[Damaged] = field(default_factory=list)  # damage that only history has, and keeps
    holds: dict[Path, Held] = field(default_factory=dict)  # what can be read in the segments

    @property
    def is_nothing(self) -> bool:
        return not (self.begins_anew or self.later or self.history or self.drop)


def plan(disk: Disk, data: DataDirectory, until: int | None = None, *, anew: bool = False) -> Plan:
    """What to do so that a server starts, and loses least; or so that `until` is the newest
    transaction. anew: the log gets another identity whether anything is lost or not. The caller has
    the data directory's lock. Refused: it cannot be done. OtherFormat,
    DirectoryUnusable, OSError."""
    identity, becoming = data.identity(disk), data.begun_repair(disk)
    data.check_directories()
    log_ids = (identity.log_id, *filter(None, [becoming]))
    found = survey(disk, data, log_ids, until)
    reached = _best(found, until)
    if reached is None:
        raise Refused(_why_nothing(data, found, until))
    reader = Reader(disk, data.journal, found.log_id)
    made = Plan(
        reached, _books(reader, reached), becoming, reached.position.txn, holds=found.segments
    )
    if until is not None and reached.position.txn < until:
        made.part, made.until = _part(reader, reached, found, until), until
    _choose_segments(found, made)
    _choose_snapshots(found, made)
    _choose_history(found, made)
    copied = spill.read_all(disk, data.journal)
    made.history += [item.path for item in copied if isinstance(item, Damaged)]
    made.history += packed.damaged(disk, data.journal)
    at, noted = reached.position, found.noted
    made.begins_anew = bool(
        anew
        or becoming
        or made.part
        or reached.path is None
        or found.end is None
        or found.end.position != at
        or noted is None  # nobody knows whether this is the end
        or noted[:2] > at[:2]
        or _newest_known(found) > at.txn
    )
    if made.begins_anew:
        made.later += filter(None, [found.unborn])
        _count_lost(disk, found, made)
    return made


def _best(found: Survey, until: int | None) -> Reached | None:
    """The newest state: what the journal makes, or a snapshot alone where it has no such place."""
    best = found.reached
    for seen in found.good:
        assert seen.snapshot is not None
        at = seen.snapshot.head.position
        if seen.match not in (Match.UNKNOWN, Match.BEYOND) or until not in (None, at.txn):
            continue
        if best is None or at[:2] > best.position[:2]:
            best = Reached(seen, at)
    return best


def _why_nothing(data: DataDirectory, found: Survey, until: int | None) -> str:
    states = [s.snapshot.head.txn_id for s in found.good if s.snapshot is not None]
    if until is not None and states:
        return f"the oldest state that is there is of transaction {min(states)}"
    return (
        f"no snapshot in {data.snapshots} is good, and the journal in {data.journal} does not go "
        "back to its beginning: restore the directory from a backup"
    )


def _books(reader: Reader, reached: Reached) -> Books:
    base = reached.base
    if base is None:
        books, start = Books(), None
    else:
        assert base.snapshot is not None
        books, start = deepcopy(base.snapshot.books), base.snapshot.head.position
    at = reached.position
    if (start is None and not at.segment) or (start is not None and start[:2] == at[:2]):
        return books
    for batch in reader.batches(start):
        fold(books, batch)
        if batch.end[:2] >= at[:2]:
            break
    return books


def _part(reader: Reader, reached: Reached, found: Survey, until: int) -> Batch:
    """The batch that a transaction is in, which is to be the last."""
    at = reached.position
    if reached.path is not None:
        try:
            for batch in reader.batches(at):
                if not batch.first <= until < batch.last:
                    break
                if batch.lost:
                    raise Refused(
                        f"transaction {until} is in a batch whose events are damaged: choose "
                        f"{at.txn}, or {batch.last}, its last one"
                    )
                return batch
        except Damaged as error:
            raise Refused(
                f"transaction {until} is behind the damage ({error}): the journal is good up to "
                f"{at.txn}"
            ) from error
    if found.damages:
        raise Refused(
            f"transaction {until} is behind the damage ({found.damages[-1]}): the journal is good "
            f"up to {at.txn}"
        )
    raise Refused(f"the journal ends with transaction {at.txn}")


def _choose_segments(found: Survey, made: Plan) -> None:
    at, end = made.reached.position, found.end
    made.later = [path for path in reversed(found.paths) if number_of(path) > at.segment]
    made.cut = made.reached.path is not None and (end is None or end.position != at or end.torn > 0)
    if made.reached.path is None:
        made.history = [path for path in found.paths if number_of(path) <= at.segment]


def _choose_snapshots(found: Survey, made: Plan) -> None:
    at, base = made.reached.position, made.reached.base
    for seen in found.snapshots:
        head = seen.snapshot.head if seen.snapshot is not None else None
        is_usable = (
            seen.match in (Match.GOOD, Match.UNKNOWN)
            and head is not None
            and head.position[:2] <= at[:2]
            and made.reached.path is not None  # else the journal goes on from one only
        )
        if seen is base or is_usable:
            made.keep.append(seen)
        else:
            made.drop.append(seen.path)


def _choose_history(found: Survey, made: Plan) -> None:
    """Segments that are damaged and that no snapshot needs."""
    if made.reached.path is None:
        return
    needed = [s.snapshot.head.segment for s in made.keep if s.snapshot and s.match is Match.GOOD]
    oldest = min(needed, default=0)
    at = made.reached.position[:2]
    old = [
        error
        for error in found.damages
        if error.path in found.paths and (number_of(error.path), error.offset) < at
    ]
    gone = max((number_of(e.path) for e in old if number_of(e.path) < oldest), default=0)
    made.history = [path for path in found.paths if number_of(path) <= gone]
    made.stays = [error for error in old if number_of(error.path) > gone]


def _newest_known(found: Survey) -> int:
    """A transaction that was durable once, by the name of a snapshot that cannot be read."""
    bad = [seen for seen in found.snapshots if seen.error and not isinstance(seen.error, Foreign)]
    return max((txn_of(seen.path) for seen in bad), default=0)


# ---- what is lost


class _Found(NamedTuple):
    """A batch behind the end, as its header says."""

    head: BatchHead
    records: memoryview  # empty where they are damaged
    events: memoryview  # likewise


def _count_lost(disk: Disk, found: Survey, made: Plan) -> None:
    at, lost = made.reached.position, made.lost
    txn, event = made.until, made.books.event
    if made.part is not None:
        event = _kept_events(made.part, made.until, made.books)[1] - 1
    last_txn, last_event = max(txn, _newest_known(found)), event
    noted = [found.noted] if found.noted is not None else []
    for known in (*noted, *(s.snapshot.head.position for s in found.good if s.snapshot)):
        last_txn, last_event = max(last_txn, known.txn), max(last_event, known.event)
    names = {user: name.decode() for name, user in made.books.user_ids.items()}
    is_whole = found.end is not None and found.end.position == at
    for path in found.paths:
        if number_of(path) < at.segment or is_whole:
            continue
        begin = at.offset if number_of(path) == at.segment else 0
        for batch in _batches_in(read_file(disk, path), begin, lost):
            head = batch.head
            last_txn = max(last_txn, head.first_txn + head.txns - 1)
            last_event = max(last_event, head.next_event - 1)
            lost.since, lost.till = lost.since or head.time, head.time
            _count_txns(batch, txn, names, lost)
            _count_events(batch, event, lost)
    lost.first_txn, lost.last_txn = txn + 1, last_txn
    lost.first_event, lost.last_event = event + 1, last_event


def _batches_in(data: bytes, at: int, lost: Lost) -> Iterator[_Found]:
    """What can be found of a segment from an offset on."""
    head, end, view = segment_head(data), len(data.rstrip(b"\0")), memoryview(data)
    if head is None:
        lost.unreadable += end
        return
    at = max(at, SEGMENT.size)
    while at < end:
        found = batch_head(data, at)
        if found is None or found.salt != head.salt:
            following = find_batch(data, at + 1, head.salt)
            following = end if following is None else following
            lost.unreadable += following - at
            at = following
            continue
        begin = at + BATCH.size
        middle = begin + found.txns * RECORD_SIZE
        records, events = view[begin:middle], view[middle : middle + found.events_size]
        for part, is_good in (
            (records, sha256(records) == found.txns_hash),
            (events, sha256(events) == found.events_hash),
        ):
            lost.unreadable += 0 if is_good else len(part)
        yield _Found(
            found,
            records if sha256(records) == found.txns_hash else view[:0],
            events if sha256(events) == found.events_hash else view[:0],
        )
        at += found.size


def _count_txns(batch: _Found, after: int, names: dict[int, str], lost: Lost) -> None:
    words = batch.records.cast("Q").tolist()
    for at in range(0, len(words), RECORD_WORDS):
        record = words[at : at + RECORD_WORDS]
        if record[0] <= after:
            continue
        lost.txns += 1
        if record[1] not in MONEY_KINDS:
            continue
        amount = record[_AT["amount"]]
        for user, change in ((record[_AT["from_user"]], -amount), (record[_AT["to_user"]], amount)):
            if user:
                name = names.get(user, f"user {user}")
                lost.amounts[name] = lost.amounts.get(name, 0) + change


def _count_events(batch: _Found, after: int, lost: Lost) -> None:
    for event, _ in events_in(batch.events):
        if event.word > after:
            lost.events += 1
            lost.messages += event.kind in _MESSAGES


def _kept_events(part: Batch, until: int, books: Books) -> tuple[int, int]:
    """Of a batch whose transactions are kept up to `until`: the bytes of its events that are kept,
    and the number of the event after them. An event that needs a later transaction goes, and all
    after it."""
    registered = books.users
    words = part.records.cast("Q").tolist()
    for at in range(0, (until + 1 - part.first) * RECORD_WORDS, RECORD_WORDS):
        registered += words[at + 1] == RecordKind.REGISTER
    size = 0
    for event, _ in events_in(part.events):
        if event.txn > until or max(event.user, event.sender) > registered:
            return size, event.word
        size += event_size(event.frame_len)
    return size, part.head.next_event


# ---- doing it


def carry_out(
    disk: Disk, data: DataDirectory, made: Plan, new_log_id: int, now: int
) -> Path | None:
    """Do it. The caller has the data directory's lock, since before the plan was made. new_log_id:
    of the log, should it begin anew; not 0. now: microseconds since the Unix epoch. Answers where
    the copies of what was taken away or changed are; None: nothing was to be done. OSError: it has
    to be done again."""
    if made.is_nothing:
        return None
    kept = _copy(disk, data, made)
    old = data.identity(disk)
    log_id = made.becoming or new_log_id
    if made.begins_anew:
        data.change_identity(disk, old, log_id)
    for path in made.drop:
        disk.remove(path)
    disk.sync_directory(data.snapshots)
    for path in (*made.later, *made.history):
        disk.remove(path)
        disk.sync_directory(data.journal)
    if made.begins_anew:
        _begin_anew(disk, data, made, log_id, now)
        data.change_identity(disk, Identity(old.secret, log_id))
    return kept


def _begin_anew(disk: Disk, data: DataDirectory, made: Plan, log_id: int, now: int) -> None:
    """A new segment with the new identity and a BEGIN of a new epoch, behind what is kept."""
    reached, books, at = made.reached, made.books, made.reached.position
    end = End(at)
    if made.part is not None:
        end = _keep_part(disk, made, made.part)
    elif reached.path is not None:
        _truncate(disk, reached.path, at.offset)
        head = segment_head(read_file(disk, reached.path, SEGMENT.size))
        end = End(at, reached.path, head, reached.batch, reached.clean)
    elif not at.segment:
        end = Reader(disk, data.journal, log_id).end
    writer = Writer(disk, data.journal, log_id, end, _SEGMENT_SIZE, lambda: now)
    begin = books.ring, 0, max(now, books.epoch + 1)
    writer.begin(*begin)
    books.begin(*begin)
    writer.finish()
    for seen in made.keep:
        if reached.path is not None and seen.snapshot is not None:
            write(
                disk, data.snapshots, log_id, seen.snapshot.books, seen.snapshot.head.position, now
            )
    if reached.path is None and reached.base is not None:
        write(disk, data.snapshots, log_id, books, writer.position, now)
    noted = PositionFile(disk, data.position, log_id)
    noted.write(writer.position)
    noted.sync()
    noted.close()
    writer.close()


def _keep_part(disk: Disk, made: Plan, part: Batch) -> End:
    """End the segment with the first part of a batch, which is brought into the books; in one step,
    since until then the whole batch is needed."""
    books, data = made.books, read_file(disk, part.path)
    head, whole = segment_head(data), part.head
    assert head is not None, "a batch was read from it"
    size, next_event = _kept_events(part, made.until, books)
    count = made.until + 1 - part.first
    records, events = part.records[: count * RECORD_SIZE], part.events[:size]
    header = BATCH.pack(
        whole.salt, whole.kind, whole.time, whole.first_txn, count, whole.first_event, next_event,
        size, whole.ring, whole.skip, whole.epoch, sha256(records), sha256(events), whole.previous,
    )  # fmt: skip
    content = b"".join((data[: part.offset], header, records, events, BATCH_END))
    temporary = part.path.with_name(part.path.name + TEMPORARY)
    if temporary.name in disk.names(temporary.parent):
        disk.remove(temporary)
    fd = disk.create(temporary)
    try:
        disk.write(fd, [content], 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(temporary, part.path)
    disk.sync_directory(part.path.parent)
    books.apply(records)
    books.apply_events(events, next_event)
    at = Position(head.number, len(content), made.until, next_event - 1, sha256(header))
    return End(at, part.path, head, part.offset)


def _truncate(disk: Disk, path: Path, size: int) -> None:
    fd = disk.open(path, writable=True)
    try:
        disk.truncate(fd, size)
        disk.sync(fd)
    finally:
        disk.close(fd)


def _copy(disk: Disk, data: DataDirectory, made: Plan) -> Path:
    """Copy what will be taken away or changed to where it stays, and make that last."""
    kept = new_directory(disk, data)
    journal = [*made.later, *made.history]
    snapshots, others = list(made.drop), list[Path]()
    if made.begins_anew:
        if made.cut and made.reached.path is not None:
            journal.append(made.reached.path)
        snapshots += [seen.path for seen in made.keep]
        others = [
            path
            for path in (data.identity_file, data.position)
            if path.name in disk.names(data.path)
        ]
    for directory, paths in (
        (kept / JOURNAL, journal), (kept / SNAPSHOTS, snapshots), (kept, others)
    ):  # fmt: skip
        if not paths:
            continue
        disk.make_directory(directory)
        for path in paths:
            fd = disk.create(directory / path.name)
            try:
                disk.write(fd, [read_file(disk, path)], 0)
                disk.sync(fd)
            finally:
                disk.close(fd)
        disk.sync_directory(directory)
    disk.sync_directory(kept)
    return kept

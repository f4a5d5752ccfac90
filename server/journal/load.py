"""From disk to a region: the newest good snapshot and the journal after it are the state that a
server starts with. The next snapshot is made of the same, by a child of the journal process.

Every record is checked as it is folded; what was acknowledged and is not there is an error, never
a smaller state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from server.core.rooms import likeness
from server.core.state import State
from server.journal.books import Books
from server.journal.disk import Disk
from server.journal.errors import Damaged, Foreign, Inconsistent, JournalError
from server.journal.format import BATCH, BatchKind, events_in
from server.journal.idle import Idle
from server.journal.money import ROW_WORDS, tell_of_events
from server.journal.reader import Batch, End, Position, Reader, number_of
from server.journal.snapshot import SnapshotHead, newest, txn_of, write
from server.region.layout import WORD
from server.region.records import (
    NEW_CLIENT,
    OFFSETS,
    RECORD_SIZE,
    RECORD_WORDS,
    SUPPLY,
    TIME,
    RecordKind,
    may_tell,
)
from server.region.region import Region


@dataclass(frozen=True, slots=True)
class Loaded:
    """The state on disk."""

    books: Books
    end: End  # of the journal, where a Writer goes on
    head: SnapshotHead | None  # of the snapshot it begins with; None: the journal alone
    bad: list[Damaged]  # newer snapshots, which were passed over
    lost: list[Batch]  # whose events are damaged, and no start has dealt with it
    disk: Disk
    journal: Path
    log_id: int


class Made(NamedTuple):
    """What came of making a snapshot."""

    txn: int  # of the newest good one
    bad: list[Damaged]  # newer ones, which were passed over


def load(
    disk: Disk,
    journal: Path,
    snapshots: Path,
    log_id: int,
    noted: Position | None,
    progress: Callable[[int, int], None],
) -> Loaded:
    """The state that the two directories hold: the newest good snapshot and what follows it. What
    stands before that in the journal is not read.

    Where the events of a batch are damaged it goes on without them; a start has to deal with it
    (`lost`).

    noted: what was durable for certain. progress: called after every batch with the transactions
    folded and an estimate of all there are to fold, which is too high rather than too low. Damaged:
    a piece is not what was written, or one that was acknowledged is missing. JournalError: no
    snapshot is good, and the journal does not go back to the beginning. OtherFormat.
    """
    snapshot, bad = newest(disk, snapshots, log_id)
    books, head = (snapshot.books, snapshot.head) if snapshot else (Books(), None)
    reader = Reader(disk, journal, log_id)
    begins = bool(reader.paths) and number_of(reader.paths[0]) == 1
    if head is None and not begins and (bad or reader.paths):
        why = f"no snapshot is good ({'; '.join(map(str, bad))})" if bad else "there is none"
        raise JournalError(
            f"a start needs a snapshot, {why}, and the journal in {journal} does not begin with "
            "transaction 1: restore one of these files, or the whole data directory"
        )
    start, highest, lost = books.txn, _highest(disk, reader), list[Batch]()
    position = head.position if head else Position(0, 0, 0, 0, b"")
    for batch in reader.batches(head.position if head else None):
        if noted is not None and position[:2] < noted[:2] <= batch.end[:2] and batch.end != noted:
            raise Damaged(batch.path, batch.offset, _NOT_NOTED)
        position = batch.end
        fold(books, batch)
        lost += [batch] if batch.lost else []
        progress(books.txn - start, max(highest, books.txn) - start)
    end = reader.end
    if noted is not None and end.position[:2] < noted[:2]:
        raise _short(end, journal, noted.txn)
    began = head.position if head else None
    if noted is not None and began is not None and began[:2] == noted[:2] and began != noted:
        raise Damaged(end.path or journal, began.offset, _NOT_NOTED)
    # A snapshot is made of what is durable: its name alone tells that this much was.
    required = max([0, *(txn_of(each.path) for each in bad if not isinstance(each, Foreign))])
    if end.last < required:
        raise _short(end, journal, required)
    lost = [batch for batch in lost if batch.head.first_event in books.lost]
    return Loaded(books, end, head, bad, lost, disk, journal, log_id)


_NOT_NOTED: Final = (
    "what stands here is not what was noted as durable: the journal, or the file «position», is "
    "of another copy of the directory"
)


def make_snapshot(
    disk: Disk,
    journal: Path,
    snapshots: Path,
    log_id: int,
    upto: Position,
    last_seen: Sequence[int] | None,
    now: int,
) -> Made:
    """Make a snapshot of the state at `upto`, a position that is durable, unless there is a good
    one already. The journal may be written meanwhile: nothing after `upto` is looked at.

    last_seen: by user id, the end of each user's latest session, or None where nobody knows. now:
    microseconds since the Unix epoch. Damaged: also events, unless a start has dealt with it;
    OtherFormat; OSError: it was not made.
    """
    snapshot, bad = newest(disk, snapshots, log_id)
    books = snapshot.books if snapshot else Books()
    position = snapshot.head.position if snapshot else None
    if position is not None and position[:2] >= upto[:2]:
        return Made(books.txn, bad)
    reader, lost = Reader(disk, journal, log_id), list[Batch]()
    for batch in reader.batches(position):
        fold(books, batch)
        lost += [batch] if batch.lost else []
        if batch.end[:2] >= upto[:2]:
            position = batch.end
            break
    else:
        position = reader.end.position
        if position[:2] < upto[:2]:
            raise _short(reader.end, journal, upto.txn)
    for batch in lost:
        if batch.head.first_event in books.lost:
            raise events_damaged(batch)
    if last_seen is not None:
        for user in range(1, min(len(last_seen), books.users + 1)):
            # One whose registration is in the log and not applied yet still has 0 there.
            books.last_seen[user] = max(books.last_seen[user], last_seen[user])
    write(disk, snapshots, log_id, books, position, now)
    return Made(books.txn, bad)


def fold(books: Books, batch: Batch) -> None:
    """Apply a batch's records. Damaged."""
    head = batch.head
    books.named.pass_time(head.kind, head.time)
    try:
        if head.kind == BatchKind.BEGIN:
            books.begin(head.ring, head.skip, head.epoch)
        books.apply(batch.records)
        if batch.lost:
            books.lose_events(head.first_event, head.next_event, _told(batch).values())
        else:
            books.apply_events(batch.events, head.next_event)
            _check_pairs(batch)
    except Inconsistent as error:
        offset = batch.offset
        if error.txn:
            offset += BATCH.size + (error.txn - batch.first) * RECORD_SIZE
        raise Damaged(batch.path, offset, str(error)) from error


def events_damaged(batch: Batch) -> Damaged:
    """What is wrong with a batch that has lost its events."""
    head = batch.head
    return Damaged(
        batch.path,
        batch.offset,
        f"the events {head.first_event} to {head.next_event - 1} of this batch are damaged",
    )


def _told(batch: Batch) -> dict[int, tuple[int, int, int]]:
    """By txn_id, what a transaction says of the event that it was published with: room, room_seq
    and number."""
    words, at = batch.records.cast("Q"), OFFSETS[RecordKind.TRANSFER]
    said: dict[int, tuple[int, int, int]] = {}
    if tell_of_events(words):
        for place in range(batch.count):
            first = place * RECORD_WORDS
            if may_tell(words[first + at["kind"]]) and words[first + at["event"]]:
                room, seq, number = (words[first + at[n]] for n in ("room", "room_seq", "event"))
                said[batch.first + place] = room, seq, number
    return said


def _check_pairs(batch: Batch) -> None:
    """A transaction and the event that it was published with stand in one batch. Inconsistent."""
    said = _told(batch)
    for event, _ in events_in(batch.events):
        if event.txn and said.pop(event.txn, None) != (event.room, event.seq, event.word):
            why = f"transaction {event.txn} is not the one that it was published with"
            raise Inconsistent(event.word, why, "event")
    for txn in said:
        raise Inconsistent(txn, "the event that it was published with is missing")


def _highest(disk: Disk, reader: Reader) -> int:
    """A txn_id that the journal does not go beyond."""
    if not reader.paths:
        return 0
    fd = disk.open(reader.paths[-1])
    try:
        size = disk.size(fd)
    finally:
        disk.close(fd)
    return reader.newest_head().first_txn + size // RECORD_SIZE


def _short(end: End, journal: Path, required: int) -> Damaged:
    return Damaged(
        end.path or end.unborn or journal,
        end.offset,
        f"the journal ends with transaction {end.last}, and all up to {required} were "
        "acknowledged: its end is missing or damaged",
    )


# ---- into a region


class Idleness(NamedTuple):
    """What a start knows of the time that clients were idle, and what it grants them."""

    times: Idle
    retention_us: int
    grace_us: int  # for which none that had not been idle for the retention time is given away
    clock_us: int  # CLOCK_MONOTONIC at the start


def check_room(region: Region, books: Books) -> None:
    """JournalError: the region is smaller than the state; its settings are named."""
    capacities = region.layout.capacities
    for setting, there_are, room in (
        ("accounts", books.users, capacities.accounts),
        ("clients", books.clients, capacities.clients),
        ("rooms", max(books.rooms.keys() | books.named.rooms, default=0), capacities.rooms),
        ("offers", len(books.named.offers), capacities.offers),
        ("blocks", len(books.blocks), capacities.blocks),
        ("room_roles", len(books.named.roles), capacities.roles),
    ):
        if there_are > room:
            raise JournalError(
                f"the data directory has {there_are} {setting}, and there is room for {room}: "
                f"set {setting} to {there_are} or more"
            )


def fill(region: Region, loaded: Loaded, now: int, idleness: Idleness) -> Damaged | None:
    """Put the state into a region fresh from `create` and `initialise` that has room for it, and
    the newest records into its txn ring. now: microseconds since the Unix epoch.

    Answers damage that was met below the snapshot, where nothing but the older part of TXN_HISTORY
    is missing for it. What the journal process tells (`durable`, `released`, `limit`) stays as it
    is. Damaged: the journal has changed since it was loaded.
    """
    books = loaded.books
    # It is alone, and never waits.
    state = State(region, 0, int, lambda _: None, 0, clock_us=lambda: idleness.clock_us)
    _fill_users(state, books)
    _fill_clients(state, books, now, idleness)
    damaged = _fill_log(region, loaded)
    _fill_rooms(region, books)
    _fill_named(state, books)
    return damaged


def _fill_users(state: State, books: Books) -> None:
    region = state.region
    state.users.fill(books.profiles[1:])
    empty = [0] * (region.layout.capacities.accounts - books.users)
    region.set_column("users", "last_seen", books.last_seen + empty)
    region.set_column("accounts", "balance", books.balances.tolist() + empty)
    region.set_column("accounts", "last_txn", books.last_txn.tolist() + empty)
    for user, (role, its_state) in enumerate(zip(books.roles, books.states, strict=True)):
        if role or its_state:
            state.users.store_set(user, role, its_state)
    for key, (txn, *rest) in books.keys.items():
        state.operators.put_key(txn, key, *rest)


def _fill_clients(state: State, books: Books, now: int, idleness: Idleness) -> None:
    region, clients, times = state.region, state.region.layout["clients"], idleness.times
    # So far ahead that whoever was idle was so since a time above 0.
    longest = max(times.values(), default=0)
    region.header.lived = max(0, longest - idleness.clock_us)
    lived, outcomes = state.clients.lived(), memoryview(books.outcomes)
    for slot, (user, client_id, floor, req_id) in enumerate(
        zip(books.client_users, books.client_ids, books.floors, books.newest, strict=True)
    ):
        state.clients.apply(
            NEW_CLIENT.pack(RecordKind.NEW_CLIENT, now, 0, user, client_id, slot + 1, floor)
        )
        idle = times.get((user, client_id), 0)
        region.words[clients.at(slot, "idle_since")] = lived - idle
        if idle < idleness.retention_us:
            region.words[clients.at(slot, "kept_until")] = lived + idleness.grace_us
        region.words[clients.at(slot, "marks")] = books.marks[slot]
        region.words[clients.at(slot, "newest")] = req_id
        at = clients.at(slot, "outcomes")
        region.words[at : at + ROW_WORDS] = outcomes[slot * ROW_WORDS : (slot + 1) * ROW_WORDS]
    state.clients.count_records()


def _fill_log(region: Region, loaded: Loaded) -> Damaged | None:
    words, ring = region.words, region.layout["txn_ring"]
    head = loaded.books.txn
    # The log goes on from the supply and the time in the head's slot. The record itself is not
    # there where a new segment has none yet and those before it are gone.
    at = ring.at(head % ring.records)
    words[at + SUPPLY], words[at + TIME] = loaded.books.supply, loaded.books.time
    region.log.head = head
    region.log.first = head + 1
    reader = Reader(loaded.disk, loaded.journal, loaded.log_id)
    after = max(0, head - ring.records)
    try:
        _fill_ring(region, reader, reader.start(after))
    except Damaged as error:
        if loaded.head is None:
            raise
        for slot in range(ring.records):  # what there was before the damage: no hole follows it
            words[ring.at(slot)] = 0
        _fill_ring(region, reader, loaded.head.position)
        return error
    return None


def _fill_ring(region: Region, reader: Reader, start: Position | None) -> None:
    """The records after a position, as many as there is room for."""
    ring, head = region.layout["txn_ring"], region.log.head
    oldest = head + 1
    for batch in reader.batches(start):
        if batch.count:
            oldest = min(oldest, batch.first)
        for txn in range(max(batch.first, head + 1 - ring.records), batch.last + 1):
            at, record = ring.at(txn % ring.records) * WORD, (txn - batch.first) * RECORD_SIZE
            region.bytes[at : at + RECORD_SIZE] = batch.records[record : record + RECORD_SIZE]
    region.log.first = max(oldest, head + 1 - ring.records)


def _fill_named(state: State, books: Books) -> None:
    """Rooms that were opened by name, the roles in them, and the boards."""
    region, rooms, named = state.region, state.region.layout["rooms"], books.named
    for number, room in named.rooms.items():
        values = {
            "opened": room.opened,
            "first_seq": room.first_seq,
            "access": room.access,
            "owner": room.owner,
            "closed": room.closed,
            "likeness": likeness(room.name.decode()) if room.is_open else 0,
        }
        for field, value in values.items():
            region.words[rooms.at(number, field)] = value
        for field, text in (("name", room.name), ("topic", room.topic)):
            at = rooms.at(number, field) * WORD
            region.bytes[at : at + len(text)] = text
    lived = state.clients.lived()
    for (number, user), (role, below, until) in named.roles.items():
        ends = max(1, lived + until - named.lived) if until else 0
        state.rooms.set_role(number, user, role, below, ends)
    for block in books.blocks:
        state.blocks.store(*block, 1)
    for offer in named.offers.values():
        state.boards.put(offer, is_new=True)


def _fill_rooms(region: Region, books: Books) -> None:
    """Where rooms, inboxes and events go on."""
    skipped, count = books.skips, region.layout["rooms"].records
    last = [0, *map(books.last_seq, range(1, count))]
    region.set_column("rooms", "last_seq", last)
    region.set_column("rooms", "oldest_seq", [seq + 1 if seq else 0 for seq in last])
    region.set_column("rooms", "last_event", [0] * count)
    users = region.layout["users"].records
    direct = [0, *(seq + skipped for seq in books.direct_seqs[1:])]
    region.set_column("users", "direct_seq", direct + [skipped] * (users - len(direct)))
    region.events.head = books.event
    region.events.first = books.event + 1
    region.events.skipped = skipped
    region.header.epoch = books.epoch

"""Snapshots: the state at the end of one batch in a file of its own, so that a start need not fold
the whole journal and old segments can go.

A snapshot has its name only once all of it is durable. One that is damaged is passed over for the
one before it, which is why two are kept, and the journal after the older one.
"""

from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from libproto.messages import MAX_BALANCE
from server.journal.books import Books
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, Foreign, Inconsistent, OtherFormat
from server.journal.format import (
    FORMAT_VERSION,
    MARKS_SHIFT,
    SNAPSHOT,
    SNAPSHOT_CLIENT,
    SNAPSHOT_ROOM,
    SNAPSHOT_USER,
    TEMPORARY,
    crc64,
    numbers_in,
    twice_numbered,
)
from server.journal.money import ROW_WORDS
from server.journal.reader import Position
from server.region.layout import OUTCOME_WORDS, RAISED, WORD

SUFFIX: Final = "snapshot"
KEEP: Final = 2
"""How many snapshots there are, once as many have been made."""

_PROFILE_WORDS: Final = sum(f.words for f in SNAPSHOT_USER) - 5
_USER: Final = Struct(f"<5Q{_PROFILE_WORDS * WORD}s")
_ROOM: Final = Struct(f"<{len(SNAPSHOT_ROOM)}Q")
_CLIENT: Final = Struct(f"<4Q{ROW_WORDS * WORD}s")
assert [f.name for f in SNAPSHOT_USER[:6]] == [
    "registered", "last_seen", "balance", "last_txn", "direct_seq", "iterations",
]  # fmt: skip
assert sum(f.words for f in SNAPSHOT_CLIENT) * WORD == _CLIENT.size


class SnapshotHead(NamedTuple):
    """A snapshot header's fields, the magic left out."""

    format: int
    log_id: int
    txn_id: int
    event: int
    newest: int
    segment: int
    offset: int
    chain: bytes
    supply: int
    time: int
    epoch: int
    ring: int
    skips: int
    users: int
    clients: int
    rooms: int
    length: int
    crc: int

    @property
    def position(self) -> Position:
        """Of the journal: where it goes on."""
        return Position(self.segment, self.offset, self.txn_id, self.event, self.chain)


assert tuple(f.name for f in SNAPSHOT.fields[1:]) == SnapshotHead._fields


class Snapshot(NamedTuple):
    """A snapshot that was read."""

    path: Path
    head: SnapshotHead
    books: Books


def paths(disk: Disk, directory: Path) -> list[Path]:
    """The snapshots, newest first."""
    found = [name for name in disk.names_if_there(directory) if numbers_in(name, SUFFIX)]
    return [directory / name for name in reversed(found)]


def path_of(directory: Path, txn: int, event: int) -> Path:
    """The snapshot of a transaction and an event: the newest of each in it."""
    return twice_numbered(directory, txn, event, SUFFIX)


def txn_of(path: Path) -> int:
    """The txn_id that a snapshot's name tells."""
    numbers = numbers_in(path.name, SUFFIX)
    assert numbers is not None, path
    return numbers[0]


# ---- writing


def write(
    disk: Disk, directory: Path, log_id: int, books: Books, position: Position, now: int
) -> Path:
    """Write a snapshot; when this returns it is durable, name and all. One of the same transaction
    and event is replaced.

    position: of the books, which is durable. now: microseconds since the Unix epoch. OSError:
    there is no such snapshot, or its name may not last.
    """
    path = path_of(directory, books.txn, books.event)
    temporary = path.with_name(path.name + TEMPORARY)
    if temporary.name in disk.names(directory):
        disk.remove(temporary)
    try:
        fd = disk.create(temporary)
        try:
            disk.write(fd, pack(log_id, books, position, now), 0)
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.rename(temporary, path)
    except OSError:
        with suppress(OSError):  # a full disk has better uses for the room
            disk.remove(temporary)
        raise
    disk.sync_directory(directory)
    return path


def pack(log_id: int, books: Books, position: Position, now: int) -> tuple[bytes, bytes]:
    """Header and body of a snapshot."""
    assert (position.txn, position.event) == (books.txn, books.event), "of another place"
    assert not books.lost, "it is for a start to deal with"
    outcomes, rooms = memoryview(books.outcomes), max(books.rooms, default=0)
    body = b"".join(
        [
            *map(
                _USER.pack,
                books.registered[1:],
                books.last_seen[1:],
                books.balances[1:],
                books.last_txn[1:],
                books.direct_seqs[1:],
                books.profiles[1:],
            ),
            *(
                _CLIENT.pack(
                    user | marks << MARKS_SHIFT,
                    client_id,
                    floor,
                    newest,
                    outcomes[at : at + ROW_WORDS].tobytes(),
                )
                for user, marks, client_id, floor, newest, at in zip(
                    books.client_users,
                    books.marks,
                    books.client_ids,
                    books.floors,
                    books.newest,
                    range(0, len(outcomes), ROW_WORDS),
                    strict=True,
                )
            ),
            *(_ROOM.pack(books.rooms.get(room, 0)) for room in range(1, rooms + 1)),
        ]
    )
    header = SNAPSHOT.pack(
        FORMAT_VERSION, log_id, books.txn, books.event, books.time, position.segment,
        position.offset, position.chain, books.supply, now, books.epoch, books.ring, books.skips,
        books.users, books.clients, rooms, len(body), rest=(body,),
    )  # fmt: skip
    return header, body


# ---- reading


def newest(disk: Disk, directory: Path, log_id: int) -> tuple[Snapshot | None, list[Damaged]]:
    """The newest snapshot that is good, None where there is none; and what is wrong with each
    newer one. OtherFormat."""
    bad: list[Damaged] = []
    for path in paths(disk, directory):
        try:
            return read(disk, path, log_id), bad
        except Damaged as error:
            bad.append(error)
    return None, bad


def newest_head(disk: Disk, directory: Path) -> SnapshotHead | None:
    """The header of the newest snapshot that can be read, unchecked: for who only tells of it.
    OSError."""
    for path in paths(disk, directory):
        with suppress(OSError):
            data = read_file(disk, path, SNAPSHOT.size)
            if len(data) == SNAPSHOT.size:
                return SnapshotHead._make(SNAPSHOT.words.unpack(data)[1:])
    return None


def read(disk: Disk, path: Path, log_id: int) -> Snapshot:
    """A snapshot of a log, checked as a whole. Damaged: also where it cannot be read;
    OtherFormat."""
    try:
        data = memoryview(read_file(disk, path))
    except OSError as error:
        raise Damaged(path, 0, f"it cannot be read: {error.strerror}") from error
    if len(data) < SNAPSHOT.size:
        raise Damaged(path, 0, "the snapshot has no whole header")
    magic, *rest = SNAPSHOT.words.unpack_from(data)
    head, body = SnapshotHead(*rest), data[SNAPSHOT.size :]
    if magic != SNAPSHOT.magic or crc64(body, crc64(data[: SNAPSHOT.size - WORD])) != head.crc:
        raise Damaged(path, 0, "the snapshot is damaged")
    if head.format != FORMAT_VERSION:
        raise OtherFormat(
            f"{path} has format {head.format}, and this program reads {FORMAT_VERSION}"
        )
    if head.log_id != log_id:
        raise Foreign(path, 0, "the snapshot is of another log")
    users = head.users * _USER.size
    clients = users + head.clients * _CLIENT.size
    if not len(body) == head.length == clients + head.rooms * _ROOM.size:
        raise Damaged(path, 0, "the snapshot's length is not what its counts make")
    if path != path_of(path.parent, head.txn_id, head.event):
        raise Damaged(path, 0, f"it is of transaction {head.txn_id} and event {head.event}")
    try:
        books = _unpack(head, body[:users], body[users:clients], body[clients:])
    except Inconsistent as error:
        raise Damaged(path, 0, error.why) from error
    for what in _problems(books):
        raise Damaged(path, 0, what)
    return Snapshot(path, head, books)


def _unpack(head: SnapshotHead, users: memoryview, clients: memoryview, rooms: memoryview) -> Books:
    """Inconsistent."""
    books = Books()
    books.txn, books.supply, books.event = head.txn_id, head.supply, head.event
    books.time = head.newest
    books.epoch, books.ring, books.skips = head.epoch, head.ring, head.skips
    books.rooms = {room: seq for room, (seq,) in enumerate(_ROOM.iter_unpack(rooms), 1) if seq}
    for user, (registered, last_seen, balance, last_txn, direct_seq, profile) in enumerate(
        _USER.iter_unpack(users), 1
    ):
        books.register(head.txn_id, registered, user, profile)
        books.last_seen[user] = last_seen
        books.balances[user] = balance
        books.last_txn[user] = last_txn
        books.direct_seqs[user] = direct_seq
    outcomes = array("Q")
    for client, (user, client_id, floor, newest, row) in enumerate(_CLIENT.iter_unpack(clients), 1):
        marks, user = divmod(user, 1 << MARKS_SHIFT)
        books.new_client(head.txn_id, user, client_id, client, floor)
        books.newest[-1], books.marks[-1] = newest, marks
        outcomes.frombytes(row)
    books.outcomes = outcomes
    return books


def _problems(books: Books) -> Iterator[str]:
    """What no CRC tells: a snapshot that was wrong when it was written."""
    if sum(books.balances) != books.supply:
        yield f"the balances add up to {sum(books.balances)}, by the header to {books.supply}"
    if max(books.balances) > MAX_BALANCE:
        yield f"a balance is {max(books.balances)}"
    if max(books.last_txn) > books.txn:
        yield f"an account ends in transaction {max(books.last_txn)}"
    for slot, req_id in enumerate(books.newest):
        at = slot * ROW_WORDS
        outcomes = books.outcomes[at : at + ROW_WORDS : OUTCOME_WORDS]
        if max(outcomes) != req_id:
            yield f"client {slot} is not at its newest req_id, {req_id}"
        if books.marks[slot] & RAISED:
            continue
        if min(filter(None, outcomes), default=req_id) < books.floors[slot] and req_id:
            yield f"client {slot} has an outcome below its floor, {books.floors[slot]}"


# ---- removing


def prune(disk: Disk, directory: Path, log_id: int, keep: int = KEEP) -> SnapshotHead | None:
    """Remove what is older than the newest `keep` good snapshots, and what the making of one has
    left half done; not to be called while one is being made. OtherFormat, OSError.

    Answers the head of the oldest of these, which the journal must go on from; None where there
    are fewer: all of the journal is needed then.
    """
    good, older = 0, None
    removed = [name for name in disk.names(directory) if _is_temporary(name)]
    for path in paths(disk, directory):
        if good == keep:
            removed.append(path.name)
            continue
        with suppress(Damaged):
            older = read(disk, path, log_id).head
            good += 1
    for name in removed:
        disk.remove(directory / name)
    if removed:
        disk.sync_directory(directory)
    return older if good == keep else None


def _is_temporary(name: str) -> bool:
    return name.endswith(TEMPORARY) and numbers_in(name.removesuffix(TEMPORARY), SUFFIX) is not None

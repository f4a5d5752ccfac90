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
from server.core.boards import Offer
from server.journal.books import Books
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, Foreign, Inconsistent, OtherFormat
from server.journal.format import (
    FORMAT_VERSION,
    MARKS_SHIFT,
    READ_FORMATS,
    SNAPSHOT,
    SNAPSHOT_3,
    SNAPSHOT_4,
    SNAPSHOT_BLOCK,
    SNAPSHOT_CLIENT,
    SNAPSHOT_KEY,
    SNAPSHOT_NAMED,
    SNAPSHOT_OFFER,
    SNAPSHOT_ROLE,
    SNAPSHOT_ROOM,
    SNAPSHOT_USER,
    TEMPORARY,
    Header,
    crc64,
    numbers_in,
    twice_numbered,
)
from server.journal.money import ROW_WORDS
from server.journal.reader import Position
from server.journal.rooms import NamedRoom, NamedRooms, compared_name
from server.region.layout import NAME_MAX, OUTCOME_WORDS, RAISED, WORD
from server.region.records import TEXT_MAX, UserState

SUFFIX: Final = "snapshot"
KEEP: Final = 2
"""How many snapshots there are, once as many have been made."""

_PROFILE_WORDS: Final = sum(f.words for f in SNAPSHOT_USER) - 7
_USER: Final = Struct(f"<7Q{_PROFILE_WORDS * WORD}s")
_USER_4: Final = Struct(f"<5Q{_PROFILE_WORDS * WORD}s")  # without role and state
_ROOM: Final = Struct(f"<{len(SNAPSHOT_ROOM)}Q")
_NAMED: Final = Struct(f"<6Q{NAME_MAX}s{TEXT_MAX}s")
_ROLE: Final = Struct(f"<{len(SNAPSHOT_ROLE)}Q")
_OFFER: Final = Struct(f"<5Q{TEXT_MAX}s")
_BLOCK: Final = Struct(f"<{len(SNAPSHOT_BLOCK)}Q")
_KEY: Final = Struct(f"<{len(SNAPSHOT_KEY)}Q")
_HEADERS: Final = {3: SNAPSHOT_3, 4: SNAPSHOT_4}  # of older formats
_CLIENT: Final = Struct(f"<4Q{ROW_WORDS * WORD}s")
assert [f.name for f in SNAPSHOT_USER[:8]] == [
    "registered", "last_seen", "balance", "last_txn", "direct_seq", "role", "state", "iterations",
]  # fmt: skip
assert sum(f.words for f in SNAPSHOT_CLIENT) * WORD == _CLIENT.size
assert sum(f.words for f in SNAPSHOT_NAMED) * WORD == _NAMED.size
assert sum(f.words for f in SNAPSHOT_OFFER) * WORD == _OFFER.size


_OLD_USERS: Final = 4  # up to this format users have neither


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
    named: int
    roles: int
    offers: int
    blocks: int
    lived: int
    batch_time: int
    keys: int
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
                books.roles[1:],
                books.states[1:],
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
            *_pack_named(books.named),
            *(_BLOCK.pack(*block) for block in sorted(books.blocks)),
            *(_KEY.pack(txn, key, *rest) for key, (txn, *rest) in books.keys.items()),
        ]
    )
    named = books.named
    header = SNAPSHOT.pack(
        FORMAT_VERSION, log_id, books.txn, books.event, books.time, position.segment,
        position.offset, position.chain, books.supply, now, books.epoch, books.ring, books.skips,
        books.users, books.clients, rooms, len(named.rooms), len(named.roles), len(named.offers),
        len(books.blocks), named.lived, named.batch_time, len(books.keys), len(body), rest=(body,),
    )  # fmt: skip
    return header, body


def _pack_named(named: NamedRooms) -> Iterator[bytes]:
    for number, room in sorted(named.rooms.items()):
        yield _NAMED.pack(
            number, room.opened, room.first_seq, room.owner, room.access, room.closed, room.name,
            room.topic,
        )  # fmt: skip
    for key, role in sorted(named.roles.items()):
        yield _ROLE.pack(*key, *role)
    for offer in named.offers.values():
        yield _OFFER.pack(*offer)


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
            head = _head(read_file(disk, path, SNAPSHOT.size))
            if head is not None:
                return head[1]
    return None


def _head(data: bytes | memoryview) -> tuple[Header, SnapshotHead] | None:
    """The header that a snapshot opens with, unchecked, and what kind it is; None where there is no
    whole one."""
    header = _HEADERS.get(int.from_bytes(data[WORD : 2 * WORD], "little"), SNAPSHOT)
    if len(data) < header.size:
        return None
    values = header.words.unpack_from(data)
    fields = dict.fromkeys(SnapshotHead._fields, 0) | {
        field.name: value for field, value in zip(header.fields[1:], values[1:], strict=True)
    }
    return header, SnapshotHead(**fields)


def read(disk: Disk, path: Path, log_id: int) -> Snapshot:
    """A snapshot of a log, checked as a whole. Damaged: also where it cannot be read;
    OtherFormat."""
    try:
        data = memoryview(read_file(disk, path))
    except OSError as error:
        raise Damaged(path, 0, f"it cannot be read: {error.strerror}") from error
    found = _head(data)
    if found is None:
        raise Damaged(path, 0, "the snapshot has no whole header")
    header, head = found
    body, opening = data[header.size :], data[: header.size - WORD]
    if int.from_bytes(data[:WORD], "little") != header.magic or (
        crc64(body, crc64(opening)) != head.crc
    ):
        raise Damaged(path, 0, "the snapshot is damaged")
    if head.format not in READ_FORMATS:
        raise OtherFormat(
            f"{path} has format {head.format}, and this program reads {FORMAT_VERSION}"
        )
    if head.log_id != log_id:
        raise Foreign(path, 0, "the snapshot is of another log")
    parts, needed = _parts(head, body)
    if not len(body) == head.length == needed:
        raise Damaged(path, 0, "the snapshot's length is not what its counts make")
    if path != path_of(path.parent, head.txn_id, head.event):
        raise Damaged(path, 0, f"it is of transaction {head.txn_id} and event {head.event}")
    try:
        books = _unpack(head, *parts)
    except Inconsistent as error:
        raise Damaged(path, 0, error.why) from error
    for what in _problems(books):
        raise Damaged(path, 0, what)
    return Snapshot(path, head, books)


def _parts(head: SnapshotHead, body: memoryview) -> tuple[list[memoryview], int]:
    """Of the body, what there is of each kind, as far as it is there, and the bytes of all."""
    at, parts = 0, []
    users = _USER if head.format > _OLD_USERS else _USER_4
    for count, row in (
        (head.users, users), (head.clients, _CLIENT), (head.rooms, _ROOM), (head.named, _NAMED),
        (head.roles, _ROLE), (head.offers, _OFFER), (head.blocks, _BLOCK), (head.keys, _KEY),
    ):  # fmt: skip
        parts.append(body[at : at + count * row.size])
        at += count * row.size
    return parts, at


def _unpack(
    head: SnapshotHead, users: memoryview, clients: memoryview, rooms: memoryview,
    named: memoryview, roles: memoryview, offers: memoryview, blocks: memoryview,
    keys: memoryview,
) -> Books:  # fmt: skip
    """Inconsistent."""
    books = Books()
    books.txn, books.supply, books.event = head.txn_id, head.supply, head.event
    books.time = head.newest
    books.epoch, books.ring, books.skips = head.epoch, head.ring, head.skips
    books.rooms = {room: seq for room, (seq,) in enumerate(_ROOM.iter_unpack(rooms), 1) if seq}
    rows = _USER if head.format > _OLD_USERS else _USER_4
    for user, (registered, last_seen, balance, last_txn, direct_seq, *of_it, profile) in enumerate(
        rows.iter_unpack(users), 1
    ):
        role, state = of_it or (0, 0)
        books.register(head.txn_id, registered, user, profile)
        books.last_seen[user] = last_seen
        books.balances[user] = balance
        books.last_txn[user] = last_txn
        books.direct_seqs[user] = direct_seq
        books.roles[user], books.states[user] = role, state
    outcomes = array("Q")
    for client, (user, client_id, floor, newest, row) in enumerate(_CLIENT.iter_unpack(clients), 1):
        marks, user = divmod(user, 1 << MARKS_SHIFT)
        books.new_client(head.txn_id, user, client_id, client, floor)
        books.newest[-1], books.marks[-1] = newest, marks
        outcomes.frombytes(row)
    books.outcomes = outcomes
    for key in _KEY.iter_unpack(keys):
        books.put_key(*key)
    books.blocks = set(_BLOCK.iter_unpack(blocks))
    books.named.lived, books.named.batch_time = head.lived, head.batch_time
    _unpack_named(books.named, named, roles, offers)
    return books


def _unpack_named(to: NamedRooms, named: memoryview, roles: memoryview, offers: memoryview) -> None:
    for number, opened, first_seq, owner, access, closed, name, topic in _NAMED.iter_unpack(named):
        room = NamedRoom(
            opened, first_seq, owner, access, closed, name.rstrip(b"\0"), topic.rstrip(b"\0")
        )
        to.rooms[number] = room
        if room.is_open:
            to.names[compared_name(opened, room.name)] = number
    to.roles = {(room, user): (role, *rest) for room, user, role, *rest in _ROLE.iter_unpack(roles)}
    for entry, room_id, time, user, price, text in _OFFER.iter_unpack(offers):
        to.offers[entry] = Offer(entry, room_id, time, user, price, text.rstrip(b"\0"))


def _problems(books: Books) -> Iterator[str]:
    """What no CRC tells: a snapshot that was wrong when it was written."""
    if sum(books.balances) != books.supply:
        yield f"the balances add up to {sum(books.balances)}, by the header to {books.supply}"
    if max(books.balances) > MAX_BALANCE:
        yield f"a balance is {max(books.balances)}"
    for user, state in enumerate(books.states):
        if state == UserState.DELETED and books.balances[user]:
            yield f"user {user} was deleted and has {books.balances[user]}"
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

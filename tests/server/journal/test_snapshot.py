"""A snapshot is the state, whole, or it is passed over; and at no moment is there none to go on
from.
"""

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.messages import MAX_BALANCE
from server.journal.books import ROW_WORDS, Books
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, OtherFormat
from server.journal.format import (
    FORMAT_VERSION,
    SNAPSHOT,
    SNAPSHOT_CLIENT,
    SNAPSHOT_USER,
    crc64,
    numbered,
)
from server.journal.snapshot import SUFFIX, Snapshot, newest, pack, paths, prune, read, write
from server.region.layout import WORD
from server.region.records import RECORD_SIZE
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, at_random
from tests.server.journal.history import (
    NOW,
    SNAPSHOTS,
    STEPS,
    VARIED,
    Step,
    folded,
    history,
    new_disk,
)

USER_SIZE = sum(field.words for field in SNAPSHOT_USER) * WORD
CLIENT_SIZE = sum(field.words for field in SNAPSHOT_CLIENT) * WORD
FIELDS = [field.name for field in SNAPSHOT.fields[1:-1]]


@cache
def _records() -> bytes:
    with history(*VARIED) as worked:
        return worked.records(1, worked.head)


def _books(txn: int | None = None) -> Books:
    """Of the varied history, up to a txn_id."""
    return folded(_records()[: None if txn is None else txn * RECORD_SIZE])


def _found(disk: Disk) -> Snapshot:
    """The newest, and nothing bad."""
    snapshot, bad = newest(disk, SNAPSHOTS)
    assert snapshot is not None
    assert not bad
    return snapshot


def _put(disk: Disk, path: Path, *pieces: bytes) -> None:
    """A file with these bytes, whatever was there."""
    if path.name in disk.names(path.parent):
        disk.remove(path)
    fd = disk.create(path)
    disk.write(fd, pieces, 0)
    disk.sync(fd)
    disk.close(fd)
    disk.sync_directory(path.parent)


# ---- what is written is what is read


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_the_books_of_every_moment_come_back(steps: list[Step]) -> None:
    disk, books = new_disk(), Books()
    with history(*steps) as worked:
        for txn in range(1, worked.head + 1):
            books.apply(worked.records(txn, txn))
            books.last_seen[1:] = [NOW + txn + user for user in range(books.users)]
            path = write(disk, SNAPSHOTS, books, txn + 2, NOW + txn)
            found = _found(disk)
            assert found.path == path == numbered(SNAPSHOTS, txn, SUFFIX)
            assert vars(found.books) == vars(books)
            assert found.head[:-2] == (
                FORMAT_VERSION, txn, books.supply, NOW + txn, txn + 2, books.users, books.clients,
            )  # fmt: skip
        # What was read is as good to go on with as what was written.
        for txn in range(1, worked.head):
            other = read(disk, numbered(SNAPSHOTS, txn, SUFFIX)).books
            other.apply(worked.records(1, worked.head))
            other.last_seen = books.last_seen
            assert vars(other) == vars(books)
    assert disk.open_files == 0


def test_books_of_nobody() -> None:
    disk = new_disk()
    write(disk, SNAPSHOTS, Books(), 0, NOW)
    assert vars(_found(disk).books) == vars(Books())


def test_none_is_none() -> None:
    disk = new_disk()
    for name in ("1.snapshot", "x", f"{1:020}.journal", f"{1:020}.snapshot.new", f"{1:020}"):
        _put(disk, SNAPSHOTS / name, b"x")
    assert newest(disk, SNAPSHOTS) == (None, [])


def test_the_file_is_as_the_tables_say() -> None:
    """Field by field, read by nothing but the tables."""
    books = _books()
    books.last_seen[2] = 77
    data = b"".join(pack(books, books.txn + 5, NOW))
    words = list(struct.unpack(f"<{len(data) // WORD}Q", data))

    def row(fields: tuple[tuple[str, int], ...], at: int) -> dict[str, list[int]]:
        out = {}
        for name, length in fields:
            out[name], at = words[at : at + length], at + length
        return out

    header = row(tuple((field.name, 1) for field in SNAPSHOT.fields), 0)
    assert header["magic"] == [int.from_bytes(b"trdsnaps", "little")]
    assert header["users"] == [books.users]
    assert header["length"] == [len(data) - SNAPSHOT.size]
    at = len(SNAPSHOT.fields) + USER_SIZE // WORD
    user = row(tuple((field.name, field.words) for field in SNAPSHOT_USER), at)
    assert user["last_seen"] == [77]
    assert user["registered"] == [books.registered[2]]
    assert (user["balance"], user["last_txn"]) == ([books.balances[2]], [books.last_txn[2]])
    assert struct.pack("<4Q", *user["name"]) == b"user2".ljust(32, b"\0")
    assert user["iterations"] == [4096]
    assert struct.pack("<4Q", *user["server_key"]) == b"v" * 32
    at = len(SNAPSHOT.fields) + (books.users * USER_SIZE + CLIENT_SIZE) // WORD
    client = row(tuple((field.name, field.words) for field in SNAPSHOT_CLIENT), at)
    assert client["user"] == [books.client_users[1]]
    assert client["newest"] == [books.newest[1]]
    assert client["outcomes"] == books.outcomes[ROW_WORDS : 2 * ROW_WORDS].tolist()


# ---- damage


@pytest.fixture(scope="module")
def small() -> Books:
    """One user, one client, one deposit."""
    with history() as worked:
        return folded(worked.records(1, 3))


def test_every_byte_that_is_changed_is_told(small: Books) -> None:
    disk = new_disk()
    older = write(disk, SNAPSHOTS, _books(2), 2, NOW)
    path = write(disk, SNAPSHOTS, small, 3, NOW)
    good = read_file(disk, path)
    fd = disk.open(path, writable=True)
    for at, byte in enumerate(good):
        disk.write(fd, [bytes([byte ^ 1 << at % 8])], at)
        snapshot, bad = newest(disk, SNAPSHOTS)
        assert [error.path for error in bad] == [path]
        assert snapshot is not None
        assert snapshot.path == older
        disk.write(fd, [bytes([byte])], at)
    disk.close(fd)
    assert _found(disk).path == path


def test_every_end_that_is_missing_is_told(small: Books) -> None:
    disk = new_disk()
    path = write(disk, SNAPSHOTS, small, 3, NOW)
    fd = disk.open(path, writable=True)
    for size in reversed(range(disk.size(fd))):
        disk.truncate(fd, size)
        snapshot, bad = newest(disk, SNAPSHOTS)
        assert snapshot is None
        assert [error.path for error in bad] == [path]


@settings(deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_at_all_are_bad(data: bytes) -> None:
    disk = new_disk()
    _put(disk, numbered(SNAPSHOTS, 1, SUFFIX), data)
    assert newest(disk, SNAPSHOTS)[0] is None
    _put(disk, numbered(SNAPSHOTS, 1, SUFFIX), SNAPSHOT.magic.to_bytes(WORD, "little"), data)
    assert newest(disk, SNAPSHOTS)[0] is None


def test_one_after_the_other_is_passed_over() -> None:
    disk = new_disk()
    written = [write(disk, SNAPSHOTS, _books(txn), txn, NOW) for txn in (5, 6, 7)]
    for path in written[1:]:
        _put(disk, path, b"")
    snapshot, bad = newest(disk, SNAPSHOTS)
    assert snapshot is not None
    assert snapshot.path == written[0]
    assert vars(snapshot.books) == vars(_books(5))
    assert [str(error) for error in bad] == [
        f"{path}, offset 0: the snapshot has no whole header" for path in (written[2], written[1])
    ]


@dataclass
class Parts:
    """A snapshot in pieces: the header's fields, and each user's and client's bytes."""

    header: dict[str, int]
    users: list[bytearray]
    clients: list[bytearray]


Change = Callable[[Parts], None]


def _header(**values: int) -> Change:
    return lambda parts: parts.header.update(values)


def _word(of: str, record: int, at: int, value: int) -> Change:
    def change(parts: Parts) -> None:
        row = (parts.users if of == "user" else parts.clients)[record]
        row[at * WORD : (at + 1) * WORD] = value.to_bytes(WORD, "little")

    return change


def _all(*changes: Change) -> Change:
    def change(parts: Parts) -> None:
        for one in changes:
            one(parts)

    return change


USER1 = int.from_bytes(b"user1\0\0\0", "little")
WRONG: tuple[tuple[str, Change, str], ...] = (
    ("more users than there are", _header(users=4), "counts"),
    ("more users than there can be", _header(users=2**64 - 1), "counts"),
    ("counts that go round", _header(users=2**61 * 5, clients=2**61 * 3), "counts"),
    ("no clients", _header(clients=0), "counts"),
    ("another length", _header(length=10), "counts"),
    ("another transaction", _header(txn_id=9, durable=9), "transaction 9"),
    ("durable before it", _header(durable=1), "when 1 was durable"),
    ("the supply", _header(supply=1), "add up"),
    (
        "a balance above the limit",
        _all(
            _word("user", 2, 2, 0),
            _word("user", 1, 2, 0),
            _word("user", 0, 2, MAX_BALANCE + 1),
            _header(supply=MAX_BALANCE + 1),
        ),
        "a balance is",
    ),
    ("an account ahead", _word("user", 1, 3, 999), "ends in transaction 999"),
    ("a name twice", _word("user", 1, 5, USER1), "taken"),
    ("no name", _word("user", 1, 5, 0), "not a name"),
    ("a client of nobody", _word("client", 1, 0, 9), "no user 9"),
    ("a free slot", _word("client", 1, 0, 0), "no user 0"),
    ("a client twice", _all(_word("client", 1, 0, 1), _word("client", 0, 0, 1),
                             _word("client", 1, 1, 5), _word("client", 0, 1, 5)), "not new"),
    ("no floor", _word("client", 1, 2, 0), "no floor"),
    ("an outcome below the floor", _word("client", 0, 2, 10**6), "below its floor"),
    ("another newest", _word("client", 0, 3, 5), "newest"),
)  # fmt: skip


@pytest.mark.parametrize(("change", "why"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG])
def test_what_no_crc_tells_is_told(change: Change, why: str) -> None:
    """A snapshot that was wrong when it was written: the one before it counts."""
    disk, books = new_disk(), _books()
    older = write(disk, SNAPSHOTS, _books(5), 5, NOW)
    header, body = pack(books, books.txn, NOW)
    values = dict(zip(FIELDS, struct.unpack(f"<{len(header) // WORD}Q", header)[1:-1], strict=True))
    middle = books.users * USER_SIZE
    users = [bytearray(body[at : at + USER_SIZE]) for at in range(0, middle, USER_SIZE)]
    clients = [
        bytearray(body[at : at + CLIENT_SIZE]) for at in range(middle, len(body), CLIENT_SIZE)
    ]
    change(Parts(values, users, clients))
    body = b"".join([*users, *clients])
    path = numbered(SNAPSHOTS, books.txn, SUFFIX)
    _put(disk, path, SNAPSHOT.pack(*values.values(), rest=(body,)), body)
    snapshot, bad = newest(disk, SNAPSHOTS)
    assert snapshot is not None
    assert snapshot.path == older
    assert [error.path for error in bad] == [path]
    assert why in bad[0].what


def test_another_kind_of_file_is_bad(small: Books) -> None:
    disk = new_disk()
    header, body = pack(small, 3, NOW)
    other = b"trdother" + header[WORD:-WORD]
    crc = crc64(body, crc64(other)).to_bytes(WORD, "little")
    path = numbered(SNAPSHOTS, 3, SUFFIX)
    _put(disk, path, other, crc, body)
    snapshot, bad = newest(disk, SNAPSHOTS)
    assert snapshot is None
    assert [error.path for error in bad] == [path]


def test_another_format_is_told_and_not_passed_over(small: Books) -> None:
    disk = new_disk()
    write(disk, SNAPSHOTS, _books(2), 2, NOW)
    header, body = pack(small, 3, NOW)
    values = list(struct.unpack(f"<{len(header) // WORD}Q", header)[1:-1])
    values[0] = FORMAT_VERSION + 1
    path = numbered(SNAPSHOTS, 3, SUFFIX)
    _put(disk, path, SNAPSHOT.pack(*values, rest=(body,)), body)
    with pytest.raises(OtherFormat) as caught:
        newest(disk, SNAPSHOTS)
    assert str(caught.value) == f"{path} has format 3, and this program reads 2"


# ---- crashes and errors


def _with_one(cut_at: int = 0, fail_at: tuple[int, int] = (0, 0)) -> SimulatedDisk:
    """A snapshot at 5 and the remains of one at 9, kept; the calls are counted from here."""
    disk = new_disk()
    write(disk, SNAPSHOTS, _books(5), 5, NOW)
    _put(disk, SNAPSHOTS / f"{9:020}.snapshot.new", b"remains")
    disk = disk.after_power_cut()
    disk.cut_at, disk.fail_at, disk.part = cut_at, fail_at, 0.5
    return disk


SURVIVORS = [*ADVERSARIES.values(), *(at_random(seed) for seed in range(10))]


def test_a_power_cut_at_any_call_leaves_a_snapshot() -> None:
    """The old one, or the new one whole; the new one once `write` has returned."""
    books, at = _books(9), 0
    while True:
        at += 1
        disk, done = _with_one(cut_at=at), False
        try:
            write(disk, SNAPSHOTS, books, 9, NOW)
            done = True
        except PowerCut:
            pass
        for survives in SURVIVORS:
            after = disk.after_power_cut(survives)
            found = _found(after)
            assert vars(found.books) == vars(_books(found.head.txn_id))
            assert found.head.txn_id == 9 or not done
            # and the next one can be made
            write(after, SNAPSHOTS, _books(10), 10, NOW)
            assert _found(after).head.txn_id == 10
        assert _found(disk.after_kill()).head.txn_id in (5, 9)
        if done:
            break
    assert at > 5


def test_an_error_at_any_call_is_told_and_leaves_no_remains() -> None:
    at = 0
    while True:
        at += 1
        disk = _with_one(fail_at=(at, errno.ENOSPC))
        failed = False
        try:
            write(disk, SNAPSHOTS, _books(9), 9, NOW)
        except OSError:
            failed = True
        if not failed:
            break
        assert disk.open_files == 0
        assert _found(disk).head.txn_id in (5, 9)
        if at > 1:  # it is the removing itself of what was there before that fails first
            assert not [name for name in disk.names(SNAPSHOTS) if name.endswith(".new")]
        disk.fail_at = (0, 0)
        write(disk, SNAPSHOTS, _books(9), 9, NOW)
        assert _found(disk).head.txn_id == 9
    assert at > 6


def test_a_bad_one_of_the_same_transaction_is_replaced(small: Books) -> None:
    disk = new_disk()
    _put(disk, numbered(SNAPSHOTS, 3, SUFFIX), b"bad")
    write(disk, SNAPSHOTS, small, 3, NOW)
    assert vars(_found(disk).books) == vars(small)


# ---- removing


def _txns(disk: Disk) -> list[int]:
    return [int(path.name[:20]) for path in paths(disk, SNAPSHOTS)]


def test_two_are_kept_and_tell_where_the_journal_begins() -> None:
    disk = new_disk()
    assert prune(disk, SNAPSHOTS) == 0
    for txn, left, oldest in ((4, [4], 0), (6, [6, 4], 4), (7, [7, 6], 6), (9, [9, 7], 7)):
        write(disk, SNAPSHOTS, _books(txn), txn, NOW)
        assert prune(disk, SNAPSHOTS) == oldest
        assert _txns(disk) == left
        assert _txns(disk.after_power_cut()) == left
    assert prune(disk, SNAPSHOTS, 1) == 9
    assert _txns(disk) == [9]
    assert disk.open_files == 0


def test_bad_ones_do_not_count_as_kept() -> None:
    disk = new_disk()
    for txn in (4, 5, 6, 7):
        write(disk, SNAPSHOTS, _books(txn), txn, NOW)
    for bad in (4, 6):
        _put(disk, numbered(SNAPSHOTS, bad, SUFFIX), b"bad")
    assert prune(disk, SNAPSHOTS) == 5
    assert _txns(disk) == [7, 6, 5]
    _put(disk, numbered(SNAPSHOTS, 5, SUFFIX), b"bad")
    assert prune(disk, SNAPSHOTS) == 0
    assert _txns(disk) == [7, 6, 5]


def test_remains_are_removed_and_nothing_else() -> None:
    disk = new_disk()
    write(disk, SNAPSHOTS, _books(4), 4, NOW)
    _put(disk, SNAPSHOTS / f"{6:020}.snapshot.new", b"remains")
    others = [f"{6:020}.journal.new", "notes.new", "notes"]
    for name in others:
        _put(disk, SNAPSHOTS / name, b"another's")
    prune(disk, SNAPSHOTS)
    assert disk.after_power_cut().names(SNAPSHOTS) == sorted([f"{4:020}.snapshot", *others])


def test_nothing_to_remove_changes_nothing() -> None:
    disk = new_disk()
    write(disk, SNAPSHOTS, _books(4), 4, NOW)
    calls = disk.calls
    prune(disk, SNAPSHOTS)
    assert disk.calls == calls


def test_a_snapshot_of_what_is_not_durable_is_not_made() -> None:
    with pytest.raises(AssertionError):
        write(new_disk(), SNAPSHOTS, _books(4), 3, NOW)


def test_the_error_names_the_file(small: Books) -> None:
    disk = new_disk()
    path = write(disk, SNAPSHOTS, small, 3, NOW)
    _put(disk, path, read_file(disk, path)[:-1])
    with pytest.raises(Damaged) as caught:
        read(disk, path)
    assert str(caught.value) == f"{path}, offset 0: the snapshot is damaged"

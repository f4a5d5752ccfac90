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
from server.journal.books import Books
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, Foreign, OtherFormat
from server.journal.format import (
    FORMAT_VERSION,
    SNAPSHOT,
    SNAPSHOT_CLIENT,
    SNAPSHOT_USER,
    crc64,
)
from server.journal.money import ROW_WORDS
from server.journal.reader import Position
from server.journal.snapshot import (
    Snapshot,
    newest,
    newest_head,
    pack,
    path_of,
    paths,
    prune,
    read,
    write,
)
from server.region.layout import WORD
from server.region.records import RECORD_SIZE
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, at_random
from tests.server.journal.history import (
    LOG_ID,
    NOW,
    OPERATED,
    SNAPSHOTS,
    STEPS,
    VARIED,
    Step,
    folded,
    history,
    new_disk,
    truth_of,
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


def _at(books: Books) -> Position:
    """Where they might stand in a journal."""
    return Position(3, 400 + 8 * books.txn, books.txn, books.event, bytes([books.txn]) * 32)


def _write(disk: Disk, books: Books, now: int = NOW) -> Path:
    return write(disk, SNAPSHOTS, LOG_ID, books, _at(books), now)


def _found(disk: Disk) -> Snapshot:
    """The newest, and nothing bad."""
    snapshot, bad = newest(disk, SNAPSHOTS, LOG_ID)
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
    disk = new_disk()
    with history(*steps) as worked:
        for moment in range(1, len(worked.moments)):
            books = worked.books(moment)
            txn, event = worked.moments[moment]
            books.last_seen[1:] = [NOW + txn + user for user in range(books.users)]
            books.begin(16, 0, books.epoch)
            books.skips = 3 * moment
            path = _write(disk, books, NOW + txn)
            found = _found(disk)
            assert found.path == path == path_of(SNAPSHOTS, txn, event)
            assert vars(found.books) == vars(books)
            assert truth_of(found.books) == truth_of(books)
            assert found.head.position == _at(books)
            assert found.head[:5] == (FORMAT_VERSION, LOG_ID, txn, event, books.time)
            assert found.head[8:15] == (
                books.supply, NOW + txn, 0, 16, 3 * moment, books.users, books.clients,
            )  # fmt: skip
            # What was read is as good to go on with as what was written.
            if moment + 1 < len(worked.moments):
                other, following = found.books, worked.moments[moment + 1]
                other.skips = 0
                other.apply(worked.records(txn + 1, following[0]))
                events = b"".join(worked.events(event + 1, following[1]))
                other.apply_events(events, following[1] + 1)
                assert truth_of(other) == worked.shown[moment + 1]
    assert disk.open_files == 0


def test_books_of_nobody() -> None:
    disk = new_disk()
    _write(disk, Books())
    assert vars(_found(disk).books) == vars(Books())


def test_none_is_none() -> None:
    disk = new_disk()
    one = f"{1:020}-{1:020}"
    for name in (
        "1.snapshot", "x", f"{1:020}.snapshot", f"{one}.journal", f"{one}.snapshot.new", one,
    ):  # fmt: skip
        _put(disk, SNAPSHOTS / name, b"x")
    assert newest(disk, SNAPSHOTS, LOG_ID) == (None, [])


def test_the_file_is_as_the_tables_say() -> None:
    """Field by field, read by nothing but the tables."""
    books = _books()
    books.last_seen[2] = 77
    books.rooms = {1: 4, 3: 9}
    data = b"".join(pack(LOG_ID, books, _at(books), NOW))
    words = list(struct.unpack(f"<{len(data) // WORD}Q", data))

    def row(fields: tuple[tuple[str, int], ...], at: int) -> dict[str, list[int]]:
        out = {}
        for name, length in fields:
            out[name], at = words[at : at + length], at + length
        return out

    header = row(tuple((field.name, field.words) for field in SNAPSHOT.fields), 0)
    assert header["magic"] == [int.from_bytes(b"trdsnaps", "little")]
    assert header["users"] == [books.users]
    assert header["length"] == [len(data) - SNAPSHOT.size]
    at = (SNAPSHOT.size + USER_SIZE) // WORD
    user = row(tuple((field.name, field.words) for field in SNAPSHOT_USER), at)
    assert user["last_seen"] == [77]
    assert user["registered"] == [books.registered[2]]
    assert (user["balance"], user["last_txn"]) == ([books.balances[2]], [books.last_txn[2]])
    assert struct.pack("<4Q", *user["name"]) == b"user2".ljust(32, b"\0")
    assert user["iterations"] == [4096]
    assert struct.pack("<4Q", *user["server_key"]) == b"v" * 32
    at = (SNAPSHOT.size + books.users * USER_SIZE + CLIENT_SIZE) // WORD
    client = row(tuple((field.name, field.words) for field in SNAPSHOT_CLIENT), at)
    assert client["user"] == [books.client_users[1]]
    assert client["newest"] == [books.newest[1]]
    assert client["outcomes"] == books.outcomes[ROW_WORDS : 2 * ROW_WORDS].tolist()
    assert words[-3:] == [4, 0, 9], "of the rooms"


# ---- damage


@pytest.fixture(scope="module")
def small() -> Books:
    """One user, one client, one deposit."""
    with history() as worked:
        return folded(worked.records(1, 3))


def test_every_byte_that_is_changed_is_told(small: Books) -> None:
    disk = new_disk()
    older = _write(disk, _books(2))
    path = _write(disk, small)
    good = read_file(disk, path)
    fd = disk.open(path, writable=True)
    for at, byte in enumerate(good):
        disk.write(fd, [bytes([byte ^ 1 << at % 8])], at)
        snapshot, bad = newest(disk, SNAPSHOTS, LOG_ID)
        assert [error.path for error in bad] == [path]
        assert snapshot is not None
        assert snapshot.path == older
        disk.write(fd, [bytes([byte])], at)
    disk.close(fd)
    assert _found(disk).path == path


def test_every_end_that_is_missing_is_told(small: Books) -> None:
    disk = new_disk()
    path = _write(disk, small)
    fd = disk.open(path, writable=True)
    for size in reversed(range(disk.size(fd))):
        disk.truncate(fd, size)
        snapshot, bad = newest(disk, SNAPSHOTS, LOG_ID)
        assert snapshot is None
        assert [error.path for error in bad] == [path]


@settings(deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_at_all_are_bad(data: bytes) -> None:
    disk = new_disk()
    _put(disk, path_of(SNAPSHOTS, 1, 0), data)
    assert newest(disk, SNAPSHOTS, LOG_ID)[0] is None
    _put(disk, path_of(SNAPSHOTS, 1, 0), SNAPSHOT.magic.to_bytes(WORD, "little"), data)
    assert newest(disk, SNAPSHOTS, LOG_ID)[0] is None


def test_one_after_the_other_is_passed_over() -> None:
    disk = new_disk()
    written = [_write(disk, _books(txn)) for txn in (5, 6, 7)]
    for path in written[1:]:
        _put(disk, path, b"")
    snapshot, bad = newest(disk, SNAPSHOTS, LOG_ID)
    assert snapshot is not None
    assert snapshot.path == written[0]
    assert vars(snapshot.books) == vars(_books(5))
    assert [str(error) for error in bad] == [
        f"{path}, offset 0: the snapshot has no whole header" for path in (written[2], written[1])
    ]


@dataclass
class Parts:
    """A snapshot in pieces: the header's fields, and each user's and client's bytes."""

    header: dict[str, int | bytes]
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
    ("another transaction", _header(txn_id=9), "transaction 9 and event 0"),
    ("another event", _header(event=9), "and event 9"),
    ("another log", _header(log_id=LOG_ID + 1), "of another log"),
    ("more rooms", _header(rooms=1), "counts"),
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
    ("a name twice", _word("user", 1, 8, USER1), "taken"),
    ("no name", _word("user", 1, 8, 0), "not a name"),
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
    older = _write(disk, _books(5))
    header, body = pack(LOG_ID, books, _at(books), NOW)
    values = dict(zip(FIELDS, SNAPSHOT.words.unpack(header)[1:-1], strict=True))
    middle = books.users * USER_SIZE
    users = [bytearray(body[at : at + USER_SIZE]) for at in range(0, middle, USER_SIZE)]
    clients = [
        bytearray(body[at : at + CLIENT_SIZE]) for at in range(middle, len(body), CLIENT_SIZE)
    ]
    change(Parts(values, users, clients))
    body = b"".join([*users, *clients])
    path = path_of(SNAPSHOTS, books.txn, books.event)
    _put(disk, path, SNAPSHOT.pack(*values.values(), rest=(body,)), body)
    snapshot, bad = newest(disk, SNAPSHOTS, LOG_ID)
    assert snapshot is not None
    assert snapshot.path == older
    assert [error.path for error in bad] == [path]
    assert why in bad[0].what


def test_another_kind_of_file_is_bad(small: Books) -> None:
    disk = new_disk()
    header, body = pack(LOG_ID, small, _at(small), NOW)
    other = b"trdother" + header[WORD:-WORD]
    crc = crc64(body, crc64(other)).to_bytes(WORD, "little")
    path = path_of(SNAPSHOTS, 3, 0)
    _put(disk, path, other, crc, body)
    snapshot, bad = newest(disk, SNAPSHOTS, LOG_ID)
    assert snapshot is None
    assert [error.path for error in bad] == [path]


def test_another_format_is_told_and_not_passed_over(small: Books) -> None:
    disk = new_disk()
    _write(disk, _books(2))
    header, body = pack(LOG_ID, small, _at(small), NOW)
    values = list(SNAPSHOT.words.unpack(header)[1:-1])
    values[0] = FORMAT_VERSION + 1
    path = path_of(SNAPSHOTS, 3, 0)
    _put(disk, path, SNAPSHOT.pack(*values, rest=(body,)), body)
    with pytest.raises(OtherFormat) as caught:
        newest(disk, SNAPSHOTS, LOG_ID)
    assert str(caught.value) == f"{path} has format 6, and this program reads 5"


# ---- crashes and errors


def _with_one(cut_at: int = 0, fail_at: tuple[int, int] = (0, 0)) -> SimulatedDisk:
    """A snapshot at 5 and the remains of one at 9, kept; the calls are counted from here."""
    disk = new_disk()
    _write(disk, _books(5))
    _put(disk, SNAPSHOTS / f"{9:020}-{0:020}.snapshot.new", b"remains")
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
            _write(disk, books)
            done = True
        except PowerCut:
            pass
        for survives in SURVIVORS:
            after = disk.after_power_cut(survives)
            found = _found(after)
            assert vars(found.books) == vars(_books(found.head.txn_id))
            assert found.head.txn_id == 9 or not done
            # and the next one can be made
            _write(after, _books(10))
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
            _write(disk, _books(9))
        except OSError:
            failed = True
        if not failed:
            break
        assert disk.open_files == 0
        assert _found(disk).head.txn_id in (5, 9)
        if at > 1:  # it is the removing itself of what was there before that fails first
            assert not [name for name in disk.names(SNAPSHOTS) if name.endswith(".new")]
        disk.fail_at = (0, 0)
        _write(disk, _books(9))
        assert _found(disk).head.txn_id == 9
    assert at > 6


def test_a_bad_one_of_the_same_transaction_is_replaced(small: Books) -> None:
    disk = new_disk()
    _put(disk, path_of(SNAPSHOTS, 3, 0), b"bad")
    _write(disk, small)
    assert vars(_found(disk).books) == vars(small)


# ---- removing


def _txns(disk: Disk) -> list[int]:
    return [int(path.name[:20]) for path in paths(disk, SNAPSHOTS)]


def test_two_are_kept_and_tell_where_the_journal_begins() -> None:
    disk = new_disk()
    assert prune(disk, SNAPSHOTS, LOG_ID) is None
    for txn, left, oldest in ((4, [4], 0), (6, [6, 4], 4), (7, [7, 6], 6), (9, [9, 7], 7)):
        _write(disk, _books(txn))
        older = prune(disk, SNAPSHOTS, LOG_ID)
        assert (older.txn_id if older else 0) == oldest
        assert older is None or older.position == _at(_books(oldest))
        assert _txns(disk) == left
        assert _txns(disk.after_power_cut()) == left
    (only,) = [prune(disk, SNAPSHOTS, LOG_ID, 1)]
    assert only is not None
    assert only.txn_id == 9
    assert _txns(disk) == [9]
    assert disk.open_files == 0


def test_snapshots_of_the_same_transaction_are_kept_by_their_events() -> None:
    """Where there is only chat: so the journal before the older one can go."""
    disk = new_disk()
    for event in (3, 5, 9, 100):
        books = _books(4)
        books.rooms, books.event = {1: event}, event
        _write(disk, books)
        older = prune(disk, SNAPSHOTS, LOG_ID)
    assert older is not None
    assert (older.txn_id, older.event) == (4, 9)
    assert paths(disk, SNAPSHOTS) == [path_of(SNAPSHOTS, 4, event) for event in (100, 9)]
    assert _found(disk).books.rooms == {1: 100}


def test_bad_ones_do_not_count_as_kept() -> None:
    disk = new_disk()
    for txn in (4, 5, 6, 7):
        _write(disk, _books(txn))
    for bad in (4, 6):
        _put(disk, path_of(SNAPSHOTS, bad, 0), b"bad")
    older = prune(disk, SNAPSHOTS, LOG_ID)
    assert older is not None
    assert older.txn_id == 5
    assert _txns(disk) == [7, 6, 5]
    _put(disk, path_of(SNAPSHOTS, 5, 0), b"bad")
    assert prune(disk, SNAPSHOTS, LOG_ID) is None
    assert _txns(disk) == [7, 6, 5]


def test_remains_are_removed_and_nothing_else() -> None:
    disk = new_disk()
    _write(disk, _books(4))
    _put(disk, SNAPSHOTS / f"{6:020}-{0:020}.snapshot.new", b"remains")
    others = [f"{6:020}.journal.new", "notes.new", "notes"]
    for name in others:
        _put(disk, SNAPSHOTS / name, b"another's")
    prune(disk, SNAPSHOTS, LOG_ID)
    assert disk.after_power_cut().names(SNAPSHOTS) == sorted([f"{4:020}-{0:020}.snapshot", *others])


def test_nothing_to_remove_changes_nothing() -> None:
    disk = new_disk()
    _write(disk, _books(4))
    calls = disk.calls
    prune(disk, SNAPSHOTS, LOG_ID)
    assert disk.calls == calls


def test_a_snapshot_of_what_is_not_durable_is_not_made() -> None:
    for place in (_at(_books(3)), _at(_books(4))._replace(event=1)):
        with pytest.raises(AssertionError):
            write(new_disk(), SNAPSHOTS, LOG_ID, _books(4), place, NOW)


def test_the_error_names_the_file(small: Books) -> None:
    disk = new_disk()
    path = _write(disk, small)
    _put(disk, path, read_file(disk, path)[:-1])
    with pytest.raises(Damaged) as caught:
        read(disk, path, LOG_ID)
    assert str(caught.value) == f"{path}, offset 0: the snapshot is damaged"


def test_one_that_cannot_be_read_is_passed_over_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """EIO of the newest: the one before it is good."""
    disk = new_disk()
    older, path = _write(disk, _books(4)), _write(disk, _books(6))
    real = disk.open

    def fail(opened: Path, *, writable: bool = False) -> int:
        if opened == path:
            raise OSError(errno.EIO, "Input/output error", str(opened))
        return real(opened, writable=writable)

    monkeypatch.setattr(disk, "open", fail)
    snapshot, bad = newest(disk, SNAPSHOTS, LOG_ID)
    assert snapshot is not None
    assert snapshot.path == older
    assert [str(error) for error in bad] == [
        f"{path}, offset 0: it cannot be read: Input/output error"
    ]
    head = newest_head(disk, SNAPSHOTS)
    assert head is not None
    assert head.txn_id == 4


def test_one_of_another_log_is_foreign() -> None:
    disk = new_disk()
    write(disk, SNAPSHOTS, LOG_ID + 1, _books(6), _at(_books(6)), NOW)
    snapshot, (error,) = newest(disk, SNAPSHOTS, LOG_ID)
    assert snapshot is None
    assert isinstance(error, Foreign)


def test_the_keys_of_the_operator_come_back() -> None:
    """And roles and states of users."""
    disk = new_disk()
    with history(*OPERATED) as worked:
        books = worked.books()
        _write(disk, books)
        found = _found(disk).books
        assert len(books.keys) > 1
        assert list(found.keys.items()) == list(books.keys.items())
        assert (found.roles, found.states) == (books.roles, books.states)
        assert vars(found) == vars(books)

"""What is in a journal, in its order: transactions, events, starts and stops, secrets hidden. Works
beside a running server, as verify does.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final

from libproto.codec import PUSH
from libproto.errors import PeerError
from libproto.messages import HEADER_LEN, Opcode
from server.admin.inspect import Time, Value, decode_txn
from server.admin.journal_survey import walk
from server.core.events import SlotKind
from server.journal import packed, spill
from server.journal.books import Books
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import Damaged, Refused
from server.journal.format import BatchKind, EventHead, events_in
from server.journal.load import events_damaged
from server.journal.reader import Batch, Position, Reader, number_of, start_of
from server.journal.snapshot import paths as snapshot_paths
from server.journal.snapshot import read as read_snapshot
from server.region.layout import WORD
from server.region.records import OFFSETS, RECORD_SIZE, RECORD_WORDS, RecordKind

_TRIES: Final = 5
_USERS: Final = ("from_user", "to_user", "user_id", "user", "subject", "blocked")
_NAME_WORDS: Final = 4
Entry = dict[str, Value]
"""A transaction has a `txn_id`, an event an `event_number`, a start or stop a `batch`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is shown."""

    first: int = 1  # transaction; with it the events that were written with it or after it
    last: int | None = None  # likewise
    user: int | None = None  # only what concerns this user
    room: int | None = None  # only events of this room
    transactions: bool = True
    events: bool = True


def dump(disk: Disk, data: DataDirectory, choice: Choice) -> Iterator[Entry | Damaged]:
    """The entries, oldest first, and between them what is damaged. OtherFormat, OSError."""
    for item in chain(_copied(disk, data), batches(disk, data, choice.first)):
        if isinstance(item, Damaged):
            yield item
            continue
        if choice.last is not None and item.first > choice.last:
            return
        if choice.transactions and choice.room is None:
            yield from _transactions(item, choice)
        if item.last < choice.first > 1:
            continue
        if choice.events:
            yield from [events_damaged(item)] if item.lost else _events(item, choice)
        kind = item.head.kind
        if kind != BatchKind.RECORDS and choice == Choice(choice.first, choice.last):
            yield _mark(item)


def _copied(disk: Disk, data: DataDirectory) -> Iterator[Batch | Damaged]:
    """What is left of segments that have gone and were not packed: events alone."""
    whole = {path.stem for path in packed.paths(disk, data.journal)}
    for item in spill.read_all(disk, data.journal):
        if isinstance(item, Damaged):
            yield item
            continue
        if item.path.stem in whole:
            continue
        for offset, head, events, end in item.batches():
            nothing, there = memoryview(b""), memoryview(events)
            yield Batch(item.path, offset, head._replace(txns=0), nothing, there, end)


def _transactions(batch: Batch, choice: Choice) -> Iterator[Entry]:
    words = batch.words()
    for place in range(batch.count):
        txn = batch.first + place
        if txn < choice.first or (choice.last is not None and txn > choice.last):
            continue
        values = decode_txn(words[place * RECORD_WORDS : (place + 1) * RECORD_WORDS])
        assert values is not None, "its number is not 0"
        if choice.user is None or choice.user in [values.get(name) for name in _USERS]:
            yield values


def _events(batch: Batch, choice: Choice) -> Iterator[Entry]:
    for event, frame in events_in(batch.events):
        if choice.room is not None and event.room != choice.room:
            continue
        if choice.user is None or choice.user in (event.user, event.sender):
            yield _event(event, bytes(frame))


def _event(event: EventHead, frame: bytes) -> Entry:
    is_direct = not event.room
    kind = event.kind
    entry: Entry = {
        "event_number": event.word,
        "time": Time(event.time),
        "kind": SlotKind(kind).name if kind in list(SlotKind) else kind,
    }
    where: Entry = {"to_user": event.user} if is_direct else {"room": event.room}
    entry |= where | {"seq": event.seq}
    if not is_direct:
        entry["user"] = event.user
    for name in ("sender", "client_id", "req_id", "txn"):
        if value := getattr(event, name):
            entry[name] = value
    try:
        opcode = Opcode.DIRECT_MESSAGE if is_direct else Opcode.CHAT_BROADCAST
        *_, name, text = PUSH[opcode].decode(frame, HEADER_LEN, len(frame))
        entry |= {"from": name, "text": text}
    except PeerError:
        entry["frame"] = frame
    return entry


def _mark(batch: Batch) -> Entry:
    head = batch.head
    entry: Entry = {"batch": BatchKind(head.kind).name, "time": Time(head.time)}
    if head.kind == BatchKind.BEGIN:
        entry |= {"ring": head.ring, "skip": head.skip, "epoch": head.epoch}
    return entry


def oldest(disk: Disk, data: DataDirectory) -> int:
    """The first transaction that the journal has; 1 where it has none."""
    for item in batches(disk, data):
        if isinstance(item, Batch):
            return item.first
    return 1


def batches(disk: Disk, data: DataDirectory, first: int = 1) -> Iterator[Batch | Damaged]:
    """The batches from the segment on that has a transaction, packed ones included; what was wrong
    counts only if it is so once more. Refused: the server has removed what comes next; OtherFormat,
    OSError."""
    log_id, seen, gone = data.identity(disk).log_id, set[str](), 0
    reader = Reader(disk, data.journal, log_id)
    after: Position | None = None
    with suppress(Damaged):  # else from the beginning
        after = reader.start(first - 1) if first > 1 else None
        if after is None and reader.paths:
            oldest_head = reader.oldest_head()
            for each in _packed(disk, data, first, oldest_head.number):
                after = start_of(oldest_head)  # where it goes on
                yield each
    while True:
        try:
            for item in walk(disk, reader, after):
                if isinstance(item, Batch):
                    after = item.end
                    yield item
                elif isinstance(item, Damaged):
                    if str(item) not in seen:
                        seen.add(str(item))
                        break
                    yield item
            else:
                return
        except FileNotFoundError:  # removed by the server, as no longer needed
            gone += 1
            if gone == _TRIES:
                raise
        reader = Reader(disk, data.journal, log_id)
        if after is not None and reader.paths and number_of(reader.paths[0]) > after.segment:
            if (there := reader.oldest_head().first_txn) != after.txn + 1:
                raise Refused(
                    f"the server has removed the transactions {after.txn + 1} to {there - 1} from "
                    "its journal while they were to be read: repeat the command, or "
                    "give the server a greater --history-size"
                )
            after = None


def _packed(disk: Disk, data: DataDirectory, first: int, upto: int) -> Iterator[Batch | Damaged]:
    """Those of packed segments before segment `upto`, from that on which has a transaction."""
    for path in packed.paths(disk, data.journal):
        head = packed.head_of(disk, path)
        if head is not None and (head.number >= upto or head.next_txn <= first):
            continue
        try:
            yield from packed.batches(disk, path)
        except FileNotFoundError:
            continue  # its time is over
        except Damaged as error:
            yield error


# ---- users


def newest_state(disk: Disk, data: DataDirectory) -> Books:
    """What the newest good snapshot has; as of a server that nobody has used where there is
    none. OtherFormat, OSError."""
    log_id = data.identity(disk).log_id
    for path in snapshot_paths(disk, data.snapshots):
        with suppress(Damaged, FileNotFoundError):
            return read_snapshot(disk, path, log_id).books
    return Books()


def user_id(disk: Disk, data: DataDirectory, text: str) -> int:
    """The user of a name, or of an id where nobody has that name. Refused: there is none."""
    is_id = text.isascii() and text.isdigit() and len(text) < 20
    name, id_ = text.encode("utf-8", "replace"), int(text) if is_id else 0
    books = newest_state(disk, data)
    if name in books.user_ids:
        return books.user_ids[name]
    known = books.users
    for found, user in _registered(disk, data):
        if found == name:
            return user
        known = max(known, user)
    if 0 < id_ <= known:
        return id_
    raise Refused(f"there is no user {text!r}")


def _registered(disk: Disk, data: DataDirectory) -> Iterator[tuple[bytes, int]]:
    """Name and user id of those whose registration is in the journal."""
    for batch in batches(disk, data):
        if isinstance(batch, Batch):  # of damage the dump itself tells
            yield from registrations(batch)


def registrations(batch: Batch) -> Iterator[tuple[bytes, int]]:
    """Name and user id of those who are registered in a batch."""
    at = OFFSETS[RecordKind.REGISTER]
    numbers = batch.records.cast("Q")
    kinds = numbers[at["kind"] :: RECORD_WORDS].tolist()
    for place, kind in enumerate(kinds):
        if kind == RecordKind.REGISTER:
            begin = place * RECORD_SIZE + at["name"] * WORD
            name = bytes(batch.records[begin : begin + _NAME_WORDS * WORD]).rstrip(b"\0")
            yield name, numbers[place * RECORD_WORDS + at["user_id"]]

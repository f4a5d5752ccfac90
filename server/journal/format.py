"""The files of the data directory, declared once, as data: names, headers, fields.

Writer, reader, checks and docs/JOURNAL.md are made from these tables. The unit is the **word**: a
u64, little-endian, as in the shared region: the bytes of the txn ring's slots are the bytes of the
journal's records.

What opens a header is its magic word, what closes it a CRC over the words before it, and in some
headers over all that belongs to it. The CRC is CRC-64/WE (ECMA-182's polynomial, from crcmod),
another than the wire's, so that no bytes of a client are by chance good here.

The journal is a chain: the header of a batch has the SHA-256 of what the batch contains, and of the
header before it. So one number tells whether two journals agree up to a place, and nothing of
another journal, or of another copy of this one, can stand in it.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from crcmod.predefined import mkPredefinedCrcFun

from libproto.messages import OUTCOME_WINDOW
from server.region.layout import (
    EVENT_FIELDS,
    MARKED,
    NAME_MAX,
    OUTCOME_FIELDS,
    OUTCOME_WORDS,
    RAISED,
    WORD,
)
from server.region.records import RECORD_SIZE, TEXT_MAX, RecordField

FORMAT_VERSION: Final = 5
"""Of the data directory, all its files together."""
FIRST_READ: Final = 3
READ_FORMATS: Final = tuple(range(FIRST_READ, FORMAT_VERSION + 1))
"""Formats of files that are read. A server makes a directory of an older one its own at the start
(`DataDirectory.convert`): formats 4 and 5 added records to the log, and
what they change to snapshots."""

crc64 = mkPredefinedCrcFun("crc-64-we")
"""crc64(data, crc=0) -> int: CRC-64/WE of bytes or a memoryview, going on from `crc`."""
CRC_CHECK: Final = 0x62EC59E3F1A4F00A  # of b"123456789"
assert crc64(b"123456789") == CRC_CHECK


def magic(text: str) -> int:
    """The word that 8 letters make."""
    return int.from_bytes(text.encode("ascii"), "little")


HASH_SIZE: Final = 32
"""Bytes of a SHA-256."""
_HASH_WORDS: Final = HASH_SIZE // WORD


_sha256 = hashlib.sha256
_OF_NOTHING: Final = _sha256().digest()


def sha256(*pieces: bytes | memoryview) -> bytes:
    """SHA-256 of pieces, one after the other. Other threads run during a long one."""
    if not pieces:
        return _OF_NOTHING
    found = _sha256(pieces[0])
    for piece in pieces[1:]:
        found.update(piece)
    return found.digest()


@dataclass(frozen=True, slots=True)
class HeaderField:
    name: str
    about: str
    words: int = 1  # more: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A header of words; its last field is the CRC."""

    name: str
    about: str
    magic: int
    fields: tuple[HeaderField, ...]
    size: int = field(init=False)
    """Bytes."""
    words: struct.Struct = field(init=False)
    """Of all fields: numbers, and bytes where a field has more than one word."""
    _before_crc: struct.Struct = field(init=False)

    def __post_init__(self) -> None:
        codes = ["Q" if each.words == 1 else f"{each.words * WORD}s" for each in self.fields]
        for name, chosen in (("words", codes), ("_before_crc", codes[:-1])):
            object.__setattr__(self, name, struct.Struct("<" + "".join(chosen)))
        object.__setattr__(self, "size", self.words.size)

    def pack(
        self, *values: int | bytes, crc: int = 0, rest: tuple[bytes | memoryview, ...] = ()
    ) -> bytes:
        """The header's bytes. values: its fields between magic and CRC. rest: what the CRC covers
        beside the header; crc: where to begin."""
        assert len(values) == len(self.fields) - 2, self.name
        head = self._before_crc.pack(self.magic, *values)
        crc = crc64(head, crc)
        for piece in rest:
            crc = crc64(piece, crc)
        return head + crc.to_bytes(WORD, "little")


_MAGIC = HeaderField("magic", "what it is")
_CRC = HeaderField("crc", "CRC-64/WE of all the words before it, and of what it opens")
_OWN_CRC = HeaderField("crc", "CRC-64/WE of all the words before it")

SEGMENT: Final = Header(
    "segment header",
    "At the beginning of a segment of the journal. Batches follow, without gaps; behind the last "
    "one the file is zero, as it was allocated.",
    magic("trdsegm1"),
    (
        _MAGIC,
        HeaderField("format", "the format version"),
        HeaderField(
            "log_id",
            "the identity of the log when it was begun; the newest segment has the data "
            "directory's",
        ),
        HeaderField("number", "of the segment, from 1, as in the file's name"),
        HeaderField("first_txn", "txn_id of the first transaction in it or after it"),
        HeaderField("first_event", "number of the first event in it or after it"),
        HeaderField("salt", "random: a batch of this segment repeats it, one of another file not"),
        HeaderField("created", "microseconds since the Unix epoch"),
        HeaderField(
            "previous",
            "SHA-256 of the header before it: of the last batch of the segment before, and in the "
            "first segment of a log of that identity",
            _HASH_WORDS,
        ),
        _OWN_CRC,
    ),
)


class BatchKind(IntEnum):
    """What a batch is."""

    RECORDS = 0
    BEGIN = 1  # a start of the server, before anybody was served: the first batch of a segment
    END = 2  # an orderly stop


BATCH: Final = Header(
    "batch header",
    f"Before what one group commit has made durable: the transactions, {RECORD_SIZE} bytes each, "
    "in the order of txn_id, without a gap; the events, in their order; and the closing word. "
    "Written and synced as a whole, before the next one is written. A BEGIN has transactions where "
    "the start has found events damaged.",
    magic("trdbatch"),
    (
        _MAGIC,
        HeaderField("salt", "of the segment"),
        HeaderField("kind", ", ".join(f"{kind.value} {kind.name}" for kind in BatchKind)),
        HeaderField("time", "when it was written, microseconds since the Unix epoch"),
        HeaderField("first_txn", "txn_id of the first transaction: the one after those before"),
        HeaderField("txns", "how many transactions"),
        HeaderField("first_event", "number of the first event: the one after those before"),
        HeaderField(
            "next_event",
            "number of the first event after it; between stand events that are not written, too",
        ),
        HeaderField("events_size", "bytes of the events"),
        HeaderField(
            "ring",
            "of a BEGIN, events of the ring in memory: so many may be lost in a crash, and their "
            "numbers in rooms and inboxes used",
        ),
        HeaderField(
            "skip", "of a BEGIN, what every number of a room and of an inbox rises by, see `ring`"
        ),
        HeaderField("epoch", "of a BEGIN, that the numbers of rooms and inboxes belong to now"),
        HeaderField("txns_hash", "SHA-256 of the transactions", _HASH_WORDS),
        HeaderField("events_hash", "SHA-256 of the events", _HASH_WORDS),
        HeaderField(
            "previous", "SHA-256 of the header before it: of a batch or the segment", _HASH_WORDS
        ),
        _OWN_CRC,
    ),
)
BATCH_END: Final = b"batchend"
"""What closes a batch: so that none ends with zeros, as a file does that was not written."""
EVENT: Final = tuple(HeaderField(each.name, each.about) for each in EVENT_FIELDS)
"""The words before an event's frame, which zeros fill up to whole words: as in the event ring."""
EVENT_HEAD: Final = struct.Struct(f"<{len(EVENT)}Q")


class EventHead(NamedTuple):
    """The words before an event's frame."""

    word: int
    kind: int
    room: int
    seq: int
    user: int
    session: int
    previous: int
    frame_len: int
    time: int
    sender: int
    client_slot: int
    client_id: int
    req_id: int
    digest: int
    txn: int


assert EventHead._fields == tuple(each.name for each in EVENT)


def event_size(frame_len: int) -> int:
    """Bytes of an event with a frame of `frame_len` bytes."""
    return EVENT_HEAD.size + (frame_len + WORD - 1 & -WORD)


SPILL: Final = Header(
    "header of copied events",
    "The events of a segment that was removed before the histories had them, oldest first: of "
    "each batch that has events, and of each BEGIN, its offset in the segment (8 bytes), its "
    "header, and its events. It is written as a whole before the segment goes, and goes itself "
    "when the histories have its events on the disk.",
    magic("trdspill"),
    (
        _MAGIC,
        HeaderField("format", "the format version"),
        HeaderField("log_id", "the identity of the log when it was written"),
        HeaderField("number", "of the segment, as in the file's name"),
        HeaderField("first_txn", "as in the segment's header"),
        HeaderField("first_event", "as in the segment's header"),
        HeaderField("previous", "as in the segment's header", _HASH_WORDS),
        HeaderField("next_txn", "first_txn of the next segment"),
        HeaderField("next_event", "first_event of the next segment"),
        HeaderField("next_previous", "previous of the next segment", _HASH_WORDS),
        HeaderField("length", "bytes of the batches"),
        _CRC,
    ),
)

PACKED: Final = Header(
    "header of a packed segment",
    "A segment of the journal that is kept for its time alone (`history_days`): its bytes up to "
    "the last batch, cut into blocks of 65,536 and each block compressed by itself (zlib), so that "
    "one is read without the others. Behind the header stand the compressed sizes of the blocks, a "
    "word each, and then the blocks. It is written as a whole before the segment goes.",
    magic("trdpackd"),
    (
        _MAGIC,
        HeaderField("format", "the format version"),
        HeaderField("log_id", "the identity of the log when it was written"),
        HeaderField("number", "of the segment, as in the file's name"),
        HeaderField("first_txn", "as in the segment's header"),
        HeaderField("first_event", "as in the segment's header"),
        HeaderField("previous", "as in the segment's header", _HASH_WORDS),
        HeaderField("next_txn", "first_txn of the next segment"),
        HeaderField("next_event", "first_event of the next segment"),
        HeaderField("next_previous", "previous of the next segment", _HASH_WORDS),
        HeaderField("until", "when the next segment was begun, microseconds since the Unix epoch"),
        HeaderField("length", "bytes of the segment"),
        HeaderField("crc", "CRC-64/WE of all the words before it, and of the sizes of the blocks"),
    ),
)

ROOM_SEGMENT: Final = Header(
    "history segment header",
    "At the beginning of a segment of the histories of rooms and inboxes. History batches follow, "
    "without gaps; behind the last one the file is zero, as it was allocated.",
    magic("trdrooms"),
    (
        _MAGIC,
        HeaderField("format", "the format version"),
        HeaderField("log_id", "the identity of the log that they are made from"),
        HeaderField("epoch", "that the numbers of rooms and inboxes belong to"),
        HeaderField("number", "of the segment, from 1, as in the file's name"),
        HeaderField("first_batch", "number of its first batch: the one after the segment before"),
        HeaderField("salt", "random: a batch of this segment repeats it, one of another file not"),
        HeaderField("created", "microseconds since the Unix epoch"),
        _CRC,
    ),
)
ROOM_BATCH: Final = Header(
    "history batch header",
    "Before history records that were written together, with the place in the journal up to which "
    "everything has been taken. Where that event is below the one of the batch before, the log was "
    "shortened: of what stands before it, events above that one do not count.",
    magic("trdroomb"),
    (
        _MAGIC,
        HeaderField("salt", "of the segment"),
        HeaderField("batch", "its number, from 1, without a gap over all segments"),
        HeaderField("synced", "number of the newest batch that was durable before it was written"),
        HeaderField(
            "oldest", "number of the oldest segment that is still needed beside this batch"
        ),
        HeaderField("segment", "of the journal: where everything has been taken up to"),
        HeaderField("offset", "in that segment, bytes"),
        HeaderField("txn_id", "of the newest transaction before that place"),
        HeaderField("event", "number of the newest event before that place"),
        HeaderField("chain", "SHA-256 of the journal's header before that place", _HASH_WORDS),
        HeaderField("length", "bytes of the records; 0: it only tells the place"),
        HeaderField("time", "when it was written, microseconds since the Unix epoch"),
        _CRC,
    ),
)
ROOM_RECORD: Final = (
    HeaderField("room", "room_id, or 2^32 and the user_id for an inbox"),
    HeaderField("seq", "number of the event in its room or inbox"),
    HeaderField("event", "its number in the log"),
    HeaderField("sender", "user id of who sent it"),
    HeaderField("oldest", "nothing of the room below this seq is kept any more"),
    HeaderField("length", "bytes of the body that follows"),
)
"""The words before the body of a CHAT_BROADCAST or DIRECT_MESSAGE, which zeros fill up to whole
words."""

_OF_ROOMS: Final = (
    HeaderField("named", "rooms that were opened by name: how many"),
    HeaderField("roles", "how many"),
    HeaderField("offers", "how many"),
    HeaderField("blocks", "how many"),
    HeaderField("lived", "microseconds that servers have lived, as far as their batches tell"),
    HeaderField("batch_time", "time of the last batch, as it has it"),
)
_OF_OPERATORS: Final = (HeaderField("keys", "of the operator's newest commands: how many"),)
SNAPSHOT: Final = Header(
    "snapshot header",
    "A snapshot: the state at the end of a batch. Its users follow, from user id 1 on, then its "
    "clients, from slot 0 on, then its rooms, from room 1 on, then those that were opened by name, "
    "the roles in them, the offers of all boards, ascending, who blocks whom, and the operator's "
    "newest commands that moved money, oldest first.",
    magic("trdsnaps"),
    (
        _MAGIC,
        HeaderField("format", "the format version"),
        HeaderField("log_id", "the identity of the log"),
        HeaderField("txn_id", "of the newest transaction in it, as in the file's name"),
        HeaderField("event", "number of the newest event in it, likewise"),
        HeaderField("newest", "time of the newest transaction, microseconds since the Unix epoch"),
        HeaderField("segment", "number of the segment of the journal that its last batch is in"),
        HeaderField("offset", "where that batch ends there, bytes"),
        HeaderField("chain", "SHA-256 of that batch's header", _HASH_WORDS),
        HeaderField("supply", "deposits minus withdrawals: the sum of the balances"),
        HeaderField("time", "when it was made, microseconds since the Unix epoch"),
        HeaderField("epoch", "that the numbers of rooms and inboxes belong to"),
        HeaderField("ring", "of the newest BEGIN in it"),
        HeaderField("skips", "sum of the skips since the epoch began"),
        HeaderField("users", "how many"),
        HeaderField("clients", "how many"),
        HeaderField("rooms", "how many"),
        *_OF_ROOMS,
        *_OF_OPERATORS,
        HeaderField("length", "bytes of all that follows the header"),
        _CRC,
    ),
)
SNAPSHOT_3: Final = Header(
    "snapshot header of format 3",
    "What a snapshot of format 3 opens with; it has no rooms with names, and no blocks.",
    SNAPSHOT.magic,
    tuple(each for each in SNAPSHOT.fields if each not in (*_OF_ROOMS, *_OF_OPERATORS)),
)
SNAPSHOT_4: Final = Header(
    "snapshot header of format 4",
    "What a snapshot of format 4 opens with; its users, as those of format 3, have no role and no "
    "state.",
    SNAPSHOT.magic,
    tuple(each for each in SNAPSHOT.fields if each not in _OF_OPERATORS),
)
SNAPSHOT_USER: Final = (
    RecordField("registered", "microseconds since the Unix epoch"),
    RecordField("last_seen", "end of the latest session when it was made, or before; likewise"),
    RecordField("balance", "minor units"),
    RecordField("last_txn", "txn_id of the account's latest transaction"),
    RecordField("direct_seq", "number of the latest direct message to the user"),
    RecordField("role", "0 user, 1 teller, 2 operator"),
    RecordField("state", "0 active, 1 disabled, 2 deleted"),
    RecordField("iterations", "SCRAM"),
    RecordField("name", "the username, zero-padded", 4, "text"),
    RecordField("salt", "SCRAM", 2, "bytes"),
    RecordField("stored_key", "SCRAM", 4, "bytes"),
    RecordField("server_key", "SCRAM", 4, "bytes"),
)
MARKS_SHIFT: Final = 32
"""Of a client's marks, in the word of its user."""
SNAPSHOT_CLIENT: Final = (
    RecordField(
        "user",
        f"user id, and 2^{MARKS_SHIFT} times its marks: {MARKED}, outcomes of messages may be "
        f"missing, and its next LOGIN sets the floor; {RAISED}, one has",
    ),
    RecordField("client_id", "chosen by the client"),
    RecordField("floor", "next_req_id of the LOGIN that made it, or set it"),
    RecordField("newest", "greatest req_id executed"),
    RecordField(
        "outcomes",
        f"by req_id modulo {OUTCOME_WINDOW}: {', '.join(OUTCOME_FIELDS)}",
        OUTCOME_WINDOW * OUTCOME_WORDS,
    ),
)

SNAPSHOT_ROOM: Final = (RecordField("last_seq", "room_seq of the newest event"),)
SNAPSHOT_NAMED: Final = (
    RecordField("room", "room id"),
    RecordField("opened", "txn_id by which it was opened the last time"),
    RecordField("first_seq", "room_seq of its first event since; 0: its numbers began anew since"),
    RecordField("owner", "user id; 0: it is closed"),
    RecordField("access", "0 public, 1 by invitation, 2 closed"),
    RecordField("closed", "when, microseconds since the Unix epoch"),
    RecordField("name", "zero-padded", NAME_MAX // WORD, "text"),
    RecordField("topic", "zero-padded", TEXT_MAX // WORD, "text"),
)
SNAPSHOT_ROLE: Final = (
    RecordField("room", "room id"),
    RecordField("user", "user id"),
    RecordField("role", "RoomRole"),
    RecordField("below", "of who is muted or banned, the role that is back afterwards"),
    RecordField("until", "when a mute or ban ends, by `lived`; 0: never"),
)
SNAPSHOT_OFFER: Final = (
    RecordField("entry_id", "txn_id that added it"),
    RecordField("room", "room id"),
    RecordField("time", "when it was added, microseconds since the Unix epoch"),
    RecordField("user", "its owner"),
    RecordField("price", "minor units; 0: a note"),
    RecordField("text", "zero-padded", TEXT_MAX // WORD, "text"),
)
SNAPSHOT_BLOCK: Final = (
    RecordField("user", "user id of who blocks"),
    RecordField("blocked", "user id of who is blocked"),
)
SNAPSHOT_KEY: Final = (
    RecordField("txn", "its txn_id"),
    RecordField("key", "of the command"),
    RecordField("kind", "RecordKind"),
    RecordField("user", "user id"),
    RecordField("amount", "minor units"),
    RecordField("balance", "of the user, after it"),
    RecordField("digest", "of the note"),
)

POSITION: Final = Header(
    "position",
    "How far the journal is durable: written after every sync of the journal, in turns into one of "
    "two sectors of 512 bytes, and synced now and then. The newest that is whole counts.",
    magic("trdposit"),
    (
        _MAGIC,
        HeaderField("log_id", "the identity of the log"),
        HeaderField("count", "how many of these have been written: the greater one counts"),
        HeaderField("segment", "number of the segment that the newest durable batch is in"),
        HeaderField("offset", "where that batch ends there, bytes"),
        HeaderField("txn_id", "newest durable txn_id"),
        HeaderField("event", "number of the newest durable event"),
        HeaderField("chain", "SHA-256 of that batch's header", _HASH_WORDS),
        _OWN_CRC,
    ),
)

IDLE: Final = Header(
    "idle header",
    "How long each client had been idle at an orderly stop; its clients follow. The next start "
    "removes it: after a crash there is none, and all begin to be idle at the start.",
    magic("trdidle1"),
    (
        _MAGIC,
        HeaderField("format", "the format version"),
        HeaderField(
            "txn_id", "of the newest transaction then: to another state it does not belong"
        ),
        HeaderField("clients", "how many"),
        _CRC,
    ),
)
IDLE_CLIENT: Final = (
    RecordField("user", "user id"),
    RecordField("client_id", "chosen by the client"),
    RecordField("idle", "microseconds since the end of its latest session; lived time"),
)


def events_in(events: bytes | memoryview) -> Iterator[tuple[EventHead, bytes | memoryview]]:
    """Events that stand one after the other, as far as they are whole: the head and the frame of
    each."""
    at, end = 0, len(events) - EVENT_HEAD.size
    while at <= end:
        head = EventHead._make(EVENT_HEAD.unpack_from(events, at))
        frame = at + EVENT_HEAD.size
        yield head, events[frame : frame + head.frame_len]
        at += event_size(head.frame_len)


class SegmentHead(NamedTuple):
    """A segment header's fields."""

    magic: int
    format: int
    log_id: int
    number: int
    first_txn: int
    first_event: int
    salt: int
    created: int
    previous: bytes
    crc: int


class BatchHead(NamedTuple):
    """A batch header's fields."""

    magic: int
    salt: int
    kind: int
    time: int
    first_txn: int
    txns: int
    first_event: int
    next_event: int
    events_size: int
    ring: int
    skip: int
    epoch: int
    txns_hash: bytes
    events_hash: bytes
    previous: bytes
    crc: int

    @property
    def size(self) -> int:
        """Bytes of the whole batch."""
        return BATCH.size + self.txns * RECORD_SIZE + self.events_size + WORD


for _header, _tuple in ((SEGMENT, SegmentHead), (BATCH, BatchHead)):
    assert tuple(f.name for f in _header.fields) == _tuple._fields, _header.name


def genesis(log_id: int) -> bytes:
    """What the first segment of a log has as the hash of what was before it."""
    return sha256(b"tradechat log", log_id.to_bytes(WORD, "little"))


def segment_head(data: bytes | memoryview) -> SegmentHead | None:
    """The header that a segment's bytes open with; None where they open with no valid one."""
    if len(data) < SEGMENT.size:
        return None
    head = SegmentHead._make(SEGMENT.words.unpack_from(data))
    if head.magic != SEGMENT.magic or crc64(data[: SEGMENT.size - WORD]) != head.crc:
        return None
    return head


def batch_head(data: bytes | memoryview, offset: int) -> BatchHead | None:
    """The header of the batch at an offset, if it is valid; what it opens is not looked at, nor
    whether that is there."""
    end = offset + BATCH.size
    if end > len(data):
        return None
    head = BatchHead._make(BATCH.words.unpack_from(data, offset))
    if head.magic != BATCH.magic or crc64(data[offset : end - WORD]) != head.crc:
        return None
    return head


# ---- names in the data directory

IDENTITY: Final = "identity"
SERVER_KEY: Final = "server.key"
JOURNAL: Final = "journal"
SNAPSHOTS: Final = "snapshots"
POSITION_FILE: Final = "position"
ROOMS: Final = "rooms"
IDLE_FILE: Final = "idle"
TEMPORARY: Final = ".new"
REMOVED: Final = "removed-"
"""How the directory begins that `repair` puts aside what it takes away in."""
_DIGITS: Final = 20


def numbered(directory: Path, number: int, suffix: str) -> Path:
    """The path of a numbered file: its number in 20 digits, so that names sort as numbers do."""
    return directory / f"{number:0{_DIGITS}}.{suffix}"


def twice_numbered(directory: Path, first: int, second: int, suffix: str) -> Path:
    """The path of a file with two numbers, which sorts by the first and then by the second."""
    return directory / f"{first:0{_DIGITS}}-{second:0{_DIGITS}}.{suffix}"


def numbers_in(name: str, suffix: str) -> tuple[int, int] | None:
    """The numbers in a name of that form; None where it has another."""
    first, _, second = name.partition("-")
    numbers = number_in(f"{first}.{suffix}", suffix), number_in(second, suffix)
    return None if numbers[0] is None or numbers[1] is None else (numbers[0], numbers[1])


def number_in(name: str, suffix: str) -> int | None:
    """The number in a name of that form; None where it has another."""
    stem, dot, rest = name.partition(".")
    good = dot and rest == suffix and len(stem) == _DIGITS and stem.isascii() and stem.isdigit()
    return int(stem) if good else None

"""The files of the data directory, declared once, as data: names, headers, fields.

Writer, reader, checks and docs/JOURNAL.md are made from these tables. The unit is the **word**: a
u64, little-endian, as in the shared region: the bytes of the txn ring's slots are the bytes of the
journal's records.

What opens a header is its magic word, what closes it the CRC over the words before it and all that
belongs to it. The CRC is CRC-64/WE (ECMA-182's polynomial, from crcmod), another than the wire's,
so that no bytes of a client are by chance good here.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from crcmod.predefined import mkPredefinedCrcFun

from libproto.messages import OUTCOME_WINDOW
from server.region.layout import OUTCOME_FIELDS, OUTCOME_WORDS, WORD
from server.region.records import RECORD_SIZE, RecordField

FORMAT_VERSION: Final = 2
"""Of the data directory, all its files together."""

crc64 = mkPredefinedCrcFun("crc-64-we")
"""crc64(data, crc=0) -> int: CRC-64/WE of bytes or a memoryview, going on from `crc`."""
_PIECE: Final = 1 << 16  # bytes
CRC_CHECK: Final = 0x62EC59E3F1A4F00A  # of b"123456789"
assert crc64(b"123456789") == CRC_CHECK


def magic(text: str) -> int:
    """The word that 8 letters make."""
    return int.from_bytes(text.encode("ascii"), "little")


@dataclass(frozen=True, slots=True)
class HeaderField:
    name: str
    about: str


@dataclass(frozen=True, slots=True)
class Header:
    """A header of words; its last field is the CRC."""

    name: str
    about: str
    magic: int
    fields: tuple[HeaderField, ...]
    size: int = field(init=False)
    """Bytes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", len(self.fields) * WORD)

    def pack(self, *values: int, crc: int = 0, rest: tuple[bytes | memoryview, ...] = ()) -> bytes:
        """The header's bytes. values: its fields between magic and CRC. rest: what the CRC covers
        beside the header; crc: where to begin."""
        assert len(values) == len(self.fields) - 2, self.name
        head = struct.pack(f"<{len(self.fields) - 1}Q", self.magic, *values)
        crc = crc64(head, crc)
        for piece in rest:
            crc = crc64(piece, crc)
        return head + crc.to_bytes(WORD, "little")


_MAGIC = HeaderField("magic", "what it is")
_CRC = HeaderField("crc", "CRC-64/WE of all the words before it, and of what it opens")

SEGMENT: Final = Header(
    "segment header",
    "At the beginning of a segment of the journal. Batches follow, without gaps; behind the last "
    "one the file is zero, as it was allocated.",
    magic("trdsegm1"),
    (
        _MAGIC,
        HeaderField("format", "the format version"),
        HeaderField("first_txn", "txn_id of the first record, as in the file's name"),
        HeaderField("salt", "random: a batch of this segment repeats it, one of another file not"),
        HeaderField("created", "microseconds since the Unix epoch"),
        _CRC,
    ),
)
BATCH: Final = Header(
    "batch header",
    f"Before the records of one group commit, {RECORD_SIZE} bytes each, in the order of txn_id, "
    "without a gap. Written and synced as a whole, before the next one is written.",
    magic("trdbatch"),
    (
        _MAGIC,
        HeaderField("salt", "of the segment"),
        HeaderField("first_txn", "txn_id of the first record: the one after the batch before"),
        HeaderField("records", "how many, at least 1"),
        HeaderField("time", "when it was written, microseconds since the Unix epoch"),
        _CRC,
    ),
)

ROOM_SEGMENT: Final = Header(
    "room segment header",
    "At the beginning of a segment of the rooms' events. Room batches follow, without gaps; behind "
    "the last one the file is zero, as it was allocated.",
    magic("trdrooms"),
    (
        _MAGIC,
        HeaderField("format", "the format version"),
        HeaderField("number", "of the segment, from 1, as in the file's name"),
        HeaderField("first_batch", "number of its first batch: the one after the segment before"),
        HeaderField("salt", "random: a batch of this segment repeats it, one of another file not"),
        HeaderField("epoch", "that the room_seqs belong to, the same in all segments"),
        HeaderField("created", "microseconds since the Unix epoch"),
        _CRC,
    ),
)
ROOM_BATCH: Final = Header(
    "room batch header",
    "Before room records that were written and synced together, before the next batch was.",
    magic("trdroomb"),
    (
        _MAGIC,
        HeaderField("salt", "of the segment"),
        HeaderField("batch", "its number, from 1, without a gap over all segments"),
        HeaderField(
            "oldest", "number of the oldest segment that is still needed beside this batch"
        ),
        HeaderField("length", "bytes of the records, at least one"),
        HeaderField("time", "when it was written, microseconds since the Unix epoch"),
        _CRC,
    ),
)
ROOM_RECORD: Final = (
    HeaderField("room", "room_id"),
    HeaderField("seq", "room_seq of the event; of a reservation the highest that may be used"),
    HeaderField("oldest", "no event of the room below this room_seq is offered any more"),
    HeaderField("length", "bytes of the body that follows; 0: no event, but a reservation"),
)
"""The words before an event's CHAT_BROADCAST body, which zeros fill up to whole words."""

SNAPSHOT: Final = Header(
    "snapshot header",
    "A snapshot: the state at one txn_id. Its users follow, from user id 1 on, then its clients, "
    "from slot 0 on.",
    magic("trdsnaps"),
    (
        _MAGIC,
        HeaderField("format", "the format version"),
        HeaderField("txn_id", "of the newest transaction in it, as in the file's name"),
        HeaderField("supply", "deposits minus withdrawals: the sum of the balances"),
        HeaderField("time", "when it was made, microseconds since the Unix epoch"),
        HeaderField("durable", "newest txn_id that was durable then: the journal must reach it"),
        HeaderField("users", "how many"),
        HeaderField("clients", "how many"),
        HeaderField("length", "bytes of the users and clients together"),
        _CRC,
    ),
)
SNAPSHOT_USER: Final = (
    RecordField("registered", "microseconds since the Unix epoch"),
    RecordField("last_seen", "end of the latest session when it was made, or before; likewise"),
    RecordField("balance", "minor units"),
    RecordField("last_txn", "txn_id of the account's latest transaction"),
    RecordField("iterations", "SCRAM"),
    RecordField("name", "the username, zero-padded", 4, "text"),
    RecordField("salt", "SCRAM", 2, "bytes"),
    RecordField("stored_key", "SCRAM", 4, "bytes"),
    RecordField("server_key", "SCRAM", 4, "bytes"),
)
SNAPSHOT_CLIENT: Final = (
    RecordField("user", "user id"),
    RecordField("client_id", "chosen by the client"),
    RecordField("floor", "next_req_id of the LOGIN that made it"),
    RecordField("newest", "greatest req_id executed"),
    RecordField(
        "outcomes",
        f"by req_id modulo {OUTCOME_WINDOW}: {', '.join(OUTCOME_FIELDS)}",
        OUTCOME_WINDOW * OUTCOME_WORDS,
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


class SegmentHead(NamedTuple):
    """A segment header's fields."""

    magic: int
    format: int
    first_txn: int
    salt: int
    created: int
    crc: int


class BatchHead(NamedTuple):
    """A batch header's fields."""

    magic: int
    salt: int
    first_txn: int
    records: int
    time: int
    crc: int


for _header, _tuple in ((SEGMENT, SegmentHead), (BATCH, BatchHead)):
    assert tuple(f.name for f in _header.fields) == _tuple._fields, _header.name

_WORDS: Final = struct.Struct(f"<{len(BATCH.fields)}Q")
assert len(BATCH.fields) == len(SEGMENT.fields), "both are unpacked alike"


def segment_head(data: bytes | memoryview) -> SegmentHead | None:
    """The header that a segment's bytes open with; None where they open with no valid one."""
    if len(data) < SEGMENT.size:
        return None
    head = SegmentHead._make(_WORDS.unpack_from(data))
    if head.magic != SEGMENT.magic or crc64(data[: SEGMENT.size - WORD]) != head.crc:
        return None
    return head


def batch_head(data: bytes | memoryview, offset: int) -> BatchHead | None:
    """The header of the batch at an offset, if it is valid with all its records; its place in the
    order is not looked at."""
    records = offset + BATCH.size
    if records > len(data):
        return None
    head = BatchHead._make(_WORDS.unpack_from(data, offset))
    end = records + head.records * RECORD_SIZE
    if head.magic != BATCH.magic or not head.records or end > len(data):
        return None
    crc = crc64(data[offset : records - WORD])
    # Piece by piece: no other thread of the process runs during a call.
    for at in range(records, end, _PIECE):
        crc = crc64(data[at : min(at + _PIECE, end)], crc)
    return head if crc == head.crc else None


def batch_records(header: bytes) -> int:
    """How many records a batch header says, valid or not; 0 of less than a header."""
    return _WORDS.unpack(header)[3] if len(header) == BATCH.size else 0


# ---- names in the data directory

LOCK: Final = "lock"
IDENTITY: Final = "identity"
JOURNAL: Final = "journal"
SNAPSHOTS: Final = "snapshots"
ROOMS: Final = "rooms"
IDLE_FILE: Final = "idle"
TEMPORARY: Final = ".new"
REMOVED: Final = "removed-"
"""How the directory begins that `repair` puts aside what it takes away in."""
_DIGITS: Final = 20


def numbered(directory: Path, number: int, suffix: str) -> Path:
    """The path of a numbered file: its number in 20 digits, so that names sort as numbers do."""
    return directory / f"{number:0{_DIGITS}}.{suffix}"


def number_in(name: str, suffix: str) -> int | None:
    """The number in a name of that form; None where it has another."""
    stem, dot, rest = name.partition(".")
    good = dot and rest == suffix and len(stem) == _DIGITS and stem.isascii() and stem.isdigit()
    return int(stem) if good else None

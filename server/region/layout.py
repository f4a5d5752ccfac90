"""The shape of the shared region, declared once, as data: segments x records x fields, in order.

Offsets are summed from this table and nowhere else; the digest that guards an attach, the
inspector and docs/LAYOUT.md are made from it. The unit of everything here is the **word**: an
8-aligned u64 in the machine's own byte order, which one store writes whole. A blob (a name, a
key, a frame) is a run of words that some other word publishes.

Who may write a field, and under which lock, is said beside it; README.md in this folder says why.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum

from libproto.messages import OUTCOME_WINDOW
from server.region.counters import COUNTERS, FILES, REPAIRS, ROWS, SERVED, STATUS
from server.region.histogram import BUCKETS
from server.region.records import BY_KIND, COMMON, RECORD_WORDS, TEXT_MAX

MAGIC = int.from_bytes(b"trdchat\x01", "little")
LAYOUT_VERSION = 2
WORD = 8  # bytes
LINE_WORDS = 8  # a cache line of 64 bytes: locks have one of their own


class Kind(StrEnum):
    """What a field's words mean to whoever shows them."""

    U64 = "u64"
    TIME = "time"  # microseconds since the Unix epoch
    BLOB = "bytes"
    TEXT = "text"  # UTF-8, zero-padded
    SEMAPHORE = "semaphore"  # a sem_t (32 bytes with glibc on x86-64), alone on its cache line
    BITS = "bits"
    RECORD = "record"  # of the txn log: records.py has its fields by kind


class ServerState(IntEnum):
    """The header's `state`."""

    STARTING = 0
    SERVING = 1
    DRAINING = 2
    HANDING_OVER = 3  # it ends, and another server takes its place


class WorkerState(IntEnum):
    """`state` of a worker's status."""

    STOPPED = 0  # there is no worker in this slot
    STARTING = 1
    IDLE = 2  # nothing waits, and no request has come since the update before
    BUSY = 3
    DRAINING = 4  # it accepts nothing more, and ends when all is answered
    STALE = 5  # never stored: what a reader takes a status for that is too old


@dataclass(frozen=True, slots=True)
class Capacities:
    """How many of each thing the region holds; fixed when it is created."""

    workers: int
    accounts: int
    rooms: int
    clients: int
    sessions: int
    txn_ring: int  # records, a power of two
    event_ring: int  # events, a power of two
    max_message: int  # bytes of UTF-8
    account_locks: int
    offers: int  # on all boards together
    roles: int  # that users have in rooms, places for
    blocks: int  # of users by others, places for

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}: at least one is needed")
        for name in ("txn_ring", "event_ring"):
            value = getattr(self, name)
            if value & (value - 1) or value < 2:
                raise ValueError(f"{name} is {value}: a power of two is needed")


Count = int | Callable[[Capacities], int]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record: its length in words, which may depend on the capacities."""

    name: str
    about: str
    kind: Kind = Kind.U64
    words: Count = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of equal records. Records start on cache lines where `aligned` is set."""

    name: str
    about: str
    records: Count
    fields: tuple[Field, ...]
    aligned: bool = True


NOTE_MAX = 256  # bytes of a note
DELETIONS = 1024  # that are kept until the archive, and the ring, have gone past them
TALLY_ROWS = 3  # that each key is counted in; see tallies.py
CROWD_BUCKETS = 1024  # of each of these, in a worker's record
DUE_BUCKETS = 4096
OPERATOR_KEYS = 1024  # of the operator's newest commands that moved money
NAME_MAX = 64  # bytes of a room's name
PAYMENT_TEXT = 20 + 1 + 10 + 1 + 20 + 1 + NOTE_MAX  # txn_id, user, amount, note, parted by blanks
LOCK = Field("lock", "the semaphore", Kind.SEMAPHORE, LINE_WORDS)
FRAME_OVERHEAD = (
    96  # bytes of a pushed frame beside its message: header, fixed fields, sender's name
)


def bits_words(c: Capacities) -> int:
    """Words of a session's room bits; bit r is room r, bit 0 is unused."""
    return (c.rooms + 64) // 64


def frame_words(c: Capacities) -> int:
    """Words of the largest frame that is pushed: of a message, or of a payment with a note."""
    return (FRAME_OVERHEAD + max(c.max_message, PAYMENT_TEXT) + WORD - 1) // WORD


def leave_words() -> int:
    """Words of the largest frame that tells of a leave."""
    return FRAME_OVERHEAD // WORD


def index_size(c: Capacities) -> int:
    """Places of the name index: a power of two, at most half full."""
    return 1 << (2 * c.accounts - 1).bit_length()


OUTCOME_FIELDS = ("req_id", "txn_id", "balance", "target", "amount", "seq", "digest")
"""Of a message: txn_id and amount 0, its time in the place of a balance."""
OUTCOME_WORDS = len(OUTCOME_FIELDS)
TARGET_KIND_SHIFT = 32  # target: TxnKind << 32 | to_user
MARKED, RAISED = 1, 2
"""Bits of a client's `marks`, which are set after events of the journal were found damaged."""

EVENT_FIELDS = (
    Field("word", "commit word: the event's number"),
    Field("kind", "SlotKind"),
    Field("room", "room id; 0: to one user"),
    Field("seq", "room_seq, or the recipient's direct_seq"),
    Field("user", "who joins, leaves or speaks; the recipient where room is 0"),
    Field("session", "session slot + 1 that joins, leaves or is superseded"),
    Field("previous", "number of the event before it in the same room"),
    Field("frame_len", "bytes"),
    Field("time", "when it was published", Kind.TIME),
    Field("sender", "user id of who sent a message"),
    Field("client_slot", "slot + 1 of the sender's client; 0: none"),
    Field("client_id", "of the client that sent it; 0: none"),
    Field("req_id", "of its request"),
    Field("digest", "of the message, to tell one request from another"),
    Field("txn", "txn_id of the transaction that it is published with; 0: none"),
)
"""What stands before an event's frame, in the ring and in the journal."""

SEGMENTS: tuple[Segment, ...] = (
    Segment(
        "header",
        "What the region is, and the words by which master and workers speak to each other.",
        1,
        (
            Field("magic", "marks a finished region; stored last when it is created"),
            Field("layout_version", "of this table"),
            Field("digest", "of this table and the capacities: an attach with another is refused"),
            Field("size", "bytes of the whole region"),
            *(Field(f"capacity_{name}", "a capacity") for name in Capacities.__slots__),
            Field("master_pid", "process id of the master"),
            Field("started", "when the region was created", Kind.TIME),
            Field("lived", "lived time is CLOCK_MONOTONIC and this, microseconds; loader"),
            Field("epoch", "of the numbers of rooms and inboxes; answered by JOIN_ROOM; loader"),
            Field("log_id", "identity of the log; answered by LOGIN"),
            Field("state", "0 starting, 1 serving, 2 draining, 3 handing over; master"),
            Field("recovery", "0, or the epoch of the repair that is going on; master"),
            Field(
                "alarm", "worker slot + 1 of one that has waited too long for a lock; any worker"
            ),
            Field("salt_secret", "key of the salts told for unknown names", Kind.BLOB, 4),
        ),
    ),
    Segment(
        "registry",
        "Users, sessions and rooms: one lock, and what is counted under it.",
        1,
        (
            LOCK,
            Field("users", "user ids handed out: 1 to this; registry lock"),
            Field("next_session", "the session id handed out last; registry lock"),
            Field("free_session", "first free session slot + 1; derived; registry lock"),
            Field("live_sessions", "sessions that have not ended; derived; registry lock"),
            Field("ending_sessions", "sessions that have ended; derived; registry lock"),
            Field("members", "the rooms' members, added up; derived; registry lock"),
            Field("clients", "client slots in use; registry lock"),
            Field("block_probes", "places that are looked at for a block, at most; registry lock"),
        ),
    ),
    Segment(
        "log",
        "The txn log's lock and positions.",
        1,
        (
            LOCK,
            Field("head", "newest txn_id; log lock"),
            Field("first", "oldest txn_id that was ever in the ring; the loader, at the start"),
            Field("last_pair_event", "newest event that a transaction is published with; log lock"),
            Field("durable", "newest txn_id that is durable; 2^64-1 without a journal; journal"),
            Field("released", "newest txn_id whose answers may leave; journal"),
            Field("limit", "newest txn_id that has a place; 0: the journal has failed; journal"),
            Field("role_probes", "places that are looked at for a role, at most; log, event locks"),
        ),
    ),
    Segment(
        "events",
        "The event ring's lock and positions.",
        1,
        (
            LOCK,
            Field("head", "number of the newest event; event lock"),
            Field("first", "oldest event that was ever in the ring; the loader, at the start"),
            Field("skipped", "what every room and inbox has left out after crashes; loader"),
            Field("durable", "newest event that is durable; 2^64-1 without a journal; journal"),
            Field("released", "newest event that may be shown; journal"),
            Field("limit", "newest event that has a place, if it is no leave; journal"),
            Field("leave_limit", "newest leave that has a place; journal"),
            Field("deletions", "texts that were deleted, counted; event lock"),
        ),
    ),
    Segment(
        "journal",
        "What the journal process tells of itself; written by it alone, but for `waiting`.",
        1,
        (
            Field("pid", "process id; 0: none"),
            Field("beat", "turns of its loop: it stands still where the process does"),
            Field("waiting", "1 while it sleeps: who needs it sets 0 and wakes it"),
            Field("failed", "errno of the write or sync after which nothing is written any more"),
            Field("full", "errno with which the next segment could not be allocated; 0: it could"),
            Field("records", "records written"),
            Field("batches", "batches by their records; see histogram.py", words=BUCKETS),
            Field("sync_us", "microseconds spent in writing and syncing batches"),
            Field("syncs", "batches by that time; see histogram.py", words=BUCKETS),
            Field("sync_us_max", "the longest of these"),
            Field("snapshot", "txn_id of the newest snapshot"),
            Field("snapshot_time", "when it was finished", Kind.TIME),
            Field("oldest", "oldest txn_id that TXN_HISTORY reaches; 0: only the ring's"),
        ),
    ),
    Segment(
        "archive",
        "What the archive process tells of itself; written by it alone.",
        1,
        (
            Field("pid", "process id; 0: none"),
            Field("beat", "turns of its loop: it stands still where the process does"),
            Field("failed", "errno of what ended it: it answers nothing; 0: it answers"),
            Field("cursor", "all up to this event is durable in the histories"),
            Field("reached", "all up to this event is in the histories, and can be asked for"),
            Field("lag", "bytes of durable events that are not in the histories yet"),
            Field("closed", "1: no event is accepted but leaves: it cannot write, or lags too far"),
            Field("kept", "events written to the histories"),
            Field("queries", "questions of workers answered"),
            Field("disk_used", "bytes that the files of the data directory take"),
            Field("disk_free", "bytes that are left on their file system"),
        ),
    ),
    Segment(
        "files",
        "What the files process tells of itself; written by it alone, but for the numbers of the "
        "master.",
        1,
        (
            Field("pid", "process id; 0: none"),
            Field("beat", "turns of its loop: it stands still where the process does"),
            Field("number", "counts the files processes; the newest one's; master"),
            Field("serving", "number of the one that takes requests; 0: none; master at its end"),
            Field("reaped", "number of the newest one that has been reaped; master"),
            Field("depth", "messages that its queue holds"),
            Field("queued", "messages that were in the queue when it looked last"),
            *(Field(name, about) for name, about in FILES),
        ),
    ),
    Segment(
        "repairs",
        "What repairs have found and done; the repair's process, and the master for the pauses.",
        1,
        tuple(Field(name, about) for name, about in REPAIRS),
    ),
    Segment(
        "workers",
        "One slot per worker, written by it alone; the host, and the pid when it has ended, by the "
        "master.",
        lambda c: c.workers,
        (
            Field("pid", "process id; 0: none"),
            Field("ack", "the recovery epoch it has acknowledged"),
            Field("beat", "turns of its timer: it stands still where the worker does"),
            Field(
                "host", "worker slot + 1 that accepts on the listener of this number, or 0; master"
            ),
            Field("cut", "counts its sessions that others have ended; registry lock"),
            Field("parked", "1 while answers wait for `released`: the journal then wakes it"),
            Field("started", "when it began to serve", Kind.TIME),
            Field("pool", "number of its pool of segments; 0: none"),
            Field("intent", "the transaction it is in the middle of", Kind.RECORD, RECORD_WORDS),
            Field(
                "intent_event",
                "the event that is published with it, without its commit word",
                Kind.BLOB,
                lambda c: len(EVENT_FIELDS) - 1 + frame_words(c),
            ),
        ),
    ),
    Segment(
        "counters",
        "One record per worker, written by that worker alone; readers sum.",
        lambda c: c.workers,
        tuple(Field(counter.name, counter.about) for counter in COUNTERS),
    ),
    Segment(
        "served",
        f"By worker and opcode, {len(ROWS)} records for each worker: {', '.join(ROWS)}.",
        lambda c: c.workers * len(ROWS),
        tuple(Field(name, about, words=words) for name, about, words in SERVED),
    ),
    Segment(
        "deliveries",
        "Events of the ring that each worker has pushed; written by it alone.",
        lambda c: c.workers,
        (
            Field("delay_us", "microseconds from the event to the push, summed over all pushes"),
            Field("delay", "pushes by that time; see histogram.py", words=BUCKETS),
        ),
    ),
    Segment(
        "status",
        "How each worker is, as it has last said itself; see status.py.",
        lambda c: c.workers,
        tuple(Field(name, about) for name, about in STATUS),
    ),
    Segment(
        "crowd",
        "Connections by a hash of their address, in rows of buckets for each worker, written by "
        "that worker alone; readers sum. See tallies.py.",
        lambda c: c.workers * TALLY_ROWS * CROWD_BUCKETS,
        (Field("open", "open connections"),),
        aligned=False,
    ),
    Segment(
        "allowances",
        "How much of what has a rate was taken, by a hash of whose it is, in rows of buckets; see "
        "tallies.py. Any worker, without a lock.",
        TALLY_ROWS * DUE_BUCKETS,
        (Field("due", "when all that was taken is paid for, microseconds of CLOCK_MONOTONIC"),),
        aligned=False,
    ),
    Segment(
        "users",
        "By user id (record 0 is unused). Name and first verifier are fixed once the word stands, "
        "until the password is changed the first time.",
        lambda c: c.accounts + 1,
        (
            Field("word", "commit word: the user id"),
            Field("name", "the username, zero-padded", Kind.TEXT, 4),
            Field("salt", "SCRAM", Kind.BLOB, 2),
            Field("iterations", "SCRAM"),
            Field("stored_key", "SCRAM", Kind.BLOB, 4),
            Field("server_key", "SCRAM", Kind.BLOB, 4),
            Field(
                "version",
                "of the verifier: 2 times the txn_id that set it, 0 of the registration, and 1 if "
                "it is the other one below; registry lock",
            ),
            Field("other_salt", "SCRAM", Kind.BLOB, 2),
            Field("other_iterations", "SCRAM"),
            Field("other_stored_key", "SCRAM", Kind.BLOB, 4),
            Field("other_server_key", "SCRAM", Kind.BLOB, 4),
            Field("role", "UserRole; registry and account lock"),
            Field("state", "UserState; registry and account lock"),
            Field("last_seen", "end of the latest session", Kind.TIME),
            Field("direct_seq", "number of the latest direct message; event lock"),
            Field("first_session", "session slot + 1, head of the user's list; derived"),
            Field("watchers", "sessions that asked for PAYMENT pushes; derived; registry lock"),
            Field("clients", "client records, about; derived; registry lock"),
        ),
        aligned=False,
    ),
    Segment(
        "name_index",
        "Open addressing by a hash of the name: user id, or 0. Derived; registry lock.",
        index_size,
        (Field("user", "user id"),),
        aligned=False,
    ),
    Segment(
        "accounts",
        "By user id (record 0 is unused), under the account's lock.",
        lambda c: c.accounts + 1,
        (
            Field("balance", "minor units"),
            Field("last_txn", "txn_id of the account's latest transaction"),
            Field("closed", "1: its user was deleted, and nobody pays into it any more"),
        ),
        aligned=False,
    ),
    Segment(
        "account_locks",
        "Account a is under lock a modulo their number.",
        lambda c: c.account_locks,
        (LOCK,),
    ),
    Segment(
        "operator_keys",
        "The operator's newest commands that moved money, each executed once. Registry and log "
        "lock.",
        OPERATOR_KEYS,
        (
            Field("txn", "commit word: the txn_id"),
            Field("key", "of the command"),
            Field("kind", "RecordKind"),
            Field("user", "user id"),
            Field("amount", "minor units"),
            Field("balance", "of the user, after it"),
            Field("digest", "of the note"),
        ),
        aligned=False,
    ),
    Segment(
        "clients",
        "Exactly-once: (user, client_id) and the outcomes of its latest req_ids, under the user's "
        "account lock; all before `newest` under the registry lock.",
        lambda c: c.clients,
        (
            Field("user", "commit word: the user id; 0: free"),
            Field("client_id", "chosen by the client"),
            Field("session", "live session slot + 1, or 0"),
            Field("idle_since", "lived time when its latest session ended, microseconds"),
            Field("kept_until", "lived time before which it is given to nobody; 0: none; loader"),
            Field(
                "floor",
                "next_req_id of the LOGIN that made it, or set it; of requests below it nothing is "
                "known but their outcomes",
            ),
            Field(
                "marks",
                f"{MARKED}: outcomes of messages may be missing, and its next LOGIN sets the "
                f"floor; {RAISED}: a LOGIN has set it so, and outcomes below it may be kept",
            ),
            Field("next", "next client slot + 1 of its bucket; derived"),
            Field("newest", "greatest req_id executed"),
            Field(
                "outcomes",
                f"by req_id modulo {OUTCOME_WINDOW}: {', '.join(OUTCOME_FIELDS)}",
                words=OUTCOME_WINDOW * OUTCOME_WORDS,
            ),
        ),
        aligned=False,
    ),
    Segment(
        "client_buckets",
        "Hash chains over clients: first client slot + 1. Derived; registry lock.",
        lambda c: c.clients,
        (Field("first", "client slot + 1"),),
        aligned=False,
    ),
    Segment(
        "sessions",
        "One per logged-in connection, and as many that have ended: their slots are free when all "
        "their leaves are published. Registry lock.",
        lambda c: 2 * c.sessions,
        (
            Field("id", "commit word: the session id; 0: free"),
            Field("mark", "1: it has ended; the user's account lock, or by its own worker"),
            Field("user", "user id"),
            Field("client", "client slot + 1, or 0"),
            Field("worker", "worker slot"),
            Field("capabilities", "granted by HELLO"),
            Field("next", "session slot + 1 in the user's list, or in the free list; derived"),
            Field("previous", "session slot + 1 in the user's list; derived"),
            Field("rooms", "bit r: joined room r", Kind.BITS, bits_words),
        ),
        aligned=False,
    ),
    Segment(
        "rooms",
        "By room id (record 0 is unused).",
        lambda c: c.rooms + 1,
        (
            Field("last_seq", "room_seq of the newest event; event lock"),
            Field("oldest_seq", "room_seq of the oldest event still in the ring; event lock"),
            Field("last_event", "number of the newest event in the ring; event lock"),
            Field("members", "users joined; derived; registry lock"),
            Field("kept", "oldest room_seq in the archive; 0: none; archive"),
            # What follows changes under the log and event locks, and is read under either.
            Field("opened", "txn_id by which it was opened by name the last time; 0: never"),
            Field("first_seq", "room_seq of its first event since it was opened"),
            Field("access", "0 public, 1 by invitation, 2 closed"),
            Field("owner", "user id; 0: nobody"),
            Field("closed", "when it was closed", Kind.TIME),
            Field("offers", "on its board; derived"),
            Field("likeness", "a hash of the name as names are compared; 0: no name"),
            Field("name", "zero-padded", Kind.TEXT, NAME_MAX // WORD),
            Field("topic", "zero-padded", Kind.TEXT, TEXT_MAX // WORD),
        ),
        aligned=False,
    ),
    Segment(
        "roles",
        "Open addressing by a hash of room and user: what a user is in a room. A place whose "
        "`opened` is not that of its room counts as free, and so does one of role 0. Log and event "
        "locks.",
        lambda c: c.roles,
        (
            Field("key", "room * 2^32 + user id; 0: never used"),
            Field("opened", "that of the room: stored last"),
            Field("role", "the role; and 256 times the one before it, of who is muted or banned"),
            Field("until", "lived time at which a mute or ban ends, microseconds; 0: never"),
        ),
        aligned=False,
    ),
    Segment(
        "offers",
        "Of all boards. One of a room that was closed or opened since is free. Log and event "
        "locks.",
        lambda c: c.offers,
        (
            Field("word", "commit word: the entry_id, the txn_id that added it; 0: free"),
            Field("room", "room id"),
            Field("opened", "that of the room"),
            Field("time", "when it was added", Kind.TIME),
            Field("user", "its owner"),
            Field("price", "minor units; 0: a note"),
            Field("text_size", "bytes; 0: it was deleted"),
            Field("text", "zero-padded", Kind.TEXT, TEXT_MAX // WORD),
        ),
        aligned=False,
    ),
    Segment(
        "deletions",
        "Deletion n stands in slot n modulo their number: texts that nobody is shown any more. "
        "Event lock.",
        DELETIONS,
        (
            Field("event", "commit word: the number of the event that deletes the text"),
            Field("room", "room id"),
            Field("seq", "room_seq of the event that had the text"),
        ),
        aligned=False,
    ),
    Segment(
        "blocks",
        "Open addressing by a hash of both users: who blocks whom. Registry lock.",
        lambda c: c.blocks,
        (
            Field("key", "user id of who blocks * 2^32 + that of who is blocked; 0: never used"),
            Field("on", "1: is blocked; 0: free"),
        ),
        aligned=False,
    ),
    Segment(
        "presence",
        "By room id: for each worker, how many of its connections have joined. Each worker writes "
        "its own column.",
        lambda c: c.rooms + 1,
        (Field("connections", "by worker slot", words=lambda c: c.workers),),
        aligned=False,
    ),
    Segment(
        "txn_ring",
        "The txn log: record n stands in slot n modulo the ring, which is reused once durable.",
        lambda c: c.txn_ring,
        (Field("record", "its first word is the commit word", Kind.RECORD, RECORD_WORDS),),
        aligned=False,  # without a gap: a run of slots is a run of the journal
    ),
    Segment(
        "event_ring",
        "Room events, direct messages, payments: event n stands in slot n modulo the ring.",
        lambda c: c.event_ring,
        (
            *EVENT_FIELDS,
            Field("frame", "the finished push frame", Kind.BLOB, frame_words),
        ),
        aligned=False,
    ),
)


def _resolve(count: Count, capacities: Capacities) -> int:
    return count if isinstance(count, int) else count(capacities)


@dataclass(frozen=True, slots=True)
class Placed:
    """A segment with its place: all in words."""

    segment: Segment
    base: int
    stride: int
    records: int
    offsets: dict[str, int]  # of each field within a record
    lengths: dict[str, int]

    def at(self, record: int, field: str = "") -> int:
        """The word index of a record, or of one of its fields."""
        if not 0 <= record < self.records:
            raise IndexError(f"{self.segment.name}[{record}] of {self.records}")
        return self.base + record * self.stride + (self.offsets[field] if field else 0)


class Layout:
    """Where everything is, for given capacities."""

    def __init__(self, capacities: Capacities) -> None:
        self.capacities = capacities
        self.segments: dict[str, Placed] = {}
        at = 0
        for segment in SEGMENTS:
            offsets, lengths, stride = {}, {}, 0
            for field in segment.fields:
                length = _resolve(field.words, capacities)
                if field.kind is Kind.SEMAPHORE:
                    assert stride % LINE_WORDS == 0, (
                        f"{segment.name}.{field.name} shares a cache line"
                    )
                offsets[field.name], lengths[field.name] = stride, length
                stride += length
            if segment.aligned:
                stride += -stride % LINE_WORDS
            records = _resolve(segment.records, capacities)
            self.segments[segment.name] = Placed(segment, at, stride, records, offsets, lengths)
            at += stride * records
            at += -at % LINE_WORDS
        self.words = at
        self.size = at * WORD
        self.digest = self._digest()

    def __getitem__(self, name: str) -> Placed:
        return self.segments[name]

    def _digest(self) -> int:
        """Of every name, kind, offset and length, in the records of the log too: the first 8 bytes
        of a SHA-256."""
        text = [f"{LAYOUT_VERSION} {asdict(self.capacities)}"]
        for name, placed in self.segments.items():
            text.append(f"{name} {placed.base} {placed.stride} {placed.records}")
            text += [
                f" {f.name} {f.kind} {placed.offsets[f.name]} {placed.lengths[f.name]}"
                for f in placed.segment.fields
            ]
        text.append(f"outcomes {OUTCOME_FIELDS}")
        for kind, fields in BY_KIND.items():
            text.append(f"{kind!r} {[(f.name, f.words, f.text) for f in COMMON + fields]}")
        return int.from_bytes(hashlib.sha256("\n".join(text).encode()).digest()[:WORD], "little")


DEFAULT_CAPACITIES = Capacities(
    workers=2,
    accounts=4096,
    rooms=256,
    clients=4096,
    sessions=8192,
    txn_ring=65536,
    event_ring=2048,
    max_message=4096,
    account_locks=4096,
    offers=4096,
    roles=8192,
    blocks=8192,
)

# Relations that the rest relies on, asserted where they are declared.
assert len({segment.name for segment in SEGMENTS}) == len(SEGMENTS)
assert all(len({f.name for f in s.fields}) == len(s.fields) for s in SEGMENTS)
assert Layout(DEFAULT_CAPACITIES).size <= 48 << 20, "the default region fits a 64 MB /dev/shm"
assert Layout(DEFAULT_CAPACITIES)["header"].offsets["magic"] == 0, "an attach reads it first"

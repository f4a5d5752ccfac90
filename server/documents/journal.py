"""The document of the data directory, made from the tables that the code runs on: format.py and
server/region/records.py. What the tables do not say, and nothing else, is said here.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from textwrap import fill
from typing import Final

from server.admin.inspect import SECRETS
from server.archive.segments import SUFFIX as ROOM_SUFFIX
from server.config import SETTINGS
from server.documents.tables import kinds_by_fields, table
from server.journal.format import (
    BATCH,
    CRC_CHECK,
    EVENT,
    FORMAT_VERSION,
    IDENTITY,
    IDLE,
    IDLE_CLIENT,
    IDLE_FILE,
    JOURNAL,
    PACKED,
    POSITION,
    POSITION_FILE,
    REMOVED,
    ROOM_BATCH,
    ROOM_RECORD,
    ROOM_SEGMENT,
    ROOMS,
    SEGMENT,
    SERVER_KEY,
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
    SNAPSHOTS,
    SPILL,
    TEMPORARY,
    Header,
    HeaderField,
)
from server.journal.packed import SUFFIX as PACKED_SUFFIX
from server.journal.reader import SUFFIX as JOURNAL_SUFFIX
from server.journal.snapshot import KEEP
from server.journal.snapshot import SUFFIX as SNAPSHOT_SUFFIX
from server.journal.spill import SUFFIX as SPILL_SUFFIX
from server.region.layout import OUTCOME_FIELDS, OUTCOME_WORDS, WORD
from server.region.records import BY_KIND, COMMON, OFFSETS, RECORD_SIZE, RecordField, RecordKind

COMMAND: Final = f"python -m {__spec__.parent} journal"

_SETTINGS: Final = (
    "data",
    "durability",
    "flush_interval",
    "segment_size",
    "snapshot_size",
    "snapshot_interval",
    "history_size",
    "history_days",
    "room_history",
    "inbox_history",
    "archive_lag_max",
)
_NUMBER: Final = "N" * 20

_HEAD: Final = f"""\
# The data directory, format {FORMAT_VERSION}

<!-- Made from the tables of server/journal by `{COMMAND}`. Do not edit. -->

Everything that a server keeps on disk is in one directory, `--data`. It holds four things: the
**journal**, which is every transaction and every event of rooms and inboxes, in one order;
**snapshots**, which are the state at one place of the journal, so that a start is short; the
**position**, which says in a second place how far the journal is durable; and the **histories** of
rooms and inboxes, which are made from the journal and can be made anew from it.

The unit is the **word**: 8 bytes, unsigned, little-endian. Offsets and sizes are in bytes. A CRC is
CRC-64/WE (of `123456789` it is `{CRC_CHECK:#018x}`). It is the last word of a header, and covers
the words of the header before it; that of a snapshot continues over its users, clients and rooms. A
hash is SHA-256.

The journal is a **chain**. The header of a batch has the hash of its transactions, of its events,
and of the header before it. So the hash of one header stands for all that came before it: what
belongs to another journal, or to another copy of this one that was written to since, does not fit.
A snapshot and the position name that hash.

## What stands where

"""

_PLACES: Final = (
    (
        f"`{IDENTITY}`",
        (
            "lines of text: the format; a secret of 32 bytes in hex; the identity of the log in "
            "hex; while a repair runs, the identity that it gives the log; and `crc` with the "
            "CRC-64/WE of the lines before it, in hex"
        ),
    ),
    (
        f"`{SERVER_KEY}`",
        "the private key of Ed25519 that says who the server is, in PEM; made by the first start",
    ),
    (f"`{JOURNAL}/{_NUMBER}.{JOURNAL_SUFFIX}`", "a segment of the journal; N: its number, from 1"),
    (
        f"`{JOURNAL}/{_NUMBER}.{SPILL_SUFFIX}`",
        "events of a removed segment, for the histories; N: its number",
    ),
    (
        f"`{JOURNAL}/{_NUMBER}.{PACKED_SUFFIX}`",
        "a segment that is kept for its time alone, compressed; N: its number",
    ),
    (
        f"`{SNAPSHOTS}/{_NUMBER}-{_NUMBER}.{SNAPSHOT_SUFFIX}`",
        "a snapshot; N: its newest txn_id, and the number of its newest event",
    ),
    (f"`{POSITION_FILE}`", "how far the journal is durable"),
    (f"`{IDLE_FILE}`", "made by an orderly stop, read and removed by the next start"),
    (f"`{ROOMS}/{_NUMBER}.{ROOM_SUFFIX}`", "a segment of the histories; N: its number, from 1"),
    (f"`*{TEMPORARY}`", "left half made by a kill: not used, replaced"),
    (
        f"`{REMOVED}TIME/`",
        "what was set aside by a start, or by `tradechat-admin journal repair`; nothing reads it",
    ),
)

_PLACES_REST: Final = f"""

N has 20 digits, so names sort as numbers do. Files have mode 0600, directories 0700. The secret
and the keys in the journal let whoever reads them pose as a user or as this server: keep backups of
the directory as safe as the directory.

## A new bank is made on purpose

A start makes a new data directory only where `--data` is an empty directory, or none (dot files,
`lost+found` and `*.log` may be in it), and logs `new_data_directory`. A directory with other files
and no `identity` is refused; so is one with an `identity` whose journal is gone, as where a volume
is not mounted or files were removed. The directory itself is locked while a server runs, so a
second one on it is refused whatever files are removed.

## Copying a directory

`tradechat-admin backup --data DIR COPY` copies the directory of a server that runs, or of one
that is stopped, and verifies the copy: it has all that was acknowledged before the command began.
One that was interrupted has no `{IDENTITY}`, and no server starts with it. `tradechat-admin
restore COPY --data NEW` makes a data directory from it and gives the log a new identity, so that
clients that have seen more than the copy has notice. Both copy the files that users share as well.

Another copy of a directory that a server is writing is either good or refused, and never
something in between: if files of different moments do not fit together, the chain and the
position tell, and the start names the file. Copy `{POSITION_FILE}` first, then `{SNAPSHOTS}/` and
`{ROOMS}/`, then `{JOURNAL}/`: then what was copied first is told by what was copied later. A copy
that is put back as it is has the identity of the log that it was copied from: run
`tradechat-admin journal repair --data DIR --restored`, which gives the log a new one.
"""

_JOURNAL: Final = """\
A segment is a header and then batches. It is allocated at its full size ahead of its use, and zero
behind the last batch. A batch is a header, its transactions, its events, and the 8 letters
`batchend`. A transaction and the event that it was published with stand in one batch.

Every start of a server begins a new segment with a BEGIN, written and synced before anybody is
served. An orderly stop writes an END. Where the last batch is no END the server was killed, and
with it events may be lost that were in memory only: so the next BEGIN has as its `skip` the `ring`
of the BEGIN before, and the numbers of every room and inbox rise by that: none is given twice."""

_RECORDS: Final = f"""\
A record takes {RECORD_SIZE} bytes, of which its kind says how many are used; the rest means
nothing. Every kind begins with the same fields.
"""

_OUTCOMES: Final = f"""
An outcome takes {OUTCOME_WORDS * WORD} bytes, a word for each of
{", ".join(f"`{name}`" for name in OUTCOME_FIELDS)}; it is zero where there is none."""

_EVENTS: Final = """\
An event is these words, then its frame as it was pushed, filled up with zeros to whole words."""

_ROOMS: Final = """\
A segment is a header and then batches; a batch is a header and then records, of any room or
inbox. Of two records of one event the later one counts.

Batches are written without waiting for the disk, and synced about once a second. So a crash can
leave several of them damaged: what no later batch says was durable (`synced`) is cut off, and taken
from the journal once more. Any other damage, or another `log_id` or `epoch`, keeps no server from
starting: the files are moved to `removed-TIME/`, and the histories are made anew from what the
journal has. They begin where it does then; the numbers of rooms and inboxes continue."""

_END: Final = """
## Torn, or damaged

A reader goes from batch to batch. A batch counts if its header's CRC is right, its salt is the
segment's, its transactions and events are the next ones, its hashes are right, and the header
before it is the one that it names. The closing word matters only where a batch may be torn. The
journal ends at the first place where no such batch stands. What stands behind that place decides:

- **Nothing, or a batch of which a sector of 512 bytes is still zero, in the newest segment.** The
  file was zero when it was allocated, and a disk writes a sector wholly or not at all: so this
  batch was being written when all ended. It was not synced, so with `durability` sync nobody was
  told of it. It is **torn**: the next start copies what there is of it to `removed-TIME/`, cuts it
  off and logs a warning.
- **A newest segment of zeros.** It was allocated ahead, and is used.
- **A batch whose events alone are damaged**: its header, and with it the chain, and its
  transactions are good. The transactions are applied; see «Events that are damaged».
- **Anything else**: a batch whose sectors are all written and that is not right, something behind
  it, another segment. It was durable once, or nobody wrote it: it is **damaged**. Nothing is
  guessed.

**The position.** After every sync of the journal, and never before it, its end is written into
`position` (two sectors in turns), which is synced now and then. A journal that ends before it has
lost its end: a file that was cut at a batch's end, a newest segment that was removed, batches that
read as zeros. That is refused as damage is. After a power cut the position may say less than the
journal has, which is good. A start without a readable position is refused too: nobody would notice
a missing end.

**What follows from what.** Beside all this every record must follow from those before it: balances,
chains of accounts, requests, supply, numbers of rooms. One that does not is damage, whatever its
hash says.

**The state is the newest good snapshot and what follows it.** What stands before that in the
journal is history: damage there is told (`history_damaged`, `verify`) and stops no server; only
TXN_HISTORY and histories that are not made yet cannot go back past it. A snapshot that is damaged,
cannot be read, or is of another log is passed over for the one before it, and logged. A snapshot is
never dropped for one that knows less.

**Events that are damaged**, above the newest good snapshot, keep no server from starting, and cost
no money. The start that finds them copies their bytes to `removed-TIME/` and logs `events_lost`.
What was said in them is lost, unless the histories have it, and so are the outcomes of these
messages, of which nobody knows whose they were. So every client's record is marked: the next LOGIN
of the client sets the record's floor to its `next_req_id` (NEW_FLOOR), durably before it is
answered, and a repeat of an earlier request that has no outcome is answered "outcome unknown" and
never executed twice. The numbers of rooms and inboxes continue as the histories have them, if those
have every event of the batch; otherwise they begin anew in a new epoch. What was found stands in
the BEGIN of that start, a transaction EVENTS_LOST for each batch and each of its rooms, and every
later start goes by it. Until a start has dealt with them no snapshot is made. Below the newest good
snapshot they cost only what the histories do not have yet (`histories_lack_events`). `repair` drops
nothing for them.

**Histories** are made from the journal. If their files are damaged, money and chat are served all
the same: the files are set aside, and the histories begin where the journal does.
"""

_GOES: Final = f"""
## When files go

A snapshot is made after `snapshot_size` of journal or after `snapshot_interval`, and at a clean
stop. It is made of what is durable, under a temporary name, synced, and then renamed. Then all
snapshots but the newest {KEEP} good ones go.

After that the oldest segments of the journal go, one by one, while all of this holds:

- the segments together have more than `history_size`;
- all of the segment is in the older of the {KEEP} snapshots;
- the transaction ring in memory does not need it;
- the archive has all of its events in the histories, synced; or they are copied before into a file
  for it, which is synced, and goes when the archive has them (`events_copied`).

With `history_days` such a segment is **packed** first, synced: TXN_HISTORY, `verify`, `dump` and
`export` read on there. A packed segment goes when so much time has passed since the next one was
begun; all of them go where `history_days` is 0 again. That is looked at after each snapshot, and
segments are packed for two seconds then, the others after the next one. What cannot be packed
(`segment_not_packed`) stays, with all that follow. TXN_HISTORY ends at a packed
segment that is missing, or whose header is damaged; no start is refused for one.

So an archive that cannot write for long does not fill the disk with money: at 10,000 transactions a
second segments grow by more than 5 GiB an hour, and what is copied of them is little more than
`archive_lag_max` in all. As long as no snapshot can be made, or a segment's events cannot be
copied, no segment goes.

**Disk use.** The journal and snapshots take at most `history_size`, or what has come since the
older of the {KEEP} snapshots where that is more; with `history_days`, what has come in that time as
well, packed; and {KEEP} snapshots, one more while it is made; and two segments, since the next one
is allocated ahead, with space for a leave of each member.
Histories with L bytes of live records take at most 3 L and 6 segments; a record has
{len(ROOM_RECORD) * WORD} bytes and its body.
"""

_DURABILITY: Final = """
## Durability

- **sync**: an answer to a transaction or a message leaves once it is synced, and so does every push
  and every answer that shows it to somebody. What was answered or shown survives a power cut.
- **async**: answers and pushes do not wait. A process that dies loses nothing that was answered. A
  power cut, or a kill of all processes at once, may lose what was answered or shown in the last
  `flush_interval`, beside one write. What is left is always a prefix: no transaction and no event
  is there without all those before it.
- **none**: nothing is written and nothing is read. The state is gone when the server ends.

Transactions and events are synced together: one write and one sync for a batch of both. A number
that a room or an inbox has given is never given again in its epoch, also after a power cut.

**A full disk.** A request gets its place in memory only where the file that is already allocated
has room for it, and beside it for a leave of every member. So where the next segment cannot be
allocated, requests that need space are answered with ERR_SERVER_BUSY at once, everything that was
executed before can still be written, whoever is there can leave, and the server carries on by
itself when there is space again (`disk_full`, `disk_has_space`).

**The archive lags or cannot write.** Where more than `archive_lag_max` of events is missing in the
histories, or they cannot be written, requests that make events are answered with ERR_SERVER_BUSY,
and all others continue. It is tried again every second, and recovers by itself
(`histories_unwritable`, `histories_late`, `histories_recovered`).

**Errors.** After the first error of a write or a sync the journal writes nothing any more, for
nobody knows what a failed sync has kept. No request that changes anything is taken any more, and
the server ends with exit code 6. What was answered with `sync` is safe. Mend the disk, and start
the server again. A server that finds damage or another format at its start ends with exit code 3.

**Time** in the log never goes back: a transaction is dated as the newest one before it where the
clock says less, and the log warns of the clock.
"""

_TOOL: Final = f"""
## The tool

`tradechat-admin journal verify --data DIR [--json]` reads everything, folds the journal past
whatever is damaged in it, compares each snapshot with it, and tells of each file what it holds. It
says whether a server can start, with which transaction and event, and which damage is only history.
It changes nothing, and works beside a running server. Exit code 0: all is good; 1: something is
damaged, whether a server can start or not (`can_start` with `--json`); 3: it cannot be read.

`tradechat-admin journal list --data DIR [--json]` lists the segments, packed ones included: their
transactions and events, when the next one was begun, and their sizes. It goes by their headers.

`tradechat-admin journal dump --data DIR [--from TXN] [--to TXN] [--user NAME_OR_ID] [--limit N]
[--transactions | --events | --room ROOM] [--json]` shows transactions and events, oldest first, and
the starts and stops between them; secrets are hidden, messages are not. With `--from` and `--to` it
shows the events that were written with those transactions. What is damaged is told on standard
error, and what can be read behind it is shown (exit code 1). It works beside a running server.

`tradechat-admin journal repair --data DIR [--until TXN] [--restored] [--yes]` brings a
directory to a state that a server starts with. The server must be stopped. Without `--until` it
takes what loses least: the newest snapshot, or the journal up to its damage, whichever knows more.
With it TXN becomes the newest transaction, also where it is in the middle of a batch. It refuses
where that state cannot be made from what is there.

- It says what would be lost before it does anything: how many transactions and events, their
  numbers, when they were written, whose amounts, how much cannot be read. **All of it was
  acknowledged**: use it where there is no backup. Then it asks. `--yes` agrees in advance, for
  scripts. Without a terminal and without `--yes`, or where the answer is no, nothing is changed,
  and the exit code is 4.
- What it takes away or changes is copied to `DIR/{REMOVED}TIME/` and synced before anything is cut.
  Nothing removes that directory: do so when you do not need it any more.
- A repair that was interrupted is repeated with the same options. Until it has come to its end no
  server starts with the directory. Each try keeps its own copies.
- If anything is lost, or nobody can know (the position is missing), the log gets a **new identity**
  (LOGIN's log_id), and the numbers of rooms and inboxes begin anew in a new **epoch**
  (JOIN_ROOM's): clients notice that what they have seen is gone. The journal before the cut stays,
  and with it TXN_HISTORY: the chain binds the segment with the new identity to it.
- `--restored` does that to a directory that was put back from a backup, and takes nothing away.
- Damage that is only history is moved away with the segments before it, if no snapshot needs them;
  so are packed segments and copied events that are damaged. Nothing of the state is lost, and the
  identity stays.

A good way through damage: copy the directory; `verify`; `repair`, and read what would be lost;
`dump --from` there, to see what can be read behind it; agree, or restore a backup; `verify`.

## Other formats

This version writes format {FORMAT_VERSION}, and reads formats 3 and 4 as well. A server that starts
with a directory of these makes it one of format {FORMAT_VERSION}: the file «{IDENTITY}» says so
from then on, the files that are there stay as they are, and new ones have the new format; older
versions read nothing of it any more. Formats 4 and 5 added kinds of records to the journal, and
what is kept of them to snapshots: format 4 named rooms, boards and blocks; format 5 passwords that
are changed, roles and states of users, and money that the operator moves.

A directory of another format is refused in a sentence, as a whole, and not changed; a file of
another format in it likewise. From format 3 on every change of the format comes with a converter.

Formats 1 and 2 were those of versions that were never published, and have no converter. To carry on
with one, start the version that wrote it and stop it cleanly. Its `tradechat-admin journal dump
--json` is every transaction that its journal keeps, in order, a JSON object each. Secrets are
hidden in it, so passwords do not come over by it. Then begin with a new directory.
"""


def document() -> str:
    """The document, Markdown."""
    parts = [
        _HEAD + table(("name", "what"), _PLACES) + _PLACES_REST,
        "## Settings\n",
        _settings(),
        "\n## The journal\n",
        _JOURNAL,
        _header(SEGMENT),
        _header(BATCH),
        "\n### Records\n",
        _RECORDS,
        _records(COMMON, 0),
        *(_kind(kinds) for kinds in kinds_by_fields()),
        "\n### An event\n",
        _EVENTS + "\n",
        _words(EVENT),
        _header(SPILL),
        _header(PACKED),
        "\n## Snapshots\n",
        "A snapshot is a header, then what it counts, in that order.",
        _header(SNAPSHOT),
        _header(SNAPSHOT_3),
        _header(SNAPSHOT_4),
        "\n### A user in a snapshot\n",
        _records(SNAPSHOT_USER, 0),
        "\n### A client in a snapshot\n",
        _records(SNAPSHOT_CLIENT, 0),
        _OUTCOMES,
        "\n### A room in a snapshot\n",
        _records(SNAPSHOT_ROOM, 0),
        "\n### A room that was opened by name, in a snapshot\n",
        _records(SNAPSHOT_NAMED, 0),
        "\n### A role in a snapshot\n",
        _records(SNAPSHOT_ROLE, 0),
        "\n### An offer in a snapshot\n",
        _records(SNAPSHOT_OFFER, 0),
        "\n### A block in a snapshot\n",
        _records(SNAPSHOT_BLOCK, 0),
        "\n### A command of the operator in a snapshot\n",
        _records(SNAPSHOT_KEY, 0),
        "\n## The position\n",
        "A header, twice, in a sector of 512 bytes each.",
        _header(POSITION),
        "\n## Idle times\n",
        "A header, then the clients.",
        _header(IDLE),
        "\n### A client in it\n",
        _records(IDLE_CLIENT, 0),
        "\n## Histories\n",
        _ROOMS,
        _header(ROOM_SEGMENT),
        _header(ROOM_BATCH),
        "\n### A record of a history\n",
        "The body of an event follows, filled up with zeros to whole words.\n",
        _words(ROOM_RECORD),
    ]
    return "\n".join(parts) + "\n" + _END + _GOES + _DURABILITY + _TOOL


def _settings() -> str:
    rows = {row.name: row.spec.about for row in SETTINGS if row.name in _SETTINGS}
    assert set(rows) == set(_SETTINGS), "a setting has another name now"
    head = "docs/SETTINGS.md has their values. These say what is on disk:\n\n"
    return head + table(("setting", "meaning"), [(f"`{n}`", rows[n]) for n in _SETTINGS])


def _header(header: Header) -> str:
    first = header.magic.to_bytes(WORD, "little").decode("ascii")
    title = header.name[0].upper() + header.name[1:]
    return (
        f"\n### {title}\n\n{fill(header.about, 100)}\n\n"
        f"{header.size} bytes. The magic is the 8 letters `{first}`.\n\n" + _words(header.fields)
    )


def _words(fields: Sequence[HeaderField]) -> str:
    return table(
        ("offset", "bytes", "field", "meaning"),
        [
            (f"{at * WORD}", f"{field.words * WORD}", f"`{field.name}`", field.about)
            for at, field in zip(_places(fields), fields, strict=True)
        ],
    )


def _places(fields: Sequence[HeaderField]) -> Iterator[int]:
    """Where each begins: words."""
    return accumulate((field.words for field in fields[:-1]), initial=0)


def _records(fields: Sequence[RecordField], at: int) -> str:
    """Fields one after the other, the first at a word."""
    rows = []
    for field in fields:
        about = field.about + (" (secret)" if field.name in SECRETS else "")
        kind = field.text or "number"
        rows.append((f"{at * WORD}", f"{field.words * WORD}", f"`{field.name}`", kind, about))
        at += field.words
    return table(("offset", "bytes", "field", "kind", "meaning"), rows)


def _kind(kinds: Sequence[RecordKind]) -> str:
    title = ", ".join(f"{kind.name} ({kind.value})" for kind in kinds)
    fields = BY_KIND[kinds[0]]
    return f"\n### {title}\n\n" + _records(fields, OFFSETS[kinds[0]][fields[0].name])

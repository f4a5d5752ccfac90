"""The document of the data directory, made from the tables that the code runs on: format.py and
server/region/records.py. What the tables do not say, and nothing else, is said here.
"""

from collections.abc import Sequence
from typing import Final

from server.admin.inspect import SECRETS
from server.archive.segments import SUFFIX as ROOM_SUFFIX
from server.config import SETTINGS
from server.documents.tables import kinds_by_fields, table
from server.journal.format import (
    BATCH,
    CRC_CHECK,
    FORMAT_VERSION,
    IDENTITY,
    IDLE,
    IDLE_CLIENT,
    IDLE_FILE,
    JOURNAL,
    REMOVED,
    ROOM_BATCH,
    ROOM_RECORD,
    ROOM_SEGMENT,
    ROOMS,
    SEGMENT,
    SNAPSHOT,
    SNAPSHOT_CLIENT,
    SNAPSHOT_USER,
    SNAPSHOTS,
    TEMPORARY,
    Header,
    HeaderField,
)
from server.journal.reader import SUFFIX as JOURNAL_SUFFIX
from server.journal.snapshot import KEEP
from server.journal.snapshot import SUFFIX as SNAPSHOT_SUFFIX
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
    "room_history",
)
_NUMBER: Final = "N" * 20

_HEAD: Final = f"""\
# The data directory, format {FORMAT_VERSION}

<!-- Made from the tables of server/journal by `{COMMAND}`. Do not edit. -->

Everything that a server keeps on disk is in one directory, `--data`. It holds three things: the
**journal**, which is every transaction in its order; **snapshots**, which are the state at one
transaction, so that a start is short; and the **rooms**, which are the newest chat events.

The unit is the **word**: 8 bytes, unsigned, little-endian. Offsets and sizes are in bytes. A CRC is
CRC-64/WE (of `123456789` it is `{CRC_CHECK:#018x}`). It is the last word of a header, and covers
the words of the header before it; the CRC of a batch goes on over its records, and that of a
snapshot over its users and clients.

## What stands where

"""

_PLACES: Final = (
    (f"`{IDENTITY}`", "two lines of text: the format, and a secret of 32 bytes in hex"),
    (f"`{JOURNAL}/{_NUMBER}.{JOURNAL_SUFFIX}`", "a segment of the journal; N: its first txn_id"),
    (
        f"`{SNAPSHOTS}/{_NUMBER}-{_NUMBER}.{SNAPSHOT_SUFFIX}`",
        "a snapshot; N: its newest txn_id, and its newest event",
    ),
    (f"`{IDLE_FILE}`", "made by an orderly stop, read and removed by the next start"),
    (f"`{ROOMS}/{_NUMBER}.{ROOM_SUFFIX}`", "a segment of the rooms; N: its number, from 1"),
    (f"`*{TEMPORARY}`", "left half made by a kill: not used, replaced"),
    (f"`{REMOVED}TIME/`", "what `tradechat-admin journal repair` took away; the server ignores it"),
)

_PLACES_REST: Final = """

N has 20 digits, so names sort as numbers do. Files have mode 0600, directories 0700. The secret
and the keys in the journal let whoever reads them pose as a user or as this server: keep backups of
the directory as safe as the directory.

To back up, stop the server and copy the directory. Copy all of it: a snapshot without the journal
after it is refused.
"""

_JOURNAL: Final = """\
A segment is a header and then batches. It is allocated at its full size, and zero behind the last
batch. A batch is a header and then its records."""

_RECORDS: Final = f"""\
A record takes {RECORD_SIZE} bytes, of which its kind says how many are used; the rest means
nothing. Every kind begins with the same fields.
"""

_OUTCOMES: Final = f"""
An outcome takes {OUTCOME_WORDS * WORD} bytes, a word for each of
{", ".join(f"`{name}`" for name in OUTCOME_FIELDS)}; it is zero where there is none."""

_ROOMS: Final = """\
A segment is a header and then batches; a batch is a header and then records, of any rooms. Of two
records of one event the later one counts."""

_END: Final = """
## The end, a torn end, damage

A reader goes from batch to batch. A batch counts if its magic, its salt and its CRC are right and
its first txn_id is the next one. The journal ends at the first place where no such batch stands.

What stands behind that place decides:

- **Nothing, or the remains of one batch, in the newest segment.** That is what a crash leaves. The
  batch was not synced, so with `durability` sync nobody was told of it. The next start cuts it off
  and logs a warning.
- **A newest segment without a good header, and without a batch.** It was being made. The next start
  removes it.
- **A whole batch of the same segment, or another segment.** Then what stands there was durable once
  and is **damaged**. The server refuses to start, and names file and offset. Nothing is guessed.

Beside this every record must follow from those before it: balances, chains, requests, supply. One
that does not is damage too, whatever its CRC says. And a journal that ends before what a snapshot
has seen durable has lost something: that is refused as well.

A snapshot that is damaged is passed over for the one before it, and the log says so. Rooms follow
the rules of the journal.
"""

_GOES: Final = f"""
## When files go

A snapshot is made after `snapshot_size` of journal or after `snapshot_interval`, and at a clean
stop. It is made of what is durable, under a temporary name, synced, and then renamed. Then all
snapshots but the newest {KEEP} good ones go.

After that the oldest segments of the journal go, one by one, while all of this holds:

- the segments together have more than `history_size`;
- all of the segment is in the older of the {KEEP} snapshots;
- the transaction ring in memory does not need it.

As long as no snapshot can be made, no segment goes.

**Disk use.** The journal and snapshots take at most `history_size`, or what has come since the
older of the {KEEP} snapshots where that is more; and {KEEP} snapshots, one more while it is made;
and one segment. A room store with L bytes of live records takes at most 3 L and 6 segments; a
record has {len(ROOM_RECORD) * WORD} bytes and its body, and each room has one more for its
reservation.
"""

_DURABILITY: Final = """
## Durability

- **sync**: an answer to a transaction leaves once the transaction is synced. What was answered
  survives a power cut.
- **async**: answers do not wait. A process that dies loses nothing that was answered. A power cut,
  or a kill of all processes at once, may lose what was answered in the last `flush_interval`,
  beside one write. What is left is always a prefix: no transaction is there without all those
  before it.
- **none**: nothing is written and nothing is read. The state is gone when the server ends.

Chat is written within `flush_interval` in both of the first two modes. A number that a room has
given is never given again, also after a power cut.

**Errors.** After the first error of a write or a sync the journal writes nothing any more, for
nobody knows what a failed sync has kept. No transaction is taken any more, and the server ends with
exit code 6. What was answered with `sync` is safe. Make room on the disk or mend it, and start the
server again. A server that finds damage or another format at its start ends with exit code 3.
"""

_TOOL: Final = f"""
## The tool

`tradechat-admin journal verify --data DIR [--json]` reads everything, folds the journal, compares
each snapshot with it, and tells of each file what it holds. It changes nothing. It works beside a
running server; the batch that is being written then looks like a torn end, which is good. Exit code
0: all is good; 1: something is damaged; 3: it cannot be read.

`tradechat-admin journal dump --data DIR [--from TXN] [--to TXN] [--user NAME_OR_ID] [--limit N]
[--json]` shows the records, oldest first, secrets hidden. It works beside a running server.

`tradechat-admin journal repair --data DIR --until TXN` makes TXN the newest transaction. **All
after it is lost to the server, though it was acknowledged**: use it where the journal is damaged
and there is no backup. The server must be stopped. It refuses where the state at TXN cannot be made
from what is there. It keeps every record up to TXN, also those in a batch that goes on after it.

- What it takes away or changes is copied to `DIR/{REMOVED}TIME/` and synced before anything is cut:
  the segments after TXN, the one that TXN is in, the snapshots after TXN, and damaged ones.
- A snapshot of TXN or before, made when more than TXN was durable, is written anew: it must not
  demand what is gone.
- A repair that was interrupted is repeated with the same TXN. Each try keeps its own copies.
- Nothing removes a `{REMOVED}TIME` directory. Remove it when you do not need it any more.
- Rooms are not touched: a chat message about a transaction that is lost stays.

A good way through damage: copy the directory; `verify`, which names the last good transaction;
`dump --from` that one plus 1, to see whether anything can be read behind it; `repair`; `verify`.

Where `verify` finds damage in segments that the older snapshot wholly contains, they are only
history, and nothing need be lost: stop the server, and move these segments and all older ones out
of `{JOURNAL}/`.

## Other formats

There is only format {FORMAT_VERSION}. A directory of another format is refused, as a whole, and not
changed. A file of another format in it is refused likewise.

To convert one, start the version that wrote it and stop it cleanly. Then `tradechat-admin journal
dump --json` of that version is the exchange form: every transaction that the journal keeps, in its
order, a JSON object each. Secrets are hidden in it, so passwords do not come over by it, and it is
complete only where `history_size` has kept the journal from transaction 1. A version that brings a
new format will ship the converter for directories of the one before.
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
        "\n## Snapshots\n",
        "A snapshot is a header, then the users, then the clients.",
        _header(SNAPSHOT),
        "\n### A user in a snapshot\n",
        _records(SNAPSHOT_USER, 0),
        "\n### A client in a snapshot\n",
        _records(SNAPSHOT_CLIENT, 0),
        _OUTCOMES,
        "\n## Idle times\n",
        "A header, then the clients.",
        _header(IDLE),
        "\n### A client in it\n",
        _records(IDLE_CLIENT, 0),
        "\n## Rooms\n",
        _ROOMS,
        _header(ROOM_SEGMENT),
        _header(ROOM_BATCH),
        "\n### Room record\n",
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
        f"\n### {title}\n\n{header.about}\n\n"
        f"{header.size} bytes. The magic is the 8 letters `{first}`.\n\n" + _words(header.fields)
    )


def _words(fields: Sequence[HeaderField]) -> str:
    return table(
        ("offset", "bytes", "field", "meaning"),
        [
            (f"{place * WORD}", f"{WORD}", f"`{field.name}`", field.about)
            for place, field in enumerate(fields)
        ],
    )


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

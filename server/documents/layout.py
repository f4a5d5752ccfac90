"""The layout document, made from the tables that the code runs on: layout.py, records.py,
counters.py. What the tables do not say, and nothing else, is said here.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from libproto.messages import OUTCOME_WINDOW
from server.admin.inspect import SECRETS
from server.core.events import SlotKind
from server.documents.tables import kinds_by_fields, table
from server.region.counters import COUNTERS
from server.region.layout import (
    DEFAULT_CAPACITIES,
    LAYOUT_VERSION,
    OUTCOME_FIELDS,
    SEGMENTS,
    WORD,
    Field,
    Kind,
    Layout,
    Placed,
    ServerState,
    WorkerState,
)
from server.region.records import BY_KIND, COMMON, OFFSETS, RECORD_WORDS, RecordField, RecordKind

COMMAND: Final = f"python -m {__spec__.parent} layout"

# For each segment who stores into it, and under what; the fields' own words go into the detail.
WRITERS: Final = {
    "header": "the master, but for `alarm`",
    "registry": "any worker, under the registry lock",
    "log": "any worker, under the log lock; `first` the loader; `durable`, `released` and `limit` "
    "the journal, and without one the master once, when it makes the region",
    "events": "any worker, under the event lock",
    "journal": "the journal; `waiting` any worker as well, without a lock",
    "archive": "the archive",
    "files": "the files process, alone; `number` and `reaped` the master, which clears `pid` and "
    "`serving` when it has ended",
    "repairs": "the repair; `kills`, `pauses` and what follows the master",
    "workers": "the worker of the slot, and a repair after its death; `host` the master, which"
    " clears `pid` and `pool` when it has ended",
    "counters": "the worker of the slot, alone",
    "served": "the worker of the record, alone",
    "deliveries": "the worker of the slot, alone",
    "status": "the worker of the slot; `state` and `updated` the master, after its death",
    "crowd": "the worker of the records, alone",
    "allowances": "any worker, without a lock: of two stores at the same moment one may be lost",
    "users": "any worker: a registration under the registry lock, before the commit word; after it "
    "the verifier that does not count, `version`, `role` and `state` under the registry, account "
    "and log locks, `last_seen`, `first_session`, `watchers` and `clients` under the registry "
    "lock, `direct_seq` under the event lock",
    "name_index": "any worker, under the registry lock",
    "accounts": "any worker, under the account's lock",
    "account_locks": "the semaphore calls of the C library",
    "operator_keys": "any worker, under the registry and log locks",
    "clients": "any worker: `user` to `next` under the registry lock; `newest` and `outcomes` "
    "under the lock of the user's account",
    "client_buckets": "any worker, under the registry lock",
    "sessions": "the session's own worker, under the registry lock, or a repair after its death; a "
    "worker whose LOGIN supersedes it sets `mark`, under the user's account lock, and clears "
    "`rooms`; `next` and `previous` any worker, under the registry lock",
    "rooms": "any worker, under the event lock; `members` under the registry lock as well, what "
    "follows `kept` under the log lock as well; `kept` the archive",
    "roles": "any worker, under the log and event locks",
    "offers": "any worker, under the log and event locks",
    "deletions": "any worker, under the event lock",
    "blocks": "any worker, under the registry lock",
    "presence": "each worker its own column, without a lock",
    "txn_ring": "any worker, under the log lock",
    "event_ring": "any worker, under the event lock",
}
assert list(WRITERS) == [segment.name for segment in SEGMENTS]

_KINDS: Final = {
    Kind.U64: "a whole number",
    Kind.TIME: "microseconds since 1970-01-01T00:00:00Z; 0: never",
    Kind.BLOB: "bytes, as they are",
    Kind.TEXT: "UTF-8, padded with zero bytes",
    Kind.SEMAPHORE: "a process-shared POSIX semaphore, alone on its cache line; its value is 1 "
    "where it is free, 0 where it is taken",
    Kind.BITS: "bit b of word w is number 64 * w + b",
    Kind.RECORD: "a record of the txn log, or none where its first word is 0",
}
assert list(_KINDS) == list(Kind)

_OUTCOME_MEANINGS: Final = {
    "req_id": "of the request; 0: none yet",
    "txn_id": "of its transaction; 0: it was a message",
    "balance": "the caller's after it, minor units; of a message when it was executed, "
    "microseconds since the Unix epoch; of a ROOM_OPEN the room",
    "target": "kind * 2^32 + payee, the kind as in the log; of a message, and of a change of a "
    "room or board, its opcode * 2^32 + room or recipient",
    "amount": "minor units; 0 of a message; of a ROOM_SET the access, of a ROOM_ROLE role * 2^32 + "
    "user, of a BOARD_REMOVE the entry_id",
    "seq": "room_seq of the event, or number in the inbox; 0: there is none",
    "digest": "of what was said, to tell one request from another; of a ROOM_ROLE the seconds, of "
    "a BOARD_TAKE the entry_id",
}
assert tuple(_OUTCOME_MEANINGS) == OUTCOME_FIELDS

_HEAD: Final = f"""\
# The shared region, layout version {LAYOUT_VERSION}

<!-- Made from the tables of server/region by `{COMMAND}`. Do not edit. -->

All processes of a server map one shared memory object: `/dev/shm/NAME`, where NAME is the server's
`--name`, by default `tradechat-PORT`. `tradechat-admin inspect` shows a live one. The rules by
which it is written and read are in `server/core/README.md`.

A region is a row of segments, a segment a row of equal records, a record a row of fields, in the
order given here and without holes, but that a segment starts on a cache line of 64 bytes, and so
does each record of a segment that says so. A field is one or several words. A word is 8 bytes, in
the byte order of x86-64, at an offset that 8 divides.

Offsets and sizes are in bytes. Those of segments are for the default capacities; they follow from
the capacities, which the header holds. The header also holds a digest of the whole layout: a
program whose tables give another one does not attach.
"""

_RECORDS: Final = f"""\
A record takes {RECORD_WORDS * WORD} bytes, of which its kind says how many are used. Every kind
begins with the same fields; a worker's intent is a record too.
"""


def document() -> str:
    """The layout document, Markdown."""
    layout = Layout(DEFAULT_CAPACITIES)
    parts = [
        _HEAD,
        "## Capacities\n",
        table(
            ("capacity", "default"),
            [(f"`{name}`", f"{n}") for name, n in asdict(DEFAULT_CAPACITIES).items()],
        ),
        f"\nWith these the region takes {layout.size} bytes ({layout.size / 2**20:.1f} MiB).\n",
        "## Kinds\n",
        table(("kind", "meaning"), [(kind.value, _KINDS[kind]) for kind in Kind]),
        "\n## Segments\n",
        table(
            ("segment", "offset", "records", "bytes each", "bytes"),
            [
                (
                    f"[{name}](#{name})",
                    f"{placed.base * WORD}",
                    f"{placed.records}",
                    f"{placed.stride * WORD}",
                    f"{placed.stride * placed.records * WORD}",
                )
                for name, placed in layout.segments.items()
            ],
        ),
        *(_segment(placed) for placed in layout.segments.values()),
        "\n## Records of the txn log\n",
        _RECORDS,
        _record_table(COMMON, OFFSETS[RecordKind.DEPOSIT]),
        *(_record_kind(kinds) for kinds in kinds_by_fields()),
        "\n## Codes\n",
        table(
            ("where", "code", "name"),
            [
                *(("`state` of header", f"{s.value}", s.name) for s in ServerState),
                *(("`state` of status", f"{s.value}", s.name) for s in WorkerState),
                *(("`kind` of txn_ring", f"{k.value}", k.name) for k in RecordKind),
                *(("`kind` of event_ring", f"{k.value}", k.name) for k in SlotKind),
            ],
        ),
        "",
    ]
    return "\n".join(parts)


def _segment(placed: Placed) -> str:
    segment = placed.segment
    aligned = " Records start on cache lines." if segment.aligned and placed.records > 1 else ""
    if segment.name == "counters":
        gauges = ", ".join(f"`{counter.name}`" for counter in COUNTERS if counter.gauge)
        detail = f"These go up and down, the rest only grow: {gauges}.\n\n"
    elif segment.name == "clients":
        detail = (
            f"The outcome of req_id r stands at place r modulo {OUTCOME_WINDOW}; each is a row of "
            f"words:\n\n{table(('word', 'meaning'), list(_outcome_rows()))}\n\n"
        )
    else:
        detail = ""
    return (
        f"\n### {segment.name}\n\n{segment.about}{aligned}\n\n"
        f"Written by: {WRITERS[segment.name]}.\n\n{detail}"
        + table(
            ("offset", "bytes", "field", "kind", "meaning"),
            [_field_row(placed, field) for field in segment.fields],
        )
    )


def _field_row(placed: Placed, field: Field) -> tuple[str, ...]:
    secret = " (secret)" if field.name in SECRETS else ""
    return (
        f"{placed.offsets[field.name] * WORD}",
        f"{placed.lengths[field.name] * WORD}",
        f"`{field.name}`",
        field.kind.value,
        field.about + secret,
    )


def _outcome_rows() -> list[tuple[str, str]]:
    return [(f"`{name}`", meaning) for name, meaning in _OUTCOME_MEANINGS.items()]


def _record_kind(kinds: Sequence[RecordKind]) -> str:
    title = ", ".join(f"{kind.name} ({kind.value})" for kind in kinds)
    return f"\n### {title}\n\n" + _record_table(BY_KIND[kinds[0]], OFFSETS[kinds[0]])


def _record_table(fields: Sequence[RecordField], offsets: dict[str, int]) -> str:
    return table(
        ("offset", "bytes", "field", "kind", "meaning"),
        [
            (
                f"{offsets[field.name] * WORD}",
                f"{field.words * WORD}",
                f"`{field.name}`",
                field.text or (Kind.TIME if field.name == "time" else Kind.U64).value,
                field.about + (" (secret)" if field.name in SECRETS else ""),
            )
            for field in fields
        ],
    )

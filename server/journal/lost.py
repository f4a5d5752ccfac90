"""Events of the journal that are damaged, above the newest good snapshot: how the start that finds
it deals with it, and writes down that it has.

The transactions of such a batch are applied, and every client is marked (see `Books.lose_events`).
What is left are the numbers that rooms and inboxes have given: none may be given twice. Where the
histories have all of these events, the numbers are theirs. Otherwise every room and inbox begins a
new epoch. Either stands in the log with the BEGIN of this start, before anybody is served: every
later start goes by that, whatever has become of the histories, and of these events, by then.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import liblog
from server.journal.aside import set_events_aside
from server.journal.books import Books
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.format import BatchHead
from server.journal.load import Loaded, events_damaged
from server.journal.reader import Batch
from server.region.layout import WORD
from server.region.records import EVENTS_LOST, RECORD_SIZE, RecordKind

Recall = Callable[[BatchHead, int], Mapping[int, int] | None]
"""What the histories know of the events of a batch, in an epoch: the newest number of each room, or
INBOX | user_id, in it; None: they do not have all of them."""

_NO_ROOM: Final = {0: 0}
"""What a record says where it tells of no room."""

log = liblog.get("journal")


class Found(NamedTuple):
    """Events that a start has found damaged."""

    batch: Batch
    numbers: Mapping[int, int] | None  # empty: they do not count any more; None: nobody knows them
    kept: str  # where their bytes are


def find(disk: Disk, data: DataDirectory, loaded: Loaded, recall: Recall) -> list[Found]:
    """What there is to deal with; the bytes are set aside. OSError."""
    found = []
    for batch in loaded.lost:
        numbers: Mapping[int, int] | None = {}
        if loaded.books.lost[batch.head.first_event].epoch == loaded.books.epoch:
            numbers = recall(batch.head, loaded.books.epoch)
        found.append(Found(batch, numbers, str(set_events_aside(disk, data, batch))))
    return found


def begins_anew(found: list[Found]) -> bool:
    """Do rooms and inboxes need a new epoch?"""
    return any(each.numbers is None for each in found)


def records(found: list[Found], books: Books, now: int) -> list[bytes]:
    """The transactions that say so, the next ones of these books. now: microseconds since the Unix
    epoch."""
    made, time = list[bytes](), max(now, books.time)
    for batch, numbers, _ in found:
        head = batch.head
        for room, seq in (numbers or _NO_ROOM).items():
            txn = books.txn + len(made) + 1
            payload = EVENTS_LOST.pack(
                RecordKind.EVENTS_LOST, time, books.supply, head.first_event, head.next_event,
                room, seq,
            )  # fmt: skip
            made.append((txn.to_bytes(WORD, "little") + payload).ljust(RECORD_SIZE, b"\0"))
    return made


def tell(found: list[Found]) -> None:
    """Log it."""
    for batch, numbers, kept in found:
        log.error(
            "events_lost",
            reason=str(events_damaged(batch)),
            events=batch.head.next_event - batch.head.first_event,
            in_histories=bool(numbers),
            kept=kept,
            advice="no money is lost: what is missing is what was said in them, and that requests "
            "before it were executed. Look at the disk",
        )

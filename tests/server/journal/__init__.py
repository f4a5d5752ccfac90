"""Tests of the journal, and what they share: small journals whose every byte is known.

The content of a transaction or an event is told by its number and its generation, the count of the
Writer that wrote it: what stands where it should not is seen.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.disk import Disk, Piece, read_file
from server.journal.format import EVENT_HEAD, SEGMENT, BatchKind, EventHead, event_size
from server.journal.reader import Position, Reader, find_end
from server.journal.writer import OVERHEAD, Writer
from server.region.layout import WORD
from server.region.records import RECORD_SIZE
from tests.helpers.disk import SimulatedDisk

DIRECTORY: Final = Path("/data/journal")
LOG_ID: Final = 0x106_1D
TIME: Final = 1_700_000_000_000_000
SEGMENT_SIZE: Final = 2400  # bytes: a few batches, and no whole number of sectors


class Size(NamedTuple):
    """What a batch has: so many transactions, so many events that are written."""

    txns: int
    events: int = 0


class Written(NamedTuple):
    """A batch, as it was given to a Writer or as a Reader gives it."""

    first: int  # txn_id of its first transaction, or of the next one
    size: int  # transactions
    records: bytes
    first_event: int
    next_event: int
    events: bytes
    kind: BatchKind = BatchKind.RECORDS

    @property
    def last(self) -> int:
        return self.first + self.size - 1


def frame(number: int, generation: int) -> bytes:
    """Of an event: from nothing to a hundred bytes, no zeros."""
    chosen = random.Random(number << 8 | generation)  # noqa: S311 - the same for the same number
    return bytes(chosen.choices(range(1, 256), k=number * 37 % 101))


def event(number: int, generation: int) -> bytes:
    """As it stands in the ring."""
    content = frame(number, generation)
    head = EventHead(number, 0, 1, number, 1, 0, 0, len(content), TIME, 1, 0, 0, 0, 0, 0)
    return (EVENT_HEAD.pack(*head) + content).ljust(event_size(len(content)), b"\0")


def batch(first: int, size: Size | int, generation: int = 0, first_event: int = 1) -> Written:
    """Behind every second event stands one that is not written."""
    txns, events = size if isinstance(size, Size) else Size(size)
    content = random.Random(generation)  # noqa: S311 - the same for the same generation
    rest = content.randbytes(RECORD_SIZE - 2 * WORD)
    words = ((number, number * 7) for number in range(first, first + txns))
    numbers = [first_event + n + n // 2 for n in range(events)]
    return Written(
        first,
        txns,
        b"".join(a.to_bytes(WORD, "little") + b.to_bytes(WORD, "little") + rest for a, b in words),
        first_event,
        numbers[-1] + 1 + events % 2 if numbers else first_event,
        b"".join(event(number, generation) for number in numbers),
    )


def mark(kind: BatchKind, txn: int, last_event: int) -> Written:
    """A BEGIN or an END behind a transaction and an event."""
    return Written(txn + 1, 0, b"", last_event + 1, last_event + 1, b"", kind)


def batches(
    sizes: Iterable[Size | int], txn: int = 0, last_event: int = 0, generation: int = 0
) -> list[Written]:
    """One after the other, behind a transaction and an event."""
    made = []
    for size in sizes:
        made.append(batch(txn + 1, size, generation, last_event + 1))
        txn, last_event = made[-1].last, made[-1].next_event - 1
    return made


def after(writer: Writer, sizes: Iterable[Size | int], generation: int) -> list[Written]:
    """Batches that a Writer may append."""
    return batches(sizes, writer.position.txn, writer.position.event, generation)


def length(written: Written) -> int:
    """Bytes of a batch in the file."""
    return OVERHEAD + len(written.records) + len(written.events)


def room_for(*sizes: Size | int) -> int:
    """Bytes of a segment that these fill, from the first transaction and event on."""
    return SEGMENT.size + sum(map(length, batches(sizes)))


def new_disk() -> SimulatedDisk:
    """With the journal's directory, which is kept, and nothing in it."""
    disk = SimulatedDisk()
    disk.make_directory(DIRECTORY)
    disk.sync_directory(DIRECTORY.parent)
    disk.log.clear()
    return disk


def disk_of(files: dict[str, bytes]) -> SimulatedDisk:
    """A disk whose journal holds these files, all of them kept."""
    disk = new_disk()
    for name, content in files.items():
        fd = disk.create(DIRECTORY / name)
        disk.write(fd, [content], 0)
        disk.sync(fd)
        disk.close(fd)
    disk.sync_directory(DIRECTORY)
    disk.log.clear()
    return disk


def files_of(disk: Disk, directory: Path = DIRECTORY) -> dict[str, bytes]:
    return {name: read_file(disk, directory / name) for name in disk.names(directory)}


def salts(seed: int = 0) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes  # noqa: S311 - the same for the same seed


def name_of(number: int) -> str:
    """Of a segment."""
    return f"{number:020}.journal"


def open_writer(
    disk: Disk,
    directory: Path = DIRECTORY,
    segment_size: int = SEGMENT_SIZE,
    salt: Callable[[int], bytes] | None = None,
    log_id: int = LOG_ID,
) -> Writer:
    """A Writer at the journal's end, as the server opens it."""
    end = find_end(disk, directory, log_id, None)
    seed = end.position.segment << 32 | end.offset
    return Writer(disk, directory, log_id, end, segment_size, lambda: TIME, salt or salts(seed))


def append(writer: Writer, written: Written) -> None:
    """In pieces, as where the ring begins anew."""
    if written.kind == BatchKind.BEGIN:
        return writer.begin(8, 0, 1)
    if written.kind == BatchKind.END:
        return writer.finish()
    half = written.size // 2 * RECORD_SIZE
    pieces: list[Piece] = [written.records[:half], memoryview(written.records)[half:]]
    return writer.append(pieces, written.size, [written.events], written.next_event)


def read(
    disk: Disk, start: Position | None = None, directory: Path = DIRECTORY, log_id: int = LOG_ID
) -> list[Written]:
    """What the journal holds."""
    return [
        Written(
            each.first, each.count, bytes(each.records), each.head.first_event,
            each.head.next_event, bytes(each.events), BatchKind(each.head.kind),
        )
        for each in Reader(disk, directory, log_id).batches(start)
    ]  # fmt: skip


def journal_of(groups: Sequence[Sequence[Size]], slack: int = 100) -> dict[str, bytes]:
    """The files of a journal: a segment for each group, of batches of these sizes, and behind the
    last this many bytes of zeros."""
    disk = new_disk()
    for number, sizes in enumerate(groups):
        writer = open_writer(disk)
        written = after(writer, sizes, 0)
        room = SEGMENT.size + sum(map(length, written)) + slack
        writer.close()
        writer = open_writer(disk, segment_size=room, salt=salts(number))
        for each in written:
            append(writer, each)
        writer.close()
    files = files_of(disk)
    assert len(files) == len(groups), "the slack holds no batch"
    return files

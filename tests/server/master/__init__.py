"""Tests of the journal, and what they share: small journals whose every record is known.

A record's content is told by its txn_id and its generation, the count of the Writer that wrote it:
what stands where it should not is seen.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from server.journal.disk import Disk, Piece, read_file
from server.journal.format import BATCH, SEGMENT
from server.journal.reader import Reader, find_end
from server.journal.writer import Writer
from server.region.layout import WORD
from server.region.records import RECORD_SIZE
from tests.helpers.disk import SimulatedDisk

DIRECTORY: Final = Path("/data/journal")
TIME: Final = 1_700_000_000_000_000
SEGMENT_SIZE: Final = 1500  # bytes: a few batches, and no whole number of sectors


class Written(NamedTuple):
    """A batch, as it was given to a Writer or as a Reader gives it."""

    first: int  # txn_id
    size: int  # records
    records: bytes


def batch(first: int, count: int, generation: int = 0) -> Written:
    content = random.Random(generation)  # noqa: S311 - the same for the same generation
    rest = content.randbytes(RECORD_SIZE - 2 * WORD)
    words = ((number, number * 7) for number in range(first, first + count))
    return Written(
        first,
        count,
        b"".join(a.to_bytes(WORD, "little") + b.to_bytes(WORD, "little") + rest for a, b in words),
    )


def batches(sizes: Iterable[int], first: int = 1, generation: int = 0) -> list[Written]:
    """One after the other."""
    made = []
    for count in sizes:
        made.append(batch(first, count, generation))
        first += count
    return made


def size_of(count: int) -> int:
    """Bytes of a batch of so many records."""
    return BATCH.size + count * RECORD_SIZE


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


def open_writer(
    disk: Disk,
    directory: Path = DIRECTORY,
    segment_size: int = SEGMENT_SIZE,
    salt: Callable[[int], bytes] | None = None,
) -> Writer:
    """A Writer at the journal's end, as the server opens it."""
    end = find_end(disk, directory)
    return Writer(disk, directory, end, segment_size, lambda: TIME, salt or salts(end.last))


def append(writer: Writer, written: Written) -> None:
    """In two pieces, as where the ring begins anew."""
    half = written.size // 2 * RECORD_SIZE
    pieces: list[Piece] = [written.records[:half], memoryview(written.records)[half:]]
    writer.append(pieces, written.size)


def read(disk: Disk, after: int = 0, directory: Path = DIRECTORY) -> list[Written]:
    """What the journal holds."""
    found = Reader(disk, directory).batches(after)
    return [Written(batch.first, batch.count, bytes(batch.records)) for batch in found]


def journal_of(groups: Sequence[Sequence[int]], slack: int = 100) -> dict[str, bytes]:
    """The files of a journal: a segment for each group, of batches of these sizes, and behind
    them this many bytes of zeros."""
    disk = new_disk()
    first = 1
    for number, sizes in enumerate(groups):
        room = SEGMENT.size + sum(map(size_of, sizes)) + slack
        writer = open_writer(disk, segment_size=room, salt=salts(number))
        for written in batches(sizes, first):
            append(writer, written)
        writer.close()
        first += sum(sizes)
    files = files_of(disk)
    assert len(files) == len(groups), "the slack holds no batch"
    return files

"""Journals that are read and damaged by tests of the reader."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from server.journal.errors import Damaged
from server.journal.format import (
    SEGMENT,
)
from server.journal.reader import (
    Batch,
    Position,
    Reader,
    find_end,
)
from tests.helpers.disk import SimulatedDisk
from tests.server.journal import (
    DIRECTORY,
    LOG_ID,
    Size,
    Written,
    after,
    append,
    batches,
    disk_of,
    journal_of,
    length,
    open_writer,
    read,
)

# Transactions alone, events alone, both; in the end one of several sectors.
GROUPS = (
    (Size(2), Size(1, 2), Size(0, 3)),
    (Size(1, 1), Size(2)),
    (Size(0, 1), Size(4, 2)),
)


SLACK = 40


FILES = journal_of(GROUPS, SLACK)


NAMES = list(FILES)


ALL = batches([size for group in GROUPS for size in group])


@dataclass(frozen=True, slots=True)
class Part:
    """A header or a batch: what stands at these bytes of a file of FILES."""

    name: str
    start: int
    end: int
    before: int  # how many batches stand before it, in the whole journal
    batch: bool


def parts_of() -> Iterator[Part]:
    before = 0
    for name, group in zip(NAMES, GROUPS, strict=True):
        at = SEGMENT.size
        yield Part(name, 0, at, before, batch=False)
        for _ in group:
            end = at + length(ALL[before])
            yield Part(name, at, end, before, batch=True)
            at = end
            before += 1


PARTS = list(parts_of())


LAST = PARTS[-1]


def ends() -> list[Position]:
    """After each batch."""
    return [each.end for each in Reader(disk_of(FILES), DIRECTORY, LOG_ID).batches()]


def changed(name: str, content: bytes | bytearray) -> SimulatedDisk:
    return disk_of({**FILES, name: bytes(content)})


def content_of(found: list[Batch]) -> list[tuple[bytes, bytes]]:
    return [(bytes(each.records), bytes(each.events)) for each in found]


def check_read(found: list[Batch], left: int) -> list[Written]:
    """So many batches as they were written, but for events that were lost, and these as none; what
    that is."""
    expected = [
        written._replace(events=b"") if each.lost else written
        for each, written in zip(found, ALL[:left], strict=True)
    ]
    assert content_of(found) == [(each.records, each.events) for each in expected]
    assert all(not each.lost or written.events for each, written in zip(found, ALL, strict=False))
    return expected


def check_refused(disk: SimulatedDisk, name: str, offset: int) -> str:
    """Damaged, at that place, after a true beginning; nothing is changed. What it says."""
    found: list[Batch] = []
    reader = Reader(disk, DIRECTORY, LOG_ID)
    with pytest.raises(Damaged) as refused:
        found.extend(reader.batches())
    check_read(found, len(found))
    assert (refused.value.path, refused.value.offset) == (DIRECTORY / name, offset)
    assert str(refused.value).startswith(f"{DIRECTORY / name}, offset {offset}: ")
    assert disk.calls == 0
    return refused.value.what


def check_end(disk: SimulatedDisk, left: int) -> None:
    """So many batches are read; a Writer goes on behind them, and all of it is kept."""
    reader = Reader(disk, DIRECTORY, LOG_ID)
    found = list(reader.batches())
    expected = check_read(found, left)
    end = find_end(disk, DIRECTORY, LOG_ID, None)
    assert end.position == reader.end.position
    assert (end.path, end.torn, end.unborn) == (
        reader.end.path, reader.end.torn, reader.end.unborn,
    )  # fmt: skip
    writer = open_writer(disk)
    for each in after(writer, [Size(1, 1), Size(12), Size(0, 2)], generation=1):
        append(writer, each)
        expected.append(each)
    writer.close()
    assert read(disk) == read(disk.after_power_cut()) == expected

"""Which segments of the journal there are, oldest first, packed ones included. By their headers
alone: whether they are good, verify tells."""

from collections.abc import Iterator, Mapping
from typing import Final

from server.admin.inspect import Time, Value
from server.journal import packed
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.format import SegmentHead
from server.journal.packed import PackedHead
from server.journal.reader import heads

COLUMNS: Final = (
    "segment", "file", "first_txn", "last_txn", "first_event", "last_event", "until", "bytes",
    "unpacked",
)  # fmt: skip
Row = Mapping[str, Value]
"""By COLUMNS; None where it is not known yet, as the segment is being written."""


def rows(disk: Disk, data: DataDirectory) -> Iterator[Row]:
    """OSError."""
    found = heads(disk, data.journal)  # before the packed ones, which they may become
    oldest = found[0][1].number if found else 0
    for path in packed.paths(disk, data.journal):
        head = packed.head_of(disk, path)
        if head is None:
            yield dict.fromkeys(COLUMNS) | {"file": f"{path.name}: damaged"}
        elif head.number < oldest:
            end = head.next_txn, head.next_event, head.until
            yield _row(path.name, head, end, _size(disk, data, path.name), head.length)
    for place, (path, segment) in enumerate(found):
        following = found[place + 1][1] if place + 1 < len(found) else None
        until = following and (following.first_txn, following.first_event, following.created)
        yield _row(path.name, segment, until, _size(disk, data, path.name), None)


def _size(disk: Disk, data: DataDirectory, name: str) -> int | None:
    try:
        fd = disk.open(data.journal / name)
    except FileNotFoundError:  # it has just gone
        return None
    try:
        return disk.size(fd)
    finally:
        disk.close(fd)


def _row(
    name: str,
    head: SegmentHead | PackedHead,
    end: tuple[int, int, int] | None,
    size: int | None,
    unpacked: int | None,
) -> Row:
    last_txn, last_event, until = (
        (None, None, None) if end is None else (end[0] - 1, end[1] - 1, Time(end[2]))
    )
    values = (
        head.number, name, head.first_txn, last_txn, head.first_event, last_event, until, size,
        unpacked,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))

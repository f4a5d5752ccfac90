"""A copy of a store that the files process may be writing meanwhile.

The index is read first and the contents after it: all that it speaks of was there before. A content
whose time is over in between is missing in the copy, as it will be in the store.

Which files are published is what the log tells that is copied with it: it may end before an event
that the index has noted. Unfinished uploads stay behind; who sent them sends them again.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Final

from server.files import records
from server.files.books import Books
from server.files.errors import Damaged
from server.files.paths import Paths
from server.files.records import index_of, line_of, records_of
from server.journal.disk import Disk, read_file

_PIECE: Final = 1 << 20  # bytes read at a time
_ELSEWHERE: Final = "copied"  # no start of a machine: numbers are not gone on with where they were
_LEFT_OUT: Final = (records.PUBLISHED, records.BEGUN)


def noted(disk: Disk, source: Path) -> tuple[set[int], set[int]]:
    """The files that a store has noted as published, and those that it has stored without that.
    None where there is no store, or its index is damaged. OSError."""
    index, books = index_of(source), Books()
    if index.name in disk.names_if_there(source):
        with suppress(Damaged):
            for record in records_of(index, read_file(disk, index))[0]:
                books.take(record)
    published = {number for number, stored in books.stored.items() if stored.published}
    return published, books.stored.keys() - published


def copy_store(
    disk: Disk,
    source: Path,
    target: Path,
    published: AbstractSet[int],
    tell: Callable[[int], None],
) -> None:
    """target: is made. published: the files whose events the copied log has, or had once. tell: is
    called with the bytes of each piece. Nothing is copied where there is no store. OSError."""
    index = index_of(source)
    if index.name not in disk.names_if_there(source):
        return
    lines = _lines(index, read_file(disk, index), published)
    disk.make_directory(target)
    to = Paths(target)
    to.make(disk)
    for sha256, path in Paths(source).contents(disk):
        try:
            fd = disk.open(path)
        except FileNotFoundError:
            continue  # its time was over just now
        try:
            _copy(disk, fd, to.content(sha256), tell)
        finally:
            disk.close(fd)
    fd = disk.create(index_of(target))
    try:
        disk.write(fd, [lines], 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.sync_directory(target)


def _lines(path: Path, data: bytes, published: AbstractSet[int]) -> bytes:
    """What the index of the copy says. A damaged one stays as it is."""
    try:
        found = records_of(path, data)[0]
    except Damaged:
        return data
    found[0]["boot"] = _ELSEWHERE
    lines = [line_of(**record) for record in found if record["kind"] not in _LEFT_OUT]
    lines += [line_of(records.PUBLISHED, id=number) for number in sorted(published)]
    return b"".join(lines)


def _copy(disk: Disk, source: int, path: Path, tell: Callable[[int], None]) -> None:
    fd = disk.create(path)
    try:
        offset = 0
        while piece := disk.read(source, _PIECE, offset):
            disk.write(fd, [piece], offset)
            offset += len(piece)
            tell(len(piece))
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.sync_directory(path.parent)

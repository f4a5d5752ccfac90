"""Hash every content of a store anew. It only reads, so it may run beside the files process."""

from collections.abc import Callable, Iterator
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Final, NamedTuple

from server.files.books import Books
from server.files.paths import Paths
from server.files.records import index_of, records_of
from server.journal.disk import Disk, read_file

_PIECE: Final = 1 << 20  # bytes read at a time


class Problem(NamedTuple):
    sha256: bytes
    files: list[int]  # file_ids
    what: str


class Verified(NamedTuple):
    contents: int
    size: int  # bytes
    problems: list[Problem]


def verify(
    directory: Path, disk: Disk | None = None, beat: Callable[[], None] = lambda: None
) -> Verified:
    """beat: called for every piece that is read. Damaged, OSError."""
    disk, paths = disk or Disk(), Paths(directory)
    contents = size = 0
    problems = []
    files = _files(disk, directory)
    seen = set()
    for sha256, path in paths.contents(disk):
        digest = sha256_of()
        length = 0
        try:
            for piece in _pieces(disk, path):
                beat()
                digest.update(piece)
                length += len(piece)
        except FileNotFoundError:
            continue  # its time was over just now
        except OSError as error:
            what = f"it cannot be read: {error.strerror}"
            problems.append(Problem(sha256, files.get(sha256, []), what))
            continue
        finally:
            seen.add(sha256)
        contents += 1
        size += length
        if digest.digest() != sha256:
            what = f"its {length} bytes have another hash, {digest.hexdigest()}"
            problems.append(Problem(sha256, files.get(sha256, []), what))
    if gone := files.keys() - seen:
        now = _files(disk, directory)  # what has ended meanwhile is no problem
        there = {sha256 for sha256, _ in paths.contents(disk)}
        problems += [
            Problem(sha256, now[sha256], "it is not there")
            for sha256 in sorted(gone & now.keys() - there)
            if now[sha256]
        ]
    return Verified(contents, size, problems)


def _files(disk: Disk, directory: Path) -> dict[bytes, list[int]]:
    """Contents that there should be, each with the file_ids that have it."""
    books = Books()
    path = index_of(directory)
    for record in records_of(path, read_file(disk, path))[0]:
        books.take(record)
    return {sha256: sorted(content.files) for sha256, content in books.contents.items()}


def _pieces(disk: Disk, path: Path) -> Iterator[bytes]:
    fd = disk.open(path)
    try:
        offset = 0
        while piece := disk.read(fd, _PIECE, offset):
            yield piece
            offset += len(piece)
    finally:
        disk.close(fd)

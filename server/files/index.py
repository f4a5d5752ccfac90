"""The file of the store's index: read when the store is opened, written anew then, and appended to.

It is written anew at each start, as after a failed sync the system may show what it has not kept;
and while the server runs, where most of it speaks of what is gone.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from server.files.records import index_of, records_of
from server.journal.disk import Disk, read_file

_NEW: Final = "index.new"
_SLACK: Final = 64 << 10  # bytes of lines without use that are let be


class IndexFile:
    """`lines` are all lines that there should be, the head first; it is asked for when the file is
    written anew."""

    def __init__(self, disk: Disk, directory: Path, lines: Callable[[], Iterable[bytes]]) -> None:
        self._disk, self._directory, self._lines = disk, directory, lines
        self.path: Final = index_of(directory)
        self._fd = -1
        self._size = 0  # bytes of good lines
        self._first = 0  # of them, those that were written anew
        self._wrong = True  # the file is not what it should be: it is written anew first

    def read(self) -> tuple[list[dict[str, Any]], int]:
        """Its records, none where there is no index, and how many wrong lines others follow.
        Damaged, OSError."""
        if self.path.name not in self._disk.names(self._directory):
            return [], 0
        return records_of(self.path, read_file(self._disk, self.path))

    def write_anew(self) -> None:
        """OSError: it is done before the next line."""
        disk, new = self._disk, self._directory / _NEW
        self._wrong = True
        if _NEW in disk.names(self._directory):
            disk.remove(new)
        data = b"".join(self._lines())
        fd = disk.create(new)
        try:
            disk.write(fd, [data], 0)
            disk.sync(fd)
            disk.rename(new, self.path)
            disk.sync_directory(self._directory)
        except BaseException:
            disk.close(fd)
            raise
        self.close()
        self._fd, self._size, self._first, self._wrong = fd, len(data), len(data), False

    def append(self, *lines: bytes, sync: bool = False) -> None:
        """Add lines; OSError: they are not there, and what is there is made good before the next.
        sync: they are durable when this returns."""
        if self._wrong or self._size > 2 * self._first + _SLACK:
            self.write_anew()
        data = b"".join(lines)
        self._wrong = True
        self._disk.write(self._fd, [data], self._size)
        if sync:
            self._disk.sync(self._fd)
        self._size += len(data)
        self._wrong = False

    def close(self) -> None:
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

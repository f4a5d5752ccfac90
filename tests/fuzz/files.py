"""Files in memory, for readers that are called many thousand times a second."""

from collections.abc import Mapping
from pathlib import Path

from server.journal.disk import Disk


class StoredFiles(Disk):
    """What was stored, by path. Descriptors are counted on."""

    def __init__(self, files: Mapping[Path, bytes]) -> None:
        self.files: dict[Path, bytes | bytearray] = dict(files)
        self._open: dict[int, Path] = {}
        self._next = 1_000_000  # no descriptor of this process

    def make_directory(self, path: Path) -> None:
        pass

    def names(self, directory: Path) -> list[str]:
        return sorted(path.name for path in self.files if path.parent == directory)

    def names_if_there(self, directory: Path) -> list[str]:
        return self.names(directory)

    def open(self, path: Path, *, writable: bool = False) -> int:
        del writable
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        self._next += 1
        self._open[self._next] = path
        return self._next

    def size(self, fd: int) -> int:
        return len(self.files[self._open[fd]])

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return bytes(self.files[self._open[fd]][offset : offset + size])

    def close(self, fd: int) -> None:
        del self._open[fd]

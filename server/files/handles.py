"""Descriptors of files that are used again and again; the longest unused is closed first."""

from collections import OrderedDict
from pathlib import Path
from typing import Final

from server.journal.disk import Disk

_KEPT: Final = 64


class Handles:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._open: OrderedDict[Path, int] = OrderedDict()

    def get(self, path: Path, *, writable: bool = False) -> int:
        """A descriptor, good until the next call. A path is always asked for in the same way.
        OSError."""
        fd = self._open.get(path)
        if fd is None:
            fd = self._disk.open(path, writable=writable)
            self._open[path] = fd
            if len(self._open) > _KEPT:
                self._disk.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(path)
        return fd

    def close(self, path: Path) -> None:
        """Before the file of this name is another one, or none."""
        if (fd := self._open.pop(path, None)) is not None:
            self._disk.close(fd)

    def close_all(self) -> None:
        for path in list(self._open):
            self.close(path)

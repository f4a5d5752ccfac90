"""How far the journal is durable, noted in a second place: so that at a start a tail that is
missing is told from one that was never written.

It is written after the sync of every batch and never before, so it never says more than is durable.
A server that was killed finds it as it was; after a power cut it may say less, since it is synced
only now and then. Two sectors are written in turns: one that was being written leaves the other.
"""

from pathlib import Path
from typing import Final

from server.journal.disk import Disk, read_file
from server.journal.format import POSITION, crc64
from server.journal.reader import SECTOR, Position
from server.region.layout import WORD

_PLACES: Final = 2
_MAGIC: Final = POSITION.magic.to_bytes(WORD, "little")


class PositionFile:
    """The one writer of the file."""

    def __init__(self, disk: Disk, path: Path, log_id: int) -> None:
        """Open it, or make it. OSError."""
        self._disk, self._log_id = disk, log_id
        if path.name in disk.names(path.parent):
            _, self._count = _newest(read_file(disk, path), log_id)
            self._fd = disk.open(path, writable=True)
        else:
            self._count, self._fd = 0, disk.create(path)
            disk.allocate(self._fd, _PLACES * SECTOR)
            disk.sync(self._fd)
            disk.sync_directory(path.parent)
        self._synced = self._count

    def write(self, position: Position) -> None:
        """Note what is durable. OSError."""
        self._count += 1
        header = POSITION.pack(self._log_id, self._count, *position)
        self._disk.write(self._fd, [header], self._count % _PLACES * SECTOR)

    def sync(self) -> None:
        """Make it last, where it has changed. OSError."""
        if self._synced != self._count:
            self._disk.sync(self._fd)
            self._synced = self._count

    def close(self) -> None:
        self._disk.close(self._fd)


def read(disk: Disk, path: Path, log_id: int) -> Position | None:
    """What was noted last of this log; None: nothing that is whole. OSError."""
    if path.name not in disk.names(path.parent):
        return None
    position, _ = _newest(read_file(disk, path), log_id)
    return position


def _newest(data: bytes, log_id: int) -> tuple[Position | None, int]:
    """The newest position of this log, and the greatest count."""
    best, greatest = None, 0
    for place in range(_PLACES):
        header = data[place * SECTOR : place * SECTOR + POSITION.size]
        if len(header) < POSITION.size or not header.startswith(_MAGIC):
            continue
        _, its_log, count, segment, offset, txn, event, chain, crc = POSITION.words.unpack(header)
        if crc64(header[:-WORD]) != crc or count <= greatest:
            continue
        greatest = count
        if its_log == log_id:
            best = Position(segment, offset, txn, event, chain)
    return best, greatest

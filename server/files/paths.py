"""Where the files of the store are. Every name is made of numbers and hexadecimal digits: nothing
that a client or an origin says is part of a path."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from server.files.contents import content_of
from server.journal.disk import Disk

_DIGITS: Final = "0123456789abcdef"
_HASH_DIGITS: Final = 64


class Paths:
    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self.uploads: Final = directory / "uploads"
        self._contents = directory / "contents"

    def upload(self, file_id: int) -> Path:
        return self.uploads / f"{file_id:d}"

    def link(self, number: int) -> Path:
        return self.uploads / f"link-{number:d}"

    def content(self, sha256: bytes) -> Path:
        return content_of(self.directory, sha256)

    def contents(self, disk: Disk) -> Iterator[tuple[bytes, Path]]:
        """Those that are there; what has another name is none."""
        for first in disk.names_if_there(self._contents):
            for second in disk.names_if_there(self._contents / first):
                directory = self._contents / first / second
                for name in disk.names_if_there(directory):
                    if len(name) == _HASH_DIGITS and name.startswith(first + second):
                        yield bytes.fromhex(name), directory / name

    def make(self, disk: Disk) -> None:
        """All the directories, durably. All at once: that one is made for the first content that
        needs it would tell, by the time it takes, what others have stored."""
        disk.make_directory(self.uploads)
        disk.make_directory(self._contents)
        for first in _DIGITS:
            disk.make_directory(self._contents / first)
            for second in _DIGITS:
                disk.make_directory(self._contents / first / second)
            disk.sync_directory(self._contents / first)
        disk.sync_directory(self._contents)
        disk.sync_directory(self.directory)
        disk.sync_directory(self.directory.parent)

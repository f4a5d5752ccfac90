"""What was typed, kept for the next time: in a file that nobody else can read."""

import os
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

KEPT_MAX = 1 << 20
"""Bytes beyond which the older half of the file is dropped."""


def history_of(path: Path | None) -> History:
    """What was typed before; in memory alone where there is no file to keep it in."""
    if path is None:
        return InMemoryHistory()
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        _shorten(path)
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(str(path))


class _KeptHistory(FileHistory):
    """A file of it; what cannot be written, as on a full disk, is there until the program ends."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


def _shorten(path: Path) -> None:
    data = path.read_bytes()
    if len(data) > KEPT_MAX:
        kept = data[-KEPT_MAX // 2 :]
        path.write_bytes(kept[kept.find(b"\n#") + 1 :])

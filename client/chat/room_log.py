"""What is said, written to files if the person wants it: one for each room and conversation."""

import os
from collections.abc import Callable
from pathlib import Path

from client.chat import entries
from client.chat.model import Buffer, Entry, Kind
from client.chat.settings import Settings
from client.terminal.display import text_of
from client.terminal.text import escape


class RoomLog:
    """Writes each line as it is shown, harmless for whoever looks at the file on a terminal."""

    def __init__(self, settings: Settings, complain: Callable[[str], object]) -> None:
        """complain: is told once if a file cannot be written."""
        self._settings = settings
        self._complain = complain
        self._has_failed = False

    def write(self, buffer: Buffer, entry: Entry) -> None:
        """Write a line, if a directory is set for it."""
        folder = self._settings["log"]
        if not folder or buffer.kind is Kind.PROGRAM:
            return
        kind = "room" if buffer.kind is Kind.ROOM else "user"
        path = Path(folder).expanduser() / f"{kind}-{buffer.name}.log"
        line = escape(text_of(entries.dated(entry)))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with open(descriptor, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            if not self._has_failed:
                self._complain(f"the log {path} cannot be written: {error.strerror}")
            self._has_failed = True
            return
        self._has_failed = False

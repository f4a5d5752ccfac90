"""What a chat keeps for the next time, of one user at one server: the rooms, what was not sent."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final


class Memory:
    """Kept in a file that nobody else can read, or in memory alone. A file that cannot be read or
    written costs this and nothing else."""

    def __init__(self, path: Path | None = None) -> None:
        self._path: Final = path
        self.rooms: dict[int, tuple[int, int]] = {}
        """Joined rooms, the last one looked at: epoch, and the number up to which it was shown."""
        self.names: dict[int, str] = {}
        """Of the rooms that have a name."""
        self.unsent: list[str] = []
        """What was typed and not sent."""
        if path is not None:
            with suppress(
                OSError, ValueError, TypeError, AttributeError, LookupError
            ):  # none, or damaged
                kept = json.loads(path.read_text("utf-8"))
                for room, (epoch, seq) in kept["rooms"].items():
                    self.rooms[int(room)] = int(epoch), int(seq)
                self.unsent = [str(line) for line in kept["unsent"]]
                self.names = {int(room): str(name) for room, name in kept.get("names", {}).items()}

    def save(self) -> None:
        """Write it."""
        if self._path is None:
            return
        text = json.dumps({"rooms": self.rooms, "names": self.names, "unsent": self.unsent})
        scratch = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            scratch.replace(self._path)

"""The audit log: who has done what, from where, and what became of it; a line of JSON for each.

It is a file of its own, which only its user may read, and holds no secret. Each line is one write
at the file's end, so the lines of several workers never mix. A line that cannot be written is lost,
and the log of the server says so once until lines can be written again: nobody is kept waiting.
"""

import os
import time
from pathlib import Path
from typing import Any, Final

import orjson

import liblog
from server.config import Settings

NAME: Final = "audit.log"
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
_TEXT_MAX: Final = 128  # characters of what a peer has sent

log = liblog.get("worker")


def path_of(settings: Settings) -> Path | None:
    """None: there is none, as nothing is kept on disk."""
    if settings.audit_file is not None:
        return settings.audit_file
    return None if settings.durability == "none" else settings.data / NAME


class Audit:
    """As one worker writes it."""

    def __init__(self, path: Path | None, slot: int) -> None:
        """path: None: nothing is written."""
        self._path, self._slot = path, slot
        self._fd = -1
        self._failed = False
        self.reopen()

    def reopen(self) -> None:
        """Open it anew, as after it was renamed; where it cannot be, go on with the one before."""
        if self._path is None:
            return
        try:
            fd = os.open(self._path, _FLAGS, 0o600)
        except OSError as error:
            self._fails(error)
            return
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._failed = fd, False

    def write(self, event: str, result: str, **fields: Any) -> None:
        """One line. result: `done`, or why it was refused."""
        if self._fd < 0:
            return
        cut = {
            name: value[:_TEXT_MAX] if isinstance(value, str) else value
            for name, value in fields.items()
        }
        now = time.time_ns() // 1000
        line = {"time": now, "event": event, "result": result, "worker": self._slot, **cut}
        try:
            os.write(self._fd, orjson.dumps(line) + b"\n")
            self._failed = False
        except (OSError, TypeError) as error:
            self._fails(error)

    def _fails(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.error(
                "audit_unusable",
                path=str(self._path),
                reason=str(error),
                advice="make the file writable, or make space, and send SIGUSR1: until then it is "
                "not known who has done what",
            )

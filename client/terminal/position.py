"""Up to where a person has read the inbox, or was shown payments, over runs of the chat."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final


class InboxPosition:
    """The number of the newest direct message that was shown, and the epoch of the numbers; of
    payments the txn_id, and 0. Both are None before the first run. Kept in a file, or in memory
    alone.

    A file that cannot be written costs this: what was shown is shown again by the next run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path: Final = path
        self.epoch: int | None = None
        self.seq: int | None = None
        if path is not None:
            with suppress(OSError, ValueError):  # none yet, or damaged: as before the first run
                self.epoch, self.seq = (int(word) for word in path.read_text("ascii").split())

    def advance(self, epoch: int | None, seq: int) -> None:
        """It was shown up to here. epoch: None where it is not known yet, and nothing is kept."""
        self.epoch, self.seq = epoch, seq
        if self._path is None or epoch is None:
            return
        scratch = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            scratch.write_text(f"{epoch} {seq}\n", "ascii")
            scratch.replace(self._path)

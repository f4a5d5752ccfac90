"""Lines about what goes on and on, such as a lack of descriptors: one now and then says it all."""

import math
import time
from typing import Final

EVERY_S: Final = 60.0


class Seldom:
    """When a line of one kind is due: one at once, then at most one in so many seconds."""

    __slots__ = ("_every", "_told")

    def __init__(self, every: float = EVERY_S) -> None:
        self._every = every
        self._told = -math.inf  # time.monotonic()

    def due(self) -> bool:
        """A line is due now, and whoever asks writes it."""
        now = time.monotonic()
        if now - self._told < self._every:
            return False
        self._told = now
        return True

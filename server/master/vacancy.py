"""When a process that has ended is forked again: at once, or later where it keeps failing."""

import math
import time
from dataclasses import dataclass
from typing import Final

BACK_OFF_S: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STEADY_S: Final = 0.5  # a process that served so long was no failure: it is replaced at once


@dataclass(slots=True)
class Vacancy:
    """A place, and when its next process is due."""

    due: float = math.inf  # time.monotonic(); infinity: it is not vacant
    _failures: int = 0  # in a row

    def open(self, *, failed: bool, longest_s: float = math.inf) -> None:
        """Its process has ended, or could not be forked. longest_s: the longest back-off."""
        self._failures = self._failures + 1 if failed else 0
        delay = BACK_OFF_S[min(self._failures, len(BACK_OFF_S) - 1)]
        self.due = time.monotonic() + min(delay, longest_s)

    def ended(self, serving: float, longest_s: float = math.inf) -> None:
        """Its process has ended. serving: since when it served, time.monotonic()."""
        self.open(failed=time.monotonic() - serving <= STEADY_S, longest_s=longest_s)

    def close(self) -> None:
        """It is forked."""
        self.due = math.inf

"""What this worker counts, in its own words of the region."""

from typing import Final

from server.region.counters import index_of
from server.region.region import Region

GAUGES: Final = (
    "connections",
    "unauthenticated",
    "sessions",
    "overloaded",
    "file_loans",
    "file_waiting",
    "file_cached",
)


class Counters:
    """The counters of one worker: no lock, as nobody else writes them."""

    def __init__(self, region: Region, slot: int) -> None:
        self._words: Final = region.words
        self.base: Final = region.layout["counters"].at(slot)
        """Their first word; see `index_of`."""

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter or gauge."""
        self._words[self.base + index_of(name)] += by

    def set(self, name: str, value: int) -> None:
        """Set a gauge."""
        self._words[self.base + index_of(name)] = value

    def read(self, name: str) -> int:
        """A counter's value."""
        return self._words[self.base + index_of(name)]

    def zero_gauges(self) -> None:
        """What this slot's worker before counted as open went with it."""
        for name in GAUGES:
            self._words[self.base + index_of(name)] = 0

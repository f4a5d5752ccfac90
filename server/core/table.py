"""A table of the region that is looked up by a key: open addressing, where nothing moves.

A place that was used keeps its key, so that those behind it are found, and is used again for
another key when it is free. How far from its first place any key stands is noted beside the table,
so a search ends there, however many places were used before.
"""

from collections.abc import Callable
from typing import Final

from server.region.layout import Placed
from server.region.region import Region

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = 2**64 - 1


class Table:
    """One table as one process sees it. All under the lock that the table is under."""

    def __init__(
        self, region: Region, placed: Placed, probes: int, is_free: Callable[[int], bool]
    ) -> None:
        """placed: its segment; the first word of a record is the key, 0: never used. probes: the
        word that notes how far a search goes. is_free: may the record at this word be used for
        another key?"""
        self._words, self._placed = region.words, placed
        self._probes, self._is_free = probes, is_free

    def first_place(self, key: int) -> int:
        """The number of the record where a key is looked for first."""
        # By the high bits of the product: its low ones are those of the key's low ones alone.
        return (key * _GOLDEN & _MASK) * self._placed.records >> 64

    def find(self, key: int) -> int:
        """The word of a key's record; 0: there is none."""
        words, placed = self._words, self._placed
        place = self.first_place(key)
        for _ in range(words[self._probes]):
            at = placed.base + place * placed.stride
            if words[at] == key:
                return at
            if not words[at]:
                return 0
            place = (place + 1) % placed.records
        return 0

    def place_for(self, key: int) -> int:
        """The word of the record where a key stands or may stand; 0: the table is full."""
        words, placed = self._words, self._placed
        place, found = self.first_place(key), 0
        for probe in range(placed.records):
            at = placed.base + place * placed.stride
            if words[at] == key:  # one that is nearer may have come free since
                return at
            if not words[at]:
                return found or at
            if not found and self._is_free(at):
                found = at
            if found and probe >= words[self._probes]:  # none stands farther on
                return found
            place = (place + 1) % placed.records
        return found

    def claim(self, key: int, value: int) -> int:
        """The word of the key's record, which is made where there is none: there is a place for it.
        value: offset of the word that says that a record is in use; 0 in one that was made."""
        words, placed, at = self._words, self._placed, self.place_for(key)
        assert at, "who claims a place has seen that there is one"
        if words[at] != key:
            place = (at - placed.base) // placed.stride
            probes = (place - self.first_place(key)) % placed.records + 1
            if probes > words[self._probes]:  # first, or it would not be found there
                words[self._probes] = probes
            words[at + value] = 0
            words[at] = key
        return at

"""Records of the region as attributes: `region.header.state = ServerState.SERVING`.

Made from the table in layout.py, so a field is named in one place. For whoever looks or stores now
and then; what is done for every request keeps the word indexes that it needs.
"""

from typing import Protocol

from server.region.layout import Placed


class Words(Protocol):
    """What a record is looked up in: a region."""

    words: memoryview


class Record:
    """One record of a segment. A field reads as its first word and is stored in one machine store.

    A name that the table does not have raises AttributeError and names the segment.
    """

    __slots__ = ("_at", "_placed", "_region")
    _region: Words
    _placed: Placed
    _at: int

    def __init__(self, region: Words, placed: Placed, number: int) -> None:
        """number: of the record; IndexError where there is none."""
        for name, value in (("_region", region), ("_placed", placed), ("_at", placed.at(number))):
            object.__setattr__(self, name, value)

    def __getattr__(self, field: str) -> int:
        word: int = self._region.words[self.index(field)]
        return word

    def __setattr__(self, field: str, value: int) -> None:
        self._region.words[self.index(field)] = value

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._placed.offsets]

    def index(self, field: str) -> int:
        """The word index of a field, for a path that is taken often."""
        try:
            return self._at + self._placed.offsets[field]
        except KeyError:
            raise AttributeError(f"{self._placed.segment.name} has no field {field!r}") from None

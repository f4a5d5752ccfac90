"""What each word of the region held, one value after the other.

Two are made of the same operation: by machine instruction, and by bytecode. One store of Python is
one bytecode, so what a word held only between two instructions of one bytecode is a value that
nobody stored: the store is not atomic, and a reader without a lock, or a kill, may find it.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from server.region.layout import WORD, Kind, Layout
from server.region.region import Region

Values = dict[int, list[int]]
"""By word: its values, the first being the one before the operation. Only of words that changed."""

# Words that are copied in blocks, beside those whose kind says so. README.md of server/core: a
# block is not atomic, and stands before the commit word that publishes it.
_BLOCKS = {
    "clients": {"outcomes"},
    "event_ring": {"kind", "room", "seq", "user", "session", "previous", "frame_len"},
}


class History:
    """Follows a region; `look` at it whenever it may have changed."""

    def __init__(self, region: Region) -> None:
        self._view = region.bytes
        self._last = b""
        self.images: dict[bytes, int] = {}  # each with the number of the look that met it first
        self.values: Values = {}
        self.looks = 0

    def look(self) -> bool:
        """Answers whether it is an image that was not there before."""
        found = bytes(self._view)
        at = self.looks
        self.looks += 1
        if found == self._last:
            return False
        new, old = memoryview(found).cast("Q"), memoryview(self._last).cast("Q")
        if len(old):
            for word in range(len(new)):
                if new[word] != old[word]:
                    self.values.setdefault(word, [old[word]]).append(new[word])
        self._last = found
        first = found not in self.images
        self.images.setdefault(found, at)
        return first


def by_bytecode(operation: Callable[[], object], look: Callable[[], object]) -> None:
    """Run it here, with a look before each bytecode and at the end."""

    def traced(frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any]:
        frame.f_trace_opcodes = True
        look()
        return traced

    before = sys.gettrace()
    # Python 3.12 traces bytecodes only if some frame has asked for it before the tracing begins.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(traced)
    try:
        operation()
    finally:
        sys.settrace(before)
    look()


class Words:
    """What the words of a layout are."""

    def __init__(self, layout: Layout) -> None:
        self._names: dict[int, str] = {}
        self._blocks: set[int] = set()
        self._semaphores: set[int] = set()
        for name, placed in layout.segments.items():
            for field in placed.segment.fields:
                for record in range(placed.records):
                    self._place(name, record, field.kind, field.name, placed.at(record, field.name),
                                placed.lengths[field.name])  # fmt: skip

    def _place(
        self, segment: str, record: int, kind: Kind, field: str, at: int, length: int
    ) -> None:
        for word in range(at, at + length):
            self._names[word] = f"{segment}[{record}].{field}" + (
                f"+{word - at}" if length > 1 else ""
            )
            if kind is Kind.SEMAPHORE:
                self._semaphores.add(word)
            elif (
                kind in (Kind.BLOB, Kind.TEXT)
                or (kind is Kind.RECORD and word > at)  # the first is the commit word
                or field in _BLOCKS.get(segment, ())
            ):
                self._blocks.add(word)

    def differing(self, one: bytes, other: bytes) -> list[str]:
        """The names of the words that differ."""
        return [
            self._names.get(at // WORD, f"word {at // WORD}")
            for at in range(0, len(one), WORD)
            if one[at : at + WORD] != other[at : at + WORD]
        ]

    def semaphores(self, one: bytes, other: bytes) -> list[str]:
        """The names of those that differ."""
        names = {self._names[word] for word in self._semaphores}
        return [name for name in self.differing(one, other) if name in names]

    def torn(self, found: Values, stored: Values) -> tuple[list[str], int]:
        """Words that held what nobody stored: those that must be stored whole, in words; and how
        many there are in blocks. Semaphores are the C library's."""
        single, in_blocks = [], 0
        for word in sorted(found.keys() | stored.keys()):
            if word in self._semaphores:
                continue
            here, there = found.get(word, []), stored.get(word, [])
            if word in self._blocks:
                in_blocks += bool(set(here) - set(there))
            elif here != there:
                single.append(
                    f"{self._names[word]} held {_chain(here)}, stored were {_chain(there)}"
                )
        return single, in_blocks


def _chain(values: list[int]) -> str:
    return ", ".join(map(str, values)) or "none"

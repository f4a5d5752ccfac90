"""The shared region as a simulated process sees it: every load and every store of a word is a step.

A block is loaded and stored word by word, so the turn may be given up in the middle of it. Where no
switch falls into a block it is copied in one go, which is the same and faster.
"""

import sys
from array import array
from collections.abc import Callable
from typing import Any, Final, cast

from server.region.layout import WORD
from server.region.locks import CheckedLock, CheckedLocks, Lock
from server.region.region import Region
from tests.simulation.scheduler import Scheduler

_WAITER: Final = 1 << 32  # in the first word of a semaphore of glibc: one that waits for it


class View:
    """A view of the memory, by words or by bytes."""

    __slots__ = ("_pace", "_unit", "_view")

    def __init__(self, view: memoryview, pace: Scheduler) -> None:
        self._view, self._pace = view, pace
        self._unit = WORD // view.itemsize  # items of a word

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, place: Any) -> Any:
        pace = self._pace
        if type(place) is slice:
            return self._load(place)
        pace.left -= 1
        if pace.left < 0:
            pace.turn()
        return self._view[place]

    def _load(self, place: slice) -> memoryview:
        pace, found = self._pace, self._view[place]
        if place.step not in (None, 1):
            words = len(found)
            if words <= pace.left:
                pace.left -= words
                return found
            return memoryview(array("Q", [self._one(found, at) for at in range(words)]))
        words = -(-len(found) // self._unit)
        if words <= pace.left:
            pace.left -= words
            return found
        parts, at = [], 0
        while at < len(found):
            if pace.left <= 0:
                pace.left -= 1
                pace.turn()
            size = max(1, pace.left) * self._unit
            part = bytes(found[at : at + size])
            parts.append(part)
            pace.left -= min(pace.left, -(-len(part) // WORD))
            at += size
        whole = memoryview(b"".join(parts))
        return whole.cast("Q") if self._unit == 1 else whole

    def _one(self, found: memoryview, at: int) -> int:
        pace = self._pace
        pace.left -= 1
        if pace.left < 0:
            pace.turn()
        word: int = found[at]
        return word

    def __setitem__(self, place: int | slice, value: Any) -> None:
        pace = self._pace
        if isinstance(place, slice):
            self._store(place, value)
            return
        pace.left -= 1
        if pace.left < 0:
            pace.turn()
        self._view[place] = value

    def _store(self, place: slice, value: Any) -> None:
        assert place.step in (None, 1), "a block"
        pace, unit, view = self._pace, self._unit, self._view
        start, stop, _ = place.indices(len(view))
        assert stop - start == len(value), "as the memoryview insists, too"
        words = -(-(stop - start) // unit)
        if words <= pace.left:
            pace.left -= words
            view[place] = value
            return
        for at in range(start, stop, unit):
            pace.left -= 1
            if pace.left < 0:
                pace.turn()
            end = min(at + unit, stop)
            view[at:end] = value[at - start : end - start]


class TracedView(View):
    """Tells of each access before it, with the place in the code."""

    __slots__ = ("_tell",)

    def __init__(
        self, view: memoryview, pace: Scheduler, tell: Callable[[str, int, str, int], None]
    ) -> None:
        View.__init__(self, view, pace)
        self._tell = tell

    def _trace(self, what: str, place: Any) -> None:
        frame = sys._getframe(2)
        while "/server/region/" in frame.f_code.co_filename and frame.f_back is not None:
            frame = frame.f_back
        at = place.start if isinstance(place, slice) else place
        self._tell(what, at // self._unit, frame.f_code.co_filename, frame.f_lineno)

    def __getitem__(self, place: Any) -> Any:
        self._trace("load", place)
        return View.__getitem__(self, place)

    def __setitem__(self, place: int | slice, value: Any) -> None:
        self._trace("store", place)
        View.__setitem__(self, place, value)


class SteppedRegion(Region):
    """The same memory, by way of the scheduler."""

    def __init__(
        self,
        region: Region,
        pace: Scheduler,
        tell: Callable[[str, int, str, int], None] | None = None,
    ) -> None:
        """tell: of each access: what, which word, file, line."""
        self.__dict__.update(region.__dict__)
        self.pace: Final = pace
        self.raw: Final = region.words
        self.locks: Final[list[SteppedLocks]] = []
        """Of the process whose view it is."""

        def view(of: memoryview) -> memoryview:
            return cast(memoryview, TracedView(of, pace, tell) if tell else View(of, pace))

        self.words, self.bytes = view(region.words), view(region.bytes)


class SteppedLock(CheckedLock):
    """A semaphore, each call of which is a step; who waits for it waits for the scheduler."""

    def __init__(
        self, region: SteppedRegion, address: int, kind: int, taken: list[tuple[int, int]]
    ) -> None:
        super().__init__(address, kind, taken)
        self._pace, self._raw = region.pace, region.raw
        self._at = (address - region.address) // WORD

    def _step(self) -> None:
        self._pace.left -= 1
        if self._pace.left < 0:
            self._pace.turn()

    def acquire(self) -> bool:
        self._step()
        return super().acquire()

    def release(self) -> None:
        self._step()
        super().release()
        self._pace.release(self.address)

    def wait_until(self, deadline_ns: int) -> bool:
        self._step()
        while not Lock.acquire(self):
            if self._pace.now_ns >= deadline_ns:
                return False
            self._raw[self._at] += _WAITER
            # Who is killed here leaves its count, as in the C library.
            self._pace.wait_for(self.address, deadline_ns)
            self._raw[self._at] -= _WAITER
        self._taken.append(self._rank)
        return True


class SteppedLocks(CheckedLocks):
    """Such locks."""

    def __init__(
        self,
        region: Region,
        worker: int,
        clock_ns: Callable[[], int],
        pause: Callable[[float], None],
    ) -> None:
        assert isinstance(region, SteppedRegion)
        self._region = region
        region.locks.append(self)
        super().__init__(region, worker, clock_ns, pause)

    @property
    def holds(self) -> bool:
        """Is any of them taken by this process?"""
        return bool(self._taken)

    def _lock(self, address: int, kind: int) -> Lock:
        return SteppedLock(self._region, address, kind, self._taken)

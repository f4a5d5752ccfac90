"""One at a time, of any threads and tasks; the others are refused, and do not wait."""

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from client.errors import MisuseError


class _Turn:
    __slots__ = ("__weakref__", "over")

    def __init__(self) -> None:
        self.over = False


class Turns:
    """Who may proceed: the first that has come and is not over.

    Each step is one that no other thread can split. A turn that an interrupt took away between two
    of them is held by nobody, and counts no more.
    """

    def __init__(self, refusal: str) -> None:
        """refusal: what the others are told."""
        self._refusal = refusal
        self._turns: deque[weakref.ref[_Turn]] = deque()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Proceed, or MisuseError if somebody else does."""
        turn = _Turn()
        reference = weakref.ref(turn)
        try:
            self._turns.append(reference)
            if self._first() is not turn:
                raise MisuseError(self._refusal)
            yield
        finally:
            turn.over = True
            with suppress(ValueError):  # it was not put there yet
                self._turns.remove(reference)

    def _first(self) -> _Turn | None:
        for reference in tuple(self._turns):
            turn = reference()
            if turn is not None and not turn.over:
                return turn
        return None

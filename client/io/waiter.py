"""A call of the program, until it has ended."""

import asyncio
from collections.abc import Callable
from typing import Any

from client.core.calls import Call


class Waiter:
    """A call of the program. `tell` is called once, in the loop's thread, with a result or an
    error."""

    __slots__ = ("call", "number", "possible_duplicate", "req_id", "tell", "timer")

    def __init__(
        self,
        call: Call[Any],
        req_id: int | None,
        possible_duplicate: bool,
        tell: Callable[[Any, BaseException | None], object],
    ) -> None:
        self.call = call
        self.req_id = req_id
        self.possible_duplicate = possible_duplicate
        self.tell: Callable[[Any, BaseException | None], object] | None = tell
        self.number = 0  # the req_id it was sent under
        self.timer: asyncio.TimerHandle | None = None

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        """It has ended; only the first end counts."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        tell, self.tell = self.tell, None
        if tell is not None:
            tell(result, error)

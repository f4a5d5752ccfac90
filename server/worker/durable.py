"""What is durable, and what waits until it is: answers, and what has to be done first.

The journal process raises the word `released` and wakes the workers that have something parked.
Parked is in the order of this worker's transactions, so only the front of the queue is looked at.

Both sides write one word and then read the other's: the processor may do the read first, so that
each misses the other. Hence, while anything is parked, the words are looked at again every
`POLL_S`; where nothing is parked, no timer runs.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from libnet.transport import ANSWER_FIRST, FrameProtocol
from libnet.wakeup import Wakeup
from server.region.region import Region

PENDING_MAX: Final = 1024  # parked answers of a connection: with more no further frame is handled
POLL_S: Final = 0.01  # while something is parked: a wake-up that was missed costs this much

Action = Callable[[], bytes | None]
"""Called when it is durable; makes the answer, if there is one."""


class Durable:
    """The durable words, and this worker's queue of what waits for them."""

    def __init__(
        self,
        region: Region,
        slot: int,
        journal: Wakeup,
        loop: asyncio.AbstractEventLoop,
        *,
        in_background: bool,
    ) -> None:
        """journal: wakes the journal process. in_background: no answer waits for it, and it has to
        be woken nevertheless."""
        layout = region.layout
        self.words: Final = region.words
        self.released: Final = region.log.index("released")
        """The word with the greatest txn_id whose answer may leave."""
        self._loop, self._journal = loop, journal
        self._in_background: Final = in_background
        self._durable: Final = region.log.index("durable")
        self._journal_waits: Final = region.journal.index("waiting")
        self._journal_failed: Final = region.journal.index("failed")
        self._has_parked: Final = layout["workers"].at(slot, "parked")
        self._parked: deque[tuple[int, FrameProtocol | None, bytes | Action]] = deque()
        self._polls = False
        self.words[self._has_parked] = 0

    def reaches(self, txn: int) -> bool:
        """Is everything up to `txn` durable?"""
        return txn <= self.words[self.released]

    def when_durable(self, connection: FrameProtocol, txn: int, answer: bytes) -> bytes | None:
        """The answer, if everything up to `txn` is durable and no other answer of this connection
        is parked. Else None: it is parked, and sent when that is so."""
        words, pending = self.words, connection.pending
        if not pending and txn <= words[self.released]:
            if self._in_background and txn > words[self._durable]:
                self._wake_journal()
            return answer
        connection.pending = pending + 1
        if pending + 1 >= PENDING_MAX:
            connection.pause(ANSWER_FIRST)
        if not self._parked:
            self._begin(txn)
        self._parked.append((txn, connection, answer))
        if words[self._journal_waits]:
            self._wake_journal()
        return None

    def resume_when_durable(
        self, connection: FrameProtocol, txn: int, action: Action
    ) -> bytes | None:
        """What `action` answers, once everything up to `txn` is durable. No frame of the connection
        is handled before."""
        if txn <= self.words[self.released]:
            if self._in_background:
                self._wake_journal()
            return action()
        connection.pending += 1
        connection.pause(ANSWER_FIRST)
        self._park(txn, connection, action)
        return None

    def do_when_durable(self, txn: int, action: Callable[[], None]) -> None:
        """Call `action` once everything up to `txn` is durable, whatever becomes of connections."""
        if txn <= self.words[self.released]:
            action()
        else:
            self._park(txn, None, action)

    def _park(self, txn: int, connection: FrameProtocol | None, what: bytes | Action) -> None:
        if not self._parked:
            self._begin(txn)
        self._parked.append((txn, connection, what))
        self._wake_journal()

    def _begin(self, txn: int) -> None:
        """The queue is not empty any more."""
        self.words[self._has_parked] = 1
        if txn <= self.words[self.released]:  # who made it so may not have seen the word
            self._loop.call_soon(self.release)
        if not self._polls:
            self._polls = True
            self._loop.call_later(POLL_S, self._poll)

    def _wake_journal(self) -> None:
        if self.words[self._journal_waits]:
            self.words[self._journal_waits] = 0
            self._journal.set()

    def _poll(self) -> None:
        self.release()
        self._polls = bool(self._parked)
        if self._polls:
            self._wake_journal()
            self._loop.call_later(POLL_S, self._poll)

    def release(self) -> None:
        """Send and do what waited for what is durable by now."""
        parked, durable = self._parked, self.words[self.released]
        if not parked or parked[0][0] > durable:
            if parked and self.words[self._journal_failed]:
                self.abort_waiting()
            return
        touched: dict[FrameProtocol, None] = {}
        while parked and parked[0][0] <= durable:
            _, connection, what = parked.popleft()
            if connection is not None:
                connection.pending -= 1
                touched[connection] = None
            answer = what if type(what) is bytes else what()  # type: ignore[operator] # not bytes
            if answer and connection is not None:
                connection.push(answer)
        if not parked:
            self.words[self._has_parked] = 0
        for connection in touched:
            connection.flush()
            connection.settle()

    @property
    def waits(self) -> bool:
        """Something is parked, and there is a journal that may yet make it durable."""
        return bool(self._parked) and not self.words[self._journal_failed]

    def abort_waiting(self) -> None:
        """What is not durable, and never will be, is not answered: its connections end at once."""
        waiting = tuple(self._parked)
        self._parked.clear()
        self.words[self._has_parked] = 0
        for _, connection, _ in waiting:
            if connection is not None:
                connection.abort()

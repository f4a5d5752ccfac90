"""What is durable, and what waits until it is: answers, pushes, and what has to be done first.

The journal process raises two words, `log.released` and then `events.released`, and wakes the
workers that have something waiting. Answers are parked in the order of this worker's requests, and
that is the order in which they become durable, so only the front of the queue is looked at.

Both sides write one word and then read the other's: the processor may do the read first, so that
each misses the other. Hence, while anything waits, the words are looked at again every `POLL_S`;
where nothing does, no timer runs.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from libnet.transport import ANSWER_FIRST, HIGH_MARK, FrameProtocol
from libnet.wakeup import Wakeup
from server.region import machine
from server.region.region import Region

PENDING_MAX: Final = 1024  # parked answers of a connection: with more no further frame is handled
POLL_S: Final = 0.01  # while something waits: a wake-up that was missed costs this much

_PENDING_MAX = PENDING_MAX
_HIGH_MARK = HIGH_MARK

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
        self._view = region.words
        self._words = machine.words_of(region.words)
        self.released: Final = region.log.index("released")
        """The word with the greatest txn_id whose answer may leave."""
        self.events_released: Final = region.events.index("released")
        """The word with the number of the newest event that may be shown."""
        self._loop, self._journal = loop, journal
        self._in_background: Final = in_background
        self._durable: Final = region.log.index("durable")
        self._journal_waits: Final = region.journal.index("waiting")
        self._journal_failed: Final = region.journal.index("failed")
        self._has_parked: Final = layout["workers"].at(slot, "parked")
        self._parked: deque[tuple[int, int, FrameProtocol | None, bytes | Action]] = deque()
        self._pushes_wait = False
        self._push: Callable[[], None] = self.release
        self._polls = False
        self._words[self._has_parked] = 0

    def pushes_by(self, push: Callable[[], None]) -> None:
        """push: releases answers, and then pushes events that may be shown."""
        self._push = push

    # ---- waiting

    def when_durable(self, connection: FrameProtocol, txn: int, answer: bytes) -> bytes | None:
        """The answer, if everything up to `txn` is durable and no other answer of this connection
        is parked. Else None: it is parked, and sent when that is so."""
        words, pending = self._words, connection.pending
        if not pending and txn <= words[self.released]:
            if self._in_background and txn > words[self._durable]:
                self._wake_journal()
            return answer
        self._park_answer(connection, txn, 0, answer)
        return None

    def when_shown(
        self, connection: FrameProtocol, event: int, answer: bytes, txn: int = 0
    ) -> bytes | None:
        """The same for an answer that shows events, up to number `event`."""
        words = self._words
        if (
            not connection.pending
            and event <= words[self.events_released]
            and txn <= words[self.released]
        ):
            return answer
        self._park_answer(connection, txn, event, answer)
        return None

    def _park_answer(self, connection: FrameProtocol, txn: int, event: int, answer: bytes) -> None:
        connection.pending += 1
        connection.parked_bytes += len(answer)
        if connection.pending >= _PENDING_MAX or connection.parked_bytes > _HIGH_MARK:
            connection.pause(ANSWER_FIRST)
        if not self._parked:
            self._begin(txn, event)
        self._parked.append((txn, event, connection, answer))
        if self._words[self._journal_waits]:  # asked here, too: mostly it saves the call
            self._wake_journal()

    def resume_when_durable(
        self, connection: FrameProtocol, txn: int, action: Action
    ) -> bytes | None:
        """What `action` answers, once everything up to `txn` is durable. No frame of the connection
        is handled before."""
        if txn <= self._words[self.released]:
            if self._in_background:
                self._wake_journal()
            return action()
        connection.pending += 1
        connection.pause(ANSWER_FIRST)
        self._park(txn, connection, action)
        return None

    def do_when_durable(self, txn: int, action: Callable[[], None]) -> None:
        """Call `action` once everything up to `txn` is durable, whatever becomes of connections."""
        if txn <= self._words[self.released]:
            action()
        else:
            self._park(txn, None, action)

    def _park(self, txn: int, connection: FrameProtocol | None, what: bytes | Action) -> None:
        if not self._parked:
            self._begin(txn, 0)
        self._parked.append((txn, 0, connection, what))
        self._wake_journal()

    def wait_for_events(self, first: int) -> None:
        """Events from number `first` on wait to be pushed: until they are, the journal wakes this
        worker."""
        self._pushes_wait = True
        self._begin(0, first)
        self._wake_journal()

    def pushes_done(self) -> None:
        """No event waits to be pushed."""
        if self._pushes_wait:
            self._pushes_wait = False
            if not self._parked:
                self._words[self._has_parked] = 0

    def _begin(self, txn: int, event: int) -> None:
        """Something waits."""
        words = self._words
        words[self._has_parked] = 1
        # Who made it so may not have seen the word.
        if txn <= words[self.released] and event <= words[self.events_released]:
            self._loop.call_soon(self._push)
        if not self._polls:
            self._polls = True
            self._loop.call_later(POLL_S, self._poll)

    def published(self) -> None:
        """Something was published that is to become durable."""
        self._wake_journal()

    def _wake_journal(self) -> None:
        if self._words[self._journal_waits]:
            self._words[self._journal_waits] = 0
            self._journal.set()

    def _poll(self) -> None:
        self._push()
        self._polls = bool(self._parked) or self._pushes_wait
        if self._polls:
            self._wake_journal()
            self._loop.call_later(POLL_S, self._poll)

    # ---- going on

    def release(self) -> None:
        """Send and do what waited for what is durable by now."""
        parked, words = self._parked, self._words
        if not parked:
            return
        event, txn = words[self.events_released], words[self.released]
        if parked[0][0] > txn or parked[0][1] > event:
            if words[self._journal_failed]:
                self.abort_waiting()
            return
        touched: dict[FrameProtocol, None] = {}
        while parked and parked[0][0] <= txn and parked[0][1] <= event:
            _, _, connection, what = parked.popleft()
            if connection is not None:
                connection.pending -= 1
                touched[connection] = None
            if type(what) is bytes:
                answer: bytes | None = what
                if connection is not None:
                    connection.parked_bytes -= len(what)
            else:
                answer = what()  # type: ignore[operator] # not bytes
            if answer and connection is not None:
                connection.push(answer)
        if not parked and not self._pushes_wait:
            words[self._has_parked] = 0
        for connection in touched:
            connection.flush()
            connection.settle()

    @property
    def queue(self) -> int:
        """Answers, and what else waits for what is durable."""
        return len(self._parked)

    @property
    def waits(self) -> bool:
        """Something is parked, and there is a journal that may yet make it durable."""
        return bool(self._parked) and not self._words[self._journal_failed]

    def abort_waiting(self) -> None:
        """What is not durable, and never will be, is not answered: its connections end at once."""
        waiting = tuple(self._parked)
        self._parked.clear()
        self._words[self._has_parked] = 0
        for _, _, connection, _ in waiting:
            if connection is not None:
                connection.abort()

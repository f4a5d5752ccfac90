"""What the archive answers: histories of rooms and inboxes, and transactions that are older than
the ring.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Final

import liblog
from libnet.wakeup import Wakeup
from server.archive.history import History
from server.archive.keeper import Keeper
from server.archive.protocol import (
    DATAGRAM_MAX,
    Kind,
    Question,
    pack_events,
    pack_failure,
    pack_hello,
    pack_txns,
)
from server.core.ledger import follow
from server.core.state import State
from server.core.trail import Trails
from server.journal.errors import JournalError, why

ASKED_MAX: Final = 16  # questions for transactions worked on; others wait in the sockets
STEPS: Final = 128  # records that are looked at for one question before the next

log = liblog.get("archive")


class Asked:
    """A question that is being answered: a worker's end, and what has been found so far."""

    def __init__(self, sock: socket.socket, question: Question) -> None:
        self.sock = sock
        self.token, self.kind, self._until, self.fields = question
        self.items: list[tuple[int, ...]] = []

    @property
    def late(self) -> bool:
        """Nobody waits for the answer any more."""
        return time.monotonic_ns() > self._until


class Answers:
    """What questions are answered with."""

    def __init__(self, state: State, keeper: Keeper, history: History) -> None:
        self._state, self._keeper, self._history = state, keeper, history
        self._ring = state.region.layout.capacities.event_ring
        self._trails = Trails(self._record)

    def events(self, asked: Asked) -> bytes:
        """Of a room or an inbox; b"" where there is nothing that can be answered yet. JournalError,
        OSError."""
        number, after, limit, size = asked.fields
        store = self._keeper.store
        if store is None:
            return pack_failure(asked.token)
        region = self._state.region
        if self._keeper.reached < max(region.events.first - 1, region.archive.reached):
            # It lacks events of before this server's start, or is making the histories anew: among
            # them may be one that deletes a text, which the region's table has no longer.
            return b""
        bodies = store.read(number, after, limit, size)
        if not bodies and limit and not self._meets():
            return b""
        return pack_events(asked.token, store.oldest(number), bodies)

    def _meets(self) -> bool:
        """Is everything that is not in the histories still in the ring? Then nothing is between."""
        events = self._state.region.events
        oldest = max(events.first, events.head + 1 - self._ring)
        return self._keeper.reached + 1 >= oldest

    def txns(self, asked: Asked) -> bytes:
        """Work on it; its answer, or b"" where there is more to do. Called in one other thread.
        JournalError, OSError."""
        user, txn, before, limit = asked.fields
        left = limit - len(asked.items)
        more, older = follow(self._record, user, txn, before, left, STEPS)
        asked.items += more
        if older and older != txn:  # there is more of it, and it is kept
            asked.fields = user, older, before, limit
            return b""
        asked.fields = user, 0, before, limit
        trail = self._trails.walk(user, self._state.ledger.newest(user), STEPS)
        if trail is None:
            return b""
        return pack_txns(asked.token, trail.at, trail.oldest, asked.items)

    def _record(self, txn: int) -> tuple[int, ...] | None:
        if txn < self._state.region.journal.oldest:
            return None  # a part of it may still be in memory here, and what is between is gone
        return self._state.log.read(txn) or self._history.read(txn)


class Desk:
    """Where questions of workers are taken, and answers given.

    What reads the journal is done in a thread, `STEPS` records of one question after the other: a
    short question waits for no long one, and the histories are kept up meanwhile. The workers have
    turns, too. A question about events that are not in the histories yet waits for them, for as
    long as somebody waits for its answer.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        answers: Answers,
        thread: Executor,
        wakeup: Wakeup,
    ) -> None:
        """wakeup: ends a `wait`."""
        self._answers, self._thread = answers, thread
        self._out = {sock: deque([pack_hello()]) for sock in sockets}
        self._turns = deque(sockets)
        self._asked: deque[Asked] = deque()  # of transactions
        self._held: deque[Asked] = deque()  # of events that are not in the histories yet
        self._working: tuple[Asked, Future[bytes]] | None = None
        self._wakeup = wakeup  # set when a step has been done, too
        self.poll: Final = select.poll()
        self.poll.register(wakeup, select.POLLIN)
        self._readable: set[int] = set()
        self.answered = 0  # questions
        for sock in sockets:  # what was asked of the process before comes again, after the hello
            _discard(sock)

    @property
    def busy(self) -> bool:
        """Is there a question that waits for the histories?"""
        return bool(self._held)

    def wait(self, timeout_s: float) -> bool:
        """Until there is something to do, or the time is over; is there a question to `take`?"""
        reads = select.POLLIN if len(self._asked) < ASKED_MAX else 0
        for sock, out in self._out.items():  # who does not take its answers asks no more
            self.poll.register(sock, select.POLLOUT if out else reads)
        ready = self.poll.poll(timeout_s * 1000)
        self._wakeup.clear()
        sockets = {sock.fileno() for sock in self._out}
        self._readable = {fd for fd, what in ready if what & select.POLLIN and fd in sockets}
        return bool(self._readable)

    def take(self) -> None:
        """Take one question of each worker that asks."""
        for _ in range(len(self._turns)):
            if len(self._asked) >= ASKED_MAX:
                return
            sock = self._turns[0]
            self._turns.rotate(-1)
            if sock.fileno() not in self._readable:
                continue
            asked = Asked(sock, Question.unpack(sock.recv(DATAGRAM_MAX)))
            if asked.kind == Kind.TXNS:
                self._asked.append(asked)
            else:
                self._held.append(asked)

    def work(self) -> None:
        """Have the next step done, and send what can be sent."""
        if self._working is not None and self._working[1].done():
            asked, step = self._working
            self._working = None
            if not self._answer(asked, step.result):
                self._asked.append(asked)
        while self._working is None and self._asked:
            asked = self._asked.popleft()
            if asked.late:
                continue
            step = self._thread.submit(self._answers.txns, asked)
            self._working = asked, step
            step.add_done_callback(lambda _: self._wakeup.set())
        for _ in range(len(self._held)):
            asked = self._held.popleft()
            if not asked.late and not self._answer(asked, partial(self._answers.events, asked)):
                self._held.append(asked)
        for sock, out in self._out.items():
            _send(sock, out)

    def _answer(self, asked: Asked, found: Callable[[], bytes]) -> bool:
        """Answer it, if there is an answer."""
        try:
            answer = found()
        except (JournalError, OSError) as error:
            log.error("history_unreadable", reason=why(error))
            answer = pack_failure(asked.token)
        if answer:
            self._out[asked.sock].append(answer)
            self.answered += 1
        return bool(answer)


def _discard(sock: socket.socket) -> None:
    with suppress(BlockingIOError):
        while sock.recv(DATAGRAM_MAX):
            pass


def _send(sock: socket.socket, queue: deque[bytes]) -> None:
    while queue:
        try:
            sock.send(queue[0])
        except BlockingIOError:
            return
        queue.popleft()

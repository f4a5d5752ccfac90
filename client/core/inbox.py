"""Where pushes wait for the program: bounded, and no lock that an interrupt could leave held.

**The limit.** A program that takes no pushes must not cost answers, so the connection is read all
the time. When the pushes that wait need more than `limit` bytes, further ones are dropped, and what
was dropped is summed up, per room: a RoomGap names the missing events (room 0: direct messages), a
PaymentGap the payments. Once half of the bytes are taken the sums are put in, in the place of what
they stand for, and pushes are kept again. So each room's numbers are given in order, and each is
either given or named by a gap. RoomRestarted and RoomRefused are never dropped, but a later one of
the same room takes the place of what is summed up of it.

**Threads.** `put`, `refill` and `end` are called by one thread (the loop's), `take` by any. What
they share is one deque, whose operations are atomic; what waits is the difference of two positions.
A signal handler that raises can come between any two steps of `take`, and may not lose a push: it
is moved from the deque into a list of the caller's by one step, and put back from there.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import methodcaller
from typing import Any, Final, NamedTuple, TypeVar

from client.core.pushes import (
    Disconnected,
    Event,
    LogReplaced,
    OutcomesUnknown,
    PaymentGap,
    Reconnected,
)
from client.errors import ClientError
from libproto.messages import ChatBroadcast, DirectMessage, Payment, RoomGap

LIMIT: Final = 16 * 1024 * 1024
"""Bytes of memory, about, that the pushes which wait may need, if the program sets no limit."""
NOTICES_LEN: Final = 64 * 1024
"""The same of notices for on_reconnect, where they do not wait among pushes."""
SUMS_MAX: Final = 65536
"""Rooms of which something was dropped; a server that names more is not one of ours."""
DIRECT: Final = 0
"""The room whose gaps are of direct messages."""
PAYMENTS: Final = -1
NOTICES: Final = -2
LOGINS: Final = -3
"""Where what was dropped of payments and notices is kept, among the rooms."""


class Notice(NamedTuple):
    """For on_reconnect: why the connection was lost, or None when there is another."""

    reason: ClientError | None


T = TypeVar("T")
Item = Event | Notice
Gap = RoomGap | PaymentGap

_POP_LEFT = methodcaller("popleft")
_OVERHEAD = 320  # bytes of an entry, of the tuples and numbers in it


class TooManyRooms(Exception):
    """Pushes of more than SUMS_MAX rooms were dropped."""


def size_of(item: Item) -> int:
    """Bytes of memory that a waiting push needs, about."""
    return _OVERHEAD + sum(sys.getsizeof(field) for field in item if type(field) is str)


def emptied(queue: deque[T]) -> Iterator[T]:
    """Take each from the left, until there is none; others may take from it too."""
    while True:
        try:
            first = queue.popleft()
        except IndexError:
            return
        yield first


class Inbox:
    """The pushes of one connection, and those that take its place."""

    def __init__(
        self, limit: int, ask: Callable[[Callable[[], None]], object] | None = None
    ) -> None:
        """limit: bytes. ask: has the thread that puts call something; None where it takes, too."""
        self._limit = limit
        self._ask = ask
        self._entries: deque[tuple[Item, int]] = deque()  # with the bytes put in before it
        self._put_len = 0  # bytes that were ever put in
        self._sums: dict[int, list[Item]] = {}
        self._waiters: deque[Callable[[], object]] = deque()
        self.dropped = 0
        """How many pushes were dropped."""
        self.ended = False
        """Nothing will be put in any more. To be read before the `take` that it is about."""

    @property
    def waiting_len(self) -> int:
        """Bytes of the pushes that wait."""
        try:
            _, before = self._entries[0]
        except IndexError:
            return 0
        return self._put_len - before

    @property
    def overflowing(self) -> bool:
        """Whether pushes are being dropped."""
        return bool(self._sums)

    # ---- the loop's thread

    def put(self, item: Item) -> None:
        """Keep a push or a notice, or sum it up. TooManyRooms if that cannot be bounded."""
        self.refill()
        if self._sums or self.waiting_len + size_of(item) > self._limit:
            self._sum_up(item)
        else:
            self._append((item,))

    def refill(self) -> None:
        """Put in what was summed up, if there is space again."""
        if self._sums and self.waiting_len <= self._limit // 2:
            sums, self._sums = self._sums, {}
            self._append(item for parts in sums.values() for item in parts)

    def emptied(self) -> list[Item]:
        """Take all that there is, with what is summed up. What others take meanwhile is theirs."""
        found = [item for item, _ in emptied(self._entries)]
        sums, self._sums = self._sums, {}
        return found + [item for parts in sums.values() for item in parts]

    def end(self) -> None:
        """Nothing more will come: who waits is woken, and finds what is left."""
        sums, self._sums = self._sums, {}
        self._append(item for parts in sums.values() for item in parts)
        self.ended = True
        self._wake()

    def _append(self, items: Iterable[Item]) -> None:
        for item in items:
            entry = (item, self._put_len)
            self._put_len += size_of(item)
            self._entries.append(entry)
        self._wake()

    def _wake(self) -> None:
        for wake in emptied(self._waiters):
            wake()

    def _sum_up(self, item: Item) -> None:
        key, gap = _summary(item)
        if len(self._sums) >= SUMS_MAX and key not in self._sums:
            raise TooManyRooms(f"pushes of more than {SUMS_MAX} rooms")
        parts = self._sums.setdefault(key, [])
        if gap is None:
            # The last two notices, why and that it is over; of a room, what begins it anew.
            # What a login said is kept: there are few of them.
            keep = parts if key == LOGINS else parts[-1:] if key == NOTICES else []
            parts[:] = [*keep, item]
            return
        self.dropped += 1
        if parts and isinstance(before := parts[-1], RoomGap | PaymentGap):
            parts[-1] = _joined(before, gap)
        else:
            parts.append(gap)

    # ---- any thread

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take, and may be later."""
        return not self._entries and not self.ended

    def take(self) -> Any:
        """The oldest push or notice, or None. No call may follow this one before its result is the
        program's: an interrupt that comes there would lose the push."""
        if self._sums and self.waiting_len <= self._limit // 2:
            if self._ask is None:
                self.refill()
            else:
                self._ask(self.refill)
        taken: list[tuple[Item, int]] = []
        try:
            taken.extend(map(_POP_LEFT, (self._entries,)))
            return taken[0][0]
        except IndexError:
            return None
        except BaseException:  # of a signal handler
            self._entries.extendleft(taken)
            raise

    def when_changed(self, wake: Callable[[], object]) -> None:
        """Have `wake` called once, by the loop's thread, at the next push or at the end. To be
        followed by another look at `idle`, as it may have come before."""
        self._waiters.append(wake)

    def forget(self, wake: Callable[[], object]) -> None:
        """Undo `when_changed`."""
        try:
            self._waiters.remove(wake)
        except ValueError:
            return  # it was called


def _summary(item: Item) -> tuple[int, Gap | None]:
    """Where something is summed up, and the gap that stands for it; None if it is not dropped."""
    match item:
        case ChatBroadcast(room_id=room_id, room_seq=seq):
            return room_id, RoomGap(room_id, seq, seq)
        case DirectMessage(seq=seq):
            return DIRECT, RoomGap(DIRECT, seq, seq)
        case Payment(txn_id=txn_id):
            return PAYMENTS, PaymentGap(txn_id, txn_id)
        case PaymentGap():
            return PAYMENTS, item
        case RoomGap():
            return item.room_id, item
        case Notice() | Disconnected() | Reconnected():
            return NOTICES, None
        case LogReplaced() | OutcomesUnknown():
            return LOGINS, None
    return item.room_id, None


def _joined(one: Gap, other: Gap) -> Gap:
    """One gap over two of the same room, or of payments; the last two fields of each say from where
    to where."""
    first, last = min(one[-2], other[-2]), max(one[-1], other[-1])
    if isinstance(one, RoomGap):
        return RoomGap(one.room_id, first, last)
    return PaymentGap(first, last)

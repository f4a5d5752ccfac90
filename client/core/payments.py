"""Which payments the program was given, and those that it missed, from TXN_HISTORY.

A PAYMENT push may be missed: while a connection is lost, while another takes its place, while the
program does not run, or because the server had no place for it. What it would have said stands in
the user's transactions. So after each login they are read from the newest back to `after`, the
txn_id up to which all is known, and the payments among them that were not pushed are given, oldest
first, as the pushes that they would have been. Pushes that come meanwhile wait, and follow unless
they were among them: each payment is given once.

Two payments that were made at nearly the same time may be pushed in either order, so the greatest
txn_id that was pushed is not enough to go by: `after` is moved by what was read, and the txn_ids of
pushes above it are kept, of the last ones.

A push that the server lost while the connection stayed (a worker that dies before it tells the
payee) is made up for after the next login, so it comes behind newer ones.

The first login of a program only learns which transaction is the newest, unless an earlier run has
said (`payments_after`). Names come with pushes and are asked for otherwise. A payment by somebody
whom the user has blocked is not pushed, but it is among the transactions, and is given.

What is too old for the server, or more than `PAGES_MAX` answers hold, is told by a PaymentGap.
"""

from collections.abc import Sequence
from typing import Any, Final

from client.core import calls
from client.core.calls import Call
from client.core.pushes import PaymentGap, Push
from libproto.messages import (
    LIST_MAX,
    Payment,
    Transaction,
    TxnHistoryResponse,
    TxnKind,
    UserNameResponse,
)

PAGES_MAX: Final = 16
"""Answers of TXN_HISTORY that are read after a login at most: one's own payments count, too."""
KEPT: Final = 256
"""Pushes whose txn_ids are kept."""
_NAMES_MAX: Final = 4096


class Payments:
    """Of one user at a time."""

    def __init__(self, after: int | None = None) -> None:
        """after: txn_id up to which the program was given all; None: not known."""
        self.after = after
        self._user_id = 0
        self._covered = 0  # what is pushed up to this one was read before
        self._given: dict[int, None] = {}  # txn_ids of pushes, as they came
        self._names: dict[int, str] = {}
        self._held: list[Payment] = []
        self._reading = False
        self._begin()

    def _begin(self) -> None:
        self._before = self._newest = self._oldest = self._pages = 0
        self._found: list[Transaction] = []
        self._is_read = self._is_cut = False

    @property
    def catching_up(self) -> bool:
        """Whether some that were missed may be yet to come."""
        return self._reading and self.after is not None

    def login(self, user_id: int) -> None:
        """A session of this user has begun: what is `wanted` is to be asked for."""
        if self._user_id not in (0, user_id):
            self.forget()
        self._user_id = user_id
        self._begin()
        self._reading = True

    def interrupt(self) -> None:
        """The session is over; what waits is among the transactions."""
        self._reading = False
        self._held.clear()

    def forget(self) -> None:
        """The transactions are other ones."""
        self.after, self._covered = None, 0
        self._given.clear()

    # ---- what is pushed

    def pushed(self, push: Payment) -> Sequence[Push]:
        """What the program is given by it, just now."""
        if len(self._names) >= _NAMES_MAX:
            self._names.clear()
        self._names[push.from_user] = push.from_name
        if self.catching_up:
            self._held.append(push)
            return ()
        return self._new(push)

    def _new(self, push: Payment) -> Sequence[Push]:
        if push.txn_id <= self._covered or push.txn_id in self._given:
            return ()
        self._given[push.txn_id] = None
        if len(self._given) > 2 * KEPT:
            oldest = list(self._given)[:KEPT]
            for txn_id in oldest:
                del self._given[txn_id]
            if self.after is not None:
                self.after = max(self.after, *oldest)
        return (push,)

    # ---- what is read

    def wanted(self) -> Call[Any] | None:
        """What to ask for next; None: that is all, and `finish` is due."""
        if not self._is_read:
            return calls.transactions(self._before, 1 if self.after is None else LIST_MAX)
        for each in self._found:
            if each.from_user not in self._names:
                return calls.user_name(each.from_user)
        return None

    def named(self, answer: UserNameResponse) -> None:
        self._names[answer.user_id] = answer.username

    def answered(self, answer: TxnHistoryResponse) -> None:
        found = answer.transactions
        self._oldest = answer.oldest_txn_id
        self._pages += 1
        if found:
            self._newest = self._newest or found[0].txn_id
            self._before = found[-1].txn_id
        if self.after is None:
            self._is_read = True
            return
        self._found += [each for each in found if self._is_missed(each, self.after)]
        at_end = not found or self._before <= max(self.after + 1, self._oldest)
        self._is_cut = not at_end and self._pages == PAGES_MAX
        self._is_read = at_end or self._is_cut

    def _is_missed(self, each: Transaction, after: int) -> bool:
        came_in = each.kind == TxnKind.TRANSFER and each.to_user == self._user_id
        return came_in and each.txn_id > after and each.txn_id not in self._given

    def finish(self) -> Sequence[Push]:
        """All is read: what the program is given, and what was pushed meanwhile."""
        before, self._reading = self.after, False
        self.after = self._newest
        if before is None:
            return ()  # nothing was held, and what is pushed late is new
        given: list[Push] = []
        first = max(self._oldest, self._before if self._is_cut else 0)
        if before + 1 < first:
            given.append(PaymentGap(before + 1, first - 1))
        names = self._names
        given += [
            Payment(
                each.txn_id,
                each.time,
                each.from_user,
                names[each.from_user],
                each.amount,
                each.balance,
            )
            for each in reversed(self._found)
        ]
        self._covered = self._newest
        self._given = {txn_id: None for txn_id in self._given if txn_id > self._newest}
        return given + self._released()

    def give_up(self) -> Sequence[Push]:
        """They cannot be read: after the next login it is tried again."""
        self._reading = False
        return self._released()

    def _released(self) -> list[Push]:
        held, self._held = self._held, []
        return [each for push in held for each in self._new(push)]

"""Money: deposits, withdrawals and transfers, exactly once. Hot path.

The seven steps of a transaction are those of README.md, in its order and numbering. It is written
for speed: words by index, one block copy for the record, no object per transaction.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW, Opcode, TxnKind
from server.core.log import TxnLog
from server.core.outcomes import Outcome, Outcomes
from server.core.session import Session, is_live
from server.region.layout import OUTCOME_WORDS, TARGET_KIND_SHIFT, WORD
from server.region.locks import InsideLock, Lock, Locks
from server.region.records import MONEY, OFFSETS, RecordKind
from server.region.region import Region

# What became of a request. Not wire statuses: several of these share one.
DONE, RECORDED, SUPERSEDED, MISMATCH, TOO_OLD, NO_USER, FUNDS, LIMIT, FULL = range(9)

_DEPOSIT, _TRANSFER = int(TxnKind.DEPOSIT), int(TxnKind.TRANSFER)
_AGAIN = TxnLog.AGAIN
_pack_money = MONEY.pack
_pack_outcome = Struct(f"={OUTCOME_WORDS}Q").pack
IN_ROOM = int(Opcode.TRANSFER_IN_ROOM)  # a kind of outcomes only

Executed = tuple[int, int, int]  # what became of a request, txn_id, balance of the caller


class Ledger:
    """The ledger as one worker works it."""

    def __init__(
        self,
        region: Region,
        locks: Locks,
        log: TxnLog,
        outcomes: Outcomes,
        max_balance: int = MAX_BALANCE,
    ) -> None:
        """max_balance: the most that an account may have, minor units; at most MAX_BALANCE."""
        layout = region.layout
        self.max_balance: Final = max_balance
        """The most that an account may have."""
        self._words, self._bytes = region.words, region.bytes
        self._locks, self._log = locks, log
        self._wait = locks.wait
        # Users known to exist, by id: the word of the account, and its lock. They never cease to.
        self._payees: dict[int, tuple[int, Lock]] = {}
        accounts = layout["accounts"].offsets
        assert (accounts["balance"], accounts["last_txn"]) == (0, 1), "read by place below"
        self._accounts = layout["accounts"].base
        self._stride = layout["accounts"].stride
        self._users = layout.capacities.accounts
        self._user_word = layout["users"].at(0, "word")
        self._user_stride = layout["users"].stride
        self._recorded: Final = outcomes
        clients = layout["clients"]
        self._clients = clients
        self._newest: Final = clients.offsets["newest"]
        self._outcomes: Final = clients.offsets["outcomes"]
        self._append, self._intent = log.append, log.intent
        self._ring = layout.capacities.txn_ring

    def execute(
        self,
        session: Session,
        kind: int,
        other: int,
        amount: int,
        req_id: int,
        flagged: int,
        now: int,
    ) -> Executed:
        """One ledger request of a session.

        kind: TxnKind. other: the payee of a transfer, else 0. amount: > 0, minor units. flagged:
        POSSIBLE_DUPLICATE; it matters only in a session without a client, as a client's record
        tells what was executed. now: microseconds since the Unix epoch. The caller has checked
        the arguments alone (amount, transfer to oneself).

        DONE and RECORDED tell the txn_id and the caller's balance after it, FUNDS the balance that
        is too low; beside the other outcomes they mean nothing. All but DONE changed nothing.
        """
        low, high, payee = session.lock, None, 0
        if kind == _TRANSFER:
            known = self._payees.get(other) or self._payee(other)
            if known is not None:
                payee, high = known
                if high.address < low.address:
                    low, high = high, low
                elif high is low:
                    high = None
        try:
            while True:
                # 1. the locks, ascending
                if not low.acquire(False) and not self._wait(low, ()):
                    continue
                if high is not None and not high.acquire(False) and not self._wait(high, (low,)):
                    continue
                outcome = self._transact(
                    session, kind, other, amount, req_id, flagged, now, payee,
                    (low,) if high is None else (low, high),
                )  # fmt: skip
                if outcome is not None:
                    break
            # 7. the locks, the last first
            if high is not None:
                high.release()
            low.release()
        except Exception as error:
            raise InsideLock("ledger") from error
        return outcome

    def _transact(
        self, session: Session, kind: int, other: int, amount: int, req_id: int, flagged: int,
        now: int, payee: int, held: tuple[Lock, ...],
    ) -> Executed | None:  # fmt: skip
        """Steps 2 to 6, under the locks `held`. payee: the word of the payee's account; 0: none.
        None: a recovery came between, and the locks have been released."""
        words, account = self._words, session.account
        # 2. the checks, in the order that the protocol gives
        at, client = session.at, session.client
        balance, last = words[account], words[account + 1]
        if words[at] != session.id or words[at + 1]:
            return SUPERSEDED, 0, balance
        newest = outcome = payee_after = payee_last = 0
        if client:
            newest = words[client + self._newest]
            outcome = session.outcomes + req_id % OUTCOME_WINDOW * OUTCOME_WORDS
            if req_id + OUTCOME_WINDOW <= newest:
                return TOO_OLD, 0, balance
            if words[outcome] == req_id:
                _, txn, balance, target, before, _, _ = words[outcome : outcome + 7]
                same = target == kind << TARGET_KIND_SHIFT | other and before == amount
                return RECORDED if same else MISMATCH, txn, balance
            if req_id < session.floor:
                return TOO_OLD, 0, balance
        elif flagged:
            return TOO_OLD, 0, balance
        if kind == _DEPOSIT:
            balance += amount
            if balance > self.max_balance:
                return LIMIT, 0, balance
            # 3, 4. the intent and the log
            payload = _pack_money(
                kind, now, 0, 0, session.user, amount, 0, balance, 0, last,
                session.client_id, req_id, session.client_slot,
            )  # fmt: skip
            txn = self._append(payload, amount, held)
        else:
            if kind == _TRANSFER and not payee:
                return NO_USER, 0, balance
            if balance < amount:
                return FUNDS, 0, balance
            balance -= amount
            if payee:
                payee_after, payee_last = words[payee] + amount, words[payee + 1]
                if payee_after > self.max_balance:
                    return LIMIT, 0, balance
            # 3, 4. the intent and the log
            payload = _pack_money(
                kind, now, 0, session.user, other, amount, balance, payee_after, last,
                payee_last, session.client_id, req_id, session.client_slot,
            )  # fmt: skip
            txn = self._append(payload, 0 if payee else -amount, held)
        if txn <= 0:
            return None if txn == _AGAIN else (LIMIT if txn else FULL, 0, balance)
        # 5. the after-values
        words[account] = balance
        words[account + 1] = txn
        if payee:
            words[payee] = payee_after
            words[payee + 1] = txn
        if client:
            self._bytes[outcome * WORD : (outcome + OUTCOME_WORDS) * WORD] = _pack_outcome(
                req_id, txn, balance, kind << TARGET_KIND_SHIFT | other, amount, 0, 0
            )
            if req_id > newest:
                words[client + self._newest] = req_id
        # 6. before 7: a redo after the unlock would overwrite what somebody did since
        words[self._intent] = 0
        return DONE, txn, balance

    def redo(self, record: Sequence[int]) -> None:
        """Store what a committed record of money says: what step 5 stores, and again without harm.
        For the repair of a worker that held the locks of these accounts when it died."""
        words, txn, kind = self._words, record[0], record[_KIND]
        payer, payee = record[_FROM], record[_TO]
        for user, balance in ((payer, record[_FROM_BALANCE]), (payee, record[_TO_BALANCE])):
            if user:
                account = self._accounts + user * self._stride
                words[account] = balance
                words[account + 1] = txn
        if record[_CLIENT_SLOT]:
            client = self._clients.at(record[_CLIENT_SLOT] - 1)
            req_id = record[_REQ_ID]
            balance = record[_TO_BALANCE if kind == _DEPOSIT else _FROM_BALANCE]
            target = kind << TARGET_KIND_SHIFT | (payee if kind == _TRANSFER else 0)
            if record[_ROOM]:
                target = IN_ROOM << TARGET_KIND_SHIFT | payee
            outcome = Outcome(
                req_id, txn, balance, target, record[_AMOUNT], record[_ROOM_SEQ], record[_DIGEST]
            )
            self._recorded.store(client, outcome)

    def account_of(self, user: int) -> tuple[int, Lock] | None:
        """Where a user's account is, and its lock; None where there is no such user."""
        return self._payees.get(user) or self._payee(user)

    def _payee(self, user: int) -> tuple[int, Lock] | None:
        """Where a user's account is, or None where there is no such user."""
        if (
            not 0 < user <= self._users
            or not self._words[self._user_word + user * self._user_stride]
        ):
            return None
        found = self._payees[user] = (
            self._accounts + user * self._stride,
            self._locks.account(user),
        )
        return found

    def balance(self, session: Session) -> tuple[int, int] | None:
        """The caller's balance and last txn_id, of one moment; None where it is superseded."""
        words, account, lock = self._words, session.account, session.lock
        self._locks.hold(lock)  # no guard, which would be one for each call: twice the time
        try:
            answer = (words[account], words[account + 1]) if is_live(words, session) else None
        except Exception as error:
            raise InsideLock("balance") from error
        self._locks.release(lock)
        return answer

    def newest(self, user: int) -> int:
        """The user's newest transaction; 0: none."""
        return self._words[self._accounts + user * self._stride + 1]

    def history(
        self, user: int, before: int, limit: int, steps: int = 0
    ) -> tuple[list[tuple[int, ...]], int]:
        """The user's transactions as far as the ring has them, and where it goes on: see `follow`.
        before: only those below this txn_id; 0: from the newest. steps: 0: all of the ring. Takes
        no lock."""
        return follow(self._log.read, user, self.newest(user), before, limit, steps or self._ring)


def previous_of(record: Sequence[int], user: int) -> int:
    """The transaction of a user before this one, which is of that user too; 0: none."""
    return record[_FROM_PREVIOUS] if record[_FROM] == user else record[_TO_PREVIOUS]


def follow(
    read: Callable[[int], tuple[int, ...] | None],
    user: int,
    txn: int,
    before: int,
    limit: int,
    steps: int,
) -> tuple[list[tuple[int, ...]], int]:
    """A user's transactions from `txn` on, newest first, at most `limit`, and only those below
    `before` (0: all), along the chain of the account.

    Each is (txn_id, time, kind, from_user, to_user, amount, balance, req_id), the balance being the
    user's own after it, the req_id 0 where another user asked. read: a record by its txn_id, or
    None where that is not to be had here. Answers also the txn_id at which it went no further,
    though it did not have `limit` yet: as `read` had none, or after `steps` records; 0: none.
    """
    out: list[tuple[int, ...]] = []
    last = read(before) if 0 < before <= txn else None
    if last is not None and last[_KIND] in _MONEY_KINDS and user in (last[_FROM], last[_TO]):
        txn = previous_of(last, user)
    for _ in range(steps):
        if not txn or len(out) == limit:
            return out, 0
        record = read(txn)
        if record is None:
            break
        payer, payee = record[_FROM], record[_TO]
        if not before or txn < before:
            own = record[_FROM_BALANCE] if payer == user else record[_TO_BALANCE]
            mine = payer == user or not payer
            out.append(
                (txn, record[_TIME], record[_KIND], payer, payee, record[_AMOUNT], own,
                 record[_REQ_ID] if mine else 0)
            )  # fmt: skip
        txn = previous_of(record, user)
    return out, 0 if len(out) == limit else txn


_AT = OFFSETS[RecordKind.TRANSFER]
_TIME, _KIND, _FROM, _TO = _AT["time"], _AT["kind"], _AT["from_user"], _AT["to_user"]
_CLIENT_SLOT = _AT["client_slot"]
_AMOUNT, _REQ_ID = _AT["amount"], _AT["req_id"]
_MONEY_KINDS = tuple(map(int, TxnKind))
_FROM_BALANCE, _TO_BALANCE = _AT["from_balance"], _AT["to_balance"]
_ROOM, _ROOM_SEQ, _DIGEST = _AT["room"], _AT["room_seq"], _AT["digest"]
_FROM_PREVIOUS, _TO_PREVIOUS = _AT["from_previous"], _AT["to_previous"]

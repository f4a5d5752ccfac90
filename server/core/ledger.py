"""Money: deposits, withdrawals and transfers, exactly once. Hot path.

The seven steps of a transaction are those of README.md, in its order and numbering. It is written
for speed: words by index, one block copy for the record, no object per transaction.
"""

from collections.abc import Callable, Sequence
from typing import Final

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW, Opcode, TxnKind
from server.core.log import TxnLog
from server.core.outcomes import Outcomes
from server.core.session import Session
from server.region import machine
from server.region.layout import OUTCOME_WORDS, TARGET_KIND_SHIFT
from server.region.locks import InsideLock, Lock, Locks
from server.region.records import MONEY_KINDS, MONEY_WORDS, OFFSETS, RecordKind, UserRole
from server.region.region import Region

# What became of a request. Not wire statuses: several of these share one.
(
    DONE, RECORDED, SUPERSEDED, MISMATCH, TOO_OLD, NO_RIGHT, NO_USER, FUNDS, AMOUNT, LIMIT, SUPPLY,
    FULL,
) = range(12)  # fmt: skip

_AGAIN = -1  # a recovery came between, and the locks have been released
_DEPOSIT, _TRANSFER = int(TxnKind.DEPOSIT), int(TxnKind.TRANSFER)
_WINDOW, _OUTCOME_WORDS, _KIND_SHIFT = OUTCOME_WINDOW, OUTCOME_WORDS, TARGET_KIND_SHIFT
_PAYLOAD_WORDS = MONEY_WORDS - 1
_TELLER = int(UserRole.TELLER)
IN_ROOM = int(Opcode.TRANSFER_IN_ROOM)  # a kind of outcomes only
TAKE = int(Opcode.BOARD_TAKE)  # likewise

assert (_PAYLOAD_WORDS, _OUTCOME_WORDS) == (17, 7), "stored word by word below"

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
        transfers: tuple[int, int] = (1, MAX_BALANCE),
        deposits: str = "open",
    ) -> None:
        """max_balance: the most that an account may have, minor units; at most MAX_BALANCE.
        transfers: the least and the most that a payment to another user may be. deposits: who
        may deposit and withdraw: "open" everybody, "tellers" who has that role, "closed" nobody."""
        layout = region.layout
        self.max_balance: Final = max_balance
        """The most that an account may have."""
        self.min_transfer: Final = transfers[0]
        self.max_transfer: Final = transfers[1]
        self._open, self._tellers = deposits == "open", deposits == "tellers"
        self._role = layout["users"].at(0, "role")
        self._view, self._bytes = region.words, region.bytes
        self._words = machine.words_of(region.words)
        self._locks, self._log = locks, log
        accounts = layout["accounts"].offsets
        places = accounts["balance"], accounts["last_txn"], accounts["closed"]
        assert places == (0, 1, 2), "read by place below"
        self._accounts = layout["accounts"].base
        self._stride = layout["accounts"].stride
        self._users = layout.capacities.accounts
        self._user_word = layout["users"].at(0, "word")
        self._user_stride = layout["users"].stride
        self._recorded: Final = outcomes
        clients = layout["clients"]
        self._clients = clients
        self._newest: Final = clients.offsets["newest"]
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
        payee = self.account_of(other) if kind == _TRANSFER else 0
        low = session.lock
        high = self._locks.account(other) if payee else low
        if high.address < low.address:
            low, high = high, low
        two = high is not low
        try:
            while True:
                # 1. the locks, ascending
                if not low.acquire() and not self._locks.wait(low, ()):
                    continue
                if two and not high.acquire() and not self._locks.wait(high, (low,)):
                    continue
                outcome = self._transact(
                    session, kind, other, amount, req_id, flagged, now, payee, low, high
                )
                if outcome[0] != _AGAIN:
                    break
            # 7. the locks, the last first
            if two:
                high.release()
            low.release()
        except Exception as error:
            raise InsideLock("ledger") from error
        return outcome

    def _transact(
        self, session: Session, kind: int, other: int, amount: int, req_id: int, flagged: int,
        now: int, payee: int, low: Lock, high: Lock,
    ) -> Executed:  # fmt: skip
        """Steps 2 to 6, under the locks `low` and `high`, which may be one. payee: the word of the
        payee's account; 0: none."""
        words, log, account = self._words, self._log, session.account
        # 2. the checks, in the order that the protocol gives
        at, client = session.at, session.client
        balance, last = words[account], words[account + 1]
        if words[at] != session.id or words[at + 1]:
            return SUPERSEDED, 0, balance
        newest = outcome = payee_after = payee_last = 0
        target = kind << _KIND_SHIFT | other
        if client:
            newest = words[client + self._newest]
            outcome = session.outcomes + req_id % _WINDOW * _OUTCOME_WORDS
            if newest >= _WINDOW and req_id <= newest - _WINDOW:
                return TOO_OLD, 0, balance
            if words[outcome] == req_id:
                same = words[outcome + 3] == target and words[outcome + 4] == amount
                return RECORDED if same else MISMATCH, words[outcome + 1], words[outcome + 2]
            if req_id < session.floor:
                return TOO_OLD, 0, balance
        elif flagged:
            return TOO_OLD, 0, balance
        if kind != _TRANSFER and not self._open:
            role = words[self._role + session.user * self._user_stride]
            if role < _TELLER or not self._tellers:
                return NO_RIGHT, 0, balance
        payer, payer_after, supply_change = session.user, 0, 0
        if kind == _DEPOSIT:
            payer, other = 0, session.user
            payee, payee_after, payee_last = account, balance, last
        else:
            if kind == _TRANSFER and (not payee or words[payee + 2]):
                return NO_USER, 0, balance
            if balance < amount:
                return FUNDS, 0, balance
            payer_after = balance - amount
            if payee:
                if amount < self.min_transfer or amount > self.max_transfer:
                    return AMOUNT, 0, balance
                payee_after, payee_last = words[payee], words[payee + 1]
            else:
                supply_change = -amount
        if payee:
            if amount > self.max_balance or payee_after > self.max_balance - amount:
                return LIMIT, 0, balance
            payee_after += amount
            if not payer:
                supply_change = amount
        # 3. the intent
        machine.store_17(
            words, self._bytes, log.intent + 1,
            kind, now, 0, payer, other, amount, payer_after, payee_after,
            last if payer else 0, payee_last if payee else 0,
            session.client_id, req_id, session.client_slot, 0, 0, 0, 0,
        )  # fmt: skip
        # 4. the log
        if not log.lock.acquire():
            held = (low,) if high is low else (low, high)
            if not self._locks.wait(log.lock, held):
                return _AGAIN, 0, balance
        txn = log.commit_intended(_PAYLOAD_WORDS, supply_change)
        if txn <= 0:
            return SUPPLY if txn else FULL, 0, balance
        # 5. the after-values
        if payer:
            words[account] = payer_after
            words[account + 1] = txn
        if payee:
            words[payee] = payee_after
            words[payee + 1] = txn
        balance = payer_after if payer else payee_after
        if client:
            machine.store_7(words, self._bytes, outcome, req_id, txn, balance, target, amount, 0, 0)
            if req_id > newest:
                words[client + self._newest] = req_id
        # 6. before 7: a redo after the unlock would overwrite what somebody did since
        machine.publish(words, log.intent, 0)
        return DONE, txn, balance

    def redo(self, record: Sequence[int]) -> None:
        """Store what a committed record of money says: what step 5 stores, and again without harm.
        For the repair of a worker that held the locks of these accounts when it died."""
        words, txn, kind = self._view, record[0], record[_KIND]
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
            if kind == _TAKEN:
                target = TAKE << TARGET_KIND_SHIFT | record[_ROOM]
            elif record[_ROOM]:
                target = IN_ROOM << TARGET_KIND_SHIFT | payee
            self._recorded.store(
                client, req_id, txn, balance, target,
                record[_AMOUNT], record[_ROOM_SEQ], record[_DIGEST],
            )  # fmt: skip

    def account_of(self, user: int) -> int:
        """The word of a user's account; 0 where there is no such user."""
        if not 0 < user <= self._users:
            return 0
        exists = machine.look(self._words, self._user_word + user * self._user_stride)
        return self._accounts + user * self._stride if exists else 0

    def balance(self, session: Session) -> tuple[bool, int, int]:
        """Is the session live? And the caller's balance and last txn_id, of one moment."""
        words, account, lock = self._words, session.account, session.lock
        while not lock.acquire() and not self._locks.wait(lock, ()):
            pass
        try:
            live = words[session.at] == session.id and not words[session.at + 1]
            balance, last = words[account], words[account + 1]
        except Exception as error:
            raise InsideLock("balance") from error
        lock.release()
        return live, balance, last

    def newest(self, user: int) -> int:
        """The user's newest transaction; 0: none."""
        return int(self._words[self._accounts + user * self._stride + 1])

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


def kind_of(record: Sequence[int]) -> int:
    """The TxnKind of a record of money."""
    return _AS_TOLD.get(record[_KIND], record[_KIND])


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
                (txn, record[_TIME], kind_of(record), payer, payee, record[_AMOUNT], own,
                 record[_REQ_ID] if mine else 0)
            )  # fmt: skip
        txn = previous_of(record, user)
    return out, 0 if len(out) == limit else txn


_AT = OFFSETS[RecordKind.TRANSFER]
_TIME, _KIND, _FROM, _TO = _AT["time"], _AT["kind"], _AT["from_user"], _AT["to_user"]
_CLIENT_SLOT = _AT["client_slot"]
_AMOUNT, _REQ_ID = _AT["amount"], _AT["req_id"]
_TAKEN = int(RecordKind.OFFER_TAKEN)
_MONEY_KINDS = tuple(map(int, MONEY_KINDS))
_AS_TOLD = {
    _TAKEN: int(TxnKind.TRANSFER),
    int(RecordKind.PAID_IN): int(TxnKind.DEPOSIT),
    int(RecordKind.PAID_OUT): int(TxnKind.WITHDRAW),
}
_FROM_BALANCE, _TO_BALANCE = _AT["from_balance"], _AT["to_balance"]
_ROOM, _ROOM_SEQ, _DIGEST = _AT["room"], _AT["room_seq"], _AT["digest"]
_FROM_PREVIOUS, _TO_PREVIOUS = _AT["from_previous"], _AT["to_previous"]

"""What an operator does to users and their money, and what a user does to the own password.

All of it under the registry lock, the user's account lock and the log lock, from the first look to
the end: the record of the log, what it says of the user, and the end of sessions. So a LOGIN comes
before all of it or after. Who dies in it has left a record, which the repair carries out (`redo`).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from libproto.messages import MAX_BALANCE
from libproto.scram import Verifier
from server.core.audience import NOBODY, Touched
from server.core.change_records import texts_of
from server.core.chat import digest_of
from server.core.errors import (
    LimitReached,
    NoSuchUser,
    OtherRequest,
    Superseded,
    TooLittle,
    WrongChange,
)
from server.core.ledger import Ledger
from server.core.log import TxnLog
from server.core.session import Session, is_live
from server.core.sessions import Sessions
from server.core.users import Users
from server.region.layout import WORD
from server.region.locks import Lock, Locks
from server.region.records import (
    OFFSETS,
    PAID,
    PAID_KINDS,
    USER_SET,
    VERIFIER,
    RecordKind,
    UserRole,
    UserState,
)
from server.region.region import Region

_AT: Final = OFFSETS[RecordKind.PAID_IN]


class Paid(NamedTuple):
    """What became of a deposit or a withdrawal by the operator."""

    txn: int
    balance: int  # of the user, after it
    recorded: bool  # it was executed before: this is its outcome


class Done(NamedTuple):
    """What became of a change of a user. txn: 0: it was so already."""

    txn: int
    touched: Touched  # workers to wake: they have sessions that have ended


class Operators:
    """Such acts, as one worker does them."""

    def __init__(
        self, region: Region, locks: Locks, log: TxnLog, users: Users, ledger: Ledger,
        sessions: Sessions,
    ) -> None:  # fmt: skip
        self._words, self._bytes = region.words, region.bytes
        self._locks, self._log, self._users, self._ledger = locks, log, users, ledger
        self._sessions = sessions
        self._region, self._keys = region, region.layout["operator_keys"]

    def _held(self, user: int) -> tuple[Lock, ...]:
        return self._locks.registry, self._locks.account(user), self._locks.log

    # ---- users

    def set_verifier(
        self, user: int, verifier: Verifier, now: int, by: Session | None = None
    ) -> Done:
        """A user's password is another one: all sessions of the user have ended, but the one `by`
        which it is changed. now: microseconds since the Unix epoch. NoSuchUser, Superseded, Busy.
        """
        self._check_exists(user)
        with self._locks.guard("set verifier", *self._held(user)):
            self._check_there(user)
            if by is not None and not is_live(self._words, by):
                raise Superseded
            kept = 0 if by is None else by.id
            payload = VERIFIER.pack(
                RecordKind.VERIFIER, self._log.time(now), 0, user, verifier.iterations, kept,
                verifier.salt, verifier.stored_key, verifier.server_key,
            )  # fmt: skip
            txn = self._commit(payload)
            self._users.apply_verifier(txn, payload)
            touched = self._sessions.end_others(user, kept, now)
            self._log.done()
        return Done(txn, touched)

    def set_user(
        self, user: int, now: int, *, role: UserRole | None = None, state: UserState | None = None
    ) -> Done:
        """A user's role or state, what is None stays. One that is not active has no session any
        more. NoSuchUser, WrongChange, Busy."""
        self._check_exists(user)
        users = self._users
        with self._locks.guard("set user", *self._held(user)):
            if state == UserState.DELETED == users.state(user):
                return Done(0, NOBODY)
            self._check_there(user)
            its_role = users.role(user) if role is None else role
            its_state = users.state(user) if state is None else state
            if (its_role, its_state) == (users.role(user), users.state(user)):
                return Done(0, NOBODY)
            balance = self._words[self._ledger.account_of(user)]
            if its_state == UserState.DELETED and balance:
                raise WrongChange(f"the user has a balance of {balance}: pay it out first")
            payload = USER_SET.pack(
                RecordKind.USER_SET, self._log.time(now), 0, user, its_role, its_state
            )
            txn = self._commit(payload)
            users.apply_set(payload)
            touched = NOBODY
            if its_state != UserState.ACTIVE:
                touched = self._sessions.end_others(user, 0, now)
            self._log.done()
        return Done(txn, touched)

    def kick(self, user: int, now: int) -> Touched:
        """End the sessions of a user, who may log in again. NoSuchUser."""
        self._check_exists(user)
        with self._locks.guard("kick", *self._held(user)[:2]):
            self._check_there(user)
            return self._sessions.end_others(user, 0, now)

    def _check_exists(self, user: int) -> None:
        """Before there is a lock to take."""
        if not self._users.exists(user):
            raise NoSuchUser

    def _check_there(self, user: int) -> None:
        if not self._users.is_there(user):
            raise NoSuchUser

    def _commit(self, payload: bytes, supply_change: int = 0) -> int:
        """The txn_id of a record, whose place was not looked for; the intent stands. Busy."""
        log = self._log
        if not log.has_place_for(1):
            raise log.refusal()
        txn, at = log.head() + 1, (log.intent + 1) * WORD
        self._bytes[at : at + len(payload)] = payload
        log.commit_reserved(txn, len(payload) // WORD, supply_change)
        return txn

    # ---- money

    def move(
        self, user: int, kind: RecordKind, amount: int, note: str, key: int, now: int
    ) -> Paid:  # fmt: skip
        """Money from the world to a user, or back. kind: PAID_IN or PAID_OUT. amount: minor units;
        0 with PAID_OUT: all there is. note: of TEXT_MAX bytes at most. key: not 0; a command that
        was executed under it is not executed again.

        NoSuchUser, OtherRequest, TooLittle, LimitReached, WrongChange, Busy."""
        self._check_exists(user)
        text, log, words = note.encode(), self._log, self._words
        digest = digest_of(text)
        with self._locks.guard("operator's money", *self._held(user)):
            found = self._recorded(key)
            if found is not None:
                wanted = kind, user, amount or found[4], digest
                if (*found[2:5], found[6]) != wanted:
                    raise OtherRequest
                return Paid(found[0], found[5], True)
            self._check_there(user)
            account = self._ledger.account_of(user)
            balance, last = words[account : account + 2].tolist()
            amount = amount or balance
            change = amount if kind == RecordKind.PAID_IN else -amount
            self._check_money(balance, change)
            texts = texts_of(text)
            if not log.has_place_for(1 + len(texts)):
                raise log.refusal()
            time, after = log.time(now), balance + change
            txn = log.write_text(texts, time)
            sides = (
                (0, user, amount, 0, after, 0, last)
                if kind == RecordKind.PAID_IN
                else (user, 0, amount, after, 0, last, 0)
            )
            payload = PAID.pack(kind, time, 0, *sides, 0, 0, 0, 0, 0, 0, digest, len(text), key)
            at = (log.intent + 1) * WORD
            self._bytes[at : at + len(payload)] = payload
            log.commit_reserved(txn, len(payload) // WORD, change)
            record = txn, *PAID.unpack(payload)
            self._ledger.redo(record)
            self._store_key(record)
            log.done()
        return Paid(txn, after, False)

    def _check_money(self, balance: int, change: int) -> None:
        most = self._ledger.max_balance
        if not change:
            raise WrongChange("the amount is 0")
        if balance + change < 0:
            raise TooLittle(balance, -change)
        if change > 0 and balance + change > most:
            raise LimitReached(f"the balance would be {balance + change}, above {most}")
        if change > 0 and self._log.supply() + change > MAX_BALANCE:
            raise LimitReached("the money supply would pass its limit")

    def outcome(self, key: int) -> list[int] | None:
        """What was executed under a key, as its place in the table has it; None: nothing, or it was
        too long ago."""
        with self._locks.guard("operator's key", self._locks.registry):
            return self._recorded(key)

    def _recorded(self, key: int) -> list[int] | None:
        """What was executed under a key."""
        for slot, its in enumerate(self._region.column("operator_keys", "key")):
            at = self._keys.at(slot)
            if its == key and self._words[at]:
                return self._words[at : at + self._keys.stride].tolist()
        return None

    def _store_key(self, record: Sequence[int]) -> None:
        """What is answered to a repeat; in the place of the oldest. Again without harm."""
        kind = record[_AT["kind"]]
        side = "to" if kind == RecordKind.PAID_IN else "from"
        self.put_key(
            record[0], record[_AT["key"]], kind, record[_AT[f"{side}_user"]],
            record[_AT["amount"]], record[_AT[f"{side}_balance"]], record[_AT["digest"]],
        )  # fmt: skip

    def put_key(self, txn: int, *rest: int) -> None:
        """Keep what was executed: the fields of its place in the table."""
        words, txns = self._words, self._region.column("operator_keys", "txn")
        slot = txns.index(txn) if txn in txns else txns.index(min(txns))
        at = self._keys.at(slot)
        words[at] = 0
        for place, value in enumerate(rest, 1):
            words[at + place] = value
        words[at] = txn  # the commit word

    # ---- repair

    def redo(self, record: Sequence[int], payload: bytes, now: int) -> None:
        """A committed record, for the repair of the worker that was in the middle of it. Of one of
        money the ledger has done the rest. payload: all words of the record but the first."""
        kind = record[_AT["kind"]]
        if kind in PAID_KINDS:
            self._store_key(record)
        elif kind == RecordKind.VERIFIER:
            payload = payload[: VERIFIER.size]
            self._users.apply_verifier(record[0], payload)
            user, _, kept, *_ = VERIFIER.unpack(payload)[3:]
            self._sessions.mark_others(user, kept, now)
        elif kind == RecordKind.USER_SET:
            payload = payload[: USER_SET.size]
            self._users.apply_set(payload)
            user, _, state = USER_SET.unpack(payload)[3:]
            if state != UserState.ACTIVE:
                self._sessions.mark_others(user, 0, now)

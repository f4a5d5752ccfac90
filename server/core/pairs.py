"""A transaction and an event that are published together, or neither: TRANSFER_IN_ROOM.

Locks in rank order: the accounts, the log, the event ring. With all of them held the worker looks
for a place in both rings, and writes both into its intent; then the txn_id is stored there, and
from the commit word of the record on both count. The log lock is held until the event's head is
stored, so the order of events agrees with that of transactions. Who dies in between has left in
its intent what the repair needs to publish the event (`redo`).

The journal cuts its batches so that such a transaction and its event are in one: `last_pair_event`
tells it, before the log's head does, that there is an event it may not have seen yet.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from libproto.codec import PUSH
from libproto.messages import EventKind, Opcode, TxnKind
from server.core.audience import NOBODY, Audience, Touched
from server.core.chat import digest_of
from server.core.errors import NotJoined, OtherRequest
from server.core.events import Events
from server.core.ledger import (
    DONE,
    FUNDS,
    LIMIT,
    NO_USER,
    RECORDED,
    SUPERSEDED,
    Ledger,
)
from server.core.log import TxnLog
from server.core.outcomes import Outcomes
from server.core.room_bits import RoomBits
from server.core.session import Session, is_live
from server.region.layout import TARGET_KIND_SHIFT, WORD
from server.region.locks import InsideLock, Lock, Locks, NothingChanged
from server.region.records import MONEY_IN_ROOM, OFFSETS, RecordKind
from server.region.region import Region

_broadcast = PUSH[Opcode.CHAT_BROADCAST].frame
_EVENT_KIND: Final = int(EventKind.PAYMENT)
_TRANSFER: Final = int(TxnKind.TRANSFER)
_IN_ROOM: Final = int(Opcode.TRANSFER_IN_ROOM)
_AT: Final = OFFSETS[RecordKind.TRANSFER]
_HEAD: Final = Struct("=7Q")  # of an event's payload: up to frame_len
_HEAD_WORDS: Final = 14  # of all that stands before the frame


class Transferred(NamedTuple):
    """What became of a TRANSFER_IN_ROOM. `what` is an outcome of the ledger; all but DONE changed
    nothing, and txn_id, balance and seq tell something of DONE, RECORDED, and FUNDS (balance)."""

    what: int
    txn: int = 0
    balance: int = 0
    seq: int = 0  # room_seq
    event: int = 0  # number of an event at or after it
    touched: Touched = NOBODY  # workers to wake


class _Transfer(NamedTuple):
    """The request."""

    session: Session
    room: int
    payee: int
    amount: int
    note: str
    req_id: int
    flagged: int
    now: int
    digest: int


class _Checked(NamedTuple):
    """What is known of it once the accounts are locked."""

    answer: int  # DONE: go on
    txn: int = 0
    balance: int = 0  # of the payer, after it
    seq: int = 0
    last: int = 0  # txn_id of the payer's transaction before it
    payee_balance: int = 0
    payee_last: int = 0


class Pairs:
    """Such operations, as one worker does them."""

    def __init__(
        self,
        region: Region,
        locks: Locks,
        log: TxnLog,
        ledger: Ledger,
        bits: RoomBits,
        audience: Audience,
        events: Events,
        outcomes: Outcomes,
    ) -> None:
        self._words, self._bytes = region.words, region.bytes
        self._locks, self._log, self._ledger = locks, log, ledger
        self._bits, self._audience, self._events = bits, audience, events
        self._outcomes = outcomes
        self._last_event = region.log.index("last_pair_event")
        self._intent_event = log.intent + (
            region.layout["workers"].offsets["intent_event"]
            - region.layout["workers"].offsets["intent"]
        )

    def transfer(
        self,
        session: Session,
        room: int,
        payee: int,
        amount: int,
        note: str,
        req_id: int,
        flagged: int,
        now: int,
    ) -> Transferred:
        """A transfer that is told in a room, which the payer has joined. Arguments and answer as of
        `Ledger.execute`; note: of NOTE_MAX bytes at most. OutcomeUnknown, OtherRequest, NotJoined,
        Busy: nothing has changed."""
        request = _Transfer(
            session, room, payee, amount, note, req_id, flagged, now, digest_of(note.encode(), room)
        )
        payee_at = self._ledger.account_of(payee)
        held = _ascending(session.lock, self._locks.account(payee) if payee_at else None)
        while True:
            self._locks.hold(*held)
            try:
                done = self._under_locks(request, payee_at, held)
            except NothingChanged:
                self._locks.release(*held)
                raise
            except Exception as error:
                raise InsideLock("transfer in room") from error
            if done is not None:
                self._locks.release(*held)
                return done

    def _under_locks(
        self, request: _Transfer, payee_at: int, held: tuple[Lock, ...]
    ) -> Transferred | None:
        """With the accounts locked; None: a recovery came between, and they are not any more."""
        checked = self._check(request, payee_at)
        if checked.answer != DONE:
            head = self._events.head()
            return Transferred(checked.answer, checked.txn, checked.balance, checked.seq, head)
        log, event = self._log, self._locks.event
        txn = log.reserve(held)
        if txn == TxnLog.AGAIN:
            return None
        if txn == TxnLog.FULL:
            raise log.refusal()
        if not event.acquire() and not self._locks.wait(event, (*held, log.lock)):
            return None
        try:
            self._events.check_open()
        except NothingChanged:
            self._locks.release(log.lock, event)
            raise
        seq, number = self._publish(request, checked, txn)
        self._locks.release(log.lock, event)
        self._apply(request, checked, payee_at, txn, seq)
        log.done()
        touched = self._audience.listeners(request.room)
        return Transferred(DONE, txn, checked.balance, seq, number, touched)

    def _check(self, request: _Transfer, payee_at: int) -> _Checked:
        """In the order that the protocol gives. OutcomeUnknown, OtherRequest, NotJoined."""
        words, session = self._words, request.session
        if not is_live(words, session):
            return _Checked(SUPERSEDED)
        found = self._outcomes.look(session, request.req_id, request.flagged)
        if found is not None:
            wanted = _IN_ROOM << TARGET_KIND_SHIFT | request.payee, request.amount, request.digest
            if (found.target, found.amount, found.digest) != wanted:
                raise OtherRequest
            return _Checked(RECORDED, found.txn_id, found.balance, found.seq)
        if not self._bits.has(session.slot, request.room):
            raise NotJoined
        if not payee_at:
            return _Checked(NO_USER)
        balance, last = words[session.account], words[session.account + 1]
        if balance < request.amount:
            return _Checked(FUNDS, balance=balance)
        payee_balance = words[payee_at] + request.amount
        if payee_balance > self._ledger.max_balance:
            return _Checked(LIMIT)
        return _Checked(
            DONE, 0, balance - request.amount, 0, last, payee_balance, words[payee_at + 1]
        )

    def _publish(self, request: _Transfer, checked: _Checked, txn: int) -> tuple[int, int]:
        """Both, with the locks of both rings held: the room_seq and the event's number."""
        events, session, room = self._events, request.session, request.room
        now = self._log.time(request.now)
        seq, number = events.next_seq(room), events.head() + 1
        text = f"{txn} {request.payee} {request.amount} {request.note}"
        frame = _broadcast(0, 0, room, seq, now, _EVENT_KIND, session.user, session.name, text)
        event = events.payload(_EVENT_KIND, room, seq, session.user, 0, frame, now, txn=txn)
        record = MONEY_IN_ROOM.pack(
            _TRANSFER, now, 0, session.user, request.payee, request.amount,
            checked.balance, checked.payee_balance, checked.last, checked.payee_last,
            session.client_id, request.req_id, session.client_slot,
            room, seq, number, request.digest,
        )  # fmt: skip
        at = self._intent_event * WORD
        self._bytes[at : at + len(event)] = event
        self._words[self._last_event] = number  # before the head: see above
        self._log.commit(txn, record)
        events.publish(event)
        return seq, number

    def _apply(
        self, request: _Transfer, checked: _Checked, payee_at: int, txn: int, seq: int
    ) -> None:
        """The after-values: balances and outcome."""
        words, session = self._words, request.session
        for at, balance in (
            (session.account, checked.balance), (payee_at, checked.payee_balance)
        ):  # fmt: skip
            words[at] = balance
            words[at + 1] = txn
        if session.client:
            target = _IN_ROOM << TARGET_KIND_SHIFT | request.payee
            self._outcomes.store(
                session.client, request.req_id, txn, checked.balance, target,
                request.amount, seq, request.digest,
            )  # fmt: skip

    def redo(self, record: Sequence[int]) -> None:
        """The event of a committed transaction, if it has one and that is not published yet. For
        the repair of the worker that was in the middle of it."""
        if not record[_AT["room"]]:
            return
        at = self._intent_event * WORD
        size = _HEAD.unpack(self._bytes[at : at + _HEAD.size])[6]
        end = at + _HEAD_WORDS * WORD + size + -size % WORD
        self._events.finish(record[_AT["event"]], bytes(self._bytes[at:end]))


def _ascending(one: Lock, other: Lock | None) -> tuple[Lock, ...]:
    """Two accounts' locks in their order; once, where they are the same."""
    if other is None or other is one:
        return (one,)
    return (one, other) if one.address < other.address else (other, one)

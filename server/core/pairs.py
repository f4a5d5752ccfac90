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

from libproto import words
from libproto.messages import EventKind, Opcode, TxnKind
from server.core.audience import NOBODY, Audience, Touched
from server.core.chat import digest_of
from server.core.errors import NotJoined, OtherRequest
from server.core.events import NO_REQUEST, Events
from server.core.ledger import (
    AMOUNT,
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
from server.core.rooms import Rooms
from server.core.session import Session
from server.region import machine
from server.region.layout import TARGET_KIND_SHIFT, WORD
from server.region.locks import InsideLock, Lock, Locks, NothingChanged
from server.region.records import MONEY_WORDS, OFFSETS, RecordKind, may_tell
from server.region.region import Region

# What the hot path needs: where this is compiled they are numbers of the machine.
_EVENT_KIND, _TRANSFER = int(EventKind.PAYMENT), int(TxnKind.TRANSFER)
_IN_ROOM, _KIND_SHIFT = int(Opcode.TRANSFER_IN_ROOM), TARGET_KIND_SHIFT
_DONE, _RECORDED, _SUPERSEDED, _NO_USER, _FUNDS, _AMOUNT, _LIMIT = (
    DONE, RECORDED, SUPERSEDED, NO_USER, FUNDS, AMOUNT, LIMIT,
)  # fmt: skip
_AGAIN, _FULL, _PAYLOAD_WORDS = TxnLog.AGAIN, TxnLog.FULL, MONEY_WORDS - 1
_AT: Final = OFFSETS[RecordKind.TRANSFER]
_HEAD: Final = Struct("=7Q")  # of an event's payload: up to frame_len
_HEAD_WORDS: Final = 14  # of all that stands before the frame


class Transferred(NamedTuple):
    """What became of a TRANSFER_IN_ROOM. `what` is an outcome of the ledger; all but DONE changed
    nothing, and txn_id, balance and seq tell something of DONE, RECORDED, and FUNDS (balance)."""

    what: int
    txn: int
    balance: int
    seq: int  # room_seq
    event: int  # number of an event at or after it
    touched: Touched  # workers to wake


class _Transfer:
    """A request, and what is known of it once the accounts are locked."""

    __slots__ = (
        "amount", "balance", "digest", "flagged", "last", "note", "now", "payee", "payee_at",
        "payee_balance", "payee_last", "req_id", "room", "seq", "session", "target", "txn",
    )  # fmt: skip

    def __init__(
        self, session: Session, room: int, payee: int, amount: int, note: bytes, req_id: int,
        flagged: int, now: int, payee_at: int,
    ) -> None:  # fmt: skip
        """payee_at: word of the payee's account; 0: none."""
        self.session = session
        self.room, self.payee, self.amount, self.note = room, payee, amount, note
        self.req_id, self.flagged, self.now, self.payee_at = req_id, flagged, now, payee_at
        self.digest = digest_of(note, room)
        self.target = _IN_ROOM << _KIND_SHIFT | payee
        self.txn = self.balance = self.seq = 0  # balance: of the payer, after it
        self.last = self.payee_balance = self.payee_last = 0  # last: txn_id before it


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
        rooms: Rooms,
    ) -> None:
        self._view, self._bytes = region.words, region.bytes
        self._words = machine.words_of(region.words)
        self._locks, self._log, self._ledger = locks, log, ledger
        self._bits, self._audience, self._events = bits, audience, events
        self._outcomes = outcomes
        self._rooms = rooms
        self._opened = region.layout["rooms"].at(0, "opened")
        self._room_stride = region.layout["rooms"].stride
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
        return self.transfer_encoded(
            session, room, payee, amount, note.encode(), req_id, flagged, now
        )

    def transfer_encoded(
        self, session: Session, room: int, payee: int, amount: int, note: bytes, req_id: int,
        flagged: int, now: int,
    ) -> Transferred:  # fmt: skip
        """The same, with a note in UTF-8."""
        payee_at = self._ledger.account_of(payee)
        request = _Transfer(session, room, payee, amount, note, req_id, flagged, now, payee_at)
        held = ascending(session.lock, self._locks.account(payee) if payee_at else None)
        while True:
            self._locks.hold_all(held)
            try:
                done = self._under_locks(request, held)
            except NothingChanged:
                self._locks.release(*held)
                raise
            except Exception as error:
                raise InsideLock("transfer in room") from error
            if done is not None:
                self._locks.release(*held)
                return done

    def _under_locks(self, request: _Transfer, held: tuple[Lock, ...]) -> Transferred | None:
        """With the accounts locked; None: a recovery came between, and they are not any more."""
        log, lock, events, event = self._log, self._log.lock, self._events, self._locks.event
        what = self._check(request)
        if what != _DONE:
            return Transferred(
                what, request.txn, request.balance, request.seq, events.head(), NOBODY
            )
        txn = log.reserve(held)
        if txn == _AGAIN:
            return None
        if txn == _FULL:
            raise log.refusal()
        request.txn = txn
        if not event.acquire() and not self._locks.wait(event, (*held, lock)):
            return None
        try:
            events.check_open()
        except NothingChanged:
            event.release()
            lock.release()
            raise
        number = self._publish(request)
        event.release()
        lock.release()
        self._apply(request)
        log.done()
        touched = self._audience.listeners(request.room)
        return Transferred(_DONE, request.txn, request.balance, request.seq, number, touched)

    def _check(self, request: _Transfer) -> int:
        """An outcome of the ledger, in the order that the protocol gives; DONE: go on.
        OutcomeUnknown, OtherRequest, NotJoined."""
        words, session, amount = self._words, request.session, request.amount
        if words[session.at] != session.id or words[session.at + 1]:
            return _SUPERSEDED
        found = self._outcomes.look(session, request.req_id, request.flagged)
        if found is not None:
            wanted = request.target, amount, request.digest
            if (found.target, found.amount, found.digest) != wanted:
                raise OtherRequest
            request.txn, request.balance, request.seq = found.txn_id, found.balance, found.seq
            return _RECORDED
        if not self._bits.has(session.slot, request.room):
            raise NotJoined
        if words[self._opened + request.room * self._room_stride]:
            self._rooms.check_there(request.room)
            self._rooms.check_speak(request.room, session.user)
        payee_at, account = request.payee_at, session.account
        if not payee_at or words[payee_at + 2]:
            return _NO_USER
        balance, most = words[account], self._ledger.max_balance
        if balance < amount:
            request.balance = balance
            return _FUNDS
        if amount < self._ledger.min_transfer or amount > self._ledger.max_transfer:
            return _AMOUNT
        if amount > most or words[payee_at] > most - amount:
            return _LIMIT
        request.balance, request.last = balance - amount, words[account + 1]
        request.payee_balance = words[payee_at] + amount
        request.payee_last = words[payee_at + 1]
        return _DONE

    def _publish(self, request: _Transfer) -> int:
        """Both, with the locks of both rings held: the event's number."""
        events, log, session, room = self._events, self._log, request.session, request.room
        user, txn, now = session.user, request.txn, log.time(request.now)
        seq, number = events.next_seq(room), events.head() + 1
        text = b"%d %d %d %b" % (txn, request.payee, request.amount, request.note)
        frame = words.broadcast(room, seq, now, _EVENT_KIND, user, session.name, text)
        event = events.payload(
            _EVENT_KIND, room, seq, user, 0, frame, now, request=NO_REQUEST, txn=txn
        )
        request.seq = seq
        self.intend_event(event, number)
        machine.store_17(
            self._words, self._bytes, log.intent + 1,
            _TRANSFER, now, 0, user, request.payee, request.amount,
            request.balance, request.payee_balance, request.last, request.payee_last,
            session.client_id, request.req_id, session.client_slot,
            room, seq, number, request.digest,
        )  # fmt: skip
        log.commit_reserved(txn, _PAYLOAD_WORDS)
        events.publish(event)
        return number

    def intend_event(self, event: bytes, number: int) -> None:
        """The event that will be published with the next record: its payload, and its number."""
        machine.store_block(self._words, self._bytes, self._intent_event, event)
        self._words[self._last_event] = number  # before the log's head: see above

    def _apply(self, request: _Transfer) -> None:
        """The after-values: balances and outcome."""
        words, session, txn = self._words, request.session, request.txn
        account, payee_at = session.account, request.payee_at
        words[account] = request.balance
        words[account + 1] = txn
        words[payee_at] = request.payee_balance
        words[payee_at + 1] = txn
        if session.client:
            self._outcomes.store(
                session.client, request.req_id, txn, request.balance, request.target,
                request.amount, request.seq, request.digest,
            )  # fmt: skip

    def redo(self, record: Sequence[int]) -> None:
        """The event of a committed record, if it has one and that is not published yet. For the
        repair of the worker that was in the middle of it."""
        if not may_tell(record[_AT["kind"]]) or not record[_AT["room"]]:
            return
        at = self._intent_event * WORD
        size = _HEAD.unpack(self._bytes[at : at + _HEAD.size])[6]
        end = at + _HEAD_WORDS * WORD + size + -size % WORD
        self._events.finish(record[_AT["event"]], bytes(self._bytes[at:end]))


def ascending(one: Lock, other: Lock | None) -> tuple[Lock, ...]:
    """Two accounts' locks in their order; once, where they are the same."""
    if other is None or other is one:
        return (one,)
    return (one, other) if one.address < other.address else (other, one)

"""Deposits, withdrawals, transfers, and what became of them. Hot path."""

from typing import Any, NoReturn

from libproto import words
from libproto.errors import Status
from libproto.framing import Decoder
from libproto.messages import Flag, Opcode, TxnKind
from libproto.texts import may_be_shown
from server.core import ledger
from server.core.errors import NotJoined, Superseded
from server.core.ledger import DONE, RECORDED
from server.core.session import Session
from server.region.layout import NOTE_MAX
from server.region.records import OFFSETS, RecordKind
from server.worker.connection import Connection
from server.worker.refusal import Refused
from server.worker.requests import Decode, Hot, Request
from server.worker.services import Services

_FLAGGED = int(Flag.POSSIBLE_DUPLICATE)
_TRANSFER, _RECORDED = int(TxnKind.TRANSFER), RECORDED
_TRANSFER_OPCODE, _BALANCE_OPCODE = int(Opcode.TRANSFER), int(Opcode.BALANCE)
_NOTE_AT, _NOTE_MAX = words.NOTE_AT, NOTE_MAX
_TO_BALANCE = OFFSETS[RecordKind.TRANSFER]["to_balance"]

# What each outcome that changed nothing is answered with.
_REFUSALS = {
    ledger.MISMATCH: (Status.ERR_BAD_PACKET, "this req_id was used for another request"),
    ledger.TOO_OLD: (Status.ERR_TIMEOUT, "outcome unknown"),
    ledger.NO_RIGHT: (Status.ERR_UNAUTHORIZED, "only the operator moves money in and out here"),
    ledger.NO_USER: (Status.ERR_NOT_FOUND, "no such user"),
    ledger.FUNDS: (Status.ERR_INSUFFICIENT_FUNDS, "the balance is too low"),
    ledger.AMOUNT: (Status.ERR_LIMIT, "the amount is not one that may be paid here"),
    ledger.LIMIT: (Status.ERR_LIMIT, "the balance of who gets it would pass its limit"),
    ledger.SUPPLY: (Status.ERR_LIMIT, "the money supply would pass its limit"),
}


def refuse(services: Services, what: int, balance: int, amount: int) -> NoReturn:
    log = services.state.log
    if what == ledger.SUPERSEDED:
        raise Superseded
    if what == ledger.FULL:
        raise log.refusal()
    status, detail = _REFUSALS[what]
    if what == ledger.FUNDS:
        detail = f"balance {balance} is below {amount}"
    elif what == ledger.AMOUNT:
        settings = services.settings
        detail = f"a payment is {settings.min_transfer} to {settings.max_transfer}, not {amount}"
    raise Refused(status, detail, after_txn=log.head())  # whatever it shows is not above the head


class _Money(Request):
    """What the ledger requests have in common."""

    __slots__ = ("_audience", "_durable", "_ledger", "_services")

    def __init__(self, record: int, decode: Decode, services: Services) -> None:
        Request.__init__(self, record, decode)
        self._services = services
        self._ledger = services.state.ledger
        self._audience = services.state.audience
        self._durable = services.durable


class _WithTheWorld(_Money):
    """A deposit, or a withdrawal."""

    __slots__ = ("_audited", "_kind", "_name", "_opcode")

    def __init__(
        self, record: int, decode: Decode, services: Services, opcode: int, kind: int
    ) -> None:
        _Money.__init__(self, record, decode, services)
        self._opcode, self._kind = opcode, kind
        self._name = f"teller_{TxnKind(kind).name.lower()}"
        self._audited = services.settings.deposits == "tellers"

    def serve(self, connection: Any, frame: Decoder) -> bytes | None:
        amount = words.word(self._opcode, frame.buf, frame.start, frame.end)
        return self._execute(connection, frame.req_id, frame.flags, amount)

    def _execute(
        self, connection: Connection, req_id: int, flags: int, amount: int
    ) -> bytes | None:
        session = connection.session
        assert session is not None, "the table of states lets nobody else come here"
        if not amount:
            raise Refused(Status.ERR_BAD_PACKET, "the amount is 0")
        done = self._ledger.execute(session, self._kind, 0, amount, req_id, flags, connection.now)
        what, txn, balance = done
        if what > _RECORDED:
            refuse(self._services, what, balance, amount)
        elif self._audited and not what:
            self._services.audit.write(
                self._name, "done", user=session.name, peer=connection.peer, amount=amount,
                txn_id=txn,
            )  # fmt: skip
        flag = _FLAGGED if what else 0
        answer = words.pair(self._opcode, req_id, flag, txn, balance)
        return self._durable.when_durable(connection, txn, answer)


class Deposit(_WithTheWorld):
    """DEPOSIT."""

    __slots__ = ()

    def __init__(self, record: int, decode: Decode, services: Services) -> None:
        _WithTheWorld.__init__(self, record, decode, services, Opcode.DEPOSIT, TxnKind.DEPOSIT)


class Withdraw(_WithTheWorld):
    """WITHDRAW."""

    __slots__ = ()

    def __init__(self, record: int, decode: Decode, services: Services) -> None:
        _WithTheWorld.__init__(self, record, decode, services, Opcode.WITHDRAW, TxnKind.WITHDRAW)


class Transfer(_Money):
    """TRANSFER."""

    __slots__ = ()

    def serve(self, connection: Any, frame: Decoder) -> bytes | None:
        to_user, amount = words.transfer(frame.buf, frame.start, frame.end)
        return self._execute(connection, frame.req_id, frame.flags, to_user, amount)

    def _execute(
        self, connection: Connection, req_id: int, flags: int, to_user: int, amount: int
    ) -> bytes | None:
        session = connection.session
        assert session is not None, "the table of states lets nobody else come here"
        if not amount or to_user == session.user:
            raise Refused(Status.ERR_BAD_PACKET, "the amount is 0, or the payee is the payer")
        done = self._ledger.execute(
            session, _TRANSFER, to_user, amount, req_id, flags, connection.now
        )
        what, txn, balance = done
        if not what:
            if self._audience.watched(to_user):
                tell_payee(self._services, session, to_user, txn, amount, connection.now)
        elif what > _RECORDED:
            refuse(self._services, what, balance, amount)
        flag = _FLAGGED if what else 0
        answer = words.pair(_TRANSFER_OPCODE, req_id, flag, txn, balance)
        return self._durable.when_durable(connection, txn, answer)


class TransferInRoom(_Money):
    """TRANSFER_IN_ROOM."""

    __slots__ = ("_pairs", "_subscriptions")

    def __init__(self, counter: int, decode: Decode, services: Services) -> None:
        _Money.__init__(self, counter, decode, services)
        self._pairs = services.state.pairs
        self._subscriptions = services.subscriptions

    def serve(self, connection: Any, frame: Decoder) -> bytes | None:
        buf, at, end = frame.buf, frame.start, frame.end
        room, to_user, amount = words.transfer_in_room(buf, at, end)
        encoded = buf[at + _NOTE_AT : end]
        try:
            note = encoded.decode()
        except UnicodeDecodeError:
            return Request.serve(self, connection, frame)  # which says what is wrong
        return self._execute(
            connection, frame.req_id, frame.flags, room, to_user, amount, note, encoded
        )

    def execute(
        self, connection: Any, req_id: int, flags: int, fields: tuple[Any, ...]
    ) -> bytes | None:
        room, to_user, amount, note = fields
        return self._execute(connection, req_id, flags, room, to_user, amount, note, note.encode())

    def _execute(
        self, connection: Connection, req_id: int, flags: int, room: int, to_user: int,
        amount: int, note: str, encoded: bytes,
    ) -> bytes | None:  # fmt: skip
        session, now = connection.session, connection.now
        assert session is not None, "the table of states lets nobody else come here"
        if not amount or to_user == session.user:
            raise Refused(Status.ERR_BAD_PACKET, "the amount is 0, or the payee is the payer")
        if len(encoded) > _NOTE_MAX or not (note.isprintable() or may_be_shown(note)):
            raise Refused(
                Status.ERR_BAD_PACKET,
                f"the note is over {NOTE_MAX} bytes, or not a text to be shown",
            )
        self._services.rates.check_chat(session.user, room, 0)
        try:
            done = self._pairs.transfer_encoded(
                session, room, to_user, amount, encoded, req_id, flags, now
            )
        except NotJoined:
            self._services.state.rooms.check_there(room)
            raise
        what, txn, balance, seq, event, touched = done
        if not what:
            self._subscriptions.wake(touched)
            if self._audience.watched(to_user):
                tell_payee(self._services, session, to_user, txn, amount, now)
        elif what > _RECORDED:
            refuse(self._services, what, balance, amount)
        flag = _FLAGGED if what else 0
        answer = words.transferred_in_room(req_id, flag, txn, balance, seq)
        return self._durable.when_shown(connection, event, answer, txn)


class Balance(_Money):
    """BALANCE."""

    __slots__ = ()

    def serve(self, connection: Any, frame: Decoder) -> bytes | None:
        if frame.end != frame.start:
            return Request.serve(self, connection, frame)  # which says what is wrong
        return self._execute(connection, frame.req_id)

    def _execute(self, connection: Connection, req_id: int) -> bytes | None:
        session = connection.session
        assert session is not None, "the table of states lets nobody else come here"
        found = self._ledger.balance(session)
        live, balance, last = found
        if not live:
            raise Superseded
        answer = words.pair(_BALANCE_OPCODE, req_id, 0, balance, last)
        return self._durable.when_durable(connection, last, answer)


def tell_payee(
    services: Services, session: Session, payee: int, txn: int, amount: int, now: int
) -> None:
    """Push a PAYMENT to the payee's connections, once it is durable; it may be missed. Apart from
    `Transfer`, whose variables would be cells of a closure otherwise."""

    if not services.rates.tells(session.user, payee):
        services.counters.count("payments_untold")
        return

    def push() -> None:
        record = services.state.log.read(txn)
        if record is not None:
            balance = record[_TO_BALANCE]
            touched = services.state.chat.pay(session, payee, txn, amount, balance, now)
            services.subscriptions.wake(touched)

    services.durable.do_when_durable(txn, push)


assert (DONE, RECORDED) == (0, 1), "asked for by their numbers above"


HOT: dict[Opcode, Hot] = {
    Opcode.DEPOSIT: Deposit,
    Opcode.WITHDRAW: Withdraw,
    Opcode.TRANSFER: Transfer,
    Opcode.TRANSFER_IN_ROOM: TransferInRoom,
    Opcode.BALANCE: Balance,
}

"""Deposits, withdrawals, transfers, and what became of them. TRANSFER is the hot path."""

from collections.abc import Callable
from typing import Final, NoReturn

from libproto.codec import RESPONSE
from libproto.errors import Status
from libproto.messages import LIST_MAX, Flag, Opcode, TxnKind
from server.archive.protocol import Kind, unpack_txns
from server.core import ledger
from server.core.errors import Superseded
from server.core.ledger import DONE, RECORDED
from server.region.records import OFFSETS, RecordKind
from server.worker.connection import Connection, Refused

STEPS_MAX: Final = 4096  # records of a history that a worker looks at in one go
_FLAGGED = int(Flag.POSSIBLE_DUPLICATE)
_DEPOSIT, _WITHDRAW, _TRANSFER = map(int, TxnKind)
_TO_BALANCE = OFFSETS[RecordKind.TRANSFER]["to_balance"]

_deposit_response = RESPONSE[Opcode.DEPOSIT].frame
_withdraw_response = RESPONSE[Opcode.WITHDRAW].frame
_transfer_response = RESPONSE[Opcode.TRANSFER].frame
_balance_response = RESPONSE[Opcode.BALANCE].frame
_history_response = RESPONSE[Opcode.TXN_HISTORY].frame

# What each outcome that changed nothing is answered with.
_REFUSALS = {
    ledger.MISMATCH: (Status.ERR_BAD_PACKET, "this req_id was used for another request"),
    ledger.TOO_OLD: (Status.ERR_TIMEOUT, "outcome unknown"),
    ledger.NO_USER: (Status.ERR_NOT_FOUND, "no such user"),
    ledger.FUNDS: (Status.ERR_INSUFFICIENT_FUNDS, "the balance is too low"),
    ledger.LIMIT: (Status.ERR_LIMIT, "the balance would pass its limit"),
}


def _refuse(connection: Connection, what: int, balance: int, amount: int) -> NoReturn:
    log = connection.worker.state.log
    if what == ledger.SUPERSEDED:
        raise Superseded
    if what == ledger.FULL:
        raise log.refusal()
    status, detail = _REFUSALS[what]
    if what == ledger.FUNDS:
        detail = f"balance {balance} is below {amount}"
    raise Refused(status, detail, after_txn=log.head())  # whatever it shows is not above the head


def deposit(connection: Connection, req_id: int, flags: int, amount: int) -> bytes | None:
    if not amount:
        raise Refused(Status.ERR_BAD_PACKET, "the amount is 0")
    what, txn, balance = connection.worker.execute(
        connection.live_session(), _DEPOSIT, 0, amount, req_id, flags, connection.now
    )
    if what > RECORDED:
        _refuse(connection, what, balance, amount)
    return connection.after(txn, _deposit_response(req_id, _FLAGGED * what, txn, balance))


def withdraw(connection: Connection, req_id: int, flags: int, amount: int) -> bytes | None:
    if not amount:
        raise Refused(Status.ERR_BAD_PACKET, "the amount is 0")
    what, txn, balance = connection.worker.execute(
        connection.live_session(), _WITHDRAW, 0, amount, req_id, flags, connection.now
    )
    if what > RECORDED:
        _refuse(connection, what, balance, amount)
    return connection.after(txn, _withdraw_response(req_id, _FLAGGED * what, txn, balance))


def transfer(
    connection: Connection, req_id: int, flags: int, to_user: int, amount: int
) -> bytes | None:
    session, worker, now = connection.session, connection.worker, connection.now
    assert session is not None, "the table of states lets nobody else come here"
    if not amount or to_user == session.user:
        raise Refused(Status.ERR_BAD_PACKET, "the amount is 0, or the payee is the payer")
    what, txn, balance = worker.execute(session, _TRANSFER, to_user, amount, req_id, flags, now)
    if not what:
        if worker.watched(to_user):
            worker.tell_payee(session, to_user, txn, amount, now)
    elif what > RECORDED:
        _refuse(connection, what, balance, amount)
    answer = _transfer_response(req_id, _FLAGGED * what, txn, balance)
    if connection.pending or txn > worker.words[worker.released]:
        connection.park(txn, answer)
        return None
    return answer


def balance(connection: Connection, req_id: int, flags: int) -> bytes | None:
    del flags
    found = connection.worker.state.ledger.balance(connection.live_session())
    if found is None:
        raise Superseded
    return connection.after(found[1], _balance_response(req_id, 0, *found))


def txn_history(
    connection: Connection, req_id: int, flags: int, before: int, limit: int
) -> bytes | None:
    del flags
    user, limit = connection.live_session().user, min(limit, LIST_MAX)
    worker = connection.worker
    # What takes longer than this the archive does, which has nobody waiting beside who asks.
    steps = STEPS_MAX if worker.archive is not None else 0
    items, older = worker.state.ledger.history(user, before, limit, steps)

    def answer(data: bytes = b"") -> bytes | None:
        found = items + (unpack_txns(data) if data else [])
        newest = found[0][0] if found else 0
        return connection.after(newest, _history_response(req_id, 0, 0, found))

    if older and worker.archive is not None:
        fields = (user, older, before, limit - len(items))
        return connection.ask(Kind.TXNS, fields, Opcode.TXN_HISTORY, req_id, answer)
    return answer()


assert (DONE, RECORDED) == (0, 1), "a response's flag is POSSIBLE_DUPLICATE times the outcome"

HANDLERS: dict[Opcode, Callable[..., bytes | None]] = {
    Opcode.DEPOSIT: deposit,
    Opcode.WITHDRAW: withdraw,
    Opcode.TRANSFER: transfer,
    Opcode.BALANCE: balance,
    Opcode.TXN_HISTORY: txn_history,
}

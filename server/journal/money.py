"""The fold of records of money: nearly all that a start reads. Hot path (docs/ARCHITECTURE.md).

It is one loop without a call: interpreted, one for each record would cost a sixth of a replay's
speed. So what is wrong with a record is told by others. Amounts come from files here, and any 64
bits may stand in a record: no sum is made before it is known to be none that is too large.
"""

from array import array
from struct import Struct
from typing import Final

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW, Opcode
from server.journal.errors import Inconsistent
from server.region import machine
from server.region.layout import OUTCOME_FIELDS, OUTCOME_WORDS, TARGET_KIND_SHIFT, WORD
from server.region.records import MONEY_WORDS, OFFSETS, RECORD_SIZE, RECORD_WORDS, RecordKind

ROW_WORDS: Final = OUTCOME_WINDOW * OUTCOME_WORDS
"""Words of a client's outcomes, laid out as in the region."""
BEFORE: Final = "its time is before that of the transaction before it"

_DEPOSIT, _WITHDRAW, _TRANSFER, _TAKEN = map(
    int,
    (RecordKind.DEPOSIT, RecordKind.WITHDRAW, RecordKind.TRANSFER, RecordKind.OFFER_TAKEN),
)
_MAX_BALANCE, _WORD, _RECORD_SIZE, _ROW_WORDS = MAX_BALANCE, WORD, RECORD_SIZE, ROW_WORDS
_WINDOW, _OUTCOME_WORDS, _KIND_SHIFT = OUTCOME_WINDOW, OUTCOME_WORDS, TARGET_KIND_SHIFT
_RECORD_WORDS, _EVENT = RECORD_WORDS, OFFSETS[RecordKind.TRANSFER]["event"]
_IN_ROOM, _TAKE = int(Opcode.TRANSFER_IN_ROOM), int(Opcode.BOARD_TAKE)

_unpack: Final = Struct(f"<{MONEY_WORDS}Q").unpack_from
assert list(OFFSETS[RecordKind.TRANSFER]) == [
    "txn_id", "kind", "time", "supply", "from_user", "to_user", "amount", "from_balance",
    "to_balance", "from_previous", "to_previous", "client_id", "req_id", "client_slot", "room",
    "room_seq", "event", "digest",
], "read by place"  # fmt: skip
assert OUTCOME_FIELDS == (
    "req_id", "txn_id", "balance", "target", "amount", "seq", "digest",
), "stored by place"  # fmt: skip


class Money:
    """What records of money change, and what they are checked against.

    Columns by user id begin with a place for user 0, which is the world and always 0; columns by
    client slot begin with slot 0.
    """

    def __init__(self) -> None:
        """Of a server that nobody has used."""
        self.txn = 0  # the newest txn_id in it
        self.supply = 0
        self.time = 0  # of the newest transaction, microseconds since the Unix epoch
        # by user id
        self.balances = array("Q", [0])
        self.last_txn = array("Q", [0])
        # by client slot
        self.client_users = array("Q")
        self.client_ids = array("Q")
        self.newest = array("Q")
        self.floors = array("Q")
        self.outcomes = array("Q")  # ROW_WORDS each

    def take(self, txn: int, room: int, entry: int, owner: int, price: int) -> None:
        """An offer leaves its board, as it is paid for. Inconsistent."""
        raise NotImplementedError  # boards are for the subclass to know

    @property
    def users(self) -> int:
        """How many there are: their ids are 1 to this."""
        return len(self.balances) - 1

    @property
    def clients(self) -> int:
        """How many slots there are."""
        return len(self.client_users)


def are_numbered(records: memoryview, first: int) -> bool:
    """Are records, by words, those of the transactions from `first` on?"""
    words, count = machine.words_of(records), len(records) // _RECORD_WORDS
    return machine.are_numbered(words, _RECORD_WORDS, count, first)


def tell_of_events(records: memoryview) -> bool:
    """Is there an event that one of the records, by words, was published with? Of those of other
    kinds something else may stand there."""
    words, count = machine.words_of(records), len(records) // _RECORD_WORDS
    return machine.has_any(words, _EVENT, _RECORD_WORDS, count)


def fold_money(of: Money, records: bytes, at: int) -> int:
    """Fold whole records, from the one at byte `at` on, up to the first that is not of money;
    answers where that is, or the end. Of that one too the number is checked, and taken for the
    newest.

    Inconsistent: the first that does not follow; what is there then is of no further use.
    """
    txn, supply, newest_time, end = of.txn, of.supply, of.time, len(records)
    users, clients = of.users, of.clients
    balances, last_txn = machine.column(of.balances), machine.column(of.last_txn)
    client_users, client_ids = machine.column(of.client_users), machine.column(of.client_ids)
    newest, floors = machine.column(of.newest), machine.column(of.floors)
    outcomes = machine.column(of.outcomes)
    while at < end:
        (
            number, kind, time, supply_after, payer, payee, amount, payer_after, payee_after,
            payer_previous, payee_previous, client_id, req_id, client, room, room_seq, event,
            digest,
        ) = machine.money_record(records, at)  # fmt: skip
        if number <= txn or number - txn != 1:
            raise _misplaced(txn, number)
        txn, before = number, supply
        if kind in (_TRANSFER, _TAKEN):
            wrong = not payer or not payee or payer == payee
        elif kind == _DEPOSIT:
            wrong = payer != 0 or not payee or amount > _MAX_BALANCE
            wrong = wrong or supply > _MAX_BALANCE - amount
            supply += amount
        elif kind == _WITHDRAW:
            wrong = not payer or payee != 0 or amount > supply
            supply -= amount
        else:
            break
        if time < newest_time:
            raise Inconsistent(txn, BEFORE)
        newest_time = time
        if wrong or supply_after != supply or not amount or payer > users or payee > users:
            raise _wrong(records, at, before)
        if kind == _TAKEN:
            of.take(txn, room, digest, payee, amount)
        if room or room_seq or event or digest:
            _check_event(records, at)
        if last_txn[payer] != payer_previous or last_txn[payee] != payee_previous:
            raise Inconsistent(txn, "it is not chained to its accounts' transactions before it")
        if payer:
            balance = balances[payer]
            if balance < amount or balance - amount != payer_after:
                raise _wrong_balance(of, payer, "pays", amount, payer_after, txn)
            balances[payer] = payer_after
            last_txn[payer] = txn
        elif payer_after:
            raise Inconsistent(txn, "the world has a balance")
        if payee:
            balance = balances[payee]
            if (
                payee_after > _MAX_BALANCE
                or payee_after < amount
                or payee_after - amount != balance
            ):
                raise _wrong_balance(of, payee, "gets", amount, payee_after, txn)
            balances[payee] = payee_after
            last_txn[payee] = txn
        elif payee_after:
            raise Inconsistent(txn, "the world has a balance")
        if client:
            slot = client - 1
            if (
                client > clients
                or client_users[slot] != (payer or payee)
                or client_ids[slot] != client_id
            ):
                raise _not_there(records, at)
            outcome = slot * _ROW_WORDS + req_id % _WINDOW * _OUTCOME_WORDS
            if outcomes[outcome] == req_id:
                raise Inconsistent(txn, f"request {req_id} was executed before")
            if req_id < floors[slot]:
                raise Inconsistent(
                    txn, f"request {req_id} is older than its client's record ({floors[slot]})"
                )
            latest = newest[slot]
            # Otherwise an event that was executed after it stands before it.
            if (latest < _WINDOW or req_id > latest - _WINDOW) and outcomes[outcome] < req_id:
                target, balance = payee, payer_after
                if kind == _TAKEN:
                    kind, target = _TAKE, room
                elif room:
                    kind = _IN_ROOM
                if not payer:
                    target, balance = 0, payee_after
                machine.pack_7(
                    outcomes, outcome * _WORD, req_id, txn, balance, kind << _KIND_SHIFT | target,
                    amount, room_seq, digest,
                )  # fmt: skip
                if req_id > latest:
                    newest[slot] = req_id
        elif client_id:
            raise Inconsistent(txn, f"client {client_id} has no slot")
        at += _RECORD_SIZE
    of.txn, of.supply, of.time = txn, supply, newest_time
    return at


def _misplaced(before: int, number: int) -> Inconsistent:
    return Inconsistent(before + 1, f"number {number} stands in its place")


def _check_event(records: bytes, at: int) -> None:
    """A transaction that is told in a room names the event that tells it. Inconsistent."""
    record = _unpack(records, at)
    room, room_seq, event = record[14:17]
    if record[1] not in (_TRANSFER, _TAKEN) or not (room and room_seq and event):
        raise Inconsistent(record[0], f"it has half an event, {event}, of room {room}")


def _wrong(records: bytes, at: int, before: int) -> Inconsistent:
    """What is wrong with the users, the supply or the amount of a record. before: the supply."""
    txn, kind, _, supply_after, payer, payee, amount, *_ = _unpack(records, at)
    supply = before + {_DEPOSIT: amount, _WITHDRAW: -amount}.get(kind, 0)
    why = f"there is no user {max(payer, payee)}" if amount else "an amount of 0"
    if kind in (_TRANSFER, _TAKEN) and (not payer or not payee or payer == payee):
        why = f"a transfer from user {payer} to user {payee}"
    elif kind == _DEPOSIT and (payer or not payee):
        why = f"a deposit from user {payer} to user {payee}"
    elif kind == _WITHDRAW and (payee or not payer):
        why = f"a withdrawal from user {payer} to user {payee}"
    elif kind == _DEPOSIT and supply > MAX_BALANCE:
        why = f"a supply of {supply} is above its limit"
    elif supply_after != supply:
        why = f"a supply of {supply_after} in the place of {supply}"
    return Inconsistent(txn, why)


def _wrong_balance(
    of: Money, user: int, what: str, amount: int, after: int, txn: int
) -> Inconsistent:
    """Of the user who "pays" or "gets"."""
    why = f"user {user} had {of.balances[user]}, {what} {amount} and has {after}"
    return Inconsistent(txn, why)


def _not_there(records: bytes, at: int) -> Inconsistent:
    record = _unpack(records, at)
    client_id, client = record[11], record[13]
    why = f"client {client_id} of user {record[4] or record[5]} is not in slot {client - 1}"
    return Inconsistent(record[0], why)

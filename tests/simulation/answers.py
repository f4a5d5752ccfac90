"""Whether an answer can be right, by the models of the ledger and of the rooms."""

from typing import Final, Protocol

from libproto.codec import RESPONSE
from libproto.errors import Status
from libproto.messages import EventKind, Opcode
from server.region.records import RecordKind
from tests.simulation.ledger import Ledger
from tests.simulation.requests import MONEY, NUMBERED, Request
from tests.simulation.rooms import Rooms, Said
from tests.simulation.wire import Frame

_KINDS: Final = {
    Opcode.DEPOSIT: RecordKind.DEPOSIT,
    Opcode.WITHDRAW: RecordKind.WITHDRAW,
    Opcode.TRANSFER: RecordKind.TRANSFER,
    Opcode.TRANSFER_IN_ROOM: RecordKind.TRANSFER,
    Opcode.BOARD_TAKE: RecordKind.OFFER_TAKEN,
}
_AMOUNT_AT: Final = {Opcode.TRANSFER: 1, Opcode.TRANSFER_IN_ROOM: 2, Opcode.BOARD_TAKE: 2}
_SPOKEN: Final = frozenset({Opcode.CHAT_SEND, Opcode.DIRECT_SEND})
_CHANGES: Final = frozenset({Opcode.ROOM_OPEN, Opcode.ROOM_SET, Opcode.ROOM_ROLE})
_IN_ROOM: Final = frozenset(
    {
        Opcode.JOIN_ROOM,
        Opcode.CHAT_SEND,
        Opcode.TRANSFER_IN_ROOM,
        Opcode.ROOM_HISTORY,
        Opcode.BOARD_ADD,
        Opcode.BOARD_REMOVE,
        Opcode.BOARD_TAKE,
        *_CHANGES,
    }
)
_MAY_REFUSE: Final = {
    Status.ERR_TIMEOUT: NUMBERED,
    Status.ERR_SERVER_BUSY: frozenset({Opcode.BOARD_ADD, *_CHANGES}),
    Status.ERR_LIMIT: MONEY | _CHANGES | {Opcode.DIRECT_SEND, Opcode.BLOCK, Opcode.BOARD_ADD},
    Status.ERR_NOT_FOUND: _IN_ROOM
    | {Opcode.LEAVE_ROOM, Opcode.TRANSFER, Opcode.DIRECT_SEND, Opcode.BLOCK},
    # not joined, not its own, not allowed
    Status.ERR_UNAUTHORIZED: _IN_ROOM | {Opcode.DIRECT_SEND},
    Status.ERR_BAD_PACKET: MONEY | _CHANGES | {Opcode.BLOCK, Opcode.BOARD_REMOVE},
    Status.ERR_ALREADY_EXISTS: _CHANGES,
    Status.ERR_INSUFFICIENT_FUNDS: MONEY - {Opcode.DEPOSIT},
}


class Knows(Protocol):
    """What answers are judged by."""

    ledger: Ledger
    rooms: Rooms
    shown: int
    offers: dict[int, tuple[int, int]]
    operations: tuple[str, ...]


class Judge:
    """Of the answers of one client."""

    def __init__(self, world: Knows, client_id: int) -> None:
        self._world, self._client_id = world, client_id
        self.user = 0

    def problem(self, request: Request, frame: Frame) -> str:
        """Why the answer cannot be right; empty where it can."""
        if frame.status == Status.OK:
            fields = RESPONSE[request.opcode].decode(frame.body, 0, len(frame.body))
            return self._executed(request, fields)
        return self._refused(request, Status(frame.status))

    # ---- refusals

    def _refused(self, request: Request, status: Status) -> str:
        ledger, rooms = self._world.ledger, self._world.rooms
        if request.opcode not in _MAY_REFUSE.get(status, frozenset()):
            return f"refused with {status.name}"
        if status == Status.ERR_TIMEOUT:
            return "its outcome is not known at first" if request.tries == 1 else ""
        key = self.user, self._client_id, request.req_id
        if request.opcode in NUMBERED:
            done = ledger.executed(*key) or rooms.executed(*key)
            if done is not None:
                return f"refused with {status.name}, and executed as {done}"
        if status == Status.ERR_INSUFFICIENT_FUNDS:
            had = ledger.balances_between(self.user, request.shown, ledger.head)
            if min(had) >= self._amount(request):
                return f"refused for lack of funds, and had {sorted(had)}"
        return ""

    @staticmethod
    def _amount(request: Request) -> int:
        return int(request.fields[_AMOUNT_AT.get(Opcode(request.opcode), 0)])

    # ---- what was executed

    def _executed(self, request: Request, fields: tuple[int, ...]) -> str:
        world, opcode = self._world, request.opcode
        if opcode == Opcode.BALANCE:
            balance, last = fields
            problem = self._wrong_balance(request, balance, last)
            world.shown = max(world.shown, last)
            return problem
        if opcode in MONEY:
            problem = self._wrong_txn(request, fields[0], fields[1])
            world.shown = max(world.shown, fields[0])
            if not problem and len(fields) == 3:
                problem = self._wrong_pair(request, fields[0], fields[2])
            return problem
        if opcode in _SPOKEN:
            return self._wrong_message(request, fields[0])
        if opcode == Opcode.ROOM_HISTORY:
            return self._wrong_history(request, fields)
        if opcode == Opcode.TXN_HISTORY:
            return self._wrong_txns(fields)
        if opcode in (Opcode.ROOM_SET, Opcode.ROOM_ROLE, Opcode.BOARD_REMOVE):
            key = self.user, self._client_id, request.req_id
            if world.ledger.executed(*key) is None:
                return "executed, and there is no such transaction"
        if opcode == Opcode.BOARD_ADD:
            world.offers[fields[0]] = request.number, int(request.fields[1])
        return ""

    def _wrong_balance(self, request: Request, balance: int, last: int) -> str:
        ledger = self._world.ledger
        mine = ledger.balances.get(self.user, [])
        newest = max((txn for txn, _ in mine if txn <= request.shown), default=0)
        if not newest <= last <= ledger.head:
            return f"balance at {last}, where {newest} was known of"
        right = next((had for txn, had in mine if txn == last), 0 if not last else None)
        return "" if balance == right else f"balance {balance} at {last}: it was {right}"

    def _wrong_txn(self, request: Request, txn: int, balance: int) -> str:
        record = self._world.ledger.moved.get(txn)
        if record is None:
            return f"executed as {txn}, which is no such transaction"
        pays_in = record.kind == RecordKind.DEPOSIT
        mine = record.to_balance if pays_in else record.from_balance
        asker = record.to_user if pays_in else record.from_user
        found = asker, record.client_id, record.req_id, record.kind, record.amount, mine
        told = (
            self.user, self._client_id, request.req_id, _KINDS[Opcode(request.opcode)],
            self._amount(request), balance,
        )  # fmt: skip
        if found != told:
            return f"executed as {txn} with {balance}: {record}"
        if txn <= request.shown:
            return f"executed as {txn}, though {request.shown} had been shown before"
        return ""

    def _wrong_pair(self, request: Request, txn: int, seq: int) -> str:
        rooms, record = self._world.rooms, self._world.ledger.moved[txn]
        place = request.number, seq
        if (record.room, record.room_seq) != place:
            return f"told as {place}: {record}"
        rooms.shown.add(place)
        said = rooms.said.get(place)
        kinds = EventKind.PAYMENT, EventKind.OFFER_TAKEN
        if said is not None and (said.kind not in kinds or said.user != self.user):
            return f"told as {place}, which is {said}"
        return ""

    def _wrong_message(self, request: Request, seq: int) -> str:
        rooms = self._world.rooms
        place = rooms.executed(self.user, self._client_id, request.req_id)
        if place is None:
            # Who is blocked is not told.
            unheard = request.opcode == Opcode.DIRECT_SEND and "BLOCK" in self._world.operations
            return "" if unheard else "executed, and there is no such event"
        rooms.shown.add(place)
        if request.opcode == Opcode.CHAT_SEND and place != (request.number, seq):
            return f"executed as {seq}, and is {place}"
        said = rooms.said[place]
        if (said.user, said.text) != (self.user, request.fields[1]):
            return f"executed as {place}, which is {said}"
        return ""

    def _wrong_txns(self, fields: tuple[object, ...]) -> str:
        _, items = fields
        assert isinstance(items, list | tuple)
        numbers = [each[0] for each in items]
        if numbers != sorted(set(numbers), reverse=True):
            return f"the history has {numbers}"
        for txn, _, kind, payer, payee, amount, balance, _ in items:
            record = self._world.ledger.moved.get(txn)
            if record is not None:
                mine = record.to_balance if payee == self.user else record.from_balance
                found = record.kind, record.from_user, record.to_user, record.amount, mine
                if found[1:] != (payer, payee, amount, balance):
                    return f"the history has {kind} {payer, payee, amount, balance}: {record}"
        return ""

    def _wrong_history(self, request: Request, fields: tuple[object, ...]) -> str:
        room, _, _, events = fields
        assert isinstance(room, int)
        assert isinstance(events, list | tuple)
        rooms, found = self._world.rooms, []
        for each in events:
            its_room, seq, _, kind, user, _, message = each
            if its_room != room or seq <= int(request.fields[1]):
                return f"the history has {each}"
            found.append(seq)
            problem = rooms.show((room, seq), Said(kind, user, message))
            if problem:
                return problem
        if found != sorted(set(found)):
            return f"the history has {found}"
        missing = [
            seq
            for seq in range(found[0], found[-1])
            if seq not in found and (room, seq) in rooms.said
        ] if found else []  # fmt: skip
        return f"the history lacks {missing}" if missing else ""

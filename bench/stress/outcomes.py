"""The requests of one user, and what their answers say of balances, rooms and boards."""

from collections.abc import Iterable
from typing import Any, Final

from bench.stress import boards, notes
from bench.stress.record import (
    KIND_OF,
    READ,
    Recorder,
    Refusal,
    Span,
    Trail,
    Unknown,
    error_kind,
)
from bench.stress.rooms import Rooms
from client.core.numbers import NUMBERED
from libproto.errors import Status
from libproto.messages import Opcode, TxnKind

# Numbers in place of names: what is looked at for every answer is compared as plain integers.
_TRANSFER = int(Opcode.TRANSFER)
_BALANCE = int(Opcode.BALANCE)
_CHAT_SEND = int(Opcode.CHAT_SEND)
_TAKE = int(Opcode.BOARD_TAKE)
_LIST: Final = int(Opcode.BOARD_LIST)
_TRANSFERS = int(TxnKind.TRANSFER)
_READ = READ


class Request:
    """A request on its way. Times in s; the fields are those of its body."""

    __slots__ = ("asked", "counted", "due", "failed", "fields", "opcode", "repeated", "sent")

    def __init__(
        self, opcode: int, fields: tuple[Any, ...], due: float, sent: float, *, counted: bool
    ) -> None:
        """counted: it is one of the load, not one of the connection's own."""
        self.opcode = opcode
        self.fields = fields
        self.due = due
        self.sent = sent  # for the first time
        self.asked = sent  # for the last time
        self.counted = counted
        self.failed = False  # it was counted already, as too late
        self.repeated = False


class Tally:
    """Where all that one thread is told goes."""

    def __init__(self, *, is_open: bool) -> None:
        self.recorder = Recorder(Span(float("inf"), float("inf")), is_open)
        self.trail, self.rooms, self.market = Trail(), Rooms(), boards.Market()


class Outcomes:
    """Takes the answers of one user."""

    def __init__(self, tally: Tally, user: int, name: str) -> None:
        self._tally = tally
        self._user = user
        self._name = name

    def succeeded(self, request: Request, first: int, second: int, now: float) -> None:
        """It was answered OK, and with these."""
        tally, opcode, fields = self._tally, request.opcode, request.fields
        answers, user, sent = tally.trail.answers, self._user, request.sent
        if opcode == _TRANSFER:
            kind = KIND_OF[opcode]
            notes.answer(answers, first, kind, user, fields[0], fields[1], second, sent, now)
        elif opcode == _BALANCE:
            notes.answer(answers, second, _READ, user, 0, 0, first, sent, now)
        elif opcode == _CHAT_SEND:
            tally.rooms.acknowledged(fields[0], user, self._name, fields[1], first, second)
        elif opcode in KIND_OF:
            kind = KIND_OF[opcode]
            notes.answer(answers, first, kind, user, 0, fields[0], second, sent, now)
        if not request.failed:
            tally.recorder.success(opcode, request.due, request.sent, now)

    def of_a_board(self, request: Request, told: tuple[Any, ...], now: float) -> None:
        """One of a board was answered OK."""
        tally, opcode, fields, user = self._tally, request.opcode, request.fields, self._user
        tally.market.answered(opcode, user, fields, told[0])
        if opcode == _TAKE:
            owner, (txn, balance, _) = self._owner_of(fields[1]), told
            answers, sent = tally.trail.answers, request.sent
            notes.answer(answers, txn, _TRANSFERS, user, owner, fields[2], balance, sent, now)
        if not request.failed:
            tally.recorder.success(opcode, request.due, request.sent, now)

    def _owner_of(self, entry: int) -> int:
        offer = self._tally.market.known[entry]  # or it would not have been asked for
        return int(offer.owner)

    def refused(self, req_id: int, request: Request, status: int, detail: str, now: float) -> bool:
        """Whether it is to be repeated again: it may have been executed before."""
        tally, opcode = self._tally, request.opcode
        if status == Status.ERR_NOT_FOUND and opcode in boards.OPCODES:
            # Others were faster: an answer as good as another. It was not executed before, either.
            tally.market.refused(request.fields)
            if not request.failed:
                tally.recorder.success(opcode, request.due, request.sent, now)
            return False
        kind = error_kind(status)
        if kind == "funds":
            refusal = Refusal(self._user, request.fields[-1], request.sent, now)
            tally.trail.refusals.append(refusal)
        elif kind == "unknown":
            tally.recorder.details[f"{Opcode(opcode).name}, {Status(status).name}: {detail}"] += 1
        if not request.failed:
            tally.recorder.failure(opcode, kind, request.due, now)
        if opcode not in NUMBERED or kind == "funds":
            return False
        if status == Status.ERR_LIMIT and opcode in boards.OPCODES:
            return False  # the board is full; whether it was executed before was looked at first
        if request.repeated and kind == "busy":
            return True
        if request.repeated or status == Status.ERR_TIMEOUT:
            self._not_told(req_id, request)
        return False

    def _not_told(self, req_id: int, request: Request) -> None:
        """Nobody will say whether it was executed."""
        tally, opcode = self._tally, request.opcode
        if opcode in boards.OPCODES:
            tally.market.not_told(opcode, request.fields)
        if opcode in KIND_OF or opcode == _TAKE:
            tally.trail.unknown.append(self._as_unknown(req_id, request))
        elif opcode == _CHAT_SEND:
            tally.rooms.not_told(request.fields[0])

    def _as_unknown(self, req_id: int, request: Request) -> Unknown:
        if request.opcode == _TAKE:
            kind, payee, amount = _TRANSFERS, self._owner_of(request.fields[1]), request.fields[2]
            return Unknown(self._user, req_id, kind, payee, amount, request.sent)
        payee, amount = request.fields if len(request.fields) == 2 else (0, *request.fields)
        kind = KIND_OF[request.opcode]
        return Unknown(self._user, req_id, kind, payee, amount, request.sent)

    def unknown(self, requests: dict[int, Request]) -> list[Unknown]:
        """The ledger requests among these, by req_id, whose outcome was not told."""
        return [
            self._as_unknown(req_id, each)
            for req_id, each in requests.items()
            if each.opcode in KIND_OF or each.opcode == _TAKE
        ]


def of_boards(requests: Iterable[Request]) -> list[tuple[int, tuple[Any, ...]]]:
    """Opcode and fields of each of these requests that changes a board."""
    return [
        (each.opcode, each.fields)
        for each in requests
        if each.opcode in boards.OPCODES and each.opcode != _LIST
    ]


def of_rooms(requests: Iterable[Request]) -> list[int]:
    """The room of each message among these requests."""
    return [each.fields[0] for each in requests if each.opcode == _CHAT_SEND]

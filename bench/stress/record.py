"""What one thread writes down during a run, as compactly as the verdict and the figures allow.

Latencies are kept as they are, 4 bytes each, and become histograms only when the run is over: a
histogram that is filled meanwhile would take time from what it measures. A ledger answer is 49
bytes, so a run of a million takes 50 MB over all processes.
"""

from __future__ import annotations  # array[int] is no type at run time before 3.12

import struct
from array import array
from collections import Counter
from typing import Final, NamedTuple

from bench.stress import notes
from libproto.errors import Status
from libproto.messages import Opcode, TxnKind

LATE_S: Final = 0.001
"""A request that is sent so long after it was due is late."""
AFTER: Final = -1
"""The second of what was answered after the end of the run."""
_AFTER = AFTER
_BEFORE = -2  # the second of what is not of the run
ERRORS: Final = ("timeout", "busy", "checksum", "auth", "funds", "lost", "unknown")
"""Why a request fails: `lost` is the connection, `unknown` every other status."""
_KINDS: Final = {
    Status.ERR_TIMEOUT: "timeout",
    Status.ERR_SERVER_BUSY: "busy",
    Status.ERR_CHECKSUM_FAIL: "checksum",
    Status.ERR_UNAUTHORIZED: "auth",
    Status.ERR_INSUFFICIENT_FUNDS: "funds",
}


def error_kind(status: int) -> str:
    """Which of ERRORS an answer is."""
    return _KINDS.get(Status(status), "unknown")


class Span:
    """When a run is measured, in s of `notes.now`; it ends early when interrupted."""

    __slots__ = ("end", "start")

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end


class Cell(NamedTuple):
    """Where a figure belongs: the second of the run, and the operation."""

    second: int
    opcode: int


class Recorder:
    """Counts and latencies of one run, in one thread."""

    def __init__(self, span: Span, is_open: bool) -> None:
        self.span = span
        self.is_open = is_open
        # µs from when it was due (closed loop: sent) to its answer, of successes
        self.latencies: dict[Cell, array[int]] = {}
        # µs from its sending; in the open loop only, else they are the same
        self.services: dict[Cell, array[int]] = {}
        self.errors: Counter[tuple[int, int, str]] = Counter()  # by second, opcode and kind
        self.late: Counter[Cell] = Counter()
        self.dropped: Counter[int] = Counter()  # by second: due, and never sent
        self.details: Counter[str] = Counter()  # what was said with the errors of kind `unknown`
        self.succeeded = 0
        self.failed = 0
        # the columns of the second in which the last success was, by opcode: most are in the same
        self._columns_of = _AFTER
        self._columns: dict[int, tuple[array[int], array[int]]] = {}

    def _second(self, due: float, now: float) -> int:
        """Of the run: in the open loop that in which a request was due, so that a backlog from
        before the run is none of its success. _BEFORE where it is not of the run."""
        at = due if self.is_open else now
        if at < self.span.start:
            return _BEFORE
        return int(at - self.span.start) if now < self.span.end else _AFTER

    def success(self, opcode: int, due: float, sent: float, now: float) -> None:
        """An answer that is OK."""
        second = self._second(due, now)
        if second == _BEFORE:
            return
        self.succeeded += 1
        if second != self._columns_of:
            self._columns_of, self._columns = second, {}
        columns = self._columns.get(opcode)
        if columns is None:
            columns = self._columns[opcode] = self._columns_for(Cell(second, opcode))
        latencies, services = columns
        notes.append(latencies, notes.us(now - due))
        if self.is_open:
            notes.append(services, notes.us(now - sent))

    def _columns_for(self, cell: Cell) -> tuple[array[int], array[int]]:
        """Latencies and services of a cell."""
        if cell not in self.latencies:
            self.latencies[cell], self.services[cell] = array("I"), array("I")
        return self.latencies[cell], self.services[cell]

    def failure(self, opcode: int, kind: str, due: float, now: float) -> None:
        """A request that came to nothing."""
        second = self._second(due, now)
        if second != _BEFORE:
            self.failed += 1
            self.errors[second, opcode, kind] += 1

    def sent_late(self, opcode: int, due: float) -> None:
        second = self._second(due, due)
        if second != _BEFORE:
            self.late[Cell(second, opcode)] += 1

    def drop(self, due: float) -> None:
        second = self._second(due, due)
        if second not in (_BEFORE, _AFTER):
            self.dropped[second] += 1


# ---- the ledger

READ: Final = 4
"""The kind of a BALANCE in an Answer, beside those of transactions."""
assert max(TxnKind) < READ


class Answer(NamedTuple):
    """A ledger request or a BALANCE that was answered OK. Times in s, amounts in cents.

    Packed, answers are in the order of txn_id, a BALANCE behind the transaction that it names.
    """

    txn_id: int  # of a BALANCE: last_txn_id
    kind: int
    user: int
    payee: int
    amount: int
    balance: int
    sent: float
    answered: float


class View(NamedTuple):
    """A transaction as the TXN_HISTORY of one user shows it."""

    txn_id: int
    user: int  # whose history it is
    kind: int
    from_user: int
    to_user: int
    amount: int
    balance: int
    req_id: int


class Refusal(NamedTuple):
    """A request that was refused for lack of funds."""

    user: int
    amount: int
    sent: float
    answered: float


class Unknown(NamedTuple):
    """A ledger request whose outcome was never told."""

    user: int
    req_id: int
    kind: int
    payee: int
    amount: int
    sent: float


VIEW: Final = struct.Struct(">QIBIIQQQ")


class Trail:
    """What one thread was told of the ledger."""

    def __init__(self) -> None:
        self.answers = bytearray()  # of notes.ANSWER
        self.refusals: list[Refusal] = []
        self.unknown: list[Unknown] = []
        self.unexpected: list[str] = []  # answers and pushes that the protocol does not allow


LEDGER: Final = {kind: Opcode[kind.name] for kind in TxnKind}
"""The operation of each kind of transaction."""
KIND_OF: Final = {int(opcode): kind for kind, opcode in LEDGER.items()}


def sorted_records(packed: bytes | bytearray, layout: struct.Struct) -> bytes:
    """Packed records in the order of their bytes, which is that of their first fields."""
    view = memoryview(packed)
    size = layout.size
    return b"".join(sorted(bytes(view[at : at + size]) for at in range(0, len(view), size)))

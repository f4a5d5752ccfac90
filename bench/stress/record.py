"""What one thread writes down during a run, as compactly as the verdict and the figures allow.

Latencies are kept as they are, 4 bytes each, and become histograms only when the run is over: a
histogram that is filled meanwhile would take time from what it measures. A ledger answer is 49
bytes, so a run of a million takes 50 MB over all processes.
"""

from __future__ import annotations  # array[int] is no type at run time before 3.12

import struct
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from libproto.errors import Status
from libproto.messages import Opcode, TxnKind

LATE_S: Final = 0.001
"""A request that is sent so long after it was due is late."""
AFTER: Final = -1
"""The second of what was answered after the end of the run."""
ERRORS: Final = ("timeout", "busy", "checksum", "auth", "funds", "lost", "unknown")
"""Why a request fails: `lost` is the connection, `unknown` every other status."""
_KINDS: Final = {
    Status.ERR_TIMEOUT: "timeout",
    Status.ERR_SERVER_BUSY: "busy",
    Status.ERR_CHECKSUM_FAIL: "checksum",
    Status.ERR_UNAUTHORIZED: "auth",
    Status.ERR_INSUFFICIENT_FUNDS: "funds",
}
_MAX_US: Final = 2**32 - 1


def error_kind(status: int) -> str:
    """Which of ERRORS an answer is."""
    return _KINDS.get(Status(status), "unknown")


@dataclass(slots=True)
class Span:
    """When a run is measured, in time.monotonic() seconds; it ends early when interrupted."""

    start: float
    end: float


class Cell(NamedTuple):
    """Where a figure belongs: the second of the run, and the operation."""

    second: int
    opcode: int


@dataclass(slots=True)
class Recorder:
    """Counts and latencies of one run, in one thread."""

    span: Span
    is_open: bool
    latencies: dict[Cell, array[int]] = field(default_factory=dict)
    """µs from when it was due (closed loop: sent) to its answer, of successes."""
    services: dict[Cell, array[int]] = field(default_factory=dict)
    """µs from its sending; in the open loop only, else they are the same."""
    errors: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    """By second, opcode and kind."""
    late: Counter[Cell] = field(default_factory=Counter)
    dropped: Counter[int] = field(default_factory=Counter)
    """By second: due, and never sent."""
    details: Counter[str] = field(default_factory=Counter)
    """What was said with the errors of kind `unknown`."""
    succeeded: int = 0
    failed: int = 0

    def _second(self, at: float) -> int:
        span = self.span
        return int(at - span.start) if at < span.end else AFTER

    def success(self, opcode: int, due: float, sent: float, now: float) -> None:
        """An answer that is OK."""
        if now < self.span.start:
            return
        self.succeeded += 1
        cell = Cell(self._second(now), opcode)
        try:
            latencies = self.latencies[cell]
        except KeyError:
            latencies = self.latencies[cell] = array("I")
            self.services[cell] = array("I")
        latencies.append(min(int((now - due) * 1e6), _MAX_US))
        if self.is_open:
            self.services[cell].append(min(int((now - sent) * 1e6), _MAX_US))

    def failure(self, opcode: int, kind: str, now: float) -> None:
        """A request that came to nothing."""
        if now >= self.span.start:
            self.failed += 1
            self.errors[self._second(now), opcode, kind] += 1

    def sent_late(self, opcode: int, due: float) -> None:
        if due >= self.span.start:
            self.late[Cell(self._second(due), opcode)] += 1

    def drop(self, due: float) -> None:
        if self.span.start <= due < self.span.end:
            self.dropped[self._second(due)] += 1


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


ANSWER: Final = struct.Struct(">QBIIQQdd")
VIEW: Final = struct.Struct(">QIBIIQQQ")


@dataclass(slots=True)
class Trail:
    """What one thread was told of the ledger."""

    answers: bytearray = field(default_factory=bytearray)
    refusals: list[Refusal] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Answers and pushes that the protocol does not allow."""


LEDGER: Final = {kind: Opcode[kind.name] for kind in TxnKind}
"""The operation of each kind of transaction."""
KIND_OF: Final = {int(opcode): kind for kind, opcode in LEDGER.items()}


def sorted_records(packed: bytes | bytearray, layout: struct.Struct) -> bytes:
    """Packed records in the order of their bytes, which is that of their first fields."""
    view = memoryview(packed)
    size = layout.size
    return b"".join(sorted(bytes(view[at : at + size]) for at in range(0, len(view), size)))


def now() -> float:
    """The clock of all times here: one for all processes of the machine."""
    return time.monotonic()

"""What faults have struck: operation, fault and phase; and what they have not."""

from collections import Counter
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Final, NamedTuple

from libproto.messages import Opcode
from server.worker.connection import Connection
from tests.simulation.process import Process
from tests.simulation.server import Server
from tests.simulation.worker import WorkerProcess

NOTHING: Final = "nothing"
RECOVERY, START, STOP = "in a recovery", "at a start", "at a stop"
INTENT, COMMITTED = "with an intent", "committed"
LOCKS, ELSE = "with locks", "else"
WITHOUT_INTENT: Final = frozenset({"CHAT_SEND", "DIRECT_SEND"})
_HANDLE: Final = Connection.handle.__code__


class Struck(NamedTuple):
    """What a fault has struck."""

    operation: str
    fault: str
    phase: str


def struck(fault: str, process: Process, server: Server) -> Struck:
    """What a fault strikes now that strikes this process."""
    return Struck(_operation(process), fault, phase_of(process, server))


def _operation(process: Process) -> str:
    """The request that it handles, if it is a worker; else what it is."""
    if not isinstance(process, WorkerProcess):
        return process.name
    frame: FrameType | None = process.task.greenlet.gr_frame if process.task is not None else None
    while frame is not None:
        if frame.f_code is _HANDLE:
            opcode = frame.f_locals.get("opcode")
            return Opcode(opcode).name if opcode in set(Opcode) else NOTHING
        frame = frame.f_back
    return NOTHING


def phase_of(process: Process, server: Server) -> str:
    """Where it is."""
    if server.master.recovers:
        return RECOVERY
    if not server.is_loaded:
        return START
    if server.stops:
        return STOP
    words, at = server.region.words, server.region.layout["workers"]
    if isinstance(process, WorkerProcess):
        if intent := words[at.at(process.slot, "intent")]:
            ring = server.region.layout["txn_ring"]
            return COMMITTED if words[ring.at(intent % ring.records)] == intent else INTENT
        if any(locks.holds for locks in process.region.locks):
            return LOCKS
    return ELSE


def never_reached(seen: Counter[Struck], operations: Iterable[str], faults: Iterable[str]) -> (
    Iterator[Struck]
):  # fmt: skip
    """What no fault has struck, of these operations and faults in the middle of a change."""
    for operation in sorted(operations):
        for fault in sorted(faults):
            for phase in (LOCKS,) if operation in WITHOUT_INTENT else (LOCKS, INTENT, COMMITTED):
                if not seen[Struck(operation, fault, phase)]:
                    yield Struck(operation, fault, phase)

"""Is the server alive, and is it ready for clients? If not, why not.

Alive: its workers run, or it is starting or stopping. Ready: a client that connects now is served,
money and all. What impairs the server without making it unready is a warning.
"""

import os
from dataclasses import dataclass, field
from typing import Final

from server.admin.snapshot import Snapshot
from server.region.layout import ServerState, WorkerState

_SERVE: Final = (WorkerState.IDLE, WorkerState.BUSY)


@dataclass(slots=True)
class Health:
    """What /health answers, by these names."""

    live: bool
    ready: bool
    reasons: list[str] = field(default_factory=list)  # why not
    warnings: list[str] = field(default_factory=list)


def health(of: Snapshot) -> Health:
    """How the server is."""
    header, journal, archive = (of.first[name] for name in ("header", "journal", "archive"))
    reasons, warnings = list[str](), list[str]()
    serving = [worker for worker in of.workers.values() if worker.state in _SERVE]
    stale = [n for n, worker in of.workers.items() if worker.state is WorkerState.STALE]
    started = header["state"] != ServerState.STARTING
    if not started:
        reasons.append("the server is starting: it loads its state, or waits for its workers")
    elif header["state"] == ServerState.DRAINING:
        reasons.append("the server is stopping: it answers what it has received")
    elif header["state"] == ServerState.HANDING_OVER:
        reasons.append("another server takes its place: it answers what it has received")
    if header["recovery"]:
        reasons.append("a worker has died: the others pause until its work is repaired")
    if journal["failed"]:
        reasons.append(
            f"the journal cannot be written ({os.strerror(journal['failed'])}): the server stops; "
            "see its log"
        )
    if started and not serving:
        reasons.append("no worker serves")
    if stale and serving:
        names = ", ".join(map(str, stale))
        warnings.append(f"these workers have said nothing for half a minute: {names}")
    if journal["full"]:
        warnings.append(f"no space for the journal's next file: {os.strerror(journal['full'])}")
    if archive["failed"]:
        warnings.append(
            f"older histories cannot be read ({os.strerror(archive['failed'])}); see the log"
        )
    if archive["closed"]:
        warnings.append("chat is refused until the archive has caught up; see its disk")
    if of.imbalance:
        warnings.append(f"the balances are {of.imbalance} away from what was paid in and out")
    live = not journal["failed"] and not (started and stale and not serving)
    return Health(live, live and not reasons, reasons, warnings)

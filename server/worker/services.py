"""What connections and the handlers of their requests work with."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from libproto.scram import Verifier
from libproto.sealing import ServerKey
from server.archive.client import ArchiveClient
from server.config import Settings
from server.core.state import State
from server.core.trail import Trails
from server.worker.audit import Audit
from server.worker.connections import Connections
from server.worker.counters import Counters
from server.worker.durable import Durable
from server.worker.files import FilesClient
from server.worker.guesses import Guesses
from server.worker.overload import Overload
from server.worker.places import Places
from server.worker.rates import Rates
from server.worker.served import Served
from server.worker.subscriptions import Subscriptions
from server.worker.unknown import Unknown


@dataclass(frozen=True, slots=True)
class Services:
    """One of each, in a worker."""

    settings: Settings
    loop: asyncio.AbstractEventLoop
    state: State
    durable: Durable
    places: Places
    subscriptions: Subscriptions
    connections: Connections
    counters: Counters
    served: Served
    rates: Rates
    overload: Overload
    files: FilesClient | None  # None: there is no data directory, or no pool could be made
    archive: ArchiveClient | None  # None: nothing is kept on disk
    archive_failed: int  # word: not 0 where the archive answers no more
    trails: Trails  # of the txn ring, for where there is no archive
    oldest: dict[int, tuple[int, int]]  # by user: what the archive last told of TXN_HISTORY's end
    rooms_epoch: int
    log_id: int
    key: ServerKey
    audit: Audit  # who has done what
    guesses: Guesses  # passwords that were wrong
    unknown: Unknown  # what HELLO answers for names that nobody has
    nobody: Verifier  # who is not registered is checked against it: same work, and no proof fits
    log: Any  # bound once, after `configure`: a call below the level then costs next to nothing

    def reached(self) -> int:
        """The newest event that the archive can be asked for."""
        return int(self.state.region.archive.reached)

    def now(self) -> int:
        """Microseconds since the Unix epoch."""
        return time.time_ns() // 1000

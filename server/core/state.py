"""All of the shared state that one worker holds, put together."""

from collections.abc import Callable
from typing import Final

from libproto.messages import MAX_BALANCE
from server.core.audience import Audience
from server.core.blocks import Blocks
from server.core.boards import Boards
from server.core.changes import Changes
from server.core.chat import Chat
from server.core.clients import Clients
from server.core.deletions import Deletions
from server.core.events import Events
from server.core.ledger import Ledger
from server.core.log import NO_JOURNAL, TxnLog
from server.core.memberships import Memberships
from server.core.operators import Operators
from server.core.outcomes import Outcomes
from server.core.pairs import Pairs
from server.core.rights import Rights
from server.core.room_bits import RoomBits
from server.core.rooms import Rooms
from server.core.sessions import Sessions
from server.core.users import Users
from server.region.locks import CheckedLocks, Locks, init_locks
from server.region.region import Region

ALL_ROOMS: Final = 1 << 32
"""Numbered rooms, where no room is opened by name."""


class State:
    """The region as one worker works on it; nothing here is shared but the region."""

    def __init__(
        self,
        region: Region,
        worker: int,
        clock_ns: Callable[[], int],
        pause: Callable[[float], None],
        retention_s: float,
        *,
        max_balance: int = MAX_BALANCE,
        transfers: tuple[int, int] = (1, MAX_BALANCE),
        deposits: str = "open",
        numbered_rooms: int = ALL_ROOMS,
        user_sessions: int = 0,
        user_clients: int = 0,
        clock_us: Callable[[], int] | None = None,
        check_locks: bool = False,
    ) -> None:
        """worker: its slot. clock_ns: CLOCK_MONOTONIC in nanoseconds. pause: sleeps for seconds.
        retention_s: see Clients. max_balance, transfers, deposits: see Ledger. numbered_rooms: see
        Rooms. user_sessions, user_clients: the most of one user; 0: no limit. clock_us: in
        microseconds, for lived time, where that is to go by another clock.
        check_locks: insist on the ranks of the locks."""
        self.region = region
        self.worker = worker
        kind = CheckedLocks if check_locks else Locks
        self.locks = kind(region, worker, clock_ns, pause)
        self.log = TxnLog(region, self.locks, worker)
        self.users = Users(region, self.locks, self.log)
        bits = RoomBits(region)
        self.audience = Audience(region)
        outcomes = Outcomes(region)
        self.events = Events(region, bits, outcomes)
        clock_us = clock_us or (lambda: clock_ns() // 1000)
        self.clients = Clients(region, self.log, retention_s, clock_us, user_clients)
        self.rooms = Rooms(region, self.clients.lived, numbered_rooms)
        self.rights = Rights(self.locks, self.rooms)
        self.boards = Boards(region, self.rooms)
        self.deletions = Deletions(region)
        self.blocks = Blocks(region, self.locks, self.log, self.users)
        self.memberships = Memberships(
            region, self.locks, self.users, bits, self.audience, self.events, self.rooms
        )
        self.chat = Chat(
            region, self.locks, self.users, bits, self.audience, self.events, outcomes, self.rooms,
            self.blocks,
        )  # fmt: skip
        self.sessions = Sessions(
            region, self.locks, self.clients, self.memberships, worker, user_sessions
        )
        self.ledger = Ledger(
            region, self.locks, self.log, outcomes, max_balance, transfers, deposits
        )
        self.pairs = Pairs(
            region, self.locks, self.log, self.ledger, bits, self.audience, self.events, outcomes,
            self.rooms,
        )  # fmt: skip
        self.changes = Changes(
            region, self.locks, self.log, self.users, self.ledger, bits, self.audience,
            self.events, outcomes, self.rooms, self.boards, self.pairs, self.deletions,
        )  # fmt: skip
        self.operators = Operators(
            region, self.locks, self.log, self.users, self.ledger, self.sessions
        )
        self.counters = region.layout["counters"].at(worker)


def initialise(region: Region) -> None:
    """Make a created region ready for workers: locks free, free list chained, no journal."""
    init_locks(region)
    for field in ("durable", "released", "limit"):
        setattr(region.log, field, NO_JOURNAL)
        setattr(region.events, field, NO_JOURNAL)
    region.events.leave_limit = NO_JOURNAL
    region.log.first = region.events.first = 1
    sessions = region.layout["sessions"]
    for slot in range(sessions.records - 1):
        region.words[sessions.at(slot, "next")] = slot + 2
    region.registry.free_session = 1

"""Clients: (user, client_id), whose requests are executed exactly once, and the places they have.

A client's record outlives its sessions, so that its outcomes are there when it comes back. A record
that is made anew knows nothing of what was sent before it: its floor, the `next_req_id` of the
LOGIN that made it, says from which req_id on it does. So a record that was given away and made
again vouches for nothing older than itself. The same holds for one that is marked, since outcomes
of messages may be missing in it after damage: its next LOGIN sets its floor, in the log as well.

Idle time is lived time: it goes on only while the server runs, and no clock that is set changes it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from libproto.messages import OUTCOME_WINDOW
from server.core.errors import RETRY_MS, ClientTaken, TableFull, TooManyClients
from server.core.log import TxnLog
from server.region.layout import MARKED, OUTCOME_WORDS, RAISED
from server.region.locks import Lock
from server.region.records import NEW_CLIENT, RecordKind
from server.region.region import Region

IDLE_LEAST_S: Final = 60.0
"""A client that has been idle for less keeps its record, unless the retention time is shorter."""
QUOTA: Final = 4
"""Records of a user that nobody else gets before the retention time is over."""

_US: Final = 1_000_000
_GOLDEN: Final = 0x9E3779B97F4A7C15  # spreads users over the buckets


class Clients:
    """The clients as one worker sees them. All under the registry lock."""

    def __init__(
        self,
        region: Region,
        log: TxnLog,
        retention_s: float,
        clock_us: Callable[[], int],
        user_clients: int = 0,
    ) -> None:
        """retention_s: how long a client that is idle keeps its record once others want it.
        clock_us: CLOCK_MONOTONIC in microseconds. user_clients: the most of one user; 0: no limit.
        """
        layout = region.layout
        self._region, self._words, self._log = region, region.words, log
        self._retention_us = int(retention_s * _US)
        self._clock_us = clock_us
        self._lived = region.header.index("lived")
        self._count = region.registry.index("clients")
        self._user_clients = user_clients
        self._clients, self._buckets = layout["clients"], layout["client_buckets"]
        self._users = layout["users"]
        offsets = self._clients.offsets
        assert (offsets["user"], offsets["client_id"]) == (0, 1), "read by place below"

    def lived(self) -> int:
        """Lived time now, microseconds."""
        return self._words[self._lived] + self._clock_us()

    def at(self, client: int, field: str = "") -> int:
        """The word of a client's record, or of one of its fields. client: slot + 1."""
        return self._clients.at(client - 1, field)

    def _bucket(self, user: int, client_id: int) -> int:
        return (client_id ^ user * _GOLDEN) % self._buckets.records

    def find(self, user: int, client_id: int) -> int:
        """Slot + 1 of a client, or 0."""
        words = self._words
        client = words[self._buckets.at(self._bucket(user, client_id))]
        while client:
            at = self.at(client)
            if words[at] == user and words[at + 1] == client_id:
                return client
            client = words[self.at(client, "next")]
        return 0

    def check(self, client: int, next_req_id: int) -> None:
        """ClientTaken where a LOGIN with this next_req_id may not go on with the record: something
        was executed that it does not know of, or is too old to be told apart. Under the account
        lock as well."""
        words = self._words
        if next_req_id <= words[self.at(client, "newest")]:
            raise ClientTaken
        if next_req_id < words[self.at(client, "floor")]:
            raise ClientTaken

    def new(
        self, user: int, client_id: int, next_req_id: int, now: int, held: tuple[Lock, ...]
    ) -> int:
        """Slot + 1 of a client that has no record; 0: a recovery came between. Busy.
        next_req_id: of its LOGIN. now: microseconds since the Unix epoch."""
        words, mine = self._words, self._users.at(user, "clients")
        slot, most = words[self._count], self._user_clients
        if most and words[mine] >= most and self._recount(user) >= most:
            slot = self._own(user)
        elif slot >= self._clients.records:
            slot = self._given_away(user)
        loser = words[self.at(slot + 1)]
        payload = NEW_CLIENT.pack(
            RecordKind.NEW_CLIENT, now, 0, user, client_id, slot + 1, next_req_id
        )
        txn = self._log.append(payload, 0, held)
        if txn == TxnLog.AGAIN:
            return 0
        if txn == TxnLog.FULL:
            raise self._log.refusal()
        self.apply(payload)
        self._log.done()
        words[mine] += 1
        # It may be too low, by records that were made while a worker died.
        if loser and words[self._users.at(loser, "clients")]:
            words[self._users.at(loser, "clients")] -= 1
        return slot + 1

    def _recount(self, user: int) -> int:
        """The client records of a user, counted: the word of it may be wrong by those that were
        made while a worker died."""
        there = self._region.column("clients", "user").count(user)
        self._words[self._users.at(user, "clients")] = there
        return there

    def is_marked(self, client: int) -> bool:
        """Outcomes may be missing in its record: its next LOGIN is to set the floor."""
        return bool(self._words[self.at(client, "marks")] & MARKED)

    def set_floor(self, client: int, next_req_id: int, now: int, held: tuple[Lock, ...]) -> bool:
        """Of a marked record, by the LOGIN that goes on with it. False: a recovery came between.
        Busy. now: microseconds since the Unix epoch."""
        user, client_id = self._words[self.at(client) : self.at(client) + 2].tolist()
        payload = NEW_CLIENT.pack(
            RecordKind.NEW_FLOOR, now, 0, user, client_id, client, next_req_id
        )
        txn = self._log.append(payload, 0, held)
        if txn == TxnLog.AGAIN:
            return False
        if txn == TxnLog.FULL:
            raise self._log.refusal()
        self.apply_floor(payload)
        self._log.done()
        return True

    def apply_floor(self, payload: bytes) -> None:
        """Store what a NEW_FLOOR record says (all its words but the first). Idempotent."""
        *_, client, floor = NEW_CLIENT.unpack_from(payload)
        self._words[self.at(client, "floor")] = floor
        self._words[self.at(client, "marks")] = RAISED

    def apply(self, payload: bytes) -> None:
        """Store what a NEW_CLIENT record says (all its words but the first). Idempotent: a client
        that stands in that slot already keeps its outcomes."""
        words = self._words
        _, _, _, user, client_id, client, floor = NEW_CLIENT.unpack_from(payload)
        at = self.at(client)
        if words[at] == user and words[at + 1] == client_id:
            return
        if words[at]:
            self._unchain(client)
        words[at] = 0
        words[at + 1] = client_id
        words[self.at(client, "session")] = 0
        words[self.at(client, "idle_since")] = self.lived()
        words[self.at(client, "kept_until")] = 0
        words[self.at(client, "floor")] = floor
        words[self.at(client, "marks")] = 0
        words[self.at(client, "newest")] = 0
        outcomes = self.at(client, "outcomes")
        for place in range(OUTCOME_WINDOW * OUTCOME_WORDS):
            words[outcomes + place] = 0
        bucket = self._buckets.at(self._bucket(user, client_id))
        words[self.at(client, "next")] = words[bucket]
        words[at] = user  # the commit word
        words[bucket] = client
        if client > words[self._count]:
            words[self._count] = client

    def _unchain(self, client: int) -> None:
        """Take a client out of its bucket."""
        words, at = self._words, self.at(client)
        link = self._buckets.at(self._bucket(words[at], words[at + 1]))
        while words[link] and words[link] != client:
            link = self.at(words[link], "next")
        if words[link]:
            words[link] = words[self.at(client, "next")]

    # ---- sessions come and go

    def session(self, client: int) -> int:
        """Slot + 1 of a client's live session, or 0."""
        return self._words[self.at(client, "session")]

    def used(self, client: int) -> None:
        """It has been in use until now."""
        self._words[self.at(client, "idle_since")] = self.lived()

    def rebuild(self, live: Iterable[tuple[int, int]]) -> None:
        """All that is derived, anew: live sessions, chains, the count. For a repair, while all
        others are paused; and for a new region. live: (session slot, client) of every session
        that is not superseded."""
        region, column = self._region, self._region.column
        users, ids = column("clients", "user"), column("clients", "client_id")
        buckets, following = [0] * self._buckets.records, column("clients", "next")
        used = 0
        for slot, (user, client_id) in enumerate(zip(users, ids, strict=True)):
            if user:
                used = slot + 1
                bucket = self._bucket(user, client_id)
                following[slot], buckets[bucket] = buckets[bucket], slot + 1
        sessions = [0] * self._clients.records
        for session, client in live:
            if client:
                sessions[client - 1] = session + 1
        region.set_column("client_buckets", "first", buckets)
        region.set_column("clients", "next", following)
        region.set_column("clients", "session", sessions)
        self._words[self._count] = used
        self.count_records()

    def count_records(self) -> None:
        """How many each user has, anew. As `rebuild`; and once a region was filled."""
        records = Counter(self._region.column("clients", "user"))
        counts = [records[user] if user else 0 for user in range(self._users.records)]
        self._region.set_column("users", "clients", counts)

    # ---- records that are given away

    def _given_away(self, user: int) -> int:
        """The slot of the client whose record this user's new one gets. TableFull, with the time
        after which there is one."""
        column, lived = self._region.column, self.lived()
        slot, ready = given_away(
            user,
            column("clients", "user"),
            column("clients", "session"),
            column("clients", "idle_since"),
            column("clients", "kept_until"),
            lived,
            self._retention_us,
        )
        if slot is not None:
            return slot
        raise TableFull("clients", -(-(ready - lived) // 1000) if ready else RETRY_MS)

    def _own(self, user: int) -> int:
        """The slot of this user's own client whose record its new one gets. TooManyClients, with
        the time after which there is one."""
        column, lived = self._region.column, self.lived()
        owners, sessions = column("clients", "user"), column("clients", "session")
        slot, ready = given_away(
            user,
            owners,
            [live or owner != user for owner, live in zip(owners, sessions, strict=True)],
            column("clients", "idle_since"),
            column("clients", "kept_until"),
            lived,
            self._retention_us,
        )
        if slot is not None:
            return slot
        raise TooManyClients(-(-(ready - lived) // 1000) if ready else RETRY_MS)


def given_away(
    user: int,
    users: Sequence[int],
    sessions: Sequence[int],
    idle_since: Sequence[int],
    kept_until: Sequence[int],
    lived: int,
    retention_us: int,
) -> tuple[int | None, int]:
    """Which of the records, all in use, this user's new client gets: the user's own that has been
    idle the longest; then, of the users with more than QUOTA records, of the one with most of them;
    then one that has been idle for the retention time. Never one with a live session, or that was
    in use just now, or is still kept after a start.

    users, sessions, idle_since, kept_until: the columns. lived: now, microseconds. Answers the
    slot; or None, and the lived time from which on there is one, 0 where nobody knows.
    """
    least = min(int(IDLE_LEAST_S * _US), retention_us)
    records = Counter(users)
    best: tuple[int, int, int, int] | None = None  # rank, fewer records, idle since, slot
    ready = 0
    for slot, owner in enumerate(users):
        if sessions[slot]:
            continue
        since, rank, count = idle_since[slot], 0, records[owner]
        if owner != user:
            rank = 1 if count > QUOTA else 2
        when = max(since + (retention_us if rank == 2 else least), kept_until[slot])
        if when > lived:
            ready = min(ready or when, when)
            continue
        found = rank, -count if rank == 1 else 0, since, slot
        if best is None or found < best:
            best = found
    return (best[3], lived) if best else (None, ready)

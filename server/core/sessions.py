"""Who is logged in: sessions, and the clients whose requests are executed exactly once.

The truth of a session is its slot: published by its id, ended by setting that to 0. Who is online
and the lists by user are derived from the slots. A client (user, client_id) outlives its sessions,
so that its outcomes are there when it comes back.
"""

from libproto.messages import OUTCOME_WINDOW, Capability
from server.core.errors import Busy, TableFull
from server.core.log import TxnLog
from server.core.rooms import Rooms, Touched
from server.core.session import Session
from server.region.layout import OUTCOME_WORDS
from server.region.locks import InsideLock, Lock, Locks
from server.region.records import NEW_CLIENT, RecordKind
from server.region.region import Region

_US = 1_000_000


class Sessions:
    """The sessions as one worker sees them."""

    def __init__(
        self,
        region: Region,
        locks: Locks,
        log: TxnLog,
        rooms: Rooms,
        worker: int,
        retention_s: float,
    ) -> None:
        """retention_s: how long a client without a session keeps its slot once others want it."""
        layout = region.layout
        self._region, self._words = region, region.words
        self._locks, self._log, self._rooms = locks, log, rooms
        self._worker = worker
        self._retention_us = int(retention_s * _US)
        registry = layout["registry"]
        self._next_id = registry.at(0, "next_session")
        self._free = registry.at(0, "free_session")
        self._client_count = registry.at(0, "clients")
        self._sessions, self._clients = layout["sessions"], layout["clients"]
        self._accounts, self._buckets = layout["accounts"], layout["client_buckets"]
        users = layout["users"]
        self._users = users.records
        self._user_base, self._user_stride = users.base, users.stride
        self._first = users.offsets["first_session"]
        self._watchers = users.offsets["watchers"]
        self._last_seen = users.offsets["last_seen"]
        offsets = self._sessions.offsets
        assert (offsets["id"], offsets["mark"]) == (0, 1), "the ledger reads both by place"
        clients = self._clients.offsets
        assert (clients["user"], clients["client_id"]) == (0, 1), "read by place below"

    # ---- log in

    def login(
        self, user: int, name: str, client_id: int, capabilities: int, now: int
    ) -> tuple[Session, Touched]:
        """A new session of a user who has proved to be that user.

        A live session of the same client is superseded: marked, out of all rooms, and its worker
        told, before this returns. Answers also the workers that have something to push.
        Busy tells why there is no place.
        """
        registry, account = self._locks.registry, self._locks.account(user)
        while True:
            self._locks.hold(registry, account)
            try:
                answer = self._login(user, name, client_id, capabilities, now)
            except Busy:
                self._locks.release(registry, account)
                raise
            except Exception as error:
                raise InsideLock("login") from error
            if answer:
                self._locks.release(registry, account)
                return answer

    def _login(
        self, user: int, name: str, client_id: int, capabilities: int, now: int
    ) -> tuple[Session, Touched] | None:
        words, locks, sessions = self._words, self._locks, self._sessions
        held = (locks.registry, locks.account(user))
        free = words[self._free]
        if not free:
            raise TableFull("sessions")
        slot = free - 1
        client, touched = 0, frozenset[int]()
        known = client_id != 0 and (client := self._find_client(user, client_id)) != 0
        if known:
            old = words[self._clients.at(client - 1, "session")]
            if old:
                if not locks.event.acquire(False) and not locks.wait(locks.event, held):
                    return None
                # Should this die between mark and session, the client was not idle until now.
                words[self._clients.at(client - 1, "idle_since")] = now
                words[sessions.at(old - 1, "mark")] = 1
                touched = self._rooms.supersede(old - 1, user, now)
                locks.event.release()
        elif client_id:
            client = self._new_client(user, client_id, now, held)
            if not client:
                return None
        at = sessions.at(slot)
        following = words[sessions.at(slot, "next")]
        session_id = words[self._next_id] + 1
        words[self._next_id] = session_id
        words[sessions.at(slot, "mark")] = 0
        words[sessions.at(slot, "user")] = user
        words[sessions.at(slot, "client")] = client
        words[sessions.at(slot, "worker")] = self._worker
        words[sessions.at(slot, "capabilities")] = capabilities
        self._rooms.clear_bits(slot)
        words[at] = session_id  # the commit word
        if client:
            words[self._clients.at(client - 1, "session")] = slot + 1
        words[self._free] = following
        self._link(slot, user, capabilities)
        account = self._accounts.at(user)
        session = Session(at, slot, session_id, user, name, account, locks.account(user))
        if client:
            session.client = self._clients.at(client - 1)
            session.outcomes = self._clients.at(client - 1, "outcomes")
            session.client_slot, session.client_id, session.resumed = client, client_id, known
        return session, touched

    def introduce(self, user: int, client_id: int, now: int) -> bool:
        """Make a client known, before its first login; False where it is known. Busy."""
        registry, account = self._locks.registry, self._locks.account(user)
        while True:
            self._locks.hold(registry, account)
            try:
                known = self._find_client(user, client_id) != 0
                client = known or self._new_client(user, client_id, now, (registry, account))
            except Busy:
                self._locks.release(registry, account)
                raise
            except Exception as error:
                raise InsideLock("new client") from error
            if client:
                self._locks.release(registry, account)
                return not known

    def is_live(self, session: Session) -> bool:
        """False once it is superseded. Takes no lock: whoever acts on money asks under one."""
        words, at = self._words, session.at
        return words[at] == session.id and not words[at + 1]

    # ---- log out

    def end(self, session: Session, now: int) -> Touched:
        """End a session: out of all its rooms, its slot free. Also of one that is superseded.
        Answers the workers that have something to push."""
        registry, event = self._locks.registry, self._locks.event
        self._locks.hold(registry, event)
        try:
            touched = self.end_slot(session.slot, now)
        except Exception as error:
            raise InsideLock("end of session") from error
        self._locks.release(registry, event)
        return touched

    def end_slot(self, slot: int, now: int) -> Touched:
        """The same for the session in a slot. The caller holds the registry and event locks."""
        words, sessions = self._words, self._sessions
        user, client = words[sessions.at(slot, "user")], words[sessions.at(slot, "client")]
        touched = self._rooms.leave_all(slot, user, now)
        words[self._user_base + user * self._user_stride + self._last_seen] = now
        if client and words[self._clients.at(client - 1, "session")] == slot + 1:
            words[self._clients.at(client - 1, "idle_since")] = now
            words[self._clients.at(client - 1, "session")] = 0
        words[sessions.at(slot)] = 0
        self._unlink(slot, user, words[sessions.at(slot, "capabilities")])
        words[sessions.at(slot, "next")] = words[self._free]
        words[self._free] = slot + 1
        return touched

    # ---- what is derived from the slots: the user's list, who wants payments

    def _link(self, slot: int, user: int, capabilities: int) -> None:
        words, sessions = self._words, self._sessions
        mine = self._user_base + user * self._user_stride
        first = words[mine + self._first]
        words[sessions.at(slot, "next")] = first
        words[sessions.at(slot, "previous")] = 0
        if first:
            words[sessions.at(first - 1, "previous")] = slot + 1
        words[mine + self._first] = slot + 1
        if capabilities & Capability.PAYMENTS:
            words[mine + self._watchers] += 1

    def _unlink(self, slot: int, user: int, capabilities: int) -> None:
        words, sessions = self._words, self._sessions
        mine = self._user_base + user * self._user_stride
        following, before = words[sessions.at(slot, "next")], words[sessions.at(slot, "previous")]
        if following:
            words[sessions.at(following - 1, "previous")] = before
        if before:
            words[sessions.at(before - 1, "next")] = following
        else:
            words[mine + self._first] = following
        if capabilities & Capability.PAYMENTS:
            words[mine + self._watchers] -= 1

    def live(self) -> list[tuple[int, int]]:
        """(slot, worker) of every session."""
        ids, workers = (
            self._region.column("sessions", "id"),
            self._region.column("sessions", "worker"),
        )
        return [(slot, w) for slot, (id_, w) in enumerate(zip(ids, workers, strict=True)) if id_]

    def rebuild(self) -> None:
        """All that is derived, anew from the slots: lists, live sessions of clients, chains. For a
        repair, while all others stand still; and for a new region."""
        region, column = self._region, self._region.column
        live = [slot for slot, _ in self.live()]
        owners, capabilities = column("sessions", "user"), column("sessions", "capabilities")
        first, watchers = [0] * self._users, [0] * self._users
        following, previous = [0] * self._sessions.records, column("sessions", "previous")
        for slot in live:
            user = owners[slot]
            following[slot], previous[slot] = first[user], 0
            if first[user]:
                previous[first[user] - 1] = slot + 1
            first[user] = slot + 1
            watchers[user] += bool(capabilities[slot] & Capability.PAYMENTS)
        free, taken = 0, set(live)
        for slot in reversed(range(self._sessions.records)):
            if slot not in taken:
                following[slot] = free
                free = slot + 1
        region.set_column("users", "first_session", first)
        region.set_column("users", "watchers", watchers)
        region.set_column("sessions", "next", following)
        region.set_column("sessions", "previous", previous)
        self._words[self._free] = free
        self._rebuild_clients(live)
        self._rooms.recount(live)

    def _rebuild_clients(self, live: list[int]) -> None:
        region, column = self._region, self._region.column
        of_session, marks = column("sessions", "client"), column("sessions", "mark")
        users, ids = column("clients", "user"), column("clients", "client_id")
        buckets, following = [0] * self._buckets.records, column("clients", "next")
        used = 0
        for slot, (user, client_id) in enumerate(zip(users, ids, strict=True)):
            if user:
                used = slot + 1
                bucket = self._bucket(user, client_id)
                following[slot], buckets[bucket] = buckets[bucket], slot + 1
        sessions = [0] * self._clients.records
        for slot in live:
            if of_session[slot] and not marks[slot]:
                sessions[of_session[slot] - 1] = slot + 1
        region.set_column("client_buckets", "first", buckets)
        region.set_column("clients", "next", following)
        region.set_column("clients", "session", sessions)
        self._words[self._client_count] = used

    # ---- clients

    def _bucket(self, user: int, client_id: int) -> int:
        return (client_id ^ user * 0x9E3779B97F4A7C15) % self._buckets.records

    def _find_client(self, user: int, client_id: int) -> int:
        """Slot + 1 of a client, or 0."""
        words, clients = self._words, self._clients
        client = words[self._buckets.at(self._bucket(user, client_id))]
        while client:
            at = clients.at(client - 1)
            if words[at] == user and words[at + 1] == client_id:
                return int(client)
            client = words[clients.at(client - 1, "next")]
        return 0

    def _new_client(self, user: int, client_id: int, now: int, held: tuple[Lock, ...]) -> int:
        """Slot + 1 of a client new to the server; 0: a recovery came between. Busy."""
        slot = self._words[self._client_count]
        if slot >= self._clients.records:
            slot = self._idle_client(now)
        payload = NEW_CLIENT.pack(RecordKind.NEW_CLIENT, now, 0, user, client_id, slot + 1)
        txn = self._log.append(payload, 0, held)
        if txn == TxnLog.AGAIN:
            return 0
        if txn == TxnLog.FULL:
            raise self._log.refusal()
        self.apply_client(payload)
        self._log.done()
        return slot + 1

    def apply_client(self, payload: bytes) -> None:
        """Store what a NEW_CLIENT record says (all its words but the first). Idempotent: a client
        that stands in that slot already keeps its outcomes."""
        words, clients = self._words, self._clients
        _, time, _, user, client_id, client = NEW_CLIENT.unpack_from(payload)
        at = clients.at(client - 1)
        if words[at] == user and words[at + 1] == client_id:
            return
        if words[at]:
            self._unchain(client)
        words[at] = 0
        words[at + 1] = client_id
        words[clients.at(client - 1, "session")] = 0
        words[clients.at(client - 1, "idle_since")] = time
        words[clients.at(client - 1, "newest")] = 0
        outcomes = clients.at(client - 1, "outcomes")
        for place in range(OUTCOME_WINDOW * OUTCOME_WORDS):
            words[outcomes + place] = 0
        bucket = self._buckets.at(self._bucket(user, client_id))
        words[clients.at(client - 1, "next")] = words[bucket]
        words[at] = user  # the commit word
        words[bucket] = client
        if client > words[self._client_count]:
            words[self._client_count] = client

    def _unchain(self, client: int) -> None:
        """Take a client out of its bucket."""
        words, clients = self._words, self._clients
        at = clients.at(client - 1)
        link = self._buckets.at(self._bucket(words[at], words[at + 1]))
        while words[link] and words[link] != client:
            link = clients.at(words[link] - 1, "next")
        if words[link]:
            words[link] = words[clients.at(client - 1, "next")]

    def _idle_client(self, now: int) -> int:
        """The slot of the client that has been idle the longest, if for longer than the retention
        time and without a session. TableFull."""
        times, live = (
            self._region.column("clients", "idle_since"),
            self._region.column("clients", "session"),
        )
        idle = [
            (since, slot)
            for slot, (since, session) in enumerate(zip(times, live, strict=True))
            if not session
        ]
        since, slot = min(idle, default=(now, 0))
        if now - since <= self._retention_us:
            raise TableFull("clients")
        return slot

"""Who is logged in: sessions, and the clients that they are of.

The truth of a session is its slot: published by its id, ended by setting that to 0. Who is online
and the lists by user are derived from the slots.
"""

from libproto.messages import Capability
from server.core.audience import NOBODY, Touched
from server.core.clients import Clients
from server.core.errors import Busy, ClientTaken, GivenAway, TableFull
from server.core.memberships import Memberships
from server.core.session import Session, is_live
from server.region.locks import InsideLock, Locks
from server.region.region import Region


class Sessions:
    """The sessions as one worker sees them."""

    def __init__(
        self,
        region: Region,
        locks: Locks,
        clients: Clients,
        memberships: Memberships,
        worker: int,
    ) -> None:
        layout = region.layout
        self._region, self._words = region, region.words
        self._locks, self._clients, self._memberships = locks, clients, memberships
        self._worker = worker
        self._ending = locks.guard("end of session", locks.registry, locks.event)
        registry = layout["registry"]
        self._next_id = registry.at(0, "next_session")
        self._free = registry.at(0, "free_session")
        self._sessions, self._accounts = layout["sessions"], layout["accounts"]
        users = layout["users"]
        self._users = users.records
        self._user_base, self._user_stride = users.base, users.stride
        self._first = users.offsets["first_session"]
        self._watchers = users.offsets["watchers"]
        self._last_seen = users.offsets["last_seen"]
        offsets = self._sessions.offsets
        assert (offsets["id"], offsets["mark"]) == (0, 1), "the ledger reads both by place"

    # ---- log in

    def introduce(self, user: int, client_id: int, next_req_id: int, now: int) -> bool:
        """The first half of a LOGIN under a client_id: the client has a record, which is to be
        durable before the second half. False where it had one before. Busy, ClientTaken."""
        registry, account = self._locks.registry, self._locks.account(user)
        while True:
            self._locks.hold(registry, account)
            try:
                if not self._words[self._free]:
                    raise TableFull("sessions")
                client, new = self._client(user, client_id, next_req_id, now)
            except (Busy, ClientTaken):
                self._locks.release(registry, account)
                raise
            except Exception as error:
                raise InsideLock("new client") from error
            if client:
                self._locks.release(registry, account)
                return new

    def _client(self, user: int, client_id: int, next_req_id: int, now: int) -> tuple[int, bool]:
        """Slot + 1 of the client's record, which this LOGIN may go on with, and whether it is a
        new one; 0: a recovery came between. Busy, ClientTaken."""
        client = self._clients.find(user, client_id)
        if client:
            self._clients.check(client, next_req_id)
            return client, False
        held = (self._locks.registry, self._locks.account(user))
        return self._clients.new(user, client_id, next_req_id, now, held), True

    def login(
        self,
        user: int,
        name: str,
        client_id: int,
        next_req_id: int,
        capabilities: int,
        now: int,
        *,
        introduced: bool = False,
    ) -> tuple[Session, Touched]:
        """A new session of a user who has proved to be that user.

        A live session of the same client is superseded: marked, out of all rooms, and its worker
        told, before this returns. Answers also the workers that have something to push.
        Busy tells why there is no place; ClientTaken, that the client's record knows of more.
        introduced: GivenAway where the client has no record any more; else it gets one.
        """
        registry, account = self._locks.registry, self._locks.account(user)
        while True:
            self._locks.hold(registry, account)
            try:
                if introduced and client_id and not self._clients.find(user, client_id):
                    raise GivenAway
                answer = self._login(user, name, client_id, next_req_id, capabilities, now)
            except (Busy, ClientTaken, GivenAway):
                self._locks.release(registry, account)
                raise
            except Exception as error:
                raise InsideLock("login") from error
            if answer:
                self._locks.release(registry, account)
                return answer

    def _login(
        self, user: int, name: str, client_id: int, next_req_id: int, capabilities: int, now: int
    ) -> tuple[Session, Touched] | None:
        words, locks, sessions = self._words, self._locks, self._sessions
        free = words[self._free]
        if not free:
            raise TableFull("sessions")
        slot, touched = free - 1, NOBODY
        client, new = self._client(user, client_id, next_req_id, now) if client_id else (0, True)
        if client_id and not client:
            return None
        old = self._clients.session(client) if client else 0
        if old:
            held = (locks.registry, locks.account(user))
            if not locks.event.acquire(False) and not locks.wait(locks.event, held):
                return None
            # Should this die between mark and session, the client was not idle until now.
            self._clients.used(client)
            words[sessions.at(old - 1, "mark")] = 1
            touched = self._memberships.supersede(old - 1, user, now)
            locks.event.release()
        at = sessions.at(slot)
        following = words[sessions.at(slot, "next")]
        session_id = words[self._next_id] + 1
        words[self._next_id] = session_id
        words[sessions.at(slot, "mark")] = 0
        words[sessions.at(slot, "user")] = user
        words[sessions.at(slot, "client")] = client
        words[sessions.at(slot, "worker")] = self._worker
        words[sessions.at(slot, "capabilities")] = capabilities
        self._memberships.clear(slot)
        words[at] = session_id  # the commit word
        if client:
            words[self._clients.at(client, "session")] = slot + 1
        words[self._free] = following
        self._link(slot, user, capabilities)
        account = self._accounts.at(user)
        session = Session(at, slot, session_id, user, name, account, locks.account(user))
        if client:
            session.client = self._clients.at(client)
            session.outcomes = self._clients.at(client, "outcomes")
            session.client_slot, session.client_id, session.resumed = client, client_id, not new
            session.floor = words[self._clients.at(client, "floor")]
        return session, touched

    def is_live(self, session: Session) -> bool:
        """False once it is superseded. Takes no lock: whoever acts on money asks under one."""
        return is_live(self._words, session)

    # ---- log out

    def end(self, session: Session, now: int) -> Touched:
        """End a session: out of all its rooms, its slot free. Also of one that is superseded.
        Answers the workers that have something to push."""
        with self._ending:
            return self.end_slot(session.slot, now)

    def end_slot(self, slot: int, now: int) -> Touched:
        """The same for the session in a slot. The caller holds the registry and event locks."""
        words, sessions = self._words, self._sessions
        user, client = words[sessions.at(slot, "user")], words[sessions.at(slot, "client")]
        touched = self._memberships.leave_all(slot, user, now)
        words[self._user_base + user * self._user_stride + self._last_seen] = now
        if client and self._clients.session(client) == slot + 1:
            self._clients.used(client)
            words[self._clients.at(client, "session")] = 0
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
        repair, while all others are paused; and for a new region."""
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
        of_session, marks = column("sessions", "client"), column("sessions", "mark")
        self._clients.rebuild((slot, of_session[slot]) for slot in live if not marks[slot])
        self._memberships.recount(live)

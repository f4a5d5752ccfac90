"""Who is logged in: sessions, and the clients that they are of.

The truth of a session is its slot: published by its id. Who is online and the lists by user are
derived from the slots.

A session ends in two steps. It is marked, which needs no place for an event and so can never be
refused: from then on it is not live. It stays a member of its rooms until each of its leaves is
published, as there are places for events (`finish`), and then its slot is free. Usually both
happen at once. Where they do not, any worker goes on with it later (`finish_ended`).
"""

from typing import Final

from libproto.messages import Capability
from server.core.audience import NOBODY, Touched
from server.core.clients import Clients
from server.core.errors import (
    Busy,
    ClientTaken,
    GivenAway,
    NotAdmitted,
    TableFull,
    TooManySessions,
)
from server.core.memberships import Memberships
from server.core.session import Session, is_live
from server.region.locks import InsideLock, Locks
from server.region.region import Region

LEAVES_MAX: Final = 64
"""Left events that are published in one go, with the locks held."""


class Sessions:
    """The sessions as one worker sees them."""

    def __init__(
        self,
        region: Region,
        locks: Locks,
        clients: Clients,
        memberships: Memberships,
        worker: int,
        user_sessions: int,
    ) -> None:
        """user_sessions: the most that one user may have; 0: no limit."""
        layout = region.layout
        self._region, self._words = region, region.words
        self._locks, self._clients, self._memberships = locks, clients, memberships
        self._worker = worker
        self._user_sessions = user_sessions
        self._most = layout.capacities.sessions
        self._ending = locks.guard("end of session", locks.registry, locks.event)
        registry = layout["registry"]
        self._next_id = registry.at(0, "next_session")
        self._free = registry.at(0, "free_session")
        self._live = registry.at(0, "live_sessions")
        self._ended = registry.at(0, "ending_sessions")
        self._sessions, self._accounts = layout["sessions"], layout["accounts"]
        users = layout["users"]
        self._users = users.records
        self._workers = layout["workers"]
        self._user_base, self._user_stride = users.base, users.stride
        self._first = users.offsets["first_session"]
        self._watchers = users.offsets["watchers"]
        self._last_seen = users.offsets["last_seen"]
        self._state, self._version = users.offsets["state"], users.offsets["version"]
        offsets = self._sessions.offsets
        assert (offsets["id"], offsets["mark"]) == (0, 1), "the ledger reads both by place"

    # ---- log in

    def introduce(
        self, user: int, client_id: int, next_req_id: int, now: int, version: int | None = None
    ) -> bool:
        """The first half of a LOGIN under a client_id: the client has a record, whose floor is
        known; both are to be durable before the second half. False where it had one before.
        version: of the verifier that the proof was checked against. Busy, ClientTaken,
        NotAdmitted."""
        registry, account = self._locks.registry, self._locks.account(user)
        while True:
            self._locks.hold(registry, account)
            try:
                self._check_admitted(user, version)
                self._check_place(user, client_id)
                client, new = self._client(user, client_id, next_req_id, now)
            except (Busy, ClientTaken, NotAdmitted):
                self._locks.release(registry, account)
                raise
            except Exception as error:
                raise InsideLock("new client") from error
            if client:
                self._locks.release(registry, account)
                return new

    def _check_admitted(self, user: int, version: int | None) -> None:
        """NotAdmitted where the user may not log in, or not by the password that was proved."""
        mine = self._user_base + user * self._user_stride
        if self._words[mine + self._state]:
            raise NotAdmitted("this user may not log in: ask the operator of the server")
        if version is not None and self._words[mine + self._version] != version:
            raise NotAdmitted("wrong username or password")

    def _check_place(self, user: int, client_id: int) -> None:
        """TableFull, TooManySessions where there is no place for one more session of that
        client."""
        words, client = self._words, self._clients.find(user, client_id) if client_id else 0
        supersedes = client and self._clients.session(client)
        if not words[self._free] or (words[self._live] >= self._most and not supersedes):
            raise TableFull("sessions")
        if self._user_sessions and not supersedes and self._has_all(user):
            raise TooManySessions

    def _has_all(self, user: int) -> bool:
        """Whether a user has as many live sessions as one user may have."""
        words, sessions, left = self._words, self._sessions, self._user_sessions
        slot = words[self._user_base + user * self._user_stride + self._first]
        while slot and left:
            at = sessions.at(slot - 1)
            left -= not words[at + 1]  # the mark: it has ended
            slot = words[sessions.at(slot - 1, "next")]
        return not left

    def _client(self, user: int, client_id: int, next_req_id: int, now: int) -> tuple[int, bool]:
        """Slot + 1 of the client's record, which this LOGIN may go on with, and whether it is a
        new one; 0: a recovery came between. Busy, ClientTaken."""
        client = self._clients.find(user, client_id)
        held = (self._locks.registry, self._locks.account(user))
        if client:
            self._clients.check(client, next_req_id)
            if self._clients.is_marked(client) and not self._clients.set_floor(
                client, next_req_id, now, held
            ):
                return 0, False
            return client, False
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
        version: int | None = None,
    ) -> tuple[Session, Touched]:
        """A new session of a user who has proved to be that user.

        A live session of the same client is superseded: it has ended, and its worker is told,
        before this returns. Answers also the workers that are to be woken.
        Busy tells why there is no place; ClientTaken, that the client's record knows of more.
        introduced: GivenAway where the client has no record any more; else it gets one. version,
        NotAdmitted: see `introduce`.
        """
        registry, account = self._locks.registry, self._locks.account(user)
        while True:
            self._locks.hold(registry, account)
            try:
                self._check_admitted(user, version)
                if introduced and client_id and not self._clients.find(user, client_id):
                    raise GivenAway
                answer = self._login(user, name, client_id, next_req_id, capabilities, now)
            except (Busy, ClientTaken, GivenAway, NotAdmitted):
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
        self._check_place(user, client_id)
        touched = NOBODY
        client, new = self._client(user, client_id, next_req_id, now) if client_id else (0, True)
        if client_id and not client:
            return None
        old = self._clients.session(client) if client else 0
        if old:
            held = (locks.registry, locks.account(user))
            if not locks.event.acquire() and not locks.wait(locks.event, held):
                return None
            # The worker first: it cuts the connection off before it pushes a leave to it.
            other = words[sessions.at(old - 1, "worker")]
            self._mark(old - 1, now)
            words[self._workers.at(other, "cut")] += 1
            touched = self._finish(old - 1, now) | {other}
            locks.event.release()
        slot = words[self._free] - 1
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
        words[self._live] += 1
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
        """End a session, also one that is superseded. Answers the workers to wake."""
        with self._ending:
            if self._words[session.at] != session.id:
                return NOBODY  # all of it has been done
            return self.end_slot(session.slot, now)

    def end_slot(self, slot: int, now: int) -> Touched:
        """The same for the session in a slot. The caller holds the registry and event locks."""
        self._mark(slot, now)
        return self._finish(slot, now)

    def mark_ended(self, slot: int, now: int) -> bool:
        """A session has ended; its leaves are published later. False where it had before. For a
        repair, which waits for no place. The caller holds the registry lock."""
        return self._mark(slot, now)

    def end_others(self, user: int, kept: int, now: int) -> Touched:
        """The sessions of a user have ended, but the one of id `kept`, and their workers are told;
        their leaves are published later. Answers these workers. The caller holds the registry and
        the account lock."""
        words, sessions, touched = self._words, self._sessions, set[int]()
        slot = words[self._user_base + user * self._user_stride + self._first]
        while slot:
            slot, here = words[sessions.at(slot - 1, "next")], slot - 1
            if words[sessions.at(here)] != kept and self._mark(here, now):
                worker = words[sessions.at(here, "worker")]
                words[self._workers.at(worker, "cut")] += 1
                touched.add(worker)
        return frozenset(touched)

    def mark_others(self, user: int, kept: int, now: int) -> None:
        """The same for a repair, to which the user's list may tell nothing; after it all workers
        look at their sessions."""
        words, sessions = self._words, self._sessions
        for slot, _ in self.live():
            at = sessions.at(slot)
            if words[sessions.at(slot, "user")] == user and words[at] != kept:
                self._mark(slot, now)

    def _mark(self, slot: int, now: int) -> bool:
        words, sessions = self._words, self._sessions
        if words[sessions.at(slot, "mark")]:
            return False
        user, client = words[sessions.at(slot, "user")], words[sessions.at(slot, "client")]
        mine = self._user_base + user * self._user_stride
        words[mine + self._last_seen] = now
        if client and self._clients.session(client) == slot + 1:
            # Should this die before the mark, the client was not idle until now.
            self._clients.used(client)
            words[self._clients.at(client, "session")] = 0
        words[sessions.at(slot, "mark")] = 1
        if words[sessions.at(slot, "capabilities")] & Capability.PAYMENTS:
            words[mine + self._watchers] -= 1
        words[self._live] -= 1
        words[self._ended] += 1
        return True

    def _finish(self, slot: int, now: int) -> Touched:
        """Publish leaves of a session that has ended, as there are places; after the last its slot
        is free. Under the registry and event locks."""
        words, sessions = self._words, self._sessions
        user = words[sessions.at(slot, "user")]
        touched, done = self._memberships.leave_some(slot, user, now, LEAVES_MAX)
        if done:
            words[sessions.at(slot)] = 0
            self._unlink(slot, user)
            words[sessions.at(slot, "next")] = words[self._free]
            words[self._free] = slot + 1
            words[self._ended] -= 1
        return touched

    def finish_ended(self, now: int) -> Touched:
        """Go on with the sessions that have ended and are still in rooms, whoever's they were; a
        part of it, so that nobody waits for long. Answers the workers to wake."""
        words, sessions = self._words, self._sessions
        if not words[self._ended]:
            return NOBODY
        marks = self._region.column("sessions", "mark")  # without the locks: it takes a while
        ended = [slot for slot, mark in enumerate(marks) if mark and words[sessions.at(slot)]]
        for slot in ended[:1]:
            with self._ending:
                at = sessions.at(slot)
                if words[at] and words[at + 1]:  # nobody has been faster
                    return self._finish(slot, now)
        return NOBODY

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

    def _unlink(self, slot: int, user: int) -> None:
        words, sessions = self._words, self._sessions
        mine = self._user_base + user * self._user_stride
        following, before = words[sessions.at(slot, "next")], words[sessions.at(slot, "previous")]
        if following:
            words[sessions.at(following - 1, "previous")] = before
        if before:
            words[sessions.at(before - 1, "next")] = following
        else:
            words[mine + self._first] = following

    def live(self) -> list[tuple[int, int]]:
        """(slot, worker) of every session, those that have ended as well."""
        ids, workers = (
            self._region.column("sessions", "id"),
            self._region.column("sessions", "worker"),
        )
        return [(slot, w) for slot, (id_, w) in enumerate(zip(ids, workers, strict=True)) if id_]

    def rebuild(self) -> None:
        """All that is derived, anew from the slots: lists, live sessions of clients, chains. For a
        repair, while all others are paused; and for a new region."""
        region, column = self._region, self._region.column
        live, marks = [slot for slot, _ in self.live()], column("sessions", "mark")
        owners, capabilities = column("sessions", "user"), column("sessions", "capabilities")
        first, watchers = [0] * self._users, [0] * self._users
        following, previous = [0] * self._sessions.records, column("sessions", "previous")
        for slot in live:
            user = owners[slot]
            following[slot], previous[slot] = first[user], 0
            if first[user]:
                previous[first[user] - 1] = slot + 1
            first[user] = slot + 1
            if not marks[slot]:
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
        ended = sum(1 for slot in live if marks[slot])
        self._words[self._live], self._words[self._ended] = len(live) - ended, ended
        of_session = column("sessions", "client")
        self._clients.rebuild((slot, of_session[slot]) for slot in live if not marks[slot])
        self._memberships.recount(live)

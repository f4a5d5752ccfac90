"""A region whose every store is a step, so that a worker can die before any of them.

`State` is given its view of the region, and here it is one that counts: a store of a word is a
step, a block goes word by word, and taking or giving back a semaphore is a step too. A `Stepper`
that is armed for step N lets nothing of that step happen: by default it raises `Died`, which
nothing in server/core catches and after which no code of it may run (a later step would fail the
test). A process that is killed there leaves the same bytes, which a test shows with real ones.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol, cast
from unittest.mock import patch

import pytest

from libproto.messages import OUTCOME_WINDOW, Capability, Opcode, RoomAccess, TxnKind
from libproto.scram import Verifier
from server.core import check, recovery
from server.core import state as state_module
from server.core.chat import digest_of_file
from server.core.errors import Superseded
from server.core.events import SlotKind
from server.core.ledger import DONE, RECORDED, SUPERSEDED
from server.core.log import NO_JOURNAL
from server.core.session import Session
from server.core.state import State, initialise
from server.region.layout import MARKED, OUTCOME_WORDS, WORD, Capacities
from server.region.locks import CheckedLock, CheckedLocks, Lock, fresh_semaphore, unfree_locks
from server.region.records import OFFSETS, RECORD_WORDS, TEXTS_MAX, RecordKind, may_tell
from server.region.region import Region
from tests.helpers import leaks
from tests.helpers.form import stores_are_seen
from tests.helpers.region import next_req_id, say, to_draw, whisper

RETENTION_S = 100
LIVED_US = 10**9
_SMALL = Capacities(
    workers=3,
    accounts=5,
    rooms=5,
    clients=4,
    sessions=7,
    txn_ring=4,
    event_ring=16,
    max_message=16,
    account_locks=6,
    offers=3,
    roles=4,
    blocks=4,
)
_MONEY = OFFSETS[RecordKind.TRANSFER]
_NEW = OFFSETS[RecordKind.NEW_CLIENT]


class Died(BaseException):
    """The process is gone: nothing of it runs any more."""


class WentOnError(AssertionError):
    """A step after the last one."""


class Stepper:
    """Counts the steps of a process, and ends it before the one that it is armed for."""

    def __init__(self) -> None:
        self.count = 0
        self.stores: list[int] = []  # the steps that are no taking or giving back of a semaphore
        self._fatal = 0
        self._end: Callable[[], object] = self._die

    def arm(self, step: int, end: Callable[[], object] | None = None) -> None:
        """End before this step, the next being 1; 0: never. end: how, if not by Died. Where it
        comes back it was no end, and the step happens."""
        self.count, self._fatal, self._end = 0, step, end or self._die
        self.stores.clear()

    def _die(self) -> None:
        raise Died

    def step(self) -> None:
        self.count += 1
        if self.count == self._fatal:
            self._fatal = -1
            self._end()
            self._fatal = 0
        elif self._fatal < 0:
            raise WentOnError(f"step {self.count}, after the end")

    def store(self) -> None:
        self.step()
        self.stores.append(self.count)


class _Stepped:
    """A view, each store into which is a step: a block goes word by word."""

    def __init__(self, view: memoryview, step: Callable[[], None]) -> None:
        self._view, self._step = view, step
        self._word = WORD // view.itemsize

    def __getitem__(self, place: Any) -> Any:
        return self._view[place]

    def __setitem__(self, place: int | slice, value: Any) -> None:
        if isinstance(place, slice):
            assert place.stop - place.start == len(value), "as the memoryview insists, too"
            for at in range(place.start, place.stop, self._word):
                end = min(at + self._word, place.stop)
                self._step()
                self._view[at:end] = value[at - place.start : end - place.start]
        else:
            self._step()
            self._view[place] = value


class SteppedRegion(Region):
    """The same memory, by way of a stepper."""

    def __init__(self, region: Region, stepper: Stepper) -> None:
        self.__dict__.update(region.__dict__)
        self.stepper: Final = stepper
        self.words = cast(memoryview, _Stepped(region.words, stepper.store))
        self.bytes = cast(memoryview, _Stepped(region.bytes, stepper.store))


class SteppedLock(CheckedLock):
    """A lock that is taken and given back in steps."""

    def __init__(
        self, address: int, kind: int, taken: list[tuple[int, int]], step: Callable[[], None]
    ) -> None:
        super().__init__(address, kind, taken)
        self._step = step

    def acquire(self) -> bool:
        self._step()
        return super().acquire()

    def release(self) -> None:
        self._step()
        super().release()


class SteppedLocks(CheckedLocks):
    """Such locks."""

    def __init__(
        self,
        region: Region,
        worker: int,
        clock_ns: Callable[[], int],
        pause: Callable[[float], None],
    ) -> None:
        assert isinstance(region, SteppedRegion)
        self._step = region.stepper.step
        super().__init__(region, worker, clock_ns, pause)

    def _lock(self, address: int, kind: int) -> Lock:
        return SteppedLock(address, kind, self._taken, self._step)

    def forget(self) -> None:
        """Another process begins in this one's place, holding nothing."""
        self._taken.clear()


def never() -> int:
    """A clock for what never waits."""
    raise AssertionError("waits, though nobody holds a lock")


NUMBERED = 3
"""Rooms that are there without being opened by name."""
DEN = NUMBERED + 1
"""The first that is opened."""


def stepped_state(
    region: Region,
    worker: int,
    stepper: Stepper,
    clock_ns: Callable[[], int] = never,
    pause: Callable[[float], None] = lambda _: None,
    clock_us: Callable[[], int] = lambda: LIVED_US,
) -> State:
    """The region as a worker sees it whose steps are counted."""
    stores_are_seen()
    # State picks the class of its locks, and what it is made of keeps their bound methods.
    with patch.object(state_module, "Locks", SteppedLocks):
        stepped = SteppedRegion(region, stepper)
        return State(
            stepped, worker, clock_ns, pause, RETENTION_S,
            numbered_rooms=NUMBERED, clock_us=clock_us,
        )  # fmt: skip


def _init_lock(region: Region, address: int) -> None:
    """What init_lock does, in steps: all words to 0, then those of a fresh semaphore."""
    at, fresh = (address - region.address) // WORD, fresh_semaphore()
    for values in ([0] * len(fresh), fresh):
        for place, value in enumerate(values):
            region.words[at + place] = value


def repair(states: list[State], now: int) -> Counter[str]:
    """The repair, with every store of it a step: those of sem_init too."""
    with patch.object(recovery, "init_lock", partial(_init_lock, states[0].region)):
        return recovery.repair(states, now)


# ---- what a region shows


def image(region: Region) -> bytes:
    """All bytes, but for what is only counted and the payloads of intents that are over."""
    out = bytearray(region.bytes)
    workers = region.layout["workers"]
    blank = [(region.layout[name].at(0), region.layout[name]) for name in ("repairs", "counters")]
    spans = [(at, at + placed.stride * placed.records) for at, placed in blank]
    for worker in range(workers.records):
        at = workers.at(worker, "intent")
        if not region.words[at]:
            end = workers.at(worker, "intent_event") + workers.lengths["intent_event"]
            spans.append((at, end))
    for first, end in spans:
        out[first * WORD : end * WORD] = bytes((end - first) * WORD)
    return bytes(out)


def records(region: Region, segment: str) -> Iterator[tuple[int, dict[str, list[int]]]]:
    """The words of each record, by field."""
    placed = region.layout[segment]
    for record in range(placed.records):
        at = placed.at(record)
        words = region.words[at : at + placed.stride].tolist()
        yield (
            record,
            {
                name: words[offset : offset + placed.lengths[name]]
                for name, offset in placed.offsets.items()
            },
        )


_LISTS = {"first_session", "next", "previous", "first", "free_session"}  # in any order
# Raised before the event that drives an old one out is committed, so it may be early.
_EARLY = {"oldest_seq"}
_USED = {"users": "word", "operator_keys": "txn", "clients": "user", "sessions": "id"}


def form(region: Region) -> tuple[object, ...]:
    """What the state says, whatever way it came to say it: without the order of lists, what
    stands in free slots, and the slots of the rings that the next record and event will take."""
    out: list[object] = []
    for segment in (
        "registry",
        "users",
        "accounts",
        "operator_keys",
        "clients",
        "sessions",
        "rooms",
        "presence",
    ):
        used = _USED.get(segment)
        for record, fields in records(region, segment):
            if not used or fields[used][0]:
                kept = {k: tuple(v) for k, v in fields.items() if k not in _LISTS | _EARLY}
                out.append((segment, record, *kept.items()))
    out += sorted(named_of(region))
    out += [("record", *record) for record in log_of(region)]
    out += [("event", *event) for event in events_of(region)]
    return tuple(out)


def named_of(region: Region) -> Iterator[tuple[object, ...]]:
    """The offers that are on a board, the roles that somebody has, and who blocks whom."""
    opened, access = region.column("rooms", "opened"), region.column("rooms", "access")
    for _, offer in records(region, "offers"):
        room, opening = offer["room"][0], offer["opened"][0]
        is_open = not opening or access[room] != RoomAccess.CLOSED
        if offer["word"][0] and opening == opened[room] and is_open:
            yield "offer", *(tuple(words) for words in offer.values())
    for _, role in records(region, "roles"):
        room = role["key"][0] >> 32
        if role["role"][0] and role["opened"][0] == opened[room] != 0:
            yield "role", *(tuple(words) for words in role.values())
    for _, block in records(region, "blocks"):
        if block["on"][0]:
            yield "block", *block["key"]


def region_keys(region: Region) -> list[int]:
    """Keys of the operator's commands that are kept."""
    return [f["key"][0] for _, f in records(region, "operator_keys") if f["txn"][0]]


def log_of(region: Region) -> list[list[int]]:
    """The records of the log that no transaction which was not committed has begun to replace: a
    change has its text before it."""
    ring, head = region.layout["txn_ring"], region.words[region.layout["log"].at(0, "head")]
    begun = min(TEXTS_MAX + 1, ring.records // 2)
    first = max(1, head - ring.records + 1 + begun)
    ats = [ring.at(txn % ring.records) for txn in range(first, head + 1)]
    return [region.words[at : at + RECORD_WORDS].tolist() for at in ats]


def events_of(region: Region, after: int = 0) -> list[list[int]]:
    """The events above `after`, the head's first: eight words, and those of the frame."""
    ring, head = region.layout["event_ring"], region.words[region.layout["events"].at(0, "head")]
    out = []
    for number in range(max(after + 1, head - ring.records + 2), head + 1):
        at = ring.at(number % ring.records)
        words = region.words[at : at + ring.stride].tolist()
        frame = ring.offsets["frame"]
        size = words[ring.offsets["frame_len"]]
        at += frame
        blob = bytes(region.bytes[at * WORD : at * WORD + size])
        out.append([*words[:frame], int.from_bytes(blob)])
    return out


def problems(region: Region) -> list[str]:
    """What check.problems finds, and what needs to know more than it can: all that is derived, as
    a rebuild of a copy makes it; accounts and outcomes against the log; what rooms offer."""
    return [*check.problems(region), *_underived(region), *_unlogged(region), *_missing(region)]


def _underived(region: Region) -> Iterator[str]:
    copy = Region.__new__(Region)
    copy.__dict__.update(region.__dict__)
    copy.bytes = memoryview(bytearray(region.bytes))
    copy.words = copy.bytes.cast("Q")
    state = State(copy, 0, never, lambda _: None, RETENTION_S)
    state.users.rebuild()
    state.sessions.rebuild()
    for segment, name in (
        ("registry", "users"), ("registry", "clients"), ("users", "watchers"),
        ("name_index", "user"), ("clients", "session"), ("rooms", "members"),
    ):  # fmt: skip
        found, right = region.column(segment, name), copy.column(segment, name)
        if found != right:
            yield f"{segment}.{name} is {found}, by what it is derived from {right}"
    if (chained := _chains(region)) != (rechained := _chains(copy)):
        yield f"clients are chained {chained}, by what it is derived from {rechained}"


def _chains(region: Region) -> list[set[int]]:
    following, out = region.column("clients", "next"), list[set[int]]()
    for client in region.column("client_buckets", "first"):
        chain: set[int] = set()
        while client and client not in chain:
            chain.add(client)
            client = following[client - 1]
        out.append(chain)
    return out


def _unlogged(region: Region) -> Iterator[str]:
    log = {record[0]: record for record in log_of(region)}
    latest = region.column("accounts", "last_txn")
    for user, balance in enumerate(region.column("accounts", "balance")):
        record = log.get(latest[user])
        if record is not None:
            side = "from" if record[_MONEY["from_user"]] == user else "to"
            logged = record[_MONEY[f"{side}_balance"]]
            if (record[_MONEY[f"{side}_user"]], logged) != (user, balance):
                yield f"user {user} has {balance}, by transaction {latest[user]} {logged}"
    for slot, fields in records(region, "clients"):
        outcomes = fields["outcomes"]
        for place in range(OUTCOME_WINDOW):
            req_id, txn, *_ = outcomes[place * OUTCOME_WORDS : (place + 1) * OUTCOME_WORDS]
            record = log.get(txn)
            if record and (record[_MONEY["req_id"]], record[_MONEY["client_slot"]]) != (
                req_id,
                slot + 1,
            ):
                yield f"client {slot} was told {txn} for {req_id}"
    kinds = RecordKind.NEW_CLIENT, RecordKind.NEW_FLOOR
    made = {r[_NEW["client_slot"]]: r for r in log.values() if r[1] in kinds}
    for client, record in made.items():
        fields = dict(records(region, "clients"))[client - 1]
        for name, its in (("user_id", "user"), ("client_id", "client_id"), ("floor", "floor")):
            if fields[its][0] != record[_NEW[name]]:
                yield f"the {its} of client {client - 1} is not that of transaction {record[0]}"


def _missing(region: Region) -> Iterator[str]:
    """Room events that are offered and not there."""
    there = {(e[2], e[3]) for e in events_of(region)}
    for room, fields in records(region, "rooms"):
        last, oldest = fields["last_seq"][0], fields["oldest_seq"][0]
        gone = [seq for seq in range(max(1, oldest), last + 1) if (room, seq) not in there]
        # The slot that the next event takes may be empty, and what it held is not counted above.
        if gone and gone != [max(1, oldest)]:
            yield f"room {room} offers {gone} of {oldest} to {last}"


class Rooms:
    """Who is in which room, by the events: what a client that reads them all knows."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._after = region.words[region.layout["events"].at(0, "head")]
        self._seqs = region.column("rooms", "last_seq")
        self._members = self._by_bits()

    def _by_bits(self) -> list[set[int]]:
        rooms: list[set[int]] = [set() for _ in self._seqs]
        for _, session in records(self._region, "sessions"):
            if session["id"][0]:
                for room, members in enumerate(rooms):
                    if session["rooms"][room >> 6] >> (room & 63) & 1:
                        members.add(session["user"][0])
        return rooms

    def follow(self) -> list[str]:
        """What the events since then tell, against what the state says. It is only asked."""
        found, seqs = [], list(self._seqs)
        rooms = [set(members) for members in self._members]
        events = events_of(self._region, self._after)
        assert len(events) == self._region.words[self._region.layout["events"].at(0, "head")] - (
            self._after
        ), "the ring is too small for this test"
        for number, kind, room, seq, user, *_ in events:
            if not room:
                continue
            if seq != seqs[room] + 1:
                found.append(f"event {number}: room {room} goes from {seqs[room]} to {seq}")
            seqs[room] = seq
            if kind == SlotKind.JOINED and user in rooms[room]:
                found.append(f"event {number}: user {user} is in room {room} already")
            if kind == SlotKind.LEFT and user not in rooms[room]:
                found.append(f"event {number}: user {user} is not in room {room}")
            rooms[room] ^= {user} if kind in (SlotKind.JOINED, SlotKind.LEFT) else set()
        if rooms != self._by_bits():
            found.append(f"in the rooms are {self._by_bits()}, by the events {rooms}")
        if seqs != self._region.column("rooms", "last_seq"):
            found.append("the rooms' numbers are not those of their newest events")
        return found


def free(region: Region, *locks: Lock) -> bool:
    """Are these locks free?"""
    return not {lock.address for lock in locks}.intersection(unfree_locks(region).values())


@contextmanager
def small_region(**capacities: int) -> Iterator[Region]:
    """A region ready for workers, so small that its rings go round in a test."""
    name = leaks.region_name()
    region = Region.create(name, replace(_SMALL, **capacities), 1)
    try:
        initialise(region)
        yield region
    finally:
        region.unlink()
        region.close()


# ---- two workers and their users

ANN, BOB, CYD = 1, 2, 3
ANNS, BOBS, IDLE = 71, 82, 93  # client_ids
NOW_US = 1_700_000_000_000_000
LATER_US = NOW_US + 5_000_000
VERIFIER = Verifier(b"s" * 16, 4096, b"k" * 32, b"v" * 32)
DEPOSIT, WITHDRAW, TRANSFER = _MONEY_KINDS = tuple(map(int, TxnKind))

Money = tuple[int, int, int]  # the arguments of Trades
Answer = tuple[int, int, object]
"""What became of a request (DONE, RECORDED, ...), the number that it got, what else it tells."""


class Request(Protocol):
    """What a client asks for, once."""

    @property
    def leaves(self) -> tuple[int, int]:
        """How many records of the log and how many events it makes."""

    def ask(self, state: State, session: Session, req_id: int, now: int, *, again: bool) -> Answer:
        """Ask for it. again: with POSSIBLE_DUPLICATE."""

    def newest(self, state: State) -> int:
        """The newest number of what it makes."""


@dataclass(frozen=True)
class Trades:
    """DEPOSIT, WITHDRAW, TRANSFER; the answer tells the balance."""

    kind: int
    payee: int
    amount: int

    @property
    def leaves(self) -> tuple[int, int]:
        return 1, 0

    def ask(self, state: State, session: Session, req_id: int, now: int, *, again: bool) -> Answer:
        return state.ledger.execute(session, self.kind, self.payee, self.amount, req_id, again, now)

    def newest(self, state: State) -> int:
        return state.log.head()


@dataclass(frozen=True)
class Says:
    """CHAT_SEND, or DIRECT_SEND where there is no room; the answer tells when it was executed."""

    room: int
    user: int
    message: str

    @property
    def leaves(self) -> tuple[int, int]:
        return 0, 1

    def ask(self, state: State, session: Session, req_id: int, now: int, *, again: bool) -> Answer:
        send, to = (state.chat.send, self.room) if self.room else (state.chat.direct, self.user)
        try:
            sent = send(session, to, self.message, now, req_id, again)
        except Superseded:
            return SUPERSEDED, 0, 0
        return RECORDED if sent.recorded else DONE, sent.seq, sent.time

    def newest(self, state: State) -> int:
        return state.events.last_seq(self.room) if self.room else state.events.direct_seq(self.user)


@dataclass(frozen=True)
class Publishes:
    """FILE_END; the answer tells when it was executed."""

    room: int
    file_id: int
    leaves: tuple[int, int] = (0, 1)

    def ask(self, state: State, session: Session, req_id: int, now: int, *, again: bool) -> Answer:
        digest = digest_of_file(Opcode.FILE_END, self.file_id)
        text = f"{self.file_id} 8 text/plain a.txt"
        try:
            sent = state.chat.publish(session, self.room, 0, text, digest, now, req_id, again)
        except Superseded:
            return SUPERSEDED, 0, 0
        return RECORDED if sent.recorded else DONE, sent.seq, sent.time

    def newest(self, state: State) -> int:
        return state.events.last_seq(self.room)


@dataclass(frozen=True)
class Pays:
    """TRANSFER_IN_ROOM; the answer tells balance and room_seq."""

    room: int
    payee: int
    amount: int

    @property
    def leaves(self) -> tuple[int, int]:
        return 1, 1

    def ask(self, state: State, session: Session, req_id: int, now: int, *, again: bool) -> Answer:
        done = state.pairs.transfer(
            session, self.room, self.payee, self.amount, "for you", req_id, again, now
        )
        return done.what, done.txn, (done.balance, done.seq)

    def newest(self, state: State) -> int:
        return state.log.head()


def traces(region: Region, client_id: int, req_id: int) -> tuple[int, int]:
    """How many records and events the rings have of a client's request."""
    made = {
        record[0]
        for record in log_of(region)
        if may_tell(record[1]) or record[1] in _MONEY_KINDS
        if (record[_MONEY["client_id"]], record[_MONEY["req_id"]]) == (client_id, req_id)
    }
    fields = region.layout["event_ring"].offsets
    told = [
        event
        for event in events_of(region)
        if (event[fields["client_id"]], event[fields["req_id"]]) == (client_id, req_id)
        or event[fields["txn"]] in made
    ]
    return len(made), len(told)


class World:
    """A region in which two workers have been at work, and their views of it."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.stepper, self.repairing = Stepper(), Stepper()
        self.lived = LIVED_US
        self.doomed, self.other, self.repairer = (
            stepped_state(region, worker, stepper, clock_us=lambda: self.lived)
            for worker, stepper in ((0, self.stepper), (1, Stepper()), (0, self.repairing))
        )
        doomed, other = self.doomed, self.other
        for state, name in ((doomed, "ann"), (other, "bob"), (doomed, "cyd")):
            state.users.register(name, VERIFIER, NOW_US)
        self.ann = self.login(doomed, ANN, ANNS)
        self.bob = self.login(other, BOB, BOBS)
        self.ann2 = self.login(other, ANN)
        self.cyd = self.login(other, CYD, capabilities=Capability.PAYMENTS)
        self.cyd2 = self.login(doomed, CYD)
        other.sessions.end(self.login(other, CYD, IDLE), NOW_US)
        self.req_ids = dict.fromkeys((ANN, BOB), 0)
        for state, session, amount in ((doomed, self.ann, 100), (other, self.bob, 50)):
            self.ask(state, session, (DEPOSIT, 0, amount))
        self.ask(doomed, self.ann, (TRANSFER, BOB, 10))
        self.ask(other, self.bob, (TRANSFER, ANN, 5))
        for state, session, room in (
            (doomed, self.ann, 1), (other, self.bob, 1), (other, self.bob, 2),
            (other, self.ann2, 2), (other, self.cyd, 3), (doomed, self.ann, 3),
        ):  # fmt: skip
            state.audience.present(room, state.worker, 1)
            state.memberships.join(session, room, NOW_US)
        for room in (1, 1, 2, 1, 2, 3):
            say(other, self.cyd if room == 3 else self.bob, room, f"in {room}", NOW_US)
        say(doomed, self.ann, 1, "hello", NOW_US)

    def login(
        self,
        state: State,
        user: int,
        client_id: int = 0,
        capabilities: int = 0,
        next_req_id: int = 0,
    ) -> Session:
        name = state.users.name(user)
        req_id = next_req_id or to_draw(self.region, user, client_id)
        return state.sessions.login(user, name, client_id, req_id, capabilities, NOW_US)[0]

    def ask(self, state: State, session: Session, request: Request | Money) -> Answer:
        """The client's next request."""
        self.draw(session)
        return self.repeat(state, session, request, flagged=False)

    def draw(self, session: Session) -> None:
        """A req_id that the client has not used, for money or for a message."""
        self.req_ids[session.user] = next_req_id(session, self.region)

    def repeat(
        self, state: State, session: Session, request: Request | Money, *, flagged: bool = True
    ) -> Answer:
        """The client's latest request; flagged: later, and possibly a duplicate."""
        asked = Trades(*request) if isinstance(request, tuple) else request
        req_id, now = self.req_ids[session.user], LATER_US if flagged else NOW_US
        return asked.ask(state, session, req_id, now, again=flagged)

    def fill_events(self, spare: int = 0) -> None:
        """The event ring has only so many places to spare."""
        events = self.region.events
        events.limit = events.leave_limit = events.head + spare

    def finish(self) -> None:
        """There are places again, and worker 1 goes on with the sessions that have ended."""
        self.region.events.limit = self.region.events.leave_limit = NO_JOURNAL
        while self.region.registry.ending_sessions:
            self.other.sessions.finish_ended(NOW_US)

    def balances(self) -> list[int]:
        return self.region.column("accounts", "balance")[: CYD + 1]

    def restore(self, before: bytes) -> None:
        """The region as it was."""
        self.region.bytes[:] = before
        self.forget()

    def forget(self) -> None:
        """Whoever was at work holds nothing any more but by the region."""
        for state in (self.doomed, self.other, self.repairer):
            assert isinstance(state.locks, SteppedLocks)
            state.locks.forget()

    def repair(self, until: int = 0, end: Callable[[], object] | None = None) -> int:
        """Repair, or die in it before that step. Answers how many steps it had."""
        self.repairing.arm(until, end)
        head = self.region.events.head
        repair([self.repairer], NOW_US)
        count = self.repairing.count
        assert self.region.events.head <= head + 1, "it publishes no leave"
        self.finish()
        return count


@dataclass(frozen=True)
class Change:
    """A state change that worker 0 makes."""

    name: str
    act: Callable[[World], object]
    capacities: dict[str, int] = field(default_factory=dict)
    prepare: Callable[[World], object] = lambda _: None
    effect: tuple[int, int, int, int] = (0, 0, 0, 0)  # on the balances
    request: Request | None = None
    # It is of a named room or a board; which room the client joins before it repeats the request.
    named: bool = False
    joins: int = 1
    # What the repair may make of it: the state before and the state after, which are the same where
    # the repair ends the session. A login does more than one thing, each of them whole: a new
    # client, a mark, leaves, the session.
    forms: int = 2

    def __str__(self) -> str:
        return self.name


def asks(
    name: str,
    request: Request,
    effect: tuple[int, int, int, int] = (0, 0, 0, 0),
    prepare: Callable[[World], object] = lambda _: None,
    **capacities: int,
) -> Change:
    """Ann's client asks for it; effect: on the balances."""

    def ready(world: World) -> None:
        prepare(world)
        world.req_ids[ANN] = next_req_id(world.ann, world.region)

    return Change(
        name,
        lambda w: w.repeat(w.doomed, w.ann, request, flagged=False),
        capacities,
        ready,
        effect,
        request,
    )


def money(name: str, kind: int, payee: int, effect: tuple[int, int, int, int], **c: int) -> Change:
    return asks(name, Trades(kind, payee, abs(effect[ANN])), effect, lambda _: None, **c)


def _fill_clients(world: World) -> None:
    """All client slots are in use, and the one that is idle is given away."""
    world.login(world.other, BOB, BOBS + 1)
    world.lived += RETENTION_S * 1_000_000


def _mark_idle(world: World) -> None:
    """Outcomes may be missing in the record of Cyd's client, as after damage."""
    client = world.other.clients.find(CYD, IDLE)
    world.region.words[world.other.clients.at(client, "marks")] = MARKED


def _speak_on(world: World) -> None:
    """The ring has gone round: events go."""
    for n in range(20):
        say(world.other, world.bob, 1 + n % 2, "on and on", NOW_US)


def _no_client_pays(world: World) -> None:
    """Cyd, who is logged in at worker 0 without a client, has money and is in room 3."""
    world.ask(world.doomed, world.cyd2, (DEPOSIT, 0, 40))
    world.doomed.memberships.join(world.cyd2, 3, NOW_US)


def _bob_ended(world: World, spare: int) -> None:
    """Bob has logged out while events had no place: he is still in rooms 1 and 2."""
    world.fill_events()
    world.other.sessions.end(world.bob, NOW_US)
    world.fill_events(spare)


NONE, PAID = (0, 0, 0, 0), (0, -30, 30, 0)
CHANGES = (
    money("deposit", DEPOSIT, 0, (0, 30, 0, 0)),
    money("transfer", TRANSFER, BOB, (0, -30, 30, 0)),
    asks("send", Says(1, 0, "the last word")),
    money("withdraw all there is", WITHDRAW, 0, (0, -95, 0, 0)),
    money("transfer with the payee's lock first", TRANSFER, BOB, (0, -30, 30, 0), account_locks=2),
    money("transfer under one lock", TRANSFER, BOB, (0, -30, 30, 0), account_locks=1),
    money("transfer in a ring of two", TRANSFER, BOB, (0, -30, 30, 0), txn_ring=2),
    asks(
        "send in a small ring", Says(1, 0, "the last word"), (0, 0, 0, 0), _speak_on, event_ring=8
    ),
    asks("direct", Says(0, BOB, "for you")),
    asks("publish", Publishes(1, 42)),
    asks("publish in a small ring", Publishes(1, 42), (0, 0, 0, 0), _speak_on, event_ring=8),
    asks("transfer in a room", Pays(1, BOB, 30), (0, -30, 30, 0)),
    asks(
        "transfer in a room, in small rings",
        Pays(1, BOB, 30),
        (0, -30, 30, 0),
        _speak_on,
        event_ring=8,
        txn_ring=2,
    ),
    asks("transfer in a room under one lock", Pays(1, BOB, 30), (0, -30, 30, 0), account_locks=1),
    Change(
        "send without a client",
        lambda w: say(w.doomed, w.cyd2, 3, "the last word", NOW_US),
        prepare=_no_client_pays,
    ),
    Change(
        "direct without a client",
        lambda w: whisper(w.doomed, w.cyd2, BOB, "for you", NOW_US),
    ),
    Change(
        "transfer in a room without a client",
        lambda w: Pays(3, ANN, 30).ask(w.doomed, w.cyd2, 1, NOW_US, again=False),
        prepare=_no_client_pays,
        effect=(0, 30, 0, -30),
    ),
    Change("register", lambda w: w.doomed.users.register("dora", VERIFIER, NOW_US)),
    Change("login without a client", lambda w: w.login(w.doomed, CYD), forms=0),
    Change("login of a new client", lambda w: w.login(w.doomed, CYD, 5, next_req_id=40), forms=0),
    Change(
        "a new client is introduced",
        lambda w: w.doomed.sessions.introduce(CYD, 5, 40, NOW_US),
    ),
    Change(
        "a marked client is introduced",
        lambda w: w.doomed.sessions.introduce(CYD, IDLE, 40, NOW_US),
        prepare=_mark_idle,
    ),
    Change("login of a known client", lambda w: w.login(w.doomed, CYD, IDLE), forms=0),
    Change(
        "login of a client that gets another's slot",
        lambda w: w.login(w.doomed, BOB, 9, next_req_id=40),
        prepare=_fill_clients,
        forms=0,
    ),
    Change(
        "a new client is introduced and gets a slot of its own user",
        lambda w: w.doomed.sessions.introduce(CYD, 5, 40, NOW_US),
        prepare=_fill_clients,
    ),
    Change(
        "login that supersedes another worker's session",
        lambda w: w.login(w.doomed, BOB, BOBS, Capability.PAYMENTS),
        forms=0,
    ),
    Change(
        "login that supersedes a session of the same worker",
        lambda w: w.login(w.doomed, ANN, ANNS),
        forms=0,
    ),
    Change("logout", lambda w: w.doomed.sessions.end(w.ann, NOW_US), forms=1),
    Change(
        "logout of one that is superseded",
        lambda w: w.doomed.sessions.end(w.ann, NOW_US),
        prepare=lambda w: w.login(w.other, ANN, ANNS),
        forms=1,
    ),
    Change("join", lambda w: w.doomed.memberships.join(w.cyd2, 1, NOW_US)),
    Change(
        "join with a second connection",
        lambda w: w.doomed.memberships.join(w.ann, 2, NOW_US),
        forms=1,
    ),
    Change("leave", lambda w: w.doomed.memberships.leave(w.ann, 1, NOW_US), forms=1),
    Change(
        "leave with one of two connections",
        lambda w: w.doomed.memberships.leave(w.ann, 2, NOW_US),
        prepare=lambda w: w.doomed.memberships.join(w.ann, 2, NOW_US),
        forms=1,
    ),
    Change(
        "logout with no place for events",
        lambda w: w.doomed.sessions.end(w.ann, NOW_US),
        prepare=World.fill_events,
        forms=1,
    ),
    Change(
        "login that supersedes, with no place for events",
        lambda w: w.login(w.doomed, BOB, BOBS, Capability.PAYMENTS),
        prepare=World.fill_events,
        forms=0,
    ),
    Change(
        "login that supersedes, with a place for one of two leaves",
        lambda w: w.login(w.doomed, BOB, BOBS, Capability.PAYMENTS),
        prepare=lambda w: w.fill_events(1),
        forms=0,
    ),
    Change(
        "leaves of a session that has ended",
        lambda w: w.doomed.sessions.finish_ended(NOW_US),
        prepare=lambda w: _bob_ended(w, 2),
        forms=3,
    ),
    Change(
        "one leave of a session that has ended",
        lambda w: w.doomed.sessions.finish_ended(NOW_US),
        prepare=lambda w: _bob_ended(w, 1),
        forms=2,
    ),
    Change("payment push", lambda w: w.doomed.chat.pay(w.ann, CYD, 7, 1, 1, NOW_US)),
)
BY_NAME = {change.name: change for change in CHANGES}


@contextmanager
def world_of(change: Change) -> Iterator[World]:
    with small_region(**change.capacities) as region:
        world = World(region)
        change.prepare(world)
        yield world


def act(world: World, change: Change, until: int, end: Callable[[], object] | None = None) -> Any:
    """Worker 0 makes the change, or dies before that step."""
    world.stepper.arm(until, end)
    return change.act(world)


def steps_of(world: World, change: Change) -> int:
    before = bytes(world.region.bytes)
    act(world, change, 0)
    world.restore(before)
    return world.stepper.count


def deaths(world: World, change: Change) -> Iterator[int]:
    """Worker 0 dies before each step of the change, and at last after it; which one it is."""
    before, total = bytes(world.region.bytes), steps_of(world, change)
    for n in range(1, total + 2):
        world.restore(before)
        if n <= total:
            with pytest.raises(Died):
                act(world, change, n)
        else:  # with the answer given
            act(world, change, 0)
        yield n


def killed(work: Callable[[], object]) -> None:
    """Run it in a process, which kills itself."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

"""What is stepped through: a small region in which two workers have been at work, and what the
first of them does next."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count

from libproto.messages import Capability, RoomRole, TxnKind
from libproto.scram import Verifier
from server.core import recovery
from server.core.session import Session
from server.core.state import State
from server.region.region import Region
from tests.helpers import crash
from tests.helpers import crash_rooms as rooms
from tests.helpers.crash import (
    Answer,
    Died,
    Money,
    Pays,
    Publishes,
    Request,
    Says,
    Stepper,
    Trades,
)
from tests.helpers.region import next_req_id, say, to_draw

ANN, BOB, CYD = 1, 2, 3
ANNS, BOBS = 71, 82  # client_ids
NOW_US = 1_700_000_000_000_000
LATER_US = NOW_US + 5_000_000  # of the repair, so that what it announces is not what a worker did
VERIFIER = Verifier(b"s" * 16, 4096, b"k" * 32, b"v" * 32)
DEPOSIT, WITHDRAW, TRANSFER = map(int, TxnKind)
AMOUNT = 0x0101_0101_0101  # changes each byte of a balance that a store byte by byte would tear


def no_pause(_seconds: float) -> None:
    """Nobody stands still here: no recovery is announced."""


def worker(region: Region, slot: int, clock_ns: Callable[[], int] = crash.never) -> State:
    """The region as a worker of the server sees it."""
    return State(
        region, slot, clock_ns, no_pause, crash.RETENTION_S,
        numbered_rooms=crash.NUMBERED, clock_us=lambda: crash.LIVED_US,
    )  # fmt: skip


class World:
    """The region, and what two workers hold of it."""

    def __init__(self, region: Region, make: "Operation") -> None:
        self.region = region
        self.doomed = make.doomed(region)
        self.other = worker(region, 1)
        doomed, other = self.doomed, self.other
        for state, name in ((doomed, "ann"), (other, "bob"), (doomed, "cyd")):
            state.users.register(name, VERIFIER, NOW_US)
        self.ann = self.login(doomed, ANN, ANNS)
        self.bob = self.login(other, BOB, BOBS)
        self.cyd = self.login(doomed, CYD)
        self.req_ids = dict.fromkeys((ANN, BOB), 0)
        for state, session, amount in ((doomed, self.ann, 100), (other, self.bob, 50)):
            self.ask(state, session, (DEPOSIT, 0, amount * AMOUNT))
        self.ask(other, self.bob, (TRANSFER, ANN, 5))
        for state, session, room in (
            (doomed, self.ann, 1), (other, self.bob, 1), (other, self.bob, 2)
        ):  # fmt: skip
            state.audience.present(room, state.worker, 1)
            state.memberships.join(session, room, NOW_US)
        for number in range(region.layout.capacities.event_ring):  # it goes round: slots are reused
            say(other, self.bob, 1, f"hello {number}", NOW_US)
        make.prepare(self)
        if make.request is not None:
            self.req_ids[ANN] = next_req_id(self.ann, region)

    def login(self, state: State, user: int, client_id: int = 0, capabilities: int = 0) -> Session:
        name = state.users.name(user)
        req_id = to_draw(state.region, user, client_id)
        return state.sessions.login(user, name, client_id, req_id, capabilities, NOW_US)[0]

    def ask(self, state: State, session: Session, request: Request | Money) -> Answer:
        """The client's next request."""
        self.req_ids[session.user] = next_req_id(session, self.region)
        return self.repeat(state, session, request, flagged=False)

    def repeat(
        self, state: State, session: Session, request: Request | Money, *, flagged: bool = True
    ) -> Answer:
        """The client's latest request, possibly a duplicate."""
        asked = Trades(*request) if isinstance(request, tuple) else request
        return asked.ask(state, session, self.req_ids[session.user], NOW_US, again=flagged)

    def finish(self) -> None:
        """Worker 1 publishes the leaves of the sessions that have ended."""
        while self.region.registry.ending_sessions:
            self.other.sessions.finish_ended(LATER_US)

    def balances(self) -> list[int]:
        return self.region.column("accounts", "balance")

    def numbers(self) -> tuple[int, int]:
        """The newest transaction, and the newest event of room 1."""
        return self.doomed.log.head(), self.doomed.events.last_seq(1)


def nothing(_world: World) -> None:
    """No more to prepare, or to do."""


@dataclass(frozen=True)
class Operation:
    """One state change of worker 0, which dies in it."""

    name: str
    run: Callable[[World], object]
    # How many states the repair can bring it to: 2, before and after. More where it does several
    # things, each of them whole; 1 where it is a repair itself.
    states: int = 2
    request: Request | None = None
    # What is different when it has happened: balances by user; transactions; events of room 1. From
    # the state where it has not; of a repair, from what it found.
    gains: dict[int, int] = field(default_factory=dict)
    transactions: int = 0
    events: int = 0
    prepare: Callable[[World], object] = nothing
    doomed: Callable[[Region], State] = lambda region: worker(region, 0)
    # Which room the client joins before it repeats the request.
    joins: int = 1
    capacities: dict[str, int] = field(default_factory=dict)
    # Called in the tracer when an image is new.
    meanwhile: Callable[[World], object] = nothing

    def __str__(self) -> str:
        return self.name

    @property
    def counts_stores(self) -> bool:
        """Who dies is prepared by counting stores, which only interpreted code lets us do."""
        return self.doomed is _stepped


def asks(
    name: str, request: Request, gains: dict[int, int], transactions: int = 0, events: int = 0
) -> Operation:
    """Ann's client asks for it."""
    return Operation(
        name,
        lambda w: w.repeat(w.doomed, w.ann, request, flagged=False),
        request=request,
        gains=gains,
        transactions=transactions,
        events=events,
    )


def money(name: str, request: Money, gains: dict[int, int]) -> Operation:
    return asks(name, Trades(*request), gains, transactions=1)


# ---- a deposit that has to wait: the other worker has the lock until there is a waiter


_TRACER = os.getpid()


def _waiting(region: Region) -> State:
    """Its clock stands still, so that a tick is over at once and what it counts is the same each
    time. Where nobody watches from outside for a waiter, the lock is free once it would wait."""
    to_free = [worker(region, 1).locks.account(ANN).release] if os.getpid() == _TRACER else []

    def clock_ns() -> int:
        if to_free:
            to_free.pop()()
        return 0

    return worker(region, 0, clock_ns)


def _take_lock(world: World) -> None:
    assert world.other.locks.account(ANN).acquire()


def _give_lock_to_waiter(world: World) -> None:
    lock = world.other.locks.account(ANN)
    waiters, value = divmod(world.region.words[(lock.address - world.region.address) // 8], 1 << 32)
    if waiters and not value:
        lock.release()


def _wait_and_deposit(world: World) -> None:
    world.repeat(world.doomed, world.ann, (DEPOSIT, 0, AMOUNT), flagged=False)


# ---- the repair of one that has died where there is most to do


def _stepped(region: Region) -> State:
    return crash.stepped_state(region, 0, Stepper())


def _die(act: Callable[[World], object], there: Callable[[World], bool]) -> Callable[[World], None]:
    """Do it up to the first store after which that is so."""

    def die(world: World) -> None:
        region, locks = world.doomed.region, world.doomed.locks
        assert isinstance(region, crash.SteppedRegion)
        assert isinstance(locks, crash.SteppedLocks)
        before = bytes(world.region.bytes)
        for step in count(1):
            region.stepper.arm(step)
            with suppress(Died):
                act(world)
                raise AssertionError("it is never so")
            locks.forget()
            if there(world):
                return
            world.region.bytes[:] = before

    return die


def _is_committed(world: World) -> bool:
    """The record of a transaction stands beyond the head; before it may be its text."""
    words, log = world.region.words, world.doomed.log
    ring, txn = world.region.layout["txn_ring"], words[log.intent]
    return txn > log.head() and words[ring.at(txn % ring.records)] == txn


def _is_published(world: World) -> bool:
    """An event stands beyond the head."""
    ring, number = world.region.layout["event_ring"], world.doomed.events.head() + 1
    return world.region.words[ring.at(number % ring.records)] == number


def _repair(world: World) -> None:
    recovery.repair([worker(world.region, 0)], LATER_US)


def _after(
    ready: Callable[[World], object], die: Callable[[World], None]
) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        ready(world)
        die(world)

    return prepare


def _asked(request: Request) -> Callable[[World], object]:
    return lambda world: world.ask(world.doomed, world.ann, request)


# ---- named rooms, boards, blocks: what is prepared and done is that of the crash points


def in_rooms(
    name: str,
    act: rooms.Act,
    transactions: int,
    events: int = 0,
    prepare: Callable[[World], object] = rooms.anns,
    parts: int = 1,
    **capacities: int,
) -> Operation:
    """Ann's client asks for it. parts: changes that it is made of."""
    made = asks(name, rooms.Alters(act, (parts, parts)), {}, transactions, events)
    return replace(made, prepare=prepare, states=parts + 1, capacities={"txn_ring": 8} | capacities)


def _offer(entry: rooms.Entry, of: Callable[[World], Session]) -> Callable[[World], object]:
    """One in room 1."""

    def prepare(world: World) -> None:
        changes = (world.other if of(world) is world.bob else world.doomed).changes
        session = of(world)
        req_id = next_req_id(session, world.region)
        entry.number = changes.add_offer(
            session, 1, AMOUNT, rooms.LONG, rooms.MOST, req_id, 0, NOW_US
        ).txn

    return prepare


TAKEN, REMOVED, DELETED = rooms.Entry(), rooms.Entry(), rooms.Entry()
TAKES = rooms.Takes(1, AMOUNT, TAKEN)
ADDS = rooms.adds(1, rooms.LONG)
SETS = rooms.sets(rooms.TOPIC, rooms.INVITED)


def _block(name: str, prepare: Callable[[World], object], *, on: bool) -> Operation:
    return Operation(
        name,
        lambda w: w.doomed.blocks.set(w.ann, BOB, on, NOW_US),
        transactions=1,
        prepare=prepare,
    )


def _delete(world: World) -> None:
    """The text of an offer that is on the board: the newest event of room 1."""
    state, seq = world.doomed, world.doomed.events.last_seq(1)
    req_id = next_req_id(world.ann, world.region)
    state.changes.delete_text(world.ann, 1, seq, ANN, DELETED.number, req_id, NOW_US)


TO_BOB = Trades(TRANSFER, BOB, AMOUNT)
PAYS = Pays(1, BOB, AMOUNT)
PAID = {ANN: -AMOUNT, BOB: AMOUNT}
SPOKEN, WHISPERED = Says(1, 0, "the last word"), Says(0, BOB, "for you")

OPERATIONS = (
    money("deposit", (DEPOSIT, 0, AMOUNT), {ANN: AMOUNT}),
    money("withdraw", (WITHDRAW, 0, AMOUNT), {ANN: -AMOUNT}),
    money("transfer", (TRANSFER, BOB, AMOUNT), {ANN: -AMOUNT, BOB: AMOUNT}),
    Operation(
        "waiting-deposit",
        _wait_and_deposit,
        request=Trades(DEPOSIT, 0, AMOUNT),
        gains={ANN: AMOUNT},
        transactions=1,
        doomed=_waiting,
        prepare=_take_lock,
        meanwhile=_give_lock_to_waiter,
    ),
    asks("send", SPOKEN, {}, events=1),
    asks("direct", WHISPERED, {}),
    asks("publish", Publishes(1, 42), {}, events=1),
    asks("transfer-in-room", PAYS, PAID, transactions=1, events=1),
    Operation(
        "send-without-client",
        lambda w: w.doomed.chat.send(w.cyd, 1, "the last word", NOW_US, 1, 0),
        prepare=lambda w: w.doomed.memberships.join(w.cyd, 1, NOW_US),
        events=1,
    ),
    Operation("join", lambda w: w.doomed.memberships.join(w.cyd, 1, NOW_US), events=2),
    Operation("leave", lambda w: w.doomed.memberships.leave(w.ann, 1, NOW_US)),
    Operation("payment", lambda w: w.doomed.chat.pay(w.ann, BOB, 3, 1, 1, NOW_US)),
    Operation(
        "register", lambda w: w.doomed.users.register("dora", VERIFIER, NOW_US), transactions=1
    ),
    # The client, the session id that is used up. Of the session itself nothing is left: the repair
    # ends it, with the other one that its user has at this worker.
    Operation("login", lambda w: w.login(w.doomed, CYD, 5), states=3, transactions=1),
    # The mark, that session's two leaves, the session id that is used up, the session.
    Operation(
        "superseding-login",
        lambda w: w.login(w.doomed, BOB, BOBS, Capability.PAYMENTS),
        states=6,
        events=1,
    ),
    in_rooms("room-open", rooms.opens("den"), 2, prepare=nothing),
    in_rooms("room-open-again", rooms.opens("den"), 2, prepare=rooms.used_before, rooms=crash.DEN),
    in_rooms("room-set", SETS, 4, parts=2),
    in_rooms("room-close", rooms.sets("", rooms.CLOSED), 1),
    in_rooms("room-mute", rooms.gives(RoomRole.MUTED, 60), 1),
    in_rooms("room-give-away", rooms.gives(RoomRole.OWNER), 1),
    in_rooms("board-add", ADDS, 3, 1, nothing),
    in_rooms("board-remove", rooms.removes(1, REMOVED), 1, 1, _offer(REMOVED, lambda w: w.ann)),
    replace(
        asks("board-take", TAKES, PAID, transactions=1, events=1),
        prepare=_offer(TAKEN, lambda w: w.bob),
        capacities={"txn_ring": 8},
    ),
    Operation(
        "room-open-without-client",
        lambda w: rooms.opens("den")(w.doomed.changes, w.cyd, 1, 0, NOW_US),
        transactions=2,
        capacities={"txn_ring": 8},
    ),
    _block("block", nothing, on=True),
    _block("unblock", rooms.blocked, on=False),
    Operation(
        "chat-delete",
        _delete,
        transactions=1,
        events=1,
        prepare=_offer(DELETED, lambda w: w.ann),
        capacities={"txn_ring": 8},
    ),
    # The leave, the end.
    Operation("logout", lambda w: w.doomed.sessions.end(w.ann, NOW_US), states=3),
    Operation(
        "repair-of-transfer",
        _repair,
        states=1,
        request=Trades(TRANSFER, BOB, AMOUNT),
        gains={ANN: -AMOUNT, BOB: AMOUNT},
        transactions=1,
        events=1,  # ann leaves
        doomed=_stepped,
        prepare=_die(_asked(TO_BOB), _is_committed),
    ),
    *(
        Operation(
            f"repair-of-{name}",
            _repair,
            states=1,
            request=request,
            gains=gains,
            transactions=transactions,
            events=events,  # ann's leave among them
            doomed=_stepped,
            prepare=_die(_asked(request), there),
        )
        for name, request, gains, transactions, events, there in (
            ("send", SPOKEN, {}, 0, 2, _is_published),
            ("direct", WHISPERED, {}, 0, 1, _is_published),
            ("transfer-in-room", PAYS, PAID, 1, 2, _is_committed),
        )
    ),
    *(
        Operation(
            f"repair-of-{name}",
            _repair,
            states=1,
            request=request,
            gains=gains,
            transactions=transactions,
            events=2,  # ann leaves
            doomed=_stepped,
            prepare=_after(ready, _die(_asked(request), _is_committed)),
            capacities={"txn_ring": 8},
        )
        for name, request, gains, transactions, ready in (
            ("board-add", rooms.Alters(ADDS), {}, 3, nothing),
            ("board-take", TAKES, PAID, 1, _offer(TAKEN, lambda w: w.bob)),
        )
    ),
    Operation(
        "repair-of-chat-delete",
        _repair,
        states=1,
        transactions=1,
        events=2,  # ann leaves
        doomed=_stepped,
        prepare=_after(_offer(DELETED, lambda w: w.ann), _die(_delete, _is_committed)),
        capacities={"txn_ring": 8},
    ),
    Operation(
        "repair-of-join",
        _repair,
        states=1,
        events=3,  # cyd has joined, cyd and ann leave
        doomed=_stepped,
        prepare=_die(lambda w: w.doomed.memberships.join(w.cyd, 1, NOW_US), _is_published),
    ),
)
BY_NAME = {operation.name: operation for operation in OPERATIONS}

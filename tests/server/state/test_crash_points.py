"""Every store is a crash point: a worker dies before each step of each state change, and the repair
before each of its own.

Worker 0 dies; worker 1 works on the same accounts and in the same rooms before that, between the
death and the repair (as far as nobody holds what it needs), and afterwards. After each death the
repair must bring the state to where the change has happened or has not, with every invariant
intact, and the client that comes back and repeats its request gets it executed once.

`make test` goes through some of the changes with a spread of the repair's steps, `make
crash-points` through all of them with every step.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from libproto.messages import Capability, TxnKind
from libproto.scram import Verifier
from server.state.errors import NameTaken
from server.state.ledger import DONE, RECORDED, SUPERSEDED
from server.state.region import Region
from server.state.session import Session
from server.state.state import State
from tests.helpers import crash
from tests.helpers.crash import Died, Stepper

ALL = os.environ.get("TRADECHAT_CRASH_POINTS") == "all"
SPREAD = 7  # steps of a repair that `make test` lets it die before, for each death

ANN, BOB, CYD = 1, 2, 3
ANNS, BOBS, IDLE = 71, 82, 93  # client_ids
NOW_US = 1_700_000_000_000_000
LATER_US = NOW_US + 5_000_000
VERIFIER = Verifier(b"s" * 16, 4096, b"k" * 32, b"v" * 32)
DEPOSIT, WITHDRAW, TRANSFER = map(int, TxnKind)

Request = tuple[int, int, int]  # kind, payee, amount


class World:
    """A region in which two workers have been at work, and their views of it."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.stepper, self.repairing = Stepper(), Stepper()
        self.doomed = crash.stepped_state(region, 0, self.stepper)
        self.other = crash.stepped_state(region, 1, Stepper())
        self.repairer = crash.stepped_state(region, 0, self.repairing)
        doomed, other = self.doomed, self.other
        for state, name in ((doomed, "ann"), (other, "bob"), (doomed, "cyd")):
            state.users.register(name, VERIFIER, NOW_US)
        self.ann = self.login(doomed, ANN, ANNS)
        self.bob = self.login(other, BOB, BOBS)
        self.ann2 = self.login(other, ANN)
        self.cyd = self.login(other, CYD, capabilities=Capability.PAYMENTS)
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
            state.rooms.present(room, state.worker, 1)
            state.rooms.join(session, room, NOW_US)
        for room in (1, 1, 2, 1, 2, 3):
            other.rooms.send(self.bob, room, f"in {room}", NOW_US)
        doomed.rooms.send(self.ann, 1, "hello", NOW_US)

    def login(self, state: State, user: int, client_id: int = 0, capabilities: int = 0) -> Session:
        name = state.users.name(user)
        return state.sessions.login(user, name, client_id, capabilities, NOW_US)[0]

    def ask(self, state: State, session: Session, request: Request) -> tuple[int, int, int]:
        """The client's next request."""
        self.req_ids[session.user] += 1
        return self.repeat(state, session, request, flagged=False)

    def repeat(
        self, state: State, session: Session, request: Request, *, flagged: bool = True
    ) -> tuple[int, int, int]:
        kind, payee, amount = request
        req_id = self.req_ids[session.user]
        return state.ledger.execute(session, kind, payee, amount, req_id, flagged, NOW_US)

    def balances(self) -> list[int]:
        return self.region.column("accounts", "balance")[: CYD + 1]

    def restore(self, before: bytes) -> None:
        """The region as it was; nobody is in the middle of anything but by that."""
        self.region.bytes[:] = before
        for state in (self.doomed, self.other, self.repairer):
            assert isinstance(state.locks, crash.SteppedLocks)
            state.locks.forget()

    def repair(self, until: int = 0) -> int:
        """Repair, or die in it before that step. Answers how many steps it had."""
        self.repairing.arm(until)
        crash.repair([self.repairer], NOW_US)
        return self.repairing.count


@dataclass(frozen=True)
class Change:
    """A state change that worker 0 makes."""

    name: str
    act: Callable[[World], object]
    capacities: dict[str, int] = field(default_factory=dict)
    prepare: Callable[[World], object] = lambda _: None
    effect: tuple[int, int, int, int] = (0, 0, 0, 0)  # on the balances
    request: Request | None = None
    # It is all or nothing: what the repair makes of it is the state before or the state after. A
    # login does more than one thing, each of them whole: a new client, a mark, the session.
    whole: bool = True

    def __str__(self) -> str:
        return self.name


def money(name: str, kind: int, payee: int, effect: tuple[int, int, int, int], **c: int) -> Change:
    request = kind, payee, 30
    return Change(
        name,
        lambda w: w.repeat(w.doomed, w.ann, request, flagged=False),
        c,
        lambda w: w.req_ids.update({ANN: w.req_ids[ANN] + 1}),
        effect,
        request,
    )


def _fill_clients(world: World) -> None:
    """All client slots are in use, and the one that is idle is given away."""
    world.login(world.other, BOB, BOBS + 1)


def _speak_on(world: World) -> None:
    """The ring has gone round: events go."""
    for n in range(20):
        world.other.rooms.send(world.bob, 1 + n % 2, "on and on", NOW_US)


CHANGES = (
    money("deposit", DEPOSIT, 0, (0, 30, 0, 0)),
    money("transfer", TRANSFER, BOB, (0, -30, 30, 0)),
    Change("send", lambda w: w.doomed.rooms.send(w.ann, 1, "the last word", NOW_US)),
    money("withdraw", WITHDRAW, 0, (0, -30, 0, 0)),
    money("transfer with the payee's lock first", TRANSFER, BOB, (0, -30, 30, 0), account_locks=2),
    money("transfer under one lock", TRANSFER, BOB, (0, -30, 30, 0), account_locks=1),
    money("transfer in a ring of two", TRANSFER, BOB, (0, -30, 30, 0), txn_ring=2),
    Change(
        "send in a small ring",
        lambda w: w.doomed.rooms.send(w.ann, 1, "the last word", NOW_US),
        {"event_ring": 8},
        _speak_on,
    ),
    Change("register", lambda w: w.doomed.users.register("dora", VERIFIER, NOW_US)),
    Change("login without a client", lambda w: w.login(w.doomed, CYD), whole=False),
    Change("login of a new client", lambda w: w.login(w.doomed, CYD, 5), whole=False),
    Change("login of a known client", lambda w: w.login(w.doomed, CYD, IDLE), whole=False),
    Change(
        "login of a client that gets another's slot",
        lambda w: w.doomed.sessions.login(
            BOB, "bob", 9, 0, NOW_US + (crash.RETENTION_S + 1) * 1_000_000
        ),
        prepare=_fill_clients,
        whole=False,
    ),
    Change(
        "login that supersedes another worker's session",
        lambda w: w.login(w.doomed, BOB, BOBS, Capability.PAYMENTS),
        whole=False,
    ),
    Change(
        "login that supersedes a session of the same worker",
        lambda w: w.login(w.doomed, ANN, ANNS),
        whole=False,
    ),
    Change("logout", lambda w: w.doomed.sessions.end(w.ann, NOW_US)),
    Change(
        "logout of one that is superseded",
        lambda w: w.doomed.sessions.end(w.ann, NOW_US),
        prepare=lambda w: w.login(w.other, ANN, ANNS),
    ),
    Change(
        "join",
        lambda w: w.doomed.rooms.join(w.new, 1, NOW_US),  # type: ignore[attr-defined]
        prepare=lambda w: setattr(w, "new", w.login(w.doomed, CYD)),
    ),
    Change("join with a second connection", lambda w: w.doomed.rooms.join(w.ann, 2, NOW_US)),
    Change("leave", lambda w: w.doomed.rooms.leave(w.ann, 1, NOW_US)),
    Change(
        "leave with one of two connections",
        lambda w: w.doomed.rooms.leave(w.ann, 2, NOW_US),
        prepare=lambda w: w.doomed.rooms.join(w.ann, 2, NOW_US),
    ),
    Change("direct", lambda w: w.doomed.rooms.direct(w.ann, BOB, "for you", NOW_US)),
    Change("payment push", lambda w: w.doomed.rooms.pay(w.ann, CYD, 7, 1, 1, NOW_US)),
)
BY_NAME = {change.name: change for change in CHANGES}
IN_SHORT = CHANGES[:3]
EXPLORED = CHANGES if ALL else IN_SHORT


@contextmanager
def world_of(change: Change) -> Iterator[World]:
    with crash.small_region(**change.capacities) as region:
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


class Checked:
    """Looks at what repairs have left, once at each state that is new."""

    def __init__(self, world: World, change: Change) -> None:
        self.world, self.change = world, change
        self.balances = world.balances()
        self.rooms = crash.Rooms(world.region)
        self.forms: dict[bytes, tuple[object, ...]] = {}

    def form(self) -> tuple[object, ...]:
        """What the repair has made of it. All invariants hold, and life goes on."""
        region = self.world.region
        image = crash.image(region)
        if image not in self.forms:
            assert crash.problems(region) == []
            assert self.rooms.follow() == []
            assert not [w for _, w in self.world.repairer.sessions.live() if not w]
            assert not any(f["connections"][0] for _, f in crash.records(region, "presence"))
            form = crash.form(region)
            self.world.repair()
            assert crash.image(region) == image, "repaired again, it is another"
            go_on(self.world, self.change, self.balances)
            self.forms[image] = form
        return self.forms[image]


def repeated_once(world: World, change: Change, before: list[int]) -> State:
    """Worker 0 is back, and so is its client with the request; answers the worker's view. The
    request has been executed once, and its answer says so."""
    successor = crash.stepped_state(world.region, 0, Stepper())
    session = world.login(successor, ANN, ANNS)
    if change.request is not None:
        head = world.doomed.log.head()
        what, txn, balance = world.repeat(successor, session, change.request)
        assert what == (DONE if txn > head else RECORDED)
        again = world.repeat(successor, session, change.request)
        assert again == (RECORDED, txn, balance)
        assert balance == before[ANN] + change.effect[ANN]
    effect = change.effect if change.request is not None else (0,) * len(before)
    assert world.balances() == [old + new for old, new in zip(before, effect, strict=True)]
    successor.sessions.end(session, LATER_US)
    return successor


def go_on(world: World, change: Change, before: list[int]) -> None:
    """Both workers do a little of everything: nothing stands in their way."""
    successor, other = repeated_once(world, change, before), world.other
    bob = world.bob
    if not other.sessions.is_live(bob):  # superseded, by one who died of it
        assert world.ask(other, bob, (DEPOSIT, 0, 1))[0] == SUPERSEDED
        other.sessions.end(bob, LATER_US)
        bob = world.login(other, BOB, BOBS)
    ann = world.login(successor, ANN, ANNS)
    req_ids = dict(world.req_ids)
    rooms = crash.Rooms(world.region)
    for n in range(3):
        assert world.ask(successor, ann, (TRANSFER, BOB, n + 1))[0] == DONE
        assert world.ask(other, bob, (TRANSFER, ANN, n + 1))[0] == DONE
        other.rooms.leave(world.ann2, 2, LATER_US)
        successor.rooms.join(ann, n + 1, LATER_US)
        other.rooms.join(bob, 1, LATER_US)
        other.rooms.send(bob, 1, "still here", LATER_US)
        assert rooms.follow() == []
        assert crash.problems(world.region) == []
        successor.rooms.leave(ann, n + 1, LATER_US)
        rooms = crash.Rooms(world.region)
    for name in ("dora", "eve"):
        try:
            user = successor.users.register(name, VERIFIER, LATER_US)
        except NameTaken:
            assert name == "dora"
            user = successor.users.find(name)
        assert successor.users.name(user) == name
        other.sessions.end(world.login(other, user), LATER_US)
    successor.rooms.direct(ann, BOB, "there?", LATER_US)
    successor.sessions.end(ann, LATER_US)
    assert crash.problems(world.region) == []
    world.req_ids = req_ids


@pytest.mark.parametrize("change", EXPLORED, ids=str)
def test_it_has_happened_or_it_has_not(change: Change) -> None:
    """Whatever step the worker and then its repair die before."""
    with world_of(change) as world:
        before, total = bytes(world.region.bytes), steps_of(world, change)
        checked, forms = Checked(world, change), []
        for n in range(1, total + 2):
            world.restore(before)
            if n <= total:
                with pytest.raises(Died):
                    act(world, change, n)
            else:  # with the answer given
                act(world, change, n)
            dead = bytes(world.region.bytes)
            steps = world.repair()
            forms.append(checked.form())
            for m in range(1, steps + 1, 1 if ALL else steps // SPREAD):
                world.restore(dead)
                with pytest.raises(Died):
                    world.repair(m - n % 2 if m > 1 else m)
                world.restore(bytes(world.region.bytes))
                world.repair()
                assert checked.form() == forms[-1], f"died in step {n}, the repair in {m}"
        print(change, total, steps, len(checked.forms), len({*forms}))
        changes = [at for at in range(1, len(forms)) if forms[at] != forms[at - 1]]
        assert len({*forms}) == len(changes) + 1, "it goes back to what it was before"
        if change.whole:
            assert len(changes) <= 1

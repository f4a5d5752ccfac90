"""Every store is a crash point: a worker dies before each step of each state change, and the repair
before each of its own.

Worker 0 dies; worker 1 works on the same accounts and in the same rooms before that, between the
death and the repair (as far as nobody holds what it needs), and afterwards. After each death the
repair must bring the state to where the change has happened or has not, with every invariant
intact, and the client that comes back and repeats its request gets it executed once.

`make test` lets each worker die before every step, and its repair before some of its own, and lets
others work after some of the deaths; `make crash-points` does all of it at each.
"""

import os
from functools import partial

import pytest

from server.core.errors import NameTaken
from server.core.ledger import DONE, RECORDED, SUPERSEDED
from server.core.state import State
from server.region.locks import InsideLock
from server.region.records import RecordKind
from tests.helpers import crash
from tests.helpers.crash import (
    ANN,
    ANNS,
    BOB,
    BOBS,
    CYD,
    DEPOSIT,
    LATER_US,
    NOW_US,
    TRANSFER,
    VERIFIER,
    Change,
    Died,
    Says,
    Stepper,
    World,
    act,
    deaths,
    kill,
    killed,
    steps_of,
    world_of,
)
from tests.helpers.crash_rooms import ROOM_CHANGES, Alters, go_on_in_rooms
from tests.helpers.crash_users import KEY, USER_CHANGES, pay
from tests.helpers.region import say, whisper

CHANGES = (*crash.CHANGES, *ROOM_CHANGES, *USER_CHANGES)
BY_NAME = {change.name: change for change in CHANGES}
ALL = os.environ.get("TRADECHAT_CRASH_POINTS") == "all"
SPREAD = 1  # steps of a repair that `make test` lets it die before, for each death
AMONG = 3  # deaths of which `make test` lets others work after one


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


def repeated_once(
    world: World, change: Change, before: list[int], between: list[int] | None = None
) -> State:
    """Worker 0 is back, and so is its client with the request; answers the worker's view. The
    request has been executed once, and its answer says so. between: what others have done to the
    balances since."""
    others = between or [0] * len(before)
    effect = list(change.effect)
    if change.request is None and world.balances()[ANN] == before[ANN] + others[ANN]:
        effect = [0] * len(before)  # it has not happened, and nobody repeats it
    after = [sum(parts) for parts in zip(before, others, effect, strict=True)]
    successor = crash.stepped_state(world.region, 0, Stepper())
    session = world.login(successor, ANN, ANNS)
    request = change.request
    if request is not None:
        successor.memberships.join(session, change.joins, LATER_US)
        newest = request.newest(successor)
        what, number, told = world.repeat(successor, session, request)
        assert what == (DONE if number > newest else RECORDED)
        if isinstance(request, Says | crash.Publishes):
            assert told == (LATER_US if what == DONE else NOW_US), "when it was executed"
        elif not isinstance(request, Alters):
            balance = told[0] if isinstance(told, tuple) else told
            expected = after[ANN] if what == DONE else before[ANN] + effect[ANN]
            assert balance == expected, "what it was when it was executed"
        assert world.repeat(successor, session, request) == (RECORDED, number, told)
        traces = crash.traces(world.region, ANNS, world.req_ids[ANN])
        # What others have done meanwhile may have taken its places in the rings.
        assert traces == request.leaves or (between and traces < request.leaves)
    assert world.balances() == after
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
        assert world.ask(other, bob, (TRANSFER, ANN, n + 1))[0] == DONE
        assert world.ask(successor, ann, (TRANSFER, BOB, n + 1))[0] == DONE
        if other.sessions.is_live(world.ann2):
            other.memberships.leave(world.ann2, 2, LATER_US)
        successor.memberships.join(ann, n + 1, LATER_US)
        other.memberships.join(bob, 1, LATER_US)
        say(other, bob, 1, "still here", LATER_US)
        assert rooms.follow() == []
        assert crash.problems(world.region) == []
        successor.memberships.leave(ann, n + 1, LATER_US)
        rooms = crash.Rooms(world.region)
    for name in ("dora", "eve"):
        try:
            user = successor.users.register(name, VERIFIER, LATER_US)
        except NameTaken:
            assert name == "dora"
            user = successor.users.find(name)
        assert successor.users.name(user) == name
        other.sessions.end(world.login(other, user), LATER_US)
    whisper(successor, ann, BOB, "there?", LATER_US)
    if change.named:
        go_on_in_rooms(world, successor, ann, bob)
    successor.sessions.end(ann, LATER_US)
    assert crash.problems(world.region) == []
    world.req_ids = req_ids


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_it_has_happened_or_it_has_not(change: Change) -> None:
    """Whatever step the worker and then its repair die before."""
    with world_of(change) as world:
        checked, forms = Checked(world, change), []
        for n in deaths(world, change):
            dead = bytes(world.region.bytes)
            steps = world.repair()
            forms.append(checked.form())
            every = 1 if ALL else steps // SPREAD
            for m in range(1 + n % every, steps + 1, every):
                world.restore(dead)
                with pytest.raises(Died):
                    world.repair(m)
                world.forget()
                world.repair()
                assert checked.form() == forms[-1], f"died in step {n}, the repair in {m}"
        changes = [at for at in range(1, len(forms)) if forms[at] != forms[at - 1]]
        assert len({*forms}) == len(changes) + 1, "it goes back to what it was before"
        if change.forms:
            assert len(changes) + 1 == change.forms


def between(world: World) -> list[int]:
    """What worker 1 does after the death of worker 0, before anybody has noticed it: as much as it
    finds the locks free for. Answers what that does to the balances."""
    region, other = world.region, world.other
    locks, effect = other.locks, [0] * len(world.balances())
    accounts = {locks.account(ANN), locks.account(BOB)}
    if crash.free(region, *accounts, locks.log) and other.sessions.is_live(world.bob):
        assert world.ask(other, world.bob, (TRANSFER, ANN, 7))[0] == DONE
        effect[BOB], effect[ANN] = -7, 7
    is_free = crash.free(region, locks.account(CYD), locks.log)
    if is_free and other.sessions.is_live(world.cyd):
        for n in range(region.layout.capacities.txn_ring + 1):  # what was in the ring has gone
            what, _, _ = other.ledger.execute(world.cyd, DEPOSIT, 0, 1, n + 1, False, NOW_US)
            assert what == DONE
            effect[CYD] += 1
    speaks = locks.account(BOB), locks.event
    place = other.events.has_place_to_leave  # of others as well, here
    if place() and crash.free(region, *speaks) and other.sessions.is_live(world.bob):
        say(other, world.bob, 1, "meanwhile", NOW_US)
    if crash.free(region, locks.registry, locks.event):
        if place() and other.sessions.is_live(world.cyd):
            other.memberships.join(world.cyd, 1, NOW_US)
        if place() and other.sessions.is_live(world.ann2):
            other.memberships.leave(world.ann2, 2, NOW_US)
    return effect


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_others_work_between_the_death_and_the_repair(change: Change) -> None:
    with world_of(change) as world:
        before, req_ids = world.balances(), dict(world.req_ids)
        rooms, worked = crash.Rooms(world.region), 0
        for n in deaths(world, change):
            if not ALL and n % AMONG != 1:
                continue
            world.req_ids = dict(req_ids)
            effect = between(world)
            worked += any(effect)
            world.repair()
            assert crash.problems(world.region) == [], n
            assert rooms.follow() == [], n
            world.req_ids[ANN] = req_ids[ANN]
            repeated_once(world, change, before, effect)
        assert worked


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_error_inside_leaves_all_to_the_repair(change: Change) -> None:
    """Where an exception strikes inside the locks, nothing more is stored and no lock is given
    back: the process has to end, and leaves what one that was killed there leaves."""

    def fail() -> None:
        raise RuntimeError("planted")

    with world_of(change) as world:
        before = bytes(world.region.bytes)
        act(world, change, 0)
        for n in tuple(world.stepper.stores):
            world.restore(before)
            with pytest.raises(InsideLock):
                act(world, change, n, fail)
            failed = bytes(world.region.bytes)
            world.restore(before)
            with pytest.raises(Died):
                act(world, change, n)
            assert failed == bytes(world.region.bytes), n


@pytest.mark.parametrize("name", ["money is paid in", "all money is paid out"])
def test_a_command_with_a_key_is_executed_once(name: str) -> None:
    """Whatever step its worker dies before, and whoever is asked again."""
    change = BY_NAME[name]
    with world_of(change) as world:
        before, happened = world.balances(), list[bool]()
        for n in deaths(world, change):
            world.repair()
            kind = RecordKind.PAID_IN if change.effect[ANN] > 0 else RecordKind.PAID_OUT
            amount = 30 if change.effect[ANN] > 0 else 0
            again = pay(world.other, kind, amount)
            happened.append(again.recorded)
            after = [old + new for old, new in zip(before, change.effect, strict=True)]
            assert (world.balances(), again.balance) == (after, after[ANN]), n
            assert pay(world.other, kind, amount) == (again.txn, again.balance, True)
            assert crash.region_keys(world.region) == [KEY]
        assert happened == sorted(happened)
        assert {*happened} == {False, True}


@pytest.mark.parametrize("change", [BY_NAME["transfer"], BY_NAME["join"]], ids=str)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside faulthandler's watchdog
def test_a_process_that_is_killed_leaves_the_same(change: Change) -> None:
    """The same bytes as one that is given up by an exception; and so does its repair."""
    with world_of(change) as world:
        before = bytes(world.region.bytes)
        for n in deaths(world, change):
            given_up = bytes(world.region.bytes)
            if n > world.stepper.count:
                break
            world.restore(before)
            killed(partial(act, world, change, n, kill))
            assert bytes(world.region.bytes) == given_up, n
        for m in range(1, world.repair() + 1):
            world.restore(given_up)
            with pytest.raises(Died):
                world.repair(m)
            half = bytes(world.region.bytes)
            world.restore(given_up)
            killed(partial(world.repair, m, kill))
            assert bytes(world.region.bytes) == half, m


@pytest.mark.parametrize(
    "name",
    [
        "deposit",
        "transfer",
        "send",
        "direct",
        "publish",
        "transfer in a room",
        "a room is opened",
        "topic and access are set",
        "an offer of two records is added",
        "an offer in a named room is removed",
        "an offer in a named room is taken",
    ],
)
def test_a_request_and_its_repetition_elsewhere_are_one(name: str) -> None:
    """Its client has given up on worker 0, logs in at worker 1 and repeats it: at any moment at
    which it finds the locks free."""
    change, came = BY_NAME[name], set()
    assert change.request is not None
    with world_of(change) as world:
        before, total = bytes(world.region.bytes), steps_of(world, change)
        balances, other = world.balances(), world.other
        expected = [old + new for old, new in zip(balances, change.effect, strict=True)]
        needed = other.locks.account(ANN), other.locks.account(BOB), other.locks.registry

        def repeat() -> None:
            if crash.free(world.region, *needed, other.locks.log, other.locks.event):
                session = world.login(other, ANN, ANNS)
                other.memberships.join(session, change.joins, LATER_US)
                assert change.request is not None
                came.add(world.repeat(other, session, change.request)[0])

        for n in range(1, total + 1):
            world.restore(before)
            came.clear()
            what, _, _ = act(world, change, n, repeat)
            assert what == (SUPERSEDED if DONE in came else DONE), n
            assert world.balances() == expected, n
            assert crash.traces(world.region, ANNS, world.req_ids[ANN]) == change.request.leaves, n
            if n == 1:
                assert came == {DONE}
        assert crash.problems(world.region) == []


def test_the_next_death_finds_no_text_of_the_one_before() -> None:
    """A worker has died with the text of a change behind the log's head. The next one dies at any
    step of a transaction that gets the number of one of these records."""
    change = BY_NAME["an offer of two records is added"]
    with world_of(change) as world:
        region, doomed = world.region, world.doomed
        ring, head = region.layout["txn_ring"], region.log.head
        behind = [head + 1, head + 2]
        left = b""
        for _ in deaths(world, change):
            words = [region.words[ring.at(txn % ring.records)] for txn in (*behind, head + 3)]
            if words[:2] == behind and words[2] != head + 3:
                left = bytes(region.bytes)
        world.restore(left)
        world.repair()
        ann = world.login(doomed, ANN, ANNS)
        deposit = Change("deposit", lambda w: w.ask(w.doomed, ann, (DEPOSIT, 0, 9)))
        before, happened = world.balances()[ANN], []
        for n in deaths(world, deposit):
            world.repair()
            assert crash.problems(region) == [], n
            assert world.balances()[ANN] - before == 9 * (region.log.head - head), n
            happened.append(region.log.head - head)
        assert {*happened} == {0, 1}
        assert happened == sorted(happened)

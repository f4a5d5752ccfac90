"""Whether each image that an operation leaves can be repaired, and says one of two things."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from libproto.form import COMPILED, FORM, VARIABLE
from server.core import recovery
from server.core.errors import NameTaken
from server.core.ledger import DONE, RECORDED, SUPERSEDED
from server.core.session import Session
from server.region.locks import InsideLock
from tests.crash_images.histories import History, Values, Words, by_bytecode
from tests.crash_images.operations import (
    ANN,
    ANNS,
    BOB,
    BOBS,
    DEPOSIT,
    LATER_US,
    TRANSFER,
    VERIFIER,
    Operation,
    World,
    worker,
)
from tests.crash_images.tracer import trace
from tests.helpers import crash
from tests.helpers.region import say, whisper

Form = tuple[object, ...]


@dataclass
class Report:
    """What was seen of one operation."""

    name: str
    instructions: int = 0
    images: int = 0
    repaired: int = 0
    # How many images the repair brings to each state: nothing has happened, ..., all of it.
    states: list[int] = field(default_factory=list)
    torn_in_blocks: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.problems and self.repaired == self.images > 0


class Finding(Exception):
    """What does not hold."""


def examine(operation: Operation) -> Report:
    """Step through it, and repair every image. NotPermitted, TraceError."""
    report = Report(operation.name)
    with crash.small_region(**operation.capacities) as region:
        blank = bytes(region.bytes)
        world = World(region, operation)
        before = bytes(region.bytes)

        if FORM.name == COMPILED:
            stored = stored_interpreted(operation)
            operation.run(world)
        else:
            stored = stored_here(operation, world)

        region.bytes[:] = blank
        found = History(region)

        def stepped() -> None:
            if found.look():
                operation.meanwhile(world)

        def prepare() -> Callable[[], object]:
            return partial(operation.run, World(region, operation))

        report.instructions = trace(prepare, stepped)
        report.images = len(found.images)
        words = Words(region.layout)
        if next(iter(found.images)) != before:
            report.problems.append("the process begins with another image than the tracer")
        torn, report.torn_in_blocks = words.torn(found.values, stored)
        report.problems += [f"torn store: {line}" for line in torn]

        region.bytes[:] = before
        _Judge(world, operation, words, report, blank).judge(found.images)
    return report


def stored_here(operation: Operation, world: World) -> Values:
    """What the operation stores in this process, which runs interpreted."""
    stored = History(world.region)
    by_bytecode(partial(operation.run, world), stored.look)
    return stored.values


def stored_interpreted(operation: Operation) -> Values:
    """The same, in a process of its own: compiled code is to store nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash_images", "--values", operation.name],
        env={**os.environ, VARIABLE: "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {int(word): values for word, values in json.loads(done.stdout).items()}


class _Judge:
    def __init__(
        self, world: World, operation: Operation, words: Words, report: Report, blank: bytes
    ) -> None:
        """blank: an image in which all semaphores are fresh."""
        self._blank = blank
        self._world, self._operation, self._words = world, operation, words
        self._report: Final = report
        self._rooms = crash.Rooms(world.region)
        self._balances, self._numbers = world.balances(), world.numbers()
        self._passed: set[bytes] = set()
        self._read: dict[tuple[str, int], object] = {}  # by ring and number

    def judge(self, images: dict[bytes, int]) -> None:
        report, last = self._report, b""
        forms, firsts, facts = list[Form](), list[int](), []
        for image, instruction in images.items():
            self._world.region.bytes[:] = image
            try:
                self._look()
                form, fact = self._repaired()
                self._meanwhile(image, fact[0])
            except (Exception, InsideLock) as error:  # noqa: BLE001 - it is what was looked for
                what = "; ".join(filter(None, (str(error), str(error.__cause__ or ""))))
                changed = ", ".join(self._words.differing(image, last)) if last else "nothing"
                report.problems.append(
                    f"image of instruction {instruction} ({changed} changed): "
                    f"{type(error).__name__}: {what}"
                )
            else:
                report.repaired += 1
                if not forms or form != forms[-1]:
                    if form in forms:
                        report.problems.append(
                            f"image of instruction {instruction}: it goes back to what it was"
                        )
                    forms.append(form)
                    firsts.append(instruction)
                    facts.append(fact)
                    report.states.append(0)
                report.states[-1] += 1
            last = image
        if forms and len(forms) != self._operation.states:
            report.problems.append(
                f"repaired it says one of {len(forms)} things, and should of "
                f"{self._operation.states}: each first at instruction "
                f"{', '.join(map(str, firsts))}"
            )
        if facts:
            report.problems += self._effect(facts)

    def _effect(self, facts: list[tuple[list[int], tuple[int, int]]]) -> list[str]:
        """It has had the effect that was to be, and none before."""
        make, found = self._operation, []
        balances, (head, event) = facts[0]
        if make.states == 1:
            balances, (head, event) = self._balances, self._numbers
        elif (balances, head) != (self._balances, self._numbers[0]):
            found.append("where nothing has happened there is a transaction")
        expected = [balance + make.gains.get(user, 0) for user, balance in enumerate(balances)]
        numbers = head + make.transactions, event + make.events
        if facts[-1] != (expected, numbers):
            found.append(
                "it ends with these balances and newest numbers of the log and of room 1: "
                f"{facts[-1]}, and should with {(expected, numbers)}"
            )
        return found

    def _repaired(self) -> tuple[Form, tuple[list[int], tuple[int, int]]]:
        """What the repair makes of the image that stands there. Raises where that is not right."""
        world, region = self._world, self._world.region
        self._repair()
        image = crash.image(region)
        if found := [*crash.problems(region), *self._rooms.follow()]:
            raise Finding("; ".join(found))
        if taken := self._words.semaphores(bytes(region.bytes), self._blank):
            raise Finding(f"not as fresh: {', '.join(taken)}")
        if ours := [slot for slot, of in world.other.sessions.live() if of == 0]:
            raise Finding(f"the sessions {ours} outlive their worker")
        form, facts = crash.form(region), (world.balances(), world.numbers())
        self._repair()
        if crash.image(region) != image:
            changed = self._words.differing(crash.image(region), image)
            raise Finding(f"repaired again it is another, in {', '.join(changed)}")
        if image not in self._passed:
            self._go_on(facts[0])
            self._passed.add(image)
        return form, facts

    def _look(self) -> None:
        """Readers take no lock: what they find of a transaction or an event is all of it, and the
        same whenever they look."""
        other = self._world.other
        log, events = other.log, other.events
        found: dict[tuple[str, int], object] = {}
        found |= {("transaction", txn): log.read(txn) for txn in range(1, log.head() + 1)}
        found |= {("event", n): events.read(n) for n in range(1, events.head() + 1)}
        for what, content in found.items():
            if content is not None and self._read.setdefault(what, content) != content:
                raise Finding(f"who reads {what[0]} {what[1]} finds another than before")

    def _repair(self) -> None:
        recovery.repair([worker(self._world.region, 0)], LATER_US)
        self._world.finish()

    def _meanwhile(self, image: bytes, balances: list[int]) -> None:
        """The other worker uses the locks that are free before the repair has begun: what it does
        is not undone. balances: as the repair leaves them without that."""
        world, region = self._world, self._world.region
        if self._operation.states == 1:  # the repair is on, and all stand still
            return
        region.bytes[:] = image
        locks = world.other.locks
        if not world.other.sessions.is_live(world.bob):
            return
        counted, expected = dict(world.req_ids), list(balances)
        if crash.free(region, locks.account(ANN), locks.account(BOB), locks.log):
            if world.ask(world.other, world.bob, (TRANSFER, ANN, 1))[0] != DONE:
                raise Finding("nobody holds the locks, and it cannot transfer")
            expected[ANN], expected[BOB] = expected[ANN] + 1, expected[BOB] - 1
        if crash.free(region, locks.account(BOB), locks.event):
            say(world.other, world.bob, 1, "meanwhile", LATER_US)
        self._repair()
        found = [*crash.problems(region), *self._rooms.follow()]
        if world.balances() != expected:
            found.append(f"the balances are {world.balances()}, and should be {expected}")
        if found:
            raise Finding(f"after the other worker went on before the repair: {'; '.join(found)}")
        world.req_ids = counted

    def _go_on(self, balances: list[int]) -> None:
        """The other worker takes over: nobody waits for a lock, or the clock raises."""
        world, other, request = self._world, self._world.other, self._operation.request
        counted = dict(world.req_ids)
        ann = world.login(other, ANN, ANNS)
        if request is not None:
            other.memberships.join(ann, self._operation.joins, LATER_US)
            self._ask_again(ann, balances)
        if not other.sessions.is_live(world.bob):  # superseded by one who died of it
            if world.ask(other, world.bob, (DEPOSIT, 0, 1))[0] != SUPERSEDED:
                raise Finding("a session that is superseded moves money")
            other.sessions.end(world.bob, LATER_US)
            bob = world.login(other, BOB, BOBS)
        else:
            bob = world.bob
        rooms = crash.Rooms(world.region)
        for session, payee in ((ann, BOB), (bob, ANN)):
            if world.ask(other, session, (TRANSFER, payee, 1))[0] != DONE:
                raise Finding(f"user {session.user} cannot transfer")
            other.memberships.join(session, 1, LATER_US)
            seq = other.events.last_seq(1) + 1
            if say(other, session, 1, "still here", LATER_US)[0] != seq:
                raise Finding("a message has not the next number")
        other.memberships.leave(ann, 1, LATER_US)
        whisper(other, ann, BOB, "there?", LATER_US)
        try:
            user = other.users.register("dora", VERIFIER, LATER_US)
        except NameTaken:
            user = other.users.find("dora")
        other.sessions.end(world.login(other, user), LATER_US)
        other.sessions.end(ann, LATER_US)
        if found := [*crash.problems(world.region), *rooms.follow()]:
            raise Finding(f"going on: {'; '.join(found)}")
        world.req_ids = counted

    def _ask_again(self, ann: Session, balances: list[int]) -> None:
        """The client's repeated request is executed once, and answered with what it did."""
        world, request, gains = self._world, self._operation.request, self._operation.gains
        assert request is not None
        newest, mine = request.newest(world.other), (ANNS, world.req_ids[ANN])
        happened = crash.traces(world.region, *mine) == request.leaves
        if gains and happened != (balances != self._balances):
            raise Finding("the rings and the balances do not agree on whether it has happened")
        what, number, told = world.repeat(world.other, ann, request)
        if (what, number > newest) != ((RECORDED, False) if happened else (DONE, True)):
            raise Finding(f"the repeated request is answered {(what, number, told)}")
        if world.repeat(world.other, ann, request) != (RECORDED, number, told):
            raise Finding("asked once more it is answered otherwise")
        if (found := crash.traces(world.region, *mine)) != request.leaves:
            raise Finding(f"it has left {found} records and events")
        expected = [before + gains.get(user, 0) for user, before in enumerate(self._balances)]
        balance = told[0] if isinstance(told, tuple) else told
        if world.balances() != expected or (gains and balance != expected[ANN]):
            raise Finding(f"the balances are {world.balances()}, and should be {expected}")

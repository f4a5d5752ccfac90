"""What the repair finds and does, several deaths at once, those who wait meanwhile, and the
master's part of it. Every single crash point is in test_crash_points.py."""

import ctypes
import json
import mmap
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from libproto.messages import TxnKind
from server.core import check
from server.core.ledger import DONE, FUNDS, RECORDED
from server.core.session import Session
from server.core.state import State
from server.region.locks import fresh_semaphore, unfree_locks
from server.region.records import OFFSETS, RecordKind
from server.region.region import Region
from tests.helpers import crash
from tests.helpers.crash import (
    ANN,
    ANNS,
    BOB,
    BOBS,
    BY_NAME,
    CYD,
    DEPOSIT,
    IDLE,
    NOW_US,
    TRANSFER,
    VERIFIER,
    WITHDRAW,
    Died,
    Stepper,
    World,
    deaths,
    killed,
    world_of,
)
from tests.helpers.form import stores_are_seen
from tests.helpers.region import children, login, pause
from tests.helpers.server import RunningServer, wait_until

AT = OFFSETS[RecordKind.TRANSFER]
TXN_KINDS = tuple(map(int, TxnKind))
RING = 1 << 16


def repaired(world: World, *states: State) -> Counter[str]:
    """What the repair says, and what it has added to the region's record of repairs."""
    [(_, before)] = crash.records(world.region, "repairs")
    done = crash.repair(list(states) or [world.repairer], NOW_US)
    [(_, after)] = crash.records(world.region, "repairs")
    assert {name: after[name][0] - before[name][0] for name in after} == dict.fromkeys(
        after, 0
    ) | dict(done)
    return done


def test_a_worker_that_held_nothing_leaves_its_sessions() -> None:
    with world_of(BY_NAME["transfer"]) as world:
        before = world.doomed.events.head()
        done = repaired(world)
        assert done == Counter(repairs=1, deaths=1, ended=2)
        assert world.doomed.events.head() == before, "a repair waits for no place"
        assert not world.doomed.sessions.is_live(world.ann)
        assert crash.problems(world.region) == []
        world.finish()
        events = crash.events_of(world.region)[-2:]
        assert [(event[1], event[2], event[4]) for event in events] == [(2, 1, ANN), (2, 3, ANN)]
        assert crash.problems(world.region) == []
        assert repaired(world) == Counter(repairs=1, deaths=1)


def test_a_repair_waits_for_no_place() -> None:
    """With no place for events, and nobody who makes one, it ends nevertheless."""
    with world_of(BY_NAME["transfer"]) as world:
        world.fill_events()
        head = world.region.events.head
        assert repaired(world) == Counter(repairs=1, deaths=1, ended=2)
        assert world.region.events.head == head
        assert world.region.registry.ending_sessions == 2
        assert crash.problems(world.region) == []
        for left in (1, 2):
            world.fill_events(1)
            world.other.sessions.finish_ended(NOW_US)
            assert world.region.events.head == head + left
            assert crash.problems(world.region) == []
        world.finish()
        assert [event[1:5:3] for event in crash.events_of(world.region, head)] == [[2, ANN]] * 2


def test_what_is_found_is_counted() -> None:
    """Each at some death, and nothing else."""
    seen: dict[str, set[tuple[int, ...]]] = {}
    for name in ("transfer", "send", "join", "register"):
        with world_of(BY_NAME[name]) as world:
            for _ in deaths(world, BY_NAME[name]):
                taken = len(unfree_locks(world.region))
                done = repaired(world)
                assert done["freed"] == taken
                found = done["redone"], done["discarded"], done["completed"], done["rebuilt"]
                seen.setdefault(name, set()).add(found)
    nothing = (0, 0, 0, 0)
    assert seen == {
        "transfer": {nothing, (0, 1, 0, 0), (1, 0, 0, 0)},
        "send": {nothing, (0, 0, 1, 0)},
        "join": {nothing, (0, 0, 0, 1), (0, 0, 1, 1)},
        "register": {nothing, (0, 0, 0, 1), (0, 1, 0, 1), (1, 0, 0, 1)},
    }


def test_the_count_of_a_waiter_who_was_killed_goes() -> None:
    """It would make every post a system call for ever."""
    with world_of(BY_NAME["transfer"]) as world:
        words, at = world.region.words, world.region.layout["account_locks"].at(BOB, "lock")
        words[at] += 1 << 32
        assert repaired(world)["freed"] == 1
        assert words[at : at + 4].tolist() == fresh_semaphore()


@pytest.mark.parametrize("swapped", [False, True])
def test_two_that_died_at_once(swapped: bool) -> None:
    """One in a transfer, the other in a deposit to a third account or in a room."""
    change, both = BY_NAME["transfer"], 0
    with world_of(change) as world:
        stepper = Stepper()
        third = crash.stepped_state(world.region, 2, stepper)
        cyd = world.login(third, CYD, IDLE)
        third.memberships.join(cyd, 2, NOW_US)
        balances, rooms = world.balances(), crash.Rooms(world.region)
        works: tuple[tuple[Callable[[], Any], tuple[Any, ...]], ...] = (
            (
                lambda: third.ledger.execute(cyd, DEPOSIT, 0, 9, 1, False, NOW_US),
                (third.locks.account(CYD), third.locks.log),
            ),
            (
                lambda: third.memberships.leave(cyd, 2, NOW_US),
                (third.locks.registry, third.locks.event),
            ),
        )
        for work, needed in works:
            before = bytes(world.region.bytes)
            stepper.arm(0)
            work()
            total = stepper.count
            world.restore(before)
            for n in deaths(world, change):
                dead = bytes(world.region.bytes)
                if not crash.free(world.region, *needed):
                    continue
                for m in range(1 + n % 6, total + 1, 6):
                    world.restore(dead)
                    assert isinstance(third.locks, crash.SteppedLocks)
                    third.locks.forget()
                    stepper.arm(m)
                    with pytest.raises(Died):
                        work()
                    third.locks.forget()
                    both += 1
                    stepper.arm(0)
                    states = [third, world.repairer] if swapped else [world.repairer, third]
                    assert repaired(world, *states)["ended"] == 3
                    assert crash.problems(world.region) == []
                    assert rooms.follow() == []
                    paid = balances[ANN] - world.balances()[ANN]
                    assert paid in (0, 30)
                    assert world.balances()[BOB] - balances[BOB] == paid
                    assert world.balances()[CYD] - balances[CYD] in (0, 9)
                    third.locks.forget()
            world.restore(before)
        assert both > 50


def test_a_client_whose_superseding_login_died_is_not_idle() -> None:
    """It had a session until just now: its slot is not given to another."""
    change = BY_NAME["login that supersedes another worker's session"]
    with world_of(change) as world:
        world.lived = later = world.lived + 10 * crash.RETENTION_S * 1_000_000
        fields = dict(crash.records(world.region, "sessions"))[world.bob.slot]
        before = bytes(world.region.bytes)
        for n in range(1, 100):
            world.restore(before)
            world.stepper.arm(n)
            try:
                world.login(world.doomed, BOB, BOBS)
            except Died:
                world.forget()
                crash.repair([world.repairer], NOW_US)
                client = dict(crash.records(world.region, "clients"))[fields["client"][0] - 1]
                assert client["session"][0] or client["idle_since"][0] == later, n
            else:
                break
        assert n < 99


# ---- an error inside, a recovery while waiting


def test_after_a_recovery_everything_is_read_again() -> None:
    """Worker 0 has checked the funds and waits for the log when a recovery comes; meanwhile they
    are spent. It must not go on with what it had read."""
    with world_of(BY_NAME["transfer"]) as world:
        region, other = world.region, world.other
        recovery = region.layout["header"].at(0, "recovery")
        ticks = 0

        def clock_ns() -> int:
            nonlocal ticks
            ticks += 1
            assert ticks < 100, "the recovery word is not looked at"
            if ticks == 3:
                region.words[recovery] = 1
            return ticks * 10_000_000

        def meanwhile(_: float) -> None:
            other.locks.release(other.locks.log)
            spent = other.ledger.execute(world.ann2, WITHDRAW, 0, 80, 1, False, NOW_US)
            assert spent[0] == DONE
            region.words[recovery] = 0

        waiting = crash.stepped_state(region, 0, Stepper(), clock_ns, meanwhile)
        ann = world.login(waiting, ANN, ANNS)
        other.locks.hold(other.locks.log)
        assert world.repeat(waiting, ann, (TRANSFER, BOB, 30), flagged=False)[0] == FUNDS
        assert crash.problems(region) == []


# ---- several processes


def trade(
    region: Region, worker: int, user: int, payee: int, looked: memoryview
) -> list[tuple[int, int, int, int]]:
    """Transfers, one after the other, until the server drains; (req_id, what, txn, balance). It is
    never further ahead of looked[0], the newest that was looked at, than the ring reaches."""
    state = State(region, worker, time.monotonic_ns, pause, crash.RETENTION_S, check_locks=True)
    session = login(state, user, worker + 1, NOW_US)
    recovery, drains = (region.layout["header"].at(0, name) for name in ("recovery", "state"))
    beat = region.layout["workers"].at(worker, "beat")
    answers: list[tuple[int, int, int, int]] = []
    while not region.words[drains]:
        if region.words[recovery]:
            state.locks.acknowledge()
        state.sessions.finish_ended(NOW_US)
        region.words[beat] += 1
        if state.log.head() - looked[0] > RING // 2:
            select.select([], [], [], 0.001)
            continue
        req_id = len(answers) + 1
        kind, to = (TRANSFER, payee) if req_id % 4 else (DEPOSIT, 0)
        answer = state.ledger.execute(session, kind, to, 3, req_id, False, NOW_US)
        answers.append((req_id, *answer))
    return answers


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside faulthandler's watchdog
def test_the_others_wait_acknowledge_and_begin_anew() -> None:
    """Worker 0 is killed before each step of a transfer while two processes work on its accounts.
    They stand still for the repair, and afterwards all is in the log, once, as it was answered."""
    stores_are_seen()
    steps, request = Stepper(), (TRANSFER, BOB, 2)
    looked = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")  # of the log; shared over forks
    with crash.small_region(workers=3, clients=8, txn_ring=RING) as region, children() as others:
        words, workers = region.words, region.layout["workers"]
        recovery, drains = (region.layout["header"].at(0, name) for name in ("recovery", "state"))
        parent = State(region, 0, time.monotonic_ns, pause, crash.RETENTION_S)
        for name in ("ann", "bob", "cyd"):
            parent.users.register(name, VERIFIER, NOW_US)

        def ask(session: Session, state: State, req_id: int, *, flagged: bool) -> tuple[int, ...]:
            return state.ledger.execute(session, *request, req_id, flagged, NOW_US)

        ann = login(parent, ANN, ANNS, NOW_US)
        parent.ledger.execute(ann, DEPOSIT, 0, 1_000_000, 1, False, NOW_US)
        parent.sessions.end(ann, NOW_US)

        def die(n: int) -> None:
            """Log in, repeat what was not answered, and die in the next request."""
            state = crash.stepped_state(region, 0, steps, time.monotonic_ns, pause)
            session = login(state, ANN, ANNS, NOW_US)
            if n > 1:
                assert ask(session, state, n, flagged=True)[0] in (DONE, RECORDED)
            steps.arm(n, lambda: os.kill(os.getpid(), signal.SIGKILL))
            ask(session, state, n + 1, flagged=False)
            os.kill(os.getpid(), signal.SIGKILL)

        def repair() -> None:
            recovery_of = State(region, 0, time.monotonic_ns, pause, crash.RETENTION_S)
            crash.repair([recovery_of], NOW_US)
            if check.problems(region) == []:
                os.kill(os.getpid(), signal.SIGKILL)

        working = [
            others.start(trade, region, worker, user, payee, looked)
            for worker, user, payee in ((1, BOB, ANN), (2, CYD, BOB))
        ]
        last = 60
        logged: list[tuple[int, ...]] = []

        def look() -> None:
            """At what is new in the log."""
            head = parent.log.head()
            for txn in range(looked[0] + 1, head + 1):
                record = parent.log.read(txn)
                assert record is not None
                if record[1] in TXN_KINDS:
                    logged.append(record)
            looked[0] = head

        def on_both(name: str, holds: Callable[[int, int], bool], *given: int) -> bool:
            return all(
                holds(words[workers.at(worker, name)], value)
                for worker, value in zip((1, 2), given, strict=True)
            )

        for n in range(1, last + 1):
            beats = [words[workers.at(worker, "beat")] for worker in (1, 2)]
            wait_until(partial(on_both, "beat", int.__gt__, *beats), "the others work")
            killed(partial(die, n))
            words[recovery] = n
            wait_until(partial(on_both, "ack", int.__eq__, n, n), f"they acknowledge {n}")
            killed(repair)
            look()
            words[recovery] = 0
        words[drains] = 2
        answers = [child.result() for child in working]
        ann = login(parent, ANN, ANNS, NOW_US)
        assert ask(ann, parent, last + 1, flagged=True)[0] in (DONE, RECORDED)
        assert crash.problems(region) == []
        look()
        of_ann = [record[AT["req_id"]] for record in logged if record[AT["client_id"]] == ANNS]
        assert of_ann == list(range(1, last + 2)), "each once"
        for worker, told in zip((1, 2), answers, strict=True):
            made = {
                record[AT["req_id"]]: record[0]
                for record in logged
                if record[AT["client_id"]] == worker + 1
            }
            assert made == {req_id: txn for req_id, what, txn, _ in told if what == DONE}
        balances = [0] * (CYD + 1)
        for record in logged:
            for side, sign in (("from", -1), ("to", 1)):
                user = record[AT[f"{side}_user"]]
                if user:
                    balances[user] += sign * record[AT["amount"]]
                    assert balances[user] == record[AT[f"{side}_balance"]] >= 0
        assert region.column("accounts", "balance")[: CYD + 1] == balances


# ---- the master's part


def of_worker(region: Region, slot: int, field: str) -> int:
    return region.words[region.layout["workers"].at(slot, field)]


def repairs(region: Region) -> int:
    return region.words[region.layout["repairs"].at(0, "repairs")]


def is_another(region: Region, slot: int, pid: int) -> bool:
    return of_worker(region, slot, "pid") not in (0, pid)


def kill_worker(region: Region, slot: int) -> None:
    """Kill it, and wait until its successor serves."""
    pid, before = of_worker(region, slot, "pid"), repairs(region)
    assert pid > 0, "0 would be this process and all of its group"
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: repairs(region) > before, "the repair")
    wait_until(partial(is_another, region, slot, pid), "the successor")


def test_no_epoch_is_used_twice(server: RunningServer) -> None:
    """Or who has not yet stood still for this recovery would seem to have done so."""
    region, seen = Region.attach(server.name), [0]
    try:
        for _ in range(3):
            kill_worker(region, 0)
            seen.append(of_worker(region, 1, "ack"))
        assert seen == sorted(set(seen))
    finally:
        region.close()


PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207  # ptrace(2)
PTRACE_O_TRACEEXIT, PTRACE_EVENT_EXIT = 0x40, 6
WALL = 0x40000000


def ptrace(request: int, pid: int, data: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, pid, None, data) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request:#x}) of {pid}")


@contextmanager
def stuck(pid: int) -> Iterator[None]:
    """The process stands still, and when it is killed it stays at its exit until this is over."""
    ptrace(PTRACE_SEIZE, pid, PTRACE_O_TRACEEXIT)
    ptrace(PTRACE_INTERRUPT, pid)
    os.waitpid(pid, WALL)
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH, pid)


def test_a_kill_that_was_sent_is_not_a_death(server: RunningServer) -> None:
    """A worker that does not acknowledge is killed, and takes its time to die: here it is held at
    its exit by a tracer. Nothing is repaired before it has been reaped."""
    region = Region.attach(server.name)
    try:
        pids = [of_worker(region, slot, "pid") for slot in (0, 1)]
        with stuck(pids[1]):
            os.kill(pids[0], signal.SIGKILL)
            _, status = os.waitpid(pids[1], WALL)  # the master's kill, after its deadline
            assert status >> 16 == PTRACE_EVENT_EXIT
            deadline = time.monotonic() + 0.3  # a repair takes less
            while time.monotonic() < deadline:
                assert repairs(region) == 0, "repaired while it could still store"
                pause(0.005)
        wait_until(lambda: '"workers_resumed"' in server.log_text(), "the repair")
        for slot, pid in enumerate(pids):
            wait_until(partial(is_another, region, slot, pid), "the successor")
    finally:
        region.close()
    lines = [json.loads(line) for line in server.log_text().splitlines()]
    told = [line["event"] for line in lines if line["event"] in ("process_died", "repaired")]
    assert told == ["process_died", "process_died", "repaired"]

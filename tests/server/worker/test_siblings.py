"""Connections come to the workers that have fewest, and none is lost on its way to another one."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from libproto.messages import Opcode
from server import handover
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import UPDATE_S, Status, publish, read_all
from server.worker.siblings import Siblings
from tests.helpers.region import small_region
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby, Wire

MANY = 60


def served(lobby: Lobby) -> list[int]:
    """How many connections each worker has."""
    return lobby.by_worker("connections")


def await_status(server: RunningServer, *connections: int) -> None:
    """Until the workers have said that they have so many, and every one that has looked at that
    before will look again."""
    region = Region.attach(server.name)
    after = time.monotonic_ns() // 1000 + int(UPDATE_S * 1e6)
    try:

        def told() -> bool:
            found = read_all(region, time.monotonic_ns() // 1000)
            there = [each for each in found if each.state is not WorkerState.STOPPED]
            counts = [each.connections for each in there]
            return counts == list(connections) and all(each.updated > after for each in there)

        wait_until(told, "all have said so")
    finally:
        region.close()


def connected(stack: ExitStack, server: RunningServer, count: int) -> list[Wire]:
    return [stack.enter_context(Wire(server.connect())) for _ in range(count)]


def test_a_new_worker_gets_what_comes(start_server: StartServer) -> None:
    """The kernel alone would give it a third of it, five."""
    server = start_server("--max-workers", "3")
    with Lobby(server) as lobby, ExitStack() as stack:
        for wire in connected(stack, server, MANY):
            wire.ok(Opcode.HEARTBEAT, 1)
        before = served(lobby)
        assert sum(before) >= MANY
        server.signal(signal.SIGTTIN)
        wait_until(lambda: len(server.worker_pids()) == 3, "a third one")
        await_status(server, *before[:2], 0)
        for wire in connected(stack, server, MANY // 4):
            wire.ok(Opcode.HEARTBEAT, 1)
        after = served(lobby)
        # All of them, unless the kernel has given one of the first two so few that it gives none.
        assert after[2] >= MANY // 4 * 3 // 5, (before, after)


def test_what_waits_for_a_worker_that_dies_goes_to_another_one(start_server: StartServer) -> None:
    """It has none, so a sibling gives it what comes; it is stopped, and killed: all are served. Its
    successor is in another slot, and does not look for them."""
    server = start_server("--max-workers", "2", workers=1)
    with Lobby(server) as lobby, ExitStack() as stack:
        stays = lobby.open()  # so that slot 0 is taken until the others are there
        server.signal(signal.SIGHUP)
        wait_until(lambda: '"worker_leaves"' in server.log_text(), "another one in its place")
        for wire in connected(stack, server, MANY):
            wire.ok(Opcode.HEARTBEAT, 1)
        server.signal(signal.SIGTTIN)
        wait_until(lambda: lobby.worker_pid(2) > 0, "one more")
        stays.close()
        wait_until(lambda: lobby.worker_pid(0) == 0, "slot 0 is free")
        await_status(server, MANY, 0)
        victim = lobby.worker_pid(2)
        os.kill(victim, signal.SIGSTOP)
        wires = connected(stack, server, MANY // 2)
        for wire in wires:
            wire.send(Opcode.HEARTBEAT, 1)
        os.kill(victim, signal.SIGKILL)
        for wire in wires:
            assert not wire.answer().status
        wait_until(lambda: lobby.worker_pid(0) > 0, "its successor is in slot 0")


# ---- whom it chooses, by what the workers have said


MINE, ONE, OTHER = range(3)


@dataclass
class Choice:
    """A worker of three, that accepts; and what it gives to whom."""

    region: Region
    pairs: list[tuple[socket.socket, socket.socket]]
    balances: bool = True

    def says(self, slot: int, state: WorkerState = WorkerState.BUSY, **given: int) -> None:
        """Of a worker; age_s: how long ago."""
        updated = time.monotonic_ns() // 1000 - given.pop("age_s", 0) * 1_000_000
        rest = dict.fromkeys(
            ("connections", "waiting", "memory", "requests", "lag_us", "cursor"), 0
        )
        publish(self.region, slot, Status(updated, state, **{**rest, **given}))
        self.region.words[self.region.layout["workers"].at(slot, "pid")] = 1

    def given(self, count: int, *, anyway: bool = False) -> list[int | None]:
        """To whom so many connections are given that come now; None: it serves one itself."""
        chooser = Siblings(
            self.region, MINE, [giving for _, giving in self.pairs], balances=self.balances
        )
        found: list[int | None] = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            with ours:
                if not (chooser.give_anyway if anyway else chooser.give)(theirs):
                    theirs.close()
                    found.append(None)
                    continue
                for slot, (taking, _) in enumerate(self.pairs):
                    for came in handover.take(taking, 1):
                        came.close()
                        found.append(slot)
        return found


@pytest.fixture
def choice() -> Iterator[Choice]:
    with small_region() as region, ExitStack() as stack:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        for pair in pairs:
            for each in pair:
                stack.enter_context(each)
        yield Choice(region, pairs)


def test_one_that_is_idle_comes_first(choice: Choice) -> None:
    """Though it has more connections, and more that it lacks is no reason."""
    choice.says(MINE, connections=90)
    choice.says(ONE, WorkerState.IDLE, connections=30)
    choice.says(OTHER, WorkerState.BUSY, connections=0)
    assert choice.given(3) == [ONE] * 3
    assert choice.given(1, anyway=True) == [ONE]


def test_where_connections_are_not_balanced_only_who_ends_gives_them_away(choice: Choice) -> None:
    choice.balances = False
    choice.says(MINE, connections=90)
    choice.says(ONE, connections=0)
    assert choice.given(3) == [None] * 3
    assert choice.given(1, anyway=True) == [ONE]


def test_then_who_has_fewest_frames_to_answer(choice: Choice) -> None:
    choice.says(MINE, connections=90)
    choice.says(ONE, waiting=7, connections=10)
    choice.says(OTHER, waiting=2, connections=20)
    assert choice.given(3) == [OTHER] * 3
    assert choice.given(1, anyway=True) == [OTHER]


def test_then_who_has_fewest_connections(choice: Choice) -> None:
    """What was given since counts as well."""
    choice.says(MINE, connections=90)
    choice.says(ONE, connections=10)
    choice.says(OTHER, connections=12)
    assert choice.given(6) == [ONE, ONE, ONE, OTHER, ONE, OTHER]


@pytest.mark.parametrize(
    ("state", "age_s"),
    [(WorkerState.BUSY, 31), (WorkerState.DRAINING, 0), (WorkerState.STOPPED, 0)],
)
def test_never_one_that_is_stale_or_ends(choice: Choice, state: WorkerState, age_s: int) -> None:
    choice.says(MINE, connections=90, lag_us=900_000)
    choice.says(ONE, state, age_s=age_s)
    assert choice.given(2) == [None, None]
    assert choice.given(1, anyway=True) == [None]
    choice.says(OTHER, connections=80, waiting=9)
    assert choice.given(1, anyway=True) == [OTHER]


def test_one_that_is_less_late_gets_more(choice: Choice) -> None:
    """They have as many; each of two that are late gives its part of what may be beyond that."""
    choice.says(MINE, connections=40, lag_us=90_000)
    choice.says(ONE, connections=40, lag_us=1_000)
    choice.says(OTHER, connections=40, lag_us=90_000)
    assert choice.given(20) == [ONE] * 12 + [None] * 8


@pytest.mark.parametrize(("mine", "its"), [(21_000, 2_000), (90_000, 50_000), (1_000, 90_000)])
def test_a_little_less_late_is_no_reason(choice: Choice, mine: int, its: int) -> None:
    choice.says(MINE, connections=40, lag_us=mine)
    choice.says(ONE, connections=40, lag_us=its)
    assert choice.given(3) == [None] * 3

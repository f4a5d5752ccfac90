"""Connections come to the workers that have fewest, and none is lost on its way to another one."""

import os
import signal
import time
from contextlib import ExitStack

from libproto.messages import Opcode
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import UPDATE_S, read_all
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

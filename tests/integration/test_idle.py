"""A server that has nothing to do lets the machine sleep: its processes wait for what wakes them,
and a timer of tenths of seconds shows that they are alive."""

import time
from pathlib import Path

import pytest

from libproto.messages import Opcode
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby

SPAN_S = 2.0
PER_S = 10  # wake-ups of one process


def wake_ups(pid: int) -> int:
    """How often the threads of a process have waited for something, since they began."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "voluntary_ctxt_switches":
                count += int(value)
    return count


def busy(server: RunningServer) -> dict[str, float]:
    """The processes that wake up more often than they may, over a span that begins now."""
    processes = {server.process.pid: "master", **server.children()}
    before = {pid: wake_ups(pid) for pid in processes}
    began = time.monotonic()
    time.sleep(SPAN_S)  # the span that is measured
    counts = {pid: wake_ups(pid) - before[pid] for pid in processes}
    seconds = time.monotonic() - began
    return {processes[pid]: n / seconds for pid, n in counts.items() if n > PER_S * seconds}


@pytest.mark.parametrize("durability", ["sync", "async", "none"])
def test_an_idle_server_sleeps(start_server: StartServer, durability: str) -> None:
    """Whoever is logged in and says nothing changes nothing of it."""
    server = start_server("--durability", durability)
    with Lobby(server) as lobby:
        ann, bob = lobby.enter(), lobby.enter()
        for wire in (ann, bob):
            wire.ok(Opcode.JOIN_ROOM, 1)
            wire.ok(Opcode.DEPOSIT, 1)
        ann.ok(Opcode.CHAT_SEND, 1, "hello")
        found: list[dict[str, float]] = []

        def idle() -> bool:
            """What was done is written and synced first, and on a busy machine that takes time."""
            found.append(busy(server))
            return not found[-1]

        wait_until(idle, f"wake-ups a second, of processes that have nothing to do: {found}", 20.0)


def test_an_idle_server_with_many_workers_sleeps(start_server: StartServer) -> None:
    server = start_server(workers=64)
    wait_until(lambda: not busy(server), "wake-ups a second of idle processes", 20.0)

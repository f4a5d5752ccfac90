"""What a worker says of itself, in a region and in a running server."""

import mmap
import os
import signal
import time

from libproto.messages import Opcode
from server.region.counters import ROWS
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import STALE_S, Status, read, read_all
from server.worker.reporter import Reporter, own_memory
from tests.helpers.region import set_word, small_region
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby

MIB = 1 << 20


def now_us() -> int:
    return time.monotonic_ns() // 1000


def requested(region: Region, worker: int, row: str, count: int) -> None:
    """A worker has had so many requests."""
    set_word(region, "served", worker * len(ROWS) + ROWS.index(row), "requests", count)


def test_a_worker_is_busy_while_requests_come_or_wait() -> None:
    with small_region() as region:
        reporter = Reporter(region, 1)

        def state(waiting: int = 0) -> WorkerState:
            reporter.update(waiting, 0)
            return read(region, 1, now_us()).state

        assert read(region, 1, now_us()).state is WorkerState.STARTING
        assert state(1) is WorkerState.STARTING
        reporter.serves()
        assert state() is WorkerState.IDLE
        requested(region, 1, "BALANCE", 7)
        assert state() is WorkerState.BUSY
        assert state() is WorkerState.IDLE
        assert state(waiting=1) is WorkerState.BUSY
        reporter.drains()
        assert state() is WorkerState.DRAINING
        assert state(waiting=1) is WorkerState.DRAINING


def test_what_a_status_says() -> None:
    with small_region() as region:
        set_word(region, "counters", 1, "connections", 3)
        requested(region, 1, "TRANSFER", 40)
        requested(region, 1, "OTHER", 2)
        reporter, before = Reporter(region, 1), now_us()
        for late_s in (0.001, 0.25, 0.01):
            reporter.late(late_s)
        reporter.update(17, 1234)
        found = read(region, 1, now_us())
        assert before <= found.updated <= now_us()
        assert found == Status(
            found.updated, WorkerState.STARTING, 3, 17, found.memory, 42, 250_000, 1234
        )
        assert found.memory > MIB
        reporter.update(0, 0)
        assert read(region, 1, now_us()).lag_us == 0, "the longest since the update before"


def test_memory_is_what_the_process_has_for_itself() -> None:
    with small_region(accounts=1 << 16) as region:  # some MiB, and all of it resident
        assert region.layout.size > 8 * MIB
        before = own_memory()
        with mmap.mmap(
            -1, 16 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        ) as taken:  # new pages, whatever was freed before
            for _ in range(16):  # in pieces: a large one would stay with the process for a while
                taken.write(os.urandom(MIB))
            assert len(taken) <= own_memory() - before + MIB < len(taken) + 8 * MIB


def test_the_workers_of_a_server_say_how_they_are(server: RunningServer) -> None:
    with Lobby(server) as lobby:
        wire = lobby.enter()
        worker = lobby.worker_of(wire)
        region = Region.attach(server.name)
        try:

            def connected() -> bool:
                of = read(region, worker, now_us())
                return of.connections == lobby.by_worker("connections")[worker] > 0

            wait_until(connected, "its connection is in the status")
            first, second, *others = read_all(region, now_us())
            for each in (first, second):
                assert each.state in (WorkerState.IDLE, WorkerState.BUSY)
                assert each.memory > MIB
            assert {each.state for each in others} == {WorkerState.STOPPED}

            def idle() -> bool:
                return read(region, worker, now_us()).state is WorkerState.IDLE

            wait_until(idle, "nothing more comes")
            before = read(region, worker, now_us())
            wire.ok(Opcode.JOIN_ROOM, 3)

            def busy() -> bool:
                of = read(region, worker, now_us())
                return (of.state, of.cursor) == (WorkerState.BUSY, before.cursor + 1)

            wait_until(busy, "a request was counted")
            assert read(region, worker, now_us()).requests == before.requests + 1
        finally:
            region.close()


def test_the_status_of_a_worker_that_hangs_gets_stale(server: RunningServer) -> None:
    """A stopped process updates nothing; half a minute is looked ahead, not waited for."""
    with Lobby(server) as lobby:
        region = Region.attach(server.name)
        os.kill(lobby.worker_pid(0), signal.SIGSTOP)
        try:
            later = now_us() + int((STALE_S + 5) * 1e6)
            stopped = read(region, 0, later)
            assert stopped.state is WorkerState.STALE
            first = read(region, 1, later).updated
            wait_until(lambda: read(region, 1, later).updated > first, "the other one updates")
            assert read(region, 0, later) == stopped
        finally:
            os.kill(lobby.worker_pid(0), signal.SIGCONT)
            region.close()


def test_a_slot_whose_worker_has_died_is_stopped(server: RunningServer) -> None:
    """As long as it is empty: one that dies again and again is forked after a while only."""
    with Lobby(server) as lobby:
        region = Region.attach(server.name)

        def is_empty() -> bool:
            if read(region, 0, now_us()).state is WorkerState.STOPPED:
                return True
            pid = lobby.worker_pid(0)
            if pid in server.worker_pids():
                os.kill(pid, signal.SIGKILL)
            return False

        try:
            wait_until(is_empty, "slot 0 is seen without a worker")
            wait_until(
                lambda: read(region, 0, now_us()).state is WorkerState.IDLE, "another one serves"
            )
        finally:
            region.close()


def test_a_worker_that_stops_is_draining(server: RunningServer) -> None:
    with Lobby(server) as lobby:
        region = Region.attach(server.name)
        wire = lobby.enter()
        worker = lobby.worker_of(wire)
        os.kill(server.journal_pid(), signal.SIGSTOP)  # so that an answer waits, and the worker too
        try:
            wire.send(Opcode.DEPOSIT, 5)
            wait_until(lambda: read(region, worker, now_us()).waiting == 1, "it waits for the disk")
            server.signal(signal.SIGTERM)
            wait_until(
                lambda: read(region, worker, now_us()).state is WorkerState.DRAINING, "it drains"
            )
        finally:
            os.kill(server.journal_pid(), signal.SIGCONT)
            region.close()
        assert server.wait() == 0, server.log_text()

"""A worker: one uvloop loop, its own listener, its clients, its cursor in the event ring."""

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import uvloop

import liblog
from libnet.pump import Pump
from libnet.wakeup import Wakeup
from libproto.messages import KEY_LEN
from libproto.scram import Verifier
from libproto.sealing import ServerKey
from server import handover
from server.archive.client import ArchiveClient
from server.child import BEAT_S, LEAVE, REOPEN_LOG, Report, enter, limit_of, reopen_log
from server.config import Settings
from server.core.state import State
from server.core.trail import Trails
from server.early import STOP_SIGNALS
from server.exits import Exit
from server.region.counters import index_of
from server.region.layout import ServerState
from server.region.region import Region
from server.region.status import UPDATE_S
from server.worker.audit import Audit, path_of
from server.worker.connection import Connection
from server.worker.connections import Connections
from server.worker.counters import Counters
from server.worker.dispatch import allowed
from server.worker.durable import Durable
from server.worker.fatal import FATAL, die
from server.worker.files import FilesClient
from server.worker.guesses import Guesses
from server.worker.lag import Lag
from server.worker.listeners import Listeners
from server.worker.memory import Memory
from server.worker.operators import OperatorDesk
from server.worker.overload import Class, Overload
from server.worker.places import Places
from server.worker.rates import Rates
from server.worker.reporter import Reporter
from server.worker.served import Served
from server.worker.services import Services
from server.worker.siblings import Siblings
from server.worker.subscriptions import Subscriptions
from server.worker.unknown import Unknown

FINISH_S: Final = 0.02  # between looks for sessions that have ended and are still in rooms
SWEEP_S: Final = UPDATE_S  # at most; less where a deadline is short
SPARE_FILES: Final = 8  # that a worker can open at the least, for its clients
_CHECK_LOCKS = "TRADECHAT_CHECK_LOCKS"

log = liblog.get("worker")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the master hands to a worker over the fork."""

    settings: Settings
    region: Region
    listeners: Sequence[socket.socket]
    queues: Sequence[tuple[socket.socket, socket.socket]]  # of connections given, by slot
    wakeups: Sequence[Wakeup]
    ready: int  # for its Report
    journal: Wakeup  # of the journal process
    archive: socket.socket | None  # to the archive process; None: there is none
    key: ServerKey


def services(inherited: Inherited, slot: int, loop: asyncio.AbstractEventLoop) -> Services:
    """What the connections of this worker work with."""
    settings, region = inherited.settings, inherited.region
    state = State(
        region,
        slot,
        time.monotonic_ns,
        time.sleep,
        settings.client_retention,
        max_balance=settings.max_balance,
        deposits=settings.deposits,
        transfers=(settings.min_transfer, settings.max_transfer),
        numbered_rooms=settings.numbered_rooms,
        user_sessions=settings.user_sessions,
        user_clients=settings.user_clients,
        check_locks=bool(os.environ.get(_CHECK_LOCKS)),
    )
    secret = state.users.salt_secret()
    counters = Counters(region, slot)
    counters.zero_gauges()
    overload = Overload(settings.lag_limit, settings.queue_limit, Class(settings.shed))
    for each, share in overload.shares.items():
        share.counter = counters.base + index_of(f"shed_{each}")
    archive = ArchiveClient(inherited.archive, loop) if inherited.archive else None
    durable = Durable(
        region, slot, inherited.journal, loop, in_background=settings.durability == "async"
    )
    return Services(
        settings=settings,
        loop=loop,
        state=state,
        durable=durable,
        places=Places(region, loop, state.events),
        subscriptions=Subscriptions(state, counters, inherited.wakeups, durable, loop),
        connections=Connections(region, slot, settings, counters, secret),
        counters=counters,
        served=Served(region, slot),
        rates=Rates(region, settings, counters, secret),
        audit=Audit(path_of(settings), slot),
        guesses=Guesses(region, settings, counters, secret),
        overload=overload,
        files=FilesClient(region, slot, settings, loop, counters) if inherited.archive else None,
        archive=archive,
        archive_failed=region.archive.index("failed"),
        trails=Trails(state.log.read),
        oldest={},
        rooms_epoch=region.header.epoch,
        log_id=state.users.log_id(),
        key=inherited.key,
        unknown=Unknown(state.users, loop.time, settings.scram_iterations),
        nobody=Verifier(b"", 0, os.urandom(KEY_LEN), os.urandom(KEY_LEN)),
        log=log.bind(),
    )


def _check_descriptors(fd: int) -> None:
    """OSError: so few files may be open that next to nobody could be served."""
    copies: list[int] = []
    try:
        copies.extend(os.dup(fd) for _ in range(SPARE_FILES))
    finally:
        for copy in copies:
            os.close(copy)


class Worker:
    """The life of a worker process, while it serves."""

    def __init__(
        self, inherited: Inherited, slot: int, loop: asyncio.AbstractEventLoop, memory: Memory
    ) -> None:
        self._inherited, self._slot, self._loop = inherited, slot, loop
        self._memory: Final = memory
        region = inherited.region
        self._words: Final = region.words
        self._reporter: Final = Reporter(region, slot)
        self._services: Final = services(inherited, slot, loop)
        self._wakeup: Final = inherited.wakeups[slot]
        table, pump = allowed(self._services), Pump(loop)
        self._lag: Final = Lag(
            loop,
            self._services.overload,
            self._services.durable,
            self._services.counters,
            self._reporter,
        )
        pump.tell_of_long_turns(self._lag.suspect_us, self._lag.suspect)
        pump.tell_of_no_memory(memory.ran_out)
        self._listeners: Final = Listeners(
            region,
            slot,
            inherited.listeners,
            inherited.queues[slot][0],
            Siblings(
                region,
                slot,
                [sending for _, sending in inherited.queues],
                balances=inherited.settings.balance == "on",
            ),
            pump,
            lambda peer: Connection(self._services, table, peer),
            OperatorDesk(self._services).serve,
            memory,
        )
        self._workers: Final = region.layout["workers"]
        self._recovery = region.header.index("recovery")
        self._server_state = region.header.index("state")
        self._master = region.header.index("master_pid")
        self._beat = self._workers.at(slot, "beat")
        self._ack = self._workers.at(slot, "ack")
        self._recovered = self._words[self._ack]
        self._ended = region.registry.index("ending_sessions")
        self._finished_at = 0.0
        self._tick_due = time.monotonic()

    async def serve(self, report: Report) -> None:
        """Until SIGTERM or LEAVE, and then in order to the end."""
        loop, words, slot = self._loop, self._words, self._slot
        told, stop = asyncio.Event(), asyncio.Event()

        def end() -> None:
            stop.set()
            told.set()

        loop.add_signal_handler(signal.SIGTERM, end)
        loop.add_signal_handler(LEAVE, told.set)
        signal.signal(REOPEN_LOG, self._reopen)
        # The master forked with them blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS, LEAVE})
        loop.add_reader(self._wakeup.fileno(), self._woken)
        self._tick()
        self._sweep()
        _check_descriptors(self._wakeup.fileno())
        words[self._workers.at(slot, "pid")] = os.getpid()
        words[self._workers.at(slot, "started")] = self._services.now()
        self._reporter.serves()
        self._report()
        report.serves()
        await told.wait()
        self._listeners.close()
        self._reporter.drains()
        self._report()
        connections, durable = self._services.connections, self._services.durable
        log.info("worker_stopping", connections=len(connections))
        if not stop.is_set():
            connections.announce(
                self._services.settings.drain_timeout, "another worker has the place of this one"
            )
            await connections.until_gone(loop, stop.is_set)
        if stop.is_set() and self._is_followed():
            queue = self._inherited.queues[slot][1]
            self._listeners.leave_queue()
            connections.give_untouched(lambda fd: handover.give_copy(queue, fd))
            connections.announce(0, "another server takes the place of this one")
            finish = connections.hand_over
        else:
            connections.announce(0, "the server is stopping")
            finish = connections.drain
        await finish(loop, lambda: durable.waits, durable.abort_waiting)

    def _reopen(self, *_: object) -> None:
        """SIGUSR1: the log, and the audit log."""
        reopen_log()
        self._services.audit.reopen()

    def _is_followed(self) -> bool:
        """Is another server to take the place of this one? Where the master was killed, as whoever
        starts it again will have it: its clients are refused nothing."""
        words = self._words
        has_master = os.getppid() == words[self._master]
        return words[self._server_state] == ServerState.HANDING_OVER or not has_master

    def _woken(self) -> None:
        self._wakeup.clear()
        self._look()

    def _tick(self) -> None:
        """Show the master that this worker is alive, and look for what nobody woke it for."""
        self._words[self._beat] += 1
        late_s = time.monotonic() - self._tick_due
        self._reporter.late(late_s)
        self._lag.glance(late_s)
        self._look()
        self._tick_due = time.monotonic() + BEAT_S
        self._loop.call_later(BEAT_S, self._tick)

    def _look(self) -> None:
        """At what others may want of this worker."""
        words, services = self._words, self._services
        if words[self._recovery]:
            services.state.locks.acknowledge()
        if words[self._ack] != self._recovered:
            # A login may have died between its mark and the word that tells of it.
            self._recovered = words[self._ack]
            services.subscriptions.end_superseded()
        if words[self._ended] and (now := self._loop.time()) - self._finished_at > FINISH_S:
            self._finished_at = now
            services.subscriptions.finish_ended(services.now())
        self._listeners.host()
        if services.archive is not None and words[services.archive_failed]:
            services.archive.give_up()
        if services.files is not None:
            services.files.poll()
        services.subscriptions.poll()

    def _sweep(self) -> None:
        """Close the connections that are past a deadline; end where the master has ended; say how
        this worker is."""
        services, loop = self._services, self._loop
        services.connections.sweep(loop.time())
        self._memory.restore()
        self._report()
        services.state.locks.check_master()
        settings = services.settings
        every = min(SWEEP_S, settings.idle_timeout / 4, settings.handshake_timeout / 4)
        loop.call_later(every, self._sweep)

    def _report(self) -> None:
        services = self._services
        self._reporter.update(services.connections.waiting(), services.subscriptions.cursor)


def run(inherited: Inherited, slot: int, master: int) -> NoReturn:
    """The whole life of a worker process, after its fork. Ends the process."""
    code, report = Exit.OK, Report(inherited.ready, slot)
    try:
        enter(inherited.settings, f"worker {slot}", master, worker=slot)
        # What the master made stays as it is: no collection walks it, no page of it is copied.
        gc.freeze()
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        memory = Memory()
        worker = Worker(inherited, slot, loop, memory)

        def failed(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
            error = context.get("exception")
            if isinstance(error, FATAL):
                die(error)
            if isinstance(error, MemoryError):
                memory.end(error)
            log.error("callback_crashed", message=context.get("message"), exc_info=error)

        loop.set_exception_handler(failed)
        loop.run_until_complete(worker.serve(report))
        loop.close()
    except FATAL as error:
        die(error)
    except BaseException as error:
        code = Exit.FAILED
        if not report.served and (limit := limit_of(error)):
            report.fails(limit)
        else:
            log.error("worker_crashed", exc_info=error)
    finally:
        os._exit(code)

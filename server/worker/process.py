"""A worker: one uvloop loop, its own listener, its clients, its cursor in the event ring."""

import asyncio
import gc
import os
import resource
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import uvloop

import liblog
from libnet.wakeup import Wakeup
from libproto.codec import error_frame
from libproto.errors import Status
from libproto.messages import KEY_LEN, Capability, Opcode
from libproto.messages import State as Phase
from libproto.scram import Verifier
from server import __version__
from server.archive.client import ArchiveClient
from server.child import STOP_SIGNALS, enter
from server.config import Settings
from server.core.rooms import Touched
from server.core.session import Session
from server.core.state import State
from server.region.counters import index_of
from server.region.locks import InsideLock, MasterGone
from server.region.records import OFFSETS, RecordKind
from server.region.region import Region
from server.worker.connection import Connection
from server.worker.dispatch import Peer, allowed
from server.worker.fanout import Fanout

POLL_S: Final = 0.01  # a wake-up that was lost costs this much
SWEEP_S: Final = 1.0  # at most; less where a deadline is short
DRAIN_S: Final = 0.001  # at a stop: between looks whether all is answered
SHED_S: Final = 0.1  # at a stop: how long requests that come later are still answered
BACKLOG: Final = 1024  # connections that wait to be accepted
EXIT_FAILED: Final = 70  # EX_SOFTWARE: the state may be half-changed
_CHECK_LOCKS = "TRADECHAT_CHECK_LOCKS"
_TO_BALANCE = OFFSETS[RecordKind.TRANSFER]["to_balance"]

log = liblog.get("worker")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the master hands to a worker over the fork."""

    settings: Settings
    region: Region
    listeners: Sequence[socket.socket]
    wakeups: Sequence[Wakeup]
    ready: int  # a pipe: one byte is written when this worker serves
    journal: Wakeup  # of the journal process
    archive: socket.socket | None  # to the archive process; None: there is none


Parked = bytes | Callable[[], bytes | None]
"""An answer, or what makes one."""


class Worker:
    """What its connections share."""

    def __init__(self, inherited: Inherited, slot: int, loop: asyncio.AbstractEventLoop) -> None:
        settings = inherited.settings
        self.settings: Final = settings
        self.slot: Final = slot
        self.loop: Final = loop
        # What this slot's worker before counted as open went with it.
        gauges = inherited.region.layout["counters"].at(slot)
        for gauge in ("connections", "sessions"):
            inherited.region.words[gauges + index_of(gauge)] = 0
        self.state: Final = State(
            inherited.region,
            slot,
            time.monotonic_ns,
            time.sleep,
            settings.client_retention,
            check_locks=bool(os.environ.get(_CHECK_LOCKS)),
        )
        self.words: Final = inherited.region.words
        self.counters: Final = self.state.counters
        self.allowed: Final = allowed(self.counters)
        self.fanout: Final = Fanout(self.state)
        self.execute: Final = self.state.ledger.execute
        self.watched: Final = self.state.rooms.watched
        header = inherited.region.layout["header"]
        self.epoch: Final = self.words[header.at(0, "epoch")]
        self.log_id: Final = self.state.users.log_id()
        self.released: Final = inherited.region.layout["log"].at(0, "released")
        self.archive: Final = ArchiveClient(inherited.archive, loop) if inherited.archive else None
        self.archive_failed: Final = inherited.region.layout["archive"].at(0, "failed")
        self._parked: deque[tuple[int, Connection | None, Parked]] = deque()
        self._journal: Final = inherited.journal
        journal = inherited.region.layout["journal"]
        self._journal_waits: Final = journal.at(0, "waiting")
        self._failed: Final = journal.at(0, "failed")
        self.server_name: Final = f"tradechat/{__version__}"
        self.capabilities: Final = int(Capability.PAYMENTS)
        # Whoever is not registered is checked against this: the same work, and no proof fits it.
        self.nobody: Final = Verifier(b"", 0, os.urandom(KEY_LEN), os.urandom(KEY_LEN))
        # Bound once, after `configure`: a call below the level then costs next to nothing.
        self.log: Final = log.bind()
        self.draining = False
        self.guarded = settings.rate_limit > 0
        self.connections: dict[Connection, None] = {}
        self._wakeups: Final = inherited.wakeups
        self._recovery = header.at(0, "recovery")
        workers = inherited.region.layout["workers"]
        self._beat = workers.at(slot, "beat")
        self._ack = workers.at(slot, "ack")
        self._has_parked = workers.at(slot, "parked")
        self.words[self._has_parked] = 0
        self._recovered = self.words[self._ack]
        self._hosts = [workers.at(other, "host") for other in range(workers.records)]
        self._hosted: dict[int, asyncio.AbstractServer | None] = {}
        self._listeners: Final = inherited.listeners
        self._waking: set[int] = set()
        self._wake_scheduled = False
        open_word = inherited.region.layout["counters"]
        at = index_of("connections")
        self._open = [open_word.at(worker) + at for worker in range(open_word.records)]
        self._accepted = self.counters + index_of("accepted")
        self._sessions = self.counters + index_of("sessions")

    # ---- for connections and handlers

    def now(self) -> int:
        """Microseconds since the Unix epoch."""
        return time.time_ns() // 1000

    def count(self, name: str) -> None:
        self.words[self.counters + index_of(name)] += 1

    def wants_payments(self, capabilities: int) -> bool:
        return bool(capabilities & Capability.PAYMENTS)

    def connected(self, connection: Connection) -> None:
        self.connections[connection] = None
        words = self.words
        words[self._open[self.slot]] += 1
        words[self._accepted] += 1
        if sum(words[at] for at in self._open) > self.settings.max_connections:
            self.count("refused")
            connection.out.append(
                error_frame(Opcode.HELLO, 0, Status.ERR_SERVER_BUSY, "too many connections", 1000)
            )
            connection.finish()

    def disconnected(self, connection: Connection) -> None:
        connection.end_session()
        if self.connections.pop(connection, self) is None:
            self.words[self._open[self.slot]] -= 1

    def login(self, connection: Connection, user: int, username: str, client_id: int) -> Session:
        session, touched = self.state.sessions.login(
            user,
            username,
            client_id,
            connection.capabilities,
            connection.now,
        )
        connection.begin_session(session)
        self.log.debug("login", session=session.id, user=user, username=username)
        self.words[self._sessions] += 1
        self.wake(touched)
        return session

    def end_session(self, session: Session) -> None:
        self.log.debug("end of session", session=session.id, user=session.user)
        self.wake(self.state.sessions.end(session, self.now()))
        self.words[self._sessions] -= 1

    def tell_payee(self, session: Session, payee: int, txn: int, amount: int, now: int) -> None:
        """Push a PAYMENT to the payee's connections, once it is durable; it may be missed."""
        if txn > self.words[self.released]:
            self.park(txn, None, lambda: self._tell_payee(session, payee, txn, amount, now))
        else:
            self._tell_payee(session, payee, txn, amount, now)

    def _tell_payee(self, session: Session, payee: int, txn: int, amount: int, now: int) -> None:
        record = self.state.log.read(txn)
        if record is not None:
            balance = record[_TO_BALANCE]
            self.wake(self.state.rooms.pay(session, payee, txn, amount, balance, now))

    # ---- what waits for durability

    def park(self, txn: int, connection: Connection | None, what: Parked) -> None:
        """What leaves, or is done, once everything up to `txn` is durable: in the order in which
        it was parked, which is that of this worker's transactions."""
        if not self._parked:
            self.words[self._has_parked] = 1
            if txn <= self.words[self.released]:  # who made it so may not have seen the word
                self.loop.call_soon(self.release)
        self._parked.append((txn, connection, what))
        if self.words[self._journal_waits]:
            self.words[self._journal_waits] = 0
            self._journal.set()

    def release(self) -> None:
        """Let go what is durable by now."""
        parked, durable = self._parked, self.words[self.released]
        touched: dict[Connection, None] = {}
        while parked and parked[0][0] <= durable:
            _, connection, what = parked.popleft()
            if connection is not None:
                connection.pending -= 1
                touched[connection] = None
            answer = what if type(what) is bytes else what()  # type: ignore[operator] # not bytes
            if answer and connection is not None:
                connection.out.append(answer)
        if not parked:
            self.words[self._has_parked] = 0
        for connection in touched:
            connection.flush()
            connection.settle()

    # ---- pushes

    def wake(self, touched: Touched) -> None:
        """Workers with something new to push; told once a loop turn."""
        if touched:
            self._waking |= touched
            if not self._wake_scheduled:
                self._wake_scheduled = True
                self.loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._wake_scheduled = False
        for slot in self._waking:
            if slot != self.slot:
                self._wakeups[slot].set()
        self._waking.clear()
        self.fanout.poll()

    def woken(self) -> None:
        self._wakeups[self.slot].clear()
        self._look()

    def tick(self) -> None:
        """A lost wake-up costs milliseconds, not messages."""
        self.words[self._beat] += 1
        self._look()
        self.loop.call_later(POLL_S, self.tick)

    def _look(self) -> None:
        """At what others may want of this worker."""
        words = self.words
        if words[self._recovery]:
            self.state.locks.acknowledge()
        if words[self._ack] != self._recovered:
            # A login may have died between its mark and the event that tells of it.
            self._recovered = words[self._ack]
            self.fanout.end_superseded()
        self._host_siblings()
        if self._parked:
            self.release()
        if self.archive is not None and words[self.archive_failed]:
            self.archive.give_up()
        self.fanout.poll()

    def _host_siblings(self) -> None:
        """Accept on the listeners of slots that are empty, as far as the master says so."""
        for slot, at in enumerate(self._hosts):
            if (self.words[at] == self.slot + 1) == (slot in self._hosted):
                continue
            if slot in self._hosted:
                server = self._hosted.pop(slot)
                if server is not None:
                    server.close()
            else:
                self._hosted[slot] = None
                self.loop.create_task(self._accept_for(slot))

    async def _accept_for(self, slot: int) -> None:
        listener = self._listeners[slot].dup()
        server = await self.loop.create_server(lambda: Peer(self), sock=listener, backlog=BACKLOG)
        if slot in self._hosted:
            self._hosted[slot] = server
        else:
            server.close()

    def stop_hosting(self) -> None:
        for server in self._hosted.values():
            if server is not None:
                server.close()
        self._hosted.clear()

    # ---- deadlines

    def sweep(self) -> None:
        """Close the connections that are past a deadline."""
        settings, now = self.settings, self.loop.time()
        for connection in tuple(self.connections):
            if connection.active:
                connection.active = False
                connection.quiet_since = now
            outside = connection.state != Phase.AUTHENTICATED
            if now - connection.quiet_since > settings.idle_timeout or (
                outside and now - connection.outside_since > settings.handshake_timeout
            ):
                if not connection.closing:
                    self.count("timed_out")
                connection.finish()
        self.state.locks.check_master()
        every = min(SWEEP_S, settings.idle_timeout / 4, settings.handshake_timeout / 4)
        self.loop.call_later(every, self.sweep)

    # ---- the end

    async def drain(self) -> None:
        """Answer what was received, shed what comes later, flush, end."""
        deadline = self.loop.time() + self.settings.graceful_timeout
        while any(c.busy for c in self.connections) and self.loop.time() < deadline:
            await asyncio.sleep(DRAIN_S)
        self.draining = self.guarded = True
        await asyncio.sleep(min(SHED_S, self.settings.graceful_timeout))
        while self._parked and not self.words[self._failed] and self.loop.time() < deadline:
            await asyncio.sleep(POLL_S)
        for _, waiting, _ in self._parked:  # what is not durable is not answered
            if waiting is not None:
                waiting.abort()
        for connection in tuple(self.connections):
            connection.finish()
        while self.connections and self.loop.time() < deadline:
            await asyncio.sleep(POLL_S)
        for connection in tuple(self.connections):
            connection.abort()
        while self.connections:
            await asyncio.sleep(0)

    def die(self, error: BaseException) -> NoReturn:
        """The state may be half-changed, or the master is gone: no code of this process may run
        on. Not even an exit handler."""
        if not isinstance(error, MasterGone):
            log.error(
                "worker fails inside a lock: ends, so that nobody works on half a change",
                exc_info=error,
            )
        os._exit(EXIT_FAILED)


async def _serve(worker: Worker, inherited: Inherited) -> None:
    loop = worker.loop
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # the master forked with them blocked
    loop.add_reader(inherited.wakeups[worker.slot].fileno(), worker.woken)
    server = await loop.create_server(
        lambda: Peer(worker), sock=inherited.listeners[worker.slot], backlog=BACKLOG
    )
    worker.tick()
    worker.sweep()
    workers = inherited.region.layout["workers"]
    worker.words[workers.at(worker.slot, "pid")] = os.getpid()
    worker.words[workers.at(worker.slot, "started")] = worker.now()
    os.write(inherited.ready, bytes([worker.slot]))
    await stop.wait()
    log.info("worker stops", connections=len(worker.connections))
    server.close()
    worker.stop_hosting()
    await worker.drain()


def run(inherited: Inherited, slot: int, master: int) -> NoReturn:
    """The whole life of a worker process, after its fork. Ends the process."""
    settings = inherited.settings
    code = 0
    try:
        enter(settings, f"worker {slot}", master, worker=slot)
        # What the master made stays as it is: no collection walks it, no page of it is copied.
        gc.freeze()
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        worker = Worker(inherited, slot, loop)

        def failed(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
            error = context.get("exception")
            if isinstance(error, InsideLock | MasterGone):
                worker.die(error)
            log.error("error in a callback", message=context.get("message"), exc_info=error)

        loop.set_exception_handler(failed)
        loop.run_until_complete(_serve(worker, inherited))
        loop.close()
    except (InsideLock, MasterGone) as error:
        if not isinstance(error, MasterGone):
            log.error("worker fails inside a lock", exc_info=error)
        code = EXIT_FAILED
    except BaseException as error:
        log.error("worker fails", exc_info=error)
        code = 1
    finally:
        os._exit(code)


def open_files_needed(settings: Settings) -> int:
    """Descriptors that one worker may need: its share is not known before, so all of them."""
    return settings.max_connections + len(os.listdir("/proc/self/fd")) + 64


def raise_open_files(needed: int) -> int:
    """Raise the soft limit of open files as far as allowed and needed; answers the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return needed if soft == resource.RLIM_INFINITY else soft

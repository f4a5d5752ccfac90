"""Everything that the master acquires before it forks: all of it, or nothing.

Each step enters an ExitStack, so that one that fails gives back those before it, in reverse order;
what was wrong is said in one sentence. Each thing belongs to a `Part`, and a child closes the parts
that it has no use for: what a process does not have it can neither damage nor keep alive.
"""

import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from enum import Enum, auto
from typing import Final, Protocol, TypeVar

import liblog
from libnet.sockets import USER_TIMEOUT_MS, steer, tune
from libnet.wakeup import Wakeup
from libproto.sealing import ServerKey, fingerprint
from server import handover
from server.config import Settings
from server.core.state import initialise
from server.files.channel import remove_queues
from server.files.segments import remove_pools
from server.journal.directory import DataDirectory, DirectoryInUse, Identity, lock_data
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.journal.format import SERVER_KEY
from server.journal.server_key import keep_key
from server.master import listening
from server.master.acquire import step
from server.master.desk import Desk
from server.master.listening import Listening
from server.master.signals import SignalQueue
from server.region.layout import Capacities
from server.region.region import Region

LOCK_S: Final = 20.0
"""How long the data directory is waited for that another server has let go of, or was killed with:
its other processes end a little later. Less than a service manager waits for a sign of life."""
LOCK_POLL_S: Final = 0.005
QUEUE_MAX: Final = 1024  # connections, more than a queue can have

log = liblog.get("master")


class Part(Enum):
    """What the master has, by who else needs it."""

    LOCK = auto()  # of the data directory: held as long as any process lives
    REGION = auto()
    LISTENERS = auto()
    ADMIN = auto()  # the listener of the admin port
    QUEUES = auto()  # of connections that workers give to each other
    WAKEUPS = auto()  # of the workers
    JOURNAL_WAKEUP = auto()
    QUESTIONS = auto()  # the workers' ends of the sockets to the archive
    ANSWERS = auto()  # the archive's ends
    WORKERS_ALIVE = auto()  # the end of a pipe that every worker has
    WORKERS_WATCHED = auto()  # the other one: it is at its end when no worker is left
    REPORTS = auto()  # the end that children write to
    SUPERVISION = auto()  # signals, and the end that reports are read from


_EVERY_CHILD: Final = frozenset({Part.LOCK, Part.REGION})


class _Closable(Protocol):
    def close(self) -> None: ...


_Closing = TypeVar("_Closing", bound=_Closable)


class Descriptor:
    """A file descriptor that is closed once."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return self._fd

    def close(self) -> None:
        """Close it. May be repeated."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)


def slots(settings: Settings) -> int:
    """Places of workers in the region: one more than can be at a time, for the one that takes the
    place of another."""
    return settings.seats + 1


def capacities(settings: Settings) -> Capacities:
    """The region's capacities, from the settings."""
    return Capacities(
        workers=slots(settings),
        accounts=settings.accounts,
        rooms=settings.rooms,
        clients=settings.clients,
        sessions=settings.sessions,
        txn_ring=settings.txn_ring,
        event_ring=settings.event_ring,
        max_message=settings.max_message,
        account_locks=settings.account_locks or settings.accounts,
        offers=settings.offers,
        roles=settings.room_roles,
        blocks=settings.blocks,
    )


class Resources:
    """What the master shares with its children. acquire.CannotStart: nothing of it is left then."""

    def __init__(
        self,
        settings: Settings,
        given: Listening | None = None,
        alone: Collection[_Closable] = (),
    ) -> None:
        """given: of the server before this one, whose data directory is waited for; closed in any
        case. alone: what else is the master's alone, and is closed in a child."""
        self.settings = settings
        """Of who is forked from now on."""
        self.seats: Final = settings.seats
        """How many workers there can be: listeners."""
        self._parts: Final = defaultdict[Part, list[Callable[[], None]]](list)
        self.data: DataDirectory | None = None
        self._stack: Final = ExitStack()
        with ExitStack() as undo, step("acquire what the server needs"):
            undo.callback(self._stack.close)
            self._parts[Part.SUPERVISION] += [each.close for each in alone]
            if given is not None:
                self._stack.callback(given.close)
            with step("read signals"):
                self.signals = self._keep(Part.SUPERVISION, SignalQueue())
            if settings.durability != "none":
                with step(f"lock the data directory {settings.data}"):
                    patience_s = LOCK_S if given is not None and given.inherited else 0.0
                    self._keep(Part.LOCK, Descriptor(_lock(settings, patience_s)))
            self._listen(listening.begin(settings) if given is None else given)
            self._make_region()
            self._use_data()
            self._connect_children()
            undo.pop_all()

    def _keep(self, part: Part, *made: _Closing) -> _Closing:
        """These, of which there is at least one, are given back with the rest; the first."""
        for each in made:
            self._stack.callback(each.close)
            self._parts[part].append(each.close)
        return made[0]

    def _listen(self, found: Listening) -> None:
        self.listening = found
        self.listeners = found.workers
        self._keep(Part.LISTENERS, *self.listeners)
        self.admin_listener = found.admin
        if self.admin_listener is not None:
            self._keep(Part.ADMIN, self.admin_listener)
        with step("make the wake-ups between the processes"):
            self.admin_alive = self._keep(Part.ADMIN, Wakeup())
        self.port = found.port
        with step("set up the listening sockets"):
            for sock in self.listeners:
                tune(sock, USER_TIMEOUT_MS)  # inherited by what it accepts

    def _make_region(self) -> None:
        settings, stack = self.settings, self._stack
        with step("make the shared region"):
            self.region = Region.create(
                settings.name_on(self.port), capacities(settings), time.time_ns() // 1000
            )
        stack.callback(self.region.close)
        stack.callback(self.region.unlink)
        initialise(self.region)
        # Nobody has what a dead server of this name has left, and nothing is left of this one.
        self._remove_channels()
        stack.callback(self._remove_channels)

    def _use_data(self) -> None:
        settings = self.settings
        if settings.durability != "none":
            with step(f"use the data directory {settings.data}"):
                self.data = _opened(self.region, DataDirectory(settings.data))
        self.key = self._key()
        self.desk: Desk | None = None
        if self.data is not None:
            with step(f"listen in the data directory {settings.data}"):
                self.desk = Desk(settings.data)
            self._stack.callback(self.desk.remove)
            self._keep(Part.SUPERVISION, self.desk)

    def _connect_children(self) -> None:
        """With each other, and with the master."""
        seats = slots(self.settings)
        with step("make the wake-ups between the processes"):
            self.wakeups = [self._keep(Part.WAKEUPS, Wakeup()) for _ in range(seats)]
            self.journal_wakeup = self._keep(Part.JOURNAL_WAKEUP, Wakeup())
        with step("connect the workers with each other"):
            self.queues: list[tuple[socket.socket, socket.socket]] = []
            for _ in range(seats):
                taking, giving = _message_pair()
                self._keep(Part.QUEUES, taking, giving)
                self.queues.append((taking, giving))
        with step("connect the workers with the archive"):
            # Both ends stay, whoever dies.
            self.questions: list[socket.socket] = []
            self.answers: list[socket.socket] = []
            # The last: for the files process.
            for _ in range(seats + 1 if self.data else 0):
                asking, answering = _message_pair()
                self.questions.append(self._keep(Part.QUESTIONS, asking))
                self.answers.append(self._keep(Part.ANSWERS, answering))
        with step("make the pipes to the children"):
            watched, alive = os.pipe2(os.O_CLOEXEC)
            self.workers_watched = self._keep(Part.WORKERS_WATCHED, Descriptor(watched))
            self.workers_alive = self._keep(Part.WORKERS_ALIVE, Descriptor(alive))
            reading, writing = _message_pair()
            self.reports = self._keep(Part.SUPERVISION, reading)
            self.reports_to = self._keep(Part.REPORTS, writing)

    def _key(self) -> ServerKey:
        """Who this server is. CannotStart."""
        if self.data is None:
            return ServerKey.generate()  # nothing is kept
        with step(f"read the server's key in {self.settings.data}"):
            key, made = keep_key(Disk(), self.data.path)
        if made:
            log.info(
                "identity_made",
                fingerprint=fingerprint(key.identity),
                path=str(self.data.given / SERVER_KEY),
            )
        return key

    def _remove_channels(self) -> None:
        """Segments and queues of the files."""
        remove_pools(self.region.name)
        remove_queues(self.region.name)

    def keep_only(self, parts: Collection[Part]) -> None:
        """In a child: close all but these and what every child has."""
        for part, closing in self._parts.items():
            if part not in _EVERY_CHILD and part not in parts:
                for close in closing:
                    close()

    def spread(self, count: int) -> None:
        """Have new connections come to the first so many listeners."""
        try:
            if self.seats > 1:
                steer(self.listeners[0], count)
        except OSError as error:
            log.warning(
                "connections_uneven",
                reason=error.strerror,
                advice="some workers get more of the connections: set --max-workers to --workers",
            )

    def take_queued(self) -> list[socket.socket]:
        """Connections that were given to workers which have all ended."""
        found: list[socket.socket] = []
        for taking, _ in self.queues:
            try:
                found += handover.take(taking, QUEUE_MAX)
            except OSError as error:
                log.warning("connections_lost", reason=error.strerror)
        return found

    def queue(self, socks: Sequence[socket.socket]) -> None:
        """Have the first workers serve these."""
        for number, sock in enumerate(socks):
            if not handover.give(self.queues[number % self.settings.workers][1], sock):
                sock.close()

    def stop_listening(self) -> None:
        """Nobody can connect any more, at once, whatever the workers do: the sockets themselves
        stop, of which they only have other descriptors."""
        for sock in self.listeners:
            if sock.fileno() >= 0:
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    def close(self) -> None:
        """Give back everything; the lock of the data directory last."""
        self._stack.close()


def _lock(settings: Settings, patience_s: float) -> int:
    """The lock of the data directory. JournalError, OSError."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return lock_data(settings.data)
        except DirectoryInUse:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOCK_POLL_S)


def _message_pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        for sock in pair:
            sock.setblocking(False)
    except OSError:
        for sock in pair:
            sock.close()
        raise
    return pair


def _opened(region: Region, data: DataDirectory) -> DataDirectory:
    """The data directory, in use for this region. JournalError, OSError."""
    at = region.header.index("salt_secret") * 8
    new = Identity(bytes(region.bytes[at : at + 32]), region.header.log_id)
    try:
        kept = data.open(Disk(), new)
    except JournalError as error:
        raise JournalError(f"the data directory {data.path} cannot be used: {error}") from error
    region.bytes[at : at + 32], region.header.log_id = kept
    return data

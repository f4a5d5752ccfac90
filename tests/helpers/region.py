"""A small region of a test's own, workers' views of it, and processes that are forked to use it.

The clock and the pause of a view are injected. `Recovery` is a pair of them by which a test makes
a recovery come in the middle of a wait, and says what others do while the waiter stands still:
no time passes, and it comes at the same point every time.
"""

import ctypes
import multiprocessing
import select
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Generic, TypeVar, cast

from libproto.messages import MAX_BALANCE, Capability
from libproto.scram import Verifier
from server.core.chat import Sent
from server.core.session import Session
from server.core.state import ALL_ROOMS, State, initialise
from server.region.layout import WORD, Capacities
from server.region.locks import TICK_NS, Lock
from server.region.region import Region
from tests.helpers import leaks
from tests.helpers.form import stores_are_seen

T = TypeVar("T")

SMALL = Capacities(
    workers=3,
    accounts=8,
    rooms=70,  # more than the bits of a word
    clients=8,
    sessions=12,
    txn_ring=64,
    event_ring=16,
    max_message=64,
    account_locks=9,
    offers=4,
    roles=8,
    blocks=8,
)
STARTED_US = 1_700_000_000_000_000
RETENTION_S = 100
VERIFIER = Verifier(b"s" * 16, 4096, b"k" * 32, b"v" * 32)
TIMEOUT_S = 60.0

_sem_getvalue = ctypes.PyDLL(None).sem_getvalue
_sem_getvalue.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))


@contextmanager
def small_region(**capacities: int) -> Iterator[Region]:
    """A region ready for workers, of SMALL but for the capacities named; gone at the end."""
    name = leaks.region_name()
    region = Region.create(name, replace(SMALL, **capacities), STARTED_US)
    try:
        initialise(region)
        yield region
    finally:
        region.unlink()
        region.close()


def pause(seconds: float) -> None:
    select.select([], [], [], seconds)


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


def state_of(
    region: Region,
    worker: int = 0,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    pause: Callable[[float], None] = pause,
    clock_us: Callable[[], int] = monotonic_us,
    *,
    max_balance: int = MAX_BALANCE,
    transfers: tuple[int, int] = (1, MAX_BALANCE),
    deposits: str = "open",
    numbered_rooms: int = ALL_ROOMS,
) -> State:
    """The region as this worker sees it, insisting on the ranks of the locks."""
    return State(
        region,
        worker,
        clock_ns,
        pause,
        RETENTION_S,
        max_balance=max_balance,
        transfers=transfers,
        deposits=deposits,
        numbered_rooms=numbered_rooms,
        clock_us=clock_us,
        check_locks=True,
    )


def register(state: State, *names: str) -> list[int]:
    return [state.users.register(name, VERIFIER, STARTED_US) for name in names]


def login(
    state: State,
    user: int,
    client_id: int = 0,
    now: int = STARTED_US,
    *,
    watches: bool = False,
    next_req_id: int = 0,
) -> Session:
    """next_req_id: what suits the client's record, if none is given."""
    capabilities = int(Capability.PAYMENTS) if watches else 0
    name, req_id = state.users.name(user), next_req_id or to_draw(state.region, user, client_id)
    return state.sessions.login(user, name, client_id, req_id, capabilities, now)[0]


def to_draw(region: Region, user: int, client_id: int) -> int:
    """The least next_req_id that a LOGIN of this client may have; 1 of one without a record."""
    columns = map(region.column, ["clients"] * 4, ("user", "client_id", "newest", "floor"))
    for owner, its_id, newest, floor in zip(*columns, strict=True):
        if (owner, its_id) == (user, client_id) != (user, 0):
            return int(max(newest + 1, floor))
    return 1


def next_req_id(session: Session, region: Region) -> int:
    """One that the session's client has not used; 1 where it is no client's."""
    if not session.client:
        return 1
    newest = region.words[session.client + region.layout["clients"].offsets["newest"]]
    return max(newest + 1, session.floor)


def say(state: State, session: Session, room: int, message: str, now: int) -> Sent:
    """A message to a room, as a new request."""
    req_id = next_req_id(session, state.region)
    return state.chat.send(session, room, message, now, req_id, 0)


def whisper(state: State, session: Session, user: int, message: str, now: int) -> Sent:
    """A direct message, as a new request."""
    req_id = next_req_id(session, state.region)
    return state.chat.direct(session, user, message, now, req_id, 0)


# ---- what a region shows


def word(region: Region, segment: str, record: int, field: str) -> int:
    return region.words[region.layout[segment].at(record, field)]


def set_word(region: Region, segment: str, record: int, field: str, value: int) -> None:
    region.words[region.layout[segment].at(record, field)] = value


def set_durable(region: Region, txn: int) -> None:
    """As the journal does it: durable up to here, and so there is a place for as many again."""
    set_word(region, "log", 0, "durable", txn)
    set_word(region, "log", 0, "limit", txn + region.layout.capacities.txn_ring)


def lock_value(lock: Lock | int) -> int:
    """The value of a semaphore, or of the one at an address: 1 is free."""
    value = ctypes.c_int()
    assert _sem_getvalue(lock if isinstance(lock, int) else lock.address, value) == 0
    return value.value


def image(region: Region) -> bytes:
    """The whole region, but for the payloads of intents, which count for nothing without their
    first word, and what was counted of waits."""
    out = bytearray(region.bytes)
    for segment, field, keep in (("workers", "intent", 1), ("counters", "connections", 0)):
        placed = region.layout[segment]
        for worker in range(placed.records):
            first = (placed.at(worker, field) + keep) * WORD
            end = placed.at(worker) + placed.stride
            out[first : end * WORD] = bytes(end * WORD - first)
    return bytes(out)


def check_quiet(region: Region) -> None:
    """Nobody is in the middle of anything: every lock is free, no intent stands."""
    for name, placed in region.layout.segments.items():
        if "lock" in placed.offsets:
            for record in range(placed.records):
                address = region.address + placed.at(record, "lock") * WORD
                assert lock_value(address) == 1, f"{name}[{record}]"
    for worker in range(region.layout.capacities.workers):
        assert word(region, "workers", worker, "intent") == 0, f"the intent of worker {worker}"


class Recovery:
    """A clock and a pause for the view of `worker`: a recovery begins at its second tick of a
    wait; while it stands still `meanwhile` happens, and then the recovery is over."""

    def __init__(self, region: Region, worker: int, meanwhile: Callable[[], None]) -> None:
        self.state = state_of(region, worker, self._clock_ns, self._pause)
        self.epoch = 41
        self.came = False
        self._region = region
        self._meanwhile = meanwhile
        self._now_ns = 0

    def _clock_ns(self) -> int:
        self._now_ns += TICK_NS
        assert self._now_ns < 100 * TICK_NS, "the wait goes on and on"
        if self._now_ns == 3 * TICK_NS:
            set_word(self._region, "header", 0, "recovery", self.epoch)
        return self._now_ns

    def _pause(self, seconds: float) -> None:
        assert seconds <= 0.01
        assert word(self._region, "workers", self.state.worker, "ack") == self.epoch
        self.came = True
        self._meanwhile()
        set_word(self._region, "header", 0, "recovery", 0)


# ---- every store and every load


class _Watched:
    """A view that tells of each load and store, when it has been made; a block is stored word by
    word."""

    def __init__(
        self, view: memoryview, stored: Callable[[], None], loaded: Callable[[], None]
    ) -> None:
        self._view = view
        self._stored = stored
        self._loaded = loaded

    def __getitem__(self, place: Any) -> Any:
        found = self._view[place]
        self._loaded()
        return found

    def __setitem__(self, place: int | slice, value: Any) -> None:
        if isinstance(place, slice):
            for at in range(place.start, place.stop, WORD):
                end = min(at + WORD, place.stop)
                self._view[at:end] = value[at - place.start : end - place.start]
                self._stored()
        else:
            self._view[place] = value
            self._stored()


def _ignore() -> None:
    pass


def watched(
    region: Region,
    stored: Callable[[], None] = _ignore,
    loaded: Callable[[], None] = _ignore,
) -> Region:
    """The same region, for the view of a worker each of whose stores and loads is told of: what
    others see, or do, at that instant is looked at, or done, through `region`."""
    stores_are_seen()
    same = copy(region)
    same.words = cast(memoryview, _Watched(region.words, stored, loaded))
    same.bytes = cast(memoryview, _Watched(region.bytes, stored, loaded))
    return same


# ---- processes

_FORK = multiprocessing.get_context("fork")  # the region is inherited, as by the server's workers


class Child(Generic[T]):
    """A function that runs in a process of its own."""

    def __init__(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> None:
        self._answered = False
        self.answer, answer = _FORK.Pipe(duplex=False)
        self.process: ForkProcess = _FORK.Process(target=_run, args=(answer, work, arguments))
        with warnings.catch_warnings():
            # Of a fork beside other threads: faulthandler's watchdog and the one that takes orders
            # of pytest-xdist. Neither holds a lock that a child needs.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        answer.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def result(self, timeout_s: float = TIMEOUT_S) -> T:
        """What it answered; AssertionError with its traceback where it raised."""
        assert self.answer.poll(timeout_s), f"process {self.pid} has not answered"
        done, answer = self.answer.recv()
        self._answered = True
        assert done, answer
        result: T = answer
        return result

    def end(self) -> None:
        """Reap it; kill it first, unless it has answered and ends by itself."""
        if not self._answered:
            self.process.kill()
        self.process.join()
        self.process.close()
        self.answer.close()


def _run(answer: Connection, work: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    try:
        outcome: tuple[bool, object] = True, work(*arguments)
    except BaseException:  # noqa: BLE001 - whatever it is, the test is told of it
        outcome = False, traceback.format_exc()
    answer.send(outcome)


def results(working: Sequence[Child[T]], timeout_s: float = TIMEOUT_S) -> list[T]:
    """What all of them answered. One that raised is told of at once: others may wait for it."""
    done: dict[Child[T], T] = {}
    while len(done) < len(working):
        waiting = [child for child in working if child not in done]
        ready = wait([child.answer for child in waiting], timeout_s)
        assert ready, f"{len(waiting)} processes have not answered"
        done |= {child: child.result() for child in waiting if child.answer in ready}
    return [done[child] for child in working]


class Children:
    """Starts processes."""

    def __init__(self) -> None:
        self.all: list[Child[Any]] = []

    def start(self, work: Callable[..., T], *arguments: Any) -> Child[T]:
        child = Child(work, arguments)
        self.all.append(child)
        return child


@contextmanager
def children() -> Iterator[Children]:
    """Processes that have ended, and been reaped, at the end."""
    started = Children()
    try:
        yield started
    finally:
        for child in started.all:
            child.end()

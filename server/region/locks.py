"""Process-shared POSIX semaphores inside the region, and how a worker waits for one.

posix_ipc has named semaphores only, so these are the C library's own: `sem_init(pshared=1)`. How
one is taken and freed says machine.py; `sem_init` is called by ctypes.

Ranks are registry < account (ascending by address) < log < event: whoever holds a lock takes only
later ones. `CheckedLocks` insists on it; the tests run with it.

No wait is unbounded. It is made of ticks, and between two ticks it looks whether a recovery has
begun (then the locks held are released and the caller begins anew, reading everything again),
whether the master lives, and whether this has lasted far longer than any transaction.
"""

import ctypes
import os
from array import array
from collections.abc import Callable
from types import TracebackType
from typing import Final

from server.region import machine
from server.region.counters import LOCK_KINDS, index_of
from server.region.layout import WORD
from server.region.region import Region

REGISTRY, ACCOUNT, LOG, EVENT = range(len(LOCK_KINDS))

TICK_NS = 10_000_000
ALARM_NS = 1_000_000_000
# A lock is held for less time than it takes to sleep and to be woken, so it is tried a while first:
# one or two microseconds in the compiled form.
_TRIES = 30
_TICK_NS, _ALARM_NS = TICK_NS, ALARM_NS
_SEM_SIZE = 32  # sizeof(sem_t), glibc, x86-64
_SEM_WORDS = _SEM_SIZE // WORD


_libc = ctypes.PyDLL(None, use_errno=True)
_sem_init = _libc.sem_init
_sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)


class LockOrderError(AssertionError):
    """A lock was taken against the ranks, or released without being held: a bug of ours."""


class MasterGone(BaseException):  # not an error of the request that waits: the process must end
    """The master died while this worker waited; whatever it holds, it must end."""


class InsideLock(BaseException):  # nothing may catch it in passing: the process must end
    """An exception struck between a lock and its unlock: the state may be half-changed, and only
    the end of this process, which is then repaired, keeps it from the others."""


class NothingChanged(Exception):
    """Raised between a lock and its unlock before anything was changed: a guard releases."""


def init_locks(region: Region) -> None:
    """Give every semaphore of a new region, which is zeros, the value 1. Not one by one: there may
    be a million, and each has the bytes of any other."""
    for placed in region.layout.segments.values():
        if "lock" not in placed.offsets:
            continue
        first = placed.base + placed.offsets["lock"]
        end = placed.base + placed.records * placed.stride
        for word, value in enumerate(fresh_semaphore()):
            if value:
                column = memoryview(array("Q", [value]) * placed.records)
                region.words[first + word : end : placed.stride] = column


def init_lock(address: int) -> None:
    """Make the semaphore at this address a fresh one of value 1."""
    ctypes.memset(address, 0, _SEM_SIZE)
    if _sem_init(address, 1, 1):
        raise OSError(ctypes.get_errno(), "sem_init")


def fresh_semaphore() -> list[int]:
    """The words of a semaphore that was just initialised to 1."""
    memory = (ctypes.c_uint64 * _SEM_WORDS)()
    init_lock(ctypes.addressof(memory))
    return list(memory)


def unfree_locks(region: Region) -> dict[str, int]:
    """Semaphores that have not the bytes of a fresh one, by name, with their address: taken, or
    with the count of a waiter who was killed, which makes every post a system call."""
    fresh, out = tuple(fresh_semaphore()), {}
    for name, placed in region.layout.segments.items():
        if "lock" not in placed.offsets:
            continue
        first = placed.base + placed.offsets["lock"]
        end = placed.base + placed.records * placed.stride
        columns = (
            region.words[first + word : end : placed.stride].tolist() for word in range(_SEM_WORDS)
        )
        for record, found in enumerate(zip(*columns, strict=True)):
            if found != fresh:
                out[f"{name}[{record}].lock"] = region.address + placed.at(record, "lock") * WORD
    return out


class Lock:
    """One semaphore of the region, in the hands of one process.

    The hot path calls `acquire` and `release`, and `Locks.wait` only where the first failed.
    """

    __slots__ = ("_semaphore", "address", "kind")

    def __init__(self, address: int, kind: int) -> None:
        self.address: Final = address
        self.kind: Final = kind
        self._semaphore: Final = machine.semaphore(address)

    def acquire(self) -> bool:
        """Take it if it is free; True where that is so."""
        return machine.try_wait(self._semaphore)

    def release(self) -> None:
        """Free it. ValueError where nobody holds it."""
        machine.post(self._semaphore)

    def wait_until(self, deadline_ns: int) -> bool:
        """Take it before this time of CLOCK_MONOTONIC; True where that is so. It may end sooner."""
        for _ in range(_TRIES):
            if machine.try_wait(self._semaphore):
                return True
            machine.relax()
        return machine.wait_until(self.address, deadline_ns)


class Guard:
    """Locks held for the body of a `with`; one object for each operation of a process.

    They are released at its end, also where it raises NothingChanged. Any other Exception becomes
    InsideLock, and after that or a BaseException they stay held, for the repair.
    """

    __slots__ = ("_backwards", "_locks", "_ordered", "_what")

    def __init__(self, locks: "Locks", what: str, ordered: tuple[Lock, ...]) -> None:
        self._locks, self._what = locks, what
        self._ordered, self._backwards = ordered, ordered[::-1]

    def __enter__(self) -> None:
        self._locks.hold_all(self._ordered)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, NothingChanged):
            for lock in self._backwards:
                lock.release()
        elif issubclass(kind, Exception):
            raise InsideLock(self._what) from error


class Locks:
    """The locks as one worker (or the repair) takes them."""

    def __init__(
        self,
        region: Region,
        worker: int,
        clock_ns: Callable[[], int],
        pause: Callable[[float], None],
    ) -> None:
        """worker: its slot. clock_ns: CLOCK_MONOTONIC, nanoseconds. pause: sleeps for seconds."""
        layout = region.layout
        self._view = region.words
        self._words = machine.words_of(region.words)
        self._clock_ns = clock_ns
        self._pause = pause
        self._master = os.getppid()
        self._worker: Final = worker
        self._recovery = region.header.index("recovery")
        self._alarm = region.header.index("alarm")
        self._ack = layout["workers"].at(worker, "ack")
        counters = layout["counters"].at(worker)
        self._waits = [counters + index_of(f"waits_{kind}") for kind in LOCK_KINDS]
        self._waited = [counters + index_of(f"waited_ns_{kind}") for kind in LOCK_KINDS]
        self.registry: Final = self._lock(
            region.address + region.registry.index("lock") * WORD, REGISTRY
        )
        self.log: Final = self._lock(region.address + region.log.index("lock") * WORD, LOG)
        self.event: Final = self._lock(region.address + region.events.index("lock") * WORD, EVENT)
        accounts = layout["account_locks"]
        self._accounts_at = region.address + accounts.base * WORD
        self._accounts_stride = accounts.stride * WORD
        self._accounts: list[Lock | None] = [None] * accounts.records

    def _lock(self, address: int, kind: int) -> Lock:
        return Lock(address, kind)

    def account(self, user: int) -> Lock:
        """The lock of a user's account: lock `user` modulo their number."""
        number = user % len(self._accounts)
        lock = self._accounts[number]
        if lock is None:
            lock = self._lock(self._accounts_at + number * self._accounts_stride, ACCOUNT)
            self._accounts[number] = lock
        return lock

    def wait(self, lock: Lock, held: tuple[Lock, ...]) -> bool:
        """Wait for a lock that a try did not get. `held`: what the caller holds, in order.

        True: got it. False: a recovery came between; `held` has been released and the recovery is
        over: begin anew and read everything again. Raises MasterGone.
        """
        words, clock_ns = self._words, self._clock_ns
        began = now = clock_ns()
        while True:
            if words[self._recovery]:
                self.release(*held)
                self.acknowledge()
                return False
            if lock.wait_until(now + _TICK_NS):
                break
            now = clock_ns()
            if now - began > _ALARM_NS:
                words[self._alarm] = self._worker + 1
            self.check_master()
        waits, waited = self._waits[lock.kind], self._waited[lock.kind]
        words[waits] += 1
        words[waited] += clock_ns() - began
        return True

    def check_master(self) -> None:
        """MasterGone where the process that forked this one is no longer there."""
        if os.getppid() != self._master:
            raise MasterGone

    def acknowledge(self) -> None:
        """Holding nothing: say so for the recovery that is going on, and wait until the
        word changes. A newer epoch wants an acknowledgement of its own."""
        words = self._words
        while epoch := words[self._recovery]:
            words[self._ack] = epoch
            while words[self._recovery] == epoch:
                self._pause(0.001)
                self.check_master()

    def hold(self, *locks: Lock) -> None:
        """Acquire all these locks in the order given, however often a recovery comes between. For
        what reads nothing before it has them all."""
        self.hold_all(locks)

    def hold_all(self, locks: tuple[Lock, ...]) -> None:
        """`hold`, of a tuple that there is already."""
        while True:
            for place, lock in enumerate(locks):
                if not lock.acquire() and not self.wait(lock, locks[:place]):
                    break
            else:
                return

    def guard(self, what: str, *locks: Lock) -> Guard:
        """What holds these locks, in the order given, for the body of a `with`. what: the
        operation, for the message of InsideLock. For what reads nothing before it has them all."""
        return Guard(self, what, locks)

    def release(self, *locks: Lock) -> None:
        """Release them, the last first."""
        for lock in reversed(locks):
            lock.release()


class CheckedLock(Lock):
    """A lock that insists on the ranks."""

    __slots__ = ("_rank", "_taken")

    def __init__(self, address: int, kind: int, taken: list[tuple[int, int]]) -> None:
        """taken: what this process holds, (kind, address), in order."""
        Lock.__init__(self, address, kind)
        self._rank, self._taken = (kind, address), taken

    def acquire(self) -> bool:
        if self._taken and self._rank <= self._taken[-1]:
            raise LockOrderError(f"{self._rank} after {self._taken[-1]}")
        got = Lock.acquire(self)
        if got:
            self._taken.append(self._rank)
        return got

    def release(self) -> None:
        if self._rank not in self._taken:
            raise LockOrderError(f"{self._rank} is released but not held")
        self._taken.remove(self._rank)
        Lock.release(self)

    def wait_until(self, deadline_ns: int) -> bool:
        got = Lock.wait_until(self, deadline_ns)
        if got:
            self._taken.append(self._rank)
        return got


class CheckedLocks(Locks):
    """The same, insisting on the ranks. For tests: it costs a few microseconds a lock."""

    def __init__(
        self,
        region: Region,
        worker: int,
        clock_ns: Callable[[], int],
        pause: Callable[[float], None],
    ) -> None:
        self._taken: list[tuple[int, int]] = []
        Locks.__init__(self, region, worker, clock_ns, pause)

    def _lock(self, address: int, kind: int) -> Lock:
        return CheckedLock(address, kind, self._taken)

    def acknowledge(self) -> None:
        if self._taken:
            raise LockOrderError("acknowledged while holding a lock")
        Locks.acknowledge(self)

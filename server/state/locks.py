"""Process-shared POSIX semaphores inside the region, and how a worker waits for one.

posix_ipc has named semaphores only, so these go through the C library: `sem_init(pshared=1)`. The
calls are made with PyDLL, which keeps the interpreter lock: a worker has one thread, and giving the
lock up and taking it again costs more than the call.

Ranks are registry < account (ascending by address) < log < event: whoever holds a lock takes only
later ones. `CheckedLocks` insists on it; the tests run with it.

No wait is unbounded. It is made of ticks, and between two ticks it looks whether a recovery has
begun (then what is held is given back and the caller begins anew, reading everything again),
whether the master lives, and whether this has lasted far longer than any transaction.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

from server.state.counters import LOCK_KINDS, index_of
from server.state.layout import WORD
from server.state.region import Region

REGISTRY, ACCOUNT, LOG, EVENT = range(len(LOCK_KINDS))

TICK_NS = 10_000_000
ALARM_NS = 1_000_000_000
_CLOCK_MONOTONIC = 1
_SEM_SIZE = 32  # sizeof(sem_t), glibc, x86-64


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


_libc = ctypes.PyDLL(None, use_errno=False)
_libc_errno = ctypes.PyDLL(None, use_errno=True)

_sem_trywait = _libc.sem_trywait
_sem_trywait.argtypes = (ctypes.c_void_p,)
_sem_post = _libc.sem_post
_sem_post.argtypes = (ctypes.c_void_p,)
_sem_init = _libc_errno.sem_init
_sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
_sem_clockwait = _libc_errno.sem_clockwait
_sem_clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Timespec))


class LockOrderError(AssertionError):
    """A lock was taken against the ranks, or given back without being held: a bug of ours."""


class MasterGone(BaseException):  # not an error of the request that waits: the process must end
    """The master died while this worker waited; whatever it holds, it must end."""


class InsideLock(BaseException):  # nothing may catch it in passing: the process must end
    """An exception struck between a lock and its unlock: the state may be half-changed, and only
    the end of this process, which is then repaired, keeps it from the others."""


def init_locks(region: Region) -> None:
    """Give every semaphore of a new region the value 1."""
    for placed in region.layout.segments.values():
        if "lock" in placed.offsets:
            for record in range(placed.records):
                init_lock(region.address + placed.at(record, "lock") * WORD)


def init_lock(address: int) -> None:
    """Make the semaphore at this address a fresh one of value 1."""
    ctypes.memset(address, 0, _SEM_SIZE)
    if _sem_init(address, 1, 1):
        raise OSError(ctypes.get_errno(), "sem_init")


class Locks:
    """The locks as one worker (or the repair) takes them.

    `trywait(address)` answers 0 where it got the lock; `post(address)` gives it back. The hot path
    calls these two, and `wait` only where the try failed.
    """

    def __init__(
        self,
        region: Region,
        worker: int,
        clock_ns: Callable[[], int],
        pause: Callable[[float], None],
    ) -> None:
        """worker: its slot. clock_ns: CLOCK_MONOTONIC, nanoseconds. pause: sleeps for seconds."""
        layout = region.layout
        self._words = region.words
        self._clock_ns = clock_ns
        self._pause = pause
        self._master = os.getppid()
        self._worker: Final = worker
        self._recovery = layout["header"].at(0, "recovery")
        self._alarm = layout["header"].at(0, "alarm")
        self._ack = layout["workers"].at(worker, "ack")
        counters = layout["counters"].at(worker)
        self._waits = [counters + index_of(f"waits_{kind}") for kind in LOCK_KINDS]
        self._waited = [counters + index_of(f"waited_ns_{kind}") for kind in LOCK_KINDS]
        self.registry: Final = region.address + layout["registry"].at(0, "lock") * WORD
        self.log: Final = region.address + layout["log"].at(0, "lock") * WORD
        self.event: Final = region.address + layout["events"].at(0, "lock") * WORD
        accounts = layout["account_locks"]
        self.accounts: Final = region.address + accounts.base * WORD
        self.account_stride: Final = accounts.stride * WORD
        self.account_locks: Final = accounts.records
        self.trywait: Callable[[int], int] = _sem_trywait
        self.post: Callable[[int], int] = _sem_post

    def account(self, user: int) -> int:
        """The address of the lock of a user's account."""
        return self.accounts + user % self.account_locks * self.account_stride

    def wait(self, address: int, kind: int, held: tuple[int, ...]) -> bool:
        """Wait for a lock that a try did not get. `held`: what the caller holds, in order.

        True: got it. False: a recovery came between; `held` has been given back and the recovery is
        over: begin anew and read everything again. Raises MasterGone.
        """
        words, clock_ns = self._words, self._clock_ns
        began = now = clock_ns()
        until = _Timespec()
        while True:
            if words[self._recovery]:
                for lock in reversed(held):
                    self.post(lock)
                self.acknowledge()
                return False
            until.tv_sec, until.tv_nsec = divmod(now + TICK_NS, 1_000_000_000)
            if self._clockwait(address, until):
                break
            now = clock_ns()
            if now - began > ALARM_NS:
                words[self._alarm] = self._worker + 1
            self.check_master()
        words[self._waits[kind]] += 1
        words[self._waited[kind]] += clock_ns() - began
        return True

    def _clockwait(self, address: int, until: _Timespec) -> bool:
        if _sem_clockwait(address, _CLOCK_MONOTONIC, until) == 0:
            return True
        code = ctypes.get_errno()
        if code not in (errno.ETIMEDOUT, errno.EINTR):
            raise OSError(code, "sem_clockwait")
        return False

    def check_master(self) -> None:
        """MasterGone where the process that forked this one is no longer there."""
        if os.getppid() != self._master:
            raise MasterGone

    def acknowledge(self) -> None:
        """Holding nothing: say so for the recovery that is going on, and stand still until the
        word changes. A newer epoch wants an acknowledgement of its own."""
        words = self._words
        while epoch := words[self._recovery]:
            words[self._ack] = epoch
            while words[self._recovery] == epoch:
                self._pause(0.001)
                self.check_master()

    def hold(self, *locks: tuple[int, int]) -> None:
        """Take (address, kind) locks in the order given, all of them, however often a recovery
        comes between. For what reads nothing before it has them all."""
        while True:
            held: tuple[int, ...] = ()
            for address, kind in locks:
                if self.trywait(address) and not self.wait(address, kind, held):
                    break
                held += (address,)
            else:
                return

    def release(self, *locks: tuple[int, int]) -> None:
        """Give them back, the last first."""
        for address, _ in reversed(locks):
            self.post(address)


class CheckedLocks(Locks):
    """The same, insisting on the ranks. For tests: it costs a few microseconds a lock."""

    def __init__(
        self,
        region: Region,
        worker: int,
        clock_ns: Callable[[], int],
        pause: Callable[[float], None],
    ) -> None:
        super().__init__(region, worker, clock_ns, pause)
        self._taken: list[int] = []
        self.trywait = self._checked_trywait
        self.post = self._checked_post

    def _rank(self, address: int) -> tuple[int, int]:
        fixed = {self.registry: REGISTRY, self.log: LOG, self.event: EVENT}
        return (fixed[address], 0) if address in fixed else (ACCOUNT, address)

    def _check(self, address: int) -> None:
        if self._taken and self._rank(address) <= self._rank(self._taken[-1]):
            raise LockOrderError(f"{self._rank(address)} after {self._rank(self._taken[-1])}")

    def _checked_trywait(self, address: int) -> int:
        self._check(address)
        failed = int(_sem_trywait(address))
        if not failed:
            self._taken.append(address)
        return failed

    def _clockwait(self, address: int, until: _Timespec) -> bool:
        got = super()._clockwait(address, until)
        if got:
            self._taken.append(address)
        return got

    def _checked_post(self, address: int) -> int:
        if address not in self._taken:
            raise LockOrderError(f"{self._rank(address)} is given back but not held")
        self._taken.remove(address)
        return int(_sem_post(address))

    def acknowledge(self) -> None:
        if self._taken:
            raise LockOrderError("acknowledged while holding a lock")
        super().acknowledge()

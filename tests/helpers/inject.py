"""A real process in which one system call fails, as it does on a machine that has run out of
something: the tracer (ptrace(2)) keeps the kernel from doing it and puts an errno in its place.
"""

import ctypes
import errno
import os
import select
import signal
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TRACEME, CONT, GETREGS, SETREGS, DETACH, SYSCALL, SETOPTIONS = 0, 7, 12, 13, 17, 24, 0x4200
_SYSGOOD, _EXITKILL = 1, 1 << 20
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_MAP_SHARED = 1
_WRITE, _MMAP = 1, 9

FAILURES: Final[Mapping[int, tuple[str, int]]] = {
    2: ("open", errno.EMFILE),
    _MMAP: ("mmap", errno.ENOMEM),
    16: ("ioctl", errno.EIO),
    41: ("socket", errno.EMFILE),
    49: ("bind", errno.EACCES),
    50: ("listen", errno.ENOBUFS),
    51: ("getsockname", errno.ENOBUFS),
    53: ("socketpair", errno.ENFILE),
    54: ("setsockopt", errno.ENOBUFS),
    56: ("clone", errno.EAGAIN),
    57: ("fork", errno.EAGAIN),
    73: ("flock", errno.ENOLCK),
    74: ("fsync", errno.EIO),
    75: ("fdatasync", errno.EIO),
    77: ("ftruncate", errno.ENOSPC),
    82: ("rename", errno.EACCES),
    83: ("mkdir", errno.ENOSPC),
    217: ("getdents64", errno.EIO),
    257: ("openat", errno.EMFILE),
    285: ("fallocate", errno.ENOSPC),
    289: ("signalfd4", errno.EMFILE),
    290: ("eventfd2", errno.EMFILE),
    293: ("pipe2", errno.EMFILE),
    296: ("pwritev", errno.ENOSPC),
    435: ("clone3", errno.EAGAIN),
}
"""System calls that acquire something, by number on x86-64: name, and how they fail."""

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


class NotPermitted(Exception):
    """This system does not let us trace a process of our own."""


_REGISTERS = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
    "fs_base gs_base ds es fs gs"
)


class _Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in _REGISTERS.split()]


def _request(request: int, pid: int, data: int = 0) -> None:
    if _ptrace(request, pid, None, data) == -1:
        code = ctypes.get_errno()
        raise NotPermitted(f"ptrace request {request:#x}: {os.strerror(code)}")


@dataclass(slots=True)
class Failed:
    """A process in which a call has failed."""

    call: str  # name; "" : there are fewer calls than that, and none has failed
    output: str
    error: str
    code: int


def run(program: Callable[[], int], nth: int, directory: Path, timeout_s: float) -> Failed:
    """Run it in a process whose nth call of FAILURES, from 1 on, fails. It is told to end
    when it has written a line to standard output, and must end then. NotPermitted."""
    out, err = directory / "stdout", directory / "stderr"
    with warnings.catch_warnings():
        # Of a fork beside other threads. The only one is faulthandler's watchdog: no Python.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _become(program, out, err)
    ended: int | None = None
    try:
        call, ended = _fail_nth(pid, nth)
        if ended is None:
            ended = _await_end(pid, out, timeout_s)
    finally:
        if ended is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return Failed(call, out.read_text(), err.read_text(), ended)


def _become(program: Callable[[], int], out: Path, err: Path) -> None:
    code = 70
    try:
        for fd, path in ((1, out), (2, err)):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            os.dup2(opened, fd)
            os.close(opened)
        os.setsid()
        _request(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        code = program()
    finally:
        os._exit(code)


def _fail_nth(pid: int, nth: int) -> tuple[str, int | None]:
    """Let the process go when its nth call has failed, or when it writes to standard output before.
    The call's name, and its exit code if it has ended."""
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise NotPermitted("PTRACE_TRACEME was refused")
    _request(SETOPTIONS, pid, _SYSGOOD | _EXITKILL)
    count, entering, deliver, registers = 0, True, 0, _Registers()
    at = ctypes.addressof(registers)
    while True:
        _request(SYSCALL, pid, deliver)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return "", os.waitstatus_to_exitcode(status)
        deliver = 0
        if os.WSTOPSIG(status) != _SYSCALL_STOP:
            deliver = os.WSTOPSIG(status)
            continue
        if not entering:
            entering = True
            continue
        entering = False
        _request(GETREGS, pid, at)
        number = registers.orig_rax
        if number == _WRITE and registers.rdi == 1:
            _request(DETACH, pid)
            return "", None
        if number not in FAILURES or (number == _MMAP and not registers.r10 & _MAP_SHARED):
            continue
        count += 1
        if count == nth:
            name, code = FAILURES[number]
            registers.orig_rax = 2**64 - 1  # no call: nothing is done
            _request(SETREGS, pid, at)
            _request(SYSCALL, pid)
            os.waitpid(pid, 0)
            _request(GETREGS, pid, at)
            registers.rax = 2**64 - code
            _request(SETREGS, pid, at)
            _request(DETACH, pid)
            return name, None


def _await_end(pid: int, out: Path, timeout_s: float) -> int:
    """Until it has ended: its exit code. It is told to when it has written something."""
    pidfd, told, left = os.pidfd_open(pid), False, timeout_s
    try:
        while left > 0:
            ended, _, _ = select.select([pidfd], [], [], 0.02)
            if ended:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            left -= 0.02
            if not told and out.stat().st_size:
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                told = True
        raise TimeoutError(f"process {pid} still runs after {timeout_s} s")
    finally:
        os.close(pidfd)

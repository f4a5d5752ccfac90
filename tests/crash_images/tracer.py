"""A process that is stepped through an operation, machine instruction by machine instruction.

Python alone is fast enough: a step with a look at a region of some KiB takes some 25 us, and an
operation has tens of thousands of instructions.
"""

import ctypes
import errno
import gc
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

_TRACEME, _CONT, _SINGLESTEP = 0, 7, 9  # ptrace(2)
_SET_PDEATHSIG = 1  # prctl(2)
_REFUSED, _RAISED = 77, 70  # exit codes of the process
_HAS_RAISED = signal.SIGTSTP  # which it sends to itself

INSTRUCTIONS_MAX = 20_000_000

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


class NotPermitted(Exception):
    """This system does not let us trace a process of our own."""


class TraceError(Exception):
    """The process has ended before its operation, or has not come to its end."""


def _request(request: int, pid: int, data: int = 0) -> None:
    if _ptrace(request, pid, None, data) == -1:
        code = ctypes.get_errno()
        refused = code in (errno.EPERM, errno.ENOSYS, errno.EACCES)
        kind = NotPermitted if refused else TraceError
        raise kind(f"ptrace request {request:#x}: {os.strerror(code)}")


class _Tracee:
    """The process, in the hands of its tracer."""

    def __init__(self, prepare: Callable[[], Callable[[], object]]) -> None:
        with warnings.catch_warnings():
            # Of a fork beside other threads. The only one is faulthandler's watchdog: no Python.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            _become_tracee(prepare)
        self._ended = False

    def stop(self) -> int:
        """Wait until it stops: the signal that it stops for."""
        _, status = os.waitpid(self._pid, 0)
        while os.WIFSTOPPED(status):
            if os.WSTOPSIG(status) != _HAS_RAISED:
                return os.WSTOPSIG(status)
            _request(_CONT, self._pid)  # its last words are not worth stepping
            _, status = os.waitpid(self._pid, 0)
        self._ended = True
        code = os.waitstatus_to_exitcode(status)
        if code == _REFUSED:
            raise NotPermitted("PTRACE_TRACEME was refused")
        how = "it raised what is told above" if code == _RAISED else f"with {code}"
        raise TraceError(f"the process has ended before its operation: {how}")

    def resume(self, request: int, stopped_for: int) -> None:
        """A signal of its own, such as that of a timer, is for its handler."""
        _request(request, self._pid, 0 if stopped_for == signal.SIGTRAP else stopped_for)

    def end(self) -> None:
        if not self._ended:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def trace(
    prepare: Callable[[], Callable[[], object]],
    stepped: Callable[[], object],
    instructions_max: int = INSTRUCTIONS_MAX,
) -> int:
    """Fork a process that prepares, and step it through the operation that `prepare` answers.

    `stepped` is called here before the first instruction and after each. Answers how many there
    were. The process is killed and reaped in any case. NotPermitted, TraceError.
    """
    tracee = _Tracee(prepare)
    try:
        while (stop := tracee.stop()) != signal.SIGSTOP:
            tracee.resume(_CONT, stop)
        stepped()
        stop = signal.SIGTRAP
        for instructions in range(instructions_max):
            tracee.resume(_SINGLESTEP, stop)
            stop = tracee.stop()
            stepped()
            if stop == signal.SIGSTOP:
                return instructions
        raise TraceError(f"the operation has not ended after {instructions_max} instructions")
    finally:
        tracee.end()


def _become_tracee(prepare: Callable[[], Callable[[], object]]) -> NoReturn:
    code = _RAISED
    try:
        _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # it is no use without its tracer
        _request(_TRACEME, 0)
        operation = prepare()
        gc.disable()  # a collection is no part of the operation, and has millions of instructions
        os.kill(os.getpid(), signal.SIGSTOP)
        operation()
        os.kill(os.getpid(), signal.SIGSTOP)
    except NotPermitted:
        code = _REFUSED
    except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
        os.kill(os.getpid(), _HAS_RAISED)
        traceback.print_exc()
    finally:
        os._exit(code)

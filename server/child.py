"""What every process that the master forks has in common: it is forked with all signals held, it
ends with the master, and it tells the master that it serves, or why it cannot.
"""

import ctypes
import errno
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import setproctitle

import liblog
from server.config import Settings
from server.early import HELD

log = liblog.get("child")

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_DUMPABLE: Final = 4
LEAVE: Final = signal.SIGUSR2
"""To a worker: another one has its place, so it ends when its clients have gone."""
REOPEN_LOG: Final = signal.SIGUSR1
"""To every process that has a log of its own."""
BEAT_S: Final = 0.4
"""Between two signs of life of a process that has nothing to do; the shortest `worker_timeout` is
1 s. Whoever wants something of a process wakes it; a wish whose wake-up did not come, as who had it
was stopped or killed before, is seen then."""
REPORT_MAX: Final = 2048  # bytes of one report

DRAIN_SHARE: Final = 0.7
"""Of the graceful timeout, the part that workers have for their clients. It bounds the whole stop;
what is left is for the workers' end, and for the journal and the archive to bring all to disk."""
WORKERS_SHARE: Final = 0.8
"""Of the graceful timeout, the part after which workers that still run are killed."""


def fork() -> int:
    """os.fork, with every signal in HELD blocked in the child until it unblocks what it handles:
    one that comes early is kept, and none reaches a handler of the parent's. OSError."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def follow_parent(parent: int, number: signal.Signals) -> None:
    """Get this signal when the parent ends; end at once where it has ended before. parent: its
    process id, taken before the fork."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(0)


def enter(settings: Settings, title: str, master: int, **bound: Any) -> None:
    """Be a process of the server. title: as ps shows it. bound: on every line of its log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent(master, signal.SIGTERM)
    # Other processes of the same user cannot read what it holds, and no core dump is written of it.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
    setproctitle.setproctitle(f"tradechat: {title}")
    open_log(settings, **bound)
    signal.signal(REOPEN_LOG, reopen_log)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {REOPEN_LOG})


def open_log(settings: Settings, **bound: Any) -> None:
    """Set up the log of this process. Where --log-file cannot be opened any more (its directory was
    removed, say) the process does its work all the same, and logs to standard error."""
    try:
        liblog.configure(settings.log_level, settings.log_format, settings.log_file, **bound)
    except OSError as error:
        liblog.configure(settings.log_level, settings.log_format, None, **bound)
        log.error(
            "log_file_unusable",
            path=str(settings.log_file),
            reason=error.strerror,
            advice="make the file writable and restart the server: until then this process logs to "
            "standard error",
        )


def reopen_log(*_: object) -> None:
    """Open --log-file anew, as after it was renamed. As a signal's handler, too."""
    try:
        liblog.reopen()
    except OSError as error:
        log.error(
            "log_file_unusable",
            path=error.filename,
            reason=error.strerror,
            advice="make the file writable and send SIGUSR1 again: until then lines go to the file "
            "that was open before",
        )


@dataclass(slots=True)
class Report:
    """A child's word to the master, one message each: that it serves, or why it cannot."""

    fd: int  # of a socket that keeps messages apart
    place: int  # which child: the slot of a worker, or the place of its role
    served: bool = False

    def serves(self) -> None:
        """Tell that it serves. OSError."""
        os.write(self.fd, bytes([self.place]))
        self.served = True

    def fails(self, reason: str) -> None:
        """Tell why it ends; the master logs it. It may have ended itself, or be too busy."""
        with suppress(OSError):
            os.write(self.fd, bytes([self.place]) + reason.encode(errors="replace")[:REPORT_MAX])


_LIMITS: Final = {
    errno.EMFILE: "the process may not have more files open; raise `ulimit -n`, or lower --workers",
    errno.ENFILE: "the system has no more open files to give; see fs.file-max",
    errno.EFBIG: "a file may not be as large as is needed; raise `ulimit -f`, or lower "
    "--segment-size and the capacities",
    errno.ENOMEM: "there is not enough memory, or `ulimit -v` allows no more; raise it, or "
    "lower the capacities",
}
_NO_PROCESSES: Final = (
    "no more processes or threads are allowed; raise `ulimit -u` or pids.max of the control group, "
    "or lower --workers"
)


def limit_of(error: BaseException | None) -> str:
    """Which limit of the system an error comes from, and what to do; "" if it is not a limit."""
    while error is not None:
        if isinstance(error, MemoryError):
            return _LIMITS[errno.ENOMEM]
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            return _NO_PROCESSES
        if isinstance(error, OSError) and error.errno is not None:
            return _LIMITS.get(error.errno, "")
        error = error.__cause__
    return ""


def reason_of(error: BaseException, place: object) -> str:
    """Why something could not be done with the files in a place: one sentence that names a file, or
    the place."""
    if limit := limit_of(error):
        return limit
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or place}: {error.strerror}"
    return str(error)


def fork_failure(error: OSError) -> str:
    """Why a fork has failed, and what to do."""
    if error.errno == errno.EAGAIN:
        return _NO_PROCESSES
    return limit_of(error) or str(error.strerror)

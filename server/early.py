"""What the program does before anything else, so that nothing it inherits can hurt it: signals
held, their actions reset, and the three standard streams open. It imports next to nothing, for
until the signals are held, one that asks to stop ends the process as the system sees fit.
"""

import os
import select
import signal
import sys
from typing import Final, TextIO

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""Those that ask the server to stop."""

SIGNALS: Final = {
    "SIGTERM, SIGINT": "stop in order: answer, flush, bring all to disk. A second SIGINT: at once,"
    " with exit code 130",
    "SIGQUIT": "end at once: no client is waited for; what was answered is brought to disk",
    "SIGHUP": "read the settings again, and replace the workers one by one, without losing a"
    " client",
    "SIGTTIN, SIGTTOU": "one worker more, one less; from 1 to `--max-workers`",
    "SIGUSR2": "start the program anew, as it was started, to take the place of this server: an"
    " upgrade in place",
    "SIGUSR1": "open the log files anew, after they were renamed",
}
"""What the master does at each; it ignores all others."""

_FAULTS: Final = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
        signal.SIGABRT,
    }
)
_JOB_CONTROL: Final = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT})
_HARMLESS: Final = frozenset({signal.SIGURG, signal.SIGWINCH})  # the system ignores them
_IGNORED: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})  # the call that fails tells as much


def held_signals() -> frozenset[int]:
    """Signals that no process of the server is ever interrupted or ended by, unless it asks for
    them: all that could, but for faults of its own, SIGKILL, and those of job control."""
    free = _FAULTS | _JOB_CONTROL | _HARMLESS | _IGNORED | {signal.SIGKILL}
    return frozenset(map(int, signal.valid_signals())) - frozenset(map(int, free))


HELD: Final = held_signals()


def hold_signals() -> set[int]:
    """Block what is HELD: what comes is kept until it is asked for. Answers the former mask."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, HELD))


def reset_signals() -> None:
    """Every action and the mask as the server needs them, whatever was inherited: a parent that
    ignores SIGCHLD would keep the ends of children from us, one that blocks faults their signals.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, HELD)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)


def open_streams() -> None:
    """Open on /dev/null whichever of descriptors 0, 1 and 2 is closed: the next file that is opened
    would get its number, and what is printed would go there. OSError."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            while (opened := os.open(os.devnull, os.O_RDWR)) < fd:
                pass  # a lower one was closed meanwhile; it is open now
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            setattr(sys, name, _stream(fd))


def _stream(fd: int) -> TextIO:
    return open(fd, "r" if fd == 0 else "w", encoding="utf-8", errors="replace", closefd=False)


def write_line(fd: int, text: str) -> str:
    """Write one short line to a descriptor, without waiting and without a buffer that would fail
    again at the end of the process. Answers "" or why it could not be written."""
    data, done = f"{text}\n".encode(), 0
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    try:
        while done < len(data):
            if not any(event & select.POLLOUT for _, event in poll.poll(0)):
                return "nobody reads it"
            done += os.write(fd, data[done:])
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def signal_name(number: int) -> str:
    """The name of a signal: SIGHUP; those of real time have none but a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""Signals as the master takes them: held all the time, and read from a descriptor (signalfd(2)).

So no handler runs in the middle of something, a process that is forked inherits none, and what came
at any instant since the signals were held is there to be read, for process 1 of a container too.
"""

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from server.early import HELD

_INFO: Final = struct.Struct("=IiiI112x")  # struct signalfd_siginfo: number, errno, code, pid, …
_SET_WORDS: Final = 1024 // 64  # of sigset_t
_AT_ONCE: Final = 32

_libc = ctypes.CDLL(None, use_errno=True)


class Signal(NamedTuple):
    """One that came. The system gives several of a kind as one."""

    number: int
    sender: int  # process id; 0: the system, or a process of another namespace


class SignalQueue:
    """The signals of this process that are held. OSError."""

    def __init__(self) -> None:
        words = [0] * _SET_WORDS
        for number in HELD:
            words[(number - 1) // 64] |= 1 << (number - 1) % 64
        mask = struct.pack(f"={_SET_WORDS}Q", *words)
        self._fd: int = _libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def fileno(self) -> int:
        """The descriptor; readable while there is a signal."""
        return self._fd

    def take(self) -> Iterator[Signal]:
        """What has come. SIGCHLD is left out: it only wakes."""
        while True:
            try:
                data = os.read(self._fd, _INFO.size * _AT_ONCE)
            except BlockingIOError:
                return
            for number, _, _, sender in _INFO.iter_unpack(data):
                if number != signal.SIGCHLD:
                    yield Signal(number, sender)

    def close(self) -> None:
        """Close the descriptor; signals stay held. May be repeated."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)

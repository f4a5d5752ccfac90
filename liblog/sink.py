"""Where log lines go, and the rule that a process never waits for its log.

A write that has to wait (a pipe or FIFO that nobody reads, a terminal stopped by Ctrl-S) would stop
the server until somebody reads on. So a line that cannot be written at once is dropped and counted,
and the count is logged as soon as a line gets through.

How that is done depends on what the descriptor is:

- A regular file or a device never makes a writer wait for a reader. It is written to directly.
- A pipe, FIFO or terminal is opened a second time, through /proc/self/fd, with O_NONBLOCK. The flag
  belongs to the open file description, which standard error shares with the shell and with other
  programs: setting it there would break them. The second description is ours alone.
- A socket cannot be opened again, but takes the flag with each call: MSG_DONTWAIT.
- What cannot be opened again (the terminal of another user, after `su`) is written to by a thread.
  One line is handed over at a time; while the thread is stuck in a write, lines are dropped.
"""

import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

STDERR_FD: Final = 2
HANDED_OVER_S: Final = 0.02
"""How long, in seconds, a line may take to be written by the thread before the process carries on.
It is what the process loses when its log gets stuck, once; the last line of a process that is about
to exit is on its way by then."""

_OPEN_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class _ThreadWriter:
    """Writes to a descriptor that can only be written to in a blocking way."""

    def __init__(self, fd: int) -> None:
        """RuntimeError: the system allows no further thread."""
        self._fd = fd
        self._line = b""
        self._idle, self._work = threading.Semaphore(1), threading.Semaphore(0)
        threading.Thread(target=self._serve, name="log", daemon=True).start()

    def __call__(self, line: bytes) -> int:
        """Hand the line over; the length that is on its way. BlockingIOError: an earlier line is
        still being written."""
        if not self._idle.acquire(blocking=False):
            raise BlockingIOError
        self._line = line
        self._work.release()
        if self._idle.acquire(timeout=HANDED_OVER_S):
            self._idle.release()
        return len(line)

    def close(self) -> None:
        """End the thread, at the latest once its reader goes on; for a sink that is replaced."""
        self._line = b""
        self._work.release()

    def _serve(self) -> None:
        while True:
            self._work.acquire()
            if not self._line:
                return
            with suppress(OSError):  # closed, or nobody will ever read: there is nowhere to say it
                os.write(self._fd, self._line)
            self._idle.release()


class Sink:
    """One destination of lines at a time. It outlives every `use`, so loggers made before follow.

    Not for use by several threads at once.
    """

    def __init__(self, report: Callable[[int], bytes]) -> None:
        """report: renders the line that tells how many lines were dropped."""
        self.dropped = 0  # lines of this process that were not written, or not wholly
        self._report = report
        self._untold = 0  # those of them that no line has told of
        self._fd: int | None = STDERR_FD
        self._own = False  # whether _fd is ours to close
        self._torn = False  # the last line was written in part
        self._socket: socket.socket | None = None
        self._thread: _ThreadWriter | None = None
        self._write: Callable[[bytes], int] = self._write_fd
        self._pid = os.getpid()

    # ---- the destination

    def use_file(self, path: str | os.PathLike[str]) -> None:
        """Send lines to the end of this file. OSError: it cannot be opened, and all is as before.

        A FIFO that nobody has open for reading is refused with ENXIO instead of waited for.
        """
        self._replace(os.open(path, _OPEN_FLAGS | os.O_CREAT, 0o640), own=True)

    def reopen_file(self, path: str | os.PathLike[str]) -> None:
        """Open the file of `use_file` anew, under the same descriptor: a line that is being written
        just now goes to the old or the new one. OSError: it cannot be, and all is as before."""
        assert self._own, "lines go to a file"
        assert self._fd is not None
        fd = os.open(path, _OPEN_FLAGS | os.O_CREAT, 0o640)
        try:
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)

    def use_stderr(self) -> None:
        """Send lines to standard error; where the process was started without, they are dropped."""
        if self._is_stderr_already():
            return
        mode = _mode(STDERR_FD)
        if stat.S_ISSOCK(mode):
            self._replace(STDERR_FD, own=False)
            self._socket = socket.socket(fileno=STDERR_FD)
            self._write = self._send
        elif not (stat.S_ISFIFO(mode) or _is_terminal(mode)):
            self._replace(STDERR_FD if mode else None, own=False)
        else:
            try:
                self._replace(os.open(f"/proc/self/fd/{STDERR_FD}", _OPEN_FLAGS), own=True)
            except OSError:
                self._use_thread()

    def _use_thread(self) -> None:
        try:
            thread = _ThreadWriter(STDERR_FD)
        except RuntimeError:
            self.use_nothing()  # better no log than a server that waits for it
        else:
            self._replace(STDERR_FD, own=False)
            self._thread = self._write = thread

    def use_nothing(self) -> None:
        """Drop every line, and count it."""
        self._replace(None, own=False)

    def _is_stderr_already(self) -> bool:
        """Whether lines go to standard error's pipe or terminal by a description of our own.

        After a fork it is kept: opening it again may fail (descriptors used up) and gains nothing.
        """
        if not self._own or self._fd is None or not _mode(STDERR_FD):
            return False
        return os.path.samestat(os.fstat(self._fd), os.fstat(STDERR_FD))

    def _replace(self, fd: int | None, *, own: bool) -> None:
        if self._own and self._fd is not None:
            os.close(self._fd)
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        self._fd, self._own, self._torn = fd, own, False
        self._write = self._write_fd

    def begin_process(self) -> None:
        """Count anew if this is another process than before, after a fork."""
        if self._pid != os.getpid():
            self._pid, self.dropped, self._untold = os.getpid(), 0, 0

    # ---- lines

    def write(self, line: bytes) -> None:
        """Write one line, now or never; count it as dropped if it is not written wholly."""
        if self._untold:
            told = self._untold
            if not self._put(self._report(told)):
                self._drop()
                return
            self._untold -= told
        if not self._put(line):
            self._drop()

    # The names under which structlog calls the logger at the end of its chain.
    debug = info = warning = error = critical = write

    def _drop(self) -> None:
        self.dropped += 1
        self._untold += 1

    def _put(self, line: bytes) -> bool:
        if self._fd is None:
            return False
        if self._torn:
            line = b"\n" + line  # the rest of a torn line must not swallow this one
        try:
            written = self._write(line)
        except OSError:
            return False
        self._torn = written < len(line)
        return not self._torn

    def _write_fd(self, line: bytes) -> int:
        assert self._fd is not None
        return os.write(self._fd, line)

    def _send(self, line: bytes) -> int:
        assert self._socket is not None
        return self._socket.send(line, socket.MSG_DONTWAIT)


def _mode(fd: int) -> int:
    """The type bits of what a descriptor is open on; 0 if it is closed."""
    try:
        return os.fstat(fd).st_mode
    except OSError:
        return 0


def _is_terminal(mode: int) -> bool:
    return stat.S_ISCHR(mode) and os.isatty(STDERR_FD)

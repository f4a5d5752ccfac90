"""liblog: no process ever waits for its log, and what was dropped is told. Real descriptors."""

import errno
import fcntl
import json
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import tty
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

TIMEOUT_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
LINES = 4_000  # of 100 bytes and more: no pipe, socket or terminal takes so much unread
NOBODY = 65534

PROGRAM = f"""
import os, select, sys, liblog
mode, path = sys.argv[1:]
if mode == "other user":
    os.setgroups([])
    os.setuid({NOBODY})
liblog.configure("info", "json", path or None)
log = liblog.get("test")
if mode == "fork":
    pid = os.fork()
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    liblog.configure("info", "json", path or None)
for n in range({LINES}):
    log.info("line", n=n, padding="x" * 100)
os.write(1, b"%d\\n" % liblog.dropped())
os.read(0, 1)  # somebody reads now
while True:  # what was stuck in a write needs a moment
    before = liblog.dropped()
    log.info("after")
    if liblog.dropped() == before:
        break
    select.select([], [], [], 0.005)
log.info("last")
os.write(1, b"%d\\n" % liblog.dropped())
"""


class Unread(NamedTuple):
    """A destination that nobody reads until `open_up` is called."""

    stderr: int
    path: str
    open_up: Callable[[], None]
    read_fd: int


def _pipe(stack: ExitStack, tmp_path: Path) -> Unread:
    del tmp_path
    read_end, write_end = os.pipe()
    stack.callback(os.close, read_end)
    stack.callback(os.close, write_end)
    return Unread(write_end, "", lambda: None, read_end)


def _socket(stack: ExitStack, tmp_path: Path) -> Unread:
    del tmp_path
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    stack.callback(theirs.close)
    return Unread(theirs.fileno(), "", lambda: None, ours.fileno())


def _fifo(stack: ExitStack, tmp_path: Path) -> Unread:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    read_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    stack.callback(os.close, read_end)
    return Unread(2, str(path), lambda: None, read_end)


def _terminal(stack: ExitStack, tmp_path: Path) -> Unread:
    """A terminal on which Ctrl-S was typed; Ctrl-Q opens it up."""
    del tmp_path
    ours, theirs = pty.openpty()
    stack.callback(os.close, ours)
    stack.callback(os.close, theirs)
    tty.setraw(theirs)
    termios.tcflow(theirs, termios.TCOOFF)
    return Unread(theirs, "", lambda: termios.tcflow(theirs, termios.TCOON), ours)


KINDS = {"pipe": _pipe, "socket": _socket, "FIFO": _fifo, "terminal": _terminal}


def _read_until(fd: int, text: bytes) -> bytes:
    """Whole lines, up to one that has this text."""
    data = b""
    while text not in data or not data.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], TIMEOUT_S)
        assert ready, data[-200:]
        data += os.read(fd, 65536)
    return data


def _drain(fd: int) -> bytes:
    data = b""
    while select.select([fd], [], [], 0)[0]:
        data += os.read(fd, 65536)
    return data


def _check_nobody_waits(unread: Unread, mode: str) -> None:
    """Run PROGRAM on it: it ends its many lines by itself, and then tells how many are missing."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode, unread.path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=unread.stderr,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            dropped = int(_read_until(process.stdout.fileno(), b""))
            unread.open_up()
            data = _drain(unread.read_fd)
            process.stdin.close()
            data += _read_until(unread.read_fd, b'"event":"last"')
            dropped_at_last = int(_read_until(process.stdout.fileno(), b""))
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
    lines = [json.loads(line) for line in data.splitlines()]
    assert [line["event"] for line in lines[-3:]] == ["log_lines_dropped", "after", "last"]
    told = [line["count"] for line in lines if line["event"] == "log_lines_dropped"]
    assert 0 < dropped <= sum(told) == dropped_at_last
    assert [line["event"] for line in lines].count("line") == LINES - dropped


@pytest.mark.parametrize("mode", ["", "fork"])
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_waits_for_the_log(tmp_path: Path, kind: str, mode: str) -> None:
    with ExitStack() as stack:
        _check_nobody_waits(KINDS[kind](stack, tmp_path), mode)


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_nobody_waits_for_what_cannot_be_opened_again(tmp_path: Path, kind: str) -> None:
    """As after `su`: it is another user's, and only what was inherited may be written to."""
    with ExitStack() as stack:
        unread = KINDS[kind](stack, tmp_path)
        os.fchmod(unread.stderr, 0o600 if os.getuid() == 0 else 0)
        _check_nobody_waits(unread, "other user" if os.getuid() == 0 else "")


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_the_descriptor_that_others_share_is_not_changed(tmp_path: Path, kind: str) -> None:
    """O_NONBLOCK on it would break the shell, and every program that has it too."""
    with ExitStack() as stack:
        unread = KINDS[kind](stack, tmp_path)
        before = fcntl.fcntl(unread.stderr, fcntl.F_GETFL)
        _check_nobody_waits(unread, "")
        assert fcntl.fcntl(unread.stderr, fcntl.F_GETFL) == before


def test_a_fifo_that_nobody_reads_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    code = (
        f"import liblog\ntry: liblog.configure(path={str(path)!r})\nexcept OSError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    assert os.strerror(errno.ENXIO) in done.stdout

"""`tradechat-cli` at a pseudo-terminal, as a person sees it.

What it writes is drawn by a model of a
terminal (pyte), and what is asserted is what stands on that screen.
"""

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import tempfile
import termios
import time
import unicodedata
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import pyte
from wcwidth import wcwidth

from tests.client.programs import COMMAND, DEADLINE_S, ROOT, environment
from tests.helpers.server import wait_until

POLL_S = 0.2
"""How often a condition is looked at while nothing is written."""
MODES = {"alternate screen": 1049, "bracketed paste": 2004}
"""Private modes that a program sets and has to put back."""


class TerminalModel(pyte.Screen):
    """A screen that also knows what a person hears, and draws what has no width of its own."""

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__(columns, lines)
        self.bells = 0
        self.titles: list[str] = []

    def bell(self, *_: Any) -> None:
        self.bells += 1

    def set_title(self, param: str) -> None:
        self.titles.append(param)

    def draw(self, data: str) -> None:
        """pyte drops what follows a character without width that is no combining one, as those
        that isolate a direction are."""
        for char in data:
            if wcwidth(char) == 0 and not _combines(char):
                continue
            super().draw(char)


def _combines(char: str) -> bool:

    return bool(unicodedata.combining(char))


class OnScreen:
    """The program on a screen of its own, as the foreground of a session of its own."""

    def __init__(
        self,
        port: int,
        *arguments: str,
        columns: int = 100,
        lines: int = 24,
        command: Sequence[str] = COMMAND,
        **changes: str | None,
    ) -> None:
        self.model = TerminalModel(columns, lines)
        self._stream = pyte.ByteStream(self.model)
        self.written = bytearray()
        self.code: int | None = None
        """Its exit code; None while it runs, as far as was looked."""
        self._state = tempfile.TemporaryDirectory()  # nothing that another chat has kept
        own: dict[str, Any] = {"TERM": "xterm-256color", "XDG_STATE_HOME": self._state.name}
        made = environment(port, **{**own, **changes})
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
                os.chdir(ROOT)
                os.execvpe(command[0], [*command, *arguments], made)  # noqa: S606 - no shell
            finally:
                os._exit(127)

    @property
    def terminal(self) -> int:
        """The descriptor of its other end."""
        return self._fd

    # ---- what a person does

    def press(self, keys: str | bytes) -> None:
        os.write(self._fd, keys.encode() if isinstance(keys, str) else keys)

    def say(self, line: str) -> None:
        """Type a line, see it in the input line, and press Enter."""
        self.press(line)
        self.until(lambda: line[-20:] in self.text, f"{line!r} is typed")
        self.press("\r")

    def resize(self, columns: int, lines: int) -> None:
        self.model.resize(lines, columns)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def hang_up(self) -> None:
        """The terminal goes away, as when the connection to a machine is lost."""
        os.close(self._fd)
        self._fd = -1

    # ---- what a person sees

    @property
    def rows(self) -> list[str]:
        """The rows of the screen, blanks at their ends left out."""
        # pyte's own `display` fails where half of a wide character was overwritten.
        columns = range(self.model.columns)
        cells = (self.model.buffer[number] for number in range(self.model.lines))
        return ["".join(row[column].data for column in columns).rstrip() for row in cells]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    def mode(self, name: str) -> bool:
        """Whether the program has set a private mode last."""
        found = re.findall(rb"\x1b\[\?%d([hl])" % MODES[name], bytes(self.written))
        return bool(found) and found[-1] == b"h"

    def expect(self, text: str) -> None:
        """Until the screen shows this text."""
        self.until(lambda: text in self.text, f"{text!r} is shown")

    def expect_gone(self, text: str) -> None:
        self.until(lambda: text not in self.text, f"{text!r} is gone")

    def expect_row(self, pattern: str) -> str:
        """Until a row of the screen matches; the row."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [row for row in self.rows if re.search(pattern, row)]
            return bool(found)

        self.until(look, f"a row matches {pattern!r}")
        return found[0]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Read what it writes until the condition holds, and the drawing under way to its end."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"not in time: {what}; the screen:\n{self.text}"
            if not self._read(min(left, POLL_S)):
                assert condition(), f"it has ended before {what}; the screen:\n{self.text}"
                return
        self._finish_drawing()

    def _finish_drawing(self) -> None:
        """A terminal hands over a large drawing in pieces: one may end between two rows.

        The cursor is hidden for as long as one is under way; in some views for good, where quiet is
        its end.
        """
        while self.model.cursor.hidden and select.select([self._fd], [], [], POLL_S)[0]:
            if not self._read(0):
                return

    def _read(self, timeout_s: float) -> bool:
        """Draw what was written; False at the end."""
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)

    def end(self) -> int:
        """Wait until it has ended; its exit code."""
        deadline = time.monotonic() + DEADLINE_S
        if self._fd >= 0:
            while self._read(max(0.0, deadline - time.monotonic())):
                assert time.monotonic() < deadline, f"it does not end; the screen:\n{self.text}"
        descriptor = os.pidfd_open(self.pid)
        try:
            ended = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ended, "it does not end"
        finally:
            os.close(descriptor)
        return self._reap()

    def _reap(self) -> int:
        if self.code is None:
            _, state = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(state)
        return self.code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.code is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._reap()
        if self._fd >= 0:
            os.close(self._fd)
        self._state.cleanup()


ECHO_STATE = "stty -a | tr ' ' '\\n' | grep -x -e -echo -e echo | sed s/^/state=/"
"""Has a shell write `state=echo` where the terminal shows what is typed, else `state=-echo`."""


class ShellOnScreen(OnScreen):
    """An interactive shell on a screen of its own, in which $CLI is the program."""

    def __init__(self, port: int, **changes: str | None) -> None:
        shell = ("bash", "--norc", "--noprofile", "-i")
        program = shlex.join(COMMAND)
        variables: dict[str, Any] = {"CLI": program, "PS1": "$ ", "HISTFILE": None, **changes}
        super().__init__(port, command=shell, **variables)
        self.expect("$")

    def leave(self) -> None:
        """End the shell, and wait for what it has started."""
        self.until(lambda: os.tcgetpgrp(self._fd) == self.pid, "the terminal is the shell's")
        self.press("exit\r")
        self.end()

    def foreground(self) -> int:
        """The process that the terminal belongs to now, which is not the shell."""
        wait_until(
            lambda: os.tcgetpgrp(self._fd) != self.pid, "another program is in the foreground"
        )
        return os.tcgetpgrp(self._fd)

"""Programs in pseudo-terminals, as people see them: what they wrote, and the screen that it makes.

No shell is there. A program is the foreground of a session of its own, and is ended with the
`with`.
"""

import os
import pty
import re
import select
import shlex
import signal
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyte
from rich.style import Style
from rich.text import Text

from bench.lab.cli import BenchFailed
from bench.lab.process import signals_held

COLUMNS: Final = 80
ROWS: Final = 50
_WAIT_S: Final = 120.0
_STOP_S: Final = 15.0
_NOT_FOUND: Final = 127  # what a shell answers for a program that is not there

# Colours and moves (ECMA-48 control sequences). Of the moves only \r and «erase to the end of the
# line» are understood here: a line that is rewritten is one line of the picture.
_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*([@-~])|.)")
_UNDERSTOOD: Final = frozenset("mK")


class TerminalFailed(BenchFailed):
    """A program did not show what it was to show; the text says what it showed last."""


class Program:
    """A program in a pseudo-terminal of its own, as the foreground of a session of its own."""

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        columns: int,
        variables: Mapping[str, str] | None = None,
        rows: int = ROWS,
    ) -> None:
        """directory: where it is started. columns, rows: of the terminal. variables: of its
        environment, beside ours."""
        self.command = tuple(command)
        self.columns = columns
        self.code: int | None = None
        """Its exit code, negative for a signal; None while it runs, as far as was looked."""
        self._shown = bytearray()
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._is_open = True
        # Nobody's own settings, and nothing that another run has kept.
        own = {f"XDG_{kind.upper()}_HOME": str(directory / kind) for kind in ("config", "state")}
        environment = {**_environment(), **own, **(variables or {})}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            _become(self.command, directory, environment, (rows, columns))
        self.pidfd = os.pidfd_open(self.pid)

    @property
    def text(self) -> str:
        """All that it has written so far, with what the terminal echoed."""
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    @property
    def screen(self) -> list[str]:
        """The lines of the terminal's screen as they are now, down to the cursor's."""
        return [line.rstrip() for line in self._screen.display[: self._screen.cursor.y + 1]]

    @property
    def picture(self) -> list[Text]:
        """All lines of the screen as they are now, with their colours."""
        found = []
        for number in range(self._screen.lines):
            row, line = self._screen.buffer[number], Text()
            cells = [row[column] for column in range(self._screen.columns)]
            for style, alike in groupby(cells, _style_of):
                line.append("".join(cell.data for cell in alike), style)
            found.append(line)
        return found

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def take(self) -> None:
        """What is there to be read, drawn, and how it ended if it has."""
        self._take(self._stream.feed)

    def _take(self, draw: Callable[[bytes], None]) -> None:
        ended = bool(select.select([self.pidfd], [], [], 0)[0])
        try:
            while self._is_open and select.select([self.fd], [], [], 0)[0]:
                data = os.read(self.fd, 65536)
                self._shown += data
                draw(data)
        except OSError:  # EIO: nobody has the other end any more
            self._is_open = False
        if ended and self.code is None:
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)

    def sources(self) -> list[int]:
        """The descriptors that are readable when there is something to take."""
        return [self.fd, self.pidfd] if self._is_open else [self.pidfd]

    def failed(self, what: str) -> TerminalFailed:
        """The exception for it, with the last that it has said."""
        last = "\n".join(plain(self.text).rstrip().splitlines()[-10:])
        return TerminalFailed(f"`{shlex.join(self.command)}` {what}; the last it said:\n{last}")

    def close(self) -> None:
        """End it, if it has not ended: in order, and then at once.

        Nothing is drawn here: an interrupt while something was has ended the model of the terminal.
        """
        if self.code is None:
            os.kill(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_S
            while self.code is None and (left := deadline - time.monotonic()) > 0:
                select.select(self.sources(), [], [], left)
                self._take(lambda _: None)
            if self.code is None:
                os.killpg(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
                self.code = os.waitstatus_to_exitcode(status)
        os.close(self.pidfd)
        os.close(self.fd)


def _style_of(cell: pyte.screens.Char) -> Style:
    """A cell's looks as rich has them."""
    return Style(
        color=_colour_of(cell.fg),
        bgcolor=_colour_of(cell.bg),
        bold=cell.bold,
        reverse=cell.reverse,
        underline=cell.underscore,
    )


def _colour_of(name: str) -> str | None:
    """pyte's name of one of the 16 colours as rich has it."""
    if name == "default":
        return None
    return name.replace("bright", "bright_").replace("brown", "yellow")


def _environment() -> dict[str, str]:
    """Ours, without what would change what is shown."""
    hidden = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in hidden and not name.startswith("TRADECHAT_")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return {
        **kept,
        "PATH": path,
        "TRADECHAT_ADMIN_PORT": "0",  # the default may be another server's
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
        "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody here answers where the cursor is
    }


def _become(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    size: tuple[int, int],
) -> None:
    """In the child of a fork: become the program. Does not come back."""
    try:
        termios.tcsetwinsize(0, size)
        os.chdir(directory)
        os.execvpe(command[0], list(command), environment)  # noqa: S606 - no shell is needed
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_FOUND)


class Stage:
    """Terminals side by side, their programs started in one directory and ended with the `with`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._programs: list[Program] = []
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    def start(
        self,
        *command: str,
        columns: int = COLUMNS,
        variables: Mapping[str, str] | None = None,
        rows: int = ROWS,
    ) -> Program:
        with signals_held():
            program = Program(command, self._directory, columns, variables, rows)
            self._undo.callback(program.close)
        self._programs.append(program)
        return program

    def await_text(self, program: Program, pattern: str) -> re.Match[str]:
        """Until the program has shown it; TerminalFailed if it ends before, or takes too long."""

        def look() -> re.Match[str] | None:
            return re.search(pattern, plain(program.text))

        self._until(program, lambda: look() is not None or program.code is not None, pattern)
        found = look()
        if found is None:
            raise program.failed(
                f"ended with exit code {program.code} before {pattern!r} was there"
            )
        return found

    def await_screen(self, program: Program, pattern: str) -> None:
        """Until its screen shows it; TerminalFailed if it ends before, or takes too long."""

        def shows() -> bool:
            return re.search(pattern, "\n".join(program.screen)) is not None

        self._until(program, lambda: shows() or program.code is not None, pattern)
        if not shows():
            raise program.failed(
                f"ended with exit code {program.code} before {pattern!r} was on its screen"
            )

    def await_end(self, program: Program) -> str:
        """Until it has ended; all that it has shown. TerminalFailed unless its exit code is 0."""
        self._until(program, lambda: program.code is not None, "its end")
        if program.code != 0:
            raise program.failed(f"ended with exit code {program.code}")
        return program.text

    def _until(self, program: Program, condition: Callable[[], bool], what: str) -> None:
        """All terminals are read meanwhile: a program that nobody reads would block."""
        deadline = time.monotonic() + _WAIT_S
        while True:
            for each in self._programs:
                each.take()
            if condition():
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise program.failed(f"has not come to {what} in {_WAIT_S:g} s")
            running = [each for each in self._programs if each.code is None]
            select.select([fd for each in running for fd in each.sources()], [], [], left)


def plain(shown: str) -> str:
    """The text without colours, and of lines that were rewritten what is there in the end.

    Raises TerminalFailed where a program moves about on the screen in a way not understood here.
    """
    return "\n".join(line.plain for line in lines(shown))


def lines(shown: str) -> list[Text]:
    """The lines of `plain`, with their colours."""
    for sequence in _SEQUENCE.finditer(shown):
        if sequence[1] not in _UNDERSTOOD:
            raise TerminalFailed(
                f"{sequence[0]!r} moves about on the screen: a terminal would be needed to draw it"
            )
    return list(Text.from_ansi(shown.rstrip("\n")).split("\n", allow_blank=True))

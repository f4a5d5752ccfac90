"""`python -m bench.pictures`: the pictures of the README, drawn from programs that really run.

A server, a stress run on it and a look into it meanwhile, each in a pseudo-terminal of its own, so
that they colour and show what they show to people. What a terminal would show in the end becomes an
SVG: text, which stays sharp and small, in whatever monospaced font the reader has.

No shell is there: the line with the prompt is ours, and it is the command that was run. Pictures
are written when all of them are made, and none is that names a path of the machine it was made on.
"""

import argparse
import io
import os
import pty
import re
import select
import shlex
import signal
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.text import Text

from bench.lab import cli
from bench.lab.cli import EXIT_GOOD, BenchFailed
from bench.lab.process import signals_held

PROGRAM: Final = cli.Program(f"python -m {__spec__.name}")

COLUMNS: Final = 80
ROWS: Final = 50
# Of each picture: as few as its longest lines need.
SERVER_COLUMNS: Final = 122
STRESS_COLUMNS: Final = 94
METRICS_COLUMNS: Final = 50
STRESS: Final = ("--duration", "5")
_PORT: Final = 7878
_OUT: Final = Path("docs/pictures")
_WAIT_S: Final = 120.0
_STOP_S: Final = 15.0
CTRL_C: Final = b"\x03"
READY: Final = r"ready host=\S+ port=(\d+) \S+ pid=(\d+)"
_NOT_FOUND: Final = 127  # what a shell answers for a program that is not there

# Colours and moves (ECMA-48 control sequences). Of the moves only \r and «erase to the end of the
# line» are understood here: a line that is rewritten is one line of the picture.
_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*([@-~])|.)")
_UNDERSTOOD: Final = frozenset("mK")
# A slash that begins a word, or a variable's value: of a relative path it never does.
_ABSOLUTE: Final = re.compile(r"(?<![\w./~])/+[\w.-][^\s'\",;:)\]}]*")

# rich's own names its font by an address on the web, and cuts off what is below the last line's
# base. Some viewers cut a text's first space off, even one that does not break, unless spaces are
# preserved.
_SVG: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
}}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


class PictureFailed(BenchFailed):
    """A picture cannot be made, or may not be shown; the text says why and what to do."""


class Program:
    """A program in a pseudo-terminal of its own, as the foreground of a session of its own."""

    def __init__(self, command: Sequence[str], directory: Path, columns: int) -> None:
        """directory: where it is started. columns: of the terminal."""
        self.command = tuple(command)
        self.columns = columns
        self.code: int | None = None
        """Its exit code, negative for a signal; None while it runs, as far as was looked."""
        self._shown = bytearray()
        self._is_open = True
        environment = _environment()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            _become(self.command, directory, environment, columns)
        self.pidfd = os.pidfd_open(self.pid)

    @property
    def text(self) -> str:
        """All that it has written so far, with what the terminal echoed."""
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def take(self) -> None:
        """What is there to be read, and how it ended if it has."""
        ended = bool(select.select([self.pidfd], [], [], 0)[0])
        try:
            while self._is_open and select.select([self.fd], [], [], 0)[0]:
                self._shown += os.read(self.fd, 65536)
        except OSError:  # EIO: nobody has the other end any more
            self._is_open = False
        if ended and self.code is None:
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)

    def sources(self) -> list[int]:
        """The descriptors that are readable when there is something to take."""
        return [self.fd, self.pidfd] if self._is_open else [self.pidfd]

    def failed(self, what: str) -> PictureFailed:
        """The exception for it, with the last that it has said."""
        last = "\n".join(plain(self.text).rstrip().splitlines()[-10:])
        return PictureFailed(f"`{shlex.join(self.command)}` {what}; the last it said:\n{last}")

    def close(self) -> None:
        """End it, if it has not ended: in order, and then at once."""
        if self.code is None:
            os.kill(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_S
            while self.code is None and (left := deadline - time.monotonic()) > 0:
                select.select(self.sources(), [], [], left)
                self.take()
            if self.code is None:
                os.killpg(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
                self.code = os.waitstatus_to_exitcode(status)
        os.close(self.pidfd)
        os.close(self.fd)


def _environment() -> dict[str, str]:
    """Ours, without what would change what is shown."""
    hidden = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in hidden and not name.startswith("TRADECHAT_")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}


def _become(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], columns: int
) -> None:
    """In the child of a fork: become the program. Does not come back."""
    try:
        termios.tcsetwinsize(0, (ROWS, columns))
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

    def __enter__(self) -> "Stage":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    def start(self, *command: str, columns: int = COLUMNS) -> Program:
        with signals_held():
            program = Program(command, self._directory, columns)
            self._undo.callback(program.close)
        self._programs.append(program)
        return program

    def await_text(self, program: Program, pattern: str) -> re.Match[str]:
        """Until the program has shown it; PictureFailed if it ends before, or takes too long."""

        def look() -> re.Match[str] | None:
            return re.search(pattern, plain(program.text))

        self._until(program, lambda: look() is not None or program.code is not None, pattern)
        found = look()
        if found is None:
            raise program.failed(
                f"ended with exit code {program.code} before {pattern!r} was there"
            )
        return found

    def await_end(self, program: Program) -> str:
        """Until it has ended; all that it has shown. PictureFailed unless its exit code is 0."""
        self._until(program, lambda: program.code is not None, "its end")
        if program.code != 0:
            raise program.failed(f"ended with exit code {program.code}")
        return program.text

    def _until(self, program: Program, condition: Callable[[], bool], what: str) -> None:
        """All terminals are read meanwhile: a program that nobody reads would stand still."""
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

    Raises PictureFailed where a program moves about on the screen in a way not understood here.
    """
    return "\n".join(line.plain for line in _lines(shown))


def _lines(shown: str) -> list[Text]:
    for sequence in _SEQUENCE.finditer(shown):
        if sequence[1] not in _UNDERSTOOD:
            raise PictureFailed(
                f"{sequence[0]!r} moves about on the screen: a terminal would be needed to draw it"
            )
    return list(Text.from_ansi(shown.rstrip("\n")).split("\n", allow_blank=True))


def refuse_paths(name: str, text: str) -> None:
    """PictureFailed where the text names an absolute path: it is of this machine only."""
    found = sorted(set(_ABSOLUTE.findall(text)))
    if found:
        raise PictureFailed(
            f"{name} would show paths of this machine: {', '.join(found)}; "
            "name files relative to where the program is started"
        )


def draw(name: str, program: Program) -> str:
    """An SVG of the terminal in which the program was run.

    Raises PictureFailed where it would show a path of this machine.
    """
    command = shlex.join(program.command)
    refuse_paths(name, f"{command}\n{plain(program.text)}")
    console = Console(
        record=True,
        file=io.StringIO(),
        width=program.columns,
        force_terminal=True,
        color_system="standard",
        no_color=False,
        legacy_windows=False,
    )
    console.print(Text.assemble(("$ ", "bold green"), command))
    for line in _lines(program.text):
        console.print(line, overflow="fold")
    return console.export_svg(
        title=program.command[0], code_format=_SVG, unique_id=f"picture-{name}"
    )


def make(directory: Path, port: int, stress: Sequence[str] = STRESS) -> dict[str, str]:
    """The pictures by name. directory: empty, for the server's state. port: 0 is a free one.

    Raises PictureFailed.
    """
    serve = ("tradechat-server", "--port", str(port), "--data", "./data")
    with Stage(directory) as stage:
        server = stage.start(*serve, columns=SERVER_COLUMNS)
        stage.await_text(server, READY)
        stage.await_text(server, "serving")
        server.press(CTRL_C)
        stage.await_end(server)

        # Again, for the load: the lines of totals that it logs meanwhile would hide the rest.
        loaded = stage.start(*serve)
        ready = stage.await_text(loaded, READY)
        port_words, pid_words = ("--port", ready[1]), ("--pid", ready[2])
        load = stage.start(
            "tradechat-bench", *port_words, *pid_words, *stress, columns=STRESS_COLUMNS
        )
        stage.await_text(load, r"\d+/\d+ s  ok [1-9]")  # the warm-up is over
        look = stage.start("tradechat-admin", "inspect", *port_words, columns=METRICS_COLUMNS)
        stage.await_end(look)
        stage.await_end(load)
        loaded.press(CTRL_C)
        stage.await_end(loaded)
    return {
        "server": draw("server", server),
        "stress": draw("stress", load),
        "metrics": draw("metrics", look),
    }


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM.name,
        description="Draw the pictures of the README (server.svg, stress.svg, metrics.svg) from a "
        "server, a stress run on it and a look into it, which are really run.",
        epilog="exit codes: 0 all pictures are written, 3 none is: a program failed, or a picture "
        "would show a path of this machine; 2 wrong usage, 130 interrupted, 143 terminated",
        allow_abbrev=False,
    )
    made.add_argument(
        "--out", type=Path, default=_OUT, metavar="DIR", help=f"where to (default {_OUT})"
    )
    made.add_argument(
        "--port",
        type=int,
        default=_PORT,
        metavar="N",
        help=f"of the server; 0: a free one (default {_PORT})",
    )
    return made


def main() -> int:
    """Answers the exit code."""
    options = _parser().parse_args()

    def body() -> int:
        with tempfile.TemporaryDirectory(prefix="tradechat-pictures-") as directory:
            pictures = make(Path(directory), options.port)
        options.out.mkdir(parents=True, exist_ok=True)
        for name, svg in pictures.items():
            path = options.out / f"{name}.svg"
            path.write_text(svg)
            PROGRAM.tell(str(path))
        return EXIT_GOOD

    return PROGRAM.run(body)


if __name__ == "__main__":
    sys.exit(main())

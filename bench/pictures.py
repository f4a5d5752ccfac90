"""`python -m bench.pictures`: the pictures of the README, drawn from programs that really run.

A server, a stress run on it and a look into it meanwhile, each in a pseudo-terminal of its own, so
that they colour and show what they show to people. What a terminal would show in the end becomes an
SVG: text, which stays sharp and small, in whatever monospaced font the reader has.

No shell is there: the line with the prompt is ours, and it is the command that was run. Pictures
are written when all of them are made, and none is that names a path of the machine it was made on.
"""

import argparse
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from bench.lab import cli
from bench.lab.cli import EXIT_GOOD, BenchFailed
from bench.lab.terminal import Program, Stage, lines, plain

PROGRAM: Final = cli.Program(f"python -m {__spec__.name}")

# Of each picture: as few as its longest lines need.
SERVER_COLUMNS: Final = 122
STRESS_COLUMNS: Final = 94
METRICS_COLUMNS: Final = 50
STRESS: Final = ("--duration", "5")
_PORT: Final = 7878
_OUT: Final = Path("docs/pictures")
CTRL_C: Final = b"\x03"
READY: Final = r"ready host=\S+ port=(\d+) \S+ pid=(\d+)"

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
    for line in lines(program.text):
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

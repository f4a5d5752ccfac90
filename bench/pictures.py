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
from client import Client

PROGRAM: Final = cli.Program(f"python -m {__spec__.name}")

# Of each picture: as few as its longest lines need.
SERVER_COLUMNS: Final = 122
STRESS_COLUMNS: Final = 94
METRICS_COLUMNS: Final = 50
CHAT_COLUMNS: Final = 96
CHAT_ROWS: Final = 19
HOST: Final = "127.0.0.1"
_PASSWORD: Final = "correct horse battery"  # noqa: S105 - of people who live as long as a run
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
    return _svg(name, program, plain(program.text), lines(program.text))


def draw_screen(name: str, program: Program) -> str:
    """An SVG of the screen of a program that moves about on it, as it is now.

    Raises PictureFailed where it would show a path of this machine.
    """
    shown = program.picture
    return _svg(name, program, "\n".join(line.plain for line in shown), shown)


def _svg(name: str, program: Program, text: str, shown: Sequence[Text]) -> str:
    command = shlex.join(program.command)
    refuse_paths(name, f"{command}\n{text}")
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
    for line in shown:
        console.print(line, overflow="fold")
    return console.export_svg(
        title=program.command[0], code_format=_SVG, unique_id=f"picture-{name}"
    )


def draw_chat(stage: Stage, port: int) -> str:
    """The chat of somebody with two others, who talk by the library."""
    with Client(HOST, port) as bob, Client(HOST, port) as carol:
        for client, name in ((bob, "bob"), (carol, "carol")):
            client.register(name, _PASSWORD)
            client.login(name, _PASSWORD)
            client.deposit(100_00)
            client.join(7)
            client.join(12)
        alice = stage.start(
            *("tradechat-cli", "--user", "alice", "--register", "--room", "7"),
            columns=CHAT_COLUMNS,
            rows=CHAT_ROWS,
            variables={"TRADECHAT_PORT": str(port), "TRADECHAT_PASSWORD": _PASSWORD},
        )
        stage.await_screen(alice, "alice joined")
        me = bob.lookup("alice").user_id

        def say(line: str, sees: str) -> None:
            alice.press(f"{line}\r".encode())
            stage.await_screen(alice, re.escape(sees))

        bob.send(7, "hello alice, lunch at the new place? They say the soup is worth the walk.")
        carol.send(7, "count me in")
        stage.await_screen(alice, "carol: count me in")
        say("with pleasure, at noon", "alice: with pleasure")
        say("/deposit 100", "deposited 100.00")
        say("/pay bob 12.50", "paid bob 12.50")
        bob.transfer(me, 225)
        stage.await_screen(alice, "bob paid you 2.25")
        bob.send(7, "alice: your change, thank you!")
        say("/join 12", "[room 12]")
        carol.send(12, "is anybody here?")
        carol.send(12, "alice?")
        stage.await_screen(alice, re.escape("carol: alice?"))
        alice.press(b"\x1b2")  # Alt-2
        stage.await_screen(alice, r"(?m)^\[room 7\]")
        carol.send(12, "hello?")
        carol.direct(me, "psst")
        stage.await_screen(alice, r"@carol +1!")
        alice.press(b"see you th")
        stage.await_screen(alice, "see you th")
        return draw_screen("chat", alice)


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

        # Of its own data: whoever chats is not to be among the users of the load.
        talking = stage.start("tradechat-server", "--port", str(port), "--data", "./chat")
        chat = draw_chat(stage, int(stage.await_text(talking, READY)[1]))
        talking.press(CTRL_C)
        stage.await_end(talking)

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
        "chat": chat,
    }


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM.name,
        description="Draw the pictures of the README (server.svg, stress.svg, metrics.svg, "
        "chat.svg) from a server, a stress run on it, a look into it and a chat, which are really "
        "run.",
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

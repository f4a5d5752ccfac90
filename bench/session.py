"""`python -m bench.session`: the first session of the README, as two people really had it.

A server and two chat programs, each in a terminal of its own, and what scripts and operators ask
afterwards. Who types what is the table below; what is shown is what the programs showed. What
differs from one run to the next (times, process ids) is not compared by `--check`.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench.lab.cli import EXIT_GOOD, EXIT_VIOLATED, BenchFailed, Program
from bench.lab.terminal import Stage

PROGRAM: Final = Program(f"python -m {__spec__.name}")
README: Final = Path("README.md")
BEGIN: Final = "<!-- A real session, by `make session`. Do not edit up to its end. -->\n"
END: Final = "<!-- The end of the session. -->\n"
PORT: Final = 7878
_PASSWORD: Final = "correct horse battery"  # noqa: S105 - of two people who live as long as a run
_READY: Final = r"ready host=\S+ port=(\d+) "

# What is not the same in two runs.
_DIFFERS: Final = (
    (re.compile(r"pid=\d+"), "pid=…"),
    (re.compile(r"port=\d+"), "port=…"),
    (re.compile(r" --port \d+"), ""),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:[+-]\d\d:\d\d)?"), "…"),
    (re.compile(r"^( *)\d\d:\d\d ", re.MULTILINE), r"\1… "),
)

ALICE: Final = "alice"
BOB: Final = "bob"


class Step(NamedTuple):
    """Somebody types a line; then their terminal, and the other's, show something."""

    who: str
    types: str
    sees: str
    other_sees: str = ""


STEPS: Final = (
    Step(ALICE, "/join 7", "[room 7] alice joined"),
    Step(BOB, "/join 7", "[room 7] bob joined", "[room 7] bob joined"),
    Step(
        ALICE,
        "hello bob, lunch is on me",
        "[room 7] alice: hello bob, lunch is on me",
        "[room 7] alice: hello bob, lunch is on me",
    ),
    Step(ALICE, "/deposit 100", "balance 100.00"),
    Step(ALICE, "/pay bob 12.50", "balance 87.50", "alice paid you 12.50"),
    Step(BOB, "thank you!", "[room 7] bob: thank you!", "[room 7] bob: thank you!"),
    Step(BOB, "/balance", "balance 12.50"),
    Step(BOB, "/txns", "alice paid you 12.50, balance 12.50"),
    Step(BOB, "/pay alice 2.25", "balance 10.25", "bob paid you 2.25"),
)

COMMANDS: Final = (
    ("tradechat-cli", "--user", ALICE, "balance"),
    ("tradechat-cli", "--user", ALICE, "pay", BOB, "1.00", "--json"),
    ("tradechat-admin", "inspect", "accounts"),
)


class Person:
    """Somebody at a terminal, and what is to be shown of it."""

    def __init__(self, stage: Stage, name: str, port: int) -> None:
        self.command = ("tradechat-cli", *_port(port), "--plain", "--user", name, "--register")
        self._stage = stage
        self._terminal = stage.start(*self.command)
        self._seen = 0  # lines of the screen, up to what was waited for
        stage.await_screen(self._terminal, f"Password for {name}:")
        self._enter(_PASSWORD)
        stage.await_screen(self._terminal, "The same again:")
        self._enter(_PASSWORD)
        self.await_text(f"logged in as {name}")

    def _enter(self, line: str) -> None:
        self._terminal.press(f"{line}\r".encode())

    def says(self, line: str) -> None:
        """Type a line; what it answers is waited for by `await_text`."""
        self._enter(line)

    def await_text(self, text: str) -> None:
        """Until it is shown below what was waited for before, and the prompt below it."""
        above = rf"(?s)^(?:[^\n]*\n){{{self._seen}}}.*"
        prompt = r".*\n(\[room \d+\] )?> ?$"
        self._stage.await_screen(self._terminal, above + re.escape(text) + prompt)
        self._seen = len(self._lines())

    def _lines(self) -> list[str]:
        return self._terminal.screen[:-1]  # the last one has the prompt

    def shown(self) -> list[str]:
        """The command, and the screen without its prompt."""
        return [f"$ {' '.join(self.command)}", *self._lines()]


def _port(port: int) -> tuple[str, ...]:
    return () if port == PORT else ("--port", str(port))


def play(directory: Path, port: int) -> str:
    """The session as the README has it. directory: empty, for the server's state. port: 0 is a
    free one. BenchFailed."""
    serve = ("tradechat-server", "--port", str(port), "--data", "./data")
    with Stage(directory) as stage:
        server = stage.start(*serve, columns=120)
        port = int(stage.await_text(server, _READY)[1])
        people = {name: Person(stage, name, port) for name in (ALICE, BOB)}
        for step in STEPS:
            people[step.who].says(step.types)
            people[step.who].await_text(step.sees)
            if step.other_sees:
                people[BOB if step.who == ALICE else ALICE].await_text(step.other_sees)
        asked = [_ask(stage, (*command, *_port(port))) for command in COMMANDS]
        people[BOB].await_text("alice paid you 1.00")
        ready = re.search(_READY + r".*", server.text)
        assert ready is not None  # it was waited for
        return _document([f"$ {' '.join(serve)}", ready[0].rstrip()], people, asked)


def _ask(stage: Stage, command: Sequence[str]) -> list[str]:
    program = stage.start(*command, variables={"TRADECHAT_PASSWORD": _PASSWORD})
    stage.await_end(program)
    return [f"$ {' '.join(command)}", *program.screen[:-1]]


def _document(server: list[str], people: dict[str, Person], asked: list[list[str]]) -> str:
    def block(lines: Sequence[str]) -> str:
        return "\n".join(f"    {line}".rstrip() for line in lines)

    return "\n\n".join(
        [
            "A server in one terminal:",
            block(server),
            "Alice in a second one, and Bob in a third. A message appears when it is in the room:",
            block(people[ALICE].shown()),
            block(people[BOB].shown()),
            "The same for scripts, and a look into the running server:",
            block(["$ export TRADECHAT_PASSWORD=...", *(line for each in asked for line in each)]),
        ]
    )


def compared(text: str) -> str:
    """The session without what differs from one run to the next."""
    for pattern, instead in _DIFFERS:
        text = pattern.sub(instead, text)
    return text


def told(readme: str) -> str:
    """The session that the README has. BenchFailed where there is none."""
    _, begun, rest = readme.partition(BEGIN)
    session, ended, _ = rest.partition(END)
    if not begun or not ended:
        raise BenchFailed(f"{README} has no lines {BEGIN.strip()!r} and {END.strip()!r}")
    return session.strip("\n")


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM.name,
        description="Put the first session of two people into README.md, as it really goes.",
        epilog="exit codes: 0 done, 1 with --check: the README shows another session; 2 wrong "
        "usage, 3 the session cannot be had; 130 interrupted, 143 terminated",
        allow_abbrev=False,
    )
    made.add_argument("--check", action="store_true", help="only say whether it is up to date")
    made.add_argument(
        "--port", type=int, default=PORT, metavar="N", help="of the server (default %(default)s)"
    )
    return made


def main() -> int:
    """Answers the exit code."""
    options = _parser().parse_args()
    return PROGRAM.run(lambda: _do(options))


def _do(options: argparse.Namespace) -> int:
    readme = README.read_text(encoding="utf-8")
    before = told(readme)
    with tempfile.TemporaryDirectory(prefix="tradechat-session-") as directory:
        session = play(Path(directory), options.port)
    if options.check:
        if compared(session) == compared(before):
            return EXIT_GOOD
        PROGRAM.warn(f"{README} shows another session than the programs: run `make session`")
        return EXIT_VIOLATED
    place, _, rest = readme.partition(BEGIN)
    README.write_text(
        f"{place}{BEGIN}\n{session}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8"
    )
    return EXIT_GOOD


if __name__ == "__main__":
    sys.exit(main())

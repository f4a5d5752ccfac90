"""What a command of tradechat-admin is, and how it ends."""

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from libcli import output
from libcli.arguments import EXIT_USAGE, Parser
from libcli.output import EXIT_INTERRUPTED, EXIT_PIPE

PROGRAM: Final = "tradechat-admin"
EXIT_GOOD: Final = 0
EXIT_DAMAGED: Final = 1
EXIT_NOT_DONE: Final = 3
EXIT_NOT_AGREED: Final = 4
EXIT_CODES: Final = f"""\
exit codes: {EXIT_GOOD} good; {EXIT_DAMAGED} something is damaged, or not well;
{EXIT_USAGE} wrong usage; {EXIT_NOT_DONE} it could not be done: no such server, files that cannot be
read, an output that cannot be written; {EXIT_NOT_AGREED} it was not confirmed: nothing
was changed; {EXIT_INTERRUPTED} Ctrl-C; {EXIT_PIPE} nobody reads the output any more
"""


class UsageError(Exception):
    """What was asked for does not suit the region; the text says why."""


class NotDone(Exception):
    """The command cannot do what was asked for; the text says why and what to do. `code`: the exit
    code."""

    def __init__(self, text: str, code: int = EXIT_NOT_DONE) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Command:
    """A row of a table of commands: what `--help` says of it, its arguments, and what it does.

    `run` answers the exit code; NotDone, UsageError. `commands`: those below it, instead of `run`.
    """

    name: str
    about: str
    description: str
    arguments: Callable[[argparse.ArgumentParser], None] | None = None
    run: Callable[[argparse.Namespace], int] | None = None
    examples: str = ""
    commands: tuple["Command", ...] = ()

    def add_to(self, commands: "argparse._SubParsersAction[Parser]") -> None:
        """Add it to the parser of the command line."""
        parser = commands.add_parser(
            self.name,
            help=self.about,
            description=textwrap.fill(self.description, 80),
            epilog="\n".join(filter(None, (self.examples, EXIT_CODES))),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if self.arguments is not None:
            self.arguments(parser)
        if self.commands:
            below = parser.add_subparsers(required=True, metavar="COMMAND")
            for command in self.commands:
                command.add_to(below)
        else:
            parser.set_defaults(run=self.run, parser=parser)


def say(text: str) -> None:
    """A message to the operator, on standard error."""
    output.complain(f"{PROGRAM}: {text}")

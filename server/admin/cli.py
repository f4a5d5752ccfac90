"""`tradechat-admin`: what an operator asks a running server from outside, or the data it left.

One table, `COMMANDS`, makes the parser, the help and the calls. Data goes to standard output, as
plain tables or as JSON lines; messages go to standard error. Nothing here has colours.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from libcli import output
from libcli.arguments import Parser
from libcli.entry import run
from libproto import version_of
from server.admin import (
    audit_cli,
    backup_cli,
    control_cli,
    export_cli,
    files_cli,
    identity_cli,
    inspect_cli,
    journal_cli,
    ledger_cli,
    status_cli,
    top_cli,
    user_cli,
)
from server.admin.command import (
    EXIT_CODES,
    EXIT_NOT_DONE,
    PROGRAM,
    Command,
    NotDone,
    UsageError,
    say,
)

COMMANDS: Final[tuple[Command, ...]] = (
    status_cli.COMMAND,
    top_cli.COMMAND,
    inspect_cli.COMMAND,
    audit_cli.COMMAND,
    control_cli.DRAIN,
    control_cli.RESTART,
    user_cli.COMMAND,
    ledger_cli.COMMAND,
    journal_cli.COMMAND,
    files_cli.COMMAND,
    backup_cli.BACKUP,
    backup_cli.RESTORE,
    export_cli.COMMAND,
    identity_cli.COMMAND,
)


def parser() -> Parser:
    """The parser of the command line, made from the table."""
    made = Parser(
        prog=PROGRAM,
        description="Inspect and control a running tradechat server, and check its data.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=version_of(PROGRAM))
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Answers the exit code."""
    return output.run(PROGRAM, lambda: _run(arguments), failed=EXIT_NOT_DONE)


def _run(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except UsageError as error:
        command: Parser = options.parser
        command.error(str(error))
    except NotDone as error:
        output.flush()  # what was found before comes before
        say(str(error))
        return error.code


if __name__ == "__main__":
    sys.exit(run(lambda: main))

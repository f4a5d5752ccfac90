"""docs/man: the manual pages of tradechat-server and tradechat-admin, made from what makes their
command lines. The options are read from argparse, as --help has them.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Final

from libcli import man
from libcli.environment import PREFIX
from libproto import __version__
from server import documents, early, exits
from server.admin.cli import COMMANDS
from server.admin.command import EXIT_CODES, Command
from server.admin.command import PROGRAM as ADMIN
from server.config import RULES
from server.config.sources import PROGRAM as SERVER
from server.config.sources import parser as server_parser

COMMAND: Final = f"python -m {documents.__name__}"


def server() -> str:
    """tradechat-server(1)."""
    parser = server_parser()
    lines = [
        *man.head(SERVER, __version__, "serve chat rooms and money", COMMAND),
        f".B {man.text(SERVER)}",
        "[\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        man.text(
            "Serves rooms and money over one binary protocol, from the state that is in its data "
            "directory, until it is told to stop. One line on standard output, «ready», tells "
            "where it listens and the process id to send signals to; the log is on standard error."
        ),
        ".PP",
        man.text(
            "A value is taken from the first of: flag, environment, file, default. A variable is "
            f"named as the flag, in capitals with _, after {PREFIX}. The file is TOML."
        ),
        ".SH OPTIONS",
        *man.options(parser),
        *(f".PP\n{man.text(rule.text)}." for rule in RULES),
        ".SH SIGNALS",
    ]
    for names, about in early.SIGNALS.items():
        lines += [".TP", f".B {man.text(names)}", man.text(about)]
    lines.append(".SH EXIT STATUS")
    for code, about in exits.OF_THE_SERVER.items():
        lines += [".TP", f".B {code:d}", man.text(about)]
    return _page(lines, ADMIN)


def admin() -> str:
    """tradechat-admin(1)."""
    lines = [
        *man.head(
            ADMIN,
            __version__,
            "look at a server of tradechat, steer it, or look at its data",
            COMMAND,
        ),
        f".B {man.text(ADMIN)}",
        "\\fICOMMAND\\fR [\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        man.text(
            "Data goes to standard output and messages to standard error. A server is named by "
            "its name or port, a data directory by its path."
        ),
        ".SH COMMANDS",
    ]
    for command in COMMANDS:
        lines += _command(command, "")
    lines += [".SH EXIT STATUS", man.text(" ".join(EXIT_CODES.split()))]
    return _page(lines, SERVER)


def _page(lines: Sequence[str], other: str) -> str:
    return "\n".join([*lines, ".SH SEE ALSO", f".BR {man.text(other)} (1)"]) + "\n"


def _command(command: Command, above: str) -> Iterator[str]:
    """One of them, and those below it."""
    name = f"{above}{command.name}"
    if command.commands:
        for below in command.commands:
            yield from _command(below, f"{name} ")
    else:
        parser = argparse.ArgumentParser(add_help=False)
        if command.arguments is not None:
            command.arguments(parser)
        yield from (f".SS {man.text(name)}", man.text(command.description), *man.options(parser))
    if command.examples:
        yield from (".PP", ".nf", *map(man.text, command.examples.strip("\n").splitlines()), ".fi")

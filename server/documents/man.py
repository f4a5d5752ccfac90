"""docs/man: the manual pages of tradechat-server and tradechat-admin, made from what makes their
command lines. The options are read from argparse, as --help has them.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Final

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
        *_head(SERVER, "serve chat rooms and money"),
        f".B {_text(SERVER)}",
        "[\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        _text(
            "Serves rooms and money over one binary protocol, from the state that is in its data "
            "directory, until it is told to stop. One line on standard output, «ready», tells "
            "where it listens and the process id to send signals to; the log is on standard error."
        ),
        ".PP",
        _text(
            "A value is taken from the first of: flag, environment, file, default. A variable is "
            f"named as the flag, in capitals with _, after {PREFIX}. The file is TOML."
        ),
        ".SH OPTIONS",
        *_options(parser),
        *(f".PP\n{_text(rule.text)}." for rule in RULES),
        ".SH SIGNALS",
    ]
    for names, about in early.SIGNALS.items():
        lines += [".TP", f".B {_text(names)}", _text(about)]
    lines.append(".SH EXIT STATUS")
    for code, about in exits.OF_THE_SERVER.items():
        lines += [".TP", f".B {code:d}", _text(about)]
    return _page(lines, ADMIN)


def admin() -> str:
    """tradechat-admin(1)."""
    lines = [
        *_head(ADMIN, "look at a server of tradechat, steer it, or look at its data"),
        f".B {_text(ADMIN)}",
        "\\fICOMMAND\\fR [\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        _text(
            "Data goes to standard output and messages to standard error. A server is named by "
            "its name or port, a data directory by its path."
        ),
        ".SH COMMANDS",
    ]
    for command in COMMANDS:
        lines += _command(command, "")
    lines += [".SH EXIT STATUS", _text(" ".join(EXIT_CODES.split()))]
    return _page(lines, SERVER)


def _head(program: str, about: str) -> list[str]:
    return [
        f'.\\" Made from the tables of the command line by `{COMMAND}`. Do not edit.',
        f'.TH {program.upper()} 1 "" "tradechat {__version__}"',
        ".SH NAME",
        f"{_text(program)} \\- {_text(about)}",
        ".SH SYNOPSIS",
    ]


def _page(lines: Sequence[str], other: str) -> str:
    return "\n".join([*lines, ".SH SEE ALSO", f".BR {_text(other)} (1)"]) + "\n"


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
        yield from (f".SS {_text(name)}", _text(command.description), *_options(parser))
    if command.examples:
        yield from (".PP", ".nf", *map(_text, command.examples.strip("\n").splitlines()), ".fi")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What it takes, each with its help."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        names = ", ".join(f"\\fB{_text(name)}\\fR" for name in action.option_strings)
        value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        takes = f"\\fI{_text(value)}\\fR" if action.nargs != 0 else ""
        about = formatter._expand_help(action) if action.help else ""
        yield from (".TP", " ".join(filter(None, (names, takes))), _text(about))


def _text(text: str) -> str:
    """Plain text in roff, no letter of which is a command."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", escaped)

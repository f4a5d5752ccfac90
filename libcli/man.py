"""A manual page from what makes a program's command line: its options are read from argparse, as
--help has them. For the checkout, where docs/man keeps the pages.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


def text(plain: str) -> str:
    """Plain text in roff, no letter of which is a command."""
    escaped = plain.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", escaped)


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What it takes, each with its help."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        names = ", ".join(f"\\fB{text(name)}\\fR" for name in action.option_strings)
        value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        takes = f"\\fI{text(value)}\\fR" if action.nargs != 0 else ""
        about = formatter._expand_help(action) if action.help else ""
        yield from (".TP", " ".join(filter(None, (names, takes))), text(about))


def head(program: str, version: str, about: str, made_by: str) -> list[str]:
    """The first lines of a page, up to its synopsis. made_by: the command that makes it."""
    return [
        f'.\\" Made from the tables of the command line by `{made_by}`. Do not edit.',
        f'.TH {program.upper()} 1 "" "tradechat {version}"',
        ".SH NAME",
        f"{text(program)} \\- {text(about)}",
        ".SH SYNOPSIS",
    ]


def page(
    parser: argparse.ArgumentParser, version: str, about: str, made_by: str, others: Sequence[str]
) -> str:
    """The whole page of a program with this parser. others: programs to see also."""
    below = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    lines = [
        *head(parser.prog, version, about, made_by),
        f".B {text(parser.prog)}",
        "[\\fIOPTIONS\\fR]" + (" [\\fICOMMAND\\fR]" if below else ""),
        ".SH DESCRIPTION",
        *_paragraphs(parser.description or ""),
        ".SH OPTIONS",
        *options(parser),
    ]
    if below:
        lines.append(".SH COMMANDS")
    for each in below:
        lines += _commands(each, "")
    lines += [".SH NOTES", ".nf", *map(text, (parser.epilog or "").strip("\n").splitlines()), ".fi"]
    lines += [".SH SEE ALSO", ", ".join(f"{text(other)}(1)" for other in others)]
    return "\n".join(lines) + "\n"


def _commands(commands: "argparse._SubParsersAction[Any]", above: str) -> Iterator[str]:
    """Commands, each with its options, and those below it."""
    for name, command in commands.choices.items():
        yield from (f".SS {text(above + name)}", text(command.description or ""))
        yield from options(command)
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from _commands(action, f"{above}{name} ")


def _paragraphs(plain: str) -> Iterator[str]:
    for number, paragraph in enumerate(plain.strip().split("\n\n")):
        if number:
            yield ".PP"
        yield text(" ".join(paragraph.split()))


def keep(path: Path, make: Callable[[], str], command: str) -> int:
    """The program that writes a page, or checks with --check that it is up to date: the exit code.
    command: as it is called."""
    parser = argparse.ArgumentParser(prog=command, description=f"Write {path}.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    arguments, made = parser.parse_args(), make()
    if not arguments.check:
        path.write_text(made, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != made:
        sys.stderr.write(f"{path} is not what the tables say: run `{command}`\n")
        return 1
    return 0

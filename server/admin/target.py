"""What a command is about: a running server, by --name or --port, or a data directory."""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from server.admin.command import EXIT_DAMAGED, NotDone, UsageError
from server.config import SETTINGS
from server.journal.directory import DirectoryUnusable
from server.journal.errors import Damaged, JournalError
from server.region.region import Region, RegionError

_NAME_PATTERN: Final = next(row.spec.pattern for row in SETTINGS if row.name == "name")


def add_server(parser: argparse.ArgumentParser) -> "argparse._MutuallyExclusiveGroup":
    """Add --name and --port; the group of what names a server."""
    server = parser.add_mutually_exclusive_group()
    server.add_argument(
        "--name", type=_region_name, help="the server's --name, which names its region"
    )
    server.add_argument(
        "--port",
        type=number(1, 65535),
        default=7878,
        help="the port of a server without --name (default: 7878)",
    )
    return server


@contextmanager
def attached(options: argparse.Namespace) -> Iterator[Region]:
    """The region of the server that was named, read-only. NotDone.

    It is not unmapped after an interrupt or an output that failed: a copy that was being made may
    still hold a view, and the program ends anyway.
    """
    try:
        region = Region.attach(options.name or f"tradechat-{options.port}")
    except RegionError as error:
        raise NotDone(str(error)) from error
    try:
        yield region
    except (UsageError, NotDone):
        region.close()
        raise
    region.close()


@contextmanager
def serving(options: argparse.Namespace) -> Iterator[Region]:
    """As `attached`, of a server that is there. NotDone."""
    with attached(options) as region:
        check_held(region)
        yield region


def check_held(region: Region) -> None:
    """NotDone: no process has the region any more."""
    if not region.is_held():
        raise NotDone(
            f"the server {region.name} has ended and left its memory, as one that was killed does: "
            "start it again, and it carries on with what is on disk"
        )


def number(minimum: int, maximum: int) -> Callable[[str], int]:
    """A reader of numbers in these bounds, for argparse."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not minimum <= int(text[:20]) <= maximum:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number from {minimum} to {maximum}"
            )
        return int(text)

    return read


def _region_name(text: str) -> str:
    if not text or not re.fullmatch(_NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid name of a server")
    return text


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the server's --data"
    )


@contextmanager
def files_in(directory: Path) -> Iterator[None]:
    """What goes wrong with the files of this directory is NotDone, with the file and why."""
    try:
        yield
    except Damaged as error:
        raise NotDone(str(error), EXIT_DAMAGED) from error
    except (JournalError, DirectoryUnusable) as error:
        raise NotDone(str(error)) from error
    except OSError as error:
        raise NotDone(f"{error.filename or directory}: {error.strerror}") from error

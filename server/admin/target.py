"""What a command is about: a running server, by --name, --port or --data, or a data directory."""

import argparse
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from server.admin.command import EXIT_DAMAGED, NotDone, UsageError
from server.config import SETTINGS
from server.journal.directory import DirectoryUnusable
from server.journal.errors import Damaged, JournalError
from server.region.region import SHM, Region, RegionError

_NAME_PATTERN: Final = next(row.spec.pattern for row in SETTINGS if row.name == "name")


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add --name, --port and --data: what names a running server."""
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
    server.add_argument(
        "--data", type=Path, metavar="DIR", help="the data directory that a server runs on"
    )


@contextmanager
def attached(options: argparse.Namespace) -> Iterator[Region]:
    """The region of the server that was named, read-only. NotDone.

    It is not unmapped after an interrupt or an output that failed: a copy that was being made may
    still hold a view, and the program ends anyway.
    """
    if options.data:
        region = _on_directory(options.data)
    else:
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


def _on_directory(data: Path) -> Region:
    """That of the server which runs on it: of all that can be attached, the one whose master has
    the directory open. NotDone."""
    try:
        wanted = data.stat()
    except OSError as error:
        raise NotDone(f"the data directory {data} cannot be opened: {error.strerror}") from error
    for name in sorted(os.listdir(SHM)):
        with suppress(RegionError):
            region = Region.attach(name)
            with suppress(OSError):  # it has ended, or is of another user
                for fd in Path(f"/proc/{region.header.master_pid}/fd").iterdir():
                    with suppress(FileNotFoundError):  # it was closed just now
                        if os.path.samestat(fd.stat(), wanted):
                            return region
            region.close()
    raise NotDone(
        f"no server runs on {data} that this user may look at: start one with `tradechat-server "
        f"--data {data}`, or run this as the server's own user"
    )


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

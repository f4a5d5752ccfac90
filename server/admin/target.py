"""Which running server a command is about: --name or --port, and its region."""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from server.admin.command import NotDone, UsageError
from server.config import SETTINGS
from server.region.region import Region, RegionError

_NAME_PATTERN: Final = next(row.spec.pattern for row in SETTINGS if row.name == "name")


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add --name and --port."""
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

"""`tradechat-admin inspect`: the records of the shared region, or a summary of it.

The region is mapped read-only and no lock is taken, so this works on a server that is stuck, and
ending it at any moment harms nobody.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from server.admin.command import EXIT_GOOD, Command, UsageError, say
from server.admin.inspect import RINGS, Entry, read, used_indices
from server.admin.show import entry_object, put_block, put_json, put_records
from server.admin.summary import show_summary
from server.admin.target import add_server, attached, number
from server.region.layout import SEGMENTS
from server.region.region import Region

_TABLE_FIELDS_MAX: Final = 12  # a record of more is shown as a block of lines, but in rings

_EXAMPLES: Final = """\
examples:
  tradechat-admin inspect                        a summary of the server on port 7878
  tradechat-admin inspect sessions --name prod   who is logged in to the server named prod
  tradechat-admin inspect txn_ring --limit 10    the ten newest transactions
  tradechat-admin inspect clients --record 3     one client with all its outcomes
  tradechat-admin inspect accounts --json        a JSON object per account

Nothing is changed, and no lock of the server is taken. Secrets are shown as «hidden». A record that
changes while it is read is shown as such; ask again.
"""


class Records(NamedTuple):
    """What --record names: first and last, both included."""

    first: int
    last: int


def _arguments(parser: argparse.ArgumentParser) -> None:
    names = [segment.name for segment in SEGMENTS]
    parser.add_argument(
        "segment", nargs="?", choices=names, metavar="SEGMENT", help=f"one of {', '.join(names)}"
    )
    add_server(parser)
    parser.add_argument(
        "--record",
        type=_records,
        metavar="N[:M]",
        help="record N, or those from N to M, in use or not",
    )
    parser.add_argument("--all", action="store_true", help="all records, in use or not")
    parser.add_argument(
        "--limit", type=number(1, sys.maxsize), metavar="N", help="at most N records"
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object, or one per record and line"
    )


def _records(text: str) -> Records:
    found = re.fullmatch(r"(\d{1,18})(?::(\d{1,18}))?", text, re.ASCII)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not N, or N:M with N at most M")
    return Records(int(found[1]), int(found[2] or found[1]))


def _run(options: argparse.Namespace) -> int:
    with attached(options) as region:
        if options.segment is not None:
            _show_records(region, options)
        elif options.record or options.all or options.limit:
            raise UsageError("--record, --all and --limit need a SEGMENT")
        else:
            show_summary(region, as_json=options.json)
    return EXIT_GOOD


def _indices(region: Region, options: argparse.Namespace) -> Sequence[int]:
    """The records that were asked for. UsageError: there are not so many."""
    records = region.layout[options.segment].records
    if options.record:
        if options.record.last >= records:
            raise UsageError(f"{options.segment} has the records 0 to {records - 1}")
        return range(options.record.first, options.record.last + 1)
    return range(records) if options.all else used_indices(region, options.segment)


def _show_records(region: Region, options: argparse.Namespace) -> None:
    segment: str = options.segment
    placed, indices = region.layout[segment], _indices(region, options)
    one = placed.records == 1 or (options.record is not None and len(indices) == 1)
    entries = (read(region, segment, index) for index in indices[: options.limit])
    if options.json:
        for entry in entries:
            put_json(entry_object(segment, entry))
    elif one or (len(placed.offsets) > _TABLE_FIELDS_MAX and segment not in RINGS):
        for entry in entries:
            put_block(_title(segment, entry), entry)
    elif indices:
        put_records(list(entries))
    if not indices:
        say(f"no record of {segment} is in use")


def _title(segment: str, entry: Entry) -> str:
    return f"{segment}[{entry.index}]"


COMMAND: Final = Command(
    "inspect",
    "show the shared region, without taking a lock",
    "Show the shared region of a running server: a summary, or the records of a segment that are"
    " in use (docs/LAYOUT.md has their meaning).",
    _arguments,
    _run,
    _EXAMPLES,
)

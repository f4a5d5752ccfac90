"""`tradechat-admin`: what an operator asks a running server from outside.

`inspect` shows the shared region, `audit` checks it, and `journal` is for what is on disk (see
journal_cli.py). The first two map the region read-only and take no lock, so they can be used on a
server that is stuck, and ending them at any moment harms nobody. Data goes to standard output, as
plain tables or as JSON lines; messages go to standard error.
"""

import argparse
import io
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import orjson

from server import __version__
from server.admin import journal_cli
from server.admin.audit import audit
from server.admin.inspect import RINGS, Entry, Mark, Time, Value, read, used_indices
from server.config import SETTINGS
from server.core.stats import totals
from server.region.layout import SEGMENTS
from server.region.records import COMMON
from server.region.region import Region, RegionError

PROGRAM: Final = "tradechat-admin"
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
EXIT_PIPE: Final = 141  # as a program that SIGPIPE ends

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAME_PATTERN: Final = next(row.spec.pattern for row in SETTINGS if row.name == "name")
_TABLES: Final = {
    "accounts": "users",
    "sessions": "sessions",
    "clients": "clients",
    "rooms": "rooms",
}
"""Capacities whose use is counted, with the segment it is counted in."""
_TABLE_FIELDS_MAX: Final = 12  # a record of more is shown as a block of lines
_TABLE_BLOB_MAX: Final = 16  # bytes of a blob in a table
_NONE: Final = "none"
_CHANGED: Final = "changed while it was read"

_EXAMPLES: Final = """\
examples:
  tradechat-admin inspect                        a summary of the server on port 7878
  tradechat-admin inspect sessions --name prod   who is logged in to the server named prod
  tradechat-admin inspect txn_ring --limit 10    the ten newest transactions
  tradechat-admin inspect clients --record 3     one client with all its outcomes
  tradechat-admin inspect accounts --json        a JSON object per account

Nothing is locked and nothing is changed. Secrets are shown as «hidden». A record that changes
while it is read is shown as such; ask again.

exit codes: 0 good, 1 no such region or another layout, 2 wrong usage
"""


class Records(NamedTuple):
    """What --record names: first and last, both included."""

    first: int
    last: int


class UsageError(Exception):
    """What was asked for does not suit the region; the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Answers the exit code; SystemExit(2) on wrong usage."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack the quotes
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        _drop_output()
        return EXIT_PIPE
    except KeyboardInterrupt:
        _drop_output()
        return EXIT_INTERRUPTED
    return code


def _drop_output() -> None:
    """What is still buffered goes nowhere: at the interpreter's end it would wait for the reader,
    or find that there is none."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Look at a running tradechat server from outside, or at its data."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = _add_inspect(commands.add_parser)
    _add_audit(commands.add_parser)
    journal_cli.add(commands.add_parser)
    options = parser.parse_args(arguments)
    if options.command == "journal":
        return journal_cli.run(PROGRAM, options, _write_json, _text)
    name = options.name or f"tradechat-{options.port}"
    try:
        region = Region.attach(name)
    except RegionError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return EXIT_FAILED
    code = EXIT_OK
    try:
        if options.command == "audit":
            code = _audit(region, as_json=options.json)
        else:
            _inspect(region, options)
    except UsageError as error:
        region.close()
        inspect.error(str(error))
    # Not after an interrupt or a broken pipe: a copy that was being made may still hold a view, and
    # the process ends anyway.
    region.close()
    return code


# ---- inspect


def _add_inspect(
    add_parser: Callable[..., argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    parser = add_parser(
        "inspect",
        help="show the shared region, without taking a lock",
        description="Show the shared region of a running server: a summary, or the records of a "
        "segment that are in use (docs/LAYOUT.md has their meaning).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [segment.name for segment in SEGMENTS]
    parser.add_argument(
        "segment", nargs="?", choices=names, metavar="SEGMENT", help=f"one of {', '.join(names)}"
    )
    _add_server(parser)
    parser.add_argument(
        "--record",
        type=_records,
        metavar="N[:M]",
        help="record N, or those from N to M, in use or not",
    )
    parser.add_argument("--all", action="store_true", help="all records, in use or not")
    parser.add_argument(
        "--limit", type=_number(1, sys.maxsize), metavar="N", help="at most N records"
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object, or one per record and line"
    )
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    server = parser.add_mutually_exclusive_group()
    server.add_argument(
        "--name", type=_region_name, help="the server's --name, which names its region"
    )
    server.add_argument(
        "--port",
        type=_number(1, 65535),
        default=7878,
        help="the port of a server without --name (default: 7878)",
    )


def _add_audit(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    parser = add_parser(
        "audit",
        help="check the state of a running server, without taking a lock",
        description="Check that money is conserved, that the transactions follow from one another, "
        "and that rings, locks, sessions and memberships hold together. Takes about a second; the "
        "server goes on meanwhile. Exit code 1 where something does not hold.",
    )
    _add_server(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _audit(region: Region, *, as_json: bool) -> int:
    done = audit(region, time.sleep)
    if as_json:
        _write_json({"txn_id": done.txn, "checked": done.checked, "problems": done.problems})
    else:
        _write_lines([("at transaction", str(done.txn))])
        _write_lines([(what, f"{count} checked") for what, count in done.checked.items()])
        for problem in done.problems:
            sys.stdout.write(f"PROBLEM  {problem}\n")
        sys.stdout.write("all holds\n" if not done.problems else "the state is damaged\n")
    return EXIT_FAILED if done.problems else EXIT_OK


def _region_name(text: str) -> str:
    if not text or not re.fullmatch(_NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a server")
    return text


def _number(minimum: int, maximum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {minimum} to {maximum}")
        return int(text)

    return number


def _records(text: str) -> Records:
    found = re.fullmatch(r"(\d{1,18})(?::(\d{1,18}))?", text, re.ASCII)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not N, or N:M with N at most M")
    return Records(int(found[1]), int(found[2] or found[1]))


def _inspect(region: Region, options: argparse.Namespace) -> None:
    if options.segment is None:
        if options.record or options.all or options.limit:
            raise UsageError("--record, --all and --limit need a SEGMENT")
        _summary(region, as_json=options.json)
        return
    records = region.layout[options.segment].records
    if options.record:
        if options.record.last >= records:
            raise UsageError(f"{options.segment} has the records 0 to {records - 1}")
        indices: Sequence[int] = range(options.record.first, options.record.last + 1)
    elif options.all:
        indices = range(records)
    else:
        indices = used_indices(region, options.segment)
    one = records == 1 or (options.record is not None and len(indices) == 1)
    as_blocks = one or len(region.layout[options.segment].offsets) > _TABLE_FIELDS_MAX
    entries = (read(region, options.segment, index) for index in indices[: options.limit])
    if options.json:
        for entry in entries:
            _write_json(_entry_object(options.segment, entry))
    elif as_blocks:
        for entry in entries:
            _write_block(f"{options.segment}[{entry.index}]", entry)
    elif indices:
        _write_records(list(entries))
    if not indices:
        sys.stderr.write(f"{PROGRAM}: no record of {options.segment} is in use\n")


# ---- the summary


def _summary(region: Region, *, as_json: bool) -> None:
    header = read(region, "header", 0).values
    log = read(region, "log", 0).values
    assert header is not None
    assert log is not None, "words that stand for themselves"
    words, layout = region.words, region.layout
    workers = layout["workers"]
    sums = totals(region)
    summary: dict[str, Value] = {
        "region": region.name,
        "size": layout.size,
        "layout_version": header["layout_version"],
        "started": header["started"],
        "state": header["state"],
        "master_pid": header["master_pid"],
        "worker_pids": [words[workers.at(slot, "pid")] for slot in range(workers.records)],
        "recovery": header["recovery"] or None,
        "alarm": header["alarm"] or None,
        "capacities": asdict(layout.capacities),
        "use": {setting: len(used_indices(region, name)) for setting, name in _TABLES.items()},
        "txn_ring": {"head": log["head"], "durable": log["durable"]},
        "event_ring": {"head": region.events.head},
        "counters": sums,
    }
    if as_json:
        _write_json(summary)
    else:
        _write_summary(summary, sums)
    master = region.header.master_pid
    if not _is_running(master):
        sys.stderr.write(
            f"{PROGRAM}: there is no process {master}, the master: this is what a server left that "
            "was killed; the next one of this name replaces it\n"
        )


def _write_summary(summary: Mapping[str, Value], sums: Mapping[str, int]) -> None:
    capacities, use = summary["capacities"], summary["use"]
    assert isinstance(capacities, Mapping)
    assert isinstance(use, Mapping)
    singles = [name for name, value in summary.items() if not isinstance(value, Mapping)]
    _write_lines([(name, _text(summary[name])) for name in singles])
    sys.stdout.write("\n")
    rows = [["table", "used", "capacity"]]
    rows += [[name, _text(use.get(name)), _text(value)] for name, value in capacities.items()]
    _write_table([[row[0], "" if row[1] == _NONE else row[1], row[2]] for row in rows])
    sys.stdout.write("\n")
    _write_lines([(ring, _text(summary[ring])) for ring in RINGS])
    sys.stdout.write("\n")
    rows = [["counter", "total"]]
    rows += [[name, str(total)] for name, total in sums.items() if total]
    _write_table(rows)


def _is_running(pid: int) -> bool:
    """Is there such a process? Also where it is another user's."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


# ---- values as text


def _plain(value: Value) -> object:
    """A value in the types that JSON has: times in RFC 3339, blobs in hex."""
    match value:
        case Time():
            return _time(value)
        case bytes():
            return value.hex()
        case Mark():
            return value.value
        case Mapping():
            return {name: _plain(each) for name, each in value.items()}
        case str() | int() | None:
            return value
    return [_plain(each) for each in value]


def _text(value: Value, separator: str = " ") -> str:
    """A value in one line."""
    match value:
        case None:
            return _NONE
        case Mapping():
            return " ".join(f"{name}={_text(each)}" for name, each in value.items())
        case Time() | bytes() | Mark() | str() | int():
            return str(_plain(value))
    return separator.join(_text(each) for each in value) or _NONE


def _time(time: Time) -> str:
    """RFC 3339, UTC; the number where the calendar does not reach."""
    try:
        moment = _EPOCH + timedelta(microseconds=time)
    except OverflowError:
        return str(int(time))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _cell(name: str, value: Value) -> str:
    """A value in a table: what is long is cut, what is many is counted."""
    if isinstance(value, bytes) and len(value) > _TABLE_BLOB_MAX:
        return f"{value[:_TABLE_BLOB_MAX].hex()}... ({len(value)} bytes)"
    if name == "outcomes" and isinstance(value, Sequence):
        return str(len(value))
    return _text(value)


# ---- output


def _write_json(value: Mapping[str, Value]) -> None:
    sys.stdout.write(orjson.dumps(_plain(value)).decode() + "\n")


def _entry_object(segment: str, entry: Entry) -> dict[str, Value]:
    about: dict[str, Value] = {"segment": segment, "index": entry.index}
    return about | ({"changed": True} if entry.values is None else entry.values)


def _write_block(title: str, entry: Entry) -> None:
    """A record as lines, with nothing cut."""
    sys.stdout.write(f"{title}\n")
    if entry.values is None:
        sys.stdout.write(f"  {_CHANGED}\n")
        return
    _write_lines(
        [
            (name, _text(value, "\n" if name == "outcomes" else " "))
            for name, value in entry.values.items()
        ],
        "  ",
    )


def _write_records(entries: Sequence[Entry]) -> None:
    """Records as a table. One that changed has that said in the place of its fields."""
    rows: list[list[str]] = []
    heading = ["index", ""]
    for entry in entries:
        if entry.values is None:
            rows.append([str(entry.index), _CHANGED])
            continue
        values = entry.values
        record = values.get("record")
        if isinstance(record, Mapping):  # of the txn log: what all have, then what its kind has
            common = {field.name: record.get(field.name) for field in COMMON}
            rest = {name: each for name, each in record.items() if name not in common}
            values = {**common, "fields": rest}
        heading = ["index", *values]
        rows.append([str(entry.index), *(_cell(name, value) for name, value in values.items())])
    _write_table([heading, *rows])


def _write_table(rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns: numbers to the right, the rest to the left. The first row is the heading."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    columns = list(zip(*whole, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell.isdigit() for cell in column[1:] if cell) for column in columns]
    for row in rows:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numeric, strict=False)
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _write_lines(pairs: Sequence[tuple[str, str]], indent: str = "") -> None:
    """Names and values; a value of several lines goes on under its first."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        for i, line in enumerate(value.split("\n")):
            sys.stdout.write(f"{indent}{'' if i else name:{width}}  {line}\n")


if __name__ == "__main__":
    sys.exit(main())

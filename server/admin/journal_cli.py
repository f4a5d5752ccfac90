"""`tradechat-admin journal`: look at a data directory, and bring a damaged journal back.

verify, list and dump store nothing and take no lock, so they work beside a running server. repair
takes the data directory's lock, says what would be lost, asks, and keeps a copy of all that it
takes away.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from libcli.output import put
from server.admin.command import (
    EXIT_DAMAGED,
    EXIT_GOOD,
    EXIT_NOT_AGREED,
    PROGRAM,
    Command,
    say,
)
from server.admin.inspect import Time, Value
from server.admin.journal_dump import Choice, dump, oldest, user_id
from server.admin.journal_list import COLUMNS, rows
from server.admin.journal_repair import Lost, Plan, carry_out, plan
from server.admin.journal_verify import Report, count_of, verify
from server.admin.show import put_json, put_table
from server.admin.target import add_data, files_in
from server.admin.values import as_text
from server.journal.directory import DataDirectory, lock_data
from server.journal.disk import Disk
from server.journal.errors import Damaged

_EXAMPLES: Final = """\
examples:
  tradechat-admin journal verify --data data       is it all good, and can a server start?
  tradechat-admin journal list --data data         its segments, and since when they are kept
  tradechat-admin journal dump --data data --from 100 --to 110
  tradechat-admin journal dump --data data --user alice --json
  tradechat-admin journal dump --data data --room 1
  tradechat-admin journal repair --data data       repair it with the least loss, after asking
  tradechat-admin journal repair --data data --until 4711    drop all transactions after 4711

docs/JOURNAL.md describes the files, and what counts as damage.
"""
_SHOWN_AMOUNTS: Final = 20  # users whose lost amounts are told one by one


# ---- arguments


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text[:20]) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    number = _number(text)
    if not number:
        raise argparse.ArgumentTypeError("0 is too small: they are numbered from 1")
    return number


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object per segment and line")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _dump_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    add = parser.add_argument
    add("--from", type=_positive, default=1, dest="first", metavar="TXN", help="the first to show,"
        " and the events from there on")  # fmt: skip
    add("--to", type=_positive, dest="last", metavar="TXN", help="the last to show")
    add("--user", metavar="NAME_OR_ID", help="only what concerns this user")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--transactions", action="store_true", help="no events")
    which.add_argument("--events", action="store_true", help="no transactions")
    which.add_argument("--room", type=_positive, metavar="ROOM", help="only events of this room")
    add("--limit", type=_positive, metavar="N", help="at most N entries")
    add("--json", action="store_true", help="a JSON object per entry and line")


def _repair_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument(
        "--until",
        type=_number,
        metavar="TXN",
        help="the last to keep; 0: none (default: as much as can be kept)",
    )
    parser.add_argument(
        "--restored",
        action="store_true",
        help="the directory was put back from a backup: give the log a new identity, so that "
        "clients notice",
    )
    parser.add_argument("--yes", action="store_true", help="do it without asking")


# ---- verify


def _verify(options: argparse.Namespace) -> int:
    data = DataDirectory(options.data)
    with files_in(data.path):
        report = verify(Disk(), data)
    if options.json:
        put_json(_object(data, report))
    else:
        _show_report(data, report)
    return EXIT_GOOD if report.is_good else EXIT_DAMAGED


def _show_report(data: DataDirectory, report: Report) -> None:
    for file in report.files.values():
        name = _name(data, file.path)
        if not file.problems:
            put(f"good     {name}  {file.holds}\n")
        for problem in file.problems:
            effect = f" ({problem.effect})" if problem.effect else ""
            put(f"DAMAGED  {name}, offset {problem.offset}: {problem.what}{effect}\n")
        if file.problems and file.holds:
            put(f"         {name}  can be read: {file.holds}\n")
    for note in report.notes:
        put(f"note     {note}\n")
    state = f"transaction {report.txn} and event {report.event}"
    if report.refusal:
        put(f"a server cannot start: {report.refusal}\n")
        put(
            f"the newest state that is good: {state}. `{PROGRAM} journal repair` shows what would "
            "be lost with it, and asks\n"
        )
    else:
        good = "all is good" if report.is_good else "something is damaged that it does not need"
        put(f"a server can start, with {state}; {good}\n")


def _name(data: DataDirectory, path: Path) -> Path:
    return path.relative_to(data.path) if path.is_relative_to(data.path) else path


def _object(data: DataDirectory, report: Report) -> dict[str, Value]:
    files: list[Value] = []
    for file in report.files.values():
        about: dict[str, Value] = {"file": str(_name(data, file.path)), "holds": file.holds}
        problems: list[Value] = [
            {"offset": each.offset, "problem": each.what, "effect": each.effect or None}
            for each in file.problems
        ]
        files.append(about | ({"problems": problems} if problems else {}))
    return {
        "good": report.is_good,
        "can_start": not report.refusal,
        "refusal": report.refusal or None,
        "txn_id": report.txn,
        "event": report.event,
        "oldest": report.oldest,
        "files": files,
        "notes": list(report.notes),
    }


# ---- list


def _list(options: argparse.Namespace) -> int:
    data, disk = DataDirectory(options.data), Disk()
    with files_in(data.path):
        data.identity(disk)
        found = list(rows(disk, data))
    if options.json:
        for row in found:
            put_json(row)
    else:
        put_table([COLUMNS, *([as_text(value) for value in row.values()] for row in found)])
    return EXIT_GOOD


# ---- dump


def _dump(options: argparse.Namespace) -> int:
    data, disk = DataDirectory(options.data), Disk()
    show = put_json if options.json else _show_line
    shown, damaged = 0, 0
    with files_in(data.path):
        data.identity(disk)
        choice = Choice(
            options.first,
            options.last,
            None if options.user is None else user_id(disk, data, options.user),
            options.room,
            transactions=not options.events,
            events=not options.transactions,
        )
        if (first := oldest(disk, data)) > options.first:
            say(f"the journal begins with transaction {first}")
        for entry in dump(disk, data, choice):
            if isinstance(entry, Damaged):
                say(str(entry))
                damaged += 1
                continue
            if not shown and not options.json:
                put(_line("number", "time", "kind", "fields"))
            show(entry)
            shown += 1
            if shown == options.limit:
                break
    if not shown:
        say("there is nothing like that in the journal")
    return EXIT_DAMAGED if damaged else EXIT_GOOD


def _show_line(entry: Mapping[str, Value]) -> None:
    rest = dict(entry)
    number = " ".join(
        f"{what} {as_text(rest.pop(name))}"
        for name, what in (("txn_id", "txn"), ("event_number", "event"))
        if name in rest
    )
    kind = rest.pop("kind", None) or rest.pop("batch", None)
    put(_line(number, as_text(rest.pop("time", None)), as_text(kind), as_text(rest)))


def _line(number: str, time_: str, kind: str, fields: str) -> str:
    return f"{number:<16}  {time_:27}  {kind:10}  {fields}".rstrip() + "\n"


# ---- repair


def _repair(options: argparse.Namespace) -> int:
    data, disk = DataDirectory(options.data), Disk()
    with files_in(data.path):
        data.identity(disk)  # before anything else is looked at
        lock = lock_data(data.path)
        try:
            made = plan(disk, data, options.until, anew=options.restored)
            _show_plan(data, made)
            if made.is_nothing:
                return EXIT_GOOD
            if not options.yes and not _agreed():
                say("nothing was changed")
                return EXIT_NOT_AGREED
            new_log_id = int.from_bytes(os.urandom(8)) or 1
            kept = carry_out(disk, data, made, new_log_id, time.time_ns() // 1000)
        finally:
            disk.close(lock)
    put(f"done; copies of all that was taken away or changed are in {kept}\n")
    return EXIT_GOOD


def _agreed() -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        say("standard input is no terminal, so nobody can be asked: repeat it with --yes to agree")
        return False
    sys.stderr.write("Do this? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _show_plan(data: DataDirectory, made: Plan) -> None:
    for error in made.stays:
        put(f"stays    {_name(data, error.path)}, offset {error.offset}: {error.what} (only "
            "history, in a segment that is needed; it goes with that)\n")  # fmt: skip
    if made.is_nothing:
        put("nothing is to be repaired: a server starts with what is there\n")
        return
    at, base = made.reached.position, made.reached.base
    if made.cut:
        path = made.reached.path
        assert path is not None
        put(f"cut      {_name(data, path)} at offset {at.offset}\n")
    for path in (*reversed(made.later), *made.history):
        held = made.holds.get(path)
        what = ""
        if path in made.history and held is not None and held.txns:
            last = held.first_txn + held.txns - 1
            what = f": the history of transactions {held.first_txn} to {last}"
        put(f"remove   {_name(data, path)}{what}\n")
    for path in made.drop:
        put(f"remove   {_name(data, path)}\n")
    if base is not None:
        put(f"the state begins with {_name(data, base.path)}\n")
    put(f"the newest transaction is {made.until} then\n")
    if not made.begins_anew:
        put("nothing of the state is lost\n")
        return
    _show_lost(made.lost)
    put(
        "the log gets a new identity, and the numbers of rooms and inboxes begin anew: clients "
        "notice that what they have seen is gone\n"
    )


def _show_lost(lost: Lost) -> None:
    if lost.is_nothing:
        put("nothing that is known is lost\n")
    for what, first, last, readable in (
        ("transaction", lost.first_txn, lost.last_txn, lost.txns),
        ("event", lost.first_event, lost.last_event, lost.events),
    ):
        if last >= first:
            put(
                f"lost: {count_of(last + 1 - first, what)}, {first} to {last}; {readable} of them "
                "can be read in the copies\n"
            )
    if lost.messages:
        put(f"lost: {count_of(lost.messages, 'message')} among these events\n")
    if lost.since:
        since, till = as_text(Time(lost.since)), as_text(Time(lost.till))
        put(f"lost: what was written from {since} to {till}\n")
    shown = sorted(lost.amounts.items(), key=lambda each: -abs(each[1]))
    for name, change in shown[:_SHOWN_AMOUNTS]:
        put(f"lost: {change:+} of {name}\n")
    if len(shown) > _SHOWN_AMOUNTS:
        put(f"lost: amounts of {len(shown) - _SHOWN_AMOUNTS} others\n")
    if lost.unreadable:
        put(f"lost: {lost.unreadable} bytes that cannot be read, with whatever was in them\n")


COMMAND: Final = Command(
    "journal",
    "check, show or repair what a server keeps on disk",
    "Check, show or repair what a server keeps on disk.",
    examples=_EXAMPLES,
    commands=(
        Command(
            "verify",
            "read and check everything, beside a running server too",
            "Read and check everything in a data directory, and say whether a server can start with"
            " it. Changes nothing, and works beside a running server.",
            _verify_arguments,
            _verify,
        ),
        Command(
            "list",
            "list the segments of the journal, packed ones too",
            "List the segments of the journal, oldest first, with those that are packed since"
            " they are kept for their time alone (--history-days of the server): their"
            " transactions and events, when they ended, their sizes. Works beside a running"
            " server.",
            _list_arguments,
            _list,
        ),
        Command(
            "dump",
            "show transactions and events, oldest first",
            "Show the transactions and events in the journal, oldest first, and the starts and"
            " stops between them; secrets are shown as «hidden». Works beside a running server.",
            _dump_arguments,
            _dump,
        ),
        Command(
            "repair",
            "repair the damaged journal of a stopped server, after asking",
            "Bring a data directory to a state that a server starts with: the one that loses"
            " least, or the one at transaction TXN. Says what would be lost, and asks. What is"
            " taken away is kept in the data directory, under removed-TIME. The server must be"
            " stopped.",
            _repair_arguments,
            _repair,
        ),
    ),
)

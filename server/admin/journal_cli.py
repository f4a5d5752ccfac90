"""`tradechat-admin journal`: look at a data directory, and cut a damaged journal back.

verify and dump store nothing and take no lock, so they work beside a running server. repair takes
the data directory's lock, and keeps a copy of all that it takes away.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from libcli.output import put
from server.admin.command import EXIT_DAMAGED, EXIT_GOOD, Command, NotDone, say
from server.admin.inspect import Value
from server.admin.journal_repair import Repaired, repair
from server.admin.journal_tool import Report, dump, oldest, user_id, verify
from server.admin.show import put_json
from server.admin.values import as_text
from server.journal.directory import DataDirectory, DirectoryUnusable, lock_data
from server.journal.disk import Disk
from server.journal.errors import Damaged, JournalError
from server.region.records import COMMON

_EXAMPLES: Final = """\
examples:
  tradechat-admin journal verify --data data                  is everything there, and good?
  tradechat-admin journal dump --data data --from 100 --to 110
  tradechat-admin journal dump --data data --user alice --json
  tradechat-admin journal repair --data data --until 4711     drop all transactions after 4711

docs/JOURNAL.md has the files, and what is damage and what is not.
"""
_COMMON: Final = tuple(field.name for field in COMMON)


# ---- arguments


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text[:20]) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _txn(text: str) -> int:
    number = _number(text)
    if not number:
        raise argparse.ArgumentTypeError("0 is too small: they are numbered from 1")
    return number


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the server's --data"
    )


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _dump_arguments(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    add = parser.add_argument
    add("--from", type=_txn, default=1, dest="first", metavar="TXN", help="the first to show")
    add("--to", type=_txn, dest="last", metavar="TXN", help="the last to show")
    add("--user", metavar="NAME_OR_ID", help="only those that concern this user")
    add("--limit", type=_txn, metavar="N", help="at most N transactions")
    add("--json", action="store_true", help="a JSON object per transaction and line")


def _repair_arguments(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument(
        "--until", type=_number, required=True, metavar="TXN", help="the last to keep; 0: none"
    )


@contextmanager
def _files_in(directory: Path) -> Iterator[None]:
    """What goes wrong with the files of this directory is NotDone, with the file and why."""
    try:
        yield
    except Damaged as error:
        raise NotDone(str(error), EXIT_DAMAGED) from error
    except (JournalError, DirectoryUnusable) as error:
        raise NotDone(str(error)) from error
    except OSError as error:
        raise NotDone(f"{error.filename or directory}: {error.strerror}") from error


# ---- verify


def _verify(options: argparse.Namespace) -> int:
    data = DataDirectory(options.data)
    with _files_in(data.path):
        report = verify(Disk(), data)
    if options.json:
        put_json(_object(data, report))
    else:
        for file in report.files:
            name = file.path.relative_to(data.path)
            if file.problem:
                put(f"DAMAGED  {name}, offset {file.offset}: {file.problem}\n")
            else:
                put(f"good     {name}  {file.holds}\n")
        for note in report.notes:
            put(f"note     {note}\n")
        last = f"transaction {report.txn}" if report.txn else "no transaction"
        good = "all is good" if not report.problems else "something is damaged"
        put(f"{good}; the last that is good: {last}\n")
    return EXIT_DAMAGED if report.problems else EXIT_GOOD


def _object(data: DataDirectory, report: Report) -> dict[str, Value]:
    files: list[Value] = []
    for file in report.files:
        about: dict[str, Value] = {
            "file": str(file.path.relative_to(data.path)),
            "holds": file.holds,
        }
        if file.problem:
            about |= {"offset": file.offset, "problem": file.problem}
        files.append(about)
    return {
        "good": not report.problems,
        "txn_id": report.txn,
        "oldest": report.oldest,
        "files": files,
        "notes": list(report.notes),
    }


# ---- dump


def _dump(options: argparse.Namespace) -> int:
    data, disk = DataDirectory(options.data), Disk()
    show = put_json if options.json else _show_line
    shown = 0
    with _files_in(data.path):
        data.identity(disk)
        user = None if options.user is None else user_id(disk, data, options.user)
        if (first := oldest(disk, data)) > options.first:
            say(f"the journal begins with transaction {first}")
        for record in dump(disk, data, options.first, options.last, user):
            if not shown and not options.json:
                put(_line("txn_id", "time", "kind", "supply", "fields"))
            show(record)
            shown += 1
            if shown == options.limit:
                break
    if not shown:
        say("there is no such transaction")
    return EXIT_GOOD


def _show_line(record: Mapping[str, Value]) -> None:
    txn, kind, time_, supply = (as_text(record.get(name)) for name in _COMMON)
    rest = {name: value for name, value in record.items() if name not in _COMMON}
    put(_line(txn, time_, kind, supply, as_text(rest)))


def _line(txn: str, time_: str, kind: str, supply: str, fields: str) -> str:
    return f"{txn:>10}  {time_:27}  {kind:10}  {supply:>20}  {fields}\n"


# ---- repair


def _repair(options: argparse.Namespace) -> int:
    data, disk = DataDirectory(options.data), Disk()
    with _files_in(data.path):
        data.identity(disk)  # before a lock file is made in any directory
        lock = lock_data(data.path)
        try:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            done = repair(disk, data, options.until, time.time_ns() // 1000, stamp)
        finally:
            disk.close(lock)
    _show_repaired(data, done)
    return EXIT_GOOD


def _show_repaired(data: DataDirectory, done: Repaired) -> None:
    def name(path: Path) -> Path:
        return path.relative_to(data.path)

    for path, used in done.cut:
        put(f"cut      {name(path)} at offset {used}\n")
    for path in done.removed:
        put(f"removed  {name(path)}\n")
    for path in done.changed:
        put(f"changed  {name(path)}: no more than {done.txn} was durable\n")
    if done.kept is None:
        put("nothing was to be taken away\n")
    else:
        put(f"copies of these files, as they were, are in {done.kept}\n")
    if done.lost:
        put(
            f"lost: {done.lost} that could be read of the transactions {done.first_lost} to "
            f"{done.last_lost}\n"
        )
    if done.unreadable:
        put(
            f"lost: {done.unreadable} bytes that could not be read; there may have been others "
            "in them\n"
        )
    put(f"the newest transaction is {done.txn}, and a server can start with it\n")


COMMAND: Final = Command(
    "journal",
    "check, show or repair what a server keeps on disk",
    "Check, show or repair what a server keeps on disk.",
    examples=_EXAMPLES,
    commands=(
        Command(
            "verify",
            "read and check everything, beside a running server too",
            "Read and check everything in a data directory, and change nothing. Works beside a"
            " running server.",
            _verify_arguments,
            _verify,
        ),
        Command(
            "dump",
            "show the transactions, oldest first",
            "Show the transactions in the journal, oldest first; secrets are shown as «hidden»."
            " Works beside a running server.",
            _dump_arguments,
            _dump,
        ),
        Command(
            "repair",
            "take away all transactions after one, of a server that is stopped",
            "Take away all transactions after TXN, so that a server starts with the state at TXN."
            " What is taken away is kept in the data directory, under removed-TIME. The server must"
            " be stopped. Run verify before: it names the last transaction that is good.",
            _repair_arguments,
            _repair,
        ),
    ),
)

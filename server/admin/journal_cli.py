"""`tradechat-admin journal`: look at a data directory, and cut a damaged journal back.

verify and dump store nothing and take no lock, so they work beside a running server. repair takes
the data directory's lock, and keeps a copy of all that it takes away.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from server.admin.inspect import Value
from server.admin.journal_repair import Repaired, repair
from server.admin.journal_tool import Report, dump, oldest, user_id, verify
from server.journal.directory import DataDirectory, DirectoryUnusable, lock_data
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.region.records import COMMON

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

WriteJson = Callable[[Mapping[str, Value]], None]
Text = Callable[[Value], str]

_EXAMPLES: Final = """\
examples:
  tradechat-admin journal verify --data data                  is everything there, and good?
  tradechat-admin journal dump --data data --from 100 --to 110
  tradechat-admin journal dump --data data --user alice --json
  tradechat-admin journal repair --data data --until 4711     drop all transactions after 4711

docs/JOURNAL.md has the files, and what is damage and what is not.

exit codes: 0 good, 1 damaged, refused, or not to be read, 2 wrong usage
"""


def add(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `journal`."""
    parser = add_parser(
        "journal",
        help="check, show or repair what a server keeps on disk",
        description="Check, show or repair what a server keeps on disk.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="journal", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "verify",
        help="read and check everything, beside a running server too",
        description="Read and check everything in a data directory, and change nothing. Works "
        "beside a running server. Exit code 1 where something is damaged.",
    )
    show = commands.add_parser(
        "dump",
        help="show the transactions, oldest first",
        description="Show the transactions in the journal, oldest first; secrets are shown as "
        "«hidden». Works beside a running server.",
    )
    mend = commands.add_parser(
        "repair",
        help="take away all transactions after one, of a server that is stopped",
        description="Take away all transactions after TXN, so that a server starts with the state "
        "at TXN. What is taken away is kept in the data directory, under removed-TIME. The server "
        "must be stopped. Run verify before: it names the last transaction that is good.",
    )
    for each in (check, show, mend):
        each.add_argument(
            "--data", type=Path, required=True, metavar="DIR", help="the server's --data"
        )
    check.add_argument("--json", action="store_true", help="one JSON object")
    show.add_argument(
        "--from", type=_txn, default=1, dest="first", metavar="TXN", help="the first to show"
    )
    show.add_argument("--to", type=_txn, dest="last", metavar="TXN", help="the last to show")
    show.add_argument("--user", metavar="NAME_OR_ID", help="only those that concern this user")
    show.add_argument("--limit", type=_txn, metavar="N", help="at most N transactions")
    show.add_argument("--json", action="store_true", help="a JSON object per transaction and line")
    mend.add_argument(
        "--until", type=_number, required=True, metavar="TXN", help="the last to keep; 0: none"
    )


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text[:20]) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _txn(text: str) -> int:
    number = _number(text)
    if not number:
        raise argparse.ArgumentTypeError("0 is too small: they are numbered from 1")
    return number


def run(program: str, options: argparse.Namespace, write_json: WriteJson, text: Text) -> int:
    """Run the command; gives the exit code."""
    disk, data = Disk(), DataDirectory(options.data)
    try:
        match options.journal:
            case "verify":
                return _verify(disk, data, write_json if options.json else None)
            case "dump":
                return _dump(program, options, disk, data, write_json, text)
        return _repair(program, options.until, disk, data)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except JournalError as error:
        sys.stdout.flush()
        sys.stderr.write(f"{program}: {error}\n")
    except OSError as error:
        sys.stderr.write(f"{program}: {error.filename or options.data}: {error.strerror}\n")
    return EXIT_FAILED


# ---- verify


def _verify(disk: Disk, data: DataDirectory, write_json: WriteJson | None) -> int:
    report = verify(disk, data)
    if write_json is not None:
        write_json(_object(data, report))
    else:
        for file in report.files:
            name = file.path.relative_to(data.path)
            if file.problem:
                sys.stdout.write(f"DAMAGED  {name}, offset {file.offset}: {file.problem}\n")
            else:
                sys.stdout.write(f"good     {name}  {file.holds}\n")
        for note in report.notes:
            sys.stdout.write(f"note     {note}\n")
        last = f"transaction {report.txn}" if report.txn else "no transaction"
        good = "all is good" if not report.problems else "something is damaged"
        sys.stdout.write(f"{good}; the last that is good: {last}\n")
    return EXIT_FAILED if report.problems else EXIT_OK


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


def _dump(
    program: str,
    options: argparse.Namespace,
    disk: Disk,
    data: DataDirectory,
    write_json: WriteJson,
    text: Text,
) -> int:
    data.identity(disk)
    user = None if options.user is None else user_id(disk, data, options.user)
    if (first := oldest(disk, data)) > options.first:
        sys.stderr.write(f"{program}: the journal begins with transaction {first}\n")
    shown = 0
    for record in dump(disk, data, options.first, options.last, user):
        if options.json:
            write_json(record)
        else:
            if not shown:
                sys.stdout.write(_line("txn_id", "time", "kind", "supply", "fields"))
            common = [text(record.get(field.name)) for field in COMMON]
            rest = {
                name: value
                for name, value in record.items()
                if name not in {field.name for field in COMMON}
            }
            txn, kind, time_, supply = common
            sys.stdout.write(_line(txn, time_, kind, supply, text(rest)))
        shown += 1
        if shown == options.limit:
            break
    if not shown:
        sys.stderr.write(f"{program}: there is no such transaction\n")
    return EXIT_OK


def _line(txn: str, time_: str, kind: str, supply: str, fields: str) -> str:
    return f"{txn:>10}  {time_:27}  {kind:10}  {supply:>20}  {fields}\n"


# ---- repair


def _repair(program: str, until: int, disk: Disk, data: DataDirectory) -> int:
    data.identity(disk)  # before a lock file is made in any directory
    try:
        lock = lock_data(data.path)
    except DirectoryUnusable as error:
        sys.stderr.write(f"{program}: {error}\n")
        return EXIT_FAILED
    try:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        done = repair(disk, data, until, time.time_ns() // 1000, stamp)
    finally:
        disk.close(lock)
    _tell(data, done)
    return EXIT_OK


def _tell(data: DataDirectory, done: Repaired) -> None:
    def name(path: Path) -> Path:
        return path.relative_to(data.path)

    for path, used in done.cut:
        sys.stdout.write(f"cut      {name(path)} at offset {used}\n")
    for path in done.removed:
        sys.stdout.write(f"removed  {name(path)}\n")
    for path in done.changed:
        sys.stdout.write(f"changed  {name(path)}: no more than {done.txn} was durable\n")
    if done.kept is None:
        sys.stdout.write("nothing was to be taken away\n")
    else:
        sys.stdout.write(f"copies of these files, as they were, are in {done.kept}\n")
    if done.lost:
        sys.stdout.write(
            f"lost: {done.lost} that could be read of the transactions {done.first_lost} to "
            f"{done.last_lost}\n"
        )
    if done.unreadable:
        sys.stdout.write(
            f"lost: {done.unreadable} bytes that could not be read; there may have been others "
            "in them\n"
        )
    sys.stdout.write(f"the newest transaction is {done.txn}, and a server can start with it\n")

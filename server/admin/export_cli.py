"""`tradechat-admin export`: accounts, transactions and statements as CSV or JSON."""

import argparse
import csv
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from libcli.output import put
from server.admin.command import EXIT_DAMAGED, EXIT_GOOD, Command, say
from server.admin.export import (
    ACCOUNT_COLUMNS,
    STATEMENT_COLUMNS,
    TXN_COLUMNS,
    Begins,
    Period,
    Row,
    accounts,
    statement,
    transactions,
)
from server.admin.inspect import Time
from server.admin.journal_dump import user_id
from server.admin.show import put_json
from server.admin.target import add_data, files_in
from server.admin.values import as_text, plain
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import Damaged

_EXAMPLES: Final = """\
examples:
  tradechat-admin export accounts --data data
  tradechat-admin export txns --data data --since 2026-11-01 --until 2026-12-01 > november.csv
  tradechat-admin export statement alice --data data --json

Amounts and balances are in minor units (cents), times are UTC. CSV is that of RFC 4180.
"""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)


# ---- arguments


def _accounts_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="comma-separated values (the default)")
    form.add_argument("--json", action="store_true", help="a JSON object per row and line")


def _period_arguments(parser: argparse.ArgumentParser) -> None:
    _accounts_arguments(parser)
    parser.add_argument(
        "--since",
        type=_moment,
        metavar="T",
        help="from T on: a date (its beginning, UTC) or a time of RFC 3339",
    )
    parser.add_argument("--until", type=_moment, metavar="T", help="before T")


def _statement_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("user", metavar="USER", help="name, or id, of the user")
    _period_arguments(parser)


def _moment(text: str) -> int:
    """Microseconds since the Unix epoch."""
    whole = f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text
    try:
        if not _TIME.fullmatch(whole):
            raise ValueError(text)
        moment = datetime.fromisoformat(whole.upper())
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date (2026-11-30) and no time (2026-11-30T12:00:00Z)"
        ) from error
    return (moment - _EPOCH) // timedelta(microseconds=1)


# ---- running


def _accounts(options: argparse.Namespace) -> int:
    with files_in(options.data):
        rows = accounts(Disk(), DataDirectory(options.data))
        return _put(options, ACCOUNT_COLUMNS, rows, Period())


def _txns(options: argparse.Namespace) -> int:
    period = Period(options.since, options.until)
    with files_in(options.data):
        rows = transactions(Disk(), DataDirectory(options.data), period)
        return _put(options, TXN_COLUMNS, rows, period)


def _statement(options: argparse.Namespace) -> int:
    period = Period(options.since, options.until)
    disk, data = Disk(), DataDirectory(options.data)
    with files_in(options.data):
        rows = statement(disk, data, user_id(disk, data, options.user), period)
        return _put(options, STATEMENT_COLUMNS, rows, period)


class _Output:
    """Standard output, for csv."""

    write = staticmethod(put)


def _put(
    options: argparse.Namespace,
    columns: Sequence[str],
    rows: Iterable[Row | Begins | Damaged],
    period: Period,
) -> int:
    """Show the rows, and tell of the rest; the exit code."""
    table, is_headed, code = csv.writer(_Output()), options.json, EXIT_GOOD
    for row in rows:
        if isinstance(row, Damaged):
            say(f"{row}. The transactions in it are missing in what is shown")
            code = EXIT_DAMAGED
        elif isinstance(row, Begins):
            if period.begins_before(row.time):
                say(
                    f"the journal begins with transaction {row.txn}, of {as_text(Time(row.time))}: "
                    "those before it have been removed (--history-size)"
                )
        elif options.json:
            put_json(row)
        else:
            if not is_headed:
                table.writerow(columns)
                is_headed = True
            table.writerow(plain(value) for value in row.values())
    if not is_headed:
        table.writerow(columns)
    return code


COMMAND: Final = Command(
    "export",
    "accounts, transactions or a statement, as CSV or JSON",
    "Write accounts, transactions or the statement of a user for other programs, from a data"
    " directory. Nothing is changed and no lock is taken: a server may be running.",
    examples=_EXAMPLES,
    commands=(
        Command(
            "accounts",
            "every account and its balance",
            "Every account, by user id, with its balance at the newest durable transaction.",
            _accounts_arguments,
            _accounts,
        ),
        Command(
            "txns",
            "deposits, withdrawals and transfers, oldest first",
            "Deposits, withdrawals and transfers, oldest first, as far as the journal has them.",
            _period_arguments,
            _txns,
        ),
        Command(
            "statement",
            "the payments of one user, with balances",
            "The balance of a user at the beginning, each transaction with its counterparty, its"
            " signed amount and the balance after it, and the balance at the end.",
            _statement_arguments,
            _statement,
        ),
    ),
)

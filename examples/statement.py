"""Write a statement of an account as CSV: every transaction the server keeps, oldest first.

TRADECHAT_URL=tradechat://alice:password@host:7878 python examples/statement.py > statement.csv
"""

import csv
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache

from tradechat import Client, Transaction, TxnKind, format_amount

COLUMNS = ("time", "transaction", "kind", "with", "amount", "balance")


def rows(client: Client) -> Iterator[tuple[str, ...]]:
    """The lines of the statement; SystemExit if its sums do not add up."""

    @cache
    def name(user_id: int) -> str:
        return client.user_name(user_id).username

    def row(txn: Transaction) -> tuple[str, ...]:
        received = txn.to_user == client.user_id
        other = txn.from_user if received else txn.to_user
        return (
            datetime.fromtimestamp(txn.time / 1_000_000, UTC).isoformat(timespec="seconds"),
            str(txn.txn_id),
            TxnKind(txn.kind).name.lower(),
            name(other) if other else "",  # user 0 is the world outside
            ("" if received else "-") + format_amount(txn.amount),
            format_amount(txn.balance),
        )

    listed = list(client.iter_transactions())[::-1]
    if not listed:
        return
    # Of the transactions before the oldest that the server keeps, the sum is known.
    balance = listed[0].balance - signed(client, listed[0])
    if balance or client.transactions(limit=1).oldest_txn_id:
        yield ("", "", "opening balance", "", "", format_amount(balance))
    for txn in listed:
        balance += signed(client, txn)
        if balance != txn.balance:
            raise SystemExit(f"transaction {txn.txn_id}: the balance is not the sum")
        yield row(txn)


def signed(client: Client, txn: Transaction) -> int:
    """What a transaction added to the account, in cents."""
    return txn.amount if txn.to_user == client.user_id else -txn.amount


def main() -> None:
    """Print the statement."""
    with Client() as client:  # TRADECHAT_URL says where, and as whom
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows(client))


if __name__ == "__main__":
    main()

"""What becomes of any books and any records of money: folded here, or, as a program, for each line
of JSON on its standard input. Both forms of the fold must answer the same.
"""

import json
import struct
import sys
from typing import Any, Final

from libproto.messages import OUTCOME_WINDOW
from server.journal.books import Books
from server.journal.errors import Inconsistent
from server.journal.money import ROW_WORDS
from server.region.layout import OUTCOME_WORDS
from server.region.records import RECORD_SIZE, RecordKind

USERS: Final = 2
WORDS: Final = RECORD_SIZE // 8


def books_of(case: dict[str, Any]) -> Books:
    """Two users, and a client of the first one, with numbers that no good journal has."""
    books = Books()
    for user in range(1, USERS + 1):
        books.register(0, 0, user, bytes(8) + b"user%d".ljust(87, b"\0") % user)
    books.new_client(0, 1, 7, 1, 1)
    books.txn, books.supply, books.time = case["txn"], case["supply"], case["time"]
    for user in range(1, USERS + 1):
        books.balances[user] = case["balances"][user - 1]
        books.last_txn[user] = case["last_txn"][user - 1]
    books.newest[0], books.floors[0] = case["newest"], case["floor"]
    for place in range(OUTCOME_WINDOW):
        books.outcomes[place * OUTCOME_WORDS] = case["known"]
    assert len(books.outcomes) == ROW_WORDS
    return books


def records_of(case: dict[str, Any], books: Books) -> bytes:
    """Records that follow from each other where numbers of 64 bits go round, but for what is
    changed in them."""
    txn, supply, made = books.txn, books.supply, []
    balances, last_txn = books.balances.tolist(), books.last_txn.tolist()
    for kind, payer, payee, amount, req_id, is_of_client, changes in case["records"]:
        txn += 1
        supply += {RecordKind.DEPOSIT: amount, RecordKind.WITHDRAW: -amount}.get(kind, 0)
        previous = last_txn[payer], last_txn[payee]
        if payer:
            balances[payer] -= amount
            last_txn[payer] = txn
        if payee:
            balances[payee] += amount
            last_txn[payee] = txn
        record = [
            txn, kind, books.time, supply, payer, payee, amount, balances[payer], balances[payee],
            *previous, 7 * is_of_client, req_id, is_of_client, *[0] * (WORDS - 14),
        ]  # fmt: skip
        for at, value in changes:
            record[at] = value
        made.append(struct.pack(f"<{WORDS}Q", *(word % 2**64 for word in record)))
    return b"".join(made)


def outcome(case: dict[str, Any]) -> str:
    """The books, or what was found wrong."""
    books = books_of(case)
    try:
        books.apply(records_of(case, books))
    except Inconsistent as error:
        return f"{error.txn}: {error}"
    return repr(vars(books))


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(f"{json.dumps(outcome(json.loads(line)))}\n")
        sys.stdout.flush()

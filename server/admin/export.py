"""Accounts, transactions and statements, as rows for other programs: spreadsheets, accounting.

Beside a running server, as dump works: no lock, and what looks wrong counts only if it is so once
more. The journal is read segment by segment, and no more than one of them is held in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from server.admin.inspect import Time, Value
from server.admin.journal_dump import batches, newest_state, registrations
from server.journal.books import Books
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import Damaged, JournalError
from server.journal.reader import Batch
from server.journal.start import load_state
from server.region.records import MONEY_KINDS, OFFSETS, RECORD_WORDS, RecordKind

ACCOUNT_COLUMNS: Final = ("user_id", "name", "registered", "balance", "last_txn")
TXN_COLUMNS: Final = (
    "txn_id", "time", "kind", "from", "to", "amount", "from_balance", "to_balance", "room",
)  # fmt: skip
STATEMENT_COLUMNS: Final = ("txn_id", "time", "kind", "counterparty", "amount", "balance")
OPENING: Final = "OPENING_BALANCE"
CLOSING: Final = "CLOSING_BALANCE"

_TRIES: Final = 5
_MONEY: Final = frozenset(MONEY_KINDS)
_AT: Final = OFFSETS[RecordKind.TRANSFER]
_SHOWN: Final = tuple(
    _AT[name]
    for name in (
        "txn_id", "time", "kind", "from_user", "to_user", "amount", "from_balance", "to_balance",
        "room",
    )
)  # fmt: skip
Row = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` on and before `until`, microseconds since the Unix epoch; None: no bound."""

    since: int | None = None
    until: int | None = None

    def begins_before(self, time: int) -> bool:
        return self.since is None or self.since < time

    def is_before(self, time: int) -> bool:
        return self.since is not None and time < self.since

    def is_after(self, time: int) -> bool:
        return self.until is not None and time >= self.until


class Begins(NamedTuple):
    """The journal no longer has what was before this transaction."""

    txn: int
    time: int  # microseconds since the Unix epoch


class Txn(NamedTuple):
    """A transaction, its users by id; 0: the world, or no room."""

    txn_id: int
    time: int
    kind: int
    payer: int
    payee: int
    amount: int
    payer_balance: int
    payee_balance: int
    room: int


class Names:
    """The names of users, with those who are registered meanwhile."""

    def __init__(self, books: Books) -> None:
        self._names = {user: name.decode() for name, user in books.user_ids.items()}

    def learn(self, batch: Batch) -> None:
        self._names.update((user, name.decode()) for name, user in registrations(batch))

    def of(self, user: int) -> str | None:
        """None: the world. A name that is lost, with what is damaged, is the id after a `#`."""
        return self._names.get(user, f"#{user}") if user else None


def accounts(disk: Disk, data: DataDirectory) -> Iterator[Row]:
    """All of them, by user id, at the newest transaction that is durable. Damaged, JournalError: no
    server starts with what is there. OSError."""
    books = _state(disk, data)
    names = Names(books)
    for user in range(1, books.users + 1):
        row = (
            user, names.of(user), Time(books.registered[user]), books.balances[user],
            books.last_txn[user] or None,
        )  # fmt: skip
        yield dict(zip(ACCOUNT_COLUMNS, row, strict=True))


def _state(disk: Disk, data: DataDirectory) -> Books:
    """What a server would start with. A file that a running server removes meanwhile, and an error
    that is another one when it is tried again, do not count."""
    log_id, before = data.identity(disk).log_id, ""
    for _ in range(_TRIES):
        try:
            return load_state(disk, data, log_id, lambda _done, _of: None).books
        except FileNotFoundError:
            continue
        except JournalError as error:
            if str(error) == before:
                raise
            before = str(error)
    return load_state(disk, data, log_id, lambda _done, _of: None).books


def transactions(
    disk: Disk, data: DataDirectory, period: Period
) -> Iterator[Row | Begins | Damaged]:
    """Those of money in a period, oldest first, and between them what is damaged. Refused: the
    server has removed what comes next; OtherFormat, OSError."""
    names = Names(newest_state(disk, data))
    for txn in _money(disk, data, names):
        if not isinstance(txn, Txn):
            yield txn
        elif period.is_after(txn.time):
            return
        elif not period.is_before(txn.time):
            row = (
                txn.txn_id, Time(txn.time), RecordKind(txn.kind).name, names.of(txn.payer),
                names.of(txn.payee), txn.amount, txn.payer_balance if txn.payer else None,
                txn.payee_balance if txn.payee else None, txn.room or None,
            )  # fmt: skip
            yield dict(zip(TXN_COLUMNS, row, strict=True))


def statement(
    disk: Disk, data: DataDirectory, user: int, period: Period
) -> Iterator[Row | Begins | Damaged]:
    """What a user had, got and paid in a period: the balance at its beginning, each transaction,
    the balance at its end. As for `transactions`.

    Where the journal does not reach back to the beginning, the balance there is that before the
    first transaction of the user that it has.
    """
    books = newest_state(disk, data)
    names, opened = Names(books), False
    balance: int | None = None
    for txn in _money(disk, data, names, user):
        if not isinstance(txn, Txn):
            yield txn
            continue
        is_payer = txn.payer == user
        change = -txn.amount if is_payer else txn.amount
        after = txn.payer_balance if is_payer else txn.payee_balance
        if period.is_before(txn.time):
            balance = after
            continue
        if balance is None:
            balance = after - change
        if period.is_after(txn.time):
            break
        if not opened:
            opened = True
            yield _line(None, period.since, OPENING, None, None, balance)
        balance = after
        other = names.of(txn.payee if is_payer else txn.payer)
        yield _line(txn.txn_id, txn.time, RecordKind(txn.kind).name, other, change, balance)
    if balance is None:  # no transaction of this user is in the journal
        balance = books.balances[user] if user <= books.users else 0
    if not opened:
        yield _line(None, period.since, OPENING, None, None, balance)
    yield _line(None, period.until, CLOSING, None, None, balance)


def _line(
    txn_id: int | None, time: int | None, kind: str, other: str | None, change: int | None, now: int
) -> Row:
    row = (txn_id, None if time is None else Time(time), kind, other, change, now)
    return dict(zip(STATEMENT_COLUMNS, row, strict=True))


def _money(
    disk: Disk, data: DataDirectory, names: Names, user: int | None = None
) -> Iterator[Txn | Begins | Damaged]:
    """The transactions of money of a user, or of all."""
    is_first = True
    for batch in batches(disk, data):
        if isinstance(batch, Damaged):
            yield batch
            continue
        if not batch.count:
            continue
        words = batch.words()
        if is_first and batch.first > 1:
            yield Begins(batch.first, words[_AT["time"]])
        is_first = False
        names.learn(batch)
        payers, payees = (words[_AT[name] :: RECORD_WORDS] for name in ("from_user", "to_user"))
        if user is not None and user not in payers and user not in payees:
            continue
        for place, both in enumerate(zip(payers, payees, strict=True)):
            first = place * RECORD_WORDS
            if (user is None or user in both) and words[first + _AT["kind"]] in _MONEY:
                yield Txn._make(words[first + at] for at in _SHOWN)

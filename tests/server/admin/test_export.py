"""`tradechat-admin export`: what it shows is what was done, whatever of the journal is left."""

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.messages import Opcode
from libproto.texts import may_be_registered
from server.admin.cli import main
from server.admin.export import (
    ACCOUNT_COLUMNS,
    CLOSING,
    OPENING,
    STATEMENT_COLUMNS,
    TXN_COLUMNS,
    Begins,
    Period,
    Row,
    accounts,
    statement,
    transactions,
)
from server.admin.journal_dump import batches
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import Damaged, Refused
from server.journal.format import BATCH
from server.journal.reader import Batch, segments
from tests.helpers.server import ROOT, RunningServer
from tests.helpers.wire import Lobby
from tests.server.admin.bank import NAMES, Bank, Run, break_at

COMMAND = [sys.executable, "-m", "server.admin.cli", "export"]
TIMEOUT_S = 60
ALWAYS = Period()
USERS = range(1, len(NAMES) + 1)


def rows_of(found: Iterable[Row | Begins | Damaged]) -> list[dict[str, Any]]:
    rows = [row for row in found if isinstance(row, dict)]
    return [dict(row) for row in rows]


def check_sums(bank: Bank, balances: list[int]) -> None:
    """What is shown agrees with itself, and with the balances by user id."""
    there = rows_of(accounts(bank.disk, bank.data))
    assert [row["balance"] for row in there] == balances[1:]
    assert [row["name"] for row in there] == list(NAMES)
    for user in USERS:
        opening, *lines, closing = rows_of(statement(bank.disk, bank.data, user, ALWAYS))
        assert (opening["kind"], closing["kind"]) == (OPENING, CLOSING)
        balance = opening["balance"]
        for line in lines:
            balance += line["amount"]
            assert line["balance"] == balance
        assert closing["balance"] == balance == balances[user]


def act(run: Run, balances: list[int], deed: tuple[int, int, int, int]) -> None:
    """Deposit, or pay as much of an amount as there is."""
    what, who, other, amount = deed
    amount = amount if what == 0 else min(amount, balances[who + 1])
    if not amount or (what == 1 and who == other):
        return
    if what == 0:
        run.deposit(who, amount)
        balances[who + 1] += amount
    else:
        run.transfer(who, other + 1, amount)
        balances[who + 1] -= amount
        balances[other + 1] += amount


WHO = st.integers(0, len(NAMES) - 1)
DEEDS = st.lists(st.tuples(st.integers(0, 1), WHO, WHO, st.integers(1, 1000)), max_size=12)


@settings(max_examples=15, deadline=None)
@given(DEEDS, st.booleans(), DEEDS)
def test_a_statement_adds_up_to_the_balance_and_accounts_to_the_supply(
    first: list[tuple[int, int, int, int]], stops: bool, then: list[tuple[int, int, int, int]]
) -> None:
    bank, balances = Bank(), [0] * (len(NAMES) + 1)
    for deeds in (first, then):
        with bank.run(stops=stops, snapshot=deeds is first) as run:
            for deed in deeds:
                act(run, balances, deed)
            if deeds:
                run.say(0, "so that there is something to commit")
                run.commit()
    check_sums(bank, balances)
    txns = rows_of(transactions(bank.disk, bank.data, ALWAYS))
    deposits = sum(row["amount"] for row in txns if row["from"] is None)
    withdrawals = sum(row["amount"] for row in txns if row["to"] is None)
    assert sum(balances) == deposits - withdrawals


def good(disk: Disk, data: DataDirectory) -> list[Batch]:
    return [each for each in batches(disk, data) if isinstance(each, Batch)]


# ---- what the journal no longer has


def long_journal(bank: Bank) -> list[int]:
    """A journal of three segments, of which a start needs only the last; the balances."""
    with bank.run(snapshot=False) as run:
        while run.writer.position.segment < 3:
            run.deposit(0, 7)
            run.transfer(0, 2, 2)
            run.commit()
            run.go_on()
        run.snapshot()
    return bank.balances[max(bank.balances)]


def test_a_statement_begins_with_the_balance_from_before_the_journal() -> None:
    bank = Bank()
    balances = long_journal(bank)
    whole = rows_of(transactions(bank.disk, bank.data, ALWAYS))
    bank.disk.remove(segments(bank.disk, bank.data.journal)[0])
    check_sums(bank, balances)
    left = list(transactions(bank.disk, bank.data, ALWAYS))
    begins, rows = left[0], rows_of(left)
    assert isinstance(begins, Begins)
    assert begins.txn == rows[0]["txn_id"] > 1
    assert rows == whole[-len(rows) :]
    opening = rows_of(statement(bank.disk, bank.data, 2, ALWAYS))[0]
    assert opening["balance"] == 2 * (rows[0]["txn_id"] // 2 - len(NAMES)), "of before"


def test_one_whose_transactions_have_all_gone_has_the_balance_of_the_snapshot() -> None:
    bank = Bank()
    with bank.run(snapshot=False) as run:
        run.deposit(2, 55)
        run.commit()
    balances = long_journal(bank)
    bank.disk.remove(segments(bank.disk, bank.data.journal)[0])
    found = rows_of(statement(bank.disk, bank.data, 3, ALWAYS))
    assert [(row["kind"], row["balance"]) for row in found] == [(OPENING, 55), (CLOSING, 55)]
    assert balances[3] == 55


def test_segments_that_go_while_they_are_read_are_not_taken_for_damage() -> None:
    bank = Bank()
    long_journal(bank)
    first, second, _ = segments(bank.disk, bank.data.journal)
    reading = batches(bank.disk, bank.data)
    found = next(reading)
    bank.disk.remove(first)
    bank.disk.remove(second)
    assert found.path == first
    with pytest.raises(Refused, match="removed the transactions"):
        list(reading)
    assert all(isinstance(each, Batch) for each in batches(bank.disk, bank.data))


def test_segments_that_go_behind_what_was_read_are_not_missed() -> None:
    bank = Bank()
    long_journal(bank)
    first, second, _ = segments(bank.disk, bank.data.journal)
    broken = next(each for each in good(bank.disk, bank.data) if each.path == second)
    whole = [each for each in good(bank.disk, bank.data) if each.path == first]
    break_at(bank.disk, second, broken.offset + BATCH.size)
    reading = batches(bank.disk, bank.data)
    assert [next(reading) for _ in whole] == whole
    bank.disk.remove(first)
    damages = [each for each in reading if isinstance(each, Damaged)]
    assert [(each.path, each.offset) for each in damages] == [(second, broken.offset)]


# ---- as a program


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    made = DataDirectory(tmp_path / "left")
    bank = Bank(Disk(), made)
    with bank.run(stops=False, snapshot=False) as run:
        for _ in range(4):
            run.deposit(0, 100)
            run.transfer(0, 2, 10)
            run.commit()
    return made


def shown(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["export", *map(str, arguments)]) == code
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def table(text: str) -> list[list[str]]:
    """Its rows, after a look at the ends of its lines."""
    assert text.count("\n") == text.count("\r\n")
    return list(csv.reader(io.StringIO(text, newline="")))


def test_damage_is_told_and_the_rest_is_shown(
    data: DataDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = table(shown(capsys, "txns", "--data", data.path)[0])
    first = good(Disk(), data)[2]
    break_at(Disk(), first.path, first.offset + BATCH.size + 50)
    left, said = shown(capsys, "txns", "--data", data.path, code=1)
    gone = {str(txn) for txn in range(first.first, first.last + 1)}
    assert table(left) == [row for row in whole if row[0] not in gone] != whole
    assert "is damaged" in said
    assert "missing in what is shown" in said
    nothing, said = shown(capsys, "accounts", "--data", data.path, code=1)
    assert nothing == ""
    assert first.path.name in said


@pytest.mark.parametrize(
    "wrong", ["yesterday", "2026-13-01", "2026-11-30T12:00:00", "20261130", "2026-11-30T25:00:00Z"]
)
def test_a_time_that_is_none_is_wrong_usage(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert wrong in shown(capsys, "txns", "--data", "x", "--since", wrong, code=2)[1]


def test_where_there_is_no_data_or_no_such_user(
    data: DataDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, "accounts", "--data", tmp_path / "none", code=3)[0] == ""
    output, said = shown(capsys, "statement", "zoe", "--data", data.path, code=3)
    assert (output, said) == ("", "tradechat-admin: there is no user 'zoe'\n")


# ---- beside a server


def export(*arguments: object) -> str:
    """Run it as a script does; its standard output, and nothing was said."""
    run = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT, capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, b"")
    return run.stdout.decode()


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_books_of_a_running_server_and_after_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    where = ("--data", path)
    with RunningServer(path, "--durability", "sync") as server, Lobby(server) as lobby:
        alice, eve = lobby.enter(), lobby.enter()
        alice.ok(Opcode.DEPOSIT, 1000)
        alice.ok(Opcode.WITHDRAW, 1)
        name, other = lobby.username(alice), lobby.username(eve)
        bob_id = objects(export("accounts", *where, "--json"))[1]["user_id"]
        alice.ok(Opcode.TRANSFER, bob_id, 250)
        eve.ok(Opcode.DEPOSIT, 5)
        header, *lines = table(export("accounts", *where))
        assert header == list(ACCOUNT_COLUMNS)
        assert [(line[1], line[3]) for line in lines] == [(name, "749"), (other, "255")]
        header, *lines = table(export("txns", *where))
        assert header == list(TXN_COLUMNS)
        assert [line[2:8] for line in lines] == [
            ["DEPOSIT", "", name, "1000", "", "1000"],
            ["WITHDRAW", name, "", "1", "999", ""],
            ["TRANSFER", name, other, "250", "749", "250"],
            ["DEPOSIT", "", other, "5", "", "255"],
        ]
        header, *lines = table(export("statement", name, *where))
        assert header == list(STATEMENT_COLUMNS)
        assert [line[2:] for line in lines] == [
            [OPENING, "", "", "0"],
            ["DEPOSIT", "", "1000", "1000"],
            ["WITHDRAW", "", "-1", "999"],
            ["TRANSFER", other, "-250", "749"],
            [CLOSING, "", "", "749"],
        ]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    txns = objects(export("txns", *where, "--json"))
    since, until = txns[1]["time"], txns[2]["time"]
    period = ("--since", since, "--until", until)
    assert objects(export("txns", *where, "--json", *period)) == txns[1:2]
    within = objects(export("statement", name, *where, "--json", *period))
    assert [row["balance"] for row in within] == [1000, 999, 999]
    assert (within[0]["time"], within[-1]["time"]) == (since, until)
    later = objects(export("statement", name, *where, "--json", "--since", "2100-01-01"))
    assert [row["balance"] for row in later] == [749, 749]
    earlier = objects(export("statement", name, *where, "--json", "--until", "2000-01-01"))
    assert [row["balance"] for row in earlier] == [0, 0]
    assert export("txns", *where, "--since", "2100-01-01") == ",".join(TXN_COLUMNS) + "\r\n"


@pytest.mark.parametrize("first", "=+-@\t\r")
def test_no_name_is_taken_for_a_formula_by_a_spreadsheet(first: str) -> None:
    """So nothing is changed in a cell: all but names are numbers, times and words of ours."""
    assert not may_be_registered(f"{first}1")

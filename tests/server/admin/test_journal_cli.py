"""`tradechat-admin journal` as an operator uses it: beside a running server, and after damage."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from libproto.messages import Opcode
from server.admin.cli import main
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.format import BATCH, FORMAT_VERSION
from server.journal.reader import Reader
from server.journal.writer import Writer
from tests.helpers.server import RunningServer
from tests.helpers.wire import Lobby
from tests.server.journal.history import VARIED, History, history

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "server.admin.cli", "journal"]
TIMEOUT_S = 60
CANNOT_WRITE = "tradechat-admin: cannot write to standard output"
DEPOSITS = 12
Run = subprocess.CompletedProcess[str]


def admin(*arguments: object) -> Run:
    """Run it as an operator does."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """What it shows and says, run in this process."""
    capsys.readouterr()
    assert main(["journal", *map(str, arguments)]) == code
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write(data: DataDirectory, past: History) -> None:
    """The journal of a history, on the real disk."""
    disk = Disk()
    data.path.mkdir()
    data.open(disk, bytes(32))
    reader = Reader(disk, data.journal)
    writer = Writer(disk, data.journal, reader.end, 1300, lambda: past.now)
    for first in range(1, past.head + 1, 3):
        last = min(first + 2, past.head)
        writer.append([past.records(first, last)], last + 1 - first)
    writer.close()


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    """A directory that a server left, of 20 transactions."""
    made = DataDirectory(tmp_path / "left")
    with history(*VARIED) as past:
        assert past.head == 20
        write(made, past)
    return made


def damage(data: DataDirectory, txn: int) -> tuple[str, int]:
    """Break the batch that a transaction is in: its file and offset."""
    [batch] = [b for b in Reader(Disk(), data.journal).batches() if b.first <= txn <= b.last]
    content = bytearray(batch.path.read_bytes())
    content[batch.offset + BATCH.size + 50] ^= 0xFF
    batch.path.write_bytes(content)
    return f"journal/{batch.path.name}", batch.offset


# ---- beside a server, and the whole way through damage


def test_a_servers_journal_is_cut_back_and_a_server_starts(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with RunningServer(path) as server, Lobby(server) as lobby:
        wire = lobby.enter()
        name = lobby.username(wire)
        balances = {}
        for amount in range(1, DEPOSITS + 1):
            done = wire.ok(Opcode.DEPOSIT, amount)
            balances[done.txn_id] = done.balance
        verified = admin("verify", "--data", path)
        assert (verified.returncode, verified.stderr) == (0, "")
        newest = max(balances)
        assert verified.stdout.endswith(
            f"all is good; the last that is good: transaction {newest}\n"
        )
        assert re.search(
            r"^good     journal/0+1\.journal  transactions 1 to ", verified.stdout, re.M
        )
        assert re.search(r"^good     rooms/0+1\.rooms ", verified.stdout, re.M)
        dumped = admin("dump", "--data", path, "--user", name, "--json")
        assert dumped.returncode == 0
        amounts = [r["amount"] for r in objects(dumped.stdout) if r["kind"] == "DEPOSIT"]
        assert amounts == list(range(1, DEPOSITS + 1))
        refused = admin("repair", "--data", path, "--until", newest - 1)
        assert refused.returncode == 3
        assert "in use by a running server" in refused.stderr
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    until = newest - 5
    done_run = admin("repair", "--data", path, "--until", until)
    assert (done_run.returncode, done_run.stderr) == (0, "")
    assert (
        f"lost: 5 that could be read of the transactions {until + 1} to {newest}" in done_run.stdout
    )
    assert f"the newest transaction is {until}, and a server can start" in done_run.stdout
    assert re.search(r"^removed  snapshots/", done_run.stdout, re.M)
    [kept] = path.glob("removed-*T*Z")
    assert list(kept.glob("journal/*.journal"))
    assert list(kept.glob("snapshots/*.snapshot"))
    assert admin("verify", "--data", path).returncode == 0
    with RunningServer(path) as server, Lobby(server) as lobby:
        wire = lobby.enter(name)
        after = wire.ok(Opcode.DEPOSIT, 1000)
        # Its client is a new one, with a transaction of its own.
        assert after.balance == balances[until] + 1000
        assert after.txn_id > until
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    verified = admin("verify", "--data", path)
    assert verified.returncode == 0, verified.stdout


# ---- verify


def test_damage_is_named_and_healed(
    data: DataDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    name, offset = damage(data, 8)
    out, err = shown(capsys, "verify", "--data", data.path, code=1)
    assert f"DAMAGED  {name}, offset {offset}: transaction 7 is damaged" in out
    assert out.endswith("something is damaged; the last that is good: transaction 6\n")
    assert err == ""
    out, _ = shown(capsys, "verify", "--data", data.path, "--json", code=1)
    [told] = objects(out)
    assert (told["good"], told["txn_id"], told["oldest"]) == (False, 6, 1)
    [wrong] = [file for file in told["files"] if "problem" in file]
    assert (wrong["file"], wrong["offset"]) == (name, offset)

    out, err = shown(capsys, "repair", "--data", data.path, "--until", 7, code=3)
    assert out == ""
    assert "the journal is good up to 6" in err
    out, err = shown(capsys, "repair", "--data", data.path, "--until", 6)
    assert err == ""
    assert "there may have been others" in out
    out, _ = shown(capsys, "verify", "--data", data.path)
    assert out.endswith("all is good; the last that is good: transaction 6\n")
    out, _ = shown(capsys, "repair", "--data", data.path, "--until", 6)
    assert out.startswith("nothing was to be taken away\n")


def test_a_torn_end_is_a_note(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    damage(data, 20)
    out, _ = shown(capsys, "verify", "--data", data.path)
    assert "\nnote     " in out
    assert "all is good; the last that is good: transaction 18" in out


# ---- dump


def test_a_dump_as_a_table(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, "dump", "--data", data.path)
    assert err == ""
    heading, *rows = out.splitlines()
    assert heading.split() == ["txn_id", "time", "kind", "supply", "fields"]
    assert [int(row.split()[0]) for row in rows] == list(range(1, 21))
    assert "stored_key=«hidden»" in rows[0]
    assert re.fullmatch(r" +1  \S+Z  REGISTER +0  user_id=1 iterations=\d+ name=user1 .*", rows[0])


def test_a_dump_is_filtered(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    def txns(*arguments: object) -> list[int]:
        out, _ = shown(capsys, "dump", "--data", data.path, "--json", *arguments)
        return [record["txn_id"] for record in objects(out)]

    assert txns() == list(range(1, 21))
    assert txns("--from", 5, "--to", 8) == [5, 6, 7, 8]
    assert txns("--from", 5, "--limit", 3) == [5, 6, 7]
    of_one = txns("--user", "user3")
    assert of_one == txns("--user", 3)
    assert 0 < len(of_one) < 20
    assert txns("--user", "user3", "--limit", 2) == of_one[:2]
    out, err = shown(capsys, "dump", "--data", data.path, "--from", 21)
    assert (out, err) == ("", "tradechat-admin: there is no such transaction\n")
    out, err = shown(capsys, "dump", "--data", data.path, "--user", "nobody", code=3)
    assert (out, err) == ("", "tradechat-admin: there is no user 'nobody'\n")


def test_a_dump_tells_of_damage_after_what_is_good(
    data: DataDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    name, offset = damage(data, 8)
    out, err = shown(capsys, "dump", "--data", data.path, "--json", code=1)
    assert [record["txn_id"] for record in objects(out)] == [1, 2, 3, 4, 5, 6]
    assert f"{data.path / name}, offset {offset}: transaction 7 is damaged" in err


def test_a_dump_says_where_the_journal_begins(
    data: DataDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    sorted(data.journal.iterdir())[0].unlink()
    out, err = shown(capsys, "dump", "--data", data.path, "--json")
    assert objects(out)[0]["txn_id"] == 7
    assert "the journal begins with transaction 7" in err


def test_a_reader_that_has_seen_enough(data: DataDirectory) -> None:
    with subprocess.Popen(
        [*COMMAND, "dump", "--data", str(data.path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(TIMEOUT_S) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize("command", ["verify", "verify --json", "dump", "repair --until 7"])
@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        (">/dev/full", 3, f"{CANNOT_WRITE}: No space left on device\n"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_an_output_that_cannot_be_written(
    data: DataDirectory, command: str, redirect: str, code: int, said: str
) -> None:
    shell = f'exec "$0" -m server.admin.cli journal {command} --data "$1" {redirect}'
    done = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable, str(data.path)],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, said)


# ---- what it does not do


@pytest.mark.parametrize("command", ["verify", "dump", "repair"])
def test_a_directory_that_is_none(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is made in it."""
    until = ("--until", 1) if command == "repair" else ()
    for path in (tmp_path, tmp_path / "nothing"):
        out, err = shown(capsys, command, "--data", path, *until, code=3)
        assert out == ""
        assert err == f"tradechat-admin: {path / 'identity'}: No such file or directory\n"
    assert list(tmp_path.iterdir()) == []


def test_another_format(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    identity = data.path / "identity"
    identity.write_text(identity.read_text().replace(f"format {FORMAT_VERSION}", "format 99"))
    for command in (("verify",), ("dump",), ("repair", "--until", 3)):
        _, err = shown(capsys, *command, "--data", data.path, code=3)
        assert f"reads format {FORMAT_VERSION}" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["verify"],
        ["repair", "--data", "x"],
        ["repair", "--data", "x", "--until", "-1"],
        ["repair", "--data", "x", "--until", "9" * 30],
        ["dump", "--data", "x", "--from", "0"],
        ["dump", "--data", "x", "--limit", "some"],
        ["erase", "--data", "x"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", *arguments]) == 2
    assert "usage: tradechat-admin journal" in capsys.readouterr().err

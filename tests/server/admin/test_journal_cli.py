"""`tradechat-admin journal` as an operator uses it: beside a running server, and after damage."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from libproto.messages import Opcode
from server.admin.cli import main
from server.admin.command import EXIT_NOT_AGREED, EXIT_NOT_DONE
from server.journal import packed
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.format import BATCH, FORMAT_VERSION
from server.journal.reader import Batch, Reader, heads
from server.region.records import RECORD_SIZE
from tests.helpers.server import RunningServer
from tests.helpers.wire import Lobby
from tests.server.admin.bank import Bank

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "server.admin.cli", "journal"]
TIMEOUT_S = 60
CANNOT_WRITE = "tradechat-admin: cannot write to standard output"
DEPOSITS = 12
Run = subprocess.CompletedProcess[str]


def admin(*arguments: object) -> Run:
    """Run it as a script does, without a terminal."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT_S,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """What it shows and says, run in this process."""
    capsys.readouterr()
    assert main(["journal", *map(str, arguments)]) == code
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    """A directory that a server left when it was killed, on the real disk: no snapshot."""
    made = DataDirectory(tmp_path / "left")
    bank = Bank(Disk(), made)
    with bank.run(stops=False, snapshot=False) as run:
        for number in range(5):
            run.deposit(0, 100 + number)
            run.say(1, f"message {number}")
            run.whisper(0, 3, "for you alone")
            run.transfer(0, 2, 10)
            run.commit()
    return made


def batches(data: DataDirectory) -> list[Batch]:
    """Those with a transaction."""
    found = Reader(Disk(), data.journal, data.identity(Disk()).log_id).batches()
    return [batch for batch in found if batch.count]


def damage(batch: Batch) -> str:
    """Break its first transaction; the name of its file."""
    content = bytearray(batch.path.read_bytes())
    content[batch.offset + BATCH.size + 50] ^= 0xFF
    batch.path.write_bytes(content)
    return f"journal/{batch.path.name}"


def content(data: DataDirectory) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(data.path.rglob("*")) if path.is_file()}


# ---- beside a server, and the whole way through damage


def test_a_servers_journal_is_cut_back_and_a_server_starts(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with RunningServer(path) as server, Lobby(server) as lobby:
        wire = lobby.enter()
        name = lobby.username(wire)
        joined = wire.ok(Opcode.JOIN_ROOM, 1)
        wire.ok(Opcode.CHAT_SEND, 1, "before the repair")
        balances = {}
        for amount in range(1, DEPOSITS + 1):
            done = wire.ok(Opcode.DEPOSIT, amount)
            balances[done.txn_id] = done.balance
        verified = admin("verify", "--data", path)
        assert (verified.returncode, verified.stderr) == (0, "")
        newest = max(balances)
        assert re.search(
            rf"\na server can start, with transaction {newest} and event \d+; all is good\n$",
            verified.stdout,
        )
        assert re.search(
            r"^good     journal/0+1\.journal  transactions 1 to ", verified.stdout, re.M
        )
        dumped = admin("dump", "--data", path, "--user", name, "--json", "--transactions")
        assert dumped.returncode == 0
        amounts = [r["amount"] for r in objects(dumped.stdout) if r["kind"] == "DEPOSIT"]
        assert amounts == list(range(1, DEPOSITS + 1))
        refused = admin("repair", "--data", path, "--until", newest - 1, "--yes")
        assert refused.returncode == 3
        assert "in use by a running server" in refused.stderr
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    until = newest - 5
    log_id = DataDirectory(path).identity(Disk()).log_id
    done_run = admin("repair", "--data", path, "--until", until, "--yes")
    assert (done_run.returncode, done_run.stderr) == (0, "")
    lost = f"lost: 5 transactions, {until + 1} to {newest}; 5 of them can be read in the copies"
    assert lost in done_run.stdout
    assert f"lost: {sum(range(DEPOSITS - 4, DEPOSITS + 1)):+} of {name}" in done_run.stdout
    assert re.search(r"^remove   snapshots/", done_run.stdout, re.M)
    assert DataDirectory(path).identity(Disk()).log_id != log_id
    [kept] = path.glob("removed-*T*Z")
    assert list(kept.glob("journal/*.journal"))
    assert list(kept.glob("snapshots/*.snapshot"))
    assert admin("verify", "--data", path).returncode == 0
    with RunningServer(path) as server, Lobby(server) as lobby:
        wire = lobby.enter(name)
        again = wire.ok(Opcode.JOIN_ROOM, 1)
        assert again.epoch != joined.epoch
        assert again.last_seq == 0
        history = wire.ok(Opcode.ROOM_HISTORY, 1, 0, 100)
        assert "before the repair" not in [event.message for event in history.events]
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
    *_, hit, last = batches(data)
    name, offset, until = damage(hit), hit.offset, hit.first - 1
    out, err = shown(capsys, "verify", "--data", data.path, code=1)
    what = f"the batch of transaction {hit.first} is damaged, and followed by another"
    assert f"DAMAGED  {name}, offset {offset}: {what}" in out
    assert f"a server cannot start: {data.path}/{name}, offset {offset}: {what}" in out
    assert f"the newest state that is good: transaction {until} and event " in out
    assert err == ""
    out, _ = shown(capsys, "verify", "--data", data.path, "--json", code=1)
    [told] = objects(out)
    assert (told["good"], told["can_start"], told["txn_id"], told["oldest"]) == (
        False, False, until, 1
    )  # fmt: skip
    assert what in told["refusal"]
    [wrong] = [file for file in told["files"] if "problems" in file]
    assert wrong["file"] == name
    assert [each["offset"] for each in wrong["problems"]] == [offset]

    out, err = shown(capsys, "repair", "--data", data.path, "--until", hit.first, code=3)
    assert out == ""
    assert f"the journal is good up to {until}" in err
    before = content(data)
    out, err = shown(capsys, "repair", "--data", data.path, code=EXIT_NOT_AGREED)
    assert content(data) == before
    lost = last.last - until
    assert f"lost: {lost} transactions, {hit.first} to {last.last}; {last.count} of them" in out
    assert "lost: 4 messages among these events\n" in out
    assert "bytes that cannot be read" in out
    assert f"the newest transaction is {until} then\n" in out
    assert "nobody can be asked" in err
    assert err.endswith("tradechat-admin: nothing was changed\n")
    out, err = shown(capsys, "repair", "--data", data.path, "--yes")
    assert err == ""
    assert "done; copies of all that was taken away or changed are in " in out
    out, _ = shown(capsys, "verify", "--data", data.path)
    assert re.search(rf"a server can start, with transaction {until} .*; all is good\n$", out)
    out, _ = shown(capsys, "repair", "--data", data.path)
    assert out == "nothing is to be repaired: a server starts with what is there\n"


def test_only_history_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = DataDirectory(tmp_path / "left")
    bank = Bank(Disk(), data)
    for _ in range(3):
        bank.work(batches=2)
    first, *_ = batches(data)
    name = damage(first)
    out, _ = shown(capsys, "verify", "--data", data.path, code=1)
    assert f"DAMAGED  {name}, offset {first.offset}: " in out
    assert "(only history: a server starts with what is newer)\n" in out
    assert out.endswith("; something is damaged that it does not need\n")
    [file] = sorted(data.snapshots.iterdir())[:1]
    file.unlink()
    out, _ = shown(capsys, "repair", "--data", data.path, "--yes")
    assert f"remove   {name}: the history of transactions " in out
    assert "nothing of the state is lost\n" in out
    out, _ = shown(capsys, "verify", "--data", data.path)
    assert out.endswith("; all is good\n")


@pytest.mark.parametrize(
    ("answer", "code"), [(b"y\n", 0), (b"n\n", EXIT_NOT_AGREED), (b"\n", EXIT_NOT_AGREED),
    (b"\x04", EXIT_NOT_AGREED)]
)  # fmt: skip
def test_it_asks_on_a_terminal(data: DataDirectory, answer: bytes, code: int) -> None:
    damage(batches(data)[-1])
    before = content(data)
    mine, its = pty.openpty()
    try:
        with subprocess.Popen(
            [*COMMAND, "repair", "--data", str(data.path)],
            cwd=ROOT, stdin=its, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            asked, until = b"", time.monotonic() + TIMEOUT_S
            while b"[y/N]" not in asked:
                ready, _, _ = select.select([process.stderr], [], [], until - time.monotonic())
                assert ready, asked
                asked += os.read(process.stderr.fileno(), 1000)
            assert content(data) == before
            os.write(mine, answer)
            process.communicate(timeout=TIMEOUT_S)
    finally:
        os.close(mine)
        os.close(its)
    assert process.returncode == code
    assert (content(data) == before) == (code != 0)


# ---- dump


def test_a_dump_as_a_table(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, "dump", "--data", data.path)
    assert err == ""
    heading, begin, *rows = out.splitlines()
    assert heading.split() == ["number", "time", "kind", "fields"]
    assert re.fullmatch(r" +\S+Z  BEGIN       ring=16 skip=0 epoch=\d+", begin)
    assert "stored_key=«hidden»" in rows[0]
    assert re.fullmatch(
        r"txn 1 +\S+Z  REGISTER    supply=0 user_id=1 iterations=\d+ name=ann .*", rows[0]
    )
    said = [row for row in rows if "  MESSAGE" in row]
    assert re.fullmatch(
        r"event 4 +\S+Z  MESSAGE     room=1 seq=4 user=2 sender=2 client_id=7 req_id=\d+"
        r" from=bob text=message 0",
        said[0],
    )


def test_a_dump_has_everything_in_its_order(
    data: DataDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = shown(capsys, "dump", "--data", data.path, "--json")
    told = objects(out)
    events = [entry["event_number"] for entry in told if "event_number" in entry]
    txns = [entry["txn_id"] for entry in told if "txn_id" in entry]
    assert txns == list(range(1, max(txns) + 1))
    assert events == list(range(1, 3 + 2 * 5 + 1))
    assert [entry["batch"] for entry in told if "batch" in entry] == ["BEGIN"]
    # A batch's transactions, then its events: between the first and the last of all.
    kinds = ["event" if "event_number" in entry else "txn" for entry in told[-8:]]
    assert kinds == ["txn", "txn", "event", "event"] * 2
    whispered = [entry for entry in told if entry.get("kind") == "DIRECT"]
    assert {(entry["to_user"], entry["sender"], entry["text"]) for entry in whispered} == {
        (3, 1, "for you alone")
    }
    assert "stored_key" in out
    assert "6b6b6b6b" not in out, "a key is shown"


def test_a_dump_is_filtered(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    def entries(*arguments: object) -> list[dict[str, Any]]:
        return objects(shown(capsys, "dump", "--data", data.path, "--json", *arguments)[0])

    def txns(*arguments: object) -> list[int]:
        return [entry["txn_id"] for entry in entries("--transactions", *arguments)]

    last = batches(data)[-1].last
    assert txns() == list(range(1, last + 1))
    assert txns("--from", 5, "--to", 8) == [5, 6, 7, 8]
    assert txns("--from", 5, "--limit", 3) == [5, 6, 7]
    of_one = txns("--user", "bob")
    assert of_one == txns("--user", 2)
    assert 0 < len(of_one) < last
    assert txns("--user", "bob", "--limit", 2) == of_one[:2]
    events = entries("--events")
    assert all("event_number" in entry for entry in events)
    assert len(events) == 3 + 2 * 5
    room = entries("--room", 1)
    assert room == [entry for entry in events if entry.get("room") == 1]
    assert len(room) == 3 + 5
    assert entries("--room", 2) == []
    assert {entry["event_number"] for entry in entries("--events", "--user", "cyd")} == {
        entry["event_number"] for entry in events if 3 in (entry.get("user"), entry.get("to_user"))
    }
    out, err = shown(capsys, "dump", "--data", data.path, "--from", last + 1)
    assert (out, err) == ("", "tradechat-admin: there is nothing like that in the journal\n")
    out, err = shown(capsys, "dump", "--data", data.path, "--user", "nobody", code=3)
    assert (out, err) == ("", "tradechat-admin: there is no user 'nobody'\n")


def test_a_dump_goes_on_behind_damage(
    data: DataDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    hit = batches(data)[-2]
    name = damage(hit)
    out, err = shown(capsys, "dump", "--data", data.path, "--json", "--transactions", code=1)
    shown_txns = [record["txn_id"] for record in objects(out)]
    assert shown_txns == [*range(1, hit.first), *range(hit.last + 1, hit.last + 3)]
    assert f"{data.path / name}, offset {hit.offset}: the batch of transaction {hit.first}" in err


def test_a_dump_says_of_damaged_events_that_they_are_not_shown(
    data: DataDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    hit = batches(data)[-2]
    content = bytearray(hit.path.read_bytes())
    content[hit.offset + BATCH.size + hit.count * RECORD_SIZE + 9] ^= 0xFF
    hit.path.write_bytes(content)
    out, err = shown(capsys, "dump", "--data", data.path, "--json", code=1)
    txns = [entry["txn_id"] for entry in objects(out) if "txn_id" in entry]
    events = [entry["event_number"] for entry in objects(out) if "event_number" in entry]
    first, following = hit.head.first_event, hit.head.next_event
    assert set(range(hit.first, hit.last + 1)) <= set(txns)
    assert min(events) < first
    assert max(events) >= following
    assert not [number for number in events if first <= number < following]
    what = f"the events {first} to {following - 1} of this batch are damaged"
    assert f"{hit.path}, offset {hit.offset}: {what}" in err


def test_a_dump_says_where_the_journal_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataDirectory(tmp_path / "left")
    bank = Bank(Disk(), data)
    bank.work()
    bank.work()
    first, *_ = sorted(data.journal.iterdir())
    begins = next(batch.first for batch in batches(data) if batch.path != first)
    first.unlink()
    out, err = shown(capsys, "dump", "--data", data.path, "--json", "--transactions")
    assert objects(out)[0]["txn_id"] == begins
    assert f"the journal begins with transaction {begins}" in err


def test_segments_are_listed_and_read_when_they_are_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataDirectory(tmp_path / "left")
    bank = Bank(Disk(), data)
    bank.work()
    bank.work()
    ways = (), ("--from", "4"), ("--from", str(bank.commits[-1].txn))
    before = [shown(capsys, "dump", "--data", data.path, *way) for way in ways]
    (path, head), (_, following), *others = heads(Disk(), data.journal)
    packed.write(Disk(), path, head, following)
    for is_there in (True, False):
        if not is_there:
            path.unlink()
        out, err = shown(capsys, "list", "--data", data.path, "--json")
        first, *_, last = objects(out)
        assert err == ""
        assert len(objects(out)) == 2 + len(others)
        assert first["file"].endswith(".journal" if is_there else ".packed")
        assert (first["first_txn"], first["last_txn"]) == (1, following.first_txn - 1)
        assert (last["last_txn"], last["until"], last["unpacked"]) == (None, None, None)
        assert [shown(capsys, "dump", "--data", data.path, *way) for way in ways] == before
    assert 0 < first["bytes"] < first["unpacked"]
    heading, *rows = shown(capsys, "list", "--data", data.path)[0].splitlines()
    assert heading.split()[:2] == ["segment", "file"]
    assert len(rows) == 2 + len(others)


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


@pytest.mark.parametrize("command", ["verify", "verify --json", "dump", "repair --yes --until 7"])
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
    for path in (tmp_path, tmp_path / "nothing"):
        out, err = shown(capsys, command, "--data", path, code=3)
        assert out == ""
        why = "is not a data directory: there is no file «identity» in it"
        assert err == f"tradechat-admin: {path} {why}\n"
    assert list(tmp_path.iterdir()) == []


def test_another_format(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    identity = data.path / "identity"
    identity.write_text("tradechat data, format 99\n")
    for command in (("verify",), ("dump",), ("repair", "--until", 3)):
        _, err = shown(capsys, *command, "--data", data.path, code=3)
        assert f"reads format {FORMAT_VERSION}" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["verify"],
        ["repair", "--yes"],
        ["dump", "--data", "x", "--events", "--room", "1"],
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


@pytest.mark.parametrize("name", ["snapshots", "rooms"])
def test_a_directory_that_a_start_makes(
    data: DataDirectory, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A server starts without them, so it is no reason to look at nothing."""
    shutil.rmtree(data.path / name)
    said, _ = shown(capsys, "verify", "--data", data.path)
    assert "a server can start" in said
    said, _ = shown(capsys, "repair", "--data", data.path)
    assert "nothing is to be repaired" in said
    assert not (data.path / name).exists()


def test_a_journal_that_is_gone(data: DataDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data.journal)
    said, _ = shown(capsys, "verify", "--data", data.path, code=1)
    assert "has had a journal, and it is gone" in said


@pytest.mark.parametrize("name", ["snapshots", "rooms"])
def test_something_else_in_the_place_of_a_directory(
    data: DataDirectory, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.rmtree(data.path / name)
    (data.path / name).write_text("")
    for command in ("verify", "repair"):
        _, error = shown(capsys, command, "--data", data.path, code=EXIT_NOT_DONE)
        assert f"{data.path / name} is not a directory" in error


def test_histories_of_another_log_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server sets them aside, and makes them anew."""
    for name in ("one", "other"):
        with RunningServer(tmp_path / name, workers=1) as server, Lobby(server) as lobby:
            lobby.enter().ok(Opcode.JOIN_ROOM, 1)
    one, other = (DataDirectory(tmp_path / name) for name in ("one", "other"))
    said, _ = shown(capsys, "verify", "--data", one.path)
    assert "of another log" not in said
    shutil.rmtree(one.rooms)
    shutil.copytree(other.rooms, one.rooms)
    said, _ = shown(capsys, "verify", "--data", one.path)
    assert f"{one.rooms} is of another log" in said
    assert "makes the histories anew" in said

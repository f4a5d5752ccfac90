"""`tradechat-admin` on real servers: what it shows, what it says, and that it locks nothing."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from libproto.messages import Opcode
from server import __version__
from server.admin.cli import main
from server.admin.inspect import Mark
from server.config import SETTINGS
from server.files.channel import remove_queues
from server.files.segments import remove_pools
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.region.counters import COUNTERS, STATUS
from server.region.layout import (
    DEFAULT_CAPACITIES,
    LAYOUT_VERSION,
    OUTCOME_FIELDS,
    SEGMENTS,
    WORD,
    Layout,
)
from server.region.region import Region
from server.region.status import STALE_S
from tests.helpers import leaks
from tests.helpers.region import (
    SMALL,
    children,
    lock_value,
    login,
    register,
    set_word,
    small_region,
    state_of,
)
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import SALT, Lobby, Wire

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "server.admin.cli"]
NAMES = [segment.name for segment in SEGMENTS]
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
TIMEOUT_S = 60
CANNOT_WRITE = "tradechat-admin: cannot write to standard output"
Run = subprocess.CompletedProcess[str]


def program(*arguments: str) -> Run:
    """Run it as an operator does."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip


def admin(*arguments: str) -> Run:
    """The same here, without the time that it takes to start a program."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as error:
        code = main(arguments)
    return Run(arguments, code, out.getvalue(), error.getvalue())


def shown(*arguments: str) -> str:
    """What it shows, all being well."""
    run = admin("inspect", *arguments)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def objects(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown(*arguments, "--json").splitlines()]


def columns(text: str) -> list[dict[str, str]]:
    """A table as rows by the names in its heading; of cells without blanks."""
    heading, *rows = (line.split() for line in text.splitlines())
    return [dict(zip(heading, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def traded(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RunningServer, Lobby, Wire, Wire]]:
    """A server on which ann (client 77) and bob have traded and spoken, and stay, for the tests
    that only look at it."""
    data = tmp_path_factory.mktemp("traded") / "data"
    with RunningServer(data, "--idle-timeout", "3600") as server, Lobby(server) as lobby:
        ann, bob = lobby.enter(client_id=77), lobby.enter()
        ann.ok(Opcode.DEPOSIT, 1000)
        ann.ok(Opcode.TRANSFER, bob.user, 250)
        for wire in (ann, bob):
            wire.ok(Opcode.JOIN_ROOM, 3)
        ann.ok(Opcode.CHAT_SEND, 3, "hello")
        yield server, lobby, ann, bob


# ---- a live server


def test_the_summary_of_a_live_server(
    traded: tuple[RunningServer, Lobby, Wire, Wire],
) -> None:
    server, lobby, _, _ = traded
    (summary,) = objects("--name", server.name)
    counters = summary.pop("counters")
    assert re.fullmatch(TIME, summary.pop("started"))
    assert summary.pop("epoch") > 0
    for slot, worker in enumerate(summary.pop("workers")):
        assert list(worker) == ["worker", *(n for n, _ in STATUS if n != "updated"), "age_ms"]
        assert worker["worker"] == slot
        assert worker["state"] in ("IDLE", "BUSY")
        assert 0 <= worker["age_ms"] < STALE_S * 1000
    assert slot == 1
    archive = summary.pop("archive")
    assert (list(archive), archive["closed"]) == (["reached", "lag", "closed"], 0)
    assert 0 <= archive["reached"] <= 3
    capacities = replace(DEFAULT_CAPACITIES, workers=5)  # twice as many, and one to replace them
    assert summary == {
        "region": server.name,
        "size": Layout(capacities).size,
        "layout_version": LAYOUT_VERSION,
        "state": "SERVING",
        "master_pid": server.process.pid,
        "worker_pids": [lobby.worker_pid(0), lobby.worker_pid(1)],
        "recovery": None,
        "alarm": None,
        "capacities": {n: getattr(capacities, n) for n in capacities.__slots__},
        "use": {"accounts": 2, "sessions": 2, "clients": 1, "rooms": 1},
        "txn_ring": {"head": 5, "durable": 5},
        "event_ring": {"head": 3, "durable": 3},
        "log_id": f"{DataDirectory(server.data).identity(Disk()).log_id:016x}",
    }
    assert list(counters)[: len(COUNTERS)] == [counter.name for counter in COUNTERS]
    assert counters == lobby.counters()
    assert (counters["requests_TRANSFER"], counters["sessions"]) == (1, 2)


def test_the_summary_as_text(traded: tuple[RunningServer, Lobby, Wire, Wire]) -> None:
    server = traded[0]
    run = program("inspect", "--name", server.name)
    assert (run.returncode, run.stderr) == (0, "")
    text = run.stdout
    head, tables, rings, workers, counters = text.split("\n\n")
    lines = dict(line.split(maxsplit=1) for line in head.splitlines())
    assert lines["region"] == server.name
    assert lines["state"] == "SERVING"
    assert lines["recovery"] == "none"
    assert re.fullmatch(TIME, lines["started"])
    found = {row.split()[0]: row.split()[1:] for row in tables.splitlines()[1:]}
    assert found["accounts"] == ["2", "4096"]
    assert found["txn_ring"] == ["65536"]
    assert re.search(r"^txn_ring +head=5 durable=5$", rings, re.MULTILINE)
    assert re.search(r"^event_ring +head=3 durable=3$", rings, re.MULTILINE)
    assert re.search(r"^archive +reached=\d lag=\d+ closed=0$", rings, re.MULTILINE)
    assert [row["worker"] for row in columns(workers)] == ["0", "1"]
    assert {row["state"] for row in columns(workers)} <= {"IDLE", "BUSY"}
    assert {"counter": "requests_TRANSFER", "total": "1"} in columns(counters)
    assert "requests_WITHDRAW" not in counters, "zeros are left out"


@pytest.mark.parametrize("segment", NAMES)
def test_every_segment_of_a_live_server(
    traded: tuple[RunningServer, Lobby, Wire, Wire], segment: str
) -> None:
    server = traded[0]
    fields = [field.name for s in SEGMENTS if s.name == segment for field in s.fields]
    found = admin("inspect", segment, "--name", server.name, "--json")
    assert found.returncode == 0
    records = [json.loads(line) for line in found.stdout.splitlines()]
    if segment in (
        "account_locks", "roles", "offers", "deletions", "blocks", "operator_keys", "allowances",
    ):  # fmt: skip
        assert not records
        assert found.stderr == f"tradechat-admin: no record of {segment} is in use\n"
    else:
        assert records
    for record in records:
        assert list(record) == ["segment", "index", *fields]
        assert record["segment"] == segment
    text = admin("inspect", segment, "--name", server.name).stdout
    assert bool(text) == bool(records)
    for record in records:
        assert re.search(rf"\b{record['index']}\b", text)
    assert text == "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_the_records_of_a_live_server(traded: tuple[RunningServer, Lobby, Wire, Wire]) -> None:
    server, _, ann, bob = traded
    name = "--name", server.name
    users = objects("users", *name)
    assert [user["index"] for user in users] == [ann.user, bob.user]
    assert {user["salt"] for user in users} == {SALT.hex()}
    assert {user[key] for user in users for key in ("stored_key", "server_key")} == {"«hidden»"}
    assert all(re.fullmatch(TIME, user["last_seen"]) for user in users)
    balances = {entry["index"]: entry["balance"] for entry in objects("accounts", *name)}
    assert balances == {ann.user: 750, bob.user: 250}
    sessions = objects("sessions", *name)
    assert {(s["id"], s["user"], *s["rooms"]) for s in sessions} == {
        (ann.session, ann.user, 3),
        (bob.session, bob.user, 3),
    }
    newest = objects("txn_ring", *name, "--limit", "1")
    assert len(newest) == 1
    record = newest[0]["record"]
    assert (record["kind"], record["amount"], record["client_id"]) == ("TRANSFER", 250, 77)
    assert re.fullmatch(TIME, record["time"])
    assert b"hello".hex() in objects("event_ring", *name)[0]["frame"]
    assert columns(shown("accounts", *name)) == [
        {
            "index": str(wire.user),
            "balance": str(balances[wire.user]),
            "last_txn": "5",
            "closed": "0",
        }
        for wire in (ann, bob)
    ]
    transfer = shown("txn_ring", *name, "--limit", "1").splitlines()[1]
    assert re.match(rf" *5 +5 +TRANSFER +{TIME} +1000  from_user={ann.user} to_user=", transfer)
    assert re.search(r"^ +3 +3 +MESSAGE .* [0-9a-f]{32}\.\.\. \(\d+ bytes\)$",
                     shown("event_ring", *name), re.MULTILINE)  # fmt: skip


def test_secrets_are_in_no_output(traded: tuple[RunningServer, Lobby, Wire, Wire]) -> None:
    server = traded[0]
    region = Region.attach(server.name)
    users, header = region.layout["users"], region.layout["header"]
    places = users.at(1, "stored_key"), users.at(1, "server_key"), header.at(0, "salt_secret")
    secrets = [bytes(region.bytes[at * WORD : at * WORD + 32]) for at in places]
    region.close()
    for segment in ("header", "workers", "users", "txn_ring"):
        for form in (("--json",), ("--all",), ("--record", "1" if segment != "header" else "0")):
            text = shown(segment, "--name", server.name, *form)
            for secret in secrets:
                for part in (secret[:8], secret[:8][::-1]):
                    assert part.hex() not in text
                assert str(int.from_bytes(secret[:8], "little")) not in text
        assert Mark.HIDDEN.value in text or segment == "workers"


def test_a_server_is_found_by_its_port(tmp_path: Path) -> None:
    with subprocess.Popen(
        [
            sys.executable, "-m", "server", "--port", "0", "--workers", "1",
            "--data", str(tmp_path / "data"), "--log-file", str(tmp_path / "log"),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            found = re.search(r" port=(\d+) ", process.stdout.readline())
            assert found
            (summary,) = objects("--port", found[1])
            assert summary["region"] == f"tradechat-{found[1]}"
        finally:
            process.terminate()
        assert process.wait(TIMEOUT_S) == 0


def test_what_a_killed_server_left_is_said(server: RunningServer) -> None:
    children = server.children()
    server.signal(signal.SIGKILL)
    server.wait()
    for pid in children:
        leaks.wait_gone(pid)
    try:
        run = admin("inspect", "--name", server.name)
        assert run.returncode == 0
        assert "no process has this region any more" in run.stderr
    finally:
        Path("/dev/shm", server.name).unlink()  # noqa: S108 - where the region is
        remove_pools(server.name)
        remove_queues(server.name)


IN_ANOTHER_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")


def test_a_live_server_is_not_called_dead_from_another_pid_namespace(
    traded: tuple[RunningServer, Lobby, Wire, Wire],
) -> None:
    """As from another container that shares /dev/shm: the master's id is another's there, or
    nobody's."""
    tried = subprocess.run([*IN_ANOTHER_PID_NAMESPACE, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no pid namespace may be made here: {tried.stderr.decode().strip()}")
    run = subprocess.run(
        [*IN_ANOTHER_PID_NAMESPACE, *COMMAND, "inspect", "--name", traded[0].name],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert "SERVING" in run.stdout


# ---- without a lock


def test_it_shows_all_while_every_lock_is_held() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "ann", "bob")
        login(state, 1, 77)
        addresses = [
            region.address + placed.at(record, "lock") * WORD
            for placed in region.layout.segments.values()
            if "lock" in placed.offsets
            for record in range(placed.records)
        ]
        accounts = map(state.locks.account, range(SMALL.account_locks))
        everything = (
            state.locks.registry, *accounts, state.locks.log, state.locks.event
        )  # fmt: skip
        state.locks.hold(*everything)
        assert {lock_value(address) for address in addresses} == {0}
        before = bytes(region.bytes)
        for form in ((), ("--json",)):
            for segment in ([], *([name] for name in NAMES)):
                run = admin("inspect", *segment, "--name", region.name, *form)
                assert run.returncode == 0
                assert run.stdout or run.stderr.endswith(" is in use\n")
        assert len(objects("account_locks", "--name", region.name)) == SMALL.account_locks
        assert objects("log", "--name", region.name)[0]["lock"] == 0
        assert bytes(region.bytes) == before, "and nothing was stored"
        state.locks.release(*everything)
        assert {lock_value(address) for address in addresses} == {1}


# ---- what to show


@contextmanager
def small_server() -> Iterator[Region]:
    """A region with ann, whose client 77 is logged in; its master is this process."""
    with small_region() as region:
        state = state_of(region)
        register(state, "ann")
        login(state, 1, 77)
        yield region


def test_records_can_be_chosen() -> None:
    with small_server() as small:

        def indices(*arguments: str) -> list[int]:
            return [entry["index"] for entry in objects(*arguments, "--name", small.name)]

        assert indices("users") == [1]
        assert indices("users", "--all") == list(range(SMALL.accounts + 1))
        assert indices("users", "--record", "3") == [3]
        assert indices("users", "--record", "2:5") == [2, 3, 4, 5]
        assert indices("users", "--record", "2:5", "--limit", "2") == [2, 3]
        assert indices("users", "--all", "--limit", "1") == [0]
        assert indices("txn_ring", "--limit", "1") == [2]
        assert indices("txn_ring") == [2, 1]


def test_one_record_is_shown_whole() -> None:
    with small_server() as small:
        set_word(small, "clients", 0, "outcomes", 5)
        set_word(small, "clients", 0, "newest", 5)
        zeros = [f"{field}=0" for field in OUTCOME_FIELDS[1:]]
        lines = shown("clients", "--record", "0", "--name", small.name).splitlines()
        assert lines[0] == "clients[0]"
        assert lines[2].split() == ["client_id", "77"]
        assert lines[-1].split() == ["outcomes", "req_id=5", *zeros]
        lines = shown("header", "--name", small.name).splitlines()
        assert lines[0] == "header[0]"
        assert lines[-1].split() == ["salt_secret", "«hidden»"]
        assert len(shown("counters", "--name", small.name).splitlines()) == SMALL.workers * (
            len(COUNTERS) + 1
        )


def test_words_that_are_no_times_nor_names_are_shown_all_the_same() -> None:
    with small_server() as small:
        set_word(small, "users", 1, "last_seen", 2**64 - 1)
        set_word(small, "users", 1, "name", int.from_bytes(b"a\x1b[31m\xff\n", "little"))
        (user,) = objects("users", "--name", small.name)
        assert user["last_seen"] == str(2**64 - 1)
        assert user["name"] == r"a\x1b[31m\xff\n"


def test_a_record_that_changed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Another process publishes into one slot, over and over."""
    with small_region() as region, children() as started:
        at, words = region.layout["event_ring"].at(5), region.words

        def publish() -> None:
            number = 0
            while True:
                number += 1
                words[at] = 0
                words[at] = number

        started.start(publish)
        for form, expected in (
            (("--json",), '{"segment":"event_ring","index":5,"changed":true}'),
            (("--record", "5:6"), "    5  changed while it was read"),
            (("--record", "5"), "event_ring[5]\n  changed while it was read"),
        ):

            def said(form: tuple[str, ...] = form, expected: str = expected) -> bool:
                assert main(["inspect", "event_ring", "--name", region.name, *form]) == 0
                return expected in capsys.readouterr().out

            wait_until(said, expected, 60)


# ---- usage, and what goes wrong


def test_no_region_of_that_name() -> None:
    run = program("inspect", "--name", "test-nobody-has-this")
    assert (run.returncode, run.stdout) == (3, "")
    assert re.fullmatch(
        r"tradechat-admin: no region 'test-nobody-has-this' .*is the server running.*\n", run.stderr
    )


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def empty(path: Path) -> None:
    path.touch()


def zeros(path: Path) -> None:
    path.write_bytes(bytes(1 << 16))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (a_fifo, "is not a region of tradechat"),
        (a_link, "is not a region of tradechat"),
        (Path.mkdir, "is not a region of tradechat"),
        (empty, "is not finished: "),
        (zeros, "is not finished: "),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "status", "audit"])
def test_what_has_the_name_is_no_region(
    command: str, make: Callable[[Path], None], why: str
) -> None:
    """It is said at once, whatever it is."""
    path = Path(leaks.SHM, leaks.region_name())
    make(path)
    try:
        run = program(command, "--name", path.name)
    finally:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert (run.returncode, run.stdout) == (3, "")
    assert why in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_region_of_another_layout() -> None:
    with small_server() as small:
        set_word(small, "header", 0, "digest", 1)
        run = admin("inspect", "--name", small.name)
        assert (run.returncode, run.stdout) == (3, "")
        assert "use the tradechat-admin of the version that runs the server" in run.stderr
        assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: COMMAND"),
        (("nothing",), "invalid choice: 'nothing'"),
        (("inspect", "nothing"), "invalid choice: 'nothing'"),
        (("inspect", "users", "--record", "x"), "'x' is not N"),
        (("inspect", "users", "--record", "3:2"), "'3:2' is not N"),
        (("inspect", "users", "--record", "-1"), "--record"),
        (("inspect", "users", "--limit", "0"), "'0' is not a number from 1"),
        (("inspect", "--name", "a/b"), "'a/b' is not a valid name"),
        (("inspect", "--name", ""), "'' is not a valid name"),
        (("inspect", "--port", "65536"), "'65536' is not a number from 1 to 65535"),
        (("inspect", "--port", "1", "--name", "a"), "not allowed with"),
        (("ledger", "deposit", "bob", "12.50"), "in minor units: 1250 is 12.50"),
        (("ledger", "withdraw", "bob", "0"), "in minor units: 1250 is 12.50"),
    ],
)
def test_wrong_usage(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("users", "--record", "9"), "users has the records 0 to 8"),
        (("users", "--record", "0:9"), "users has the records 0 to 8"),
        (("--record", "0"), "need a SEGMENT"),
        (("--all",), "need a SEGMENT"),
        (("--limit", "5"), "need a SEGMENT"),
    ],
)
def test_wrong_usage_for_a_region(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_server() as small:
        assert main(["inspect", *arguments, "--name", small.name]) == 2
        assert message in capsys.readouterr().err


def test_version_and_help() -> None:
    run = program("--version")
    assert (run.returncode, run.stdout) == (0, f"tradechat-admin {__version__} (compiled)\n")
    assert "inspect" in program("--help").stdout
    run = program("inspect", "--help")
    assert run.returncode == 0
    for name in NAMES:
        assert name in run.stdout
    assert "examples:\n  tradechat-admin inspect " in run.stdout


def test_the_default_port_is_the_servers() -> None:
    (port,) = (row.default for row in SETTINGS if row.name == "port")
    assert f"(default: {port})" in program("inspect", "--help").stdout


def test_a_reader_that_has_seen_enough() -> None:
    """As with `| head -1`: no message, and the exit code of a program that SIGPIPE ends."""
    with small_server() as small, subprocess.Popen(
        [*COMMAND, "inspect", "clients", "--all", "--json", "--name", small.name],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(TIMEOUT_S) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        (">/dev/full", 3, f"{CANNOT_WRITE}: No space left on device\n"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
@pytest.mark.parametrize(
    "command",
    ["--help", "inspect --help", "--version", "inspect", "inspect users --json", "audit"],
)
def test_an_output_that_cannot_be_written(
    traded: tuple[RunningServer, Lobby, Wire, Wire],
    command: str,
    redirect: str,
    code: int,
    said: str,
) -> None:
    named = "" if command.startswith("-") or command.endswith("help") else traded[0].name
    name = f"--name {named}" if named else ""
    run = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m server.admin.cli {command} {name} {redirect}',
         sys.executable],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (code, said)


_WRITE_TO_OUTPUT = "1 0x1 "  # proc(5): number of the system call on x86-64, its first argument


def test_an_interrupt_ends_it_quietly() -> None:
    """It finds the program at work, waiting for a reader who does not come."""
    with (
        small_region(txn_ring=1024) as region,
        subprocess.Popen(
            [*COMMAND, "inspect", "txn_ring", "--all", "--json", "--name", region.name],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=4096,
        ) as process,
    ):  # fmt: skip
        output, errors = process.stdout, process.stderr
        assert output is not None
        assert errors is not None

        def waits_for_its_reader() -> bool:
            """It is in a write(2) to standard output, which goes on for want of room in the pipe:
            a signal before it had begun would not end it."""
            return Path(f"/proc/{process.pid}/syscall").read_text().startswith(_WRITE_TO_OUTPUT)

        wait_until(waits_for_its_reader, "the pipe is full", TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(TIMEOUT_S) == 130
        finally:
            process.kill()
        assert errors.read() == b""


def test_a_terminal_without_the_letters() -> None:
    with small_server() as small:
        run = subprocess.run(
            [*COMMAND, "inspect", "header", "--name", small.name],
            cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True,
            timeout=TIMEOUT_S, check=True,
        )  # fmt: skip
        assert rb"\xabhidden\xbb" in run.stdout


# ---- audit


def test_an_audit_of_a_live_server(server: RunningServer) -> None:
    done = program("audit", "--name", server.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("all holds\n")
    done = admin("audit", "--name", server.name, "--json")
    assert json.loads(done.stdout)["problems"] == []


def test_an_audit_that_finds_damage_fails() -> None:
    with small_region() as region:
        register(state_of(region), "ann")
        region.words[region.layout["accounts"].at(1, "balance")] = 5
        done = admin("audit", "--name", region.name)
        assert done.returncode == 1
        assert "PROBLEM  at transaction 1 the balances add up to 5, by the log to 0" in done.stdout


def test_an_audit_of_nothing() -> None:
    assert admin("audit", "--name", "no-such-server").returncode == 3

"""The programs of examples/: they are typed, and do what they say with a real server."""

import csv
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from client import ChatBroadcast, Client
from tests.client.peer import PASSWORD
from tests.client.relay import Relay
from tests.helpers.server import RunningServer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DEADLINE_S = 60
pytestmark = pytest.mark.checkout


def environment(name: str, port: int) -> dict[str, str]:
    ours = {k: v for k, v in os.environ.items() if not k.startswith("TRADECHAT_")}
    return {**ours, "TRADECHAT_URL": f"tradechat://{name}:{quote(PASSWORD)}@127.0.0.1:{port}"}


def command(example: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"examples.{example}", *arguments]


def test_the_examples_are_typed(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path)),
            *map(str, sorted(EXAMPLES.glob("*.py"))),
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


# --- the echo bot


@contextmanager
def bot(port: int, room_id: int) -> Iterator[subprocess.Popen[str]]:
    """The bot, as the user carol, once it listens. It ends in order."""
    with subprocess.Popen(
        command("echo_bot", str(room_id)),
        cwd=ROOT,
        env=environment("carol", port),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            said = process.stdout.readline()
            assert said == f"listening in room {room_id}\n", process.stderr.read()
            yield process
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=DEADLINE_S)
            assert (process.returncode, out) == (0, "stopped\n"), error
        finally:
            process.kill()


def heard(events: Iterator[object], count: int) -> list[str]:
    """The next messages of the bot."""
    found: list[str] = []
    for event in events:
        if isinstance(event, ChatBroadcast) and event.kind == 0 and event.from_name == "carol":
            found.append(event.message)
            if len(found) == count:
                break
    return found


def test_the_echo_bot(shared: RunningServer) -> None:
    with (
        Client(environment("alice", shared.port)["TRADECHAT_URL"]) as alice,
        alice.events(timeout_s=DEADLINE_S) as events,
    ):
        alice.join(31)
        alice.send(31, "!echo before it came")
        with bot(shared.port, 31) as process:
            for text in ("!echo hello", "hello", "!echo ", "!echo !echo twice", "!echo end"):
                alice.send(31, text)
            assert heard(events, 3) == ["hello", "!echo twice", "end"]
        assert process.returncode == 0


def test_the_echo_bot_answers_once_over_a_lost_connection(shared: RunningServer) -> None:
    """It misses what is said while it is away, reads it from the history, and answers."""
    with (
        Client(environment("alice", shared.port)["TRADECHAT_URL"]) as alice,
        alice.events(timeout_s=DEADLINE_S) as events,
        Relay(shared.port) as relay,
    ):
        alice.join(32)
        port = relay.port
        with bot(port, 32):
            alice.send(32, "!echo 1")
            assert heard(events, 1) == ["1"]
            relay.close()
            for number in range(2, 6):
                alice.send(32, f"!echo {number}")
            with Relay(shared.port, port=port):
                alice.send(32, "!echo 6")
                assert heard(events, 5) == ["2", "3", "4", "5", "6"]
                relays = alice.history(32).events
                said = [e.message for e in relays if e.kind == 0 and e.from_name == "carol"]
                assert said == ["1", "2", "3", "4", "5", "6"]
                # Else it would end while the way to the server is closed already.
                alice.send(32, "!echo last")
                assert heard(events, 1) == ["last"]


# --- the statement


def statement(port: int, name: str) -> list[list[str]]:
    done = subprocess.run(
        command("statement"),
        cwd=ROOT,
        env=environment(name, port),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return list(csv.reader(io.StringIO(done.stdout)))


def test_the_statement(server: RunningServer) -> None:
    with Client(port=server.port) as made:
        for name in ("alice", "bob"):
            made.register(name, PASSWORD)
        assert statement(server.port, "alice") == [
            ["time", "transaction", "kind", "with", "amount", "balance"]
        ]
        made.login("alice", PASSWORD)
        bob = made.lookup("bob").user_id
        made.deposit(100_000)
        for cents in range(1, 301):  # more than one answer holds
            made.transfer(bob, cents)
        made.withdraw(50)
        made.logout()
        made.login("bob", PASSWORD)
        made.transfer(made.lookup("alice").user_id, 45_000)
    _, first, *paid, withdrawn, received = statement(server.port, "alice")
    assert first[2:] == ["deposit", "", "1000.00", "1000.00"]
    assert [row[2:5] for row in paid] == [
        ["transfer", "bob", f"-{cents // 100}.{cents % 100:02}"] for cents in range(1, 301)
    ]
    assert withdrawn[2:5] == ["withdraw", "", "-0.50"]
    assert received[2:] == ["transfer", "bob", "450.00", received[5]]
    numbers = [int(row[1]) for row in (first, *paid, withdrawn, received)]
    assert numbers == sorted(set(numbers))
    assert all(row[0].endswith("+00:00") for row in (first, *paid))

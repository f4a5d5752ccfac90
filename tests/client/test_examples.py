"""The programs of examples/: they are typed, and do what they say with a real server."""

import csv
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from client import ChatBroadcast, Client
from tests.client.peer import PASSWORD
from tests.client.relay import Relay
from tests.helpers.server import RunningServer, wait_until

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


# --- the market maker


@contextmanager
def maker(port: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The market maker, as the user carol, once it trades. It ends in order."""
    with subprocess.Popen(
        command("market_maker", *arguments),
        cwd=ROOT,
        env=environment("carol", port),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=DEADLINE_S)
            assert (process.returncode, out, error) == (0, "stopped\n", "")
        finally:
            process.kill()


def test_the_market_maker(shared: RunningServer) -> None:
    """It buys low and sells high, over a lost connection too, and each thing once."""
    with ExitStack() as stack:
        alice, bob, carol = (
            stack.enter_context(Client(environment(name, shared.port)["TRADECHAT_URL"]))
            for name in ("alice", "bob", "carol")
        )
        room = alice.open_room("lamps").room_id
        for each in (alice, bob):
            each.join(room)
            each.deposit(1000)
        carol.deposit(100)
        dear, note = alice.board_add(room, 50, "lamp"), alice.board_add(room, 0, "lamp")
        cheap = alice.board_add(room, 30, "lamp").entry_id
        alice.board_add(room, 5, "lampshade")
        relay = stack.enter_context(Relay(shared.port))
        process = stack.enter_context(maker(relay.port, "lamps", "lamp", "0.30", "0.40", "0"))
        assert process.stdout is not None

        def said() -> str:
            return process.stdout.readline().rstrip("\n") if process.stdout else ""

        def own() -> list[tuple[int, int]]:
            entries = bob.board(room)
            return [(e.entry_id, e.price) for e in entries if e.user_id == carol.user_id]

        assert said() == f"bought #{cheap} for 0.30, stock 1"
        assert said() == f"trading in room {room}"
        [(first, price)] = own()
        assert price == 40
        second = alice.board_add(room, 20, "lamp").entry_id
        assert said() == f"bought #{second} for 0.20, stock 2"
        wait_until(lambda: len(own()) == 2, "it offers both")
        bob.board_take(room, first, 40)
        assert said() == f"sold #{first} for 0.40, stock 1"
        port = relay.port
        relay.close()
        wait_until(
            lambda: carol.user_id not in [m.user_id for m in bob.iter_members(room)], "it is away"
        )
        [(last, _)] = own()
        bob.board_take(room, last, 40)
        third = alice.board_add(room, 25, "lamp").entry_id
        stack.enter_context(Relay(shared.port, port=port))
        assert said() == f"sold #{last} for 0.40, stock 0"
        assert said() == f"bought #{third} for 0.25, stock 1"
        wait_until(lambda: len(own()) == 1, "it offers what it has")
        kept = [e.entry_id for e in bob.board(room, contains="lamp") if e.user_id == alice.user_id]
        assert kept[:2] == [dear.entry_id, note.entry_id]
        assert len(kept) == 3
        assert carol.balance().balance == 100 - 30 - 20 - 25 + 40 + 40


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

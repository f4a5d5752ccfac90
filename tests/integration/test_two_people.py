"""Two people at two terminals, on two workers, chat and pay each other."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from server.region.region import Region
from tests.client.programs import PASSWORD, Terminal
from tests.helpers.server import RunningServer, StartServer

PLACING_S = 60.0


def _worker_of(server: RunningServer, username: str) -> int:
    """The slot of the worker that holds this user's one session."""
    with closing(Region.attach(server.name)) as region:
        words, users = region.words, region.layout["users"]
        sessions = region.layout["sessions"]
        name = username.encode().ljust(32, b"\0")
        [user] = [
            user
            for user in range(1, users.records)
            if region.bytes[users.at(user, "name") * 8 :][:32] == name
        ]
        [slot] = [
            slot
            for slot in range(sessions.records)
            if words[sessions.at(slot, "id")] and words[sessions.at(slot, "user")] == user
        ]
        return words[sessions.at(slot, "worker")]


def _enter(server: RunningServer, username: str) -> Terminal:
    """Somebody who is registered logs in, with the password typed."""
    terminal = Terminal(server.port, "--plain", "--user", username, TRADECHAT_PASSWORD=None)
    terminal.expect(f"Password for {username}: ")
    terminal.say(PASSWORD)
    terminal.expect(f"logged in as {username}")
    terminal.expect(">")
    return terminal


def _quit(*terminals: Terminal) -> None:
    for terminal in terminals:
        terminal.say("/quit")
        assert terminal.end() == 0


def _register(server: RunningServer, username: str) -> None:
    with Terminal(
        server.port, "--plain", "--user", username, "--register", TRADECHAT_PASSWORD=None
    ) as terminal:
        terminal.expect(f"Password for {username}: ")
        terminal.say(PASSWORD)
        assert PASSWORD not in terminal.expect("The same again: ")
        terminal.say(PASSWORD)
        assert PASSWORD not in terminal.expect(f"logged in as {username}")
        terminal.expect(">")
        _quit(terminal)


@pytest.fixture
def two_workers_apart(start_server: StartServer) -> Iterator[tuple[Terminal, Terminal]]:
    """alice and bob, registered and logged in through different workers: who accepts a connection
    is for the kernel to say, so bob comes again until it is another one than alice's.
    """
    server = start_server("--rooms", "16", workers=4)
    _register(server, "alice")
    _register(server, "bob")
    with ExitStack() as stack:
        alice = stack.enter_context(_enter(server, "alice"))
        at = _worker_of(server, "alice")
        deadline = time.monotonic() + PLACING_S
        while True:
            bob = stack.enter_context(_enter(server, "bob"))
            if _worker_of(server, "bob") != at:
                break
            assert time.monotonic() < deadline, "bob comes to alice's worker again and again"
            _quit(bob)
        yield alice, bob


def test_two_people(two_workers_apart: tuple[Terminal, Terminal]) -> None:
    alice, bob = two_workers_apart

    alice.say("/join 7")
    alice.expect("joined room 7, 1 member")
    alice.expect("[room 7] alice joined")
    bob.say("/join 7")
    bob.expect("joined room 7, 2 members")
    bob.expect("[room 7] bob joined")
    alice.expect("[room 7] bob joined")

    alice.say("hello bob")
    alice.expect("[room 7] alice: hello bob")
    bob.expect("[room 7] alice: hello bob")
    bob.say("hi alice, want to buy my bike?")
    bob.expect("[room 7] bob: hi alice, want to buy my bike?")
    alice.expect("[room 7] bob: hi alice, want to buy my bike?")

    alice.say("/deposit 42.50")
    alice.expect("deposited 42.50, balance 42.50")
    alice.say("/pay bob 12.50")
    alice.expect("paid bob 12.50, balance 30.00")
    bob.expect("alice paid you 12.50, balance 12.50")
    bob.say("/pay alice 20")
    bob.expect("the balance is too low")
    bob.say("/pay alice 2.05")
    bob.expect("paid alice 2.05, balance 10.45")
    alice.expect("bob paid you 2.05, balance 32.05")

    bob.say("/msg alice it is at the door")
    bob.expect("[you -> alice] it is at the door")
    alice.expect("[bob -> you] it is at the door")

    alice.say("/balance")
    alice.expect("balance 32.05")
    alice.say("/txns")
    alice.expect(" bob paid you 2.05, balance 32.05")
    alice.expect(" paid bob 12.50, balance 30.00")
    alice.expect(" deposited 42.50, balance 42.50")

    bob.say("/leave")
    bob.expect("left room 7")
    alice.expect("[room 7] bob left")
    alice.say("/who")
    alice.expect("alice")
    _quit(alice, bob)


def test_typing_goes_on_while_somebody_speaks(
    two_workers_apart: tuple[Terminal, Terminal],
) -> None:
    alice, bob = two_workers_apart
    for terminal in (alice, bob):
        terminal.say("/join 7")
        terminal.expect("joined room 7")
        terminal.expect("[room 7] >")
    alice.expect("[room 7] bob joined")
    alice.press("one line ")
    alice.expect("one line")
    bob.say("interrupting")
    alice.expect("[room 7] bob: interrupting\r\n")
    alice.expect("[room 7] >")  # drawn again below it
    alice.expect("one line")
    alice.say("as it was meant")
    bob.expect("[room 7] alice: one line as it was meant")
    alice.expect("[room 7] alice: one line as it was meant")
    _quit(alice, bob)

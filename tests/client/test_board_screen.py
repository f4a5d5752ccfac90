"""A board on the screen over a connection that is lost: what happened meanwhile is there, and an
offer is taken as before."""

import os
import signal

from client import Client
from tests.client.conftest import register
from tests.client.programs import PASSWORD
from tests.client.screens import OnScreen
from tests.helpers.server import StartServer

ROOM = 7


def test_a_board_over_a_lost_connection(start_server: StartServer) -> None:
    server = start_server(workers=1)
    register(server, "alice", "bob")
    with Client(port=server.port, reconnect=True) as bob:
        bob.login("alice", PASSWORD)
        alice_id = bob.user_id
        bob.deposit(10_000)
        bob.logout()
        bob.login("bob", PASSWORD)
        bob.deposit(1_000)
        bob.join(ROOM)
        lamp, chair = (bob.board_add(ROOM, 250, text).entry_id for text in ("a lamp", "a chair"))
        with OnScreen(server.port, "--user", "alice", "--room", str(ROOM)) as alice:
            alice.expect("alice joined")
            alice.say("/board")
            alice.expect_row(rf"\u2502> #{lamp} +2\.50 bob")
            alice.press("\x1b[B")
            alice.expect_row(rf"\u2502> #{chair} +2\.50 bob")
            alice.signal(signal.SIGSTOP)
            for pid in server.worker_pids():
                os.kill(pid, signal.SIGKILL)
            bob.board_remove(ROOM, lamp)
            table = bob.board_add(ROOM, 700, "a table").entry_id
            bob.transfer(alice_id, 500)
            alice.signal(signal.SIGCONT)
            alice.expect_row(rf"  #{table} +7\.00 bob")
            alice.expect_gone(f"#{lamp} ")
            alice.expect_row(rf"\u2502> #{chair} +2\.50 bob")
            alice.press("t")
            alice.expect(f"pay bob 2.50 and take #{chair}?")
            alice.expect_row(r"^\[y/n\]$")
            alice.press("y")
            alice.expect(f"took #{chair} for 2.50, balance 102.50")
            alice.expect_row(rf"\u2502> #{table} +7\.00 bob")
            alice.press("\x1b")
            alice.expect_row(r"^\[room 7\]$")
            alice.press("\x1b1")
            alice.expect("bob paid you 5.00, balance 105.00")
            alice.press("\x04")
            assert alice.end() == 0
        assert [entry.entry_id for entry in bob.iter_board(ROOM)] == [table]

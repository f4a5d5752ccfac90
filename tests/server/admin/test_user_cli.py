"""`tradechat-admin user` and `ledger`, against a running server."""

import io
import json
import os
from contextlib import closing, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from client import Client, Unauthorized
from libproto.errors import Status
from libproto.messages import Opcode, TxnKind
from server import control
from server.admin.cli import main
from server.admin.command import EXIT_NOT_AGREED, EXIT_NOT_DONE
from server.control import Ask
from tests.helpers.server import RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby, Wire

WORDS = "correct horse"


class Run(NamedTuple):
    code: int
    out: str
    err: str


def admin(server: RunningServer, *arguments: str) -> Run:
    command, rest = arguments[:2], arguments[2:]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main([*command, *rest, "--data", str(server.data)])
    return Run(code, out.getvalue(), err.getvalue())


def done(server: RunningServer, *arguments: str) -> dict[str, object]:
    run = admin(server, *arguments, "--json")
    assert run.code == 0, run.err
    found: dict[str, object] = json.loads(run.out)
    return found


def refused(server: RunningServer, *arguments: str) -> str:
    run = admin(server, *arguments)
    assert (run.code, run.out) == (EXIT_NOT_DONE, ""), run
    return run.err.splitlines()[-1]


def registered(lobby: Lobby, name: str) -> Wire:
    """A new user of that name, logged in."""
    wire = lobby.open()
    wire.hello(name)
    wire.register(name)
    return lobby.enter(name)


def is_out(wire: Wire) -> bool:
    return wire.status(Opcode.BALANCE) == Status.ERR_UNAUTHORIZED


@pytest.fixture
def password(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text(f"{WORDS}\nnot this\n")
    return str(file)


def test_a_user_is_added_and_changed(start_server: StartServer, password: str) -> None:
    """Where registration is closed; and what is not asked for rightly is refused in a sentence."""
    server = start_server("--registration", "closed", "--deposits", "tellers")
    added = done(server, "user", "add", "till", "--role", "teller", "--password-file", password)
    assert added == {"user_id": 1}
    assert "is taken" in refused(server, "user", "add", "till", "--password-file", password)
    missing = refused(server, "user", "add", "eve", "--password-file", f"{password}.none")
    assert ".none cannot be read: No such file or directory" in missing
    assert "looks like" in refused(server, "user", "add", "TlLL", "--password-file", password)
    assert "reserved" in refused(server, "user", "add", "admin", "--password-file", password)
    done(server, "user", "add", "bob", "--password-file", password)
    with Client("127.0.0.1", server.port) as till, Client("127.0.0.1", server.port) as bob:
        till.login("till", WORDS)
        bob.login("bob", WORDS)
        assert till.deposit(100).balance == 100
        with pytest.raises(Unauthorized, match="only the operator"):
            bob.deposit(1)
        done(server, "user", "role", "bob", "teller")
        assert bob.deposit(1).balance == 1
        assert done(server, "user", "role", "bob", "teller")["changed"] is False
    listed = admin(server, "user", "list").out.splitlines()
    assert [line.split()[:5] for line in listed[1:]] == [
        ["1", "till", "teller", "active", "100"], ["2", "bob", "teller", "active", "1"],
    ]  # fmt: skip
    shown = done(server, "user", "show", "bob")
    assert (shown["role"], shown["balance"], shown["sessions"]) == ("teller", 1, 0)
    for arguments in (
        ("user", "show", "nobody"), ("user", "disable", "nobody"), ("user", "kick", "a b"),
        ("ledger", "deposit", "nobody", "5"),
    ):  # fmt: skip
        assert "no such user" in refused(server, *arguments)
    assert "only" not in server.log_text()


def test_who_is_disabled_is_out_at_once(start_server: StartServer, password: str) -> None:
    server = start_server()
    with Lobby(server) as lobby:
        ann, bob = registered(lobby, "ann"), registered(lobby, "bob")
        again = lobby.enter("ann")
        done(server, "user", "disable", "ann")
        for wire in (ann, again):
            wait_until(partial(is_out, wire), "its session has ended")
        assert bob.status(Opcode.BALANCE) == Status.OK
        wire = lobby.open()
        wire.hello("ann")
        answer = wire.login("ann")
        assert (answer.status, "operator" in answer.body.detail) == (Status.ERR_UNAUTHORIZED, True)
        bob.ok(Opcode.DEPOSIT, 10)
        assert bob.status(Opcode.TRANSFER, 1, 3) == Status.OK, "who is disabled may be paid"
        done(server, "user", "enable", "ann")
        assert lobby.enter("ann").ok(Opcode.BALANCE).balance == 3
        kicked = lobby.enter("ann")
        assert done(server, "user", "kick", "ann") == {"sessions": 2}
        wait_until(partial(is_out, kicked), "its session has ended")
        before = lobby.enter("ann")
        done(server, "user", "passwd", "ann", "--password-file", password)
        wait_until(partial(is_out, before), "its session has ended")
    with Client("127.0.0.1", server.port) as client:
        with pytest.raises(Unauthorized):
            client.login("ann", "sesame")
        client.login("ann", WORDS)


def test_money_moves_once_and_is_told_as_recorded(start_server: StartServer) -> None:
    """After a restart too; a user who is paid out and deleted is gone for good."""
    server = start_server()
    with Lobby(server) as lobby:
        ann, bob = registered(lobby, "ann"), registered(lobby, "bob")
        came = done(server, "ledger", "deposit", "ann", "1250", "--note", "cash", "--key", "k1")
        assert (came["balance"], came["recorded"]) == (1250, False)
        again = done(server, "ledger", "deposit", "ann", "1250", "--note", "cash", "--key", "k1")
        assert again == came | {"recorded": True}
        other = refused(server, "ledger", "deposit", "ann", "1251", "--note", "cash", "--key", "k1")
        assert "this --key was used for another command: nothing was done" in other
        assert "below 1251" in refused(server, "ledger", "withdraw", "ann", "1251")
        run = admin(server, "ledger", "withdraw", "ann", "50")
        assert (run.code, "--key" in run.err) == (0, True)
        history = ann.ok(Opcode.TXN_HISTORY, 0, 9).transactions
        assert [(each.kind, each.amount, each.balance) for each in history] == [
            (TxnKind.WITHDRAW, 50, 1200), (TxnKind.DEPOSIT, 1250, 1250),
        ]  # fmt: skip
        assert "balance of 1200" in refused(server, "user", "delete", "ann", "--yes")
        assert admin(server, "user", "delete", "ann", "--pay-out").code == EXIT_NOT_AGREED
        gone = ("user", "delete", "ann", "--pay-out", "--note", "bye", "--key", "k2", "--yes")
        assert done(server, *gone)["balance"] == 0
        assert done(server, *gone)["recorded"] is True
        bob.ok(Opcode.DEPOSIT, 5)
        assert bob.status(Opcode.TRANSFER, ann.user, 5) == Status.ERR_NOT_FOUND
        assert bob.status(Opcode.USER_LOOKUP, "ann") == Status.ERR_NOT_FOUND
        wire = lobby.open()
        wire.hello("ann")
        assert wire.register("ann").status == Status.ERR_ALREADY_EXISTS
        server.crash()
    with RunningServer(server.data) as after:
        assert done(after, *gone)["recorded"] is True
        again = done(after, "ledger", "deposit", "bob", "1", "--key", "k1x")
        assert again["balance"] == 6
        assert "no such user" in refused(after, "ledger", "deposit", "ann", "1")
        assert done(after, "user", "show", "ann")["state"] == "deleted"
        assert after.stop() == 0


def test_what_is_no_act_is_refused(start_server: StartServer) -> None:
    server = start_server()
    for message in (
        b"",
        b"{",
        b"[]",
        b'{"act": "fly"}',
        b'{"act": "add", "user": 7}',
        b"\xff" * 99,
    ):
        where, fd = control.address(server.data)
        with closing(control.make()) as sock:
            sock.settimeout(30)
            sock.connect(where)
            os.close(fd)
            sock.send(control.encode(Ask(control.OPERATE)))
            if message:
                sock.send(message)
                assert json.loads(sock.recv(9999))["done"] is False
    assert admin(server, "user", "list").code == 0

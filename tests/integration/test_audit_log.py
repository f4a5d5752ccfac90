"""The audit log: a file of its own, with a line for what somebody did, and no secret in it."""

import json
import signal
import stat
from pathlib import Path
from typing import Any

from libproto.errors import Status
from libproto.messages import Opcode
from server.worker.audit import NAME
from tests.helpers.server import StartServer, wait_until
from tests.helpers.stored import asked
from tests.helpers.wire import PASSWORD, Lobby, registration

VERIFIER = dict(
    zip(("salt", "iterations", "stored_key", "server_key"), registration("", 4096)[1:], strict=True)
)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_who_does_what_from_where_and_what_becomes_of_it(start_server: StartServer) -> None:
    server = start_server("--deposits", "tellers", "--max-transfer", "20")
    path = server.data / NAME
    verifier = {k: v.hex() if isinstance(v, bytes) else v for k, v in VERIFIER.items()}
    with Lobby(server) as lobby:
        asked("add", server, user="till", role="teller", **verifier)
        wire = lobby.open()
        wire.hello("bob")
        wire.register("bob")
        till, bob = lobby.enter("till"), lobby.enter("bob")
        wrong = lobby.open()
        wrong.hello("bob")
        wrong.login("bob", password="a guess")  # noqa: S106
        till.ok(Opcode.DEPOSIT, 100)
        assert bob.status(Opcode.DEPOSIT, 1) == Status.ERR_UNAUTHORIZED
        assert till.status(Opcode.TRANSFER, bob.user, 21) == Status.ERR_LIMIT
        bob.ok(Opcode.PASSWORD, *registration("bob", 4096, "another one")[1:])
        asked("deposit", server, user="bob", amount=5, note="for tea", key="k")
        asked("disable", server, user="bob")
        found = lines(path)
    shown = [(each["event"], each["user"], each["result"]) for each in found]
    assert shown == [
        ("operator_add", "till", "done"),
        ("register", "bob", "done"),
        ("login", "till", "done"),
        ("login", "bob", "done"),
        ("login", "bob", "wrong"),
        ("teller_deposit", "till", "done"),
        ("over_limit", "till", "a payment is 1 to 20, not 21"),
        ("password", "bob", "done"),
        ("operator_deposit", "bob", "done"),
        ("operator_disable", "bob", "done"),
    ]
    assert all(each["peer"] == "127.0.0.1" for each in found if "operator" not in each["event"])
    assert found[8]["note"] == "for tea"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    secrets = (PASSWORD, "a guess", "another one", *map(str, verifier.values()))
    assert not [each for each in secrets if each in text and each != "4096"]


def test_it_is_opened_anew_after_it_was_renamed(start_server: StartServer) -> None:
    server = start_server()
    path = server.data / NAME
    with Lobby(server) as lobby:
        lobby.enter()
        path.rename(path.with_suffix(".1"))
        server.signal(signal.SIGUSR1)
        wait_until(path.exists, "it is there again")
        wait_until(lambda: lobby.enter() is not None and len(lines(path)) > 0, "lines in it")

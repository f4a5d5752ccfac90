"""Whose money the stress client moves: its users of an earlier run, as long as nobody else is."""

import itertools
import time
from contextlib import closing

import pytest

from bench.lab import caller as caller_module
from bench.lab.caller import Caller, CallFailed
from bench.stress.ledger import NOTHING, Holding
from bench.stress.users import name_of, take
from libproto.messages import Opcode
from tests.bench.test_stress import bench, good, on
from tests.helpers.server import RunningServer, StartServer

NAMES = [f"{name_of(1)}{number}" for number in range(3)]


def test_users_are_used_again_by_seed(start_server: StartServer) -> None:
    """By the next program, which finds what they have; a server that is too small for those of
    another seed is told as such."""
    server = start_server("--accounts=30")
    for _ in range(2):
        good(bench("--json", *on(server)))
    run = bench("--json", "--seed=2", *on(server))
    assert run.returncode == 3
    assert "REGISTER was refused, ERR_SERVER_BUSY" in run.stderr
    assert "its operator can raise accounts" in run.stderr


def test_what_they_have(server: RunningServer) -> None:
    first = take(server.host, server.port, NAMES[:2])
    assert list(first.values()) == [NOTHING, NOTHING]
    with closing(Caller(server.host, server.port)) as caller:
        caller.login(NAMES[1], 0)
        txn_id, balance = caller.call(Opcode.DEPOSIT, 70)
        caller.call(Opcode.LOGOUT)
    again = take(server.host, server.port, NAMES)
    assert list(again)[:2] == list(first)
    assert list(again.values()) == [NOTHING, Holding(balance, txn_id), NOTHING]


def test_registering_takes_longer_than_a_connection_may_wait_for_a_login(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server("--handshake-timeout=1", "--accounts=8192")
    monkeypatch.setattr(caller_module, "_ANEW_S", 0.1)
    names = (f"{name_of(1)}{number}" for number in itertools.count())
    with closing(Caller(server.host, server.port)) as caller:
        begun = time.monotonic()
        while time.monotonic() < begun + 2:
            caller.register([next(names)])


@pytest.mark.parametrize("name", NAMES[:2])
def test_another_run_has_them(server: RunningServer, name: str) -> None:
    take(server.host, server.port, NAMES)
    with closing(Caller(server.host, server.port)) as caller:
        caller.login(name, 0)
        with pytest.raises(CallFailed, match=f"the user {name} of this --seed is logged in"):
            take(server.host, server.port, NAMES)


def test_no_seed_is_too_long_for_a_name() -> None:
    assert len({name_of(seed) for seed in (1, -1, 10**100)}) == 3
    assert len(name_of(10**100)) == len(name_of(1))

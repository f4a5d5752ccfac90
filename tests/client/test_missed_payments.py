"""Payments while the payee's connection comes and goes, on a real server: each is given once,
whatever became of the connection that it would have been pushed on."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from client import Client, Payment
from tests.client.conftest import Make, register
from tests.client.peer import PASSWORD
from tests.client.test_blocking import in_thread
from tests.helpers.server import RunningServer, wait_until

PAID = 300
DEADLINE_S = 60.0


class Chain:
    """A server, and those that take its place."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory, self._stack = directory, stack
        self.running = stack.enter_context(RunningServer(directory / "data"))

    def kill_a_worker(self) -> None:
        before = self.running.worker_pids()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: self._are_new(before[:1]), "another worker")

    def kill_all_workers(self) -> None:
        before = self.running.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self._are_new(before), "other workers")

    def replace_workers(self) -> None:
        before = self.running.worker_pids()
        self.running.signal(signal.SIGHUP)
        wait_until(lambda: self._are_new(before), "the replacement of all workers")

    def _are_new(self, before: list[int]) -> bool:
        there = self.running.worker_pids()
        return len(there) == 2 and not {*before} & {*there}

    def take_over(self) -> None:
        former = self.running
        self.running = self._stack.enter_context(
            RunningServer(former.data, "--name", former.name, "--take-over")
        )
        assert former.wait() == 0


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with ExitStack() as stack:
        made = Chain(tmp_path, stack)
        yield made
        assert made.running.stop() == 0, made.running.log_text()


def pay(payer: Any, payee: int, count: int, paid: list[int]) -> None:
    paid.extend(payer.transfer(payee, 1).txn_id for _ in range(count))


def given(client: Any, count: int) -> list[Payment]:
    found = []
    for push in client.pushes(DEADLINE_S):
        assert isinstance(push, Payment)
        found.append(push)
        if len(found) == count:
            break
    found += [push for push in client.pushes(0.0) if isinstance(push, Payment)]
    return found


@pytest.mark.parametrize("trouble", ["kill_a_worker", "replace_workers", "take_over"])
def test_each_payment_is_given_once(chain: Chain, make_lasting: Make, trouble: str) -> None:
    port = chain.running.port
    register(chain.running, "ann", "bob")
    with Client(port=port, reconnect=True) as ann, make_lasting(port=port, payments=True) as bob:
        ann.login("ann", PASSWORD)
        ann.deposit(PAID)
        bob.login("bob", PASSWORD)
        paid: list[int] = []
        pay(ann, bob.user_id, 10, paid)
        assert [push.txn_id for push in given(bob, 10)] == paid
        for _ in range(3):
            paying = in_thread(lambda: pay(ann, bob.user_id, 80, paid))
            getattr(chain, trouble)()
            paying.result(DEADLINE_S)
        # A payment whose worker died before it told the payee, who stayed connected, comes after
        # the payee's next login: behind newer ones.
        chain.kill_all_workers()
        found = sorted(given(bob, len(paid) - 10))
    assert [push.txn_id for push in found] == paid[10:]
    assert {(push.from_name, push.from_user, push.amount) for push in found} == {
        ("ann", ann.user_id, 1)
    }
    assert [push.balance for push in found] == [*range(11, len(paid) + 1)]


def test_what_came_while_the_program_did_not_run(chain: Chain, make: Make) -> None:
    port = chain.running.port
    register(chain.running, "ann", "bob")
    paid: list[int] = []
    with Client(port=port) as ann:
        ann.login("ann", PASSWORD)
        ann.deposit(PAID)
        with make(port=port, payments=True) as bob:
            bob.login("bob", PASSWORD)
            pay(ann, bob.user_id, 3, paid)
            found = given(bob, 3)
        pay(ann, bob.user_id, 5, paid)
        with make(port=port, payments=True, payments_after=found[-1].txn_id) as bob:
            bob.login("bob", PASSWORD)
            found += given(bob, 5)
            pay(ann, bob.user_id, 2, paid)
            found += given(bob, 2)
    assert [push.txn_id for push in found] == paid

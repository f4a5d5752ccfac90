"""The short form of `make crash-images`: one deposit; and that what is wrong is found."""

from dataclasses import replace
from struct import pack_into

import pytest

from server.region.layout import OUTCOME_WORDS, WORD
from tests.crash_images.operations import ANN, BY_NAME, Operation, World
from tests.crash_images.verdict import Report, examine

DEPOSIT, SEND = BY_NAME["deposit"], BY_NAME["send-without-client"]


def _account(world: World, field: str) -> int:
    return world.region.layout["accounts"].at(ANN, field)


def _deposit_and_store(world: World, field: str, value: int) -> None:
    DEPOSIT.run(world)
    world.region.words[_account(world, field)] = value


def _pack_first(world: World) -> None:
    """A balance is stored again, as it is, but not by a store of a word."""
    at = _account(world, "balance")
    pack_into("=Q", world.region.bytes, at * WORD, world.region.words[at])
    DEPOSIT.run(world)


def _send_twice(world: World) -> None:
    SEND.run(world)
    SEND.run(world)


def test_a_deposit() -> None:
    report = examine(DEPOSIT)
    assert report.problems == []
    assert report.good
    assert report.repaired == report.images >= 15
    assert len(report.states) == 2
    assert sum(report.states) == report.images


def _problems(report: Report) -> str:
    assert not report.good
    return "\n".join(report.problems)


def test_a_torn_store_is_found() -> None:
    assert "torn store: accounts[1].balance held" in _problems(
        examine(replace(DEPOSIT, run=_pack_first))
    )


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [("balance", 7, "balances add up to"), ("last_txn", 999, "ends in transaction 999")],
)
def test_a_state_that_is_not_right_is_found(field: str, value: int, problem: str) -> None:
    def run(world: World) -> None:
        _deposit_and_store(world, field, value)

    report = examine(replace(DEPOSIT, run=run))
    assert problem in _problems(report)
    assert report.repaired < report.images


def test_a_lock_that_stays_taken_is_repaired() -> None:
    """As what it is when the worker dies: an image like the others."""

    def run(world: World) -> None:
        DEPOSIT.run(world)
        assert world.doomed.locks.account(ANN).acquire()

    assert examine(replace(DEPOSIT, run=run)).problems == []


def test_more_than_one_change_is_found() -> None:
    assert "one of 3 things, and should of 2" in _problems(examine(replace(SEND, run=_send_twice)))


@pytest.mark.parametrize(
    "other",
    [
        replace(BY_NAME["withdraw"], transactions=2),
        replace(SEND, events=2),
        replace(SEND, gains={ANN: 1}),
    ],
    ids=["transactions", "events", "balances"],
)
def test_another_effect_is_found(other: Operation) -> None:
    assert "it ends with" in _problems(examine(other))


def test_an_outcome_that_is_not_recorded_is_found() -> None:
    """The request is repeated, and executed once more."""

    def run(world: World) -> None:
        DEPOSIT.run(world)
        words, clients, client = (
            world.region.words,
            world.region.layout["clients"],
            world.ann.client,
        )
        at = client + clients.offsets["outcomes"] + OUTCOME_WORDS * world.req_ids[ANN]
        for place in range(OUTCOME_WORDS):
            words[at + place] = 0
        words[client + clients.offsets["newest"]] -= 1

    assert "the repeated request is answered" in _problems(examine(replace(DEPOSIT, run=run)))

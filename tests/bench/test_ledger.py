"""The verdict on a ledger that was told by answers: that it finds what is planted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.stress.ledger import (
    NOTHING,
    TELL,
    Accounts,
    Findings,
    Holding,
    Replay,
    Told,
    answers_of,
    views_of,
)
from bench.stress.notes import ANSWER
from bench.stress.record import (
    READ,
    VIEW,
    Answer,
    Refusal,
    Unknown,
    View,
    sorted_records,
)
from libproto.messages import TxnKind

ALICE, BOB, CAROL = 11, 12, 13
DEPOSIT, WITHDRAW, TRANSFER = TxnKind


@dataclass
class Run:
    """What was told of a run, to be tampered with."""

    answers: list[Answer] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    finals: dict[int, Holding] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    oldest: int = 0

    def replay(self) -> tuple[Findings, Replay]:
        findings = Findings()
        told = Told(
            sorted(self.answers),
            sorted(self.views),
            self.finals,
            self.refusals,
            self.unknown,
            self.oldest,
        )
        replay = Replay(Accounts.of(dict.fromkeys((ALICE, BOB, CAROL), NOTHING)), told, findings)
        replay.run()
        return findings, replay

    def change(self, txn: int, **values: Any) -> None:
        self.answers = [
            a._replace(**values) if a.txn_id == txn and a.kind != READ else a for a in self.answers
        ]


def good() -> Run:
    """Two deposits, a transfer, a withdrawal, two reads, two refusals, one outcome unknown."""
    return Run(
        [
            Answer(5, DEPOSIT, ALICE, 0, 1000, 1000, 1.0, 1.1),
            Answer(6, DEPOSIT, BOB, 0, 500, 500, 1.2, 1.3),
            Answer(8, TRANSFER, ALICE, BOB, 300, 700, 2.0, 2.1),
            Answer(9, WITHDRAW, BOB, 0, 800, 0, 3.0, 3.1),
            Answer(8, READ, BOB, 0, 0, 800, 2.2, 2.3),
            Answer(0, READ, CAROL, 0, 0, 0, 0.5, 0.6),
        ],
        [
            View(5, ALICE, DEPOSIT, 0, ALICE, 1000, 1000, 1),
            View(6, BOB, DEPOSIT, 0, BOB, 500, 500, 1),
            View(8, ALICE, TRANSFER, ALICE, BOB, 300, 700, 2),
            View(8, BOB, TRANSFER, ALICE, BOB, 300, 800, 0),
            View(9, BOB, WITHDRAW, BOB, 0, 800, 0, 2),
            View(10, ALICE, DEPOSIT, 0, ALICE, 50, 750, 3),
        ],
        {ALICE: Holding(750, 10), BOB: Holding(0, 9), CAROL: Holding(0, 0)},
        [Refusal(CAROL, 10, 2.0, 2.2), Refusal(BOB, 600, 1.9, 2.05)],
        [Unknown(ALICE, 3, DEPOSIT, 0, 50, 3.5)],
    )


def test_nothing_is_found_in_a_good_run() -> None:
    findings, replay = good().replay()
    assert findings.problems == []
    assert findings.good
    assert (replay.transactions, replay.reads, replay.compared) == (5, 2, 6)
    assert replay.not_compared == 0


def test_it_tells_how_far_it_is() -> None:
    reads = [Answer(0, READ, CAROL, 0, 0, 0, 0.1, 0.2)] * (2 * TELL + 1)
    told: list[int] = []
    accounts = Accounts.of({CAROL: NOTHING})
    findings = Findings()
    Replay(accounts, Told(reads, [], {CAROL: NOTHING}), findings).run(told.append)
    assert findings.good
    assert told == [0, TELL, 2 * TELL]


def test_a_run_begins_where_the_one_before_ended() -> None:
    findings, first = Findings(), good()
    accounts = Accounts.of(dict.fromkeys((ALICE, BOB, CAROL), NOTHING))
    told = Told(sorted(first.answers), first.views, first.finals, [], first.unknown)
    Replay(accounts, told, findings).run()
    assert (accounts.balances[ALICE], accounts.base) == (750, 10)
    second = Told(
        [
            Answer(10, READ, ALICE, 0, 0, 750, 4.0, 4.1),
            Answer(12, WITHDRAW, ALICE, 0, 50, 700, 5.0, 5.1),
        ],
        [],
        {**first.finals, ALICE: Holding(700, 12)},
        oldest=13,
    )
    Replay(accounts, second, findings).run()
    assert findings.problems == []


def test_a_short_ring_leaves_less_to_compare() -> None:
    run = good()
    run.views = [view for view in run.views if view.txn_id >= 9]
    run.oldest = 9
    findings, replay = run.replay()
    assert findings.good
    assert (replay.compared, replay.not_compared) == (2, 4)


def _lose_the_last(run: Run) -> None:
    """It was answered, and then forgotten everywhere."""
    run.views = [view for view in run.views if view.txn_id != 9]
    run.finals[BOB] = Holding(800, 8)


def _lose_from_the_history(run: Run) -> None:
    del run.views[3]


def _twice(run: Run) -> None:
    run.views.append(View(11, BOB, WITHDRAW, BOB, 0, 0, 0, 2))


def _twice_beyond_the_ring(run: Run) -> None:
    """Nothing is in the history, and the deposit was executed twice."""
    run.views, run.oldest, run.unknown = [], 99, []
    run.answers[2] = run.answers[2]._replace(balance=1700)
    run.finals[ALICE] = Holding(1700, 8)


def _another_user_is_paid(run: Run) -> None:
    run.finals[BOB], run.finals[CAROL] = Holding(0, 9), Holding(1, 0)


def _cannot_be_told(run: Run) -> None:
    run.views, run.oldest = [], 99
    run.finals[ALICE] = Holding(700, 8)


PLANTED: list[tuple[str, Callable[[Run], None]]] = [
    ("lost", _lose_from_the_history),
    ("lost", _lose_the_last),
    ("serial", _lose_the_last),
    ("unasked", _twice),
    ("serial", _twice_beyond_the_ring),
    ("conserved", _twice_beyond_the_ring),
    ("conserved", _another_user_is_paid),
    ("serial", lambda run: run.change(8, balance=701)),
    ("serial", lambda run: run.change(6, amount=501)),
    ("serial", lambda run: run.finals.update({CAROL: Holding(1, 0)})),
    ("serial", lambda run: run.finals.update({BOB: Holding(0, 8)})),
    ("serial", lambda run: run.answers.append(Answer(8, READ, BOB, 0, 0, 500, 2.2, 2.3))),
    ("negative", lambda run: run.change(9, amount=801, balance=2**64 - 1)),
    ("disagreeing", lambda run: run.change(9, txn_id=8)),
    ("disagreeing", lambda run: run.change(8, payee=CAROL)),
    ("disagreeing", lambda run: run.change(8, payee=99)),
    ("disagreeing", lambda run: run.views.append(View(5, BOB, DEPOSIT, 0, ALICE, 1000, 1, 0))),
    ("real_time", lambda run: run.change(5, sent=2.5, answered=2.6)),
    ("real_time", lambda run: run.change(8, sent=0.1, answered=0.9)),
    ("real_time", lambda run: run.answers.append(Answer(6, READ, BOB, 0, 0, 500, 2.2, 2.3))),
    ("real_time", lambda run: run.answers.append(Answer(8, READ, BOB, 0, 0, 800, 1.0, 1.1))),
    ("real_time", lambda run: run.refusals.append(Refusal(ALICE, 700, 2.5, 2.6))),
    ("real_time", lambda run: run.refusals.append(Refusal(BOB, 600, 2.5, 2.6))),
    ("unfinished", _cannot_be_told),
    ("unfinished", lambda run: run.finals.pop(CAROL) and None),
]


@pytest.mark.parametrize(("check", "plant"), PLANTED)
def test_what_is_planted_is_found(check: str, plant: Callable[[Run], None]) -> None:
    run = good()
    plant(run)
    findings, _ = run.replay()
    assert findings.counts[check], findings.problems


def test_an_outcome_that_was_no_execution() -> None:
    run = good()
    run.views.pop()
    run.finals[ALICE] = Holding(700, 8)
    findings, replay = run.replay()
    assert findings.problems == []
    assert replay.transactions == 4


def test_records_of_several_files_come_in_one_order(tmp_path: Path) -> None:
    run = good()
    for number in range(2):
        answers = b"".join(ANSWER.pack(*each) for each in run.answers[number::2])
        (tmp_path / f"answers-{number}").write_bytes(sorted_records(answers, ANSWER))
        views = b"".join(VIEW.pack(*each) for each in run.views[number::2])
        (tmp_path / f"views-{number}").write_bytes(sorted_records(views, VIEW))
    assert list(answers_of(sorted(tmp_path.glob("answers-*")))) == sorted(run.answers)
    assert list(views_of(sorted(tmp_path.glob("views-*")))) == sorted(run.views)

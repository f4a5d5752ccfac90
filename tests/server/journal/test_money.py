"""Both forms of the fold of money say the same of whatever may stand in a file."""

import json
import os
import subprocess
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.messages import MAX_BALANCE
from server.journal.money import are_numbered, tell_of_events
from server.region.records import OFFSETS, RECORD_SIZE, RECORD_WORDS, RecordKind
from tests.helpers.form import COMPILED
from tests.server.journal import fold

EDGES = 0, 64, MAX_BALANCE, 2**63, 2**64 - 64, 2**64
NUMBERS = st.one_of(
    st.sampled_from([(edge + n) % 2**64 for edge in EDGES for n in (-1, 0, 1)]),
    st.integers(0, 2**64 - 1),
)
FEW = st.integers(1, 100)
CHANGES = st.lists(st.tuples(st.integers(0, fold.WORDS - 1), NUMBERS), max_size=2)
MONEY = st.one_of(
    st.tuples(st.just(1), st.just(0), st.integers(1, fold.USERS)),
    st.tuples(st.just(2), st.integers(1, fold.USERS), st.just(0)),
    st.tuples(st.just(3), st.just(1), st.just(2)),
    st.tuples(st.just(3), st.just(2), st.just(1)),
)
RECORDS = st.lists(
    st.tuples(
        MONEY,
        st.one_of(FEW, NUMBERS),
        st.one_of(FEW, NUMBERS),
        st.integers(0, 1),
        st.one_of(st.just([]), CHANGES),
    ).map(lambda each: [*each[0], *each[1:]]),
    min_size=1,
    max_size=4,
)
CASES = st.fixed_dictionaries(
    {
        "txn": st.one_of(FEW, NUMBERS),
        "supply": st.one_of(st.just(1000), NUMBERS),
        "time": st.one_of(FEW, NUMBERS),
        "balances": st.tuples(st.one_of(st.just(500), NUMBERS), st.one_of(st.just(500), NUMBERS)),
        "last_txn": st.tuples(FEW, NUMBERS),
        "newest": st.one_of(FEW, NUMBERS),
        "floor": st.one_of(st.just(1), NUMBERS),
        "known": st.one_of(st.just(0), NUMBERS),
        "records": RECORDS,
    }
)


def words_of(*numbers: int) -> memoryview:
    """Records of these numbers, by words."""
    words = array("Q", bytes(len(numbers) * RECORD_SIZE))
    for place, number in enumerate(numbers):
        words[place * RECORD_WORDS] = number % 2**64
    return memoryview(words)


@pytest.mark.parametrize("first", [1, 2**63 - 2, 2**64 - 4])
@pytest.mark.parametrize("count", range(5))
def test_records_are_numbered_without_a_gap(first: int, count: int) -> None:
    numbers = list(range(first, first + count))
    assert are_numbered(words_of(*numbers), first)
    for place in range(count):
        changed = numbers.copy()
        changed[place] += 1
        assert not are_numbered(words_of(*changed), first)
    assert not are_numbered(words_of(*range(2**64 - 1, 2**64 + count)), 2**64 - 1) or not count


def test_records_that_tell_of_events_are_noticed() -> None:
    at = OFFSETS[RecordKind.TRANSFER]["event"]
    words = words_of(*range(1, 5))
    assert not tell_of_events(words)
    for place in range(4):
        words = words_of(*range(1, 5))
        words[place * RECORD_WORDS + at] = 1 << 63
        assert tell_of_events(words)
        assert not tell_of_events(words[: place * RECORD_WORDS])


@contextmanager
def interpreted() -> Iterator["subprocess.Popen[str]"]:
    """The same, interpreted, as a program."""
    program = subprocess.Popen(
        [sys.executable, "-m", fold.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TRADECHAT_PURE": "1"},
    )
    with program:
        yield program
        assert program.stdin is not None
        program.stdin.close()


def ask(program: "subprocess.Popen[str]", case: dict[str, Any]) -> str:
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(f"{json.dumps(case)}\n")
    program.stdin.flush()
    answer: str = json.loads(program.stdout.readline())
    return answer


def test_both_forms_say_the_same_of_any_records() -> None:
    """Also where a sum would pass 64 bits."""
    if not COMPILED:
        pytest.skip("there is one form in this run")
    told = set[str]()
    with interpreted() as program:

        @settings(max_examples=1000, deadline=None)
        @given(CASES)
        def compare(case: dict[str, Any]) -> None:
            found = fold.outcome(case)
            told.add(found.partition("follow: ")[2].partition(" ")[0])
            assert found == ask(program, case)

        compare()
    assert len(told) > 5, "these cases show too little"

"""What a load thread writes down, and its twin in C: each function does as the Python beside it."""

from array import array
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.stress import notes
from tests.helpers.twins import in_c

GIVEN_ON = """
from bench.stress import notes

def now():
    return notes.now()

def us(passed_s):
    return notes.us(passed_s)

def append(column, value):
    notes.append(column, value)

def u8(column, at):
    return notes.u8(column, at)

def put_u8(column, at, value):
    notes.put_u8(column, at, value)

def u32(column, at):
    return notes.u32(column, at)

def put_u32(column, at, value):
    notes.put_u32(column, at, value)

def put_f64(column, at, value):
    notes.put_f64(column, at, value)

def answer(packed, txn_id, kind, user, payee, amount, balance, sent, answered):
    notes.answer(packed, txn_id, kind, user, payee, amount, balance, sent, answered)

def digest(buf, start, end):
    return notes.digest(buf, start, end)

def compose(sent, serial, payload):
    return notes.compose(sent, serial, payload)

def sent_at(buf, start, end):
    return notes.sent_at(buf, start, end)
"""

u8, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 32, 64))
times = st.floats(0, 1e9)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module in C."""
    root = tmp_path_factory.mktemp("notes")
    with in_c(root, GIVEN_ON, "from bench.stress cimport notes\n") as module:
        yield module


def test_it_is_in_c(twin: Any) -> None:
    assert twin.__file__.endswith(".so")


def test_there_is_one_clock(twin: Any) -> None:
    before, between, after = notes.now(), twin.now(), notes.now()
    assert before <= between <= after


@given(st.floats(-10, 1e9))
@example(4294.967294)
@example(4294.967295)
@example(4294.967296)
@example(-0.0000019)
def test_times_in_us(twin: Any, passed: float) -> None:
    if passed > -1e-6:
        assert twin.us(passed) == notes.us(passed) <= notes.MAX_US


@given(st.lists(u32, max_size=300))
def test_a_column_grows(twin: Any, values: list[int]) -> None:
    """By turns of C and Python, which both know how much room there is."""
    column = array("I")
    for number, value in enumerate(values):
        (twin, notes)[number % 3 % 2].append(column, value)
    assert column == array("I", values)


@given(st.integers(0, 4), u8, u32, times)
def test_places_of_columns(twin: Any, at: int, small: int, value: int, time: float) -> None:
    for each in (twin, notes):
        bytes_, words, doubles = array("B", b"12345"), array("I", [1] * 5), array("d", [1] * 5)
        each.put_u8(bytes_, at, small)
        each.put_u32(words, at, value)
        each.put_f64(doubles, at, time)
        assert (bytes_[at], words[at], doubles[at]) == (small, value, time)
        assert (each.u8(bytes_, at), each.u32(words, at)) == (small, value)
        assert (sum(bytes_), sum(words)) == (sum(b"12345") - 49 - at + small, 4 + value)
        assert doubles.count(1.0) >= 4


@given(st.lists(st.tuples(u64, u8, u32, u32, u64, u64, times, times), max_size=20))
@example([(2**64 - 1, 255, 2**32 - 1, 2**32 - 1, 2**64 - 1, 2**64 - 1, 1.5, 2.5)])
def test_answers_are_packed(twin: Any, answers: list[tuple[Any, ...]]) -> None:
    packed, same = bytearray(), bytearray()
    for each in answers:
        twin.answer(packed, *each)
        notes.answer(same, *each)
    assert packed == same
    assert list(notes.ANSWER.iter_unpack(packed)) == answers


@given(st.binary(max_size=100), st.integers(0, 100), st.integers(0, 100))
@example(b"", 0, 0)
def test_a_digest(twin: Any, buf: bytes, start: int, end: int) -> None:
    end = min(end, len(buf))
    start = min(start, end)
    assert twin.digest(buf, start, end) == notes.digest(buf, start, end)
    assert notes.digest(buf, start, end) == (crc32(buf[start:end]) or 1)


@given(times, u64, st.integers(32, 4096))
@example(9e9, 2**64 - 1, 32)
@example(1234.5, 0, 33)
def test_a_message_is_composed(twin: Any, sent: float, serial: int, payload: int) -> None:
    made = notes.compose(sent, serial, payload)
    assert twin.compose(sent, serial, payload) == made
    assert len(made.encode()) == payload
    for each in (twin, notes):
        assert each.sent_at(made.encode(), 0, payload) == int(sent * 1e9) / 1e9


@given(st.one_of(st.text("0123456789abcdef", max_size=20), st.text("0fF_ +-xg\u0663", max_size=20)))
@example("ffffffffffffffff")
@example("0123456789abcdeg.")
@example("000000000000000F")
@example(" 00000000000000f")
@example("0_1")
@example("")
def test_when_any_text_was_sent(twin: Any, text: str) -> None:
    buf = b"0" + text.encode() + b"0"
    found = twin.sent_at(buf, 1, len(buf) - 1)
    assert found == notes.sent_at(buf, 1, len(buf) - 1)

"""Histograms in the region: each value in its bucket, and in the sum; in Python and in C."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.region import histogram
from server.region.histogram import BUCKETS, SIZES_FIRST, TIMES_FIRST, bounds
from server.region.layout import SEGMENTS
from tests.helpers.twins import in_c

FIRSTS = st.sampled_from([SIZES_FIRST, TIMES_FIRST])
VALUES = st.integers(0, 1 << 40) | st.sampled_from([n + d for n in bounds(4) for d in (-1, 0, 1)])
GIVEN_ON = """
from server.region import histogram, machine

def bucket_of(value, first):
    return histogram.bucket_of(value, first)

def add(view, at, value, count, first):
    histogram.add(machine.words_of(view), at, value, count, first)
"""
CIMPORTS = """
from server.region cimport histogram, machine
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with in_c(tmp_path_factory.mktemp("histogram"), GIVEN_ON, CIMPORTS) as made:
        yield made


def test_it_is_in_c(compiled: Any) -> None:
    assert compiled.__file__.endswith(".so")


@given(VALUES | st.integers(0, 2**64 - 1), FIRSTS)
def test_the_bucket_is_the_same_in_c(compiled: Any, value: int, first: int) -> None:
    assert compiled.bucket_of(value, first) == histogram.bucket_of(value, first)


def added(*values: tuple[int, int], first: int, by: Any = histogram) -> list[int]:
    """The words of a histogram between two others, which stay as they are."""
    view = memoryview(bytearray(8 * (BUCKETS + 3))).cast("Q")
    for value, count in values:
        by.add(view, 1, value, count, first)
    assert (view[0], view[-1]) == (0, 0)
    return view[1:-1].tolist()


@given(st.lists(st.tuples(VALUES, st.integers(0, 1000))), FIRSTS)
def test_the_words_are_the_same_in_c(
    compiled: Any, values: list[tuple[int, int]], first: int
) -> None:
    assert added(*values, first=first, by=compiled) == added(*values, first=first)


@given(st.lists(st.tuples(VALUES, st.integers(0, 1000))), FIRSTS)
def test_a_value_is_in_the_first_bucket_whose_bound_it_is_not_above(
    values: list[tuple[int, int]], first: int
) -> None:
    total, *buckets = added(*values, first=first)
    assert total == sum(value * count for value, count in values)
    assert sum(buckets) == sum(count for _, count in values)
    for place, bound in enumerate(bounds(first)):
        within = sum(count for value, count in values if value <= bound)
        assert sum(buckets[: place + 1]) == within


def test_bounds() -> None:
    """From the smallest answer there can be to one that nobody waits for any more."""
    assert bounds(TIMES_FIRST)[0] == 16
    assert bounds(TIMES_FIRST)[-1] == 4_194_304
    assert bounds(SIZES_FIRST)[:4] == [1, 2, 4, 8]
    assert len(bounds(0)) == BUCKETS - 1


@pytest.mark.parametrize("segment", ["served", "deliveries", "journal"])
def test_the_sum_is_right_before_the_buckets(segment: str) -> None:
    (fields,) = [each.fields for each in SEGMENTS if each.name == segment]
    found = [place for place, field in enumerate(fields) if field.words == BUCKETS]
    assert found
    for place in found:
        assert fields[place - 1].words == 1
        assert "summed" in fields[place - 1].about or segment == "journal"

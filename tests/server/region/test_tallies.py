"""Counting by key over all workers: never too low, and no more in a time than is allowed."""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.region.layout import TALLY_ROWS
from server.region.region import Region
from server.region.tallies import Allowances, Crowd, places
from tests.helpers.region import SMALL, small_region

SECRET = b"k" * 32
SECOND_US = 1_000_000

keys = st.integers(0, 40).map(lambda number: b"key %d" % number)


@pytest.fixture
def region() -> Iterator[Region]:
    with small_region() as made:
        yield made


@given(st.lists(st.tuples(st.integers(0, SMALL.workers - 1), keys, st.integers(1, 9)), max_size=60))
def test_a_crowd_is_never_counted_too_low(changes: list[tuple[int, bytes, int]]) -> None:
    with small_region() as region:
        crowds = [Crowd(region, worker, SECRET) for worker in range(SMALL.workers)]
        there: Counter[bytes] = Counter()
        for worker, key, number in changes:
            crowds[worker].add(crowds[worker].places(key), number)
            there[key] += number
        for key, number in there.items():
            for crowd in crowds:
                assert crowd.count(crowd.places(key)) >= number
        # 41 keys hardly ever share all three of their places.
        for key, number in there.items():
            if all(
                set(places(SECRET, key, 1024)).isdisjoint(places(SECRET, other, 1024))
                for other in there.keys() - {key}
            ):
                assert crowds[0].count(crowds[0].places(key)) == number


def test_what_a_killed_worker_counted_is_gone_with_its_successor(region: Region) -> None:
    ours, killed = (Crowd(region, worker, SECRET) for worker in (0, 1))
    where = ours.places(b"key")
    ours.add(where, 2)
    killed.add(where, 3)
    assert ours.count(where) == 5
    Crowd(region, 1, SECRET)
    assert ours.count(where) == 2


def test_the_places_are_a_secret_of_the_server() -> None:
    assert places(SECRET, b"key", 1024) != places(b"x" * 32, b"key", 1024)
    where = places(SECRET, b"key", 1024)
    assert [place // 1024 for place in where] == list(range(TALLY_ROWS))


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.integers(0, 3 * SECOND_US), min_size=1, max_size=80),
)
def test_no_more_is_taken_than_the_rate_and_a_burst(
    per_second: int, burst: int, gaps: list[int]
) -> None:
    """In any time: a burst, and what the rate gives. And all is given that the rate allows."""
    interval = SECOND_US // per_second
    with small_region() as region:
        allowances = Allowances(region, SECRET)
        now, taken = 10 * SECOND_US, list[int]()
        for gap in gaps:
            now += gap
            wait = allowances.take(b"key", now, interval, burst)
            if not wait:
                taken.append(now)
            else:
                assert allowances.take(b"key", now + wait - 1, interval, burst) == 1
                now += wait
                assert allowances.take(b"key", now, interval, burst) == 0
                taken.append(now)
        for first, begins in enumerate(taken):
            for last in range(first, len(taken)):
                allowed = burst + (taken[last] - begins) // interval
                assert last - first + 1 <= allowed


def test_one_key_takes_nothing_from_another(region: Region) -> None:
    allowances = Allowances(region, SECRET)
    for _ in range(100):
        allowances.take(b"flood", SECOND_US, 1000, 10)
    assert allowances.take(b"flood", SECOND_US, 1000, 10) > 0
    assert allowances.take(b"other", SECOND_US, 1000, 10) == 0


def test_all_workers_take_from_the_same(region: Region) -> None:
    one, other = Allowances(region, SECRET), Allowances(region, SECRET)
    assert one.take(b"key", SECOND_US, 1000, 1) == 0
    assert other.take(b"key", SECOND_US, 1000, 1) == 1000

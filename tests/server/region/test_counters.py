"""The table of counters, and the words that they are."""

import pytest

from libproto.messages import MESSAGES
from server.core.stats import by_opcode, totals
from server.region.counters import COUNTERS, INDEX, LOCK_KINDS, REQUESTED, index_of
from server.region.layout import Layout
from server.region.locks import ACCOUNT, EVENT, LOG, REGISTRY
from tests.helpers.region import SMALL, set_word, small_region

NAMES = [counter.name for counter in COUNTERS]


def test_names_are_unique_and_say_what_they_count() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(INDEX)
    assert all(counter.about for counter in COUNTERS)


def test_a_name_gives_its_word_in_the_record() -> None:
    placed = Layout(SMALL)["counters"]
    for name in NAMES:
        assert index_of(name) == placed.offsets[name]
        assert placed.lengths[name] == 1
    with pytest.raises(KeyError):
        index_of("nothing")


def test_every_request_is_counted_and_its_errors() -> None:
    requests = {message.name for message in MESSAGES if message.request is not None}
    assert requests
    for what in ("requests", "errors"):
        counted = {n.removeprefix(f"{what}_") for n in NAMES if n.startswith(f"{what}_")}
        assert counted == requests


def test_the_kinds_of_locks_are_in_the_order_of_their_ranks() -> None:
    assert [LOCK_KINDS[kind] for kind in (REGISTRY, ACCOUNT, LOG, EVENT)] == list(LOCK_KINDS)
    for kind in LOCK_KINDS:
        assert f"waits_{kind}" in INDEX
        assert f"waited_ns_{kind}" in INDEX


def test_gauges_are_what_goes_down_again() -> None:
    assert [c.name for c in COUNTERS if c.gauge] == ["connections", "sessions"]


def test_readers_sum_over_the_workers() -> None:
    with small_region() as region:
        for worker in range(SMALL.workers):
            for i, name in enumerate(NAMES):
                set_word(region, "counters", worker, name, (i + 1) * 10**worker)
        sums = totals(region)
        assert list(sums) == NAMES
        assert list(sums.values()) == [(i + 1) * 111 for i in range(len(NAMES))]
        assert by_opcode(sums, "errors") == {
            message.name: sums[f"errors_{message.name}"] for message in REQUESTED
        }

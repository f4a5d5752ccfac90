"""The table of counters, and the words that they are."""

import pytest

from libproto.errors import Status
from libproto.messages import MESSAGES
from server.core.stats import by_opcode, served, totals
from server.region.counters import (
    COUNTERS,
    INDEX,
    LOCK_KINDS,
    REQUESTED,
    ROWS,
    SERVED,
    STATUSES,
    index_of,
)
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


def test_there_is_a_row_for_every_opcode_and_one_for_the_rest() -> None:
    assert (*(message.name for message in MESSAGES), "OTHER") == ROWS
    placed = Layout(SMALL)["served"]
    assert placed.records == SMALL.workers * len(ROWS)
    assert list(placed.offsets) == [name for name, _, _ in SERVED]
    assert placed.lengths["sent"] == placed.lengths["sent_bytes"] == len(Status)


def test_requests_and_errors_are_summed_over_the_workers() -> None:
    with small_region() as region:
        placed = region.layout["served"]
        for worker in range(SMALL.workers):
            for row in range(len(ROWS)):
                first = placed.at(worker * len(ROWS) + row)
                for word in range(placed.stride):
                    region.words[first + word] = (row + 1) * (word + 1) * 10**worker
        found, sums = served(region), totals(region)
        assert list(found) == list(ROWS)
        sent = placed.offsets["sent"]
        for row, name in enumerate(ROWS, 1):
            assert found[name]["requests"] == [row * 111]
            assert found[name]["sent"] == [row * (sent + n) * 111 for n in range(1, STATUSES + 1)]
        assert by_opcode(sums, "requests") == {
            m.name: sums[f"requests_{m.name}"] for m in REQUESTED
        }
        for message in REQUESTED:
            record = found[message.name]
            assert sums[f"requests_{message.name}"] == record["requests"][0]
            assert sums[f"errors_{message.name}"] == sum(record["sent"]) - record["sent"][0]


def test_the_kinds_of_locks_are_in_the_order_of_their_ranks() -> None:
    assert [LOCK_KINDS[kind] for kind in (REGISTRY, ACCOUNT, LOG, EVENT)] == list(LOCK_KINDS)
    for kind in LOCK_KINDS:
        assert f"waits_{kind}" in INDEX
        assert f"waited_ns_{kind}" in INDEX


def test_gauges_are_what_goes_down_again() -> None:
    assert [c.name for c in COUNTERS if c.gauge] == [
        "connections",
        "unauthenticated",
        "sessions",
        "encrypted",
        "overloaded",
        "file_loans",
        "file_waiting",
        "file_cached",
    ]


def test_readers_sum_over_the_workers() -> None:
    with small_region() as region:
        for worker in range(SMALL.workers):
            for i, name in enumerate(NAMES):
                set_word(region, "counters", worker, name, (i + 1) * 10**worker)
        sums = totals(region)
        assert list(sums)[: len(NAMES)] == NAMES
        assert list(sums.values())[: len(NAMES)] == [(i + 1) * 111 for i in range(len(NAMES))]
        assert not any(list(sums.values())[len(NAMES) :]), "no request"

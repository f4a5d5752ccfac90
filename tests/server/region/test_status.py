"""A worker's status: of one moment, and worth nothing when it is old."""

from dataclasses import astuple, fields, replace

import pytest

from server.region import status
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import STALE_S, UPDATE_S, Status, publish, read, read_all, state_at
from tests.helpers.region import SMALL, children, set_word, small_region, watched, word
from tests.helpers.server import wait_until

NOW_US = 10**12
STALE_US = int(STALE_S * 1e6)
BUSY = Status(NOW_US, WorkerState.BUSY, 3, 4, 5 << 20, 6, 7, 8)


def test_what_is_published_is_read_by_whoever_has_the_region() -> None:
    with small_region() as region:
        publish(region, 1, BUSY)
        seen = Region.attach(region.name)
        try:
            assert read(seen, 1, NOW_US) == BUSY
            never, _, *rest = read_all(seen, NOW_US)
            assert never == Status(0, WorkerState.STOPPED, 0, 0, 0, 0, 0, 0)
            assert rest == [never] * (SMALL.workers - 2)
        finally:
            seen.close()
        status.stopped(region, 1, NOW_US + 1)
        assert read(region, 1, NOW_US + 1) == replace(never, updated=NOW_US + 1)


def test_an_old_status_is_stale_whatever_it_says() -> None:
    """But for that of a slot without a worker, which stays so."""
    assert UPDATE_S * 2 < STALE_S
    for state in WorkerState:
        told = WorkerState.STOPPED if state is WorkerState.STOPPED else WorkerState.STALE
        assert state_at(state, NOW_US, NOW_US + STALE_US) == state
        assert state_at(state, NOW_US, NOW_US + STALE_US + 1) == told
        assert state_at(state, 0, NOW_US) == told, "its worker died in the middle of an update"
    assert state_at(2**64 - 1, NOW_US, NOW_US) is WorkerState.STALE, "a word that is damaged"


def test_nothing_of_an_update_is_seen_before_its_end() -> None:
    """Whoever looks after any of its stores finds the one before, or that there is none just now;
    and a worker that dies there leaves what counts as stale."""
    with small_region() as region:
        publish(region, 0, BUSY)
        after = replace(BUSY, updated=NOW_US + 9, state=WorkerState.IDLE, connections=30, cursor=80)
        found: list[Status] = []
        publish(watched(region, lambda: found.append(read(region, 0, NOW_US))), 0, after)
        assert len(found) > 2
        assert found[-1] == after
        for each in found[:-1]:
            assert each.updated == 0
            assert each.state is WorkerState.STALE


def _publishes(region: Region, count: int) -> None:
    for n in range(1, count + 1):
        publish(region, 2, Status(n, WorkerState.IDLE, n, n, n, n, n, n))


def test_a_status_is_of_one_moment() -> None:
    """Read all the time while another process publishes."""
    count = 20_000
    with small_region() as region, children() as processes:
        writer = processes.start(_publishes, region, count)
        seen = set[int]()

        def has_ended() -> bool:
            now = read(region, 2, 1)
            if now.updated:
                _, state, *numbers = astuple(now)
                assert (state, set(numbers)) == (WorkerState.IDLE, {now.updated})
            seen.add(now.updated)
            return now.updated == count

        wait_until(has_ended, "the last one is read")
        writer.result()
        assert len(seen) > 10


@pytest.mark.parametrize("field", [field.name for field in fields(Status)])
def test_each_field_is_one_word(field: str) -> None:
    with small_region() as region:
        publish(region, 0, BUSY)
        assert word(region, "status", 0, field) == getattr(BUSY, field)
        set_word(region, "status", 0, field, 1)
        assert getattr(read(region, 0, 1), field) == 1

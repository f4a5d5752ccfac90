"""Health, of regions in every state: alive, ready, and why not."""

import errno
import time

import pytest

from server.admin.health import Health, health
from server.admin.snapshot import look
from server.region import status
from server.region.layout import ServerState, WorkerState
from server.region.region import Region
from server.region.status import STALE_S, Status
from tests.helpers.region import SMALL, set_word, small_region


def publish(region: Region, *states: WorkerState) -> None:
    """The workers are in these states, the last one for all that follow."""
    now = time.monotonic_ns() // 1000
    for slot in range(SMALL.workers):
        state = states[min(slot, len(states) - 1)]
        updated = now - int((STALE_S + 1) * 1e6) if state is WorkerState.STALE else now
        told = WorkerState.BUSY if state is WorkerState.STALE else state
        status.publish(region, slot, Status(updated, told, 0, 0, 0, 0, 0, 0))


def of(region: Region) -> Health:
    return health(look(region))


def test_a_server_that_serves() -> None:
    with small_region() as region:
        region.header.state = ServerState.SERVING
        publish(region, WorkerState.IDLE, WorkerState.BUSY, WorkerState.STARTING)
        assert of(region) == Health(live=True, ready=True)


@pytest.mark.parametrize(
    ("segment", "field", "value", "live", "said"),
    [
        ("header", "state", ServerState.STARTING, True, "is starting"),
        ("header", "state", ServerState.DRAINING, True, "is stopping"),
        ("header", "recovery", 7, True, "a worker has died"),
        ("journal", "failed", errno.EIO, False, "Input/output error"),
    ],
)
def test_why_it_is_not_ready(segment: str, field: str, value: int, live: bool, said: str) -> None:
    with small_region() as region:
        region.header.state = ServerState.SERVING
        publish(region, WorkerState.IDLE)
        set_word(region, segment, 0, field, value)
        found = of(region)
    assert (found.live, found.ready) == (live, False)
    (reason,) = found.reasons
    assert said in reason


@pytest.mark.parametrize(
    ("segment", "field", "value", "said"),
    [
        ("journal", "full", errno.ENOSPC, "No space left"),
        ("archive", "failed", errno.EIO, "older histories"),
        ("archive", "closed", 1, "chat is refused"),
    ],
)
def test_what_it_is_ready_with_all_the_same(
    segment: str, field: str, value: int, said: str
) -> None:
    with small_region() as region:
        region.header.state = ServerState.SERVING
        publish(region, WorkerState.IDLE)
        set_word(region, segment, 0, field, value)
        found = of(region)
    assert (found.live, found.ready, found.reasons) == (True, True, [])
    (warning,) = found.warnings
    assert said in warning


def test_workers_that_hang() -> None:
    """One of them is a warning; all of them are the end."""
    with small_region() as region:
        region.header.state = ServerState.SERVING
        publish(region, WorkerState.STALE, WorkerState.IDLE)
        found = of(region)
        assert (found.live, found.ready) == (True, True)
        assert "half a minute: 0" in found.warnings[0]
        publish(region, WorkerState.STALE)
        found = of(region)
        assert (found.live, found.ready, found.reasons) == (False, False, ["no worker serves"])
        publish(region, WorkerState.STOPPED, WorkerState.STARTING)
        found = of(region)
        assert (found.live, found.ready, found.reasons) == (True, False, ["no worker serves"])

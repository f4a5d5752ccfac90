"""How each worker is, as it says itself: published by the worker, read by whoever wants to know.

A status is of one moment: `updated` is its commit word. It is looked at by operators, and by
workers that choose among themselves; nothing that must be right depends on it. A status that is
older than STALE_S says nothing any more, wherever it is shown or used: its worker hangs, or is
starved.
"""

from array import array
from dataclasses import astuple, dataclass, fields
from typing import Final

from server.region import machine
from server.region.counters import STATUS
from server.region.layout import WorkerState
from server.region.region import Region

UPDATE_S: Final = 1.0  # between two updates, at most
STALE_S: Final = 30.0
_STATES: Final = frozenset(map(int, WorkerState))
_TRIES: Final = 16  # of a reader: an update is a few stores


@dataclass(frozen=True, slots=True)
class Status:
    """One worker's status, in the units of the table STATUS; `state` may be STALE."""

    updated: int
    state: WorkerState
    connections: int
    waiting: int
    memory: int
    requests: int
    lag_us: int
    cursor: int


assert [field.name for field in fields(Status)] == [name for name, _ in STATUS]


def state_at(state: int, updated: int, now_us: int) -> WorkerState:
    """What a status says at a time. now_us: of CLOCK_MONOTONIC, as `updated` is."""
    if state == WorkerState.STOPPED:
        return WorkerState.STOPPED
    if not updated or now_us - updated > STALE_S * 1e6 or state not in _STATES:
        return WorkerState.STALE
    return WorkerState(state)


def publish(region: Region, slot: int, status: Status) -> None:
    """Make this the status of a slot. Only by its worker, or by the master where it has none."""
    words, at = machine.words_of(region.words), region.layout["status"].at(slot)
    updated, *payload = astuple(status)
    machine.retract(words, at)
    region.words[at + 1 : at + 1 + len(payload)] = memoryview(array("Q", payload))
    machine.publish(words, at, updated)


def stopped(region: Region, slot: int, now_us: int) -> None:
    """The slot has no worker any more: it has been reaped."""
    publish(region, slot, Status(now_us, WorkerState.STOPPED, 0, 0, 0, 0, 0, 0))


def read(region: Region, slot: int, now_us: int) -> Status:
    """The status of a slot at a time of CLOCK_MONOTONIC. One whose worker died in the middle of an
    update, or that has never been published, has `updated` 0."""
    words, at = machine.words_of(region.words), region.layout["status"].at(slot)
    for _ in range(_TRIES):
        before = machine.look(words, at)
        updated, state, *rest = region.words[at : at + len(STATUS)].tolist()
        if before and machine.look_again(words, at) == before:
            break
    else:
        updated = 0
    return Status(updated, state_at(state, updated, now_us), *rest)


def read_all(region: Region, now_us: int) -> list[Status]:
    """Those of all slots, in order."""
    return [read(region, slot, now_us) for slot in range(region.layout["status"].records)]

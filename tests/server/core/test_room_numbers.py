"""When the number of a room that was closed is used again: not before its time is over, nobody is
in it, and the last leave is durable.
"""

from collections.abc import Iterator

import pytest

from libproto.messages import RoomAccess
from server.core.check import problems
from server.core.errors import TableFull
from server.core.session import Session
from server.core.state import State
from server.region.region import Region
from tests.helpers.region import (
    STARTED_US,
    login,
    next_req_id,
    register,
    set_word,
    small_region,
    state_of,
)

ROOM = 61
RETENTION_US = 1000


@pytest.fixture
def region() -> Iterator[Region]:
    """With one place for a room that is opened by name."""
    with small_region(rooms=ROOM) as made:
        yield made


@pytest.fixture
def state(region: Region) -> State:
    made = state_of(region, numbered_rooms=ROOM - 1)
    register(made, "ann", "bob")
    return made


@pytest.fixture
def ann(state: State) -> Session:
    return login(state, 1, 7)


def _open(state: State, session: Session, name: str, now: int = STARTED_US) -> int:
    """Its number."""
    req_id = next_req_id(session, state.region)
    return state.changes.open_room(session, name, req_id, 0, now, RETENTION_US).room


def _close(state: State, session: Session) -> None:
    req_id = next_req_id(session, state.region)
    state.changes.set_room(session, ROOM, "", RoomAccess.CLOSED, req_id, 0, STARTED_US)


def test_not_before_its_time_is_over(state: State, ann: Session) -> None:
    _open(state, ann, "den")
    _close(state, ann)
    with pytest.raises(TableFull):
        _open(state, ann, "den", STARTED_US + RETENTION_US - 1)
    assert _open(state, ann, "den", STARTED_US + RETENTION_US) == ROOM


@pytest.mark.parametrize("logs_out", [False, True])
def test_not_while_a_member_is_in_it(
    region: Region, state: State, ann: Session, logs_out: bool
) -> None:
    """Nor while one whose session has ended has not been told of as having left."""
    _open(state, ann, "den")
    bob, later = login(state, 2), STARTED_US + RETENTION_US
    state.memberships.join(bob, ROOM, STARTED_US)
    epoch = state.rooms.epoch(ROOM)
    _close(state, ann)
    if logs_out:
        places = region.events.leave_limit
        region.events.leave_limit = region.events.head
        state.sessions.end(bob, STARTED_US)
        with pytest.raises(TableFull):
            _open(state, ann, "den", later)
        region.events.leave_limit = places
        state.sessions.finish_ended(STARTED_US)
    else:
        with pytest.raises(TableFull):
            _open(state, ann, "den", later)
        state.memberships.leave(bob, ROOM, STARTED_US)
    last = state.events.last_seq(ROOM)
    assert _open(state, ann, "den", later) == ROOM
    assert state.rooms.epoch(ROOM) != epoch
    assert state.rooms.first_seq(ROOM) == last + 1
    assert problems(region) == []


def test_not_before_its_last_leave_is_durable(region: Region, state: State, ann: Session) -> None:
    _open(state, ann, "den")
    state.memberships.join(ann, ROOM, STARTED_US)
    _close(state, ann)
    set_word(region, "events", 0, "durable", region.events.head)
    state.memberships.leave(ann, ROOM, STARTED_US)
    later = STARTED_US + RETENTION_US
    with pytest.raises(TableFull):
        _open(state, ann, "den", later)
    set_word(region, "events", 0, "durable", region.events.head)
    assert _open(state, ann, "den", later) == ROOM

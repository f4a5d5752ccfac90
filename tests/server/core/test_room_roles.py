"""Roles in rooms: of which opening they are, and where they stand. Where the table has one place or
none, what needs no place is done, what needs one is refused, and nothing has changed then.
"""

from collections.abc import Iterator

import pytest

from libproto.messages import RoomAccess, RoomRole
from server.core.check import problems
from server.core.errors import TableFull
from server.core.session import Session
from server.core.state import State
from server.region.region import Region
from tests.helpers.region import (
    STARTED_US,
    check_quiet,
    image,
    login,
    next_req_id,
    register,
    small_region,
    state_of,
    watched,
)

NUMBERED, ROOM = 60, 61
OWNER, OTHER, THIRD = 1, 2, 3


@pytest.fixture
def region() -> Iterator[Region]:
    with small_region(roles=1) as made:
        yield made


@pytest.fixture
def state(region: Region) -> State:
    made = state_of(region, numbered_rooms=NUMBERED)
    register(made, "ann", "bob", "cyd")
    return made


@pytest.fixture
def owner(state: State) -> Session:
    session = login(state, OWNER, 7)
    opened = state.changes.open_room(session, "den", 1, 0, STARTED_US, 0)
    assert opened.room == ROOM
    return session


def _give(state: State, session: Session, user: int, role: RoomRole) -> None:
    req_id = next_req_id(session, state.region)
    state.changes.set_role(session, ROOM, user, role, 0, req_id, 0, STARTED_US)


def _roles(state: State) -> list[int]:
    return [state.rooms.standing(ROOM, user).role for user in (OWNER, OTHER, THIRD)]


def test_a_room_is_given_away_with_one_place(state: State, owner: Session) -> None:
    """It is for the moderator that the owner becomes; the new owner needs none."""
    _give(state, owner, OTHER, RoomRole.OWNER)
    assert _roles(state) == [RoomRole.MODERATOR, RoomRole.OWNER, RoomRole.NONE]
    assert problems(state.region) == []
    check_quiet(state.region)


def test_a_room_is_not_given_away_without_a_place(state: State, owner: Session) -> None:
    _give(state, owner, THIRD, RoomRole.MEMBER)
    before = image(state.region)
    with pytest.raises(TableFull):
        _give(state, owner, OTHER, RoomRole.OWNER)
    with pytest.raises(TableFull):
        _give(state, owner, OTHER, RoomRole.BANNED)
    assert image(state.region) == before
    check_quiet(state.region)


def test_who_has_no_role_needs_no_place_for_none(state: State, owner: Session) -> None:
    _give(state, owner, THIRD, RoomRole.MEMBER)
    _give(state, owner, OTHER, RoomRole.NONE)
    assert _roles(state) == [RoomRole.OWNER, RoomRole.NONE, RoomRole.MEMBER]
    _give(state, owner, THIRD, RoomRole.NONE)
    _give(state, owner, OTHER, RoomRole.MUTED)
    assert _roles(state) == [RoomRole.OWNER, RoomRole.MUTED, RoomRole.NONE]
    assert problems(state.region) == []


def test_a_role_far_from_its_first_place_is_found_again() -> None:
    """Its user gets another one, and then none, while a place has come free that is nearer."""
    with small_region(roles=100) as region:
        state = state_of(region, numbered_rooms=NUMBERED)
        register(state, "ann")
        owner = login(state, OWNER, 7)
        state.changes.open_room(owner, "den", 1, 0, STARTED_US, 0)
        rooms = state.rooms
        # All of one first place, so that each stands farther from it than the one before.
        users = [u for u in range(2, 20_000) if not rooms.first_place(ROOM, u)][:100]
        for user in users:
            rooms.set_role(ROOM, user, RoomRole.MEMBER, 0, 0)
        near, far = users[3], users[90]
        rooms.set_role(ROOM, near, RoomRole.NONE, 0, 0)
        for role in (RoomRole.MODERATOR, RoomRole.NONE):
            rooms.set_role(ROOM, far, role, 0, 0)
        rooms.set_role(ROOM, near, RoomRole.MEMBER, 0, 0)
        found = [rooms.standing(ROOM, user).role for user in users]
        assert found == [RoomRole.NONE if user == far else RoomRole.MEMBER for user in users]


def test_a_role_is_of_one_opening_of_the_room() -> None:
    """Its number is used again: who was a moderator is none, and who is banned now is so."""
    with small_region(rooms=ROOM) as region:
        state = state_of(region, numbered_rooms=NUMBERED)
        register(state, "ann", "bob")
        owner = login(state, OWNER, 7)
        for role in (RoomRole.MODERATOR, RoomRole.BANNED):
            opened = state.changes.open_room(
                owner, "den", next_req_id(owner, region), 0, STARTED_US, 0
            )
            assert (opened.room, opened.created) == (ROOM, True)
            assert state.rooms.standing(ROOM, OTHER).role == RoomRole.NONE
            _give(state, owner, OTHER, role)
            assert state.rooms.standing(ROOM, OTHER).role == role
            req_id = next_req_id(owner, region)
            state.changes.set_room(owner, ROOM, "", RoomAccess.CLOSED, req_id, 0, STARTED_US)
        assert problems(region) == []


def test_tables_that_were_used_up_are_not_searched_to_their_end() -> None:
    """Many users had a role, or were blocked, and are not any more: their places are passed over
    only as far as others ever stood from where they are looked for first."""
    loads = 0

    def loaded() -> None:
        nonlocal loads
        loads += 1

    places = 256
    with small_region(roles=places, blocks=places) as region:
        state = state_of(region, numbered_rooms=NUMBERED)
        register(state, "ann", "bob")
        owner = login(state, OWNER, 7)
        state.changes.open_room(owner, "den", 1, 0, STARTED_US, 0)
        for user in range(3, 3 + 9 * places):
            for role in (RoomRole.MUTED, RoomRole.NONE):
                state.rooms.set_role(ROOM, user, role, 0, 0)
            for on in (1, 0):
                state.blocks.store(user, OTHER, on)
        for table in ("roles", "blocks"):
            assert all(region.column(table, "key")), "every place has been used"
        state.rooms.set_role(ROOM, THIRD, RoomRole.MUTED, 0, 0)
        state.blocks.store(OWNER, THIRD, 1)
        seen = state_of(watched(region, loaded=loaded))
        assert seen.rooms.standing(ROOM, OTHER).role == RoomRole.NONE
        assert seen.rooms.standing(ROOM, THIRD).role == RoomRole.MUTED
        assert not seen.blocks.blocks(OWNER, OTHER)
        assert seen.blocks.blocks(OWNER, THIRD)
        assert loads < places


def test_what_many_have_in_common_is_spread() -> None:
    """One user with a role in many rooms, or who is blocked by many."""
    with small_region(roles=1024, blocks=1024) as region:
        state = state_of(region)
        rooms = {state.rooms.first_place(room, OTHER) for room in range(512)}
        assert len(rooms) > 400
        for user in range(512):
            state.blocks.store(user + THIRD, OTHER, 1)
        assert region.registry.block_probes < 16

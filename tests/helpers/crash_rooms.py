"""Changes of named rooms, roles, boards and blocks that a worker dies in: see crash.py."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from libproto.messages import RoomAccess, RoomRole
from server.core.changes import Changed, Changes, Opened
from server.core.errors import Superseded
from server.core.ledger import DONE, RECORDED, SUPERSEDED
from server.core.session import Session
from server.core.state import State
from server.region.records import TEXT_MAX
from server.region.region import Region
from tests.helpers.crash import (
    ANN,
    BOB,
    CYD,
    DEN,
    NOW_US,
    PAID,
    Answer,
    Change,
    World,
    asks,
)
from tests.helpers.region import next_req_id

MOST: Final = 9  # offers that a board may have
SHORT, LONG = "a lamp", "a lamp " * 36 + "here"
TOPIC: Final = "lamps, old and new, of all who have any to give away " * 3
SIZES: Final = {"txn_ring": 16}
assert len(LONG) == TEXT_MAX > len(TOPIC), "two records of TEXT"

Act = Callable[[Changes, Session, int, int, int], Changed | Opened]
"""With the req_id, the flag of POSSIBLE_DUPLICATE and the time."""


@dataclass(frozen=True)
class Alters:
    """A change of a room or a board that is no trade; the answer tells the room_seq, or the room
    that was opened."""

    act: Act
    leaves: tuple[int, int] = (1, 1)

    def ask(self, state: State, session: Session, req_id: int, now: int, *, again: bool) -> Answer:
        try:
            done = self.act(state.changes, session, req_id, int(again), now)
        except Superseded:
            return SUPERSEDED, 0, 0
        told = done.room if isinstance(done, Opened) else done.seq
        return RECORDED if done.recorded else DONE, done.txn, told

    def newest(self, state: State) -> int:
        return state.log.head()


@dataclass
class Entry:
    """One that was put on a board before."""

    number: int = 0


@dataclass(frozen=True)
class Takes:
    """BOARD_TAKE; the answer tells balance and room_seq."""

    room: int
    price: int
    entry: Entry
    leaves: tuple[int, int] = (1, 1)

    def ask(self, state: State, session: Session, req_id: int, now: int, *, again: bool) -> Answer:
        try:
            done = state.changes.take_offer(
                session, self.room, self.entry.number, self.price, req_id, int(again), now
            )
        except Superseded:
            return SUPERSEDED, 0, (0, 0)
        return done.what, done.txn, (done.balance, done.seq)

    def newest(self, state: State) -> int:
        return state.log.head()


# ---- what there is before


class Worked(Protocol):
    """What is prepared: a world of the crash points, or of the crash images."""

    @property
    def region(self) -> Region: ...
    @property
    def doomed(self) -> State: ...
    @property
    def other(self) -> State: ...
    @property
    def ann(self) -> Session: ...
    @property
    def bob(self) -> Session: ...


def opened(world: Worked, state: State, session: Session, name: str = "den") -> None:
    """A room, its owner and Bob in it."""
    req_id = next_req_id(session, world.region)
    room = state.changes.open_room(session, name, req_id, 0, NOW_US, 0).room
    assert room == DEN
    state.memberships.join(session, room, NOW_US)
    if session is not world.bob:
        world.other.memberships.join(world.bob, room, NOW_US)


def anns(world: Worked) -> None:
    opened(world, world.doomed, world.ann)


def _cyds(world: World) -> None:
    """Of Cyd, who is logged in at worker 0 without a client, and has something to spend."""
    opened(world, world.doomed, world.cyd2)
    world.ask(world.doomed, world.cyd2, (1, 0, 40))


def _with_topic(world: World) -> None:
    anns(world)
    _as(world, world.ann).set_room(
        world.ann, DEN, TOPIC, RoomAccess.PUBLIC, next_req_id(world.ann, world.region), 0, NOW_US
    )


def _as(world: Worked, session: Session) -> Changes:
    return (world.other if session is world.bob else world.doomed).changes


def _role(role: RoomRole, *, under: RoomRole = RoomRole.NONE) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        anns(world)
        for each in (under, role):
            if each:
                req_id = next_req_id(world.ann, world.region)
                world.doomed.changes.set_role(world.ann, DEN, BOB, each, 0, req_id, 0, NOW_US)

    return prepare


def used_before(world: Worked) -> None:
    """Bob's room had a topic, a member and an offer, and was closed; nobody is in it."""
    changes, bob = world.other.changes, world.bob
    opened(world, world.other, bob, "lair")

    def req_id() -> int:
        return next_req_id(bob, world.region)

    changes.set_role(bob, DEN, ANN, RoomRole.MODERATOR, 0, req_id(), 0, NOW_US)
    changes.add_offer(bob, DEN, 5, LONG, MOST, req_id(), 0, NOW_US)
    changes.set_room(bob, DEN, TOPIC, RoomAccess.PUBLIC, req_id(), 0, NOW_US)
    changes.set_room(bob, DEN, TOPIC, RoomAccess.CLOSED, req_id(), 0, NOW_US)
    world.other.memberships.leave(bob, DEN, NOW_US)


def offered(
    entry: Entry, of: Callable[[World], Session], room: int, ready: Callable[[World], None]
) -> Callable[[World], None]:
    """Two on the board of a room; the first is the one."""

    def prepare(world: World) -> None:
        ready(world)
        session = of(world)
        found = [
            _as(world, session).add_offer(
                session, room, price, LONG, MOST, next_req_id(session, world.region), 0, NOW_US
            )
            for price in (30, 31)
        ]
        entry.number = found[0].txn

    return prepare


# ---- what is done


def opens(name: str) -> Act:
    return lambda c, s, req_id, again, now: c.open_room(s, name, req_id, again, now, 0)


def sets(topic: str, access: RoomAccess) -> Act:
    return lambda c, s, req_id, again, now: c.set_room(s, DEN, topic, access, req_id, again, now)


def gives(role: RoomRole, seconds: int = 0, user: int = BOB) -> Act:
    return lambda c, s, req_id, again, now: c.set_role(
        s, DEN, user, role, seconds, req_id, again, now
    )


def adds(room: int, text: str) -> Act:
    return lambda c, s, req_id, again, now: c.add_offer(s, room, 7, text, MOST, req_id, again, now)


def removes(room: int, entry: Entry) -> Act:
    return lambda c, s, req_id, again, now: c.remove_offer(
        s, room, entry.number, req_id, again, now
    )


def _asked(
    name: str, act: Act, prepare: Callable[[World], None] = anns, joins: int = DEN, parts: int = 1,
    **capacities: int,
) -> Change:  # fmt: skip
    """Ann's client asks for it. parts: changes that it is made of."""
    asked = asks(name, Alters(act, (parts, parts)), prepare=prepare)
    sizes = SIZES | capacities
    return replace(asked, capacities=sizes, named=True, joins=joins, forms=parts + 1)


def _takes(
    name: str, room: int, ready: Callable[[World], None] = anns, **capacities: int
) -> Change:
    entry = Entry()
    prepare = offered(entry, lambda w: w.bob, room, ready)
    asked = asks(name, Takes(room, 30, entry), PAID, prepare)
    return replace(asked, capacities=SIZES | capacities, named=True, joins=room)


def _alone(name: str, act: Act, prepare: Callable[[World], None] = _cyds, parts: int = 1) -> Change:
    """Cyd does it, without a client."""
    return Change(
        f"{name} without a client",
        lambda w: act(w.doomed.changes, w.cyd2, 1, 0, NOW_US),
        SIZES,
        prepare,
        named=True,
        forms=parts + 1,
    )


def _block(name: str, prepare: Callable[[World], None], *, on: bool) -> Change:
    def act(world: World) -> None:
        world.doomed.blocks.set(world.ann, BOB, on, NOW_US)

    return Change(name, act, SIZES, prepare, named=True)


def _deletes() -> Change:
    """The text of an offer that is on the board."""
    entry = Entry()

    def act(world: World) -> None:
        seq, req_id = world.doomed.events.last_seq(DEN) - 1, next_req_id(world.ann, world.region)
        world.doomed.changes.delete_text(world.ann, DEN, seq, ANN, entry.number, req_id, NOW_US)

    prepare = offered(entry, lambda w: w.ann, DEN, anns)
    return Change("a text is deleted", act, SIZES, prepare, named=True)


def blocked(world: Worked, *, on: bool = True) -> None:
    for other in (CYD, BOB):
        world.doomed.blocks.set(world.ann, other, True, NOW_US)
    if not on:
        world.doomed.blocks.set(world.ann, BOB, False, NOW_US)


def _remove(name: str, ready: Callable[[World], None], room: int) -> Change:
    entry = Entry()
    return _asked(
        name, removes(room, entry), offered(entry, lambda w: w.ann, room, ready), joins=room
    )


def _cydremoves() -> Change:
    entry = Entry()
    prepare = offered(entry, lambda w: w.cyd2, DEN, _cyds)
    return _alone("an offer is removed", removes(DEN, entry), prepare)


def _cyd_takes() -> Change:
    entry = Entry()
    take = Takes(DEN, 30, entry)
    return Change(
        "an offer is taken without a client",
        lambda w: take.ask(w.doomed, w.cyd2, 1, NOW_US, again=False),
        SIZES,
        offered(entry, lambda w: w.ann, DEN, _anns_with_cyd),
        (0, 30, 0, -30),
        named=True,
    )


def _anns_with_cyd(world: World) -> None:
    anns(world)
    world.ask(world.doomed, world.cyd2, (1, 0, 40))
    world.doomed.memberships.join(world.cyd2, DEN, NOW_US)


def nothing(_world: Worked) -> None:
    """No more to prepare."""


PUBLIC, INVITED, CLOSED = RoomAccess.PUBLIC, RoomAccess.INVITED, RoomAccess.CLOSED
ROOM_CHANGES: Final = (
    _asked("a room is opened", opens("den"), nothing, joins=1),
    _asked(
        "a room is opened on a number used before", opens("den"), used_before, joins=1, rooms=DEN
    ),
    _asked("a topic is set", sets(TOPIC, PUBLIC)),
    _asked("a topic is taken away", sets("", PUBLIC), _with_topic),
    _asked("access is set", sets("", INVITED)),
    _asked("topic and access are set", sets(TOPIC, INVITED), parts=2),
    _asked("a room is closed", sets("", CLOSED), joins=1),
    _asked("a room is closed with a last topic", sets(TOPIC, CLOSED), joins=1, parts=2),
    _asked("a member is made", gives(RoomRole.MEMBER)),
    _asked("a moderator is no longer one", gives(RoomRole.NONE), _role(RoomRole.MODERATOR)),
    _asked("a member is muted", gives(RoomRole.MUTED, 60), _role(RoomRole.MEMBER)),
    _asked(
        "a muted member is banned",
        gives(RoomRole.BANNED),
        _role(RoomRole.MUTED, under=RoomRole.MEMBER),
    ),
    _asked("a room is given away", gives(RoomRole.OWNER), _role(RoomRole.MODERATOR)),
    _asked("an offer is added", adds(1, SHORT), nothing, joins=1),
    _asked("an offer of two records is added", adds(DEN, LONG)),
    _asked(
        "an offer is added in a small ring",
        adds(1, LONG),
        nothing,
        joins=1,
        txn_ring=8,
        event_ring=8,
    ),
    _remove("an offer is removed", nothing, 1),
    _remove("an offer in a named room is removed", anns, DEN),
    _takes("an offer is taken", 1, nothing),
    _takes("an offer in a named room is taken", DEN),
    _takes("an offer is taken under one lock", DEN, account_locks=1),
    _takes("an offer is taken with the owner's lock first", DEN, account_locks=2),
    _alone("a room is opened", opens("den"), nothing),
    _alone("topic and access are set", sets(TOPIC, INVITED), parts=2),
    _alone("a room is given away", gives(RoomRole.OWNER)),
    _alone("an offer is added", adds(DEN, LONG)),
    _cydremoves(),
    _cyd_takes(),
    _deletes(),
    _block("a user is blocked", nothing, on=True),
    _block("a user is blocked again", lambda w: blocked(w, on=False), on=True),
    _block("a user is blocked no longer", blocked, on=False),
)


def go_on_in_rooms(world: World, successor: State, ann: Session, bob: Session) -> None:
    """Both workers open a room, trade in it and close it: nothing stands in their way."""
    region, other = world.region, world.other

    def req_id(session: Session) -> int:
        return next_req_id(session, region)

    if region.layout.capacities.rooms == DEN and successor.rooms.is_open(DEN):
        return  # there is no place for another
    late = other.changes.open_room(bob, "late", req_id(bob), 0, NOW_US, 0)
    assert late.created
    room = late.room
    other.memberships.join(bob, room, NOW_US)
    successor.memberships.join(ann, room, NOW_US)
    offered = other.changes.add_offer(bob, room, 1, LONG, MOST, req_id(bob), 0, NOW_US)
    taken = successor.changes.take_offer(ann, room, offered.txn, 1, req_id(ann), 0, NOW_US)
    assert (taken.what, taken.owner) == (DONE, BOB)
    added = successor.changes.add_offer(ann, room, 1, SHORT, MOST, req_id(ann), 0, NOW_US)
    assert [offer.entry for offer in other.boards.offers(room, 0)] == [added.txn]
    other.changes.set_role(bob, room, ANN, RoomRole.MEMBER, 0, req_id(bob), 0, NOW_US)
    other.changes.set_room(bob, room, "", RoomAccess.CLOSED, req_id(bob), 0, NOW_US)
    assert other.boards.count(room) == 0
    successor.memberships.leave(ann, room, NOW_US)
    other.memberships.leave(bob, room, NOW_US)
    on = successor.blocks.set(ann, CYD, on=True, now=NOW_US)
    assert on == 0 or on == successor.log.head()

"""Boards of rooms under load: what a thread knows of their offers, and the verdict on a run.

Requests that take an offer, add or remove one become known by their answers, over any number of
repetitions; of some the outcome is never told. At the end BOARD_LIST shows what is left. So every
offer that was there before or was added has been taken once, or removed once, or is left, and what
is not explained by that must be one of those whose outcome is not known. That a taken offer was
paid for, once, is judged with all other money (`ledger.py`): it is a transfer to its owner.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from bench.lab.caller import Caller
from libproto.messages import LIST_MAX, EventKind, Opcode

NEWEST: Final = 4
"""Most takers take one of so many: so several take the same."""
_ANY: Final = 0.3  # the part that take any other
KINDS: Final = (EventKind.OFFER_ADDED, EventKind.OFFER_REMOVED, EventKind.OFFER_TAKEN)
OPCODES: Final = (Opcode.BOARD_ADD, Opcode.BOARD_TAKE, Opcode.BOARD_REMOVE, Opcode.BOARD_LIST)
_ADD, _TAKE, _REMOVE, _LIST = map(int, OPCODES)


class Offer(NamedTuple):
    room: int
    owner: int  # user_id
    price: int


class Gone(NamedTuple):
    """An offer that was taken or removed."""

    entry: int
    room: int
    user: int  # who did it
    price: int  # paid for it; 0: it was removed


class Market:
    """What one thread knows, and has been told by answers."""

    def __init__(self) -> None:
        self.known: dict[int, Offer] = {}
        self._there: dict[int, dict[int, Offer]] = defaultdict(dict)  # by room and entry_id
        self.added: list[tuple[int, Offer]] = []
        self.gone: list[Gone] = []
        self.unknown: list[tuple[int, int, int]] = []
        """Of requests whose outcome was never told: opcode, room, and entry_id, 0 of an add."""

    def begin(self) -> None:
        """A run begins: nothing was told yet."""
        self.added, self.gone, self.unknown = [], [], []

    # ---- what a thread asks for

    def request(
        self, opcode: int, rooms: list[int], user: int, rng: random.Random, price: int, text: str
    ) -> tuple[int, tuple[Any, ...]]:
        """Opcode and fields of a request in one of these rooms. Where there is nothing to be taken
        or removed, something is added."""
        room = rooms[int(rng.random() * len(rooms))]
        if opcode == _LIST:
            return opcode, (room, 0, LIST_MAX, "")
        if opcode != _ADD:
            is_own = opcode == _REMOVE
            there = self._there[room]
            found = [e for e, offer in reversed(there.items()) if (offer.owner == user) == is_own]
            if found:
                most = len(found) if rng.random() < _ANY else min(NEWEST, len(found))
                entry = found[int(rng.random() * most)]
                fields = (room, entry) if is_own else (room, entry, there[entry].price)
                return opcode, fields
        return _ADD, (room, price, text)

    # ---- what it is told

    def event(self, room: int, kind: int, user: int, message: str) -> None:
        """An event of a room."""
        entry, *more = message.split(" ", 2)
        if kind != EventKind.OFFER_ADDED:
            self._there[room].pop(int(entry), None)
        elif int(entry) not in self.known:
            self._put(int(entry), Offer(room, user, int(more[0])))

    def _put(self, entry: int, offer: Offer) -> None:
        self.known[entry] = self._there[offer.room][entry] = offer

    def answered(self, opcode: int, user: int, asked: tuple[Any, ...], told: int) -> None:
        """A request was answered OK. told: the first field of the answer."""
        if opcode == _ADD:
            offer = Offer(asked[0], user, asked[1])
            self.added.append((told, offer))
            if told not in self.known:
                self._put(told, offer)
        elif opcode != _LIST:
            self.gone.append(Gone(asked[1], asked[0], user, asked[2] if opcode == _TAKE else 0))
            self._there[asked[0]].pop(asked[1], None)

    def refused(self, asked: tuple[Any, ...]) -> None:
        """An offer is not there any more."""
        self._there[asked[0]].pop(asked[1], None)

    def not_told(self, opcode: int, asked: tuple[Any, ...]) -> None:
        """It will not be known whether a request was executed."""
        self.unknown.append((opcode, asked[0], 0 if opcode == _ADD else asked[1]))

    def as_object(self) -> dict[str, Any]:
        """For the leader."""
        return {
            "added": [(entry, *offer) for entry, offer in self.added],
            "gone": self.gone,
            "unknown": self.unknown,
        }


def read(caller: Caller, rooms: Iterable[int]) -> dict[int, Offer]:
    """What is on the boards of these rooms, which the caller joins for it; by entry_id.
    CallFailed."""
    found: dict[int, Offer] = {}
    for room in rooms:
        caller.call(Opcode.JOIN_ROOM, room)
        after = 0
        while True:
            (page,) = caller.call(Opcode.BOARD_LIST, room, after, LIST_MAX, "")
            if not page:
                break
            found |= {entry: Offer(room, user, price) for entry, _, user, _, price, _ in page}
            after = page[-1][0]
        caller.call(Opcode.LEAVE_ROOM, room)
    return found


class Told:
    """A run, as all threads were told of it."""

    def __init__(self, before: Mapping[int, Offer], parts: Iterable[Mapping[str, Any]]) -> None:
        """before: what was on the boards. parts: see Market.as_object."""
        self.offers = dict(before)
        self.twice: list[int] = []  # entry_ids that two requests were answered with
        self.gone: list[Gone] = []
        self.added = 0
        self.unknown: Counter[tuple[int, int, int]] = Counter()
        for part in parts:
            for entry, *offer in part["added"]:
                if entry in self.offers:
                    self.twice.append(entry)
                self.offers[entry] = Offer(*offer)
                self.added += 1
            self.gone += [Gone(*each) for each in part["gone"]]
            self.unknown.update((op, room, entry) for op, room, entry in part["unknown"])

    @property
    def taken(self) -> int:
        return sum(bool(each.price) for each in self.gone)

    def problems(self, left: Mapping[int, Offer]) -> Iterator[str]:
        """What is wrong, with what is left at the end."""
        yield from (f"two offers were given the number {entry}" for entry in self.twice)
        times = Counter(each.entry for each in self.gone)
        strangers: Counter[int] = Counter()  # offers that nobody was told to have added, by room
        for each in self.gone:
            if times[each.entry] > 1:
                yield f"{each}, and it went {times[each.entry]} times"
            offer = self.offers.get(each.entry)
            if offer is None:
                strangers[each.room] += 1
            elif offer.room != each.room or each.price not in (0, offer.price):
                yield f"{each}, and it was {offer}"
            if each.entry in left:
                yield f"{each}, and it is still there"
        for entry, offer in left.items():
            if entry not in self.offers:
                strangers[offer.room] += 1
            elif self.offers[entry] != offer:
                yield f"offer {entry} was {self.offers[entry]}, and is {offer}"
        for entry, offer in self.offers.items():
            lost = entry not in left and not times[entry]
            if lost and not self._may_be_gone(offer.room, entry):
                yield f"offer {entry} has gone, and nobody took or removed it: {offer}"
        for room, count in strangers.items():
            # One that was taken and whose adding is unknown is no other one than the added.
            if count > self.unknown[_ADD, room, 0]:
                yield f"room {room}: {count} offers that nobody has added"

    def _may_be_gone(self, room: int, entry: int) -> bool:
        return bool(self.unknown[_TAKE, room, entry] or self.unknown[_REMOVE, room, entry])

"""The boards of rooms: offers that others can take.

All boards share one pool. An offer changes under the log lock and the event lock together
(`Changes`); it is read without a lock by its commit word, its entry_id, which never comes twice.
One of a room that was closed, or opened anew, does not count, and its place is free.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from server.core.errors import TableFull
from server.core.rooms import Rooms
from server.region.layout import WORD
from server.region.records import OFFSETS, TEXT_MAX, RecordKind
from server.region.region import Region

_AT = OFFSETS[RecordKind.OFFER_ADDED]


class Offer(NamedTuple):
    """An offer of a board."""

    entry: int  # its entry_id
    room: int
    time: int  # when it was added, microseconds since the Unix epoch
    user: int  # its owner
    price: int  # minor units; 0: a note
    text: bytes


class Boards:
    """The boards as one worker sees them."""

    def __init__(self, region: Region, rooms: Rooms) -> None:
        self._region, self._words, self._bytes = region, region.words, region.bytes
        self._rooms = rooms
        self._offers = region.layout["offers"]
        self._count = region.layout["rooms"].offsets["offers"]
        self._free: list[int] = []  # slots that were free when they were looked for

    # ---- reading

    def offer(self, entry: int) -> Offer | None:
        """An offer that is on a board now. Without a lock it may go in the next moment."""
        slot = self._slot_of(entry)
        return None if slot < 0 else self._read(slot, entry)

    def offers(self, room: int, after: int) -> Iterator[Offer]:
        """The offers of a room with an entry_id above `after`, ascending. Each is there when it is
        read; one that is there all the time is among them."""
        if not self._words[self._rooms_at(room)]:
            return
        column = self._region.column
        entries, rooms, opened = map(column, ["offers"] * 3, ("word", "room", "opened"))
        now = self._rooms.opened(room)
        found = [
            (entry, slot)
            for slot, (entry, its_room, its_opening) in enumerate(
                zip(entries, rooms, opened, strict=True)
            )
            if entry > after and its_room == room and its_opening == now
        ]
        for entry, slot in sorted(found):
            offer = self._read(slot, entry)
            if offer is not None:
                yield offer

    def count(self, room: int) -> int:
        """How many offers a room has."""
        return self._words[self._rooms_at(room)]

    def _rooms_at(self, room: int) -> int:
        return self._region.layout["rooms"].at(room) + self._count

    def _slot_of(self, entry: int) -> int:
        """The slot of an offer; below 0: it is not there."""
        if not entry:
            return -1
        try:
            return self._region.column("offers", "word").index(entry)
        except ValueError:
            return -1

    def _read(self, slot: int, entry: int) -> Offer | None:
        words, at = self._words, self._offers.at(slot)
        room, opened, time, user, price, size = words[at + 1 : at + 7].tolist()
        first = self._offers.at(slot, "text") * WORD
        text = bytes(self._bytes[first : first + min(size, TEXT_MAX)])
        if words[at] != entry or not self._counts(room, opened):
            return None
        return Offer(entry, room, time, user, price, text)

    def _counts(self, room: int, opened: int) -> bool:
        """Is an offer of that opening of a room still on its board?"""
        rooms = self._rooms
        return rooms.opened(room) == opened and (not opened or rooms.is_open(room))

    # ---- changes, under the log and event locks

    def check_place(self) -> None:
        """TableFull, unless there is a place for one more."""
        self._free_slot()

    def _free_slot(self) -> int:
        while self._free:
            if self._is_free(self._free[-1]):
                return self._free[-1]
            self._free.pop()
        found = [slot for slot in range(self._offers.records) if self._is_free(slot)]
        if not found:
            raise TableFull("offers")
        self._free = found[::-1]
        return self._free[-1]

    def _is_free(self, slot: int) -> bool:
        words, at = self._words, self._offers.at(slot)
        return not words[at] or not self._counts(words[at + 1], words[at + 2])

    def add(self, record: Sequence[int], text: bytes) -> None:
        """Store the offer that an OFFER_ADDED says. Again without harm, before anything else
        happened to the boards; then `recount` is due."""
        self.put(
            Offer(record[_AT["txn_id"]], record[_AT["room"]], record[_AT["time"]],
                  record[_AT["user"]], record[_AT["value"]], text)
        )  # fmt: skip

    def put(self, offer: Offer, *, is_new: bool = False) -> None:
        """Store an offer of an open room, or of a numbered one. is_new: it is not there yet, for
        who fills a new region."""
        words, slot = self._words, -1 if is_new else self._slot_of(offer.entry)
        new = slot < 0
        if new:
            slot = self._free_slot()
        at, first = self._offers.at(slot), self._offers.at(slot, "text") * WORD
        words[at] = 0
        opened = self._rooms.opened(offer.room)
        values = offer.room, opened, offer.time, offer.user, offer.price, len(offer.text)
        for place, value in enumerate(values, 1):
            words[at + place] = value
        self._bytes[first : first + TEXT_MAX] = offer.text.ljust(TEXT_MAX, b"\0")
        words[at] = offer.entry  # the commit word
        if new:
            words[self._rooms_at(offer.room)] += 1

    def remove(self, entry: int) -> None:
        """Take an offer off its board. Again without harm; then `recount` is due."""
        slot = self._slot_of(entry)
        if slot < 0:
            return
        at = self._offers.at(slot)
        room = self._words[at + 1]
        self._words[at] = 0
        self._words[self._rooms_at(room)] -= 1

    def drop_text(self, entry: int) -> None:
        """An offer that is still on its board has no text any more; 0: of none."""
        slot = self._slot_of(entry)
        if slot >= 0:
            # One word: who reads without a lock finds all of the text, or none.
            self._words[self._offers.at(slot, "text_size")] = 0

    def recount(self) -> None:
        """How many offers each room has, anew. For a repair, and for a new region."""
        counts = [0] * self._region.layout["rooms"].records
        column = self._region.column
        entries, rooms, opened = map(column, ["offers"] * 3, ("word", "room", "opened"))
        for entry, room, opening in zip(entries, rooms, opened, strict=True):
            if entry and self._counts(room, opening):
                counts[room] += 1
        self._region.set_column("rooms", "offers", counts)

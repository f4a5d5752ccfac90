"""What the event ring says of rooms and direct messages, against what clients were told of them.

Every event is taken from the ring once it is there. A number of a room stands for one event for
ever, and what was shown to anybody is there after whatever comes; a message that was asked for once
is there once, however often it was sent.
"""

from typing import Final, NamedTuple

from libproto.codec import PUSH
from libproto.messages import HEADER_LEN, Opcode
from server.core.events import SlotKind
from server.region.layout import WORD
from server.region.region import Region

_decode: Final = PUSH[Opcode.CHAT_BROADCAST].decode
_decode_direct: Final = PUSH[Opcode.DIRECT_MESSAGE].decode

Place = tuple[int, int]
"""A room and a number of it; or the negative id of a user, and a number of the inbox."""


class Said(NamedTuple):
    """An event, without its time."""

    kind: int
    user: int
    text: str


class Rooms:
    """The events so far, and what follows from them."""

    def __init__(self) -> None:
        self._region: Region | None = None
        self.head = 0
        self.said: Final[dict[Place, Said]] = {}
        self._numbers: Final[dict[Place, int]] = {}  # the event of each
        self.shown: Final[set[Place]] = set()
        self._by_request: Final[dict[tuple[int, int, int], Place]] = {}
        self.problems: Final[list[str]] = []

    def pause(self) -> None:
        """There is no region to follow."""
        self._region = None

    def begin(self, region: Region, *, relies: bool) -> None:
        """A server has begun with what was kept. relies: what was shown must be there."""
        kept = region.words[region.events.index("head")]
        for place in [place for place, number in self._numbers.items() if number > kept]:
            if relies and place in self.shown:
                self.problems.append(f"{place}, {self.said[place]}, was shown, and is lost")
            del self.said[place], self._numbers[place]
        if not relies:
            self.shown.clear()
        for request in [key for key, place in self._by_request.items() if place not in self.said]:
            del self._by_request[request]
        self._region = region
        self._ring = region.layout["event_ring"]
        self._head_at = region.events.index("head")
        last = region.column("rooms", "last_seq")
        direct = region.column("users", "direct_seq")
        for room, seq in self.shown:
            newest = direct[-room] if room < 0 else last[room]
            if newest < seq:
                self.problems.append(f"room {room} ends with {newest}, and {seq} was shown")
        self.head = region.words[self._head_at]

    def follow(self) -> None:
        """Take what has been added since."""
        if self._region is None:
            return
        words = self._region.words
        head = words[self._head_at]
        while self.head < head:
            self.head += 1
            at = self._ring.at(self.head % self._ring.records)
            if words[at] == self.head:
                self._take(self._region, at)

    def _take(self, region: Region, at: int) -> None:
        offsets = self._ring.offsets
        names = "kind", "room", "seq", "user", "sender", "client_id", "req_id", "frame_len"
        found = [region.words[at + offsets[name]] for name in names]
        kind, room, seq, user, sender, client_id, req_id, size = found
        if kind == SlotKind.PAYMENT:
            return
        first = (at + offsets["frame"]) * WORD
        frame = bytes(region.bytes[first : first + size])
        if room:
            place = room, seq
            _, _, _, *rest = _decode(frame, HEADER_LEN, size)
            said = Said(rest[0], rest[1], rest[3])
        else:
            place = -user, seq
            _, _, from_user, _, text = _decode_direct(frame, HEADER_LEN, size)
            said = Said(kind, from_user, text)
        number = region.words[at]
        if place in self.said:
            self.problems.append(f"{place} was {self.said[place]}, and is {said} now")
            return
        self.said[place], self._numbers[place] = said, number
        if client_id and sender:
            request = sender, client_id, req_id
            if request in self._by_request:
                self.problems.append(
                    f"request {request} was executed as {self._by_request[request]} and {place}"
                )
            self._by_request[request] = place

    def executed(self, user: int, client_id: int, req_id: int) -> Place | None:
        """The event of a request; None: it has none."""
        return self._by_request.get((user, client_id, req_id))

    def show(self, place: Place, said: Said) -> str:
        """Somebody is shown this: why that is wrong, if it is."""
        self.shown.add(place)
        found = self.said.get(place)
        if found is None:
            self.said[place], self._numbers[place] = said, 0
            return ""  # the ring had gone on before it was looked at
        return "" if found == said else f"shown {said} as {place}, which is {found}"

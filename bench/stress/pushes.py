"""What one user is pushed: the events of its rooms, and the gaps in them."""

from bench.stress import boards
from bench.stress.outcomes import Tally
from bench.stress.rooms import Stream
from libproto import calls
from libproto.codec import PUSH
from libproto.messages import Opcode

# Numbers in place of names, as in `connection`.
_BROADCAST = int(Opcode.CHAT_BROADCAST)
_GAP = int(Opcode.ROOM_GAP)
_ADDED, _TAKEN = int(min(boards.KINDS)), int(max(boards.KINDS))
assert set(range(_ADDED, _TAKEN + 1)) == set(boards.KINDS), "compared as a range"


class Pushes:
    """Takes the pushes of one user."""

    def __init__(self, tally: Tally, name: str, rooms: list[int], *, slow: bool) -> None:
        self.streams = {room: Stream(tally.rooms, name, room, slow=slow) for room in rooms}
        self.joining: set[int] = set()  # rooms it is not in yet
        self._tally = tally
        self._name = name
        self._last: Stream | None = None  # that was told something

    def take(self, opcode: int, buf: bytes, start: int, end: int, now: float) -> None:
        """Its body is there in `buf`."""
        if opcode not in (_BROADCAST, _GAP):
            self.unexpected(f"a push of opcode {opcode:#06x}")
            return
        if opcode == _BROADCAST:
            room, seq, kind, at = calls.event(buf, start, end)
            stream = self._stream(room, opcode, buf, start, end)
            if stream is not None:
                stream.event(seq, kind, buf, start, at, end, now)
            if _ADDED <= kind <= _TAKEN:
                *_, user, _, message = PUSH[opcode].decode(buf, start, end)
                self._tally.market.event(room, kind, user, message)
        else:
            room, first, last = PUSH[opcode].decode(buf, start, end)
            stream = self._stream(room, opcode, buf, start, end)
            if stream is not None:
                stream.gap(first, last)

    def _stream(self, room: int, opcode: int, buf: bytes, start: int, end: int) -> Stream | None:
        """Of the room of a push; None where it is not in it."""
        stream = self._last
        if stream is None or stream.room != room:
            stream = self._last = self.streams.get(room)
        if stream is not None and not (self.joining and room in self.joining):
            return stream
        if room:  # direct messages are not of this load
            fields = PUSH[opcode].decode(buf, start, end)
            self.unexpected(f"it is not in room {room}, and told {fields}")
        return None

    def unexpected(self, text: str) -> None:
        """Something that the protocol does not allow."""
        self._tally.trail.unexpected.append(f"{self._name}: {text}")

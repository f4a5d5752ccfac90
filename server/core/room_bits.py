"""Which rooms a session has joined: a bit for each room in the session's slot."""

from server.region import machine
from server.region.region import Region

_ONE = 1  # a word


class RoomBits:
    """The bits of all sessions' slots, by session slot and room id."""

    def __init__(self, region: Region) -> None:
        sessions = region.layout["sessions"]
        self._view = region.words
        self._words = machine.words_of(region.words)
        self._sessions = sessions
        self._first = sessions.base + sessions.offsets["rooms"]
        self._stride = sessions.stride
        self._length = sessions.lengths["rooms"]

    def _at(self, session: int) -> int:
        return self._first + session * self._stride

    def has(self, session: int, room: int) -> bool:
        """Also asked of a room that there is not, as a client may name any."""
        place, words = room >> 6, self._words
        return place < self._length and bool(words[self._at(session) + place] >> (room & 63) & 1)

    def set(self, session: int, room: int) -> None:
        words, at = self._words, self._at(session) + (room >> 6)
        words[at] = words[at] | _ONE << (room & 63)

    def clear(self, session: int, room: int) -> None:
        words, at = self._words, self._at(session) + (room >> 6)
        words[at] = words[at] & ~(_ONE << (room & 63))

    def clear_all(self, session: int) -> None:
        """No rooms: for a session's slot before it is published."""
        at = self._at(session)
        words = self._words
        for word in range(at, at + self._length):
            words[word] = 0

    def rooms(self, session: int) -> list[int]:
        """The rooms of a session, ascending."""
        at = self._at(session)
        return [
            place << 6 | bit
            for place, word in enumerate(self._view[at : at + self._length].tolist())
            if word
            for bit in range(64)
            if word >> bit & 1
        ]

    def column(self, room: int) -> list[bool]:
        """By session slot: is the room's bit set?"""
        first = self._first + (room >> 6)
        end = self._sessions.base + self._sessions.records * self._stride
        words = self._view[first : end : self._stride].tolist()
        return [bool(word >> (room & 63) & 1) for word in words]

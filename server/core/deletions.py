"""Texts that were deleted: a message, a note of a payment, an offer's text, a file's name.

The event that had the text stays, and so do its slot in the ring and its record in the files; from
the event on that deletes it, nobody is shown the text. The archive learns of that as it comes to
that event. Until then, and while the event may still be in the ring, it is noted in a table of the
region, which workers look at before they push or answer.
"""

from collections.abc import Mapping, Set
from struct import Struct
from typing import Final

from libproto.messages import EventKind
from server.core.errors import EventsFull
from server.region import machine
from server.region.layout import DELETIONS
from server.region.region import Region

KIND_AT: Final = 20
"""The EventKind in the body of a CHAT_BROADCAST."""
_USER_AT: Final = 21
_NAME_AT: Final = 25
_LENGTH: Final = Struct(">H")
_SEQ: Final = Struct(">Q")
_SEQ_AT: Final = 4
_USER: Final = Struct(">I")
_WORD: Final = b"deleted "
# Fields before the text, by the kind of the event: the numbers, and a file's media type.
_FIELDS: Final = {
    int(EventKind.MESSAGE): 0,
    int(EventKind.OFFER_ADDED): 2,
    int(EventKind.PAYMENT): 3,
    int(EventKind.FILE): 3,
}


def seq_of(body: bytes) -> int:
    """The room_seq of the body of a CHAT_BROADCAST."""
    found: int = _SEQ.unpack_from(body, _SEQ_AT)[0]
    return found


def sender_of(body: bytes) -> int:
    """Its from_user."""
    found: int = _USER.unpack_from(body, _USER_AT)[0]
    return found


def _message_at(body: bytes) -> int:
    return _NAME_AT + _LENGTH.size + int(_LENGTH.unpack_from(body, _NAME_AT)[0])


def deleted_by(body: bytes) -> int:
    """The room_seq of the event whose text this event deletes; 0: it deletes none."""
    if len(body) < _NAME_AT + _LENGTH.size or body[KIND_AT] != EventKind.ROOM_CHANGED:
        return 0
    message = body[_message_at(body) + _LENGTH.size :]
    number = message.removeprefix(_WORD)
    return int(number) if message.startswith(_WORD) and number.isdigit() else 0


def without_text(body: bytes) -> bytes:
    """The body with its text left out: the fields before it stay, with their blanks. Of an event
    that has no such text, and where it is empty, the same."""
    count = _FIELDS.get(body[KIND_AT])
    if count is None:
        return body
    at = _message_at(body)
    kept = b"".join(field + b" " for field in body[at + _LENGTH.size :].split(b" ", count)[:count])
    return body[:at] + _LENGTH.pack(len(kept)) + kept


def entry_of(body: bytes) -> int:
    """The entry_id of the offer that the event added; 0: it is of another kind."""
    if body[KIND_AT] != EventKind.OFFER_ADDED:
        return 0
    return int(body[_message_at(body) + _LENGTH.size :].split(b" ", 1)[0])


class Deletions:
    """The table as one process sees it."""

    def __init__(self, region: Region) -> None:
        self._region, self._view = region, region.words
        self._words = machine.words_of(region.words)
        self._table = region.layout["deletions"]
        self.count_at: Final = region.events.index("deletions")
        """The word that counts them: where it has changed, there are more."""
        self._head = region.events.index("head")
        self._ring = region.layout.capacities.event_ring
        self._reached = region.archive.index("reached")
        self._archive_pid = region.archive.index("pid")
        self._seen, self._current = 0, dict[int, set[int]]()

    def current(self) -> Mapping[int, Set[int]]:
        """The room_seqs of events whose text is not to be shown, by room. Without a lock."""
        count = machine.look(self._words, self.count_at)
        if count != self._seen:
            self._seen, self._current = count, self._read()
        return self._current

    def _read(self) -> dict[int, set[int]]:
        column, found = self._region.column, dict[int, set[int]]()
        before = column("deletions", "event")
        rooms, seqs = column("deletions", "room"), column("deletions", "seq")
        after = column("deletions", "event")
        for event, room, seq, still in zip(before, rooms, seqs, after, strict=True):
            if event and still == event:
                found.setdefault(room, set()).add(seq)
        return found

    def is_hidden(self, room: int, seq: int) -> bool:
        """Is the text of an event not to be shown?"""
        return seq in self.current().get(room, ())

    def hidden(self, room: int) -> Set[int]:
        """The room_seqs of a room whose text is not to be shown."""
        return self.current().get(room, frozenset())

    def shown(self, room: int, bodies: list[bytes], before: Set[int]) -> list[bytes]:
        """Bodies of CHAT_BROADCAST of a room as they may be shown. before: what was `hidden` when
        the archive was asked for them: the table may have let go of it by now."""
        hidden = self.hidden(room) | before
        if not hidden:
            return bodies
        return [without_text(body) if seq_of(body) in hidden else body for body in bodies]

    # ---- under the event lock

    def check_place(self) -> None:
        """EventsFull, unless there is a place for one more: the one that stands there is needed no
        longer when the ring has moved past its event, and the archive has come to it."""
        words = self._view
        event = words[self._table.at(words[self.count_at] % DELETIONS)]
        if not event:
            return
        reached = words[self._reached] if words[self._archive_pid] else event
        if event + self._ring > words[self._head] or event > reached:
            raise EventsFull

    def add(self, room: int, seq: int, event: int) -> None:
        """Note it. event: the one that deletes it. Again without harm, before another is noted."""
        words, count = self._view, self._view[self.count_at]
        last = self._table.at((count - 1) % DELETIONS)
        if count and words[last : last + 3].tolist() == [event, room, seq]:
            return
        at = self._table.at(count % DELETIONS)
        machine.retract(self._words, at)
        words[at + 1], words[at + 2] = room, seq
        machine.publish(self._words, at, event)
        machine.publish(self._words, self.count_at, count + 1)

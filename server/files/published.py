"""Which files are published: the event of kind 8 is the truth, and this is derived from it.

While the server runs, this process follows the event ring up to what may be shown. What was stored
and has not been seen there (the process was away for longer than the ring goes back, or the server
was started anew) is looked up in the archive's history of its room. Until that is known, it is
neither there nor not: whoever asks is told to come again.
"""

import time
from collections import deque
from typing import Final

import liblog
from libproto.codec import PUSH
from libproto.errors import PeerError
from libproto.messages import HEADER_LEN, LIST_MAX, EventKind, Opcode
from server.core.deletions import KIND_AT
from server.core.state import State
from server.files.archive import Asking
from server.files.errors import Busy, FilesError, NotThere
from server.files.holds import Holds
from server.files.place import room_of
from server.files.records import File
from server.files.store import Listed, Store

_BYTES: Final = 48 << 10  # of bodies in one answer of the archive
_decode: Final = PUSH[Opcode.CHAT_BROADCAST].decode
_TIME_AT: Final = 12  # in the body of a CHAT_BROADCAST

log = liblog.get("files")


class NotKnownYet(Busy):
    def __init__(self) -> None:
        super().__init__("the server is finding out whether this file is published")


def file_id_of(body: bytes) -> int:
    """Which file the body of a CHAT_BROADCAST publishes; 0: none."""
    if len(body) <= KIND_AT or body[KIND_AT] != EventKind.FILE:
        return 0
    try:
        message: str = _decode(body, 0, len(body))[-1]
    except PeerError:
        return 0
    number = message.partition(" ")[0]
    return int(number) if number.isdigit() else 0


class Published:
    """What is published, as this process knows it."""

    def __init__(self, state: State, store: Store, holds: Holds, asking: Asking | None) -> None:
        """Nobody's state: only what reads without a lock is used. asking: of the archive; None:
        there is none."""
        self._state, self._store, self._holds, self._asking = state, store, holds, asking
        words, events = state.region.words, state.region.events
        self._words = words
        self._released, self._durable = events.index("released"), events.index("durable")
        self._seen = max(0, state.region.events.first - 1)
        self._shown: deque[tuple[int, int]] = deque()  # event and file_id, not durable yet
        self._shown_ids: set[int] = set()
        self._unknown: dict[int, Listed] = self._unpublished()
        """Stored before, and not known to be published or not."""
        self._questions: deque[tuple[int, int]] = deque()  # room, room_seq to go on after
        self._asked = 0.0
        self._look_up()

    def find(self, file_id: int) -> File:
        """A file that is published. NotThere, NotKnownYet."""
        file = self._store.find(file_id)
        if not self.is_there(file_id):
            if file_id in self._unknown:
                raise NotKnownYet
            raise NotThere("no such file")
        return file

    def is_there(self, file_id: int) -> bool:
        if file_id in self._shown_ids or self._store.is_published(file_id):
            return True
        self.follow()  # its event may have come just now
        return file_id in self._shown_ids or self._store.is_published(file_id)

    def check_open(self, file_id: int) -> None:
        """Whether a file, if it is one, may still be published. NotThere, NotKnownYet."""
        self.follow()
        if file_id in self._shown_ids:
            raise NotThere("this file is published already")
        if file_id in self._unknown:
            raise NotKnownYet

    def turn(self) -> None:
        """Follow what has happened since, and go on with what is asked of the archive."""
        self.follow()
        self._go_on()

    def follow(self) -> None:
        """Take up the events that may be shown."""
        events, newest = self._state.events, self._words[self._released]
        newest = min(newest, events.head())
        if self._seen + 1 < events.oldest() and self._seen < newest:
            self._seen = events.oldest() - 1
            self._lapped()
        while self._seen < newest:
            event = events.read(self._seen + 1)
            if event is None:
                self._seen = max(self._seen, events.oldest() - 1)
                self._lapped()
                continue
            self._seen += 1
            if event.kind == EventKind.FILE and event.room:
                self._show(self._seen, file_id_of(event.frame[HEADER_LEN:]))
        self._settle()

    def _show(self, event: int, file_id: int) -> None:
        if file_id and file_id not in self._shown_ids:
            self._store.never_again(file_id)
            self._holds.published(file_id)
            self._shown.append((event, file_id))
            self._shown_ids.add(file_id)
            self._unknown.pop(file_id, None)

    def _settle(self) -> None:
        """What is durable by now is written down."""
        durable = self._words[self._durable]
        while self._shown and self._shown[0][0] <= durable:
            if not self._publish(self._shown[0][1]):
                return
            self._shown_ids.discard(self._shown.popleft()[1])

    def _publish(self, file_id: int) -> bool:
        try:
            self._store.published(file_id)
            self._state.region.files.published += 1
        except NotThere:
            log.warning("file_missing", file_id=file_id, what="its event is there, and it is not")
        except FilesError as error:
            log.error("file_not_noted", file_id=file_id, reason=str(error))
            return False
        return True

    # ---- what has to be looked up

    def _lapped(self) -> None:
        """Events went by unseen: what is stored and not published may have been in them."""
        self._unknown |= self._unpublished()
        self._look_up()

    def _unpublished(self) -> dict[int, Listed]:
        stored = {each.file.file_id: each for each in self._store.files() if not each.published}
        return {number: each for number, each in stored.items() if number not in self._shown_ids}

    def _look_up(self) -> None:
        rooms = sorted({room_of(each.file.room) for each in self._unknown.values()})
        self._questions = deque((room, 0) for room in rooms)
        self._asked = 0.0

    @property
    def busy(self) -> bool:
        """Is there something that waits for the archive?"""
        return bool(self._questions)

    def _go_on(self) -> None:
        if not self._questions:
            return
        if self._asking is None:
            self._questions.clear()
            self._unknown.clear()
            return
        room, after = self._questions[0]
        found = self._asking.events(room, after, LIST_MAX, _BYTES)
        if found is None:
            return
        oldest, bodies = found
        if bodies and oldest > 1 and not after:
            self._trust_older(room, int.from_bytes(bodies[0][_TIME_AT:KIND_AT], "big"))
        if not bodies:
            # The archive has all that is durable, or what follows is in the ring and was followed.
            self._questions.popleft()
            for file_id, listed in tuple(self._unknown.items()):
                if room_of(listed.file.room) == room:
                    del self._unknown[file_id]
            return
        last = after
        for body in bodies:
            last = int.from_bytes(body[4:12], "big")
            if (file_id := file_id_of(body)) in self._unknown and self._publish(file_id):
                del self._unknown[file_id]
        self._questions[0] = room, last

    def _trust_older(self, room: int, time_us: int) -> None:
        """The history of a room does not go back beyond this time. What was stored before it may
        have been announced there, so it counts as that: nothing announced is lost."""
        for file_id, listed in tuple(self._unknown.items()):
            is_older = room_of(listed.file.room) == room and listed.at < time_us
            if is_older and self._publish(file_id):
                del self._unknown[file_id]


def clock_us() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000

"""What a chat shows, without any terminal: buffers with their lines, what of them is unread, who is
in a room, and what the status line says.

A buffer is a room, a conversation with one person, or what the program itself has to say; other
views may follow as further kinds. Numbers of rooms and of events are the wire's.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from client.chat.board import Board
from client.core.room_events import AccessChanged, RoleChanged, TopicChanged, read_event
from client.terminal.room_lines import plain_name
from client.terminal.style import Line, Style
from libproto.messages import ChatBroadcast, RoomAccess, RoomRole

ENTRIES_MAX: Final = 10_000
"""Lines that a buffer keeps; older ones of a room can be fetched again."""


class Kind(Enum):
    """What a buffer is."""

    PROGRAM = "program"
    ROOM = "room"
    BOARD = "board"
    DIRECT = "direct"


class Sort(Enum):
    """What a line is; the value is what it begins with where it is nobody's message. No username
    has one of these characters, so that no message looks like a line of the program."""

    SAID = ""
    PRESENCE = "-"
    SYSTEM = "*"
    MONEY = "\u00a4"
    RESULT = "="
    REMARK = "\u00b7"
    WRONG = "!"


COUNTED: Final = frozenset({Sort.SAID, Sort.SYSTEM, Sort.MONEY, Sort.WRONG})
"""Lines that are unread where nobody looks; who comes and goes is not."""


@dataclass(eq=False, slots=True)
class Entry:
    """A line of a buffer. time_us: of the wire. line: as it stands alone, with its place; body: in
    its buffer, behind `who`. seq: of an event of a room or a direct message, else 0."""

    sort: Sort
    time_us: int
    line: Line
    body: Line
    who: str = ""
    seq: int = 0
    is_mention: bool = False


@dataclass(eq=False, slots=True)
class Buffer:
    """What is read in one place."""

    kind: Kind
    name: str
    """How a person names it: a room's number, a username, or `chat`."""
    room: int = 0
    called: str = ""
    """The name of a room that has one, as its owner wrote it."""
    topic: str = ""
    access: RoomAccess = RoomAccess.PUBLIC
    role: RoomRole = RoomRole.NONE
    """What this person is in the room."""
    changes: int = 0
    """Events that changed the room, of those that came."""
    board: Board | None = None
    """What is looked at in a buffer of that kind."""
    entries: list[Entry] = field(default_factory=list)
    unread: int = 0
    mentions: int = 0
    older: int = 0
    """Up to this number there may be older events, which are not here; 0: there are none."""
    members: dict[str, bool] = field(default_factory=dict)
    """Who is in the room, or was heard in it: name, and whether they are there now."""
    bottom: tuple[int, int] | None = None
    """Where somebody has scrolled to: the entry and its row at the lower end; None follows what
    comes."""
    draft: str = ""
    """What is typed and not yet sent."""

    @property
    def title(self) -> str:
        """What it is called, in the words of others too: to be made harmless where it is shown."""
        match self.kind:
            case Kind.ROOM:
                return f"#{self.called}" if self.called else f"room {self.name}"
            case Kind.BOARD:
                return f"board of {f'#{self.called}' if self.called else f'room {self.name}'}"
            case Kind.DIRECT:
                return f"@{self.name}"
        return self.name

    def present(self) -> list[str]:
        """Who is there, and then who was heard and is not, each in order."""
        return sorted(self.members, key=lambda name: (not self.members[name], name.lower()))


class Model:
    """All that one person is shown."""

    def __init__(self, own_name: str = "") -> None:
        self.own_name = own_name
        self.buffers: list[Buffer] = [Buffer(Kind.PROGRAM, "chat")]
        self._recent: list[Buffer] = [*self.buffers]  # the last is the active one
        self.names: dict[int, str] = {0: ""}
        """Of users who are known by their ids."""
        self.highlights: tuple[str, ...] = ()
        """Words that are a mention, beside one's own name."""
        self.ignored: frozenset[str] = frozenset()
        """Users whose messages are not shown."""
        self.balance: int | None = None
        """Minor units; None: not known."""
        self.balance_txn = 0
        """The transaction that it was after."""
        self.is_connected = True
        self.lag_ms: int | None = None
        """From a request to its answer; None: not measured."""

    # ---- buffers

    @property
    def program(self) -> Buffer:
        return self.buffers[0]

    @property
    def active(self) -> Buffer:
        return self._recent[-1]

    @property
    def rooms(self) -> list[int]:
        """The joined rooms, the one that was active last at the end."""
        return [buffer.room for buffer in self._recent if buffer.kind is Kind.ROOM]

    def room(self, room: int) -> Buffer | None:
        return next(
            (each for each in self.buffers if each.room == room and each.kind is Kind.ROOM), None
        )

    def board(self, room: int) -> Buffer | None:
        return next(
            (each for each in self.buffers if each.room == room and each.kind is Kind.BOARD), None
        )

    def direct(self, name: str) -> Buffer | None:
        return next(
            (each for each in self.buffers if each.kind is Kind.DIRECT and each.name == name), None
        )

    def open_room(self, room: int) -> Buffer:
        """The buffer of a room, made if there is none; rooms stand in order of their numbers."""
        found = self.room(room)
        return self._put(Buffer(Kind.ROOM, str(room), room)) if found is None else found

    def open_board(self, room: int) -> Buffer:
        """The buffer of the board of a joined room, made if there is none; it stands behind it."""
        if (found := self.board(room)) is not None:
            return found
        of = self.room(room)
        called = "" if of is None else of.called
        return self._put(Buffer(Kind.BOARD, str(room), room, called=called, board=Board()))

    def open_direct(self, name: str) -> Buffer:
        """The buffer of a conversation, made if there is none."""
        found = self.direct(name)
        return self._put(Buffer(Kind.DIRECT, name)) if found is None else found

    def _put(self, buffer: Buffer) -> Buffer:
        order = [*Kind]

        def place(each: Buffer) -> tuple[bool, bool, int, int, str]:
            kind = each.kind
            return (
                kind is not Kind.PROGRAM,
                kind is Kind.DIRECT,
                each.room,
                order.index(kind),
                each.name,
            )

        self.buffers.append(buffer)
        self.buffers.sort(key=place)
        self._recent.insert(0, buffer)
        return buffer

    def close(self, buffer: Buffer) -> None:
        """Take a buffer away; the one that was active before it is active then."""
        if buffer is self.program:
            return
        board = self.board(buffer.room) if buffer.kind is Kind.ROOM else None
        if board is not None:
            self.close(board)
        was_active = buffer is self.active
        self.buffers.remove(buffer)
        self._recent.remove(buffer)
        if was_active:
            self.switch(self.active)

    def switch(self, buffer: Buffer) -> None:
        """Make a buffer the active one: it is read by that."""
        self._recent.remove(buffer)
        self._recent.append(buffer)
        buffer.unread = buffer.mentions = 0

    def named(self, name: str) -> Buffer | None:
        """The buffer of a name: its place from 1, a room's number like `#7`, a title, a user, the
        name of a room. What somebody has called a room is looked at last."""
        if name.isascii() and name.isdigit() and 0 < int(name) <= len(self.buffers):
            return self.buffers[int(name) - 1]
        wanted = name.lower()
        for buffer in self.buffers:
            names = {buffer.name.lower()}
            if buffer.kind is Kind.ROOM:
                names = {f"room {buffer.name}", f"#{buffer.name}"}
            elif buffer.kind is Kind.BOARD:
                names = {f"board of room {buffer.name}"}
            elif buffer.kind is Kind.DIRECT:
                names.add(buffer.title.lower())
            if wanted in names:
                return buffer
        wanted = "" if name.startswith("@") else plain_name(name.removeprefix("#"))
        called = [each for each in self.buffers if each.called and each.kind is Kind.ROOM]
        return next((each for each in called if plain_name(each.called) == wanted), None)

    def beside(self, step: int) -> Buffer:
        """The buffer so many places further than the active one, round about."""
        place = self.buffers.index(self.active)
        return self.buffers[(place + step) % len(self.buffers)]

    def next_unread(self) -> Buffer | None:
        """The buffer to look at next: one with mentions before one with anything."""
        waiting = [each for each in self.buffers if each.unread and each is not self.active]
        return max(waiting, key=lambda each: (bool(each.mentions), each.unread), default=None)

    # ---- lines

    def add(self, buffer: Buffer, entry: Entry, *, is_read: bool = False) -> None:
        """Put a line at the end. is_read: it is nothing new, whatever is looked at."""
        buffer.entries.append(entry)
        if entry.who and entry.sort is Sort.SAID and buffer.kind is Kind.ROOM:
            buffer.members.setdefault(entry.who, False)
        is_looked_at = buffer is self.active and buffer.bottom is None
        if not (is_read or is_looked_at) and entry.sort in COUNTED and entry.who != self.own_name:
            buffer.unread += 1
            buffer.mentions += entry.is_mention
        surplus = len(buffer.entries) - ENTRIES_MAX
        if surplus > 0:
            self._drop(buffer, surplus)

    @staticmethod
    def _drop(buffer: Buffer, count: int) -> None:
        numbers = [entry.seq for entry in buffer.entries[:count]]
        buffer.older = max([buffer.older, *numbers])
        del buffer.entries[:count]
        if buffer.bottom is not None:
            place, row = buffer.bottom
            buffer.bottom = (place - count, row) if place >= count else (0, 0)

    @staticmethod
    def prepend(buffer: Buffer, entries: Sequence[Entry], older: int) -> None:
        """Put older lines before the others. older: as the buffer's."""
        buffer.entries[:0] = entries
        buffer.older = older
        if buffer.bottom is not None:
            place, row = buffer.bottom
            buffer.bottom = place + len(entries), row

    def remove(self, buffer: Buffer, entry: Entry) -> None:
        """Take a line away, if it is there."""
        if entry not in buffer.entries:
            return
        place = buffer.entries.index(entry)
        del buffer.entries[place]
        if buffer.bottom is not None and place <= buffer.bottom[0]:
            buffer.bottom = max(0, buffer.bottom[0] - 1), 0

    def learn_balance(self, balance: int, txn_id: int) -> None:
        """It was so after that transaction: of news that come late, older ones do not count."""
        if txn_id >= self.balance_txn:
            self.balance, self.balance_txn = balance, txn_id

    def is_mention(self, text: str) -> bool:
        """Whether a message names this person, or one of the words to be highlighted."""
        words = [word for word in (self.own_name, *self.highlights) if word]
        return any(
            re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", text, re.IGNORECASE)
            for word in words
        )

    @staticmethod
    def find(buffer: Buffer, wanted: str, before: int | None = None) -> int | None:
        """The place of the last line before `before` (None: of all) that has a text in it, whatever
        the case; None: there is none."""
        wanted = wanted.casefold()
        end = len(buffer.entries) if before is None else before
        for place in range(end - 1, -1, -1):
            entry = buffer.entries[place]
            if entry.sort in COUNTED | {Sort.PRESENCE} and wanted in searched(entry).casefold():
                return place
        return None

    # ---- what a room is

    def changed(self, event: ChatBroadcast, own_id: int) -> None:
        """Follow an event that changes the room, as it came."""
        buffer = self.room(event.room_id)
        if buffer is None:
            return
        match read_event(event):
            case TopicChanged(topic):
                buffer.topic = topic
            case AccessChanged(access):
                buffer.access = access
            case RoleChanged(user_id, role):
                if user_id == own_id:
                    buffer.role = role
                elif role == RoomRole.OWNER and buffer.role == RoomRole.OWNER:
                    buffer.role = RoomRole.MODERATOR  # who gives a room away becomes that
            case _:
                return
        buffer.changes += 1

    # ---- who is there

    def came(self, room: int, name: str) -> None:
        if buffer := self.room(room):
            buffer.members[name] = True

    def went(self, room: int, name: str) -> None:
        if (buffer := self.room(room)) and name in buffer.members:
            buffer.members[name] = False

    def present(self, room: int, names: Iterable[str]) -> None:
        """These are the members of a room now."""
        if buffer := self.room(room):
            heard = dict.fromkeys(buffer.members, False)
            buffer.members = {**heard, **dict.fromkeys(names, True)}


def searched(entry: Entry) -> str:
    """The text that is searched of a line."""
    text = "".join(part if isinstance(part, str) else part[1] for part in entry.body)
    return f"{entry.who}: {text}" if entry.sort is Sort.SAID else text


def remark(time_us: int, line: Line) -> Entry:
    """A line of the program about what goes on."""
    return Entry(Sort.REMARK, time_us, line, line)


def wrong(time_us: int, text: str) -> Entry:
    """A line of the program about what went wrong."""
    line: Line = [(Style.WRONG, text)]
    return Entry(Sort.WRONG, time_us, line, line)

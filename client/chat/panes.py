"""The parts of the screen beside the messages, as lines: rooms, members, title, status, help.

Pure, so that they are tested without a terminal.
"""

from collections.abc import Sequence
from typing import Final

from client.amounts import format_amount
from client.chat.command import Command
from client.chat.model import Buffer, Kind, Model
from client.terminal.room_lines import access_word
from client.terminal.style import Line, Style
from client.terminal.text import fitted, width_of
from client.terminal.wrap import wrap
from libproto.messages import RoomAccess, RoomRole

ROOMS_WIDTH: Final = 18
MEMBERS_WIDTH: Final = 18
ROOMS_FROM: Final = 60
"""Columns from which on the rooms are shown; below, they are folded away."""
MEMBERS_FROM: Final = 80
PLACE_MAX: Final = 40
"""Columns of the name that stands before the input line."""

KEYS: Final = (
    ("Enter", "send; Alt-Enter begins another line of the same message"),
    ("Tab", "complete a command, user, room, buffer or setting; in a message, a name"),
    ("Up, Down", "what was typed before; Ctrl-R searches it"),
    ("PageUp, PageDown", "scroll; older messages are fetched by themselves"),
    ("Ctrl-Home, Ctrl-End", "the oldest that is here; the newest"),
    ("Alt-1 \u2026 Alt-9", "go to a buffer; Ctrl-N and Ctrl-P the next and the one before"),
    ("Alt-A", "go to the buffer with something unread, mentions first"),
    ("On a board", "Up, Down, PageUp, PageDown move the cursor; / finds a text, alone all again"),
    ("  t", "pay for the offer under the cursor and take it; asks, and y or n answers"),
    ("  d", "take an entry of your own off; asks"),
    ("  q, Esc", "leave the board"),
    ("F1", "this help, and back"),
    ("F2, F3", "fold the rooms, the members away or show them"),
    ("Ctrl-L", "draw the screen anew"),
    ("Ctrl-C", "drop what is typed; give up what waits; end the chat where there is neither"),
    ("Ctrl-D", "end the chat, on an empty line"),
    ("Ctrl-Z", "stop the program; `fg` in the shell goes on"),
)


_DOT: Final = " \u00b7 "


def rooms(model: Model, width: int = ROOMS_WIDTH) -> list[Line]:
    """The buffers with what is unread of them."""
    found: list[Line] = []
    for number, buffer in enumerate(model.buffers, 1):
        unread = f" {buffer.unread}" if buffer.unread else ""
        mark = "!" if buffer.mentions else ""
        space = width - len(f"{number} ") - len(unread) - len(mark)
        name = fitted(buffer.title, space)
        name += " " * (space - width_of(name))
        style = Style.QUIET
        if buffer is model.active:
            style = Style.ACTIVE
        elif buffer.mentions:
            style = Style.MENTION
        elif buffer.unread:
            style = Style.PERSON
        found.append([(Style.QUIET, f"{number} "), (style, f"{name}{unread}{mark}")])
    return found


def members(buffer: Buffer, width: int = MEMBERS_WIDTH) -> list[Line]:
    """Who is in a room, and below who was heard and has gone."""
    found: list[Line] = []
    for name in buffer.present():
        is_there = buffer.members[name]
        sign = (Style.MONEY, "\u25cf ") if is_there else (Style.QUIET, "\u25cb ")
        text = fitted(name, width - 2)
        found.append([sign, text if is_there else (Style.QUIET, text)])
    return found


def title(buffer: Buffer, width: int) -> str:
    """What is looked at, whether there is more below, and of a room the topic: one row, with
    blanks at its end."""
    parts = [fitted(buffer.title, width)]
    there = sum(buffer.members.values())
    if buffer.kind is Kind.BOARD:
        parts.append("t takes, d drops, / finds, q leaves")
    elif buffer.kind is Kind.ROOM:
        parts.append(f"{there} member{'' if there == 1 else 's'}")
        if buffer.access != RoomAccess.PUBLIC:
            parts.append(access_word(buffer.access))
        if buffer.role != RoomRole.NONE:
            parts.append(f"you are {buffer.role.name.lower()}")
    elif buffer.kind is Kind.DIRECT and buffer.name in buffer.members:
        parts.append("online" if buffer.members[buffer.name] else "offline")
    if buffer.bottom is not None:
        parts.append(f"\u2193 {buffer.unread} more below" if buffer.unread else "\u2193 more below")
    text = parts[0]
    for part in parts[1:]:
        if width_of(text) + len(_DOT) + len(part) <= width:
            text += f"{_DOT}{part}"
    left = width - width_of(text) - len(_DOT)
    if buffer.topic and left > 0:
        text += f"{_DOT}{fitted(buffer.topic, left)}"
    return text + " " * (width - width_of(text))  # what has no width needs something behind it


def status(model: Model, width: int, *, note: str = "", shows_rooms: bool = True) -> Line:
    """Who one is, the balance, the connection and its lag; on a narrow screen what is unread."""
    balance = "\u2026" if model.balance is None else format_amount(model.balance)
    who: Line = [model.own_name]
    money: Line = [(Style.MONEY, f"balance {balance}")]
    lag = "" if model.lag_ms is None else f", lag {model.lag_ms} ms"
    connection: Line = [f"connected{lag}"]
    if not model.is_connected:
        connection = [(Style.WRONG, "reconnecting\u2026")]
    notes: list[Line] = [[(Style.MENTION, note)]] if note else []
    parts = [who, money, connection, *notes]
    if not shows_rooms:  # it is narrow: what does not fit is at the end
        unread = [
            _unread(number, buffer)
            for number, buffer in enumerate(model.buffers, 1)
            if buffer.unread
        ]
        parts = [*unread, *notes, connection, money, who]
        if not model.is_connected:
            parts = [connection, *unread, *notes, money, who]
    line: Line = [" "]
    used = 1
    for number, part in enumerate(parts):
        text = "".join(each if isinstance(each, str) else each[1] for each in part)
        separator = " \u00b7 " if number else ""
        if used + len(separator) + width_of(text) > width:
            break
        used += len(separator) + width_of(text)
        line += [separator, *part] if separator else part
    return line


def _unread(number: int, buffer: Buffer) -> Line:
    style = Style.MENTION if buffer.mentions else Style.PERSON
    return [(style, f"{number}:{fitted(buffer.title, ROOMS_WIDTH)} {buffer.unread}")]


def help_rows(commands: Sequence[Command], width: int) -> list[Line]:
    """What F1 shows."""
    column = max(len(key) for key, _ in KEYS) + 2
    usage = max(len(command.usage) for command in commands) + 2
    found: list[Line] = [[(Style.MENTION, "Keys")]]
    for key, about in KEYS:
        found += wrap([(Style.PERSON, key.ljust(column)), about], width, column)
    found += [[""], [(Style.MENTION, "Commands")]]
    for command in commands:
        found += wrap([(Style.PERSON, command.usage.ljust(usage)), command.about], width, usage)
    more = "say it in the current room or conversation; //TEXT says /TEXT"
    found += wrap([(Style.PERSON, "TEXT".ljust(usage)), more], width, usage)
    return found

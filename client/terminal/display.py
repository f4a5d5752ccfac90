"""What people see: lines made of styled parts, and the one door through which they go out.

Everything that is shown passes `Screen`, which escapes what could steer a terminal; so no caller
can forget it, whether the text came from another user, the server or the command line. Styles
become colours only on a terminal, and only where NO_COLOR does not forbid it.
"""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from client.amounts import format_amount
from client.core.room_events import read_event
from client.terminal import room_lines
from client.terminal.style import Line, Part, Style
from client.terminal.text import MONEY, escape, isolate
from client.terminal.wrap import wrap
from libcli.output import complain, put_line
from libproto.messages import (
    ChatBroadcast,
    DirectMessage,
    EventKind,
    Payment,
    RoomGap,
    Transaction,
    TxnKind,
)


def text_of(line: Line) -> str:
    """The text of a line, as it is."""
    return "".join(part if isinstance(part, str) else part[1] for part in line)


def may_colour(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Tell whether colours are wanted there: a terminal that has them, and no NO_COLOR."""
    if stream is None or not stream.isatty():  # None: the program was started without it
        return False
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


INDENT = 4
"""Columns before what is continued of a line."""


def columns_of(stream: TextIO | None) -> int:
    """The columns of the terminal there; 0 where there is none."""
    try:
        if stream is None or not stream.isatty():
            return 0
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # it has no descriptor, or was closed
        return 0


class Screen:
    """Where lines go: results to standard output, remarks and errors to standard error."""

    def __init__(self, *, as_json: bool = False) -> None:
        """as_json: results are wanted as one JSON object per line."""
        self.as_json = as_json
        self._colour = {
            name: may_colour(stream, os.environ)
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))
        }

    def result(self, line: Line, fields: Mapping[str, Any]) -> None:
        """Show what was asked for: the line, or the fields as JSON. OutputFailed."""
        if self.as_json:
            self._write("stdout", _json(fields))
        else:
            self.show(line)

    def show(self, line: Line) -> None:
        """Show a line on standard output; on a terminal, what is too long goes on below, indented.
        OutputFailed."""
        width = columns_of(sys.stdout)
        if not width:
            self._write("stdout", self._paint("stdout", line))
            return
        for row in wrap(line, width, INDENT):
            self._write("stdout", self._paint("stdout", row, is_safe=True))

    def remark(self, *line: Part) -> None:
        """Say what goes on, on standard error."""
        if self.as_json:
            self._write("stderr", _json({"message": text_of([*line])}))
        else:
            self._write("stderr", self._paint("stderr", [*line]))

    def complain(self, text: str) -> None:
        """Say what went wrong, on standard error."""
        self.remark((Style.WRONG, text))

    def ring(self) -> None:
        """Ring the bell of the terminal, if that is where messages go."""
        if self._colour["stderr"] and sys.stderr is not None:
            sys.stderr.write("\a")
            sys.stderr.flush()

    def failed(self, text: str, fields: Mapping[str, Any]) -> None:
        """Say what ended the program, on standard error; in JSON with the fields."""
        if self.as_json:
            self._write("stderr", _json({**fields, "message": text}))
        else:
            self.complain(text)

    def _paint(self, name: str, line: Line, *, is_safe: bool = False) -> str:
        """is_safe: the text is escaped."""
        parts = []
        for part in line:
            style, text = (None, part) if isinstance(part, str) else part
            if not (is_safe or style is Style.MARK):
                text = isolate(escape(text))
            if style is not None and self._colour[name]:
                text = f"\x1b[{style.value}m{text}\x1b[0m"
            parts.append(text)
        return "".join(parts)

    def _write(self, name: str, text: str) -> None:
        if name == "stdout":
            put_line(text)
        else:
            complain(text)


def _json(fields: Mapping[str, Any]) -> str:
    # All of ASCII: JSON may hold the terminal's control characters, and a C1 or a
    # bidirectional override written out would steer it.
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":"))


# ---- lines


def moment(time_us: int) -> str:
    """Return a wire time as local date and time with the zone's distance from UTC; one that no
    calendar has, as its number."""
    try:
        local = datetime.fromtimestamp(time_us // 1_000_000, UTC).astimezone()
        return local.isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{time_us} us"


def _place(room_id: int) -> Part:
    return (Style.PLACE, f"[room {room_id}]")


NOBODY: Mapping[int, str] = {}


def is_shown(event: ChatBroadcast) -> bool:
    """False for an event of a kind that is not known here, or not as its kind is: such a one is
    shown as nothing."""
    return event.kind in _SAID_AS_THEY_ARE or read_event(event) is not None


_SAID_AS_THEY_ARE = (EventKind.MESSAGE, EventKind.JOINED, EventKind.LEFT, EventKind.SYSTEM)


def event_line(
    event: ChatBroadcast, *, dated: bool = False, names: Mapping[int, str] = NOBODY
) -> Line:
    """A room's event that is to be shown: `[room 7] alice: hello`, `[room 7] alice joined`; `dated`
    puts its time before it. names: of users that it is about."""
    line: Line = [(Style.QUIET, moment(event.time)), " "] if dated else []
    line += [_place(event.room_id), " "]
    match event.kind:
        case EventKind.MESSAGE:
            return [*line, (Style.PERSON, event.from_name), ": ", event.message]
        case EventKind.JOINED:
            return [*line, (Style.QUIET, f"{event.from_name} joined")]
        case EventKind.LEFT:
            return [*line, (Style.QUIET, f"{event.from_name} left")]
        case EventKind.SYSTEM:
            return [*line, (Style.QUIET, f"* {event.message}")]
    return [*line, (Style.QUIET, "* "), *room_lines.said_line(event, names)]


def gap_line(gap: RoomGap) -> Line:
    """What cannot be shown any more."""
    count = gap.last_seq - gap.first_seq + 1
    if not gap.room_id:
        return [(Style.WRONG, f"direct messages were missed ({count}), and are kept no longer")]
    which = f"events {gap.first_seq} to {gap.last_seq}" if count > 1 else f"event {gap.first_seq}"
    return [_place(gap.room_id), " ", (Style.WRONG, f"{which} cannot be fetched any more")]


def direct_line(message: DirectMessage, *, dated: bool = False) -> Line:
    """A direct message to this user; `dated` puts its time before it."""
    head: Line = [(Style.QUIET, moment(message.time)), " "] if dated else []
    return [
        *head,
        (Style.PLACE, f"[{message.from_name} -> you]"),
        " ",
        message.message,
    ]


def payment_line(payment: Payment) -> Line:
    """Money that came in: `bob paid you 12.50, balance 30.00`."""
    return [
        (Style.PERSON, payment.from_name),
        (Style.MONEY, f" paid you {format_amount(payment.amount)}"),
        f", balance {format_amount(payment.balance)}",
    ]


def receipt_line(done: str, amount: int, balance: int) -> Line:
    """What a money command did: `paid bob 12.50, balance 17.50`; `done` is its first part."""
    return [
        (Style.MONEY, f"{done} {format_amount(amount)}"),
        f", balance {format_amount(balance)}",
    ]


def of_money(line: Line) -> Line:
    """The line with the mark that tells it from everything that others can write."""
    return [(Style.MARK, f"{MONEY} "), *line]


def balance_line(balance: int) -> Line:
    return ["balance ", (Style.MONEY, format_amount(balance))]


def transaction_line(entry: Transaction, own_id: int, names: Mapping[int, str]) -> Line:
    """A row of the history, as its owner sees it: `#12 2026-01-31 12:00:00 paid bob 12.50, ...`."""
    head: Line = [(Style.QUIET, f"#{entry.txn_id} {moment(entry.time)} ")]
    match entry.kind:
        case TxnKind.DEPOSIT:
            done = "deposited"
        case TxnKind.WITHDRAW:
            done = "withdrew"
        case _ if entry.from_user == own_id:
            done = f"paid {names[entry.to_user]}"
        case _:
            done = f"{names[entry.from_user]} paid you"
    return head + receipt_line(done, entry.amount, entry.balance)


OLDER_ARE_GONE = "there were older transactions, which the server does not keep any more"


# ---- fields, for JSON. Names are the wire's; amounts are minor units, times microseconds.


def event_fields(event: ChatBroadcast | RoomGap) -> dict[str, Any]:
    """An event, or a gap of events that are gone; `event` says which, by name. What is not known
    here is a number."""
    if isinstance(event, RoomGap):
        return {"event": "gap", **event._asdict()}
    fields = event._asdict()
    fields |= room_lines.said_fields(event)
    return {"event": _name(EventKind, fields.pop("kind")), **fields}


def transaction_fields(entry: Transaction, names: Mapping[int, str]) -> dict[str, Any]:
    """A transaction, with the names of its two users; the world outside (user 0) has none."""
    return {
        **entry._asdict(),
        "kind": _name(TxnKind, entry.kind),
        "from_name": names[entry.from_user],
        "to_name": names[entry.to_user],
    }


def _name(kinds: type[EventKind] | type[TxnKind], number: int) -> str:
    try:
        return kinds(number).name.lower()
    except ValueError:
        return str(number)

"""What people see: lines made of styled parts, and the one door through which they go out.

Everything that is shown passes `Screen`, which escapes what could steer a terminal; so no caller
can forget it, whether the text came from another user, the server or the command line. Styles
become colours only on a terminal, and only where NO_COLOR does not forbid it.
"""

import json
import os
import sys
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any, TextIO

from client.amounts import format_amount
from libcli.output import complain, put_line
from libproto.messages import (
    ChatBroadcast,
    DirectMessage,
    EventKind,
    Payment,
    RoomEntry,
    RoomGap,
    Transaction,
    TxnKind,
)


class Style(Enum):
    """What a part of a line is; the value is its SGR parameter (ECMA-48, 8.3.117)."""

    PLACE = "36"
    PERSON = "1"
    QUIET = "2"
    MONEY = "32"
    WRONG = "31"


Part = str | tuple[Style, str]
Line = list[Part]


# Control, format and separator characters, and halves of surrogate pairs. Two joiners that
# scripts and emoji need stand in the same category and do no harm.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")


def escape(text: str) -> str:
    r"""Return the text with what could steer a terminal, or fake a line, written like \x1b."""
    if text.isascii() and text.isprintable():  # the usual case
        return text
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in _UNSAFE and char not in _JOINERS
        else char
        for char in text
    )


def may_colour(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Tell whether colours are wanted there: a terminal that has them, and no NO_COLOR."""
    if stream is None or not stream.isatty():  # None: the program was started without it
        return False
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


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
            # All of ASCII: JSON may hold the terminal's control characters, and a C1 or a
            # bidirectional override written out would steer it.
            self._write("stdout", json.dumps(fields, ensure_ascii=True, separators=(",", ":")))
        else:
            self.show(line)

    def show(self, line: Line) -> None:
        """Show a line on standard output. OutputFailed."""
        self._write("stdout", self._paint("stdout", line))

    def remark(self, *line: Part) -> None:
        """Say what goes on, on standard error."""
        self._write("stderr", self._paint("stderr", [*line]))

    def complain(self, text: str) -> None:
        """Say what went wrong, on standard error."""
        self._write("stderr", self._paint("stderr", [(Style.WRONG, text)]))

    def _paint(self, name: str, line: Line) -> str:
        parts = []
        for part in line:
            style, text = (None, part) if isinstance(part, str) else part
            text = escape(text)
            if style is not None and self._colour[name]:
                text = f"\x1b[{style.value}m{text}\x1b[0m"
            parts.append(text)
        return "".join(parts)

    def _write(self, name: str, text: str) -> None:
        if name == "stdout":
            put_line(text)
        else:
            complain(text)


# ---- lines


def moment(time_us: int) -> str:
    """Return a wire time as local date and time; one that no calendar has, as its number."""
    try:
        return f"{datetime.fromtimestamp(time_us // 1_000_000):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{time_us} us"


def _place(room_id: int) -> Part:
    return (Style.PLACE, f"[room {room_id}]")


def event_line(event: ChatBroadcast, *, dated: bool = False) -> Line:
    """A room's event: `[room 7] alice: hello`, `[room 7] alice joined`; `dated` puts its time
    before it."""
    line: Line = [(Style.QUIET, moment(event.time)), " "] if dated else []
    line += [_place(event.room_id), " "]
    match event.kind:
        case EventKind.MESSAGE:
            return [*line, (Style.PERSON, event.from_name), f": {event.message}"]
        case EventKind.JOINED:
            return [*line, (Style.QUIET, f"{event.from_name} joined")]
        case EventKind.LEFT:
            return [*line, (Style.QUIET, f"{event.from_name} left")]
    return [*line, (Style.QUIET, f"* {event.message}")]


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
        f" {message.message}",
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


def room_line(room: RoomEntry) -> Line:
    members = f"{room.member_count} member{'' if room.member_count == 1 else 's'}"
    return [_place(room.room_id), f" {members}, last event {room.last_seq}"]


# ---- fields, for JSON. Names are the wire's; amounts are minor units, times microseconds.


def event_fields(event: ChatBroadcast | RoomGap) -> dict[str, Any]:
    """An event, or a gap of events that are gone; `event` says which, by name."""
    if isinstance(event, RoomGap):
        return {"event": "gap", **event._asdict()}
    fields = event._asdict()
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

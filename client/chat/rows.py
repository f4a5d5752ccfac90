"""The lines of a buffer as rows of a terminal: pure, so that it is tested without one.

A row begins with the local time, then who spoke and a colon, or the sign of a line that is the
program's own; what is continued is indented below the text. Before the first line of a day stands
which day it is, and in which zone the times are.
"""

from datetime import UTC, datetime
from typing import Final

from client.chat.model import Buffer, Entry, Sort
from client.terminal.style import Line, Part, Style
from client.terminal.wrap import wrap

INDENT: Final = 6  # the time and a blank
NO_TIME: Final = "--:--"

_SIGN_STYLES: Final = {
    Sort.MONEY: Style.MARK,
    Sort.WRONG: Style.WRONG,
    Sort.SYSTEM: Style.PLACE,
}


def local(time_us: int) -> datetime | None:
    """A time of the wire where this program runs; None: no calendar has it."""
    try:
        return datetime.fromtimestamp(time_us // 1_000_000, UTC).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def clock(time_us: int) -> str:
    """Hour and minute, of five characters."""
    moment = local(time_us)
    return NO_TIME if moment is None else f"{moment:%H:%M}"


def day_line(time_us: int, width: int) -> Line:
    """Which day it is from here on, and the zone of the times."""
    moment = local(time_us)
    if moment is None:
        return [(Style.QUIET, "\u2500\u2500")]
    zone = moment.isoformat()[-6:]
    text = f"\u2500\u2500 {moment:%A} {moment.day} {moment:%B %Y} (UTC{zone}) "
    return [(Style.QUIET, (text + "\u2500" * width)[:width])]


def entry_line(entry: Entry) -> Line:
    """A line as it is shown in its buffer, before it is wrapped."""
    head: list[Part] = [(Style.QUIET, f"{clock(entry.time_us)} ")]
    if entry.sort is Sort.SAID:
        style = Style.MENTION if entry.is_mention else Style.PERSON
        return [*head, (style, entry.who), ": ", *entry.body]
    sign = entry.sort.value
    return [*head, (_SIGN_STYLES.get(entry.sort, Style.QUIET), f"{sign} "), *entry.body]


def rows_of(buffer: Buffer, place: int, width: int, *, joins: bool = True) -> list[Line]:
    """The rows of one entry, that of a new day before it included. joins: whether who comes and
    goes is shown."""
    entry = buffer.entries[place]
    if entry.sort is Sort.PRESENCE and not joins:
        return []
    rows = wrap(entry_line(entry), width, INDENT)
    moment = local(entry.time_us)
    before = local(buffer.entries[place - 1].time_us) if place else None
    if moment is not None and (before is None or before.date() != moment.date()):
        rows.insert(0, day_line(entry.time_us, width))
    return rows


def page(buffer: Buffer, width: int, height: int, *, joins: bool = True) -> list[Line]:
    """The rows to show: as many as fit, up to where somebody has scrolled to."""
    rows: list[Line] = []
    place, last_row = buffer.bottom or (len(buffer.entries) - 1, -1)
    while place >= 0 and len(rows) < height:
        found = rows_of(buffer, place, width, joins=joins)
        if last_row >= 0:
            found = found[: last_row + 1]
        rows = found + rows
        place, last_row = place - 1, -1
    return rows[-height:] if height > 0 else []


def scroll(buffer: Buffer, width: int, height: int, step: int, *, joins: bool = True) -> bool:
    """Move the rows that are shown: up by a positive step, down by a negative one. Answers whether
    the beginning is reached, so that what is older is to be fetched."""
    if step >= 0:
        return _up(buffer, width, height, step, joins)
    _down(buffer, width, -step, joins)
    return False


def _up(buffer: Buffer, width: int, height: int, step: int, joins: bool) -> bool:
    place, row = buffer.bottom or (len(buffer.entries) - 1, -1)
    if place < 0:
        return True
    if row < 0:
        row = len(rows_of(buffer, place, width, joins=joins)) - 1
    left = step
    while left > row:
        if place == 0:
            break
        left -= row + 1
        place -= 1
        row = len(rows_of(buffer, place, width, joins=joins)) - 1
    row = max(0, row - left)
    buffer.bottom = _not_above(buffer, (place, row), width, height, joins)
    return len(page(buffer, width, height + 1, joins=joins)) <= height


def _not_above(
    buffer: Buffer, bottom: tuple[int, int], width: int, height: int, joins: bool
) -> tuple[int, int] | None:
    """Where the page would begin above the first row: the lowest row of the first page."""
    needed = height
    for place in range(len(buffer.entries)):
        count = len(rows_of(buffer, place, width, joins=joins))
        if count >= needed:
            first = place, needed - 1
            return max(bottom, first)
        needed -= count
        if place > bottom[0] + height:
            break
    else:
        return None  # all of it fits on the page
    return bottom


def _down(buffer: Buffer, width: int, step: int, joins: bool) -> None:
    if buffer.bottom is None:
        return
    place, row = buffer.bottom
    while place < len(buffer.entries):
        count = len(rows_of(buffer, place, width, joins=joins))
        if row + step < count:
            buffer.bottom = place, row + step
            break
        step -= count - row
        place, row = place + 1, 0
    else:
        buffer.bottom = None
        return
    if buffer.bottom >= (len(buffer.entries) - 1, count - 1):
        buffer.bottom = None


def show_at(buffer: Buffer, place: int, width: int, height: int, *, joins: bool = True) -> None:
    """Scroll so that an entry is shown, in the middle where it can be."""
    below, rows = place, 0
    while below < len(buffer.entries) - 1 and rows < height // 2:
        below += 1
        rows += len(rows_of(buffer, below, width, joins=joins))
    at_end = below == len(buffer.entries) - 1
    last = len(rows_of(buffer, below, width, joins=joins)) - 1
    bottom = _not_above(buffer, (below, max(0, last)), width, height, joins)
    buffer.bottom = None if at_end else bottom

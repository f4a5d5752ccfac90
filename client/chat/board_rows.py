"""A board as rows of a terminal: pure, so that they are tested without one."""

from typing import Final

from client.amounts import format_amount
from client.chat import rows
from client.chat.model import Buffer
from client.terminal import display, room_lines
from client.terminal.style import Line, Style
from client.terminal.text import fitted, width_of
from client.terminal.wrap import wrap
from libproto.messages import BoardEntry

NOTICES: Final = 3
"""Lines about what has happened, at most."""
DETAILS: Final = 4
"""Rows that an entry has at most where it is shown in full."""
_OWNER_WIDTH: Final = 14
_OWNER_FROM: Final = 44
_AGE_FROM: Final = 34
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))


def age(time_us: int, now_us: int) -> str:
    """How long ago that was: `3d`, `2h`, `5m`, `now`."""
    seconds = max(0, now_us - time_us) // 1_000_000
    return next((f"{seconds // size}{unit}" for size, unit in _UNITS if seconds >= size), "now")


def board_rows(buffer: Buffer, width: int, height: int, now_us: int, question: str) -> list[Line]:
    """What is shown of a board: a question about it before all else, the list with the cursor in
    it, the entry under the cursor in full, and what has happened."""
    board = buffer.board
    assert board is not None, "only boards are shown as such"
    asked = question_rows(question, width)[:height]
    left = height - len(asked)
    notices: list[Line] = []
    for place in range(len(buffer.entries) - 1, -1, -1)[:NOTICES]:
        notices = rows.rows_of(buffer, place, width) + notices
    notices = notices[-max(0, min(NOTICES, left - 1)) :] if left > 1 else []
    left -= len(notices)
    details: list[Line] = []
    if (entry := board.selected) is not None and not asked and left > DETAILS + 3:
        line = [*room_lines.entry_line(entry), (Style.QUIET, f" {display.moment(entry.time)}")]
        details = [[""], *wrap(line, width, 2)[:DETAILS]]
    left -= len(details)
    found = _listed(buffer, width, left, now_us)
    blank: list[Line] = [[""]] * (left - len(found))
    return [*found, *blank, *details, *notices, *asked]


def question_rows(question: str, width: int) -> list[Line]:
    """A question, all of it."""
    return wrap([(Style.MENTION, question)], width, 2) if question else []


def _listed(buffer: Buffer, width: int, height: int, now_us: int) -> list[Line]:
    board = buffer.board
    assert board is not None, "only boards are shown as such"
    shown = board.shown()
    head = f"{len(shown)} of {len(board)}" if board.wanted else f"{len(board)}"
    head += f" entr{'y' if len(board) == 1 else 'ies'}"
    if board.wanted:
        head += f" with {fitted(board.wanted, max(1, width - width_of(head) - 6))}"
    found: list[Line] = [[(Style.QUIET, fitted(head, width) if not board.wanted else head)]]
    space = max(0, height - 1)
    numbers = [entry.entry_id for entry in shown]
    place = numbers.index(board.cursor) if board.cursor in numbers else 0
    first = max(0, min(place - space // 2, len(shown) - space))
    found += [
        _row(entry, width, now_us, is_selected=entry.entry_id == board.cursor)
        for entry in shown[first : first + space]
    ]
    return found[: max(0, height)]


def _row(entry: BoardEntry, width: int, now_us: int, *, is_selected: bool) -> Line:
    price = format_amount(entry.price) if entry.price else "note"
    head = f"{'>' if is_selected else ' '} #{entry.entry_id:<5} {price:>10} "
    if width >= _OWNER_FROM:
        owner = fitted(entry.username, _OWNER_WIDTH)
        head += f"{owner}{' ' * (_OWNER_WIDTH - width_of(owner))} "
    if width >= _AGE_FROM:
        head += f"{age(entry.time, now_us):>4} "
    text = fitted(entry.text or "(deleted)", max(0, width - width_of(head)))
    style = Style.ACTIVE if is_selected else Style.QUIET
    return [(style, head[:width]), (Style.ACTIVE, text) if is_selected else text]

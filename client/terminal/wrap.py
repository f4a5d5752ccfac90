"""A line in rows of a terminal: what is too long goes on below, indented.

So whatever somebody writes, no row of it begins where a line of the program begins.
"""

from collections.abc import Iterator

from client.terminal.style import Line, Part, Style
from client.terminal.text import clusters, escape, isolate, width_of

TAB = "    "
NARROWEST = 8
"""Columns that are there for text at least, whatever is indented."""

WIDE = 2

_Cell = tuple[Style | None, str, int]  # a part that stays together, and its columns


def wrap(line: Line, width: int, indent: int) -> list[Line]:
    """The rows of a line, none wider than `width` columns, all but the first indented by `indent`.

    What could steer a terminal is escaped; a newline begins a row. Words stay whole where they fit.
    """
    width = max(width, NARROWEST + 1)
    indent = min(indent, width - NARROWEST)
    rows: list[Line] = []
    for cells in _paragraphs(line):
        for row in _broken(cells, width, indent, is_first=not rows):
            rows.append(_joined(row, indent if rows else 0))
    return rows


def _paragraphs(line: Line) -> Iterator[list[_Cell]]:
    """The cells of each line of a text that has several."""
    cells: list[_Cell] = []
    for part in line:
        style, text = (None, part) if isinstance(part, str) else part
        for number, piece in enumerate(text.split("\n")):
            if number:
                yield cells
                cells = []
            if style is not Style.MARK:
                piece = escape(piece.replace("\t", TAB))
            cells += [(style, cluster, width_of(cluster)) for cluster in clusters(piece)]
    yield cells


def _broken(
    cells: list[_Cell], width: int, indent: int, *, is_first: bool
) -> Iterator[list[_Cell]]:
    """The cells of each row."""
    space = width if is_first else width - indent
    start, used, after_blank = 0, 0, 0
    place = 0
    while place < len(cells):
        _, cluster, columns = cells[place]
        if used + columns > space and place > start:
            # A blank at the end of a row is not shown, wherever it would have stood.
            end = place
            if cluster != " " and after_blank > start and _fits(cells, after_blank, width - indent):
                end = after_blank
            yield _without_blanks(cells[start:end])
            start = place = end
            while place < len(cells) and cells[place][1] == " ":
                start = place = place + 1
            space, used, after_blank = width - indent, 0, 0
            continue
        used += columns
        place += 1
        if cluster == " " or columns == WIDE:  # Chinese has no blanks: a row may end anywhere
            after_blank = place
    yield cells[start:]


def _fits(cells: list[_Cell], start: int, space: int) -> bool:
    """Whether the word that begins there has space in a row of its own."""
    for _, cluster, columns in cells[start:]:
        if cluster == " ":
            break
        space -= columns
        if space < 0:
            return False
    return True


def _without_blanks(row: list[_Cell]) -> list[_Cell]:
    """A row that goes on below, without the blanks at its end."""
    end = len(row)
    while end and row[end - 1][1] == " ":
        end -= 1
    return row[:end]


def _joined(cells: list[_Cell], indent: int) -> Line:
    """The cells as parts of one style each."""
    parts: list[Part] = [" " * indent] if indent else []
    style: Style | None = None
    text = ""
    for cell_style, cluster, _ in cells:
        if cell_style is not style and text:
            parts.append(_part(style, text))
            text = ""
        style = cell_style
        text += cluster
    if text:
        parts.append(_part(style, text))
    return parts


def _part(style: Style | None, text: str) -> Part:
    text = isolate(text)
    return text if style is None else (style, text)

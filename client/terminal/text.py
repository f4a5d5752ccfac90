"""Text from others, made harmless, and how wide it is on a terminal.

What could steer a terminal, ring, or fake a line is written like \\x1b; so is what turns the
direction of text round. Text that runs from right to left is isolated (Unicode's FSI and PDI), so
that it turns nothing around it; the marks that such text has stay in it.

Width is counted character by character, as terminals do. Where they differ, which is with emoji
that are made of several characters, what is shown is the parts, which have one width everywhere.
"""

import unicodedata
from collections.abc import Iterator
from typing import Final

from wcwidth import wcwidth

# Control, format and separator characters, and halves of surrogate pairs. Two joiners that
# scripts and emoji need stand in the same category and do no harm.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS: Final = frozenset("\u200c\u200d")
_MARKS: Final = frozenset("\u200e\u200f\u061c")
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})
FIRST_STRONG_ISOLATE: Final = "\u2068"
POP_ISOLATE: Final = "\u2069"
MONEY: Final = "\u00a4"
"""What lines about money begin with, and no text of others can have."""
ELLIPSIS: Final = "\u2026"
_COMBINING_MAX: Final = 8  # on one character; more would be drawn over the lines around
_VARIATIONS: Final = frozenset("\ufe0e\ufe0f")
_FLAG_LETTERS: Final = range(0x1F1E6, 0x1F200)
_SKINS: Final = range(0x1F3FB, 0x1F400)


def escape(text: str) -> str:
    r"""Return the text with what could steer a terminal, or fake a line, written like \x1b."""
    if text.isascii() and text.isprintable():  # the usual case
        return text
    return "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char in _JOINERS or char in _MARKS:
        return char
    if char == MONEY or unicodedata.category(char) in _UNSAFE:
        return char.encode("unicode_escape").decode("ascii")
    return char


def isolate(text: str) -> str:
    """Return the text so that its direction turns nothing around it."""
    if text.isascii() or not any(map(_turns, text)):
        return text
    return f"{FIRST_STRONG_ISOLATE}{text}{POP_ISOLATE}"


def _turns(char: str) -> bool:
    return char in _MARKS or unicodedata.bidirectional(char) in _RIGHT_TO_LEFT


def width_of(text: str) -> int:
    """Columns that escaped text needs."""
    return len(text) if text.isascii() else sum(max(0, wcwidth(char)) for char in text)


def clusters(text: str) -> Iterator[str]:
    """The text in parts that stay together: each a character with those that are drawn onto it."""
    part, marks = "", 0
    for char in settled(text):
        if part and wcwidth(char) == 0:
            marks += 1
            if marks <= _COMBINING_MAX:
                part += char
            continue
        if part:
            yield part
        part, marks = char, 0
    if part:
        yield part


def fitted(text: str, width: int) -> str:
    """Return text of others, made harmless, in at most so many columns of one row; an ellipsis
    shows that it is cut."""
    parts, used = [*clusters(escape(text))], 0
    columns = [width_of(part) for part in parts]
    if sum(columns) <= width:
        return isolate("".join(parts))
    count = 0
    while count < len(parts) and used + columns[count] < width:
        used += columns[count]
        count += 1
    return isolate("".join(parts[:count])) + ELLIPSIS[: max(0, width)]


def settled(text: str) -> str:
    """Return the text without what terminals do not agree about the width of."""
    if text.isascii():
        return text
    found: list[str] = []
    for char in text:
        code = ord(char)
        follows_emoji = bool(found) and wcwidth(found[-1]) == 2
        if char in _VARIATIONS or (follows_emoji and (char == "\u200d" or code in _SKINS)):
            continue
        if code in _FLAG_LETTERS:
            char = chr(ord("A") + code - _FLAG_LETTERS.start)
        found.append(char)
    return "".join(found)

"""Which texts and usernames the protocol takes where others are shown them.

A text that others see must not be able to disturb how the rest of their screen reads: no control
characters, no line breaks beside the newline of a message, and nothing that turns the direction of
writing and stays open past its line. A username must not be taken for another one.
"""

import re
from typing import Final

from libproto.messages import FILE_NAME_MAX, MEDIA_TYPE_MAX, USERNAME_PATTERN

CLIENT_NAME_MAX: Final = 64
"""Bytes of UTF-8 of `client_name` in HELLO."""
RESERVED_NAMES: Final = ("admin", "server", "system", "tradechat")
"""Usernames that nobody registers, in any case, nor one that looks like one of them."""

_OPEN_EMBEDDING, _OPEN_ISOLATE = "\u202a\u202b\u202d\u202e", "\u2066\u2067\u2068"
_CLOSE_EMBEDDING, _CLOSE_ISOLATE = "\u202c", "\u2069"
_TURNS = _OPEN_EMBEDDING + _OPEN_ISOLATE + _CLOSE_EMBEDDING + _CLOSE_ISOLATE

_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    chr(plane | last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF)
)
_NEVER = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029" + _NONCHARACTERS
_BAD_IN_A_LINE = re.compile(f"[\t\n{_NEVER}]")
_BAD_IN_LINES = re.compile(f"[{_NEVER}]")
_TURN = re.compile(f"[{_TURNS}]")
_TURN_OR_END = re.compile(f"[\n{_TURNS}]")

_LOOKS_LIKE: Final = (("rn", "m"), ("vv", "w"), ("i", "l"), ("1", "l"), ("0", "o"))


def may_be_shown(text: str, *, lines: bool = False) -> bool:
    """Whether a text may be shown to others. lines: a message, which may hold tabs and newlines."""
    # All that is refused is not printable to Python either, and few texts hold any of that.
    if text.isprintable():
        return True
    if (_BAD_IN_LINES if lines else _BAD_IN_A_LINE).search(text):
        return False
    return not _TURN.search(text) or _turns_are_closed(text)


def _turns_are_closed(text: str) -> bool:
    """Whether embeddings, overrides and isolates are closed in order before their line ends, and
    nothing else is closed."""
    expected: list[str] = []  # what closes those that are open
    for found in _TURN_OR_END.finditer(text):
        turn = found[0]
        if turn in _OPEN_EMBEDDING:
            expected.append(_CLOSE_EMBEDDING)
        elif turn in _OPEN_ISOLATE:
            expected.append(_CLOSE_ISOLATE)
        elif turn == "\n":
            if expected:
                return False
        elif not expected or expected.pop() != turn:
            return False
    return not expected


_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_MEDIA_TYPE = re.compile(rf"{_WORD}/{_WORD}\Z")


def may_name_a_file(name: str) -> bool:
    """Whether a file may have that name. It is shown to others, and is never a path: a program
    that stores the file under it stays in its directory."""
    return (
        0 < len(name.encode()) <= FILE_NAME_MAX
        and not name.startswith(".")
        and "/" not in name
        and may_be_shown(name)
    )


def is_media_type(text: str) -> bool:
    """Whether a text is `token/token`, of the tokens of RFC 9110."""
    return len(text) <= MEDIA_TYPE_MAX and _MEDIA_TYPE.match(text) is not None


def skeleton(username: str) -> str:
    """What usernames that look alike have in common. Two users never have the same."""
    name = username.lower()
    for shown, like in _LOOKS_LIKE:
        name = name.replace(shown, like)
    return name


_RESERVED = frozenset(map(skeleton, RESERVED_NAMES))


def may_be_registered(username: str) -> bool:
    """Whether a REGISTER may have that name, if no user has one that looks like it."""
    return (
        USERNAME_PATTERN.match(username) is not None
        and username[0] not in "-."
        and username[-1] != "."
        and skeleton(username) not in _RESERVED
    )

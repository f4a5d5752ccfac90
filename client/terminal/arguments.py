"""What people give to commands, read into what the library takes; the chat and the command line
share it. Each function raises ValueError with a sentence for them.
"""

from collections.abc import Callable

from libproto.messages import USERNAME_PATTERN

HISTORY_COUNT = 20
"""Events of a room that are shown where nobody says how many."""
TXNS_COUNT = 10
"""Transactions that are shown where nobody says how many."""
SECONDS_MAX = 86400 * 365
KEY_MAX = 200
ROOM_NAME_MAX = 64
"""Bytes of the name of a room."""
_DIGITS_MAX = 18  # of a whole number that is surely no typing error, and fits into a u64


def read_count(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX and int(text)):
        raise ValueError(f"{_quoted(text)} is no whole number from 1")
    return int(text)


def read_room(text: str) -> int:
    """The number of a room; which of them exist is for the server to say."""
    try:
        room = read_count(text)
    except ValueError:
        room = 0
    if not 0 < room < 2**32:
        raise ValueError(f"{_quoted(text)} is no room: rooms are numbered from 1")
    return room


def read_place(text: str) -> int | str:
    """A room, by its number or its name."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return read_room(text)
    return read_room_name(text)


def read_room_name(text: str) -> str:
    """The name of a room; what else is one is for the server to say."""
    if not text.strip() or text.isdigit() or len(text.encode()) > ROOM_NAME_MAX:
        raise ValueError(
            f"{_quoted(text)} is not a valid name of a room: 1 to {ROOM_NAME_MAX} bytes, and "
            "not a number"
        )
    return text


def read_entry(text: str) -> int:
    """The number of an entry of a board, as 17 or #17."""
    return read_count(text.removeprefix("#"))


def read_entries(text: str) -> str:
    """The same, or `mine`."""
    return text if text == "mine" else str(read_entry(text))


def choice(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{_quoted(text)} is not one of: {', '.join(words)}")
        return text

    return read


def read_user(text: str) -> str:
    """A username as the protocol allows it."""
    if not USERNAME_PATTERN.fullmatch(text):
        raise ValueError(f"{_quoted(text)} is no username: it is 1 to 32 of A-Z a-z 0-9 _ . -")
    return text


def read_text(text: str) -> str:
    """A message; how long it may be is for the server to say."""
    if not text:
        raise ValueError("there is no text to send")
    return text


def read_seconds(text: str) -> float:
    """A number of seconds from 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= SECONDS_MAX:  # which no NaN is
        raise ValueError(f"{_quoted(text)} is not a number of seconds, from 0")
    return seconds


def read_key(text: str) -> str:
    """A key of the caller's own."""
    if not text or len(text) > KEY_MAX or not text.isprintable():
        raise ValueError(f"{_quoted(text)} is not a key: it is 1 to {KEY_MAX} printable characters")
    return text


def read_seq(text: str) -> int:
    """The number of an event of a room, or 0: before the first."""
    return 0 if text == "0" else read_count(text)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")

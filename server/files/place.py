"""Where a file is: in a room, as that was opened then.

The number of a room that was closed is used again for another one, whose members may not read what
was shared in the old one. So the store keeps a place, which is both.
"""

from typing import Final

_SHIFT: Final = 31
_OPENED: Final = (1 << 32) - 1


def place_of(room: int, opened: int) -> int:
    """opened: the txn_id by which the room was opened; 0: by none."""
    return (opened & _OPENED) << _SHIFT | room


def room_of(place: int) -> int:
    return place & ((1 << _SHIFT) - 1)


def is_opened(place: int, opened: int) -> bool:
    """Is it of the room as that is opened now?"""
    return place >> _SHIFT == opened & _OPENED

"""What lines that people see are made of."""

from enum import Enum


class Style(Enum):
    """What a part of a line is; the value is its SGR parameter (ECMA-48, 8.3.117)."""

    PLACE = "36"
    PERSON = "1"
    QUIET = "2"
    MONEY = "32"
    MARK = "1;32"  # the program's own, never of a text by others: it is not escaped
    MENTION = "1;33"
    WRONG = "31"
    ACTIVE = "1;37"  # what is looked at, of several


Part = str | tuple[Style, str]
Line = list[Part]

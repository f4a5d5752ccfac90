"""Amounts as people write them: 12.50 is 1250 minor units, exactly.

Nothing here goes through a float, which has no 0.10. What cannot be meant in one way only is
refused: a sign, an exponent, separators, a third decimal. So is what the wire cannot carry.
"""

import re

DECIMALS = 2
AMOUNT_MAX = 2**64 - 1
"""The greatest amount that a request can hold, in minor units."""

_UNITS = 10**DECIMALS
_PATTERN = re.compile(rf"([0-9]+)(?:\.([0-9]{{1,{DECIMALS}}}))?", re.ASCII)
# Longer ones are over AMOUNT_MAX, leading zeros apart; Python refuses to read thousands of digits.
_DIGITS_MAX = 40


class AmountError(ValueError):
    """This is no amount; the message says what one looks like."""


def parse_amount(text: str) -> int:
    """Return the minor units that `text` writes: "12", "12.5" and "12.50" are amounts.

    Raises AmountError.
    """
    if not isinstance(text, str):
        raise AmountError(f"{text!r} is not a valid amount: it is read from text, a str")
    found = _PATTERN.fullmatch(text)
    if found is None:
        shown = text if len(text) <= _DIGITS_MAX else text[:_DIGITS_MAX] + "..."
        raise AmountError(
            f"{shown!r} is not a valid amount: write digits and at most {DECIMALS} decimals, "
            "like 12.50"
        )
    whole, decimals = found[1].lstrip("0"), (found[2] or "").ljust(DECIMALS, "0")
    amount = int((whole[: _DIGITS_MAX + 1] or "0") + decimals)
    if amount > AMOUNT_MAX:
        raise AmountError(f"the amount is over the greatest one, {format_amount(AMOUNT_MAX)}")
    return amount


def format_amount(amount: int) -> str:
    """Return what `parse_amount` reads as `amount`, always with its decimals: "12.50".

    Raises AmountError if it is no int: a float has been rounded already.
    """
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise AmountError(f"{amount!r} is not an amount in minor units: that is an int")
    whole, rest = divmod(amount, _UNITS)
    return f"{whole}.{rest:0{DECIMALS}}"

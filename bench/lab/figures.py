"""How figures are told: short, and with the least and the greatest of several runs."""

from collections.abc import Sequence
from statistics import median


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The median, with the least and the greatest; empty where there is nothing."""
    if not values:
        return ""
    least, greatest = min(values), max(values)
    around = f" ({short(least)} to {short(greatest)})" if least < greatest else ""
    return f"{short(median(values))}{around}"


def aligned(lines: Sequence[Sequence[str]], left: int) -> str:
    """A table as text. left: the first so many columns are words, and stand on the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = []
    for line in lines:
        cells = [
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        told.append("  ".join(cells).rstrip())
    return "\n".join(told)

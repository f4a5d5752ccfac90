"""Histograms in the region: a word with the sum of all values, and right after it BUCKETS words
that count them by size. This is the interpreted twin of histogram.pxd. Hot path.

Bucket b counts the values up to 2 ** (first + b) that no bucket before it has; the last one has no
bound. `first` is fixed for each histogram: TIMES_FIRST for those of times, in microseconds.
"""

from typing import Final

from server.region import machine

BUCKETS: Final = 20
TIMES_FIRST: Final = 4  # times: from 16 microseconds to 4.2 seconds
SIZES_FIRST: Final = 0  # numbers of things: from 1 to 262144


def bounds(first: int) -> list[int]:
    """The bounds of all buckets but the last: a value that is not above one is in its bucket, or in
    one before."""
    return [1 << first + bucket for bucket in range(BUCKETS - 1)]


def bucket_of(value: int, first: int) -> int:
    """The bucket of a value, which is not negative."""
    return min((value - 1 >> first).bit_length(), BUCKETS - 1) if value else 0


def add(words: machine.Words, at: int, value: int, count: int, first: int) -> None:
    """Count a value so many times, by the only one who does. at: the word of the sum."""
    words[at] += value * count
    words[at + 1 + bucket_of(value, first)] += count


# the number that histogram.pxd has in place of the name
assert BUCKETS == 20

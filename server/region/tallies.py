"""How much there is by address, by user, by whatever else a limit counts: over all workers.

There are more addresses than any table has places, and whoever floods a server makes them up. So
each key is counted in several rows of buckets, at a place of each row that a keyed hash gives, and
the least of these counts is taken: never too low, and too high only for a key all of whose places
are shared with busy ones (a count-min sketch, Cormode and Muthukrishnan 2005). The key of the hash
is a secret of the server: nobody can look for addresses that share a victim's places.

No lock is taken. A `Crowd` has records for each worker, which that worker alone writes, and which
its successor zeroes: what a killed worker had counted is gone with it. The words of `Allowances`
are written by all: of what two workers store at the same moment one may count for nothing. So each
worker lets through no more than it may, and all of them together at worst as many times that.
"""

import hashlib
import struct
from typing import Final

from server.region.layout import CROWD_BUCKETS, DUE_BUCKETS, TALLY_ROWS
from server.region.region import Region

_ROWS: Final = struct.Struct(f"<{TALLY_ROWS}Q")

Places = tuple[int, ...]
"""One record of each row; the first row begins with 0."""


def places(secret: bytes, key: bytes, buckets: int) -> Places:
    """The records where a key is counted, of one in each row. secret: 1 to 64 bytes."""
    digest = hashlib.blake2b(key, digest_size=_ROWS.size, key=secret).digest()
    return tuple(
        row * buckets + number % buckets for row, number in enumerate(_ROWS.unpack(digest))
    )


class Crowd:
    """How many connections there are now of each key: the segment `crowd`."""

    def __init__(self, region: Region, worker: int, secret: bytes) -> None:
        """worker: the slot whose records are written; it begins with nothing. secret: see
        `places`."""
        self._words: Final = region.words
        self._secret: Final = secret
        crowd, each = region.layout["crowd"], TALLY_ROWS * CROWD_BUCKETS
        assert crowd.stride == 1
        self._bases = [crowd.at(first) for first in range(0, crowd.records, each)]
        self._mine = self._bases[worker]
        for place in range(each):
            self._words[self._mine + place] = 0

    def places(self, key: bytes) -> Places:
        """Where a key is counted; for the other methods."""
        return places(self._secret, key, CROWD_BUCKETS)

    def add(self, where: Places, by: int) -> None:
        """Some more, or fewer, in this worker."""
        words, mine = self._words, self._mine
        for place in where:
            words[mine + place] += by

    def count(self, where: Places) -> int:
        """How many there are in all workers; never fewer than there are."""
        words, bases = self._words, self._bases
        return min(sum(words[base + place] for base in bases) for place in where)


class Allowances:
    """How soon each key may have the next one, where it may have so many in so much time.

    The generic cell rate algorithm (ITU-T I.371): a word is the time at which all is paid for that
    was taken. It may lie ahead of now by a burst. Times are microseconds of CLOCK_MONOTONIC.
    """

    def __init__(self, region: Region, secret: bytes) -> None:
        """secret: see `places`."""
        self._words: Final = region.words
        self._secret: Final = secret
        self._base = region.layout["allowances"].at(0)
        assert region.layout["allowances"].stride == 1

    def places(self, key: bytes) -> Places:
        """Where a key is counted, as `take_at` has it; for who asks often."""
        return places(self._secret, key, DUE_BUCKETS)

    def due_us(self, key: bytes, now_us: int, interval_us: int, burst: int) -> int:
        """How many microseconds from now the next would be due; 0 or less: it is. Takes nothing.
        interval_us, burst: see `take_at`."""
        return self._due_at(self.places(key), now_us, interval_us, burst)

    def _due_at(self, where: Places, now_us: int, interval_us: int, burst: int) -> int:
        words, base = self._words, self._base
        paid = max(now_us, min(words[base + place] for place in where))
        return paid + interval_us - now_us - burst * interval_us

    def take(
        self, key: bytes, now_us: int, interval_us: int, burst: int, patience_us: int = 0
    ) -> int:
        """As `take_at`, of a key."""
        return self.take_at(self.places(key), now_us, interval_us, burst, patience_us)

    def take_at(
        self, where: Places, now_us: int, interval_us: int, burst: int, patience_us: int = 0
    ) -> int:
        """Take one; 0, or how many microseconds later it would have been due.

        It is taken all the same if that is not more than patience_us, and the caller lets that
        time pass before the next. interval_us: between two, in the long run. burst: how many there
        may be at once, after a rest.
        """
        wait = self._due_at(where, now_us, interval_us, burst)
        if wait > patience_us:
            return wait
        words, base = self._words, self._base
        paid = now_us + wait + burst * interval_us
        for place in where:
            if words[base + place] < paid:
                words[base + place] = paid
        return max(0, wait)

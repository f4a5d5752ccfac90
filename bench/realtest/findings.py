"""What the figures say, computed: the report states these and nothing that it has not looked at."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import correlation, median
from typing import Final, NamedTuple

from bench.realtest.data import Results, Row
from bench.stress.counted import LOCKS

KNEE_ACHIEVED: Final = 0.99
"""So much of the rate that was asked must be answered OK in the time measured."""
KNEE_FACTOR: Final = 5.0
"""p99 may be so many times that of the lowest rate."""


# ---- where the time of a worker goes


class WorkerTime(NamedTuple):
    """µs per request, of all workers together: their time is their number times the seconds."""

    whole: float
    account: float
    """Of it waiting for account locks."""
    others: float
    """Waiting for all other locks."""

    @property
    def rest(self) -> float:
        """Working, waiting for a core, and having nothing to do."""
        return self.whole - self.account - self.others


def worker_time(run: Row) -> WorkerTime | None:
    """None where the server's counters are not known."""
    requests = run["counted_requests"]
    if not requests:
        return None
    waited = {kind: run[f"waited_ms_{kind}"] * 1000 / requests for kind in LOCKS}
    account = waited.pop("account")
    whole = run["workers"] * run["counted_seconds"] * 1e6 / requests
    return WorkerTime(whole, account, sum(waited.values()))


def waits_per_1000(run: Row, kind: str = "account") -> float | None:
    """Waits for these locks per 1,000 requests."""
    requests = run["counted_requests"]
    return run[f"waits_{kind}"] / requests * 1000 if requests else None


def mean_wait_us(run: Row, kind: str = "account") -> float | None:
    waits = run[f"waits_{kind}"]
    return run[f"waited_ms_{kind}"] / waits * 1000 if waits else None


def wait_share(run: Row, kind: str = "account") -> float | None:
    """The share of the workers' time in which they waited for these locks, from 0 to 1."""
    seconds = run["counted_seconds"]
    return run[f"waited_ms_{kind}"] / 1000 / (seconds * run["workers"]) if seconds else None


def batch_mean(run: Row) -> float | None:
    """Records of a batch of the journal."""
    return run["records"] / run["batches"] if run["batches"] else None


def sync_mean_ms(run: Row) -> float | None:
    """Time of a batch's write and sync."""
    return run["sync_ms"] / run["batches"] if run["batches"] else None


# ---- second by second


class Second(NamedTuple):
    """One second of a run."""

    share: float
    """Of the workers' time, waiting for account locks."""
    p99_us: float


def seconds_of(results: Results, run: Row) -> list[Second]:
    """Those seconds of a run of which both the clients and the server tell."""
    spans: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in results.counted:
        if row["key"] == run["key"]:
            # An interval counts for the second that its middle is in.
            span = spans[int(row["second"] + row["counted_seconds"] / 2)]
            span[0] += row["waited_ms_account"] / 1000
            span[1] += row["counted_seconds"]
    found = []
    for row in results.seconds:
        waited, seconds = spans.get(row["second"], (0.0, 0.0))
        if row["key"] == run["key"] and row["p99_us"] and seconds:
            found.append(Second(waited / seconds / run["workers"], row["p99_us"]))
    return found


def rank_correlation(pairs: Sequence[Sequence[float]]) -> float | None:
    """Spearman's, from -1 to 1; None where it is not defined."""
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return None
    ranks = [_ranks(column) for column in zip(*pairs, strict=True)]
    return correlation(*ranks)


def _ranks(values: Sequence[float]) -> list[float]:
    """Equal values share the mean of their places."""
    places = defaultdict(list)
    for place, value in enumerate(sorted(values)):
        places[value].append(place)
    return [sum(places[value]) / len(places[value]) for value in values]


# ---- the knee


def achieved(run: Row) -> float:
    """Answers OK in the time measured, of the requests that fell due in it; above 1 where what was
    due in the warm-up was answered only then."""
    return float(run["ok"] / (run["rate"] * run["seconds"]))


def keeps_up(run: Row, lowest: Row) -> bool:
    """By KNEE_ACHIEVED and KNEE_FACTOR."""
    slow = run["p99_us"] > KNEE_FACTOR * lowest["p99_us"]
    return achieved(run) >= KNEE_ACHIEVED and not slow


class Knee(NamedTuple):
    """The last rate that was kept up with, and the first that was not; None: there is no such."""

    last: Row | None
    first: Row | None


def knee(runs: Sequence[Row]) -> Knee:
    """runs: the open loop's. The lowest rate is what the others are measured by."""
    ordered = sorted(runs, key=lambda run: run["rate"])
    last = None
    for run in ordered:
        if not keeps_up(run, ordered[0]):
            return Knee(last, run)
        last = run
    return Knee(last, None)


# ---- overload


def greatest_kept_up(runs: Sequence[Row]) -> Row | None:
    """The run of the greatest rate that was kept up with, whatever one hiccup below it says."""
    ordered = sorted(runs, key=lambda run: run["rate"])
    return next((run for run in reversed(ordered) if keeps_up(run, ordered[0])), None)


GOODPUT: Final = 0.9
"""So much of what is answered OK at the knee is to be answered at any rate above it."""
SLOWER: Final = 3.0
"""And p99 of that may be so many times that at the knee."""


class Overloaded(NamedTuple):
    """A run above the knee, against the one at it."""

    run: Row
    goodput: float
    """What is answered OK, of that at the knee."""
    slower: float
    """p99 of that, of that at the knee."""

    @property
    def holds(self) -> bool:
        return self.goodput >= GOODPUT and self.slower <= SLOWER


def overloaded(runs: Sequence[Row]) -> list[Overloaded]:
    """Those of the section's runs that are above its knee; none without a run at it."""
    at_knee = next((run for run in runs if run["scenario"] == "1x"), None)
    if at_knee is None:
        return []
    return [
        Overloaded(run, run["ok_per_s"] / at_knee["ok_per_s"], run["p99_us"] / at_knee["p99_us"])
        for run in runs
        if run["scenario"].endswith("x") and run["rate"] > at_knee["rate"]
    ]


# ---- what differs without a reason


class Spread(NamedTuple):
    """Runs of the same options."""

    options: str
    runs: list[Row]

    def of(self, name: str) -> tuple[float, float, float]:
        """Least, median and greatest."""
        values = [run[name] for run in self.runs if run[name] is not None]
        return min(values), median(values), max(values)

    def width(self, name: str) -> float:
        """Greatest less least, over the median."""
        least, middle, greatest = self.of(name)
        return (greatest - least) / middle if middle else 0.0


DEFAULTS: Final = ("--workers=2", "--payload=64", "--server-flag=--durability=sync")
"""Options that say what is so without them."""


def spreads(runs: Sequence[Row]) -> list[Spread]:
    """Those settings of the closed loop that were run more than once."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for run in runs:
        if not run["rate"] and run["ok"] and run["p99_us"]:
            words = (word for word in run["options"].split() if word not in DEFAULTS)
            groups[" ".join(sorted(words))].append(run)
    return [Spread(options, group) for options, group in groups.items() if len(group) > 1]


def noise(runs: Sequence[Row], name: str) -> float:
    """The widest of these spreads; 0 where nothing was run twice."""
    return max((spread.width(name) for spread in spreads(runs)), default=0.0)


# ---- before and after


class Compared(NamedTuple):
    """Medians of one setting before and after."""

    before: float
    after: float
    apart: bool
    """Each run after is on the same side of each run before."""

    @property
    def change(self) -> float:
        """(after - before) / before."""
        return (self.after - self.before) / self.before if self.before else 0.0


def compare(before: Sequence[Row], after: Sequence[Row], name: str) -> Compared | None:
    """None where one has no figure."""
    old = [run[name] for run in before if run[name] is not None]
    new = [run[name] for run in after if run[name] is not None]
    if not old or not new:
        return None
    apart = max(old) < min(new) or max(new) < min(old)
    return Compared(median(old), median(new), apart)

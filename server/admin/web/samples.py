"""What a metric is, and how its values are taken from a snapshot."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from libproto.errors import Status
from server.admin.snapshot import Snapshot
from server.region.histogram import SIZES_FIRST, TIMES_FIRST, bounds
from server.region.layout import WorkerState

PREFIX: Final = "tradechat_"
US: Final = 1e-6  # seconds
_STATUSES: Final = tuple(status.name for status in Status)
_STATES: Final = tuple(WorkerState)


class Kind(StrEnum):
    """The types of Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Distribution(NamedTuple):
    """The value of a histogram: of its buckets how many values are in each, not added up."""

    counts: Sequence[int]
    bounds: Sequence[float]  # of all but the last
    total: float


Value = float | Distribution
Sample = tuple[tuple[str, ...], Value]
"""The values of the labels, and the value."""
Samples = Iterable[Sample]


@dataclass(frozen=True, slots=True)
class Metric:
    """A row. `samples`: its values in a snapshot, each with the values of its labels."""

    name: str  # without PREFIX
    kind: Kind
    about: str
    samples: Callable[[Snapshot], Samples]
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """As Prometheus has it."""
        return PREFIX + self.name


TIME_BOUNDS: Final = tuple(bound * US for bound in bounds(TIMES_FIRST))
SIZE_BOUNDS: Final = tuple(map(float, bounds(SIZES_FIRST)))


def times(counts: Sequence[int], total_us: int) -> Distribution:
    """Of microseconds, in seconds."""
    return Distribution(counts, TIME_BOUNDS, total_us * US)


def one(value: Callable[[Snapshot], Value]) -> Callable[[Snapshot], Samples]:
    """A metric without labels."""
    return lambda s: [((), value(s))]


def word(segment: str, field: str, scale: float = 1) -> Callable[[Snapshot], Samples]:
    """A word of a segment of one record."""
    return one(lambda s: s.first[segment][field] * scale)


def of_journal(value: Callable[[Snapshot], Value]) -> Callable[[Snapshot], Samples]:
    """What is there only if something is kept on disk."""
    return lambda s: [((), value(s))] if s.has_journal else []


def counter(name: str) -> Callable[[Snapshot], Samples]:
    """A counter of the workers, added up."""
    return one(lambda s: s.counters[name])


def by_worker(value: Callable[[Snapshot, int], float]) -> Callable[[Snapshot], Samples]:
    """`value` takes the snapshot and the slot of a worker."""
    return lambda s: [((str(slot),), value(s, slot)) for slot in s.workers]


def by_opcode(field: str) -> Callable[[Snapshot], Samples]:
    """A word of what was served, where it is not 0."""

    def samples(s: Snapshot) -> Iterator[Sample]:
        for opcode, record in s.served.items():
            if record[field][0]:
                yield (opcode,), record[field][0]

    return samples


def by_status(field: str) -> Callable[[Snapshot], Samples]:
    """By opcode and status, where it is not 0."""

    def samples(s: Snapshot) -> Iterator[Sample]:
        for opcode, record in s.served.items():
            for status, value in zip(_STATUSES, record[field], strict=True):
                if value:
                    yield (opcode, status), value

    return samples


def of_files(**fields: str) -> Callable[[Snapshot], Samples]:
    """Words of the files process, by label."""
    return lambda s: (
        [((label,), s.first["files"][field]) for label, field in fields.items()]
        if s.has_journal
        else []
    )


def latencies(s: Snapshot) -> Iterator[Sample]:
    """By opcode, how long requests took."""
    for opcode, record in s.served.items():
        if any(record["latency"]):
            yield (opcode,), times(record["latency"], record["latency_us"][0])


def file_requests(s: Snapshot) -> Samples:
    """Requests of the files process, by what came of them."""
    files = s.first["files"]
    if not s.has_journal:
        return []
    done = files["requests"] - files["failed"]
    return [(("done",), done), (("refused",), files["failed"]), (("stale",), files["stale"])]


def worker_states(s: Snapshot) -> Iterator[Sample]:
    """1 for the state that a worker is in, 0 for the others."""
    for slot, worker in s.workers.items():
        for state in _STATES:
            yield (str(slot), state.name.lower()), float(worker.state is state)

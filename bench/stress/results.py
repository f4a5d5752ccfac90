"""The figures of a run: what the load processes wrote down, put together.

Latencies become HDR histograms, from 1 µs to an hour with three significant digits. `ok` counts
answers between the start and the end of the run. What was answered after the end (`after_end`) is
in the histograms all the same: a server that hangs at the end would look fast otherwise.
"""

from __future__ import annotations  # array[int] is no type at run time before 3.12

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.lab.cli import BenchFailed
from bench.stress.lines import Told
from bench.stress.record import AFTER, ERRORS
from bench.stress.rooms import Seen, last_deliveries
from libproto.messages import Opcode

ALL: Final = "ALL"
DELIVERY: Final = "CHAT_BROADCAST"
"""The name under which the deliveries of messages are told, from send to the last member."""
QUANTILES: Final = {"p50_us": 50.0, "p95_us": 95.0, "p99_us": 99.0, "p999_us": 99.9}
LATENCY_COLUMNS: Final = (*QUANTILES, "max_us")
_HIGHEST_US: Final = 3_600_000_000
Row = dict[str, Any]


def histogram() -> Any:
    """An empty one, of µs. BenchFailed where the extra is not installed: measuring needs it."""
    try:
        from hdrh.histogram import HdrHistogram
    except ModuleNotFoundError as error:
        raise BenchFailed(f"{error}: pip install 'tradechat[bench]' has it") from error
    return HdrHistogram(1, _HIGHEST_US, 3)


def fill(made: Any, latencies: array[int]) -> None:
    """Record latencies in µs; what took less than one counts as one."""
    for value, times in Counter(latencies).items():
        made.record_value(min(max(value, 1), _HIGHEST_US), times)


def quantiles_of(made: Any) -> dict[str, int | None]:
    """p50 to p99.9 and the greatest, in µs; None of nothing."""
    if not made.total_count:
        return dict.fromkeys(LATENCY_COLUMNS)
    found = {name: int(made.get_value_at_percentile(at)) for name, at in QUANTILES.items()}
    return {**found, "max_us": int(made.get_max_value())}


def exact_quantiles(latencies: array[int]) -> dict[str, int | None]:
    """The same of few values, without a histogram in between."""
    if not latencies:
        return dict.fromkeys(LATENCY_COLUMNS)
    ordered = sorted(latencies)
    found: dict[str, int | None] = {
        name: ordered[max(0, math.ceil(at / 100 * len(ordered)) - 1)]
        for name, at in QUANTILES.items()
    }
    return {**found, "max_us": ordered[-1]}


@dataclass(slots=True)
class Line:
    """The figures of one operation, or of all, over a whole run."""

    ok: int = 0
    after_end: int = 0
    """Successes that were answered after the end; not in `ok`."""
    errors: Counter[str] = field(default_factory=Counter)
    late: int = 0
    dropped: int = 0
    latencies: Any = field(default_factory=histogram)
    services: Any = field(default_factory=histogram)

    @property
    def failed(self) -> int:
        return self.errors.total()

    @property
    def missed_percent(self) -> float:
        """Of what was due, how much failed or was never sent; 0 of nothing."""
        missed = self.failed + self.dropped
        due = missed + self.ok + self.after_end
        return missed / due * 100 if due else 0.0


@dataclass(slots=True)
class Figures:
    """All figures of one run."""

    seconds_s: float
    """How long it was measured."""
    is_open: bool
    lines: dict[str, Line] = field(default_factory=dict)
    """By the name of the operation; ALL is the last."""
    rows: list[Row] = field(default_factory=list)
    """By second and operation."""
    delivered: Any = field(default_factory=histogram)
    """µs from sending a message until the last member had it."""
    deliveries: int = 0
    """To how many members messages were delivered, each counted."""
    details: Counter[str] = field(default_factory=Counter)
    """What was said with errors of kind `unknown`."""

    @property
    def all(self) -> Line:
        return self.lines[ALL]

    def per_s(self, count: int) -> float:
        return count / self.seconds_s if self.seconds_s > 0 else 0.0


Cells = dict[tuple[int, str], "array[int]"]


def _read_latencies(told: list[Told], paths: list[Path]) -> tuple[Cells, Cells]:
    latencies: Cells = defaultdict(lambda: array("I"))
    services: Cells = defaultdict(lambda: array("I"))
    for each, path in zip(told, paths, strict=True):
        with path.open("rb") as file:
            for second, opcode, count, services_count in each["latencies"]:
                cell = second, Opcode(opcode).name
                latencies[cell].fromfile(file, count)
                services[cell].fromfile(file, services_count)
    return latencies, services


def _opcode_counts(told: list[Told], key: str) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Of errors and of late ones: second, operation and the rest of the key, and how many."""
    for each in told:
        for second, opcode, *rest, count in each[key]:
            yield (second, Opcode(opcode).name, *rest), count


def gather(
    told: list[Told],
    paths: list[Path],
    rooms: list[Seen],
    span: tuple[float, float],
    *,
    is_open: bool,
) -> Figures:
    """Put it together. paths: the file of figures of each process. span: start and end, in s."""
    latencies, services = _read_latencies(told, paths)
    errors: Counter[tuple[Any, ...]] = Counter()
    late: Counter[tuple[Any, ...]] = Counter()
    dropped: Counter[int] = Counter()
    start, end = span
    figures = Figures(end - start, is_open)
    for key, count in _opcode_counts(told, "errors"):
        errors[key] += count
    for key, count in _opcode_counts(told, "late"):
        late[key] += count
    for each in told:
        for second, count in each["dropped"]:
            dropped[second] += count
        figures.details.update(each["details"])
    names = {name for _, name, *_ in (*latencies, *errors, *late)}
    for name in [opcode.name for opcode in Opcode if opcode.name in names]:
        figures.lines[name] = _line(name, latencies, services, errors, late)
    whole = figures.lines[ALL] = Line(dropped=dropped.total(), late=dropped.total())
    for name, line in figures.lines.items():
        if name != ALL:
            _add(whole, line)
    delivered: dict[int, array[int]] = defaultdict(lambda: array("I"))
    for second, last, members in last_deliveries(rooms, start, end):
        delivered[second].append(last)
        figures.deliveries += members
    for values in delivered.values():
        fill(figures.delivered, values)
    for second in range(math.ceil(end - start)):
        figures.rows += _rows(
            second, list(figures.lines), latencies, services, errors, late, dropped, delivered
        )
    return figures


def _line(
    name: str,
    latencies: Cells,
    services: Cells,
    errors: Counter[tuple[Any, ...]],
    late: Counter[tuple[Any, ...]],
) -> Line:
    line = Line()
    for (second, other), values in latencies.items():
        if other == name:
            fill(line.latencies, values)
            fill(line.services, services[second, name])
            if second == AFTER:
                line.after_end += len(values)
            else:
                line.ok += len(values)
    for (_, other, kind), count in errors.items():
        line.errors[kind] += count * (other == name)
    line.errors = +line.errors
    line.late = sum(count for (_, other), count in late.items() if other == name)
    return line


def _add(whole: Line, line: Line) -> None:
    whole.ok += line.ok
    whole.after_end += line.after_end
    whole.errors += line.errors
    whole.late += line.late
    whole.latencies.add(line.latencies)
    whole.services.add(line.services)


def _rows(
    second: int,
    names: list[str],
    latencies: Cells,
    services: Cells,
    errors: Counter[tuple[Any, ...]],
    late: Counter[tuple[Any, ...]],
    dropped: Counter[int],
    delivered: dict[int, array[int]],
) -> Iterator[Row]:
    """What is told of one second: each operation, all of them, and the deliveries."""
    all_latencies, all_services = array("I"), array("I")
    whole = Counter[str]()
    for name in names:
        if name == ALL:
            found, found_services, counts = all_latencies, all_services, whole
            counts["dropped"] = dropped[second]
            counts["late"] += dropped[second]  # their operations were not chosen yet
        else:
            found = latencies.get((second, name), array("I"))
            found_services = services.get((second, name), array("I"))
            counts = Counter({f"error_{kind}": errors[second, name, kind] for kind in ERRORS})
            counts["late"] = late[second, name]
            all_latencies += found
            all_services += found_services
            whole += counts
        yield {
            "second": second,
            "operation": name,
            "ok": len(found),
            "failed": sum(counts[f"error_{kind}"] for kind in ERRORS),
            **exact_quantiles(found),
            **_service(exact_quantiles(found_services)),
            "late": counts["late"],
            "dropped": counts["dropped"] if name == ALL else None,
            **{f"error_{kind}": counts[f"error_{kind}"] for kind in ERRORS},
        }
    if delivered:
        found = delivered.get(second, array("I"))
        yield {"second": second, "operation": DELIVERY, "ok": len(found), **exact_quantiles(found)}


def _service(found: dict[str, int | None]) -> dict[str, int | None]:
    return {f"service_{name}": value for name, value in found.items()}


def line_as_object(figures: Figures, line: Line) -> Row:
    """The figures of one operation, by name."""
    return {
        "ok": line.ok,
        "failed": line.failed,
        "ok_per_s": round(figures.per_s(line.ok), 1),
        "failed_per_s": round(figures.per_s(line.failed), 1),
        "after_end": line.after_end,
        **quantiles_of(line.latencies),
        **_service(quantiles_of(line.services)),
        "late": line.late if figures.is_open else None,
        **{f"error_{kind}": line.errors[kind] for kind in ERRORS},
    }


def delivery_as_object(figures: Figures) -> Row:
    """Of messages, from send to the last member."""
    told = {"messages": figures.delivered.total_count, "deliveries": figures.deliveries}
    return told | {f"delivery_{k}": v for k, v in quantiles_of(figures.delivered).items()}

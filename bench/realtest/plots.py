"""The charts, as PNG. The colours are those of Okabe and Ito, which the colour-blind tell apart;
where lines cross, markers differ as well."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.realtest import findings
from bench.realtest.data import Results, Row
from bench.realtest.overload import GROUPS
from bench.realtest.scenarios import (
    CONNECTIONS,
    CONTENTION,
    DURABILITY,
    KNEE,
    LOCK_ROUNDS,
    LOCKS,
    MIXED,
    OVERLOAD,
    PAYLOAD,
    WORKERS,
)

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
_SERIES: Final = ((BLUE, "o"), (RED, "s"), (GREEN, "^"), (PINK, "D"), (ORANGE, "v"), (SKY, "P"),
                  (BLACK, "X"))  # fmt: skip
QUANTILES: Final = {"p50_us": "p50", "p95_us": "p95", "p99_us": "p99", "p999_us": "p99.9"}
_WIDTH: Final = 9.0  # inches, at 100 dots each: about the width of a page that is read on a screen
_STYLE: Final[Any] = {
    "figure.dpi": 100,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def _figure(panels: int, height: float = 3.8) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)
    return figure, list(axes[0])


def _ms(us: float | None) -> float:
    return float("nan") if us is None else us / 1000


def _column(runs: Sequence[Row], name: str, *, ms: bool = False) -> list[float]:
    values = [run[name] for run in runs]
    return [_ms(v) for v in values] if ms else [float("nan") if v is None else v for v in values]


def _short(value: float, _: object = None) -> str:
    """An axis label without exponents."""
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _log(axis: Any, values: Sequence[float] = ()) -> None:
    """A logarithmic axis; with `values`, ticks at these and nowhere else."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(FuncFormatter(_short))
    if values:
        axis.set_ticks(list(values))
        axis.set_minor_formatter(NullFormatter())
        axis.minorticks_off()
    else:
        axis.set_minor_formatter(FuncFormatter(_minor))


def _minor(value: float, _: object = None) -> str:
    """Between powers of ten, only 2 and 5."""
    digit = f"{value:e}"[0]
    return _short(value) if digit in "25" else ""


def _bars(axes: Any, runs: Sequence[Row], values: Sequence[float], form: str) -> None:
    """Horizontal, the first on top, with the value beside each."""
    places = range(len(runs))
    axes.barh(places, values, color=BLUE, height=0.6)
    axes.set_yticks(places, [run["label"] for run in runs])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    most = max((value for value in values if value == value), default=0.0)
    axes.set_xlim(0, most * 1.25 or 1)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.5g}"))
    for place, value in zip(places, values, strict=True):
        if value == value:
            axes.annotate(format(value, form), (value, place), (4, 0),
                          textcoords="offset points", va="center", fontsize=9)  # fmt: skip


def _dots(axes: Any, runs: Sequence[Row]) -> None:
    """The latency quantiles of each run, one below the other."""
    for place, run in enumerate(runs):
        known = [_ms(run[name]) for name in QUANTILES if run[name] is not None]
        axes.plot([min(known), max(known)], [place, place], color="#bbbbbb", zorder=1)
    for (name, label), (colour, marker) in zip(QUANTILES.items(), _SERIES, strict=False):
        axes.plot(_column(runs, name, ms=True), range(len(runs)), marker, color=colour, label=label)
    axes.set_yticks(range(len(runs)), [run["label"] for run in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    _log(axes.xaxis)
    axes.set_xlabel("latency, ms (logarithmic)")
    axes.legend(ncols=len(QUANTILES), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _lines(
    axes: Any, x: Sequence[float], series: Mapping[str, Sequence[float]], ylabel: str
) -> None:
    for (label, y), (colour, marker) in zip(series.items(), _SERIES, strict=False):
        axes.plot(x, y, marker=marker, color=colour, label=label)
    axes.set_ylabel(ylabel)
    if len(series) > 1:
        axes.legend()


def _from_zero(axes: Any) -> None:
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _quantile_lines(axes: Any, x: Sequence[float], runs: Sequence[Row]) -> None:
    series = {
        label: _column(runs, name, ms=True) for name, label in QUANTILES.items() if name != "p95_us"
    }
    _lines(axes, x, series, "latency, ms (logarithmic)")
    _log(axes.yaxis)


# ---- one function per chart; None where there is nothing to show


def latency(results: Results) -> Figure | None:
    """Latency quantiles of the closed loop: mixed, and by contention."""
    runs = results.section(MIXED) + results.section(CONTENTION)
    if not runs:
        return None
    figure, (axes,) = _figure(1, 1.2 + 0.38 * len(runs))
    labels = {f"{MIXED}/mixed": "mixed, 100 connections"}
    _dots(axes, [run | {"label": labels.get(run["key"], run["label"])} for run in runs])
    return figure


def contention(results: Results) -> Figure | None:
    """Throughput, and how much of the workers' time goes into waiting for account locks."""
    runs = results.section(CONTENTION)
    if not runs:
        return None
    figure, (left, right) = _figure(2, 1.0 + 0.38 * len(runs))
    _bars(left, runs, _column(runs, "ok_per_s"), ",.0f")
    left.set_xlabel("requests answered OK per second")
    shares = [findings.wait_share(run) for run in runs]
    _bars(right, runs, [float("nan") if each is None else each * 100 for each in shares], ".2f")
    right.set_yticklabels([])
    right.set_xlabel("workers' time waiting for account locks, %")
    return figure


def lock_seconds(results: Results) -> Figure | None:
    """Each second's p99 against the waits for account locks in it."""
    runs = [run for run in results.section(CONTENTION) if run["mix"] == "trade-heavy"]
    points = {run["label"]: findings.seconds_of(results, run) for run in runs}
    if not any(points.values()):
        return None
    figure, (axes,) = _figure(1, 4.4)
    for (label, seconds), (colour, marker) in zip(points.items(), _SERIES, strict=False):
        axes.plot([each.share * 100 for each in seconds], [_ms(each.p99_us) for each in seconds],
                  marker, color=colour, label=label, alpha=0.75, markersize=5)  # fmt: skip
    axes.set_xlabel("workers' time waiting for account locks in a second, %")
    axes.set_ylabel("p99 of that second, ms (logarithmic)")
    _log(axes.yaxis)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def payload(results: Results) -> Figure | None:
    """Throughput and delivery by the size of a message."""
    runs = results.section(PAYLOAD)
    if not runs:
        return None
    x = [run["payload"] for run in runs]
    figure, (left, right) = _figure(2)
    _lines(left, x, {"sent": [run["messages"] / run["seconds"] for run in runs]},
           "chat messages delivered per second")  # fmt: skip
    _from_zero(left)
    series = {
        "answer, p99": _column(runs, "p99_us", ms=True),
        "to the last member, p99": _column(runs, "delivery_p99_us", ms=True),
        "to the last member, p50": _column(runs, "delivery_p50_us", ms=True),
    }
    _lines(right, x, series, "latency, ms")
    _from_zero(right)
    for axes in (left, right):
        _log(axes.xaxis, x)
        axes.set_xlabel("payload, bytes (logarithmic)")
    return figure


def _scaling(runs: Sequence[Row], name: str) -> Figure | None:
    if not runs:
        return None
    x = [run[name] for run in runs]
    figure, (left, right) = _figure(2)
    _lines(left, x, {"": _column(runs, "ok_per_s")}, "requests answered OK per second")
    _from_zero(left)
    _quantile_lines(right, x, runs)
    for axes in (left, right):
        _log(axes.xaxis, x)
        axes.set_xlabel(f"{name} (logarithmic)")
    return figure


def workers(results: Results) -> Figure | None:
    return _scaling(results.section(WORKERS), "workers")


def connections(results: Results) -> Figure | None:
    return _scaling(results.section(CONNECTIONS), "connections")


def the_knee(results: Results) -> Figure | None:
    """Latency and throughput against the rate that was asked."""
    runs = sorted(
        (run for run in results.section(KNEE) if run["rate"]), key=lambda run: run["rate"]
    )
    if not runs:
        return None
    x = _column(runs, "rate")
    figure, (left, right) = _figure(2)
    _quantile_lines(left, x, runs)
    right.plot(x, x, "--", color=BLACK, label="asked")
    right.plot(x, _column(runs, "ok_per_s"), "-o", color=BLUE, label="answered OK")
    right.set_ylabel("requests per second")
    _from_zero(right)
    last = findings.knee(runs).last
    for axes in (left, right):
        axes.set_xlabel("rate asked, requests per second")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if last is not None:
            axes.axvline(last["rate"], color=ORANGE, linewidth=2, zorder=0, label="the knee")
        axes.legend()
    return figure


def durability(results: Results) -> Figure | None:
    runs = results.section(DURABILITY)
    if not runs:
        return None
    figure, (left, right) = _figure(2, 2.8)
    _bars(left, runs, _column(runs, "ok_per_s"), ",.0f")
    left.set_xlabel("requests answered OK per second")
    _dots(right, runs)
    return figure


def batches(results: Results) -> Figure | None:
    """Each second of every run with a journal: the mean batch, and how long it took."""
    groups: dict[str, list[tuple[float, float]]] = {"async": [], "sync": []}
    by_key = {run["key"]: run for run in results.runs}
    for row in results.counted:
        run = by_key.get(row["key"])
        if run is not None and row["batches"]:
            mode = "async" if "durability=async" in run["options"] else "sync"
            groups[mode].append((row["records"] / row["batches"], row["sync_ms"] / row["batches"]))
    if not any(groups.values()):
        return None
    figure, (axes,) = _figure(1, 4.2)
    for (label, points), (colour, marker) in zip(groups.items(), _SERIES[1::-1], strict=True):
        axes.plot([x for x, _ in points], [y for _, y in points], marker, color=colour,
                  label=f"--durability {label}", alpha=0.5, markersize=4)  # fmt: skip
    _log(axes.xaxis)
    _log(axes.yaxis)
    axes.set_xlabel("records in a batch, mean of a second (logarithmic)")
    axes.set_ylabel("write and fsync of a batch, ms (logarithmic)")
    axes.legend()
    return figure


def account_locks(results: Results) -> Figure | None:
    """One lock and a lock per account: every run, and the medians."""
    runs = results.section(LOCKS)
    if not runs:
        return None
    figure, panels = _figure(3, 3.8)
    shown: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        ("requests answered OK per second", lambda run: run["ok_per_s"]),
        ("p99, ms", lambda run: _ms(run["p99_us"])),
        ("workers' time waiting for\naccount locks, %", _share_percent),
    )
    names = (("global", "one lock", RED, "s"), ("account", "a lock per account", BLUE, "o"))
    for axes, (ylabel, value_of) in zip(panels, shown, strict=True):
        for group, workers_ in enumerate(LOCK_ROUNDS):
            for place, (name, label, colour, marker) in enumerate(names):
                values = [
                    value
                    for run in runs
                    if run["scenario"] == f"{name}-{workers_}"
                    and (value := value_of(run)) is not None
                ]
                if values:
                    x = group + (place - 0.5) * 0.4
                    axes.bar(x, median(values), 0.34, color=colour, alpha=0.45,
                             label="" if group else label)  # fmt: skip
                    axes.plot([x] * len(values), values, marker, color=colour, markersize=5)
        axes.set_xticks(range(len(LOCK_ROUNDS)), [f"{each} workers" for each in LOCK_ROUNDS])
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(ylabel)
        _from_zero(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def overload(results: Results) -> Figure | None:
    """Goodput by what it counts for, and p99, against multiples of the knee's rate."""
    runs = sorted(
        (run for run in results.section(OVERLOAD) if run["rate"] and not run["share"]),
        key=lambda run: run["rate"],
    )
    if not runs:
        return None
    x = _column(runs, "rate")
    figure, (left, right) = _figure(2)
    left.plot(x, x, "--", color=BLACK, label="asked")
    left.plot(x, _column(runs, "ok_per_s"), "-o", color=BLUE, label="answered OK")
    for (group, names), (colour, marker) in zip(GROUPS.items(), _SERIES[1:], strict=False):
        ok = [
            sum(
                row["ok_per_s"]
                for row in results.operations
                if row["key"] == run["key"] and row["operation"] in names
            )
            for run in runs
        ]
        left.plot(x, ok, marker=marker, color=colour, label=f"{group}, OK")
    _quantile_lines(right, x, runs)
    at_knee = next((run for run in runs if run["scenario"] == "1x"), None)
    if at_knee is not None:
        left.axhline(at_knee["ok_per_s"] * findings.GOODPUT, color=ORANGE, linestyle=":",
                     label=f"{findings.GOODPUT:g} of the knee's")  # fmt: skip
        right.axhline(_ms(at_knee["p99_us"]) * findings.SLOWER, color=ORANGE, linestyle=":",
                      label=f"{findings.SLOWER:g} times the knee's p99")  # fmt: skip
    left.set_ylabel("requests per second (logarithmic)")
    _log(left.yaxis)
    for axes in (left, right):
        _log(axes.xaxis)
        axes.set_xticks(x, [str(run["label"]).partition(" ")[0] for run in runs])
        axes.minorticks_off()
        axes.set_xlabel("rate asked, as a multiple of the knee's (logarithmic)")
        axes.legend(fontsize=8)
    return figure


def _share_percent(run: Row) -> float | None:
    share = findings.wait_share(run)
    return None if share is None else share * 100


CHARTS: Final[dict[str, Callable[[Results], Figure | None]]] = {
    "latency": latency,
    "contention": contention,
    "lock-seconds": lock_seconds,
    "payload": payload,
    "workers": workers,
    "connections": connections,
    "knee": the_knee,
    "durability": durability,
    "batches": batches,
    "account-locks": account_locks,
    "overload": overload,
}
"""By the name of the file, without .png."""


def draw(results: Results, folder: Path) -> list[str]:
    """Draw what there is data for; the names of the charts."""
    drawn = []
    with mpl.rc_context(_STYLE):
        for name, make in CHARTS.items():
            figure = make(results)
            if figure is not None:
                # No software version in it: the same figures make the same file.
                figure.savefig(folder / f"{name}.png", metadata={"Software": None})
                drawn.append(name)
    return drawn

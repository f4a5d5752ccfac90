"""How the figures of the report are written: numbers with their units, and columns of tables."""

from collections.abc import Callable, Iterable
from typing import Final

from bench.realtest.data import Row

NONE: Final = "-"
Cell = Callable[[Row], str]
Columns = dict[str, Cell]


def count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def decimals(value: float | None, places: int = 1) -> str:
    return NONE if value is None else f"{value:,.{places}f}"


def ms(us: float | None) -> str:
    """µs as ms, with three digits that count."""
    if us is None:
        return NONE
    value = us / 1000
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float | None, places: int = 1) -> str:
    return NONE if share is None else f"{share * 100:,.{places}f} %"


def moved(before: float, after: float, form: Callable[[float], str], unit: str) -> str:
    """`rises from 1 ms to 2 ms (+100 %)`."""
    if form(before) == form(after):
        return f"stays at {form(after)}{unit}"
    verb = "rises" if after > before else "falls"
    told = f" ({(after - before) / before * 100:+,.0f} %)" if before else ""
    return f"{verb} from {form(before)} to {form(after)}{unit}{told}"


def table(runs: Iterable[Row], columns: Columns) -> list[str]:
    """A row per run."""
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join(":---" if not n else "---:" for n in range(len(columns))) + "|",
    ]
    lines += ["| " + " | ".join(cell(run) for cell in columns.values()) + " |" for run in runs]
    return [*lines, ""]


def ms_of(name: str) -> Cell:
    return lambda run: ms(run[name])


def count_of(name: str) -> Cell:
    return lambda run: count(run[name])


LATENCIES: Final[Columns] = {
    "p50, ms": ms_of("p50_us"),
    "p95, ms": ms_of("p95_us"),
    "p99, ms": ms_of("p99_us"),
    "p99.9, ms": ms_of("p999_us"),
    "max, ms": ms_of("max_us"),
}
RATE: Final[Columns] = {"OK per s": count_of("ok_per_s"), "failed": count_of("failed")}
CPU: Final[Columns] = {
    "server CPU, µs per request": lambda run: decimals(run["server_cpu_us"]),
}
GAPS: Final[Columns] = {
    "room events told": count_of("events"),
    "named in ROOM_GAPs instead": count_of("missed_in_gaps"),
    "laps": count_of("laps"),
}


def label(head: str) -> Columns:
    return {head: lambda run: str(run["label"])}


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def against(run: Row, base: Row | None, name: str) -> str:
    if base is None or run is base or not base[name] or run[name] is None:
        return NONE
    return f"{(run[name] - base[name]) / base[name] * 100:+.0f} %"

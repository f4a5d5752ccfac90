"""What a user reads at the end of a run, and after several of them."""

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from bench.lab.verdict import CHECKS
from bench.stress import counted
from bench.stress.files import run_as_object
from bench.stress.options import Options
from bench.stress.results import LATENCY_COLUMNS, QUANTILES, Figures, Line, quantiles_of
from bench.stress.run import Run
from libproto import version_of

SPREAD: Final = ("ok_per_s", "failed_per_s", *LATENCY_COLUMNS, "client_cpu_us", "server_cpu_us")
"""What is told of several runs together: the median, the least and the greatest."""
_HEADS: Final = ("p50", "p95", "p99", "p99.9", "max")
assert len(_HEADS) == len(QUANTILES) + 1


def setting(options: Options) -> str:
    """What is run, in words."""
    how = f"open loop, {options.rate:g} requests/s" if options.is_open else "closed loop"
    parts = [
        version_of("tradechat"),
        f"{options.mix}, {how}, pipeline {options.pipeline}",
        ", ".join(
            f"{value} {name}"
            for name, value in (
                ("connections", options.connections),
                ("threads", options.threads),
                ("processes", options.processes),
            )
        ),
        ", ".join(
            (
                f"{options.rooms} rooms of {options.fanout}",
                f"payload {options.payload} bytes",
                f"{options.accounts} accounts",
            )
        ),
    ]
    extras = {
        f"zipf {options.zipf:g}": options.zipf,
        f"{options.hot_accounts} hot accounts": options.hot_accounts,
        f"{options.slow_consumers} slow consumers": options.slow_consumers,
        f"a kill every {options.kill_every:g} s": options.kill_every,
        f"a restart every {options.restart_every:g} s": options.restart_every,
    }
    parts += [", ".join(text for text, is_set in extras.items() if is_set)]
    return "\n".join(part for part in parts if part)


def as_table(options: Options, run: Run) -> str:
    """One run."""
    figures, findings = run.figures, run.findings
    found = run_as_object(options, run)
    lines = [
        f"run {run.number}, {figures.seconds_s:.1f} s",
        "",
        *_operations(figures),
        "",
        *(_row("asked for per second", f"{options.rate:,.0f}") if figures.is_open else ()),
        *_row("successes per second", f"{found['ok_per_s']:,.0f}"),
        *_row("failures per second", f"{found['failed_per_s']:,.0f}"),
        *_row("answered after the end", figures.all.after_end),
    ]
    if figures.is_open:
        lines += _row("late, not sent within 1 ms of being due", figures.all.late)
        lines += _row("  dropped: of these, never sent", figures.all.dropped)
    for kind, count in figures.all.errors.items():
        lines += _row(f"failed: {kind}", count)
    lines += [f"    {count:,} x {text}" for text, count in figures.details.most_common(5)]
    if figures.delivered.total_count:
        lines += _row("messages delivered", figures.delivered.total_count)
        lines += _row("deliveries to members", figures.deliveries)
    for name, text in (
        ("gaps", "ROOM_GAP told"),
        ("missed_in_gaps", "events that these name"),
        ("missed_unconnected", "events while a member was not connected"),
        ("kills", "workers killed"),
        ("reconnects", "connections made anew"),
        ("restarts", "restarts of the workers"),
        ("moves", "moves to another worker before one ended"),
        ("paused_s", "seconds for which this program did not run"),
    ):
        if found.get(name):
            lines += _row(text, found[name])
    for name, text in (
        ("client_cpu_us", "client CPU per request, µs"),
        ("server_cpu_us", "server CPU per request, µs"),
    ):
        value = found[name]
        lines += _row(text, "not known" if value is None else f"{value:,.1f}")
    lines += ["", *_counted(run), *_verdict(run)]
    lines += [f"{check}: {text}" for check, text in findings.problems]
    lines += [f"server: {line}" for line in run.server_errors]
    return "\n".join(lines)


def _counted(run: Run) -> list[str]:
    """What our own server counted."""
    found = counted.whole(run.counted)
    if not found or not found["counted_requests"]:
        return []
    lines = []
    for kind in counted.LOCKS:
        if waits := found[f"waits_{kind}"]:
            lines += _row(f"{kind} locks, waits", waits)
            lines += _row("  mean wait, µs", f"{found[f'waited_ms_{kind}'] / waits * 1000:,.0f}")
    if found["batches"]:
        lines += _row("journal, records per batch", f"{found['records'] / found['batches']:,.1f}")
        lines += _row("  mean time of a batch, ms", f"{found['sync_ms'] / found['batches']:,.2f}")
    return [*lines, ""]


def _operations(figures: Figures) -> list[str]:
    head = f"{'latency, µs':22}{'ok':>10}{'failed':>8}" + "".join(f"{h:>10}" for h in _HEADS)
    lines = [head]
    for name, line in figures.lines.items():
        lines.append(_latencies(name, line, line.latencies))
        if figures.is_open and name == "ALL":
            lines.append(_latencies("  service time", None, line.services))
    if figures.delivered.total_count:
        lines.append(_latencies("to the last member", None, figures.delivered))
    return lines


def _latencies(name: str, line: Line | None, histogram: Any) -> str:
    counts = f"{line.ok:>10,}{line.failed:>8,}" if line else f"{'':18}"
    values = quantiles_of(histogram).values()
    return f"{name:22}{counts}" + "".join(f"{_cell(value):>10}" for value in values)


def _cell(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _row(name: str, value: object) -> list[str]:
    return [f"{name:44}{value:>12,}" if isinstance(value, int) else f"{name:44}{value!s:>12}"]


def _verdict(run: Run) -> list[str]:
    """What was looked at, what was not, and what came out."""
    checked, findings = run.checked, run.findings
    lines = [
        *_row("transactions replayed in txn_id order", checked.get("transactions", 0)),
        *_row("BALANCE answers checked", checked.get("reads", 0)),
        *_row("room events checked", checked["events"]),
        *_row("entries of TXN_HISTORY compared", checked.get("log_entries", 0)),
        *(
            line
            for what in ("added", "taken", "removed")
            if f"offers_{what}" in checked
            for line in _row(f"offers {what}", checked[f"offers_{what}"])
        ),
    ]
    if gone := checked.get("log_entries_gone"):
        lines += _row("  not compared, the server keeps them no more", gone)
    for check, count in findings.counts.items():
        lines += _row(CHECKS[check], count)
    if findings.good:
        lines += _row("conserved, serializable, no silent gap", "good")
    else:
        lines += _row("verdict", "VIOLATED")
    return lines


def spread(options: Options, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Of several runs, the median, the least and the greatest of what is in SPREAD."""
    found = [run_as_object(options, run) for run in runs]
    told = {}
    for name in SPREAD:
        values = [each[name] for each in found if each[name] is not None]
        if values:
            told[name] = {"median": median(values), "min": min(values), "max": max(values)}
    return told


def spread_as_table(options: Options, runs: Sequence[Run]) -> str:
    lines = [f"{len(runs)} runs{'':20}{'median':>12}{'least':>12}{'greatest':>12}"]
    for name, values in spread(options, runs).items():
        lines.append(f"{name:26}" + "".join(f"{value:>12,.1f}" for value in values.values()))
    return "\n".join(lines)


def missed_thresholds(options: Options, run: Run) -> list[str]:
    """The thresholds that this run does not meet, in words."""
    figures = run.figures
    missed = []
    if not figures.all.ok and figures.seconds_s:
        missed.append(f"run {run.number}: nothing succeeded, so nothing was measured")
    if (percent := figures.all.missed_percent) > options.max_failed:
        missed.append(
            f"run {run.number}: {percent:.1f} % of the requests failed or were never sent, "
            f"--max-failed {options.max_failed:g}"
        )
    p99 = quantiles_of(figures.all.latencies)["p99_us"]
    if options.max_p99 and (p99 is None or p99 > options.max_p99 * 1000):
        told = "not known" if p99 is None else f"{p99 / 1000:,.3f} ms"
        missed.append(f"run {run.number}: p99 is {told}, --max-p99 {options.max_p99:g}")
    rate = figures.per_s(figures.all.ok)
    if options.min_rate and rate < options.min_rate:
        missed.append(
            f"run {run.number}: {rate:,.1f} successes per second, --min-rate {options.min_rate:g}"
        )
    return missed

"""report.md, from the figures: tables, and sentences of which every number and every comparison is
computed here. Where a sentence would depend on how a run came out, it is chosen by the figures."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.realtest import findings
from bench.realtest.data import COUNTED, FAILED, GOOD, OPERATIONS, RUNS, SECONDS, Results, Row
from bench.realtest.findings import KNEE_ACHIEVED, KNEE_FACTOR
from bench.realtest.scenarios import (
    CONNECTIONS,
    CONTENTION,
    DURABILITY,
    KNEE,
    LOCK_ROUNDS,
    LOCKS,
    MIXED,
    PAYLOAD,
    REFERENCE,
    SCENARIOS,
    WORKERS,
)
from bench.stress import counted
from bench.stress.options import parse

NONE: Final = "-"
_Cell = Callable[[Row], str]
_Columns = dict[str, _Cell]


# ---- how figures are written


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


def table(runs: Iterable[Row], columns: _Columns) -> list[str]:
    """A row per run."""
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join(":---" if not n else "---:" for n in range(len(columns))) + "|",
    ]
    lines += ["| " + " | ".join(cell(run) for cell in columns.values()) + " |" for run in runs]
    return [*lines, ""]


def _ms_of(name: str) -> _Cell:
    return lambda run: ms(run[name])


def _count_of(name: str) -> _Cell:
    return lambda run: count(run[name])


LATENCIES: Final[_Columns] = {
    "p50, ms": _ms_of("p50_us"),
    "p95, ms": _ms_of("p95_us"),
    "p99, ms": _ms_of("p99_us"),
    "p99.9, ms": _ms_of("p999_us"),
    "max, ms": _ms_of("max_us"),
}
RATE: Final[_Columns] = {"OK per s": _count_of("ok_per_s"), "failed": _count_of("failed")}
CPU: Final[_Columns] = {
    "server CPU, µs per request": lambda run: decimals(run["server_cpu_us"]),
}
GAPS: Final[_Columns] = {
    "room events told": _count_of("events"),
    "named in ROOM_GAPs instead": _count_of("missed_in_gaps"),
    "laps": _count_of("laps"),
}


def _label(head: str) -> _Columns:
    return {head: lambda run: str(run["label"])}


# ---- the sections


class Report:
    """The lines of one report."""

    def __init__(self, results: Results, drawn: Sequence[str]) -> None:
        """drawn: the charts that there are."""
        self.lines: list[str] = []
        self._results = results
        self._drawn = frozenset(drawn)

    def whole(self) -> str:
        self._head()
        for number, (title, body, section) in enumerate(
            (
                ("100 connections, mixed", self._mixed, MIXED),
                ("200 connections, trade-heavy: contention for accounts", self._contention,
                 CONTENTION),
                ("Chat payload", self._payload, PAYLOAD),
                ("Workers", self._workers, WORKERS),
                ("Connections", self._connections, CONNECTIONS),
                ("The knee", self._knee, KNEE),
                ("Durability", self._durability, DURABILITY),
                ("An improvement: a lock per account", self._locks, LOCKS),
            ),
            1,
        ):  # fmt: skip
            self._title(f"{number}. {title}")
            runs = self._results.section(section)
            if runs:
                body(runs)
            else:
                self._say("Nothing was measured.")
            self._missing(section)
        self._noise()
        self._all_runs()
        return "\n".join(self.lines).rstrip("\n") + "\n"

    def _title(self, text: str) -> None:
        self.lines += [f"## {text}", ""]

    def _say(self, *sentences: str) -> None:
        if told := " ".join(each for each in sentences if each):
            self.lines += [told, ""]

    def _list(self, items: Iterable[str]) -> None:
        self.lines += [*(f"- {item}" for item in items), ""]

    def _table(self, runs: Iterable[Row], *columns: _Columns) -> None:
        self.lines += table(runs, {k: v for part in columns for k, v in part.items()})

    def _chart(self, name: str, about: str) -> None:
        if name in self._drawn:
            self.lines += [f"![{about}]({name}.png)", ""]

    def _missing(self, section: str) -> None:
        """What of the table was not run, or came to nothing."""
        results = self._results
        there = {run["key"] for run in results.runs if run["ok"]}
        names = [
            f"`{each.key}`"
            for each in SCENARIOS
            if each.section == section and each.key not in there
        ]
        if names and len(names) < sum(each.section == section for each in SCENARIOS):
            self._say(f"Without figures: {', '.join(names)}.")

    # ---- the beginning

    def _head(self) -> None:
        results, machine = self._results, self._results.machine
        good = len(results.runs) - len(results.bad)
        self.lines += ["# The Real Test", ""]
        self._say(
            f"{len(results.runs)} of {len(SCENARIOS)} runs, measured for {machine['seconds']:g} s "
            f"each, begun {machine['started']}.",
            f"**{good} of {len(results.runs)} have a good verdict**: money conserved, "
            "strictly serializable and executed once, and no room event lost without being told "
            "([what is checked](../../docs/BENCH.md#the-verdict)).",
        )
        if results.bad:
            self._say("Not good:")
            self._list(
                f"`{run['key']}`: **{run['verdict']}**"
                + (f": {_one_line(run['problem'])}" if run["problem"] else "")
                for run in results.bad
            )
        self._summary()
        self._title("Machine and versions")
        packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
        commit = f" (commit {machine['commit']})" if machine["commit"] else ""
        self._list(
            f"{name}: {found}"
            for name, found in (
                ("CPU", f"{machine['cpu'] or 'not known'}, {machine['cores']} cores"),
                ("Memory", f"{machine['memory_gib']:g} GiB"),
                ("System", f"{machine['kernel']}, {machine['system'] or 'not known'}"),
                ("Journals on", machine["file_system"] or "a file system not known"),
                ("Software", f"tradechat {machine['tradechat']}{commit}, {machine['python']}"),
                ("Packages", packages),
                ("Load average just before", f"{machine['load_before']:g}"),
            )
        )
        usual = parse([])
        self._title("How to repeat it, and how to read it")
        self.lines += [
            "    make real-test                # all of this, into bench/results",
            "    make real-test SECONDS=5      # a trial, into bench/results-trial",
            "",
        ]
        self._say(
            "One run alone is `tradechat-bench --duration "
            f"{machine['seconds']:g}` with the options in [the last table](#all-runs).",
            f"The figures are in [{RUNS}]({RUNS}) (a row per run), [{OPERATIONS}]({OPERATIONS}), "
            f"[{SECONDS}]({SECONDS}) and [{COUNTED}]({COUNTED}) (what the server counted); the "
            "columns are those of [the stress client](../../docs/BENCH.md#csv).",
        )
        self._say(
            f"Server and load share the {machine['cores']} cores, so throughput is that of both "
            "together, and a process that could go on often waits for a core. In the closed loop "
            "each connection has one request in flight: mean latency is connections over "
            "throughput, and whatever makes one worse makes the other worse. Where nothing else is "
            f"said there are {usual.workers} workers, payloads of {usual.payload} bytes, rooms of "
            f"{usual.fanout}, {usual.accounts:,} accounts (as many as connections, if these are "
            "more) that are paid alike, and answers wait for the disk (`--durability sync`).",
        )

    def _summary(self) -> None:
        results = self._results
        items = []
        if base := results.run(f"{MIXED}/mixed"):
            items.append(
                f"100 connections, mixed: {count(base['ok_per_s'])} requests/s, p50 "
                f"{ms(base['p50_us'])} ms, p99 {ms(base['p99_us'])} ms."
            )
        uniform = results.run(f"{CONTENTION}/uniform")
        hot = results.run(f"{CONTENTION}/hot")
        if uniform and hot:
            share = findings.wait_share(hot)
            items.append(
                "One hot account against all alike: throughput "
                + moved(uniform["ok_per_s"], hot["ok_per_s"], count, "/s")
                + ", p99 "
                + moved(uniform["p99_us"], hot["p99_us"], ms, " ms")
                + (f"; workers wait {percent(share)} of their time for account locks."
                   if share is not None else ".")
            )  # fmt: skip
        open_runs = [run for run in results.section(KNEE) if run["rate"]]
        if open_runs:
            items.append(_knee_sentence(findings.knee(open_runs)))
        none, sync = (results.run(f"{DURABILITY}/{mode}") for mode in ("none", "sync"))
        if none and sync:
            items.append(
                "Durability none against sync: throughput "
                + moved(none["ok_per_s"], sync["ok_per_s"], count, "/s")
                + ", p99 "
                + moved(none["p99_us"], sync["p99_us"], ms, " ms")
                + "."
            )
        items += [
            f"One lock for all accounts against one for each, {workers} workers: throughput "
            + moved(found.before, found.after, count, "/s")
            + f" (medians), {_told_apart(found)}."
            for workers in LOCK_ROUNDS
            if (found := self._locks_compared(workers, "ok_per_s"))
        ]
        rate, p99 = (findings.noise(results.runs, name) for name in ("ok_per_s", "p99_us"))
        if rate or p99:
            items.append(
                f"Runs of equal settings differ by up to {percent(rate, 0)} in throughput and "
                f"{percent(p99, 0)} in p99 ([noise](#noise)): smaller differences mean nothing."
            )
        if items:
            self._title("In short")
            self._list(items)

    # ---- one for each section of the table

    def _mixed(self, runs: list[Row]) -> None:
        for run in runs:
            parts = [
                row | {"label": f"`{row['operation']}`"}
                for row in self._results.operations
                if row["key"] == run["key"]
            ]
            self._table(parts, _label("operation"), RATE, LATENCIES)
            self._say(
                f"{count(run['messages'])} chat messages reached {count(run['deliveries'])} "
                f"members, the last of each after {ms(run['delivery_p50_us'])} ms (p50) and "
                f"{ms(run['delivery_p99_us'])} ms (p99)."
                if run["messages"]
                else "",
                _batches_sentence(run),
            )
        self._chart("latency", "Latency quantiles of the mixed and the trade-heavy runs")

    def _contention(self, runs: list[Row]) -> None:
        uniform = self._results.run(f"{CONTENTION}/uniform")
        self._table(
            runs,
            _label("payees"),
            RATE,
            {"against uniform": lambda run: _against(run, uniform, "ok_per_s")},
            {name: LATENCIES[name] for name in ("p50, ms", "p99, ms", "p99.9, ms")},
        )
        self._chart("contention", "Throughput, and the time of the workers that is lock wait")
        self._say(
            "What the server counted in the same time, in its shared region. A wait is counted "
            "where a worker tries a lock and does not get it at once, from the try until it has "
            "the lock. That includes the time in which the holder has the lock but no core; the "
            "counters do not tell this apart.",
        )
        self._table(
            runs,
            _label("payees"),
            {
                "account lock waits per 1,000 requests": lambda run: decimals(
                    findings.waits_per_1000(run), 2
                ),
                "mean wait, µs": lambda run: count(findings.mean_wait_us(run)),
                "waited in all, ms": lambda run: decimals(run["waited_ms_account"]),
                "of the workers' time": lambda run: percent(findings.wait_share(run), 2),
                "log lock, of it": lambda run: percent(findings.wait_share(run, "log"), 2),
                "event lock, of it": lambda run: percent(findings.wait_share(run, "event"), 2),
            },
            CPU,
        )
        self.lines += ["### p99, and the waits for account locks", ""]
        if uniform is not None:
            self._list(
                _why(uniform, run)
                for run in runs
                if run is not uniform
                and run["mix"] == uniform["mix"]
                and run["workers"] == uniform["workers"]
            )
            self._say(_holder_off_core(runs, uniform))
        self._alone()
        self._seconds(runs)
        self._from_mixed(uniform)

    def _alone(self) -> None:
        """The same load on one worker: nobody contends."""
        uniform, hot = (
            self._results.run(f"{CONTENTION}/{name}") for name in ("uniform-alone", "hot-alone")
        )
        if uniform is None or hot is None:
            return
        waits = [
            NONE if run["waits_account"] is None else count(run["waits_account"])
            for run in (uniform, hot)
        ]
        self._say(
            "The counter-check is the same load on one worker, where no other worker can hold a "
            f"lock ({waits[0]} account lock waits with all payees alike, {waits[1]} with one hot "
            "account): there, one hot account moves throughput and p99 by",
            _percent_change(uniform, hot, "ok_per_s"),
            "and",
            _percent_change(uniform, hot, "p99_us") + ".",
            self._two_workers_beside(),
        )

    def _two_workers_beside(self) -> str:
        uniform, hot = (self._results.run(f"{CONTENTION}/{name}") for name in ("uniform", "hot"))
        if uniform is None or hot is None:
            return ""
        return (
            f"With {uniform['workers']} workers it is {_percent_change(uniform, hot, 'ok_per_s')} "
            f"and {_percent_change(uniform, hot, 'p99_us')}."
        )

    def _seconds(self, runs: list[Row]) -> None:
        trades = [run for run in runs if run["mix"] == "trade-heavy" and run["workers"] > 1]
        pairs = [each for run in trades for each in findings.seconds_of(self._results, run)]
        r = findings.rank_correlation(pairs)
        self._chart("lock-seconds", "p99 of each second against the lock waits in it")
        if r is not None:
            self._say(
                f"Second by second, over the {len(pairs)} seconds of the trade-heavy runs of more "
                "than one worker, the rank correlation of p99 and of the time waited for account "
                f"locks is {r:.2f} (1: they rise together, 0: nothing in common)."
            )

    def _from_mixed(self, uniform: Row | None) -> None:
        mixed = self._results.run(f"{CONTENTION}/mixed")
        if mixed is None or uniform is None:
            return
        self._say(
            "From mixed to trade-heavy, all payees alike, p99 over all operations "
            + moved(mixed["p99_us"], uniform["p99_us"], ms, " ms")
            + ". What differs between the two is what is asked:",
        )
        rows = [
            {**row, "label": f"{run['label']}: `{row['operation']}`"}
            for run in (mixed, uniform)
            for row in self._results.operations
            if row["key"] == run["key"]
        ]
        self._table(
            rows,
            _label("operation"),
            RATE,
            {name: LATENCIES[name] for name in ("p50, ms", "p99, ms")},
        )
        self._say(
            "CHAT_SEND and HEARTBEAT wait for no disk; ledger requests are answered when the "
            "batch of the journal that they are in is written and synced.",
            *(
                f"In `{run['key']}`: {_batches_sentence(run)}"
                for run in (mixed, uniform)
                if run["batches"]
            ),
            _other_waits(mixed, uniform),
        )

    def _payload(self, runs: list[Row]) -> None:
        self._table(
            runs,
            _label("payload"),
            RATE,
            {
                "p99, ms": _ms_of("p99_us"),
                "to the last member, p50, ms": _ms_of("delivery_p50_us"),
                "to the last member, p99, ms": _ms_of("delivery_p99_us"),
                "delivered, MiB/s": lambda run: decimals(
                    run["deliveries"] * run["payload"] / run["seconds"] / 2**20
                ),
            },
            CPU,
            GAPS,
        )
        self._chart("payload", "Throughput and delivery by payload")
        first, last = runs[0], runs[-1]
        self._say(
            f"From {first['label']} to {last['label']}, throughput "
            + moved(first["ok_per_s"], last["ok_per_s"], count, "/s")
            + (
                ", and the server's CPU time per request "
                + moved(first["server_cpu_us"], last["server_cpu_us"], decimals, " µs")
                if first["server_cpu_us"] and last["server_cpu_us"]
                else ""
            )
            + ".",
            _laps_sentence(runs),
        )

    def _workers(self, runs: list[Row]) -> None:
        first = runs[0]
        self._table(
            runs,
            _label("workers"),
            RATE,
            {f"against {first['label']}": lambda run: _against(run, first, "ok_per_s")},
            LATENCIES,
            CPU,
            {
                "waiting for locks, of the workers' time": lambda run: percent(
                    _all_waits_share(run), 2
                )
            },
        )
        self._chart("workers", "Throughput and latency by the number of workers")
        best = max(runs, key=lambda run: run["ok_per_s"])
        cores = self._results.machine["cores"]
        beyond = [run for run in runs if run["workers"] > cores]
        self._say(
            f"The most is with {_plural(best['workers'], 'worker')}: {count(best['ok_per_s'])}/s.",
            f"There are {cores} cores for the workers, the journal, the archive and "
            "the load processes: "
            + (
                f"{' and '.join(run['label'] for run in beyond)} workers are more than can run at "
                "once, and cannot show how the server scales on more cores."
                if beyond
                else "the load's share of these is not the server's to use."
            ),
        )

    def _connections(self, runs: list[Row]) -> None:
        self._table(runs, _label("connections"), RATE, LATENCIES, CPU, GAPS)
        self._chart("connections", "Throughput and latency by the number of connections")
        self._say(
            "Mean latency is connections over throughput: "
            + "; ".join(
                f"{run['label']}: {ms(run['connections'] / run['ok_per_s'] * 1e6)} ms"
                for run in runs
            )
            + ".",
            _laps_sentence(runs),
        )

    def _knee(self, runs: list[Row]) -> None:
        reference = next((run for run in runs if run["scenario"] == REFERENCE), None)
        open_runs = sorted((run for run in runs if run["rate"]), key=lambda run: run["rate"])
        if reference is not None:
            self._say(
                "Just before, the closed loop made "
                f"{count(reference['ok_per_s'])} requests/s: that is 100 %. Latency here "
                "counts from when a request was due."
            )
        if not open_runs:
            return
        lowest = open_runs[0]
        self._table(
            open_runs,
            _label("of the closed loop"),
            {
                "asked per s": _count_of("rate"),
                "OK per s": _count_of("ok_per_s"),
                "of the rate asked": lambda run: percent(findings.achieved(run)),
            },
            LATENCIES,
            {
                "sent late": _count_of("late"),
                "dropped": _count_of("dropped"),
                "keeps up": lambda run: "yes" if findings.keeps_up(run, lowest) else "no",
            },
        )
        self._chart("knee", "Latency and throughput against the rate that was asked")
        self._say(
            f"A rate is kept up with where at least {percent(KNEE_ACHIEVED, 0)} of it is answered "
            f"OK, and p99 is at most {KNEE_FACTOR:g} times that of the lowest rate. "
            "The knee is the last rate up to which all are kept up with.",
            f"**{_knee_sentence(findings.knee(open_runs))}**",
        )

    def _durability(self, runs: list[Row]) -> None:
        self._table(
            runs,
            _label("durability"),
            RATE,
            LATENCIES,
            {
                "records per batch": lambda run: decimals(findings.batch_mean(run)),
                "write and fsync, ms": lambda run: decimals(findings.sync_mean_ms(run), 2),
            },
            CPU,
        )
        self._chart("durability", "Throughput and latency by durability")
        self._chart("batches", "Time of a batch's write and fsync against its records")
        by_mode = {run["scenario"]: run for run in runs}
        none, sync = by_mode.get("none"), by_mode.get("sync")
        self._say(
            "none: memory only. async: answered at once, and durable within the flush interval. "
            "sync: answered when durable.",
            "From none to sync, throughput "
            + moved(none["ok_per_s"], sync["ok_per_s"], count, "/s")
            + " and p50 "
            + moved(none["p50_us"], sync["p50_us"], ms, " ms")
            + "."
            if none and sync
            else "",
            _batch_growth(self._results),
        )

    def _locks_runs(self, name: str, workers: int) -> list[Row]:
        return [
            run for run in self._results.section(LOCKS) if run["scenario"] == f"{name}-{workers}"
        ]

    def _locks_compared(self, workers: int, column: str) -> findings.Compared | None:
        before, after = (self._locks_runs(name, workers) for name in ("global", "account"))
        return findings.compare(before, after, column)

    def _locks(self, runs: list[Row]) -> None:
        self._say(
            "Before: one lock for all accounts (`--account-locks 1`). After: a lock for each "
            "account, as is the default. The load is trade-heavy with 200 connections and all "
            "payees alike; the two alternate.",
        )
        self._table(
            runs,
            _label("locks"),
            {"round": _count_of("round")},
            RATE,
            {name: LATENCIES[name] for name in ("p50, ms", "p99, ms", "p99.9, ms")},
            {
                "waits per 1,000 requests": lambda run: decimals(findings.waits_per_1000(run), 2),
                "mean wait, µs": lambda run: count(findings.mean_wait_us(run)),
                "of the workers' time": lambda run: percent(findings.wait_share(run), 2),
            },
        )
        self._chart("account-locks", "Before and after, every run and the medians")
        items = []
        for workers in LOCK_ROUNDS:
            rate = self._locks_compared(workers, "ok_per_s")
            p99 = self._locks_compared(workers, "p99_us")
            if rate is None or p99 is None:
                continue
            waited = self._locks_compared(workers, "waited_ms_account")
            items.append(
                f"**{workers} workers**, medians: throughput "
                f"{moved(rate.before, rate.after, count, '/s')}, {_told_apart(rate)}; p99 "
                f"{moved(p99.before, p99.after, ms, ' ms')}, {_told_apart(p99)}"
                + (
                    f"; waited for account locks, in all: "
                    f"{moved(waited.before, waited.after, count, ' ms')}."
                    if waited is not None
                    else "."
                )
            )
        self._list(items)

    # ---- the end

    def _noise(self) -> None:
        groups = findings.spreads(self._results.runs)
        self._title("Noise")
        if not groups:
            self._say("No setting was run more than once, so nothing is known of it.")
            return
        self._say(
            "Some settings were run more than once, at different times of the test. What these "
            "runs differ by is no effect of anything that is varied here:",
        )
        self.lines += [
            "| options | runs | OK per s, least to greatest | p99, ms, least to greatest |",
            "|:---|---:|---:|---:|",
        ]
        for group in groups:
            rate, p99 = group.of("ok_per_s"), group.of("p99_us")
            self.lines.append(
                f"| `{group.options}` | {len(group.runs)} | {count(rate[0])} to {count(rate[2])} "
                f"({percent(group.width('ok_per_s'), 0)}) | {ms(p99[0])} to {ms(p99[2])} "
                f"({percent(group.width('p99_us'), 0)}) |"
            )
        runs = self._results.runs
        self.lines.append("")
        self._say(
            "The percentages are of the median. A difference between two single runs that is below "
            f"{percent(findings.noise(runs, 'ok_per_s'), 0)} of throughput, or "
            f"{percent(findings.noise(runs, 'p99_us'), 0)} of p99, may be noise."
        )

    def _all_runs(self) -> None:
        self._title("All runs")
        self._table(
            self._results.runs,
            {
                "run": lambda run: f"`{run['key']}`",
                "options": lambda run: f"`{run['options']}`",
                "requests": _count_of("ok"),
                "transactions replayed": _count_of("transactions"),
                "room events checked": _count_of("events"),
                "verdict": lambda run: (
                    str(run["verdict"]) if run["verdict"] == GOOD else f"**{run['verdict']}**"
                ),
            },
        )
        if any(run["verdict"] == FAILED for run in self._results.runs):
            self._say("A failed run is one of which nothing can be said; the reason is on top.")


# ---- sentences


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _against(run: Row, base: Row | None, name: str) -> str:
    if base is None or run is base or not base[name] or run[name] is None:
        return NONE
    return f"{(run[name] - base[name]) / base[name] * 100:+.0f} %"


def _percent_change(before: Row, after: Row, name: str) -> str:
    return _against(after, before, name)


def _why(uniform: Row, run: Row) -> str:
    """How throughput and p99 differ from uniform, and what lock waits are of that."""
    told = (
        f"**{run['label']}** against uniform: throughput "
        f"{moved(uniform['ok_per_s'], run['ok_per_s'], count, '/s')}, p99 "
        f"{moved(uniform['p99_us'], run['p99_us'], ms, ' ms')}. "
    )
    before, after = findings.worker_time(uniform), findings.worker_time(run)
    waits = findings.waits_per_1000(uniform), findings.waits_per_1000(run)
    if before is None or after is None or waits[0] is None or waits[1] is None:
        return told + "What the server counted is not known."
    told += (
        f"Account lock waits: {waits[0]:,.2f} and {waits[1]:,.2f} per 1,000 requests, "
        f"{before.account:,.2f} and {after.account:,.2f} µs per request. "
        f"A request takes {before.whole:,.1f} and {after.whole:,.1f} µs of the workers' time"
    )
    rise, waited = after.whole - before.whole, after.account - before.account
    if rise <= 0:
        return told + ": no more than with uniform."
    told += f", {rise:,.1f} µs more. "
    if waited <= 0:
        return told + "The lock waits have no part in that."
    return told + (
        f"The lock waits alone grew by {waited:,.1f} µs, {percent(waited / rise, 0)} of that."
    )


def _holder_off_core(runs: Sequence[Row], uniform: Row) -> str:
    """Where a wait is far longer than the whole CPU time of the requests that can be before it."""
    run = max(
        (each for each in runs if each["workers"] == uniform["workers"]),
        key=lambda each: each["waited_ms_account"] or 0,
    )
    wait, cpu_us = findings.mean_wait_us(run), run["server_cpu_us"]
    if wait is None or not cpu_us or wait <= 2 * (run["workers"] - 1) * cpu_us:
        return ""
    return (
        f"Most is waited with {run['label']}: {wait:,.0f} µs on average, where a whole request "
        f"takes the server {cpu_us:,.0f} µs of CPU, in a part of which a lock is held. So most of "
        "such a wait is not the holder's work: the holder has been put off its core, or itself "
        "waits for a lock that is taken later. Meanwhile the worker that waits answers none of its "
        f"connections, about {run['connections'] / run['workers']:,.0f} of them: one wait makes "
        "all of these late, not one request."
    )


def _all_waits_share(run: Row) -> float | None:
    shares = [findings.wait_share(run, kind) for kind in counted.LOCKS]
    known = [share for share in shares if share is not None]
    return sum(known) if known else None


def _batches_sentence(run: Row) -> str:
    mean, took = findings.batch_mean(run), findings.sync_mean_ms(run)
    if mean is None or took is None:
        return ""
    return f"On average a batch of the journal has {mean:,.1f} records and takes {took:,.2f} ms."


def _other_waits(mixed: Row, uniform: Row) -> str:
    shares = [_all_waits_share(run) for run in (mixed, uniform)]
    if None in shares:
        return ""
    return (
        f"All lock waits together are {percent(shares[0], 2)} of the workers' time in mixed work, "
        f"and {percent(shares[1], 2)} in trade-heavy work."
    )


def _laps_sentence(runs: Sequence[Row]) -> str:
    lapped = [run for run in runs if run["laps"]]
    if not lapped:
        choked = [run for run in runs if run["gaps"]]
        return (
            f"ROOM_GAPs with {' and '.join(run['label'] for run in choked)}: members whose output "
            "was full were told exactly what they missed; the event ring was never lapped."
            if choked
            else ""
        )
    told = "; ".join(
        f"{run['label']}: {_plural(run['laps'], 'lap')}, {_plural(run['gaps'], 'ROOM_GAP')}, "
        f"{percent(_missed_share(run))} of what members were to be told"
        for run in lapped
    )
    return (
        "A lap is that the event ring went past a worker which had not yet pushed what was in it: "
        "its members are then told exactly what they missed, and can fetch it. It is a matter of a "
        f"worker's speed in pushing against that of publishing, not of slow members: {told}."
    )


def _missed_share(run: Row) -> float | None:
    whole = (run["events"] or 0) + (run["missed_in_gaps"] or 0)
    return run["missed_in_gaps"] / whole if whole else None


def _knee_sentence(found: findings.Knee) -> str:
    if found.last is None and found.first is not None:
        return (
            f"The knee is below the lowest rate: {count(found.first['rate'])} requests/s are not "
            "kept up with."
        )
    assert found.last is not None, "there are runs"
    told = (
        f"{count(found.last['rate'])} requests/s ({found.last['label']} of the closed loop), with "
        f"p99 at {ms(found.last['p99_us'])} ms"
    )
    if found.first is None:
        return f"The knee is not reached: the highest rate is kept up with, {told}."
    return (
        f"The knee is at {told}; at {count(found.first['rate'])} requests/s "
        f"({found.first['label']}) p99 is {ms(found.first['p99_us'])} ms, and "
        f"{count(found.first['ok_per_s'])}/s are answered, "
        f"{percent(findings.achieved(found.first))} of the rate."
    )


def _batch_growth(results: Results) -> str:
    """How the time of a batch goes with its size."""
    known = {run["key"] for run in results.runs}
    pairs = [
        (row["records"] / row["batches"], row["sync_ms"] / row["batches"])
        for row in results.counted
        if row["batches"] and row["key"] in known
    ]
    r = findings.rank_correlation(pairs)
    if r is None:
        return ""
    return (
        f"Over {len(pairs)} seconds of all runs with a journal, the rank correlation of the "
        f"records in a batch and of its time is {r:.2f}."
    )


def _told_apart(found: findings.Compared) -> str:
    return (
        "with all runs of one on the same side of all runs of the other"
        if found.apart
        else "with single runs that overlap, so that no difference is shown"
    )


def write_report(results: Results, drawn: Sequence[str], path: Path) -> None:
    """OSError."""
    path.write_text(Report(results, drawn).whole())

"""report.md, from the figures: its sections, their tables and charts. Every number and every
comparison in it is computed; the prose is in prose.md, and what depends on how a run came out is
chosen by the figures (sentences.py)."""

from collections.abc import Sequence
from pathlib import Path

from bench.realtest import contention, findings, overload, sentences
from bench.realtest.data import COUNTED, FAILED, GOOD, OPERATIONS, RUNS, SECONDS, Results, Row
from bench.realtest.figures import (
    CPU,
    GAPS,
    LATENCIES,
    RATE,
    against,
    count,
    count_of,
    decimals,
    label,
    moved,
    ms,
    ms_of,
    one_line,
    percent,
    plural,
)
from bench.realtest.findings import KNEE_ACHIEVED, KNEE_FACTOR
from bench.realtest.page import Page
from bench.realtest.prose import say
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
    REFERENCE,
    SCENARIOS,
    WORKERS,
)
from bench.stress.options import parse


class Report(Page):
    """The lines of one report."""

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
                ("Overload", self._overload, OVERLOAD),
            ),
            1,
        ):  # fmt: skip
            self.title(f"{number}. {title}")
            runs = self.results.section(section)
            if runs:
                body(runs)
            else:
                self.paragraph("Nothing was measured.")
            self._missing(section)
        self._noise()
        self._all_runs()
        return "\n".join(self.lines).rstrip("\n") + "\n"

    def _missing(self, section: str) -> None:
        """What of the table was not run, or came to nothing."""
        results = self.results
        there = {run["key"] for run in results.runs if run["ok"]}
        names = [
            f"`{each.key}`"
            for each in SCENARIOS
            if each.section == section and each.key not in there
        ]
        if names and len(names) < sum(each.section == section for each in SCENARIOS):
            self.paragraph(f"Without figures: {', '.join(names)}.")

    # ---- the beginning

    def _head(self) -> None:
        results, machine = self.results, self.results.machine
        good = len(results.runs) - len(results.bad)
        self.lines += ["# The Real Test", ""]
        self.paragraph(
            say(
                "measured",
                runs=len(results.runs),
                scenarios=len(SCENARIOS),
                seconds=f"{machine['seconds']:g}",
                started=machine["started"],
                good=good,
            )
        )
        if results.bad:
            self.paragraph("Not good:")
            self.items(
                f"`{run['key']}`: **{run['verdict']}**"
                + (f": {one_line(run['problem'])}" if run["problem"] else "")
                for run in results.bad
            )
        self._summary()
        self.title("Machine and versions")
        packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
        commit = f", commit {machine['commit']}" if machine["commit"] else ""
        software = f"tradechat {machine['tradechat']} ({machine['form']}{commit})"
        self.items(
            f"{name}: {found}"
            for name, found in (
                ("CPU", f"{machine['cpu'] or 'not known'}, {machine['cores']} cores"),
                ("Memory", f"{machine['memory_gib']:g} GiB"),
                ("System", f"{machine['kernel']}, {machine['system'] or 'not known'}"),
                ("Journals on", machine["file_system"] or "a file system not known"),
                ("Software", f"{software}, {machine['python']}"),
                ("Packages", packages),
                ("Load average just before", f"{machine['load_before']:g}"),
            )
        )
        usual = parse([])
        self.title("How to repeat it, and how to read it")
        self.lines += [
            "    make real-test                # all of this, into bench/results",
            "    make real-test SECONDS=5      # a trial, into bench/results-trial",
            "",
        ]
        self.paragraph(
            say(
                "repeat",
                seconds=f"{machine['seconds']:g}",
                runs=RUNS,
                operations=OPERATIONS,
                by_second=SECONDS,
                counted=COUNTED,
            )
        )
        self.paragraph(
            say(
                "read",
                cores=machine["cores"],
                workers=usual.workers,
                payload=usual.payload,
                fanout=usual.fanout,
                accounts=f"{usual.accounts:,}",
            )
        )

    def _summary(self) -> None:
        results = self.results
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
            items.append(sentences.knee(findings.knee(open_runs)))
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
            + f" (medians), {sentences.told_apart(found)}."
            for workers in LOCK_ROUNDS
            if (found := self._locks_compared(workers, "ok_per_s"))
        ]
        if above := findings.overloaded(results.section(OVERLOAD)):
            items.append(sentences.overloaded(above))
        rate, p99 = (findings.noise(results.runs, name) for name in ("ok_per_s", "p99_us"))
        if rate or p99:
            items.append(say("equal settings", rate=percent(rate, 0), p99=percent(p99, 0)))
        if items:
            self.title("In short")
            self.items(items)

    # ---- one for each section of the table

    def _mixed(self, runs: list[Row]) -> None:
        for run in runs:
            parts = [
                row | {"label": f"`{row['operation']}`"}
                for row in self.results.operations
                if row["key"] == run["key"]
            ]
            self.table(parts, label("operation"), RATE, LATENCIES)
            self.paragraph(
                say(
                    "delivered",
                    messages=count(run["messages"]),
                    deliveries=count(run["deliveries"]),
                    p50=ms(run["delivery_p50_us"]),
                    p99=ms(run["delivery_p99_us"]),
                )
                if run["messages"]
                else "",
                sentences.batches(run),
            )
        self.chart("latency", "Latency quantiles of the mixed and the trade-heavy runs")

    def _contention(self, runs: list[Row]) -> None:
        contention.section(self, runs)

    def _payload(self, runs: list[Row]) -> None:
        self.table(
            runs,
            label("payload"),
            RATE,
            {
                "p99, ms": ms_of("p99_us"),
                "to the last member, p50, ms": ms_of("delivery_p50_us"),
                "to the last member, p99, ms": ms_of("delivery_p99_us"),
                "delivered, MiB/s": lambda run: decimals(
                    run["deliveries"] * run["payload"] / run["seconds"] / 2**20
                ),
            },
            CPU,
            GAPS,
        )
        self.chart("payload", "Throughput and delivery by payload")
        first, last = runs[0], runs[-1]
        self.paragraph(
            f"From {first['label']} to {last['label']}, throughput "
            + moved(first["ok_per_s"], last["ok_per_s"], count, "/s")
            + (
                ", and the server's CPU time per request "
                + moved(first["server_cpu_us"], last["server_cpu_us"], decimals, " µs")
                if first["server_cpu_us"] and last["server_cpu_us"]
                else ""
            )
            + ".",
            sentences.laps(runs),
        )

    def _workers(self, runs: list[Row]) -> None:
        first = runs[0]
        self.table(
            runs,
            label("workers"),
            RATE,
            {f"against {first['label']}": lambda run: against(run, first, "ok_per_s")},
            LATENCIES,
            CPU,
            {
                "waiting for locks, of the workers' time": lambda run: percent(
                    sentences.all_waits_share(run), 2
                )
            },
        )
        self.chart("workers", "Throughput and latency by the number of workers")
        best = max(runs, key=lambda run: run["ok_per_s"])
        cores = self.results.machine["cores"]
        beyond = [run for run in runs if run["workers"] > cores]
        self.paragraph(
            f"The most is with {plural(best['workers'], 'worker')}: {count(best['ok_per_s'])}/s.",
            say(
                "cores",
                cores=cores,
                so=say("beyond the cores", workers=" and ".join(run["label"] for run in beyond))
                if beyond
                else "the load's share of these is not the server's to use.",
            ),
        )

    def _connections(self, runs: list[Row]) -> None:
        self.table(runs, label("connections"), RATE, LATENCIES, CPU, GAPS)
        self.chart("connections", "Throughput and latency by the number of connections")
        self.paragraph(
            "Mean latency is connections over throughput: "
            + "; ".join(
                f"{run['label']}: {ms(run['connections'] / run['ok_per_s'] * 1e6)} ms"
                for run in runs
            )
            + ".",
            sentences.laps(runs),
        )

    def _knee(self, runs: list[Row]) -> None:
        reference = next((run for run in runs if run["scenario"] == REFERENCE), None)
        open_runs = sorted((run for run in runs if run["rate"]), key=lambda run: run["rate"])
        if reference is not None:
            self.paragraph(say("reference", rate=count(reference["ok_per_s"])))
        if not open_runs:
            return
        lowest = open_runs[0]
        self.table(
            open_runs,
            label("of the closed loop"),
            {
                "asked per s": count_of("rate"),
                "OK per s": count_of("ok_per_s"),
                "of the rate asked": lambda run: percent(findings.achieved(run)),
            },
            LATENCIES,
            {
                "sent late": count_of("late"),
                "dropped": count_of("dropped"),
                "keeps up": lambda run: "yes" if findings.keeps_up(run, lowest) else "no",
            },
        )
        self.chart("knee", "Latency and throughput against the rate that was asked")
        self.paragraph(
            say("kept up with", achieved=percent(KNEE_ACHIEVED, 0), factor=f"{KNEE_FACTOR:g}"),
            f"**{sentences.knee(findings.knee(open_runs))}**",
        )

    def _durability(self, runs: list[Row]) -> None:
        self.table(
            runs,
            label("durability"),
            RATE,
            LATENCIES,
            {
                "records per batch": lambda run: decimals(findings.batch_mean(run)),
                "write and fsync, ms": lambda run: decimals(findings.sync_mean_ms(run), 2),
            },
            CPU,
        )
        self.chart("durability", "Throughput and latency by durability")
        self.chart("batches", "Time of a batch's write and fsync against its records")
        by_mode = {run["scenario"]: run for run in runs}
        none, sync = by_mode.get("none"), by_mode.get("sync")
        self.paragraph(
            say("durability"),
            "From none to sync, throughput "
            + moved(none["ok_per_s"], sync["ok_per_s"], count, "/s")
            + " and p50 "
            + moved(none["p50_us"], sync["p50_us"], ms, " ms")
            + "."
            if none and sync
            else "",
            sentences.batch_growth(self.results),
        )

    def _locks_runs(self, name: str, workers: int) -> list[Row]:
        return [
            run for run in self.results.section(LOCKS) if run["scenario"] == f"{name}-{workers}"
        ]

    def _locks_compared(self, workers: int, column: str) -> findings.Compared | None:
        before, after = (self._locks_runs(name, workers) for name in ("global", "account"))
        return findings.compare(before, after, column)

    def _locks(self, runs: list[Row]) -> None:
        self.paragraph(say("locks"))
        self.table(
            runs,
            label("locks"),
            {"round": count_of("round")},
            RATE,
            {name: LATENCIES[name] for name in ("p50, ms", "p99, ms", "p99.9, ms")},
            {
                "waits per 1,000 requests": lambda run: decimals(findings.waits_per_1000(run), 2),
                "mean wait, µs": lambda run: count(findings.mean_wait_us(run)),
                "of the workers' time": lambda run: percent(findings.wait_share(run), 2),
            },
        )
        self.chart("account-locks", "Before and after, every run and the medians")
        items = []
        for workers in LOCK_ROUNDS:
            rate = self._locks_compared(workers, "ok_per_s")
            p99 = self._locks_compared(workers, "p99_us")
            if rate is None or p99 is None:
                continue
            waited = self._locks_compared(workers, "waited_ms_account")
            items.append(
                f"**{workers} workers**, medians: throughput "
                f"{moved(rate.before, rate.after, count, '/s')}, {sentences.told_apart(rate)}; p99 "
                f"{moved(p99.before, p99.after, ms, ' ms')}, {sentences.told_apart(p99)}"
                + (
                    f"; waited for account locks, in all: "
                    f"{moved(waited.before, waited.after, count, ' ms')}."
                    if waited is not None
                    else "."
                )
            )
        self.items(items)

    def _overload(self, runs: list[Row]) -> None:
        overload.section(self, runs)

    # ---- the end

    def _noise(self) -> None:
        groups = findings.spreads(self.results.runs)
        self.title("Noise")
        if not groups:
            self.paragraph("No setting was run more than once, so nothing is known of it.")
            return
        self.paragraph(say("noise"))
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
        runs = self.results.runs
        self.lines.append("")
        self.paragraph(
            say(
                "noise below",
                rate=percent(findings.noise(runs, "ok_per_s"), 0),
                p99=percent(findings.noise(runs, "p99_us"), 0),
            )
        )

    def _all_runs(self) -> None:
        self.title("All runs")
        self.table(
            self.results.runs,
            {
                "run": lambda run: f"`{run['key']}`",
                "options": lambda run: f"`{run['options']}`",
                "requests": count_of("ok"),
                "transactions replayed": count_of("transactions"),
                "room events checked": count_of("events"),
                "verdict": lambda run: (
                    str(run["verdict"]) if run["verdict"] == GOOD else f"**{run['verdict']}**"
                ),
            },
        )
        if any(run["verdict"] == FAILED for run in self.results.runs):
            self.paragraph(say("failed"))


def write_report(results: Results, drawn: Sequence[str], path: Path) -> None:
    """OSError."""
    path.write_text(Report(results, drawn).whole())

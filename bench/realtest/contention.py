"""The section on contention: what throughput and p99 lose to the waits for account locks."""

from bench.realtest import findings, sentences
from bench.realtest.data import Row
from bench.realtest.figures import (
    CPU,
    LATENCIES,
    NONE,
    RATE,
    against,
    count,
    decimals,
    label,
    moved,
    ms,
    percent,
)
from bench.realtest.page import Page
from bench.realtest.prose import say
from bench.realtest.scenarios import CONTENTION


def section(page: Page, runs: list[Row]) -> None:
    uniform = page.results.run(f"{CONTENTION}/uniform")
    page.table(
        runs,
        label("payees"),
        RATE,
        {"against uniform": lambda run: against(run, uniform, "ok_per_s")},
        {name: LATENCIES[name] for name in ("p50, ms", "p99, ms", "p99.9, ms")},
    )
    page.chart("contention", "Throughput, and the time of the workers that is lock wait")
    page.paragraph(say("counted waits"))
    page.table(
        runs,
        label("payees"),
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
    page.lines += ["### p99, and the waits for account locks", ""]
    if uniform is not None:
        page.items(
            sentences.why(uniform, run)
            for run in runs
            if run is not uniform
            and run["mix"] == uniform["mix"]
            and run["workers"] == uniform["workers"]
        )
        page.paragraph(sentences.holder_off_core(runs, uniform))
    _alone(page)
    _seconds(page, runs)
    _from_mixed(page, uniform)


def _alone(page: Page) -> None:
    """The same load on one worker: nobody contends."""
    uniform, hot = (
        page.results.run(f"{CONTENTION}/{name}") for name in ("uniform-alone", "hot-alone")
    )
    if uniform is None or hot is None:
        return
    waits = [
        NONE if run["waits_account"] is None else count(run["waits_account"])
        for run in (uniform, hot)
    ]
    page.paragraph(
        say(
            "alone",
            uniform=waits[0],
            hot=waits[1],
            rate=against(hot, uniform, "ok_per_s"),
            p99=against(hot, uniform, "p99_us"),
        ),
        _two_workers_beside(page),
    )


def _two_workers_beside(page: Page) -> str:
    uniform, hot = (page.results.run(f"{CONTENTION}/{name}") for name in ("uniform", "hot"))
    if uniform is None or hot is None:
        return ""
    return (
        f"With {uniform['workers']} workers it is {against(hot, uniform, 'ok_per_s')} "
        f"and {against(hot, uniform, 'p99_us')}."
    )


def _seconds(page: Page, runs: list[Row]) -> None:
    trades = [run for run in runs if run["mix"] == "trade-heavy" and run["workers"] > 1]
    pairs = [each for run in trades for each in findings.seconds_of(page.results, run)]
    r = findings.rank_correlation(pairs)
    page.chart("lock-seconds", "p99 of each second against the lock waits in it")
    if r is not None:
        page.paragraph(say("seconds", seconds=len(pairs), r=f"{r:.2f}"))


def _from_mixed(page: Page, uniform: Row | None) -> None:
    mixed = page.results.run(f"{CONTENTION}/mixed")
    if mixed is None or uniform is None:
        return
    page.paragraph(say("from mixed", moved=moved(mixed["p99_us"], uniform["p99_us"], ms, " ms")))
    rows = [
        {**row, "label": f"{run['label']}: `{row['operation']}`"}
        for run in (mixed, uniform)
        for row in page.results.operations
        if row["key"] == run["key"]
    ]
    page.table(
        rows,
        label("operation"),
        RATE,
        {name: LATENCIES[name] for name in ("p50, ms", "p99, ms")},
    )
    page.paragraph(
        say("waits for the disk"),
        *(
            f"In `{run['key']}`: {sentences.batches(run)}"
            for run in (mixed, uniform)
            if run["batches"]
        ),
        sentences.other_waits(mixed, uniform),
    )

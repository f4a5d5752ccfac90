"""Sentences of the report that are chosen by the figures."""

from collections.abc import Sequence

from bench.realtest import findings
from bench.realtest.data import Results, Row
from bench.realtest.figures import count, moved, ms, percent, plural
from bench.realtest.prose import say
from bench.stress import counted


def why(uniform: Row, run: Row) -> str:
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
    told += say(
        "lock waits",
        waits_before=f"{waits[0]:,.2f}",
        waits_after=f"{waits[1]:,.2f}",
        account_before=f"{before.account:,.2f}",
        account_after=f"{after.account:,.2f}",
        whole_before=f"{before.whole:,.1f}",
        whole_after=f"{after.whole:,.1f}",
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


def holder_off_core(runs: Sequence[Row], uniform: Row) -> str:
    """Where a wait is far longer than the whole CPU time of the requests that can be before it."""
    run = max(
        (each for each in runs if each["workers"] == uniform["workers"]),
        key=lambda each: each["waited_ms_account"] or 0,
    )
    wait, cpu_us = findings.mean_wait_us(run), run["server_cpu_us"]
    if wait is None or not cpu_us or wait <= 2 * (run["workers"] - 1) * cpu_us:
        return ""
    return say(
        "holder off core",
        label=run["label"],
        wait=f"{wait:,.0f}",
        cpu=f"{cpu_us:,.0f}",
        connections=f"{run['connections'] / run['workers']:,.0f}",
    )


def all_waits_share(run: Row) -> float | None:
    shares = [findings.wait_share(run, kind) for kind in counted.LOCKS]
    known = [share for share in shares if share is not None]
    return sum(known) if known else None


def batches(run: Row) -> str:
    mean, took = findings.batch_mean(run), findings.sync_mean_ms(run)
    if mean is None or took is None:
        return ""
    return say("batches", records=f"{mean:,.1f}", took=f"{took:,.2f}")


def other_waits(mixed: Row, uniform: Row) -> str:
    shares = [all_waits_share(run) for run in (mixed, uniform)]
    if None in shares:
        return ""
    return say("other waits", mixed=percent(shares[0], 2), uniform=percent(shares[1], 2))


def laps(runs: Sequence[Row]) -> str:
    lapped = [run for run in runs if run["laps"]]
    if not lapped:
        choked = [run for run in runs if run["gaps"]]
        return say("gaps", labels=" and ".join(run["label"] for run in choked)) if choked else ""
    told = "; ".join(
        f"{run['label']}: {plural(run['laps'], 'lap')}, {plural(run['gaps'], 'ROOM_GAP')}, "
        f"{percent(missed_share(run))} of what members were to be told"
        for run in lapped
    )
    return say("laps", told=told)


def missed_share(run: Row) -> float | None:
    whole = (run["events"] or 0) + (run["missed_in_gaps"] or 0)
    return run["missed_in_gaps"] / whole if whole else None


def knee(found: findings.Knee) -> str:
    if found.last is None and found.first is not None:
        return say("knee below", rate=count(found.first["rate"]))
    assert found.last is not None, "there are runs"
    told = (
        f"{count(found.last['rate'])} requests/s ({found.last['label']} of the closed loop), with "
        f"p99 at {ms(found.last['p99_us'])} ms"
    )
    if found.first is None:
        return f"The knee is not reached: the highest rate is kept up with, {told}."
    return say(
        "knee",
        told=told,
        rate=count(found.first["rate"]),
        label=found.first["label"],
        p99=ms(found.first["p99_us"]),
        ok=count(found.first["ok_per_s"]),
        achieved=percent(findings.achieved(found.first)),
    )


def overloaded(above: Sequence[findings.Overloaded]) -> str:
    told = "; ".join(
        f"at {each.run['label']} {percent(each.goodput, 0)} of what is answered OK at the knee, "
        f"with {each.slower:.2g} times its p99"
        for each in above
    )
    holds = all(each.holds for each in above)
    return say(
        "overloaded",
        told=told,
        goodput=percent(findings.GOODPUT, 0),
        slower=f"{findings.SLOWER:g}",
        holds="That holds" if holds else "That does not hold",
    )


def batch_growth(results: Results) -> str:
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
    return say("batch growth", seconds=len(pairs), r=f"{r:.2f}")


def told_apart(found: findings.Compared) -> str:
    return (
        "with all runs of one on the same side of all runs of the other"
        if found.apart
        else "with single runs that overlap, so that no difference is shown"
    )

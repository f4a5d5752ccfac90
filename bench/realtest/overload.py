"""The section on overload: what is still answered, and how fast, above the knee."""

from functools import partial

from bench.realtest import findings, sentences
from bench.realtest.data import Row
from bench.realtest.figures import LATENCIES, count, count_of, label, ms, percent
from bench.realtest.page import Page
from bench.realtest.prose import say
from bench.realtest.scenarios import REFERENCE
from bench.stress.mix import TRADES
from libproto.messages import Opcode

GROUPS = {
    "chat": (Opcode.CHAT_SEND.name,),
    "ledger": tuple(opcode.name for opcode in TRADES),
    "heartbeats": (Opcode.HEARTBEAT.name,),
}
"""The operations of the mix by what they count for under overload."""


def answered(page: Page, run: Row, group: str) -> float | None:
    """The part of a group that was answered OK, of what was answered at all."""
    rows = [
        row
        for row in page.results.operations
        if row["key"] == run["key"] and row["operation"] in GROUPS[group]
    ]
    whole = sum(row["ok"] + row["failed"] for row in rows)
    return sum(row["ok"] for row in rows) / whole if whole else None


def _answered_cell(page: Page, group: str, run: Row) -> str:
    return percent(answered(page, run, group))


def section(page: Page, runs: list[Row]) -> None:
    swept = [run for run in runs if run["share"]]
    multiples = sorted(
        (run for run in runs if run["rate"] and not run["share"]), key=lambda run: run["rate"]
    )
    page.paragraph(say("overload"))
    reference = next((run for run in runs if run["scenario"] == REFERENCE), None)
    if reference is not None:
        page.paragraph(say("reference", rate=count(reference["ok_per_s"])))
    if (knee := findings.greatest_kept_up(swept)) is not None:
        page.paragraph(
            say("knee above", rate=count(knee["rate"]), label=knee["label"], p99=ms(knee["p99_us"]))
        )
    if not multiples:
        return
    page.table(
        multiples,
        label("rate"),
        {"asked per s": count_of("rate"), "OK per s": count_of("ok_per_s")},
        {f"{group} OK": partial(_answered_cell, page, group) for group in GROUPS},
        LATENCIES,
        {"sent late": count_of("late"), "dropped": count_of("dropped")},
    )
    page.chart("overload", "What is answered OK, and its latency, by the rate asked")
    if above := findings.overloaded(runs):
        page.paragraph(f"**{sentences.overloaded(above)}**")

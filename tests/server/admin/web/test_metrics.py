"""The metrics: all of the table in what is exposed, by the conventions of Prometheus."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.admin.snapshot import look
from server.admin.web.exposition import Exposition
from server.admin.web.metrics import METRICS
from server.admin.web.samples import PREFIX, Kind, Metric
from server.region.counters import COUNTERS, ROWS
from server.region.layout import WorkerState
from server.region.region import Region
from server.region.status import Status, publish
from tests.helpers.region import SMALL, small_region

# Units that are not base units, and what would be said in a label or by the type.
NOT_BASE = {"ms", "us", "ns", "minutes", "kib", "mib", "percent", "millis", "micro"}


@contextmanager
def counting() -> Iterator[Region]:
    """A region in which every word that is counted is another than 0, and there is a journal."""
    with small_region() as region:
        for segment in ("counters", "served", "deliveries", "journal", "archive", "repairs"):
            placed = region.layout[segment]
            for word in range(placed.base, placed.base + placed.records * placed.stride):
                region.words[word] = word % 100 + 1
        region.log.durable = region.events.durable = 0
        for slot in range(SMALL.workers):
            publish(region, slot, Status(10**15, WorkerState.BUSY, 1, 2, 3, 4, 5, 0))
        yield region


def families(text: bytes) -> dict[str, dict[str, float]]:
    """The samples by family, each by its name and labels, as Prometheus' own parser reads them."""
    return {
        family.name: {f"{s.name}{sorted(s.labels.items())}": s.value for s in family.samples}
        for family in text_string_to_metric_families(text.decode())
    }


def test_every_metric_is_exposed_with_its_type_and_help() -> None:
    with counting() as region:
        text = Exposition().text(look(region)).decode()
    found = families(text.encode())
    for metric in METRICS:
        assert f"# HELP {metric.full_name} {metric.about}\n" in text
        assert f"# TYPE {metric.full_name} {metric.kind}\n" in text
        assert found[metric.full_name.removesuffix("_total")], metric.name
    assert len(found) == len(METRICS) + 1
    assert 'tradechat_build_info{form="' in text


def test_what_is_not_there_is_not_exposed() -> None:
    """Without a journal nothing is told of a disk; and of opcodes only those that occurred."""
    with small_region() as region:
        found = families(Exposition().text(look(region)))
    assert not found[f"{PREFIX}journal_sync_duration_seconds"]
    assert not found[f"{PREFIX}disk_free_bytes"]
    assert not found[f"{PREFIX}requests"]
    assert found[f"{PREFIX}lock_waits"]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_keep_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert not NOT_BASE & set(metric.name.split("_"))
    assert not metric.name.endswith(("_count", "_sum", "_bucket"))
    unit = metric.name.removesuffix("_total").rsplit("_", 1)[-1]
    assert ("second" in metric.name) == (unit == "seconds")
    assert ("byte" in metric.name) == (unit == "bytes")
    for label in metric.labels:
        assert re.fullmatch(r"[a-z]+", label)
    assert metric.about
    assert metric.about == metric.about.strip().rstrip(".")
    assert metric.about.isprintable()


def test_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_histograms_are_cumulative_and_have_all_their_values() -> None:
    with counting() as region:
        found = families(Exposition().text(look(region)))
        row = region.layout["served"]
        balance = [
            sum(
                region.words[row.at(worker * len(ROWS) + ROWS.index("BALANCE"), "latency") + n]
                for worker in range(SMALL.workers)
            )
            for n in range(row.lengths["latency"])
        ]
    samples = found[f"{PREFIX}request_duration_seconds"]
    of_balance = {k: v for k, v in samples.items() if "('opcode', 'BALANCE')" in k}
    buckets = [v for k, v in of_balance.items() if "_bucket" in k]
    assert buckets == [sum(balance[: n + 1]) for n in range(len(balance))]
    (count,) = [v for k, v in of_balance.items() if "_count" in k]
    assert count == sum(balance)
    bounds = [re.search(r"'le', '([^']+)'", k) for k in of_balance if "_bucket" in k]
    told = [float(found[1]) for found in bounds if found]
    assert told[:2] == [16e-6, 32e-6]
    assert told == sorted(told)


def test_a_scrape_is_as_if_it_were_the_first() -> None:
    """What is kept from the one before is what has not changed."""
    with counting() as region:
        exposition, placed = Exposition(), region.layout["served"]
        for row in range(len(ROWS)):
            region.words[placed.at(row, "requests")] += 1
            region.words[placed.at(row, "latency") + 3] += 1
            region.repairs.deaths += 1
            snapshot = look(region)
            assert exposition.text(snapshot) == Exposition().text(snapshot)


def test_every_counter_of_the_region_is_in_a_metric() -> None:
    """A counter that is new is to be seen by who operates the server: each changes the text."""
    with small_region() as region:
        before = Exposition().text(look(region))
        at = region.layout["counters"].at(0)
        for n, counter in enumerate(COUNTERS):
            if counter.name == "pushes":  # delivery_delay_seconds_count says as much
                continue
            region.words[at + n] = 10**9
            now = Exposition().text(look(region))
            assert now != before, counter.name
            before = now


def test_promtool_finds_nothing_to_say() -> None:
    if not (promtool := shutil.which("promtool")):
        pytest.skip("there is no promtool here: it comes with Debian's prometheus")
    with counting() as region:
        text = Exposition().text(look(region))
    run = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")

"""Figures from what the processes wrote down, and the files and reports made of them."""

import csv
import io
import json
from array import array
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram

from bench.lab.process import CpuTime
from bench.stress import counted
from bench.stress.files import (
    COUNTED_COLUMNS,
    RUN_COLUMNS,
    SECOND_COLUMNS,
    Tables,
    run_as_json,
    run_as_object,
    write_hgrm,
)
from bench.stress.ledger import Findings
from bench.stress.options import Options, parse
from bench.stress.record import AFTER, Cell, Recorder, Span, error_kind
from bench.stress.report import as_table, missed_thresholds, spread
from bench.stress.results import Figures, gather
from bench.stress.rooms import Seen
from bench.stress.run import Run, ring_for
from libproto.errors import Status
from libproto.messages import Opcode
from tests.helpers.server import ROOT

SPAN = (100.0, 102.0)
CHECKED = {"events": 7, "gaps": 0, "missed_in_gaps": 0, "missed_unconnected": 0}


# ---- what a thread writes down


def recorder(*, is_open: bool = True) -> Recorder:
    return Recorder(Span(*SPAN), is_open)


def test_latency_counts_from_when_a_request_was_due() -> None:
    made = recorder()
    made.success(Opcode.BALANCE, 100.25, 101.0, 101.5)
    assert made.latencies == {Cell(0, Opcode.BALANCE): array("I", [1_250_000])}
    assert made.services == {Cell(0, Opcode.BALANCE): array("I", [500_000])}


def test_the_warm_up_counts_for_nothing() -> None:
    made = recorder()
    made.success(Opcode.BALANCE, 99.0, 99.0, 99.5)
    made.failure(Opcode.BALANCE, "busy", 99.0, 99.5)
    made.sent_late(Opcode.BALANCE, 99.5)
    made.drop(99.5)
    assert (made.latencies, made.services, made.succeeded, made.failed) == ({}, {}, 0, 0)
    assert not made.errors
    assert not made.late
    assert not made.dropped


@pytest.mark.parametrize("is_open", [True, False])
def test_in_an_open_loop_a_run_is_what_was_due_in_it(is_open: bool) -> None:
    """What is answered of a backlog from before it is no success of the run. In the closed loop
    the server is asked only when it has answered, and its answers count when they come."""
    made = recorder(is_open=is_open)
    made.success(Opcode.BALANCE, 99.5, 100.5, 101.5)
    made.failure(Opcode.BALANCE, "busy", 99.5, 101.5)
    assert (made.succeeded, made.failed) == ((0, 0) if is_open else (1, 1))
    made.success(Opcode.BALANCE, 100.5, 101.0, 101.5)
    made.failure(Opcode.BALANCE, "busy", 100.5, 101.5)
    second = 0 if is_open else 1
    assert len(made.latencies[Cell(second, Opcode.BALANCE)]) == made.succeeded
    assert made.errors == {(second, Opcode.BALANCE, "busy"): made.failed}


def test_what_is_answered_after_the_end_is_kept_apart() -> None:
    made = recorder()
    made.success(Opcode.BALANCE, 101.5, 101.5, 104.5)
    made.failure(Opcode.BALANCE, "lost", 101.0, 103.0)
    assert made.latencies[Cell(AFTER, Opcode.BALANCE)] == array("I", [3_000_000])
    assert made.errors == {(AFTER, Opcode.BALANCE, "lost"): 1}


def test_kinds_of_errors() -> None:
    assert {status.name: error_kind(status) for status in Status if status} == {
        "ERR_BAD_PACKET": "unknown",
        "ERR_CHECKSUM_FAIL": "checksum",
        "ERR_UNAUTHORIZED": "auth",
        "ERR_NOT_FOUND": "unknown",
        "ERR_INSUFFICIENT_FUNDS": "funds",
        "ERR_SERVER_BUSY": "busy",
        "ERR_TIMEOUT": "timeout",
        "ERR_ALREADY_EXISTS": "unknown",
        "ERR_INTERNAL": "unknown",
        "ERR_LIMIT": "unknown",
    }


# ---- figures


def told(recorders: list[Recorder], folder: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """What processes of one thread each would say, after the way through JSON."""
    said, paths = [], []
    for number, each in enumerate(recorders):
        path = folder / f"figures-{number}"
        index = []
        with path.open("wb") as file:
            for cell, latencies in each.latencies.items():
                services = each.services[cell]
                index.append([*cell, len(latencies), len(services)])
                latencies.tofile(file)
                services.tofile(file)
        found = {
            "latencies": index,
            "errors": [[*key, count] for key, count in each.errors.items()],
            "late": [[*key, count] for key, count in each.late.items()],
            "dropped": list(each.dropped.items()),
            "details": each.details,
        }
        said.append(json.loads(json.dumps(found)))
        paths.append(path)
    return said, paths


def figures(folder: Path, *, is_open: bool = True) -> Figures:
    """Of two processes: 100 BALANCEs of 1 to 100 ms in each second, and some of everything else."""
    recorders = [recorder(is_open=is_open), recorder(is_open=is_open)]
    for number in range(200):
        now = 100.0 + (number >= 100) + 0.5
        latency = (number % 100 + 1) / 1000
        recorders[number % 2].success(Opcode.BALANCE, now - latency, now - 0.001, now)
    one, other = recorders
    one.success(Opcode.CHAT_SEND, 100.0, 100.0, 100.002)
    one.success(Opcode.BALANCE, 101.9, 101.9, 102.4)
    for each in recorders:
        each.failure(Opcode.TRANSFER, "funds", 100.5, 100.5)
        each.failure(Opcode.TRANSFER, "unknown", 101.5, 101.5)
        each.sent_late(Opcode.BALANCE, 100.5)
        each.details["TRANSFER, ERR_NOT_FOUND: no such user"] += 1
    other.drop(101.5)
    seen = Seen(1)
    for seq, sent, took in ((1, 100.5, 0.25), (2, 101.5, 0.5), (3, 99.5, 9.0)):
        seen.note(seq, 5)
        seen.deliver(seq, sent, sent + took / 2)
        seen.deliver(seq, sent, sent + took)
    return gather(*told(recorders, folder), [seen], SPAN, is_open=is_open)


def near(value: float) -> Any:
    return pytest.approx(value, rel=0.001)  # three significant digits


def test_figures_of_a_run(tmp_path: Path) -> None:
    found = figures(tmp_path)
    assert list(found.lines) == ["CHAT_SEND", "TRANSFER", "BALANCE", "ALL"]
    balance, whole = found.lines["BALANCE"], found.all
    assert (balance.ok, balance.after_end, balance.failed, balance.late) == (200, 1, 0, 2)
    assert (whole.ok, whole.after_end, whole.failed, whole.dropped) == (201, 1, 4, 1)
    assert whole.errors == {"funds": 2, "unknown": 2}
    assert found.details == {"TRANSFER, ERR_NOT_FOUND: no such user": 2}
    assert balance.latencies.total_count == 201  # with the one after the end
    assert balance.latencies.get_value_at_percentile(50) == near(51_000)
    assert balance.latencies.get_value_at_percentile(99) == near(100_000)
    assert balance.latencies.get_max_value() == near(500_000)
    assert balance.services.get_value_at_percentile(50) == near(1000)
    assert whole.latencies.total_count == 202
    assert found.per_s(whole.ok) == 100.5
    assert (found.delivered.total_count, found.deliveries) == (2, 4)
    assert found.delivered.get_max_value() == near(500_000)


def test_rows_by_second_and_operation(tmp_path: Path) -> None:
    rows = figures(tmp_path).rows
    names = ["CHAT_SEND", "TRANSFER", "BALANCE", "ALL", "CHAT_BROADCAST"]
    assert [(row["second"], row["operation"]) for row in rows] == [
        (second, name) for second in (0, 1) for name in names
    ]
    by_name = {(row["second"], row["operation"]): row for row in rows}
    balance = by_name[0, "BALANCE"]
    assert (balance["ok"], balance["failed"], balance["late"]) == (100, 0, 2)
    wanted = {"p50_us": 50_000, "p95_us": 95_000, "p99_us": 99_000, "max_us": 100_000}
    assert {name: balance[name] for name in wanted} == pytest.approx(wanted, abs=2)
    assert by_name[0, "TRANSFER"]["error_funds"] == 2
    assert by_name[0, "TRANSFER"]["p50_us"] is None
    assert by_name[1, "ALL"]["dropped"] == 1
    assert by_name[1, "ALL"]["failed"] == 2
    assert by_name[0, "CHAT_BROADCAST"]["max_us"] == 250_000


# ---- what the server counted

BEGUN = 1_800_000_000.0


def stats(*, journal: bool = True) -> list[dict[str, Any]]:
    """Lines of a server's log: one a second, of 100 requests, 2 waits of 3 ms and 5 batches more
    than the one before."""
    found = []
    for number in range(6):
        locks = dict.fromkeys(("registry", "account", "log", "event"), 0)
        line = {
            "ts": datetime.fromtimestamp(BEGUN + number, UTC).isoformat(),
            "requests": {"TRANSFER": 60 * number, "BALANCE": 40 * number},
            "lock_waits": locks | {"account": 2 * number},
            "lock_waited_ms": locks | {"account": 6.0 * number},
            "pushes": 7 * number,
            "laps": number,
        }
        batch = {"batches": 5, "txn_durable": 50 * number, "sync_ms_mean": 0.5 * number}
        found.append(line | (batch if journal else {}))
    return found


def test_what_was_counted_is_of_the_time_that_was_measured() -> None:
    parts = counted.intervals(counted.totals(stats()), BEGUN + 1.5, BEGUN + 4.5)
    assert [part["second"] for part in parts] == [0.5, 1.5]
    first = parts[0]
    assert (first["counted_requests"], first["waits_account"]) == (100, 2)
    assert (first["waited_ms_account"], first["waits_log"], first["laps"]) == (6.0, 0, 1)
    assert (first["batches"], first["records"], first["sync_ms"]) == (5, 50, 7.5)  # line 3: 1.5 ms
    whole = counted.whole(parts)
    assert (whole["counted_seconds"], whole["counted_requests"], whole["pushes"]) == (2, 200, 14)
    assert whole["sync_ms"] == 7.5 + 10


def test_what_was_counted_without_a_journal_and_in_too_short_a_time() -> None:
    lines = counted.totals(stats(journal=False))
    whole = counted.whole(counted.intervals(lines, BEGUN, BEGUN + 9))
    assert (whole["counted_requests"], whole["batches"], whole["sync_ms"]) == (500, None, None)
    assert counted.whole(counted.intervals(lines, BEGUN + 1.5, BEGUN + 2.5)) == {}


@pytest.mark.parametrize(("duration", "interval"), [(0.3, 0.1), (15, 0.5), (30, 1), (600, 1)])
def test_how_often_a_server_is_to_tell(duration: float, interval: float) -> None:
    assert counted.interval_for(duration) == interval


# ---- files and reports


def run_of(found: Figures) -> Run:
    return Run(
        1,
        found,
        Findings(),
        dict(CHECKED),
        client_cpu=CpuTime(0.1, 0.1),
        server_cpu=CpuTime(0.05, 0.0),
        counted=counted.intervals(counted.totals(stats()), BEGUN + 1.5, BEGUN + 4.5),
    )


@pytest.fixture
def options() -> Options:
    return parse([])


def test_the_tables_have_the_columns_that_are_documented(tmp_path: Path, options: Options) -> None:
    with closing(Tables(f"{tmp_path}/deep/x")) as tables:
        tables.add(options, run_of(figures(tmp_path)))
    document = (ROOT / "docs" / "BENCH.md").read_text()
    for name, columns in (
        ("seconds", SECOND_COLUMNS),
        ("counted", COUNTED_COLUMNS),
        ("runs", RUN_COLUMNS),
    ):
        with (tmp_path / "deep" / f"x-{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert tuple(rows[0]) == columns
        assert all(f"`{column}`" in document for column in columns)
        assert None not in rows[0].values()
    assert (rows[0]["ok"], rows[0]["verdict"], rows[0]["server_cpu_us"]) == ("201", "good", "243.9")
    assert rows[0]["dropped"] == "1"


def test_a_run_has_the_same_keys_whatever_was_found(tmp_path: Path, options: Options) -> None:
    """Here nothing of the ledger was looked at, as where a server has ended."""
    assert run_as_object(options, run_of(figures(tmp_path))).keys() == set(RUN_COLUMNS)


def test_columns_are_only_ever_added_at_the_end() -> None:
    """Programs of users read them; what stands here is what was released."""
    assert ",".join(SECOND_COLUMNS) == (
        "run,second,operation,ok,failed,p50_us,p95_us,p99_us,p999_us,max_us,service_p50_us,"
        "service_p95_us,service_p99_us,service_p999_us,service_max_us,late,dropped,error_timeout,"
        "error_busy,error_checksum,error_auth,error_funds,error_lost,error_unknown"
    )
    assert ",".join(RUN_COLUMNS) == (
        "run,mix,rate,processes,threads,connections,pipeline,payload,accounts,zipf,hot_accounts,"
        "rooms,fanout,slow_consumers,kill_every,workers,seed,seconds,ok,failed,ok_per_s,"
        "failed_per_s,after_end,p50_us,p95_us,p99_us,p999_us,max_us,service_p50_us,service_p95_us,"
        "service_p99_us,service_p999_us,service_max_us,late,dropped,error_timeout,error_busy,"
        "error_checksum,error_auth,error_funds,error_lost,error_unknown,messages,deliveries,"
        "delivery_p50_us,delivery_p95_us,delivery_p99_us,delivery_p999_us,delivery_max_us,events,"
        "gaps,missed_in_gaps,missed_unconnected,client_cpu_us,server_cpu_us,kills,reconnects,"
        "transactions,reads,log_entries,log_entries_gone,violations,verdict,counted_seconds,"
        "counted_requests,waits_registry,waits_account,waits_log,waits_event,waited_ms_registry,"
        "waited_ms_account,waited_ms_log,waited_ms_event,pushes,laps,batches,records,sync_ms,"
        "paused_s,restart_every,restarts,moves,offers_added,offers_taken,offers_removed"
    )
    assert ",".join(COUNTED_COLUMNS) == "run,second," + ",".join(RUN_COLUMNS[-22:-7])


def test_histograms_are_written_for_other_tools(tmp_path: Path) -> None:
    found = figures(tmp_path)
    found.lines = {"BALANCE": found.lines["BALANCE"]}
    write_hgrm(f"{tmp_path}/out/x", 3, found)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "x-run3-BALANCE.hgrm",
        "x-run3-BALANCE-service.hgrm",
        "x-run3-delivery.hgrm",
    }
    text = (tmp_path / "out" / "x-run3-BALANCE.hgrm").read_text()
    expected = io.BytesIO()
    assert isinstance(found.lines["BALANCE"].latencies, HdrHistogram)
    found.lines["BALANCE"].latencies.output_percentile_distribution(expected, 1.0)
    assert text.encode() == expected.getvalue()
    assert "TotalCount     =      201" in text.replace("201.000", "201")


def test_the_report_tells_failures_apart(tmp_path: Path, options: Options) -> None:
    table = as_table(replace(options, rate=100.0), run_of(figures(tmp_path)))
    for text in ("p99.9", "service time", "to the last member", "failed: funds", "late, not"):
        assert text in table
    assert "ERR_NOT_FOUND: no such user" in table
    assert table.endswith("good")
    run = run_of(figures(tmp_path))
    run.server_cpu, run.checked["log_entries_gone"] = None, 9
    table = as_table(options, run)
    assert "not known" in table
    assert "account locks, waits" in table
    assert "journal, records per batch" in table
    assert "not compared, the server keeps them no more" in table
    assert "service time" not in as_table(options, run_of(figures(tmp_path, is_open=False)))


def test_the_report_of_a_bad_verdict(tmp_path: Path, options: Options) -> None:
    run = run_of(figures(tmp_path))
    run.findings.add("serial", "user 5 has too much")
    assert "VIOLATED" in as_table(options, run)
    assert as_table(options, run).endswith("serial: user 5 has too much")
    found = json.loads(json.dumps(run_as_json(options, run)))
    assert found["verdict"] == "violated"
    assert found["checks"]["serial"] == found["violations"] == 1
    assert found["operations"]["BALANCE"]["ok"] == 200


def test_a_run_of_no_time_has_no_figures(tmp_path: Path, options: Options) -> None:
    found = gather(*told([recorder()], tmp_path), [], (100.0, 100.0), is_open=False)
    assert found.rows == []
    row = run_as_object(options, run_of(found))
    assert (row["ok_per_s"], row["p99_us"], row["client_cpu_us"]) == (0, None, None)
    assert as_table(options, run_of(found)).endswith("good")


def test_thresholds(tmp_path: Path, options: Options) -> None:
    run = run_of(figures(tmp_path))
    # 2.4 % failed or were never sent.
    for max_p99, min_rate, max_failed, missed in (
        (101, 100, 3, 0),
        (90, 100, 3, 1),
        (101, 101, 3, 1),
        (90, 101, 3, 2),
        (101, 100, 2, 1),
    ):
        limits = replace(options, max_p99=max_p99, min_rate=min_rate, max_failed=max_failed)
        assert len(missed_thresholds(limits, run)) == missed
    nothing = run_of(gather(*told([recorder()], tmp_path), [], SPAN, is_open=False))
    assert len(missed_thresholds(replace(options, max_p99=1e6), nothing)) == 2


def test_the_spread_of_runs(tmp_path: Path, options: Options) -> None:
    runs = [run_of(figures(tmp_path)) for _ in range(3)]
    runs[2].figures.lines["ALL"].errors = Counter(funds=40)
    found = spread(options, runs)
    assert found["failed_per_s"] == {"median": 2.0, "min": 2.0, "max": 20.0}
    assert found["p99_us"]["min"] == found["p99_us"]["max"]


def test_the_ring_fits_the_run_and_the_memory(options: Options) -> None:
    plenty = 1 << 40
    assert ring_for(replace(options, rate=100.0), plenty) == 1 << 16
    assert ring_for(replace(options, rate=50_000.0), plenty) == 1 << 20
    assert ring_for(replace(options, duration=1e6), plenty) == 1 << 20
    assert ring_for(replace(options, duration=1e6), 1 << 20) == 1 << 16

"""The Real Test: its table, what it computes, its report and charts, and a short run of it."""

import csv
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.lab.process import children_of
from bench.realtest import __main__ as program
from bench.realtest import data, findings, sentences
from bench.realtest.data import COUNTED, FAILED, GOOD, OPERATIONS, RUNS, SECONDS, VIOLATED, Results
from bench.realtest.machine import describe
from bench.realtest.plots import CHARTS
from bench.realtest.report import Report
from bench.realtest.runner import Runner
from bench.realtest.scenarios import (
    CONNECTIONS,
    CONTENTION,
    DURABILITY,
    KNEE,
    LOCK_ROUNDS,
    LOCKS,
    MIXED,
    OVERLOAD,
    OVERLOAD_SHARES,
    PAYLOAD,
    REFERENCE,
    SCENARIOS,
    SECTIONS,
    WORKERS,
    Scenario,
)
from bench.stress.options import parse
from tests.helpers.server import ROOT, wait_until

Row = dict[str, Any]
RUN_S = 240.0  # a run that hangs


# ---- the table


def of(section: str) -> list[Scenario]:
    return [each for each in SCENARIOS if each.section == section]


def words_of(section: str) -> list[str]:
    return [" ".join(each.words) for each in of(section)]


def test_the_table_has_what_is_asked_of_it() -> None:
    (mixed,) = words_of(MIXED)
    assert mixed == "--mix=mixed --connections=100"
    trade = "--mix=trade-heavy --connections=200"
    assert set(words_of(CONTENTION)) >= {
        trade,
        f"{trade} --zipf=1.2",
        f"{trade} --zipf=2.0",
        f"{trade} --hot-accounts=1",
    }
    options = {each.key: parse(list(each.words)) for each in SCENARIOS}
    told = {section: [options[each.key] for each in of(section)] for section in SECTIONS}
    assert [each.payload for each in told[PAYLOAD]] == [32, 256, 1024, 4096]
    assert [each.workers for each in told[WORKERS]] == [1, 2, 4, 8]
    assert [each.connections for each in told[CONNECTIONS]] == [10, 100, 1000, 4000]
    flags = [each.server_flags for each in told[DURABILITY]]
    assert flags == [(f"--durability={mode}",) for mode in ("none", "async", "sync")]


def test_the_sweep_follows_its_reference_and_passes_it() -> None:
    first, *swept = of(KNEE)
    assert (first.name, first.share) == (REFERENCE, 0)
    shares = [each.share for each in swept]
    assert shares == sorted(shares)
    assert shares[0] <= 50
    assert shares[-1] > 100
    assert len({each.words for each in of(KNEE)}) == 1


def test_overload_is_asked_for_by_multiples_of_a_knee_that_is_looked_for_before() -> None:
    first, *rest = of(OVERLOAD)
    assert first.name == REFERENCE
    swept, multiples = rest[: len(OVERLOAD_SHARES)], rest[len(OVERLOAD_SHARES) :]
    assert [each.share for each in swept] == sorted(OVERLOAD_SHARES)
    assert [each.times for each in multiples] == [0.5, 1, 2, 5]
    assert len({each.words for each in of(OVERLOAD)}) == 1
    assert all(each.regardless for each in rest)


def test_before_and_after_alternate_and_differ_by_the_locks_alone() -> None:
    runs = of(LOCKS)
    assert len(runs) == 2 * sum(LOCK_ROUNDS.values())
    for one, each in zip(runs[::2], runs[1::2], strict=True):
        assert set(one.words) ^ set(each.words) == {"--server-flag=--account-locks=1"}
        assert one.round == each.round


def test_every_run_has_a_name_of_its_own_and_options_that_are_allowed() -> None:
    keys = [each.key for each in SCENARIOS]
    assert len(set(keys)) == len(keys)
    for each in SCENARIOS:
        parse(list(each.words))  # or SystemExit


# ---- results, made up


def made_run(scenario: Scenario, place: int) -> Row:
    """Figures of a run, all different."""
    options = parse(list(scenario.words)).as_object()
    ok = 100_000 - 500 * place
    waits = 5000 if "hot" in scenario.name or "account-locks" in scenario.words[-1] else 40
    row = dict.fromkeys(data.COLUMNS[RUNS], 1) | options
    return row | {
        "key": scenario.key, "section": scenario.section, "scenario": scenario.name,
        "round": scenario.round, "label": scenario.label, "options": " ".join(scenario.words),
        "share": scenario.share or None, "seconds": 30.0,
        "rate": 33.0 * scenario.share + 3300.0 * scenario.times,
        "ok": ok, "failed": 0, "ok_per_s": ok / 30, "p50_us": 10_000 + place,
        "p95_us": 20_000 + place, "p99_us": 30_000 + 100 * place, "p999_us": 50_000,
        "max_us": 90_000, "server_cpu_us": 55.5, "laps": 0, "gaps": 0, "missed_in_gaps": 0,
        "counted_seconds": 29.0, "counted_requests": ok * 29 // 30, "waits_account": waits,
        "waited_ms_account": waits * 0.9, "waited_ms_registry": 0.0, "waited_ms_log": 1.5,
        "waited_ms_event": 2.5, "batches": 4000, "records": 80_000, "sync_ms": 9000.5,
        "verdict": GOOD, "problem": "",
    }  # fmt: skip


def write(folder: Path, scenarios: tuple[Scenario, ...], change: Callable[[Row], Row]) -> None:
    """A directory of results."""
    folder.mkdir()
    data.write_machine(folder, describe(30.0))
    for place, scenario in enumerate(scenarios):
        run = change(made_run(scenario, place))
        key = {"key": scenario.key}
        data.append(folder, RUNS, [run])
        if run["verdict"] == FAILED:
            continue
        parts = [run | {"operation": name} for name in ("TRANSFER", "ALL")]
        data.append(folder, OPERATIONS, parts)
        seconds = range(4)
        data.append(folder, SECONDS, [run | {"second": each, "p99_us": 1000 * (place + each + 1)}
                                      for each in seconds])  # fmt: skip
        data.append(folder, COUNTED, [
            run | key | {"second": each + 0.1, "counted_seconds": 1.0,
                         "waited_ms_account": 2.0 * (place + each), "batches": 100 + each,
                         "records": 900 + 10 * each, "sync_ms": 300.5}
            for each in seconds
        ])  # fmt: skip


def same(row: Row) -> Row:
    return row


def report_of(folder: Path) -> str:
    """The report, as if all charts were there. (They are drawn in other processes: matplotlib keeps
    its fonts' files open.)"""
    return Report(Results.read(folder), list(CHARTS)).whole()


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n")


def check_links(report: str, folder: Path) -> None:
    """Whatever the report refers to is there."""
    for target in re.findall(r"\]\(([^)#]+)\)", report):
        path = ROOT / "bench/results" / target if target.startswith("..") else folder / target
        assert path.resolve().is_file(), target


def test_a_whole_report(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    write(folder, SCENARIOS, same)
    real_test(f"--redraw={folder}")
    report = (folder / data.REPORT).read_text()
    assert f"**{len(SCENARIOS)} of {len(SCENARIOS)} have a good verdict**" in report
    assert all(is_png(folder / f"{name}.png") for name in CHARTS)
    assert report.count(".png)") == len(CHARTS)
    check_links(report, folder)
    assert "Nothing was measured" not in report
    assert "Without figures" not in report
    for text in ("None", "nan", "inf ", "%%", "{", "}"):
        assert text not in report, text
    # Tables hold together: every row has as many cells as the head of its table.
    for block in re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_a_bad_verdict_is_on_top(tmp_path: Path) -> None:
    def spoil(row: Row) -> Row:
        if row["key"] == "payload/256":
            return row | {"verdict": VIOLATED, "problem": "conserved: 5 | cents\nare missing"}
        if row["key"] == "workers/8":
            found = {name: row[name] for name in ("key", "section", "scenario", "label", "options")}
            return found | {"verdict": FAILED, "problem": "the server did not start in time"}
        return row

    folder = tmp_path / "results"
    write(folder, SCENARIOS, spoil)
    assert [row["key"] for row in Results.read(folder).bad] == ["payload/256", "workers/8"]
    report = report_of(folder)
    head, _, rest = report.partition("## Machine")
    good = len(SCENARIOS) - 2
    assert f"**{good} of {len(SCENARIOS)} have a good verdict**" in head
    assert "- `payload/256`: **violated**: conserved: 5 \\| cents are missing" in head
    assert "- `workers/8`: **failed**: the server did not start in time" in head
    assert "Without figures: `workers/8`." in rest
    assert rest.count("**violated**") == rest.count("**failed**") == 1


@pytest.mark.parametrize("runs", [1, 2, 6, len(SCENARIOS) - 1])
def test_a_report_of_what_there_is(tmp_path: Path, runs: int) -> None:
    """As after an interrupt."""
    folder = tmp_path / "results"
    write(folder, SCENARIOS[:runs], same)
    report = report_of(folder)
    assert f"{runs} of {len(SCENARIOS)} runs" in report
    assert ("Nothing was measured." in report) == (SCENARIOS[runs - 1].section != SECTIONS[-1])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.key)
def test_a_report_of_one_run(tmp_path: Path, scenario: Scenario) -> None:
    """Nothing that a section compares with may be taken for granted."""
    folder = tmp_path / "results"

    def bare(row: Row) -> Row:
        """Without a server of its own to count, nor CPU time."""
        return row | dict.fromkeys(
            (*(name for name in row if name.startswith(("counted", "wait"))),
             "server_cpu_us", "batches", "records", "sync_ms", "laps")
        )  # fmt: skip

    write(folder, (scenario,), bare)
    (folder / COUNTED).unlink()
    results = Results.read(folder)
    from bench.realtest.report import Report

    assert "None" not in Report(results, []).whole()


# ---- what is computed


def swept(*points: tuple[float, float, int]) -> list[Row]:
    """rate, what is answered of it, p99 in µs."""
    return [
        {"rate": rate, "ok": rate * share * 10, "seconds": 10, "p99_us": p99, "label": f"{rate}"}
        for rate, share, p99 in points
    ]


@pytest.mark.parametrize(
    ("points", "last", "first"),
    [
        ([(100, 1, 1000), (200, 1, 1500), (300, 1, 9000)], 200, 300),  # slow
        ([(100, 1, 1000), (200, 0.98, 1500)], 100, 200),  # too few
        ([(300, 1, 6000), (200, 1, 1500), (100, 1, 1000), (400, 1, 2000)], 200, 300),  # and again
        ([(100, 1, 1000), (200, 1, 5000)], 200, None),
        ([(100, 0.5, 1000), (200, 1, 1000)], None, 100),
    ],
)
def test_the_knee(
    points: list[tuple[float, float, int]], last: float | None, first: float | None
) -> None:
    found = findings.knee(swept(*points))
    assert [each and each["rate"] for each in found] == [last, first]


def test_one_hiccup_does_not_make_the_knee_of_the_overload() -> None:
    points = swept((100, 1, 1000), (200, 1, 9000), (300, 1, 2000), (400, 0.9, 2000))
    found = findings.greatest_kept_up(points)
    assert found is not None
    assert found["rate"] == 300
    assert findings.greatest_kept_up(swept((100, 0.5, 1000))) is None
    assert findings.greatest_kept_up([]) is None


def test_what_is_left_above_the_knee() -> None:
    def run(name: str, rate: float, ok_per_s: float, p99_us: int) -> Row:
        return {"scenario": name, "rate": rate, "ok_per_s": ok_per_s, "p99_us": p99_us}

    knee = run("1x", 100, 100, 1000)
    half, twice, five = run("0.5x", 50, 50, 10), run("2x", 200, 90, 3000), run("5x", 500, 89, 3100)
    swept_at = run("150%", 150, 10, 9000)
    found = findings.overloaded([half, swept_at, knee, twice, five])
    assert [each.run["scenario"] for each in found] == ["2x", "5x"]
    assert [each.holds for each in found] == [True, False]
    assert findings.overloaded([half, twice]) == []
    told = sentences.overloaded([each._replace(run=run_("x")) for each in found])
    assert "That does not hold" in told
    assert "That holds" in sentences.overloaded([found[0]._replace(run=run_("x"))])


def run_(label: str) -> Row:
    return {"label": label}


def test_where_the_time_of_a_worker_goes() -> None:
    run = {"workers": 2, "counted_seconds": 10.0, "counted_requests": 100_000}
    run |= {"waited_ms_account": 500.0, "waited_ms_log": 100.0, "waits_account": 250}
    run |= {"waited_ms_registry": 0.0, "waited_ms_event": 50.0}
    found = findings.worker_time(run)
    assert found == (200.0, 5.0, 1.5)
    assert found is not None
    assert found.rest == 193.5
    assert findings.wait_share(run) == 0.025
    assert findings.waits_per_1000(run) == 2.5
    assert findings.mean_wait_us(run) == 2000.0


def test_rank_correlation() -> None:
    assert findings.rank_correlation([(1, 10), (2, 20), (3, 400)]) == pytest.approx(1.0)
    assert findings.rank_correlation([(1, 9), (2, 8), (3, 1)]) == pytest.approx(-1.0)
    assert findings.rank_correlation([(1, 1), (1, 2), (1, 3)]) is None
    assert findings.rank_correlation([(1, 1), (2, 2)]) is None


def test_equal_settings_tell_the_noise() -> None:
    def run(options: str, rate: float, open_rate: float = 0) -> Row:
        found = {"options": options, "ok_per_s": rate, "p99_us": 1000, "ok": 1, "rate": open_rate}
        return found | {"key": options}

    runs = [
        run("--mix=mixed --connections=100", 100),
        run("--mix=mixed --connections=100 --workers=2", 90),
        run("--connections=100 --mix=mixed", 110),
        run("--mix=mixed --connections=100", 5, 5),
        run("--mix=mixed --connections=100 --workers=4", 50),
    ]
    (only,) = findings.spreads(runs)
    assert only.of("ok_per_s") == (90, 100, 110)
    assert findings.noise(runs, "ok_per_s") == pytest.approx(0.2)


def test_overlapping_runs_are_not_told_apart() -> None:
    def runs(*values: float) -> list[Row]:
        return [{"x": value} for value in values]

    apart = findings.compare(runs(1, 2, 3), runs(4, 5), "x")
    assert apart == (2, 4.5, True)
    overlapping = findings.compare(runs(1, 2, 3), runs(2.5, 5), "x")
    assert overlapping is not None
    assert not overlapping.apart


# ---- the program


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench.realtest", *words]


def real_test(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*words), cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_short_run(tmp_path: Path) -> None:
    out = tmp_path / "results"
    out.mkdir()
    (out / data.MACHINE).write_text("{}")
    (out / "former").touch()
    done = real_test("--seconds=0.4", "--only=mixed", f"--out={out}")
    assert done.stdout == f"{out / data.REPORT}\n"
    assert done.stderr.count(", good\n") == 1
    assert not (out / "former").exists()  # the whole directory is another one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
    with (out / RUNS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["key"], row["verdict"]) for row in rows] == [("mixed/mixed", GOOD)]
    assert int(rows[0]["ok"]) > 0
    report = (out / data.REPORT).read_text()
    assert "**1 of 1 have a good verdict**" in report
    check_links(report, out)
    assert is_png(out / "latency.png")


SMALL = ("--connections=4", "--threads=2", "--processes=1", "--accounts=8", "--fanout=4")


@pytest.fixture
def signals() -> Iterator[None]:
    """The handlers that a Runner installs go again."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_rates_follow_from_the_runs_before_of_their_section(tmp_path: Path) -> None:
    """Shares of the closed loop, multiples of the knee; where there is no knee there are none."""
    told: list[str] = []
    unkept = (*SMALL, "--server-flag=--durability=none")
    Runner(tmp_path, 0.4, told.append).run_all(
        [
            Scenario(OVERLOAD, REFERENCE, "closed loop", unkept),
            Scenario(OVERLOAD, "1%", "1 %", unkept, share=1),
            Scenario(OVERLOAD, "2x", "twice", (*unkept, "--apart"), times=2, regardless=True),
            Scenario(KNEE, "2x", "twice", unkept, times=2),
        ]
    )
    data.write_machine(tmp_path, {})
    closed, one, twice, none = (results := Results.read(tmp_path)).runs
    assert [run["verdict"] for run in (closed, one)] == [GOOD] * 2
    assert one["rate"] == pytest.approx(closed["ok_per_s"] / 100, abs=0.1)
    assert (closed["rate"], one["share"], one["options"].split()[-1][:7]) == (0, 1, "--rate=")
    assert closed["batches"] is None, "without durability nothing is synced"
    if findings.greatest_kept_up([one]) is None:  # on a machine that was too busy
        assert twice["verdict"] == FAILED
    else:
        assert f"--rate={2 * one['rate']:.1f}" in twice["options"].split()
    assert none["verdict"] == FAILED
    assert "knee" in none["problem"]
    measured = {run["key"] for run in results.runs if run["verdict"] != FAILED}
    assert {row["key"] for row in results.operations} == measured
    assert {row["key"] for row in results.seconds} == measured
    assert len(told) == 4


@pytest.mark.usefixtures("signals")
def test_without_a_reference_there_are_no_rates(tmp_path: Path) -> None:
    fails = (*SMALL, "--server-flag=--no-such-flag")
    Runner(tmp_path, 0.4, lambda _: None).run_all(
        [
            Scenario(KNEE, REFERENCE, "closed loop", fails),
            Scenario(KNEE, "50%", "50 %", SMALL, share=50),
        ]
    )
    data.write_machine(tmp_path, {})
    first, second = Results.read(tmp_path).runs
    assert (first["verdict"], second["verdict"]) == (FAILED, FAILED)
    assert "--no-such-flag" in first["problem"]
    assert "closed loop" in second["problem"]


def test_an_interrupt_leaves_the_former_results(tmp_path: Path) -> None:
    out, new = tmp_path / "results", tmp_path / "results.new"
    write(out, SCENARIOS[:1], same)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    words = command("--seconds=0.3", "--only=durability", f"--out={out}")
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_until(lambda: (new / RUNS).exists(), "the first run is over", RUN_S)
        wait_until(lambda: bool(children_of(run.pid)), "the second one is being made", RUN_S)
        run.send_signal(signal.SIGINT)
        told, error = run.communicate(timeout=RUN_S)
    assert run.returncode == 128 + signal.SIGINT, error
    assert told == ""
    assert f"{out} is as it was" in error
    assert "Traceback" not in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert f" of {len(SCENARIOS)} runs" in (new / data.REPORT).read_text()


def test_a_run_that_fails_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The server does not start: its environment says what makes no sense."""
    out = tmp_path / "results"
    done = subprocess.run(
        command("--seconds=0.3", "--only=mixed", f"--out={out}"),
        cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False,
        env={"PATH": "/nonexistent", "TRADECHAT_HEARTBEAT": "no number"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (row,) = Results.read(out).runs
    assert row["verdict"] == FAILED
    assert "heartbeat" in row["problem"]
    assert "**failed**" in (out / data.REPORT).read_text()


def test_a_directory_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").touch()
    done = real_test("--seconds=0.3", f"--out={tmp_path}", code=3)
    assert "holds no results" in done.stderr
    assert (tmp_path / "thesis").exists()


def test_too_few_open_files_are_told_before_anything_is_run(tmp_path: Path) -> None:
    words = " ".join(command("--seconds=0.3", "--only=connections", f"--out={tmp_path / 'x'}"))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 1024; exec {words}"],
        cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "ulimit -Hn" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--seconds=0"], ["--only=nothing"], ["--seconds=soon"]])
def test_wrong_usage(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", *words])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert words[0].partition("=")[0] in capsys.readouterr().err


def test_a_trial_is_not_kept_in_the_place_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:

    outs: list[Path] = []

    def run(out: Path, seconds: float, scenarios: list[Scenario]) -> int:
        del seconds, scenarios
        outs.append(out)
        return 0

    monkeypatch.setattr(program, "run", run)
    for words in ([], ["--seconds=29"], ["--only=knee"], ["--only=knee", "--out=there"]):
        monkeypatch.setattr(sys, "argv", ["x", *words])
        assert program.main() == 0
    assert outs == [program.RESULTS, program.TRIAL, program.TRIAL, Path("there")]


def test_there_is_nothing_to_redraw(tmp_path: Path) -> None:
    done = real_test(f"--redraw={tmp_path / 'nothing'}", code=3)
    assert "nothing" in done.stderr

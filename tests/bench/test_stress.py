"""The stress client against real servers: short runs of every kind, and how they end."""

import csv
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bench.lab.process import (
    children_of,
    family_of,
    shared_memory_of,
    started,
    title,
    workers_of,
)
from bench.stress.fleet import members_of
from bench.stress.lines import Lines, anything, say
from bench.stress.options import parse
from tests.helpers.server import ROOT, RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby

RUN_S = 240.0  # a run that hangs
SMALL = (
    *("--connections=12", "--threads=3", "--processes=1", "--accounts=20", "--fanout=4"),
    *("--duration=0.3", "--warmup=0.1"),
)
SECOND = "--duration=1"
"""For what takes a while to happen, on a slow machine too."""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench", *SMALL, *words]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False
    )


def on(server: RunningServer) -> tuple[str, str]:
    return f"--port={server.port}", f"--pid={server.process.pid}"


def report(run: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert run.returncode == code, run.stdout + run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def good(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one run of a report without fault."""
    (only,) = report(run)["runs"]
    assert (only["verdict"], only["violations"]) == ("good", 0), only["problems"]
    assert run.stderr == ""
    found: dict[str, Any] = only
    return found


def test_a_run_with_a_server_of_its_own(tmp_path: Path) -> None:
    words = ("--processes=2", "--runs=2", "--seed=7", "--mix=mixed", SECOND)
    run = bench(f"--csv={tmp_path}/x", *words)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""  # no terminal: no line of progress
    assert run.stdout.count("conserved, serializable, no silent gap") == 2
    assert "2 runs" in run.stdout
    with (tmp_path / "x-runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == ["good", "good"]
    for row in rows:
        assert int(row["ok"]) > 100
        assert int(row["messages"]) > 0
        assert int(row["deliveries"]) == 4 * int(row["messages"])
        assert float(row["client_cpu_us"]) > 0
        assert float(row["server_cpu_us"]) > 0
        assert int(row["transactions"]) > 0
        assert int(row["log_entries"]) >= int(row["transactions"])
        assert row["log_entries_gone"] == "0"
        assert row["seed"] == "7"
    told = [row for row in rows if row["counted_seconds"]]  # none of a master that got no core
    assert told
    for row in told:
        assert 0 < float(row["counted_seconds"]) <= 1
        assert int(row["counted_requests"]) > 0
        assert 0 < int(row["batches"]) <= int(row["records"])
    with (tmp_path / "x-seconds.csv").open(newline="") as file:
        seconds = list(csv.DictReader(file))
    for number in ("1", "2"):
        whole = [each for each in seconds if each["run"] == number and each["operation"] == "ALL"]
        assert sum(int(each["ok"]) for each in whole) == int(rows[int(number) - 1]["ok"])


def test_boards_while_workers_are_killed() -> None:
    """Each offer goes once, is paid for once, and what is left is what nobody was told of."""
    words = ("--mix=board", "--pipeline=4", "--kill-every=0.3", "--accounts=40")
    found = good(bench("--json", "--max-failed=100", *words, SECOND))
    assert found["kills"] > 0
    assert found["offers_added"] > found["offers_taken"] > 100
    assert found["offers_removed"] > 0
    assert found["transactions"] >= found["offers_taken"]


def test_one_hot_account(tmp_path: Path) -> None:
    words = ("--ratio=1:0:0:0", "--pipeline=16", "--hot-accounts=1", f"--hgrm={tmp_path}/x")
    found = good(bench("--json", "--mix=trade-heavy", *words))
    assert (tmp_path / "x-run1-ALL.hgrm").exists()
    assert found["operations"].keys() == {"TRANSFER", "ALL"}
    assert found["ok"] > 100
    assert found["failed"] == 0


def test_failures_are_told_apart_and_judged() -> None:
    """Few funds, and few requests allowed: the connections back off as they are told to."""
    words = (
        *("--ratio=0:9:1:0", "--funds=1", "--server-flag=--rate-limit=20", "--max-failed=100"),
        SECOND,
    )
    found = good(bench("--json", "--mix=trade-heavy", *words))
    assert found["error_funds"] > 0
    assert found["error_busy"] > 0
    assert found["error_funds"] + found["error_busy"] == found["failed"]
    # Each is told once and then waits; without a pause there would be thousands.
    assert found["error_busy"] < 3 * (found["ok"] + found["error_funds"])


def test_an_open_loop_does_not_omit_what_a_stop_delays(server: RunningServer) -> None:
    """All workers stand still: what falls due meanwhile is late by as much, though the requests
    that are on their way are few."""
    pid = server.process.pid
    wait_until(lambda: len(workers_of(pid)) == 2, "both workers have their titles")
    words = ("--json", *on(server), "--rate=400", "--pipeline=1", "--mix=trade-heavy")
    stop_s = 1.0
    with (
        subprocess.Popen(
            # How busy this machine is at the end is not looked at.
            command(*words, "--duration=3", "--max-failed=100"),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as run,
        Lobby(server) as lobby,
    ):
        wait_until(lambda: lobby.counters()["requests_TRANSFER"] > 150, "the load", 30.0)
        for worker in workers_of(pid):
            os.kill(worker, signal.SIGSTOP)
        threading.Event().wait(stop_s)
        for worker in workers_of(pid):
            os.kill(worker, signal.SIGCONT)
        told, _ = run.communicate(timeout=RUN_S)
    assert run.returncode == 0, told
    (found,) = json.loads(told)["runs"]
    assert found["verdict"] == "good"
    # A third of all fell due in the stop: the upper half of these waited for 0.5 s and longer.
    assert found["p95_us"] > stop_s / 2 * 1e6
    # But 12 connections with one request each are no more than 12 that the server kept waiting.
    assert found["late"] > 100
    assert found["service_p95_us"] < found["p95_us"]


def test_a_rate_that_is_not_reached(server: RunningServer) -> None:
    """The clients cannot ask so often: nothing that falls due in the run is sent in time, and what
    is answered meanwhile fell due before."""
    found = report(bench("--json", *on(server), "--rate=1e6", "--warmup=0.6"), 4)
    (only,) = found["runs"]
    assert (only["verdict"], only["ok"]) == ("good", 0)
    assert only["dropped"] == only["late"] == pytest.approx(3e5, rel=0.01)
    nothing, missed = found["missed_thresholds"]
    assert "nothing succeeded" in nothing
    assert "100.0 % of the requests failed or were never sent" in missed


def test_more_failures_than_are_allowed() -> None:
    words = ("--json", "--mix=trade-heavy", "--ratio=0:1:0:0", "--funds=1")
    found = report(bench(*words, "--max-failed=90"), 4)
    (missed,) = [text for text in found["missed_thresholds"] if "--max-failed" in text]
    assert "--max-failed 90" in missed
    assert found["runs"][0]["verdict"] == "good"


def test_a_pause_is_told(server: RunningServer) -> None:
    """The program is stopped as by Ctrl-Z until its run is over, and goes on; its load does."""
    before = transfers(server)
    with subprocess.Popen(
        command("--json", *on(server)), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as run:
        wait_until(lambda: transfers(server) > before, "the load")
        run.send_signal(signal.SIGSTOP)
        threading.Event().wait(2.0)
        run.send_signal(signal.SIGCONT)
        told, _ = run.communicate(timeout=RUN_S)
    assert run.returncode == 0
    (found,) = json.loads(told)["runs"]
    assert found["verdict"] == "good"
    assert found["paused_s"] > 1.5


def test_workers_are_replaced() -> None:
    """Nobody loses a connection: clients move to other workers before."""
    args = ("--json", "--restart-every=3600", "--duration=4", "--pipeline=4", "--mix=trade-heavy")
    found = good(bench(*args))
    assert found["restarts"] == 1
    assert found["moves"] > 0
    assert (found["reconnects"], found["error_lost"]) == (0, 0)


def test_workers_are_killed() -> None:
    found = good(bench("--json", "--kill-every=0.2", SECOND, "--pipeline=4", "--mix=trade-heavy"))
    assert found["kills"] >= 2
    assert found["reconnects"] > 0


def test_a_worker_pushes_as_much_as_it_takes() -> None:
    """The requests in flight fit into the event ring, and it is small: a worker that takes more
    messages in a loop turn than it pushes is lapped at once."""
    load = (
        "--connections=64",
        "--pipeline=6",
        "--fanout=8",
        "--mix=chat-heavy",
        "--payload=32",
        SECOND,
    )
    found = good(bench("--json", *load, "--workers=1", "--server-flag=--event-ring=512"))
    assert found["messages"] > 512
    assert found["gaps"] == 0


def test_slow_consumers_are_told_what_they_miss() -> None:
    found = good(
        bench(
            *("--json", "--mix=chat-heavy", "--payload=4096", "--pipeline=16", SECOND),
            *("--slow-consumers=1", "--fanout=12"),
        )
    )
    assert found["gaps"] > 0
    assert found["missed_in_gaps"] >= found["gaps"]


def test_a_server_whose_ring_is_short(start_server: StartServer) -> None:
    """The answers are judged all the same, and what could not be compared is told. Without a
    journal: with one, TXN_HISTORY reaches back beyond the ring."""
    server = start_server("--durability", "none", "--txn-ring", "256")
    found = good(bench("--json", "--mix=trade-heavy", "--pipeline=8", SECOND, *on(server)))
    assert found["transactions"] > 256
    assert 0 < found["log_entries"] <= 2 * 256
    assert found["log_entries_gone"] > 0


def test_thresholds_end_with_a_code_of_their_own(server: RunningServer) -> None:
    run = bench("--json", f"--port={server.port}", "--max-p99=0.001", "--min-rate=1e7")
    found = report(run, 4)
    assert len(found["missed_thresholds"]) == 2
    assert "--max-p99" in run.stderr
    assert "--min-rate" in run.stderr
    (only,) = found["runs"]
    assert only["server_cpu_us"] is None  # its pid is not named
    assert only["workers"] is None


def transfers(server: RunningServer) -> int:
    """How many TRANSFERs the server has had, of all loads so far."""
    with Lobby(server) as lobby:
        return lobby.counters()["requests_TRANSFER"]


def test_a_server_that_ends_is_a_violation(server: RunningServer) -> None:
    words = command("--duration=60", "--warmup=0", "--rate=400", "--json", *on(server))
    before = transfers(server)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        wait_until(lambda: transfers(server) > before + 300, "the load")
        assert server.stop() == 0
        told, _ = run.communicate(timeout=RUN_S)
    assert run.returncode == 1
    (found,) = json.loads(told)["runs"]
    assert found["verdict"] == "violated"
    assert found["checks"]["unfinished"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_of_a_program_that_is_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Killed, or by a terminal that is closed: neither its server, nor a region, nor files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    where = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        command("--duration=600"), cwd=ROOT, env=where, stdout=subprocess.DEVNULL
    ) as run:
        wait_until(lambda: len(workers_of(server_of(run.pid))) == 2, "its server serves")
        family = family_of(run.pid)
        regions = shared_memory_of(server_of(run.pid))
        assert regions
        run.send_signal(number)
    wait_for(family)
    assert run.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert not any(Path(region).exists() for region in regions)
    assert list(folder.iterdir()) == []


def wait_for(family: list[int]) -> None:
    """Until all have ended; what was left behind is handed to us."""
    wait_until(lambda: not any(started(pid) for pid in family), "all have ended")
    for pid in family:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def server_of(pid: int) -> int:
    """The master that a program has started; 0: none yet."""
    return next((each for each in children_of(pid) if b"tradechat: master" in title(each)), 0)


def test_nothing_is_left_of_a_server_that_is_killed(tmp_path: Path) -> None:
    """And the runs before are told."""
    words = command("--runs=100", "--json", f"--csv={tmp_path}/x")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        table = tmp_path / "x-runs.csv"
        wait_until(lambda: table.exists() and table.read_text().count("\n") > 1, "a run", RUN_S)
        regions = shared_memory_of(server_of(run.pid))
        assert regions
        family = family_of(run.pid)
        os.kill(server_of(run.pid), signal.SIGKILL)
        told, _ = run.communicate(timeout=RUN_S)
    wait_for(family)
    first, *_, last = json.loads(told)["runs"]
    # It may have been killed between two runs: of the one that was not begun nothing is said.
    assert (run.returncode, last["verdict"]) in ((1, "violated"), (3, "good"))
    assert first["verdict"] == "good"
    assert not any(Path(region).exists() for region in regions)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_in_order(server: RunningServer, number: signal.Signals) -> None:
    words = command("--duration=600", "--warmup=0", "--rate=400", "--json", *on(server))
    before = transfers(server)
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        # At 400 a second these take longer than what comes before the time that is measured.
        wait_until(lambda: transfers(server) > before + 300, "the load")
        run.send_signal(number)
        told, error = run.communicate(timeout=RUN_S)
    assert run.returncode == 128 + number, error
    assert error == ""
    (found,) = json.loads(told)["runs"]
    assert found["verdict"] == "good"
    assert found["ok"] > 0
    assert found["seconds"] < 600


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_the_load(number: signal.Signals) -> None:
    with subprocess.Popen(
        command("--duration=60"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        wait_until(lambda: bool(children_of(run.pid)), "its server is being started")
        run.send_signal(number)
        _, error = run.communicate(timeout=RUN_S)
    assert run.returncode == 128 + number
    assert error == b""


def test_a_load_process_that_dies_is_told() -> None:
    with subprocess.Popen(
        command("--duration=60"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:

        def load() -> list[int]:
            found = []
            for pid in family_of(run.pid):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                found += [pid] if b"bench.stress.worker" in words else []
            return found

        wait_until(lambda: bool(load()) or run.poll() is not None, "the load process", RUN_S)
        for pid in load():
            os.kill(pid, signal.SIGKILL)
        _, error = run.communicate(timeout=RUN_S)
    assert run.returncode == 3
    assert b"a load process has ended" in error


@pytest.mark.parametrize("words", [["--port=1"], ["--server-flag=--no-such-flag"]])
def test_where_there_is_no_server(words: list[str]) -> None:
    run = bench(*words)
    assert run.returncode == 3
    assert "Traceback" not in run.stderr
    assert run.stderr


def test_a_url_names_the_server() -> None:
    options = parse(["--url", "tradechat://[::1]:9"])
    assert (options.host, options.port, options.is_own) == ("::1", 9, False)
    assert parse(["--url", "tradechat://h"]).port == 7878


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url=tradechat://h", "--port=1"], "without --host and --port"),
        (["--url=tradechat://alice:s3cret@h"], "leave them out"),
        (["--url=tradechat://h?timeout_s=1"], "leave them out"),
        (["--url=tradechat://alice:s3cret"], "its port is not a number"),
    ],
)
def test_urls_that_make_no_sense(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert "s3cret" not in err


@pytest.mark.parametrize("output", ["--csv=/dev/null/x", "--hgrm=/dev/null/x"])
def test_an_output_that_cannot_be_written_is_told_before_the_runs(output: str) -> None:
    run = bench(output, "--port=1")  # where no server is: it is not asked for
    assert run.returncode == 3
    assert "/dev/null" in run.stderr
    assert run.stdout == ""


def test_results_are_not_lost_to_an_output_that_fails_meanwhile(
    server: RunningServer, tmp_path: Path
) -> None:
    file = tmp_path / "x-run1-ALL.hgrm"
    file.mkdir()  # what is tried before is another one
    found = report(bench("--json", *on(server), f"--hgrm={tmp_path}/x"), 3)
    assert str(file) in found["failure"]
    assert found["runs"][0]["ok"] > 0


def test_letters_that_a_terminal_lacks(server: RunningServer) -> None:
    run = subprocess.run(
        command(*on(server)),
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert r"latency, \xb5s" in run.stdout


def test_a_reader_that_has_seen_enough(server: RunningServer) -> None:
    with subprocess.Popen(
        command(*on(server)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.stderr is not None
        assert run.stderr.read() == b""
    assert run.returncode == 141


def test_a_second_interrupt_loses_no_run_that_is_finished(
    server: RunningServer, tmp_path: Path
) -> None:
    words = command("--runs=50", f"--csv={tmp_path}/x", "--json", *on(server))
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        table = tmp_path / "x-runs.csv"
        wait_until(lambda: table.exists() and table.read_text().count("\n") > 1, "a run", RUN_S)
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGTERM)  # another one: two of a kind may come as one
        told, _ = run.communicate(timeout=RUN_S)
    assert run.returncode in (130, 143)
    found = json.loads(told)
    assert found["interrupted"]
    assert found["runs"][0]["verdict"] == "good"


def test_progress_is_for_terminals(server: RunningServer) -> None:
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            command(SECOND, *on(server)), cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs
        ) as run:
            os.close(theirs)
            told, _ = run.communicate(timeout=RUN_S)
        shown = b""
        while select.select([ours], [], [], 0)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:
                break  # nobody has the other end any more
    finally:
        os.close(ours)
    assert run.returncode == 0
    assert b"run 1/1" in shown
    assert b"ok " in shown
    assert shown.endswith(b"\r\x1b[K")  # what stays is the report
    assert b"run 1/1" not in told


@pytest.mark.parametrize("word", ["connections", "cpu", "delivery", "start"])
def test_other_measurements_go_by_a_word(word: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench", word, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"usage: tradechat-bench {word} ")


def test_only_measuring_needs_the_extra(tmp_path: Path) -> None:
    (tmp_path / "hdrh").mkdir()
    (tmp_path / "hdrh" / "__init__.py").touch()  # before the real one, and nothing is in it

    def without(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )

    shown = without("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    run = without("--port=1")  # where no server is: it is not asked for
    assert run.returncode == 3
    (line,) = run.stderr.splitlines()
    assert "tradechat[bench]" in line


def test_what_is_said_at_once_is_heard_at_once() -> None:
    """As the progress and the end of a run are, where the leader gets no core between the two."""
    reader, writer = os.pipe()
    try:
        say(writer, progress=[1, 0])
        say(writer, quiet=True)
        lines = Lines(reader)
        for told in ({"progress": [1, 0]}, {"quiet": True}):
            assert anything([lines], 0) == [lines]
            assert lines.next(0) == told
        assert anything([lines], 0) == []
    finally:
        os.close(reader)
        os.close(writer)


def test_what_is_said_may_be_longer_than_a_pipe_holds() -> None:
    """As the users of thousands of connections are."""
    reader, writer = os.pipe()
    users = list(range(100_000))
    try:
        speaker = threading.Thread(target=say, args=(writer,), kwargs={"users": users})
        speaker.start()
        lines = Lines(reader)
        assert lines.next(RUN_S) == {"users": users}
        speaker.join()
        assert lines.next(0) is None
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    "words", [[], ["--fanout=7"], ["--rooms=30", "--fanout=20"], ["--slow-consumers=5"]]
)
def test_every_room_is_full_and_everybody_is_in_one(words: list[str]) -> None:
    options = parse(words)
    slow = list(range(5000, 5000 + options.slow_consumers))
    members = list(members_of(options, "x", list(range(1, 1001)), slow))
    for room in range(1, options.rooms + 1):
        users = [user for _, _, user, rooms, slow in members if room in rooms and not slow]
        assert len(users) == len(set(users)) == options.fanout
    assert all(rooms for _, _, _, rooms, _ in members)
    assert sum(slow for *_, slow in members) == options.slow_consumers

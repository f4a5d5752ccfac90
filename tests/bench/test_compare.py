"""The comparison: what it reads of other programs, what it computes, and real runs of what is
installed. Our own side, and the client that all rooms are loaded with, are tested in any case."""

import csv
import io
import json
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from bench.compare import __main__ as compare
from bench.compare import fanout, nats, postgres, programs, redis, tradechat
from bench.compare.contender import PAYLOAD, Contender, Figures, LoadFailed, figures, quantile
from bench.compare.fanout import Dialect, Fanout, Members, text_of
from bench.compare.report import COLUMNS, Row, ratios, summary, table, write_csv
from bench.cpu.floor import COMPILER
from bench.lab import cli, process
from bench.lab.process import CpuTime
from tests.helpers import leaks
from tests.helpers.server import ROOT, wait_until

SECONDS = 0.2
LONGEST_S = 20.0
RUN_S = 240.0
SMALL = ("--connections=4", "--accounts=50", "--members=5", "--workers=2", "--runs=1")


def needed(*programs_and_packages: tuple[str, str]) -> None:
    """Skip where one is not installed."""
    for program, package in programs_and_packages:
        try:
            programs.find(program, package)
        except programs.Missing as error:
            pytest.skip(str(error))


# ---- what is read of other programs


def test_what_redis_benchmark_writes() -> None:
    told = (
        '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",'
        '"p99_latency_ms","max_latency_ms"\n'
        '"evalsha 53a2 2 account:__rand_int__ 1","37037.04","3.518","0.360","3.279","4.919",'
        '"6.239","6.415"\n'
    )
    row = redis.parse_csv(told)
    assert (row["rps"], row["p50_latency_ms"], row["p99_latency_ms"]) == (37037.04, 3.279, 6.239)


@pytest.mark.parametrize("told", ["", "ERR\n", '"test","rps"\n', '"test","rps"\n"x","y"\n'])
def test_redis_benchmark_that_is_not_understood(told: str) -> None:
    with pytest.raises(LoadFailed, match="redis-benchmark"):
        redis.parse_csv(told)


SUMMARY = """\
pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: script
number of clients: 100
duration: 6 s
number of transactions actually processed: 16444
number of failed transactions: 0 (0.000%)
latency average = 27.809 ms
"""


def test_what_pgbench_writes() -> None:
    assert postgres.parse_summary(SUMMARY) == 16444
    fixed = SUMMARY.replace(": 16444", ": 16444/16444")  # where their number is given
    assert postgres.parse_summary(fixed) == 16444


@pytest.mark.parametrize(
    ("told", "match"),
    [
        (SUMMARY.replace(": 0 (0.000%)", ": 3 (0.018%)"), "3 transactions failed"),
        (SUMMARY.replace("16444", "many"), "not understood"),
        ("", "not understood"),
    ],
)
def test_pgbench_that_failed(told: str, match: str) -> None:
    with pytest.raises(LoadFailed, match=match):
        postgres.parse_summary(told)


def test_only_the_measured_time_of_pgbench_counts() -> None:
    log = "0 1 5000 0 100 999999\n1 1 7000 0 101 0\n0 2 9000 0 101 500000\n1 2 1000 0 102 0\n"
    assert postgres.parse_log(log, 101.0, 102.0) == [7.0, 9.0]
    with pytest.raises(LoadFailed, match="not understood"):
        postgres.parse_log("0 2 failed 0 101 500000\n", 101.0, 102.0)


# ---- what is computed


def test_quantiles() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert (quantile(hundred, 0.5), quantile(hundred, 0.99)) == (50.0, 99.0)
    assert quantile([3.0], 0.99) == 3.0
    found = figures(1000, 2.0, hundred[::-1], CpuTime(0.5, 0.25), 0.125)
    assert found == Figures(1000, 500.0, 50.0, 99.0, 750.0, 125.0)
    with pytest.raises(LoadFailed):
        figures(0, 2.0, [], CpuTime(0, 0), 0)


def row(run: int, server: str, per_s: float, cpu: float, in_flight: int = 1) -> Row:
    return Row(run, "transfer", in_flight, server, "ours", Figures(1, per_s, 1, 2, cpu, 3))


ROWS = [
    row(1, "ours", 100, 10),
    row(1, "theirs", 300, 5),
    row(1, "ours", 1000, 10, 16),
    row(1, "theirs", 1000, 2, 16),
    row(2, "ours", 200, 20),
    row(2, "theirs", 200, 20),
    row(3, "ours", 100, 40),
    row(3, "theirs", 400, 4),
    row(4, "theirs", 9999, 9999),  # ours failed in this run: there is nothing to compare it with
]


def test_ratios_are_of_the_same_run() -> None:
    theirs = [each for each in ROWS if each.server == "theirs" and each.in_flight == 1]
    assert ratios(ROWS, theirs, "per_s") == [3.0, 1.0, 4.0]
    ours, other, _, piped = summary(ROWS)
    assert (piped["server"], piped["in_flight"]) == ("theirs", 16)
    assert (piped["per_s_ratio"].median, piped["server_us_ratio"].median) == (1.0, 0.2)
    assert (ours["server"], ours["runs"], ours["per_s_ratio"]) == ("ours", 3, None)
    assert (ours["per_s"].median, ours["per_s"].min, ours["per_s"].max) == (100, 100, 200)
    assert (other["per_s_ratio"].median, other["per_s_ratio"].max) == (3.0, 4.0)
    spread = other["server_us_ratio"]
    assert (spread.median, spread.min, spread.max) == (0.5, 0.1, 1.0)


def test_the_table_and_the_csv() -> None:
    lines = table(ROWS).splitlines()
    assert len(lines) == 2 + 4
    assert "3.00 (1.00 to 4.00)" in lines[3]
    assert "0.50 (0.10 to 1.00)" in lines[3]
    assert len({len(line) for line in lines}) == 1
    file = io.StringIO()
    write_csv(file, ROWS)
    found = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert tuple(found[0]) == COLUMNS
    assert [float(each["per_s"]) for each in found] == [each.figures.per_s for each in ROWS]


# ---- programs


def test_the_newest_of_several_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("9", "15", "14"):
        program = tmp_path / number / "bin" / "postgres"
        program.parent.mkdir(parents=True)
        program.touch(stat.S_IRWXU)
    monkeypatch.setattr(programs, "PLACES", [f"{tmp_path}/*/bin"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.find("postgres", "postgresql") == f"{tmp_path}/15/bin/postgres"
    beside = str(tmp_path / "14" / "bin" / "initdb")
    assert programs.find("postgres", "postgresql", beside=beside) == (f"{tmp_path}/14/bin/postgres")


BURN = """
import os, signal, sys, time
def burn(seconds):
    while time.process_time() < seconds: pass
def tell(name):
    with open(name + "-", "w") as file:
        file.write(str(time.process_time()))
    os.rename(name + "-", name)
burn(0.2)
if os.fork() == 0:
    burn(0.3)
    tell("ended")
    os._exit(0)
os.wait()
ours, parents = os.pipe()
if os.fork() == 0:
    os.close(parents)
    burn(0.1)
    tell("lives")
    os.read(ours, 1)  # until the parent has ended
    os._exit(0)
tell("parent")
signal.pause()
"""


def test_the_cpu_of_processes_that_live_and_that_have_ended(tmp_path: Path) -> None:
    told = [tmp_path / name for name in ("parent", "ended", "lives")]
    server = programs.Daemon(
        [sys.executable, "-c", BURN], str(tmp_path), lambda: all(path.exists() for path in told)
    )
    with closing(server):
        (child,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        # Its own, that of the child that has ended, and that of the one that lives, as they see it
        # themselves. The system counts in ticks, and each spent some more after it had looked.
        burnt = sum(float(path.read_text()) for path in told)
        assert burnt - 0.05 < sum(server.cpu()) < 1.4 * burnt
    leaks.wait_gone(int(child))


def test_a_server_that_does_not_start_tells_why(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "raise SystemExit('the port is taken')"]
    with pytest.raises(LoadFailed, match="the port is taken"):
        programs.Daemon(words, str(tmp_path), lambda: False)


def test_a_server_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_S", 0.1)
    stubborn = (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open('ready', 'w').close()\nwhile True: signal.pause()"
    )
    server = programs.Daemon(
        [sys.executable, "-c", stubborn], str(tmp_path), (tmp_path / "ready").exists
    )
    server.close()
    assert not Path(f"/proc/{server.pid}").exists()


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "PLACES", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compare.main([]) == cli.EXIT_FAILED
    told = capsys.readouterr()
    assert told.out == ""
    for package in ("gcc", "redis-server", "postgresql", "nats-server"):
        assert told.err.count(f"apt-get install {package};") == 1


@pytest.mark.parametrize(
    "words",
    [
        *(["--connections=5", "--accounts=4"], ["--seconds=0"], ["--runs=0"], ["--pipeline", "65"]),
        *(["--server", "oracle"], ["--out=/dev/null/x"], ["--run=3"]),
    ],
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        compare.main(words)
    assert raised.value.code == 2
    assert capsys.readouterr().err


# ---- servers


def plausible(found: Figures) -> None:
    assert found.requests > 0
    assert found.per_s > 0
    assert 0 < found.p50_ms <= found.p99_ms


def load(contender: Contender, in_flight: int) -> Figures:
    """For as long as this machine takes to answer anything in the time that is measured."""
    seconds = SECONDS
    while True:
        try:
            return contender.load(in_flight, seconds)
        except LoadFailed as error:
            if "take more seconds" not in str(error) or seconds > LONGEST_S:
                raise
            seconds *= 4


def loaded(make: Callable[[], Contender]) -> None:
    """With one in flight, and with several, again on the same server. A slow disk may leave so
    little to do that no tick of the CPU's clock falls into one of them."""
    with make() as contender:
        found = [load(contender, in_flight) for in_flight in (1, 16)]
    for each in found:
        plausible(each)
    assert any(each.server_us > 0 for each in found)


def test_our_transfers() -> None:
    loaded(lambda: tradechat.Transfers("sync", 2, 4, 50, 1))


def test_our_room() -> None:
    loaded(lambda: Fanout(tradechat.Room("none", 2), 5))


def test_transfers_of_the_floor() -> None:
    needed(COMPILER)
    loaded(lambda: tradechat.FloorTransfers(2, 4, 50, 1))


@pytest.mark.parametrize("script", [redis.TRANSFER, redis.BARE], ids=["whole", "bare"])
@pytest.mark.parametrize("persistence", list(redis.PERSISTENCE))
def test_transfers_of_redis(persistence: str, script: str) -> None:
    needed(redis.SERVER, redis.BENCHMARK)
    loaded(lambda: redis.Transfers(persistence, 4, 50, script))


def test_a_room_of_redis() -> None:
    needed(redis.SERVER)
    loaded(lambda: Fanout(redis.PubSub(), 5))


def test_a_room_of_nats() -> None:
    needed(nats.SERVER)
    loaded(lambda: Fanout(nats.Subject(), 5))


def test_transfers_of_postgresql() -> None:
    """Also: the function refuses what it must, and repeats a recorded outcome."""
    needed(("postgres", postgres.PACKAGE), ("pgbench", postgres.PACKAGE))
    with closing(postgres.Transfers("on", 4, 50)) as contender:
        plausible(load(contender, 4))
        first = contender.ask("SELECT transfer(7, 1, 1, 2, 5)")
        assert contender.ask("SELECT transfer(7, 1, 1, 2, 5)") == first
        for payer, payee, amount in ((1, 1, 5), (1, 99, 5), (99, 1, 5), (1, 2, 2 * postgres.FUNDS)):
            with pytest.raises(LoadFailed, match="refused"):
                contender.ask(f"SELECT transfer(7, 2, {payer}, {payee}, {amount})")
        total = int(contender.ask("SELECT sum(balance) FROM accounts"))
        assert total == 50 * postgres.FUNDS


@pytest.mark.parametrize("source", [redis.TRANSFER, redis.BARE], ids=["whole", "bare"])
def test_the_scripts_of_redis(source: str) -> None:
    needed(redis.SERVER)
    with closing(redis.Server("none")) as server:
        payer, payee = map(redis.account, (1, 2))
        server.ask("SET", payer, 7)
        server.ask("SET", payee, 0)
        script = server.ask("SCRIPT", "LOAD", source)
        transfer = ("EVALSHA", script, 2)
        assert server.ask(*transfer, payer, payee, 5) == "1 2"  # its number, what is left
        assert server.ask(*transfer, payer, payer, 1) == "0 0"
        for to, amount in ((payee, 3), (redis.account(3), 1)):
            with pytest.raises(LoadFailed, match=r"INSUFFICIENT_FUNDS|NOT_FOUND"):
                server.ask(*transfer, payer, to, amount)
        assert (server.ask("GET", payer), server.ask("GET", payee)) == ("2", "5")
        if source == redis.TRANSFER:
            assert server.ask("XLEN", "log") == "1"
            assert server.ask("HGET", f"outcomes:{payer}", 1) == "1 1 2"


def test_the_floor_is_the_first_row(capsys: pytest.CaptureFixture[str]) -> None:
    needed(COMPILER)
    words = (f"--seconds={SECONDS}", "--workload=transfers", "--server=floor", "--pipeline=4")
    assert compare.main([*SMALL, *words]) == cli.EXIT_GOOD
    head, _, floor, ours = capsys.readouterr().out.splitlines()[-4:]
    cells = [[cell.strip() for cell in line.split("|")[3:-1]] for line in (head, floor, ours)]
    assert cells[0][-2:] == ["per second ÷ ours", "server CPU ÷ ours"]
    assert [line[0] for line in cells[1:]] == ["C floor", "tradechat, durability none"]
    assert float(cells[1][-2]) > 0
    assert cells[2][-2:] == ["", ""]


def test_a_whole_run_with_one_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who is there is compared; who is not is named, and is no failure."""
    needed(redis.SERVER)
    (tmp_path / "redis-server").symlink_to(programs.find(*redis.SERVER))
    monkeypatch.setattr(programs, "PLACES", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    words = (*SMALL, f"--seconds={SECONDS}", "--workload=fan-out", "--pipeline=4")
    assert compare.main([*words, "--json", f"--out={tmp_path}/made/out"]) == cli.EXIT_GOOD
    told = capsys.readouterr()
    assert told.err.count("apt-get install nats-server") == 1
    found = json.loads(told.out)
    servers = [each["server"] for each in found["summary"]]
    assert servers == ["tradechat, durability none", "tradechat, history on disk", "Redis pub/sub"]
    assert found["summary"][2]["per_s_ratio"]["median"] > 0
    assert "redis-server" in found["setting"]
    assert table([]).splitlines()[0][:10] in (tmp_path / "made/out/compare.md").read_text()
    with (tmp_path / "made/out/compare.csv").open(newline="") as file:
        assert [each["server"] for each in csv.DictReader(file)] == servers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all(number: signal.Signals) -> None:
    """Nothing is left: that is looked for after every test."""
    needed(redis.SERVER, redis.BENCHMARK)
    words = [sys.executable, "-m", "bench.compare", *SMALL, "--server=redis", "--seconds=60"]
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")

        def is_loading() -> bool:
            names = [Path(f"/proc/{pid}/comm") for pid in children.read_text().split()]
            return any(each.read_text() == "redis-benchmark\n" for each in names if each.exists())

        wait_until(is_loading, "the load", 30.0)
        run.send_signal(number)
        _, error = run.communicate(timeout=RUN_S)
    assert run.returncode == 128 + number
    assert "Traceback" not in error


# ---- the client of the rooms sees what a server does wrong


class Wrong(Dialect):
    """A server of socket pairs that does one thing wrong with its fifth message to a member."""

    frame_len = PAYLOAD

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._publisher, self._inbox = socket.socketpair()
        self._theirs: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)

    def open(self, members: int) -> Members:
        pairs = [socket.socketpair() for _ in range(members)]
        self._theirs = [theirs for _, theirs in pairs]
        self._served = self._theirs[:]
        self._thread.start()
        return Members([ours for ours, _ in pairs], self._publisher)

    def _serve(self) -> None:
        served = 0
        while text := self._inbox.recv(PAYLOAD, socket.MSG_WAITALL):
            served += 1
            for member in self._served:
                with suppress(BrokenPipeError):  # the run has seen what is wrong, and has ended
                    member.sendall(text)
            if served == 5:
                self._do_wrong()

    def _do_wrong(self) -> None:
        match self._fault:
            case "twice":
                self._theirs[0].sendall(text_of(4))
            case "closed":
                self._served.pop().shutdown(socket.SHUT_RDWR)
            case "answered":
                self._inbox.sendall(b"-ERR\r\n")
            case "lost":
                self._served.pop()

    def cpu(self) -> CpuTime:
        return CpuTime(0.0, 0.0)

    def message(self, serial: int) -> bytes:
        return text_of(serial + (self._fault == "other" and serial == 5))

    def text(self, frame: bytes) -> bytes:
        return frame

    def are_answers(self, data: bytes, messages: int) -> bool:  # noqa: ARG002 - there are none
        return not data

    def close(self) -> None:
        self._publisher.close()
        self._thread.join()
        self._inbox.close()
        for member in self._theirs:
            member.close()


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("twice", r"more than was published|bytes came for|came as"),
        ("closed", "closed a connection"),
        ("answered", "not answered as it is known"),
        ("lost", "do not come to all members"),
        ("other", "message 5 came as"),
    ],
)
def test_what_a_server_does_wrong_is_seen(
    fault: str, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "_TIMEOUT_S", 0.3)
    with Fanout(Wrong(fault), 3) as room, pytest.raises(LoadFailed, match=match):
        room.load(1, SECONDS)


def test_a_server_that_does_nothing_wrong() -> None:
    with Fanout(Wrong(""), 3) as room:
        found = load(room, 4)
        assert found.requests % 3 == 0
        assert found.per_s > 0

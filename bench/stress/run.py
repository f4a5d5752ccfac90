"""The leader: a server, users, load processes, and one run after the other with its verdict."""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Final

from bench.lab.caller import CallFailed
from bench.lab.process import CpuTime, Victims, cpu_of_server
from bench.lab.target import OwnServer, Target
from bench.stress import boards, counted
from bench.stress.fleet import Fleet, Stop
from bench.stress.ledger import Accounts, Findings, Holding, Replay, Told, answers_of, views_of
from bench.stress.lines import Told as Said
from bench.stress.options import Options
from bench.stress.record import Refusal, Unknown
from bench.stress.results import Figures, Row, gather
from bench.stress.rooms import Seen
from bench.stress.users import caller_of, name_of, take
from libproto.form import VARIABLE as PURE
from libproto.messages import Opcode

RING: Final = (1 << 16, 1 << 20)
"""The least and the most transactions that our own server's ring keeps."""
RING_RECORD: Final = 160
"""Bytes of one of them."""
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the region is
RATE_MAX: Final = 20_000
"""Transactions per second that a closed loop is expected to make at most."""
START_S: Final = 0.2
"""From telling the processes until a run is measured, at least: they begin together."""
PROGRESS_S: Final = 0.5
PAUSE_S: Final = 1.0
"""A leader that does nothing for so long was stopped, or got no core."""


@dataclass(slots=True)
class Run:
    """What came out of one run."""

    number: int
    figures: Figures
    findings: Findings
    checked: dict[str, int] = field(default_factory=dict)
    """How much the verdict looked at."""
    client_cpu: CpuTime | None = None
    server_cpu: CpuTime | None = None
    """Of all its processes; None where its pid is not known."""
    kills: int = 0
    restarts: int = 0
    reconnects: int = 0
    moves: int = 0
    paused_s: float = 0.0
    """How long the leader did nothing."""
    counted: list[Row] = field(default_factory=list)
    """What our own server counted, by interval."""
    server_errors: list[str] = field(default_factory=list)
    """What our own server has logged as an error, where the verdict is bad."""


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP: during a run the first one ends it in order, and the report is
    of what was done before; at any other time, and the second time, KeyboardInterrupt."""

    def __init__(self) -> None:
        self.code = 0
        """The exit code that was asked for; 0: none."""
        self._in_order = False

    def _come(self, number: int, _: FrameType | None) -> None:
        first = not self.code
        self.code = 128 + number
        if not (first and self._in_order):
            raise KeyboardInterrupt

    def install(self) -> None:
        signal.signal(signal.SIGINT, self._come)
        signal.signal(signal.SIGTERM, self._come)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # it is for nohup
            signal.signal(signal.SIGHUP, self._come)

    @contextmanager
    def in_order(self) -> Iterator[None]:
        self._in_order = True
        try:
            yield
        finally:
            self._in_order = False


def ring_for(options: Options, free: int) -> int:
    """How many transactions our own server is to keep, so that TXN_HISTORY shows a whole run; a
    power of two. free: bytes of shared memory."""
    rate = options.rate or RATE_MAX
    wanted = (options.warmup + options.duration) * rate + options.accounts * 2
    ring = RING[0]
    while ring < min(wanted, RING[1]) and 4 * ring * RING_RECORD < free:
        ring *= 2
    return ring


def own_server(options: Options) -> tuple[OwnServer, int]:
    """A server of our own, and its ring. ServerFailed."""
    disk = os.statvfs(SHARED_MEMORY)
    ring = ring_for(options, disk.f_bavail * disk.f_frsize)
    users = options.accounts + options.slow_consumers
    connections = 2 * (options.connections + options.slow_consumers) + 64
    server = OwnServer(
        f"bench-{os.getpid()}",
        f"--workers={options.workers}",
        f"--accounts={users + 64}",
        f"--clients={users + 64}",
        f"--max-connections={connections}",
        f"--sessions={connections}",
        f"--rooms={options.rooms}",
        f"--txn-ring={ring}",
        f"--stats-interval={counted.interval_for(options.duration):g}",
        *options.server_flags,
    )
    return server, ring


@contextmanager
def _as_asked(options: Options, undo: ExitStack) -> Iterator[None]:
    """What is started meanwhile is our own server: it gets its cores, and the form it is to have,
    from this process. undo: gives this process, the load, all cores again."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    before = os.environ.get(PURE)
    if options.apart:
        undo.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, cores[:half] or cores)
    if options.interpreted:
        os.environ[PURE] = "1"
    try:
        yield
    finally:
        if options.apart:
            os.sched_setaffinity(0, cores[half:])
        if options.interpreted and before is None:
            del os.environ[PURE]


class Stress:
    """All runs of one program; a context manager that ends whatever it has started.

    ServerFailed, CallFailed, FleetFailed or OSError where nothing can be said.
    """

    def __init__(self, options: Options, interrupts: Interrupts) -> None:
        self._stack = ExitStack()
        self.interrupts = interrupts
        self._shown = 0.0
        with ExitStack() as undo:
            own, self._ring = None, 0
            if not options.port:
                with _as_asked(options, undo):
                    server, self._ring = own_server(options)
                own = undo.enter_context(server)
                options = replace(options, host="127.0.0.1", port=own.port, pid=own.pid)
            name = own.name if own else ""
            self.options = options
            self.target = Target(options.host, options.port, options.pid, name, own)
            self._names = name_of(options.seed)
            self._offers: dict[int, boards.Offer] = {}  # on the boards, before a run
            held, slow = self._users()
            users = list(held)
            self._accounts = Accounts.of(held)
            self.fleet = undo.enter_context(Fleet(options, self._names, users, slow))
            rng = random.Random(options.seed)  # noqa: S311 - to be repeated
            self.workers = Victims(options.pid, rng)
            self._stack = undo.pop_all()

    def __enter__(self) -> "Stress":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _users(self) -> tuple[dict[int, Holding], list[int]]:
        """The user_id of each account, with what it has, and those of the slow members."""
        count = self.options.accounts
        names = [f"{self._names}{n}" for n in range(count + self.options.slow_consumers)]
        options = self.options
        made = take(options.host, options.port, names, encrypts=options.encrypts)
        users = list(made.items())
        return dict(users[:count]), [user for user, _ in users[count:]]

    def _last_seqs(self) -> dict[int, int]:
        """The number of the newest event of each room."""
        found = dict.fromkeys(range(1, self.options.rooms + 1), 0)
        with closing(caller_of(self.options)) as caller:
            caller.login(f"{self._names}0", 0)
            after = 0
            while True:
                (page,) = caller.call(Opcode.ROOM_LIST, after)
                if not page:
                    return found
                found |= {room: last for room, _, last in page if room in found}
                after = page[-1].room_id

    def _boards(self) -> dict[int, boards.Offer]:
        """What is on the boards, where the load is of boards."""
        if not self.options.shares.keys() & set(boards.OPCODES):
            return {}
        with closing(caller_of(self.options)) as caller:
            caller.login(f"{self._names}0", 0)
            return boards.read(caller, range(1, self.options.rooms + 1))

    # ---- a run

    def run(self, number: int) -> Run:
        """One run, with its verdict."""
        self._offers = self._boards()
        first_seqs = {room: last + 1 for room, last in self._last_seqs().items()}
        start = time.monotonic() + START_S + self.options.warmup
        moment = _Moment(self, start, start + self.options.duration, number)
        quiet = self.fleet.run(start, moment.end, first_seqs, moment.tick)
        moment.finish()
        findings = Findings()
        for each in quiet:
            if each["left"]:
                findings.add("unfinished", f"at the end, {each['left']}")
        if ended := self.target.ended():
            findings.add("unfinished", ended)
        folder = self.target.own.directory if self.target.own is not None else None
        with tempfile.TemporaryDirectory(prefix="tradechat-bench-", dir=folder) as spool:
            try:
                run = self._judge(number, (moment.start, moment.end), Path(spool), findings)
            finally:
                self._clear()
        run.kills, run.restarts, run.paused_s = moment.kills, moment.restarts, moment.paused_s
        if run.restarts and run.reconnects and not run.kills:
            findings.add(
                "unexpected",
                f"{run.reconnects} connections were lost while workers were replaced",
                run.reconnects,
            )
        run.client_cpu = CpuTime(*(sum(each["cpu"][n] for each in quiet) for n in (0, 1)))
        if self.options.pid:
            run.server_cpu = moment.server_cpu()
        if self.target.own is not None:
            wall = time.time() - time.monotonic()
            run.counted = counted.intervals(
                counted.totals(self.target.own.logged("stats")),
                moment.start + wall,
                moment.end + wall,
            )
        if not findings.good and self.target.own is not None:
            run.server_errors = self.target.own.errors()
        return run

    def _judge(
        self, number: int, span: tuple[float, float], spool: Path, findings: Findings
    ) -> Run:
        accounts = self._accounts
        base = accounts.base
        last_seqs: dict[int, int] = {}
        left: dict[int, boards.Offer] = {}
        try:
            left = self._boards()
            last_seqs = self._last_seqs()
        except (CallFailed, OSError) as error:
            findings.add("unfinished", f"the server cannot be asked at the end: {error}")
        head = f"run {number}/{self.options.runs}  verdict: "
        reading = f"{head}reading what the server has"
        told = self.fleet.collect(str(spool), base, last_seqs, lambda: self.show(lambda: reading))
        places = range(len(told))
        rooms = _rooms(told, [spool / f"rooms-{place}" for place in places], findings)
        figures = gather(
            told,
            [spool / f"figures-{place}" for place in places],
            list(rooms.values()),
            span,
            is_open=self.options.is_open,
        )
        _add_problems(told, findings)
        checked = {
            name: sum(each[name] for each in told)
            for name in ("events", "gaps", "missed_in_gaps", "missed_unconnected")
        }
        for room, seen in rooms.items():
            last = seen.first + seen.count - 1
            if last_seqs and last > last_seqs[room]:
                text = f"event {last} of room {room} was told, which ends at {last_seqs[room]}"
                findings.add("messages_lost", text)
            for text in seen.repeated():
                findings.add("events_twice", f"room {room}: {text}")
        checked |= self._judge_boards(told, spool, left, findings)
        finals = {user: Holding(*held) for each in told for user, *held in each["finals"]}
        if finals:
            replay = Replay(accounts, self._told(told, spool, finals, base), findings)
            replay.run(lambda done: self.show(lambda: f"{head}{done:,} answers checked"))
            checked |= {
                "transactions": replay.transactions,
                "reads": replay.reads,
                "log_entries": replay.compared,
                "log_entries_gone": replay.not_compared,
            }
        reconnects = sum(each["reconnects"] for each in told)
        moves = sum(each["moves"] for each in told)
        return Run(number, figures, findings, checked, reconnects=reconnects, moves=moves)

    def _judge_boards(
        self,
        told: list[Said],
        spool: Path,
        left: dict[int, boards.Offer],
        findings: Findings,
    ) -> dict[str, int]:
        if not any(each["boards"] for each in told):
            return {}
        paths = [spool / f"boards-{place}" for place in range(len(told))]
        parts = [part for path in paths for part in json.loads(path.read_text())]
        run = boards.Told(self._offers, parts)
        for text in run.problems(left):
            findings.add("boards", text)
        removed = len(run.gone) - run.taken
        return {"offers_added": run.added, "offers_taken": run.taken, "offers_removed": removed}

    def _told(self, told: list[Said], spool: Path, finals: dict[int, Holding], base: int) -> Told:
        places = range(len(told))
        oldest = min(each["oldest"] for each in told)
        newest = max(held.last_txn_id for held in finals.values())
        # While it was read, each login may have pushed one record out of the ring.
        logins = len(finals) + self.options.connections
        if newest + logins - base < self._ring or oldest <= base:
            oldest = 0
        else:
            oldest += logins
        return Told(
            answers_of(spool / f"answers-{place}" for place in places),
            views_of(spool / f"views-{place}" for place in places),
            finals,
            [Refusal(*each) for part in told for each in part["refusals"]],
            [Unknown(*each) for part in told for each in part["unknown"]],
            oldest,
        )

    # ---- what a user sees meanwhile

    def show(self, text: Callable[[], str]) -> None:
        """The line of progress, on a terminal only."""
        if sys.stderr.isatty() and time.monotonic() - self._shown > PROGRESS_S:
            self._shown = time.monotonic()
            sys.stderr.write(f"\r\x1b[K{text()}")
            sys.stderr.flush()

    def _clear(self) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class _Moment:
    """What happens while the load runs."""

    def __init__(self, stress: Stress, start: float, end: float, number: int) -> None:
        self.start, self.end = start, end
        self.kills = self.restarts = 0
        self._stress = stress
        self._number = number
        self._next_kill = start
        self._next_restart = start
        self._before: CpuTime | None = None
        self._after: CpuTime | None = None
        self._told = (0, 0)  # successes, failures, when it was last shown
        self._told_at = start
        self.paused_s = 0.0
        self._ticked = time.monotonic()

    def tick(self) -> Stop | None:
        """Called all the time; says when the run is to stop before its end."""
        now, stress = time.monotonic(), self._stress
        if (passed := now - self._ticked) > PAUSE_S:
            self.paused_s += passed
        self._ticked = now
        options = stress.options
        if now >= self.start and self._before is None:
            self._before = cpu_of_server(options.pid)
        if now >= self.end and self._after is None:
            self._after = cpu_of_server(options.pid)
        if options.kill_every and self._next_kill <= now < self.end:
            self._next_kill = max(self._next_kill + options.kill_every, now)
            self._kill()
        if options.restart_every and self._next_restart <= now < self.end:
            self._next_restart = max(self._next_restart + options.restart_every, now)
            with suppress(ProcessLookupError):
                os.kill(options.pid, signal.SIGHUP)
                self.restarts += 1
        ended = bool(stress.target.ended())
        if now < self.end and (stress.interrupts.code or ended):
            self.end = now
            self.start = min(self.start, now)
            return Stop(now, served=not ended)
        stress.show(lambda: self._progress(now))
        return None

    def _kill(self) -> None:
        workers = self._stress.workers
        if (worker := workers.any()) is not None:
            self.kills += workers.kill(worker)

    def _progress(self, now: float) -> str:
        options = self._stress.options
        head = f"run {self._number}/{options.runs}  "
        if now < self.start:
            return f"{head}warming up, {self.start - now:.0f} s"
        if now >= self.end:
            return f"{head}waiting for what is unanswered"
        parts = self._stress.fleet.progress.values()
        told = sum(ok for ok, _ in parts), sum(failed for _, failed in parts)
        passed = max(now - self._told_at, 0.001)
        rates = [(new - old) / passed for new, old in zip(told, self._told, strict=True)]
        self._told, self._told_at = told, now
        return (
            f"{head}{now - self.start:.0f}/{options.duration:g} s  "
            f"ok {rates[0]:,.0f}/s  failed {rates[1]:,.0f}/s"
        )

    def finish(self) -> None:
        """All is answered, perhaps before the last tick could see the end."""
        if self._after is None:
            self._after = cpu_of_server(self._stress.options.pid)

    def server_cpu(self) -> CpuTime | None:
        """Of the time that was measured; None where none was."""
        if self._before is None or self._after is None:
            return None
        return self._after.since(self._before)


def _rooms(told: list[Said], paths: list[Path], findings: Findings) -> dict[int, Seen]:
    """What all processes saw, put together."""
    rooms: dict[int, Seen] = {}
    for each, path in zip(told, paths, strict=True):
        with path.open("rb") as file:
            for room, first, count, differing, unknown in each["rooms"]:
                part = Seen(first, count, unknown=unknown)
                for column in part.columns():
                    column.fromfile(file, count)
                whole = rooms.setdefault(room, Seen(first))
                others = list(whole.add(part))
                if times := differing + len(others):
                    text = f"members of room {room} are told different events: {others[:5]}"
                    findings.add("events_differing", text, times)
    return rooms


def _add_problems(told: list[Said], findings: Findings) -> None:
    """What the processes found themselves."""
    for each in told:
        for text in each["unfinished"]:
            findings.add("unfinished", text)
        count, texts = each["unexpected"]
        for number, text in enumerate(texts):
            findings.add("unexpected", text, 1 if number else 1 + count - len(texts))
        counts, problems = each["problems"]
        for check, text in problems:
            findings.add(check, text)
            counts[check] -= 1
        findings.counts.update({check: more for check, more in counts.items() if more})

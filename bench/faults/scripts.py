"""The scripts: what each of them breaks, and how a run goes."""

import asyncio
import math
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import uvloop

from bench.faults import taking_over
from bench.faults.load import Load, RunFailed
from bench.faults.probe import Fault, Probe, Sample, pauses
from bench.faults.report import Report
from bench.faults.taking_over import TakeOvers
from bench.faults.trader import Trading
from bench.faults.verdict import judge
from bench.lab.process import (
    ARCHIVE_TITLE,
    JOURNAL_TITLE,
    Victims,
    family_of,
    shared_memory_of,
    started,
    title,
    titled,
)
from bench.lab.target import OwnServer, ServerFailed, Target, steady_port
from bench.lab.verdict import Problem
from libnet.errors import NetError
from libnet.sockets import probe_port

WARM_UP_S: Final = 1.0  # before the first fault
END_S: Final = 20.0  # that a server may take to end after SIGINT
POLL_S: Final = 0.02
SHORT_STOP_S: Final = (0.02, 0.5)
LONG_STOP_S: Final = (1.0, 3.0)  # longer than a worker may take to acknowledge a recovery
LONG_STOPS: Final = 0.4  # their part of all
ARCHIVE_TURN: Final = 4  # of so many kills of the journal one is of the archive
KEEPER_KILL_S: Final = (0.0, 0.005)  # after requests were sent: at any moment of a group commit
CRASH_SPREAD: Final = (0.1, 1.9)  # times `every` that a server is left alone
EARLY: Final = 0.2  # the part of servers that are killed before they are ready
AFTER_STOP_S: Final = 0.2  # so that the waits of one stop are not taken for those of the next


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told."""

    seconds: float
    connections: int
    every: float | None  # s; None: the script's own
    rate: float  # requests per second, over all connections
    workers: int  # of a server of the script's own
    seed: int
    host: str
    port: int  # 0: a server of the script's own
    pid: int  # of the master; 0: not known
    name: str  # of the region; "": by the port


class Disturbance:
    """One run's faults, as they are made."""

    def __init__(self, load: Load, target: Target, seed: int) -> None:
        self.load = load
        self.target = target
        self.random = random.Random(seed)  # noqa: S311 - a run that can be repeated
        self.faults: list[Fault] = []
        self.victims = Victims(target.pid, self.random)
        self.killed_by_master = 0
        self.archive_kills = 0
        self._turn = 0

    async def kill(self) -> None:
        if (worker := self.victims.any()) is None:
            return
        self.load.press(self.random)
        if self.victims.kill(worker):
            self.faults.append(Fault(time.monotonic(), worker.pid))

    async def kill_keeper(self) -> None:
        self._turn += 1
        is_archive = self._turn % ARCHIVE_TURN == 0
        keeper = self.victims.any(ARCHIVE_TITLE if is_archive else JOURNAL_TITLE)
        if keeper is None:
            return
        self.load.press(self.random)
        await asyncio.sleep(self.random.uniform(*KEEPER_KILL_S))
        if not self.victims.kill(keeper):
            return
        if is_archive:
            self.archive_kills += 1
        else:
            self.faults.append(Fault(time.monotonic(), keeper.pid))

    async def stop(self) -> None:
        if (worker := self.victims.any()) is None:
            return
        is_long = self.random.random() < LONG_STOPS
        seconds = self.random.uniform(*(LONG_STOP_S if is_long else SHORT_STOP_S))
        with closing(worker):
            self.load.press(self.random)
            try:
                worker.signal(signal.SIGSTOP)
                self.faults.append(Fault(time.monotonic(), worker.pid))
                await asyncio.sleep(seconds)
                worker.signal(signal.SIGCONT)
            except ProcessLookupError:
                self.killed_by_master += 1
        await asyncio.sleep(AFTER_STOP_S)

    async def restart(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.target.pid, signal.SIGHUP)
            self.faults.append(Fault(time.monotonic(), self.target.pid))

    async def reset(self) -> None:
        self.random.choice(self.load.users).cut()


class Script(NamedTuple):
    """A row of the table of scripts."""

    name: str
    about: str
    every_s: float
    every_about: str
    disturb: Callable[[Disturbance], Awaitable[None]] | None  # None: it has a run of its own
    needs_pid: bool = True
    needs_own: bool = False  # it starts the server again: not one that is named
    figure: str = ""  # what counts its faults
    flags: tuple[str, ...] = ()  # of a server of the script's own
    load: Callable[[str, int, int, float, int], Load] = Load
    # Of one that starts the server again: the part of its kills that are of all processes.
    whole: float = 1.0

    def setting(self, options: Options) -> str:
        every = self.every_s if options.every is None else options.every
        workers = "" if options.port else f", {options.workers} workers"
        return (
            f"{options.seconds:g} s, {options.connections} connections, "
            f"{options.rate:g} requests/s{workers}, {self.every_about} {every:g} s, "
            f"seed {options.seed}"
        )

    def run(self, options: Options) -> Report:
        """RunFailed where nothing can be said about the server."""
        try:
            if self.needs_own:
                run = _take_over if self.name == "take-over" else _crash
                return run(self, options)
            if self.disturb is None:
                return _interrupt(self, options)
            if options.port:
                target = Target(options.host, options.port, options.pid, options.name)
                return _disturbed(self, self.disturb, options, target)
            with _own(self, options) as own:
                target = Target("127.0.0.1", own.port, own.pid, own.name, own)
                return _disturbed(self, self.disturb, options, target)
        except ServerFailed as error:
            raise RunFailed(f"the server does not start: {error}") from error


SCRIPTS: Final = (
    Script(
        "kill9",
        "SIGKILL a random worker",
        0.25,
        "a kill every",
        Disturbance.kill,
        figure="kills",
    ),
    Script(
        "stop",
        "SIGSTOP a random worker for a while",
        0.5,
        "a stop every",
        Disturbance.stop,
        figure="stops",
        # Some stops are longer than that, and than the ring reaches: gaps are told.
        flags=("--worker-timeout=2", "--event-ring=128"),
    ),
    Script(
        "reset",
        "reset connections in the middle of a frame, and between request and answer",
        0.02,
        "a reset every",
        Disturbance.reset,
        needs_pid=False,
    ),
    Script(
        "restart",
        "SIGHUP to the server, which replaces its workers: nobody may lose a connection",
        8.0,
        "a restart every",
        Disturbance.restart,
        figure="restarts",
    ),
    Script(
        "journal",
        "SIGKILL the journal process, every fourth time the archive process",
        1.0,  # longer than the server takes for a failure in a row, which it waits after
        "a kill every",
        Disturbance.kill_keeper,
        figure="journal_kills",
        flags=("--txn-ring=4096",),  # so that TXN_HISTORY reads what was written
    ),
    Script(
        "crash",
        "SIGKILL all processes of the server at once, and start it again on its data",
        1.5,
        "each server about",
        None,
        needs_own=True,
        flags=("--room-history=20000",),  # so that the verdict sees all of a run
    ),
    Script(
        "take-over",
        "start another server that takes the place of the one before; of some, kill one of the two",
        3.0,
        "a take-over every",
        None,
        needs_own=True,
        flags=("--room-history=20000",),
    ),
    Script(
        "board",
        "many takers of few offers: SIGKILL a worker, the journal, the archive, or all at once",
        0.4,
        "a kill about every",
        None,
        needs_own=True,
        flags=("--room-history=20000",),
        load=Trading,
        whole=0.2,
    ),
    Script("interrupt", "SIGINT to the server under load", 3.0, "a SIGINT after", None),
)


def _own(script: Script, options: Options, *flags: str) -> OwnServer:
    # Few spare places, so that the slots of sessions are used again and again.
    return OwnServer(
        f"faults-{script.name}-{os.getpid()}",
        f"--workers={options.workers}",
        f"--accounts={options.connections + 64}",
        f"--max-connections={4 * options.connections + 64}",
        *script.flags,
        *flags,
    )


# ---- faults while the load runs; then a look at everything


def _disturbed(
    script: Script,
    disturb: Callable[[Disturbance], Awaitable[None]],
    options: Options,
    target: Target,
) -> Report:
    load = Load(target.host, target.port, options.connections, options.rate, options.seed)
    disturbance = Disturbance(load, target, options.seed)
    every = script.every_s if options.every is None else options.every
    is_journal = script.disturb is Disturbance.kill_keeper
    if is_journal and not titled(target.pid, JOURNAL_TITLE):
        raise RunFailed("the server has no journal process: it was started with --durability none")
    probe = None
    if target.pid:
        probe = Probe(target.host, target.port, target.pid, deposits=is_journal)
    samples: list[Sample] = []
    try:
        uvloop.run(_play(load, lambda: disturb(disturbance), options.seconds, every, target))
    finally:
        if probe is not None:
            samples = probe.finish()
    reconnects = [each for user in load.users for each in user.reconnects]
    moves = [each for user in load.users for each in user.moves]
    lost = len(reconnects) - load.impatient
    if script.disturb is Disturbance.restart and lost > 0:
        load.unexpected(f"{lost} connections were lost while workers were replaced")
    verdict = judge(load.history)
    figures: dict[str, float] = dict(verdict.figures)
    figures["given_up"] = load.impatient
    figures["reconnects"] = len(reconnects)
    waits = {"reconnecting": reconnects, "moving to another worker": moves}
    faults = disturbance.faults
    if script.name == "reset":
        figures["resets_in_frame"] = load.cuts["frame"]
        figures["resets_before_answer"] = load.cuts["answer"]
        waits["waits of a client on any worker"] = [sample.waited for sample in samples]
    else:
        figures[script.figure] = len(faults)
        first = min((fault.time for fault in faults), default=float("inf"))
        before = [sample.waited for sample in samples if sample.sent + sample.waited < first]
        waits["before the first of them, waits of a client"] = before
        longest = "for a DEPOSIT" if is_journal else "at other workers"
        waits[f"longest wait {longest}, of each"] = pauses(faults, samples)
    if script.disturb is Disturbance.restart:
        figures["moves"] = len(moves)
    if script.name == "stop":
        figures["killed_by_master"] = disturbance.killed_by_master
    if is_journal:
        figures["archive_kills"] = disturbance.archive_kills
    report = Report(
        script.name,
        script.setting(options),
        load.history.complete,
        figures,
        verdict.problems,
        {what: values for what, values in waits.items() if values},
        {} if target.ended() else target.repairs(),
    )
    if target.own is not None and not report.good:
        report.errors = target.own.errors()
    return report


async def _play(
    load: Load,
    fault: Callable[[], Awaitable[None]],
    seconds: float,
    every: float,
    target: Target,
) -> None:
    try:
        await load.begin()
        await asyncio.sleep(WARM_UP_S)
        due = time.monotonic() + every
        end = due + seconds
        while due < end and not target.ended():
            await asyncio.sleep(due - time.monotonic())
            await fault()
            due = max(due + every, time.monotonic())
        if not target.ended():
            await load.settle()
        if ended := target.ended():
            load.history.unfinished.append(ended)
    finally:
        await load.end()


# ---- the whole server, again and again


@dataclass(slots=True)
class _Rounds:
    """What came of killing it."""

    crashes: int = 0  # servers killed
    early: int = 0  # of them, before they were ready
    workers: int = 0  # killed alone
    keepers: int = 0  # journal and archive processes killed alone
    starts_s: list[float] = field(default_factory=list)  # each from the kill to the line `ready`


def _crash(script: Script, options: Options) -> Report:
    rounds = _Rounds()
    with _own(script, options, f"--port={steady_port()}") as own:
        load = script.load("127.0.0.1", own.port, options.connections, options.rate, options.seed)
        uvloop.run(_play_crashes(load, own, options, script, rounds))
        verdict = judge(load.history)
        errors = own.errors()
    figures: dict[str, float] = dict(verdict.figures)
    figures["crashes"] = rounds.crashes
    figures["early_crashes"] = rounds.early
    if script.whole < 1:
        figures["kills"], figures["keeper_kills"] = rounds.workers, rounds.keepers
    figures["given_up"] = load.impatient
    reconnects = [each for user in load.users for each in user.reconnects]
    figures["reconnects"] = len(reconnects)
    waits = {
        "from the kill to `ready`": rounds.starts_s,
        "reconnecting": reconnects,
    }
    report = Report(
        script.name,
        script.setting(options),
        load.history.complete,
        figures,
        verdict.problems,
        {what: values for what, values in waits.items() if values},
    )
    if not report.good:
        report.errors = errors
    return report


async def _play_crashes(
    load: Load, own: OwnServer, options: Options, script: Script, rounds: _Rounds
) -> None:
    every = script.every_s if options.every is None else options.every
    rng = random.Random(options.seed)  # noqa: S311 - a run that can be repeated
    unfinished = load.history.unfinished
    try:
        await load.begin()
        await asyncio.sleep(WARM_UP_S)
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            await asyncio.sleep(every * rng.uniform(*CRASH_SPREAD))
            if own.ended():
                unfinished.append(f"the server has ended, exit code {own.wait()}")
                return
            load.press(rng)
            await asyncio.sleep(rng.uniform(*KEEPER_KILL_S))
            if rng.random() >= script.whole:
                _kill_one(own, rng, rounds)
                continue
            began = time.monotonic()
            load.up_since = math.inf
            own.crash()
            rounds.crashes += 1
            own.begin_again()
            while rng.random() < EARLY:
                await asyncio.sleep(rng.uniform(0, median(rounds.starts_s or [every])))
                own.crash()
                rounds.crashes += 1
                rounds.early += 1
                began = time.monotonic()
                own.begin_again()
            await own.await_ready()
            load.up_since = time.monotonic()
            rounds.starts_s.append(load.up_since - began)
        await load.settle()
    except ServerFailed as error:
        unfinished.append(f"the server does not start again: {error}")
    finally:
        await load.end()


# ---- one server in the place of another


def _take_over(script: Script, options: Options) -> Report:
    done = TakeOvers()
    with _own(script, options) as own:
        load = Load("127.0.0.1", own.port, options.connections, options.rate, options.seed)
        every = script.every_s if options.every is None else options.every
        uvloop.run(taking_over.play(load, own, options.seconds, every, options.seed, done))
        verdict = judge(load.history)
        errors = own.errors()
    reconnects = [each for user in load.users for each in user.reconnects]
    figures: dict[str, float] = dict(verdict.figures)
    figures["take_overs"] = done.count
    figures["new_killed"] = done.new_killed
    figures["old_killed"] = done.old_killed
    figures["given_up"] = load.impatient
    figures["reconnects"] = len(reconnects)
    waits = {"from the start of a server to `ready`": done.took_s, "reconnecting": reconnects}
    report = Report(
        script.name,
        script.setting(options),
        load.history.complete,
        figures,
        verdict.problems,
        {what: values for what, values in waits.items() if values},
    )
    if not report.good:
        report.errors = errors
    return report


def _kill_one(own: OwnServer, rng: random.Random, rounds: _Rounds) -> None:
    """A worker; every fourth time the journal or the archive."""
    title = rng.choice((None, None, None, None, None, None, JOURNAL_TITLE, ARCHIVE_TITLE))
    victims = Victims(own.pid, rng)
    victim = victims.any() if title is None else victims.any(title)
    if victim is not None and victims.kill(victim):
        if title is None:
            rounds.workers += 1
        else:
            rounds.keepers += 1


# ---- SIGINT


class Traces:
    """What a running server has outside of its data directory."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._processes = {pid: (started(pid), title(pid)) for pid in family_of(target.pid)}
        self._shared = {path for pid in self._processes for path in shared_memory_of(pid)}

    def left(self) -> list[str]:
        """What of it is still there."""
        target = self._target
        found = [
            f"process {pid}, {name.rstrip(bytes(1)).decode(errors='replace')}"
            for pid, (since, name) in self._processes.items()
            if since and started(pid) == since
        ]
        found += [path for path in sorted(self._shared) if Path(path).exists()]
        if target.own is not None:
            found += target.own.files_left()
        try:
            probe_port(target.host, target.port)
        except NetError as error:
            found.append(str(error))
        return found


def _interrupt(script: Script, options: Options) -> Report:
    """One server after the other, until the time is over; a server that is named, once."""
    report = Report(script.name, script.setting(options), complete=False)
    end = time.monotonic() + options.seconds
    while True:
        if options.port:
            target = Target(options.host, options.port, options.pid, options.name)
            _interrupt_one(script, options, target, report)
            return report
        # A port that nobody gets who asks for any: it is looked whether the server has left it.
        with _own(script, options, f"--port={steady_port()}") as own:
            target = Target("127.0.0.1", own.port, own.pid, own.name, own)
            _interrupt_one(script, options, target, report)
            if not report.good:
                report.errors += own.errors()
        if time.monotonic() > end:
            return report


def _interrupt_one(script: Script, options: Options, target: Target, report: Report) -> None:
    """Add what one server does when it is interrupted to the report."""
    done = int(report.figures.get("interrupts", 0))
    seed = options.seed + done
    load = Load(target.host, target.port, options.connections, options.rate, seed)
    every = script.every_s if options.every is None else options.every
    traces, seconds = uvloop.run(_play_interrupt(load, target, every))
    verdict = judge(load.history)
    report.problems += verdict.problems
    for name, value in verdict.figures.items():
        report.figures[name] = report.figures.get(name, 0) + value
    report.figures["interrupts"] = done + 1
    report.waits_s.setdefault("the server's end after SIGINT", []).append(seconds)
    if not target.ended():
        text = f"the server still runs {END_S:g} s after SIGINT"
        report.problems.append(Problem("unfinished", text))
    elif target.own is not None and (code := target.own.wait()):
        report.problems.append(Problem("unfinished", f"the server ended with exit code {code}"))
    report.problems += [Problem("left", text) for text in traces.left()]


async def _play_interrupt(load: Load, target: Target, every: float) -> tuple[Traces, float]:
    """Interrupt the server under load; what it had, and how long it took to end, in seconds."""
    try:
        await load.begin()
        await asyncio.sleep(every)
        if ended := target.ended():
            raise RunFailed(ended)
        traces = Traces(target)
        load.ending = True
        began = time.monotonic()
        os.kill(target.pid, signal.SIGINT)
        while not target.ended() and time.monotonic() < began + END_S:
            await asyncio.sleep(POLL_S)
        return traces, time.monotonic() - began
    finally:
        await load.end()

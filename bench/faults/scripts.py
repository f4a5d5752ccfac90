"""The scripts: what each of them breaks, and how a run goes."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from bench.faults.load import Load, RunFailed
from bench.faults.probe import Fault, Probe, Sample, pauses
from bench.faults.processes import Workers, family_of, shared_memory_of, started, title
from bench.faults.report import Report
from bench.faults.target import OwnServer, Target
from bench.faults.verdict import Problem, judge
from bench.process import ServerFailed
from libnet.errors import NetError
from libnet.sockets import probe_port

WARM_UP_S: Final = 1.0  # before the first fault
END_S: Final = 20.0  # that a server may take to end after SIGINT
POLL_S: Final = 0.02
SHORT_STOP_S: Final = (0.02, 0.5)
LONG_STOP_S: Final = (1.0, 3.0)  # longer than a worker may take to acknowledge a recovery
LONG_STOPS: Final = 0.4  # their part of all
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
        self.workers = Workers(target.pid, self.random)
        self.killed_by_master = 0

    async def kill(self) -> None:
        if (worker := self.workers.any()) is None:
            return
        self.load.press(self.random)
        if self.workers.kill(worker):
            self.faults.append(Fault(time.monotonic(), worker.pid))

    async def stop(self) -> None:
        if (worker := self.workers.any()) is None:
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

    async def reset(self) -> None:
        self.random.choice(self.load.users).cut()


class Script(NamedTuple):
    """A row of the table of scripts."""

    name: str
    about: str
    every_s: float
    every_about: str
    disturb: Callable[[Disturbance], Awaitable[None]] | None  # None: see `interrupt`
    needs_pid: bool = True
    flags: tuple[str, ...] = ()  # of a server of the script's own

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
    Script("kill9", "SIGKILL a random worker", 0.25, "a kill every", Disturbance.kill),
    Script(
        "stop",
        "SIGSTOP a random worker for a while",
        0.5,
        "a stop every",
        Disturbance.stop,
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
    Script("interrupt", "SIGINT to the server under load", 3.0, "a SIGINT after", None),
)


def _own(script: Script, options: Options) -> OwnServer:
    # Few spare places, so that the slots of sessions are used again and again.
    return OwnServer(
        f"faults-{script.name}-{os.getpid()}",
        f"--workers={options.workers}",
        f"--accounts={options.connections + 64}",
        f"--max-connections={4 * options.connections + 64}",
        *script.flags,
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
    probe = Probe(target.host, target.port, target.pid) if target.pid else None
    samples: list[Sample] = []
    try:
        uvloop.run(_play(load, lambda: disturb(disturbance), options.seconds, every, target))
    finally:
        if probe is not None:
            samples = probe.finish()
    verdict = judge(load.history)
    figures: dict[str, float] = dict(verdict.figures)
    figures["given_up"] = load.impatient
    reconnects = [each for user in load.users for each in user.reconnects]
    figures["reconnects"] = len(reconnects)
    waits = {"reconnecting": reconnects}
    faults = disturbance.faults
    if script.name == "reset":
        figures["resets_in_frame"] = load.cuts["frame"]
        figures["resets_before_answer"] = load.cuts["answer"]
        waits["waits of a client on any worker"] = [sample.waited for sample in samples]
    else:
        figures["kills" if script.name == "kill9" else "stops"] = len(faults)
        first = min((fault.time for fault in faults), default=float("inf"))
        before = [sample.waited for sample in samples if sample.sent + sample.waited < first]
        waits["before the first of them, waits of a client"] = before
        waits["longest wait at other workers, of each"] = pauses(faults, samples)
    if script.name == "stop":
        figures["killed_by_master"] = disturbance.killed_by_master
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
        with _own(script, options) as own:
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

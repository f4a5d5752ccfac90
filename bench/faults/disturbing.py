"""The scripts that break a server while the load runs, and look at everything then."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from typing import Final

import uvloop

from bench.faults.load import Load, RunFailed
from bench.faults.probe import Fault, Probe, Sample, pauses
from bench.faults.report import Report
from bench.faults.script import Options, Script
from bench.faults.verdict import judge
from bench.lab.process import ARCHIVE_TITLE, JOURNAL_TITLE, Victims, titled
from bench.lab.target import Target

WARM_UP_S: Final = 1.0  # before the first fault
SHORT_STOP_S: Final = (0.02, 0.5)
LONG_STOP_S: Final = (1.0, 3.0)  # longer than a worker may take to acknowledge a recovery
LONG_STOPS: Final = 0.4  # their part of all
ARCHIVE_TURN: Final = 4  # of so many kills of the journal one is of the archive
KEEPER_KILL_S: Final = (0.0, 0.005)  # after requests were sent: at any moment of a group commit
AFTER_STOP_S: Final = 0.2  # so that the waits of one stop are not taken for those of the next


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


Disturb = Callable[[Disturbance], Awaitable[None]]


def disturbing(disturb: Disturb) -> Callable[[Script, Options], Report]:
    """A run of a script that makes such a fault again and again."""

    def play(script: Script, options: Options) -> Report:
        if options.port:
            target = Target(options.host, options.port, options.pid, options.name)
            return _disturbed(script, disturb, options, target)
        with script.own(options) as own:
            target = Target("127.0.0.1", own.port, own.pid, own.name, own)
            return _disturbed(script, disturb, options, target)

    return play


def _disturbed(script: Script, disturb: Disturb, options: Options, target: Target) -> Report:
    load = Load(target.host, target.port, options.connections, options.rate, options.seed)
    disturbance = Disturbance(load, target, options.seed)
    every = script.every(options)
    is_journal = disturb is Disturbance.kill_keeper
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
    if disturb is Disturbance.restart and lost > 0:
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
    if disturb is Disturbance.restart:
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

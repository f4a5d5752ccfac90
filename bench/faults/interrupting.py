"""The script that interrupts the server under load, and looks at what is left of it."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Final

import uvloop

from bench.faults.load import Load, RunFailed
from bench.faults.report import Report
from bench.faults.script import Options, Script
from bench.faults.verdict import judge
from bench.lab.process import family_of, shared_memory_of, started, title
from bench.lab.target import Target, steady_port
from bench.lab.verdict import Problem
from libnet.errors import NetError
from libnet.sockets import probe_port

END_S: Final = 20.0  # that a server may take to end after SIGINT
POLL_S: Final = 0.02


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


def interrupt(script: Script, options: Options) -> Report:
    """One server after the other, until the time is over; a server that is named, once."""
    report = Report(script.name, script.setting(options), complete=False)
    end = time.monotonic() + options.seconds
    while True:
        if options.port:
            target = Target(options.host, options.port, options.pid, options.name)
            _interrupt_one(script, options, target, report)
            return report
        # A port that nobody gets who asks for any: it is looked whether the server has left it.
        with script.own(options, f"--port={steady_port()}") as own:
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
    every = script.every(options)
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

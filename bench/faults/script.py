"""What a script is, and what a run of one is told."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bench.faults.load import Load, RunFailed
from bench.faults.report import Report
from bench.faults.verdict import judge
from bench.lab.target import OwnServer, ServerFailed


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


class Script(NamedTuple):
    """A row of the table of scripts."""

    name: str
    about: str
    every_s: float
    every_about: str
    play: Callable[["Script", Options], Report]  # a run of it
    needs_pid: bool = True
    needs_own: bool = False  # it starts the server again: not one that is named
    figure: str = ""  # what counts its faults
    flags: tuple[str, ...] = ()  # of a server of the script's own
    load: Callable[[str, int, int, float, int], Load] = Load
    # Of one that starts the server again: the part of its kills that are of all processes.
    whole: float = 1.0

    def setting(self, options: Options) -> str:
        workers = "" if options.port else f", {options.workers} workers"
        return (
            f"{options.seconds:g} s, {options.connections} connections, "
            f"{options.rate:g} requests/s{workers}, {self.every_about} {self.every(options):g} s, "
            f"seed {options.seed}"
        )

    def run(self, options: Options) -> Report:
        """RunFailed where nothing can be said about the server."""
        try:
            return self.play(self, options)
        except ServerFailed as error:
            raise RunFailed(f"the server does not start: {error}") from error

    def every(self, options: Options) -> float:
        """So many seconds lie between two faults, or make a round."""
        return self.every_s if options.every is None else options.every

    def own(self, options: Options, *flags: str) -> OwnServer:
        """A server for it. ServerFailed."""
        # Few spare places, so that the slots of sessions are used again and again.
        return OwnServer(
            f"faults-{self.name}-{os.getpid()}",
            f"--workers={options.workers}",
            f"--accounts={options.connections + 64}",
            f"--max-connections={4 * options.connections + 64}",
            *self.flags,
            *flags,
        )

    def report(
        self,
        options: Options,
        load: Load,
        figures: Mapping[str, float],
        waits: Mapping[str, list[float]],
        own: OwnServer,
    ) -> Report:
        """What a run of it on a server of its own has come to. waits: seconds, of what has some."""
        verdict = judge(load.history)
        errors = own.errors()
        report = Report(
            self.name,
            self.setting(options),
            load.history.complete,
            {**verdict.figures, **figures, "given_up": load.impatient},
            verdict.problems,
            {what: values for what, values in waits.items() if values},
        )
        if not report.good:
            report.errors = errors
        return report

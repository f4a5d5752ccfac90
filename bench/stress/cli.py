"""`tradechat-bench`: the stress client, from its options to its exit code."""

import json
from contextlib import ExitStack
from typing import Final

from bench.lab.cli import (
    EXIT_FAILED,
    EXIT_GOOD,
    EXIT_THRESHOLD,
    EXIT_VIOLATED,
    BenchFailed,
    Program,
)
from bench.stress.files import Outputs, as_json
from bench.stress.options import PROGRAM, Options, parse
from bench.stress.report import as_table, missed_thresholds, setting, spread, spread_as_table
from bench.stress.results import histogram
from bench.stress.run import Interrupts, Run, Stress
from libcli import output
from libnet.errors import NetError

_PROGRAM: Final = Program(PROGRAM)


class _Session:
    """The runs of one program; whatever ends it, those that are finished are told."""

    def __init__(self, options: Options) -> None:
        self.runs: list[Run] = []
        self.missed: list[str] = []
        self.failure = ""
        """Why nothing more can be said; "" where all went as asked for."""
        self._options = options

    def measure(self, interrupts: Interrupts, outputs: Outputs) -> None:
        """All runs, or those until an interrupt or the end of the server."""
        options = self._options
        with Stress(options, interrupts) as stress, interrupts.in_order():
            for number in range(1, options.runs + 1):
                self._done(stress.run(number), outputs)
                if interrupts.code or stress.target.ended():
                    break

    def _done(self, run: Run, outputs: Outputs) -> None:
        self.runs.append(run)
        self.missed.extend(missed_thresholds(self._options, run))
        try:
            outputs.add(self._options, run)
        except OSError as error:
            self.failure = str(error)
        if not self._options.json:
            _PROGRAM.tell(as_table(self._options, run) + "\n")

    def tell(self, interrupts: Interrupts) -> int:
        """What is told at the end; the exit code."""
        options, runs = self._options, self.runs
        if options.json:
            found = as_json(options, runs, interrupted=bool(interrupts.code), failure=self.failure)
            found |= {"spread": spread(options, runs), "missed_thresholds": self.missed}
            _PROGRAM.tell(json.dumps(found))
        elif len(runs) > 1:
            _PROGRAM.tell(spread_as_table(options, runs))
        for text in [*self.missed, *filter(None, [self.failure])]:
            _PROGRAM.warn(text)
        if interrupts.code:
            return interrupts.code
        if not all(run.findings.good for run in runs):
            return EXIT_VIOLATED
        if self.failure:
            return EXIT_FAILED
        return EXIT_THRESHOLD if self.missed else EXIT_GOOD


def _main(words: list[str]) -> int:
    options = parse(words)
    interrupts = Interrupts()
    interrupts.install()
    session = _Session(options)
    try:
        with ExitStack() as stack:
            histogram()  # there is one, before anything is measured
            outputs = stack.enter_context(Outputs(options))
            if not options.json:
                _PROGRAM.tell(setting(options) + "\n")
            session.measure(interrupts, outputs)
    except (BenchFailed, NetError, OSError) as error:
        session.failure = str(error)
    except KeyboardInterrupt:
        pass  # its code is told by what is told of the runs before
    return session.tell(interrupts)


def main(words: list[str]) -> int:
    """Answers the exit code."""
    return output.run(PROGRAM, lambda: _main(words), failed=EXIT_FAILED)

"""`tradechat-bench`: the stress client, from its options to its exit code."""

import json
from collections.abc import Callable
from contextlib import ExitStack

from bench.lab.cli import (
    EXIT_FAILED,
    EXIT_GOOD,
    EXIT_THRESHOLD,
    EXIT_VIOLATED,
    BenchFailed,
    Program,
)
from bench.stress.files import Tables, run_as_json, write_hgrm
from bench.stress.options import PROGRAM, Options, parse
from bench.stress.report import as_table, missed_thresholds, setting, spread, spread_as_table
from bench.stress.run import Interrupts, Run, Stress
from libnet.errors import NetError

_PROGRAM = Program(PROGRAM)


def _measure(options: Options, interrupts: Interrupts, done: Callable[[Run], None]) -> None:
    """All runs, or those until an interrupt."""
    with Stress(options, interrupts) as stress, interrupts.in_order():
        for number in range(1, options.runs + 1):
            done(stress.run(number))
            if interrupts.code:
                break


def main(words: list[str]) -> int:
    """Answers the exit code."""
    options = parse(words)
    interrupts = Interrupts()
    interrupts.install()
    runs: list[Run] = []
    missed: list[str] = []
    with ExitStack() as stack:
        try:
            tables = stack.enter_context(Tables(options.csv)) if options.csv else None

            def done(run: Run) -> None:
                runs.append(run)
                missed.extend(missed_thresholds(options, run))
                if tables is not None:
                    tables.add(options, run)
                if options.hgrm:
                    write_hgrm(options.hgrm, run.number, run.figures)
                if not options.json:
                    _PROGRAM.tell(as_table(options, run) + "\n")

            if not options.json:
                _PROGRAM.tell(setting(options) + "\n")
            _measure(options, interrupts, done)
        except (BenchFailed, NetError, OSError) as error:
            _PROGRAM.warn(str(error))
            return EXIT_FAILED
        except KeyboardInterrupt:
            return interrupts.code
    if options.json:
        found = {
            "options": options.as_object(),
            "runs": [run_as_json(options, run) for run in runs],
            "spread": spread(options, runs),
            "missed_thresholds": missed,
        }
        _PROGRAM.tell(json.dumps(found))
    elif len(runs) > 1:
        _PROGRAM.tell(spread_as_table(options, runs))
    for text in missed:
        _PROGRAM.warn(text)
    if interrupts.code:
        return interrupts.code
    if not all(run.findings.good for run in runs):
        return EXIT_VIOLATED
    return EXIT_THRESHOLD if missed else EXIT_GOOD

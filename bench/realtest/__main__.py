"""`python -m bench.realtest`: run it, draw it, write the report."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Final

from bench import realtest
from bench.lab.cli import EXIT_GOOD, EXIT_VIOLATED, Program
from bench.lab.limits import CannotRun, allow_files
from bench.realtest import machine
from bench.realtest.data import MACHINE, REPORT, RUNS, Results, write_machine
from bench.realtest.report import write_report
from bench.realtest.runner import Runner
from bench.realtest.scenarios import SCENARIOS, SECTIONS, Scenario

PROGRAM: Final = Program(f"python -m {realtest.__name__}")
FULL_S: Final = 30.0
"""Seconds of a run, below which it is a trial: its results are not kept in the place of others."""
RESULTS: Final = Path("bench/results")
TRIAL: Final = Path("bench/results-trial")
_OVERHEAD_S: Final = 10.0  # of a run: registering, logging in, the warm-up, the verdict

_ABOUT: Final = f"""\
The Real Test: {len(SCENARIOS)} runs of the stress client, each with a server of its own and a
verdict on its history, then charts and a report. Use a machine that does nothing else. The results
are written beside the directory of the former ones, and take their place at the end.
"""
_EXAMPLES: Final = f"""\
examples:
  {PROGRAM.name}                     all, of {FULL_S:g} s each, into {RESULTS}
  {PROGRAM.name} --seconds 5         a trial, into {TRIAL}
  {PROGRAM.name} --only knee,locks --out out/knee
  {PROGRAM.name} --redraw bench/results
                                               charts and report anew, from the figures there

exit codes: 0 all runs good, 1 the verdict of one is bad, or it could not be made, 2 wrong usage,
3 nothing can be said, 130 interrupted, 143 terminated; an interrupt leaves the former results as
they are, and tells where those of the runs until then are
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM.name,
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--seconds",
        type=_seconds,
        default=FULL_S,
        help=f"of each run (default {FULL_S:g}); fewer are a trial",
    )
    made.add_argument(
        "--out", type=Path, help=f"directory of the results (default {RESULTS}, of a trial {TRIAL})"
    )
    made.add_argument(
        "--only", type=_sections, default=SECTIONS, metavar="SECTION[,SECTION]",
        help=f"of {', '.join(SECTIONS)}",
    )  # fmt: skip
    made.add_argument(
        "--redraw", type=Path, metavar="DIR", help="run nothing: make charts and report of DIR anew"
    )
    made.add_argument("--list", action="store_true", help="tell what would be run, and end")
    return made


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.1 to 86400")
    return value


def _sections(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := sorted(set(names) - set(SECTIONS)):
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown)}: there is only {', '.join(SECTIONS)}"
        )
    return names


def publish(folder: Path) -> Results:
    """Charts and report of the figures in a directory. OSError, ValueError."""
    from bench.realtest.plots import draw  # takes a second, which --help need not wait for

    results = Results.read(folder)
    drawn = draw(results, folder)
    write_report(results, drawn, folder / REPORT)
    return results


def _replace(old: Path, new: Path) -> None:
    """Let the new directory take the old one's place."""
    aside = old.with_name(f"{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    """CannotRun where a directory holds something, and no results: it would be replaced."""
    if folder.exists() and not (folder / MACHINE).is_file() and any(folder.iterdir()):
        raise CannotRun(f"{folder} is there, and holds no results: name another with --out")


def run(out: Path, seconds: float, scenarios: list[Scenario]) -> int:
    """Answers the exit code. CannotRun, OSError."""
    allow_files(max(_connections(each) for each in scenarios), "leave the section out with --only")
    new = out.with_name(f"{out.name}.new")
    for folder in (out, new):
        _refuse_foreign(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    write_machine(new, machine.describe(seconds))
    minutes = len(scenarios) * (seconds + _OVERHEAD_S) / 60
    PROGRAM.warn(f"{len(scenarios)} runs of {seconds:g} s: about {minutes:.0f} minutes")
    runner = Runner(new, seconds, PROGRAM.warn)
    runner.run_all(scenarios)
    if not (new / RUNS).exists():  # interrupted in the first one
        shutil.rmtree(new)
        return runner.code
    results = publish(new)
    if runner.code:
        PROGRAM.warn(f"interrupted: {out} is as it was; what was run until then is in {new}")
        return runner.code
    _replace(out, new)
    PROGRAM.tell(str(out / REPORT))
    for row in results.bad:
        PROGRAM.warn(f"{row['key']}: {row['verdict']}: {row['problem']}")
    return EXIT_VIOLATED if results.bad else EXIT_GOOD


def _connections(scenario: Scenario) -> int:
    return next(
        int(word.partition("=")[2]) for word in scenario.words if word.startswith("--connections=")
    )


def main() -> int:
    """Answers the exit code."""
    arguments = parser().parse_args()
    return PROGRAM.run(lambda: _do(arguments))


def _do(arguments: argparse.Namespace) -> int:
    scenarios = [each for each in SCENARIOS if each.section in arguments.only]
    if arguments.list:
        for each in scenarios:
            rate = f" at {each.share} % of the closed loop" if each.share else ""
            PROGRAM.tell(f"{each.key:26}{' '.join(each.words)}{rate}")
        return EXIT_GOOD
    if arguments.redraw is not None:
        _publish_again(arguments.redraw)
        return EXIT_GOOD
    is_trial = arguments.seconds < FULL_S or len(arguments.only) < len(SECTIONS)
    out = arguments.out or (TRIAL if is_trial else RESULTS)
    if is_trial and arguments.out is None:
        PROGRAM.warn(f"a trial: its results go to {TRIAL}, those in {RESULTS} stay")
    return run(out, arguments.seconds, scenarios)


def _publish_again(folder: Path) -> None:
    try:
        publish(folder)
    except ValueError as error:
        raise CannotRun(f"{folder}: {error}") from error
    PROGRAM.tell(str(folder / REPORT))


if __name__ == "__main__":
    sys.exit(main())

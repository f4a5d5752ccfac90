"""The command line of the simulation."""

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count

from libproto.messages import Opcode
from tests.simulation.coverage import Struck, never_reached
from tests.simulation.output import FOUND, say
from tests.simulation.requests import NUMBERED
from tests.simulation.shrink import shrink
from tests.simulation.swarm import OPERATIONS
from tests.simulation.world import Outcome, World

STEPS = 20_000
LINES = 40  # of the history of a run that fails
STRIKES = ("kill worker", "stop worker", "kill all", "power cut")


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; the exit code: 1 where something was found."""
    given = _parser().parse_args(arguments)
    began = time.perf_counter()
    steps = failed = runs = 0
    done: Counter[tuple[str, str]] = Counter()
    struck: Counter[Struck] = Counter()
    for seed in _seeds(given):
        if given.seconds and time.perf_counter() - began > given.seconds:
            break
        outcome = World(seed, say if given.trace else None).run(given.steps)
        problems = list(outcome.problems)
        if given.twice and World(seed).run(given.steps).digest != outcome.digest:
            problems.append("it is not the same when it is run again")
        for problem in problems[:5]:
            lines = problem.splitlines()
            say(f"seed {seed}: {' ... '.join([lines[0], *lines[1:][-3:]])}")
        steps, runs, failed = steps + outcome.steps, runs + 1, failed + bool(problems)
        done += outcome.counts
        struck += outcome.struck
        if problems and given.shrink and (least := shrink(seed, given.steps, say)) is not None:
            _describe(least)
        elif given.seed is not None:
            _describe(outcome)
        if problems and given.until_found:
            say(f"{FOUND}{runs}")
            break
    if given.coverage:
        _cover(done, struck)
    seconds = time.perf_counter() - began
    say(
        f"{runs} seeds, {steps} steps in {seconds:.1f} s: {steps / seconds:.0f} a second; "
        f"{failed} failed"
    )
    return bool(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Run servers and their clients in one process, as seeds decide.",
    )
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--first", type=int, default=1, help="the first of several seeds (1)")
    parser.add_argument("--seeds", type=int, help="so many of them")
    parser.add_argument("--seconds", type=float, help="as many as there is time for")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each ({STEPS})")
    parser.add_argument("--twice", action="store_true", help="see that each is the same again")
    parser.add_argument("--until-found", action="store_true", help="end where one finds something")
    parser.add_argument("--shrink", action="store_true", help="a failing seed with less in it")
    parser.add_argument("--coverage", action="store_true", help="what was done, and what never was")
    parser.add_argument("--trace", action="store_true", help="show each step: process, file, line")
    return parser


def _seeds(given: argparse.Namespace) -> Iterator[int]:
    if given.seed is not None:
        return iter([given.seed])
    if given.seeds is None and given.seconds is None:
        given.seeds = 1
    return count(given.first) if given.seeds is None else iter(
        range(given.first, given.first + given.seeds)
    )  # fmt: skip


def _describe(outcome: Outcome) -> None:
    if outcome.problems:
        for line in outcome.history[-LINES:]:
            say(f"  {line}")
        say(f"  {outcome.problems[0].splitlines()[0]}")
    say(
        f"seed {outcome.seed}: {outcome.steps} steps, {outcome.switches} switches, "
        f"{outcome.answered} answers, digest {outcome.digest:08x}"
    )


def _cover(done: Counter[tuple[str, str]], struck: Counter[Struck]) -> None:
    for (what, how), times in sorted(done.items()):
        say(f"{what:20} {how:24} {times:9}")
    for each, times in sorted(struck.items()):
        say(f"{each.operation:20} {each.fault:16} {each.phase:16} {times:9}")
    changing = {operation for operation in OPERATIONS if Opcode[operation] in NUMBERED}
    for each in never_reached(struck, changing, STRIKES):
        say(f"never reached: {each.operation} {each.fault} {each.phase}")

"""A failing seed with less in it: without the faults and the clients that it can do without.

A run without one of its faults goes another way from there on, so what is left is not a part of the
run that failed, but a run of its own that fails too.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from tests.simulation.world import Outcome, World

T = TypeVar("T")
RUNS_MAX: Final = 200


def shrink(seed: int, steps: int, say: Callable[[str], None]) -> Outcome | None:
    """The smallest failing run that was found; None: it does not fail."""
    best = World(seed).run(steps)
    if not best.problems:
        return None
    runs = 0

    def fails(clients: Sequence[int], faults: Sequence[int]) -> bool:
        nonlocal best, runs
        runs += 1
        if runs > RUNS_MAX:
            return False
        outcome = World(seed, clients=clients, faults=faults).run(steps)
        if outcome.problems:
            best = outcome
        return bool(outcome.problems)

    clients = list(range(World(seed).swarm.clients))
    faults = list(range(len(best.history)))
    faults = _least(faults, lambda left: fails(clients, left))
    clients = _least(clients, lambda left: fails(left, faults))
    faults = _least(faults, lambda left: fails(clients, left))
    say(f"seed {seed}: after {min(runs, RUNS_MAX)} runs {len(faults)} faults, clients {clients}")
    return best


def _least(items: list[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """Delta debugging: ever smaller parts are left out, where it fails without them."""
    size = len(items)
    while size:
        at = 0
        while at < len(items):
            left = items[:at] + items[at + size :]
            if fails(left):
                items = left
            else:
                at += size
        size //= 2
    return items

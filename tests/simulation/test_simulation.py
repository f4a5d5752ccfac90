"""The short form of `make simulate`: seeds that are always the same, and those that once failed."""

import pytest

from tests.helpers.form import stores_are_seen
from tests.simulation.world import World

STEPS = 5_000
SEEDS = range(1, 21)
KEPT: tuple[int, ...] = ()
"""Seeds that have found something."""


@pytest.mark.parametrize("seed", [*SEEDS, *KEPT])
def test_nothing_is_found(seed: int) -> None:
    stores_are_seen()
    assert World(seed).run(STEPS).problems == ()


def test_a_seed_is_the_same_run_again() -> None:
    stores_are_seen()
    first, again = World(3).run(STEPS), World(3).run(STEPS)
    assert first == again
    assert World(4).run(STEPS).digest != first.digest

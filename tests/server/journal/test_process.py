"""The journal process's own parts that need no process."""

from server.journal.process import NOTICED_S, WallClock


class Clocks:
    """Two clocks that a test sets."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.monotonic = 500.0

    def run(self, seconds: float, *, set_by: float = 0.0) -> None:
        """Time passes, and somebody sets the wall clock."""
        self.monotonic += seconds
        self.wall += seconds + set_by


def test_a_clock_that_is_set_back_is_noticed_once_with_the_size_of_the_jump() -> None:
    clocks = Clocks()
    watched = WallClock(lambda: clocks.wall, lambda: clocks.monotonic)
    for seconds, set_by, told in (
        (1.0, 0.0, 0.0),
        (3600.0, 0.0, 0.0),
        (1.0, -86_400.0 * 365, 86_400.0 * 365),
        (1.0, 0.0, 0.0),
        (1.0, 500.0, 0.0),  # forward is no harm
        (1.0, -0.9 * NOTICED_S, 0.0),  # as a clock is kept right
        (0.0, -NOTICED_S, NOTICED_S),
    ):
        clocks.run(seconds, set_by=set_by)
        assert abs(watched.went_back_s() - told) < 1e-3

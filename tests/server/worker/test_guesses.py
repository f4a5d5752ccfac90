"""Wrong passwords, counted: by name and address, by address, by name."""

from server.config import Settings
from server.worker.counters import Counters
from server.worker.guesses import NAME_WAIT_S, PAIR_S, WAIT_S, Guesses
from tests.helpers.region import small_region

US = 1_000_000
MOST = 10


def test_the_same_user_gets_in_from_another_address() -> None:
    """However much is guessed from one, and, after a moment, from many."""
    with small_region() as region:
        one, other = (
            Guesses(region, Settings(), Counters(region, slot), b"secret") for slot in (0, 1)
        )
        for _ in range(MOST):
            assert one.wait_us("ann", "198.51.100.7") == 0
            one.failed("ann", "198.51.100.7")
        waits = [other.wait_us("ann", "198.51.100.7") for _ in range(5)]
        assert 0 < waits[0] <= PAIR_S * US < waits[1] <= WAIT_S * US, "another worker knows"
        assert waits[-1] < 0, "it is refused"
        assert other.wait_us("ann", "198.51.100.8") == 0
        assert other.wait_us("bob", "198.51.100.7") == 0
        for number in range(30):
            for _ in range(MOST):
                one.failed("ann", f"203.0.113.{number}")
        assert 0 < other.wait_us("ann", "192.0.2.1") <= NAME_WAIT_S * US
        assert other.wait_us("bob", "192.0.2.1") == 0


def test_an_address_that_tries_many_names_is_slowed_down() -> None:
    """Of IPv6 its network of 64 bits."""
    with small_region() as region:
        guesses = Guesses(region, Settings(), Counters(region, 0), b"secret")
        for number in range(12 * MOST):
            guesses.failed(f"user{number}", f"2001:db8::{number + 1:x}")
        assert guesses.wait_us("ann", "2001:db8::ffff") > 0
        assert guesses.wait_us("ann", "2001:db8:0:1::1") == 0


def test_nothing_is_delayed_where_it_is_not_wanted() -> None:
    with small_region() as region:
        guesses = Guesses(region, Settings(login_failures=0), Counters(region, 0), b"secret")
        for _ in range(500):
            guesses.failed("ann", "198.51.100.7")
        assert guesses.wait_us("ann", "198.51.100.7") == 0

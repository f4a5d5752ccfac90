"""What one seed does: its own subset of operations and faults, its own sizes and rates.

Runs that do a little of everything are all alike. Those that leave most of it out come where the
others do not.
"""

from random import Random
from typing import Final

OPERATIONS: Final = (
    "DEPOSIT",
    "WITHDRAW",
    "TRANSFER",
    "BALANCE",
    "JOIN_ROOM",
    "JOIN_ROOM",
    "LEAVE_ROOM",
    "CHAT_SEND",
    "CHAT_SEND",
    "DIRECT_SEND",
    "TRANSFER_IN_ROOM",
    "ROOM_HISTORY",
    "INBOX_HISTORY",
    "BOARD_ADD",
    "BOARD_TAKE",
    "BOARD_REMOVE",
    "ROOM_OPEN",
    "ROOM_SET",
    "ROOM_ROLE",
    "BLOCK",
    "TXN_HISTORY",
    "ROOM_LIST",
    "HEARTBEAT",
)
FAULTS: Final = ("kill", "stop", "cut", "kill all", "power cut", "restart", "clock")


class Swarm:
    """The choices of a seed."""

    def __init__(self, random: Random) -> None:
        self.workers: Final = random.choice((1, 2, 2, 3))
        self.users: Final = random.randint(2, 5)
        self.clients: Final = random.randint(self.users, 8)
        self.durability: Final = random.choice(("none", "sync", "sync", "sync", "async"))
        self.txn_ring: Final = random.choice((16, 64))
        self.disk_ns: Final = random.choice((10_000, 300_000, 5_000_000))
        self.disk_fails: Final = random.choice((0.0, 0.0, 0.0, 0.003))
        self.babble: Final = random.choice((0.0, 0.0, 0.1))
        """How likely a client sends garbage where it could log in."""
        self.operations: Final = _some(random, OPERATIONS)
        self.faults: Final = _some(random, FAULTS)
        self.fault_steps: Final = random.choice((0, 300, 700, 2000, 5000))
        """Between two faults, on average; 0: there are none."""
        self.mean_steps: Final = random.choice((1.5, 5.0, 20.0, 60.0, 200.0))
        self.step_ns: Final = random.choice((100, 1000, 5000))
        self.latency_ns: Final = random.choice((1_000, 50_000, 1_000_000))
        self.patience_s: Final = random.choice((0.05, 0.5, 5.0))


def _some(random: Random, of: tuple[str, ...]) -> tuple[str, ...]:
    """At least one of them."""
    found = tuple(each for each in of if random.random() < 0.6)
    return found or (random.choice(of),)

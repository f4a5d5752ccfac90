"""What is run: one table. Every scenario is the stress client with these options, and nothing else.

Runs that are compared stand next to each other: a machine is not as fast in one half hour as in the
next. What is compared closely (`LOCKS`) alternates. Some settings come up in several sections; what
these runs differ by is the noise that the report tells.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Final

MIXED, CONTENTION, PAYLOAD, WORKERS, CONNECTIONS, KNEE, DURABILITY, LOCKS, OVERLOAD = (
    "mixed", "contention", "payload", "workers", "connections", "knee", "durability", "locks",
    "overload",
)  # fmt: skip

REFERENCE: Final = "closed"
"""The scenario of `KNEE` and of `OVERLOAD` that says what 100 % is."""
SHARES: Final = (30, 50, 70, 80, 90, 100, 110)
"""Per cent of the reference's successes per second."""
LOCK_ROUNDS: Final = {2: 3, 4: 2}
"""By workers: how often per-account locks and one lock are run, in turn."""
CONNECTIONS_MAX: Final = 4000
OVERLOAD_SHARES: Final = (50, 75, 100, 125, 150, 175, 200, 225)
"""Per cent of the reference: among these the knee is looked for that TIMES are multiples of."""
TIMES: Final = (0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run."""

    section: str
    name: str
    """Within its section; runs of one name differ by `round`."""
    label: str
    """In tables and charts."""
    words: tuple[str, ...]
    """Options of the stress client."""
    share: int = 0
    """Open loop, at so many per cent of what REFERENCE made; 0: closed loop."""
    round: int = 1
    times: float = 0
    """Open loop, at so many times the rate of the knee of its section; 0: not that."""
    regardless: bool = False
    """Open loop: whatever time the server asks for."""

    @property
    def key(self) -> str:
        """Names one run among all."""
        return f"{self.section}/{self.name}" + (f"/{self.round}" if self.round > 1 else "")


def _contention() -> list[Scenario]:
    trade = ("--mix=trade-heavy", "--connections=200")
    hot = "--hot-accounts=1"
    return [
        Scenario(CONTENTION, name, label, words)
        for name, label, words in (
            ("mixed", "mixed, uniform", ("--mix=mixed", "--connections=200")),
            ("uniform", "uniform", trade),
            ("zipf1.2", "Zipf 1.2", (*trade, "--zipf=1.2")),
            ("zipf2.0", "Zipf 2.0", (*trade, "--zipf=2.0")),
            ("hot", "one hot account", (*trade, hot)),
            # With one worker nobody else holds a lock: what remains is not contention.
            ("uniform-alone", "uniform, 1 worker", (*trade, "--workers=1")),
            ("hot-alone", "hot account, 1 worker", (*trade, hot, "--workers=1")),
        )
    ]


def _knee() -> list[Scenario]:
    words = ("--mix=mixed", "--connections=100")
    return [
        Scenario(KNEE, REFERENCE, "closed loop", words),
        *(Scenario(KNEE, f"{share}%", f"{share} %", words, share=share) for share in SHARES),
    ]


def _locks() -> list[Scenario]:
    words = ("--mix=trade-heavy", "--connections=200")
    one = "--server-flag=--account-locks=1"
    return [
        Scenario(LOCKS, f"{name}-{workers}", label, (*words, f"--workers={workers}", *more),
                 round=number)
        for workers, rounds in LOCK_ROUNDS.items()
        for number in range(1, rounds + 1)
        for name, label, more in (
            ("global", f"one lock, {workers} workers", (one,)),
            ("account", f"a lock per account, {workers} workers", ()),
        )
    ]  # fmt: skip


def _overload() -> list[Scenario]:
    """Server and load apart, so that the load is none of the overload; and a server that takes
    longer for a request, as one core of load could not ask a compiled one for five times the knee.
    Every request is sent when it is due, whatever was refused before."""
    words = (
        "--mix=mixed", "--connections=200", "--workers=1", "--apart", "--interpreted",
        "--processes=1", "--threads=1",
    )  # fmt: skip
    return [
        Scenario(OVERLOAD, REFERENCE, "closed loop", words),
        *(
            Scenario(OVERLOAD, f"{share}%", f"{share} %", words, share=share, regardless=True)
            for share in OVERLOAD_SHARES
        ),
        *(
            Scenario(
                OVERLOAD,
                f"{times:g}x",
                f"{times:g} times the knee",
                words,
                times=times,
                regardless=True,
            )
            for times in TIMES
        ),
    ]


SCENARIOS: Final = tuple(
    chain(
        [Scenario(MIXED, "mixed", "mixed", ("--mix=mixed", "--connections=100"))],
        _contention(),
        (
            Scenario(PAYLOAD, f"{size}", f"{size} B",
                     ("--mix=chat-heavy", "--connections=100", f"--payload={size}"))
            for size in (32, 256, 1024, 4096)
        ),
        (
            Scenario(WORKERS, f"{count}", f"{count}",
                     ("--mix=mixed", "--connections=100", f"--workers={count}"))
            for count in (1, 2, 4, 8)
        ),
        (
            Scenario(CONNECTIONS, f"{count}", f"{count:,}",
                     ("--mix=mixed", f"--connections={count}"))
            for count in (10, 100, 1000, CONNECTIONS_MAX)
        ),
        _knee(),
        (
            Scenario(DURABILITY, mode, mode,
                     ("--mix=trade-heavy", "--connections=200",
                      f"--server-flag=--durability={mode}"))
            for mode in ("none", "async", "sync")
        ),
        _locks(),
        _overload(),
    )
)  # fmt: skip

SECTIONS: Final = tuple(dict.fromkeys(each.section for each in SCENARIOS))

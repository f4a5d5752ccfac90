"""What every server under comparison is to the runner, and what a load tells of it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from bench.lab.cli import BenchFailed
from bench.lab.process import CpuTime

LOCALHOST: Final = "127.0.0.1"
PAYLOAD: Final = 64
"""Bytes of a chat message."""
_FIRST: Final = 200  # requests, from which the first rate is taken
_WARM_UP: Final = 0.2  # of the seconds that are measured


class LoadFailed(BenchFailed):
    """A server did not do what it was asked to, or a load program failed; the text says which."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one load took. A request is a transfer, or the delivery of a message to one member."""

    requests: int
    per_s: float
    p50_ms: float
    p99_ms: float
    server_us: float
    """CPU time of all processes of the server, user and system, per request."""
    client_us: float
    """The same of the load program."""


def figures(
    requests: int, seconds: float, latencies_ms: Sequence[float], server: CpuTime, client: float
) -> Figures:
    """latencies_ms: in any order. server, client: seconds of CPU. LoadFailed without requests."""
    if not requests or not latencies_ms:
        raise LoadFailed("nothing was answered in the time that is measured: take more seconds")
    ordered = sorted(latencies_ms)
    return Figures(
        requests=requests,
        per_s=requests / seconds,
        p50_ms=quantile(ordered, 0.5),
        p99_ms=quantile(ordered, 0.99),
        server_us=sum(server) / requests * 1e6,
        client_us=client / requests * 1e6,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least value that is not exceeded by this share of them."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Contender(ABC):
    """One server under one workload, which runs from its making until `close`."""

    @abstractmethod
    def load(self, in_flight: int, seconds: float) -> Figures:
        """Warm it up, then measure about so many seconds. in_flight: requests on each connection,
        or messages. LoadFailed."""

    @abstractmethod
    def close(self) -> None:
        """End the server, and remove what it has written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Counted(Contender):
    """Under a load program that is told how many requests, and not how long."""

    @abstractmethod
    def run(self, in_flight: int, requests: int) -> Figures:
        """That many requests, or a few more."""

    def load(self, in_flight: int, seconds: float) -> Figures:
        rate = self.run(in_flight, _FIRST).per_s
        rate = self.run(in_flight, math.ceil(rate * seconds * _WARM_UP)).per_s
        return self.run(in_flight, math.ceil(rate * seconds))

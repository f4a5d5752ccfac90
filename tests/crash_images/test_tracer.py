"""Stepping a process: every store is seen, in order, and nothing is left of it."""

import os
import signal
from collections.abc import Callable, Iterator
from mmap import mmap

import pytest

from tests.crash_images import tracer
from tests.crash_images.tracer import NotPermitted, TraceError, trace


@pytest.fixture
def shared() -> Iterator[mmap]:
    """Memory that a forked process shares with this one."""
    with mmap(-1, 4096) as memory:
        yield memory


def _values(shared: mmap, operation: Callable[[], object]) -> tuple[int, list[int]]:
    """The instructions, and what the first byte was, one after the other."""
    values: list[int] = []

    def look() -> None:
        if values[-1:] != [shared[0]]:
            values.append(shared[0])

    return trace(lambda: operation, look), values


def test_each_store_is_seen(shared: mmap) -> None:
    def operation() -> None:
        shared[0] = 1
        shared[0] = 0
        shared[0] = 2

    instructions, values = _values(shared, operation)
    assert values == [0, 1, 0, 2]
    assert instructions > 3


def test_what_is_prepared_is_not_stepped(shared: mmap) -> None:
    def prepare() -> Callable[[], object]:
        shared[0] = 3
        return lambda: None

    seen: list[int] = []
    instructions = trace(prepare, lambda: seen.append(shared[0]))
    assert set(seen) == {3}
    assert len(seen) == instructions + 2  # at the start, and at the stop that ends it


def test_a_signal_goes_to_its_handler(shared: mmap) -> None:
    def prepare() -> Callable[[], object]:
        def handler(*_: object) -> None:
            shared[0] = 5

        signal.signal(signal.SIGUSR1, handler)
        return lambda: os.kill(os.getpid(), signal.SIGUSR1)

    values: list[int] = []
    trace(prepare, lambda: values.append(shared[0]))
    assert values[0] == 0
    assert values[-1] == 5


def test_an_exception_in_the_process_is_told(
    shared: mmap, capfd: pytest.CaptureFixture[str]
) -> None:
    def operation() -> None:
        raise LookupError("of the operation")

    with pytest.raises(TraceError, match="raised"):
        _values(shared, operation)
    assert "LookupError: of the operation" in capfd.readouterr().err


def test_a_process_that_is_killed_is_told(shared: mmap) -> None:
    with pytest.raises(TraceError, match="-9"):
        _values(shared, lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_what_does_not_end_is_given_up(shared: mmap) -> None:
    def operation() -> None:
        while True:
            shared[0] ^= 1

    with pytest.raises(TraceError, match="has not ended after 5000 "):
        trace(lambda: operation, lambda: None, 5000)


def test_an_exception_of_the_look_ends_it(shared: mmap) -> None:
    def look() -> None:
        raise LookupError("of the look")

    with pytest.raises(LookupError, match="of the look"):
        trace(lambda: lambda: shared.write(b"x"), look)


def test_where_ptrace_is_refused() -> None:
    def prepare() -> Callable[[], object]:
        tracer._request(tracer._TRACEME, 0)  # a second time: the system says EPERM
        return lambda: None

    with pytest.raises(NotPermitted):
        trace(prepare, lambda: None)

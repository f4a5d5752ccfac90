"""The wake-up flag: over processes, over programs, and at its limits."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from libnet import Wakeup

TIMEOUT_MS = 10_000


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    made = Wakeup()
    yield made
    made.close()


def is_readable(wakeup: Wakeup, timeout_ms: int = 0) -> bool:
    poller = select.poll()
    poller.register(wakeup.fileno(), select.POLLIN)
    return bool(poller.poll(timeout_ms))


def test_one_clear_unsets_however_often_it_was_set(wakeup: Wakeup) -> None:
    assert not is_readable(wakeup)
    for _ in range(3):
        wakeup.set()
    assert is_readable(wakeup)
    assert wakeup.clear()
    assert not is_readable(wakeup)
    assert not wakeup.clear()
    wakeup.set()
    assert is_readable(wakeup)


def test_set_does_not_wait_when_the_counter_is_full(wakeup: Wakeup) -> None:
    os.eventfd_write(wakeup.fileno(), 2**64 - 2)
    wakeup.set()
    assert wakeup.clear()
    assert not wakeup.clear()


def test_forked_process_sets_and_parent_sees(wakeup: Wakeup) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            wakeup.set()
            wakeup.close()
            code = 0
        finally:
            os._exit(code)
    assert is_readable(wakeup, TIMEOUT_MS)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert wakeup.clear()


def test_started_programs_do_not_inherit_it(wakeup: Wakeup) -> None:
    code = f"import os\ntry: os.fstat({wakeup.fileno()})\nexcept OSError: print('closed')"
    shown = subprocess.run(
        [sys.executable, "-c", code], close_fds=False, capture_output=True, timeout=60, check=True
    )
    assert shown.stdout == b"closed\n"


def test_close_may_be_repeated_and_later_use_is_an_error() -> None:
    wakeup = Wakeup()
    fd = wakeup.fileno()
    wakeup.close()
    reused = os.open("/dev/null", os.O_RDONLY)
    assert reused == fd
    wakeup.close()
    os.fstat(reused)  # the second close must not have closed somebody else's file
    os.close(reused)
    assert wakeup.fileno() == -1
    with pytest.raises(ValueError, match="negative"):
        wakeup.set()
    with pytest.raises(ValueError, match="negative"):
        wakeup.clear()

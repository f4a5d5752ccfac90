"""How long clients had been idle is known after an orderly stop, once, and never after a crash."""

import errno
from pathlib import Path

import pytest

from server.core.errors import TableFull
from server.journal import idle
from server.journal.format import FORMAT_VERSION, IDLE
from server.journal.load import Idleness, fill
from server.region.layout import WORD
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, at_random
from tests.helpers.region import login, register, small_region, state_of, word
from tests.server.journal.history import (
    NOW,
    Step,
    history,
    loaded_from,
    new_disk,
    write_journal,
)

US = 1_000_000
RETENTION_US, GRACE_US = 100 * US, 20 * US  # as of the regions of tests
PATH = Path("/data/idle")
TIMES = {(1, 7): 0, (1, 2**64 - 1): 5 * US, (2, 7): 2**40}
SURVIVORS = [*ADVERSARIES.values(), *(at_random(seed) for seed in range(10))]


def written(txn: int = 9) -> SimulatedDisk:
    disk = new_disk()
    idle.write(disk, PATH, txn, TIMES)
    return disk


# ---- the file


def test_it_is_read_as_it_was_written_and_only_once() -> None:
    disk = written()
    assert idle.take(disk, PATH, 9) == (TIMES, "")
    assert idle.take(disk, PATH, 9) == ({}, "")
    idle.write(disk, PATH, 11, {})
    assert idle.take(disk, PATH, 11) == ({}, "")
    assert disk.open_files == 0


def test_once_it_was_taken_no_power_cut_brings_it_back() -> None:
    disk = written()
    idle.take(disk, PATH, 9)
    for survives in SURVIVORS:
        assert idle.take(disk.after_power_cut(survives), PATH, 9) == ({}, "")


def test_a_power_cut_at_any_call_of_its_making_leaves_all_of_it_or_nothing() -> None:
    at = 0
    while True:
        at += 1
        disk, done = new_disk(), False
        disk.cut_at, disk.part = at, 0.5
        try:
            idle.write(disk, PATH, 9, TIMES)
            done = True
        except PowerCut:
            pass
        for after in (*map(disk.after_power_cut, SURVIVORS), disk.after_kill()):
            found, why = idle.take(after, PATH, 9)
            assert found in ({}, TIMES) if not done else found == TIMES
            assert not why
            assert not [name for name in after.names(PATH.parent) if name.startswith("idle")]
        if done:
            break
    assert at > 5


def test_a_power_cut_at_any_call_of_its_taking_leaves_it_whole_or_gone() -> None:
    at = 0
    while True:
        at += 1
        disk, done = written(), False
        disk.cut_at = disk.calls + at
        try:
            idle.take(disk, PATH, 9)
            done = True
        except PowerCut:
            pass
        for after in (*map(disk.after_power_cut, SURVIVORS), disk.after_kill()):
            assert idle.take(after, PATH, 9) in ((({}, ""),) if done else (({}, ""), (TIMES, "")))
        if done:
            break
    assert at > 2


def test_an_error_at_any_call_is_told() -> None:
    """Of the making, which leaves nothing to be believed; and of the taking: such a start ends."""
    for work in (idle.write, idle.take):
        at = 0
        while True:
            at += 1
            disk = written()
            disk.fail_at = (disk.calls + at, errno.EIO)
            try:
                work(disk, PATH, 9, *([TIMES] if work is idle.write else []))
            except OSError:
                continue
            break
        assert at > 2, work


@pytest.mark.parametrize("whole", [False, True], ids=["bit", "byte"])
def test_every_byte_flipped(whole: bool) -> None:
    content = bytearray(_content(written()))
    for offset in range(len(content)):
        flip = 0xFF if whole else 1 << offset % 8
        content[offset] ^= flip
        found, why = idle.take(_holding(content), PATH, 9)
        assert (found, bool(why)) == ({}, True), offset
        content[offset] ^= flip
    assert idle.take(_holding(content), PATH, 9) == (TIMES, "")


def test_what_is_not_of_this_state_is_passed_over() -> None:
    content = _content(written())
    wrong = {
        "transaction 9, and the state of 8": content,
        "no whole header": content[: IDLE.size - 1],
        "damaged": content[:-WORD],
        "has format": IDLE.pack(FORMAT_VERSION + 1, 8, 0),
        "length": IDLE.pack(FORMAT_VERSION, 8, 1),
    }
    for why, found in wrong.items():
        disk = _holding(found)
        got, told = idle.take(disk, PATH, 8)
        assert got == {}
        assert why in told
        assert PATH.name not in disk.names(PATH.parent), "and it is gone"


def test_a_file_that_cannot_be_read_is_passed_over() -> None:
    """A server starts without it, and nobody reads it later."""

    class Failing(SimulatedDisk):
        def open(self, path: Path, *, writable: bool = False) -> int:
            assert not writable
            raise OSError(errno.EIO, "Input/output error", str(path))

    disk = written()
    disk.__class__ = Failing
    assert idle.take(disk, PATH, 9) == ({}, "it cannot be read: Input/output error")
    assert PATH.name not in disk.names(PATH.parent)


def _content(disk: SimulatedDisk) -> bytes:
    fd = disk.open(PATH)
    content = disk.read(fd, disk.size(fd), 0)
    disk.close(fd)
    return content


def _holding(content: bytes | bytearray) -> SimulatedDisk:
    disk = new_disk()
    fd = disk.create(PATH)
    disk.write(fd, [bytes(content)], 0)
    disk.close(fd)
    return disk


# ---- from a region, and into the next


def test_who_has_a_session_is_not_idle() -> None:
    with small_region() as region:
        clock = 7 * US
        state = state_of(region, clock_us=lambda: clock)
        register(state, "ann")
        live = login(state, 1, 7)
        state.sessions.end(login(state, 1, 8), NOW)
        clock = 30 * US
        state.sessions.end(login(state, 1, 9), NOW)
        clock = 50 * US
        assert idle.of_region(region, clock) == {(1, 7): 0, (1, 8): 43 * US, (1, 9): 20 * US}
        assert state.sessions.is_live(live)


@pytest.mark.parametrize("clock_us", [1, 10**15], ids=["a machine just started", "an old one"])
def test_a_start_goes_on_where_the_stop_was(clock_us: int) -> None:
    """And keeps, for the grace, who had not been idle for the retention time."""
    disk = new_disk()
    with history(Step("login", 0, 2), Step("login", 0, 3)) as worked:
        write_journal(disk, worked, worked.head)
        known = [(1, 7), (2, 7), (1, 8), (1, 2**64 - 1)]
        times = {known[0]: RETENTION_US, known[1]: RETENTION_US - 1, known[2]: 3 * RETENTION_US}
        with small_region(txn_ring=128, clients=4, accounts=5) as region:
            fill(region, loaded_from(disk), NOW, Idleness(times, RETENTION_US, GRACE_US, clock_us))
            assert idle.of_region(region, clock_us) == times | {known[3]: 0}
            lived = word(region, "header", 0, "lived") + clock_us
            assert [word(region, "clients", slot, "kept_until") for slot in range(4)] == [
                0, lived + GRACE_US, 0, lived + GRACE_US,
            ]  # fmt: skip
            clock = clock_us
            state = state_of(region, clock_us=lambda: clock)
            state.sessions.end(login(state, 2, 1), NOW)
            state.sessions.end(login(state, 2, 2), NOW)
            assert state.clients.find(*known[2]) == 0, "the one idle for longest"
            assert state.clients.find(*known[0]) == 0, "it was idle for as long as it must"
            for ahead, free in ((0, False), (GRACE_US - 1, False), (GRACE_US, True)):
                clock = clock_us + ahead
                if free:
                    login(state, 2, 3)
                    break
                with pytest.raises(TableFull) as caught:
                    login(state, 2, 3)
                assert caught.value.retry_after_ms == -(-(GRACE_US - ahead) // 1000)
            assert state.clients.find(*known[1]) == 0
            assert state.clients.find(*known[3]) != 0


def test_after_a_crash_all_begin_to_be_idle_at_the_start() -> None:
    disk = new_disk()
    with history() as worked:
        write_journal(disk, worked, worked.head)
        with small_region(txn_ring=128, clients=4, accounts=5) as region:
            times, why = idle.take(disk, PATH, worked.head)
            assert (times, why) == ({}, "")
            fill(region, loaded_from(disk), NOW, Idleness(times, RETENTION_US, GRACE_US, 99 * US))
            assert set(idle.of_region(region, 99 * US).values()) == {0}
            assert word(region, "clients", 0, "kept_until") == 99 * US + GRACE_US

"""The disk that forgets is only as good as it is like a disk: what processes see is compared with
the real one, and what survives is said case by case.
"""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.journal.disk import Disk, read_file
from tests.helpers import disk as simulated
from tests.helpers.disk import ADVERSARIES, SECTOR, PowerCut, SimulatedDisk, at_random

ROOT = Path("/data")
FILE = ROOT / "file"
ONES, TWOS = b"1" * SECTOR, b"2" * SECTOR


def _kept_file(content: bytes = b"") -> tuple[SimulatedDisk, int]:
    """A disk with a file whose name and content are kept, and a descriptor of it."""
    disk = SimulatedDisk()
    fd = disk.create(FILE)
    disk.write(fd, [content], 0)
    disk.sync(fd)
    disk.sync_directory(ROOT)
    return disk, fd


# ---- what processes see: as on the real disk

_NAMES = st.sampled_from(["a", "b", "sub", "sub/c", "none/d", "a/e"])
_SMALL = st.integers(-1, 3 * SECTOR)
_OFFSETS = st.integers(0, 3 * SECTOR)  # to pwritev, -1 may be the place in the file
_HANDLES = st.integers(0, 4)
_ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["make_directory", "create", "open", "open_to_write"]), _NAMES),
    st.tuples(st.sampled_from(["names", "sync_directory", "remove", "read_file"]), _NAMES),
    st.tuples(st.just("rename"), _NAMES, _NAMES),
    st.tuples(st.sampled_from(["size", "sync", "close"]), _HANDLES),
    st.tuples(st.sampled_from(["allocate", "truncate"]), _HANDLES, _SMALL),
    st.tuples(st.just("read"), _HANDLES, _SMALL, _SMALL),
    st.tuples(st.just("write"), _HANDLES, st.lists(st.binary(max_size=600), max_size=3), _OFFSETS),
)


class _Run:
    """Actions upon a disk; descriptors are told by the order in which they were opened."""

    def __init__(self, disk: Disk, root: Path) -> None:
        self.disk = disk
        self.root = root
        self.fds: list[int] = []
        self.closed = 999_999  # a descriptor of nothing

    def end(self) -> None:
        for fd in self.fds:
            if fd != self.closed:
                self.disk.close(fd)

    def outcome(self, action: tuple[object, ...]) -> object:
        """What it gives, or the error it raises."""
        name, *arguments = action
        try:
            method = getattr(self, f"_{name}", None) or getattr(self.disk, str(name))
            return method(*map(self._argument, arguments))
        except OSError as error:
            return type(error), error.errno

    def _argument(self, value: object) -> object:
        return self.root / value if isinstance(value, str) else value

    def _known(self, fd: int) -> int:
        self.fds.append(fd)
        return len(self.fds)

    def _at(self, handle: int) -> int:
        return self.fds[handle % len(self.fds)] if self.fds else self.closed

    def _create(self, path: Path) -> int:
        return self._known(self.disk.create(path))

    def _open(self, path: Path) -> object:
        return "directory" if self._is_directory(path) else self._known(self.disk.open(path))

    def _open_to_write(self, path: Path) -> int:
        return self._known(self.disk.open(path, writable=True))

    def _read_file(self, path: Path) -> object:
        return "directory" if self._is_directory(path) else read_file(self.disk, path)

    def _rename(self, old: Path, new: Path) -> object:
        if self._is_directory(old):
            return "directory"
        self.disk.rename(old, new)
        return None

    def _is_directory(self, path: Path) -> bool:
        """That is where the two differ."""
        try:
            self.disk.names(path)
        except OSError:
            return False
        return True

    def _size(self, handle: int) -> int:
        return self.disk.size(self._at(handle))

    def _sync(self, handle: int) -> None:
        self.disk.sync(self._at(handle))

    def _close(self, handle: int) -> None:
        self.disk.close(self._at(handle))
        self.fds[handle % len(self.fds)] = self.closed

    def _allocate(self, handle: int, size: int) -> None:
        self.disk.allocate(self._at(handle), size)

    def _truncate(self, handle: int, size: int) -> None:
        self.disk.truncate(self._at(handle), size)

    def _read(self, handle: int, size: int, offset: int) -> bytes:
        return self.disk.read(self._at(handle), max(size, 0), offset)

    def _write(self, handle: int, pieces: list[bytes], offset: int) -> None:
        self.disk.write(self._at(handle), [memoryview(piece) for piece in pieces], offset)


@settings(max_examples=200)
@given(st.lists(_ACTIONS, max_size=30))
def test_processes_see_what_they_see_on_the_real_disk(actions: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as path:
        real, forgetful = _Run(Disk(), Path(path)), _Run(SimulatedDisk(), ROOT)
        try:
            for action in actions:
                assert forgetful.outcome(action) == real.outcome(action), action
            last = ("names", "")
            assert forgetful.outcome(last) == real.outcome(last)
            for handle in range(len(real.fds)):
                whole = ("read", handle, 10 * SECTOR, 0)
                assert forgetful.outcome(whole) == real.outcome(whole)
        finally:
            real.end()


# ---- data


def test_data_that_was_not_synced_is_gone_and_what_was_synced_is_there() -> None:
    disk, fd = _kept_file(ONES)
    disk.write(fd, [TWOS], 0)
    assert read_file(disk, FILE) == TWOS
    assert read_file(disk.after_power_cut(), FILE) == ONES
    disk.sync(fd)
    assert read_file(disk.after_power_cut(), FILE) == TWOS


@pytest.mark.parametrize(
    ("survives", "left"),
    [
        (simulated.nothing, "111"),
        (simulated.everything, "222"),
        (simulated.no_data, "111"),
        (simulated.data_alone, "222"),
        (simulated.first_sector, "211"),
        (simulated.last_sector, "112"),
        (simulated.but_first_sector, "122"),
        (simulated.but_last_sector, "221"),
    ],
)
def test_each_sector_survives_by_itself(survives: simulated.Survivors, left: str) -> None:
    disk, fd = _kept_file(ONES * 3)
    disk.write(fd, [TWOS * 3], 0)
    after = read_file(disk.after_power_cut(survives), FILE)
    assert after == b"".join(digit * SECTOR for digit in (b"%c" % byte for byte in left.encode()))


def test_at_random_every_combination_comes_and_the_same_seed_gives_the_same() -> None:
    disk, fd = _kept_file(ONES * 3)
    disk.write(fd, [TWOS * 3], 0)
    left = [read_file(disk.after_power_cut(at_random(seed)), FILE) for seed in range(60)]
    assert len(set(left)) == 2**3
    assert left[:9] == [read_file(disk.after_power_cut(at_random(seed)), FILE) for seed in range(9)]


def test_a_sector_is_one_of_the_states_it_was_in_and_no_mixture() -> None:
    disk, fd = _kept_file(b"0000")
    disk.write(fd, [b"1"], 1)
    disk.write(fd, [b"2"], 2)
    left = {read_file(disk.after_power_cut(at_random(seed)), FILE) for seed in range(60)}
    assert left == {b"0000", b"0100", b"0120"}  # 0020 was never there


def test_a_size_survives_without_the_data_as_zeros_and_data_without_the_size_is_cut() -> None:
    disk, fd = _kept_file(b"1")
    disk.write(fd, [TWOS], SECTOR)
    after = disk.after_power_cut(simulated.no_data)
    assert read_file(after, FILE) == b"1" + bytes(2 * SECTOR - 1)
    assert read_file(disk.after_power_cut(simulated.data_alone), FILE) == b"1"


def test_an_allocation_and_a_cut_are_sizes() -> None:
    disk, fd = _kept_file(ONES)
    disk.truncate(fd, 1)
    disk.allocate(fd, 4)
    left = {read_file(disk.after_power_cut(at_random(seed)), FILE) for seed in range(60)}
    assert left == {
        ONES,
        b"1" + bytes(SECTOR - 1),
        b"1",
        b"1\0\0\0",
        b"1111",
    }
    disk.sync(fd)
    assert read_file(disk.after_power_cut(), FILE) == b"1\0\0\0"


# ---- names


def test_a_sync_of_the_file_does_not_keep_its_name() -> None:
    disk = SimulatedDisk()
    fd = disk.create(FILE)
    disk.write(fd, [ONES], 0)
    disk.sync(fd)
    assert disk.after_power_cut().names(ROOT) == []
    assert disk.after_power_cut(simulated.everything).names(ROOT) == ["file"]
    disk.sync_directory(ROOT)
    assert read_file(disk.after_power_cut(), FILE) == ONES


def test_a_sync_of_the_directory_does_not_keep_the_data() -> None:
    disk = SimulatedDisk()
    fd = disk.create(FILE)
    disk.write(fd, [ONES], 0)
    disk.sync_directory(ROOT)
    assert read_file(disk.after_power_cut(), FILE) == b""


def test_a_removed_name_comes_back_until_the_directory_is_synced() -> None:
    disk, fd = _kept_file(ONES)
    disk.remove(FILE)
    assert disk.names(ROOT) == []
    assert disk.read(fd, 1, 0) == b"1", "what is open can be read"
    assert read_file(disk.after_power_cut(), FILE) == ONES
    disk.sync_directory(ROOT)
    assert disk.after_power_cut().names(ROOT) == []


def test_a_rename_happens_wholly_or_not_at_all() -> None:
    disk, _ = _kept_file(ONES)
    other = ROOT / "other"
    fd = disk.create(other)
    disk.write(fd, [TWOS], 0)
    disk.sync(fd)
    disk.sync_directory(ROOT)
    disk.rename(other, FILE)
    assert disk.names(ROOT) == ["file"]
    seen = set()
    for seed in range(20):
        after = disk.after_power_cut(at_random(seed))
        seen.add((tuple(after.names(ROOT)), read_file(after, FILE)))
    assert seen == {(("file",), TWOS), (("file", "other"), ONES)}
    disk.sync_directory(ROOT)
    assert read_file(disk.after_power_cut(), FILE) == TWOS


def test_names_survive_each_by_itself() -> None:
    disk = SimulatedDisk()
    for name in "abc":
        disk.create(ROOT / name)
    left = {"".join(disk.after_power_cut(at_random(seed)).names(ROOT)) for seed in range(60)}
    assert len(left) == 2**3


def test_a_directory_is_a_name_too() -> None:
    disk = SimulatedDisk()
    folder = ROOT / "folder"
    disk.make_directory(folder)
    disk.create(folder / "file")
    disk.sync_directory(folder)
    assert disk.after_power_cut().names(ROOT) == []
    disk.sync_directory(ROOT)
    assert disk.after_power_cut().names(folder) == ["file"]


# ---- kill


def test_after_a_kill_all_that_was_seen_is_there_and_no_descriptor_and_still_not_kept() -> None:
    disk, fd = _kept_file(ONES)
    disk.write(fd, [TWOS], 0)
    disk.create(ROOT / "other")
    after = disk.after_kill()
    assert read_file(after, FILE) == TWOS
    assert after.names(ROOT) == ["file", "other"]
    assert after.open_files == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        after.sync(fd)
    assert read_file(after.after_power_cut(), FILE) == ONES
    assert after.after_power_cut().names(ROOT) == ["file"]
    after.sync(after.open(FILE))
    assert read_file(after.after_power_cut(), FILE) == TWOS
    assert read_file(disk.after_power_cut(), FILE) == ONES, "the other disk is another"


# ---- cuts and errors at a call


def _changes(disk: SimulatedDisk) -> list[Callable[[], object]]:
    """One of each call that changes something."""
    fd = disk.create(ROOT / "first")
    disk.log.clear()
    return [
        lambda: disk.make_directory(ROOT / "folder"),
        lambda: disk.create(FILE),
        lambda: disk.allocate(fd, 10),
        lambda: disk.write(fd, [b"12", b"34"], 0),
        lambda: disk.truncate(fd, 3),
        lambda: disk.sync(fd),
        lambda: disk.sync_directory(ROOT),
        lambda: disk.rename(FILE, ROOT / "second"),
        lambda: disk.remove(ROOT / "second"),
    ]


def test_every_call_that_changes_something_is_counted_and_no_other() -> None:
    disk = SimulatedDisk()
    for change in _changes(disk):
        change()
    fd = disk.open(ROOT / "first")
    disk.read(fd, disk.size(fd), 0)
    disk.names(ROOT)
    disk.close(fd)
    assert disk.calls == 9
    assert disk.log == [
        "make_directory",
        "create",
        "allocate",
        "write",
        "truncate",
        "sync",
        "sync_directory",
        "rename",
        "remove",
    ]


def _state(disk: SimulatedDisk) -> dict[str, bytes]:
    return {name: read_file(disk, ROOT / name) for name in disk.names(ROOT) if name != "folder"} | {
        name: b"" for name in disk.names(ROOT) if name == "folder"
    }


@pytest.mark.parametrize("at", range(1, 10))
def test_a_cut_comes_before_the_call_and_nothing_is_done_after_it(at: int) -> None:
    disk = SimulatedDisk()
    changes = _changes(disk)
    disk.cut_at = at
    for change in changes[: at - 1]:
        change()
    before = _state(disk), _state(disk.after_power_cut())
    for change in changes[at - 1 :]:
        with pytest.raises(PowerCut):
            change()
    assert (_state(disk), _state(disk.after_power_cut())) == before


@pytest.mark.parametrize("at", range(1, 10))
def test_a_call_fails_without_effect_and_the_next_one_is_done(at: int) -> None:
    disk = SimulatedDisk()
    changes = _changes(disk)
    disk.fail_at = (at, errno.EIO)
    for change in changes[: at - 1]:
        change()
    before = _state(disk), _state(disk.after_power_cut())
    with pytest.raises(OSError, match="Input/output error"):
        changes[at - 1]()
    assert (_state(disk), _state(disk.after_power_cut())) == before
    disk.create(ROOT / "third")
    assert "third" in _state(disk)


def test_part_of_a_write_is_seen_when_it_is_cut_or_fails() -> None:
    """Whole sectors of it: what the kernel copies between two looks whether a kill has come."""
    start, pieces = 100, [b"1" * 500, b"2" * 1000]  # from sector 0 into sector 3
    for part, ends in ((0.0, 0), (0.2, 0), (0.3, 1), (0.6, 1), (0.7, 2), (0.96, 3), (1.0, 3)):
        seen = (b"1" * 500 + b"2" * 1000)[: max(0, ends * SECTOR - start)]
        for stop in ("cut", "fail"):
            disk, fd = _kept_file(b"." * 1600)
            disk.part = part
            if stop == "cut":
                disk.cut_at = disk.calls + 1
                with pytest.raises(PowerCut):
                    disk.write(fd, pieces, start)
                with pytest.raises(PowerCut):
                    disk.write(fd, [b"abcd"], 0)  # after the cut is nothing
            else:
                disk.fail_at = disk.calls + 1, errno.ENOSPC
                with pytest.raises(OSError, match="No space left"):
                    disk.write(fd, pieces, start)
            expected = (b"." * start + seen).ljust(1600, b".")
            assert read_file(disk.after_kill(), FILE) == expected


def test_part_of_an_allocation_is_done_when_it_fails() -> None:
    disk, fd = _kept_file(b"....")
    disk.fail_at, disk.part = (disk.calls + 1, errno.ENOSPC), 0.5
    with pytest.raises(OSError, match="No space left"):
        disk.allocate(fd, 8)
    assert disk.size(fd) == 6


# ---- a sync that failed


def _failed_sync() -> tuple[SimulatedDisk, int]:
    disk, fd = _kept_file(ONES * 2)
    disk.write(fd, [TWOS * 2], 0)
    disk.fail_at = disk.calls + 1, errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync(fd)
    return disk, fd


def test_after_a_failed_sync_the_next_one_is_good_and_keeps_nothing() -> None:
    disk, fd = _failed_sync()
    disk.sync(fd)
    assert read_file(disk, FILE) == TWOS * 2
    assert read_file(disk.after_power_cut(), FILE) == ONES * 2


def test_a_failed_sync_may_have_kept_anything() -> None:
    disk, fd = _failed_sync()
    disk.sync(fd)
    left = {read_file(disk.after_power_cut(at_random(seed)), FILE) for seed in range(40)}
    assert left == {ONES * 2, TWOS * 2, ONES + TWOS, TWOS + ONES}


def test_what_is_written_again_after_a_failed_sync_is_kept_by_the_next() -> None:
    disk, _ = _failed_sync()
    disk = disk.after_kill()  # a restart changes nothing of it
    fd = disk.open(FILE, writable=True)
    disk.write(fd, [disk.read(fd, SECTOR, SECTOR)], SECTOR)
    disk.sync(fd)
    for survives in ADVERSARIES.values():
        assert read_file(disk.after_power_cut(survives), FILE)[SECTOR:] == TWOS
    assert read_file(disk.after_power_cut(), FILE) == ONES + TWOS


def test_pages_that_count_as_clean_may_be_read_again() -> None:
    disk, fd = _failed_sync()
    disk.write(fd, [b"3"], 0)
    disk.drop_clean_pages()
    assert read_file(disk, FILE) == b"3" + TWOS[1:] + ONES, "a dirty page stays"


# ---- the model itself


def test_descriptors_are_no_descriptors_of_this_process() -> None:
    disk, fd = _kept_file()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    disk.close(fd)
    assert disk.open_files == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.close(fd)

"""The real disk does what its methods say, also where the system does only a part of what it is
asked.
"""

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from server.journal.disk import Disk, Piece, read_file
from tests.helpers.region import children

LIMIT = 1000  # bytes of a file, where the system stops a writer


def open_descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Nothing stays open."""
    before = open_descriptors()
    yield Disk()
    assert open_descriptors() == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def fd(disk: Disk, path: Path) -> Iterator[int]:
    """A new file."""
    fd = disk.create(path)
    yield fd
    disk.close(fd)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- names


def test_what_is_made_is_for_the_owner_alone(disk: Disk, tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        disk.make_directory(tmp_path / "made")
        disk.close(disk.create(tmp_path / "made" / "file"))
    finally:
        os.umask(mask)
    assert mode(tmp_path / "made") == 0o700
    assert mode(tmp_path / "made" / "file") == 0o600


def test_a_directory_that_is_there_stays_as_it_is(disk: Disk, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir(mode=0o755)
    (made / "file").touch()
    disk.make_directory(made)
    assert mode(made) == 0o755
    assert disk.names(made) == ["file"]
    with pytest.raises(FileExistsError):
        disk.make_directory(made / "file")
    with pytest.raises(FileNotFoundError):
        disk.make_directory(tmp_path / "none" / "made")


def test_a_file_is_made_once(disk: Disk, fd: int, path: Path) -> None:
    disk.write(fd, [b"mine"], 0)
    with pytest.raises(FileExistsError):
        disk.create(path)
    assert read_file(disk, path) == b"mine"


def test_a_link_is_not_followed_where_a_file_is_made(disk: Disk, path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(FileExistsError):
        disk.create(path)


def test_names_are_sorted(disk: Disk, tmp_path: Path) -> None:
    for name in ("b", "a10", "a9", "c"):
        (tmp_path / name).touch()
    assert disk.names(tmp_path) == ["a10", "a9", "b", "c"]
    with pytest.raises(FileNotFoundError):
        disk.names(tmp_path / "none")


def test_a_rename_replaces(disk: Disk, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    disk.rename(old, new)
    assert disk.names(tmp_path) == ["new"]
    assert new.read_bytes() == b"old"
    with pytest.raises(FileNotFoundError):
        disk.rename(old, new)


def test_a_removed_file_is_gone(disk: Disk, path: Path) -> None:
    path.touch()
    disk.remove(path)
    assert disk.names(path.parent) == []
    with pytest.raises(FileNotFoundError):
        disk.remove(path)


def test_descriptors_are_not_inherited_by_programs(disk: Disk, fd: int, path: Path) -> None:
    other = disk.open(path)
    assert not os.get_inheritable(fd)
    assert not os.get_inheritable(other)
    disk.close(other)


# ---- data


def test_a_file_is_opened_for_reading_unless_it_is_said(disk: Disk, fd: int, path: Path) -> None:
    disk.write(fd, [b"12"], 0)
    reading, writing = disk.open(path), disk.open(path, writable=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.write(reading, [b"x"], 0)
    disk.write(writing, [b"x"], 1)
    assert disk.read(reading, 10, 0) == disk.read(writing, 10, 0) == b"1x"
    disk.close(reading)
    disk.close(writing)
    with pytest.raises(FileNotFoundError):
        disk.open(path.with_name("none"), writable=True)


def test_pieces_are_written_one_after_the_other(disk: Disk, fd: int) -> None:
    disk.write(fd, [b"ab", memoryview(b"cde")[1:], b"", b"f"], 3)
    disk.write(fd, [], 1)
    assert disk.read(fd, 100, 0) == b"\0\0\0abdef"
    assert disk.read(fd, 2, 4) == b"bd"
    assert disk.read(fd, 2, 8) == disk.read(fd, 0, 0) == b""
    assert disk.size(fd) == 8


def test_what_is_allocated_is_zero_and_has_its_blocks(disk: Disk, fd: int) -> None:
    disk.write(fd, [b"1"], 0)
    disk.allocate(fd, 100_000)
    assert disk.read(fd, 200_000, 0) == b"1" + bytes(99_999)
    assert os.fstat(fd).st_blocks * 512 >= 100_000
    disk.allocate(fd, 10)
    assert disk.size(fd) == 100_000, "it is large enough"


def test_what_was_cut_off_and_allocated_again_is_zero(disk: Disk, fd: int) -> None:
    disk.write(fd, [b"12345678"], 0)
    disk.truncate(fd, 3)
    assert disk.size(fd) == 3
    disk.allocate(fd, 8)
    assert disk.read(fd, 9, 0) == b"123\0\0\0\0\0"


# ---- done in part


def test_a_write_that_the_system_does_in_parts_is_done_wholly(
    disk: Disk, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some(fd: int, pieces: Sequence[Piece], offset: int) -> int:
        return pwrite(fd, b"".join(pieces)[:7], offset)

    pwrite: Callable[[int, Piece, int], int] = os.pwrite
    monkeypatch.setattr(os, "pwritev", some)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:5], offset))
    disk.write(fd, [b"0123456789", memoryview(b"abcdefghij")], 2)
    assert disk.read(fd, 100, 0) == b"\0\0000123456789abcdefghij"


def test_a_read_that_the_system_does_in_parts_is_done_wholly(
    disk: Disk, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write(fd, [b"0123456789"], 0)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 3), offset))
    assert disk.read(fd, 8, 1) == b"12345678"
    assert disk.read(fd, 20, 1) == b"123456789"


def _write_to_the_limit(path: Path) -> list[int | None]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    disk = Disk()
    fd = disk.create(path)
    errors: list[int | None] = []
    attempts: list[Callable[[], None]] = [
        lambda: disk.write(fd, [b"1" * 600, b"2" * 600], 100),
        lambda: disk.write(fd, [b"3"], LIMIT),
        lambda: disk.allocate(fd, LIMIT + 1),
        lambda: disk.write(fd, [b"4" * LIMIT], 0),  # as far as it may
    ]
    for attempt in attempts:
        try:
            attempt()
            errors.append(None)
        except OSError as error:
            errors.append(error.errno)
    return errors


def test_a_write_that_cannot_be_done_wholly_is_an_error(path: Path) -> None:
    with children() as started:
        errors = started.start(_write_to_the_limit, path).result()
    assert errors == [errno.EFBIG, errno.EFBIG, errno.EFBIG, None]
    assert path.read_bytes() == b"4" * LIMIT


# ---- lasting


def test_a_sync_is_one_of_the_file_or_of_the_directory(
    disk: Disk, fd: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def sync(at: int, name: str = name, real: Callable[[int], None] = real) -> None:
            synced.append((name, os.fstat(at).st_ino))
            real(at)

        monkeypatch.setattr(os, name, sync)
    disk.sync(fd)
    disk.sync_directory(path.parent)
    assert synced == [("fdatasync", path.stat().st_ino), ("fsync", path.parent.stat().st_ino)]
    with pytest.raises(NotADirectoryError):
        disk.sync_directory(path)


def test_errors_of_a_sync_are_told_and_nothing_stays_open(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "it has failed")

    before = open_descriptors()
    monkeypatch.setattr(os, "fdatasync", fail)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="it has failed"):
        disk.sync(0)
    with pytest.raises(OSError, match="it has failed"):
        disk.sync_directory(tmp_path)
    assert open_descriptors() == before


def test_read_file_closes_it_whatever_happens(
    disk: Disk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"123")
    assert read_file(disk, path) == b"123"

    def fail(_fd: int, _size: int, _offset: int) -> bytes:
        raise OSError(errno.EIO, "it has failed")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match="it has failed"):
        read_file(disk, path)

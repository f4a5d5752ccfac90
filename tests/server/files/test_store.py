"""The store on a real disk: what is refused and why, limits, contents that are shared, links, and
what is found when it is opened."""

import errno
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from server.files.errors import (
    Busy,
    ChunkTooLong,
    Damaged,
    DiskFailed,
    DiskFull,
    FilesError,
    Incomplete,
    NotThere,
    PastSize,
    ShareFull,
    StoreFull,
    TooLarge,
    TooManyUploads,
    Wrong,
    WrongHash,
    WrongOffset,
    of_disk,
)
from server.files.limits import CHUNK_MAX, Limits
from server.files.store import Store, Upload
from server.files.verify import verify
from server.journal.disk import Disk, Piece
from tests.server.files.bytes_of import content, hash_of
from tests.server.files.store_model import SECOND, Clock

BLOCK = 4096
DATA = content(1, 150_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "files"


OPEN: list[Store] = []


@pytest.fixture(autouse=True)
def _closes() -> Iterator[None]:
    """Stores whose processes were killed, as the tests have it, end with their test too."""
    yield
    while OPEN:
        OPEN.pop().close()


def opened(
    directory: Path,
    clock: Clock,
    disk: Disk | None = None,
    boot: str | None = None,
    **limits: int,
) -> Store:
    OPEN.append(Store(directory, Limits(**limits), now=clock, disk=disk, boot=boot))
    return OPEN[-1]


@pytest.fixture
def store(directory: Path, clock: Clock) -> Store:
    return opened(directory, clock)


def begin(store: Store, data: bytes, user: int = 1, room: int = 1, name: str = "n") -> Upload:
    return store.begin(user, room, hash_of(data), len(data), "text/plain", name)


def send(store: Store, data: bytes, user: int = 1, room: int = 1) -> int:
    file_id, received = begin(store, data, user, room)
    for at in range(received, len(data), CHUNK_MAX):
        store.put(file_id, user, at, data[at : at + CHUNK_MAX])
    store.end(file_id, user)
    return file_id


def names_below(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


# ---- one file


def test_a_file_is_stored_and_read(store: Store) -> None:
    file_id = send(store, DATA)
    assert not store.is_published(file_id)
    store.published(file_id)
    assert store.is_published(file_id)
    file = store.find(file_id)
    assert (file.user, file.room, file.size, file.name) == (1, 1, len(DATA), "n")
    assert store.get(file.sha256, 0, len(DATA)) == DATA
    assert store.get(file.sha256, 149_990, 100) == DATA[-10:]
    assert store.get(file.sha256, 150_000, 100) == b""
    assert store.get(file.sha256, 1 << 62, 100) == b""
    fd = store.open(file.sha256)
    try:
        assert os.pread(fd, 1 << 20, 0) == DATA
    finally:
        os.close(fd)


def test_only_its_owner_may_touch_the_files(store: Store, directory: Path) -> None:
    send(store, DATA)
    begin(store, b"other")
    for path in directory.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


REFUSED: dict[str, tuple[Callable[[Store, int], object], type[FilesError]]] = {
    "too large": (lambda s, _: s.begin(1, 1, bytes(32), (16 << 20) + 1, "a/b", "n"), TooLarge),
    "before": (lambda s, i: s.put(i, 1, 9, b"x"), WrongOffset),
    "behind": (lambda s, i: s.put(i, 1, 11, b"x"), WrongOffset),
    "far behind": (lambda s, i: s.put(i, 1, (1 << 64) - 1, b"x"), WrongOffset),
    "past its size": (lambda s, i: s.put(i, 1, 10, bytes(CHUNK_MAX)), PastSize),
    "too long": (lambda s, i: s.put(i, 1, 10, bytes(CHUNK_MAX + 1)), ChunkTooLong),
    "another user's": (lambda s, i: s.put(i, 2, 10, b"x"), NotThere),
    "nobody's": (lambda s, i: s.put(i + 1, 1, 0, b"x"), NotThere),
    "end too early": (lambda s, i: s.end(i, 1), Incomplete),
    "end of another user's": (lambda s, i: s.end(i, 2), NotThere),
    "end of nobody's": (lambda s, _: s.end(0, 1), NotThere),
    "no such file": (lambda s, i: s.find(i), NotThere),
    "published too early": (lambda s, i: s.published(i), NotThere),
    "no such contents": (lambda s, _: s.get(bytes(32), 0, 1), NotThere),
    "no such contents to open": (lambda s, _: s.open(bytes(32)), NotThere),
    "lease of nobody's": (lambda s, i: s.lease(i + 1), NotThere),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_changes_nothing(store: Store, directory: Path, name: str) -> None:
    file_id, _ = store.begin(1, 1, hash_of(DATA), 1_000, "a/b", "n")
    store.put(file_id, 1, 0, DATA[:10])
    before = names_below(directory), store.usage(), store.uploads()
    call, error = REFUSED[name]
    with pytest.raises(error) as found:
        call(store, file_id)
    if isinstance(found.value, WrongOffset | Incomplete):
        assert found.value.received == 10
        assert "10" in str(found.value)
    assert (names_below(directory), store.usage(), store.uploads()) == before
    assert store.put(file_id, 1, 10, b"") == 10


def test_a_wrong_hash_ends_the_upload(store: Store, directory: Path) -> None:
    file_id, _ = store.begin(1, 1, hash_of(b"other"), 5, "a/b", "n")
    store.put(file_id, 1, 0, b"these")
    with pytest.raises(WrongHash):
        store.end(file_id, 1)
    with pytest.raises(NotThere):
        store.end(file_id, 1)
    assert names_below(directory) == ["index"]
    assert store.usage().total == 0
    again = store.begin(1, 1, hash_of(b"other"), 5, "a/b", "n")
    assert again.file_id > file_id
    assert again.received == 0


def test_the_same_begin_is_the_same_upload_until_it_is_published(store: Store) -> None:
    file_id, _ = begin(store, DATA)
    assert begin(store, DATA) == (file_id, 0)
    assert begin(store, DATA, name="m").file_id != file_id
    assert begin(store, DATA, room=2).file_id != file_id
    assert begin(store, DATA, user=2).file_id != file_id
    send(store, DATA)
    assert begin(store, DATA) == (file_id, len(DATA))
    assert store.end(file_id, 1).file_id == file_id, "its event may not have come"
    store.published(file_id)
    with pytest.raises(NotThere):
        store.end(file_id, 1)
    assert begin(store, DATA).file_id > file_id


def test_what_others_have_stored_is_not_told(store: Store) -> None:
    send(store, DATA, user=1)
    assert begin(store, DATA, user=2).received == 0
    file_id = send(store, DATA, user=2)
    assert store.usage().contents == 1
    assert store.find(file_id).sha256 == hash_of(DATA)


def test_a_size_that_is_not_that_of_the_contents_gives_nothing(store: Store) -> None:
    send(store, DATA)
    size = len(DATA) + 1
    assert store.begin(2, 1, hash_of(DATA), size, "a/b", "n", readable=True).received == 0


def test_the_bytes_of_equal_contents_are_taken_all_the_same(store: Store, directory: Path) -> None:
    """So that they heal what is damaged, and take the time that new ones take."""
    file_id = send(store, DATA)
    path = directory / "contents" / hash_of(DATA).hex()[0] / hash_of(DATA).hex()[1]
    (path / hash_of(DATA).hex()).write_bytes(b"damage")
    with pytest.raises(Damaged, match="no byte 6"):
        store.get(hash_of(DATA), 0, 100)
    assert store.verify().problems[0].files == [file_id]
    other = send(store, DATA, user=2)
    assert store.verify().problems == []
    assert store.get(store.find(other).sha256, 0, 9) == DATA[:9]


# ---- limits


def test_unfinished_uploads_count_with_all_that_they_will_be(directory: Path, clock: Clock) -> None:
    store = opened(directory, clock, user_bytes=3 * BLOCK, total_bytes=4 * BLOCK)
    begin(store, bytes(2 * BLOCK))
    begin(store, b"")
    with pytest.raises(ShareFull):
        begin(store, b"x")
    begin(store, b"x", user=2)
    with pytest.raises(StoreFull):
        begin(store, b"x", user=3)
    usage = store.usage()
    assert (usage.total, usage.uploads_bytes) == (4 * BLOCK, 4 * BLOCK)
    assert usage.users == {1: 3 * BLOCK, 2: BLOCK}


def test_a_share_counts_a_users_contents_once_whoever_has_them_too(
    directory: Path, clock: Clock
) -> None:
    store = opened(directory, clock, user_bytes=3 * BLOCK)
    data = bytes(BLOCK)
    for user in (1, 2):
        for room in (1, 2, 3):
            store.published(send(store, data, user, room))
    assert store.usage().users == {1: BLOCK, 2: BLOCK}
    assert store.usage().total == BLOCK


def test_uploads_of_one_user_at_a_time(directory: Path, clock: Clock) -> None:
    store = opened(directory, clock, user_uploads=3)
    first = begin(store, b"0")
    begin(store, b"1")
    begin(store, b"2")
    with pytest.raises(TooManyUploads, match="3 uploads"):
        begin(store, b"3")
    assert begin(store, b"0") == first
    begin(store, b"3", user=2)
    send(store, b"0")
    begin(store, b"3")


def test_retention_and_leases(store: Store, directory: Path, clock: Clock) -> None:
    kept_s, retention_s = store.limits.upload_kept_s, store.limits.retention_s
    file_id = send(store, DATA)
    store.published(file_id)
    leased, _ = begin(store, b"leased")
    store.lease(leased)
    begin(store, b"left")
    clock.now += kept_s * SECOND
    assert len(store.expire(clock.now).uploads) == 1
    store.release(leased)
    assert store.expire(clock.now).uploads == []
    clock.now += kept_s * SECOND
    assert store.expire(clock.now).uploads == [leased]
    again = send(store, DATA, user=2)  # renews the age of the contents
    store.lease(again)
    clock.now += retention_s * SECOND
    assert store.expire(clock.now).contents == [], "its event may be on its way"
    store.published(again)
    assert store.expire(clock.now).contents == [hash_of(DATA)]
    with pytest.raises(NotThere):
        store.find(file_id)
    assert names_below(directory) == ["index"]
    assert store.usage() == (0, 0, 0, 0, {})


def test_contents_that_an_upload_was_told_are_there_stay(store: Store, clock: Clock) -> None:
    store.published(send(store, DATA))
    clock.now += store.limits.retention_s * SECOND
    told = store.begin(2, 2, hash_of(DATA), len(DATA), "a/b", "n", readable=True)
    assert told.received == len(DATA)
    assert store.expire(clock.now).contents == []
    assert store.end(told.file_id, 2).sha256 == hash_of(DATA)
    clock.now += store.limits.upload_kept_s * SECOND
    assert store.expire(clock.now).contents == [], "its age began anew"


# ---- links


def test_what_comes_from_elsewhere(store: Store) -> None:
    number = store.receive(1)
    for at in range(0, len(DATA), 1_000):
        store.append(number, DATA[at : at + 1_000])
    assert store.usage().uploads == 1
    file = store.keep(number, 7, "image/png", "x.png")
    assert (file.room, file.size, file.sha256) == (7, len(DATA), sha256(DATA).digest())
    assert store.get(file.sha256, 0, len(DATA)) == DATA
    again = store.again(2, 8, file.sha256, "image/png", "x.png")
    assert again.file_id != file.file_id
    with pytest.raises(NotThere):
        store.again(2, 8, bytes(32), "image/png", "x.png")
    usage = store.usage()
    assert (usage.contents, usage.uploads, usage.uploads_bytes) == (1, 0, 0)


def test_a_link_that_grows_too_large(directory: Path, clock: Clock) -> None:
    store = opened(directory, clock, file_bytes=10_000, user_bytes=8_192)
    number = store.receive(1)
    store.append(number, bytes(8_192))
    with pytest.raises(ShareFull):
        store.append(number, b"x")
    with pytest.raises(TooLarge):
        store.append(number, bytes(2_000))
    store.abandon(number)
    store.abandon(number)
    assert names_below(directory) == ["index"]
    assert store.usage().total == 0


def test_a_link_that_a_kill_left_is_gone(store: Store, directory: Path, clock: Clock) -> None:
    store.append(store.receive(1), b"half")
    assert "uploads/link-1" in names_below(directory)
    opened(directory, clock)
    assert names_below(directory) == ["index"]


# ---- opening


def test_an_upload_goes_on_after_a_restart(store: Store, directory: Path, clock: Clock) -> None:
    file_id, _ = begin(store, DATA)
    store.put(file_id, 1, 0, DATA[:50_000])
    again = opened(directory, clock)
    assert begin(again, DATA) == (file_id, 50_000)
    send(again, DATA)
    assert again.find(file_id).size == len(DATA)


def test_an_upload_of_another_boot_is_gone_and_its_number_too(
    directory: Path, clock: Clock
) -> None:
    store = opened(directory, clock, boot="one")
    kept = send(store, DATA)
    begin(store, b"left")
    again = opened(directory, clock, boot="two")
    assert again.freed.uploads == 1
    assert again.find(kept).size == len(DATA)
    assert begin(again, b"left").file_id > kept + 1


def test_file_ids_go_on_above_what_somebody_else_knows(store: Store) -> None:
    store.never_again(5_000)
    assert begin(store, b"x").file_id == 5_001
    store.never_again(10)
    assert begin(store, b"y").file_id == 5_002


def test_a_damaged_line_takes_no_contents_away(store: Store, directory: Path, clock: Clock) -> None:
    first, second = send(store, DATA), send(store, b"other")
    index = directory / "index"
    lines = index.read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if b'"ended"' in line)
    lines[at] = lines[at].replace(b"ended", b"endee")
    index.write_bytes(b"".join(lines))
    again = opened(directory, clock)
    assert again.freed.wrong == 1
    assert again.freed.found == 1
    assert again.get(hash_of(DATA), 0, 9) == DATA[:9]
    assert again.find(second).size == 5
    with pytest.raises(NotThere):
        again.find(first)
    assert again.verify().problems == []


def test_contents_without_an_index_are_not_touched(
    store: Store, directory: Path, clock: Clock
) -> None:
    send(store, DATA)
    (directory / "index").unlink()
    before = names_below(directory)
    with pytest.raises(Damaged, match=r"index: it is missing, although the store has contents"):
        opened(directory, clock)
    assert names_below(directory) == before


@pytest.mark.parametrize("text", [b"", b"\0" * 9, b'00000000 {"kind":"head"}\n', b"hello\n" * 9])
def test_what_is_no_index(directory: Path, clock: Clock, text: bytes) -> None:
    opened(directory, clock)
    (directory / "index").write_bytes(text)
    with pytest.raises(Damaged, match="does not begin"):
        opened(directory, clock)


def test_a_file_that_is_not_there_is_told_and_not_offered(
    store: Store, directory: Path, clock: Clock
) -> None:
    file_id = send(store, DATA)
    path = next(path for path in directory.glob("contents/*/*/*"))
    path.unlink()
    assert [each.what for each in verify(directory).problems] == ["it is not there"]
    again = opened(directory, clock)
    assert [file.file_id for file in again.freed.missing] == [file_id]
    with pytest.raises(NotThere):
        again.find(file_id)
    assert again.usage().total == 0


def test_the_index_is_written_anew_when_most_of_it_is_of_no_use(
    store: Store, directory: Path, clock: Clock
) -> None:
    for number in range(1_000):
        file_id, _ = store.begin(1, 1, hash_of(b"%d" % number), 1, "a/b", "n" * 100)
        store.put(file_id, 1, 0, b"x")
        with pytest.raises(WrongHash):
            store.end(file_id, 1)
    assert (directory / "index").stat().st_size < 100_000
    assert opened(directory, clock).usage().total == 0


# ---- the disk


def test_errors_of_the_disk_have_types() -> None:
    full = of_disk(OSError(errno.ENOSPC, "No space left on device", "/x"))
    assert isinstance(full, DiskFull)
    assert str(full) == "the disk is full: /x: No space left on device"
    assert isinstance(of_disk(OSError(errno.EDQUOT, "")), DiskFull)
    assert isinstance(of_disk(OSError(errno.EIO, "")), DiskFailed)
    assert issubclass(DiskFull, Busy)
    assert issubclass(WrongOffset, Wrong)


class Full(Disk):
    """A disk that has no space, but for what is there."""

    full = False

    def write(self, fd: int, pieces: list[Piece], offset: int) -> None:  # type: ignore[override]
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(fd, pieces, offset)


def test_on_a_full_disk_what_is_old_can_still_be_removed(directory: Path, clock: Clock) -> None:
    disk = Full()
    store = opened(directory, clock, disk)
    store.published(send(store, DATA))
    file_id, _ = begin(store, b"more")
    disk.full = True
    with pytest.raises(DiskFull):
        store.put(file_id, 1, 0, b"more")
    with pytest.raises(DiskFull):
        begin(store, b"other")
    clock.now += store.limits.retention_s * SECOND
    store.lease(file_id)
    assert store.expire(clock.now).contents == [hash_of(DATA)]
    disk.full = False
    store.put(file_id, 1, 0, b"more")
    store.end(file_id, 1)
    again = opened(directory, clock)
    assert again.freed.missing == []
    assert [each.file.file_id for each in again.files()] == [file_id]

"""The rules of the store of the rooms' events, one by one, and what it takes of the disk."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.archive.segments import RECORD, Torn, record_size
from server.journal.format import ROOM_BATCH
from tests.helpers.disk import SimulatedDisk
from tests.server.archive.rooms_model import (
    ALL,
    Player,
    Unsynced,
    asked,
    body_of,
    opened,
)


def test_a_reservation_counts_once_it_is_durable() -> None:
    store = opened(SimulatedDisk())
    store.reserve(5, 64)
    assert store.ceiling(5) == 0
    assert store.write()
    store.reserve(5, 128)
    assert store.ceiling(5) == 0
    store.sync()
    assert store.ceiling(5) == 0
    store.finish()
    assert store.ceiling(5) == 64
    store.commit()
    assert store.ceiling(5) == 128
    with pytest.raises(ValueError, match="below 128"):
        store.reserve(5, 127)


def test_one_write_and_one_sync_make_a_commit_and_none_where_nothing_is() -> None:
    store = opened(disk := SimulatedDisk(), segment_size=1 << 20)
    before = disk.calls
    store.commit()
    assert disk.calls == before
    for room in range(1, 2000):
        store.reserve(room, 8)
    store.commit()
    assert disk.log[before:] == ["write", "sync"]
    for room in range(1, 2000):
        store.append(room, 1, body_of(room, 1))
    store.commit()
    assert disk.log[before:] == ["write", "sync"] * 2


def test_events_come_in_order_once_and_within_what_is_reserved() -> None:
    store = opened(SimulatedDisk())
    store.reserve(1, 5)
    with pytest.raises(ValueError, match="0 reserved"):
        store.append(1, 1, b"early")
    store.commit()
    store.append(1, 2, b"two")
    for seq, body in ((2, b"again"), (1, b"back"), (6, b"beyond"), (3, b"")):
        with pytest.raises(ValueError, match="room 1"):
            store.append(1, seq, body)
    store.commit()
    assert store.read(1, 0, 9, ALL) == [b"two"]


def test_read_stops_at_its_limits() -> None:
    store = opened(SimulatedDisk(), keep=10)
    store.reserve(1, 10)
    store.commit()
    for seq in (1, 2, 4, 5):
        store.append(1, seq, b"%d" % seq * 10)
    assert store.read(1, 0, 10, ALL) == []
    store.commit()
    one, two, four, five = (b"%d" % seq * 10 for seq in (1, 2, 4, 5))
    assert store.read(1, 0, 10, ALL) == [one, two, four, five]
    assert store.read(1, 2, 10, ALL) == [four, five]
    assert store.read(1, 3, 10, ALL) == [four, five]
    assert store.read(1, 5, 10, ALL) == []
    assert store.read(1, 0, 2, ALL) == [one, two]
    assert store.read(1, 0, 0, ALL) == []
    assert store.read(1, 0, 10, 29) == [one, two]
    assert store.read(1, 0, 10, 30) == [one, two, four]
    assert store.read(1, 0, 10, 9) == []
    assert store.read(2, 0, 10, ALL) == []
    assert (store.oldest(1), store.last(1), store.oldest(2), store.last(2)) == (1, 5, 0, 0)


def test_what_a_lapped_process_drops_stays_away() -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    store.reserve(1, 100)
    store.commit()
    for seq in (1, 2, 3):
        store.append(1, seq, body_of(1, seq))
    store.commit()
    store.append(1, 4, body_of(1, 4))
    store.drop(1, 50)
    store.commit()
    assert asked(store) == {1: (100, 0, 0, [])}
    store = opened(disk.after_power_cut(), keep=100)
    assert asked(store) == {1: (100, 0, 0, [])}
    with pytest.raises(ValueError, match="after 49"):
        store.append(1, 49, b"late")
    store.append(1, 50, b"fifty")
    store.commit()
    assert (store.oldest(1), store.last(1)) == (50, 50)


def test_an_orderly_stop_skips_no_number_and_a_crash_goes_on_above() -> None:
    disk = SimulatedDisk()
    store = opened(disk)
    store.reserve(1, 64)
    store.reserve(2, 64)
    store.commit()
    store.append(1, 1, b"one")
    for last in (0, 65):
        with pytest.raises(ValueError, match="is the last"):
            store.settle({1: last})
    store.reserve(1, 128)
    store.settle({1: 3})
    store.close()
    store = opened(disk.after_power_cut())
    assert (store.ceiling(1), store.ceiling(2), store.last(1)) == (3, 64, 1)


def test_the_epoch_stays() -> None:
    disk = SimulatedDisk()
    assert opened(disk, new_epoch=5).epoch == 5
    for epoch in (6, 7):
        disk = disk.after_power_cut()
        assert opened(disk, new_epoch=epoch).epoch == 5
    assert opened(SimulatedDisk(), new_epoch=8).epoch == 8


def test_a_keep_that_was_lowered_and_raised_brings_no_event_back_over_a_hole() -> None:
    """The copies of old events outlive their younger neighbours; these are not offered again."""
    disk = SimulatedDisk()
    player = Player(disk, keep=6)
    player.reserve(1, 900)
    player.reserve(2, 900)
    player.commit()
    for _ in range(6):
        player.append(1)
        player.commit()
    for round_ in range(60):
        player.append(2, size=60)
        if round_ % 6 == 5:
            player.append(1)
        player.commit()
    player.reopen(disk.after_kill(), player.durable, keep=2)
    for _ in range(9):
        player.append(2, size=60)
        player.commit()
    for keep in (6, 20):
        player.reopen(player.disk.after_kill(), player.durable, keep=keep)
        player.check()


def sizes(seed: int) -> Iterator[tuple[int, int, int]]:
    """(room, body bytes, commit?) of a long run: quiet rooms, loud ones, in turns."""
    drawn = random.Random(seed)  # noqa: S311 - the same in every run
    while True:
        loud = drawn.sample(range(1, 30), drawn.randrange(1, 20))
        for _ in range(drawn.randrange(10, 600)):
            yield (
                drawn.choice(loud),
                drawn.randrange(1, 200),
                drawn.randrange(drawn.choice((1, 5)) + 1),
            )


class Reads(Unsynced):
    """How much was read."""

    total = 0

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        self.total += len(data)
        return data


@pytest.mark.parametrize("seed", range(4))
def test_disk_use_stays_within_the_bound_over_a_long_run(seed: int, tmp_path: Path) -> None:
    """Also while most of what is live goes at once; and no write reads much more than it writes."""
    disk, segment, keep = Reads(), 4096, 20
    store = opened(disk, tmp_path / "rooms", keep=keep, segment_size=segment)
    seqs = dict.fromkeys(range(1, 30), 0)
    for room in seqs:
        store.reserve(room, 10**6)
    store.commit()
    most = largest = buffered = 0
    removed = written = read = 0
    names = set(disk.names(tmp_path / "rooms"))
    for number, (room, size, commit) in zip(range(12_000), sizes(seed), strict=False):
        seqs[room] += 1
        store.append(room, seqs[room], bytes(size))
        buffered += record_size(size)
        if number % 3000 == 2999:
            for there in range(1, 25):
                store.drop(there, seqs[there] + 1)
            most = max(most, store.live)
        if commit:
            largest = max(largest, buffered + ROOM_BATCH.size + 29 * RECORD.size)
            before = disk.total
            store.commit()
            written += buffered + ROOM_BATCH.size
            read += disk.total - before
            assert disk.total - before <= 3 * (buffered + 8 * largest)
            buffered = 0
            most = max(most, store.live)
            assert store.size <= 3 * most + 6 * max(segment, largest)
            now = set(disk.names(tmp_path / "rooms"))
            removed += len(names - now)
            names = now
    assert removed > 50
    assert read < 3 * written
    told = asked(store)
    store.close()
    store = opened(Unsynced(), tmp_path / "rooms", keep=keep, segment_size=segment)
    assert asked(store) == told
    assert all(len(bodies) <= keep for _, _, _, bodies in told.values())
    store.close()


class Waits(Unsynced):
    """Which calls waited for the disk."""

    def __init__(self) -> None:
        self.waited: list[str] = []

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.waited.append("sync")

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.waited.append("sync_directory")


def test_only_sync_waits_for_the_disk(tmp_path: Path) -> None:
    """Where segments begin and go, too: whoever writes has a ring to follow."""
    disk = Waits()
    store = opened(disk, tmp_path / "rooms")
    store.reserve(1, 10**6)
    store.commit()
    new_segments = removed = 0
    for seq in range(1, 200):
        names = set(disk.names(tmp_path / "rooms"))
        store.append(1, seq, body_of(1, seq))
        disk.waited.clear()
        store.write()
        assert not disk.waited
        readable = store.readable
        if readable:
            assert store.read(1, seq - 1, 1, ALL) == [body_of(1, seq)]
        store.sync()
        begun = len(set(disk.names(tmp_path / "rooms")) - names)
        gone = len(names - set(disk.names(tmp_path / "rooms")))
        assert readable == (not begun)
        assert disk.waited.count("sync") == 1 + begun
        assert disk.waited.count("sync_directory") == begun + gone
        disk.waited.clear()
        store.finish()
        assert not disk.waited
        assert store.readable
        assert store.read(1, seq - 1, 1, ALL) == [body_of(1, seq)]
        new_segments += begun
        removed += gone
    assert new_segments > removed > 10
    store.close()


def test_it_is_made_anew_where_only_a_beginning_was_left(tmp_path: Path) -> None:
    directory = tmp_path / "rooms"
    directory.mkdir()
    (directory / f"{1:020}.rooms").write_bytes(b"trdrooms" + bytes(90))
    (directory / "notes.txt").write_text("of an operator")
    store = opened(Unsynced(), directory, new_epoch=4)
    assert (store.epoch, store.torn) == (4, Torn(directory / f"{1:020}.rooms", 0, 8))
    assert store.rooms() == []
    store.close()

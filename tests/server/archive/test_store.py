"""The store of the histories: what it refuses, what damage it sees, other limits than before."""

from collections.abc import Callable
from pathlib import Path

import pytest

from server.archive.segments import read_batch, segment_head
from server.archive.store import Identity, Store
from server.journal.errors import Damaged, OtherFormat
from server.journal.format import FORMAT_VERSION, ROOM_BATCH, ROOM_SEGMENT
from tests.helpers.disk import SimulatedDisk
from tests.server.archive.store_model import ALL, DIRECTORY, IDENTITY, Player, opened, place


def filled(disk: SimulatedDisk, events: int = 30) -> Player:
    """Some segments, all of them durable."""
    player = Player(disk)
    for number in range(events):
        player.say(1 + number % 9, size=60)
        player.write()
        player.sync()
    return player


def test_events_come_in_order_and_once() -> None:
    store = opened(SimulatedDisk())
    store.append(1, 5, 10, 1, b"a")
    for seq, event in ((5, 11), (4, 11), (6, 10), (6, 9)):
        with pytest.raises(ValueError, match="after 5, event 10"):
            store.append(1, seq, event, 1, b"b")
    store.append(2, 1, 3, 1, b"another room")
    assert store.read(1, 0, 9, ALL) == [], "it is not written"
    assert store.last(1) == store.oldest(1) == 0
    store.commit(place(10))
    assert store.read(1, 0, 9, ALL) == [b"a"]
    assert store.last(1) == store.oldest(1) == 5


def test_what_is_read_is_what_was_asked_for() -> None:
    store = opened(SimulatedDisk(), keep=100)
    for seq in range(1, 11):
        store.append(1, seq, seq, 1, b"x" * seq)
    store.commit(place(10))
    assert store.read(1, 3, 4, ALL) == [b"x" * seq for seq in (4, 5, 6, 7)]
    assert store.read(1, 0, 99, 10) == [b"x", b"xx", b"xxx", b"xxxx"]
    assert store.read(1, 10, 99, ALL) == store.read(1, 0, 0, ALL) == store.read(2, 0, 9, ALL) == []


def test_its_identity_is_what_it_was_made_with() -> None:
    disk = SimulatedDisk()
    opened(disk).commit(place(0))
    assert opened(disk, identity=Identity(1, 2)).identity == IDENTITY


@pytest.mark.parametrize("keeps", [(6, 3, 6), (6, 2, 4, 6), (3, 6, 2)])
def test_other_limits_than_before_leave_no_hole(keeps: tuple[int, ...]) -> None:
    """Whatever went meanwhile of what is no longer offered: it does not come back."""
    disk, event, last = SimulatedDisk(), 0, 0
    for keep in keeps:
        store = opened(disk, keep=keep)
        for number in range(30):
            event += 1
            room = 1 if number % 10 == 0 else 2 + number % 5
            seq = event if room > 1 else (last := last + 1)
            store.append(room, seq, event, 1, b"%d" % seq + bytes(60))
            store.commit(place(event))
        for _ in range(2):
            seqs = [int(body.rstrip(b"\0")) for body in store.read(1, 0, ALL, ALL)]
            assert seqs == list(range(last + 1 - len(seqs), last + 1))
            assert 0 < len(seqs) <= keep
            store.close()
            store = opened(disk, keep=keep)
        store.close()


Harm = Callable[[SimulatedDisk, list[Path]], None]


def flip(name: str, offset: int) -> Harm:
    def harm(disk: SimulatedDisk, paths: list[Path]) -> None:
        path = paths[{"first": 0, "middle": 1, "last": -1}[name]]
        fd = disk.open(path, writable=True)
        at = offset if offset >= 0 else disk.size(fd) + offset
        disk.write(fd, [bytes([disk.read(fd, 1, at)[0] ^ 1])], at)
        disk.close(fd)

    return harm


def removed(name: str) -> Harm:
    return lambda disk, paths: disk.remove(paths[{"first": 0, "middle": 1}[name]])


def swapped(disk: SimulatedDisk, paths: list[Path]) -> None:
    disk.rename(paths[0], DIRECTORY / "kept")
    disk.rename(paths[1], paths[0])
    disk.rename(DIRECTORY / "kept", paths[1])


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (flip("first", 30), "the segment's header is damaged"),
        (flip("first", ROOM_SEGMENT.size + 20), "is damaged or missing"),
        (flip("first", ROOM_SEGMENT.size + ROOM_BATCH.size + 9), "is damaged or missing"),
        (flip("middle", 20), "is damaged or missing"),
        (flip("middle", -20), "is damaged or missing"),
        (flip("last", 20), "are missing before it"),  # they went by its word
        (removed("first"), "are missing before it"),
        (removed("middle"), "is damaged or missing"),
        (swapped, "under another's name"),
    ],
)
def test_damage_of_what_was_durable_is_told(harm: Harm, what: str) -> None:
    player = filled(disk := SimulatedDisk())
    player.store.close()
    paths = [DIRECTORY / name for name in disk.names(DIRECTORY)]
    assert len(paths) > 3
    harm(disk, paths)
    with pytest.raises(Damaged, match=what):
        opened(disk)


def test_another_format_is_told() -> None:
    disk = SimulatedDisk()
    filled(disk).store.close()
    path = DIRECTORY / disk.names(DIRECTORY)[0]
    fd = disk.open(path, writable=True)
    head = segment_head(disk.read(fd, ROOM_SEGMENT.size, 0))
    assert head is not None
    disk.write(fd, [ROOM_SEGMENT.pack(FORMAT_VERSION + 1, *head[2:-1])], 0)
    with pytest.raises(OtherFormat, match=f"format {FORMAT_VERSION + 1}"):
        opened(disk)


def go_on(player: Player) -> None:
    for _ in range(60):
        player.say(3)
        player.write()


def test_what_was_changed_from_outside_is_not_given() -> None:
    player = filled(disk := SimulatedDisk())
    store: Store = player.store
    for room in store.rooms():
        assert store.read(room, 0, ALL, ALL)
    for name in disk.names(DIRECTORY):
        fd = disk.open(DIRECTORY / name, writable=True)
        disk.write(fd, [bytes(disk.size(fd) - ROOM_SEGMENT.size)], ROOM_SEGMENT.size)
        assert read_batch(disk, fd, ROOM_SEGMENT.size, 1) is None
        disk.close(fd)
    for room in store.rooms():
        with pytest.raises(Damaged, match="another record stands there"):
            store.read(room, 0, ALL, ALL)
    with pytest.raises(Damaged, match="no longer what it was"):
        go_on(player)
    assert store.failed

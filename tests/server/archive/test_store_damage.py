"""The store of the rooms' events on files that are not as they were written."""

import random
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from server.archive.segments import RECORD, SegmentHead, Torn, record_size
from server.journal.errors import Damaged, OtherFormat
from server.journal.format import FORMAT_VERSION, ROOM_BATCH, ROOM_SEGMENT
from server.region.layout import WORD
from tests.server.archive.rooms_model import (
    ALL,
    EPOCH,
    SEGMENT,
    Answers,
    Unsynced,
    asked,
    body_of,
    opened,
)


@dataclass
class Small:
    """A small store on real files, closed, and what it told after each commit."""

    directory: Path
    files: dict[str, bytes]
    states: list[Answers]
    last_batch: int  # its offset in the newest file
    end: int  # of that batch
    replaced: bool  # after the last commit a segment was removed

    @property
    def newest(self) -> str:
        return max(self.files)

    def restore(self) -> None:
        for path in self.directory.iterdir():
            path.unlink()
        for name, data in self.files.items():
            (self.directory / name).write_bytes(data)

    def change(self, name: str, data: bytes) -> None:
        self.restore()
        (self.directory / name).write_bytes(data)

    def open(self) -> tuple[Answers, Torn | None]:
        store = opened(Unsynced(), self.directory, new_epoch=EPOCH + 1)
        try:
            return asked(store), store.torn
        finally:
            store.close()

    def open_or_damage(self) -> tuple[Answers, Torn | None] | Damaged:
        try:
            return self.open()
        except Damaged as damage:
            return damage


PLAIN: Final = 21
REPLACING: Final = 23
"""Commits: the last one begins no segment, and no segment is removed after it; or one is."""


@pytest.fixture(params=[PLAIN, REPLACING])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Small:
    directory = tmp_path / "rooms"
    store = opened(Unsynced(), directory)
    states = [asked(store)]
    seqs = {1: 0, 2: 0}
    for room in seqs:
        store.reserve(room, 60)
    store.commit()
    states.append(asked(store))
    for number in range(request.param):
        room = 1 if number % 5 else 2
        seqs[room] += 1
        store.append(room, seqs[room], body_of(room, seqs[room]))
        if number == 9:
            store.drop(1, seqs[1] - 1)
        if number == 12:
            store.reserve(1, 90)
        before, names = store._offset, Unsynced().names(directory)
        store.commit()
        states.append(asked(store))
    replaced = not set(names) <= set(Unsynced().names(directory))
    end = store._offset
    store.close()
    files = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
    return Small(directory, files, states, before, end, replaced)


def test_the_small_store_is_as_the_tests_need_it(small: Small) -> None:
    assert len(small.files) > 2
    assert not min(small.files).startswith(f"{1:020}")  # some were cleaned
    assert ROOM_SEGMENT.size < small.last_batch < small.end < SEGMENT
    assert small.replaced == (len(small.states) == REPLACING + 2)
    assert small.open()[0] == small.states[-1]


def test_a_byte_that_is_not_as_it_was_is_found_or_in_the_last_batch(small: Small) -> None:
    for name, data in small.files.items():
        newest = name == small.newest
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 0x55
            small.change(name, bytes(changed))
            found = small.open_or_damage()
            last = newest and small.last_batch <= at < small.end
            if isinstance(found, Damaged):
                assert small.replaced or not last
                assert found.path == small.directory / name
                assert found.offset <= at
            elif last:  # as if it had not been written wholly, and nothing has gone because of it
                assert not small.replaced
                size = small.end - small.last_batch
                torn = Torn(small.directory / name, small.last_batch, size)
                assert found == (small.states[-2], torn)
            else:  # zeros that nobody reads, behind the last batch
                assert newest
                assert at >= small.end
                torn = Torn(small.directory / name, small.end, at + 1 - small.end)
                assert found == (small.states[-1], torn)


def test_a_file_that_was_cut_is_a_prefix_or_damaged(small: Small) -> None:
    for name, data in small.files.items():
        for size in range(len(data)):
            small.change(name, data[:size])
            found = small.open_or_damage()
            if isinstance(found, Damaged):
                assert name != small.newest or "missing" in found.what
            else:
                assert name == small.newest
                assert found[0] in small.states
                assert size < small.end or found[0] == small.states[-1]
                assert size >= small.end or not small.replaced


def test_a_segment_that_is_missing_is_damage(small: Small) -> None:
    for name in sorted(small.files)[:-1]:
        small.restore()
        (small.directory / name).unlink()
        with pytest.raises(Damaged, match="missing"):
            small.open()
    small.restore()
    for name in sorted(small.files)[:-1]:
        (small.directory / name).unlink()
    (small.directory / small.newest).write_bytes(bytes(SEGMENT))
    with pytest.raises(Damaged, match="missing"):
        small.open()


def test_a_segment_under_anothers_name_is_damage(small: Small) -> None:
    first, *_ = sorted(small.files)
    small.restore()
    (small.directory / first).rename(small.directory / first.replace("00.", "99."))
    (small.directory / small.newest).write_bytes(small.files[first])
    with pytest.raises(Damaged):
        small.open()


def test_another_format_is_told(small: Small) -> None:
    data = small.files[small.newest]
    head = SegmentHead._make(memoryview(data)[: ROOM_SEGMENT.size].cast("Q").tolist())
    header = ROOM_SEGMENT.pack(FORMAT_VERSION + 1, *head[2:-1])
    small.change(small.newest, header + data[ROOM_SEGMENT.size :])
    with pytest.raises(OtherFormat, match=f"format {FORMAT_VERSION + 1}"):
        small.open()


def test_damage_that_came_later_is_found_when_it_is_read(tmp_path: Path) -> None:
    store = opened(Unsynced(), tmp_path / "rooms", segment_size=4096)
    store.reserve(1, 10)
    store.commit()
    store.append(1, 1, body_of(1, 1))
    store.commit()
    (path,) = (tmp_path / "rooms").iterdir()
    data = path.read_bytes()
    at = data.index(body_of(1, 1)) - RECORD.size
    path.write_bytes(data[:at] + b"\7" + data[at + 1 :])
    with pytest.raises(Damaged) as caught:
        store.read(1, 0, 10, ALL)
    assert (caught.value.path, caught.value.offset) == (path, at)
    store.close()


def test_damage_that_came_later_is_not_copied(tmp_path: Path) -> None:
    store = opened(Unsynced(), tmp_path / "rooms")
    for room in (1, 2):
        store.reserve(room, 999)
    store.commit()
    store.append(2, 1, body_of(2, 1))
    store.commit()
    path = min((tmp_path / "rooms").iterdir())
    data = path.read_bytes()
    at = data.index(body_of(2, 1))
    path.write_bytes(data[:at] + b"R" + data[at + 1 :])
    seqs = count(1)

    def speak_until_it_is_cleaned() -> None:
        for seq in seqs:
            store.append(1, seq, body_of(1, seq))
            store.commit()

    with pytest.raises(Damaged) as caught:
        speak_until_it_is_cleaned()
    assert caught.value.path == path
    with pytest.raises(OSError, match="failed before"):
        store.commit()
    store.close()


def test_bytes_that_a_client_made_are_no_batch(tmp_path: Path) -> None:
    """A body has a whole valid batch of another store in it, and is torn behind that."""
    other = opened(Unsynced(), tmp_path / "other", salt=random.Random(1).randbytes)  # noqa: S311
    other.reserve(1, 5)
    other.commit()
    other.close()
    (path,) = (tmp_path / "other").iterdir()
    batch = path.read_bytes()[ROOM_SEGMENT.size :][: ROOM_BATCH.size + RECORD.size]
    assert batch.startswith(b"trdroomb")
    store = opened(Unsynced(), tmp_path / "rooms", segment_size=4096)
    store.reserve(1, 10)
    store.commit()
    told, at = asked(store), store._offset
    store.append(1, 1, batch + b"more")
    store.commit()
    store.close()
    (path,) = (tmp_path / "rooms").iterdir()
    data = bytearray(path.read_bytes())
    data[store._offset - WORD] ^= 1
    path.write_bytes(data)
    store = opened(Unsynced(), tmp_path / "rooms", segment_size=4096)
    assert store.torn == Torn(path, at, ROOM_BATCH.size + record_size(len(batch) + 4) - 4)
    assert asked(store) == told
    store.close()


def one_segment(directory: Path) -> Path:
    """A store of one segment with three batches of one size behind the reservation."""
    store = opened(Unsynced(), directory, segment_size=4096)
    store.reserve(1, 9)
    store.commit()
    for seq in (1, 2, 3):
        store.append(1, seq, body_of(1, seq))
        store.commit()
    store.close()
    (path,) = directory.iterdir()
    return path


def test_the_only_segment_under_anothers_name_is_damage(tmp_path: Path) -> None:
    path = one_segment(tmp_path / "rooms")
    path.rename(path.with_name(path.name.replace("1.", "2.")))
    with pytest.raises(Damaged, match="another's name"):
        opened(Unsynced(), path.parent, segment_size=4096)


def test_batches_in_another_order_are_damage(tmp_path: Path) -> None:
    path = one_segment(tmp_path / "rooms")
    data = path.read_bytes()
    size = ROOM_BATCH.size + record_size(40)
    first = ROOM_SEGMENT.size + ROOM_BATCH.size + RECORD.size  # behind the reservation
    one, two = data[first : first + size], data[first + size : first + 2 * size]
    path.write_bytes(data[:first] + two + one + data[first + 2 * size :])
    with pytest.raises(Damaged, match="in the place of"):
        opened(Unsynced(), path.parent, segment_size=4096)

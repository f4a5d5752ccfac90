"""How far the journal is durable is noted in a second place: so a torn write, which was never
answered for, is told from the loss of what was.
"""

import errno
import itertools
from pathlib import Path

import pytest

from server.journal.disk import read_file
from server.journal.errors import Damaged
from server.journal.format import BATCH, BATCH_END, POSITION, POSITION_FILE
from server.journal.position import PositionFile, read
from server.journal.reader import SECTOR, Position, Reader, find_end
from server.region.records import RECORD_SIZE
from tests.helpers import disk as simulated
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, at_random
from tests.server.journal import (
    DIRECTORY,
    LOG_ID,
    Size,
    after,
    append,
    disk_of,
    files_of,
    length,
    name_of,
    new_disk,
    open_writer,
)

FILE = DIRECTORY.parent / POSITION_FILE
SIZES = (Size(2, 1), Size(9, 2), Size(2), Size(0, 3), Size(1), Size(0, 1), Size(1, 1))


def position(number: int) -> Position:
    return Position(number, number * 2, number * 3, number * 4, bytes([number]) * 32)


def noted_on(disk: SimulatedDisk) -> PositionFile:
    return PositionFile(disk, FILE, LOG_ID)


# ---- the file by itself


def test_the_newest_is_read() -> None:
    disk = new_disk()
    assert read(disk, FILE, LOG_ID) is None
    noted = noted_on(disk)
    assert read(disk, FILE, LOG_ID) is None
    for number in range(1, 9):
        noted.write(position(number))
        assert read(disk, FILE, LOG_ID) == position(number)
        if number % 3 == 0:
            noted.close()
            noted = noted_on(disk)  # the next server goes on with it
            assert read(disk, FILE, LOG_ID) == position(number)
    noted.close()
    assert disk.open_files == 0
    assert read(disk, FILE, LOG_ID + 1) is None, "of another log"


def test_it_is_as_the_table_says() -> None:
    disk = new_disk()
    noted = noted_on(disk)
    noted.write(position(1))
    noted.write(position(2))
    second = POSITION.pack(LOG_ID, 2, *position(2)).ljust(SECTOR, b"\0")
    first = POSITION.pack(LOG_ID, 1, *position(1)).ljust(SECTOR, b"\0")
    assert read_file(disk, FILE) == second + first


def test_one_is_written_at_a_time_and_synced_when_it_has_changed() -> None:
    disk = new_disk()
    noted = noted_on(disk)
    disk.log.clear()
    noted.sync()
    noted.write(position(1))
    noted.write(position(2))
    noted.sync()
    noted.sync()
    assert disk.log == ["write", "write", "sync"]


@pytest.mark.parametrize("survives", [*ADVERSARIES.values(), *map(at_random, range(9))])
def test_a_power_cut_leaves_one_that_is_as_new_as_the_last_sync(
    survives: simulated.Survivors,
) -> None:
    for at in itertools.count(1):
        disk = new_disk()
        synced = 0
        disk.cut_at, disk.part = at, 0.5
        try:
            noted = noted_on(disk)
            for number in range(1, 7):
                noted.write(position(number))
                if number % 2 == 0:
                    noted.sync()
                    synced = number
        except PowerCut:
            pass
        else:
            break
        found = read(disk.after_power_cut(survives), FILE, LOG_ID)
        assert (found.segment if found else 0) >= synced
        assert found in (None, *map(position, range(7)))
    assert at > 12


def test_every_byte_changed_leaves_the_one_before() -> None:
    disk = new_disk()
    noted = noted_on(disk)
    noted.write(position(1))
    noted.write(position(2))
    fd = disk.open(FILE, writable=True)
    for at in range(2 * SECTOR):
        place = at // SECTOR  # the second stands first
        (byte,) = disk.read(fd, 1, at)
        disk.write(fd, [bytes([byte ^ 1 << at % 8])], at)
        is_used = at % SECTOR < POSITION.size
        expected = position(1) if is_used and place == 0 else position(2)
        assert read(disk, FILE, LOG_ID) == expected
        disk.write(fd, [bytes([byte])], at)


@pytest.mark.parametrize("size", [0, 1, POSITION.size - 1, POSITION.size, SECTOR, SECTOR + 50])
def test_one_that_was_cut_is_written_on(size: int) -> None:
    disk = new_disk()
    noted = noted_on(disk)
    noted.write(position(1))
    noted.write(position(2))
    fd = disk.open(FILE, writable=True)
    disk.truncate(fd, size)
    assert read(disk, FILE, LOG_ID) == (position(2) if size >= POSITION.size else None)
    noted = noted_on(disk)
    noted.write(position(3))
    assert read(disk, FILE, LOG_ID) == position(3)


def test_an_error_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = new_disk()
    noted_on(disk)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk, "read", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        read(disk, FILE, LOG_ID)
    assert caught.value.filename == str(FILE)


# ---- with the journal


class Answered:
    """A journal whose every batch was answered for, and where each ends."""

    def __init__(self) -> None:
        self.disk = new_disk()
        self.ends: list[Position] = []
        writer, noted = open_writer(self.disk, segment_size=3000), noted_on(self.disk)
        for each in after(writer, SIZES, 0):
            append(writer, each)
            noted.write(writer.position)
            self.ends.append(writer.position)
        self.files = files_of(self.disk)
        self.path = DIRECTORY / name_of(self.ends[-1].segment)

        assert read(self.disk, FILE, LOG_ID) == self.ends[-1]

    def changed(self, place: int, content: bytes) -> SimulatedDisk:
        """The batch at a place has this content."""
        end = self.ends[place]
        name = name_of(end.segment)
        at = end.offset - len(content)
        old = self.files[name]
        return disk_of({**self.files, name: old[:at] + content + old[end.offset :]})


def content_of(answered: Answered, place: int) -> bytes:
    end, sizes = answered.ends[place], after(open_writer(new_disk()), SIZES, 0)
    return answered.files[name_of(end.segment)][end.offset - length(sizes[place]) : end.offset]


def test_a_flipped_bit_in_the_last_batch_is_refused() -> None:
    """But for one in its events, which alone are lost, or in its closing word."""
    answered = Answered()
    whole = content_of(answered, -1)
    records = BATCH.size + SIZES[-1].txns * RECORD_SIZE
    for at in range(len(whole)):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        disk = answered.changed(-1, bytes(content))
        for start in (None, answered.ends[0], answered.ends[-2]):
            if at >= records:
                *_, last = Reader(disk, DIRECTORY, LOG_ID).batches(start)
                assert last.end == answered.ends[-1]
                assert last.lost == (at < len(whole) - len(BATCH_END))
                continue
            with pytest.raises(Damaged) as refused:
                list(Reader(disk, DIRECTORY, LOG_ID).batches(start))
            assert refused.value.path == answered.path
            assert refused.value.offset == answered.ends[-2].offset


def test_a_flipped_bit_in_the_last_two_batches_is_refused() -> None:
    answered = Answered()
    for at in (0, 100, 190):
        disk = answered.disk.after_kill()
        for place in (-2, -1):
            end = answered.ends[place]
            fd = disk.open(DIRECTORY / name_of(end.segment), writable=True)
            start = end.offset - len(content_of(answered, place)) + at
            disk.write(fd, [bytes([disk.read(fd, 1, start)[0] ^ 1])], start)
        with pytest.raises(Damaged) as refused:
            list(Reader(disk, DIRECTORY, LOG_ID).batches(answered.ends[0]))
        assert refused.value.offset == answered.ends[-3].offset


@pytest.mark.parametrize("places", [1, 2, 3])
def test_the_last_batches_zeroed_are_refused(places: int) -> None:
    answered = Answered()
    disk = answered.disk.after_kill()
    for place in range(1, places + 1):
        end, size = answered.ends[-place], len(content_of(answered, -place))
        fd = disk.open(DIRECTORY / name_of(end.segment), writable=True)
        disk.write(fd, [bytes(size)], end.offset - size)
    with pytest.raises(Damaged, match="known to stand before"):
        find_end(disk, DIRECTORY, LOG_ID, answered.ends[-1])
    # Without it, it would be the end of a journal like any other.
    assert find_end(disk, DIRECTORY, LOG_ID, None).position[:2] < answered.ends[-places][:2]


def test_a_file_that_ends_with_an_earlier_batch_is_refused() -> None:
    answered = Answered()
    newest = answered.ends[-1].segment
    inside = [end for end in answered.ends[:-1] if end.segment == newest]
    assert inside
    for end in inside:
        disk = answered.disk.after_kill()
        fd = disk.open(answered.path, writable=True)
        disk.truncate(fd, end.offset)
        assert find_end(disk, DIRECTORY, LOG_ID, None).position == end
        with pytest.raises(Damaged, match="too short"):
            find_end(disk, DIRECTORY, LOG_ID, answered.ends[-1])


def test_a_newest_segment_that_was_deleted_is_missed() -> None:
    answered = Answered()
    disk = answered.disk.after_kill()
    disk.remove(answered.path)
    assert find_end(disk, DIRECTORY, LOG_ID, None).last > 0
    with pytest.raises(Damaged, match=f"segment {answered.ends[-1].segment} is missing"):
        find_end(disk, DIRECTORY, LOG_ID, answered.ends[-1])


def test_a_position_before_the_end_is_good() -> None:
    """As a power cut leaves it, which the sync of a batch came before."""
    answered = Answered()
    for end in answered.ends:
        found = find_end(answered.disk, DIRECTORY, LOG_ID, end)
        assert found.position == answered.ends[-1]


def test_a_journal_that_went_another_way_is_noticed() -> None:
    """Of the same log, as long, and good by itself."""
    answered, other = Answered(), new_disk()
    writer = open_writer(other, segment_size=3000)
    for each in after(writer, SIZES, 9):
        append(writer, each)
    writer.close()
    assert writer.position[:4] == answered.ends[-1][:4]
    assert find_end(other, DIRECTORY, LOG_ID, None).position == writer.position
    for end in answered.ends:
        with pytest.raises(Damaged):
            find_end(other, DIRECTORY, LOG_ID, end)


def test_a_torn_batch_behind_it_is_cut() -> None:
    answered = Answered()
    disk = answered.disk.after_kill()
    writer = open_writer(disk)
    (batch,) = after(writer, [Size(8, 4)], 1)
    append(writer, batch)
    end, name = answered.ends[-1], name_of(writer.position.segment)
    files, start = files_of(disk), writer.position.offset - length(batch)
    whole = files[name]
    assert name != answered.path.name
    for sector in range(start // SECTOR, (writer.position.offset - 1) // SECTOR + 1):
        at, upto = max(start, sector * SECTOR), (sector + 1) * SECTOR
        left = whole[:at] + bytes(min(upto, len(whole)) - at) + whole[upto:]
        torn = disk_of({**files, name: left})
        found = find_end(torn, DIRECTORY, LOG_ID, end)
        assert found.position[2:4] == end[2:4]
        assert found.torn
        open_writer(torn)
        assert find_end(torn, DIRECTORY, LOG_ID, end).torn == 0


def test_no_such_place(tmp_path: Path) -> None:
    assert read(simulated.SimulatedDisk(tmp_path), tmp_path / POSITION_FILE, LOG_ID) is None

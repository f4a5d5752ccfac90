"""Single records by txn_id, out of a journal that grows and loses its oldest segments; and what
that may cost, however large it is."""

import os
import random
import tracemalloc
from pathlib import Path

import pytest

from server.archive import history as module
from server.archive.history import History
from server.journal.disk import Disk
from server.journal.errors import Damaged
from server.journal.format import BATCH, SEGMENT
from server.journal.reader import segments
from server.region.records import RECORD_SIZE, RECORD_WORDS
from tests.server.archive.rooms_model import Unsynced
from tests.server.journal import Written, append, batches, open_writer

SMALL = 2000  # bytes of a segment
LARGE = 1 << 20


class Durable:
    """What may be read."""

    last = 0

    def __call__(self) -> int:
        return self.last


def words_of(written: list[Written], txn: int) -> tuple[int, ...]:
    """Of a record, as it was written."""
    each = next(each for each in written if each.first <= txn < each.first + each.size)
    at = (txn - each.first) * RECORD_WORDS
    return tuple(memoryview(each.records).cast("Q")[at : at + RECORD_WORDS].tolist())


def written_to(directory: Path, sizes: list[int], segment_size: int) -> list[Written]:
    writer = open_writer(Unsynced(), directory, segment_size)
    written = batches(sizes)
    for each in written:
        append(writer, each)
    writer.close()
    return written


def damaged(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :]


@pytest.mark.parametrize("segment_size", [SMALL, LARGE])
def test_what_is_durable_is_read_as_it_was_written_and_nothing_else(
    segment_size: int, tmp_path: Path
) -> None:
    drawn = random.Random(3)  # noqa: S311 - the same in every run
    durable = Durable()
    history = History(Disk(), tmp_path, durable)
    writer = open_writer(Unsynced(), tmp_path, segment_size)
    written = batches([drawn.choice((1, 1, 2, 7, 40, 300)) for _ in range(120)])
    assert history.read(1) is None
    for done, each in enumerate(written, 1):
        append(writer, each)
        assert history.read(writer.last) is None, "written, and not told to be durable"
        durable.last = writer.last
        for txn in (writer.last, each.first, drawn.randint(1, durable.last)):
            assert history.read(txn) == words_of(written[:done], txn)
    writer.close()
    assert history.read(0) is history.read(durable.last + 1) is None
    for txn in drawn.sample(range(1, durable.last + 1), 300):
        assert history.read(txn) == words_of(written, txn)


def test_a_batch_that_is_damaged_is_told_with_its_place_and_the_others_are_read(
    tmp_path: Path,
) -> None:
    durable = Durable()
    written = written_to(tmp_path, [2] * 400, LARGE)
    durable.last = 800
    (path,) = segments(Disk(), tmp_path)
    offset = SEGMENT.size + 30 * (BATCH.size + 2 * RECORD_SIZE)
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, offset + BATCH.size + 20))
    history = History(Disk(), tmp_path, durable)
    for txn in (1, 60, 63, 800):
        assert history.read(txn) == words_of(written, txn)
    for txn in (61, 62):
        with pytest.raises(Damaged, match="the batch is damaged") as raised:
            history.read(txn)
        assert str(offset) in str(raised.value)
    path.write_bytes(damaged(whole, offset + 16))  # its first txn_id: the way ends here
    history = History(Disk(), tmp_path, durable)
    assert history.read(60) == words_of(written, 60)
    with pytest.raises(Damaged, match="no batch of transaction 61") as raised:
        history.read(700)
    assert str(offset) in str(raised.value)


def test_what_is_being_written_is_not_remembered(tmp_path: Path) -> None:
    durable = Durable()
    written = written_to(tmp_path, [2, 2, 2], LARGE)
    durable.last = 4
    (path,) = segments(Disk(), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, SEGMENT.size + 3 * (BATCH.size + 2 * RECORD_SIZE) - 20))
    history = History(Disk(), tmp_path, durable)
    assert history.read(1) == words_of(written, 1)
    path.write_bytes(whole)
    durable.last = 6
    assert history.read(5) == words_of(written, 5)


def test_segments_that_are_removed_are_the_end_of_it(tmp_path: Path) -> None:
    durable = Durable()
    written = written_to(tmp_path, [3] * 20, SMALL)
    durable.last = 60
    history = History(Disk(), tmp_path, durable)
    assert history.read(60) == words_of(written, 60)
    first, second = segments(Disk(), tmp_path)[:2]
    first.unlink()
    assert history.read(1) is None
    kept = int(second.name.partition(".")[0])
    assert history.read(kept) == words_of(written, kept)
    assert history.read(kept - 1) is None


def test_no_file_stays_open_however_many_segments_are_read(tmp_path: Path) -> None:
    durable = Durable()
    written = written_to(tmp_path, [2] * 400, SMALL)
    durable.last = 800
    assert len(segments(Disk(), tmp_path)) > module.MARKED
    history = History(Disk(), tmp_path, durable)
    before = os.listdir("/proc/self/fd")
    for txn in [*range(800, 0, -3), *range(1, 801, 3)]:
        assert history.read(txn) == words_of(written, txn)
        assert os.listdir("/proc/self/fd") == before


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Batches of any size: many small ones, and one that is larger than the bound."""
    monkeypatch.setattr(module, "CACHED", 1 << 18)
    durable = Durable()
    sizes = [1] * 4000 + [200] * 40 + [3000] + [200] * 40
    written_to(tmp_path, sizes, 8 << 20)
    durable.last = sum(sizes)
    history = History(Disk(), tmp_path, durable)
    tracemalloc.start()
    try:
        for txn in range(durable.last, 0, -50):
            assert history.read(txn) is not None
            size = tracemalloc.get_traced_memory()[0]
            assert size < (1 << 19) + (3000 * RECORD_SIZE if 11000 < txn < 16000 else 0)
    finally:
        tracemalloc.stop()

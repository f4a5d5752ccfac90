"""Single records by txn_id, out of a journal that grows and loses its oldest segments; and what
that may cost, however large it is."""

import os
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from server.archive import history as module
from server.archive.follower import Durable
from server.archive.history import History
from server.journal import format as journal_format
from server.journal.disk import Disk
from server.journal.errors import Damaged
from server.journal.format import BATCH, SEGMENT, segment_head
from server.journal.reader import segments
from server.region.records import RECORD_SIZE, RECORD_WORDS
from tests.server.archive.store_model import Unsynced
from tests.server.journal import Size, Written, append, batches, length, open_writer

SMALL = 3000  # bytes of a segment
LARGE = 1 << 20


class Told:
    """What may be read: so many transactions; all events, if it is not told otherwise."""

    def __init__(self, last: int = 0) -> None:
        self.last, self.event = last, 1 << 40

    def __call__(self) -> Durable:
        return Durable(self.last, self.event)


def words_of(written: Sequence[Written], txn: int) -> tuple[int, ...]:
    """Of a record, as it was written."""
    each = next(each for each in written if each.first <= txn < each.first + each.size)
    at = (txn - each.first) * RECORD_WORDS
    return tuple(memoryview(each.records).cast("Q")[at : at + RECORD_WORDS].tolist())


def written_to(directory: Path, sizes: Sequence[Size | int], segment_size: int) -> list[Written]:
    writer = open_writer(Unsynced(), directory, segment_size)
    written = batches(sizes)
    for each in written:
        append(writer, each)
    writer.close()
    return written


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def first_of(path: Path) -> int:
    head = segment_head(path.read_bytes()[: SEGMENT.size])
    assert head is not None
    return head.first_txn


@pytest.mark.parametrize("segment_size", [SMALL, LARGE])
def test_what_is_durable_is_read_as_it_was_written_and_nothing_else(
    segment_size: int, tmp_path: Path
) -> None:
    """With batches in between that have events alone, some of them all of a segment."""
    drawn = random.Random(3)  # noqa: S311 - the same in every run
    told = Told()
    history = History(Disk(), tmp_path, told)
    writer = open_writer(Unsynced(), tmp_path, segment_size)
    sizes = []
    for _ in range(200):
        events = drawn.choice((0, 0, 1, 30))
        txns = drawn.choice((0, 0, 1, 1, 2, 7, 40, 300) if events else (1, 1, 2, 7, 40, 300))
        sizes.append(Size(txns, events))
    written = batches(sizes)
    assert history.read(1) is None
    for done, each in enumerate(written, 1):
        append(writer, each)
        if each.size:
            assert history.read(writer.last) is None, "written, and not told to be durable"
        told.last, told.event = writer.last, writer.position.event
        for txn in {told.last, min(each.first, told.last), drawn.randint(0, told.last)} - {0}:
            assert history.read(txn) == words_of(written[:done], txn)
    writer.close()
    assert history.read(0) is history.read(told.last + 1) is None
    for txn in drawn.sample(range(1, told.last + 1), 300):
        assert history.read(txn) == words_of(written, txn)


def test_a_batch_that_is_damaged_is_told_with_its_place_and_the_others_are_read(
    tmp_path: Path,
) -> None:
    sizes = [Size(2, number % 2) for number in range(400)]
    written = written_to(tmp_path, sizes, LARGE)
    (path,) = segments(Disk(), tmp_path)
    offset = SEGMENT.size + sum(map(length, written[:30]))
    damage(path, offset + BATCH.size + 20)
    history = History(Disk(), tmp_path, Told(800))
    for txn in (1, 60, 63, 800):
        assert history.read(txn) == words_of(written, txn)
    for txn in (61, 62):
        with pytest.raises(Damaged, match=f"offset {offset}: the batch is damaged"):
            history.read(txn)
    damage(path, offset + BATCH.size + 20)
    damage(path, offset + 16)  # its header: the way ends here
    history = History(Disk(), tmp_path, Told(800))
    assert history.read(60) == words_of(written, 60)
    with pytest.raises(Damaged, match=f"offset {offset}: no batch of transaction 61"):
        history.read(700)
    damage(path, offset + 16)
    damage(path, offset + length(written[30]) + BATCH.size + 2 * RECORD_SIZE + 8)  # an event
    assert History(Disk(), tmp_path, Told(800)).read(700) == words_of(written, 700)


def test_a_segment_whose_header_is_damaged_takes_no_other_with_it(tmp_path: Path) -> None:
    written = written_to(tmp_path, [3] * 20, SMALL)
    paths = segments(Disk(), tmp_path)
    firsts = [first_of(path) for path in paths]
    assert len(paths) > 4
    damage(paths[2], 40)
    history = History(Disk(), tmp_path, Told(60))
    for txn in range(1, 61):
        if firsts[2] <= txn < firsts[3]:
            with pytest.raises(Damaged, match=f"no batch of transaction {firsts[2]}"):
                history.read(txn)
        else:
            assert history.read(txn) == words_of(written, txn)
    damage(paths[0], 40)
    history = History(Disk(), tmp_path, Told(60))
    with pytest.raises(Damaged, match="the segment's header is damaged"):
        history.read(60)  # nobody knows where the journal begins


def test_what_is_being_written_is_not_remembered(tmp_path: Path) -> None:
    """It may be cut off, and another batch be written in its place."""
    # A few batches, and as many as are looked at in one go.
    many = (module._RUN - BATCH.size) // length(batches([2])[0])
    for count, size in ((1, Size(2)), (1, Size(0, 9)), (many, Size(0, 30))):
        directory = tmp_path / f"{count} {size.events}"
        directory.mkdir()
        writer = open_writer(Unsynced(), directory, LARGE)
        *before, lost = batches([*[2] * count, size])
        for each in before:
            append(writer, each)
        offset = writer.position.offset
        append(writer, lost)
        writer.close()
        last = 2 * count
        told = Told(last)
        told.event = 0
        history = History(Disk(), directory, told)
        for txn in (1, last):
            assert history.read(txn) == words_of(before, txn)
        (path,) = segments(Disk(), directory)
        path.write_bytes(path.read_bytes()[:offset].ljust(LARGE, b"\0"))
        writer = open_writer(Unsynced(), directory, LARGE)
        others = batches([Size(3, 1)], last, generation=1)
        append(writer, others[0])
        writer.close()
        told.last, told.event = last + 3, writer.position.event
        for txn in (last + 3, 1, last):
            assert history.read(txn) == words_of([*before, *others], txn)


def test_segments_that_are_removed_are_the_end_of_it(tmp_path: Path) -> None:
    written = written_to(tmp_path, [3] * 20, SMALL)
    history = History(Disk(), tmp_path, Told(60))
    assert history.read(60) == words_of(written, 60)
    first, second = segments(Disk(), tmp_path)[:2]
    first.unlink()
    assert history.read(1) is None
    kept = first_of(second)
    assert history.read(kept) == words_of(written, kept)
    assert history.read(kept - 1) is None


def test_no_file_stays_open_however_many_segments_are_read(tmp_path: Path) -> None:
    written = written_to(tmp_path, [2] * 400, SMALL)
    assert len(segments(Disk(), tmp_path)) > module.MARKED
    history = History(Disk(), tmp_path, Told(800))
    before = os.listdir("/proc/self/fd")
    for txn in [*range(800, 0, -3), *range(1, 801, 3)]:
        assert history.read(txn) == words_of(written, txn)
        assert os.listdir("/proc/self/fd") == before


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Batches of any size: many small ones, and one that is larger than the bound."""
    monkeypatch.setattr(module, "CACHED", 1 << 18)
    sizes = [1] * 4000 + [200] * 40 + [3000] + [200] * 40
    written_to(tmp_path, sizes, 8 << 20)
    history = History(Disk(), tmp_path, Told(sum(sizes)))
    tracemalloc.start()
    try:
        for txn in range(sum(sizes), 0, -50):
            assert history.read(txn) is not None
            size = tracemalloc.get_traced_memory()[0]
            assert size < (1 << 19) + (3000 * RECORD_SIZE if 11000 < txn < 16000 else 0)
    finally:
        tracemalloc.stop()


def test_no_call_holds_the_interpreter_for_a_whole_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The thread that reads old records would keep the other one from its questions: the CRC is
    computed of headers alone, and SHA-256 lets others run."""
    called: list[int] = []
    crc64 = journal_format.crc64

    def counted(data: bytes, crc: int = 0) -> int:
        called.append(len(data))
        return int(crc64(data, crc))

    written_to(tmp_path, [2000], LARGE)
    monkeypatch.setattr(journal_format, "crc64", counted)
    assert History(Disk(), tmp_path, Told(2000)).read(7) is not None
    assert called
    assert max(called) <= BATCH.size

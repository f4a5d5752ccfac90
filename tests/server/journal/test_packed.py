"""Segments that are packed as they go: nothing of them is missed, whenever everything ended, and
they go in their time."""

import itertools
from pathlib import Path

import pytest

from server.archive.follower import Durable
from server.archive.history import History
from server.journal import packed, upkeep
from server.journal.disk import read_file
from server.journal.errors import Damaged
from server.journal.format import TEMPORARY
from server.journal.reader import Batch, Reader, heads, segments
from server.journal.upkeep import Needed, oldest_txn, remove_segments
from server.region.records import RECORD_WORDS
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, at_random
from tests.server.archive.journals import DIRECTORY, LOG_ID, Journal, new_disk
from tests.server.journal.test_spill import FullDisk, written

ALL = 1 << 40
EVER = 0


def shorten(disk: SimulatedDisk, since: int | None, segment: int = ALL) -> int:
    """As the journal does that keeps nothing for the sake of its size; the oldest transaction that
    it tells."""
    told = list[int]()
    remove_segments(disk, DIRECTORY, Needed(segment, ALL, ALL), 0, told.append, since)
    return told[-1]


def all_of(disk: SimulatedDisk) -> list[Batch]:
    return list(Reader(disk, DIRECTORY, LOG_ID).batches())


def records(found: list[Batch]) -> dict[int, tuple[int, ...]]:
    """By txn_id, as they were written."""
    words = [word for batch in found for word in batch.words()]
    rows = [tuple(words[at : at + RECORD_WORDS]) for at in range(0, len(words), RECORD_WORDS)]
    return {row[0]: row for row in rows}


def readable(disk: SimulatedDisk, journal: Journal) -> dict[int, tuple[int, ...]]:
    """All that TXN_HISTORY can read, by txn_id."""
    durable = Durable(journal.durable.txn, journal.durable.event)
    history = History(disk, DIRECTORY, lambda: durable)
    found = {txn: history.read(txn) for txn in range(durable.txn + 1, 0, -1)}
    return {txn: record for txn, record in found.items() if record is not None}


def ends(disk: SimulatedDisk) -> list[int]:
    """When each segment ended, that another follows."""
    return [head.created for _, head in heads(disk, DIRECTORY)[1:]]


def test_of_a_segment_everything_is_kept() -> None:
    disk = new_disk()
    journal = written(disk)
    before, paths, files = all_of(disk), segments(disk, DIRECTORY), disk.open_files
    whole = sum(len(read_file(disk, path)) for path in paths[:-1])
    assert shorten(disk, EVER) == 1 == oldest_txn(disk, DIRECTORY)
    assert segments(disk, DIRECTORY) == paths[-1:]
    there = packed.paths(disk, DIRECTORY)
    assert len(there) == len(paths) - 1 > 8
    found = [batch for path in there for batch in packed.batches(disk, path)] + all_of(disk)
    assert [(each.offset, each.head, each.end) for each in found] == [
        (each.offset, each.head, each.end) for each in before
    ]
    assert [bytes(each.events) for each in found] == [bytes(each.events) for each in before]
    assert sum(len(read_file(disk, path)) for path in there) < whole / 2
    assert readable(disk, journal) == records(before)
    assert disk.open_files == files


def test_it_is_read_in_blocks() -> None:
    """However they are cut: across their borders, and behind the end."""
    disk = new_disk()
    journal = Journal(disk, segment=200_000)
    for number in range(40):
        journal.say(room=1, size=3000 + number)
        journal.commit(txns=30)
    journal.again()
    journal.start()
    (path, head), *_, (_, following) = heads(disk, DIRECTORY)[:2]
    whole = read_file(disk, path)
    packed.write(disk, path, head, following)
    there = packed.Packed(disk, packed.path_of(DIRECTORY, head.number))
    size = there.head.length
    assert size > 2 * packed.BLOCK
    assert not whole[size:].strip(b"\0")
    for offset in range(0, size + 1000, 7919):
        for length in (1, 200, packed.BLOCK, 3 * packed.BLOCK):
            assert there.read(length, offset) == whole[:size][offset : offset + length]
    there.close()


def test_what_is_asked_while_segments_are_packed() -> None:
    """By an archive that knew them as they were."""
    disk = new_disk()
    journal = written(disk)
    expected = records(all_of(disk))
    history = History(disk, DIRECTORY, lambda: Durable(*journal.durable))
    assert {txn: history.read(txn) for txn in expected} == expected
    count = len(segments(disk, DIRECTORY))
    for segment in range(2, count + 1):
        shorten(disk, EVER, segment)
        for txn in (1, len(expected) // 2, len(expected)):
            assert history.read(txn) == expected[txn]
    assert {txn: history.read(txn) for txn in expected} == expected


def test_they_go_in_their_time_and_at_once_where_none_is_to_be_kept() -> None:
    disk = new_disk()
    journal = written(disk)
    expected, all_ends = records(all_of(disk)), ends(disk)
    firsts = [head.first_txn for _, head in heads(disk, DIRECTORY)]
    shorten(disk, EVER)
    for gone in range(0, len(all_ends) + 1, 3):
        since = all_ends[gone] if gone < len(all_ends) else all_ends[-1] + 1
        kept = [end for end in all_ends if end >= since]
        first = firsts[len(all_ends) - len(kept)]
        assert shorten(disk, since) == first == oldest_txn(disk, DIRECTORY)
        assert len(packed.paths(disk, DIRECTORY)) == len(kept)
        assert readable(disk, journal) == {n: r for n, r in expected.items() if n >= first}
    disk = new_disk()
    written(disk)
    shorten(disk, EVER, segment=5)
    assert len(packed.paths(disk, DIRECTORY)) == 4
    assert shorten(disk, None, segment=5) == firsts[4]
    assert packed.paths(disk, DIRECTORY) == []


def test_what_is_too_old_already_is_not_packed() -> None:
    disk = new_disk()
    written(disk)
    all_ends = ends(disk)
    shorten(disk, all_ends[4])
    assert len(packed.paths(disk, DIRECTORY)) == len(
        [end for end in all_ends if end >= all_ends[4]]
    )


def test_packing_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is packed the next time."""
    monkeypatch.setattr(upkeep, "PACKING_S", -1.0)
    disk = new_disk()
    journal = written(disk)
    expected, count = records(all_of(disk)), len(segments(disk, DIRECTORY))
    shorten(disk, EVER)
    assert (len(segments(disk, DIRECTORY)), packed.paths(disk, DIRECTORY)) == (count, [])
    monkeypatch.setattr(upkeep, "PACKING_S", 3600.0)
    shorten(disk, EVER)
    assert len(packed.paths(disk, DIRECTORY)) == count - 1
    assert readable(disk, journal) == expected


def test_behind_a_gap_there_is_no_history() -> None:
    """As where an older version has removed segments meanwhile."""
    disk = new_disk()
    journal = written(disk)
    expected = records(all_of(disk))
    firsts = [head.first_txn for _, head in heads(disk, DIRECTORY)]
    shorten(disk, EVER, segment=7)
    disk.remove(packed.path_of(DIRECTORY, 4))
    assert oldest_txn(disk, DIRECTORY) == firsts[4]
    there = readable(disk, journal)
    assert there == {txn: record for txn, record in expected.items() if txn >= firsts[4]}


def test_a_power_cut_at_any_call_loses_nothing() -> None:
    whole = new_disk()
    journal = written(whole, turns=1)
    expected = records(all_of(whole))
    for call in itertools.count(1):
        disk = whole.after_kill()
        disk.cut_at = disk.calls + call
        try:
            shorten(disk, EVER)
        except PowerCut:
            for survives in (*ADVERSARIES.values(), at_random(call)):
                left = disk.after_power_cut(survives)
                assert readable(left, journal) == expected
                assert oldest_txn(left, DIRECTORY) == 1
                assert shorten(left, EVER) == 1
                assert readable(left, journal) == expected
                assert not [name for name in left.names(DIRECTORY) if name.endswith(TEMPORARY)]
        else:
            assert call > 30
            return


@pytest.mark.parametrize("written_out", range(3))
def test_on_a_full_disk_the_segment_stays(written_out: int) -> None:
    disk = FullDisk()
    disk.make_directory(DIRECTORY)
    disk.sync_directory(DIRECTORY.parent)
    journal = written(disk)
    paths, expected = segments(disk, DIRECTORY), records(all_of(disk))
    disk.writes_left = written_out
    shorten(disk, EVER)
    assert segments(disk, DIRECTORY) == paths[written_out:]
    assert len(packed.paths(disk, DIRECTORY)) == written_out
    assert not [name for name in disk.names(DIRECTORY) if name.endswith(TEMPORARY)]
    assert readable(disk, journal) == expected


def flipped(disk: SimulatedDisk, path: Path, offset: int) -> SimulatedDisk:
    left = disk.after_kill()
    fd = left.open(path, writable=True)
    (byte,) = left.read(fd, 1, offset)
    left.write(fd, [bytes([byte ^ 0x10])], offset)
    left.close(fd)
    return left


def test_a_packed_segment_that_was_changed_is_damaged() -> None:
    disk = new_disk()
    written(disk)
    shorten(disk, EVER)
    path = packed.paths(disk, DIRECTORY)[0]
    whole, damaged = records(list(packed.batches(disk, path))), 0
    size = len(read_file(disk, path))
    for offset in range(size):
        try:
            found = list(packed.batches(flipped(disk, path, offset), path))
        except Damaged:
            damaged += 1
        else:
            assert records(found) == whole, "it says the same: a bit that fills a byte up"
    assert damaged > size - 40
    left = disk.after_kill()
    left.rename(path, packed.path_of(DIRECTORY, 99))
    with pytest.raises(Damaged, match="under another's name"):
        list(packed.batches(left, packed.path_of(DIRECTORY, 99)))

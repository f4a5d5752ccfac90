"""All that was made durable is loaded, from whatever is there of it; and what is missing is told,
with its place.
"""

from pathlib import Path

import pytest

from server.journal.disk import read_file
from server.journal.errors import Damaged, JournalError, OtherFormat
from server.journal.format import BATCH, FORMAT_VERSION, SNAPSHOT, numbered
from server.journal.load import load, make_snapshot
from server.journal.reader import Reader, segments
from server.journal.snapshot import SUFFIX, newest, paths, read
from server.journal.writer import Writer
from server.region.layout import WORD
from server.region.records import OFFSETS, RECORD_SIZE, RecordKind
from tests.helpers.disk import SimulatedDisk
from tests.server.journal.history import (
    JOURNAL,
    NOW,
    SNAPSHOTS,
    VARIED,
    History,
    batches,
    damage,
    folded,
    history,
    loaded_from,
    new_disk,
    remove,
    snapshot_at,
    truth_of,
    write_journal,
)


def test_a_snapshot_at_every_moment_is_the_replay_to_it() -> None:
    """Each is made from the one before it; a batch may go on after it."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head, 5)
        for txn in range(1, worked.head + 1):
            assert snapshot_at(disk, txn) == txn
            found = read(disk, numbered(SNAPSHOTS, txn, SUFFIX))
            assert vars(found.books) == vars(folded(worked.records(1, txn)))
            assert truth_of(found.books) == worked.truths[txn]
            assert found.head.durable == txn
            assert found.head.time == NOW + txn


def test_without_a_good_snapshot_all_of_the_journal_is_folded() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        for upto in (9, 14):
            snapshot_at(disk, upto)
        for path in paths(disk, SNAPSHOTS):
            damage(disk, path, b"bad")
        loaded = loaded_from(disk)
        assert [error.path for error in loaded.bad] == paths(disk, SNAPSHOTS)
        assert loaded.head is None
        assert truth_of(loaded.books) == worked.truths[-1]
        # Where its beginning is gone, too, nothing is left to begin with.
        remove(disk, segments(disk, JOURNAL)[0])
        with pytest.raises(JournalError) as caught:
            loaded_from(disk)
        for path in (*paths(disk, SNAPSHOTS), JOURNAL):
            assert str(path) in str(caught.value)
        remove(disk, *segments(disk, JOURNAL))
        with pytest.raises(JournalError, match="no snapshot is good"):
            loaded_from(disk)
        # Without any snapshot it is the journal that is told of.
        remove(disk, *paths(disk, SNAPSHOTS))
        assert loaded_from(disk).books.txn == 0


def test_a_journal_without_its_beginning_and_no_snapshot_is_told() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        remove(disk, segments(disk, JOURNAL)[0])
        with pytest.raises(Damaged, match="transactions 1 to 9 are missing"):
            loaded_from(disk)


# ---- what was acknowledged and is missing


@pytest.mark.parametrize("good", [True, False])
def test_a_journal_that_ends_before_the_newest_snapshot_is_told(good: bool) -> None:
    """Whether that snapshot can be read or not: its name tells what was durable."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head, size=1 << 20)
        snapshot_at(disk, 9)
        upto = 20
        snapshot_at(disk, upto)
        if not good:
            damage(disk, numbered(SNAPSHOTS, upto, SUFFIX), b"bad")
        path = segments(disk, JOURNAL)[0]
        fd = disk.open(path, writable=True)
        for batch in reversed(batches(disk)):
            disk.truncate(fd, batch.offset + 1)  # torn
            if batch.first > upto:
                assert loaded_from(disk).end.last == batch.first - 1
                continue
            with pytest.raises(Damaged) as caught:
                loaded_from(disk)
            assert (caught.value.path, caught.value.offset) == (path, batch.offset)
            last = batch.first - 1
            assert caught.value.what == (
                f"the journal ends with transaction {last}, and all up to {upto} were acknowledged"
            )
        disk.close(fd)
        remove(disk, path)
        with pytest.raises(Damaged) as caught:
            loaded_from(disk)
        assert caught.value.path == JOURNAL
        unborn = numbered(JOURNAL, 5, "journal")
        disk.close(disk.create(unborn))
        with pytest.raises(Damaged) as caught:
            loaded_from(disk)
        assert caught.value.path == unborn


def test_durable_beyond_the_snapshot_is_required() -> None:
    """The header tells more than the name where more was durable."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, 12)
        snapshot_at(disk, 6)
        path = numbered(SNAPSHOTS, 6, SUFFIX)
        data = read_file(disk, path)
        words = [int.from_bytes(data[at : at + 8], "little") for at in range(8, 72, 8)]
        for durable in (12, 13):
            words[4] = durable
            body = data[SNAPSHOT.size :]
            damage(disk, path, SNAPSHOT.pack(*words, rest=(body,)))
            if durable == 12:
                assert loaded_from(disk).end.last == 12
        with pytest.raises(Damaged, match="all up to 13"):
            loaded_from(disk)


def _forge(disk: SimulatedDisk, worked: History, wrong: int) -> tuple[Path, int]:
    """A journal, valid in all its CRCs, with a balance that is wrong; where that record stands."""
    writer = Writer(disk, JOURNAL, Reader(disk, JOURNAL).end, 2000, lambda: NOW)
    for first in range(1, worked.head + 1, 4):
        count = min(4, worked.head + 1 - first)
        records = bytearray(worked.records(first, first + count - 1))
        if first <= wrong < first + count:
            at = (wrong - first) * RECORD_SIZE + OFFSETS[RecordKind.TRANSFER]["from_balance"] * WORD
            records[at] ^= 1
        writer.append([bytes(records)], count)
    writer.close()
    (batch,) = [b for b in batches(disk) if b.first <= wrong <= b.last]
    return batch.path, batch.offset + BATCH.size + (wrong - batch.first) * RECORD_SIZE


def test_a_record_that_does_not_follow_is_told_with_its_place() -> None:
    with history(*VARIED) as worked:
        for wrong in range(1, worked.head + 1):
            if worked.record(wrong)[1] != RecordKind.TRANSFER:
                continue
            disk = new_disk()
            path, offset = _forge(disk, worked, wrong)
            with pytest.raises(Damaged) as caught:
                loaded_from(disk)
            assert (caught.value.path, caught.value.offset) == (path, offset)
            assert f"transaction {wrong} does not follow" in caught.value.what
            with pytest.raises(Damaged, match=f"transaction {wrong} does not follow"):
                make_snapshot(disk, JOURNAL, SNAPSHOTS, worked.head, None, NOW)
            assert disk.names(SNAPSHOTS) == []
            make_snapshot(disk, JOURNAL, SNAPSHOTS, wrong - 1, None, NOW)
            with pytest.raises(Damaged, match=f"transaction {wrong} does not follow"):
                loaded_from(disk)


def test_a_snapshot_of_another_format_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = new_disk()
    with history() as worked:
        write_journal(disk, worked, worked.head)
        with monkeypatch.context() as patched:
            patched.setattr("server.journal.snapshot.FORMAT_VERSION", FORMAT_VERSION + 1)
            snapshot_at(disk, 3)
        with pytest.raises(OtherFormat):
            loaded_from(disk)
        with pytest.raises(OtherFormat):
            make_snapshot(disk, JOURNAL, SNAPSHOTS, 4, None, NOW)


# ---- making snapshots


def test_nothing_new_makes_no_snapshot() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        assert snapshot_at(disk, 0) == 0
        assert disk.names(SNAPSHOTS) == []
        assert snapshot_at(disk, 7) == 7
        calls = disk.calls
        assert snapshot_at(disk, 7) == snapshot_at(disk, 3) == 7
        assert disk.calls == calls


def test_a_bad_snapshot_is_told_and_made_anew() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        for upto in (5, 8):
            snapshot_at(disk, upto)
        path = numbered(SNAPSHOTS, 8, SUFFIX)
        damage(disk, path, b"bad")
        made = make_snapshot(disk, JOURNAL, SNAPSHOTS, 8, None, NOW)
        assert (made.txn, [error.path for error in made.bad]) == (8, [path])
        snapshot, bad = newest(disk, SNAPSHOTS)
        assert snapshot is not None
        assert not bad
        assert truth_of(snapshot.books) == worked.truths[8]


def test_what_is_being_written_is_not_looked_at() -> None:
    """Behind `upto` stands anything: a half-written batch and a whole one after it."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head, 3, 1 << 20)
        batch = batches(disk)[4]
        damage(disk, batch.path, b"\0" * 100, at=batch.offset + 50)
        with pytest.raises(Damaged):
            loaded_from(disk)
        assert snapshot_at(disk, batch.first - 1) == batch.first - 1
        with pytest.raises(Damaged):
            snapshot_at(disk, batch.first)


def test_a_journal_that_does_not_reach_it_makes_no_snapshot() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, 10)
        with pytest.raises(Damaged, match="ends with transaction 10, and all up to 11"):
            snapshot_at(disk, 11)
        snapshot_at(disk, 10)
        with pytest.raises(Damaged, match="ends with transaction 10, and all up to 11"):
            snapshot_at(disk, 11)
        assert disk.names(SNAPSHOTS) == [f"{10:020}.snapshot"]


# ---- progress


def test_progress_is_told() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        for start in (0, 7):
            if start:
                snapshot_at(disk, start)
            told: list[tuple[int, int]] = []

            def progress(done: int, total: int, told: list[tuple[int, int]] = told) -> None:
                told.append((done, total))

            load(disk, JOURNAL, SNAPSHOTS, progress)
            done, totals = zip(*told, strict=True)
            assert list(done) == sorted(set(done))
            assert done[-1] == worked.head - start
            assert len(set(totals)) == 1
            assert done[-1] <= totals[0] <= done[-1] + 2000 // RECORD_SIZE

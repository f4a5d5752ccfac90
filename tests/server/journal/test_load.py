"""All that was made durable is loaded, from whatever is there of it; and what is missing is told,
with its place.
"""

import errno
from pathlib import Path

import pytest

from server.journal.disk import read_file
from server.journal.errors import Damaged, JournalError, OtherFormat
from server.journal.format import BATCH, FORMAT_VERSION, numbered
from server.journal.load import load, make_snapshot
from server.journal.reader import Position, find_end, segments
from server.journal.snapshot import newest, path_of, paths, read
from server.region.layout import WORD
from server.region.records import OFFSETS, RECORD_SIZE, RecordKind
from tests.helpers.disk import SimulatedDisk
from tests.server.journal.history import (
    CHATTY,
    JOURNAL,
    LOG_ID,
    NOW,
    SNAPSHOTS,
    VARIED,
    History,
    batches,
    damage,
    history,
    loaded_from,
    new_disk,
    open_writer,
    position_of,
    remove,
    snapshot_at,
    snapshot_of,
    truth_of,
    write_journal,
)


def make_at(disk: SimulatedDisk, upto: Position, now: int = NOW) -> int:
    """The txn_id of the newest snapshot."""
    return make_snapshot(disk, JOURNAL, SNAPSHOTS, LOG_ID, upto, None, now).txn


def test_a_snapshot_at_every_moment_is_the_replay_to_it() -> None:
    """Each is made from the one before it, at a batch's end."""
    disk = new_disk()
    with history(*CHATTY) as worked:
        write_journal(disk, worked, worked.head, 2)
        for batch in batches(disk):
            end, moment = batch.end, worked.moments.index(batch.end[2:4])
            assert make_at(disk, end, NOW + moment) == end.txn
            found = read(disk, path_of(SNAPSHOTS, end.txn, end.event), LOG_ID)
            assert vars(found.books) == vars(loaded_from(disk_until(disk, end)).books)
            assert truth_of(found.books) == worked.shown[moment]
            assert found.head.position == end
            assert found.head.time == NOW + moment


def disk_until(disk: SimulatedDisk, end: Position) -> SimulatedDisk:
    """Its journal up to a place, and no snapshots."""
    left = disk.after_kill()
    for path in segments(left, JOURNAL):
        if path > numbered(JOURNAL, end.segment, "journal"):
            left.remove(path)
    fd = left.open(numbered(JOURNAL, end.segment, "journal"), writable=True)
    left.truncate(fd, end.offset)
    left.close(fd)
    remove(left, *paths(left, SNAPSHOTS))
    return left


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
        remove(disk, *paths(disk, SNAPSHOTS))
        assert loaded_from(disk).books.txn == 0  # a start refuses it, see test_start.py


def test_a_journal_without_its_beginning_and_no_snapshot_is_told() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
        remove(disk, segments(disk, JOURNAL)[0])
        with pytest.raises(JournalError, match="needs a snapshot, there is none"):
            loaded_from(disk)


# ---- what was acknowledged and is missing


@pytest.mark.parametrize("good", [True, False])
def test_a_journal_that_ends_before_the_newest_snapshot_is_told(good: bool) -> None:
    """Whether that snapshot can be read or not: its name tells what was durable."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head, 3, size=1 << 20)
        snapshot_at(disk, 9)
        upto = snapshot_at(disk, 18)
        if not good:
            damage(disk, snapshot_of(disk, upto), b"bad")
        path = segments(disk, JOURNAL)[0]
        fd = disk.open(path, writable=True)
        for batch in reversed(batches(disk)):
            disk.truncate(fd, batch.offset)
            if batch.first > upto:
                assert loaded_from(disk).end.last == batch.first - 1
                continue
            with pytest.raises(Damaged) as caught:
                loaded_from(disk)
            assert (caught.value.path, caught.value.offset) == (path, batch.offset)
            if not good and batch.first > 9:
                assert caught.value.what == (
                    f"the journal ends with transaction {batch.first - 1}, and all up to {upto} "
                    "were acknowledged: its end is missing or damaged"
                )
            else:
                assert caught.value.what == "the file is too short: its end is missing"
        disk.close(fd)
        remove(disk, path)
        with pytest.raises(Damaged, match="segment 1 is missing") as caught:
            loaded_from(disk)
        unborn = numbered(JOURNAL, 2, "journal")
        disk.close(disk.create(unborn))
        with pytest.raises(Damaged) as caught:
            loaded_from(disk)
        assert caught.value.path == unborn


def test_what_was_noted_is_required() -> None:
    """Whatever is lost behind it, with a snapshot and without one; what it says less is no harm."""
    disk = new_disk()
    with history(*CHATTY) as worked:
        write_journal(disk, worked, worked.head, 4)
        found = batches(disk)
        for snapshot in (0, 6):
            if snapshot:
                snapshot_at(disk, snapshot)
            for noted in found:
                books = loaded_from(disk, noted.end).books
                assert truth_of(books) == worked.truths[-1]
        for last in found[-6:]:
            left = disk_until(disk, last.end)
            for noted in found:
                if noted.end[:2] <= last.end[:2]:
                    assert loaded_from(left, noted.end).books.txn == last.end.txn
                else:
                    with pytest.raises(Damaged, match=r"were acknowledged|is missing"):
                        loaded_from(left, noted.end)


def test_a_journal_that_is_not_the_noted_one_is_refused() -> None:
    """Two copies of a directory have gone their own ways: nothing of one goes with the other."""
    disk = new_disk()
    with history(*CHATTY) as worked:
        write_journal(disk, worked, 8)
        snapshot_at(disk, 6)
        one, other = disk.after_kill(), disk.after_kill()
        write_journal(one, worked, worked.head, 5)  # the same, in other batches
        write_journal(other, worked, worked.head)
        snapshot_at(other, 12)
        snapshot_at(other, 16)
        for disks in ((one, other), (other, one)):
            here, there = disks
            snapshot, _ = newest(here, SNAPSHOTS, LOG_ID)
            assert snapshot is not None
            for batch in batches(there):
                noted = batch.end
                if noted in [each.end for each in batches(here)]:
                    loaded_from(here, noted)
                elif noted[:2] >= snapshot.head.position[:2]:
                    with pytest.raises(Damaged):
                        loaded_from(here, noted)
        # Its snapshots neither: the newest one counts, and the journal does not go on from it.
        for path in paths(other, SNAPSHOTS):
            mixed = one.after_kill()
            if path.name not in mixed.names(SNAPSHOTS):
                fd = mixed.create(path)
                mixed.write(fd, [read_file(other, path)], 0)
                mixed.close(fd)
                with pytest.raises(Damaged):
                    loaded_from(mixed)
                with pytest.raises(Damaged):
                    make_snapshot(
                        mixed, JOURNAL, SNAPSHOTS, LOG_ID, batches(other)[-1].end, None, NOW
                    )


@pytest.mark.parametrize("what", ["bit", "zeros", "gone"])
def test_damage_below_a_good_snapshot_stops_nobody(what: str) -> None:
    """Any batch, any header: the state is the snapshot and what follows it."""
    disk = new_disk()
    with history(*CHATTY) as worked:
        write_journal(disk, worked, worked.head, 3)
        snapshot_at(disk, 15)
        found, start = batches(disk), position_of(disk, 15)
        below = [batch for batch in found if batch.end[:2] <= start[:2]]
        assert len({batch.path for batch in below}) > 3
        for batch in below[:: 1 if what == "bit" else 3]:
            left = disk.after_kill()
            size = batch.end.offset - batch.offset
            if what == "gone":
                if batch.end.segment == start.segment:
                    continue
                left.remove(batch.path)
            else:
                fd = left.open(batch.path, writable=True)
                at, bad = batch.offset, bytes(size)
                if what == "bit":
                    at += size // 2
                    bad = bytes([left.read(fd, 1, at)[0] ^ 4])
                left.write(fd, [bad], at)
                left.close(fd)
            loaded = loaded_from(left, found[-1].end)
            assert truth_of(loaded.books) == worked.truths[-1]
            assert find_end(left, JOURNAL, LOG_ID, found[-1].end).last == worked.head
            # And the next snapshot is made from it.
            assert make_at(left, found[-1].end) == worked.head


def test_a_newest_snapshot_that_cannot_be_read_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = new_disk()
    with history(*CHATTY) as worked:
        write_journal(disk, worked, worked.head)
        for upto in (9, 14):
            snapshot_at(disk, upto)
        path, real = paths(disk, SNAPSHOTS)[0], disk.open

        def fail(opened: Path, *, writable: bool = False) -> int:
            if opened == path:
                raise OSError(errno.EIO, "Input/output error", str(opened))
            return real(opened, writable=writable)

        monkeypatch.setattr(disk, "open", fail)
        loaded = loaded_from(disk)
        assert truth_of(loaded.books) == worked.truths[-1]
        assert loaded.head is not None
        assert loaded.head.txn_id == 9
        assert [str(error) for error in loaded.bad] == [
            f"{path}, offset 0: it cannot be read: Input/output error"
        ]


def test_a_copy_of_a_live_directory_is_good_or_refused() -> None:
    """Each of its files is copied at some moment, in whatever order, while it is written to. What
    comes of it is a state that was durable, or a refusal with the reason."""
    moments: list[tuple[SimulatedDisk, Position]] = []
    disk = new_disk()
    with history(*CHATTY) as worked:
        for txn in range(2, worked.head + 1, 3):
            write_journal(disk, worked, txn, 3)
            if txn % 2:
                snapshot_at(disk, txn)
            noted = batches(disk)[-1].end
            moments.append((disk.after_kill(), noted))
        truths = [truth_of(loaded_from(each).books) for each, _ in moments]
        good = refused = 0
        for journal in range(len(moments)):
            for snapshots in range(len(moments)):
                for position in range(len(moments)):
                    copied = moments[journal][0].after_kill()
                    remove(copied, *paths(copied, SNAPSHOTS))
                    for path in paths(moments[snapshots][0], SNAPSHOTS):
                        fd = copied.create(path)
                        copied.write(fd, [read_file(moments[snapshots][0], path)], 0)
                        copied.close(fd)
                    try:
                        books = loaded_from(copied, moments[position][1]).books
                    except JournalError as error:
                        assert str(JOURNAL) in str(error)  # noqa: PT017 - it need not be raised
                        assert journal < max(snapshots, position)
                        refused += 1
                        continue
                    assert truth_of(books) == truths[journal]
                    assert journal >= position
                    good += 1
        assert good > 20
        assert refused > 20


def test_segments_copied_at_different_moments_are_good_or_refused() -> None:
    disk = new_disk()
    with history(*CHATTY) as worked:
        kept = []
        for txn in range(4, worked.head + 1, 4):
            write_journal(disk, worked, txn, 2)
            kept.append((disk.after_kill(), loaded_from(disk).end.last))
        whole, last = kept[-1]
        outcomes = set()
        for older, _ in kept[:-1]:
            for path in segments(older, JOURNAL):
                mixed = whole.after_kill()
                mixed.remove(path)
                fd = mixed.create(path)
                mixed.write(fd, [read_file(older, path)], 0)
                mixed.close(fd)
                try:
                    assert loaded_from(mixed).end.last == last
                    outcomes.add("good")
                except Damaged:
                    outcomes.add("refused")
        assert outcomes == {"good", "refused"}


def _forge(disk: SimulatedDisk, worked: History, wrong: int) -> tuple[Path, int]:
    """A journal, valid in all its hashes, with a balance that is wrong; where that record is."""
    writer = open_writer(disk)
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
            end = batches(disk)[-1].end
            with pytest.raises(Damaged, match=f"transaction {wrong} does not follow"):
                make_at(disk, end)
            assert disk.names(SNAPSHOTS) == []
            make_at(disk, position_of(disk, wrong - 1))
            with pytest.raises(Damaged, match=f"transaction {wrong} does not follow"):
                loaded_from(disk)


def test_an_event_that_does_not_follow_is_told_with_its_place() -> None:
    with history(*CHATTY) as worked:
        for (_, before), (_, event) in zip(worked.moments, worked.moments[1:], strict=False):
            events = worked.events(before + 1, event)
            if not events:
                continue
            disk, number = new_disk(), int.from_bytes(events[0][:WORD], "little")
            writer = open_writer(disk)
            records = worked.records(1, worked.head)
            whole = b"".join(worked.events(1, number - 1))
            wrong = bytearray(events[0])
            wrong[3 * WORD] ^= 1  # its number in the room or inbox
            writer.append([records], worked.head, [whole, bytes(wrong)], number + 1)
            with pytest.raises(Damaged, match=f"event {number} does not follow") as caught:
                loaded_from(disk)
            (batch,) = batches(disk)
            assert (caught.value.path, caught.value.offset) == (batch.path, batch.offset)


def test_half_a_pair_is_told() -> None:
    """A transaction without the event that it was published with, an event without its own."""
    with history(*CHATTY) as worked:
        at = OFFSETS[RecordKind.TRANSFER]
        pairs = [
            txn
            for txn in range(1, worked.head + 1)
            if worked.record(txn)[1] == RecordKind.TRANSFER and worked.record(txn)[at["event"]]
        ]
        assert len(pairs) > 3
        for txn in pairs:
            number = worked.record(txn)[at["event"]]
            disk = new_disk()
            writer = open_writer(disk)
            events = worked.events(1, number - 1)
            writer.append([worked.records(1, txn)], txn, events, number)
            with pytest.raises(Damaged, match=f"transaction {txn} does not follow: the event that"):
                loaded_from(disk)
            disk = new_disk()
            writer = open_writer(disk)
            events = worked.events(1, number)
            writer.append([worked.records(1, txn - 1)], txn - 1, events, number + 1)
            with pytest.raises(Damaged, match=f"event {number} does not follow: transaction {txn}"):
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
            make_at(disk, position_of(disk, 4))


# ---- making snapshots


def test_nothing_new_makes_no_snapshot() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head)
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
        path, end = snapshot_of(disk, 8), position_of(disk, 8)
        damage(disk, path, b"bad")
        made = make_snapshot(disk, JOURNAL, SNAPSHOTS, LOG_ID, end, None, NOW)
        assert (made.txn, [error.path for error in made.bad]) == (8, [path])
        snapshot, bad = newest(disk, SNAPSHOTS, LOG_ID)
        assert snapshot is not None
        assert not bad
        assert truth_of(snapshot.books) == worked.truths[8]


def test_what_is_being_written_is_not_looked_at() -> None:
    """Behind `upto` stands anything: a half-written batch and a whole one after it."""
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, worked.head, 3, 1 << 20)
        batch, before = batches(disk)[4], batches(disk)[3].end
        end = batch.end
        damage(disk, batch.path, b"\0" * 100, at=batch.offset + 50)
        with pytest.raises(Damaged):
            loaded_from(disk)
        assert make_at(disk, before) == before.txn
        with pytest.raises(Damaged):
            make_at(disk, end)


def test_a_journal_that_does_not_reach_it_makes_no_snapshot() -> None:
    disk = new_disk()
    with history(*VARIED) as worked:
        write_journal(disk, worked, 11)
        end, before = position_of(disk, 11), position_of(disk, 10)
        left = disk_until(disk, before)
        for _ in range(2):
            with pytest.raises(Damaged, match="ends with transaction 10, and all up to 11"):
                make_at(left, end)
            make_at(left, before)
        assert [path.name for path in paths(left, SNAPSHOTS)] == [f"{10:020}-{0:020}.snapshot"]


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

            load(disk, JOURNAL, SNAPSHOTS, LOG_ID, None, progress)
            done, totals = zip(*told, strict=True)
            assert list(done) == sorted(set(done))
            assert done[-1] == worked.head - start
            assert len(set(totals)) == 1
            assert done[-1] <= totals[0] <= done[-1] + 2000 // RECORD_SIZE

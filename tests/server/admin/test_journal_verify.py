"""What verify says of a data directory: of every file the truth, and whether a server starts."""

import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from server.admin.journal_repair import carry_out, plan
from server.admin.journal_verify import (
    CHAT_REFUSED,
    DEALT_WITH,
    LOST,
    OF_AN_OLDER_EPOCH,
    ONLY_HISTORY,
    PASSED_OVER,
    Report,
    verify,
)
from server.journal import packed, spill
from server.journal.directory import DirectoryUnusable, Identity
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, JournalError, OtherFormat
from server.journal.format import BATCH, POSITION, SEGMENT, SNAPSHOT
from server.journal.position import PositionFile
from server.journal.reader import SECTOR, Batch, Reader, number_of, segments
from server.journal.snapshot import paths as snapshot_paths
from server.journal.snapshot import read as read_snapshot
from server.journal.snapshot import write as write_snapshot
from server.journal.upkeep import Needed, remove_segments
from server.region.records import RECORD_SIZE
from tests.helpers.disk import SimulatedDisk
from tests.server.admin.bank import (
    DATA,
    NOW,
    SECRET,
    Bank,
    batch_of,
    batches,
    break_at,
    cut_at,
    log_id,
    state,
)


def content(disk: Disk) -> dict[Path, bytes]:
    files = [DATA.identity_file, DATA.position]
    files += [d / name for d in (DATA.journal, DATA.snapshots) for name in disk.names(d)]
    return {path: read_file(disk, path) for path in files}


def told(disk: Disk) -> Report:
    """What verify says, having changed nothing; whether a server starts is tried."""
    before = content(disk)
    report = verify(disk, DATA)
    assert content(disk) == before
    if report.refusal:
        with pytest.raises(JournalError, match=re.escape(report.refusal)):
            state(disk)
    else:
        books = state(disk)
        assert (report.txn, report.event) == (books.txn, books.event)
    return report


def wrong(report: Report) -> list[tuple[Path, int, str]]:
    """Every problem: file, offset, effect."""
    return [
        (file.path, problem.offset, problem.effect)
        for file in report.files.values()
        for problem in file.problems
    ]


def worked(*, last_stops: bool = True) -> tuple[SimulatedDisk, Bank]:
    """Three runs, and a snapshot at the end of each; the last run was killed, or stopped."""
    bank = Bank()
    bank.work()
    bank.work()
    bank.work(stops=last_stops, snapshot=last_stops)
    assert isinstance(bank.disk, SimulatedDisk)
    return bank.disk, bank


@pytest.mark.parametrize("stops", [True, False], ids=["stopped", "killed"])
def test_what_is_good_is_told_file_by_file(*, stops: bool) -> None:
    disk, bank = worked(last_stops=stops)
    report = told(disk)
    assert report.is_good
    assert report.notes == []
    assert set(report.files) == set(content(disk))
    last = bank.commits[-1]
    assert (report.txn, report.event, report.oldest) == (last.txn, last.event, 1)
    holds = [file.holds for file in report.files.values()]
    assert holds[0] == f"log {log_id(disk):016x}"
    first = batches(disk)[1]
    assert holds[1].startswith(f"transactions {first.first} to ")
    assert ", events 1 to " in holds[1]
    assert any(text.startswith("the state at transaction ") for text in holds)
    assert f"durable were transaction {last.txn} and event {last.event}" in holds[-1]


def test_damage_below_a_snapshot_is_only_history() -> None:
    """One bit in an early transaction, and two good snapshots above it."""
    disk, bank = worked()
    hit = batch_of(disk, 3)
    break_at(disk, hit.path, hit.offset + BATCH.size + 50)
    report = told(disk)
    assert not report.is_good
    assert wrong(report) == [(hit.path, hit.offset, ONLY_HISTORY)]
    assert report.txn == bank.commits[-1].txn
    others = [file for file in report.files.values() if file.path != hit.path]
    assert all(not file.problems for file in others)


def test_every_place_that_is_damaged_is_told() -> None:
    """In one segment and in the next, headers too; what is between is read."""
    disk, _ = worked()
    first, second, third = segments(disk, DATA.journal)
    in_first = [each for each in batches(disk) if each.path == first and each.count]
    break_at(disk, first, in_first[0].offset + BATCH.size + 9)
    break_at(disk, first, in_first[2].offset + 20)  # a header
    break_at(disk, second, 30)
    report = told(disk)
    places = [(path, offset) for path, offset, _ in wrong(report)]
    assert places[:2] == [(first, in_first[0].offset), (first, in_first[2].offset)]
    assert (second, 0) in places
    assert "transactions" in report.files[first].holds
    assert report.files[second].holds == "nothing that can be read"
    assert not report.files[third].problems


def break_events(disk: SimulatedDisk, txn: int) -> Batch:
    """Those of the batch that a transaction is in."""
    hit = batch_of(disk, txn)
    assert hit.head.events_size
    break_at(disk, hit.path, hit.offset + BATCH.size + hit.count * RECORD_SIZE + 9)
    return hit


def test_of_damaged_events_it_says_what_a_server_does() -> None:
    """Above the newest snapshot, before a start has found it and after; and below."""
    disk, bank = worked(last_stops=False)
    old = break_events(disk, 3)
    hit = break_events(disk, bank.commits[-2].txn)
    report = told(disk)
    assert report.refusal == ""
    assert wrong(report) == [
        (old.path, old.offset, ONLY_HISTORY),
        (hit.path, hit.offset, LOST),
    ]
    assert (report.txn, report.event) == (bank.commits[-1].txn, bank.commits[-1].event)
    assert "transactions" in report.files[hit.path].holds
    bank.work(stops=False, snapshot=False)
    assert wrong(told(disk)) == [
        (old.path, old.offset, ONLY_HISTORY),
        (hit.path, hit.offset, DEALT_WITH),
    ]
    bank.work()
    report = told(disk)
    assert wrong(report) == [
        (old.path, old.offset, ONLY_HISTORY),
        (hit.path, hit.offset, ONLY_HISTORY),
    ]
    assert not report.notes, "every snapshot is what the journal makes"


def test_damaged_events_of_an_older_epoch_begin_no_new_one() -> None:
    disk, bank = worked(last_stops=False)
    first, second = (break_events(disk, bank.commits[place].txn) for place in (-4, -2))
    fd = disk.open(first.path, writable=True)  # as it was: it is found later
    offset = first.offset + BATCH.size + first.count * RECORD_SIZE + 9
    disk.write(fd, [bytes([disk.read(fd, 1, offset)[0] ^ 0xFF])], offset)
    disk.close(fd)
    with bank.start():
        pass
    break_at(disk, first.path, offset)
    assert wrong(told(disk)) == [
        (first.path, first.offset, OF_AN_OLDER_EPOCH),
        (second.path, second.offset, DEALT_WITH),
    ]
    epoch = state(disk).epoch
    with bank.start() as region:
        assert region.header.epoch == epoch


def test_damaged_events_beside_a_damaged_transaction() -> None:
    disk, bank = worked(last_stops=False)
    hit, other = (break_events(disk, bank.commits[place].txn) for place in (-3, -2))
    break_at(disk, other.path, other.offset + BATCH.size + 9)
    report = told(disk)
    assert report.refusal
    assert [(path, offset) for path, offset, _ in wrong(report)] == [
        (other.path, other.offset), (hit.path, hit.offset),
    ]  # fmt: skip


Breaks = Callable[[SimulatedDisk, Bank], None]


def flip_last(disk: SimulatedDisk, bank: Bank) -> None:
    hit = batch_of(disk, bank.commits[-1].txn)
    break_at(disk, hit.path, hit.offset + BATCH.size + 70)


def flip_last_two(disk: SimulatedDisk, bank: Bank) -> None:
    one, other = batch_of(disk, bank.commits[-1].txn), batch_of(disk, bank.commits[-2].txn)
    for hit in (one, other):
        break_at(disk, hit.path, hit.offset + BATCH.size + 70)


def cut_last(disk: SimulatedDisk, bank: Bank) -> None:
    hit = batch_of(disk, bank.commits[-1].txn)
    cut_at(disk, hit.path, hit.offset)


def zero_last_three(disk: SimulatedDisk, bank: Bank) -> None:
    hit = batch_of(disk, bank.commits[-3].txn)
    fd = disk.open(hit.path, writable=True)
    disk.write(fd, [bytes(disk.size(fd) - hit.offset)], hit.offset)
    disk.close(fd)


def remove_newest(disk: SimulatedDisk, _bank: Bank) -> None:
    disk.remove(segments(disk, DATA.journal)[-1])


AT_THE_END = [flip_last, flip_last_two, cut_last, zero_last_three, remove_newest]


@pytest.mark.parametrize("harm", AT_THE_END)
def test_what_is_missing_at_the_end_is_damage(harm: Breaks) -> None:
    """After a kill, of what had been answered: no server starts, and the place is named."""
    disk, bank = worked(last_stops=False)
    harm(disk, bank)
    report = told(disk)
    assert report.refusal
    assert not report.is_good
    [(_, _, effect), *_] = wrong(report)
    assert effect == ""
    assert report.txn < bank.commits[-1].txn
    assert report.txn in bank.balances


def test_a_torn_end_is_no_damage_and_told() -> None:
    """A batch that was being written when all ended: not noted, and with a sector not written."""
    disk, bank = worked(last_stops=False)
    end = bank.commits[-1]
    path = segments(disk, DATA.journal)[-1]
    whole = batch_of(disk, end.txn)
    data = read_file(disk, path)[whole.offset : whole.offset + BATCH.size]
    fd = disk.open(path, writable=True)
    disk.write(fd, [data[:100]], end.offset)
    disk.close(fd)
    report = told(disk)
    assert report.is_good
    [note] = report.notes
    assert f"{path}, offset {end.offset}: what stands here was not written wholly" in note


def test_a_snapshot_that_is_damaged_is_passed_over() -> None:
    disk, bank = worked()
    path = snapshot_paths(disk, DATA.snapshots)[0]
    break_at(disk, path, SNAPSHOT.size + 3)
    report = told(disk)
    assert wrong(report) == [(path, 0, PASSED_OVER)]
    assert report.txn == bank.commits[-1].txn


def test_a_snapshot_that_the_journal_does_not_make_is_named() -> None:
    disk, _ = worked()
    path = snapshot_paths(disk, DATA.snapshots)[1]
    found = read_snapshot(disk, path, log_id(disk))
    found.books.registered[1] += 1
    write_snapshot(disk, DATA.snapshots, log_id(disk), found.books, found.head.position, NOW)
    report = told(disk)
    assert [each[0] for each in wrong(report)] == [path]
    assert report.files[path].problems[0].what == "the journal makes another state"


@pytest.mark.parametrize("stops", [True, False])
def test_a_snapshot_of_another_copy_is_named(*, stops: bool) -> None:
    """Two copies of a directory go their own ways, and one gets a snapshot of the other."""
    bank = Bank()
    bank.work()
    other = Bank(bank.disk.after_kill() if isinstance(bank.disk, SimulatedDisk) else bank.disk)
    bank.work(stops=stops)
    with other.run(stops=stops) as run:
        for amount in (900, 901, 902, 903):
            run.deposit(0, amount)
            run.say(1, "another 1")
            run.transfer(0, 2, 10)
            run.commit()
    foreign = snapshot_paths(other.disk, DATA.snapshots)[0]
    disk = bank.disk
    assert foreign in snapshot_paths(disk, DATA.snapshots), "as much happened in both"
    disk.remove(foreign)
    fd = disk.create(foreign)
    disk.write(fd, [read_file(other.disk, foreign)], 0)
    disk.close(fd)
    report = told(disk)
    assert report.refusal, "the newest snapshot does not fit"
    assert report.files[foreign].problems[0].what.startswith("it is a snapshot of another journal")
    assert report.txn == bank.commits[-1].txn


def test_a_journal_of_another_log_is_named() -> None:
    disk, _ = worked()
    other, _ = worked()
    newest = segments(disk, DATA.journal)[-1]
    cut_at(disk, newest, 0)
    fd = disk.open(newest, writable=True)
    disk.write(fd, [read_file(other, newest)], 0)
    disk.close(fd)
    report = told(disk)
    assert report.refusal
    assert newest in {each[0] for each in wrong(report)}


@pytest.mark.parametrize("gone", [True, False], ids=["missing", "damaged"])
def test_the_position_is_looked_at(*, gone: bool) -> None:
    disk, _ = worked()
    if gone:
        disk.remove(DATA.position)
        report = verify(disk, DATA)
    else:
        for place in (0, SECTOR):
            break_at(disk, DATA.position, place + POSITION.size - 1)
        report = told(disk)
    assert "how far the journal is durable" in report.refusal
    assert DATA.position in {each[0] for each in wrong(report)}


def test_without_a_journal_no_server_starts() -> None:
    disk, _ = worked()
    for directory in (DATA.journal, DATA.snapshots):
        for name in disk.names(directory):
            disk.remove(directory / name)
    report = told(disk)
    assert "has had a journal, and it is gone" in report.refusal


def test_an_interrupted_repair_is_told() -> None:
    disk, _ = worked()
    DATA.change_identity(disk, DATA.identity(disk), 77)
    assert "a repair of it was interrupted" in verify(disk, DATA).refusal
    with pytest.raises(DirectoryUnusable, match="a repair of it was interrupted"):
        DATA.open(disk, Identity(SECRET, 1))


def test_an_identity_of_another_directory_is_told() -> None:
    """Even if the position came with it, and no snapshot is there to tell."""
    disk, bank = worked(last_stops=False)
    for name in disk.names(DATA.snapshots):
        disk.remove(DATA.snapshots / name)
    DATA.change_identity(disk, Identity(SECRET, 99))
    disk.remove(DATA.position)
    noted = PositionFile(disk, DATA.position, 99)
    noted.write(bank.commits[-1])
    noted.close()
    assert "the journal ends in a segment of another log" in told(disk).refusal


def test_a_place_of_another_copy_is_not_gone_on_from() -> None:
    """A position at the very end, which no batch follows that could tell."""
    disk, bank = worked(last_stops=False)
    end = bank.commits[-1]
    for place in (end, end._replace(chain=bytes(32)), end._replace(offset=end.offset - 8)):
        reader = Reader(disk, DATA.journal, log_id(disk))
        if place == end:
            assert list(reader.batches(place)) == []
        else:
            with pytest.raises(Damaged):
                list(reader.batches(place))


def test_another_format_is_refused() -> None:
    disk, _ = worked()
    text = b"tradechat data, format 99\n"
    disk.remove(DATA.identity_file)
    fd = disk.create(DATA.identity_file)
    disk.write(fd, [text], 0)
    disk.close(fd)
    with pytest.raises(OtherFormat, match="Other formats"):
        verify(disk, DATA)


@pytest.mark.parametrize(
    "text", [b"", bytes(90), b"tradechat data, format 3\r\n", b"tradechat", b"\xff" * 90]
)
def test_a_damaged_identity_is_not_taken_for_another_format(text: bytes) -> None:
    disk, _ = worked()
    disk.remove(DATA.identity_file)
    fd = disk.create(DATA.identity_file)
    disk.write(fd, [text], 0)
    disk.close(fd)
    with pytest.raises(OtherFormat, match="is damaged: take it from a backup"):
        verify(disk, DATA)


def test_a_file_that_cannot_be_read_is_named() -> None:
    disk, _ = worked()
    path = segments(disk, DATA.journal)[0]

    class Failing(SimulatedDisk):
        def open(self, file: Path, *, writable: bool = False) -> int:
            if file == path:
                raise OSError(5, "Input/output error", str(file))
            return super().open(file, writable=writable)

    disk.__class__ = Failing
    report = verify(disk, DATA)
    assert (path, 0, ONLY_HISTORY) in wrong(report)
    assert "Input/output error" in report.files[path].problems[0].what


PARTS = ("identity", "position", "snapshots", "journal")


@pytest.mark.parametrize("order", list(permutations(PARTS)), ids="-".join)
def test_a_copy_of_a_directory_that_is_written_is_good_or_refused(order: tuple[str, ...]) -> None:
    """Between any two files of the copy something is committed, and now and then a snapshot made.
    In the order that the document tells it is good."""
    bank, copy = Bank(), SimulatedDisk()
    bank.work()
    parts = {"snapshots": DATA.snapshots, "journal": DATA.journal}
    for directory in (DATA.path, *parts.values(), DATA.rooms):
        copy.make_directory(directory)
    with bank.run(stops=False) as run:
        run.deposit(0, 1)
        at_least = run.commit().txn
        for number, part in enumerate(order):
            directory = parts.get(part, DATA.path)
            for name in bank.disk.names(directory) if part in parts else [part]:
                fd = copy.create(directory / name)
                copy.write(fd, [read_file(bank.disk, directory / name)], 0)
                copy.close(fd)
                run.deposit(0, 1)
                run.say(1, "meanwhile")
                run.commit()
            if number == 1:
                run.snapshot()
    report = told(copy)
    if order.index("position") < order.index("snapshots") < order.index("journal"):
        assert report.is_good
    if not report.refusal:
        assert report.txn >= at_least
        assert state(copy).balances[1] == bank.balances[report.txn][1]


class Racing(SimulatedDisk):
    """The first time that a segment is read, it is as it was in the middle of a write."""

    torn = 0

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        if 0 < self.torn < len(data) and data.startswith(SEGMENT.magic.to_bytes(8, "little")):
            at, self.torn = self.torn, 0
            return data[:at] + bytes(40) + data[at + 40 :]
        return data


def test_what_a_server_is_writing_looks_like_damage_only_once() -> None:
    disk = Racing()
    bank = Bank(disk)
    bank.work()
    disk.torn = SEGMENT.size + BATCH.size + 8 + BATCH.size
    report = verify(disk, DATA)
    assert not disk.torn
    assert (report.is_good, report.txn) == (True, bank.commits[-1].txn)


def test_the_newest_segment_is_named_by_number() -> None:
    disk, _ = worked()
    assert [number_of(path) for path in segments(disk, DATA.journal)] == [1, 2, 3]


def copied(disk: SimulatedDisk) -> Path:
    """The first segment has gone, and its events are copied; to where."""
    older = read_snapshot(disk, snapshot_paths(disk, DATA.snapshots)[0], log_id(disk)).head
    needed = Needed(older.segment, 1 << 40, 0)
    remove_segments(disk, DATA.journal, needed, 0, lambda _: None)
    (path, *_) = [spill.path_of(DATA.journal, n) for n in spill.numbers(disk, DATA.journal)]
    assert number_of(segments(disk, DATA.journal)[0]) > 1
    return path


def test_packed_segments_are_told_and_damage_of_theirs_is_only_history() -> None:
    disk, bank = worked()
    whole = told(disk)
    older = read_snapshot(disk, snapshot_paths(disk, DATA.snapshots)[0], log_id(disk)).head
    first = segments(disk, DATA.journal)[0]
    remove_segments(
        disk, DATA.journal, Needed(older.segment, 1 << 40, 1 << 40), 0, lambda _: None, 0
    )
    path = packed.paths(disk, DATA.journal)[0]
    report = told(disk)
    assert report.is_good
    assert (report.oldest, report.txn) == (1, bank.commits[-1].txn)
    assert report.files[path].holds == whole.files[first].holds
    assert plan(disk, DATA).is_nothing
    break_at(disk, path, 300)
    report = told(disk)
    assert not report.is_good
    assert not report.refusal
    [(where, _, effect)] = wrong(report)
    assert (where, effect) == (path, ONLY_HISTORY)
    made = plan(disk, DATA)
    assert (made.history, made.begins_anew) == ([path], False)
    carry_out(disk, DATA, made, 1, NOW)
    report = told(disk)
    assert report.is_good
    assert report.txn == bank.commits[-1].txn
    assert report.oldest > 1


def test_copied_events_are_told_and_so_is_damage_of_theirs() -> None:
    disk, _ = worked()
    path = copied(disk)
    report = told(disk)
    assert report.is_good
    assert report.files[path].holds.startswith("for the histories: events 1 to ")
    before = plan(disk, DATA)
    assert before.is_nothing
    break_at(disk, path, 300)
    report = told(disk)
    assert not report.is_good
    assert wrong(report) == [(path, 0, CHAT_REFUSED)]
    made = plan(disk, DATA)
    assert made.history == [path]
    kept = carry_out(disk, DATA, made, 77, NOW)
    assert kept is not None
    assert path.name in disk.names(kept / DATA.journal.name)
    assert told(disk).is_good
    assert path not in told(disk).files

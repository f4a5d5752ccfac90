"""What the tool says of a data directory, and that a repair keeps what is good, at whatever moment
it is interrupted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from server.admin.inspect import Mark, Value
from server.admin.journal_repair import Repaired, repair
from server.admin.journal_tool import dump, oldest, user_id, verify
from server.journal.directory import DataDirectory
from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged, JournalError, OtherFormat, Refused
from server.journal.format import BATCH, FORMAT_VERSION, SEGMENT, SNAPSHOT, numbered
from server.journal.load import load, make_snapshot
from server.journal.reader import SUFFIX, Batch, Reader, segments
from server.journal.snapshot import paths as snapshot_paths
from server.journal.snapshot import read as read_snapshot
from server.journal.snapshot import write as write_snapshot
from server.journal.writer import Writer
from server.region.records import RECORD_SIZE
from tests.helpers.disk import PowerCut, SimulatedDisk, Survivors, everything, nothing
from tests.server.archive.rooms_model import opened
from tests.server.journal.history import VARIED, History, folded, history, write_journal

DATA: Final = DataDirectory(Path("/data"))
NOW: Final = 1_800_000_000_000_000
STAMP: Final = "20270115T080000Z"
SECRET: Final = bytes(range(32))


@contextmanager
def worked(*, snapshots: tuple[int, ...] = ()) -> Iterator[tuple[SimulatedDisk, History]]:
    """A data directory with the journal of a history, in several segments, and these snapshots."""
    disk = SimulatedDisk()
    DATA.open(disk, SECRET)
    with history(*VARIED) as past:
        write_journal(disk, past, past.head, 3, 1300)
        for txn in snapshots:
            make_snapshot(disk, DATA.journal, DATA.snapshots, txn, None, NOW)
        assert len(segments(disk, DATA.journal)) >= 3
        yield disk, past


def batches(disk: Disk) -> list[Batch]:
    return list(Reader(disk, DATA.journal).batches())


def break_at(disk: Disk, path: Path, offset: int) -> None:
    """Turn the bits of one byte."""
    fd = disk.open(path, writable=True)
    [byte] = disk.read(fd, 1, offset)
    disk.write(fd, [bytes([byte ^ 0xFF])], offset)
    disk.sync(fd)
    disk.close(fd)


def mend(disk: Disk, until: int) -> Repaired:
    return repair(disk, DATA, until, NOW, STAMP)


def content(disk: Disk) -> dict[Path, bytes]:
    directories = (DATA.journal, DATA.snapshots)
    return {d / name: read_file(disk, d / name) for d in directories for name in disk.names(d)}


def good(disk: SimulatedDisk, until: int, past: History) -> None:
    """The state is that of a transaction, every record up to it is there, and it can go on."""
    report = verify(disk, DATA)
    assert (report.problems, report.notes, report.txn) == ([], [], until)
    loaded = load(disk, DATA.journal, DATA.snapshots, lambda _done, _of: None)
    assert loaded.books.txn == until
    assert not loaded.bad
    there = b"".join(bytes(batch.records) for batch in Reader(disk, DATA.journal).batches(
        report.oldest - 1))  # fmt: skip
    assert there == past.records(report.oldest, until)
    if report.oldest == 1:
        books = vars(folded(past.records(1, until)))
        assert vars(loaded.books) | {"last_seen": 0} == books | {"last_seen": 0}
    if until < past.head:
        writer = Writer(disk, DATA.journal, loaded.end, 2000, lambda: NOW)
        writer.append([past.records(until + 1, past.head)], past.head - until)
        writer.close()
        assert verify(disk, DATA).txn == past.head
    assert disk.open_files == 0


# ---- verify


def test_what_is_good_is_told_file_by_file() -> None:
    with worked(snapshots=(7, 20)) as (disk, past):
        before = content(disk)
        report = verify(disk, DATA)
        assert not report.problems
        assert not report.notes
        assert (report.txn, report.oldest) == (past.head, 1)
        assert {file.path for file in report.files} == set(before)
        assert content(disk) == before
        assert any("the state at 7: 2 users" in file.holds for file in report.files)
        assert disk.open_files == 0


def test_an_empty_directory_is_good() -> None:
    disk = SimulatedDisk()
    DATA.open(disk, SECRET)
    report = verify(disk, DATA)
    assert (report.txn, report.oldest, report.problems, report.notes) == (0, 0, [], [])


def test_damage_in_the_middle_is_named() -> None:
    with worked() as (disk, _):
        wrong = batches(disk)[3]
        break_at(disk, wrong.path, wrong.offset + BATCH.size + 50)
        report = verify(disk, DATA)
        [problem] = report.problems
        assert (problem.path, problem.offset) == (wrong.path, wrong.offset)
        assert report.txn == wrong.first - 1
        assert [f.holds for f in report.files if f.path > wrong.path][-1] == "not read"


def test_a_torn_end_is_no_damage_and_told() -> None:
    with worked() as (disk, past):
        wrong = batches(disk)[-1]
        break_at(disk, wrong.path, wrong.offset + BATCH.size + 50)
        report = verify(disk, DATA)
        assert report.problems == []
        assert report.txn == wrong.first - 1 < past.head
        [note] = report.notes
        assert str(wrong.path) in note
        assert f"offset {wrong.offset}" in note


def test_a_record_that_does_not_follow_is_named() -> None:
    with worked() as (disk, past):
        wrong = batches(disk)[3]
        records = bytearray(wrong.records)
        records[RECORD_SIZE + 24] ^= 1  # the supply of its second record
        header = bytearray(
            BATCH.pack(salt_of(disk, wrong), wrong.first, 3, wrong.time, rest=(bytes(records),))
        )
        fd = disk.open(wrong.path, writable=True)
        disk.write(fd, [bytes(header), bytes(records)], wrong.offset)
        disk.close(fd)
        report = verify(disk, DATA)
        [problem] = report.problems
        assert problem.offset == wrong.offset + BATCH.size + RECORD_SIZE
        assert report.txn == wrong.first
        with pytest.raises(Refused, match=f"good up to {wrong.first}$"):
            mend(disk, wrong.first + 1)
        mend(disk, wrong.first)
        good(disk, wrong.first, past)


def salt_of(disk: Disk, batch: Batch) -> int:
    return int.from_bytes(
        read_file(disk, batch.path)[batch.offset + 8 : batch.offset + 16], "little"
    )


def test_a_snapshot_that_is_damaged_is_named() -> None:
    with worked(snapshots=(7, 20)) as (disk, past):
        path = snapshot_paths(disk, DATA.snapshots)[0]
        break_at(disk, path, SNAPSHOT.size + 3)
        report = verify(disk, DATA)
        assert [problem.path for problem in report.problems] == [path]
        assert report.txn == past.head
        assert mend(disk, past.head).removed == [path]
        good(disk, past.head, past)


def test_a_snapshot_of_another_history_is_named() -> None:
    with worked() as (disk, past):
        books = folded(past.records(1, 9))
        books.registered[1] += 1
        path = write_snapshot(disk, DATA.snapshots, books, 9, NOW)
        report = verify(disk, DATA)
        [problem] = report.problems
        assert problem.path == path
        assert report.txn == past.head


def test_a_journal_whose_beginning_has_gone_is_folded_from_a_snapshot() -> None:
    with worked(snapshots=(12, 20)) as (disk, past):
        first, *_ = gone = [p for p in segments(disk, DATA.journal) if int(p.stem) <= 4]
        for path in gone:
            disk.remove(path)
        report = verify(disk, DATA)
        assert report.problems == []
        assert report.oldest > 1
        assert report.txn == past.head
        for path in snapshot_paths(disk, DATA.snapshots):
            disk.remove(path)
        [problem] = verify(disk, DATA).problems
        assert "are missing, and no snapshot" in problem.problem
        assert first not in content(disk)


def test_a_journal_that_ends_before_a_snapshot_is_damaged() -> None:
    with worked(snapshots=(20,)) as (disk, _):
        for path in reversed(segments(disk, DATA.journal)):
            if int(path.stem) > 10:
                disk.remove(path)
        [problem] = verify(disk, DATA).problems
        assert "all up to 20 were durable once" in problem.problem


def test_the_rooms_are_read_and_nothing_is_written(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.open(Disk(), SECRET)
    store = opened(Disk(), data.rooms)
    store.reserve(1, 10)
    store.commit()
    for seq in (1, 2):
        store.append(1, seq, b"body")
    store.commit()
    store.close()
    [path] = data.rooms.iterdir()
    before = path.read_bytes()
    report = verify(Disk(), data)
    assert report.problems == []
    assert [file.holds for file in report.files] == ["2 events of rooms"]
    assert path.read_bytes() == before
    path.write_bytes(b"\1" + before[1:])
    [problem] = verify(Disk(), data).problems
    assert (problem.path, problem.offset) == (path, 0)


class Racing(SimulatedDisk):
    """The first time that the journal is read, it is as it was in the middle of a write."""

    torn: tuple[Path, int] | None = None

    def read(self, fd: int, size: int, offset: int) -> bytes:
        data = super().read(fd, size, offset)
        if (
            self.torn
            and self.torn[1] < len(data)
            and data[:8] == SEGMENT.magic.to_bytes(8, "little")
        ):
            at = self.torn[1]
            self.torn = None
            return data[:at] + bytes(40) + data[at + 40 :]
        return data


def test_what_a_server_is_writing_looks_like_damage_only_once() -> None:
    disk = Racing()
    DATA.open(disk, SECRET)
    with history(*VARIED) as past:
        write_journal(disk, past, past.head, 3, 1300)
        disk.torn = (DATA.journal, SEGMENT.size)
        report = verify(disk, DATA)
        assert disk.torn is None
        assert (report.problems, report.txn) == ([], past.head)
        disk.torn = (DATA.journal, SEGMENT.size)
        shown = [record["txn_id"] for record in dump(disk, DATA, 1, None, None)]
        assert shown == list(range(1, past.head + 1))


def test_another_format_is_refused() -> None:
    with worked() as (disk, _):
        identity = DATA.path / "identity"
        text = read_file(disk, identity).replace(b"format %d" % FORMAT_VERSION, b"format 99")
        disk.remove(identity)
        fd = disk.create(identity)
        disk.write(fd, [text], 0)
        disk.close(fd)
        with pytest.raises(OtherFormat, match="Other formats"):
            verify(disk, DATA)
        with pytest.raises(OtherFormat):
            mend(disk, 5)


# ---- dump


def test_a_dump_is_the_log() -> None:
    with worked() as (disk, past):
        shown = list(dump(disk, DATA, 1, None, None))
        assert [record["txn_id"] for record in shown] == list(range(1, past.head + 1))
        assert shown[0]["kind"] == "REGISTER"
        assert shown[0]["name"] == "user1"
        assert shown[0]["stored_key"] is shown[0]["server_key"] is Mark.HIDDEN
        assert [r["txn_id"] for r in dump(disk, DATA, 5, 8, None)] == [5, 6, 7, 8]


def test_a_dump_of_one_user() -> None:
    with worked(snapshots=(7,)) as (disk, past):
        assert [user_id(disk, DATA, name) for name in ("user1", "2", "user3")] == [1, 2, 3]
        for wrong in ("nobody", "99", "0", "9" * 50, ""):
            with pytest.raises(Refused, match="there is no user"):
                user_id(disk, DATA, wrong)
        of_all = list(dump(disk, DATA, 1, None, None))
        of_one = list(dump(disk, DATA, 1, None, 3))
        keys = ("from_user", "to_user", "user_id")
        assert of_one == [r for r in of_all if 3 in [r.get(key) for key in keys]]
        assert 0 < len(of_one) < past.head


def test_a_dump_ends_at_damage_and_goes_on_behind_it() -> None:
    with worked() as (disk, past):
        wrong = batches(disk)[3]
        break_at(disk, wrong.path, wrong.offset + BATCH.size + 50)
        shown: list[Value] = []
        with pytest.raises(Damaged):
            shown.extend(record["txn_id"] for record in dump(disk, DATA, 1, None, None))
        assert shown == list(range(1, wrong.first))
        first = min(int(path.stem) for path in segments(disk, DATA.journal) if path > wrong.path)
        behind = [record["txn_id"] for record in dump(disk, DATA, first, None, None)]
        assert behind == list(range(first, past.head + 1))


def test_a_dump_begins_where_the_journal_does() -> None:
    with worked() as (disk, past):
        disk.remove(segments(disk, DATA.journal)[0])
        first = oldest(disk, DATA)
        assert first > 1
        assert [r["txn_id"] for r in dump(disk, DATA, 1, None, None)] == [
            *range(first, past.head + 1)
        ]


# ---- repair


def test_damage_in_the_middle_is_healed() -> None:
    with worked(snapshots=(4, 20)) as (disk, past):
        wrong = batches(disk)[3]
        break_at(disk, wrong.path, wrong.offset + BATCH.size + 50)
        before = content(disk)
        with pytest.raises(Refused, match=f"the journal is good up to {wrong.first - 1}$"):
            mend(disk, wrong.first)
        assert content(disk) == before
        done = mend(disk, wrong.first - 1)
        assert done.txn == wrong.first - 1
        assert done.kept == DATA.path / f"removed-{STAMP}"
        assert numbered(DATA.snapshots, 20, "snapshot") in done.removed
        assert (done.first_lost, done.last_lost) == (wrong.last + 1, past.head)
        assert done.lost == past.head - wrong.last
        assert 0 < done.unreadable <= BATCH.size + wrong.count * RECORD_SIZE  # it ends in zeros
        for path in {*done.removed, *(path for path, _ in done.cut)}:
            copy = done.kept / path.parent.name / path.name
            assert read_file(disk, copy) == before[path]
        good(disk, wrong.first - 1, past)


@pytest.mark.parametrize("snapshots", [(), (4, 20)])
def test_any_transaction_can_be_made_the_last(snapshots: tuple[int, ...]) -> None:
    """At the end of a batch and in the middle of it, at the end of a segment, and none at all."""
    with worked(snapshots=snapshots) as (disk, past):
        for until in range(past.head + 1):
            other = disk.after_kill()
            done = mend(other, until)
            assert (done.kept is None) == (until == past.head)
            assert done.lost == past.head - until
            assert done.unreadable == 0
            once_more = other.after_kill()
            again = mend(once_more, until)
            assert (again.kept, again.removed, again.cut, again.lost) == (None, [], [], 0)
            good(other, until, past)


@pytest.mark.parametrize("survives", [nothing, everything], ids=["nothing", "everything"])
def test_a_repair_can_be_interrupted_anywhere(survives: Survivors) -> None:
    with worked(snapshots=(4, 20)) as (disk, past):
        wrong = batches(disk)[5]
        break_at(disk, wrong.path, wrong.offset + BATCH.size + 50)
        until = wrong.first - 2  # in the middle of a batch
        before = content(disk)
        at, cut = 0, True
        while cut:
            at += 1
            tried = disk.after_power_cut(everything)
            tried.cut_at = at
            try:
                mend(tried, until)
                cut = False
            except PowerCut:
                cut = True
            tried = tried.after_power_cut(survives)
            kept_or_there(tried, before)
            mend(tried, until)
            good(tried, until, past)
        assert at > 20


def kept_or_there(disk: Disk, before: dict[Path, bytes]) -> None:
    """Nothing that was there has gone: it is as it was, or a copy of it is."""
    copies = {
        read_file(disk, DATA.path / name / part / each)
        for name in disk.names(DATA.path)
        if name.startswith("removed-")
        for part in disk.names(DATA.path / name)
        for each in disk.names(DATA.path / name / part)
    }
    now = content(disk)
    for path, data in before.items():
        assert now.get(path) == data or data in copies, path


def test_a_snapshot_that_demands_more_is_written_anew() -> None:
    with worked() as (disk, past):
        path = write_snapshot(disk, DATA.snapshots, folded(past.records(1, 9)), 20, NOW)
        done = mend(disk, 15)
        assert done.changed == [path]
        assert read_snapshot(disk, path).head.durable == 15
        good(disk, 15, past)


def test_below_what_is_there_it_is_refused() -> None:
    with worked(snapshots=(12, 20)) as (disk, past):
        first, *rest = segments(disk, DATA.journal)
        disk.remove(first)
        begins = int(rest[0].stem)
        before = content(disk)
        for until in (0, begins - 1, begins, 11):
            with pytest.raises(
                Refused, match="the oldest state that is there is of transaction 12"
            ):
                mend(disk, until)
        with pytest.raises(Refused, match=f"the journal ends with transaction {past.head}"):
            mend(disk, past.head + 1)
        assert content(disk) == before
        mend(disk, 12)
        good(disk, 12, past)


def test_at_a_snapshot_that_the_journal_begins_after() -> None:
    """The segment that goes on after it is there, without a batch."""
    with worked() as (disk, past):
        paths = segments(disk, DATA.journal)
        until = int(paths[1].stem) - 1
        make_snapshot(disk, DATA.journal, DATA.snapshots, until, None, NOW)
        disk.remove(paths[0])
        break_at(disk, paths[1], 3)  # in its header
        assert verify(disk, DATA).problems
        done = mend(disk, until)
        assert done.lost == past.head - until
        assert segments(disk, DATA.journal) == [numbered(DATA.journal, until + 1, SUFFIX)]
        good(disk, until, past)


def test_without_a_journal_it_is_refused() -> None:
    disk = SimulatedDisk()
    DATA.open(disk, SECRET)
    with pytest.raises(JournalError, match="there is no journal"):
        mend(disk, 1)

"""The Writer: what it writes, and that an acknowledged batch outlives everything: power cuts, kills
and errors at every call it makes, and then again at every call of going on after that.
"""

import errno
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.journal.disk import Disk
from server.journal.errors import Damaged
from server.journal.format import BATCH, FORMAT_VERSION, SEGMENT, segment_head
from server.journal.reader import find_end
from server.journal.writer import Writer
from server.region.records import RECORD_SIZE
from tests.helpers import disk as simulated
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, Survivors, at_random
from tests.server.journal import (
    DIRECTORY,
    SEGMENT_SIZE,
    TIME,
    Written,
    append,
    batch,
    batches,
    disk_of,
    files_of,
    new_disk,
    open_writer,
    read,
    salts,
    size_of,
)

SIZES = (1, 3, 2, 1, 6, 2, 10, 1, 2)  # the 10 have no room in a segment of the usual size
FEW = (2, 5, 4)  # the last has no room beside the others
MORE = (3, 10, 1)
ROTATION = ["create", "allocate", "write", "sync", "sync_directory"]
APPEND = ["write", "sync"]
SURVIVORS: list[Survivors] = [*ADVERSARIES.values(), *map(at_random, range(4))]
SOME_SURVIVORS: list[Survivors] = [
    simulated.nothing,
    simulated.everything,
    simulated.no_data,
    at_random(5),
]


def name_of(first: int) -> str:
    return f"{first:020}.journal"


# ---- what is written


def test_a_batch_is_read_as_it_was_written_and_kept_when_append_returns() -> None:
    disk = new_disk()
    writer = open_writer(disk)
    written = batches(SIZES)
    for done, each in enumerate(written, 1):
        append(writer, each)
        assert writer.last == each.first + each.size - 1
        assert read(disk.after_power_cut()) == read(disk) == written[:done]


def test_the_bytes() -> None:
    disk = new_disk()
    writer = open_writer(disk, segment_size=1000, salt=salts(8))
    written = batches([2, 1])
    for each in written:
        append(writer, each)
    salt = int.from_bytes(salts(8)(8), "little")
    expected = SEGMENT.pack(FORMAT_VERSION, 1, salt, TIME)
    for first, count, records in written:
        expected += BATCH.pack(salt, first, count, TIME, rest=(records,)) + records
    assert files_of(disk) == {name_of(1): expected.ljust(1000, b"\0")}


def test_a_batch_is_one_write_and_one_sync_and_a_segment_is_kept_before_it() -> None:
    disk = new_disk()
    writer = open_writer(disk)
    append(writer, batch(1, 1))
    append(writer, batch(2, 7))  # as many as have room
    append(writer, batch(9, 1))
    assert disk.log == ROTATION + APPEND + APPEND + ROTATION + APPEND
    assert disk.open_files == 1, "of the segment before"
    writer.close()
    writer.close()
    assert disk.open_files == 0


@pytest.mark.parametrize("spare", [0, 1])
def test_a_segment_is_filled_to_its_last_byte(spare: int) -> None:
    disk = new_disk()
    writer = open_writer(disk, segment_size=SEGMENT.size + size_of(2) + size_of(1) - spare)
    append(writer, batch(1, 2))
    append(writer, batch(3, 1))
    assert len(disk.names(DIRECTORY)) == 1 + spare


def test_a_batch_larger_than_a_segment_gets_one_as_large() -> None:
    disk = new_disk()
    writer = open_writer(disk, segment_size=300)
    written = batches([1, 10, 1])
    for each in written:
        append(writer, each)
    sizes = [len(content) for content in files_of(disk).values()]
    assert sizes == [300, SEGMENT.size + size_of(10), 300]
    assert read(disk) == written


def test_the_room_is_there_before_the_batch() -> None:
    disk = new_disk()
    disk.cut_at = len(ROTATION) + 1
    assert Run(disk, [20]).under_way == [batch(1, 20)]
    (content,) = files_of(disk).values()
    assert len(content) == SEGMENT.size + size_of(20)


def test_each_segment_has_a_salt_of_its_own() -> None:
    disk = new_disk()
    writer = Writer(disk, DIRECTORY, find_end(disk, DIRECTORY), 300, lambda: TIME)
    for each in batches([1] * 5):
        append(writer, each)
    heads = [segment_head(content) for content in files_of(disk).values()]
    assert len({head.salt for head in heads if head is not None}) == 5


def test_pieces_must_be_whole_records_and_at_least_one() -> None:
    disk = new_disk()
    writer = open_writer(disk)
    for pieces, count in (([bytes(RECORD_SIZE)], 2), ([bytes(RECORD_SIZE - 1)], 1), ([], 0)):
        with pytest.raises(AssertionError):
            writer.append(pieces, count)
    assert disk.calls == 0
    append(writer, batch(1, 1))  # nothing has failed


@given(
    st.lists(st.lists(st.integers(1, 12), max_size=5), max_size=4),
    st.integers(SEGMENT.size, 4 * SEGMENT_SIZE),
)
def test_any_sizes_in_any_number_of_runs_are_read_as_written(
    runs: list[list[int]], segment_size: int
) -> None:
    disk = new_disk()
    written: list[Written] = []
    for generation, sizes in enumerate(runs):
        writer = open_writer(disk, segment_size=segment_size)
        for each in batches(sizes, writer.last + 1, generation):
            append(writer, each)
            written.append(each)
        writer.close()
        assert disk.open_files == 0
    assert read(disk) == read(disk.after_power_cut()) == written


def test_on_the_real_disk_the_files_are_the_same(tmp_path: Path) -> None:
    disk = new_disk()
    for real, directory in ((disk, DIRECTORY), (Disk(), tmp_path)):
        for generation in range(2):  # the second goes on
            writer = open_writer(real, directory, salt=salts(1))
            for each in batches(SIZES, writer.last + 1, generation):
                append(writer, each)
            writer.close()
    assert files_of(Disk(), tmp_path) == files_of(disk)
    assert len(read(Disk(), directory=tmp_path)) == 2 * len(SIZES)


# ---- crashes


class Run:
    """A Writer that appends batches until all are written, or until it is stopped."""

    def __init__(self, disk: SimulatedDisk, sizes: Sequence[int], generation: int = 0) -> None:
        self.disk = disk
        self.done: list[Written] = []  # `append` has returned
        self.under_way: list[Written] = []  # one, or none
        self.writer: Writer | None = None
        self.stopped: BaseException | None = None
        try:
            self.writer = open_writer(disk)
            for each in batches(sizes, self.writer.last + 1, generation):
                self.under_way = [each]
                append(self.writer, each)
                self.done.append(each)
                self.under_way = []
        except PowerCut as cut:
            self.stopped = cut
        except OSError as error:
            if error.errno != disk.fail_at[1]:
                raise
            self.stopped = error


def cut_runs(part: float = 0.0, sizes: Sequence[int] = SIZES) -> Iterator[Run]:
    """Runs that are cut at their first call, their second, ... their last."""
    for at in itertools.count(1):
        disk = new_disk()
        disk.cut_at, disk.part = at, part
        run = Run(disk, sizes)
        if run.stopped is None:
            assert disk.calls == at - 1 > 2 * len(sizes)
            return
        yield run


def failed_runs(error: int, part: float, sizes: Sequence[int] = SIZES) -> Iterator[Run]:
    """Runs whose first call fails, the second, ... the last."""
    for at in itertools.count(1):
        disk = new_disk()
        disk.fail_at, disk.part = (at, error), part
        run = Run(disk, sizes)
        if run.stopped is None:
            assert disk.calls == at - 1 > 2 * len(sizes)
            return
        yield run


def check_and_go_on(disk: SimulatedDisk, run: Run) -> None:
    """All that was acknowledged is there, what was under way wholly or not at all; a new Writer
    keeps what has been read, whatever survives the next power cut, and goes on."""
    found = read(disk)
    assert found in (run.done, run.done + run.under_way)
    writer = open_writer(disk)
    for survives in (simulated.nothing, at_random(1)):
        assert read(disk.after_power_cut(survives)) == found, "it has been relied on"
    for each in batches(MORE, writer.last + 1, generation=1):
        append(writer, each)
        found.append(each)
    assert read(disk) == read(disk.after_power_cut()) == found


def test_after_a_power_cut_at_any_call_every_acknowledged_batch_is_there() -> None:
    for run in cut_runs():
        for survives in SURVIVORS:
            check_and_go_on(run.disk.after_power_cut(survives), run)


@pytest.mark.parametrize("part", [0.0, 0.05, 0.4, 0.95])
def test_after_a_kill_at_any_call_every_acknowledged_batch_is_there(part: float) -> None:
    for run in cut_runs(part):
        check_and_go_on(run.disk.after_kill(), run)


@pytest.mark.parametrize(("error", "part"), [(errno.EIO, 0.0), (errno.ENOSPC, 0.6)])
def test_the_first_error_is_final_and_every_acknowledged_batch_is_there(
    error: int, part: float
) -> None:
    for run in failed_runs(error, part):
        calls, open_files = run.disk.calls, run.disk.open_files
        assert isinstance(run.stopped, OSError)
        assert run.stopped.errno == error
        assert run.writer is not None
        for _ in range(2):
            with pytest.raises(OSError, match="failed before"):
                append(run.writer, run.under_way[0])
        assert (run.disk.calls, run.disk.open_files) == (calls, open_files)
        run.writer.close()
        assert run.disk.open_files == 0
        check_and_go_on(run.disk.after_kill(), run)
        for survives in SOME_SURVIVORS:
            check_and_go_on(run.disk.after_power_cut(survives), run)


def check_second(first: Run, found: list[Written], second: Run, after: SimulatedDisk) -> None:
    """After a run upon what another had left."""
    must = found + second.done if second.writer is not None else first.done
    all_of_it = found + second.done + second.under_way
    seen = read(after)
    assert seen == all_of_it[: len(seen)]
    assert len(seen) >= len(must)


def left_by(run: Run) -> Iterator[SimulatedDisk]:
    yield run.disk.after_kill()
    for survives in SOME_SURVIVORS:
        yield run.disk.after_power_cut(survives)


def test_a_crash_at_any_call_of_going_on_after_a_crash() -> None:
    for first in cut_runs(0.4, FEW):
        for left in left_by(first):
            found = read(left)
            for at in itertools.count(1):
                disk = left.after_kill()
                disk.cut_at, disk.part = at, 0.4
                second = Run(disk, [10], generation=1)
                if second.stopped is None:
                    break
                check_second(first, found, second, disk.after_kill())
                for survives in (simulated.nothing, at_random(at)):
                    check_second(first, found, second, disk.after_power_cut(survives))


def test_an_error_at_any_call_of_going_on_after_an_error() -> None:
    for first in failed_runs(errno.EIO, 0.6, FEW):
        for left in left_by(first):
            found = read(left)
            for at in itertools.count(1):
                disk = left.after_kill()
                disk.fail_at, disk.part = (at, errno.EIO), 0.6
                second = Run(disk, [2], generation=1)
                if second.stopped is None:
                    break
                killed = disk.after_kill()
                seen = read(killed)
                check_second(first, found, second, killed)
                open_writer(killed)
                assert read(killed.after_power_cut()) == seen, "it has been relied on"
                for survives in (simulated.nothing, at_random(at)):
                    check_second(first, found, second, disk.after_power_cut(survives))


# ---- what the campaigns above come by, each by itself


def test_the_last_batch_is_written_again_after_a_failed_sync() -> None:
    disk = new_disk()
    disk.fail_at = len(ROTATION + APPEND + APPEND), errno.EIO
    run = Run(disk, [2, 2])
    assert run.stopped is not None
    disk = disk.after_kill()
    assert read(disk) == batches([2, 2]), "the system shows it"
    open_writer(disk)
    assert read(disk.after_power_cut()) == batches([2, 2])


def test_a_segment_without_a_batch_is_made_sure_of() -> None:
    for at in (ROTATION.index("sync"), ROTATION.index("sync_directory")):
        for error in (0, errno.EIO):
            disk = new_disk()
            disk.cut_at = 0 if error else at + 1
            disk.fail_at = (at + 1, error)
            assert Run(disk, [1]).stopped is not None
            disk = disk.after_kill()
            end = find_end(disk, DIRECTORY)
            disk.drop_clean_pages()  # what the Reader saw may not be there
            writer = Writer(disk, DIRECTORY, end, SEGMENT_SIZE, lambda: TIME)
            append(writer, batch(1, 2))
            assert read(disk.after_power_cut()) == [batch(1, 2)]


def test_a_segment_without_a_batch_grows_where_the_first_has_no_room() -> None:
    disk = new_disk()
    disk.cut_at = len(ROTATION) + 1
    assert Run(disk, [1]).stopped is not None
    disk = disk.after_power_cut()
    writer = open_writer(disk)
    disk.log.clear()
    append(writer, batch(1, 20))
    assert disk.log == ["allocate", *APPEND]
    assert read(disk.after_power_cut()) == [batch(1, 20)]
    assert disk.names(DIRECTORY) == [name_of(1)]


def test_a_segment_that_lost_its_size_gets_it_again() -> None:
    disk = disk_of({name_of(1): SEGMENT.pack(FORMAT_VERSION, 1, 99, TIME)})
    append(open_writer(disk), batch(1, 1))
    (content,) = files_of(disk).values()
    assert len(content) == SEGMENT_SIZE


def test_a_segment_that_was_being_made_is_removed() -> None:
    disk = disk_of({name_of(1): bytes(SEGMENT_SIZE)})
    writer = open_writer(disk)
    assert disk.names(DIRECTORY) == disk.after_power_cut().names(DIRECTORY) == []
    append(writer, batch(1, 1))
    assert read(disk) == [batch(1, 1)]


def test_what_is_torn_is_zero_before_anything_is_written() -> None:
    disk = new_disk()
    disk.cut_at = len(ROTATION + APPEND + APPEND)
    run = Run(disk, [1, 6])
    disk = disk.after_power_cut(simulated.but_first_sector)
    open_writer(disk)
    (content,) = files_of(disk.after_power_cut()).values()
    assert len(content) == SEGMENT_SIZE
    assert not content[SEGMENT.size + size_of(1) :].strip(b"\0")
    assert read(disk) == run.done


def test_a_last_batch_that_is_not_what_was_read_is_not_written_again() -> None:
    disk = new_disk()
    disk.fail_at = len(ROTATION + APPEND + APPEND), errno.EIO
    run = Run(disk, [2, 2])
    assert run.stopped is not None
    disk = disk.after_kill()
    end = find_end(disk, DIRECTORY)
    disk.drop_clean_pages()  # between the two
    with pytest.raises(Damaged, match="changed"):
        Writer(disk, DIRECTORY, end, SEGMENT_SIZE, lambda: TIME)
    check_and_go_on(disk.after_kill(), run)

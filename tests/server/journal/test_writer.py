"""The Writer: what it writes, and that an acknowledged batch outlives everything: power cuts, kills
and errors at every call it makes, and then again at every call of going on after that.
"""

import errno
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.journal.disk import Disk, read_file
from server.journal.errors import Damaged
from server.journal.format import (
    BATCH,
    BATCH_END,
    FORMAT_VERSION,
    SEGMENT,
    BatchKind,
    genesis,
    segment_head,
    sha256,
)
from server.journal.reader import End, find_end
from server.journal.writer import OVERHEAD, Writer
from server.region.records import RECORD_SIZE
from tests.helpers import disk as simulated
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, Survivors, at_random
from tests.server.journal import (
    DIRECTORY,
    LOG_ID,
    SEGMENT_SIZE,
    TIME,
    Size,
    Written,
    after,
    append,
    batch,
    batches,
    disk_of,
    files_of,
    length,
    mark,
    name_of,
    new_disk,
    open_writer,
    read,
    room_for,
    salts,
)

Sizes = Sequence[Size | int]
# The 14 have no room in a segment of the usual size.
SIZES: Sizes = (1, Size(0, 1), Size(3, 2), 2, Size(0, 6), Size(6, 1), 2, Size(14, 2), 1, Size(0, 3))
FEW: Sizes = (2, Size(5, 2), Size(0, 7))  # the last has no room beside the others
MORE: Sizes = (3, Size(0, 2), 14, 1)
ROTATION = ["create", "allocate", "write", "sync", "sync_directory"]
APPEND = ["write", "sync"]
SURVIVORS: list[Survivors] = [*ADVERSARIES.values(), *map(at_random, range(4))]
SOME_SURVIVORS: list[Survivors] = [
    simulated.nothing,
    simulated.everything,
    simulated.no_data,
    at_random(5),
]


def end_of(disk: Disk, directory: Path = DIRECTORY) -> End:
    return find_end(disk, directory, LOG_ID, None)


def segment_header(number: int, end: End, salt: int = 99) -> bytes:
    txn, event = end.position.txn + 1, end.position.event + 1
    return SEGMENT.pack(FORMAT_VERSION, LOG_ID, number, txn, event, salt, TIME, end.position.chain)


# ---- what is written


def test_a_batch_is_read_as_it_was_written_and_kept_when_append_returns() -> None:
    disk = new_disk()
    writer = open_writer(disk)
    written = batches(SIZES)
    for done, each in enumerate(written, 1):
        append(writer, each)
        assert writer.last == writer.position.txn == each.last
        assert writer.position.event == each.next_event - 1
        assert writer.position == end_of(disk).position
        assert read(disk.after_power_cut()) == read(disk) == written[:done]


def test_the_bytes() -> None:
    disk = new_disk()
    writer = open_writer(disk, segment_size=2000, salt=salts(8))
    written = batches([Size(2), Size(1, 2)])
    writer.begin(16, 5, 77)
    for each in written:
        append(writer, each)
    writer.finish()
    salt, none = int.from_bytes(salts(8)(8), "little"), sha256()
    expected = SEGMENT.pack(FORMAT_VERSION, LOG_ID, 1, 1, 1, salt, TIME, genesis(LOG_ID))
    chain = sha256(expected)
    for kind, each, begin in (
        (1, mark(BatchKind.BEGIN, 0, 0), (16, 5, 77)),
        (0, written[0], (0, 0, 0)),
        (0, written[1], (0, 0, 0)),
        (2, mark(BatchKind.END, 3, 2), (0, 0, 0)),
    ):
        header = BATCH.pack(
            salt, kind, TIME, each.first, each.size, each.first_event, each.next_event,
            len(each.events), *begin, sha256(each.records) if each.records else none,
            sha256(each.events), chain,
        )  # fmt: skip
        expected += header + each.records + each.events + BATCH_END
        chain = sha256(header)
    assert files_of(disk) == {name_of(1): expected}, "what was not used is given back"
    assert writer.position[:2] == (1, len(expected))
    assert writer.written == len(expected) - SEGMENT.size


def test_a_batch_is_one_write_and_one_sync_and_a_segment_is_kept_before_it() -> None:
    disk = new_disk()
    writer = open_writer(disk)
    made = batches([1, Size(9, 1), 1])  # the second fills the segment
    append(writer, made[0])
    append(writer, made[1])
    append(writer, made[2])
    assert disk.log == [*ROTATION, *APPEND, *APPEND, *ROTATION, "truncate", *APPEND]
    assert disk.open_files == 1, "of the segment before"
    writer.close()
    writer.close()
    assert disk.open_files == 0


@pytest.mark.parametrize("spare", [0, 1])
def test_a_segment_is_filled_to_its_last_byte(spare: int) -> None:
    disk, sizes = new_disk(), (Size(2), Size(1, 3))
    writer = open_writer(disk, segment_size=room_for(*sizes) - spare)
    for each in batches(sizes):
        append(writer, each)
    assert len(disk.names(DIRECTORY)) == 1 + spare


def test_a_batch_larger_than_a_segment_gets_one_as_large() -> None:
    disk = new_disk()
    writer = open_writer(disk, segment_size=500)
    written = batches([1, Size(10, 2), 1])
    for each in written:
        append(writer, each)
    sizes = [len(content) for content in files_of(disk).values()]
    used = [SEGMENT.size + length(each) for each in written]
    assert sizes == [used[0], used[1], 500], "what a segment has not used is given back"
    assert read(disk) == written


def test_the_room_is_there_before_the_batch() -> None:
    disk = new_disk()
    disk.cut_at = len(ROTATION) + 1
    assert Run(disk, [20]).under_way == [batch(1, 20)]
    (content,) = files_of(disk).values()
    assert len(content) == SEGMENT.size + length(batch(1, 20))


def test_each_segment_has_a_salt_of_its_own() -> None:
    disk = new_disk()
    writer = Writer(disk, DIRECTORY, LOG_ID, end_of(disk), 500, lambda: TIME)
    for each in batches([1] * 5):
        append(writer, each)
    heads = [segment_head(content) for content in files_of(disk).values()]
    assert len({head.salt for head in heads if head is not None}) == 5


def test_pieces_must_be_whole_records_and_something_must_be_said() -> None:
    disk = new_disk()
    writer = open_writer(disk)
    for pieces, count in (([bytes(RECORD_SIZE)], 2), ([bytes(RECORD_SIZE - 1)], 1), ([], 0)):
        with pytest.raises(AssertionError):
            writer.append(pieces, count)
    assert disk.calls == 0
    append(writer, batch(1, 1))  # nothing has failed


def test_events_that_are_not_written_count() -> None:
    disk = new_disk()
    writer = open_writer(disk)
    writer.append([], 0, [], 9)
    assert writer.position.event == 8
    assert end_of(disk).position.event == 8
    append(writer, batch(1, Size(1, 1), 0, 9))


SIZE = st.builds(Size, st.integers(0, 12), st.integers(0, 6)).filter(any)


@settings(deadline=None)
@given(
    st.lists(st.lists(SIZE, max_size=5), max_size=4),
    st.integers(SEGMENT.size, 4 * SEGMENT_SIZE),
    st.sets(st.integers(0, 19)),
)
def test_any_sizes_in_any_number_of_runs_are_read_as_written(
    runs: list[list[Size]], segment_size: int, prepared: set[int]
) -> None:
    """As servers do it, that begin and end; the next segment is allocated ahead now and then."""
    disk = new_disk()
    written: list[Written] = []
    for generation, sizes in enumerate(runs):
        writer = open_writer(disk, segment_size=segment_size)
        position = writer.position
        made = after(writer, sizes, generation)
        ends = [(position.txn, position.event), *((w.last, w.next_event - 1) for w in made)]
        for each in (mark(BatchKind.BEGIN, *ends[0]), *made, mark(BatchKind.END, *ends[-1])):
            if len(written) in prepared:
                writer.prepare()
            append(writer, each)
            written.append(each)
        writer.close()
        assert disk.open_files == 0
    assert read(disk) == read(disk.after_power_cut()) == written
    assert end_of(disk).clean == bool(runs)


def test_on_the_real_disk_the_files_are_the_same(tmp_path: Path) -> None:
    disk = new_disk()
    for real, directory in ((disk, DIRECTORY), (Disk(), tmp_path)):
        for generation in range(2):  # the second goes on
            writer = open_writer(real, directory, salt=salts(1))
            for each in after(writer, SIZES, generation):
                append(writer, each)
            writer.close()
    assert files_of(Disk(), tmp_path) == files_of(disk)
    assert len(read(Disk(), directory=tmp_path)) == 2 * len(SIZES)


# ---- crashes


class Run:
    """A Writer that appends batches until all are written, or until it is stopped."""

    def __init__(
        self, disk: SimulatedDisk, sizes: Sizes, generation: int = 0, *, ahead: bool = False
    ) -> None:
        """ahead: a start of the server, and an orderly stop, with segments allocated ahead."""
        self.disk = disk
        self.done: list[Written] = []  # `append` has returned
        self.under_way: list[Written] = []  # one, or none
        self.writer: Writer | None = None
        self.stopped: BaseException | None = None
        try:
            self.writer = open_writer(disk)
            txn, event = self.writer.position[2:4]
            made = after(self.writer, sizes, generation)
            if ahead:
                made = [
                    mark(BatchKind.BEGIN, txn, event),
                    *made,
                    mark(BatchKind.END, made[-1].last, made[-1].next_event - 1),
                ]
            for each in made:
                if ahead:
                    self.writer.prepare()
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


def cut_runs(part: float = 0.0, sizes: Sizes = SIZES, *, ahead: bool = False) -> Iterator[Run]:
    """Runs that are cut at their first call, their second, ... their last."""
    for at in itertools.count(1):
        disk = new_disk()
        disk.cut_at, disk.part = at, part
        run = Run(disk, sizes, ahead=ahead)
        if run.stopped is None:
            assert disk.calls == at - 1 > 2 * len(sizes)
            return
        yield run


def failed_runs(
    error: int, part: float, sizes: Sizes = SIZES, *, ahead: bool = False
) -> Iterator[Run]:
    """Runs whose first call fails, the second, ... the last."""
    for at in itertools.count(1):
        disk = new_disk()
        disk.fail_at, disk.part = (at, error), part
        run = Run(disk, sizes, ahead=ahead)
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
    for each in after(writer, MORE, generation=1):
        append(writer, each)
        found.append(each)
    assert read(disk) == read(disk.after_power_cut()) == found
    writer.close()
    assert len(segment_numbers(disk)) == segment_numbers(disk)[-1], "nothing is left behind"


def segment_numbers(disk: SimulatedDisk) -> list[int]:
    return [int(name[:20]) for name in disk.names(DIRECTORY)]


AHEAD = pytest.mark.parametrize("ahead", [False, True], ids=["", "ahead"])


@AHEAD
def test_after_a_power_cut_at_any_call_every_acknowledged_batch_is_there(ahead: bool) -> None:
    for run in cut_runs(ahead=ahead):
        for survives in SURVIVORS:
            check_and_go_on(run.disk.after_power_cut(survives), run)


@AHEAD
@pytest.mark.parametrize("part", [0.0, 0.4, 0.95])
def test_after_a_kill_at_any_call_every_acknowledged_batch_is_there(
    part: float, ahead: bool
) -> None:
    for run in cut_runs(part, ahead=ahead):
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
        assert not run.writer.prepare()
        assert (run.disk.calls, run.disk.open_files) == (calls, open_files)
        left = run.disk.after_kill()
        run.writer.close()
        assert run.disk.open_files == 0
        check_and_go_on(left, run)
        for survives in SOME_SURVIVORS:
            check_and_go_on(run.disk.after_power_cut(survives), run)


def check_second(first: Run, found: list[Written], second: Run, left: SimulatedDisk) -> None:
    """After a run upon what another had left."""
    must = found + second.done if second.writer is not None else first.done
    all_of_it = found + second.done + second.under_way
    seen = read(left)
    assert seen == all_of_it[: len(seen)]
    assert len(seen) >= len(must)


def left_by(run: Run) -> Iterator[SimulatedDisk]:
    yield run.disk.after_kill()
    for survives in SOME_SURVIVORS:
        yield run.disk.after_power_cut(survives)


@AHEAD
def test_a_crash_at_any_call_of_going_on_after_a_crash(ahead: bool) -> None:
    for first in cut_runs(0.4, FEW[: 1 if ahead else None], ahead=ahead):
        for left in left_by(first):
            found = read(left)
            for at in itertools.count(1):
                disk = left.after_kill()
                disk.cut_at, disk.part = at, 0.4
                second = Run(disk, [Size(14, 1)], generation=1, ahead=ahead)
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
                second = Run(disk, [Size(2, 1)], generation=1)
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
            end = end_of(disk)
            disk.drop_clean_pages()  # what the Reader saw may not be there
            writer = Writer(disk, DIRECTORY, LOG_ID, end, SEGMENT_SIZE, lambda: TIME)
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
    assert disk.log == ["allocate", "sync", *APPEND]
    assert read(disk.after_power_cut()) == [batch(1, 20)]
    assert disk.names(DIRECTORY) == [name_of(1)]


def test_a_segment_that_lost_its_size_gets_it_again() -> None:
    disk = disk_of({name_of(1): segment_header(1, end_of(new_disk()))})
    append(open_writer(disk), batch(1, 1))
    (content,) = files_of(disk).values()
    assert len(content) == SEGMENT_SIZE


@pytest.mark.parametrize("size", [0, 100, SEGMENT.size, 1000, SEGMENT_SIZE])
def test_a_segment_that_was_being_made_is_used(size: int) -> None:
    """Its room may have been promised. Of what size it is depends on where it was cut."""
    disk = disk_of({name_of(1): bytes(size)})
    writer = open_writer(disk)
    assert disk.calls == 0
    assert writer.room == max(0, size - SEGMENT.size) - OVERHEAD
    assert writer.prepare() == (size < SEGMENT_SIZE)
    assert writer.room == SEGMENT_SIZE - SEGMENT.size - OVERHEAD
    append(writer, batch(1, 1))
    assert read(disk) == [batch(1, 1)]


def test_what_is_torn_is_zero_before_anything_is_written() -> None:
    disk = new_disk()
    disk.cut_at = len(ROTATION + APPEND + APPEND)
    run = Run(disk, [1, 9])
    disk = disk.after_power_cut(simulated.but_first_sector)
    assert end_of(disk).torn
    disk.fail_at = 1, errno.ENOSPC
    with pytest.raises(OSError, match="No space"):
        open_writer(disk)
    disk = disk.after_kill()
    open_writer(disk)
    assert "allocate" not in disk.log, "a full disk is no hindrance"
    (content,) = files_of(disk.after_power_cut()).values()
    assert len(content) == SEGMENT_SIZE
    assert not content[SEGMENT.size + length(batch(1, 1)) :].strip(b"\0")
    assert read(disk) == run.done


def test_a_last_batch_that_is_not_what_was_read_is_not_written_again() -> None:
    disk = new_disk()
    disk.fail_at = len(ROTATION + APPEND + APPEND), errno.EIO
    run = Run(disk, [2, 2])
    assert run.stopped is not None
    disk = disk.after_kill()
    end = end_of(disk)
    disk.drop_clean_pages()  # between the two
    with pytest.raises(Damaged, match="changed"):
        Writer(disk, DIRECTORY, LOG_ID, end, SEGMENT_SIZE, lambda: TIME)
    check_and_go_on(disk.after_kill(), run)


# ---- a full disk


def fill_disk(disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is allocated or created on it."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "allocate", full)


@pytest.mark.parametrize("sizes", [(1,) * 60, (Size(0, 1),) * 60, (Size(2, 1), Size(0, 2)) * 30])
@pytest.mark.parametrize("ahead", [False, True], ids=["", "ahead"])
def test_what_there_is_room_for_is_written_although_the_disk_is_full(
    sizes: Sizes, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the END after it, to the last byte that was promised."""
    disk = new_disk()
    writer = open_writer(disk)
    append(writer, mark(BatchKind.BEGIN, 0, 0))
    if ahead:
        assert writer.prepare()
        assert not writer.prepare()
    fill_disk(disk, monkeypatch)
    for _ in range(2):
        if not ahead:
            with pytest.raises(OSError, match="No space"):
                writer.prepare()
    room, done = writer.room, []
    for each in batches(sizes):
        if length(each) > writer.room:
            break  # it comes to that
        append(writer, each)
        done.append(each)
        assert writer.room >= room - length(each)
        room = writer.room
    assert len(done) < len(sizes)
    assert len(done) > 1
    writer.finish()
    writer.close()
    assert end_of(disk).clean
    assert read(disk)[1:-1] == done
    assert disk.names(DIRECTORY) == [name_of(n + 1) for n in range(len(disk.names(DIRECTORY)))]
    assert not any(name_of(9) == name for name in disk.names(DIRECTORY))


def test_the_next_segment_is_allocated_once_there_is_space() -> None:
    """A call that fails changes nothing, whichever it is, even where what was begun stays."""
    for calls in itertools.count(1):
        disk = new_disk()
        writer = open_writer(disk)
        append(writer, batch(1, 1))
        room, names = writer.room, disk.names(DIRECTORY)
        disk.fail_at, disk.part = (disk.calls + calls, errno.ENOSPC), 0.7
        try:
            writer.prepare()
        except OSError:
            assert writer.room == room
            assert disk.names(DIRECTORY) == names
            assert writer.prepare()
        else:
            break
        assert writer.room == SEGMENT_SIZE - SEGMENT.size - OVERHEAD
        append(writer, batch(2, 10))
        append(writer, batch(12, 10))
        assert read(disk.after_power_cut()) == [batch(1, 1), batch(2, 10), batch(12, 10)]
        writer.close()
        assert disk.open_files == 0
    assert calls == 3


def test_what_could_not_even_be_removed_is_no_hindrance_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = new_disk()
    writer = open_writer(disk)
    append(writer, batch(1, 1))
    with monkeypatch.context() as patch:
        fill_disk(disk, patch)
        patch.setattr(disk, "remove", disk.allocate)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                writer.prepare()
    assert disk.names(DIRECTORY) == [name_of(1), name_of(2)]
    assert writer.prepare()
    append(writer, batch(2, 12))
    assert read(disk) == [batch(1, 1), batch(2, 12)]


def test_a_successor_has_the_room_that_was_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any moment, on a disk that is full from then on."""
    disk = new_disk()
    writer = open_writer(disk)
    for n in range(1, 30):
        append(writer, batch(n, 1))
        writer.prepare()
        left = disk.after_kill()
        fill_disk(left, monkeypatch)
        successor = open_writer(left)
        assert successor.room == writer.room
        for _ in range(5):
            append(successor, batch(successor.last + 1, 1))


def test_nothing_is_left_of_what_was_allocated_ahead() -> None:
    disk = new_disk()
    writer = open_writer(disk)
    append(writer, batch(1, 1))
    writer.prepare()
    assert disk.names(DIRECTORY) == [name_of(1), name_of(2)]
    assert read_file(disk, DIRECTORY / name_of(2)) == bytes(SEGMENT_SIZE)
    writer.close()
    assert disk.names(DIRECTORY) == [name_of(1)]
    assert disk.open_files == 0

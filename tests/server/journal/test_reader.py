"""The Reader: it gives what was written or says what is wrong and where, whatever was done to the
files; and a Writer goes on where it found the end.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.journal.errors import Damaged, JournalError, OtherFormat
from server.journal.format import BATCH, FORMAT_VERSION, SEGMENT, segment_head
from server.journal.reader import Batch, End, Reader, find_end, first_txn, segments
from server.region.records import RECORD_SIZE, RECORD_WORDS
from tests.helpers.disk import SimulatedDisk
from tests.server.journal import (
    DIRECTORY,
    TIME,
    Written,
    append,
    batch,
    batches,
    disk_of,
    files_of,
    journal_of,
    new_disk,
    open_writer,
    read,
    size_of,
)

GROUPS = ((2, 1, 3), (1, 2), (1, 2))
SLACK = 40
FILES = journal_of(GROUPS, SLACK)
NAMES = list(FILES)
ALL = batches([size for group in GROUPS for size in group])


@dataclass(frozen=True, slots=True)
class Part:
    """A header or a batch: what stands at these bytes of a file of FILES."""

    name: str
    start: int
    end: int
    before: int  # how many batches stand before it, in the whole journal
    batch: bool


def _parts() -> Iterator[Part]:
    before = 0
    for name, group in zip(NAMES, GROUPS, strict=True):
        at = SEGMENT.size
        yield Part(name, 0, at, before, batch=False)
        for size in group:
            yield Part(name, at, at + size_of(size), before, batch=True)
            at += size_of(size)
            before += 1


PARTS = list(_parts())
LAST = PARTS[-1]


def part_at(name: str, offset: int) -> Part | None:
    """None: the zeros at the end."""
    for part in PARTS:
        if part.name == name and part.start <= offset < part.end:
            return part
    return None


def changed(name: str, content: bytes | bytearray) -> SimulatedDisk:
    return disk_of({**FILES, name: bytes(content)})


def check_refused(disk: SimulatedDisk, name: str, offset: int) -> str:
    """Damaged, at that place, after a true beginning; nothing is changed. What it says."""
    found: list[Batch] = []
    reader = Reader(disk, DIRECTORY)
    with pytest.raises(Damaged) as refused:
        found.extend(reader.batches())
    assert [each.records for each in found] == [each.records for each in ALL[: len(found)]]
    assert (refused.value.path, refused.value.offset) == (DIRECTORY / name, offset)
    assert str(refused.value).startswith(f"{DIRECTORY / name}, offset {offset}: ")
    assert disk.calls == 0
    return refused.value.what


def check_end(disk: SimulatedDisk, left: int) -> None:
    """So many batches are read; a Writer goes on behind them, and all of it is kept."""
    reader = Reader(disk, DIRECTORY)
    assert [each.records for each in reader.batches()] == [each.records for each in ALL[:left]]
    assert reader.end == find_end(disk, DIRECTORY)
    found = ALL[:left]
    writer = open_writer(disk)
    for each in batches([1, 12], writer.last + 1, generation=1):
        append(writer, each)
        found.append(each)
    writer.close()
    assert read(disk) == read(disk.after_power_cut()) == found


# ---- what was written


def test_all_of_it_is_read() -> None:
    disk = disk_of(FILES)
    assert read(disk) == ALL
    (first, second, *_) = Reader(disk, DIRECTORY).batches()
    assert (first.path, first.offset, first.time) == (DIRECTORY / NAMES[0], SEGMENT.size, TIME)
    assert (first.first, first.last, first.count) == (1, 2, 2)
    assert (second.first, second.last, second.offset) == (3, 3, SEGMENT.size + size_of(2))
    words = first.words()
    assert struct.pack(f"<{2 * RECORD_WORDS}Q", *words) == ALL[0].records
    assert words[::RECORD_WORDS] == [1, 2]


def test_where_it_ends() -> None:
    name = NAMES[-1]
    expected = End(
        last=ALL[-1].first + 1,
        path=DIRECTORY / name,
        head=segment_head(FILES[name]),
        offset=LAST.end,
        batch=LAST.start,
    )
    assert find_end(disk_of(FILES), DIRECTORY) == expected


def test_an_empty_journal_has_no_end() -> None:
    disk = new_disk()
    assert read(disk) == []
    assert find_end(disk, DIRECTORY) == End(0)


def test_other_names_are_no_segments() -> None:
    names = ["1.journal", NAMES[0] + ".new", NAMES[0].replace("journal", "snapshot"), "x.journal"]
    disk = disk_of({**FILES, **dict.fromkeys(names, b"x")})
    assert segments(disk, DIRECTORY) == [DIRECTORY / name for name in NAMES]
    assert read(disk) == ALL


def test_the_number_of_a_segment_is_its_first_txn() -> None:
    assert [first_txn(DIRECTORY / name) for name in NAMES] == [1, 7, 10]
    with pytest.raises(AssertionError):
        first_txn(Path("lock"))


@pytest.mark.parametrize("after", range(15))
def test_after_a_transaction_are_the_batches_that_hold_later_ones(after: int) -> None:
    assert read(disk_of(FILES), after) == [
        each for each in ALL if each.first + each.size - 1 > after
    ]


@pytest.mark.parametrize(("after", "unread"), [(0, 0), (5, 0), (6, 1), (8, 1), (9, 2), (100, 2)])
def test_segments_at_or_below_it_are_not_read(after: int, unread: int) -> None:
    def read_after(files: dict[str, bytes]) -> list[int]:
        return [each.first for each in Reader(disk_of(files), DIRECTORY).batches(after)]

    expected = read_after(FILES)
    assert read_after({**FILES, **dict.fromkeys(NAMES[:unread], b"nonsense")}) == expected
    assert read_after({name: FILES[name] for name in NAMES[unread:]}) == expected
    with pytest.raises(Damaged):
        read_after({**FILES, NAMES[unread]: b"nonsense" + FILES[NAMES[unread]][8:]})


def test_the_end_is_found_by_the_last_segment_that_was_made() -> None:
    others = dict.fromkeys(NAMES[:-1], b"nonsense")
    assert find_end(disk_of({**FILES, **others}), DIRECTORY).last == 12
    with pytest.raises(Damaged):
        find_end(disk_of({**FILES, NAMES[-1]: b"nonsense" + FILES[NAMES[-1]][8:]}), DIRECTORY)
    unborn = {f"{13:020}.journal": bytes(500)}
    with pytest.raises(Damaged):
        find_end(disk_of({**FILES, NAMES[-1]: b"nonsense", **unborn}), DIRECTORY)
    with pytest.raises(Damaged, match="13 to 13 are damaged or missing"):
        find_end(disk_of({**FILES, f"{14:020}.journal": bytes(500)}), DIRECTORY)


@pytest.mark.parametrize("chunk", [1, 2, 7, 15, 16, 17, 100, 1000])
def test_the_end_is_the_same_by_pieces(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FILES[LAST.name]
    for size in range(LAST.start - 60, len(whole) + 1):
        disk = disk_of({**FILES, LAST.name: whole[:size].ljust(len(whole), b"\0")})
        reader = Reader(disk, DIRECTORY)
        assert len(list(reader.batches())) in (len(ALL) - 2, len(ALL) - 1, len(ALL))
        with monkeypatch.context() as patch:
            patch.setattr("server.journal.reader.CHUNK", chunk)
            assert find_end(disk, DIRECTORY) == reader.end


def test_who_looks_for_the_end_shows_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.journal.reader.CHUNK", 100)
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    find_end(disk_of({LAST.name: FILES[LAST.name].ljust(10_000, b"\0")}), DIRECTORY, beat)
    assert beats > 90


def test_a_segment_that_holds_nothing_yet() -> None:
    name = f"{13:020}.journal"
    for content, born in ((SEGMENT.pack(FORMAT_VERSION, 13, 99, TIME), True), (bytes(500), False)):
        disk = disk_of({**FILES, name: content})
        end = find_end(disk, DIRECTORY)
        assert end.last == 12
        assert end.unborn == (None if born else DIRECTORY / name)
        assert end.path == DIRECTORY / (name if born else NAMES[-1])
        assert (end.batch == 0) == born
        check_end(disk, len(ALL))


def test_a_first_segment_that_was_being_made() -> None:
    disk = disk_of({f"{501:020}.journal": bytes(100)})
    assert find_end(disk, DIRECTORY) == End(500, unborn=DIRECTORY / f"{501:020}.journal")
    append(open_writer(disk), batch(501, 1))
    assert read(disk, after=500) == [batch(501, 1)]


# ---- every byte


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("whole", [False, True], ids=["bit", "byte"])
def test_every_byte_flipped(name: str, whole: bool) -> None:
    content = bytearray(FILES[name])
    for offset in range(len(content)):
        flip = 0xFF if whole else 1 << offset % 8
        content[offset] ^= flip
        part = part_at(name, offset)
        disk = changed(name, content)
        if part is None:
            check_end(disk, len(ALL))
        elif part is LAST:
            check_end(disk, len(ALL) - 1)
        else:
            check_refused(disk, name, part.start)
        content[offset] ^= flip


@pytest.mark.parametrize("name", NAMES)
def test_truncated_at_every_byte(name: str) -> None:
    content = FILES[name]
    for size in range(len(content)):
        part = part_at(name, size)
        disk = changed(name, content[:size])
        if part is None:
            check_end(disk, len(ALL))
        elif name == NAMES[-1]:
            check_end(disk, part.before)
        else:
            check_refused(disk, name, part.start)


# ---- every part


@pytest.mark.parametrize("part", PARTS)
def test_zeros_over_a_part(part: Part) -> None:
    content = bytearray(FILES[part.name])
    content[part.start : part.end] = bytes(part.end - part.start)
    disk = changed(part.name, content)
    if part is LAST:
        check_end(disk, len(ALL) - 1)
    else:
        what = check_refused(disk, part.name, part.start)
        assert "damaged" in what
        assert ("header" in what) != part.batch


def test_what_is_missing_is_named() -> None:
    content = bytearray(FILES[NAMES[0]])
    content[SEGMENT.size :] = bytes(len(content) - SEGMENT.size)
    what = check_refused(changed(NAMES[0], content), NAMES[0], SEGMENT.size)
    assert what.startswith("transactions 1 to 6 are damaged or missing")
    content = bytearray(FILES[NAMES[0]])
    content[SEGMENT.size] ^= 1
    what = check_refused(changed(NAMES[0], content), NAMES[0], SEGMENT.size)
    assert what == (
        f"transaction 1 is damaged, and followed by 3 at offset {SEGMENT.size + size_of(2)}"
    )


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_missing_segment_is_refused(name: str) -> None:
    disk = disk_of({other: FILES[other] for other in NAMES if other != name})
    if name == NAMES[0]:
        what = check_refused(disk, NAMES[1], 0)
        assert what == "transactions 1 to 6 are missing"
    else:
        check_refused(disk, NAMES[0], PARTS[3].end)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [2, 6, 8, 9, 11, 12, 13, 14, 1000])
def test_a_renamed_or_copied_segment_is_refused(name: str, number: int) -> None:
    other = f"{number:020}.journal"
    copied = {**FILES, other: FILES[name]}
    renamed = {key: value for key, value in copied.items() if key != name}
    for files in (copied, renamed):
        disk = disk_of(files)
        with pytest.raises(Damaged):
            read(disk)
        assert files_of(disk) == files


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (0, 2)])
def test_swapped_segments_are_refused(one: int, other: int) -> None:
    a, b = NAMES[one], NAMES[other]
    disk = disk_of({**FILES, a: FILES[b], b: FILES[a]})
    what = check_refused(disk, a, 0)
    assert what == f"it begins with transaction {first_txn(DIRECTORY / b)} in the place of " + str(
        first_txn(DIRECTORY / a)
    )


def test_another_format_is_told_and_not_called_damage() -> None:
    content = SEGMENT.pack(FORMAT_VERSION + 1, 10, 99, TIME) + FILES[NAMES[-1]][SEGMENT.size :]
    with pytest.raises(OtherFormat, match=rf"{NAMES[-1]} has format 3, .* reads 2") as refused:
        read(changed(NAMES[-1], content))
    assert isinstance(refused.value, JournalError)
    assert not isinstance(refused.value, Damaged)


# ---- batches that are whole and do not belong there


def _packed(salt: int, written: Written) -> bytes:
    header = BATCH.pack(salt, written.first, written.size, TIME, rest=(written.records,))
    return header + written.records


def _salt(name: str) -> int:
    head = segment_head(FILES[name])
    assert head is not None
    return head.salt


def _with(name: str, offset: int, data: bytes) -> SimulatedDisk:
    content = FILES[name]
    return changed(name, content[:offset] + data + content[offset + len(data) :])


NEXT = batch(13, 1)


def test_the_next_batch_is_taken() -> None:
    disk = _with(LAST.name, LAST.end, _packed(_salt(LAST.name), NEXT))
    assert read(disk) == [*ALL, NEXT]


def test_a_batch_of_another_segment_is_not_taken() -> None:
    disk = _with(LAST.name, LAST.end, _packed(_salt(NAMES[0]), NEXT))
    assert find_end(disk, DIRECTORY).torn > 0
    check_end(disk, len(ALL))


@pytest.mark.parametrize("gap", [8, 100, 2000])
def test_a_batch_of_this_segment_behind_a_gap_is_refused(gap: int) -> None:
    disk = _with(LAST.name, LAST.end, bytes(gap) + _packed(_salt(LAST.name), NEXT))
    check_refused(disk, LAST.name, LAST.end)


@pytest.mark.parametrize("first", [1, 10, 12, 14])
def test_a_batch_out_of_order_is_refused(first: int) -> None:
    disk = _with(LAST.name, LAST.end, _packed(_salt(LAST.name), batch(first, 1)))
    what = check_refused(disk, LAST.name, LAST.end)
    assert what == f"transaction 13 is damaged, and followed by {first} at offset {LAST.end}"


def test_records_that_are_not_those_of_the_header_are_refused() -> None:
    records = batch(13, 1).records + batch(15, 1).records
    disk = _with(LAST.name, LAST.end, _packed(_salt(LAST.name), Written(13, 2, records)))
    what = check_refused(disk, LAST.name, LAST.end + BATCH.size)
    assert what == "the records are 13 to 15, the header says others"


def test_letters_of_a_user_that_look_like_a_header_are_no_batch() -> None:
    """A torn batch whose records hold the magic word."""
    letters = BATCH.magic.to_bytes(8, "little")
    records = NEXT.records[:40] + (letters + bytes(16) + b"\1" + bytes(7)) * 3
    torn = _packed(_salt(LAST.name), Written(13, 1, records.ljust(RECORD_SIZE, b"\1")))[:-1]
    check_end(_with(LAST.name, LAST.end, torn + b"\2" + bytes(300)), len(ALL))


# ---- anything

_PLACES = st.tuples(st.sampled_from(NAMES), st.integers(0, 1200), st.integers(1, 700))
_EDITS = st.one_of(
    st.tuples(st.just("zeros"), _PLACES, _PLACES),
    st.tuples(st.just("ones"), _PLACES, _PLACES),
    st.tuples(st.just("cut"), _PLACES, _PLACES),
    st.tuples(st.just("copy"), _PLACES, _PLACES),
    st.tuples(st.just("move"), _PLACES, _PLACES),
)
_Place = tuple[str, int, int]


@settings(max_examples=200)
@given(st.lists(_EDITS, min_size=1, max_size=3))
def test_whatever_is_done_to_the_files_what_is_read_was_written(
    edits: list[tuple[str, _Place, _Place]],
) -> None:
    files = {name: bytearray(content) for name, content in FILES.items()}
    for kind, (name, start, size), (other, at, _) in edits:
        content = files[name]
        old = bytes(content[start : start + size])
        if kind == "cut":
            del content[start:]
        elif kind == "copy":
            files[other][at : at + len(old)] = old
        elif kind == "move":
            del content[start : start + size]
            files[other][at:at] = old
        else:
            content[start : start + size] = (b"\0" if kind == "zeros" else b"\xff") * len(old)
    disk = disk_of({name: bytes(content) for name, content in files.items()})
    try:
        left = len(read(disk))
    except Damaged as refused:
        assert refused.path.parent == DIRECTORY  # noqa: PT017 - it need not be raised
    else:
        check_end(disk, left)

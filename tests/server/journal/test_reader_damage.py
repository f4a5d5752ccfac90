"""The reader on files that are not what was written: every byte, every part, whole batches that do
not belong there, torn ends."""

import re
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.journal.errors import Damaged, JournalError, OtherFormat
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
from server.journal.reader import (
    SECTOR,
    Reader,
    find_end,
    written_size,
)
from server.region.records import RECORD_SIZE
from tests.helpers.disk import SimulatedDisk
from tests.server.journal import (
    DIRECTORY,
    LOG_ID,
    TIME,
    Size,
    Written,
    after,
    append,
    batch,
    disk_of,
    files_of,
    length,
    name_of,
    open_writer,
    read,
    salts,
)
from tests.server.journal.written import (
    ALL,
    FILES,
    GROUPS,
    LAST,
    NAMES,
    PARTS,
    SLACK,
    Part,
    changed,
    check_end,
    check_refused,
    content_of,
    ends,
)


def part_at(name: str, offset: int) -> Part | None:
    """None: the zeros at the end."""
    for part in PARTS:
        if part.name == name and part.start <= offset < part.end:
            return part
    return None


def parts_of(part: Part) -> dict[str, range]:
    """Where the parts of a batch stand."""
    written = ALL[part.before]
    ends = list(accumulate((BATCH.size, len(written.records), len(written.events), len(BATCH_END))))
    names = "header", "records", "events", "closing word"
    return {
        name: range(part.start + start, part.start + end)
        for name, start, end in zip(names, [0, *ends], ends, strict=False)
    }


def check_lost(disk: SimulatedDisk, *lost: int) -> None:
    """All is read, of these batches the transactions alone; and so it goes on."""
    found = list(Reader(disk, DIRECTORY, LOG_ID).batches())
    assert [place for place, each in enumerate(found) if each.lost] == list(lost)
    assert [each.end for each in found] == ends()
    check_end(disk, len(ALL))


# ---- every byte


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("whole", [False, True], ids=["bit", "byte"])
def test_every_byte_flipped(name: str, whole: bool) -> None:
    """Damage is never taken for a torn write: not even in the last batch. That of events alone is
    passed over, and that of a closing word is none."""
    content = bytearray(FILES[name])
    for offset in range(len(content)):
        flip = 0xFF if whole else 1 << offset % 8
        content[offset] ^= flip
        part, disk = part_at(name, offset), changed(name, content)
        if part is not None and part.batch and offset in parts_of(part)["events"]:
            check_lost(disk, part.before)
        elif part is not None and part.batch and offset in parts_of(part)["closing word"]:
            check_lost(disk)
        else:  # behind the last batch there was no room for another
            check_refused(disk, name, len(content) if part is None else part.start)
        content[offset] ^= flip


@pytest.mark.parametrize("name", NAMES)
def test_truncated_at_every_byte(name: str) -> None:
    """Where the last segment ends with a batch, only what is known to be durable tells (see
    test_position.py)."""
    content = FILES[name]
    for size in range(len(content)):
        part = part_at(name, size)
        disk = changed(name, content[:size])
        if part is None:
            check_end(disk, len(ALL))
        elif name == NAMES[-1] and size == part.start:
            check_end(disk, part.before)
        elif name == NAMES[-1] and part.batch:
            assert check_refused(disk, name, size).startswith("the file is too short")
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


@pytest.mark.parametrize(
    "part", [part for part in PARTS if part.batch and parts_of(part)["events"]]
)
def test_zeros_over_the_events(part: Part) -> None:
    """What follows tells that it is no torn write; in the last batch a sector may be missing."""
    content, events = bytearray(FILES[part.name]), parts_of(part)["events"]
    content[events.start : events.stop] = bytes(len(events))
    holes = any(not any(content[each]) for each in _sectors(part.start, part.end))
    disk = changed(part.name, content)
    if part is LAST and holes:
        check_end(disk, len(ALL) - 1)
    else:
        check_lost(disk, part.before)
    if part.end + SLACK < len(content):  # and the header of the next one is damaged
        content[part.end] ^= 1
        check_refused(changed(part.name, content), part.name, part.end)


def test_the_events_of_many_batches_are_damaged() -> None:
    files = {name: bytearray(content) for name, content in FILES.items()}
    lost = [part for part in PARTS if part.batch and parts_of(part)["events"]]
    for part in lost:
        files[part.name][parts_of(part)["events"][-1]] ^= 1
    disk = disk_of({name: bytes(content) for name, content in files.items()})
    check_lost(disk, *(part.before for part in lost))
    assert len(lost) > 3


def test_what_is_missing_is_named() -> None:
    content = bytearray(FILES[NAMES[0]])
    content[SEGMENT.size :] = bytes(len(content) - SEGMENT.size)
    what = check_refused(changed(NAMES[0], content), NAMES[0], SEGMENT.size)
    assert what == (
        f"here it ends with transaction 0 and event 0, and {NAMES[1]} begins with 4 and 8: what is "
        "between is damaged or missing"
    )
    content = bytearray(FILES[NAMES[0]])
    content[SEGMENT.size] ^= 1
    what = check_refused(changed(NAMES[0], content), NAMES[0], SEGMENT.size)
    assert what == (
        "the batch of transaction 1 is damaged, and followed by another at offset "
        f"{SEGMENT.size + length(ALL[0])}"
    )


@pytest.mark.parametrize("name", NAMES[1:-1])
def test_a_missing_segment_is_refused(name: str) -> None:
    disk = disk_of({other: FILES[other] for other in NAMES if other != name})
    what = check_refused(disk, NAMES[2], 0)
    assert what == "segments 2 to 2 are missing before it"


def test_without_its_beginning_it_begins_later() -> None:
    """Segments that a snapshot covers go: whether that is so, who loads it looks."""
    disk = disk_of({name: FILES[name] for name in NAMES[1:]})
    assert read(disk) == ALL[len(GROUPS[0]) :]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 1000])
def test_a_renamed_or_copied_segment_is_refused(name: str, number: int) -> None:
    other = name_of(number)
    if other == name:
        return
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
    assert what == f"it is segment {other + 1} under another's name"


def test_another_format_is_told_and_not_called_damage() -> None:
    head = segment_head(FILES[NAMES[-1]])
    assert head is not None
    header = SEGMENT.pack(FORMAT_VERSION + 1, *head[2:-1])
    content = header + FILES[NAMES[-1]][SEGMENT.size :]
    with pytest.raises(OtherFormat, match=rf"{NAMES[-1]} has format 6, .* reads 5") as refused:
        read(changed(NAMES[-1], content))
    assert isinstance(refused.value, JournalError)
    assert not isinstance(refused.value, Damaged)


# ---- another log, and another copy of this one


def grown(disk: SimulatedDisk, generation: int, sizes: tuple[Size, ...]) -> dict[str, bytes]:
    """The files after a Writer has gone on."""
    writer = open_writer(disk, segment_size=600, salt=salts(generation))
    for each in after(writer, sizes, generation):
        append(writer, each)
    writer.close()
    return files_of(disk)


@pytest.mark.parametrize("sizes", [(Size(3), Size(2)), (Size(0, 4), Size(0, 2))])
def test_a_segment_of_another_copy_is_refused(sizes: tuple[Size, ...]) -> None:
    """Both are good, and have as many transactions and events: they have gone their own ways."""
    one, other = (grown(disk_of(FILES), generation, sizes) for generation in (1, 2))
    assert one.keys() == other.keys()
    assert len(one) == len(NAMES) + 2
    for name in sorted(one):
        mixed = {**one, name: other[name]}
        if one[name] == other[name]:
            continue
        with pytest.raises(Damaged) as refused:
            read(disk_of(mixed))
        assert refused.value.path.name >= name
        assert "another journal" in refused.value.what


def test_a_journal_of_another_log_is_refused() -> None:
    what = None
    with pytest.raises(Damaged, match="of another log") as refused:
        read(disk_of(FILES), log_id=LOG_ID + 1)
    what = refused.value.path
    assert what == DIRECTORY / NAMES[-1]
    with pytest.raises(Damaged, match="of another log"):
        find_end(disk_of(FILES), DIRECTORY, LOG_ID + 1, None)


def test_a_first_segment_that_does_not_begin_a_log_is_refused() -> None:
    header = SEGMENT.pack(FORMAT_VERSION, LOG_ID, 1, 1, 1, 9, TIME, genesis(LOG_ID + 1))
    with pytest.raises(Damaged, match="does not begin this log"):
        read(disk_of({name_of(1): header + bytes(300)}))


# ---- batches that are whole and do not belong there


def _packed(salt: int, written: Written, previous: bytes, kind: int = BatchKind.RECORDS) -> bytes:
    header = BATCH.pack(
        salt, kind, TIME, written.first, written.size, written.first_event, written.next_event,
        len(written.events), 0, 0, 0, sha256(written.records), sha256(written.events), previous,
    )  # fmt: skip
    return header + written.records + written.events + BATCH_END


def _salt(name: str) -> int:
    head = segment_head(FILES[name])
    assert head is not None
    return head.salt


def _with(name: str, offset: int, data: bytes) -> SimulatedDisk:
    content = FILES[name]
    return changed(name, content[:offset] + data + content[offset + len(data) :])


TXN, EVENT = ALL[-1].last, ALL[-1].next_event - 1


NEXT = batch(TXN + 1, Size(1, 1), 0, EVENT + 1)


CHAIN = ends()[-1].chain


def test_the_next_batch_is_taken() -> None:
    disk = _with(LAST.name, LAST.end, _packed(_salt(LAST.name), NEXT, CHAIN))
    assert read(disk) == [*ALL, NEXT]


@pytest.mark.parametrize("kind", [3, 2**64 - 1])
def test_a_batch_of_a_kind_that_nobody_knows_is_refused(kind: int) -> None:
    disk = _with(LAST.name, LAST.end, _packed(_salt(LAST.name), NEXT, CHAIN, kind))
    assert check_refused(disk, LAST.name, LAST.end) == f"there is no batch of kind {kind}"


def test_a_batch_of_another_segment_or_copy_is_refused() -> None:
    for salt, chain in ((_salt(NAMES[0]), CHAIN), (_salt(LAST.name), bytes(32))):
        disk = _with(LAST.name, LAST.end, _packed(salt, NEXT, chain))
        what = check_refused(disk, LAST.name, LAST.end)
        assert what == "a batch stands here that belongs to another place"


@pytest.mark.parametrize("gap", [8, 100, 2000])
def test_a_batch_of_this_segment_behind_a_gap_is_refused(gap: int) -> None:
    disk = _with(LAST.name, LAST.end, bytes(gap) + _packed(_salt(LAST.name), NEXT, CHAIN))
    check_refused(disk, LAST.name, LAST.end)


@pytest.mark.parametrize(
    "wrong",
    [
        NEXT._replace(first=TXN + 2),
        NEXT._replace(first=TXN),
        NEXT._replace(first_event=EVENT),
        NEXT._replace(first_event=EVENT + 2),
        NEXT._replace(next_event=EVENT),
    ],
)
def test_a_batch_out_of_order_is_refused(wrong: Written) -> None:
    disk = _with(LAST.name, LAST.end, _packed(_salt(LAST.name), wrong, CHAIN))
    what = check_refused(disk, LAST.name, LAST.end)
    assert what == "a batch stands here that belongs to another place"


def test_records_that_are_not_those_of_the_header_are_refused() -> None:
    records = batch(TXN + 1, 1).records + batch(TXN + 3, 1).records
    wrong = NEXT._replace(size=2, records=records)
    disk = _with(LAST.name, LAST.end, _packed(_salt(LAST.name), wrong, CHAIN))
    what = check_refused(disk, LAST.name, LAST.end + BATCH.size)
    assert what == f"the records are {TXN + 1} to {TXN + 3}, the header says others"


# ---- torn, or damaged


def test_how_far_a_file_is_written() -> None:
    block = 1 << 16
    for size in (0, 1, 5, block - 1, block, block + 1, 3 * block + 7):
        for last in (None, 0, 1, size // 2, block - 1, block, size - 1):
            data = bytearray(size)
            if last is not None and 0 <= last < size:
                data[last] = 1
            assert written_size(bytes(data)) == len(data.rstrip(b"\0"))


LONG = batch(TXN + 1, Size(9, 4), 0, EVENT + 1)  # of several sectors


def _sectors(start: int, end: int) -> list[slice]:
    return [
        slice(max(start, at), min(end, at + SECTOR))
        for at in range(start - start % SECTOR, end, SECTOR)
    ]


def test_whatever_sectors_are_missing_the_batch_is_torn() -> None:
    """Any of them, and any of them damaged beside: it was never answered for."""
    content = FILES[LAST.name][: LAST.end] + _packed(_salt(LAST.name), LONG, CHAIN) + bytes(99)
    sectors = _sectors(LAST.end, LAST.end + length(LONG))
    assert len(sectors) > 4
    for lost in range(1, 2 ** len(sectors)):
        left = bytearray(content)
        for place, sector in enumerate(sectors):
            if lost >> place & 1:
                left[sector] = bytes(sector.stop - sector.start)
        disk = changed(LAST.name, left)
        end = find_end(disk, DIRECTORY, LOG_ID, None)
        assert end.position == ends()[-1]
        assert end.torn == len(left.rstrip(b"\0")) - LAST.end or not end.torn
        check_end(disk, len(ALL))


def test_whatever_byte_of_a_whole_last_batch_is_changed_it_is_damaged() -> None:
    content = FILES[LAST.name][: LAST.end] + _packed(_salt(LAST.name), LONG, CHAIN) + bytes(99)
    records = LAST.end + BATCH.size + len(LONG.records)
    for at in range(LAST.end, LAST.end + length(LONG)):
        left = bytearray(content)
        left[at] ^= 1 << at % 8
        if at >= records:
            *_, last = Reader(changed(LAST.name, left), DIRECTORY, LOG_ID).batches()
            assert last.lost == (at < records + len(LONG.events))
            events = b"" if last.lost else LONG.events
            assert content_of([last]) == [(LONG.records, events)]
            continue
        what = check_refused(changed(LAST.name, left), LAST.name, LAST.end)
        assert what == f"the batch of transaction {TXN + 1} is damaged"


def test_events_with_a_missing_sector_are_damaged_where_another_batch_follows() -> None:
    """That was written when this one was durable; where none follows it is torn."""
    many = batch(TXN + 1, Size(1, 12), 0, EVENT + 1)
    packed = _packed(_salt(LAST.name), many, CHAIN)
    after_it = batch(many.last + 1, Size(2), 0, many.next_event)
    following = _packed(_salt(LAST.name), after_it, sha256(packed[: BATCH.size]))
    end = LAST.end + len(packed)
    events = range(end - len(BATCH_END) - len(many.events), end - len(BATCH_END))
    missing = [each for each in _sectors(LAST.end, end) if {each.start, each.stop - 1} <= {*events}]
    assert missing
    for sector in missing:
        for behind in (following, b""):
            content = bytearray(FILES[LAST.name][: LAST.end] + packed + behind + bytes(99))
            content[sector] = bytes(sector.stop - sector.start)
            disk = changed(LAST.name, content)
            if not behind:
                check_end(disk, len(ALL))
                continue
            *_, hit, last = Reader(disk, DIRECTORY, LOG_ID).batches()
            assert (hit.lost, last.lost) == (True, False)
            assert content_of([hit, last]) == [(many.records, b""), (after_it.records, b"")]


def test_what_stands_behind_a_torn_batch_is_told() -> None:
    """A batch is written when the one before it is durable: this is not what a crash leaves."""
    content = bytearray(
        FILES[LAST.name][: LAST.end] + _packed(_salt(LAST.name), LONG, CHAIN) + b"x"
    )
    whole = _sectors(LAST.end, LAST.end + length(LONG))[2]
    content[whole] = bytes(SECTOR)
    what = check_refused(changed(LAST.name, content), LAST.name, LAST.end + length(LONG))
    assert what == "something stands behind a batch that was not written wholly"


def test_letters_of_a_user_that_look_like_a_header_are_no_batch() -> None:
    """A torn batch whose records hold the magic word."""
    letters = BATCH.magic.to_bytes(8, "little")
    records = LONG.records[:40] + (letters + bytes(16) + b"\1" + bytes(7)) * 3
    wrong = LONG._replace(records=records.ljust(9 * RECORD_SIZE, b"\1"))
    torn = _packed(_salt(LAST.name), wrong, CHAIN)[:-1000]
    check_end(_with(LAST.name, LAST.end, torn.ljust(length(LONG), b"\0")), len(ALL))


# ---- anything


_PLACES = st.tuples(st.sampled_from(NAMES), st.integers(0, 2200), st.integers(1, 700))


_EDITS = st.one_of(
    st.tuples(st.sampled_from(["zeros", "ones", "cut", "copy", "move"]), _PLACES, _PLACES),
)


_Place = tuple[str, int, int]


NAMED = re.compile(r"/data/journal/\d{20}\.journal, offset \d+: ")


@settings(max_examples=150, deadline=None)
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
        assert NAMED.match(str(refused))  # noqa: PT017 - likewise
        return
    check_end(disk, left)
    # And whoever knows how far it was durable is told, where it is not that far any more.
    if left < len(ALL):
        with pytest.raises(Damaged):
            read(disk, ends()[-1])

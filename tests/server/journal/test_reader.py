"""The Reader: it gives what was written or says what is wrong and where, whatever was done to the
files; and a Writer goes on where it found the end.
"""

import struct
from pathlib import Path

import pytest

from server.journal.errors import Damaged
from server.journal.format import (
    BATCH,
    FORMAT_VERSION,
    SEGMENT,
    BatchKind,
    genesis,
    segment_head,
    sha256,
)
from server.journal.reader import (
    End,
    Position,
    Reader,
    find_end,
    heads,
    number_of,
    segments,
)
from server.region.records import RECORD_WORDS
from tests.helpers.disk import SimulatedDisk
from tests.server.journal import (
    DIRECTORY,
    LOG_ID,
    TIME,
    Size,
    after,
    append,
    batch,
    disk_of,
    length,
    mark,
    name_of,
    new_disk,
    open_writer,
    read,
)
from tests.server.journal.written import (
    ALL,
    FILES,
    GROUPS,
    LAST,
    NAMES,
    PARTS,
    changed,
    check_end,
    check_refused,
    content_of,
    ends,
)

NO_START = Position(0, 0, 0, 0, genesis(LOG_ID))


# ---- what was written


def test_all_of_it_is_read() -> None:
    disk = disk_of(FILES)
    assert read(disk) == ALL
    (first, second, third, *_) = Reader(disk, DIRECTORY, LOG_ID).batches()
    assert (first.path, first.offset, first.head.time) == (DIRECTORY / NAMES[0], SEGMENT.size, TIME)
    assert (first.first, first.last, first.count) == (1, 2, 2)
    assert (second.first, second.last, second.offset) == (3, 3, SEGMENT.size + length(ALL[0]))
    assert (third.first, third.last, third.count) == (4, 3, 0)
    assert third.end.event == third.head.next_event - 1 == 7
    words = first.words()
    assert struct.pack(f"<{2 * RECORD_WORDS}Q", *words) == ALL[0].records
    assert words[::RECORD_WORDS] == [1, 2]


def test_each_batch_is_chained_to_the_header_before_it() -> None:
    """By nothing but the format: a hash over each header, from the log's identity on."""
    chain = genesis(LOG_ID)
    assert chain == sha256(b"tradechat log" + struct.pack("<Q", LOG_ID))
    for part in PARTS:
        content = FILES[part.name][part.start : part.end]
        size, field = (BATCH.size, BATCH) if part.batch else (SEGMENT.size, SEGMENT)
        assert content[size - 40 : size - 8] == chain, "the last field before the CRC"
        assert field.fields[-2].name == "previous"
        chain = sha256(content[:size])
    assert ends()[-1].chain == chain


def test_where_it_ends() -> None:
    name = NAMES[-1]
    expected = End(
        position=ends()[-1],
        path=DIRECTORY / name,
        head=segment_head(FILES[name]),
        batch=LAST.start,
    )
    found = find_end(disk_of(FILES), DIRECTORY, LOG_ID, None)
    assert found == expected
    assert (found.offset, found.last) == (LAST.end, ALL[-1].last)
    assert found.position[:2] == (3, LAST.end)


def test_an_empty_journal_has_no_end() -> None:
    disk = new_disk()
    assert read(disk) == []
    assert find_end(disk, DIRECTORY, LOG_ID, None) == End(NO_START)


def test_an_orderly_stop_is_told() -> None:
    disk = disk_of(FILES)
    for kind in (BatchKind.END, BatchKind.BEGIN, BatchKind.END):
        writer = open_writer(disk)
        append(writer, mark(kind, writer.last, writer.position.event))
        writer.close()
        assert find_end(disk, DIRECTORY, LOG_ID, None).clean == (kind == BatchKind.END)
    assert [each.kind for each in read(disk)[-3:]] == [
        BatchKind.END,
        BatchKind.BEGIN,
        BatchKind.END,
    ]
    assert len(disk.names(DIRECTORY)) == len(NAMES) + 2, "a start has a segment of its own"
    writer = open_writer(disk)
    append(writer, after(writer, [1], 0)[0])
    assert not find_end(disk, DIRECTORY, LOG_ID, None).clean


def test_other_names_are_no_segments() -> None:
    names = ["1.journal", NAMES[0] + ".new", NAMES[0].replace("journal", "snapshot"), "x.journal"]
    disk = disk_of({**FILES, **dict.fromkeys(names, b"x")})
    assert segments(disk, DIRECTORY) == [DIRECTORY / name for name in NAMES]
    assert read(disk) == ALL


def test_segments_are_named_by_their_number() -> None:
    assert [number_of(DIRECTORY / name) for name in NAMES] == [1, 2, 3]
    with pytest.raises(AssertionError):
        number_of(Path("lock"))


# ---- from some place on


@pytest.mark.parametrize("place", range(len(ALL)))
def test_after_a_position_are_the_batches_behind_it(place: int) -> None:
    position = ends()[place]
    assert read(disk_of(FILES), position) == ALL[place + 1 :]
    assert find_end(disk_of(FILES), DIRECTORY, LOG_ID, position).position == ends()[-1]
    before = dict.fromkeys(NAMES[: position.segment - 1], b"nonsense")
    assert read(disk_of({**FILES, **before}), position) == ALL[place + 1 :], "it is not read"


@pytest.mark.parametrize("place", range(len(ALL)))
def test_a_position_of_another_journal_is_refused(place: int) -> None:
    """Whatever follows it, and also where nothing does."""
    true = ends()[place]
    for false in (
        true._replace(chain=bytes(32)),
        true._replace(offset=true.offset + 8),
        true._replace(segment=true.segment + 1),
        true._replace(segment=9),
    ):
        with pytest.raises(Damaged):
            read(disk_of(FILES), false)
    for false in (true._replace(txn=true.txn + 1), true._replace(event=true.event + 1)):
        if place + 1 < len(ALL):
            with pytest.raises(Damaged):
                read(disk_of(FILES), false)


@pytest.mark.parametrize(
    ("txn", "segment"), [(0, 1), (2, 1), (3, 2), (5, 2), (6, 3), (9, 3), (99, 3)]
)
def test_where_a_transaction_is_looked_for(txn: int, segment: int) -> None:
    reader = Reader(disk_of(FILES), DIRECTORY, LOG_ID)
    start = reader.start(txn)
    assert start is not None
    assert start[:2] == (segment, 0)
    found = list(reader.batches(start))
    assert content_of(found) == [(each.records, each.events) for each in ALL[-len(found) :]]
    assert min(each.first for each in found) <= txn + 1
    without = Reader(disk_of({name: FILES[name] for name in NAMES[1:]}), DIRECTORY, LOG_ID)
    assert (without.start(txn) is None) == (segment == 1)


def test_the_end_is_found_by_the_last_segment_that_was_made() -> None:
    others = dict.fromkeys(NAMES[:-1], b"nonsense")
    assert find_end(disk_of({**FILES, **others}), DIRECTORY, LOG_ID, None).last == ALL[-1].last
    nonsense = b"nonsense" + FILES[NAMES[-1]][8:]
    with pytest.raises(Damaged):
        find_end(disk_of({**FILES, NAMES[-1]: nonsense}), DIRECTORY, LOG_ID, None)
    with pytest.raises(Damaged, match="header is damaged"):
        find_end(
            disk_of({**FILES, NAMES[-1]: b"nonsense", name_of(4): bytes(500)}),
            DIRECTORY, LOG_ID, None,
        )  # fmt: skip
    with pytest.raises(Damaged, match="segment 4 is missing"):
        find_end(disk_of({**FILES, name_of(5): bytes(500)}), DIRECTORY, LOG_ID, None)


def test_who_looks_for_the_end_shows_that_it_is_alive() -> None:
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    find_end(disk_of(FILES), DIRECTORY, LOG_ID, None, beat)
    assert beats == len(GROUPS[-1])


def test_segments_with_their_headers() -> None:
    def numbers(disk: SimulatedDisk) -> list[int]:
        return [head.number for _, head in heads(disk, DIRECTORY)]

    assert numbers(disk_of({**FILES, name_of(4): bytes(300)})) == [1, 2, 3]
    assert numbers(changed(NAMES[1], b"nonsense" + FILES[NAMES[1]][8:])) == [1, 3]


# ---- segments without a batch


def test_a_segment_that_has_nothing_yet() -> None:
    end = ends()[-1]
    header = SEGMENT.pack(
        FORMAT_VERSION, LOG_ID, 4, end.txn + 1, end.event + 1, 99, TIME, end.chain
    )
    for content, born in (
        (header, True),
        (header + bytes(500), True),
        (bytes(500), False),
        (b"", False),
    ):
        disk = disk_of({**FILES, name_of(4): content})
        found = find_end(disk, DIRECTORY, LOG_ID, None)
        assert found.last == ALL[-1].last
        assert found.unborn == (None if born else DIRECTORY / name_of(4))
        assert found.path == DIRECTORY / (name_of(4) if born else NAMES[-1])
        check_end(disk, len(ALL))


@pytest.mark.parametrize("at", [SEGMENT.size, 300, 499])
def test_a_segment_whose_header_is_gone_is_not_taken_for_a_new_one(at: int) -> None:
    content = bytearray(500)
    content[at] = 1
    what = check_refused(disk_of({**FILES, name_of(4): bytes(content)}), name_of(4), 0)
    assert what == "the segment's header is damaged"
    what = check_refused(disk_of({name_of(1): bytes(content)}), name_of(1), 0)
    assert what == "the segment's header is damaged"


def test_a_first_segment_that_was_being_made() -> None:
    disk = disk_of({name_of(1): bytes(100)})
    unborn = End(NO_START, unborn=DIRECTORY / name_of(1))
    assert find_end(disk, DIRECTORY, LOG_ID, None) == unborn
    append(open_writer(disk), batch(1, Size(1, 1)))
    assert read(disk) == [batch(1, Size(1, 1))]
    with pytest.raises(Damaged, match="all segments before it are missing"):
        read(disk_of({name_of(2): bytes(100)}))

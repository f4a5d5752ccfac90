"""The bytes of the data directory: a change here is a change of the format version."""

import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.journal import format as layout
from server.journal.format import (
    BATCH,
    CRC_CHECK,
    EVENT,
    EVENT_HEAD,
    FORMAT_VERSION,
    POSITION,
    SEGMENT,
    BatchHead,
    Header,
    SegmentHead,
    batch_head,
    crc64,
    event_size,
    genesis,
    magic,
    number_in,
    numbered,
    numbers_in,
    segment_head,
    sha256,
    twice_numbered,
)
from server.journal.reader import SECTOR
from server.region.records import RECORD_SIZE

H = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
SEGMENT_VALUES = (0x1122334455667788, 2, 3, 4, 5, 2**64 - 1, 7, H[0])
BATCH_VALUES = (0x1122334455667788, 0, 3, 4, 5, 6, 7, 2**64 - 1, 9, 10, 11, *H)
SEGMENT_BYTES = SEGMENT.pack(*SEGMENT_VALUES)
BATCH_BYTES = BATCH.pack(*BATCH_VALUES)


def crc_by_bits(data: bytes) -> int:
    """CRC-64/WE as its definition has it."""
    crc = 2**64 - 1
    for byte in data:
        crc ^= byte << 56
        for _ in range(8):
            crc = (crc << 1 ^ (0x42F0E1EBA9EA3693 if crc >> 63 else 0)) & 2**64 - 1
    return crc ^ 2**64 - 1


# ---- checksum


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_the_crc_is_the_one_it_is_called(first: bytes, second: bytes) -> None:
    assert crc64(first) == crc64(memoryview(first)) == crc_by_bits(first)
    assert crc64(second, crc64(first)) == crc_by_bits(first + second)


def test_the_crc_of_the_check_string() -> None:
    assert crc64(b"123456789") == CRC_CHECK == crc_by_bits(b"123456789")


# ---- headers


@pytest.mark.parametrize(
    ("header", "letters", "values", "fields"),
    [
        (
            SEGMENT,
            b"trdsegm1",
            SEGMENT_VALUES,
            "format log_id number first_txn first_event salt created previous",
        ),
        (
            BATCH,
            b"trdbatch",
            BATCH_VALUES,
            """salt kind time first_txn txns first_event next_event events_size ring skip epoch
            txns_hash events_hash previous""",
        ),
        (
            POSITION,
            b"trdposit",
            (1, 2, 3, 4, 5, 6, H[0]),
            "log_id count segment offset txn_id event chain",
        ),
    ],
    ids=["segment", "batch", "position"],
)
def test_a_header_is_words_between_its_magic_and_its_crc(
    header: Header, letters: bytes, values: tuple[int | bytes, ...], fields: str
) -> None:
    assert FORMAT_VERSION == 5
    assert [field.name for field in header.fields] == ["magic", *fields.split(), "crc"]
    content = b"".join(
        value if isinstance(value, bytes) else value.to_bytes(8, "little") for value in values
    )
    packed = header.pack(*values)
    assert len(packed) == header.size == len(content) + 16
    assert packed[:-8] == letters + content
    assert packed[-8:] == crc_by_bits(packed[:-8]).to_bytes(8, "little")
    assert header.pack(*values, rest=(b"ab", memoryview(b"cd")))[-8:] == crc_by_bits(
        packed[:-8] + b"abcd"
    ).to_bytes(8, "little")
    assert header.pack(*values, crc=crc64(b"before"))[-8:] == crc_by_bits(
        b"before" + packed[:-8]
    ).to_bytes(8, "little")


def test_what_is_written_at_once_is_in_one_sector() -> None:
    """A segment's header, which is never found in part, and what is noted as durable."""
    assert SEGMENT.size <= SECTOR
    assert POSITION.size <= SECTOR


def test_a_header_needs_each_of_its_fields() -> None:
    for values in (SEGMENT_VALUES[1:], (*SEGMENT_VALUES, 1)):
        with pytest.raises(AssertionError, match="segment header"):
            SEGMENT.pack(*values)


def test_an_event_is_its_head_and_its_frame_in_whole_words() -> None:
    assert EVENT_HEAD.size == 8 * len(EVENT)
    assert [field.name for field in EVENT][:4] == ["word", "kind", "room", "seq"]
    sizes = {length: event_size(length) - EVENT_HEAD.size for length in (0, 1, 7, 8, 9, 4096)}
    assert sizes == {0: 0, 1: 8, 7: 8, 8: 8, 9: 16, 4096: 4096}


def test_a_log_begins_with_its_identity() -> None:
    assert genesis(1) != genesis(2)
    assert genesis(7) == hashlib.sha256(b"tradechat log" + struct.pack("<Q", 7)).digest()
    assert sha256(b"ab", memoryview(b"c")) == hashlib.sha256(b"abc").digest()


def test_no_magic_is_another() -> None:
    magics = [
        value.magic
        for name, value in vars(layout).items()
        if isinstance(value, Header) and name.isupper() and name not in ("SNAPSHOT_3", "SNAPSHOT_4")
    ]
    assert len(magics) >= 2
    assert len(set(magics)) == len(magics)
    assert magic("trdbatch").to_bytes(8, "little") == b"trdbatch"


def test_a_segment_header_comes_back() -> None:
    expected = SegmentHead(SEGMENT.magic, *SEGMENT_VALUES, crc=crc_by_bits(SEGMENT_BYTES[:-8]))
    for data in (SEGMENT_BYTES, SEGMENT_BYTES + b"more", memoryview(SEGMENT_BYTES)):
        assert segment_head(data) == expected


@pytest.mark.parametrize("offset", [0, 1, 8, 100])
def test_a_batch_header_comes_back_from_wherever_it_is(offset: int) -> None:
    expected = BatchHead(BATCH.magic, *BATCH_VALUES, crc=crc_by_bits(BATCH_BYTES[:-8]))
    assert expected.size == BATCH.size + 5 * RECORD_SIZE + (2**64 - 1) + 8
    data = b"x" * offset + BATCH_BYTES
    for each in (data, data + b"more", memoryview(data)):
        assert batch_head(each, offset) == expected


def test_with_any_bit_flipped_it_is_none() -> None:
    for header, read in ((SEGMENT_BYTES, segment_head), (BATCH_BYTES, lambda d: batch_head(d, 0))):
        data = bytearray(header)
        for bit in range(8 * len(data)):
            data[bit // 8] ^= 1 << bit % 8
            assert read(bytes(data)) is None, bit
            data[bit // 8] ^= 1 << bit % 8
        assert read(bytes(data)) is not None


def test_cut_short_it_is_none() -> None:
    for size in range(SEGMENT.size):
        assert segment_head(SEGMENT_BYTES[:size]) is None
    for size in range(len(BATCH_BYTES)):
        assert batch_head(BATCH_BYTES[:size], 0) is None
    assert batch_head(BATCH_BYTES, len(BATCH_BYTES)) is None
    assert batch_head(BATCH_BYTES, len(BATCH_BYTES) + 1) is None


def test_one_is_not_the_other() -> None:
    assert segment_head(BATCH.pack(*BATCH_VALUES)) is None
    assert batch_head(SEGMENT.pack(*SEGMENT_VALUES) + bytes(200), 0) is None


# ---- names


def test_a_name_is_twenty_digits_and_a_suffix() -> None:
    path = numbered(Path("/data"), 42, "journal")
    assert path == Path("/data/00000000000000000042.journal")
    assert numbered(Path("/data"), 2**64 - 1, "x").name == "18446744073709551615.x"


@given(st.lists(st.integers(0, 2**64 - 1)), st.sampled_from(["journal", "snapshot"]))
def test_numbers_come_back_and_names_sort_as_numbers_do(numbers: list[int], suffix: str) -> None:
    names = [numbered(Path("x"), number, suffix).name for number in sorted(numbers)]
    assert names == sorted(names)
    assert [number_in(name, suffix) for name in names] == sorted(numbers)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "journal",
        ".journal",
        "lock",
        "42.journal",
        "00000000000000000042",
        "00000000000000000042.",
        "00000000000000000042journal",
        "00000000000000000042.snapshot",
        "00000000000000000042.journal.new",
        "00000000000000000042.Journal",
        "000000000000000000042.journal",
        "0000000000000000042.journal",
        "0000000000000000004x.journal",
        "-0000000000000000042.journal",
        "+0000000000000000042.journal",
        " 0000000000000000042.journal",
        "0000000000_000000042.journal",
        "0000000000000000004٢.journal",
        "0000000000000000004².journal",
        "00000000000000000042.journal ",
        "00000000000000000042..journal",
    ],
)
def test_other_names_have_no_number(name: str) -> None:
    assert number_in(name, "journal") is None
    assert numbers_in(f"{name}", "journal") is None
    assert numbers_in(f"{1:020}-{name}", "journal") is None


def test_a_name_with_two_numbers() -> None:
    path = twice_numbered(Path("/data"), 42, 7, "snapshot")
    assert path == Path("/data/00000000000000000042-00000000000000000007.snapshot")
    assert numbers_in(path.name, "snapshot") == (42, 7)
    for name in (
        f"{1:020}-{2:020}.journal",
        f"{1:020}.snapshot",
        f"{1:020}-{2:020}-{3:020}.snapshot",
    ):
        assert numbers_in(name, "snapshot") is None
    pairs = [(a, b) for a in (1, 9, 10, 2**64 - 1) for b in (0, 2, 2**64 - 1)]
    names = [twice_numbered(Path("x"), *pair, "snapshot").name for pair in pairs]
    assert sorted(names) == names

"""The bytes of the data directory: a change here is a change of the format version."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.journal import format as layout
from server.journal.format import (
    BATCH,
    CRC_CHECK,
    FORMAT_VERSION,
    SEGMENT,
    BatchHead,
    Header,
    SegmentHead,
    batch_head,
    crc64,
    magic,
    number_in,
    numbered,
    segment_head,
)
from tests.server.journal import batch

VALUES = (0x1122334455667788, 2, 3, 2**64 - 1)
RECORDS = batch(2, 3).records
SEGMENT_BYTES = SEGMENT.pack(*VALUES)
BATCH_BYTES = BATCH.pack(*VALUES[:2], 3, 7, rest=(RECORDS,)) + RECORDS


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
    ("header", "letters", "fields"),
    [
        (SEGMENT, b"trdsegm1", ["magic", "format", "first_txn", "salt", "created", "crc"]),
        (BATCH, b"trdbatch", ["magic", "salt", "first_txn", "records", "time", "crc"]),
    ],
    ids=["segment", "batch"],
)
def test_a_header_is_words_between_its_magic_and_its_crc(
    header: Header, letters: bytes, fields: list[str]
) -> None:
    assert FORMAT_VERSION == 2
    assert [field.name for field in header.fields] == fields
    assert header.size == 48
    packed = header.pack(*VALUES)
    assert packed[:40] == letters + struct.pack("<4Q", *VALUES)
    assert packed[40:] == crc_by_bits(packed[:40]).to_bytes(8, "little")
    assert header.pack(*VALUES, rest=(b"ab", memoryview(b"cd")))[40:] == crc_by_bits(
        packed[:40] + b"abcd"
    ).to_bytes(8, "little")
    assert header.pack(*VALUES, crc=crc64(b"before"))[40:] == crc_by_bits(
        b"before" + packed[:40]
    ).to_bytes(8, "little")


def test_a_header_needs_each_of_its_fields() -> None:
    for values in (VALUES[1:], (*VALUES, 1)):
        with pytest.raises(AssertionError, match="segment header"):
            SEGMENT.pack(*values)


def test_no_magic_is_another() -> None:
    magics = [
        value.magic
        for name, value in vars(layout).items()
        if isinstance(value, Header) and name.isupper()
    ]
    assert len(magics) >= 2
    assert len(set(magics)) == len(magics)
    assert magic("trdbatch").to_bytes(8, "little") == b"trdbatch"


def test_a_segment_header_comes_back() -> None:
    expected = SegmentHead(SEGMENT.magic, *VALUES, crc=crc_by_bits(SEGMENT_BYTES[:40]))
    for data in (SEGMENT_BYTES, SEGMENT_BYTES + b"more", memoryview(SEGMENT_BYTES)):
        assert segment_head(data) == expected


@pytest.mark.parametrize("offset", [0, 1, 8, 100])
def test_a_batch_header_comes_back_from_wherever_it_is(offset: int) -> None:
    crc = int.from_bytes(BATCH_BYTES[40:48], "little")
    expected = BatchHead(BATCH.magic, VALUES[0], 2, records=3, time=7, crc=crc)
    assert crc == crc_by_bits(BATCH_BYTES[:40] + RECORDS)
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
    assert segment_head(BATCH.pack(*VALUES)) is None
    as_segment = SEGMENT.pack(*VALUES[:2], 3, 7, rest=(RECORDS,))
    assert batch_head(as_segment + RECORDS, 0) is None


@pytest.mark.parametrize("records", [0, 4, 2**32, 2**64 - 1])
def test_a_count_without_its_records_is_none(records: int) -> None:
    """0 would be a batch without end, more than there is none at all."""
    rest = RECORDS if records else b""
    assert batch_head(BATCH.pack(1, 2, records, 7, rest=(rest,)) + rest, 0) is None


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

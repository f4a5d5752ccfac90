"""The cache of files: what it answers is what the codec makes, and it stays within its bounds."""

import os
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libproto.codec import RESPONSE
from libproto.messages import CHUNK_MAX, Opcode
from server.worker.file_cache import FILE_MAX, Chunk, FileCache, Known, advance, answer
from server.worker.page_cache import OPEN_MAX, PageCache


class Counts:
    """Counters as the cache uses them."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def count(self, name: str, by: int = 1) -> None:
        self.found[name] = self.found.get(name, 0) + by

    def set(self, name: str, value: int) -> None:
        self.found[name] = value


@given(before=st.binary(max_size=99), length=st.integers(0, 300))
def test_checksums_are_combined(before: bytes, length: int) -> None:
    after = os.urandom(length)
    assert advance(length)(crc32(before)) ^ crc32(after) == crc32(before + after)


@pytest.mark.parametrize("length", [0, 1, 1000, CHUNK_MAX - 1, CHUNK_MAX])
@pytest.mark.parametrize("req_id", [1, 2**64 - 1])
def test_an_answer_is_what_the_codec_makes(length: int, req_id: int) -> None:
    data = os.urandom(length)
    expected = RESPONSE[Opcode.FILE_GET].frame(req_id, 0, 1 << 40, 7, data)
    assert answer(req_id, 1 << 40, 7, Chunk(data, crc32(data))) == expected


def made(most: int) -> tuple[FileCache, Counts, list[int]]:
    counts, removed = Counts(), [0]
    pages = PageCache(lambda _: "/nowhere")
    return FileCache(most, counts, lambda: removed[0], pages), counts, removed  # type: ignore[arg-type]


def fill(cache: FileCache, file_id: int, size: int) -> Known:
    known = Known(1, size, file_id.to_bytes(32))
    for offset in range(0, size, CHUNK_MAX):
        data = bytes(min(CHUNK_MAX, size - offset))
        cache.add(file_id, known, offset, Chunk(data, crc32(data)))
    return known


def test_it_keeps_what_was_asked_for_last() -> None:
    cache, counts, _ = made(5 * CHUNK_MAX)
    first, second = fill(cache, 1, 2 * CHUNK_MAX), fill(cache, 2, 2 * CHUNK_MAX)
    assert cache.chunk(first, 0, CHUNK_MAX)
    fill(cache, 3, CHUNK_MAX)
    assert cache.chunk(first, 0, CHUNK_MAX), "it was asked for"
    assert not cache.chunk(first, CHUNK_MAX, CHUNK_MAX)
    assert cache.chunk(second, 0, CHUNK_MAX)
    assert counts.found["file_evictions"] == 1
    assert counts.found["file_cached"] <= 5 * CHUNK_MAX


def test_what_it_does_not_answer() -> None:
    cache, _, _ = made(1 << 24)
    known = fill(cache, 1, CHUNK_MAX + 10)
    assert cache.known(1) == known
    assert cache.known(2) is None
    assert cache.chunk(known, CHUNK_MAX, 10)
    for offset, length in ((1, 10), (0, 10), (CHUNK_MAX, 9), (2 * CHUNK_MAX, 10), (1 << 50, 1)):
        assert cache.chunk(known, offset, length) is None, (offset, length)


def test_large_files_are_not_kept() -> None:
    cache, counts, _ = made(1 << 24)
    assert cache.chunk(fill(cache, 1, FILE_MAX + 1), 0, CHUNK_MAX) is None
    assert counts.found == {"file_misses": -(-(FILE_MAX + 1) // CHUNK_MAX)}
    none, counts, _ = made(0)
    assert none.chunk(fill(none, 1, 10), 0, 10) is None


def test_what_was_removed_is_forgotten() -> None:
    cache, counts, removed = made(1 << 24)
    fill(cache, 1, 10)
    removed[0] += 1
    assert cache.known(1) is None
    assert counts.found["file_cached"] == 0


def test_large_files_are_read_from_the_systems_cache(tmp_path: Path) -> None:
    """Only chunks whose checksum is known, and nothing once something has been removed."""
    data = os.urandom(CHUNK_MAX + 10)
    (tmp_path / "0").write_bytes(data)
    pages = PageCache(lambda sha256: tmp_path / f"{int.from_bytes(sha256)}")
    counts, removed = Counts(), [0]
    cache = FileCache(0, counts, lambda: removed[0], pages)  # type: ignore[arg-type]
    known = Known(1, FILE_MAX + CHUNK_MAX, bytes(32))
    first = data[:CHUNK_MAX]
    assert cache.chunk(known, 0, CHUNK_MAX) is None
    cache.add(1, known, 0, Chunk(first, crc32(first)))
    assert cache.known(1) == known
    assert cache.chunk(known, 0, CHUNK_MAX) in (Chunk(first, crc32(first)), None)
    is_able = cache.chunk(known, 0, CHUNK_MAX) is not None  # else the file system is not
    cache.add(1, known, CHUNK_MAX, Chunk(first, crc32(first)))
    assert cache.chunk(known, CHUNK_MAX, CHUNK_MAX) is None, "it is cut short"
    assert cache.chunk(known, 0, 9) is None
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, OPEN_MAX + 9):
        (tmp_path / f"{number}").write_bytes(first)
        pages.note(number.to_bytes(32), 0, crc32(first))
        assert (pages.read(number.to_bytes(32), 0, CHUNK_MAX) is not None) == is_able
    assert len(os.listdir("/proc/self/fd")) <= before + OPEN_MAX
    removed[0] += 1
    assert cache.known(1) is None
    assert cache.chunk(known, 0, CHUNK_MAX) is None
    assert len(os.listdir("/proc/self/fd")) <= before
    pages.note((99).to_bytes(32), 0, 0)
    assert pages.read((99).to_bytes(32), 0, 1) is None, "there is no such file"

"""The cache of a worker: chunks of files that were read lately, with their checksums.

A chunk's checksum is computed once, where the chunk was read, and combined with that of the header
and the fields before it: an answer from here costs a copy and no pass over the bytes. What is in it
was published; who may read it is looked at for each request all the same.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from libproto.framing import PREFIX
from libproto.messages import CHUNK_MAX, HEADER_LEN, Flag, Opcode
from libproto.wire import COVERED, HEADER
from server.worker.counters import Counters
from server.worker.page_cache import PageCache

FILE_MAX: Final = 1 << 20
"""Larger files are not kept."""
_FIELDS: Final = Struct(">QQH")  # size, offset, length of data
_HEAD: Final = PREFIX | int(Flag.RESPONSE)
_KNOWN_MIN: Final = 256  # files of which it is kept what they are
_SPARE: Final = 160  # bytes that a chunk costs beside its data


class Known(NamedTuple):
    """What a file_id is."""

    place: int
    size: int
    sha256: bytes


class Chunk(NamedTuple):
    data: bytes
    crc: int


def advance(length: int) -> Callable[[int], int]:
    """How a CRC-32 changes where so many bytes follow, but for these bytes' own CRC: the CRC of `a`
    and then `b` is advance(len(b))(crc of a) ^ crc of b."""
    zeros = bytes(length)
    base = crc32(zeros)
    # It is linear: what each bit becomes, and from these what each byte of the number does.
    bits = [crc32(zeros, 1 << bit) ^ base for bit in range(32)]
    tables = [
        [_sum(bits[8 * byte + bit] for bit in range(8) if value >> bit & 1) for value in range(256)]
        for byte in range(4)
    ]
    low, second, third, high = tables

    def advanced(crc: int) -> int:
        return low[crc & 0xFF] ^ second[crc >> 8 & 0xFF] ^ third[crc >> 16 & 0xFF] ^ high[crc >> 24]

    return advanced


def _sum(values: Iterator[int]) -> int:
    found = 0
    for value in values:
        found ^= value
    return found


_past_a_chunk: Final = advance(CHUNK_MAX)


def answer(req_id: int, size: int, offset: int, chunk: Chunk) -> bytes:
    """The answer to a FILE_GET, as a whole frame."""
    data, crc = chunk
    body_len = _FIELDS.size + len(data)
    fields = _FIELDS.pack(size, offset, len(data))
    covered = COVERED.pack(_HEAD, HEADER_LEN, body_len, Opcode.FILE_GET, 0, req_id)
    before = crc32(fields, crc32(covered))
    is_whole = len(data) == CHUNK_MAX
    found = _past_a_chunk(before) ^ crc if is_whole else crc32(data, before)
    head = HEADER.pack(_HEAD, HEADER_LEN, body_len, Opcode.FILE_GET, 0, req_id, found, 0, 0)
    return head + fields + data


class FileCache:
    """The chunks of one worker; those that were asked for last stay longest."""

    def __init__(
        self, most: int, counters: Counters, removed: Callable[[], int], pages: PageCache
    ) -> None:
        """most: bytes. removed: counts the times that something went from the store: then nothing
        of this is to be relied on. pages: where larger files are read."""
        self._most, self._counters, self._removed = most, counters, removed
        self._pages = pages
        self._known: OrderedDict[int, Known] = OrderedDict()
        self._chunks: OrderedDict[tuple[bytes, int], Chunk] = OrderedDict()
        self._bytes = 0
        self._seen = removed()

    def known(self, file_id: int) -> Known | None:
        """What a file is, if that is known here."""
        if self._removed() != self._seen:
            self._forget_all()
        return self._known.get(file_id)

    def chunk(self, known: Known, offset: int, length: int) -> Chunk | None:
        """The chunk that answers this; None: it is not here."""
        whole = min(CHUNK_MAX, known.size - offset)
        if offset % CHUNK_MAX or whole <= 0 or length < whole:
            return None
        key = known.sha256, offset
        found = self._chunks.get(key)
        if found is not None:
            self._chunks.move_to_end(key)
        elif known.size <= FILE_MAX or (read := self._pages.read(*key, whole)) is None:
            return None
        else:
            found = Chunk(*read)
        self._counters.count("file_hits")
        return found

    def add(self, file_id: int, known: Known, offset: int, chunk: Chunk) -> None:
        """Keep a chunk that was read just now."""
        self._counters.count("file_misses")
        whole = min(CHUNK_MAX, known.size - offset)
        is_large = known.size > FILE_MAX
        if offset % CHUNK_MAX or len(chunk.data) != whole or not whole:
            return
        if not is_large and not self._most:
            return
        self._known[file_id] = known
        self._known.move_to_end(file_id)
        while len(self._known) > max(_KNOWN_MIN, self._most // _SPARE // 64):
            self._known.popitem(last=False)
        if is_large:
            self._pages.note(known.sha256, offset, chunk.crc)
            return
        key = known.sha256, offset
        if key not in self._chunks:
            self._chunks[key] = chunk
            self._bytes += len(chunk.data) + _SPARE
        while self._bytes > self._most:
            _, gone = self._chunks.popitem(last=False)
            self._bytes -= len(gone.data) + _SPARE
            self._counters.count("file_evictions")
        self._counters.set("file_cached", self._bytes)

    def _forget_all(self) -> None:
        self._seen = self._removed()
        self._known.clear()
        self._chunks.clear()
        self._pages.forget_all()
        self._bytes = 0
        self._counters.set("file_cached", 0)

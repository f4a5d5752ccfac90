"""The data channel: a pool of shared segments for each worker, declared once, as data.

A segment is lent: a worker hands it over with a message of the command channel, and the files
process hands it back. Who may touch what is in it say its two semaphores: `writable` is 1 where it
may be filled, `readable` where what is in it may be taken. A worker fills it for requests that
carry bytes to the files process; for those that fetch bytes the files process does. Neither waits:
a semaphore that cannot be taken says that the other end is not done.

A segment that was handed over is used again only after it was handed back, or after the files
process has been reaped: one that was stopped in the middle of a copy would write into another
transfer when it goes on. A time-out ends a transfer, never the loan.
"""

import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

import posix_ipc

from libproto.messages import CHUNK_MAX
from server.region import machine

WORD: Final = 8
SEGMENT_SIZE: Final = 64 * 1024
SHM: Final = "/dev/shm"  # noqa: S108 - where shared memory is, not a place of ours
_LINE_WORDS: Final = 8  # a semaphore has a cache line of its own
_SEM_SIZE: Final = 32  # sizeof(sem_t), glibc, x86-64

_sem_init: Final = ctypes.PyDLL(None, use_errno=True).sem_init
_sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)


class SegmentState(IntEnum):
    """`state` of a segment."""

    EMPTY = 0
    IN_PROGRESS = 1  # handed over
    COMPLETE = 2
    NOT_FOUND = 3
    FAILED = 4  # `status` says how


class Field(NamedTuple):
    """A field of a segment's header: its length in words."""

    name: str
    about: str
    words: int = 1


FIELDS: Final = (
    Field("writable", "semaphore, 1: it may be filled", _LINE_WORDS),
    Field("readable", "semaphore, 1: what is in it may be taken", _LINE_WORDS),
    Field("generation", "of the loan: counts on, so that a message about an earlier one is known"),
    Field("state", "SegmentState"),
    Field("kind", "of the request"),
    Field("file_id", "of the request; of what was begun or fetched"),
    Field("user", "whose request it is"),
    Field("room", "the place of the file; see `place_of`"),
    Field("offset", "of the chunk in the file"),
    Field("size", "bytes of the file"),
    Field("chunk", "bytes of data"),
    Field("received", "bytes of the upload that have arrived"),
    Field("crc", "CRC-32 of the chunk, as the wire has it"),
    Field("status", "of the wire: what FAILED means"),
    Field("retry_ms", "after which the same may succeed"),
    Field("detail_len", "bytes of detail"),
    Field("detail", "why it has failed", 32),
    Field("sha256", "of the file", 4),
)
"""The header of a segment. Its data follow at DATA_AT."""
DATA_AT: Final = SEGMENT_SIZE - CHUNK_MAX
OFFSETS: Final = {
    field.name: sum(before.words for before in FIELDS[:at]) for at, field in enumerate(FIELDS)
}
assert sum(field.words for field in FIELDS) * WORD <= DATA_AT
DETAIL_MAX: Final = 32 * WORD


class PoolError(OSError):
    """A pool cannot be made or found; its text says why."""


class Segment:
    """One segment, in the hands of one process. Its fields read and store as attributes."""

    __slots__ = ("_address", "_at", "_data", "_readable", "_words", "_writable", "number")

    def __init__(self, pool: "Pool", number: int) -> None:
        self.number: Final = number
        self._words = pool.words
        self._at = number * SEGMENT_SIZE // WORD
        self._address = pool.address + number * SEGMENT_SIZE
        self._data = pool.bytes[number * SEGMENT_SIZE + DATA_AT : (number + 1) * SEGMENT_SIZE]
        self._writable = machine.semaphore(self._address + OFFSETS["writable"] * WORD)
        self._readable = machine.semaphore(self._address + OFFSETS["readable"] * WORD)

    def get(self, field: str) -> int:
        """The first word of a field."""
        word: int = self._words[self._at + OFFSETS[field]]
        return word

    def put(self, **fields: int) -> None:
        """Store fields, one after the other."""
        for field, value in fields.items():
            self._words[self._at + OFFSETS[field]] = value

    @property
    def data(self) -> memoryview:
        """Its data, all the space there is."""
        return self._data

    def take(self) -> bytes:
        """A copy of the chunk in it."""
        return bytes(self._data[: min(self.get("chunk"), CHUNK_MAX)])

    def fill(self, data: bytes) -> None:
        self._data[: len(data)] = data
        self.put(chunk=len(data))

    def text(self, field: str, size: int) -> bytes:
        """Bytes of a field."""
        at = (self._at + OFFSETS[field]) * WORD
        return bytes(self._words.cast("B")[at : at + size])

    def put_text(self, field: str, data: bytes) -> None:
        at = (self._at + OFFSETS[field]) * WORD
        self._words.cast("B")[at : at + len(data)] = data

    # ---- the semaphores

    def reset(self) -> None:
        """Make both semaphores fresh: it may be filled. Only where nobody else can touch it: it is
        new, or the files process that had it has been reaped."""
        for field, value in (("writable", 1), ("readable", 0)):
            address = self._address + OFFSETS[field] * WORD
            ctypes.memset(address, 0, _SEM_SIZE)
            if _sem_init(address, 1, value):
                raise OSError(ctypes.get_errno(), "sem_init")
        self.put(generation=self.get("generation") + 1, state=SegmentState.EMPTY)

    def try_fill(self) -> bool:
        """Take the right to fill it."""
        return machine.try_wait(self._writable)

    def filled(self) -> None:
        """What is in it may be taken."""
        machine.post(self._readable)

    def try_take(self) -> bool:
        """Take the right to take what is in it."""
        return machine.try_wait(self._readable)

    def emptied(self) -> None:
        """It may be filled again."""
        machine.post(self._writable)


class Pool:
    """The segments of one worker, mapped."""

    def __init__(self, name: str, fd: int) -> None:
        """fd: is closed in any case."""
        self.name: Final = name
        try:
            size = os.fstat(fd).st_size
            if not size or size % SEGMENT_SIZE:
                raise PoolError(errno.EINVAL, f"{SHM}/{name} is not a pool of segments")
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("Q")
        self.address: Final = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.segments: Final = [Segment(self, number) for number in range(size // SEGMENT_SIZE)]

    @classmethod
    def create(cls, name: str, count: int) -> "Pool":
        """A new pool of so many segments, all of it allocated. Mode 0600. PoolError."""
        try:
            made = posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, mode=0o600)
        except (OSError, posix_ipc.Error) as error:
            raise PoolError(errno.EIO, f"{SHM}/{name} cannot be made: {error}") from error
        try:
            os.ftruncate(made.fd, count * SEGMENT_SIZE)
            os.posix_fallocate(made.fd, 0, count * SEGMENT_SIZE)
        except OSError as error:
            os.close(made.fd)
            posix_ipc.unlink_shared_memory(f"/{name}")
            raise PoolError(
                error.errno or errno.EIO,
                f"{count} segments need {count * SEGMENT_SIZE >> 10} KiB in {SHM}: "
                f"{error.strerror}; make it larger, or lower --segments",
            ) from error
        pool = cls(name, made.fd)
        for segment in pool.segments:
            segment.reset()
        return pool

    @classmethod
    def attach(cls, name: str) -> "Pool":
        """One that is there. PoolError."""
        try:
            return cls(name, os.open(f"{SHM}/{name}", os.O_RDWR | os.O_NOFOLLOW))
        except PoolError:
            raise
        except OSError as error:
            raise PoolError(
                error.errno or errno.EIO, f"{SHM}/{name} cannot be opened: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Unmap it; its name stays. Nothing of it may be used any more."""
        self.segments.clear()
        self.words.release()


def pool_name(region: str, slot: int, number: int) -> str:
    """Of the pool of the worker in a slot. number: counts the pools of this slot."""
    return f"{_prefix(region, slot)}{number}"


def _prefix(region: str, slot: int | None = None) -> str:
    return f"{region}_segments_" + ("" if slot is None else f"{slot}_")


def pools(region: str, slot: int | None = None) -> Iterator[str]:
    """Names of the pools that are there: of a server, or of one of its workers."""
    prefix = _prefix(region, slot)
    try:
        names = os.listdir(SHM)
    except OSError:
        return
    for name in names:
        slots = name.removeprefix(prefix)
        if slots != name and slots.replace("_", "").isdigit():
            yield name


def remove_pools(region: str, slot: int | None = None) -> int:
    """Remove the names of pools that nobody has any more: how many there were."""
    count = 0
    for name in pools(region, slot):
        try:
            found = os.lstat(f"{SHM}/{name}")
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                os.unlink(f"{SHM}/{name}")
                count += 1
        except FileNotFoundError:
            continue
    return count

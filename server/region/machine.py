"""Words of the region and semaphores, as the machine has them.

This is what Python cannot say in a form that a compiler could take over: where a module is
compiled, the functions of machine.pxd stand in place of these, under the same names. There a view
of words is a pointer, a store is one machine store in the order of the program, and a commit word
is a release store. Here a view is a memoryview, and each store of a word is one machine store, as
CPython makes it.

`words` and `blob` are two views of the same memory, by words of eight bytes and by bytes: a block
is packed into `blob`, at the place of a word.
"""

import ctypes
import errno
from _multiprocessing import SemLock
from array import array
from struct import Struct
from typing import Final, Protocol

from server.region.records import MONEY_WORDS

WORD: Final = 8  # bytes

Words = memoryview
"""A view of the region, by words."""


class Semaphore(Protocol):
    """A semaphore in memory. CPython's binding of sem_trywait and sem_post, the one under
    multiprocessing's locks, is laid over its address: a sixth of what a ctypes call costs."""

    def acquire(self, block: bool, /) -> bool:
        """Take it, and tell whether that was so."""

    def release(self) -> None:
        """Free it. ValueError where it is free."""


_SEMAPHORE: Final = 1  # the kind that any process may release, as opposed to a recursive mutex


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


_CLOCK_MONOTONIC: Final = 1
_sem_clockwait: Final = ctypes.PyDLL(None, use_errno=True).sem_clockwait
_sem_clockwait.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Timespec))

_SEVEN: Final = Struct("=7Q")
_pack_14: Final = Struct("=14Q").pack
_pack_17: Final = Struct("=17Q").pack


def words_of(view: memoryview) -> Words:
    """A view by words, of format "Q", as the other functions take it. Whoever keeps what this
    answers keeps the view as well."""
    return view


def column(of: "array[int]") -> "array[int]":
    """The numbers of an array of format "Q", until it grows."""
    return of


money_record: Final = Struct(f"<{MONEY_WORDS}Q").unpack_from
"""The words of a record of money, of the txn log: of bytes, and at which of them, a whole word."""


pack_7: Final = _SEVEN.pack_into
"""Store words in a column, which no other process sees: where, at which byte, a whole word."""


def look(words: Words, at: int) -> int:
    """A commit word: what was stored before it is seen by what is read after this."""
    word: int = words[at]
    return word


def look_again(words: Words, at: int) -> int:
    """A commit word, once more after a copy: where it is the same, so is what was copied."""
    word: int = words[at]
    return word


def publish(words: Words, at: int, value: int) -> None:
    """Store a commit word: whoever sees it sees all that was stored before."""
    words[at] = value


def retract(words: Words, at: int) -> None:
    """Clear a commit word: nobody sees what is stored after this without seeing that it is 0."""
    words[at] = 0


def copy_words(words: Words, to: int, start: int, count: int) -> None:
    """Copy `count` words from `start` on to where they do not overlap."""
    words[to : to + count] = words[start : start + count]


def are_numbered(words: Words, step: int, count: int, first: int) -> bool:
    """Are the first words of records of `step` words the numbers from `first` on?"""
    return words[: count * step : step].tolist() == list(range(first, first + count))


def has_any(words: Words, at: int, step: int, count: int) -> bool:
    """Is word `at` of a record of `step` words another than 0?"""
    return any(words[at : count * step : step])


def store_7(
    words: Words,  # noqa: ARG001 - the twin stores there
    blob: memoryview, at: int,
    a: int, b: int, c: int, d: int, e: int, f: int, g: int,
) -> None:  # fmt: skip
    """Store words one after the other."""
    blob[at * WORD : (at + 7) * WORD] = _SEVEN.pack(a, b, c, d, e, f, g)


def store_17(
    words: Words,  # noqa: ARG001 - the twin stores there
    blob: memoryview, at: int,
    a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int, i: int,
    j: int, k: int, l: int, m: int, n: int, o: int, p: int, q: int,  # noqa: E741 - in the order of the words
) -> None:  # fmt: skip
    """Store words one after the other."""
    blob[at * WORD : (at + 17) * WORD] = _pack_17(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q)


def store_block(words: Words, blob: memoryview, at: int, block: bytes) -> None:  # noqa: ARG001
    """Store a block of whole words."""
    blob[at * WORD : at * WORD + len(block)] = block


def block_of_14(
    a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int, i: int,
    j: int, k: int, l: int, m: int, n: int,  # noqa: E741 - in the order of the words
    tail: bytes,
) -> bytes:  # fmt: skip
    """A block of these words and then the bytes of `tail`, made whole words by zeros."""
    return _pack_14(a, b, c, d, e, f, g, h, i, j, k, l, m, n) + tail + bytes(-len(tail) % WORD)


def semaphore(address: int) -> Semaphore:
    """The semaphore at this address of the process."""
    found: Semaphore = SemLock._rebuild(address, _SEMAPHORE, 1, None)
    return found


def try_wait(of: Semaphore) -> bool:
    """Take it if it is free; True where that is so."""
    return of.acquire(False)


def relax() -> None:
    """Between two tries: let the processor know that this one waits for another."""


def wait_until(address: int, deadline_ns: int) -> bool:
    """Take the semaphore at this address before that time of CLOCK_MONOTONIC; True where that is
    so. It may end sooner. The interpreter lock is kept: a worker has one thread."""
    until = _Timespec(*divmod(deadline_ns, 1_000_000_000))
    if _sem_clockwait(address, _CLOCK_MONOTONIC, until) == 0:
        return True
    code = ctypes.get_errno()
    if code not in (errno.ETIMEDOUT, errno.EINTR):
        raise OSError(code, "sem_clockwait")
    return False


def post(of: Semaphore) -> None:
    """Free it. ValueError where it is free."""
    of.release()

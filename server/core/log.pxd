cimport cython
from libc.stdint cimport int64_t, uint64_t

from server.region cimport machine
from server.region.locks cimport Lock, Locks
from server.region.machine cimport Words

cdef int64_t _FULL, _AGAIN, _LIMIT
cdef uint64_t _MAX_BALANCE, _TIME, _SUPPLY


cdef class TxnLog:
    cdef object _view, _bytes
    cdef Words _words
    cdef Locks _locks
    cdef readonly Lock lock
    cdef readonly uint64_t intent
    cdef uint64_t _head, _limit, _full, _ring, _mask, _stride

    @cython.locals(
        words=Words, intent=uint64_t, head=uint64_t, txn=uint64_t, newest=uint64_t,
        supply=uint64_t, time=uint64_t,
    )
    cdef int64_t commit_intended(self, uint64_t size, int64_t supply_change) except? -1
    @cython.locals(words=Words, intent=uint64_t, slot=uint64_t)
    cdef int _commit(self, uint64_t txn, uint64_t size, uint64_t supply) noexcept
    @cython.locals(words=Words, txn=uint64_t)
    cpdef int64_t reserve(self, tuple held) except? -3
    @cython.locals(newest=uint64_t)
    cpdef uint64_t time(self, uint64_t now) except? 0
    @cython.locals(newest=uint64_t)
    cpdef commit_reserved(self, uint64_t txn, uint64_t size, int64_t supply_change=*)

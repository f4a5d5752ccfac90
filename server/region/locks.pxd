cimport cython
from libc.stdint cimport int64_t, uint64_t

from server.region cimport machine
from server.region.machine cimport Semaphore, Words

cdef int _TRIES
cdef int64_t _TICK_NS, _ALARM_NS


cdef class Lock:
    cdef readonly uint64_t address
    cdef readonly int kind
    cdef Semaphore _semaphore

    cpdef bint acquire(self) except -1
    cpdef int release(self) except -1
    cpdef bint wait_until(self, int64_t deadline_ns) except -1


cdef class Locks:
    cdef object _view, _clock_ns, _pause, _master
    cdef Words _words
    cdef readonly uint64_t _worker
    cdef uint64_t _recovery, _alarm, _ack
    cdef list _waits, _waited, _accounts
    cdef readonly Lock registry, log, event
    cdef uint64_t _accounts_at, _accounts_stride

    @cython.locals(number=Py_ssize_t, lock=Lock)
    cpdef Lock account(self, uint64_t user)
    @cython.locals(words=Words, began=int64_t, now=int64_t, waits=uint64_t, waited=uint64_t)
    cpdef bint wait(self, Lock lock, tuple held) except -1
    @cython.locals(place=Py_ssize_t, lock=Lock)
    cpdef hold_all(self, tuple locks)


cdef class CheckedLock(Lock):
    cdef tuple _rank
    cdef list _taken


cdef class CheckedLocks(Locks):
    cdef readonly list _taken


cdef class Guard:
    cdef Locks _locks
    cdef tuple _ordered, _backwards
    cdef object _what
